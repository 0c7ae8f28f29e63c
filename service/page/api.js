/** Asks the service. All that the page knows of numbers comes through here. */

/**
 * A place in a request, and what is wrong there.
 * @typedef {{path: string | null, message: string}} Offence
 */

/** @typedef {{body: any, headers: Headers}} Answer */

/** The service has answered, and said no. */
export class Refused extends Error {
  /**
   * @param {number} status
   * @param {{code?: string, title?: string, detail?: string, errors?: Offence[], request_id?: string}} problem
   */
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `the service answered ${status}`);
    this.status = status;
    this.code = problem.code ?? "";
    this.title = problem.title ?? `Status ${status}`;
    this.errors = problem.errors ?? [];
    this.requestId = problem.request_id ?? "";
  }
}

/** Nobody has answered. */
export class Unreachable extends Error {}

/** What people try here, one row many times, is no measure of how good a model is. */
const HEADERS = { "Content-Type": "application/json", "X-Trial": "1" };

/** How long until it is asked again whether the service is back: soon at first, and never seldom. */
const RETRY_MS = [500, 1000, 2000, 3000];

/** Why a person is asked for a key: there is none yet, it is not known, or it does not let in here. */
/** @typedef {"needed" | "unknown" | "forbidden"} Reason */

/** Kept here and nowhere else, so that it is gone with the page. */
let key = "";
/** Whoever went on without a key is not asked again, except by their own wish. */
let declined = false;
/** @type {(reason: Reason) => Promise<string | null>} */
let askForKey = () => Promise.resolve(null);
/** @type {Promise<void> | null} */
let asking = null;
let reachable = true;
/** @type {((reachable: boolean) => void)[]} */
const listeners = [];

/**
 * Say who asks the person for a key; null is a refusal to give one.
 * @param {(reason: Reason) => Promise<string | null>} ask
 */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** Take another key, as the person wishes. */
export function changeKey() {
  return keyFromPerson("needed");
}

/**
 * Hear when the service is lost, and when it is back.
 * @param {(reachable: boolean) => void} listener
 */
export function onReachable(listener) {
  listeners.push(listener);
}

/**
 * @param {string} path relative to the page, so that the service may be mounted anywhere
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<Answer>}
 */
export function get(path, options = {}) {
  return ask(path, { ...options, method: "GET" });
}

/**
 * @param {string} path
 * @param {object | string} body sent as JSON; text is sent as it is
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<Answer>}
 */
export function send(path, body, options = {}) {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return ask(path, { ...options, method: "POST", body: text, headers: HEADERS });
}

/**
 * @param {string} path
 * @param {RequestInit} request
 * @returns {Promise<Answer>}
 */
async function ask(path, request) {
  let used = key;
  let response = await reach(path, request);
  while (response.status === 401 || (response.status === 403 && used)) {
    // Another request may have asked the person meanwhile.
    if (used === key && !declined) await keyFromPerson(reasonOf(response, used));
    if (used === key) break;
    used = key;
    response = await reach(path, request);
  }
  const body = await parsed(response);
  if (response.status === 401) throw new Refused(401, { ...body, detail: "Without a key it answers nothing here; the button Key, above, takes one." });
  if (!response.ok) throw new Refused(response.status, body ?? {});
  return { body, headers: response.headers };
}

/**
 * @param {string} path
 * @param {RequestInit} request
 */
async function reach(path, request) {
  const headers = { ...request.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  try {
    const response = await fetch(path, { ...request, headers, cache: "no-store" });
    noteReachable(true);
    return response;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    noteReachable(false);
    throw new Unreachable("The service does not answer.");
  }
}

/** @param {Response} response */
async function parsed(response) {
  try {
    return await response.json();
  } catch {
    return null;
  }
}

/**
 * @param {Response} response
 * @param {string} used
 * @returns {Reason}
 */
function reasonOf(response, used) {
  if (!used) return "needed";
  return response.status === 403 ? "forbidden" : "unknown";
}

/** However many requests are refused at once, the person is asked once. @param {Reason} reason */
function keyFromPerson(reason) {
  asking ??= askForKey(reason).then((given) => {
    declined = given === null;
    key = given ?? key;
    asking = null;
  });
  return asking;
}

/** @param {boolean} now */
function noteReachable(now) {
  if (now === reachable) return;
  reachable = now;
  for (const listener of listeners) listener(now);
  if (!now) void waitUntilBack();
}

async function waitUntilBack() {
  for (let attempt = 0; !reachable; attempt += 1) {
    const pause = RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)];
    await new Promise((resolve) => setTimeout(resolve, pause));
    try {
      const response = await fetch("health/ready", { cache: "no-store" });
      if (response.ok) noteReachable(true);
    } catch {
      // Not yet: it is asked again.
    }
  }
}
