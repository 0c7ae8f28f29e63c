/** The request as code to copy, and the address that holds the view. */

import { element, replace } from "./dom.js";
import { SNIPPETS } from "./snippets.js";
import { LONGEST_LINK, toHash } from "./state.js";

/** A longer request is copied whole and shown in part. */
const MOST_SHOWN = 6000;

export class Code {
  constructor() {
    this.kind = "curl";
    /** @type {Record<string, string>} */
    this.written = {};
    this.tabs = Object.keys(SNIPPETS).map((kind) => this.#tab(kind));
    this.text = element("pre", { id: "code", role: "tabpanel", tabindex: 0, "aria-labelledby": "tab-curl" });
    this.copy = element("button", { type: "button", onclick: () => this.#copied(this.copy, this.written[this.kind] ?? "") }, "Copy");
    this.link = element("button", { type: "button", onclick: () => this.#copied(this.link, this.address) }, "Copy a link to this view");
    this.status = element("span", { class: "small quiet-text", role: "status" });
    this.address = "";
    this.node = element(
      "section",
      { class: "card code", "aria-labelledby": "code-title" },
      element("h3", { id: "code-title" }, "The same request as code"),
      element("div", { class: "tabs", role: "tablist", "aria-label": "Client", onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event) }, this.tabs),
      this.text,
      element("div", { class: "buttons" }, this.copy, this.link, this.status),
    );
  }

  /**
   * @param {import("./request.js").Request} request
   * @param {import("./snippets.js").Target} target
   * @param {import("./state.js").State} state
   */
  show(request, target, state) {
    for (const [kind, write] of Object.entries(SNIPPETS)) this.written[kind] = write(request, target);
    const hash = toHash(state);
    this.address = hash.length > LONGEST_LINK ? "" : new URL(hash, location.href).href;
    this.link.disabled = !this.address;
    this.link.title = this.address ? "" : "So many numbers are too long for a link";
    this.#draw();
  }

  #draw() {
    for (const tab of this.tabs) {
      const chosen = tab.textContent === this.kind;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    this.text.setAttribute("aria-labelledby", `tab-${this.kind}`);
    const text = this.written[this.kind] ?? "";
    const cut = text.length > MOST_SHOWN;
    replace(this.text, cut ? `${text.slice(0, MOST_SHOWN)}\n… ${text.length - MOST_SHOWN} more characters; Copy takes all of it` : text);
  }

  /** @param {string} kind */
  #tab(kind) {
    return element("button", { type: "button", role: "tab", id: `tab-${kind}`, "aria-controls": "code", onclick: () => this.#choose(kind) }, kind);
  }

  /** @param {string} kind */
  #choose(kind) {
    this.kind = kind;
    this.#draw();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const at = this.tabs.findIndex((tab) => tab.textContent === this.kind);
    const next = this.tabs[(at + step + this.tabs.length) % this.tabs.length];
    this.#choose(next?.textContent ?? "curl");
    next?.focus();
  }

  /**
   * @param {HTMLElement} button
   * @param {string} text
   */
  async #copied(button, text) {
    try {
      await navigator.clipboard.writeText(text);
      this.status.textContent = "Copied.";
    } catch {
      this.status.textContent = "The browser lets no page copy here: select the text instead.";
    }
    button.addEventListener("blur", () => (this.status.textContent = ""), { once: true });
  }
}
