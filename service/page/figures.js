/** What stands around a chart: its title and unit, what it says now, a table behind it, and when it is drawn again. */

import { HEIGHT, lines } from "./charts.js";
import { element, replace, svg } from "./dom.js";
import { clock, nearest, round } from "./scales.js";

/** @typedef {import("./charts.js").Lines} Lines */
/** @typedef {{title: string, unit?: string, level?: "h3" | "h4", height?: number}} About */
/** @typedef {{head: string[], rows: (string | number)[][]}} Table */

/** Rows of a table behind lines: the newest, as a person reads on from where the chart ends. */
const ROWS = 30;

/**
 * A figure that draws itself again when what it shows has changed, or its width.
 * @param {About} about
 */
export function figure(about) {
  const { node, now, plot, numbers } = parts(about);
  const state = { key: "", width: 0, draw: (/** @type {number} */ _width) => /** @type {Node} */ (document.createTextNode("")) };
  /** @type {(() => Table) | null} */
  let table = null;
  const drawn = () => {
    if (state.width > 0 && state.key) replace(plot, state.draw(state.width));
  };
  const listed = () => {
    if (numbers.open && table) replace(numbers, numbers.firstElementChild, tableOf(table()));
  };
  numbers.addEventListener("toggle", listed);
  new ResizeObserver(() => {
    if (plot.clientWidth === state.width) return;
    state.width = plot.clientWidth;
    drawn();
  }).observe(plot);
  return {
    node,
    plot,
    now,
    /**
     * @param {string} key says whether anything has changed
     * @param {{said: string, label: string, draw: (width: number) => Node, table?: () => Table, none?: boolean}} what
     */
    show(key, what) {
      if (key === state.key) return;
      Object.assign(state, { key, draw: what.draw });
      say(now, what.said);
      plot.setAttribute("aria-label", what.label);
      plot.classList.toggle("none", what.none === true);
      table = what.table ?? null;
      numbers.hidden = table === null;
      drawn();
      listed();
    },
    /** @param {string} why there is nothing to draw */
    empty(why) {
      this.show(why, { said: "", label: `${about.title}: ${why}`, draw: () => element("p", { class: "empty" }, why), none: true });
    },
  };
}

/** @param {About} about */
function parts({ title, unit = "", level = "h3", height = HEIGHT }) {
  const now = element("p", { class: "now" });
  const plot = element("div", { class: "plot", role: "img", "aria-label": title });
  plot.style.setProperty("--height", `${height}px`);
  const numbers = element("details", { class: "numbers", hidden: true }, element("summary", {}, "Numbers"));
  const heading = element(level, {}, title, unit ? element("span", { class: "unit" }, ` ${unit}`) : null);
  const node = element("figure", { class: "chart" }, element("figcaption", {}, heading, now), plot, numbers);
  return { node, now, plot, numbers };
}

/**
 * A figure of lines over time: a pointer on it says what was then.
 * @param {About} about
 */
export function timeFigure(about) {
  const inner = figure(about);
  const cross = svg("line", { class: "cross", y1: 0, y2: 0, visibility: "hidden" });
  /** @type {Lines | null} */
  let spec = null;
  /** @type {ReturnType<typeof lines> | null} */
  let drawing = null;
  let pointed = NaN;
  const point = () => {
    if (!spec || !drawing) return;
    const times = spec.series.flatMap(({ points }) => points);
    const at = Number.isNaN(pointed) ? undefined : nearest(times, drawing.timeAt(pointed));
    cross.setAttribute("visibility", at ? "visible" : "hidden");
    if (at) place(cross, drawing, at.time_s);
    say(inner.now, at ? `${clock(at.time_s, true)}  ${saidAt(spec, at.time_s)}` : saidAt(spec, spec.to_s));
  };
  onPointer(inner.plot, (at) => {
    pointed = at;
    point();
  });
  return {
    node: inner.node,
    empty: (/** @type {string} */ why) => {
      [spec, drawing] = [null, null];
      inner.empty(why);
    },
    /** @param {Lines} lately */
    show(lately) {
      const shown = (spec = { ...lately, height: about.height });
      inner.show(keyOf(spec), {
        said: "",
        label: `${about.title}${about.unit ? `, ${about.unit}` : ""}. Now: ${saidAt(spec, spec.to_s)}.`,
        draw: (width) => {
          drawing = lines(shown, width);
          drawing.node.append(cross);
          return drawing.node;
        },
        table: () => tableOfLines(shown),
      });
      point();
    },
  };
}

/**
 * Hear where a pointer is, from the left; NaN once it has gone.
 * @param {Element} plot
 * @param {(at: number) => void} listener
 */
function onPointer(plot, listener) {
  plot.addEventListener("pointermove", (event) => {
    if (event instanceof PointerEvent) listener(event.clientX - plot.getBoundingClientRect().left);
  });
  plot.addEventListener("pointerleave", () => listener(NaN));
}

/**
 * @param {SVGLineElement} cross
 * @param {ReturnType<typeof lines>} drawing
 * @param {number} time_s
 */
function place(cross, { x, box }, time_s) {
  const at = String(round(x(time_s)));
  for (const [name, value] of Object.entries({ x1: at, x2: at, y1: box.top, y2: box.bottom })) {
    cross.setAttribute(name, String(value));
  }
}

/** @param {Lines} spec */
function keyOf({ series, from_s, to_s }) {
  return [from_s, to_s, ...series.map(({ name, points }) => `${name} ${points.length}`)].join("|");
}

/**
 * @param {Lines} spec
 * @param {number} time_s
 */
function saidAt({ series, format, step_s }, time_s) {
  return series
    .map(({ name, points }) => {
      const at = points.findLast((one) => one.time_s <= time_s && one.time_s > time_s - step_s);
      const value = at?.value ?? null;
      const written = value === null ? "–" : format(value);
      return series.length > 1 ? `${name} ${written}` : written;
    })
    .join("  ");
}

/**
 * @param {Lines} spec
 * @returns {Table}
 */
function tableOfLines({ series, format, from_s }) {
  const times = [...new Set(series.flatMap(({ points }) => points.map(({ time_s }) => time_s)))];
  const newest = times.filter((time_s) => time_s >= from_s).sort((a, b) => b - a).slice(0, ROWS);
  return {
    head: ["Time", ...series.map(({ name }) => name)],
    rows: newest.map((time_s) => [
      clock(time_s, true),
      ...series.map(({ points }) => {
        const value = points.find((one) => one.time_s === time_s)?.value ?? null;
        return value === null ? "–" : format(value);
      }),
    ]),
  };
}

/** @param {Table} table */
export function tableOf({ head, rows }) {
  return element(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers" },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, head.map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, rows.map(([first, ...rest]) =>
        element("tr", {}, element("th", { scope: "row" }, first), rest.map((cell) => element("td", {}, cell))),
      )),
    ),
  );
}

/**
 * Write text where it is not there already: what is selected or read aloud is left alone.
 * @param {Element} node
 * @param {string} text
 */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
