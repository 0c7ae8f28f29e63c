/** What the playground is set to, and how an address holds it, so that a view can be kept and shared. */

/**
 * @typedef {object} State
 * @property {string} model the head that is asked, "" for bare logits
 * @property {string} version
 * @property {string} text the rows as they are typed: logits, or a head's features
 * @property {string} names of classes, with commas between, where logits are bare
 * @property {(number | null)[]} labels the true class of each row, where it is known
 * @property {number | null} temperature null for the head's own calibration, and for 1 where logits are bare
 * @property {number} smoothing of labels, 0 to 1
 * @property {string} weights of classes, as they are typed
 * @property {number[]} masked classes that are clicked away
 */

/** @type {Readonly<State>} */
export const EMPTY = {
  model: "",
  version: "",
  text: "",
  names: "",
  labels: [],
  temperature: null,
  smoothing: 0,
  weights: "",
  masked: [],
};

/** More than this is cut off on the way by some mail programs and chats. */
export const LONGEST_LINK = 8000;

/** @param {State} state */
export function toHash(state) {
  const said = new URLSearchParams();
  for (const name of /** @type {const} */ (["model", "version", "text", "names", "weights"])) {
    if (state[name]) said.set(name, state[name]);
  }
  if (state.labels.some((label) => label !== null)) said.set("labels", state.labels.join());
  if (state.temperature !== null) said.set("temperature", String(state.temperature));
  if (state.smoothing) said.set("smoothing", String(state.smoothing));
  if (state.masked.length) said.set("masked", state.masked.join());
  return `#/?${said}`;
}

/**
 * Read a state out of an address; null where it holds none. What makes no sense is as if it were not there.
 * @param {string} hash
 * @returns {State | null}
 */
export function fromHash(hash) {
  if (!hash.startsWith("#/?")) return null;
  const said = new URLSearchParams(hash.slice(3));
  const temperature = Number(said.get("temperature"));
  const smoothing = Number(said.get("smoothing"));
  return {
    model: said.get("model") ?? "",
    version: said.get("version") ?? "",
    text: said.get("text") ?? "",
    names: said.get("names") ?? "",
    weights: said.get("weights") ?? "",
    labels: list(said.get("labels")),
    temperature: temperature > 0 && Number.isFinite(temperature) ? temperature : null,
    smoothing: smoothing > 0 && smoothing <= 1 ? smoothing : 0,
    masked: list(said.get("masked")).filter((place) => place !== null),
  };
}

/**
 * @param {string | null} text
 * @returns {(number | null)[]}
 */
function list(text) {
  if (!text) return [];
  return text.split(",").map((part) => (/^\d{1,9}$/.test(part) ? Number(part) : null));
}
