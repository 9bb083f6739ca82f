'use strict';
// Computes rates from counts. Rows are written in steps: one batch, or one of each worker, at a time. A rate between any two
// moments would rise and fall with them. So counts are taken to rise evenly from one step to the next, and a rate spans several
// steps.

// A rate spans at least this many steps.
const RATE_STEPS = 2;
// In a pause of more than this many usual steps, nothing happened.
const PAUSE_STEPS = 3;

// The usual time between two steps of a count, in seconds.
function usualStep(points, key) {
  const gaps = [];
  let last = null;
  points.forEach((point, i) => {
    if (i === 0 || point[key] <= points[i - 1][key]) return;
    if (last !== null) gaps.push(point.seconds - last);
    last = point.seconds;
  });
  gaps.sort((a, b) => a - b);
  return gaps.length ? gaps[Math.floor(0.75 * (gaps.length - 1))] : 1;
}

// The moments between which a count rises evenly.
function corners(points, key, step, least) {
  const found = [];
  points.forEach((point, i) => {
    if (i === 0) return;
    const before = points[i - 1];
    if (point[key] <= before[key]) return;
    const last = found.at(-1);
    const pause = before.seconds - (last ? last.seconds : points[0].seconds);
    if (!last) found.push({ seconds: Math.max(points[0].seconds, point.seconds - step), count: before[key] });
    else if (pause > PAUSE_STEPS * step) found.push({ seconds: before.seconds, count: last.count });
    found.push({ seconds: point.seconds, count: point[key] });
  });
  const [last, end] = [found.at(-1), points.at(-1)];
  // If the next step is late, nothing happens since the last one.
  if (last && end.seconds - last.seconds > Math.max(least, RATE_STEPS * step)) {
    found.push({ seconds: end.seconds, count: last.count });
  }
  return found;
}

function countAt(corners, seconds) {
  const next = corners.findIndex(corner => corner.seconds >= seconds);
  if (next <= 0) return corners[next === 0 ? 0 : corners.length - 1].count;
  const [a, b] = [corners[next - 1], corners[next]];
  return a.count + ((b.count - a.count) * (seconds - a.seconds)) / Math.max(1e-9, b.seconds - a.seconds);
}

// Rates of a count over time, as [seconds, rate], at most `most` of them. Each spans at least `least` seconds.
function smoothRates(points, key, least, most = 240) {
  if (points.length < 2) return [];
  const step = usualStep(points, key);
  const found = corners(points, key, step, least);
  if (found.length < 2) return [];
  const [from, to] = [found[0].seconds, found.at(-1).seconds];
  const half = Math.max(least, RATE_STEPS * step, (to - from) / 100) / 2;
  const moments = Math.max(2, Math.min(most, Math.ceil(to - from)));
  return Array.from({ length: moments + 1 }, (_, i) => {
    const seconds = from + ((to - from) * i) / moments;
    const [start, end] = [Math.max(from, seconds - half), Math.min(to, seconds + half)];
    return [seconds, (countAt(found, end) - countAt(found, start)) / Math.max(1e-9, end - start)];
  });
}
