/** Numbers as people read them, at the edges where a digit would mislead. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { brief, bytes, count, fixed, number, probability, seconds, share } from "../../service/page/format.js";

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
    [-0, "0"],
    [0.001, "0.001000"],
    [0.00099999, "1.000e−3"],
    [999999.9, "1000000"],
    [99999, "99999"],
    [5e-324, "4.941e−324"],
    [1.7976931348623157e308, "1.798e308"],
  ]);
  assert.equal(number(2 / 3, 2), "0.67");
});

test("what is not there is a dash, and what JSON cannot say is an infinity", () => {
  for (const write of [number, probability, fixed, share, count, seconds, bytes]) {
    assert.equal(write(null), "–");
    assert.equal(write(undefined), "–");
    assert.equal(write("Infinity"), "∞");
    assert.equal(write("-Infinity"), "−∞");
    assert.equal(write("NaN"), "NaN");
  }
  for (const write of [number, fixed]) {
    assert.equal(write(Infinity), "∞");
    assert.equal(write(-Infinity), "−∞");
    assert.equal(write(NaN), "NaN");
  }
});

test("a probability that is neither 0 nor 1 never looks as if it were", () => {
  writes(probability, [
    [0, "0"],
    [1, "1"],
    [0.5, "0.5000"],
    [0.99999999, "> 0.9999"],
    [1e-9, "1.0e−9"],
    [-0, "0"],
    [1 - 2 ** -53, "> 0.9999"],
    [0.99995, "> 0.9999"],
    [0.9999, "0.9999"],
    [0.00005, "0.0001"],
    [0.0000499, "5.0e−5"],
    [5e-324, "4.9e−324"],
  ]);
  for (let exponent = 1; exponent < 1074; exponent += 1) {
    for (const value of [2 ** -exponent, 1 - 2 ** -Math.min(exponent, 53)]) {
      assert.ok(!["0", "1"].includes(probability(value)) && !/^[01]\.0+$/.test(probability(value)), String(value));
    }
  }
});

test("a column has its places, but no small number becomes 0", () => {
  writes((/** @type {number} */ value) => fixed(value), [
    [-2, "−2.0000"],
    [0, "0.0000"],
    [0.00001, "1.0e−5"],
    [123456.7, "1.235e5"],
    [-0, "0.0000"],
    [-0.00001, "−1.0e−5"],
    [0.00005, "0.0001"],
    [-99999.5, "−99999.5000"],
    [-1e5, "−1.000e5"],
    [5e-324, "4.9e−324"],
  ]);
  assert.equal(fixed(-0.004, 2), "−4.0e−3");
  assert.equal(fixed(-0.006, 2), "−0.01");
});

test("a share is in percent, and neither none nor all unless it is", () => {
  writes(share, [
    [0, "0 %"],
    [1, "100 %"],
    [0.123, "12.3 %"],
    [0.0001, "< 0.1 %"],
    [0.99999, "> 99.9 %"],
    [-0, "0 %"],
    [0.001, "0.1 %"],
    [0.0009999, "< 0.1 %"],
    [5e-324, "< 0.1 %"],
    [0.9994, "99.9 %"],
    [0.9996, "> 99.9 %"],
    [1 - 2 ** -53, "> 99.9 %"],
    [0.29, "29.0 %"],
    [1.5, "150.0 %"],
  ]);
});

test("counts have their separators", () => {
  writes(count, [
    [12345, "12,345"],
    [0, "0"],
    [999.5, "1,000"],
    [-1234567, "−1,234,567"],
  ]);
});

test("three digits are brief, and thousands are counted", () => {
  writes(brief, [
    [0, "0"],
    [2.5, "2.5"],
    [1 / 3, "0.333"],
    [-0.25, "−0.25"],
    [999.4, "999"],
    [999.6, "1,000"],
    [-12345.6, "−12,346"],
    [1e-7, "1e−7"],
  ]);
});

test("times have the unit that says them shortest", () => {
  writes(seconds, [
    [0, "0 ms"],
    [1e-9, "0.001 µs"],
    [0.0000125, "12.5 µs"],
    [0.000999, "999 µs"],
    [0.0009999, "1 ms"],
    [0.001, "1 ms"],
    [0.00125, "1.25 ms"],
    [0.9994, "999 ms"],
    [0.9996, "1 s"],
    [2, "2 s"],
    [119.4, "119 s"],
    [119.9, "2 min"],
    [120, "2 min"],
    [300, "5 min"],
    [86400, "1,440 min"],
  ]);
});

test("sizes have the unit that says them shortest", () => {
  writes(bytes, [
    [0, "0 B"],
    [512, "512 B"],
    [1023, "1,023 B"],
    [1024, "1 KiB"],
    [1536, "1.5 KiB"],
    [2 ** 20 - 1, "1 MiB"],
    [2 ** 20, "1 MiB"],
    [126 * 2 ** 20, "126 MiB"],
    [1023.4 * 2 ** 20, "1,023 MiB"],
    [2 ** 40, "1 TiB"],
    [2 ** 52, "4,096 TiB"],
    [1234.5678, "1.21 KiB"],
    [12.3456, "12.3 B"],
  ]);
});
