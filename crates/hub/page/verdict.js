'use strict';
// The top of the page: the job's state, its description and its results.

const isOver = job => job.state === 'done' || job.state === 'failed';

// The answers first: how far the job is, when it will be done, and how fast it is.
function drawVerdict(job) {
  const { rows } = job;
  setText('state', stateWords(job));
  byId('state').className = `state ${job.state}${isImperfect(job) ? ' imperfect' : ''}`;
  const started = job.started_at === null ? '' : `, since ${format.time(job.started_at)}`;
  const ended = job.started_at === null ? ''
    : `, ${format.time(job.started_at)} to ${format.time(job.started_at + job.elapsed_seconds)}`;
  setText('elapsed', isOver(job)
    ? `after ${format.span(job.elapsed_seconds)}${ended}`
    : `for ${format.clock(job.elapsed_seconds)}${started}`);
  setText('headline', headline(job));
  const place = byId('progress');
  place.replaceChildren(progressChart(rows, place.clientWidth));
  const total = rows.total !== null ? ` of ${format.count(rows.total)}`
    : rows.total_about !== null ? ` of about ${format.count(rows.total_about)}` : '';
  setText('rows', `${format.count(rows.written)}${total} rows written, ${format.count(rows.in_flight)} in flight`
    + (rows.rejected ? `, ${format.count(rows.rejected)} rejected` : ''));
  setText('facts', [
    job.workers_expected || job.workers_up ? workersUp(job) : null,
    plural(job.restarts, 'restart'),
    range(job.estimate),
  ].filter(fact => fact).join(' · '));
  callOut('failure', 'Why it failed:', job.failure);
  callOut('rejected', 'Rejected:', rows.rejected ? rejectWords(job) : null);
  const held = job.bottleneck;
  const words = held ? `${sentence(held.words)}${held.advice ? ` ${sentence(held.advice)}` : ''}` : null;
  callOut('bottleneck', `${job.state === 'stalled' ? 'Stalled at' : 'Bottleneck:'} ${STAGES[held?.stage]}.`, words);
  byId('bottleneck').classList.toggle('bad', job.state === 'stalled');
  const share = rows.total ? `${format.share(rows.written, rows.total)} · ` : '';
  document.title = `${share}${stateWords(job)} · Monitoring Hub`;
}

function stateWords(job) {
  const words = { waiting: 'Waiting', running: 'Running', stalled: 'Stalled', draining: 'Finishing', done: 'Done', failed: 'Failed' };
  return words[job.state] + (isImperfect(job) ? ' with rejects' : '');
}

// Green is for jobs in which every row has a result.
const isImperfect = job => job.rows.rejected > 0 && ['running', 'draining', 'done'].includes(job.state);

const sentence = words => `${words[0].toUpperCase()}${words.slice(1)}.`;

function headline(job) {
  const { rows } = job;
  const total = rows.total ?? rows.total_about;
  const few = n => (n < 1e6 ? format.count(n) : format.rate(n));
  const share = total ? format.share(rows.written, total) : `${few(rows.written)} rows`;
  const rate = job.rate_out === null ? null : `${format.rate(job.rate_out)} rows/s`;
  const parts = {
    waiting: () => ['Waiting for rows'],
    running: () => [share, due(job.estimate), rate],
    draining: () => [share, due(job.estimate), rate],
    stalled: () => [share, known(job.stalled_seconds, seconds => `nothing written for ${format.clock(seconds)}`)],
    done: () => [`${few(rows.written)} rows in ${format.span(job.elapsed_seconds)}`,
      rows.rejected ? `${few(rows.rejected)} rejected` : null, rate],
    failed: () => [`Failed at ${share}`],
  };
  return parts[job.state]().filter(part => part).join(' · ');
}

// When the job will be done, as precisely as the estimate allows.
function due(estimate) {
  if (!estimate) return null;
  const seconds = (estimate.low_seconds + estimate.high_seconds) / 2;
  if (seconds < 20) return 'done in a moment';
  if (seconds < 300) return `done in about ${format.clock(10 * Math.round(seconds / 10))}`;
  return `done about ${format.time(Date.now() / 1000 + seconds, false)}`;
}

// The best and the worst case, if they differ by five seconds or more.
function range(estimate) {
  if (!estimate || estimate.high_seconds < 20) return null;
  const ends = [estimate.low_seconds, estimate.high_seconds];
  const [low, high] = ends.map(seconds => format.span(seconds < 600 ? seconds : 60 * Math.round(seconds / 60)));
  return low === high || ends[1] - ends[0] < 5 ? `${high} left` : `${low} to ${high} left`;
}

function workersUp(job) {
  if (isOver(job)) return plural(job.workers_expected, 'worker');
  const expected = job.workers_expected ? ` of ${job.workers_expected}` : '';
  return `${job.workers_up}${expected} workers are up`;
}

function rejectWords(job) {
  const { rows } = job;
  const most = [...job.reject_reasons].sort((a, b) => b.rows - a.rows)[0];
  const share = `${format.count(rows.rejected)} of ${format.count(rows.written)} rows (${format.share(rows.rejected, rows.written)})`;
  return most ? `${share}; ${job.reject_reasons.length === 1 ? 'as in' : 'mostly as in'} row ${format.count(most.first_row)}: ${most.example}` : share;
}

function drawIdentity(job) {
  const about = job.description ?? {};
  const machines = about.machines?.length ? about.machines : null;
  const named = machines && machines.length <= 4 ? machines.join(', ') : machines && plural(machines.length, 'machine');
  drawFacts(byId('identity'), {
    model: about.model,
    input: about.input,
    output: about.output,
    batches: about.batch_rows ? `${plural(about.batch_rows, 'row')} each` : null,
    workers: about.workers ? `${format.count(about.workers)}${about.threads_per_worker ? `, ${plural(about.threads_per_worker, 'thread')} each` : ''}` : null,
    machines: named,
  });
}

// Drawn only once, so that a selection or the copy button is not replaced.
function drawSummary({ summary }) {
  byId('summary-section').hidden = !summary;
  const place = byId('summary');
  const shown = summary ? `${summary.sha256} ${summary.ended}` : '';
  if (place.dataset.shown === shown || !summary) return;
  place.dataset.shown = shown;
  const good = summary.rows - summary.rejects;
  drawFacts(place, {
    'rows in = rows out + rejects': `${format.count(summary.rows)} = ${format.count(good)} + ${format.count(summary.rejects)} ✓`,
    'size of the results': format.bytes(summary.bytes),
    'first results to last': `${format.span(summary.seconds)}, ${format.rate(summary.rows / Math.max(1e-3, summary.seconds))} rows/s`,
    'SHA-256': [element('code', { title: summary.sha256 }, `${summary.sha256.slice(0, 12)}…`), ' ', copyButton(summary.sha256)],
    'columns': summary.columns.join(', ') || 'none',
  });
}

function copyButton(text) {
  const button = element('button', { type: 'button', 'aria-label': 'Copy the SHA-256' }, 'copy');
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = 'copied';
    } catch {
      // Browsers refuse this to pages of other machines. Then the full text is shown, to be selected.
      button.replaceWith(element('code', {}, text));
    }
  });
  return button;
}

function drawRejects(job) {
  const reasons = [...job.reject_reasons].sort((a, b) => b.rows - a.rows).map(reason => ({ ...reason, all: job.rows.rejected }));
  byId('rejects-section').hidden = reasons.length === 0;
  drawTable(
    byId('rejects'), 'By kind of reason; … stands for the parts that differ. The rows themselves are in results.rejects.csv.',
    REJECT_COLUMNS, reasons, null,
  );
}
