/** The live view: asks every two seconds while somebody looks, and hands on what has changed. */

import { get, Refused, Unreachable } from "./api.js";
import { element, replace } from "./dom.js";
import { say } from "./figures.js";
import { models } from "./models.js";
import { group, health, speed, summaries } from "./panels.js";
import { clock } from "./scales.js";
import { merged, nothing, since } from "./series.js";

const POLL_MS = 2000;
/** What a worker lacks that has just been started, another may have. */
const OVERLAP_S = 12;
const MINUTES = [2, 5, 10];

/**
 * @param {HTMLElement} section
 * @returns {import("./main.js").View}
 */
export function live(section) {
  const view = layout(section);
  let told = nothing();
  /** @type {any} */
  let answer = null;
  const drawn = () => {
    if (answer) view.show(told, answer);
  };
  view.range.addEventListener("change", drawn);
  const polling = polled(async (signal) => {
    try {
      answer = (await get(`activity?since=${since(told, OVERLAP_S)}`, { signal })).body;
      told = merged(told, answer);
      drawn();
      await view.models.refresh(told, answer, signal);
      view.failed(null);
    } catch (error) {
      if (signal.aborted) return;
      view.failed(error);
      if (error instanceof Unreachable) throw error;
    }
  });
  view.models.onChange(polling.again);
  return polling;
}

/**
 * Do something at once and then again and again, while it is entered and the page can be seen.
 * Where the service cannot be reached it rests: the view is entered again once the service is back.
 * @param {(signal: AbortSignal) => Promise<void>} poll
 */
function polled(poll) {
  /** @type {AbortController | null} */
  let running = null;
  let entered = false;
  const stop = () => {
    running?.abort();
    running = null;
  };
  const start = async () => {
    stop();
    if (!entered || document.hidden) return;
    const mine = (running = new AbortController());
    try {
      while (!mine.signal.aborted) {
        await poll(mine.signal);
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
    } catch {
      stop();
    }
  };
  document.addEventListener("visibilitychange", () => void start());
  return {
    enter() {
      entered = true;
      void start();
    },
    leave() {
      entered = false;
      stop();
    },
    again: () => void start(),
  };
}

/** @param {HTMLElement} section */
function layout(section) {
  const range = element("select", { id: "live-range" }, MINUTES.map((minutes) =>
    element("option", { value: minutes * 60, selected: minutes === 5 }, `${minutes} minutes`),
  ));
  const asOf = element("p", { class: "as-of quiet-text" }, "Loading…");
  const error = element("p", { class: "error", role: "status", hidden: true });
  const [words, fast, well, judged] = [summaries(), speed(), health(), models()];
  section.classList.add("live");
  replace(
    section,
    element("header", { class: "live-head" }, element("h1", {}, "Live"), asOf, element("label", { for: "live-range" }, "Show the last "), range),
    error,
    element("div", { class: "summaries" }, words.nodes, judged.summary),
    group("Throughput and latency", fast.nodes),
    group("Load and errors", well.nodes),
    judged.node,
  );
  return {
    range,
    models: judged,
    /**
     * @param {import("./series.js").Told} told
     * @param {any} answer
     */
    show(told, answer) {
      words.show(answer);
      const to_s = told.moments.at(-1)?.time_s;
      if (to_s === undefined) return;
      say(asOf, `as of ${clock(to_s, true)}`);
      const span = { from_s: to_s - Number(range.value), to_s, step_s: answer.interval_s };
      const moments = told.moments.filter(({ time_s }) => time_s >= span.from_s);
      fast.show(moments, span);
      well.show(moments, span, answer);
      judged.show(told, span);
    },
    /** @param {unknown} problem null where there is none */
    failed(problem) {
      section.classList.toggle("stale", problem !== null);
      const refused = problem !== null && !(problem instanceof Unreachable); // of that the page's own notice tells
      error.hidden = !refused;
      if (refused) say(error, problem instanceof Refused ? `${problem.title}: ${problem.message}` : String(problem));
    },
  };
}
