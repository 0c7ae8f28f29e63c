/** The heads that are served, with what the playground needs to know of each. */

import { get } from "./api.js";

/**
 * @typedef {object} Head
 * @property {string} model
 * @property {string} version
 * @property {string[]} names of its classes; their numbers where it has none
 * @property {number} numFeatures
 * @property {import("./pad.js").Image | null} image what its features are, where they are one
 * @property {number[][]} features of its examples
 * @property {number[] | null} labels of its examples
 */

/** @returns {Promise<Head[]>} */
export async function servedHeads() {
  const { body } = await get("models");
  const versions = body.models.flatMap((/** @type {any} */ model) => newestFirst(model));
  return Promise.all(versions.map(headOf));
}

/** Find the head that a state names; the newest version where it names none. @param {Head[]} heads @param {string} model @param {string} version */
export function headNamed(heads, model, version) {
  const found = heads.filter((head) => head.model === model);
  return found.find((head) => head.version === version) ?? found[0] ?? null;
}

/** @param {any} model */
function newestFirst(model) {
  const ready = model.versions.filter((/** @type {any} */ version) => version.state === "ready");
  return ready.reverse().map((/** @type {any} */ version) => ({ model: model.name, ...version }));
}

/** @param {any} version @returns {Promise<Head>} */
async function headOf(version) {
  const numClasses = version.outputs[0].shape.at(-1);
  const examples = version.examples ? (await get(`models/${encodeURIComponent(version.model)}/versions/${version.version}/examples`)).body : null;
  return {
    model: version.model,
    version: version.version,
    names: version.class_names ?? Array.from({ length: numClasses }, (_, place) => String(place)),
    numFeatures: version.inputs[0].shape.at(-1),
    image: version.image ?? null,
    features: examples?.features ?? [],
    labels: examples?.labels ?? null,
  };
}
