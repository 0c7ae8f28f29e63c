/** What people type and paste, as rows; what is no number reaches the service as it was written. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { labelsOf, readList, readRows, writeRows } from "../../service/page/rows.js";

/**
 * @param {string} text
 * @param {import("../../service/page/rows.js").Cell[][]} rows
 */
function reads(text, rows) {
  assert.deepEqual(readRows(text), { rows }, JSON.stringify(text));
}

test("nothing is no row", () => {
  for (const text of ["", " ", "\n\t\r\n "]) reads(text, []);
});

test("commas, semicolons, tabs and spaces separate, however they are set", () => {
  const all = ["1,2,3", "1, 2, 3", "1 ,2 ,3", "1;2;3", "1 ; 2;3", "1\t2\t3", "1 2 3", "  1   2  3  ", "1, 2 3", "1,2,3,", "1; 2; 3;", "1,\t2,\t3", "1\u00a02\u00a03"];
  for (const text of all) reads(text, [[1, 2, 3]]);
});

test("each line is a row, blank lines are none", () => {
  reads("1 2\n3 4", [[1, 2], [3, 4]]);
  reads("\r\n1,2\r\n\r\n3,4\r\n", [[1, 2], [3, 4]]);
  reads("\ufeff1,2\n3", [[1, 2], [3]]);
});

test("an empty column stays, so that no number moves to another class", () => {
  reads("1,,3", [[1, "", 3]]);
  reads(",2", [["", 2]]);
  reads("1;;3\n4;5;6", [[1, "", 3], [4, 5, 6]]);
  reads("1\t\t3", [[1, "", 3]]);
});

test("numbers are read as people and programs write them", () => {
  reads("+1 -2 .5 1. 1e3 1E-2 −3 −1.5e−5", [[1, -2, 0.5, 1, 1000, 0.01, -3, -1.5e-5]]);
  reads('"1.5","-2"', [[1.5, -2]]);
  reads('"1.5" "-2"', [[1.5, -2]]);
});

test("minus infinity has many spellings, and one that JSON can say", () => {
  for (const text of ["-inf", "-Inf", "-INF", "-infinity", "-Infinity", "−inf", "−Infinity", "-∞", "−∞"]) {
    reads(`0 ${text}`, [[0, "-Infinity"]]);
    assert.deepEqual(readRows(`${text}\n1`).rows, [["-Infinity"], [1]], text);
  }
});

test("what is no finite number is left for the service to name", () => {
  for (const text of ["x", "nan", "NaN", "inf", "Infinity", "+inf", "1e999", "1.2.3", "1_000", "--1", "5%", "null", "true", "1/2"]) {
    reads(`0 ${text} 1`, [[0, text, 1]]);
  }
});

test("a first line of words names the classes", () => {
  assert.deepEqual(readRows("cat,dog\n1,2"), { rows: [[1, 2]], names: ["cat", "dog"] });
  assert.deepEqual(readRows('"cat";"dog"\n1;2\n3;4'), { rows: [[1, 2], [3, 4]], names: ["cat", "dog"] });
  for (const header of ["cat dog", '"cat" "dog"', '"cat"\t"dog"']) assert.deepEqual(readRows(`${header}\n1 2`), { rows: [[1, 2]], names: ["cat", "dog"] });
  assert.deepEqual(readRows("big cat,class 1,\n1,2"), { rows: [[1, 2]], names: ["big cat", "class 1"] });
});

test("a line with a number, a lone line, and a line of infinities or NaN are rows", () => {
  reads("cat,1\n1,2", [["cat", 1], [1, 2]]);
  reads("cat,dog", [["cat", "dog"]]);
  reads("1,2\ncat,dog", [[1, 2], ["cat", "dog"]]);
  reads("nan,NaN\n1,2", [["nan", "NaN"], [1, 2]]);
  reads("inf,-inf\n1,2", [["inf", "-Infinity"], [1, 2]]);
  reads('"1","2"\n"3","4"', [[1, 2], [3, 4]]);
});

test("JSON of any nesting has its rows on the last axis", () => {
  reads("[1, 2]", [[1, 2]]);
  reads("[[1, 2], [3, 4]]", [[1, 2], [3, 4]]);
  reads("[[[1, 2]], [[3, 4]]]", [[1, 2], [3, 4]]);
  reads("[[[[5]]]]", [[5]]);
  reads('[[1, "-Infinity"]]', [[1, "-Infinity"]]);
  reads("[]", [[]]);
});

test("cells of JSON are left as they are, ragged rows too", () => {
  reads('[[1, null, "x"], [true]]', [[1, null, "x"], /** @type {any} */ ([true])]);
  reads("[[1, 2], 3]", [[1, 2], [3]]);
});

test("requests are rows with what they say", () => {
  for (const field of ["logits", "features", "inputs", "instances"]) reads(`{"${field}": [[1, 2]]}`, [[1, 2]]);
  assert.deepEqual(readRows('{"logits": [[1, 2], [3, 4]], "labels": [1, 0], "class_names": ["a", 7], "temperature": 2}'), {
    rows: [[1, 2], [3, 4]],
    labels: [1, 0],
    names: ["a", "7"],
  });
  assert.deepEqual(readRows('{"logits": [1, 2], "labels": 1}'), { rows: [[1, 2]], labels: [1] });
});

test("labels come by index, of any nesting, or one-hot", () => {
  const labels = (/** @type {string} */ said) => readRows(`{"logits": [[0, 0, 0], [1, 1, 1]], ${said}}`).labels;
  assert.deepEqual(labels('"labels": [1, 2]'), [1, 2]);
  assert.deepEqual(labels('"labels": [[1], [2]]'), [1, 2]);
  assert.deepEqual(labels('"labels": [[0, 1, 0], [0, 0, 1]]'), [1, 2]);
  assert.deepEqual(labels('"labels": [1, -100], "ignore_index": -100'), [1, null]);
  assert.deepEqual(labels('"labels": [1, -100]'), [1, -100]);
});

test("labels that say no one class are left out", () => {
  const rows = [[0, 0], [1, 1]];
  for (const said of [undefined, null, [], [1], [1, 2, 3], [0.5, 1], ["a", "b"], [[0.5, 0.5], [0, 1]], [[1, 1], [0, 1]], [[0, 0], [0, 1]], [[0, 2], [0, 1]]]) {
    assert.equal(labelsOf(said, rows), undefined, JSON.stringify(said));
  }
  assert.deepEqual(labelsOf([], []), []);
});

test("what means to be JSON and is none of rows goes as it is", () => {
  for (const text of ["[1, 2", "[1, NaN]", "[[1 2]]", '{"logits": [1', "{}", '{"logits": 3}', '{"labels": [1]}', '{"logits": {"a": 1}}']) {
    assert.deepEqual(readRows(` ${text}\n`), { rows: [], raw: text });
  }
});

test("nesting beyond all measure is the service's to refuse", () => {
  const text = `${"[".repeat(200_000)}1${"]".repeat(200_000)}`;
  assert.deepEqual(readRows(text), { rows: [], raw: text });
});

test("rows that are written read the same", () => {
  assert.equal(writeRows([[1, 2], ["-Infinity", 3]]), "1, 2\n-Infinity, 3");
  const rows = [[1, -2.5, 1e-30], ["-Infinity", "", "x"], ["NaN", 4, 5]];
  assert.deepEqual(readRows(writeRows(rows)).rows, rows);
});

test("a null is written, so that neither its row nor what follows moves", () => {
  assert.deepEqual(readRows(writeRows([[1, null, 2]])).rows, [[1, "null", 2]]);
  assert.deepEqual(readRows(writeRows([[1], [null], [2]])).rows, [[1], ["null"], [2]]);
});

test("a list is read at any separator", () => {
  assert.deepEqual(readList("1, 2;3\n4\t-inf,,x"), [1, 2, 3, 4, "-Infinity", "x"]);
  assert.deepEqual(readList(" ,; "), []);
});

test("a long line of blanks takes no time", () => {
  const started = performance.now();
  reads(`1${" ".repeat(200_000)}2${"\t ".repeat(100_000).trimEnd()}`, [[1, 2]]);
  assert.ok(performance.now() - started < 5000);
});
