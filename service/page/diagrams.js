/** Whether probabilities keep what they promise, which classes are taken for which, and whether a shadow is better. */

import { svg } from "./dom.js";
import { brief, count, number, share } from "./format.js";
import { linear, path, round, ticksTo } from "./scales.js";

/** @typedef {{above: number, up_to: number, rows: number, confidence: number | null, accuracy: number | null}} Bin */
/** @typedef {{label: string | number, predicted: string | number, rows: number}} Mistake */
/** @typedef {{name: string | number, rows: number, predicted: number, correct: number, recall: number | null}} Class */

const COUNTS = 56;
const LEFT = 44;
const QUARTERS = [0, 0.25, 0.5, 0.75, 1];

/**
 * A reliability diagram: what was right by what was promised, the diagonal being the promise, and beneath how many rows.
 * @param {Bin[]} bins
 * @param {number} width
 */
export function reliability(bins, width) {
  const side = Math.min(width - LEFT - 12, 300);
  const x = linear([0, 1], [LEFT, LEFT + side]);
  const y = linear([0, 1], [side + 8, 8]);
  const floor = side + 8 + 16 + COUNTS;
  const most = ticksTo(Math.max(0, ...bins.map((bin) => bin.rows)), 1, 1);
  const rows = linear([0, most.at(-1) ?? 1], [floor, floor - COUNTS]);
  return svg(
    "svg",
    { width, height: floor + 36, "aria-hidden": "true", class: "reliability" },
    QUARTERS.map((tick) => frame(tick, x, y, side, floor)).flat(),
    svg("line", { class: "promise", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }),
    bins.map((bin) => kept(bin, x, y)).flat(),
    svg("path", { class: "line s1", d: path(bins.flatMap((bin) => placeOf(bin, x, y))) }),
    bins.map((bin) => counted(bin, x, rows, floor)),
    svg("text", { class: "mark", x: LEFT - 6, y: rows(most.at(-1) ?? 1) + 8, "text-anchor": "end" }, short(most.at(-1) ?? 1)),
    svg("text", { class: "mark", x: LEFT - 6, y: floor, "text-anchor": "end" }, "0"),
    svg("text", { class: "mark", x: LEFT + side / 2, y: floor + 31, "text-anchor": "middle" }, "confidence, and rows by it"),
    svg("text", { class: "mark", x: LEFT + 6, y: 20 }, "share predicted right"),
  );
}

/**
 * @param {number} tick
 * @param {import("./scales.js").Scale} x
 * @param {import("./scales.js").Scale} y
 * @param {number} side
 * @param {number} floor
 */
function frame(tick, x, y, side, floor) {
  const [right, up] = [round(x(tick)), round(y(tick))];
  return [
    svg("line", { class: "grid", x1: LEFT, x2: LEFT + side, y1: up, y2: up }),
    svg("text", { class: "mark", x: LEFT - 6, y: up + 4, "text-anchor": "end" }, String(tick)),
    svg("line", { class: "grid", x1: right, x2: right, y1: floor, y2: floor + 4 }),
    svg("text", { class: "mark", x: right, y: floor + 16, "text-anchor": "middle" }, String(tick)),
  ];
}

/**
 * @param {Bin} bin
 * @param {import("./scales.js").Scale} x
 * @param {import("./scales.js").Scale} y
 * @returns {[number, number][]}
 */
function placeOf({ confidence, accuracy }, x, y) {
  return confidence === null || accuracy === null ? [] : [[x(confidence), y(accuracy)]];
}

/**
 * @param {Bin} bin
 * @param {import("./scales.js").Scale} x
 * @param {import("./scales.js").Scale} y
 */
function kept(bin, x, y) {
  return placeOf(bin, x, y).flatMap(([right, up]) => [
    svg("line", { class: "gap", x1: round(right), x2: round(right), y1: round(up), y2: round(y(bin.confidence ?? 0)) }),
    svg(
      "circle",
      { class: "dot", cx: round(right), cy: round(up), r: 4 },
      svg("title", {}, `Promised ${share(bin.confidence)}, kept ${share(bin.accuracy)}, ${count(bin.rows)} rows`),
    ),
  ]);
}

/**
 * @param {Bin} bin
 * @param {import("./scales.js").Scale} x
 * @param {import("./scales.js").Scale} rows
 * @param {number} floor
 */
function counted(bin, x, rows, floor) {
  const top = rows(bin.rows);
  const [left, right] = [x(bin.above) + 1, x(bin.up_to) - 1];
  return svg("rect", { class: "rows", x: round(left), y: round(top), width: round(right - left), height: round(floor - top) });
}

/**
 * A confusion matrix: a row a label, a column a predicted class; the colour is the share of the label's rows.
 * @param {Class[]} classes at most 32, in their order
 * @param {Mistake[]} mistakes all of them
 * @param {number} width
 */
export function confusion(classes, mistakes, width) {
  const names = classes.map(({ name }) => clipped(name));
  const beside = Math.max(...names.map((name) => name.length)) * 6.8 + 8;
  const cell = Math.min(40, Math.floor((width - beside - 2) / classes.length));
  const height = cell * classes.length + beside + 4;
  /** @type {Map<string | number, number>} */
  const at = new Map(classes.map(({ name }, place) => [name, place]));
  const wrong = mistakes.map(({ label, predicted, rows }) => ({ row: at.get(label) ?? 0, column: at.get(predicted) ?? 0, rows, kind: "wrong" }));
  const right = classes.map(({ correct }, place) => ({ row: place, column: place, rows: correct, kind: "right" }));
  return svg(
    "svg",
    { width, height, "aria-hidden": "true", class: "confusion" },
    names.map((name, place) => [
      svg("text", { class: "mark", x: beside - 6, y: round((place + 0.5) * cell + 4), "text-anchor": "end" }, name),
      columnName(name, beside + (place + 0.5) * cell + 4, cell * classes.length + 6),
    ]).flat(),
    svg("rect", { class: "ground", x: beside, y: 0, width: cell * classes.length, height: cell * classes.length }),
    [...right, ...wrong].filter(({ rows }) => rows > 0).map((one) => {
      const [label, predicted] = [classes[one.row], classes[one.column]];
      return square(one, beside, cell, (label?.rows ?? 1), `${label?.name} taken for ${predicted?.name}: ${count(one.rows)}`);
    }),
  );
}

/**
 * @param {string} name
 * @param {number} x
 * @param {number} y
 */
function columnName(name, x, y) {
  return svg("text", { class: "mark", "text-anchor": "end", transform: `translate(${round(x)} ${round(y)}) rotate(-90)` }, name);
}

/**
 * @param {{row: number, column: number, rows: number, kind: string}} place
 * @param {number} beside
 * @param {number} cell
 * @param {number} whole
 * @param {string} said
 */
function square({ row, column, rows, kind }, beside, cell, whole, said) {
  const part = Math.min(1, rows / Math.max(1, whole));
  const [x, y] = [beside + column * cell, row * cell];
  const written = short(rows, cell < 26);
  const fits = cell >= 14 && written.length * 6.2 <= cell;
  // A root lets rare mistakes be seen beside the frequent ones; the number says how many they are.
  const depth = round(10 * (0.12 + 0.88 * Math.sqrt(part))) / 10;
  return svg(
    "g",
    { class: kind },
    svg("rect", { x: x + 0.5, y: y + 0.5, width: cell - 1, height: cell - 1, "fill-opacity": depth }, svg("title", {}, said)),
    fits
      ? svg("text", { class: depth > 0.55 ? "deep" : "pale", x: x + cell / 2, y: y + cell / 2 + 4, "text-anchor": "middle" }, written)
      : null,
  );
}

/**
 * The mean difference in loss of a shadow from the version that answers, with its interval, on one line with zero.
 * @param {number} mean
 * @param {[number, number] | null} interval
 * @param {number} width
 */
export function difference(mean, interval, width) {
  const [low, high] = interval ?? [mean, mean];
  const reach = ticksTo(Math.max(Math.abs(low), Math.abs(high)), 2).at(-1) ?? 1;
  const x = linear([-reach, reach], [28, width - 28]);
  const kind = high < 0 ? "better" : low > 0 ? "worse" : "open";
  return svg(
    "svg",
    { width, height: 64, "aria-hidden": "true", class: `difference ${kind}` },
    svg("line", { class: "base", x1: x(-reach), x2: x(reach), y1: 34, y2: 34 }),
    svg("line", { class: "zero", x1: x(0), x2: x(0), y1: 8, y2: 40 }),
    svg("line", { class: "interval", x1: round(x(low)), x2: round(x(high)), y1: 22, y2: 22 }),
    svg("circle", { class: "mean", cx: round(x(mean)), cy: 22, r: 5 }),
    [-reach, 0, reach].map((tick) =>
      svg("text", { class: "mark", x: round(x(tick)), y: 54, "text-anchor": "middle" }, number(tick, 2)),
    ),
  );
}

/**
 * Thousands as k, millions as M, where there is little room.
 * @param {number} value
 * @param {boolean} [whole] without tenths of them
 */
export function short(value, whole = false) {
  if (value < 1000) return String(value);
  const [part, unit] = value < 999_500 ? [value / 1e3, "k"] : [value / 1e6, "M"];
  return `${brief(part < 9.95 && !whole ? Number(part.toFixed(1)) : Math.round(part))}${unit}`;
}

/** @param {string | number} name */
export function clipped(name, most = 9) {
  const text = String(name);
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}
