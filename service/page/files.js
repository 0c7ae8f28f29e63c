/** Reads files that are dropped: numpy's npy and npz (NEP 1), CSV and JSON. Nothing in a file is ever run. */

import { labelsOf, readRows } from "./rows.js";

/** @typedef {import("./rows.js").Rows} Rows */
/** @typedef {{shape: number[], values: number[]}} Tensor */
/** @typedef {{method: number, start: number, end: number}} Member of an archive: how it is packed, and where it lies */

/** Beyond so many numbers a text field is no place for them; the API takes far more. */
export const MOST_NUMBERS = 200_000;
/** numpy's own bound on a header it will read. */
const LONGEST_HEADER = 10_000;
/** No array with more bytes is taken, however they are typed: an archive is unpacked so far and no further. */
const MOST_BYTES = 12 + LONGEST_HEADER + MOST_NUMBERS * 8;

const ZIP_ENTRY = 0x02014b50;
const ZIP_END = 0x06054b50;
const STORED = 0;
const DEFLATED = 8;

const CUT = "The file ends before its array does.";
const DAMAGED = "The archive is damaged or cut short.";

/**
 * Read the rows of a file, with labels and names of classes where it has them.
 * @param {string} name
 * @param {ArrayBuffer} content
 * @returns {Promise<Rows>}
 */
export async function readFile(name, content) {
  if (name.endsWith(".npz")) return readNpz(content);
  if (name.endsWith(".npy")) return { rows: rowsOf(readNpy(content)) };
  const rows = readRows(new TextDecoder().decode(content));
  if (rows.raw !== undefined) throw new Error("This is neither JSON of rows nor a request to /softmax, /loss or /predict.");
  checkSize(rows.rows.reduce((sum, row) => sum + row.length, 0));
  return rows;
}

/** @param {Tensor} tensor */
function rowsOf({ shape, values }) {
  const width = shape.at(-1) ?? 1;
  /** @type {import("./rows.js").Cell[][]} */
  const rows = [];
  for (let start = 0; start < values.length; start += width) {
    rows.push(values.slice(start, start + width).map((value) => (Number.isFinite(value) ? value : String(value))));
  }
  return rows;
}

/** @param {number} numbers */
function checkSize(numbers) {
  if (numbers > MOST_NUMBERS) {
    const most = MOST_NUMBERS.toLocaleString("en");
    throw new Error(`This page takes up to ${most} numbers, the file has ${numbers.toLocaleString("en")}: send it to the API.`);
  }
}

/** @param {ArrayBuffer} content @returns {Tensor} */
export function readNpy(content) {
  const bytes = new Uint8Array(content);
  const magic = String.fromCharCode(...bytes.slice(1, 6));
  if (bytes[0] !== 0x93 || magic !== "NUMPY") throw new Error("This is no npy file: it does not begin as one.");
  if (content.byteLength < 12) throw new Error(CUT);
  const view = new DataView(content);
  const wide = (bytes[6] ?? 1) > 1;
  const start = wide ? 12 + view.getUint32(8, true) : 10 + view.getUint16(8, true);
  if (start > LONGEST_HEADER) throw new Error("This is no npy file that numpy would read: its header is too long.");
  if (start > content.byteLength) throw new Error(CUT);
  const header = new TextDecoder().decode(bytes.slice(wide ? 12 : 10, start));
  const descr = /'descr':\s*'([<>|=]?)([a-z])(\d+)'/.exec(header);
  const shape = /'shape':\s*\(([\d, ]*)\)/.exec(header)?.[1]?.split(",").filter((part) => part.trim()).map(Number);
  if (!descr || !shape) throw new Error("The array holds no plain numbers; objects and structures are not read.");
  if (/'fortran_order':\s*True/.test(header)) throw new Error("The array is in Fortran order: save numpy.ascontiguousarray(array).");
  const numbers = shape.reduce((product, length) => product * length, 1);
  checkSize(numbers);
  const [, order, kind = "", size = ""] = descr;
  const read = reader(kind + size, order !== ">");
  const width = Number(size);
  if (start + numbers * width > content.byteLength) throw new Error(CUT);
  return { shape, values: Array.from({ length: numbers }, (_, place) => read(view, start + place * width)) };
}

/**
 * @param {string} type
 * @param {boolean} little
 * @returns {(view: DataView, at: number) => number}
 */
function reader(type, little) {
  switch (type) {
    case "f8": return (view, at) => view.getFloat64(at, little);
    case "f4": return (view, at) => shortest(view.getFloat32(at, little));
    case "f2": return (view, at) => half(view.getUint16(at, little));
    case "i8": return (view, at) => Number(view.getBigInt64(at, little));
    case "u8": return (view, at) => Number(view.getBigUint64(at, little));
    case "i4": return (view, at) => view.getInt32(at, little);
    case "u4": return (view, at) => view.getUint32(at, little);
    case "i2": return (view, at) => view.getInt16(at, little);
    case "u2": return (view, at) => view.getUint16(at, little);
    case "i1": return (view, at) => view.getInt8(at);
    case "u1": case "b1": return (view, at) => view.getUint8(at);
    default: throw new Error(`Arrays of ${type} are not read here: save it as float32 or float64.`);
  }
}

/** The shortest decimal that is this float32: 0.1, and not 0.10000000149011612. @param {number} value */
function shortest(value) {
  for (let digits = 6; digits <= 9; digits += 1) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}

/** @param {number} bits of a float16 (IEEE 754) */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -24 * fraction;
}

/**
 * Read the rows of an archive: of `logits` or `features`, or of its only array, and `labels`. No other is unpacked.
 * @param {ArrayBuffer} content
 * @returns {Promise<Rows>}
 */
export async function readNpz(content) {
  const members = membersOf(content);
  const names = [...members.keys()];
  const only = names.length === 1 ? members.get(names[0] ?? "") : undefined;
  const found = members.get("logits") ?? members.get("features") ?? only;
  if (!found) throw new Error(`Expected an array logits or features in the archive, found ${names.join(", ") || "none"}.`);
  const rows = rowsOf(readNpy(await unpacked(content, found)));
  const said = members.get("labels");
  const labels = said && labelsOf(readNpy(await unpacked(content, said)).values, rows);
  return { rows, ...(labels ? { labels } : {}) };
}

/**
 * The arrays of a zip archive, by its directory (PKWARE's APPNOTE, 4.3).
 * @param {ArrayBuffer} content
 */
function membersOf(content) {
  const view = new DataView(content);
  /** @type {Map<string, Member>} */
  const members = new Map();
  let at = directory(view);
  while (at + 46 <= view.byteLength && view.getUint32(at, true) === ZIP_ENTRY) {
    const end = at + 46 + view.getUint16(at + 28, true);
    const local = view.getUint32(at + 42, true);
    if (end > view.byteLength || local + 30 > view.byteLength) throw new Error(DAMAGED);
    const name = new TextDecoder().decode(content.slice(at + 46, end));
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const member = { method: view.getUint16(at + 10, true), start, end: start + view.getUint32(at + 20, true) };
    if (name.endsWith(".npy") && name !== "class_names.npy") members.set(name.slice(0, -4), member);
    at = end + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return members;
}

/** Where the directory of an archive begins: its end says so. @param {DataView} view */
function directory(view) {
  for (let at = view.byteLength - 22; at >= 0; at -= 1) {
    if (view.getUint32(at, true) === ZIP_END) return view.getUint32(at + 16, true);
  }
  throw new Error("This is no npz file: it has no directory.");
}

/**
 * The beginning of a member, long enough for any array that is taken: its header says whether it is.
 * @param {ArrayBuffer} content
 * @param {Member} member
 */
async function unpacked(content, { method, start, end }) {
  if (end > content.byteLength) throw new Error(DAMAGED);
  if (method === STORED) return content.slice(start, Math.min(end, start + MOST_BYTES));
  if (method !== DEFLATED) throw new Error("The archive is packed in a way that is not read here: save it with numpy.savez_compressed.");
  return inflated(content.slice(start, end));
}

/** Stops at a bound: a few bytes can unpack to more than there is memory. @param {ArrayBuffer} body */
async function inflated(body) {
  const stream = new Blob([body]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const parts = [];
  let length = 0;
  try {
    while (length < MOST_BYTES) {
      const { done, value } = await stream.read();
      if (done) break;
      parts.push(value);
      length += value.byteLength;
    }
    await stream.cancel();
  } catch {
    throw new Error(DAMAGED);
  }
  return new Blob(parts).arrayBuffer();
}
