/** How fast the service is and how it does: what is said in a few words, and charts over the last minutes. */

import { histogram } from "./charts.js";
import { element, replace } from "./dom.js";
import { figure, say, timeFigure } from "./figures.js";
import { brief, bytes, count, number, seconds } from "./format.js";
import { binaryTicksTo, logTicks, ticksTo } from "./scales.js";
import { namesIn } from "./series.js";

/** @typedef {import("./series.js").Moment} Moment */
/** @typedef {{from_s: number, to_s: number, step_s: number}} Span */

const QUANTILES = ["p50", "p90", "p99"];
const STAGES = ["decode", "queue", "infer", "encode"];
/** More lines than so many cannot be told apart; the table of the last minute has the rest. */
const MOST_LINES = 5;
const SMALL = 120;

/**
 * @param {string} title
 * @param {string[]} names
 */
export function summaryCard(title, names) {
  const verdict = element("p", { class: "verdict" });
  const values = names.map(() => element("dd", {}, "–"));
  const node = element(
    "section",
    { class: "card summary", "aria-label": title },
    element("h2", {}, title),
    verdict,
    element("dl", {}, names.map((name, place) => element("div", {}, element("dt", {}, name), values[place]))),
  );
  return {
    node,
    /**
     * @param {string[]} told
     * @param {{kind: "good" | "bad" | "plain", text: string}} judged
     */
    show(told, judged) {
      values.forEach((value, place) => say(value, told[place] ?? "–"));
      verdict.className = `verdict ${judged.kind}`;
      say(verdict, judged.text);
    },
  };
}

/** What the last minute was, in one number each. */
export function summaries() {
  const fast = summaryCard("Is it fast?", ["Requests", "Rows", "Half within", "99 of 100 within"]);
  const healthy = summaryCard("Is it healthy?", ["Workers", "Rows waiting", "Memory", "In flight", "Errors in the last minute", "Runs on"]);
  healthy.node.querySelector(".verdict")?.setAttribute("aria-live", "polite");
  return {
    nodes: [fast.node, healthy.node],
    /** @param {any} answer of /activity */
    show(answer) {
      const minute = answer.last_minute;
      const duration = minute?.duration_s ?? {};
      fast.show(
        [perSecond(minute?.requests_per_s), perSecond(minute?.rows_per_s), seconds(duration.p50), seconds(duration.p99)],
        { kind: "plain", text: minute ? `Over the last ${number(minute.seconds, 2)} s` : "It has just been started: two samples are needed" },
      );
      healthy.show(conditions(answer, minute), judged(answer, minute));
    },
  };
}

/**
 * @param {any} answer
 * @param {any} minute
 */
function conditions(answer, minute) {
  const last = (/** @type {number[]} */ values) => values.at(-1) ?? null;
  const errors = Object.entries(minute?.errors ?? {}).map(([code, times]) => `${code} ${count(/** @type {number} */ (times))}`);
  return [
    `${count(last(answer.workers))} of ${count(answer.workers_wanted)}`,
    count(last(answer.queue_rows)),
    bytes(last(answer.memory_bytes)),
    count(last(answer.inflight_requests)),
    minute ? errors.slice(0, 4).join(", ") + (errors.length > 4 ? ", …" : "") || "none" : "–",
    `${answer.providers.join(", ") || "–"}, ${answer.threads} ${answer.threads === 1 ? "thread" : "threads"} a worker`,
  ];
}

/**
 * @param {any} answer
 * @param {any} minute
 * @returns {{kind: "good" | "bad" | "plain", text: string}}
 */
function judged(answer, minute) {
  const workers = answer.workers.at(-1);
  if (workers === undefined) return { kind: "plain", text: "Not known yet" };
  if (workers < answer.workers_wanted) return { kind: "bad", text: "Some workers are missing" };
  const faults = Object.entries(minute?.statuses ?? {}).filter(([status]) => Number(status) >= 500);
  if (faults.length) {
    const told = faults.map(([status, times]) => `${status}: ${count(/** @type {number} */ (times))}`).join(", ");
    return { kind: "bad", text: `Faults of the service in the last minute, ${told}` };
  }
  return { kind: "good", text: "All workers serve; none has failed a request" };
}

/** @param {number | null | undefined} value */
function perSecond(value) {
  return typeof value === "number" ? `${brief(value)} /s` : number(value);
}

/** The charts of how fast it is. */
export function speed() {
  const requests = timeFigure({ title: "Requests", unit: "per second" });
  const rows = timeFigure({ title: "Rows", unit: "per second" });
  const latency = timeFigure({ title: "Latency", unit: "of whole requests, logarithmic" });
  const stages = STAGES.map((stage) => timeFigure({ title: stage, level: "h4", height: SMALL }));
  const small = element(
    "section",
    { class: "stages", "aria-label": "Latency by stage" },
    element("h3", {}, "Latency by stage", element("span", { class: "unit" }, " on one logarithmic scale")),
    element("div", { class: "charts small" }, stages.map(({ node }) => node)),
  );
  return {
    nodes: [element("div", { class: "charts" }, requests.node, rows.node, latency.node), small],
    /**
     * @param {Moment[]} moments
     * @param {Span} span
     */
    show(moments, span) {
      const none = "No requests in this time.";
      const busy = moments.some(({ requests_per_s }) => requests_per_s > 0);
      flow(requests, moments, span, (moment) => moment.requests_per_s);
      flow(rows, moments, span, (moment) => moment.rows_per_s);
      const quantiles = (/** @type {(moment: Moment) => Record<string, number | null>} */ of) => QUANTILES.map((name) =>
        series(name, name, moments, (moment) => of(moment)[name] ?? null));
      if (busy) latency.show({ ...span, series: quantiles((moment) => moment.duration_s), format: seconds, log: true });
      else latency.empty(none);
      const each = STAGES.map((stage) => quantiles((moment) => moment.stages_s[stage] ?? {}));
      const values = each.flat().flatMap(({ points }) => points.flatMap(({ value }) => (value ? [value] : [])));
      const ticks = logTicks(values);
      stages.forEach((stage, place) => {
        if (values.length) stage.show({ ...span, series: each[place] ?? [], format: seconds, log: true, ticks });
        else stage.empty(none);
      });
    },
  };
}

/** The charts of how it does. */
export function health() {
  const errors = timeFigure({ title: "Errors by code", unit: "per second" });
  const waiting = timeFigure({ title: "Waiting and in flight", unit: "rows, requests" });
  const batch = timeFigure({ title: "Batch size", unit: "rows, mean" });
  const batches = figure({ title: "Batches by size", unit: "rows, last ten minutes" });
  const workers = timeFigure({ title: "Workers" });
  const memory = timeFigure({ title: "Memory", unit: "resident, all workers" });
  return {
    nodes: [element("div", { class: "charts" }, [errors, waiting, batch, batches, workers, memory].map(({ node }) => node))],
    /**
     * @param {Moment[]} moments
     * @param {Span} span
     * @param {any} answer
     */
    show(moments, span, answer) {
      showErrors(errors, moments, span);
      waiting.show({ ...span, format: count, series: [
        series("in flight", "s1", moments, (moment) => moment.inflight_requests),
        series("waiting", "s2", moments, (moment) => moment.queue_rows),
      ], ticks: ticksTo(Math.max(0, ...moments.map(({ queue_rows, inflight_requests }) => Math.max(queue_rows, inflight_requests))), 4, 1) });
      if (moments.some(({ batch_rows }) => batch_rows !== null)) flow(batch, moments, span, (moment) => moment.batch_rows);
      else batch.empty("No batches in this time.");
      showBatches(batches, answer.batches);
      const most = Math.max(answer.workers_wanted, ...moments.map((moment) => moment.workers));
      workers.show({ ...span, format: count, series: [series("workers", "s1", moments, (moment) => moment.workers)], ticks: ticksTo(most, 4, 1) });
      const top = Math.max(0, ...moments.map(({ memory_bytes }) => memory_bytes));
      memory.show({ ...span, format: bytes, filled: true, series: [series("memory", "s1", moments, (moment) => moment.memory_bytes)], ticks: binaryTicksTo(top) });
    },
  };
}

/**
 * @param {ReturnType<typeof timeFigure>} errors
 * @param {Moment[]} moments
 * @param {Span} span
 */
function showErrors(errors, moments, span) {
  const codes = namesIn(moments, (moment) => moment.errors_per_s).slice(0, MOST_LINES);
  if (!codes.length) {
    errors.empty("No errors in this time.");
    return;
  }
  errors.show({
    ...span,
    format: brief,
    series: codes.map((code, place) => series(code, `s${place + 1}`, moments, (moment) => moment.errors_per_s[code] ?? 0)),
  });
}

/**
 * @param {ReturnType<typeof figure>} batches
 * @param {{up_to: number[], count: number[]}} told
 */
function showBatches(batches, { up_to, count: counts }) {
  const last = counts.findLastIndex((times) => times > 0);
  if (last < 0) {
    batches.empty("No batches yet.");
    return;
  }
  const marks = counts.slice(0, last + 1).map((_, place) => {
    const [from, to] = [(up_to[place - 1] ?? 0) + 1, up_to[place]];
    return to === undefined ? `≥ ${from}` : from === to ? String(to) : `${from}–${to}`;
  });
  const shown = counts.slice(0, last + 1);
  batches.show(shown.join(), {
    said: "",
    label: `Batches by size: ${marks.map((mark, place) => `${mark} rows ${count(shown[place])}`).join(", ")}`,
    draw: (width) => histogram({ counts: shown, marks, format: count }, width),
    table: () => ({ head: ["Rows", "Batches"], rows: marks.map((mark, place) => [mark, count(shown[place])]) }),
  });
}

/**
 * One quantity as a filled line from zero.
 * @param {ReturnType<typeof timeFigure>} chart
 * @param {Moment[]} moments
 * @param {Span} span
 * @param {(moment: Moment) => number | null} of
 */
function flow(chart, moments, span, of) {
  chart.show({ ...span, format: brief, filled: true, series: [series("", "s1", moments, of)] });
}

/**
 * @param {string} name
 * @param {string} kind
 * @param {Moment[]} moments
 * @param {(moment: Moment) => number | null} of
 * @returns {import("./charts.js").Series}
 */
function series(name, kind, moments, of) {
  return { name, kind, points: moments.map((moment) => ({ time_s: moment.time_s, value: of(moment) })) };
}

/**
 * A heading over what belongs together.
 * @param {string} title
 * @param {Node[]} nodes
 */
export function group(title, nodes) {
  const node = element("section", { class: "group", "aria-label": title }, element("h2", {}, title));
  replace(node, node.firstElementChild, nodes);
  return node;
}
