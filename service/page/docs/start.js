/** Starts Swagger UI, and gives what it draws the names, levels and roles that people need who do not see it. */

const ROOT = "#swagger-ui";

/**
 * What its elements lack, by their selectors; null takes an attribute away.
 * @type {[string, Record<string, string | null | ((element: Element) => string | null)>][]}
 */
const LACKING = [
  [".information-container", { role: "banner" }],
  // It has one h1 and no h2.
  ["h3", { "aria-level": "2" }],
  ["h4", { "aria-level": "3" }],
  ["h5", { "aria-level": "4" }],
  [".body-param__text", { "aria-label": "Request body" }],
  [".examples-select-element", { "aria-label": "Example" }],
  [".close-modal", { "aria-label": "Close" }],
  ["tr[data-param-name] :is(input, select, textarea)", { "aria-label": (field) => field.closest("tr")?.dataset.paramName ?? null }],
  [".json-schema-2020-12-accordion", { "aria-label": (button) => (button.textContent ? null : "Schema") }],
  [".modal-btn", { "aria-label": null }], // says something else than what stands on it
  [".modal-ux", { role: "dialog", "aria-modal": "true", "aria-label": "Authorize" }],
  ["table[role=region]", { role: null }], // a region would need a name, and is no table any more
];

/** @param {Element} root */
function complete(root) {
  for (const [selector, attributes] of LACKING) {
    for (const element of root.querySelectorAll(selector)) {
      for (const [name, given] of Object.entries(attributes)) {
        const value = typeof given === "function" ? given(element) : given;
        if (value === null) element.removeAttribute(name);
        else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
      }
    }
  }
  // What scrolls must be within the keyboard's reach.
  for (const code of root.querySelectorAll("pre")) {
    const scrolls = code.scrollHeight > code.clientHeight || code.scrollWidth > code.clientWidth;
    if (scrolls) code.tabIndex = 0;
    else code.removeAttribute("tabindex");
  }
}

/** @param {Element} root */
function watch(root) {
  let asked = false;
  new MutationObserver(() => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      complete(root);
    });
  }).observe(root, { childList: true, subtree: true });
}

/** The theme that the page at the root was set to, else the system's. */
function themed() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const show = () => {
    const theme = kept() ?? (dark.matches ? "dark" : "light");
    document.documentElement.classList.toggle("dark-mode", theme === "dark");
  };
  dark.addEventListener("change", show);
  show();
}

/** @returns {string | null} */
function kept() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null; // a browser that keeps nothing
  }
}

/**
 * The path of an operation without a link, because it stands inside a button; the address still follows what is open.
 * @param {{ React: { createElement: (tag: string, props: null, text: unknown) => unknown } }} system
 */
const plainPaths = ({ React }) => ({
  components: {
    /** @param {{ text: unknown }} props */
    DeepLink: ({ text }) => React.createElement("span", null, text),
  },
});

themed();
watch(/** @type {Element} */ (document.querySelector(ROOT)));
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: ROOT,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  validatorUrl: null,
  deepLinking: true,
  syntaxHighlight: { activated: false },
  plugins: [plainPaths],
});
