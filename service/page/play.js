/** The playground: the worked example, then one's own numbers. */

import { Bench } from "./bench.js";
import { find } from "./dom.js";
import { workedExample } from "./example.js";

/**
 * @param {HTMLElement} section
 * @returns {import("./main.js").View}
 */
export function play(section) {
  const example = workedExample(find(section, "[data-example]"), find(section, "#example-error"));
  const bench = new Bench(find(section, "#bench"));
  find(section, "#example-take").addEventListener("click", () => bench.takeExample());
  const enter = () => {
    void example.show();
    void bench.enter();
  };
  return { enter, leave: () => undefined };
}
