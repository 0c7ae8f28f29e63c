/** A pad to draw an image on, in the cells that a head sees: with a pointer, or with the arrow keys. */

import { element } from "./dom.js";

/** @typedef {{height: number, width: number, largest: number}} Image */

/** Ink falls on points, so many a cell each way: a cell is as grey as many of its points are inked. */
const FINE = 4;
/** How thick a stroke is, in cells. */
const STROKE = 1.15;

export class Pad {
  /**
   * @param {Image} image
   * @param {(cells: number[], begun: boolean) => void} changed hears of each stroke; `begun` on a pad that was empty
   */
  constructor(image, changed) {
    this.image = image;
    this.changed = changed;
    this.cursor = { row: 0, column: 0 };
    /** What the cells held before anything was drawn. @type {number[]} */
    this.base = new Array(image.height * image.width).fill(0);
    this.ink = new Uint8Array(image.height * FINE * image.width * FINE);
    /** @type {{x: number, y: number} | null} */
    this.last = null;
    this.canvas = element("canvas", {
      class: "pad",
      width: image.width,
      height: image.height,
      tabindex: 0,
      role: "application",
      "aria-label": `Drawing of ${image.width} by ${image.height} cells. Arrow keys move, space inks a cell, delete clears.`,
      onpointerdown: (/** @type {PointerEvent} */ event) => this.#press(event),
      onpointermove: (/** @type {PointerEvent} */ event) => this.#move(event),
      onpointerup: () => (this.last = null),
      onpointercancel: () => (this.last = null),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event),
      onfocus: () => this.draw(),
      onblur: () => this.draw(),
    });
  }

  get empty() {
    return this.cells().every((cell) => cell === 0);
  }

  /** @param {number[]} cells */
  set(cells) {
    if (cells.join() === this.cells().join()) return;
    this.base = cells;
    this.ink.fill(0);
    this.draw();
  }

  clear() {
    this.base = this.base.map(() => 0);
    this.ink.fill(0);
    this.draw();
    this.changed(this.cells(), false);
  }

  /** What the head sees, row by row. */
  cells() {
    const { width, largest } = this.image;
    return this.base.map((under, place) => {
      const [row, column] = [Math.floor(place / width), place % width];
      let inked = 0;
      for (let y = row * FINE; y < (row + 1) * FINE; y += 1) {
        for (let x = column * FINE; x < (column + 1) * FINE; x += 1) inked += this.ink[y * width * FINE + x] ?? 0;
      }
      return Math.max(under, Math.round((inked / FINE ** 2) * largest));
    });
  }

  draw() {
    drawCells(this.canvas, this.cells(), this.image);
    if (document.activeElement !== this.canvas || !this.canvas.matches(":focus-visible")) return;
    const context = this.canvas.getContext("2d");
    if (!context) return;
    context.fillStyle = getComputedStyle(this.canvas).getPropertyValue("accent-color");
    context.globalAlpha = 0.6;
    context.fillRect(this.cursor.column, this.cursor.row, 1, 1);
    context.globalAlpha = 1;
  }

  /** @param {PointerEvent} event */
  #press(event) {
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.last = this.#point(event);
    this.#stroke(this.last, this.last);
  }

  /** @param {PointerEvent} event */
  #move(event) {
    if (!this.last) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) {
      const point = this.#point(one);
      this.#stroke(this.last, point);
      this.last = point;
    }
  }

  /** Where a pointer is, in points. @param {PointerEvent} event */
  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    const { width, height } = this.image;
    return {
      x: ((event.clientX - box.left) / box.width) * width * FINE,
      y: ((event.clientY - box.top) / box.height) * height * FINE,
    };
  }

  /**
   * @param {{x: number, y: number}} from
   * @param {{x: number, y: number}} to
   */
  #stroke(from, to) {
    const begun = this.empty;
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y)));
    for (let step = 0; step <= steps; step += 1) {
      this.#dot(from.x + ((to.x - from.x) * step) / steps, from.y + ((to.y - from.y) * step) / steps);
    }
    this.draw();
    this.changed(this.cells(), begun);
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  #dot(x, y) {
    const [width, height] = [this.image.width * FINE, this.image.height * FINE];
    const radius = (STROKE * FINE) / 2;
    for (let row = Math.max(0, Math.floor(y - radius)); row <= Math.min(height - 1, y + radius); row += 1) {
      for (let column = Math.max(0, Math.floor(x - radius)); column <= Math.min(width - 1, x + radius); column += 1) {
        if (Math.hypot(column + 0.5 - x, row + 0.5 - y) <= radius) this.ink[row * width + column] = 1;
      }
    }
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (step) {
      this.cursor.row = bounded(this.cursor.row + (step[0] ?? 0), this.image.height);
      this.cursor.column = bounded(this.cursor.column + (step[1] ?? 0), this.image.width);
      this.draw();
    } else if (event.key === " " || event.key === "Enter") {
      const centre = { x: (this.cursor.column + 0.5) * FINE, y: (this.cursor.row + 0.5) * FINE };
      this.#stroke(centre, centre);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.clear();
    } else {
      return;
    }
    event.preventDefault();
  }
}

/**
 * @param {number} place
 * @param {number} length
 */
function bounded(place, length) {
  return Math.max(0, Math.min(length - 1, place));
}

/**
 * Draw cells in the ink of the theme; the ground is left as it is.
 * @param {HTMLCanvasElement} canvas
 * @param {number[]} cells
 * @param {Image} image
 */
export function drawCells(canvas, cells, { width, height, largest }) {
  const context = canvas.getContext("2d");
  if (!context) return;
  context.clearRect(0, 0, width, height);
  context.fillStyle = getComputedStyle(canvas).color;
  for (const [place, cell] of cells.entries()) {
    context.globalAlpha = Math.max(0, Math.min(1, cell / largest));
    context.fillRect(place % width, Math.floor(place / width), 1, 1);
  }
  context.globalAlpha = 1;
}
