/** A bar from zero. */

import { svg } from "./dom.js";

/**
 * Draw a share of 0 to 1 as a bar as wide as its place allows; the number beside it says the same to a screen reader.
 * @param {number} value
 * @param {string} [kind] a class that gives it another colour
 */
export function bar(value, kind = "") {
  return svg(
    "svg",
    { class: `bar ${kind}`, "aria-hidden": "true", preserveAspectRatio: "none", viewBox: "0 0 100 10" },
    svg("rect", { class: "track", width: 100, height: 10 }),
    svg("rect", { class: "fill", width: Math.max(0, Math.min(1, value)) * 100, height: 10 }),
  );
}
