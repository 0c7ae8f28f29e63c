/** Makes the request that answers a state: what is sent is what the page shows as code, and nothing else is computed. */

import { readList } from "./rows.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./rows.js").Rows} Rows */
/** @typedef {"softmax" | "loss" | "predict"} Operation */

/**
 * @typedef {object} Request
 * @property {Operation} operation
 * @property {string} path
 * @property {Record<string, unknown>} body
 * @property {string} text the body as it is sent
 */

/** With more classes than this only the most probable ones are drawn. */
export const MANY_CLASSES = 30;
export const BEST_CLASSES = 12;
/** What stands for a row without a label among rows with one: users of PyTorch know it. */
export const NO_LABEL = -100;

const ALWAYS = ["probabilities", "log_probabilities", "classes", "entropy"];
const WITH_LABELS = ["loss", "losses", "count", "gradient", "accuracy"];

/**
 * @param {State} state
 * @param {Rows} read
 * @param {number} numClasses
 * @returns {Request}
 */
export function requestOf(state, read, numClasses) {
  const operation = state.model ? "predict" : labelled(state) ? "loss" : "softmax";
  const tensor = state.model ? "features" : "logits";
  const rows = state.model ? read.rows : masked(read.rows, state.masked);
  const options = {
    ...(operation === "softmax" ? {} : labelsOf(state)),
    ...optionsOf(state, numClasses),
    outputs: outputsOf(state, numClasses),
  };
  const body = { [tensor]: rows, ...options };
  const text = JSON.stringify(body);
  const raw = read.raw;
  return {
    operation,
    path: state.model ? pathOf(state) : operation,
    body,
    text: raw === undefined ? text : `{"${tensor}":${raw},${JSON.stringify(options).slice(1)}`,
  };
}

/** @param {State} state */
export function labelled(state) {
  return state.labels.some((label) => label !== null);
}

/** @param {State} state */
function pathOf({ model, version }) {
  return `models/${encodeURIComponent(model)}/versions/${encodeURIComponent(version)}/predict`;
}

/**
 * A masked logit is minus infinity; a head's classes are masked by the rules of its decisions instead.
 * @param {import("./rows.js").Cell[][]} rows
 * @param {number[]} places
 */
function masked(rows, places) {
  return places.length ? rows.map((row) => row.map((cell, place) => (places.includes(place) ? "-Infinity" : cell))) : rows;
}

/** @param {State} state */
function labelsOf(state) {
  if (!labelled(state)) return {};
  const weights = readList(state.weights);
  return {
    labels: state.labels.map((label) => label ?? NO_LABEL),
    ...(state.labels.includes(null) ? { ignore_index: NO_LABEL } : {}),
    ...(state.smoothing ? { label_smoothing: state.smoothing } : {}),
    ...(weights.length ? { class_weight: weights } : {}),
    non_finite: "string",
  };
}

/**
 * @param {State} state
 * @param {number} numClasses
 */
function optionsOf(state, numClasses) {
  const names = state.names.split(",").map((name) => name.trim()).filter(Boolean);
  return {
    ...(state.temperature === null ? {} : { temperature: state.temperature }),
    ...(!state.model && names.length ? { class_names: completed(names, numClasses) } : {}),
    ...(numClasses > MANY_CLASSES ? { top_k: BEST_CLASSES } : {}),
    ...(state.model && state.masked.length ? { decision: { mask: state.masked } } : {}),
  };
}

/**
 * While names are typed some are missing: those classes have their numbers.
 * @param {string[]} names
 * @param {number} numClasses
 */
function completed(names, numClasses) {
  return Array.from({ length: Math.max(names.length, numClasses) }, (_, place) => names[place] ?? String(place));
}

/**
 * @param {State} state
 * @param {number} numClasses
 */
function outputsOf(state, numClasses) {
  return [
    ...ALWAYS,
    ...(state.model ? ["logits"] : []),
    ...(state.model && state.masked.length ? ["adjusted_probabilities", "decisions"] : []),
    ...(numClasses > MANY_CLASSES ? ["top_classes"] : []),
    ...(labelled(state) ? WITH_LABELS : []),
  ];
}
