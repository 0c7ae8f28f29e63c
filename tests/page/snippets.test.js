/** Code that people copy: each piece is really run, with something that keeps what it is given in its client's place. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

import { requestOf } from "../../service/page/request.js";
import { readRows } from "../../service/page/rows.js";
import { SNIPPETS } from "../../service/page/snippets.js";
import { EMPTY } from "../../service/page/state.js";

/** @typedef {import("../../service/page/state.js").State} State */

const HEAD = { model: "digits", version: "2" };
const MASKED_HEAD = { ...HEAD, text: "0.5 1", masked: [1, 4] };
const LOSS = { text: "1 -inf 3\n4 5 6", labels: [0, null], smoothing: 0.1, weights: "1 2 0.5", temperature: 2, names: `it's, say "x", back\\slash` };

/**
 * @param {string} kind
 * @param {Partial<State>} said
 * @param {{origin?: string, numClasses?: number}} [where]
 */
function written(kind, said, { origin = "http://127.0.0.1:8000", numClasses = 3 } = {}) {
  const state = { ...EMPTY, text: "1 2 3", ...said };
  const request = requestOf(state, readRows(state.text), numClasses);
  const { [kind]: write } = SNIPPETS;
  assert.ok(write);
  return { request, code: write(request, { origin, model: state.model, version: state.version }) };
}

/** What bash gives to curl. @param {string} code */
function argumentsOf(code) {
  const told = execFileSync("bash", ["-c", `curl() { printf '%s\\0' "$@"; }\n${code}`], { encoding: "utf-8" });
  return told.split("\0").slice(0, -1);
}

/** Stands in for numpy, our client and Triton's: it keeps all that is asked of it. */
const RECORDER = `
import ast, json, sys, types
code, told = sys.stdin.read(), {}
ast.parse(code)
class Answer:
    def __getattr__(self, name): return None
    def as_numpy(self, name): told.setdefault("shown", []).append(name)
class Client:
    def __init__(self, url, **options): told.update(url=url, **options)
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def __getattr__(self, operation):
        def call(tensor, **options):
            told.update(operation=operation, tensor=tensor, options=options)
            return Answer()
        return call
class Triton(Client):
    def infer(self, model, inputs, outputs, **options):
        told.update(model=model, inputs=[[i.name, i.type, i.array.type, i.array.value] for i in inputs], outputs=outputs, options=options)
        return Answer()
class Array:
    def __init__(self, value, type): self.value, self.type, self.shape = value, type, []
class Input:
    def __init__(self, name, shape, type): self.name, self.type = name, type
    def set_data_from_numpy(self, array): self.array = array
def module(name, **members):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(members)
    return sys.modules[name]
module("numpy", array=Array, float64="float64", float32="float32", int64="int64")
module("service"); module("service.client", Client=Client)
module("tritonclient", http=module("tritonclient.http", InferenceServerClient=Triton, InferInput=Input, InferRequestedOutput=str))
out, sys.stdout = sys.stdout, sys.stderr
exec(code, {})
def plain(value):
    if isinstance(value, float) and value - value != 0: return str(value)
    if isinstance(value, dict): return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value
json.dump(plain(told), out)
`;

/** What Python code asks of its client. @param {string} code */
function toldBy(code) {
  return JSON.parse(execFileSync("python3", ["-W", "error", "-c", RECORDER], { input: code, encoding: "utf-8", stdio: ["pipe", "pipe", "pipe"] }));
}

test("each client has its code", () => {
  assert.deepEqual(Object.keys(SNIPPETS), ["curl", "Python", "tritonclient"]);
});

test("bash gives curl the request, whatever is in it", () => {
  const names = "it's, '', $(echo no), `echo no`, $HOME, a\\, !!, \"q\", 狗, *";
  for (const said of [{}, LOSS, MASKED_HEAD, { names }, { text: "[1, 'two', \"$HOME\n" }]) {
    const { code, request } = written("curl", said);
    assert.deepEqual(argumentsOf(code), ["-s", `http://127.0.0.1:8000/${request.path}`, "-H", "Content-Type: application/json", "-d", request.text]);
  }
});

test("an address is one word to bash, whatever is in it", () => {
  const { code } = written("curl", { model: "it's (new)*", version: "1" }, { origin: "https://example.org/a&b;c" });
  assert.equal(argumentsOf(code)[1], "https://example.org/a&b;c/models/it's%20(new)*/versions/1/predict");
});

test("Python asks our client for a softmax", () => {
  const { code, request } = written("Python", { text: "1 -inf 3", temperature: 0.5 });
  const { logits, ...options } = request.body;
  assert.deepEqual(logits, [[1, "-Infinity", 3]]);
  assert.deepEqual(toldBy(code), { url: "http://127.0.0.1:8000", operation: "softmax", tensor: [[1, "-inf", 3]], options });
});

test("Python asks our client for a loss, with quotes and backslashes in names", () => {
  const { code, request } = written("Python", LOSS);
  const told = toldBy(code);
  assert.equal(told.operation, "loss");
  assert.deepEqual({ logits: request.body.logits, ...told.options }, request.body);
  assert.deepEqual(told.options.class_names, ["it's", 'say "x"', "back\\slash"]);
  assert.match(code, /print\(answer\.losses\)$/);
});

test("Python asks our client for a head's version and its rules", () => {
  const { code, request } = written("Python", MASKED_HEAD);
  const { features, ...options } = request.body;
  assert.deepEqual(toldBy(code), { url: "http://127.0.0.1:8000", operation: "predict", tensor: features, options: { ...HEAD, ...options } });
  assert.ok(!code.includes("losses"));
});

test("what JSON says as text is a float in Python", () => {
  const { tensor } = toldBy(written("Python", { text: '["-Infinity", "Infinity", "NaN"]' }).code);
  assert.deepEqual(tensor, [["-inf", "inf", "nan"]]);
  const [[, , , value]] = toldBy(written("tritonclient", { text: "-inf 1" }).code).inputs;
  assert.deepEqual(value, [["-inf", 1]]);
});

test("a class may be named as no number is", () => {
  for (const kind of ["Python", "tritonclient"]) {
    const { options } = toldBy(written(kind, { names: "NaN, Infinity, -Infinity" }).code);
    assert.deepEqual((options.parameters ?? options).class_names, ["NaN", "Infinity", "-Infinity"]);
  }
});

test("values of JSON that Python has other words for are those", () => {
  const { tensor } = toldBy(written("Python", { text: "[[null, true, false]]" }).code);
  assert.deepEqual(tensor, [[null, true, false]]);
});

test("Triton's client sends tensors, each with its type, and the rest as parameters", () => {
  const { code, request } = written("tritonclient", LOSS);
  const told = toldBy(code);
  assert.equal(told.model, "loss");
  assert.deepEqual(told.inputs, [
    ["logits", "FP64", "float64", [[1, "-inf", 3], [4, 5, 6]]],
    ["labels", "INT64", "int64", [0, -100]],
    ["class_weight", "FP64", "float64", [1, 2, 0.5]],
  ]);
  assert.deepEqual(told.outputs, request.body.outputs);
  assert.deepEqual(told.options, {
    parameters: { ignore_index: -100, label_smoothing: 0.1, non_finite: "string", temperature: 2, class_names: ["it's", 'say "x"', "back\\slash"] },
  });
  assert.deepEqual(told.shown, ["probabilities", "losses"]);
});

test("Triton's client asks for a head's version, and says its rules", () => {
  const told = toldBy(written("tritonclient", MASKED_HEAD, { numClasses: 100 }).code);
  assert.equal(told.model, "digits");
  assert.deepEqual(told.inputs, [["features", "FP32", "float32", [[0.5, 1]]]]);
  assert.equal(told.options.model_version, "2");
  assert.deepEqual(told.options.parameters, { top_k: 12, decision: { mask: [1, 4] } });
  assert.deepEqual(told.shown, ["adjusted_probabilities"]);
});

test("without options there are no parameters", () => {
  assert.deepEqual(toldBy(written("tritonclient", {}).code).options, {});
});

test("Triton's client has the host, its port, a path before it and TLS", () => {
  const connected = (/** @type {string} */ origin) => {
    const { url, ssl } = toldBy(written("tritonclient", {}, { origin }).code);
    return [url, ssl];
  };
  assert.deepEqual(connected("http://127.0.0.1:8000"), ["127.0.0.1:8000", undefined]);
  assert.deepEqual(connected("https://example.org"), ["example.org", true]);
  assert.deepEqual(connected("http://[::1]:81/behind/a/proxy"), ["[::1]:81/behind/a/proxy", undefined]);
});

test("a name of a head is text in Python, whatever is in it", () => {
  const said = { model: `x"); import os; ("\\`, version: '1"' };
  assert.equal(toldBy(written("Python", said).code).options.model, said.model);
  const told = toldBy(written("tritonclient", said).code);
  assert.deepEqual([told.model, told.options.model_version], [said.model, said.version]);
});
