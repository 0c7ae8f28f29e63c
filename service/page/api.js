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

/** How long until it is asked again whether the service is back: soon at first, and never seldom. */
const RETRY_MS = [500, 1000, 2000, 3000];

/** Kept here and nowhere else, so that it is gone with the page. */
let key = "";
/** @type {(wrong: boolean) => Promise<string | null>} */
let askForKey = () => Promise.resolve(null);
/** @type {Promise<string | null> | null} */
let asking = null;
/** Who has said no is not asked at each step again. */
let declined = false;
let reachable = true;
/** @type {((reachable: boolean) => void)[]} */
const listeners = [];

/**
 * Say who asks the person for a key; `wrong` says that the last one was not known. Null is a refusal to give one.
 * @param {(wrong: boolean) => Promise<string | null>} ask
 */
export function onKeyNeeded(ask) {
  askForKey = ask;
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
  return ask(path, { ...options, method: "POST", body: text, headers: { "Content-Type": "application/json" } });
}

/**
 * @param {string} path
 * @param {RequestInit} request
 * @returns {Promise<Answer>}
 */
async function ask(path, request) {
  let used = key;
  let response = await reach(path, request);
  while (response.status === 401) {
    if (used === key) { // else one was given while this was under way
      const given = await keyFromPerson(Boolean(key));
      if (given === null) break;
      key = given;
    }
    used = key;
    response = await reach(path, request);
  }
  const body = await parsed(response);
  if (response.status === 401) throw new Refused(401, { ...body, detail: "Without a key it answers nothing here; load the page again to give one." });
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

/** However many requests are refused at once, the person is asked once. @param {boolean} wrong */
async function keyFromPerson(wrong) {
  if (declined) return null;
  asking ??= askForKey(wrong).finally(() => {
    asking = null;
  });
  const given = await asking;
  declined = given === null;
  return given;
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
