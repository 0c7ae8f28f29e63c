/** The playground's state, and its one loop: a change, a request, an answer. */

import { Refused, Unreachable, send } from "./api.js";
import { Code } from "./code.js";
import { Controls } from "./controls.js";
import { element } from "./dom.js";
import { EXAMPLE } from "./example.js";
import { readFile } from "./files.js";
import { headNamed, servedHeads } from "./heads.js";
import { Input } from "./input.js";
import { labelled, requestOf } from "./request.js";
import { Results } from "./results.js";
import { readRows, writeRows } from "./rows.js";
import { EMPTY, LONGEST_LINK, fromHash, toHash } from "./state.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./heads.js").Head} Head */

/** Browsers refuse to change an address much more often. */
const ADDRESS_PAUSE_MS = 400;

export class Bench {
  /** @param {HTMLElement} section */
  constructor(section) {
    /** @type {State} */
    this.state = { ...EMPTY };
    /** @type {Head[]} */
    this.heads = [];
    this.begun = false;
    this.asking = false;
    this.changed = false;
    this.input = new Input({
      source: (head) => this.#choose(head),
      text: (text, known) => this.#typed(text, known),
      names: (names) => this.change({ names }),
      file: (file) => void this.#opened(file),
    });
    this.controls = new Controls((part) => this.change(part));
    this.results = new Results({ label: (row, label) => this.#label(row, label), mask: (place) => this.#mask(place) });
    this.code = new Code();
    section.append(element("div", { class: "columns" }, element("div", { class: "left" }, this.input.node, element("div", { class: "card" }, this.controls.node)), element("div", { class: "right" }, this.results.node, this.code.node)));
    this.input.showHeads([]);
    this.#draw();
    addEventListener("hashchange", () => this.#followAddress());
    new MutationObserver(() => this.input.redraw()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }

  /** The view is entered, or the service is back: what is served may have changed. */
  async enter() {
    try {
      this.heads = await servedHeads();
    } catch (error) {
      if (!told(error)) throw error;
      this.input.showError([message(error)]);
      return;
    }
    this.input.showHeads(this.heads);
    if (!this.begun) {
      this.begun = true;
      this.state = fromHash(location.hash) ?? (this.state.text ? this.state : startOf(this.heads));
    }
    this.#draw();
  }

  /** @param {Partial<State>} part */
  change(part) {
    this.state = { ...this.state, ...part };
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.#keepAddress(), ADDRESS_PAUSE_MS);
    this.#draw();
  }

  /** Take the worked example's numbers along. */
  takeExample() {
    this.change({ ...EMPTY, text: writeRows(EXAMPLE.logits), labels: EXAMPLE.labels.map((row) => row.indexOf(1)) });
    this.input.text.focus();
  }

  #draw() {
    const head = this.#head();
    this.input.show(this.state, head);
    this.controls.show(this.state, labelled(this.state));
    const [first] = head?.image ? readRows(this.state.text).rows : [];
    if (first && first.length === head?.numFeatures) this.input.showCells(first.map(Number));
    void this.#ask();
  }

  #head() {
    return this.state.model ? headNamed(this.heads, this.state.model, this.state.version) : null;
  }

  /** However fast things move, one request is under way, and the last state is always answered. */
  async #ask() {
    this.changed = true;
    if (this.asking) return;
    this.asking = true;
    while (this.changed) {
      this.changed = false;
      await this.#answer();
    }
    this.asking = false;
  }

  async #answer() {
    const { state } = this;
    const head = this.#head();
    const read = readRows(state.text);
    if (state.model && !head) {
      this.#refuse([`The service has no head ${state.model} now. Choose what to compute from.`]);
      return;
    }
    if (!read.rows.length && read.raw === undefined) {
      this.results.clear();
      this.input.showError(null);
      return;
    }
    const names = head?.names ?? namesOf(state, read.rows[0]?.length ?? 0);
    const request = requestOf(state, read, names.length);
    this.code.show(request, targetOf(state), state);
    try {
      const { body, headers } = await send(request.path, request.text);
      this.input.showError(null);
      this.results.stale(false);
      this.results.show({ state, names, rows: read.rows, body, timing: headers.get("server-timing") });
    } catch (error) {
      if (!told(error)) throw error;
      if (!this.changed) this.#refuse(error instanceof Refused ? explained(error) : [message(error)]);
    }
  }

  /** @param {(Node | string)[]} parts */
  #refuse(parts) {
    this.input.showError(parts);
    this.results.stale(true);
  }

  /** @param {Head | null} head */
  #choose(head) {
    this.change(head ? { ...EMPTY, ...exampleOf(head) } : { ...EMPTY, text: writeRows(EXAMPLE.logits), labels: [] });
  }

  /**
   * @param {string} text
   * @param {{drawn?: boolean, label?: number | null}} known
   */
  #typed(text, { drawn = false, label }) {
    const read = readRows(text);
    const labels = read.labels ?? read.rows.map((_, row) => this.state.labels[row] ?? null);
    if (label !== undefined) labels[0] = label;
    this.change({ text, labels, ...(read.names && !this.state.model && !drawn ? { names: read.names.join(", ") } : {}) });
  }

  /** @param {File} file */
  async #opened(file) {
    try {
      const read = await readFile(file.name.toLowerCase(), await file.arrayBuffer());
      const labels = read.rows.map((_, row) => read.labels?.[row] ?? null);
      this.input.text.blur();
      this.change({ text: writeRows(read.rows), labels, masked: [], ...(read.names && !this.state.model ? { names: read.names.join(", ") } : {}) });
    } catch (error) {
      this.#refuse([`${file.name}: ${message(error)}`]);
    }
  }

  /**
   * @param {number} row
   * @param {number | null} label
   */
  #label(row, label) {
    const { rows } = readRows(this.state.text);
    this.change({ labels: rows.map((_, place) => (place === row ? label : (this.state.labels[place] ?? null))) });
  }

  /** @param {number} place */
  #mask(place) {
    const { masked } = this.state;
    this.change({ masked: masked.includes(place) ? masked.filter((one) => one !== place) : [...masked, place].sort((a, b) => a - b) });
  }

  #keepAddress() {
    const hash = toHash(this.state);
    if (!location.hash.startsWith("#/live") && hash.length <= LONGEST_LINK) history.replaceState(null, "", hash);
  }

  #followAddress() {
    const state = fromHash(location.hash);
    if (!state) return;
    if (document.activeElement instanceof HTMLElement) document.activeElement.blur(); // what is typed in is left alone otherwise
    this.state = state;
    this.#draw();
  }
}

/** What is seen first: something to draw on, where there is a head for it. @param {Head[]} heads @returns {State} */
function startOf(heads) {
  const head = heads.find((one) => one.image) ?? heads.find((one) => one.features.length);
  return head ? { ...EMPTY, ...exampleOf(head) } : { ...EMPTY, text: writeRows(EXAMPLE.logits) };
}

/** @param {Head} head @returns {Partial<State>} */
function exampleOf(head) {
  const { model, version, features, labels } = head;
  return { model, version, text: features[0]?.join(", ") ?? "", labels: features.length ? [labels?.[0] ?? null] : [] };
}

/**
 * @param {State} state
 * @param {number} numClasses
 */
function namesOf(state, numClasses) {
  const names = state.names.split(",").map((name) => name.trim()).filter(Boolean);
  return Array.from({ length: numClasses }, (_, place) => names[place] ?? String(place));
}

/** @param {State} state */
function targetOf({ model, version }) {
  return { origin: new URL(".", location.href).href.replace(/\/$/, ""), model, version };
}

/** Whether the person is told of an error; any other is a fault of the page. @param {unknown} error */
function told(error) {
  return error instanceof Refused || error instanceof Unreachable;
}

/** @param {unknown} error */
function message(error) {
  return error instanceof Error ? error.message : String(error);
}

/** @param {Refused} error */
function explained(error) {
  const places = error.errors.map(({ path, message: said }) => element("li", {}, path ? element("code", {}, path) : null, where(path), `: ${said}`));
  return [element("b", {}, error.title), places.length ? element("ul", {}, places) : element("p", {}, error.message)];
}

/** Where in the text a place of the request is. @param {string | null} path */
function where(path) {
  const [, row, number] = /^(?:logits|features)\[(\d+)\](?:\[(\d+)\])?/.exec(path ?? "") ?? [];
  if (row === undefined) return "";
  return ` (row ${Number(row) + 1}${number === undefined ? "" : `, number ${Number(number) + 1}`})`;
}
