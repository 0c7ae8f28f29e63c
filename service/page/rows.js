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
  return rows.map((row) => row.join(", ")).join("\n");
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
  /** @type {unknown} */
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return { rows: [], raw: text };
  }
  if (Array.isArray(value)) return { rows: nested(value) };
  const said = /** @type {Record<string, unknown>} */ (value);
  const found = said.logits ?? said.features ?? said.inputs ?? said.instances;
  if (!Array.isArray(found)) return { rows: [], raw: text };
  const labels = Array.isArray(said.labels) ? said.labels.flat(Infinity) : [said.labels];
  return {
    rows: nested(found),
    ...(Array.isArray(said.class_names) ? { names: said.class_names.map(String) } : {}),
    ...(labels.every(Number.isInteger) ? { labels } : {}),
  };
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
  const rows = lines.map((line) => line.split(/\s*[,;\t]\s*|\s+/).filter(Boolean).map(cell));
  const [first] = rows;
  if (rows.length > 1 && first?.every((one) => typeof one === "string" && one !== "-Infinity")) {
    return { rows: rows.slice(1), names: first.map((name) => String(name).replace(/^"|"$/g, "")) };
  }
  return { rows };
}

/** @param {string} text @returns {number | string} */
function cell(text) {
  const plain = text.replace("−", "-");
  if (/^-inf(inity)?$/i.test(plain)) return "-Infinity";
  const value = Number(plain);
  return Number.isFinite(value) ? value : text;
}
