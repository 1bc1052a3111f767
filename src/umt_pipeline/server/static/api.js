// What the server is asked. Every failure becomes a Failure, whose message can be shown to a person.

const TRIES = 4;

export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The models that are served: [{name, kind, champion, abilities, index}]. */
export function models() {
  return ask("/api/models", {});
}

/** Moments that fit a sentence. `wanted` holds q, model, k and filters; what is empty is left out. */
export function search(wanted, signal, waiting) {
  return ask(`/api/search?${parameters(wanted)}`, { signal }, waiting);
}

/** Moments like a window of the index. */
export function alike(wanted, signal, waiting) {
  return ask(`/api/similar?${parameters(wanted)}`, { signal }, waiting);
}

/** Moments like a file that the server does not have. */
export function alikeFile(file, wanted, signal, waiting) {
  return ask(`/api/similar?${parameters(wanted)}`, { method: "POST", body: form({ file }), signal }, waiting);
}

/** The frames of a window, and how much each counted: {score, match, frames: [{second, weight, image_url}]}. */
export function why(wanted, signal) {
  return ask(`/api/why?${parameters(wanted)}`, { signal });
}

/** What is shown, by task: {tasks: {name: [{label, probability}]}}. `what` is {file} or {window, index, edition}. */
export function classify(what, model) {
  return ask("/api/classify", { method: "POST", body: form({ ...what, model }) });
}

/** Answers to a question: {answers: [{text, probability}]}. `what` is {file} or {window, index, edition}. */
export function answer(what, question, model) {
  return ask("/api/ask", { method: "POST", body: form({ ...what, question, model }) });
}

/** Say why a file does not come: the server's words, or "" if it does come and the browser cannot show it. */
export async function missing(url) {
  try {
    await request(url, { headers: { Range: "bytes=0-0" } });
    return "";
  } catch (failure) {
    return failure.message;
  }
}

function parameters(wanted) {
  const given = Object.entries(wanted).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return new URLSearchParams(given).toString();
}

function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) data.append(name, value);
  return data;
}

/** Ask, and again when the server says that it is busy; `waiting` is told for how many seconds. */
async function ask(url, options, waiting = () => {}) {
  for (let number = 1; ; number++) {
    const response = await request(url, options, number < TRIES ? [503] : []);
    if (response.status !== 503) return response.json();
    const seconds = Math.min(10, Math.max(1, Number(response.headers.get("Retry-After")) || 1));
    waiting(seconds);
    await pause(seconds, options.signal);
  }
}

async function request(url, options, allowed = []) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. Is “umt serve” still running?");
  }
  if (response.ok || allowed.includes(response.status)) return response;
  throw new Failure(await words(response), response.status);
}

async function words(response) {
  try {
    const { detail } = await response.json();
    if (typeof detail === "string" && detail) return detail;
  } catch {
    // Not the server's own answer: a proxy in between.
  }
  return `The server answered ${response.status} ${response.statusText}`.trim() + ".";
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("A newer search began", "AbortError"));
    });
  });
}
