/** Writes a request as code that a person may copy and run: curl, our Python client, Triton's. */

/** @typedef {import("./request.js").Request} Request */
/** @typedef {{origin: string, model: string, version: string}} Target */

/** @type {Record<string, (request: Request, target: Target) => string>} */
export const SNIPPETS = { curl, Python: python, tritonclient };

/**
 * @param {Request} request
 * @param {Target} target
 */
function curl(request, { origin }) {
  return `curl -s ${quoted(`${origin}/${request.path}`)} -H 'Content-Type: application/json' -d ${quoted(request.text)}`;
}

/** For a shell. @param {string} text */
function quoted(text) {
  return `'${text.replaceAll("'", `'"'"'`)}'`;
}

/**
 * @param {Request} request
 * @param {Target} target
 */
function python(request, { origin, model, version }) {
  const { features, logits, ...options } = request.body;
  const named = model ? { model, version, ...options } : options;
  const lines = [tensorValue(features ?? logits), ...Object.entries(named).map(([name, value]) => `${name}=${pythonValue(value)}`)];
  return [
    "from service.client import Client",
    "",
    `with Client("${origin}") as client:`,
    `    answer = client.${request.operation}(`,
    ...lines.map((line) => `        ${line},`),
    "    )",
    `print(answer.${probabilitiesOf(request)})`,
    ...(options.labels ? ["print(answer.losses)"] : []),
  ].join("\n");
}

/** Which probabilities the page draws: with a head's mask those that are left. @param {Request} request */
function probabilitiesOf({ body }) {
  const outputs = /** @type {string[]} */ (body.outputs);
  return outputs.find((name) => name === "adjusted_probabilities") ?? "probabilities";
}

/** What travels as a tensor in the V2 protocol, and as which type; all else is a parameter. */
const TENSORS = { logits: "FP64", features: "FP32", labels: "INT64", class_weight: "FP64" };
const NUMPY_TYPES = { FP64: "np.float64", FP32: "np.float32", INT64: "np.int64" };

/**
 * @param {Request} request
 * @param {Target} target
 */
function tritonclient(request, { origin, model, version }) {
  const { outputs, ...said } = request.body;
  const parameters = Object.fromEntries(Object.entries(said).filter(([name]) => !(name in TENSORS)));
  const url = new URL(origin);
  const tensors = Object.entries(TENSORS).filter(([name]) => name in said);
  const asked = [
    pythonValue(model || request.operation),
    "inputs",
    "outputs=outputs",
    ...(model ? [`model_version=${pythonValue(version)}`] : []),
    ...(Object.keys(parameters).length ? [`parameters=${pythonValue(parameters)}`] : []),
  ];
  return [
    "import numpy as np",
    "import tritonclient.http as triton",
    "",
    `client = triton.InferenceServerClient("${url.host}${url.pathname.replace(/\/$/, "")}"${url.protocol === "https:" ? ", ssl=True" : ""})`,
    "inputs = []",
    "for name, array, datatype in [",
    ...tensors.map(([name, type]) => `    ("${name}", np.array(${tensorValue(said[name])}, ${NUMPY_TYPES[/** @type {keyof typeof NUMPY_TYPES} */ (type)]}), "${type}"),`),
    "]:",
    "    tensor = triton.InferInput(name, array.shape, datatype)",
    "    tensor.set_data_from_numpy(array)",
    "    inputs.append(tensor)",
    `outputs = [triton.InferRequestedOutput(name) for name in ${pythonValue(outputs)}]`,
    `answer = client.infer(${asked.join(", ")})`,
    `print(answer.as_numpy("${probabilitiesOf(request)}"))`,
    ...(said.labels ? ['print(answer.as_numpy("losses"))'] : []),
  ].join("\n");
}

/** What JSON says as text is a number in a tensor, and may be a name elsewhere. @param {unknown} value @returns {string} */
function tensorValue(value) {
  if (Array.isArray(value)) return `[${value.map(tensorValue).join(", ")}]`;
  return value === "-Infinity" || value === "Infinity" || value === "NaN" ? `float("${value}")` : pythonValue(value);
}

/** @param {unknown} value @returns {string} */
function pythonValue(value) {
  if (Array.isArray(value)) return `[${value.map(pythonValue).join(", ")}]`;
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null || value === undefined) return "None";
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${pythonValue(one)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}
