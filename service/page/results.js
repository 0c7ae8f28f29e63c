/** What comes out: a card a row, a few rows at a time, and what is true of all of them. */

import { Card } from "./card.js";
import { element, replace } from "./dom.js";
import { count, number, probability, share } from "./format.js";
import { BEST_CLASSES, MANY_CLASSES } from "./request.js";
import { readList } from "./rows.js";

/** @typedef {import("./state.js").State} State */

/** So many rows are drawn at once; the others are a button away. */
const ROWS_SHOWN = 6;
const MOST_FOUND = 30;

/** @typedef {{state: State, names: string[], rows: import("./rows.js").Cell[][], body: any, timing: string | null}} Told */

export class Results {
  /** @param {import("./card.js").Handlers} handlers */
  constructor(handlers) {
    this.handlers = handlers;
    this.first = 0;
    this.shape = "";
    /** @type {Card[]} */
    this.cards = [];
    /** @type {Told | null} */
    this.told = null;
    this.totals = element("p", { class: "totals" });
    this.timing = element("p", { class: "small quiet-text timing" });
    this.search = element("input", { type: "search", id: "class-search", placeholder: "name or number", oninput: () => this.#draw() });
    this.searching = element("div", { class: "control" }, element("label", { for: "class-search" }, "Find a class"), this.search, element("p", { class: "small quiet-text" }));
    this.previous = element("button", { type: "button", onclick: () => this.#turn(-ROWS_SHOWN) }, "Previous");
    this.next = element("button", { type: "button", onclick: () => this.#turn(ROWS_SHOWN) }, "Next");
    this.range = element("span");
    this.pages = element("nav", { class: "pages", "aria-label": "Rows" }, this.previous, this.range, this.next);
    this.empty = element("p", { class: "empty" }, "Nothing yet: type a row of numbers, or choose what to compute from.");
    this.place = element("div", { class: "rows" });
    this.node = element("div", { class: "results" }, this.totals, this.searching, this.empty, this.place, this.pages, this.timing);
    this.searching.hidden = this.pages.hidden = true;
  }

  /** Say that nothing was asked. */
  clear() {
    this.told = null;
    this.shape = "";
    replace(this.place);
    replace(this.totals);
    this.timing.textContent = "";
    this.searching.hidden = this.pages.hidden = true;
    this.empty.hidden = false;
  }

  /** What is drawn belongs to what was asked before. @param {boolean} old */
  stale(old) {
    this.node.classList.toggle("stale", old);
  }

  /** @param {Told} told */
  show(told) {
    this.told = told;
    this.empty.hidden = true;
    if (this.first >= told.rows.length) this.first = 0;
    this.#draw();
    replace(this.totals, ...totals(told.body, told.rows.length));
    this.timing.textContent = timing(told.timing);
  }

  #draw() {
    const { told } = this;
    if (!told) return;
    const { names, rows } = told;
    const visible = rows.slice(this.first, this.first + ROWS_SHOWN).map((_, place) => this.first + place);
    const shape = `${names.join()} ${visible.join()}`;
    if (shape !== this.shape) {
      this.shape = shape;
      this.cards = visible.map((place) => new Card(place, names, this.handlers));
      replace(this.place, this.cards.map((card) => card.node));
    }
    const found = this.#found(names);
    for (const [order, place] of visible.entries()) this.cards[order]?.show(rowOf(told, place, shown(told, place, found)));
    this.#page(rows.length);
  }

  /** Classes that are looked for; null where nobody looks. @param {string[]} names */
  #found(names) {
    const many = names.length > MANY_CLASSES;
    this.searching.hidden = !many;
    if (!many) return null;
    const sought = this.search.value.trim().toLowerCase();
    const found = sought ? names.flatMap((name, place) => (name.toLowerCase().includes(sought) || String(place) === sought ? [place] : [])) : null;
    const note = this.searching.lastElementChild;
    if (note) note.textContent = found ? `${count(found.length)} of ${count(names.length)} classes match${found.length > MOST_FOUND ? `, the first ${MOST_FOUND} are shown` : ""}` : `The ${BEST_CLASSES} most probable of ${count(names.length)} classes are shown, and the label`;
    return found?.slice(0, MOST_FOUND) ?? null;
  }

  /** @param {number} rows */
  #page(rows) {
    this.pages.hidden = rows <= ROWS_SHOWN;
    if (this.pages.hidden) return;
    const last = Math.min(rows, this.first + ROWS_SHOWN);
    this.previous.disabled = this.first === 0;
    this.next.disabled = last === rows;
    this.range.textContent = `Rows ${this.first + 1} to ${last} of ${count(rows)}`;
  }

  /** @param {number} by */
  #turn(by) {
    this.first += by;
    this.#draw();
  }
}

/**
 * @param {Told} told
 * @param {number} place
 * @param {number[] | null} found
 */
function shown({ state, names, body }, place, found) {
  if (found) return found;
  if (names.length <= MANY_CLASSES) return names.map((_, at) => at);
  const label = state.labels[place] ?? null;
  return [...new Set([...body.top_classes[place], ...(label === null ? [] : [label]), ...state.masked])];
}

/**
 * @param {Told} told
 * @param {number} place
 * @param {number[]} classes
 * @returns {import("./card.js").Row}
 */
function rowOf({ state, names, rows, body }, place, classes) {
  const label = state.labels[place] ?? null;
  const probabilities = body.probabilities[place];
  return {
    place,
    names,
    shown: classes,
    logits: body.logits?.[place] ?? rows[place],
    probabilities: body.adjusted_probabilities?.[place] ?? probabilities,
    logProbabilities: body.log_probabilities[place],
    gradient: label === null ? null : (body.gradient?.[place] ?? null),
    predicted: body.classes[place],
    decided: body.decisions?.[place] ?? null,
    entropy: body.entropy[place],
    loss: label === null ? null : body.losses[place],
    label,
    masked: state.masked,
    reason: label === null ? "" : reason(state, names[label] ?? String(label), label, probabilities),
  };
}

/**
 * Say in words how the loss comes of the label's bar.
 * @param {State} state
 * @param {string} name
 * @param {number} label
 * @param {number[]} probabilities
 */
function reason(state, name, label, probabilities) {
  const weight = readList(state.weights)[label];
  const times = weight === undefined ? "" : `${weight} × `;
  if (state.smoothing) return `${times}the smoothed label’s −Σ target × log p: ${share(state.smoothing)} of it is spread over all classes`;
  const unmasked = state.model && state.masked.length ? " (before the mask, which changes decisions only)" : "";
  return `${times}−log ${probability(probabilities[label])}, the bar of ${name}${unmasked}`;
}

/**
 * @param {any} body
 * @param {number} rows
 */
function totals(body, rows) {
  if (body.losses === undefined) return [`${count(rows)} ${rows === 1 ? "row" : "rows"}. Choose a label to have a loss.`];
  return [
    "Mean loss ",
    element("b", { class: "loss", id: "mean-loss" }, number(body.loss)),
    ` over ${count(body.count)} labelled of ${count(rows)} ${rows === 1 ? "row" : "rows"}, accuracy `,
    element("b", {}, share(body.accuracy)),
  ];
}

/** The service's own account of its time. @param {string | null} header */
function timing(header) {
  const stages = [...(header ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, stage, dur]) => `${stage} ${number(Number(dur), 2)} ms`);
  return stages.length ? `Computed by the service: ${stages.join(", ")}.` : "";
}
