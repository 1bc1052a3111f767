// The page as a whole: what is asked, what is shown for it, and how the one follows the other.

import { FIRST, FILTERS, MOST, RERANKED, anew, filters, read, write } from "./address.js";
import { Failure, alike, alikeFile, models as served, search } from "./api.js";
import { Controls, chosen, searchable } from "./controls.js";
import { h, many } from "./dom.js";
import { grid, waiting, walk } from "./hits.js";
import { hear, hush } from "./player.js";
import { more, talks } from "./why.js";

const MOSAIC = 12;
const KEPT = 30;
const at = (id) => document.getElementById(id);
const [form, columns, status, asked, results] = ["search", "columns", "status", "asked", "results"].map(at);

let models = [];
let state = read();
let running = new AbortController();
const uploads = new Map(); // files chosen on this page, by the name that the address gives them
const answers = new Map(); // what was found, so that "back" is there at once

const controls = new Controls(form, () => visit({ ...state, ...controls.chosen(models), k: FIRST, any: false }));

// --- from one state to the next ---------------------------------------------------------------------------------------
function visit(next, { again = false } = {}) {
  state = next;
  if (write(state) !== (location.search || location.pathname)) history.pushState(null, "", write(state));
  return show(again);
}

/** Show the current state. `again`: ask the server even for what is known. */
async function show(again = false) {
  running.abort();
  running = new AbortController();
  hush();
  controls.show(state, models);
  const upload = state.upload && uploads.get(state.upload);
  const looking = Boolean(state.q || state.like || state.upload);
  document.body.classList.toggle("start", !looking);
  document.title = title();
  showAsked(upload);
  if (!looking) return begin();
  if (state.upload && !upload) {
    columns.replaceChildren();
    return say(`“${state.upload}” was on this page before it was loaded anew: choose the file again.`);
  }
  const [able, unable] = askable();
  say(able.length ? "Searching …" : `No model here reads text: search by a clip, or by a moment of the index.`);
  columns.dataset.many = able.length;
  const parts = able.map((model) => new Column(model, able.length > 1));
  columns.replaceChildren(...parts.map(({ element }) => element));
  const outcomes = await Promise.all(parts.map((part) => part.fill(running.signal, again)));
  if (outcomes.includes(null)) return undefined; // a newer search has begun
  const left = unable.length ? ` ${unable.map(({ name }) => name).join(", ")}: reads no text, so not asked.` : "";
  return say(able.length > 1 ? `${outcomes.map((words, n) => `${able[n].name}: ${words}`).join(" ")}${left}` : `${outcomes[0] ?? ""}${left}`);
}

function title() {
  const about = state.q || state.upload || (state.like && "More like this");
  return about ? `${about} – search your videos` : "Search your videos";
}

function say(words) {
  status.textContent = words;
}

/** The models that can answer, and those chosen that cannot. Window numbers belong to the index of one model. */
function askable() {
  if (state.like) return [searchable(models).filter(({ name }) => name === state.of).concat(searchable(models)).slice(0, 1), []];
  const all = chosen(models, state.models);
  const able = state.q ? all.filter(({ abilities }) => abilities.includes("texts")) : all;
  return [able, all.filter((model) => !able.includes(model))];
}

// --- what is asked, if not a sentence ---------------------------------------------------------------------------------
function showAsked(upload) {
  for (const video of asked.querySelectorAll("video")) URL.revokeObjectURL(video.src);
  asked.hidden = !(state.like || upload);
  if (upload) {
    const video = h("video", { src: URL.createObjectURL(upload), controls: true, playsinline: true, preload: "metadata", "aria-label": `Your clip ${upload.name}` });
    video.muted = true;
    video.addEventListener("error", () => video.replaceWith(h("p", { class: "note blank" }, "This browser cannot play it. The server may still read it.")));
    asked.replaceChildren(video, h("div", { class: "about" }, h("h2", {}, "Moments like your clip"), h("p", { class: "note" }, upload.name), models.some(talks) ? more({ file: upload }, models) : ""));
  } else if (state.like) {
    const [model] = askable()[0];
    const src = model && thumbnail(model, state.like, state.generation);
    const note = searchable(models).length > 1 ? `By ${model?.name}, in whose index this moment is.` : "";
    asked.replaceChildren(h("img", { src, alt: "The moment that others are compared with" }), h("div", { class: "about" }, h("h2", {}, "Moments like this one"), note ? h("p", { class: "note" }, note) : ""));
  } else {
    asked.replaceChildren();
  }
}

async function take(file) {
  if (!file) return;
  let name = file.name || "clip";
  while (uploads.has(name) && uploads.get(name) !== file) name = `${name} (again)`;
  uploads.set(name, file);
  await visit(anew(state, { upload: name }));
  results.focus({ preventScroll: true });
}

// --- what one model found ---------------------------------------------------------------------------------------------
class Column {
  constructor(model, named) {
    this.model = model;
    this.body = h("div", {}, waiting());
    this.line = h("p", { class: "note" });
    const head = h("div", { class: "head" }, h("h2", {}, model.name), this.line);
    this.element = h("section", { class: "column", "aria-label": named ? `Found by ${model.name}` : "Found" }, named ? head : h("h2", { class: "unseen" }, "Found"), this.body);
  }

  /** Ask and show. Returns what happened in a sentence, or null if that is of no interest any more. */
  async fill(signal, again) {
    try {
      const found = await this.ask(signal, again);
      return signal.aborted ? null : this.present(found);
    } catch (error) {
      if (signal.aborted || error.name === "AbortError") return null;
      return this.failed(error);
    }
  }

  async ask(signal, again) {
    const wanted = { k: state.k, model: this.model.name };
    if (state.q) Object.assign(wanted, filters(state));
    if (state.q && state.rerank && this.model.abilities.includes("match")) wanted.rerank = RERANKED;
    const key = JSON.stringify([state.q, state.like, state.upload, wanted]);
    if (!again && answers.has(key)) return answers.get(key);
    const busy = (seconds) => say(`The server is busy: trying again in ${many(seconds, "second")} …`);
    let found;
    if (state.upload) found = await alikeFile(uploads.get(state.upload), wanted, signal, busy);
    else if (state.like) found = await alike({ window: state.like, generation: state.generation, ...wanted }, signal, busy);
    else found = await search({ q: state.q, ...wanted }, signal, busy);
    answers.delete(key);
    answers.set(key, found);
    if (answers.size > KEPT) answers.delete(answers.keys().next().value);
    return found;
  }

  /** Hits below the cut-off are shown only to who asks for them. */
  present(found) {
    const { hits, cutoff } = found;
    const fitting = found.nothing_found ? [] : hits.filter(({ score }) => typeof cutoff !== "number" || score >= cutoff);
    const below = hits.length - fitting.length;
    const shown = state.any ? hits : fitting;
    this.line.textContent = `${many(shown.length, "moment")} · ${took(found)}`;
    this.body.replaceChildren();
    if (!fitting.length) this.body.append(this.nothing(found));
    if (shown.length) this.body.append(this.grid(shown, found));
    const onward = h("p", { class: "onward" });
    if (below && fitting.length && !state.any) onward.append(this.anyway(`Show ${many(below, "more moment")} below the cut-off of ${cutoff.toFixed(3)}`));
    else if (hits.length >= state.k && state.k < MOST && shown.length) onward.append(button("Show more", () => visit({ ...state, k: Math.min(MOST, 2 * state.k) })));
    if (onward.hasChildNodes()) this.body.append(onward);
    if (fitting.length) return `${many(shown.length, "moment")}, best first, in ${took(found)}.`;
    return shown.length ? `Nothing fits; these ${many(shown.length, "moment")} come closest.` : "Nothing found.";
  }

  nothing({ hits, cutoff }) {
    const box = h("div", { class: "nothing" }, h("h3", {}, state.q ? "Nothing here fits that sentence" : "Nothing here is like that"));
    if (hits.length) {
      const best = Math.max(...hits.map(({ score }) => score));
      box.append(h("p", {}, `The closest moment scores ${best.toFixed(3)}. In this index, what fits a sentence scores ${cutoff.toFixed(3)} or more.`));
    }
    if (state.q && FILTERS.some((name) => state[name])) box.append(h("p", {}, "Filters are set: without them there may be more."));
    if (hits.length && !state.any) box.append(this.anyway(hits.length > 1 ? `Show the closest ${hits.length} anyway` : "Show it anyway"));
    return box;
  }

  anyway(words) {
    return button(words, () => visit({ ...state, any: true }), "button any");
  }

  grid(hits, found) {
    return grid(hits, { found, model: this.model, models, question: state.q }, async (hit) => {
      await visit(anew(state, { like: String(hit.window), of: this.model.name, generation: String(found.generation) }));
      results.focus();
      scrollTo({ top: 0 });
    });
  }

  failed(error) {
    const words = error instanceof Failure ? error.message : `The page failed: ${error.message}`;
    const retry = button("Try again", () => show(true));
    this.body.replaceChildren(h("div", { class: "notice bad", role: "alert" }, h("p", {}, words), error.status === 401 ? token() : retry));
    if (!(error instanceof Failure)) console.error(error);
    return "The search failed.";
  }
}

function took({ took_ms: { total } }) {
  return total < 1 ? "under 1 ms" : `${Math.round(total).toLocaleString("en")} ms`;
}

function button(words, click, style = "button") {
  return h("button", { type: "button", class: style, click }, words);
}

function token() {
  const input = h("input", { name: "token", type: "password", "aria-label": "Token", placeholder: "The token that umt serve was given", required: true });
  return h("form", { method: "get", action: "/", class: "ask" }, input, h("button", { type: "submit", class: "button" }, "Enter"));
}

// --- before anything is asked -----------------------------------------------------------------------------------------
function begin() {
  const able = searchable(models);
  const [model] = chosen(models, state.models);
  columns.dataset.many = 1;
  if (!model) {
    columns.replaceChildren();
    return say(models.length ? "No index is served: “umt index” makes one, and “umt serve … --index” shows it." : status.textContent);
  }
  const texts = able.some(({ abilities }) => abilities.includes("texts"));
  say(texts ? "" : "The model reads no text: drop a clip on this page, or choose a moment below.");
  const { windows, generation } = model.index;
  const shown = Math.min(MOSAIC, windows);
  const tiles = Array.from({ length: shown }, (_, n) => Math.floor(((n + 0.5) * windows) / shown)).map((window) => {
    const next = anew(state, { like: String(window), of: model.name, generation: String(generation) });
    const image = h("img", { src: thumbnail(model, window, generation), alt: `Moment ${window + 1} of ${windows}`, loading: "lazy", decoding: "async" });
    const click = (event) => {
      if (event.metaKey || event.ctrlKey) return;
      event.preventDefault();
      visit(next).then(() => results.focus({ preventScroll: true }));
    };
    const item = h("li", {}, h("a", { href: write(next), click }, image));
    image.addEventListener("error", () => item.remove());
    return item;
  });
  columns.replaceChildren(h("section", { class: "mosaic", "aria-labelledby": "moments" }, h("h2", { id: "moments" }, "Or begin with a moment"), h("ul", { role: "list" }, tiles)));
  return undefined;
}

function thumbnail(model, window, generation) {
  return `/thumbnails/${encodeURIComponent(model.name)}/${encodeURIComponent(window)}.jpg?generation=${encodeURIComponent(generation)}`;
}

function facts() {
  const lines = searchable(models).map(({ name, kind, champion, index }) => {
    const about = `${many(index.windows, "moment")} in ${many(index.files, "file")}`;
    return h("p", {}, h("b", {}, name), ` ${kind}${champion ? ", champion" : ""} · ${about} · generation ${index.generation}`);
  });
  at("facts").replaceChildren(...lines);
}

// --- events -----------------------------------------------------------------------------------------------------------
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const q = form.elements.q.value.trim();
  visit(q ? anew(state, { q, ...controls.chosen(models) }) : anew(state, {}), { again: true });
});
form.elements.q.addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown") return;
  columns.querySelector(".hit .play, .mosaic a")?.focus();
  event.preventDefault();
});
at("home").addEventListener("click", (event) => {
  if (event.metaKey || event.ctrlKey) return;
  event.preventDefault();
  visit(anew(state, {}));
  form.elements.q.focus();
});
at("sound").addEventListener("change", (event) => hear(event.target.checked));
at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.matches("input:not([type=checkbox]), select, textarea") && !event.ctrlKey && !event.metaKey) {
    form.elements.q.focus();
    form.elements.q.select();
    event.preventDefault();
  } else if (event.key === "Escape") hush();
  else if (walk(event, columns)) event.preventDefault();
});
addEventListener("popstate", () => {
  state = read();
  show();
});

// A file dropped anywhere is searched by.
let over = 0;
const carries = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", (event) => {
  if (carries(event)) at("drop").hidden = ++over < 1;
});
addEventListener("dragleave", (event) => {
  if (carries(event)) at("drop").hidden = --over < 1;
});
addEventListener("dragover", (event) => carries(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!carries(event)) return;
  event.preventDefault();
  at("drop").hidden = true;
  over = 0;
  take(event.dataTransfer.files[0]);
});

// --- begin ------------------------------------------------------------------------------------------------------------
async function start() {
  say("Asking which models are served …");
  try {
    models = await served();
  } catch (failure) {
    say("");
    const retry = button("Try again", start);
    columns.replaceChildren(h("div", { class: "notice bad", role: "alert" }, h("p", {}, failure.message), failure.status === 401 ? token() : retry));
    return;
  }
  say(models.length ? "" : "No model is served.");
  controls.offer(models);
  facts();
  const texts = searchable(models).some(({ abilities }) => abilities.includes("texts"));
  form.elements.q.disabled = models.length > 0 && !texts;
  if (!texts) form.elements.q.placeholder = "The model reads no text: search by a clip";
  await show();
}

start();
