/** The live view. */

/**
 * @param {HTMLElement} _section
 * @returns {import("./main.js").View}
 */
export function live(_section) {
  return { enter: () => undefined, leave: () => undefined };
}
