/** One row of an answer: a bar for each class, and with a label the loss and where it comes from. */

import { bar } from "./bars.js";
import { element, replace } from "./dom.js";
import { fixed, number, probability } from "./format.js";

/**
 * What one row has to say; numbers are the service's own.
 * @typedef {object} Row
 * @property {number} place
 * @property {string[]} names of all classes
 * @property {number[]} shown which classes are drawn, in their order
 * @property {(number | string)[]} logits
 * @property {number[]} probabilities
 * @property {(number | string)[]} logProbabilities
 * @property {(number | string)[] | null} gradient
 * @property {number} predicted
 * @property {number | null} decided where a mask has changed what may be decided on
 * @property {number} entropy
 * @property {number | string | null} loss
 * @property {number | null} label
 * @property {number[]} masked
 * @property {string} reason in words, how the loss comes of the label's bar
 */

/** @typedef {{label(row: number, label: number | null): void, mask(place: number): void}} Handlers */

/** With more classes a label is typed, not picked. */
const MOST_PICKED = 200;

export class Card {
  /**
   * @param {number} place
   * @param {string[]} names
   * @param {Handlers} handlers
   */
  constructor(place, names, handlers) {
    this.handlers = handlers;
    this.verdict = element("p", { class: "verdict" });
    this.picker = picker(place, names, (label) => handlers.label(place, label));
    this.head = element("thead");
    this.body = element("tbody");
    this.sum = element("p", { class: "sum" });
    /** @type {Map<number, Line>} */
    this.lines = new Map();
    this.columns = "";
    this.node = element(
      "article",
      { class: "card row", "aria-label": `Row ${place + 1}` },
      element("header", {}, element("h3", {}, `Row ${place + 1}`), this.verdict, this.picker.node),
      element("table", {}, this.head, this.body),
      this.sum,
    );
  }

  /** @param {Row} row */
  show(row) {
    replace(this.verdict, "predicted ", element("b", {}, row.names[row.predicted] ?? row.predicted), decision(row));
    this.picker.show(row.label);
    this.#head(row);
    for (const [place, line] of this.lines) if (!row.shown.includes(place)) this.#drop(place, line);
    for (const [order, place] of row.shown.entries()) this.#line(row, place, order);
    replace(this.sum, ...summary(row));
  }

  /** @param {Row} row */
  #head(row) {
    const columns = ["Class", "Logit", row.decided === null ? "Probability" : "Probability, masked", "log p", ...(row.gradient ? ["Gradient"] : [])];
    if (columns.join() === this.columns) return;
    this.columns = columns.join();
    const cells = columns.map((title) => element("th", { scope: "col", class: title === "Logit" ? "logit" : null, title: MEANING[title] ?? null }, title));
    replace(this.head, element("tr", {}, cells));
  }

  /**
   * @param {Row} row
   * @param {number} place
   * @param {number} order
   */
  #line(row, place, order) {
    let line = this.lines.get(place);
    if (!line) {
      line = new Line(row.names[place] ?? String(place), () => this.handlers.mask(place));
      this.lines.set(place, line);
    }
    if (this.body.children[order] !== line.node) this.body.insertBefore(line.node, this.body.children[order] ?? null);
    line.show(row, place);
  }

  /**
   * @param {number} place
   * @param {Line} line
   */
  #drop(place, line) {
    line.node.remove();
    this.lines.delete(place);
  }
}

/** @type {Record<string, string>} */
const MEANING = {
  Logit: "As it was sent, or as the head gave it",
  "log p": "Natural logarithm of the probability",
  Gradient: "Of the mean loss by this logit: where training would move it, with the sign turned",
};

/** One class of a row. */
class Line {
  /**
   * @param {string} name
   * @param {() => void} mask
   */
  constructor(name, mask) {
    this.name = name;
    this.button = element("button", { type: "button", class: "class", onclick: mask }, name);
    this.logit = element("td", { class: "logit" });
    this.bar = bar(0);
    this.probability = element("span");
    this.log = element("td");
    this.gradient = element("td");
    this.node = element(
      "tr",
      {},
      element("th", { scope: "row" }, this.button),
      this.logit,
      element("td", { class: "share" }, this.bar, this.probability),
      this.log,
      this.gradient,
    );
  }

  /**
   * @param {Row} row
   * @param {number} place
   */
  show(row, place) {
    const masked = row.masked.includes(place);
    this.button.setAttribute("aria-pressed", String(masked));
    this.button.title = masked ? `Bring ${this.name} back` : `Mask ${this.name}: probability goes to the others`;
    this.node.className = [masked ? "masked" : "", place === row.label ? "true" : "", place === row.predicted ? "predicted" : ""].join(" ");
    this.logit.textContent = fixed(row.logits[place], 2);
    this.bar.querySelector(".fill")?.setAttribute("width", String((row.probabilities[place] ?? 0) * 100));
    this.probability.textContent = probability(row.probabilities[place]);
    this.log.textContent = fixed(row.logProbabilities[place], 3);
    this.gradient.hidden = row.gradient === null;
    this.gradient.textContent = row.gradient ? fixed(row.gradient[place], 4) : "";
  }
}

/** @param {Row} row */
function decision(row) {
  if (row.decided === null) return null;
  return [", decided ", element("b", {}, row.names[row.decided] ?? row.decided)].map((part) => (typeof part === "string" ? document.createTextNode(part) : part));
}

/** @param {Row} row */
function summary(row) {
  const entropy = [element("span", {}, "entropy "), element("b", {}, number(row.entropy, 3)), " nats"];
  if (row.loss === null || row.label === null) return entropy;
  return [element("span", {}, "loss "), element("b", { class: "loss" }, number(row.loss)), ` = ${row.reason}`, element("br"), ...entropy];
}

/**
 * @param {number} place
 * @param {string[]} names
 * @param {(label: number | null) => void} changed
 */
function picker(place, names, changed) {
  const id = `label-${place}`;
  const many = names.length > MOST_PICKED;
  const field = many
    ? element("input", { type: "number", id, min: 0, max: names.length - 1, placeholder: "none" })
    : element("select", { id }, element("option", { value: "" }, "none"), names.map((name, at) => element("option", { value: at }, name)));
  field.addEventListener("change", () => changed(field.value === "" ? null : Number(field.value)));
  const node = element("div", { class: "picker" }, element("label", { for: id }, "Label"), field);
  const show = (/** @type {number | null} */ label) => {
    field.value = label === null ? "" : String(label);
  };
  return { node, show };
}
