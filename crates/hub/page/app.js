'use strict';
// The page: asks for the history once, then is told each second. In a report, the figures are in the page itself.

const view = {
  live: null,
  points: { recent: [], whole: [] },
  events: [],
  recentOnly: false,
  sorting: { column: null, down: true, choose: null },
  everyWorker: null,
  frozen: false,
};

// After so many points, the history is asked for again, which has fewer.
const MOST_POINTS = 2000;
// Without a message for so many milliseconds, what is shown is old.
const SILENCE = 3000;

// In a report, what it shows.
const data = byId('data');

// What of the page the address asks for.
const asked = (() => {
  const [, kind, name] = location.pathname.match(/^\/(worker|computation)\/([^/]+)$/) ?? [];
  return { kind: kind ?? null, name: name ? decodeURIComponent(name) : null };
})();

// While a button of the mouse is down, nothing is drawn anew, or the click would have no place.
let isPressed = false;
document.addEventListener('pointerdown', () => { isPressed = true; });
for (const end of ['pointerup', 'pointercancel']) {
  document.addEventListener(end, () => setTimeout(() => { isPressed = false; }));
}

// What is drawn anew because time has passed disturbs nobody: the focus stays where it is.
function redraw(drawing) {
  if (isPressed) return;
  const focused = document.activeElement;
  const [address, place] = [focused?.getAttribute('href'), focused?.closest('main [id]')];
  drawing();
  if (!address || !place || document.contains(focused)) return;
  [...place.querySelectorAll('a')].find(link => link.getAttribute('href') === address)?.focus({ preventScroll: true });
}

function draw() {
  redraw(drawAll);
}

function drawAll() {
  const { job } = view.live;
  drawVerdict(job);
  drawProgress(job);
  drawRejects(job);
  drawRates();
  drawStages(job);
  drawComputations(view.live.computations);
  drawWorkers();
  drawTable(byId('machines'), 'Machines of the job', MACHINE_COLUMNS, view.live.machines, null);
  drawEvents();
}

function drawVerdict(job) {
  setText('state', job.state);
  byId('state').className = `state ${job.state}`;
  setText('elapsed', `${job.state === 'done' || job.state === 'failed' ? 'after' : 'for'} ${format.clock(job.elapsed_seconds)}`);
  const expected = job.workers_expected ? ` of ${job.workers_expected}` : '';
  const over = job.state === 'done' || job.state === 'failed';
  setText('facts', (over ? `${job.workers_expected} workers` : `${job.workers_up}${expected} workers are up`)
    + `, ${job.restarts} restart${job.restarts === 1 ? '' : 's'}, ${format.count(job.rows.rejected)} rows rejected`);
  byId('failure').hidden = !job.failure;
  setText('failure', job.failure ?? '');
  // All of it is not done before it is done.
  const share = job.rows.total ? Math.floor((100 * job.rows.written) / job.rows.total) : null;
  const done = share === null ? '' : `${share} % · `;
  document.title = `${done}${job.state} · Monitoring Hub`;
  drawSummary(job.summary);
}

function drawSummary(summary) {
  const place = byId('summary');
  place.hidden = !summary;
  const shown = summary ? `${summary.sha256} ${summary.ended}` : '';
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  place.replaceChildren();
  if (!summary) return;
  const out = summary.rows - summary.rejects;
  const facts = {
    'rows in': format.count(summary.rows),
    'rows out': format.count(out),
    'rejects': format.count(summary.rejects),
    'rows in = rows out + rejects': summary.rows === out + summary.rejects ? '✓' : '✕',
    'from the first results to the last': `${summary.seconds.toFixed(2)} s`,
    'rows a second': format.rate(summary.rows / Math.max(1e-3, summary.seconds)),
    'results': format.bytes(summary.bytes),
    'columns': summary.columns.join(', ') || 'none',
    'SHA-256': summary.sha256,
    'ended': summary.ended,
  };
  place.append(...Object.entries(facts).map(([name, value]) => (
    element('div', {}, element('dt', {}, name), element('dd', {}, value))
  )));
}

function drawProgress(job) {
  byId('progress').replaceChildren(progressChart(job.rows));
  const { rows } = job;
  const total = rows.total !== null ? ` of ${format.count(rows.total)}`
    : rows.total_about !== null ? ` of about ${format.count(rows.total_about)}` : '';
  setText('rows', `${format.count(rows.read)} rows read, ${format.count(rows.in_flight)} in flight, `
    + `${format.count(rows.written)}${total} written; ${format.rate(job.rate_out)} rows/s.`);
  const { estimate } = job;
  const [low, high] = estimate ? [format.clock(estimate.low_seconds), format.clock(estimate.high_seconds)] : [];
  setText('estimate', estimate ? `Done in ${low === high ? low : `${low} to ${high}`}.` : '');
}

function drawRejects(job) {
  const reasons = [...job.reject_reasons].sort((a, b) => b.rows - a.rows);
  byId('rejects-section').hidden = reasons.length === 0;
  drawTable(byId('rejects'), 'Why rows were rejected, by kinds of reasons; … stands for what differs', REJECT_COLUMNS, reasons, null);
}

function drawRates() {
  const points = view.recentOnly ? view.points.recent : view.points.whole;
  byId('rates').replaceChildren(rateChart(points, view.events));
}

function drawStages(job) {
  const held = job.bottleneck;
  const nothing = job.state === 'done' || job.state === 'failed' ? '' : 'Nothing stands out.';
  setText('bottleneck', held ? `Held back by ${held.stage}: ${held.words}.` : nothing);
  const stages = job.stages.map(stage => ({ ...stage, name: stage.name + (held?.stage === stage.name ? ' ◀' : '') }));
  drawTable(byId('stages'), 'Stages of the dataflow, in their order', STAGE_COLUMNS, stages, null);
}

function drawComputations(computations) {
  const shown = asked.kind === 'computation' ? computations.filter(c => c.name === asked.name) : computations;
  byId('computations').replaceChildren(...shown.filter(c => c.count > 0 || asked.kind).map(computation => {
    const percentiles = { p50: 'p50_ms', p95: 'p95_ms', p99: 'p99_ms', 'p99.9': 'p999_ms', max: 'max_ms' };
    return element(
      'article', { class: 'computation' },
      element('h3', {}, element('a', { href: link(`/computation/${computation.name}`) }, computation.name)),
      element('p', {}, `${computation.what}; ${format.count(computation.count)} times`),
      histogramChart(computation),
      element('dl', {}, ...Object.entries(percentiles).map(([name, key]) => (
        element('div', {}, element('dt', {}, name), element('dd', {}, format.ms(computation[key])))
      ))),
    );
  }));
}

function drawWorkers() {
  const { cells } = view.live;
  const count = state => cells.filter(cell => cell[1] === state).length;
  const stragglers = cells.filter(cell => cell[2]).length;
  const parts = ['up', 'stale', 'lost', 'failed', 'finished'].filter(state => count(state)).map(state => `${count(state)} ${state}`);
  setText('workers-summary', `${cells.length} workers: ${parts.join(', ') || 'none yet'}`
    + (stragglers ? `; ${stragglers} straggler${stragglers === 1 ? '' : 's'}` : ''));
  const rows = view.everyWorker ?? view.live.workers;
  byId('cells').hidden = cells.length <= rows.length && !view.everyWorker;
  drawCells(cells);
  byId('all-workers').hidden = cells.length <= view.live.workers.length;
  const wanted = byId('filter').value.trim().toLowerCase();
  const matching = rows.filter(w => `${w.name} ${w.machine} ${w.state} ${w.straggler ? 'straggler' : ''}`.toLowerCase().includes(wanted));
  const caption = rows.length < cells.length ? `${rows.length} of ${cells.length} workers, problems first` : 'Workers, problems first';
  drawTable(byId('workers'), caption, WORKER_COLUMNS, sorted(matching, WORKER_COLUMNS, view.sorting), view.sorting);
}

// A cell for each worker, of which there may be a thousand.
function drawCells(cells) {
  const symbols = { up: '●', stale: '◌', lost: '✕', failed: '✕', finished: '✓' };
  const place = byId('cells');
  cells.forEach(([name, state, straggler, rate], i) => {
    const text = straggler ? '!' : symbols[state];
    const title = `${name}: ${straggler ? 'straggler' : state}, ${format.rate(rate)} rows/s`;
    let cell = place.children[i];
    if (!cell) {
      cell = element('a', {});
      place.append(cell);
    }
    if (!data) cell.href = `/worker/${encodeURIComponent(name)}`;
    cell.className = straggler ? 'straggler' : state;
    cell.title = title;
    cell.setAttribute('aria-label', title);
    if (cell.textContent !== text) cell.textContent = text;
  });
  while (place.children.length > cells.length) place.lastElementChild.remove();
}

function drawEvents() {
  const place = byId('events');
  // Also those before, which come with the history.
  const shown = `${view.events.length} events up to ${view.events.at(-1)?.number}`;
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  place.replaceChildren(...[...view.events].reverse().map(event => (
    element('li', { value: event.number, class: event.kind }, element('time', {}, format.clock(event.seconds)), ` ${event.text}`)
  )));
}

function takeEvents(events) {
  const last = view.events.at(-1)?.number ?? 0;
  view.events.push(...events.filter(event => event.number > last));
}

function takePoint(point) {
  if (!point) return;
  const { recent, whole } = view.points;
  const last = whole[whole.length - 1];
  if (last && point.seconds <= last.seconds) return;
  recent.push(point);
  if (recent.length > 300) recent.shift();
  // Until the history is asked for again, the newest points are closer together than the others.
  whole.push(point);
  if (whole.length > MOST_POINTS) askHistory().catch(show);
}

async function ask(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

async function askHistory() {
  const [points, events] = await Promise.all([ask('/api/v1/history'), ask('/api/v1/events')]);
  view.points = points;
  // Of another hub, if this one was started again, which counts from one.
  view.events = events;
  if (view.live && asked.kind !== 'worker') draw();
}

async function askEveryWorker() {
  const all = await ask('/api/v1/workers');
  // Somebody may have changed their mind meanwhile.
  if (view.everyWorker === null) return;
  view.everyWorker = all;
  if (view.live) redraw(drawWorkers);
}

function showEveryWorker(all) {
  byId('all-workers').setAttribute('aria-pressed', String(all));
  // Until the answer is here, those that are known.
  view.everyWorker = all ? view.live.workers : null;
  if (all) askEveryWorker().catch(show);
  drawWorkers();
}

// Who looks for a worker, or for the most of something, looks among all of them.
function needEveryWorker() {
  if (!view.live) return;
  if (view.everyWorker === null && view.live.cells.length > view.live.workers.length) showEveryWorker(true);
  else drawWorkers();
}

async function askWorker() {
  const { worker, computations } = await ask(`/api/v1/workers/${encodeURIComponent(asked.name)}`);
  view.everyWorker = [worker];
  redraw(() => {
    drawComputations(computations);
    drawWorkers();
  });
}

function listen() {
  const stream = new EventSource('/api/v1/stream');
  let heard = Date.now();
  // A connection that hangs does not say so.
  setInterval(() => {
    const silent = Date.now() - heard;
    document.body.classList.toggle('old', silent > SILENCE);
    if (silent > SILENCE) setText('connection', `Nothing is heard of the hub for ${format.clock(silent / 1000)}; the job does not depend on it.`);
  }, 1000);
  stream.addEventListener('message', message => {
    heard = Date.now();
    document.body.classList.remove('old');
    view.live = JSON.parse(message.data);
    takeEvents(view.live.events);
    takePoint(view.live.point);
    setText('connection', '');
    if (asked.kind === 'worker') {
      drawVerdict(view.live.job);
      askWorker().catch(show);
    } else {
      draw();
    }
  });
  stream.addEventListener('open', () => askHistory().catch(show));
  stream.addEventListener('error', () => {
    setText('connection', 'The hub does not answer; the job does not depend on it.');
    // A hub that is there and refuses wants another login.
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), SILENCE);
  });
}

function show(error) {
  setText('connection', `The hub answers: ${error.message}`);
}

function prepare() {
  document.body.classList.add(asked.kind ? `only-${asked.kind}` : 'all');
  if (asked.name) setText(asked.kind === 'worker' ? 'workers-title' : 'computations-title', asked.name);
  view.sorting.choose = column => {
    view.sorting.down = view.sorting.column === column ? !view.sorting.down : true;
    view.sorting.column = column;
    needEveryWorker();
  };
  const choose = recentOnly => {
    view.recentOnly = recentOnly;
    byId('span-all').setAttribute('aria-pressed', String(!recentOnly));
    byId('span-recent').setAttribute('aria-pressed', String(recentOnly));
    drawRates();
  };
  byId('span-all').addEventListener('click', () => choose(false));
  byId('span-recent').addEventListener('click', () => choose(true));
  byId('filter').addEventListener('input', needEveryWorker);
  byId('workers-filter').addEventListener('submit', event => event.preventDefault());
  byId('all-workers').addEventListener('click', () => view.live && showEveryWorker(view.everyWorker === null));
}

prepare();
if (data) {
  const report = JSON.parse(data.textContent);
  const cells = report.workers.map(w => [w.name, w.state, w.straggler !== null, w.rate]);
  const recent = report.job.elapsed_seconds - 300;
  view.live = { ...report, cells };
  view.points = { whole: report.history, recent: report.history.filter(point => point.seconds >= recent) };
  view.events = report.events;
  draw();
} else {
  listen();
  // The whole table is long, and is asked for now and then.
  setInterval(() => {
    if (view.everyWorker !== null && asked.kind === null) askEveryWorker().catch(show);
  }, 5000);
}
