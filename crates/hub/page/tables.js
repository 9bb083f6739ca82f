'use strict';
// Tables. Each column says how it is shown and sorted.

const classOf = column => [column.number ? 'number' : null, column.kind].filter(name => name).join(' ') || null;

// Redraws a table; with `sorting`, its headings are buttons.
function drawTable(table, caption, columns, rows, sorting) {
  const head = element('tr', {}, ...columns.map(column => {
    const direction = sorting && sorting.column === column.name ? (sorting.down ? 'descending' : 'ascending') : null;
    const cell = element('th', { scope: 'col', class: classOf(column), 'aria-sort': direction });
    if (!sorting) {
      cell.append(column.name);
      return cell;
    }
    const arrow = direction ? (sorting.down ? ' ▼' : ' ▲') : '';
    const button = element('button', { type: 'button', 'data-column': column.name }, column.name + arrow);
    button.addEventListener('click', () => sorting.choose(column.name));
    cell.append(button);
    return cell;
  }));
  const body = rows.map(row => element('tr', { class: row.straggler ? 'straggler' : row.state }, ...columns.map((column, i) => {
    const shown = column.show(row);
    const attributes = { class: classOf(column), ...(i === 0 ? { scope: 'row' } : {}) };
    return element(i === 0 ? 'th' : 'td', attributes, shown);
  })));
  const focused = table.contains(document.activeElement) ? document.activeElement.getAttribute('data-column') : null;
  table.replaceChildren(...(caption ? [element('caption', {}, caption)] : []), element('thead', {}, head), element('tbody', {}, ...body));
  if (focused !== null) table.querySelector(`[data-column="${focused}"]`)?.focus();
}

function sorted(rows, columns, sorting) {
  const column = columns.find(one => one.name === sorting.column);
  if (!column) return rows;
  const order = (a, b) => {
    const [one, other] = [column.key(a), column.key(b)];
    // Unknown values come last, in both directions.
    const unknown = (one === null || one === undefined) - (other === null || other === undefined);
    if (unknown || one === null || one === undefined) return unknown;
    const rising = typeof one === 'string' ? one.localeCompare(other, 'en', { numeric: true }) : one - other;
    return sorting.down ? -rising : rising;
  };
  return [...rows].sort(order);
}

const LIVENESS = { up: '● up', stale: '◌ stale', lost: '✕ lost', failed: '✕ failed', finished: '✓ finished' };

const STAGE_COLUMNS = [
  { name: 'stage', show: stage => STAGES[stage.name] + (stage.is_bottleneck ? ' ◀ bottleneck' : '') },
  { name: 'in', number: true, show: stage => plural(stage.in, stage.unit.replace(/(e?)s$/, '$1')) },
  { name: 'out', number: true, show: stage => format.count(stage.out) },
  {
    name: 'in flight', number: true,
    show: stage => format.count(stage.in_flight) + (stage.limit ? ` of ${format.count(stage.limit)}` : ''),
  },
  {
    name: 'bytes held', number: true, kind: 'wide',
    show: stage => format.bytes(stage.bytes) + (stage.limit_bytes ? ` of ${format.bytes(stage.limit_bytes)}` : ''),
  },
  { name: 'busy', number: true, show: stage => format.percent(stage.busy) },
  { name: 'idle', number: true, show: stage => format.percent(stage.idle) },
  { name: 'waiting for the next', number: true, show: stage => format.percent(stage.back_pressured) },
];

const REJECT_COLUMNS = [
  { name: 'reason', kind: 'words', show: reason => reason.kind },
  { name: 'rows', number: true, show: reason => format.count(reason.rows) },
  { name: 'share', number: true, show: reason => format.share(reason.rows, reason.all) },
  { name: 'sample', kind: 'words', show: reason => `row ${format.count(reason.first_row)}: ${reason.example}` },
];

// The third column is visible in a narrow window, too; `wide` columns are hidden there.
const WORKER_COLUMNS = [
  {
    name: 'worker', key: w => w.number,
    show: w => element('a', { href: link(`/worker/${encodeURIComponent(w.name)}`), title: w.name }, `worker ${w.number}`),
  },
  { name: 'state', key: w => w.state, show: w => (w.straggler ? '! slow' : LIVENESS[w.state]) },
  {
    name: 'why it stands out', kind: 'words', key: w => standsOut(w),
    show: w => standsOut(w), isNeeded: workers => workers.some(w => standsOut(w)),
  },
  { name: 'rows/s', number: true, key: w => w.rate, show: w => format.rate(w.rate) },
  {
    name: 'last minute', kind: 'wide', key: w => w.rate,
    show: w => sparkline(w.rates, `rows per second of worker ${w.number} over the last ${w.rates.length} s`),
  },
  { name: 'ms a row', number: true, key: w => w.ms_per_row, show: w => format.msPerRow(w.ms_per_row) },
  { name: 'rows', number: true, key: w => w.rows, show: w => format.count(w.rows) },
  {
    name: 'rejects', number: true, key: w => w.rejects, show: w => format.count(w.rejects),
    isNeeded: workers => workers.some(w => w.rejects),
  },
  { name: 'in flight', number: true, kind: 'wide', key: w => w.in_flight, show: w => plural(w.in_flight, 'batch', 'batches') },
  {
    name: 'oldest', number: true, kind: 'wide', key: w => w.oldest_seconds,
    show: w => format.ms(w.oldest_seconds === null ? null : 1000 * w.oldest_seconds),
  },
  { name: 'busy', number: true, key: w => w.busy, show: w => format.percent(w.busy) },
  { name: 'restarts', number: true, key: w => w.restarts, show: w => format.count(w.restarts) },
  { name: 'last seen', number: true, key: w => w.last_seen_seconds, show: w => lastSeen(w) },
  { name: 'machine', kind: 'wide', key: w => w.machine, show: w => w.machine },
];

function standsOut(worker) {
  if (worker.straggler) return worker.straggler;
  if (worker.state === 'stale' || worker.state === 'lost') return `no report for ${format.clock(worker.last_seen_seconds)}`;
  return worker.state === 'failed' ? 'its process has failed; see the events' : '';
}

const lastSeen = seen => (seen.last_seen_seconds < 2 ? 'now' : `${format.clock(seen.last_seen_seconds)} ago`);

const coresOf = machine => known(machine.busy, busy => `${format.cores(busy * machine.cores)} of ${machine.cores} cores`);

const MACHINE_COLUMNS = [
  { name: 'machine', show: m => m.name },
  { name: 'processors', number: true, show: coresOf },
  { name: 'memory', number: true, show: m => known(m.used_bytes, used => `${format.bytes(used)} of ${format.bytes(m.total_bytes)}`) },
  { name: 'network in', number: true, show: m => known(m.received_per_second, n => `${format.bytes(n)}/s`) },
  { name: 'network out', number: true, show: m => known(m.sent_per_second, n => `${format.bytes(n)}/s`) },
  { name: 'last seen', number: true, show: lastSeen },
];

const PROCESS_COLUMNS = [
  { name: 'program', show: p => p.name },
  { name: 'machine', show: p => p.machine },
  { name: 'state', show: p => LIVENESS[p.state] },
  { name: 'workers', number: true, show: p => (p.workers ? format.count(p.workers) : UNKNOWN) },
  { name: 'processors', number: true, show: p => known(p.processors, n => `${format.cores(n)} cores`) },
  { name: 'memory', number: true, show: p => format.bytes(p.resident_bytes) },
  { name: 'restarts', number: true, show: p => format.count(p.restarts) },
  { name: 'last seen', number: true, show: lastSeen },
];
