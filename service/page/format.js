/** Writes numbers for people: with the digits that say something, a true minus, and their unit. */

/** What a number is where the service gives none, or where it is infinite: JSON has no such numbers. */
/** @typedef {number | string | null | undefined} Told */

const NONE = "–";
const MINUS = "−";

/**
 * Write a number with so many significant digits.
 * @param {Told} value
 * @param {number} [digits]
 */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return NONE;
  if (typeof value === "string") return infinite(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return power(value, digits);
  return value.toPrecision(digits).includes("e")
    ? signed(Math.round(value).toString())
    : signed(value.toPrecision(digits));
}

/**
 * Write a probability with four places; what is neither 0 nor 1 never looks as if it were.
 * @param {Told} value
 */
export function probability(value) {
  if (typeof value !== "number") return number(value);
  if (value === 0 || value === 1) return String(value);
  if (value < 0.00005) return power(value, 2);
  const written = value.toFixed(4);
  return written === "1.0000" ? "> 0.9999" : written;
}

/**
 * Write a number with so many places after the point, as columns need it.
 * @param {Told} value
 * @param {number} [places]
 */
export function fixed(value, places = 4) {
  if (typeof value !== "number") return number(value);
  if (Math.abs(value) >= 1e5) return power(value, places);
  const written = value.toFixed(places);
  return Number(written) === 0 && value !== 0 ? power(value, 2) : signed(written);
}

/** @param {Told} value of 0 to 1 */
export function share(value) {
  if (typeof value !== "number") return number(value);
  const percent = value * 100;
  if (percent === 0) return "0 %";
  if (percent < 0.1) return "< 0.1 %";
  return `${percent >= 99.95 && percent < 100 ? "> 99.9" : percent.toFixed(percent === 100 ? 0 : 1)} %`;
}

/** @param {Told} value */
export function count(value) {
  return typeof value === "number" ? signed(Math.round(value).toLocaleString("en")) : number(value);
}

const UNITS_OF_TIME = /** @type {const} */ ([
  [1e-3, 1e6, "µs"],
  [1, 1e3, "ms"],
  [120, 1, "s"],
  [Infinity, 1 / 60, "min"],
]);

/** @param {Told} value in seconds */
export function seconds(value) {
  if (typeof value !== "number") return number(value);
  if (value === 0) return "0 ms";
  const [, factor, unit] = UNITS_OF_TIME.find(([below]) => Number(value.toPrecision(3)) < below) ?? UNITS_OF_TIME[3];
  return `${brief(value * factor)} ${unit}`;
}

/** @param {Told} value in bytes */
export function bytes(value) {
  if (typeof value !== "number") return number(value);
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (Math.round(value) >= 1024 && power < units.length - 1) {
    value /= 1024;
    power += 1;
  }
  return `${brief(value)} ${units[power]}`;
}

/** Three significant digits, and no more places than they need. @param {number} value */
export function brief(value) {
  const short = Number(value.toPrecision(3));
  return Math.abs(short) >= 1000 ? count(value) : signed(String(short));
}

/**
 * @param {number} value
 * @param {number} digits
 */
function power(value, digits) {
  if (!Number.isFinite(value)) return infinite(String(value));
  const [front, exponent] = value.toExponential(digits - 1).split("e");
  return `${signed(front ?? "")}e${signed(String(Number(exponent)))}`;
}

/** @param {string} value */
function infinite(value) {
  if (value === "Infinity") return "∞";
  if (value === "-Infinity") return `${MINUS}∞`;
  return value;
}

/** @param {string} written */
function signed(written) {
  return written.replace("-", MINUS);
}
