'use strict';
// Charts, as SVG. Each has a title that says in words what it shows.

let charts = 0;

function chart(width, height, words, ...children) {
  charts += 1;
  const id = `chart-${charts}`;
  return element(
    'svg',
    { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-labelledby': id, class: 'chart' },
    element('title', { id }, words),
    ...children,
  );
}

// How far the job is: what is written, and what is on its way.
function progressChart(rows) {
  const total = rows.total ?? rows.total_about;
  const share = n => (total ? 600 * Math.min(1, n / total) : 0);
  const words = total
    ? `${format.percent(rows.written / total)} of the rows are written`
    : `${format.count(rows.written)} rows are written; how many there are is not known`;
  return chart(
    600, 20, words,
    element('rect', { x: 0, y: 0, width: 600, height: 20, class: 'track' }),
    element('rect', { x: 0, y: 0, width: share(rows.read), height: 20, class: 'in-flight' }),
    element('rect', { x: 0, y: 0, width: share(rows.written), height: 20, class: 'written' }),
  );
}

// Rows a second in and out, with marks where something happened to a program.
function rateChart(points, events) {
  const [width, height, left, bottom] = [720, 220, 64, 24];
  const rates = points.slice(1).map((point, i) => {
    const span = Math.max(0.1, point.seconds - points[i].seconds);
    return {
      seconds: point.seconds,
      in: (point.rows_in - points[i].rows_in) / span,
      out: (point.rows_out - points[i].rows_out) / span,
    };
  });
  if (rates.length === 0) return element('p', {}, 'There is a chart after two seconds.');
  const [from, to] = [points[0].seconds, points[points.length - 1].seconds];
  const most = nice(Math.max(1, ...rates.map(rate => Math.max(rate.in, rate.out))));
  const x = seconds => left + ((width - left - 8) * (seconds - from)) / Math.max(1, to - from);
  const y = rate => height - bottom - ((height - bottom - 12) * Math.max(0, rate)) / most;
  const line = key => rates.map((rate, i) => `${i ? 'L' : 'M'}${x(rate.seconds).toFixed(1)} ${y(rate[key]).toFixed(1)}`).join('');
  const grid = [0, 0.25, 0.5, 0.75, 1].flatMap(share => [
    element('line', { x1: left, x2: width, y1: y(share * most), y2: y(share * most), class: 'grid' }),
    element('text', { x: left - 6, y: y(share * most) + 4, 'text-anchor': 'end' }, format.rate(share * most)),
  ]);
  const ticks = [0, 0.5, 1].map(share => {
    const seconds = from + share * (to - from);
    const anchor = share === 0 ? 'start' : share === 1 ? 'end' : 'middle';
    return element('text', { x: x(seconds), y: height - 6, 'text-anchor': anchor }, format.clock(seconds));
  });
  const symbols = { joined: '▲', restarted: '↻', lost: '✕', back: '▲' };
  const marks = events
    .filter(event => symbols[event.kind] && event.seconds >= from && event.seconds <= to)
    .map(event => element(
      'g', { class: `mark ${event.kind}` },
      element('line', { x1: x(event.seconds), x2: x(event.seconds), y1: 12, y2: height - bottom }),
      element('text', { x: x(event.seconds), y: 10, 'text-anchor': 'middle' }, symbols[event.kind]),
      element('title', {}, `${event.text} (${format.clock(event.seconds)})`),
    ));
  const legend = ['in', 'out'].flatMap((key, i) => [
    element('line', { x1: width - 110 + 55 * i, x2: width - 88 + 55 * i, y1: 22, y2: 22, class: `line ${key}` }),
    element('text', { x: width - 84 + 55 * i, y: 26 }, key),
  ]);
  const last = rates[rates.length - 1];
  const words = `Rows a second: ${format.rate(last.in)} in and ${format.rate(last.out)} out at the end`;
  return chart(
    width, height, words,
    ...grid, ...ticks, ...marks, ...legend,
    element('path', { d: line('in'), class: 'line in' }),
    element('path', { d: line('out'), class: 'line out' }),
  );
}

// The next of 1, 2, 5, 10 … that is not smaller.
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find(step => step * power >= value);
}

// How often something took how long; the axis is logarithmic, since each bar has about twice the width of the one before.
function histogramChart(computation) {
  const [width, height, bottom] = [360, 130, 22];
  const bars = computation.bars;
  const most = Math.max(1, ...bars.map(bar => bar[1]));
  const step = width / Math.max(1, bars.length);
  const drawn = bars.map(([limit, count], i) => {
    // What is rare should be seen, too: at least a pixel.
    const size = count ? Math.max(1.5, ((height - bottom - 4) * count) / most) : 0;
    return element(
      'g', {},
      element('rect', { x: i * step + 1, y: height - bottom - size, width: Math.max(1, step - 2), height: size, class: 'bar' }),
      element('title', {}, `${format.count(count)} took up to ${format.ms(limit)}`),
    );
  });
  const every = Math.ceil(bars.length / 4);
  const labels = bars.map(([limit], i) => {
    if (i % every) return null;
    // At the edges they would be cut off.
    const x = (i + 0.5) * step;
    const place = i === 0 ? { x: 0, 'text-anchor': 'start' }
      : x > width - 32 ? { x: width, 'text-anchor': 'end' } : { x, 'text-anchor': 'middle' };
    return element('text', { ...place, y: height - 4 }, format.ms(limit));
  });
  const words = `${computation.name}: half of ${format.count(computation.count)} took up to ${format.ms(computation.p50_ms)}, `
    + `99 % up to ${format.ms(computation.p99_ms)}`;
  return chart(width, height, words, ...drawn, ...labels);
}

function sparkline(rates, words) {
  if (rates.length < 2) return element('span', {}, '');
  const most = Math.max(1, ...rates);
  // Where it is not known, there is a gap.
  const isKnown = i => rates[i] !== null && rates[i] !== undefined;
  const path = rates
    .map((rate, i) => (isKnown(i) ? `${isKnown(i - 1) ? 'L' : 'M'}${i} ${(19 - (18 * rate) / most).toFixed(1)}` : ''))
    .join('');
  const drawn = chart(Math.max(2, rates.length - 1), 20, words, element('path', { d: path, class: 'line out' }));
  drawn.setAttribute('preserveAspectRatio', 'none');
  drawn.setAttribute('class', 'spark');
  return drawn;
}
