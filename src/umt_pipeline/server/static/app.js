// The page as a whole: what is asked, what is shown for it, and how the one follows the other.

import { FIRST, anew, read, write } from "./address.js";
import { models as served } from "./api.js";
import { Column, notice } from "./column.js";
import { Controls, chosen, searchable } from "./controls.js";
import { h, marked } from "./dom.js";
import { walk } from "./hits.js";
import { hear, hush } from "./player.js";
import { askedFile, askedMoment, facts, mosaic } from "./start.js";

const NO_INDEX =
  "No index is served. `umt index FOLDER --model MODEL --out INDEX` makes one, `umt serve --index INDEX` serves it.";

const at = (id) => document.getElementById(id);
const [form, columns, status, asked, results] = ["search", "columns", "status", "asked", "results"].map(at);
const field = form.elements.q;

let models = [];
let state = read();
let shown = ""; // what is looked for by what is seen now
let running = new AbortController();
const uploads = new Map(); // files chosen on this page, by the name that the address gives them

const controls = new Controls(form, () => visit({ ...state, ...controls.chosen(models), k: FIRST, any: false }));

// --- from one state to the next ---------------------------------------------------------------------------------------
/** Go to a state, and show it. `again`: ask the server even for what is known. */
function visit(next, again = false) {
  state = next;
  if (write(state) !== (location.search || location.pathname)) history.pushState(null, "", write(state));
  return show(again);
}

/** Go to a state, and to a hit of a model there, or to the top of what is found. */
async function visitAt(next, rank = 0, model = "") {
  await visit(next, !rank && write(next) === location.search);
  const column = [...columns.children].find(({ dataset }) => dataset.model === model);
  const hit = column?.querySelector(`.hit[data-rank="${rank}"] .play`);
  if (hit) return hit.focus();
  results.focus({ preventScroll: true });
  return scrollTo({ top: 0 });
}

async function show(again = false) {
  running.abort();
  running = new AbortController();
  hush();
  controls.show(state, models);
  const about = state.q || state.upload || (state.like && "More like this");
  document.body.classList.toggle("start", !about);
  document.title = about ? `${about} – search your videos` : "Search your videos";
  const file = uploads.get(state.upload);
  showAsked(file);
  if (!about) return begin();
  if (state.upload && !file)
    return empty(`“${state.upload}” was here before this page was loaded anew: choose the file again.`);
  const able = askable();
  if (!able.length) return empty("No model here reads text: search by a clip.");
  return find(able, file, again);
}

/** Let models look for what the state says. */
async function find(able, file, again) {
  const { signal } = running;
  say("Searching …");
  const told = (name) => (asked.querySelector(".note").textContent = name);
  const look = { state, models, file, say, told, visit: visitAt };
  const parts = able.map((model) => new Column(model, look, able.length > 1));
  const put = () => {
    columns.dataset.many = able.length;
    columns.replaceChildren(...parts.map(({ element }) => element));
  };
  // More of the same takes the place of what is seen only when it is there.
  const before = shown;
  shown = write({ ...state, k: FIRST, any: false });
  if (again || before !== shown) put();
  const outcomes = await Promise.all(parts.map((part) => part.fill(signal, again)));
  if (signal.aborted) return;
  put();
  if (parts.some(({ isOld }) => isOld)) learn();
  const left = state.q ? chosen(models, state.models).filter((model) => !able.includes(model)) : [];
  const silent = left.map(({ name }) => `${name} reads no text, so it was not asked.`).join(" ");
  if (able.length === 1) say(`${outcomes[0]} ${silent}`);
  else say(silent, outcomes.map((outcome, number) => `${able[number].name}: ${outcome}`).join(" "));
}

/** The models that can answer. A moment has its number in the index of one model. */
function askable() {
  const able = searchable(models);
  if (state.like) return [able.find(({ name }) => name === state.of) ?? able[0]].filter(Boolean);
  return chosen(models, state.models).filter(({ abilities }) => !state.q || abilities.includes("texts"));
}

function showAsked(file) {
  for (const video of asked.querySelectorAll("video")) URL.revokeObjectURL(video.src);
  const [model] = askable();
  asked.replaceChildren();
  if (file) asked.append(...askedFile(file, models));
  else if (state.like && model) asked.append(...askedMoment(model, state));
  asked.hidden = !asked.hasChildNodes();
}

function begin() {
  const [model] = chosen(models, state.models);
  if (!model) return empty(NO_INDEX);
  empty(readsText() ? "" : "No model here reads text: drop a clip on this page, or choose a moment.");
  columns.dataset.many = 1;
  return columns.replaceChildren(mosaic(model, state, visitAt));
}

function empty(words) {
  shown = "";
  columns.replaceChildren();
  say(words);
}

/** Say something, and something more to who cannot see the page. */
function say(words, more = "") {
  status.replaceChildren(h("span", {}, marked(words)), h("span", { class: "unseen" }, more));
}

function readsText() {
  return searchable(models).some(({ abilities }) => abilities.includes("texts"));
}

/** Search by a file. */
function take(file) {
  if (!file) return;
  let name = file.name;
  while (uploads.has(name) && uploads.get(name) !== file) name = `${name} (another)`;
  uploads.set(name, file);
  visitAt(anew(state, { upload: name }));
}

// --- what people do ---------------------------------------------------------------------------------------------------
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const q = field.value.trim();
  const settings = controls.chosen(models);
  // Enter in a filter goes on with the clip that is searched by.
  visit(!q && (state.like || state.upload) ? { ...state, ...settings } : anew(state, { q, ...settings }), true);
});
field.addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown") return;
  columns.querySelector(".hit .play, .mosaic a")?.focus();
  event.preventDefault();
});
at("home").addEventListener("click", (event) => {
  if (event.metaKey || event.ctrlKey) return;
  event.preventDefault();
  state = anew(state, {});
  history.pushState(null, "", write(state));
  field.value = "";
  field.focus();
  start(); // indexes may have grown
});
at("sound").addEventListener("change", (event) => hear(event.target.checked));
at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = ""; // the same file can be chosen again
});
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey) {
    field.focus();
    field.select();
    event.preventDefault();
  } else if (event.key === "Escape") {
    hush();
  } else if (!isTyping && walk(event, columns)) {
    event.preventDefault();
  }
});
addEventListener("popstate", () => {
  state = read();
  show();
});

let over = 0; // elements that a dragged file is above: each one tells of itself
const carries = (event) => event.dataTransfer?.types.includes("Files");
for (const [name, step] of [
  ["dragenter", 1],
  ["dragleave", -1],
]) {
  addEventListener(name, (event) => {
    if (carries(event)) at("drop").hidden = (over += step) < 1;
  });
}
addEventListener("dragover", (event) => carries(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!carries(event)) return;
  event.preventDefault();
  over = 0;
  at("drop").hidden = true;
  take(event.dataTransfer.files[0]);
});

/** Ask what is served, and offer it. */
async function ask() {
  models = await served();
  controls.offer(models);
  at("facts").replaceChildren(...facts(searchable(models)));
}

/** Ask again while answers are seen: another index has taken the place of the one that the page knew of. */
async function learn() {
  try {
    await ask();
    controls.show(state, models);
  } catch {
    // What is seen is true all the same, and the next search asks again.
  }
}

// --- the beginning ----------------------------------------------------------------------------------------------------
async function start() {
  say("Asking which models are served …");
  try {
    await ask();
  } catch (failure) {
    empty("");
    return columns.replaceChildren(notice(failure.message, failure.status, start));
  }
  if (!readsText()) {
    field.disabled = true;
    field.placeholder = "No model here reads text";
  }
  return show();
}

start();
