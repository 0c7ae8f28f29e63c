/** What may be moved: temperature, label smoothing, class weights. Each says what it does and goes back to where it was. */

import { element } from "./dom.js";
import { brief } from "./format.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {(change: Partial<State>) => void} Change */

/** Temperatures from a tenth to ten, as many below 1 as above. */
const DECADES = 1;

export class Controls {
  /** @param {Change} change */
  constructor(change) {
    this.temperature = slider("Temperature", { min: -DECADES, max: DECADES, step: 0.01 }, (at) => change({ temperature: round(10 ** at) }), () => change({ temperature: null }));
    this.smoothing = slider("Label smoothing", { min: 0, max: 1, step: 0.01 }, (at) => change({ smoothing: at }), () => change({ smoothing: 0 }));
    this.weights = element("input", {
      type: "text",
      id: "weights",
      spellcheck: "false",
      autocomplete: "off",
      placeholder: "one number a class: 1, 1, 2",
      oninput: () => change({ weights: this.weights.value }),
    });
    this.hint = element("p", { class: "small quiet-text", id: "needs-label" });
    this.node = element(
      "fieldset",
      { class: "controls" },
      element("legend", {}, "Change what is computed"),
      this.temperature.node,
      this.smoothing.node,
      element("div", { class: "control" }, element("label", { for: "weights" }, "Class weights"), this.weights),
      this.hint,
    );
  }

  /**
   * @param {State} state
   * @param {boolean} labelled
   */
  show(state, labelled) {
    this.temperature.show(Math.log10(state.temperature ?? 1), state.temperature === null ? asItIs(state) : brief(state.temperature), state.temperature !== null);
    this.smoothing.show(state.smoothing, brief(state.smoothing), state.smoothing !== 0);
    if (document.activeElement !== this.weights) this.weights.value = state.weights;
    this.smoothing.input.disabled = this.weights.disabled = !labelled;
    this.hint.hidden = labelled;
    this.hint.textContent = "Smoothing and weights change the loss: choose a label in a row to have one.";
  }
}

/** What holds where nobody has moved the temperature. @param {State} state */
function asItIs(state) {
  return state.model ? "the head’s own" : "1";
}

/**
 * @param {string} title
 * @param {{min: number, max: number, step: number}} range
 * @param {(at: number) => void} moved
 * @param {() => void} reset
 */
function slider(title, range, moved, reset) {
  const id = title.toLowerCase().replaceAll(" ", "-");
  const input = element("input", { type: "range", id, ...range, oninput: () => moved(input.valueAsNumber) });
  const value = element("span", { class: "value" });
  const back = element("button", { type: "button", class: "quiet", onclick: reset, "aria-label": `Reset ${title.toLowerCase()}` }, "Reset");
  const node = element("div", { class: "control" }, element("label", { for: id }, title), value, back, input);
  const show = (/** @type {number} */ at, /** @type {string} */ told, /** @type {boolean} */ changed) => {
    if (input.valueAsNumber !== at) input.value = String(at);
    value.textContent = told;
    input.setAttribute("aria-valuetext", told);
    back.classList.toggle("away", !changed);
    back.disabled = !changed;
  };
  return { node, input, show };
}

/** @param {number} value */
function round(value) {
  return Number(value.toPrecision(3));
}
