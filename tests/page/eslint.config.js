// How the page's scripts are written. What a rule is for is said where its name does not.
import js from "@eslint/js";
import globals from "globals";

const PAGE = "service/page/**/*.js";
const CHECKS = "tests/page/*.js";

const catchesBugs = {
  "array-callback-return": "error",
  "consistent-return": "error",
  "default-case-last": "error",
  eqeqeq: "error",
  "guard-for-in": "error",
  "no-alert": "error",
  "no-console": "error",
  "no-constructor-return": "error",
  "no-eval": "error",
  "no-implicit-coercion": "error",
  "no-implied-eval": "error",
  "no-loop-func": "error",
  "no-new-func": "error",
  "no-return-assign": "error",
  "no-self-compare": "error",
  "no-sequences": "error",
  "no-shadow": ["error", { hoist: "never" }],
  "no-template-curly-in-string": "error",
  "no-throw-literal": "error",
  "no-unmodified-loop-condition": "error",
  "no-unreachable-loop": "error",
  "no-unused-expressions": "error",
  "no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
  "no-use-before-define": ["error", { functions: false, classes: false, variables: false }],
  "no-useless-return": "error",
  "no-var": "error",
  "prefer-const": "error",
  "prefer-promise-reject-errors": "error",
  radix: "error",
};

// Text from the API reaches the page as text: none of these could tell it from markup.
const markup = ["innerHTML", "outerHTML", "insertAdjacentHTML", "write"].map((name) => ({
  selector: `MemberExpression[property.name='${name}']`,
  message: `${name} would take what the server sends for markup; make elements.`,
}));

export default [
  { ignores: ["**/node_modules/**"] },
  js.configs.recommended,
  {
    files: [PAGE, CHECKS],
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: { ...catchesBugs, "max-lines": ["error", 400] },
  },
  {
    files: [PAGE],
    languageOptions: { globals: globals.browser },
    rules: {
      "max-lines-per-function": ["error", { max: 40, skipBlankLines: true, skipComments: true }],
      "no-restricted-syntax": ["error", ...markup],
    },
  },
  { files: ["service/page/docs/*.js"], languageOptions: { globals: { SwaggerUIBundle: "readonly" } } },
  { files: [CHECKS], languageOptions: { globals: globals.node } },
];
