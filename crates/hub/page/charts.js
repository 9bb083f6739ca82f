'use strict';
// Charts, as SVG. Each has a title that describes it in words. A chart is as wide as its place, so its text has the size of other
// small text.

let charts = 0;
// An upper bound for the width of most characters, in pixels.
const CHARACTER = 7.5;

function chart(width, height, words, ...children) {
  charts += 1;
  const id = `chart-${charts}`;
  return element(
    'svg',
    { viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-labelledby': id, class: 'chart' },
    element('title', { id }, words),
    ...children,
  );
}

// The smallest round number at or above a value.
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find(step => step * power >= value * 0.999);
}

// About `wanted` round numbers in a range.
function roundTicks(from, to, wanted) {
  const least = (to - from) / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(least));
  const step = power * [1, 2, 5, 10].find(first => first * power >= least);
  const found = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to * (1 + 1e-9); i += 1) found.push(i * step || 0);
  return found;
}

// Labels on an axis: as many as fit, and none beyond its ends. Each has a tick at its value.
function axis(ticks, [left, right], y) {
  let free = -Infinity;
  return ticks.flatMap(({ x, label, value }) => {
    const width = label.length * CHARACTER;
    const middle = Math.min(Math.max(x, left + width / 2), right - width / 2);
    if (middle - width / 2 < free) return [];
    free = middle + width / 2 + 10;
    return [
      element('line', { x1: x, x2: x, y1: y, y2: y + 4, class: 'tick', 'data-value': value }),
      element('text', { x: middle, y: y + 16, 'text-anchor': 'middle', class: 'label' }, label),
    ];
  });
}

// The job's progress: rows that are written, rejected and in flight.
function progressChart(rows, width) {
  const total = rows.total ?? rows.total_about;
  const share = n => (total ? width * Math.min(1, n / total) : 0);
  const words = total
    ? `${format.share(rows.written, total)} of the rows are written`
    : `${format.count(rows.written)} rows are written; the total is unknown`;
  const [good, written, read] = [rows.written - rows.rejected, rows.written, rows.read].map(share);
  const bar = (x, end, name) => element('rect', { x, y: 0, width: Math.max(0, end - x), height: 14, class: name });
  return chart(
    width, 14, words,
    bar(0, width, 'track'), bar(written, read, 'in-flight'), bar(good, written, 'rejected'), bar(0, good, 'written'),
  );
}

// The symbols of events on the chart.
const SYMBOLS = { joined: '▲', restarted: '↻', lost: '✕', back: '▲' };
const MARK_WORDS = { joined: 'joined', restarted: 'restarted', lost: 'lost', back: 'back' };

// Marks where programs joined, restarted or were lost. Marks that are close together are merged, with their number.
function markChart(events, x, [left, right], [top, bottom]) {
  const groups = [];
  for (const event of events) {
    const last = groups.at(-1);
    if (last && x(event.seconds) - last.x < 8) last.events.push(event);
    else groups.push({ x: x(event.seconds), events: [event] });
  }
  const free = [-Infinity, -Infinity, -Infinity];
  return groups.map(group => {
    const kinds = [...new Set(group.events.map(event => event.kind))];
    const parts = kinds.map(kind => {
      const of = group.events.filter(event => event.kind === kind);
      const who = of.length <= 2 ? of.map(event => event.program ?? '').join(', ') : String(of.length);
      return `${SYMBOLS[kind]} ${who} ${MARK_WORDS[kind]}`;
    });
    const label = parts.join(', ');
    const width = label.length * CHARACTER;
    // On the left of the line, if there is no room on the right.
    const start = group.x + 4 + width > right ? group.x - 4 - width : Math.max(left, group.x + 4);
    const row = free.findIndex(end => end < start);
    if (row >= 0) free[row] = start + width + 8;
    const kind = kinds.includes('lost') ? 'lost' : kinds[0];
    return element(
      'g', { class: `mark ${kind}` },
      element('line', { x1: group.x, x2: group.x, y1: top, y2: bottom }),
      // Without room for words, only the symbol.
      row >= 0
        ? element('text', { x: start, y: top + 10 + 14 * row }, label)
        : element('text', { x: group.x, y: top + 10, 'text-anchor': 'middle' }, SYMBOLS[kind]),
      element('title', {}, group.events.map(event => `${event.text} (${format.clock(event.seconds)})`).join('\n')),
    );
  });
}

// Rows per second, read and written, with marks for events of programs.
function rateChart(points, events, job, width) {
  const [written, read] = ['rows_out', 'rows_in'].map(key => smoothRates(points, key, job.rate_seconds));
  const startedAt = job.started_at;
  // Rates of zero after the last row was read are left out.
  while (read.length > 1 && read.at(-1)[1] === 0 && read.at(-2)[1] === 0) read.pop();
  if (written.length === 0) return element('p', { class: 'faint' }, 'The chart appears once results are written.');
  const [from, to] = [points[0].seconds, points.at(-1).seconds];
  const shown = events.filter(event => SYMBOLS[event.kind] && event.seconds >= from && event.seconds <= to
    // Without the programs that join at the beginning.
    && (event.kind !== 'joined' || event.seconds > written[0][0]));
  const [left, right, bottom, height] = [56, width - 8, 190, 226];
  const top = shown.length ? 48 : 12;
  const most = nice(Math.max(1e-3, 1.08 * Math.max(...written.map(([, rate]) => rate))));
  const mostRead = Math.max(0, ...read.map(([, rate]) => rate));
  const x = seconds => left + ((right - left) * (seconds - from)) / Math.max(1e-9, to - from);
  const y = rate => bottom - ((bottom - top) * Math.max(0, rate)) / most;
  const line = rates => rates.map(([seconds, rate], i) => `${i ? 'L' : 'M'}${x(seconds).toFixed(1)} ${y(rate).toFixed(1)}`).join('');
  const grid = roundTicks(0, most, 4).flatMap(rate => [
    element('line', { x1: left, x2: right, y1: y(rate), y2: y(rate), class: 'grid' }),
    element('text', { x: left - 8, y: y(rate) + 4, 'text-anchor': 'end', class: 'label' }, format.rate(rate)),
  ]);
  const ticks = timeTicks(from, to, Math.floor((right - left) / 130)).map(seconds => ({
    x: x(seconds),
    label: startedAt === null ? format.span(seconds) : `${format.span(seconds)} · ${format.time(startedAt + seconds, to - from < 600)}`,
  }));
  const last = written.at(-1)[1];
  const words = `Rows a second, from ${format.clock(from)} to ${format.clock(to)}: ${format.rate(last)} written at the end`;
  const clip = `clip-${charts}`;
  return chart(
    width, height, words,
    element('defs', {}, element('clipPath', { id: clip }, element('rect', { x: left, y: top, width: right - left, height: bottom - top + 1 }))),
    ...grid, ...axis(ticks, [0, width], bottom), ...markChart(shown, x, [left, right], [2, bottom]),
    element('g', { 'clip-path': `url(#${clip})` },
      element('path', { d: line(read), class: 'line in' }),
      element('path', { d: line(written), class: 'line out' })),
    ...legend(left, height - 4, mostRead > most ? `read, up to ${format.rate(mostRead)}` : 'read'),
  );
}

function legend(left, y, read) {
  const entry = (x, key, label) => [
    element('line', { x1: x, x2: x + 22, y1: y - 4, y2: y - 4, class: `line ${key}` }),
    element('text', { x: x + 28, y, class: 'label' }, label),
  ];
  return [...entry(left, 'out', 'written'), ...entry(left + 100, 'in', read)];
}

// Round times.
function timeTicks(from, to, wanted) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400];
  const least = (to - from) / Math.max(1, wanted);
  const step = steps.find(one => one >= least) ?? 86_400 * Math.ceil(least / 86_400);
  const found = [];
  for (let i = Math.ceil(from / step); i * step <= to; i += 1) found.push(i * step);
  return found;
}

// A histogram of durations. Edges of bins are at their value on the axis.
function histogramChart(computation, width) {
  const [top, bottom, height] = [22, 112, 132];
  const { edges_ms: edges, counts, logarithmic } = computation.histogram;
  const place = logarithmic ? Math.log : value => value;
  const [from, to] = [place(edges[0]), place(edges.at(-1))];
  const x = ms => (width * (place(ms) - from)) / (to - from);
  const most = Math.max(1, ...counts);
  const bars = counts.map((count, i) => {
    // Rare durations should be visible, too.
    const size = count ? Math.max(2, ((bottom - top) * count) / most) : 0;
    const [start, end] = [x(edges[i]), x(edges[i + 1])];
    return element(
      'g', {},
      element('rect', { x: start + 0.5, y: bottom - size, width: Math.max(0.5, end - start - 1), height: size, class: 'bar' }),
      element('title', {}, `${format.count(count)} took ${format.ms(edges[i])} to ${format.ms(edges[i + 1])}`),
    );
  });
  const ticks = histogramTicks(edges, logarithmic, width).map(ms => ({ x: x(ms), label: format.round(format.ms(ms)), value: ms }));
  const middle = x(computation.p50_ms);
  const label = `p50 ${format.ms(computation.p50_ms)}`;
  const isRight = middle + 6 + label.length * CHARACTER < width;
  const words = `${COMPUTATIONS[computation.name]}: half of ${format.count(computation.count)} took up to `
    + `${format.ms(computation.p50_ms)}, 99 % up to ${format.ms(computation.p99_ms)}`;
  return chart(
    width, height, words, ...bars,
    element('line', { x1: 0, x2: width, y1: bottom, y2: bottom, class: 'tick' }),
    ...axis(ticks, [0, width], bottom),
    element('g', { class: 'median' },
      element('line', { x1: middle, x2: middle, y1: 4, y2: bottom }),
      element('text', { x: middle + (isRight ? 6 : -6), y: 14, 'text-anchor': isRight ? 'start' : 'end' }, label)),
  );
}

function histogramTicks(edges, logarithmic, width) {
  const [from, to] = [edges[0], edges.at(-1)];
  const wanted = Math.max(3, Math.floor(width / 60));
  if (!logarithmic) return roundTicks(from, to, wanted);
  const decades = Math.log10(to / from);
  const firsts = decades * 3 <= wanted + 1 ? [1, 2, 5] : decades * 2 <= wanted + 1 ? [1, 3] : [1];
  const every = firsts.length > 1 ? 1 : Math.ceil(decades / wanted);
  const found = [];
  for (let power = Math.floor(Math.log10(from)); 10 ** power <= to; power += 1) {
    if (power % every) continue;
    for (const first of firsts) {
      const tick = first * 10 ** power;
      if (tick >= from * 0.999 && tick <= to * 1.001) found.push(tick);
    }
  }
  return found;
}

function sparkline(rates, words) {
  if (rates.length < 2) return element('span', {}, '');
  const most = Math.max(1, ...rates);
  // Unknown rates are gaps.
  const isKnown = i => rates[i] !== null && rates[i] !== undefined;
  const path = rates
    .map((rate, i) => (isKnown(i) ? `${isKnown(i - 1) ? 'L' : 'M'}${i} ${(19 - (18 * rate) / most).toFixed(1)}` : ''))
    .join('');
  const drawn = chart(Math.max(2, rates.length - 1), 20, words, element('path', { d: path, class: 'line out' }));
  drawn.setAttribute('preserveAspectRatio', 'none');
  drawn.setAttribute('class', 'spark');
  return drawn;
}
