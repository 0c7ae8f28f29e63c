import assert from "node:assert/strict";
import { test } from "node:test";

import { apart, binaryTicksTo, linear, logarithmic, logTicks, nearest, path, runs, ticksTo, timeTicks } from "../../service/page/scales.js";

test("marks go from zero to at least the largest value, by round steps", () => {
  assert.deepEqual(ticksTo(412), [0, 200, 400, 600]);
  assert.deepEqual(ticksTo(0.3), [0, 0.1, 0.2, 0.3]);
  assert.deepEqual(ticksTo(1), [0, 0.5, 1]);
  assert.equal(ticksTo(1e6).at(-1), 1e6);
});

test("marks of nothing are still marks, and what is counted has no halves", () => {
  assert.ok(ticksTo(0).length >= 2);
  assert.deepEqual(ticksTo(2, 4, 1), [0, 1, 2]);
  assert.deepEqual(ticksTo(0, 4, 1), [0, 1]);
});

test("memory has marks at powers of two", () => {
  assert.deepEqual(binaryTicksTo(200 * 2 ** 20), [0, 64, 128, 192, 256].map((mib) => mib * 2 ** 20));
  assert.ok(binaryTicksTo(0).length >= 2);
});

test("a logarithmic axis holds all values between powers of ten", () => {
  assert.deepEqual(logTicks([0.00003, 0.02]), [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]);
  assert.deepEqual(logTicks([0.0012, 0.004]), [1e-3, 2e-3, 5e-3, 1e-2]);
  assert.deepEqual(logTicks([0.001]), [1e-3, 2e-3, 5e-3, 1e-2]);
  assert.ok(logTicks([]).length > 1);
});

test("scales put the ends of a domain at the ends of a range", () => {
  const x = linear([10, 20], [0, 100]);
  assert.deepEqual([10, 15, 20].map(x), [0, 50, 100]);
  const y = logarithmic([1e-4, 1e-2], [100, 0]);
  assert.deepEqual([1e-4, 1e-3, 1e-2].map((value) => Math.round(y(value))), [100, 50, 0]);
  assert.equal(y(0), 100, "zero has no logarithm, and lies at the bottom");
  assert.ok(Number.isFinite(linear([5, 5], [0, 100])(5)), "a domain of one value");
});

test("times have marks at whole minutes where there is room for no more", () => {
  const from_s = 1_767_225_610;
  const ticks = timeTicks(from_s, from_s + 600, 5);
  assert.ok(ticks.length <= 6 && ticks.length >= 4);
  assert.ok(ticks.every((tick) => tick % 120 === 0));
});

test("a line ends where there is nothing and where a time is missing", () => {
  const points = [0, 2, 4, 6, 12, 14].map((time_s) => ({ time_s, value: time_s === 4 ? null : time_s }));
  assert.deepEqual(runs(points, 2).map((run) => run.map(({ time_s }) => time_s)), [[0, 2], [6], [12, 14]]);
  assert.deepEqual(runs([], 2), []);
});

test("one point is a dot, and none is no path", () => {
  assert.equal(path([[1, 2]]), "M1 2h0");
  assert.equal(path([[1, 2], [3.04, 4.06]]), "M1 2L3 4.1");
  assert.equal(path([]), "");
});

test("names that would lie on each other are moved apart and stay within", () => {
  const placed = apart([50, 50, 52, 10], 14, [0, 60]);
  const sorted = [...placed].sort((a, b) => a - b);
  for (let at = 1; at < sorted.length; at += 1) assert.ok((sorted[at] ?? 0) - (sorted[at - 1] ?? 0) >= 14);
  assert.ok(sorted.every((place) => place >= 0 && place <= 60));
  assert.deepEqual(apart([10, 40], 14, [0, 60]), [10, 40], "what has room stays");
});

test("the nearest moment to a pointer is found", () => {
  const points = [{ time_s: 2 }, { time_s: 4 }, { time_s: 8 }];
  assert.equal(nearest(points, 5)?.time_s, 4);
  assert.equal(nearest(points, 99)?.time_s, 8);
  assert.equal(nearest([], 5), undefined);
});
