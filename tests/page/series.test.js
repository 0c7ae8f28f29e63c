import assert from "node:assert/strict";
import { test } from "node:test";

import { keyOf, merged, namesIn, nothing, since } from "../../service/page/series.js";

/**
 * What /activity answers of some times.
 * @param {number[]} times_s
 * @param {Record<string, unknown>} [more]
 */
function answerOf(times_s, more = {}) {
  const each = (/** @type {number} */ value) => times_s.map(() => value);
  return {
    kept_s: 600,
    times_s,
    requests_per_s: times_s.map((time_s) => time_s / 10),
    rows_per_s: each(5),
    batch_rows: times_s.map(() => null),
    queue_rows: each(0),
    inflight_requests: each(1),
    workers: each(2),
    memory_bytes: each(1e8),
    statuses_per_s: { 200: each(1) },
    errors_per_s: {},
    duration_s: { p50: each(0.001), p99: times_s.map(() => null) },
    stages_s: { decode: { p50: each(1e-5) } },
    quality: { times_s: [], models: [] },
    ...more,
  };
}

test("an answer is read moment by moment", () => {
  const [first] = merged(nothing(), answerOf([10, 12])).moments;
  assert.equal(first?.requests_per_s, 1);
  assert.equal(first?.batch_rows, null);
  assert.deepEqual(first?.duration_s, { p50: 0.001, p99: null });
  assert.deepEqual(first?.stages_s, { decode: { p50: 1e-5 } });
});

test("answers of several workers merge by time, and fill each other's gaps", () => {
  let told = merged(nothing(), answerOf([10, 12]));
  told = merged(told, answerOf([16, 18]));
  told = merged(told, answerOf([12, 14, 16, 18, 20], { requests_per_s: [9, 9, 9, 9, 9] }));
  assert.deepEqual(told.moments.map(({ time_s }) => time_s), [10, 12, 14, 16, 18, 20]);
  assert.deepEqual(told.moments.map((moment) => moment.requests_per_s), [1, 1.2, 9, 1.6, 1.8, 9]);
});

test("an answer without anything new changes nothing", () => {
  const told = merged(nothing(), answerOf([10]));
  assert.deepEqual(merged(told, answerOf([])), told);
  assert.deepEqual(merged(nothing(), answerOf([])).moments, []);
});

test("what is older than is kept goes", () => {
  const told = merged(merged(nothing(), answerOf([2, 100])), answerOf([650]));
  assert.deepEqual(told.moments.map(({ time_s }) => time_s), [100, 650]);
});

test("a little of what is known is asked for again", () => {
  assert.equal(since(nothing(), 12), 0);
  assert.equal(since(merged(nothing(), answerOf([100, 102])), 12), 90);
});

test("quality has wider steps of its own, version by version", () => {
  const step = (/** @type {string} */ version, /** @type {(number | null)[]} */ log_loss) => ({
    model: "digits", version, rows: [4, 0], log_loss, accuracy: [0.5, null],
  });
  const quality = { times_s: [10, 20], models: [step("1", [0.7, null]), step("2", [0.1, null])] };
  let told = merged(nothing(), answerOf([18, 20], { quality }));
  told = merged(told, answerOf([22], { quality: { times_s: [], models: [] } }));
  assert.deepEqual(told.quality.get(keyOf("digits", "1")), [
    { time_s: 10, rows: 4, log_loss: 0.7, accuracy: 0.5 },
    { time_s: 20, rows: 0, log_loss: null, accuracy: null },
  ]);
  assert.equal(told.quality.size, 2);
});

test("codes come by how often they were answered, whenever they came", () => {
  const { moments } = merged(nothing(), answerOf([10, 12], { errors_per_s: { rare: [0.5, 0], often: [1, 2], never: [0, 0] } }));
  assert.deepEqual(namesIn(moments, (moment) => moment.errors_per_s), ["often", "rare"]);
});
