/** Numbers as people read them, at the edges where a digit would mislead. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { bytes, count, fixed, number, probability, seconds, share } from "../../service/page/format.js";

/**
 * @template T
 * @param {(value: T) => string} write
 * @param {[T, string][]} cases
 */
function writes(write, cases) {
  for (const [value, written] of cases) assert.equal(write(value), written, `${write.name}(${value})`);
}

test("a number has four significant digits and a true minus", () => {
  writes((/** @type {number} */ value) => number(value), [
    [0, "0"],
    [0.22786300252, "0.2279"],
    [-1.5, "−1.500"],
    [123456, "123456"],
    [1234567, "1.235e6"],
    [-0.00001234, "−1.234e−5"],
  ]);
  assert.equal(number(2 / 3, 2), "0.67");
});

test("what is not there is a dash, and what JSON cannot say is an infinity", () => {
  for (const write of [number, probability, fixed, share, count, seconds, bytes]) {
    assert.equal(write(null), "–");
    assert.equal(write(undefined), "–");
    assert.equal(write("Infinity"), "∞");
    assert.equal(write("-Infinity"), "−∞");
  }
});

test("a probability that is neither 0 nor 1 never looks as if it were", () => {
  writes(probability, [
    [0, "0"],
    [1, "1"],
    [0.5, "0.5000"],
    [0.99999999, "> 0.9999"],
    [1e-9, "1.0e−9"],
  ]);
});

test("a column has its places, but no small number becomes 0", () => {
  writes((/** @type {number} */ value) => fixed(value), [
    [-2, "−2.0000"],
    [0, "0.0000"],
    [0.00001, "1.0e−5"],
    [123456.7, "1.235e5"],
  ]);
});

test("a share is in percent, and neither none nor all unless it is", () => {
  writes(share, [
    [0, "0 %"],
    [1, "100 %"],
    [0.123, "12.3 %"],
    [0.0001, "< 0.1 %"],
    [0.99999, "> 99.9 %"],
  ]);
});

test("counts, times and sizes have their separators and units", () => {
  writes(count, [
    [12345, "12,345"],
    [0, "0"],
  ]);
  writes(seconds, [
    [0, "0 ms"],
    [0.0000125, "12.5 µs"],
    [0.00125, "1.25 ms"],
    [2, "2 s"],
    [300, "5 min"],
  ]);
  writes(bytes, [
    [512, "512 B"],
    [1536, "1.5 KiB"],
    [126 * 2 ** 20, "126 MiB"],
  ]);
});
