/** Reads files that are dropped: numpy's npy and npz (NEP 1), CSV and JSON. Nothing in a file is ever run. */

import { readRows } from "./rows.js";

/** @typedef {import("./rows.js").Rows} Rows */
/** @typedef {{shape: number[], values: number[]}} Tensor */

/** Beyond so many numbers a text field is no place for them; the API takes far more. */
export const MOST_NUMBERS = 200_000;

const ZIP_ENTRY = 0x02014b50;
const ZIP_END = 0x06054b50;

/**
 * Read the rows of a file, with labels and names of classes where it has them.
 * @param {string} name
 * @param {ArrayBuffer} content
 * @returns {Promise<Rows>}
 */
export async function readFile(name, content) {
  if (name.endsWith(".npz")) return fromArchive(await readNpz(content));
  if (name.endsWith(".npy")) return { rows: rowsOf(readNpy(content)) };
  const rows = readRows(new TextDecoder().decode(content));
  if (rows.raw !== undefined) throw new Error("This is neither JSON of rows nor a request to /softmax, /loss or /predict.");
  checkSize(rows.rows.length * (rows.rows[0]?.length ?? 0));
  return rows;
}

/** @param {Map<string, Tensor>} arrays @returns {Rows} */
function fromArchive(arrays) {
  const names = [...arrays.keys()];
  const found = arrays.get("logits") ?? arrays.get("features") ?? (names.length === 1 ? arrays.get(names[0] ?? "") : undefined);
  if (!found) throw new Error(`Expected an array logits or features in the archive, found ${names.join(", ") || "none"}.`);
  const labels = arrays.get("labels");
  return { rows: rowsOf(found), ...(labels ? { labels: labels.values } : {}) };
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
  const view = new DataView(content);
  const wide = (bytes[6] ?? 1) > 1;
  const start = wide ? 12 + view.getUint32(8, true) : 10 + view.getUint16(8, true);
  const header = new TextDecoder().decode(bytes.slice(wide ? 12 : 10, start));
  const descr = /'descr':\s*'([<>|=]?)([a-z])(\d+)'/.exec(header);
  const shape = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1]?.split(",").filter((part) => part.trim()).map(Number);
  if (!descr || !shape) throw new Error("The array holds no plain numbers; objects and structures are not read.");
  if (/'fortran_order':\s*True/.test(header)) throw new Error("The array is in Fortran order: save numpy.ascontiguousarray(array).");
  const numbers = shape.reduce((product, length) => product * length, 1);
  checkSize(numbers);
  const [, order, kind = "", size = ""] = descr;
  const read = reader(kind + size, order !== ">");
  const width = Number(size);
  if (start + numbers * width > content.byteLength) throw new Error("The file ends before its array does.");
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
  for (let digits = 6; digits < 9; digits += 1) {
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
 * Read the arrays of a zip archive, by its directory (PKWARE's APPNOTE, 4.3).
 * @param {ArrayBuffer} content
 */
export async function readNpz(content) {
  const view = new DataView(content);
  /** @type {Map<string, Tensor>} */
  const arrays = new Map();
  let at = directory(view);
  while (at + 46 <= view.byteLength && view.getUint32(at, true) === ZIP_ENTRY) {
    const [method, packed, size] = [view.getUint16(at + 10, true), view.getUint32(at + 20, true), view.getUint32(at + 24, true)];
    const nameLength = view.getUint16(at + 28, true);
    const name = new TextDecoder().decode(new Uint8Array(content, at + 46, nameLength));
    const entry = view.getUint32(at + 42, true);
    const start = entry + 30 + view.getUint16(entry + 26, true) + view.getUint16(entry + 28, true);
    checkSize(size / 8);
    const body = content.slice(start, start + packed);
    if (name.endsWith(".npy") && !/^class_names/.test(name)) {
      arrays.set(name.slice(0, -4), readNpy(method === 8 ? await inflated(body) : body));
    }
    at += 46 + nameLength + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return arrays;
}

/** Where the directory of an archive begins: its end says so. @param {DataView} view */
function directory(view) {
  for (let at = view.byteLength - 22; at >= 0; at -= 1) {
    if (view.getUint32(at, true) === ZIP_END) return view.getUint32(at + 16, true);
  }
  throw new Error("This is no npz file: it has no directory.");
}

/** @param {ArrayBuffer} body */
function inflated(body) {
  const stream = new Blob([body]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Response(stream).arrayBuffer();
}
