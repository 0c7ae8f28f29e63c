/** From numbers to places on paper, and the marks beside them. Pure: no element is made here. */

/** @typedef {(value: number) => number} Scale */
/** @typedef {{time_s: number, value: number | null}} Point */

/**
 * @param {[number, number]} domain
 * @param {[number, number]} range
 * @returns {Scale}
 */
export function linear([low, high], [from, to]) {
  const width = high - low || 1;
  return (value) => from + ((value - low) / width) * (to - from);
}

/**
 * @param {[number, number]} domain both above 0
 * @param {[number, number]} range
 * @returns {Scale}
 */
export function logarithmic([low, high], range) {
  const scale = linear([Math.log(low), Math.log(high)], range);
  return (value) => scale(Math.log(Math.max(value, low)));
}

/**
 * Round marks from 0 up to at least the largest value: 1, 2 or 5 times a power of ten apart.
 * @param {number} most
 * @param {number} [wanted] about how many
 * @param {number} [least] the smallest distance that makes sense, such as 1 for what is counted
 */
export function ticksTo(most, wanted = 4, least = 0) {
  const top = most > 0 ? most : 1;
  const step = Math.max(least, niceStep(top / wanted));
  const count = Math.max(1, Math.ceil(top / step - 1e-9));
  return Array.from({ length: count + 1 }, (_, place) => Number((place * step).toPrecision(12)));
}

/**
 * The same in powers of two, as memory is counted.
 * @param {number} most
 * @param {number} [wanted]
 */
export function binaryTicksTo(most, wanted = 4) {
  const step = 2 ** Math.ceil(Math.log2(Math.max(most, 1) / wanted));
  return Array.from({ length: Math.max(1, Math.ceil(most / step)) + 1 }, (_, place) => place * step);
}

/** @param {number} size */
function niceStep(size) {
  const power = 10 ** Math.floor(Math.log10(size));
  const factor = [1, 2, 5, 10].find((one) => one * power >= size * (1 - 1e-9)) ?? 10;
  return factor * power;
}

/**
 * Marks of a logarithmic axis that holds all values: powers of ten, with 2 and 5 between them where there are few.
 * @param {number[]} values above 0
 */
export function logTicks(values) {
  if (!values.length) return [1e-4, 1e-3, 1e-2];
  const low = Math.floor(Math.log10(Math.min(...values)) + 1e-9);
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values)) - 1e-9));
  const factors = high - low <= 1 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let power = low; power < high; power += 1) {
    for (const factor of factors) ticks.push(Number(`${factor}e${power}`));
  }
  return [...ticks, Number(`1e${high}`)];
}

/**
 * Whole minutes, or parts of them, within a span of time.
 * @param {number} from_s
 * @param {number} to_s
 * @param {number} wanted at most so many
 */
export function timeTicks(from_s, to_s, wanted) {
  const step_s = [10, 30, 60, 120, 300, 600].find((step) => (to_s - from_s) / step <= wanted) ?? 1200;
  const ticks = [];
  for (let at = Math.ceil(from_s / step_s) * step_s; at <= to_s; at += step_s) ticks.push(at);
  return ticks;
}

/** @param {number} time_s */
export function clock(time_s, withSeconds = false) {
  const time = new Date(time_s * 1000);
  const parts = [time.getHours(), time.getMinutes(), ...(withSeconds ? [time.getSeconds()] : [])];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

/**
 * Runs of points without a gap: a value that is null ends one, and so does a time that is missing.
 * @param {Point[]} points
 * @param {number} step_s how far apart they are
 * @returns {{time_s: number, value: number}[][]}
 */
export function runs(points, step_s) {
  /** @type {{time_s: number, value: number}[][]} */
  const found = [];
  let last = -Infinity;
  for (const { time_s, value } of points) {
    if (value === null) continue;
    if (time_s - last > 1.5 * step_s) found.push([]);
    found.at(-1)?.push({ time_s, value });
    last = time_s;
  }
  return found;
}

/**
 * The `d` of an SVG path through points; one that is alone is a dot, which a round cap makes of a line of no length.
 * @param {[number, number][]} places
 */
export function path(places) {
  const [first, ...rest] = places.map(([x, y]) => `${round(x)} ${round(y)}`);
  if (first === undefined) return "";
  return `M${first}${rest.length ? rest.map((place) => `L${place}`).join("") : "h0"}`;
}

/**
 * Move places apart so that text at them does not overlap, each as little as may be.
 * @param {number[]} wanted
 * @param {number} distance
 * @param {[number, number]} within
 */
export function apart(wanted, distance, [low, high]) {
  const order = wanted.map((_, at) => at).sort((a, b) => (wanted[a] ?? 0) - (wanted[b] ?? 0));
  const placed = [...wanted];
  let least = low;
  for (const at of order) {
    placed[at] = Math.max(wanted[at] ?? 0, least);
    least = (placed[at] ?? 0) + distance;
  }
  let most = high;
  for (const at of order.reverse()) {
    placed[at] = Math.min(placed[at] ?? 0, most);
    most = (placed[at] ?? 0) - distance;
  }
  return placed;
}

/**
 * The point nearest to a time.
 * @template {{time_s: number}} Timed
 * @param {Timed[]} points in order of time
 * @param {number} time_s
 * @returns {Timed | undefined}
 */
export function nearest(points, time_s) {
  let best;
  for (const point of points) {
    if (!best || Math.abs(point.time_s - time_s) <= Math.abs(best.time_s - time_s)) best = point;
  }
  return best;
}

/** A tenth of a pixel is finer than any screen. @param {number} value */
export function round(value) {
  return Math.round(value * 10) / 10;
}
