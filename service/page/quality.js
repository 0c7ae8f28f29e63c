/** How good one version is: what was promised and kept, which classes suffer, how sure it is; and its shadow. */

import { bar } from "./bars.js";
import { histogram } from "./charts.js";
import { clipped, confusion, difference, reliability } from "./diagrams.js";
import { element, replace } from "./dom.js";
import { figure, say, tableOf } from "./figures.js";
import { count, fixed, share } from "./format.js";

/** A matrix of more classes has no room; of wider heads the worst are named. */
const MOST_CONFUSED = 32;
const WORST = 8;
const TOP = 8;
const NO_LABELS = "No labelled rows yet: send labels with /predict, or later to /feedback.";

/** A card for a version. */
export function versionCard() {
  const title = element("h3", {});
  const about = element("p", { class: "quiet-text small" });
  const facts = element("dl", { class: "facts" });
  const parts = {
    reliability: figure({ title: "Reliability", level: "h4", height: 400 }),
    confusion: figure({ title: "Confusion", unit: "labels in rows, predictions in columns", level: "h4", height: 400 }),
    worst: figure({ title: "Worst classes", unit: "of those with labels", level: "h4", height: 240 }),
    shares: figure({ title: "Predicted classes", unit: "share of all rows", level: "h4", height: 240 }),
    confidence: figure({ title: "Confidence", unit: "rows by largest probability", level: "h4", height: 120 }),
  };
  const node = element(
    "article",
    { class: "card version" },
    title,
    about,
    facts,
    element("div", { class: "charts diagrams" }, Object.values(parts).map((part) => part.node)),
  );
  return {
    node,
    /**
     * @param {any} version of /models/{model}/quality
     * @param {any} part of it: since start, or within the window
     * @param {any} model of /models
     */
    show(version, part, model) {
      const alias = Object.entries(model?.aliases ?? {}).flatMap(([name, of]) => (of === version.version ? [name] : []));
      const names = [...(model?.default_version === version.version ? ["default"] : []), ...alias];
      say(title, version.version ? `Version ${version.version}${names.length ? ` (${names.join(", ")})` : ""}` : "Bare logits");
      say(about, version.digest ? `sha256 ${version.digest.slice(0, 12)}, ${count(part.traffic.rows)} rows scored` : "");
      showFacts(facts, part);
      showReliability(parts.reliability, part.labelled);
      showConfusion(parts.confusion, part.labelled);
      showWorst(parts.worst, part.labelled);
      showShares(parts.shares, part.traffic);
      showConfidence(parts.confidence, part.traffic);
    },
  };
}

/**
 * @param {Element} facts
 * @param {any} part
 */
function showFacts(facts, { labelled, traffic, drift }) {
  const told = {
    "Labelled rows": count(labelled.rows),
    Accuracy: share(labelled.accuracy),
    "Log loss": `${fixed(labelled.log_loss)} nats`,
    Brier: fixed(labelled.brier.score),
    ECE: fixed(labelled.ece_equal_width),
    "Mean confidence": share(traffic.confidence.mean),
    "Drift of classes": drift?.classes ? `PSI ${fixed(drift.classes.psi, 3)}` : "no reference",
  };
  const names = Object.keys(told);
  if (facts.childElementCount !== names.length) {
    replace(facts, names.map((name) => element("div", {}, element("dt", {}, name), element("dd", {}))));
  }
  Object.values(told).forEach((text, place) => {
    const value = facts.children[place]?.lastElementChild;
    if (value) say(value, text);
  });
}

/**
 * @param {ReturnType<typeof figure>} drawn
 * @param {any} labelled
 */
function showReliability(drawn, labelled) {
  if (!labelled.rows) {
    drawn.empty(NO_LABELS);
    return;
  }
  const bins = labelled.equal_width_bins;
  const said = `ECE ${fixed(labelled.ece_equal_width)}, largest gap ${fixed(labelled.mce)}`;
  drawn.show(JSON.stringify(bins), {
    said,
    label: `Reliability: ${said}, over ${count(labelled.rows)} rows. The table has every bin.`,
    draw: (width) => reliability(bins, width),
    table: () => ({
      head: ["Confidence up to", "Rows", "Promised", "Kept"],
      rows: bins.map((/** @type {any} */ bin) => [fixed(bin.up_to, 3), count(bin.rows), share(bin.confidence), share(bin.accuracy)]),
    }),
  });
}

/**
 * @param {ReturnType<typeof figure>} drawn
 * @param {any} labelled
 */
function showConfusion(drawn, { rows, classes, mistakes }) {
  if (!rows) {
    drawn.empty(NO_LABELS);
    return;
  }
  if (!mistakes) {
    drawn.empty(classes ? "A head of so many classes has no matrix; its worst classes are beside." : "Bare logits have no classes to tell apart.");
    return;
  }
  const most = mistakes[0];
  const said = most ? `most often ${clipped(most.label, 20)} taken for ${clipped(most.predicted, 20)}, ${count(most.rows)} times` : "no mistakes";
  const table = () => ({
    head: ["Label", "Predicted", "Rows"],
    rows: mistakes.slice(0, 100).map((/** @type {any} */ one) => [String(one.label), String(one.predicted), count(one.rows)]),
  });
  const small = classes.length <= MOST_CONFUSED;
  drawn.show(JSON.stringify([classes, mistakes]), {
    said,
    label: `Confusion of ${classes.length} classes: ${said}. The table has the mistakes.`,
    draw: (width) => (small ? confusion(classes, mistakes, width) : tableOf({ ...table(), rows: table().rows.slice(0, WORST) })),
    table,
  });
}

/**
 * @param {ReturnType<typeof figure>} drawn
 * @param {any} labelled
 */
function showWorst(drawn, { rows, classes }) {
  const counted = (classes ?? []).filter((/** @type {any} */ one) => one.rows);
  if (!rows || !counted.length) {
    drawn.empty(rows ? "Classes are counted up to 1,024 of them." : NO_LABELS);
    return;
  }
  const worst = [...counted].sort((a, b) => a.f1 - b.f1 || b.rows - a.rows).slice(0, WORST);
  const table = {
    head: ["Class", "Rows", "Precision", "Recall", "F1"],
    rows: worst.map((one) => [clipped(one.name, 16), count(one.rows), share(one.precision), share(one.recall), fixed(one.f1, 3)]),
  };
  drawn.show(JSON.stringify(worst), {
    said: "",
    label: `Worst classes: ${worst.map((one) => `${one.name}, F1 ${fixed(one.f1, 2)}`).join("; ")}`,
    draw: () => tableOf(table),
  });
}

/**
 * @param {ReturnType<typeof figure>} drawn
 * @param {any} traffic
 */
function showShares(drawn, { classes }) {
  const all = Object.entries(/** @type {Record<string, number>} */ (classes)).sort((a, b) => b[1] - a[1]);
  if (!all.length) {
    drawn.empty("No rows by class yet.");
    return;
  }
  const top = all.slice(0, all.length > 10 ? TOP : 10);
  const largest = top[0]?.[1] ?? 1;
  drawn.show(JSON.stringify(all.length > 10 ? [top, all.length] : top), {
    said: all.length > top.length ? `the most frequent ${top.length} of ${count(all.length)}` : "",
    label: `Predicted classes: ${top.map(([name, part]) => `${name} ${share(part)}`).join(", ")}`,
    draw: () =>
      element("table", { class: "shares" }, element("tbody", {}, top.map(([name, part]) =>
        element("tr", {}, element("th", { scope: "row" }, clipped(name, 16)), element("td", {}, bar(part / largest)), element("td", {}, share(part))),
      ))),
  });
}

/**
 * @param {ReturnType<typeof figure>} drawn
 * @param {any} traffic
 */
function showConfidence(drawn, { confidence, rows }) {
  if (!rows) {
    drawn.empty("No rows yet.");
    return;
  }
  const counts = confidence.up_to.map((/** @type {number} */ _, /** @type {number} */ place) => confidence.rows[place] ?? 0);
  const marks = [0, ...confidence.up_to].map((bound, place) => (place % 5 ? "" : String(Number(bound.toFixed(2)))));
  drawn.show(counts.join(), {
    said: `mean ${share(confidence.mean)}`,
    label: `Confidence of ${count(rows)} rows: mean ${share(confidence.mean)}. The table has every part.`,
    draw: (width) => histogram({ counts, marks, format: count, height: 120, edges: true }, width),
    table: () => ({
      head: ["Up to", "Rows"],
      rows: confidence.up_to.map((/** @type {number} */ bound, /** @type {number} */ place) => [fixed(bound, 2), count(counts[place])]),
    }),
  });
}

/** How the shadow compares with the version that answers. */
export function shadowCard() {
  const drawn = figure({ title: "Shadow", unit: "difference in loss, nats, with its 95 % interval", height: 64 });
  const words = element("p", { class: "verdict plain" });
  const facts = element("p", { class: "quiet-text small" });
  drawn.node.append(words, facts);
  return {
    node: drawn.node,
    /** @param {any} told of /models/{model}/shadow, null for what can have none */
    show(told) {
      const pair = told?.comparisons.find((/** @type {any} */ one) => one.shadow === told.shadow) ?? told?.comparisons.at(-1);
      say(facts, pair ? `${count(pair.rows)} rows by both, ${share(pair.disagreement)} of them with another class, divergence ${fixed(pair.divergence_nats)} nats${pair.dropped_rows ? `, ${count(pair.dropped_rows)} rows left out` : ""}.` : "");
      if (!pair) {
        say(words, "");
        drawn.empty(told?.shadow ? `Version ${told.shadow} is the shadow; no rows were compared yet.` : "No version is named shadow.");
      } else if (pair.loss_difference_nats === null) {
        say(words, "");
        drawn.empty(`Version ${pair.shadow} beside version ${pair.version}: no labelled rows yet.`);
      } else {
        showPair(drawn, words, pair);
      }
    },
  };
}

/**
 * @param {ReturnType<typeof figure>} drawn
 * @param {Element} words
 * @param {any} pair
 */
function showPair(drawn, words, pair) {
  const [low, high] = pair.loss_difference_interval_nats ?? [null, null];
  const better = high !== null && high < 0;
  const worse = low !== null && low > 0;
  const verdict = better ? "is better" : worse ? "is worse" : "may be no different";
  words.className = `verdict ${better ? "good" : worse ? "bad" : "plain"}`;
  say(words, `Version ${pair.shadow} ${verdict} than version ${pair.version}, on ${count(pair.labelled_rows)} labelled rows`);
  const interval = low === null ? "" : `, 95 %: ${fixed(low)} to ${fixed(high)}`;
  const said = `${fixed(pair.loss_difference_nats)}${interval}`;
  drawn.show(JSON.stringify(pair), {
    said,
    label: `Difference in loss of version ${pair.shadow} from version ${pair.version}: ${said} nats`,
    draw: (width) => difference(pair.loss_difference_nats, pair.loss_difference_interval_nats, width),
  });
}
