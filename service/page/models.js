/** The models: which versions serve, and how good one model is, version by version, with its shadow. */

import { get, Refused } from "./api.js";
import { element, replace } from "./dom.js";
import { say, timeFigure } from "./figures.js";
import { brief, count, fixed, share } from "./format.js";
import { summaryCard } from "./panels.js";
import { shadowCard, versionCard } from "./quality.js";
import { keyOf } from "./series.js";

/** @typedef {import("./series.js").Told} Told */
/** @typedef {import("./panels.js").Span} Span */

/** Labelled bare logits count under this name, which is no model. */
const BARE = "loss";
/** Between means of labelled rows. */
const STEP_S = 10;
const NO_LABELS = "No labelled rows yet: send labels with /predict, or later to /feedback.";

export function models() {
  const table = versionTable();
  const right = summaryCard("Is it right?", ["Accuracy", "Log loss", "ECE", "Labelled rows"]);
  const chosen = chooser();
  const quality = qualityOf();
  const node = element(
    "section",
    { class: "group", "aria-label": "Models" },
    element("h2", {}, "Models"),
    element("div", { class: "card scroll", tabindex: 0, role: "region", "aria-label": "Versions" }, table.node),
    chosen.node,
    quality.node,
  );
  return {
    node,
    summary: right.node,
    show: quality.showTime,
    /**
     * @param {Told} told
     * @param {any} answer of /activity
     * @param {AbortSignal} signal
     */
    async refresh(told, answer, signal) {
      const { models: served } = (await get("models", { signal })).body;
      table.show(served, answer.models);
      chosen.offer([...served.map((/** @type {any} */ model) => model.name), ...(hasBare(told) ? [BARE] : [])]);
      const model = chosen.model();
      if (!model) return;
      const found = await qualityFrom(model, signal);
      const shadow = model === BARE ? null : (await get(`models/${encodeURIComponent(model)}/shadow`, { signal })).body;
      if (model !== chosen.model()) return;
      const about = served.find((/** @type {any} */ one) => one.name === model) ?? null;
      quality.show(model, found, shadow, about, chosen.part());
      right.show(...rightness(model, found, about));
    },
    onChange: chosen.onChange,
  };
}

/** @param {Told} told */
function hasBare(told) {
  return told.quality.has(keyOf(BARE, ""));
}

/**
 * @param {string} model
 * @param {AbortSignal} signal
 */
async function qualityFrom(model, signal) {
  try {
    return (await get(`models/${encodeURIComponent(model)}/quality`, { signal })).body;
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  }
}

/**
 * @param {string} model
 * @param {any} found
 * @param {any} about
 * @returns {[string[], {kind: "plain", text: string}]}
 */
function rightness(model, found, about) {
  const versions = (found?.versions ?? []).filter((/** @type {any} */ one) => !about || one.version === about.default_version);
  const labelled = versions.at(-1)?.window?.labelled;
  const name = about ? `${model}, version ${about.default_version}` : "Bare logits";
  if (!labelled?.rows) return [[], { kind: "plain", text: `${name}: no labelled rows yet` }];
  return [
    [share(labelled.accuracy), `${fixed(labelled.log_loss)} nats`, fixed(labelled.ece_equal_width), count(labelled.rows)],
    { kind: "plain", text: `${name}, ${spanOf(found.window_s)}` },
  ];
}

/** @param {number} window_s */
function spanOf(window_s) {
  if (window_s % 3600 === 0) return window_s === 3600 ? "the last hour" : `the last ${window_s / 3600} hours`;
  return window_s % 60 === 0 ? `the last ${window_s / 60} minutes` : `the last ${window_s} s`;
}

/** Whose quality is shown, and since when. */
function chooser() {
  const select = element("select", { id: "live-model" });
  const part = element(
    "select",
    { id: "live-part" },
    element("option", { value: "since_start" }, "since start"),
    element("option", { value: "window" }, "of late"),
  );
  const node = element(
    "div",
    { class: "chooser" },
    element("label", { for: "live-model" }, "How good is "),
    select,
    element("label", { for: "live-part" }, "counted "),
    part,
  );
  let offered = "";
  return {
    node,
    model: () => select.value,
    part: () => part.value,
    /** @param {string[]} names */
    offer(names) {
      if (names.join("\n") === offered) return;
      offered = names.join("\n");
      const before = select.value;
      replace(select, names.map((name) => element("option", { value: name }, name === BARE ? "bare logits (/loss)" : name)));
      if (names.includes(before)) select.value = before;
    },
    /** @param {() => void} listener */
    onChange(listener) {
      select.addEventListener("change", listener);
      part.addEventListener("change", listener);
    },
  };
}

const COLUMNS = ["Model", "Version", "State", "Serves as", "Rows per second", "Digest", "Provider", "Calibration", "Classes"];

/** Every version with its state; only the rates change often, so only their cells are written. */
function versionTable() {
  const body = element("tbody", {});
  const node = element(
    "table",
    { class: "versions" },
    element("thead", {}, element("tr", {}, COLUMNS.map((name) => element("th", { scope: "col" }, name)))),
    body,
  );
  let key = "";
  /** @type {Map<string, HTMLElement>} */
  let rates = new Map();
  return {
    node,
    /**
     * @param {any[]} served
     * @param {{model: string, version: string, rows_per_s: number[]}[]} busy
     */
    show(served, busy) {
      const now = JSON.stringify(served);
      if (now !== key) {
        key = now;
        rates = new Map();
        replace(body, served.flatMap((model) => model.versions.map((/** @type {any} */ version) => row(model, version, rates))));
        if (!served.length) replace(body, element("tr", {}, element("td", { colspan: COLUMNS.length, class: "empty" }, "No models are served.")));
      }
      const found = new Map(busy.map(({ model, version, rows_per_s }) => [keyOf(model, version), rows_per_s.at(-1) ?? 0]));
      for (const [of, cell] of rates) say(cell, brief(found.get(of) ?? 0));
    },
  };
}

/**
 * @param {any} model
 * @param {any} version
 * @param {Map<string, HTMLElement>} rates
 */
function row(model, version, rates) {
  const rate = element("td", {}, "0");
  rates.set(keyOf(model.name, version.version), rate);
  const names = Object.entries(model.aliases).flatMap(([alias, of]) => (of === version.version ? [alias] : []));
  if (model.default_version === version.version) names.unshift("default");
  const kind = { ready: "good", failed: "bad" }[/** @type {string} */ (version.state)] ?? "plain";
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, model.name),
    element("td", {}, version.version),
    element("td", {}, element("span", { class: `verdict ${kind}` }, version.state), version.reason ? element("span", { class: "reason" }, version.reason) : null),
    element("td", {}, names.join(", ") || "–"),
    rate,
    element("td", {}, version.digest ? element("code", { title: version.digest }, version.digest.slice(0, 12)) : "–"),
    element("td", {}, version.provider ?? "–"),
    element("td", {}, version.digest ? calibrationOf(version.calibration) : "–"),
    element("td", {}, version.outputs?.[0] ? count(version.outputs[0].shape.at(-1)) : "–"),
  );
}

/** @param {any} calibration */
function calibrationOf(calibration) {
  if (!calibration) return "none";
  return calibration.temperature ? `${calibration.method} ${brief(calibration.temperature)}` : calibration.method;
}

/** One model: over time, its shadow, and a card a version. */
function qualityOf() {
  const loss = timeFigure({ title: "Log loss", unit: "nats, mean of labelled rows in 10 s" });
  const accuracy = timeFigure({ title: "Accuracy", unit: "of labelled rows in 10 s" });
  const shadow = shadowCard();
  const versions = element("div", { class: "of-versions" });
  const off = element("p", { class: "empty", hidden: true }, "Nothing is counted, since LOGITSERVE_QUALITY is off.");
  const node = element("div", { class: "quality" }, off, element("div", { class: "charts" }, loss.node, accuracy.node, shadow.node), versions);
  /** @type {Map<string, ReturnType<typeof versionCard>>} */
  let cards = new Map();
  let model = "";
  return {
    node,
    /**
     * @param {Told} told
     * @param {Span} span
     */
    showTime(told, span) {
      showSteps(loss, accuracy, model, told, span);
    },
    /**
     * @param {string} name
     * @param {any} found of /models/{model}/quality
     * @param {any} compared of /models/{model}/shadow
     * @param {any} about of /models
     * @param {string} part
     */
    show(name, found, compared, about, part) {
      if (name !== model) [model, cards] = [name, new Map()];
      off.hidden = found !== null;
      shadow.show(compared);
      const told = (found?.versions ?? []).filter((/** @type {any} */ one) => one[part]);
      const keys = told.map((/** @type {any} */ one) => keyOf(one.version, one.digest));
      cards = new Map(keys.map((/** @type {string} */ key) => [key, cards.get(key) ?? versionCard()]));
      told.forEach((/** @type {any} */ one, /** @type {number} */ place) => cards.get(keys[place])?.show(one, one[part], about));
      const nodes = [...cards.values()].map((card) => card.node);
      if (nodes.some((card, place) => versions.children[place] !== card) || versions.children.length !== nodes.length) {
        replace(versions, nodes);
      }
    },
  };
}

/**
 * @param {ReturnType<typeof timeFigure>} loss
 * @param {ReturnType<typeof timeFigure>} accuracy
 * @param {string} model
 * @param {Told} told
 * @param {Span} span
 */
function showSteps(loss, accuracy, model, told, span) {
  const of = [...told.quality].filter(([key, steps]) => key.startsWith(`${model}\n`) && steps.some(({ time_s }) => time_s >= span.from_s));
  if (!model || !of.length) {
    loss.empty(NO_LABELS);
    accuracy.empty(NO_LABELS);
    return;
  }
  const over = (/** @type {"log_loss" | "accuracy"} */ name) => of.map(([key, steps], place) => ({
    name: of.length > 1 ? `version ${key.split("\n")[1]}` : "",
    kind: `s${place + 1}`,
    points: steps.map((step) => ({ time_s: step.time_s, value: step[name] })),
  }));
  const wide = { ...span, step_s: STEP_S };
  loss.show({ ...wide, series: over("log_loss"), format: (value) => fixed(value, 2) });
  accuracy.show({ ...wide, series: over("accuracy"), format: share, ticks: [0, 0.25, 0.5, 0.75, 1] });
}
