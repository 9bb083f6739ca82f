'use strict';
// Rates out of counts. Rows are written in steps, a batch or as many as there are workers at a time. A rate between any two moments
// would go up and down with them; so counts rise evenly from one step to the next, and a rate spans several steps.

// A rate is that of so many steps, at least.
const RATE_STEPS = 2;
// A pause of more than so many usual steps is one in which nothing happened.
const PAUSE_STEPS = 3;

// The time of most steps of a count.
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

// Moments between which a count rises evenly.
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
  // The next step is due; or it is late, and nothing happens.
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

// Rates of a count over time, as [seconds, rate], of so many moments at most; each spans so many seconds, at least.
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
