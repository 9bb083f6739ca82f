'use strict';
// Tables: columns that say how they are shown and sorted.

// Draws a table anew; with `sorting`, its headings are buttons.
function drawTable(table, caption, columns, rows, sorting) {
  const head = element('tr', {}, ...columns.map((column, i) => {
    const direction = sorting && sorting.column === i ? (sorting.down ? 'descending' : 'ascending') : null;
    const cell = element('th', { scope: 'col', class: column.number ? 'number' : null, 'aria-sort': direction });
    if (!sorting) {
      cell.append(column.name);
      return cell;
    }
    const arrow = direction ? (sorting.down ? ' ▼' : ' ▲') : '';
    const button = element('button', { type: 'button', 'data-column': i }, column.name + arrow);
    button.addEventListener('click', () => sorting.choose(i));
    cell.append(button);
    return cell;
  }));
  const body = rows.map(row => element('tr', { class: row.straggler ? 'straggler' : row.state }, ...columns.map((column, i) => {
    const shown = column.show(row);
    const attributes = i === 0 ? { scope: 'row' } : { class: column.number ? 'number' : null };
    return element(i === 0 ? 'th' : 'td', attributes, shown);
  })));
  const focused = table.contains(document.activeElement) ? document.activeElement.getAttribute('data-column') : null;
  table.replaceChildren(element('caption', {}, caption), element('thead', {}, head), element('tbody', {}, ...body));
  if (focused !== null) table.querySelector(`[data-column="${focused}"]`)?.focus();
}

function sorted(rows, columns, sorting) {
  if (sorting.column === null) return rows;
  const key = columns[sorting.column].key;
  const order = (a, b) => {
    const [one, other] = [key(a), key(b)];
    // What is not known comes last, whatever the direction.
    const unknown = (one === null || one === undefined) - (other === null || other === undefined);
    if (unknown || one === null || one === undefined) return unknown;
    const rising = typeof one === 'string' ? one.localeCompare(other, 'en', { numeric: true }) : one - other;
    return sorting.down ? -rising : rising;
  };
  return [...rows].sort(order);
}

const STATES = { up: '● up', stale: '◌ stale', lost: '✕ lost', failed: '✕ failed', finished: '✓ finished' };

const STAGE_COLUMNS = [
  { name: 'stage', show: stage => stage.name },
  { name: 'in', number: true, show: stage => `${format.count(stage.in)} ${stage.unit}` },
  { name: 'out', number: true, show: stage => `${format.count(stage.out)} ${stage.unit}` },
  {
    name: 'in flight', number: true,
    show: stage => format.count(stage.in_flight) + (stage.limit ? ` of ${format.count(stage.limit)}` : ''),
  },
  {
    name: 'bytes held', number: true,
    show: stage => format.bytes(stage.bytes) + (stage.limit_bytes ? ` of ${format.bytes(stage.limit_bytes)}` : ''),
  },
  { name: 'busy', number: true, show: stage => format.percent(stage.busy) },
  { name: 'idle', number: true, show: stage => format.percent(stage.idle) },
  { name: 'back-pressured', number: true, show: stage => format.percent(stage.back_pressured) },
];

const REJECT_COLUMNS = [
  { name: 'reason', show: reason => reason.kind },
  { name: 'rows', number: true, show: reason => format.count(reason.rows) },
  { name: 'first row', number: true, show: reason => format.count(reason.first_row) },
  { name: 'its reason', show: reason => reason.example },
];

const WORKER_COLUMNS = [
  {
    name: 'worker', key: w => w.name,
    show: w => element('a', { href: link(`/worker/${encodeURIComponent(w.name)}`) }, w.name),
  },
  { name: 'state', key: w => w.state, show: w => STATES[w.state] + (w.straggler ? ' ! straggler' : '') },
  { name: 'machine', key: w => w.machine, show: w => w.machine },
  { name: 'rows/s', number: true, key: w => w.rate, show: w => format.rate(w.rate) },
  {
    name: 'last minute', key: w => w.rate,
    show: w => sparkline(w.rates, `rows a second of ${w.name} over the last ${w.rates.length} s`),
  },
  { name: 'batches', number: true, key: w => w.batches, show: w => format.count(w.batches) },
  { name: 'p50', number: true, key: w => w.p50_ms, show: w => format.ms(w.p50_ms) },
  { name: 'p95', number: true, key: w => w.p95_ms, show: w => format.ms(w.p95_ms) },
  { name: 'p99', number: true, key: w => w.p99_ms, show: w => format.ms(w.p99_ms) },
  { name: 'in flight', number: true, key: w => w.in_flight, show: w => format.count(w.in_flight) },
  {
    name: 'oldest', number: true, key: w => w.oldest_seconds,
    show: w => format.ms(w.oldest_seconds === null ? null : 1000 * w.oldest_seconds),
  },
  { name: 'busy', number: true, key: w => w.busy, show: w => format.percent(w.busy) },
  { name: 'processors', number: true, key: w => w.processors, show: w => known(w.processors, n => n.toFixed(2)) },
  { name: 'memory', number: true, key: w => w.resident_bytes, show: w => format.bytes(w.resident_bytes) },
  { name: 'restarts', number: true, key: w => w.restarts, show: w => format.count(w.restarts) },
  { name: 'last seen', number: true, key: w => w.last_seen_seconds, show: w => `${format.clock(w.last_seen_seconds)} ago` },
  { name: 'why it stands out', key: w => w.straggler ?? '', show: w => w.straggler ?? '' },
];

const MACHINE_COLUMNS = [
  { name: 'machine', show: m => m.name },
  { name: 'programs', show: m => m.programs.join(', ') },
  { name: 'processors', number: true, show: m => known(m.busy, busy => `${format.percent(busy)} of ${m.cores}`) },
  { name: 'memory', number: true, show: m => known(m.used_bytes, used => `${format.bytes(used)} of ${format.bytes(m.total_bytes)}`) },
  { name: 'network in', number: true, show: m => known(m.received_per_second, n => `${format.bytes(n)}/s`) },
  { name: 'network out', number: true, show: m => known(m.sent_per_second, n => `${format.bytes(n)}/s`) },
  { name: 'last seen', number: true, show: m => `${format.clock(m.last_seen_seconds)} ago` },
];
