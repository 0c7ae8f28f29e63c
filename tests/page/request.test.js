/** What is asked for a state: the operation, its options, and only the outputs that will be shown. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { BEST_CLASSES, MANY_CLASSES, NO_LABEL, labelled, requestOf } from "../../service/page/request.js";
import { readRows } from "../../service/page/rows.js";
import { EMPTY } from "../../service/page/state.js";

const HEAD = { model: "digits", version: "2" };

/**
 * @param {Partial<import("../../service/page/state.js").State>} state
 * @param {number} [numClasses]
 */
function asked(state, numClasses = 3) {
  const text = state.text ?? "1 2 3\n4 5 6";
  return requestOf({ ...EMPTY, text, ...state }, readRows(text), numClasses);
}

test("logits alone are a softmax", () => {
  const { operation, path, body } = asked({});
  assert.deepEqual([operation, path], ["softmax", "softmax"]);
  assert.deepEqual(body, {
    logits: [[1, 2, 3], [4, 5, 6]],
    outputs: ["probabilities", "log_probabilities", "classes", "entropy"],
  });
});

test("logits with a label are a loss", () => {
  const { operation, path, body } = asked({ labels: [2, 0] });
  assert.deepEqual([operation, path], ["loss", "loss"]);
  assert.deepEqual(body.labels, [2, 0]);
  assert.equal(body.non_finite, "string");
  assert.ok(!("ignore_index" in body));
  for (const output of ["loss", "losses", "count", "gradient", "accuracy"]) assert.ok(/** @type {string[]} */ (body.outputs).includes(output), output);
});

test("a head is asked for its prediction, at its own address, with labels or without", () => {
  for (const labels of [[], [1, 0]]) {
    const { operation, path, body } = asked({ ...HEAD, labels });
    assert.deepEqual([operation, path], ["predict", "models/digits/versions/2/predict"]);
    assert.deepEqual(body.features, [[1, 2, 3], [4, 5, 6]]);
    assert.ok(!("logits" in body));
    assert.deepEqual(body.labels, labels.length ? labels : undefined);
    assert.equal(/** @type {string[]} */ (body.outputs).includes("gradient"), labels.length > 0);
    assert.ok(/** @type {string[]} */ (body.outputs).includes("logits"));
  }
});

test("an odd name of a head stays within its part of the path", () => {
  assert.equal(asked({ model: "a/b?c#d é", version: "1" }).path, "models/a%2Fb%3Fc%23d%20%C3%A9/versions/1/predict");
});

test("rows without a label among rows with one are ignored", () => {
  const { body } = asked({ labels: [null, 1] });
  assert.deepEqual(body.labels, [NO_LABEL, 1]);
  assert.equal(body.ignore_index, NO_LABEL);
  assert.equal(labelled({ ...EMPTY, labels: [null, 0] }), true);
  assert.equal(labelled({ ...EMPTY, labels: [null] }), false);
});

test("no label at all is no loss", () => {
  const { operation, body } = asked({ labels: [null, null], smoothing: 0.1, weights: "1 2 3" });
  assert.equal(operation, "softmax");
  for (const option of ["labels", "ignore_index", "label_smoothing", "class_weight", "non_finite"]) assert.ok(!(option in body), option);
});

test("smoothing and weights go with labels", () => {
  const { body } = asked({ labels: [0, 1], smoothing: 0.1, weights: "1, 2; 0.5" });
  assert.equal(body.label_smoothing, 0.1);
  assert.deepEqual(body.class_weight, [1, 2, 0.5]);
  assert.deepEqual(asked({ labels: [0, 1], weights: "1 x" }).body.class_weight, [1, "x"]);
  const none = asked({ labels: [0, 1], weights: " , " }).body;
  assert.ok(!("class_weight" in none || "label_smoothing" in none));
});

test("temperature is sent where it is set", () => {
  assert.equal(asked({ temperature: 1 }).body.temperature, 1);
  assert.ok(!("temperature" in asked({ ...HEAD }).body));
});

test("names go with bare logits; a head has its own", () => {
  assert.deepEqual(asked({ names: " cat, big dog ,,eel" }).body.class_names, ["cat", "big dog", "eel"]);
  assert.ok(!("class_names" in asked({ names: " , " }).body));
  assert.ok(!("class_names" in asked({ ...HEAD, names: "cat" }).body));
});

test("a masked logit is minus infinity in every row", () => {
  const { body } = asked({ masked: [0, 2] });
  assert.deepEqual(body.logits, [["-Infinity", 2, "-Infinity"], ["-Infinity", 5, "-Infinity"]]);
  assert.ok(!("decision" in body));
  assert.deepEqual(asked({ masked: [7] }).body.logits, [[1, 2, 3], [4, 5, 6]]);
});

test("a masked class of a head is a rule of its decision", () => {
  const { body } = asked({ ...HEAD, masked: [1] });
  assert.deepEqual(body.features, [[1, 2, 3], [4, 5, 6]]);
  assert.deepEqual(body.decision, { mask: [1] });
  const outputs = /** @type {string[]} */ (body.outputs);
  assert.ok(outputs.includes("adjusted_probabilities") && outputs.includes("decisions"));
  assert.ok(!("decision" in asked(HEAD).body));
});

test("of many classes the best are asked for, too", () => {
  const many = asked({}, MANY_CLASSES + 1).body;
  assert.equal(many.top_k, BEST_CLASSES);
  assert.ok(/** @type {string[]} */ (many.outputs).includes("top_classes"));
  const few = asked({}, MANY_CLASSES).body;
  assert.ok(!("top_k" in few) && !(/** @type {string[]} */ (few.outputs).includes("top_classes")));
});

test("no output is asked for twice, whatever is set", () => {
  const { outputs } = asked({ ...HEAD, labels: [1, null], masked: [0] }, MANY_CLASSES + 1).body;
  assert.equal(new Set(/** @type {string[]} */ (outputs)).size, /** @type {string[]} */ (outputs).length);
});

test("the text is the body", () => {
  const { text, body } = asked({ text: "-inf x 1e-30", labels: [1], temperature: 0.5 });
  assert.deepEqual(JSON.parse(text), body);
  assert.deepEqual(body.logits, [["-Infinity", "x", 1e-30]]);
});

test("broken JSON is sent as it was typed, so that the service says where", () => {
  const broken = "[[1, 2], [3, ]]";
  assert.ok(asked({ text: broken }).text.startsWith(`{"logits":${broken},"outputs":[`));
  assert.ok(asked({ ...HEAD, text: broken }).text.startsWith(`{"features":${broken},`));
  const { text } = asked({ text: '{"a": 1}', labels: [0], temperature: 2 });
  assert.deepEqual(JSON.parse(text), { ...asked({ labels: [0], temperature: 2 }).body, logits: { a: 1 } });
});
