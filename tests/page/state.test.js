/** A link holds all of a view, and nothing that somebody wrote into one upsets the page. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { EMPTY, LONGEST_LINK, fromHash, toHash } from "../../service/page/state.js";

/** @typedef {import("../../service/page/state.js").State} State */

/** @type {State} */
const FULL = {
  model: "häuser & ships=1",
  version: "3",
  text: "1, 2.5\n-inf, +4 % # ?",
  names: "größer, b&b, 狗",
  labels: [null, 1, null, 0],
  temperature: 0.25,
  smoothing: 0.1,
  weights: "1; 2",
  masked: [0, 7],
};

test("a state survives the way through an address", () => {
  assert.deepEqual(fromHash(toHash(FULL)), FULL);
  assert.deepEqual(fromHash(toHash(EMPTY)), EMPTY);
});

test("and the way through a browser's location, too", () => {
  const { hash } = new URL(toHash(FULL), "http://127.0.0.1:8000/");
  assert.deepEqual(fromHash(hash), FULL);
});

test("only what was said is written", () => {
  assert.equal(toHash(EMPTY), "#/?");
  assert.equal(toHash({ ...EMPTY, text: "1 2" }), "#/?text=1+2");
  assert.equal(toHash({ ...EMPTY, labels: [null, null], temperature: 1 }), "#/?temperature=1");
  assert.equal(toHash({ ...EMPTY, labels: [2, null] }), "#/?labels=2%2C");
});

test("a small view is well within the longest link", () => {
  assert.ok(toHash(FULL).length < LONGEST_LINK);
});

test("an address of another view holds no state", () => {
  for (const hash of ["", "#", "#/", "#/live", "#/live?text=1", "text=1"]) assert.equal(fromHash(hash), null, hash);
});

/** @param {string} said */
const read = (said) => fromHash(`#/?${said}`);

test("nonsense is as if it were not there", () => {
  const nonsense = [
    "temperature=hot", "temperature=0", "temperature=-1", "temperature=Infinity", "temperature=1e999", "temperature=NaN", "temperature=",
    "smoothing=2", "smoothing=-0.1", "smoothing=much", "smoothing=",
    "masked=a,-1,1.5,,0x1", "labels=", "masked=99999999999999999999",
    "colour=red", "__proto__=1", "&&&==",
  ];
  for (const said of nonsense) assert.deepEqual(read(said), EMPTY, said);
});

test("one bad entry costs no other", () => {
  assert.deepEqual(read("labels=1,x,-2,3e2,4,1.5")?.labels, [1, null, null, null, 4, null]);
  assert.deepEqual(read("masked=2,x,5")?.masked, [2, 5]);
  assert.deepEqual(read("temperature=no&text=1&smoothing=0.5"), { ...EMPTY, text: "1", smoothing: 0.5 });
});

test("a label or a class is a number that JSON and arrays can hold", () => {
  assert.deepEqual(read(`labels=1,${"9".repeat(400)}`)?.labels, [1, null]);
  assert.deepEqual(read(`masked=${"9".repeat(400)},3`)?.masked, [3]);
});

test("broken escapes are text", () => {
  assert.equal(read("text=%E0%A4%A")?.text, "\u{FFFD}%A");
  assert.equal(read("text=100%")?.text, "100%");
});

test("smoothing may be all, and no state shares its lists with the empty one", () => {
  assert.equal(read("smoothing=1")?.smoothing, 1);
  assert.notEqual(read("")?.labels, EMPTY.labels);
});
