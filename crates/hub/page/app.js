'use strict';
// The page: fetches the history once, and gets a message each second. In a report, the figures are in the page itself.

const view = {
  live: null,
  points: { recent: [], whole: [] },
  events: [],
  recentOnly: false,
  sorting: { column: null, down: true, choose: null },
  everyWorker: null,
  processes: [],
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

// Drawing anew keeps the focus where it is.
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
  drawIdentity(job);
  drawRejects(job);
  drawSummary(job);
  drawRates(job);
  drawModel(job.model);
  drawWorkers();
  drawEvents(job);
  drawComputations(view.live.computations);
  drawStages(job);
  drawMachines(view.live.machines);
}

function drawRates(job) {
  const points = view.recentOnly ? view.points.recent : view.points.whole;
  const place = byId('rates');
  // On the page of a worker or a computation, it has none.
  if (place.clientWidth > 0) place.replaceChildren(rateChart(points, view.events, job, place.clientWidth));
}

function drawModel(model) {
  const counts = model ?? {};
  byId('model-section').hidden = !model;
  drawFacts(byId('model'), modelFacts(counts));
}

function modelFacts(counts) {
  const times = n => (n === undefined ? null : format.count(n));
  return {
    'raised an exception': times(counts.exceptions),
    'was killed': times(counts.kills),
    'crashed': times(counts.crashes),
    'rows tried again': times(counts.retries),
    'batches divided': times(counts.splits),
    'lines printed': times(counts.printed_lines),
    'last failure': counts.last_failure,
    'last line': counts.last_printed,
  };
}

function drawStages(job) {
  const held = job.bottleneck?.stage;
  const classify = job.stages.find(stage => stage.name === 'classify');
  setText('stages-gist', `Model ${format.percent(classify?.busy)} busy, ${plural(classify?.in_flight ?? 0, 'batch', 'batches')} in flight`);
  if (!byId('stages-details').open) return;
  const stages = job.stages.map(stage => ({ ...stage, is_bottleneck: stage.name === held }));
  const caption = `Stages of the dataflow, in their order; shares are of ${isOver(job) ? 'the whole job' : 'the last seconds'}`;
  drawTable(byId('stages'), caption, STAGE_COLUMNS, stages, null);
}

function drawComputations(computations) {
  const wanted = asked.kind === 'computation' ? computations.filter(c => c.name === asked.name) : computations;
  const order = ['classify', 'queue', 'transit', 'sync'];
  const shown = wanted.filter(c => c.count > 0).sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
  const [first] = shown;
  setText('latency-gist', first?.name === 'classify'
    ? `the model takes ${format.ms(first.p50_ms)} a batch (p50), ${format.ms(first.p99_ms)} (p99)` : '');
  if (!byId('latency').open) return;
  const articles = shown.map(computation => element(
    'article', { class: 'computation', 'data-name': computation.name },
    element('h3', {}, element('a', { href: link(`/computation/${computation.name}`) }, COMPUTATIONS[computation.name])),
    element('p', {}, `${computation.what}; ${plural(computation.count, 'time')}`),
    element('div', { class: 'histogram' }),
    element('dl', {}, ...quantiles(computation).map(([name, ms]) => (
      element('div', {}, element('dt', {}, name), element('dd', {}, format.ms(ms)))
    ))),
  ));
  byId('computations').replaceChildren(...articles);
  articles.forEach((article, i) => {
    const place = article.querySelector('.histogram');
    place.append(histogramChart(shown[i], place.clientWidth));
  });
}

function quantiles(computation) {
  const all = { p50: 'p50_ms', p95: 'p95_ms', p99: 'p99_ms', 'p99.9': 'p999_ms', longest: 'max_ms' };
  // Of fewer, one in a thousand is the longest.
  return Object.entries(all)
    .filter(([name]) => name !== 'p99.9' || computation.count >= 1000)
    .map(([name, key]) => [name, computation[key]]);
}

// Of more than a few workers, a report shows these at first, as the hub does.
const [SHOWN, FEW] = [10, 16];
// With fewer workers, there is nothing to look for.
const FILTERED = 10;

function drawWorkers() {
  const { cells } = view.live;
  const count = state => cells.filter(cell => cell[1] === state).length;
  const stragglers = cells.filter(cell => cell[2]).length;
  const parts = ['up', 'stale', 'lost', 'failed', 'finished'].filter(state => count(state)).map(state => `${count(state)} ${state}`);
  setText('workers-summary', `${plural(cells.length, 'worker')}: ${parts.join(', ') || 'none yet'}`
    + (stragglers ? `; ${stragglers} slow` : ''));
  const rows = view.everyWorker ?? view.live.workers;
  byId('cells').hidden = cells.length <= rows.length && !view.everyWorker;
  drawCells(cells);
  byId('workers-filter').hidden = cells.length < FILTERED;
  byId('all-workers').hidden = cells.length <= view.live.workers.length;
  const wanted = byId('filter').value.trim().toLowerCase();
  const words = w => `worker ${w.number} ${w.name} ${w.machine} ${w.state} ${w.straggler ? 'slow straggler' : ''}`.toLowerCase();
  const matching = rows.filter(w => words(w).includes(wanted));
  const caption = rows.length < cells.length ? `${rows.length} of ${cells.length} workers, problems first` : '';
  const columns = WORKER_COLUMNS.filter(column => !column.isNeeded || column.isNeeded(rows));
  drawTable(byId('workers'), caption, columns, sorted(matching, columns, view.sorting), view.sorting);
}

// A cell for each worker, of which there may be a thousand.
function drawCells(cells) {
  const symbols = { up: '●', stale: '◌', lost: '✕', failed: '✕', finished: '✓' };
  const place = byId('cells');
  cells.forEach(([name, state, straggler, rate], i) => {
    const text = straggler ? '!' : symbols[state];
    const title = `worker ${i + 1}: ${straggler ? 'slow' : state}, ${format.rate(rate)} rows/s`;
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

// What of a worker is not in the table, or is its process's.
function drawWorkerFacts(worker) {
  drawFacts(byId('worker'), {
    'process': worker.process,
    'log': `${worker.process}.log`,
    'machine': worker.machine,
    'processors of the process': known(worker.processors, n => `${format.cores(n)} cores`),
    'memory of the process': format.bytes(worker.resident_bytes),
    'batches': format.count(worker.batches),
    'a batch takes': `${format.ms(worker.p50_ms)} (p50), ${format.ms(worker.p95_ms)} (p95), ${format.ms(worker.p99_ms)} (p99)`,
    ...(worker.model ? modelFacts(worker.model) : {}),
  });
}

function drawMachines(machines) {
  const cores = machines.reduce((sum, m) => sum + m.cores, 0);
  const used = machines.reduce((sum, m) => sum + (m.busy ?? 0) * m.cores, 0);
  setText('machines-gist', `${plural(machines.length, 'machine')}, ${format.cores(used)} of ${plural(cores, 'core')} in use`);
  if (!byId('machines-details').open) return;
  drawTable(byId('machines'), 'Machines of the job, with all that runs there', MACHINE_COLUMNS, machines, null);
  drawTable(byId('processes'), 'Programs of the job', PROCESS_COLUMNS, view.processes, null);
}

function drawEvents(job) {
  const place = byId('events');
  // Also those before, which come with the history.
  const shown = `${view.events.length} events up to ${view.events.at(-1)?.number}`;
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  place.replaceChildren(...[...view.events].reverse().map(event => (
    element(
      'li', { value: event.number, class: event.kind },
      element('time', {}, job.started_at === null ? '' : format.time(job.started_at + event.seconds)),
      element('span', { class: 'faint' }, format.clock(event.seconds)),
      element('span', {}, event.text),
    )
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
  const all = data ? JSON.parse(data.textContent).workers : await ask('/api/v1/workers');
  // The user may have changed their mind meanwhile.
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

async function askProcesses() {
  view.processes = await ask('/api/v1/processes');
  if (view.live) redraw(() => drawMachines(view.live.machines));
}

async function askWorker() {
  const { worker, computations } = await ask(`/api/v1/workers/${encodeURIComponent(asked.name)}`);
  view.everyWorker = [worker];
  setText('workers-title', `Worker ${worker.number}`);
  redraw(() => {
    drawWorkers();
    drawWorkerFacts(worker);
    drawComputations(computations);
  });
}

function listen() {
  const stream = new EventSource('/api/v1/stream');
  let lastMessage = Date.now();
  // A connection that hangs does not say so.
  setInterval(() => {
    const silent = Date.now() - lastMessage;
    document.body.classList.toggle('old', silent > SILENCE);
    if (silent > SILENCE) setText('connection', `The hub has not answered for ${format.clock(silent / 1000)}; the job does not depend on it.`);
  }, 1000);
  stream.addEventListener('message', message => {
    lastMessage = Date.now();
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
  if (asked.kind === 'computation') setText('computations-title', COMPUTATIONS[asked.name] ?? asked.name);
  if (asked.kind === 'worker') setText('workers-title', asked.name);
  if (asked.kind) byId('latency').open = true;
  // What is folded is not drawn; and a chart is as wide as its place.
  const drawn = () => view.live && (asked.kind === 'worker' ? askWorker().catch(show) : draw());
  for (const details of document.querySelectorAll('details')) details.addEventListener('toggle', drawn);
  window.addEventListener('resize', drawn);
  byId('machines-details').addEventListener('toggle', () => {
    if (!data && byId('machines-details').open) askProcesses().catch(show);
  });
  view.sorting.choose = column => {
    view.sorting.down = view.sorting.column === column ? !view.sorting.down : true;
    view.sorting.column = column;
    needEveryWorker();
  };
  const choose = recentOnly => {
    view.recentOnly = recentOnly;
    byId('span-all').setAttribute('aria-pressed', String(!recentOnly));
    byId('span-recent').setAttribute('aria-pressed', String(recentOnly));
    if (view.live) drawRates(view.live.job);
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
  const cells = [...report.workers].sort((a, b) => a.number - b.number).map(w => [w.name, w.state, w.straggler !== null, w.rate]);
  const recent = report.job.elapsed_seconds - 300;
  view.live = { ...report, cells, workers: cells.length > FEW ? report.workers.slice(0, SHOWN) : report.workers };
  view.points = { whole: report.history, recent: report.history.filter(point => point.seconds >= recent) };
  view.events = report.events;
  view.processes = report.processes;
  draw();
} else {
  listen();
  // What is long, or seldom looked at, is asked for now and then.
  setInterval(() => {
    if (asked.kind !== null) return;
    if (view.everyWorker !== null) askEveryWorker().catch(show);
    if (byId('machines-details').open) askProcesses().catch(show);
  }, 5000);
}
