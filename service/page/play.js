/** The playground: the worked example, then one's own numbers. */

import { find } from "./dom.js";
import { workedExample } from "./example.js";

/**
 * @param {HTMLElement} section
 * @returns {import("./main.js").View}
 */
export function play(section) {
  const example = workedExample(find(section, "[data-example]"), find(section, "#example-error"));
  return { enter: example.show, leave: () => undefined };
}
