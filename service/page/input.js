/** What goes in: logits as they are typed, or the features of a head, drawn, picked from its examples or pasted. */

import { element, replace } from "./dom.js";
import { Pad, drawCells } from "./pad.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./heads.js").Head} Head */

/**
 * @typedef {object} Handlers
 * @property {(head: Head | null) => void} source
 * @property {(text: string, known: {drawn?: boolean, label?: number | null}) => void} text
 * @property {(names: string) => void} names
 * @property {(file: File) => void} file
 */

export class Input {
  source = element("select", { id: "source", onchange: () => this.handlers.source(this.heads[this.source.selectedIndex - 1] ?? null) });
  text = element("textarea", {
    id: "numbers",
    rows: 6,
    spellcheck: "false",
    autocapitalize: "off",
    oninput: () => this.handlers.text(this.text.value, {}),
  });
  label = element("label", { for: "numbers" });
  note = element("p", { class: "small quiet-text" });
  numbers = element("div", { class: "control" }, this.label, this.text, this.note);
  names = element("input", {
    type: "text",
    id: "names",
    placeholder: "cat, dog, eel",
    autocomplete: "off",
    spellcheck: "false",
    oninput: () => this.handlers.names(this.names.value),
  });
  drawing = element("div", { class: "drawing", hidden: true });
  examples = element("div", { class: "examples", role: "group", "aria-label": "Examples that were held out of the training", hidden: true });
  file = element("input", { type: "file", accept: ".npy,.npz,.csv,.txt,.json", hidden: true, onchange: () => this.#chosen() });
  open = element("button", { type: "button", onclick: () => this.file.click() }, "Open a file");
  error = element("div", { class: "error", id: "input-error", role: "alert", hidden: true });
  /** @type {Head[]} */
  heads = [];
  /** @type {Pad | null} */
  pad = null;
  head = "";
  /** Each draws one. @type {(() => void)[]} */
  thumbnails = [];

  /** @param {Handlers} handlers */
  constructor(handlers) {
    this.handlers = handlers;
    this.node = element(
      "div",
      { class: "card input" },
      field("Compute from", this.source),
      this.drawing,
      this.examples,
      this.numbers,
      field("Names of the classes", this.names),
      element("div", { class: "buttons" }, this.open, element("span", { class: "small quiet-text" }, "npy, npz, CSV or JSON; or drop it here")),
      this.file,
      this.error,
    );
    this.#drop();
  }

  /** @param {Head[]} heads */
  showHeads(heads) {
    this.heads = heads;
    replace(
      this.source,
      element("option", { value: "" }, "logits, as they are"),
      heads.map((head, place) => element("option", { value: place }, `${head.model}, version ${head.version}`)),
    );
  }

  /**
   * @param {State} state
   * @param {Head | null} head
   */
  show(state, head) {
    const place = head ? this.heads.indexOf(head) : -1;
    this.source.value = place < 0 ? "" : String(place);
    this.#words(head);
    if (document.activeElement !== this.text) this.text.value = state.text;
    if (document.activeElement !== this.names) this.names.value = state.names;
    const key = head ? `${head.model}/${head.version}` : "";
    if (key !== this.head) {
      this.head = key;
      this.#showImage(head);
      this.#showExamples(head);
    }
  }

  /** @param {number[]} cells what the pad is to hold, where there is one */
  showCells(cells) {
    this.pad?.set(cells);
  }

  /** The theme has changed: what is drawn is drawn again in its ink. */
  redraw() {
    this.pad?.draw();
    for (const draw of this.thumbnails) draw();
  }

  /** @param {(Node | string)[] | null} parts */
  showError(parts) {
    this.error.hidden = parts === null;
    replace(this.error, ...(parts ?? []));
    this.text.setAttribute("aria-invalid", String(parts !== null));
    if (parts) this.text.setAttribute("aria-describedby", "input-error");
    else this.text.removeAttribute("aria-describedby");
  }

  /** @param {Head | null} head */
  #words(head) {
    this.label.textContent = head ? `Features: ${head.numFeatures} numbers a row` : "Logits";
    this.note.textContent = head ? "One row a line." : "One row a line, one number a class; -inf masks a class.";
    const names = this.names.closest(".control");
    if (names instanceof HTMLElement) names.hidden = head !== null;
  }

  /** @param {Head | null} head */
  #showImage(head) {
    this.drawing.hidden = !head?.image;
    this.pad = null;
    if (!head?.image) {
      replace(this.drawing);
      return;
    }
    const pad = new Pad(head.image, (cells, begun) => this.handlers.text(cells.join(", "), { drawn: true, ...(begun ? { label: null } : {}) }));
    this.pad = pad;
    replace(
      this.drawing,
      pad.canvas,
      element("div", {}, element("p", {}, "Draw here with the pointer, as large as it goes."), element("button", { type: "button", onclick: () => pad.clear() }, "Clear")),
    );
    pad.draw();
  }

  /** @param {Head | null} head */
  #showExamples(head) {
    const rows = head?.features ?? [];
    this.examples.hidden = rows.length === 0;
    this.thumbnails = [];
    replace(this.examples, rows.map((row, place) => this.#example(/** @type {Head} */ (head), row, place)));
    for (const draw of this.thumbnails) draw();
  }

  /**
   * @param {Head} head
   * @param {number[]} row
   * @param {number} place
   */
  #example(head, row, place) {
    const label = head.labels?.[place] ?? null;
    const name = label === null ? "" : `: ${head.names[label] ?? label}`;
    const pick = () => this.handlers.text(row.join(", "), { drawn: true, label });
    const button = element("button", { type: "button", onclick: pick, title: `Example ${place + 1}${name}`, "aria-label": `Example ${place + 1}${name}` });
    const { image } = head;
    if (image) {
      const canvas = element("canvas", { width: image.width, height: image.height, "aria-hidden": "true" });
      this.thumbnails.push(() => drawCells(canvas, row, image));
      button.append(canvas);
    } else {
      button.append(String(place + 1));
    }
    return button;
  }

  #chosen() {
    const [file] = this.file.files ?? [];
    if (file) this.handlers.file(file);
    this.file.value = "";
  }

  #drop() {
    this.node.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.node.classList.add("over");
    });
    this.node.addEventListener("dragleave", () => this.node.classList.remove("over"));
    this.node.addEventListener("drop", (event) => {
      event.preventDefault();
      this.node.classList.remove("over");
      const [file] = event.dataTransfer?.files ?? [];
      if (file) this.handlers.file(file);
    });
  }
}

/**
 * @param {string} title
 * @param {HTMLElement} control
 */
function field(title, control) {
  return element("div", { class: "control" }, element("label", { for: control.id }, title), control);
}
