/** Reads rows of numbers out of what people type, paste and drop. What is no number is left to the service to name. */

/** @typedef {number | string | null} Cell */

/**
 * Rows as they are sent: `raw` where the text means to be JSON and is not, so that the service says what is wrong.
 * @typedef {{rows: Cell[][], raw?: string, names?: string[], labels?: (number | null)[]}} Rows
 */

/** @param {string} text @returns {Rows} */
export function readRows(text) {
  const trimmed = text.trim();
  if (!trimmed) return { rows: [] };
  return /^[[{]/.test(trimmed) ? readJson(trimmed) : readLines(trimmed);
}

/** @param {Cell[][]} rows */
export function writeRows(rows) {
  // A null is said: as nothing its row would be a blank line, or the numbers after it would move.
  return rows.map((row) => row.map((one) => one ?? "null").join(", ")).join("\n");
}

/**
 * Split at commas, semicolons and white space: class weights and names of classes, too.
 * @param {string} text
 */
export function readList(text) {
  return text.split(/[\s,;]+/).filter(Boolean).map(cell);
}

/** @param {string} text @returns {Rows} */
function readJson(text) {
  try {
    return rowsOf(JSON.parse(text)) ?? { rows: [], raw: text };
  } catch {
    // No JSON, or nested deeper than the stack is.
    return { rows: [], raw: text };
  }
}

/** @param {unknown} value @returns {Rows | null} */
function rowsOf(value) {
  if (Array.isArray(value)) return { rows: nested(value) };
  const said = /** @type {Record<string, unknown>} */ (value);
  const found = said.logits ?? said.features ?? said.inputs ?? said.instances;
  if (!Array.isArray(found)) return null;
  const rows = nested(found);
  const labels = labelsOf(said.labels, rows, said.ignore_index);
  return {
    rows,
    ...(Array.isArray(said.class_names) ? { names: said.class_names.map(String) } : {}),
    ...(labels ? { labels } : {}),
  };
}

/**
 * The true class of each row, said by index or by one-hot rows; what says no one class is left out.
 * @param {unknown} said of any nesting
 * @param {Cell[][]} rows
 * @param {unknown} [ignored] what stands for a row without a label
 * @returns {(number | null)[] | undefined}
 */
export function labelsOf(said, rows, ignored) {
  const flat = /** @type {number[]} */ ([said].flat(Infinity));
  if (flat.length === rows.length) {
    return flat.every(Number.isInteger) ? flat.map((label) => (label === ignored ? null : label)) : undefined;
  }
  const width = rows[0]?.length ?? 0;
  const labels = rows.map((_, row) => onlyOne(flat.slice(row * width, (row + 1) * width)));
  return flat.length === rows.length * width && !labels.includes(-1) ? labels : undefined;
}

/** Where the 1 of a one-hot row is; -1 where it is none. @param {unknown[]} row */
function onlyOne(row) {
  const others = row.filter((one) => one !== 0);
  return others.length === 1 ? row.indexOf(1) : -1;
}

/**
 * Rows of any nesting: the last axis is the row, as the service has it.
 * @param {unknown[]} value
 * @returns {Cell[][]}
 */
function nested(value) {
  if (!value.some(Array.isArray)) return [/** @type {Cell[]} */ (value)];
  return value.flatMap((part) => (Array.isArray(part) ? nested(part) : [[/** @type {Cell} */ (part)]]));
}

/** @param {string} text @returns {Rows} */
function readLines(text) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim());
  const rows = lines.map((line) => columns(line).flatMap(words).map(cell));
  const names = namesIn(lines[0] ?? "");
  return names && rows.length > 1 ? { rows: rows.slice(1), names } : { rows };
}

/**
 * Split a line at commas and semicolons, or else at tabs. One that is empty stays: without it the numbers that
 * follow would move to other classes.
 * @param {string} line
 */
function columns(line) {
  const found = line.trim().split(/[,;]/.test(line) ? /[,;]/ : "\t").map((column) => unquoted(column.trim()));
  return found.length > 1 && found.at(-1) === "" ? found.slice(0, -1) : found;
}

/** @param {string} text */
function words(text) {
  return text.split(/\s+/).map(unquoted);
}

/** @param {string} text */
function unquoted(text) {
  return text.replace(/^"([^"]*)"$/, "$1");
}

/** The names of classes in a header, where the line is one: then nothing in it means to be a number. @param {string} line */
function namesIn(line) {
  const found = columns(line);
  const names = found.length > 1 ? found : words(line.trim());
  return names.every((name) => typeof cell(name) === "string" && !NOT_FINITE.test(name)) ? names : null;
}

/** As Python, JSON, C and this page write them. */
const NOT_FINITE = /^[-+−]?(inf(inity)?|∞|nan)$/i;

/** @param {string} text @returns {number | string} */
function cell(text) {
  const plain = text.replaceAll("−", "-");
  if (/^-(inf(inity)?|∞)$/i.test(plain)) return "-Infinity";
  const value = plain === "" ? NaN : Number(plain);
  return Number.isFinite(value) ? value : text;
}
