'use strict';
// Figures as text. An unknown one is a dash, never a zero.

const UNKNOWN = '–';
const known = (value, show) => (value === null || value === undefined ? UNKNOWN : show(value));

// Three significant digits, without an exponent.
const digits = n => (n >= 99.95 ? String(Math.round(n)) : n.toPrecision(3));

const plural = (n, one, many = `${one}s`) => `${format.count(n)} ${n === 1 ? one : many}`;

const format = {
  count: value => known(value, n => Math.round(n).toLocaleString('en-US')),
  // 1,234 · 56.7 k · 1.23 M: three significant digits.
  rate: value => known(value, n => {
    if (n >= 999_500) return `${Number(digits(n / 1e6))} M`;
    if (n >= 1e4) return `${Number(digits(n / 1e3))} k`;
    return n >= 10 || n === 0 ? Math.round(n).toLocaleString('en-US') : n.toPrecision(2);
  }),
  percent: value => known(value, share => `${Math.round(100 * share)} %`),
  // Rounded down, so that 100 % means all; but a share above zero is never 0 %.
  share: (part, whole) => {
    const share = (100 * part) / Math.max(1, whole);
    return share > 0 && share < 1 ? '< 1 %' : `${Math.floor(share)} %`;
  },
  cores: value => known(value, n => n.toFixed(n < 9.95 ? 1 : 0)),
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
  // Without trailing zeros.
  round: text => text.replace(/(\.\d*?)0+(?= )/, '$1').replace(/\.(?= )/, ''),
  // The time of a row: always in milliseconds, so that workers can be compared at a glance.
  msPerRow: value => known(value, ms => (ms >= 0.001 ? Number(ms.toPrecision(3)).toLocaleString('en-US') : '< 0.001')),
  clock: value => known(value, seconds => {
    const s = Math.ceil(seconds);
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, '0')} s`;
    return `${Math.floor(s / 3600)} h ${String(Math.floor(s / 60) % 60).padStart(2, '0')} min`;
  }),
  // Like clock, without zero seconds or minutes at the end.
  span: seconds => format.clock(seconds).replace(/ 00 (s|min)$/, ''),
  // Local time of a moment in seconds since 1970, with the day unless it is today.
  time: (moment, withSeconds = true) => known(moment, unix => {
    const date = new Date(1000 * unix);
    const parts = { hour: '2-digit', minute: '2-digit' };
    if (withSeconds) parts.second = '2-digit';
    const time = date.toLocaleTimeString('en-GB', parts);
    const days = Math.abs(Date.now() - date) / 86_400_000;
    if (date.toDateString() === new Date().toDateString()) return time;
    const day = date.toLocaleDateString('en-GB', days < 6 ? { weekday: 'short' } : { day: 'numeric', month: 'short', year: 'numeric' });
    return `${day} ${time}`;
  }),
};

// Titles of stages and computations.
const STAGES = { source: 'Read', batcher: 'Batch', classify: 'Model', sink: 'Write' };
const COMPUTATIONS = { queue: 'Waiting for the model', classify: 'Model', transit: 'Batch to receiver', sync: 'Write' };

// An element with attributes and children; text is text, never markup.
function element(tag, attributes = {}, ...children) {
  const svg = ['svg', 'g', 'rect', 'line', 'path', 'text', 'title', 'desc', 'clipPath', 'defs'].includes(tag);
  const made = svg
    ? document.createElementNS('http://www.w3.org/2000/svg', tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

// Draws terms and their values; unknown ones are left out.
function drawFacts(place, facts) {
  const shown = Object.entries(facts).filter(([, fact]) => fact !== null && fact !== undefined);
  // Long text gets its own line, and so does a list.
  const isLong = fact => fact instanceof Element || (typeof fact === 'string' && fact.length > 48);
  place.replaceChildren(...shown.map(([name, fact]) => (
    element('div', { class: isLong(fact) ? 'long' : null }, element('dt', {}, name), element('dd', {}, ...(Array.isArray(fact) ? fact : [fact])))
  )));
  place.hidden = shown.length === 0;
}

// A report is a single file, without other pages.
const link = path => (document.getElementById('data') ? null : path);

const byId = id => document.getElementById(id);

function setText(id, text) {
  const place = byId(id);
  // Only if it changed, so that screen readers do not repeat it.
  if (place.textContent !== text) place.textContent = text;
}

// Shows a callout with a word in front, or hides it if there is no text.
function callOut(id, word, text) {
  const place = byId(id);
  place.hidden = !text;
  const shown = text ? `${word} ${text}` : '';
  if (place.textContent !== shown) place.replaceChildren(element('strong', {}, word), ` ${text ?? ''}`);
}
