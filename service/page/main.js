/** Starts the page: the view that the address names, the theme, the word when the service is lost, the key. */

import { changeKey, onKeyNeeded, onReachable } from "./api.js";
import { find, replace } from "./dom.js";
import { live } from "./live.js";
import { play } from "./play.js";

/** @typedef {{enter(): void, leave(): void}} View */

const sections = { play: find(document, "#play"), live: find(document, "#live") };
/** @type {Record<keyof typeof sections, View>} */
const views = { play: play(sections.play), live: live(sections.live) };
/** @type {keyof typeof sections | null} */
let shown = null;

function show() {
  const wanted = location.hash.startsWith("#/live") ? "live" : "play";
  if (wanted === shown) return;
  const first = shown === null;
  if (shown) views[shown].leave();
  shown = wanted;
  for (const [name, section] of Object.entries(sections)) section.hidden = name !== wanted;
  for (const link of document.querySelectorAll("nav a[data-view]")) {
    if (link instanceof HTMLElement && link.dataset.view === wanted) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = wanted === "live" ? "Live · logitserve" : "logitserve";
  views[wanted].enter();
  if (!first) find(document, "main").focus({ preventScroll: true });
}

/** Light, dark, or as the system has it; the choice is kept for the next visit. */
function themed() {
  const button = find(document, "#theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  root.dataset.theme = kept() ?? (dark.matches ? "dark" : "light");
  const told = () => {
    const other = root.dataset.theme === "dark" ? "light" : "dark";
    button.setAttribute("aria-label", `Switch to the ${other} theme`);
  };
  button.addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    keep(root.dataset.theme);
    told();
  });
  dark.addEventListener("change", () => {
    if (kept()) return;
    root.dataset.theme = dark.matches ? "dark" : "light";
    told();
  });
  told();
}

/** What was chosen on an earlier visit; a browser that keeps nothing for this site says so by an exception. */
function kept() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

/** @param {string} theme */
function keep(theme) {
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // It holds for this visit, then.
  }
}

/** @param {boolean} reachable */
function tellReachable(reachable) {
  const notice = find(document, "#notice");
  notice.hidden = reachable;
  replace(notice, reachable ? null : "The service does not answer. What you see is the last it said; it is asked again until it is back.");
  if (reachable && shown) views[shown].enter();
}

/** What a person is told beside the question for a key. */
const REASONS = {
  needed: "",
  unknown: "That key is not known here.",
  forbidden: "That key does not let in here: it lacks the scope. The playground needs infer, the live view metrics as well.",
};

/**
 * @param {import("./api.js").Reason} reason
 * @returns {Promise<string | null>}
 */
function keyFromPerson(reason) {
  const dialog = find(document, "#key");
  const input = find(document, "#key-input");
  if (!(dialog instanceof HTMLDialogElement && input instanceof HTMLInputElement)) return Promise.resolve(null);
  const wrong = find(document, "#key-wrong");
  wrong.hidden = reason === "needed";
  wrong.textContent = REASONS[reason];
  find(document, "#key-change").hidden = false;
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const closed = () => {
      const given = dialog.returnValue === "use" ? input.value.trim() : "";
      input.value = "";
      resolve(given || null);
    };
    dialog.addEventListener("close", closed, { once: true });
  });
}

async function changedKey() {
  await changeKey();
  if (shown) views[shown].enter();
}

themed();
onReachable(tellReachable);
onKeyNeeded(keyFromPerson);
find(document, "#key-change").addEventListener("click", () => void changedKey());
addEventListener("hashchange", show);
show();
