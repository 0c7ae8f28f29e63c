/** The worked example: what is given stands in the page, all that follows from it is asked of the service. */

import { Refused, Unreachable, send } from "./api.js";
import { element, replace } from "./dom.js";
import { number, probability } from "./format.js";
import { bar } from "./bars.js";

/** The field's own example: two rows of logits, and their labels as one-hot rows. */
export const EXAMPLE = {
  logits: [
    [0.5, 1.5, 0.1],
    [2.2, 1.3, 1.7],
  ],
  labels: [
    [0, 1, 0],
    [0, 0, 1],
  ],
};
const OUTPUTS = ["probabilities", "classes", "losses", "loss"];

/**
 * @param {HTMLElement} place
 * @param {HTMLElement} error
 */
export function workedExample(place, error) {
  const show = async () => {
    try {
      const { body } = await send("loss", { ...EXAMPLE, outputs: OUTPUTS });
      for (const output of place.querySelectorAll("[data-at]")) fillOutput(output, body);
      for (const cell of place.querySelectorAll("[data-bar]")) fillBar(cell, body);
      error.hidden = true;
    } catch (problem) {
      if (!(problem instanceof Refused || problem instanceof Unreachable)) throw problem;
      error.hidden = false;
      replace(error, problem.message);
    }
  };
  return { show };
}

/**
 * @param {Element} output
 * @param {unknown} answer
 */
function fillOutput(output, answer) {
  const path = output.getAttribute("data-at") ?? "";
  const value = at(answer, path);
  output.textContent = path.startsWith("classes") ? String(value) : number(value);
}

/**
 * @param {Element} cell
 * @param {unknown} answer
 */
function fillBar(cell, answer) {
  const value = at(answer, cell.getAttribute("data-bar") ?? "");
  replace(cell, bar(value), element("span", {}, probability(value)));
}

/**
 * Follow a path such as `losses.0` into an answer.
 * @param {any} answer
 * @param {string} path
 * @returns {number}
 */
function at(answer, path) {
  return path.split(".").reduce((found, step) => found[step], answer);
}
