/** Data as SVG: lines over time and histograms. Places are in CSS pixels, so that text is as large as elsewhere. */

import { svg } from "./dom.js";
import { apart, clock, linear, logarithmic, logTicks, path, round, runs, ticksTo, timeTicks } from "./scales.js";

/** @typedef {import("./scales.js").Point} Point */
/** @typedef {import("./scales.js").Scale} Scale */

/**
 * A line, what it is called beside its end, and the class that gives it its colour.
 * @typedef {{name: string, kind: string, points: Point[]}} Series
 */

/**
 * @typedef {{
 *   series: Series[], from_s: number, to_s: number, step_s: number,
 *   format: (value: number) => string, log?: boolean, filled?: boolean, ticks?: number[], height?: number,
 * }} Lines
 */

/** @typedef {{left: number, right: number, top: number, bottom: number}} Box */

const CHARACTER = 6.8; // of the smallest text, where it is widest
const LINE = 14;
const BELOW = 22;
const ABOVE = 8;
export const HEIGHT = 168;

/**
 * Lines over time. Answers the drawing, where a time lies in it, and which time a place is.
 * @param {Lines} spec
 * @param {number} width
 */
export function lines(spec, width) {
  const height = spec.height ?? HEIGHT;
  const ticks = spec.ticks ?? ticksOf(spec);
  const box = boxOf(ticks.map(spec.format), spec.series, width, height);
  const span = /** @type {[number, number]} */ ([spec.from_s, spec.to_s]);
  const x = linear(span, [box.left, box.right]);
  const domain = /** @type {[number, number]} */ ([ticks[0] ?? 0, ticks.at(-1) ?? 1]);
  const y = (spec.log ? logarithmic : linear)(domain, [box.bottom, box.top]);
  const node = svg(
    "svg",
    { width, height, "aria-hidden": "true", class: "lines" },
    yAxis(ticks, y, box, spec.format),
    xAxis(timeTicks(spec.from_s, spec.to_s, Math.max(2, Math.floor((box.right - box.left) / 70))), x, box),
    spec.series.flatMap((one) => line(one, spec, x, y, box)),
    spec.series.length > 1 ? names(spec.series, y, box) : null,
  );
  return { node, x, box, timeAt: linear([box.left, box.right], span) };
}

/** @param {Lines} spec */
function ticksOf({ series, log }) {
  const values = series.flatMap(({ points }) => points.flatMap(({ value }) => (value === null ? [] : [value])));
  return log ? logTicks(values.filter((value) => value > 0)) : ticksTo(Math.max(0, ...values));
}

/**
 * @param {string[]} marks
 * @param {Series[]} series
 * @param {number} width
 * @param {number} height
 * @returns {Box}
 */
function boxOf(marks, series, width, height) {
  const longest = (/** @type {string[]} */ texts) => Math.max(0, ...texts.map((text) => text.length)) * CHARACTER;
  const beside = series.length > 1 ? longest(series.map((one) => one.name)) + 10 : 14;
  return {
    left: Math.ceil(longest(marks) + 8),
    right: Math.max(width - beside, width / 2),
    top: ABOVE,
    bottom: height - BELOW,
  };
}

/**
 * @param {number[]} ticks
 * @param {Scale} y
 * @param {Box} box
 * @param {(value: number) => string} format
 */
function yAxis(ticks, y, box, format) {
  return svg(
    "g",
    { class: "axis" },
    ticks.map((tick, place) => {
      const at = round(y(tick));
      return [
        svg("line", { class: place ? "grid" : "base", x1: box.left, x2: round(box.right), y1: at, y2: at }),
        svg("text", { x: box.left - 6, y: at + 4, "text-anchor": "end" }, format(tick)),
      ];
    }).flat(),
  );
}

/**
 * @param {number[]} ticks
 * @param {Scale} x
 * @param {Box} box
 */
function xAxis(ticks, x, box) {
  const seconds = ticks.some((tick) => tick % 60);
  return svg(
    "g",
    { class: "axis" },
    ticks.map((tick) => {
      const at = round(x(tick));
      return [
        svg("line", { class: "base", x1: at, x2: at, y1: box.bottom, y2: box.bottom + 4 }),
        svg("text", { x: at, y: box.bottom + 17, "text-anchor": "middle" }, clock(tick, seconds)),
      ];
    }).flat(),
  );
}

/**
 * @param {Series} series
 * @param {Lines} spec
 * @param {Scale} x
 * @param {Scale} y
 * @param {Box} box
 */
function line({ kind, points }, spec, x, y, box) {
  const shown = points.filter((point) => point.time_s >= spec.from_s && point.time_s <= spec.to_s);
  return runs(shown, spec.step_s).flatMap((run) => {
    const places = run.map(({ time_s, value }) => /** @type {[number, number]} */ ([x(time_s), y(value)]));
    const drawn = path(places);
    const [first, last] = [places[0], places.at(-1)];
    const under = spec.filled && first && last
      ? svg("path", { class: `area ${kind}`, d: `${drawn}V${box.bottom}H${round(first[0])}Z` })
      : null;
    return [...(under ? [under] : []), svg("path", { class: `line ${kind}`, d: drawn })];
  });
}

/**
 * Names at the ends of lines, where the eye is already.
 * @param {Series[]} series
 * @param {Scale} y
 * @param {Box} box
 */
function names(series, y, box) {
  const ended = series.flatMap(({ name, kind, points }) => {
    const value = points.findLast((point) => point.value !== null)?.value;
    return value === undefined || value === null ? [] : [{ name, kind, at: y(value) }];
  });
  const places = apart(ended.map(({ at }) => at), LINE, [box.top + 2, box.bottom]);
  return svg(
    "g",
    { class: "names" },
    ended.map(({ name, kind }, place) =>
      svg("text", { class: kind, x: round(box.right + 6), y: round((places[place] ?? 0) + 4) }, name),
    ),
  );
}

/**
 * Bars side by side from zero, each with its bound beneath where there is room.
 * @param {{counts: number[], marks: string[], format: (value: number) => string, height?: number, edges?: boolean}} spec
 *   `edges` says that marks are between the bars, one more than there are, and not beneath them
 * @param {number} width
 */
export function histogram({ counts, marks, format, height = HEIGHT, edges = false }, width) {
  const ticks = ticksTo(Math.max(0, ...counts), height < HEIGHT ? 2 : 4, 1);
  const box = boxOf(ticks.map(format), [], width, height);
  const y = linear([0, ticks.at(-1) ?? 1], [box.bottom, box.top]);
  const wide = (box.right - box.left) / Math.max(1, counts.length);
  const longest = Math.max(...marks.map((mark) => mark.length)) * CHARACTER + 6;
  const every = Math.max(1, Math.ceil(longest / wide));
  return svg(
    "svg",
    { width, height, "aria-hidden": "true", class: "histogram" },
    yAxis(ticks, y, box, format),
    counts.map((count, place) => {
      const [left, top] = [box.left + place * wide, y(count)];
      return svg("rect", { class: "s1", x: round(left + 1), y: round(top), width: round(Math.max(1, wide - 2)), height: round(box.bottom - top) });
    }),
    svg(
      "g",
      { class: "axis" },
      marks.map((mark, place) =>
        place % every
          ? null
          : svg("text", { x: round(box.left + (place + (edges ? 0 : 0.5)) * wide), y: box.bottom + 16, "text-anchor": "middle" }, mark),
      ),
    ),
  );
}
