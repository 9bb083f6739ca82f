'use strict';
// The page: fetches the history once, and gets a message each second. A report has all figures in the page.

const view = {
  live: null,
  points: { recent: [], whole: [] },
  events: [],
  recentOnly: false,
  sorting: { column: null, down: true, choose: null },
  everyWorker: null,
  processes: [],
};

// Above this many points, the history is fetched again, which then has fewer.
const MOST_POINTS = 2000;
// Without a message for this many milliseconds, the figures are old.
const SILENCE = 3000;

// The figures of a report; null on the hub's page.
const data = byId('data');

// The part of the page that the path names: a worker, a computation, or all.
const route = (() => {
  const [, kind, name] = location.pathname.match(/^\/(worker|computation)\/([^/]+)$/) ?? [];
  return { kind: kind ?? null, name: name ? decodeURIComponent(name) : null };
})();

// Nothing is redrawn while a mouse button is down, or the click would lose its target.
let isPressed = false;
document.addEventListener('pointerdown', () => { isPressed = true; });
for (const end of ['pointerup', 'pointercancel']) {
  document.addEventListener(end, () => setTimeout(() => { isPressed = false; }));
}

// Redraws, and keeps the focus.
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
  // Hidden on the page of a worker or a computation.
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
    'rows retried': times(counts.retries),
    'batches split': times(counts.splits),
    'lines printed': times(counts.printed_lines),
    'last failure': counts.last_failure,
    'last line': counts.last_printed,
    'lines that are alike': counts.printed?.length ? printedList(counts.printed) : null,
  };
}

// The first of the lines that are alike, most frequent first, with their number.
function printedList(printed) {
  const sorted = printed.toSorted((a, b) => b.lines - a.lines);
  return element('ul', { class: 'printed' }, ...sorted.map(alike => (
    element('li', {}, `${format.count(alike.lines)} × `, element('code', {}, alike.first))
  )));
}

function drawStages(job) {
  const held = job.bottleneck?.stage;
  const classify = job.stages.find(stage => stage.name === 'classify');
  setText('stages-gist', `Model ${format.percent(classify?.busy)} busy, ${plural(classify?.in_flight ?? 0, 'batch', 'batches')} in flight`);
  if (!byId('stages-details').open) return;
  const stages = job.stages.map(stage => ({ ...stage, is_bottleneck: stage.name === held }));
  const caption = `Stages in the order of the dataflow; shares are of ${isOver(job) ? 'the whole job' : 'the last seconds'}`;
  drawTable(byId('stages'), caption, STAGE_COLUMNS, stages, null);
}

function drawComputations(computations) {
  const wanted = route.kind === 'computation' ? computations.filter(c => c.name === route.name) : computations;
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
  // Below 1000 durations, p99.9 is the longest.
  return Object.entries(all)
    .filter(([name]) => name !== 'p99.9' || computation.count >= 1000)
    .map(([name, key]) => [name, computation[key]]);
}

// A report with more than FEW workers shows SHOWN of them at first, as the hub does.
const [SHOWN, FEW] = [10, 16];
// Below this many workers, there is no filter.
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

// Draws a cell for each worker; there may be a thousand.
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

// The facts about a worker and its process that are not in the table.
function drawWorkerFacts(worker) {
  drawFacts(byId('worker'), {
    'process': worker.process,
    'log': `${worker.process}.log`,
    'output of its models': worker.model?.printed_lines ? `${worker.process}.model*.log` : null,
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
  drawTable(byId('machines'), 'Machines of the job, including other programs on them', MACHINE_COLUMNS, machines, null);
  drawTable(byId('processes'), 'Programs of the job', PROCESS_COLUMNS, view.processes, null);
}

function drawEvents(job) {
  const place = byId('events');
  // Earlier events arrive with the history, so the number of events counts, too.
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

function addEvents(events) {
  const last = view.events.at(-1)?.number ?? 0;
  view.events.push(...events.filter(event => event.number > last));
}

function addPoint(point) {
  if (!point) return;
  const { recent, whole } = view.points;
  const last = whole[whole.length - 1];
  if (last && point.seconds <= last.seconds) return;
  recent.push(point);
  if (recent.length > 300) recent.shift();
  // Until the history is fetched again, the newest points are closer together than the others.
  whole.push(point);
  if (whole.length > MOST_POINTS) fetchHistory().catch(show);
}

async function fetchJson(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

async function fetchHistory() {
  const [points, events] = await Promise.all([fetchJson('/api/v1/history'), fetchJson('/api/v1/events')]);
  view.points = points;
  // Replaced and not added, since a restarted hub numbers events from 1 again.
  view.events = events;
  if (view.live && route.kind !== 'worker') draw();
}

async function fetchEveryWorker() {
  const all = data ? JSON.parse(data.textContent).workers : await fetchJson('/api/v1/workers');
  // The user may have changed their mind meanwhile.
  if (view.everyWorker === null) return;
  view.everyWorker = all;
  if (view.live) redraw(drawWorkers);
}

function showEveryWorker(all) {
  byId('all-workers').setAttribute('aria-pressed', String(all));
  // Until the answer arrives, shows the known workers.
  view.everyWorker = all ? view.live.workers : null;
  if (all) fetchEveryWorker().catch(show);
  drawWorkers();
}

// Filtering and sorting need all workers.
function needEveryWorker() {
  if (!view.live) return;
  if (view.everyWorker === null && view.live.cells.length > view.live.workers.length) showEveryWorker(true);
  else drawWorkers();
}

async function fetchProcesses() {
  view.processes = await fetchJson('/api/v1/processes');
  if (view.live) redraw(() => drawMachines(view.live.machines));
}

async function fetchWorker() {
  const { worker, computations } = await fetchJson(`/api/v1/workers/${encodeURIComponent(route.name)}`);
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
  // A hanging connection raises no error.
  setInterval(() => {
    const silent = Date.now() - lastMessage;
    document.body.classList.toggle('old', silent > SILENCE);
    if (silent > SILENCE) setText('connection', `The hub has not answered for ${format.clock(silent / 1000)}; the job does not depend on it.`);
  }, 1000);
  stream.addEventListener('message', message => {
    lastMessage = Date.now();
    document.body.classList.remove('old');
    view.live = JSON.parse(message.data);
    addEvents(view.live.events);
    addPoint(view.live.point);
    setText('connection', '');
    if (route.kind === 'worker') {
      drawVerdict(view.live.job);
      fetchWorker().catch(show);
    } else {
      draw();
    }
  });
  stream.addEventListener('open', () => fetchHistory().catch(show));
  stream.addEventListener('error', () => {
    setText('connection', 'The hub does not answer; the job does not depend on it.');
    // The hub answers and refuses: it requires a new login.
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), SILENCE);
  });
}

function show(error) {
  setText('connection', `A request to the hub failed: ${error.message}`);
}

function prepare() {
  document.body.classList.add(route.kind ? `only-${route.kind}` : 'all');
  if (route.kind === 'computation') setText('computations-title', COMPUTATIONS[route.name] ?? route.name);
  if (route.kind === 'worker') setText('workers-title', route.name);
  if (route.kind) byId('latency').open = true;
  // Folded details are not drawn, and a chart is as wide as its place.
  const drawn = () => view.live && (route.kind === 'worker' ? fetchWorker().catch(show) : draw());
  for (const details of document.querySelectorAll('details')) details.addEventListener('toggle', drawn);
  window.addEventListener('resize', drawn);
  byId('machines-details').addEventListener('toggle', () => {
    if (!data && byId('machines-details').open) fetchProcesses().catch(show);
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
  // Large or rarely viewed tables are fetched every five seconds.
  setInterval(() => {
    if (route.kind !== null) return;
    if (view.everyWorker !== null) fetchEveryWorker().catch(show);
    if (byId('machines-details').open) fetchProcesses().catch(show);
  }, 5000);
}
