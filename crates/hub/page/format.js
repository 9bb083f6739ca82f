'use strict';
// Figures as people read them. Unknown ones are a dash, never a zero.

const UNKNOWN = '–';
const known = (value, show) => (value === null || value === undefined ? UNKNOWN : show(value));

// Three digits that mean something, never as a power of ten.
const digits = n => (n >= 99.95 ? String(Math.round(n)) : n.toPrecision(3));

const format = {
  count: value => known(value, n => Math.round(n).toLocaleString('en-US')),
  // 1,234 · 56.7 k · 1.23 M: three digits that mean something.
  rate: value => known(value, n => {
    if (n >= 999_500) return `${digits(n / 1e6)} M`;
    if (n >= 1e4) return `${digits(n / 1e3)} k`;
    return n >= 10 || n === 0 ? Math.round(n).toLocaleString('en-US') : n.toPrecision(2);
  }),
  percent: value => known(value, share => `${Math.round(100 * share)} %`),
  bytes: value => known(value, n => {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let unit = 0;
    while (n >= 1024 && unit < units.length - 1) {
      n /= 1024;
      unit += 1;
    }
    return `${unit === 0 ? Math.round(n) : digits(n)} ${units[unit]}`;
  }),
  ms: value => known(value, ms => {
    if (ms >= 100_000) return format.clock(ms / 1000);
    if (ms >= 999.5) return `${digits(ms / 1000)} s`;
    if (ms >= 0.9995) return `${digits(ms)} ms`;
    return `${Math.round(1000 * ms)} µs`;
  }),
  clock: value => known(value, seconds => {
    const s = Math.ceil(seconds);
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, '0')} s`;
    return `${Math.floor(s / 3600)} h ${String(Math.floor(s / 60) % 60).padStart(2, '0')} min`;
  }),
};

// An element with attributes and children; text is text, never markup.
function element(tag, attributes = {}, ...children) {
  const svg = ['svg', 'g', 'rect', 'line', 'path', 'text', 'title', 'desc', 'circle'].includes(tag);
  const made = svg
    ? document.createElementNS('http://www.w3.org/2000/svg', tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

// A report is a file of its own, which has no other pages.
const link = path => (document.getElementById('data') ? null : path);

const byId = id => document.getElementById(id);

function setText(id, text) {
  const place = byId(id);
  // Only what has changed, so that it is not read out again.
  if (place.textContent !== text) place.textContent = text;
}
