/** What /activity has told so far, as one list of moments. Workers agree in their times, so answers merge by them. */

/**
 * What happened in the interval that ended at a time; null where nothing did.
 * @typedef {{
 *   time_s: number,
 *   requests_per_s: number, rows_per_s: number, batch_rows: number | null,
 *   queue_rows: number, inflight_requests: number, workers: number, memory_bytes: number,
 *   statuses_per_s: Record<string, number>, errors_per_s: Record<string, number>,
 *   duration_s: Record<string, number | null>, stages_s: Record<string, Record<string, number | null>>,
 * }} Moment
 */

/**
 * How good a version was in a wider step that ended at a time.
 * @typedef {{time_s: number, rows: number, log_loss: number | null, accuracy: number | null}} Step
 */

/** @typedef {{moments: Moment[], quality: Map<string, Step[]>}} Told */

/** @returns {Told} */
export function nothing() {
  return { moments: [], quality: new Map() };
}

/**
 * Add an answer of /activity to what was told before; what is older than is kept goes.
 * @param {Told} told
 * @param {any} answer
 * @returns {Told}
 */
export function merged(told, answer) {
  const moments = joined(told.moments, momentsOf(answer));
  const newest = moments.at(-1)?.time_s ?? 0;
  const after = newest - answer.kept_s;
  const quality = new Map(told.quality);
  for (const model of answer.quality.models) {
    const key = keyOf(model.model, model.version);
    quality.set(key, joined(quality.get(key) ?? [], stepsOf(answer.quality.times_s, model)));
  }
  for (const [key, steps] of quality) quality.set(key, steps.filter((step) => step.time_s > after));
  return { moments: moments.filter((moment) => moment.time_s > after), quality };
}

/**
 * From when on to ask: a little of what is known is asked for again, since a worker may have lacked some of it.
 * @param {Told} told
 * @param {number} overlap_s
 */
export function since(told, overlap_s) {
  const newest = told.moments.at(-1)?.time_s;
  return newest === undefined ? 0 : newest - overlap_s;
}

/**
 * @param {string} model
 * @param {string} version
 */
export function keyOf(model, version) {
  return `${model}\n${version}`;
}

/**
 * All names that a part has in any moment, the most frequent first.
 * @param {Moment[]} moments
 * @param {(moment: Moment) => Record<string, number>} of
 */
export function namesIn(moments, of) {
  /** @type {Map<string, number>} */
  const sizes = new Map();
  for (const moment of moments) {
    for (const [name, value] of Object.entries(of(moment))) {
      if (value > 0) sizes.set(name, (sizes.get(name) ?? 0) + value);
    }
  }
  return [...sizes.keys()].sort((a, b) => (sizes.get(b) ?? 0) - (sizes.get(a) ?? 0) || a.localeCompare(b));
}

/**
 * @param {any} answer
 * @returns {Moment[]}
 */
function momentsOf(answer) {
  return answer.times_s.map((/** @type {number} */ time_s, /** @type {number} */ at) => ({
    time_s,
    ...pick(answer, FLAT, at),
    statuses_per_s: pick(answer.statuses_per_s, Object.keys(answer.statuses_per_s), at),
    errors_per_s: pick(answer.errors_per_s, Object.keys(answer.errors_per_s), at),
    duration_s: pick(answer.duration_s, Object.keys(answer.duration_s), at),
    stages_s: Object.fromEntries(
      Object.entries(answer.stages_s).map(([stage, found]) => [stage, pick(found, Object.keys(found), at)]),
    ),
  }));
}

const FLAT = ["requests_per_s", "rows_per_s", "batch_rows", "queue_rows", "inflight_requests", "workers", "memory_bytes"];

/**
 * @param {Record<string, any[]>} arrays
 * @param {string[]} names
 * @param {number} at
 */
function pick(arrays, names, at) {
  return Object.fromEntries(names.map((name) => [name, arrays[name]?.[at] ?? null]));
}

/**
 * @param {number[]} times_s
 * @param {{rows: number[], log_loss: (number | null)[], accuracy: (number | null)[]}} model
 * @returns {Step[]}
 */
function stepsOf(times_s, model) {
  return times_s.map((time_s, at) => ({
    time_s,
    rows: model.rows[at] ?? 0,
    log_loss: model.log_loss[at] ?? null,
    accuracy: model.accuracy[at] ?? null,
  }));
}

/**
 * What was known of a time stays; the rest comes in its order.
 * @template {{time_s: number}} Timed
 * @param {Timed[]} known
 * @param {Timed[]} more
 */
function joined(known, more) {
  const times = new Set(known.map((one) => one.time_s));
  const fresh = more.filter((one) => !times.has(one.time_s));
  return fresh.length ? [...known, ...fresh].sort((a, b) => a.time_s - b.time_s) : known;
}
