// What one model found, or that it found nothing, or why it could not look.

import { FILTERS, MOST, RERANKED, anew, filters } from "./address.js";
import { Failure, alike, alikeFile, search } from "./api.js";
import { button, decimal, h, many, marked } from "./dom.js";
import { grid, waiting } from "./hits.js";

const KEPT = 30;
const GONE = [404, 409];
const PASSING = [0, 408, 429]; // no answer at all, or one that came too late or too often
const answers = new Map(); // what was found, so that "back" is there at once

/**
 * The part of the page that belongs to a model. `look` says what is looked for: {state, models, file, visit, say, told}.
 * `visit(next, rank, model)` goes to another state and then to the hit of a rank that a model found, or to the top;
 * `say(words)` speaks; `told(name)` hears of which file the moment is that others are compared with.
 */
export class Column {
  constructor(model, look, isNamed) {
    this.model = model;
    this.look = look;
    this.body = h("div", {}, waiting());
    this.line = h("p", { class: "note" });
    this.isOld = false; // whether another index is served than the one that the page knows of
    const head = isNamed
      ? h("div", { class: "head" }, h("h2", {}, model.name), this.line)
      : h("h2", { class: "unseen" }, "Found");
    this.element = h(
      "section",
      { class: "column", "data-model": model.name, "aria-label": isNamed ? `Found by ${model.name}` : "Found" },
      head,
      this.body,
    );
  }

  /** Ask and show; `again`: even if the answer is known. Returns what happened in a sentence, or null if a newer search began. */
  async fill(signal, again) {
    try {
      const found = await this.ask(signal, again);
      return signal.aborted ? null : this.present(found);
    } catch (error) {
      return signal.aborted || error.name === "AbortError" ? null : this.failed(error);
    }
  }

  async ask(signal, again) {
    const { state, file, say } = this.look;
    const wanted = { k: state.k, model: this.model.name, ...filters(state) };
    if (state.q && state.rerank && this.model.abilities.includes("match")) wanted.rerank = RERANKED;
    const key = JSON.stringify([state.q, state.like, state.edition, state.upload, this.model.index.edition, wanted]);
    if (!again && answers.has(key)) return answers.get(key);
    const busy = (seconds) => say(`The server is busy: trying again in ${many(seconds, "second")} …`);
    let found;
    if (file) found = await alikeFile(file, wanted, signal, busy);
    else if (state.like) found = await alike({ window: state.like, edition: state.edition, ...wanted }, signal, busy);
    else found = await search({ q: state.q, ...wanted }, signal, busy);
    answers.delete(key);
    answers.set(key, found);
    if (answers.size > KEPT) answers.delete(answers.keys().next().value);
    return found;
  }

  /** Hits below the cut-off are shown only to who asks for them. */
  present(found) {
    const { state } = this.look;
    const { hits, cutoff } = found;
    this.isOld = found.edition !== this.model.index.edition;
    const fitting = found.nothing_found ? [] : hits.filter(({ score }) => typeof cutoff !== "number" || score >= cutoff);
    const shown = state.any ? hits : fitting;
    // A clip is compared with clips, for which there is no cut-off at all.
    const warning = state.q && typeof cutoff !== "number" ? "This index has no cut-off: some may not fit." : "";
    this.line.textContent = [many(shown.length, "moment"), took(found), warning, ...found.notes].filter(Boolean).join(" · ");
    if (state.like) this.look.told(found.query);
    this.body.replaceChildren();
    if (!fitting.length) this.body.append(this.nothing(found));
    if (shown.length) this.body.append(this.grid(shown, found), this.onward(hits.length, hits.length - shown.length, cutoff));
    if (fitting.length) return `${many(shown.length, "moment")}, best first, in ${took(found)}. ${[warning, ...found.notes].join(" ")}`;
    return shown.length ? `Nothing fits; these ${many(shown.length, "moment")} come closest.` : "Nothing found.";
  }

  nothing({ hits, cutoff, notes }) {
    const { state } = this.look;
    const box = h("div", { class: "nothing" });
    box.append(h("h3", {}, state.q ? "Nothing here fits that sentence" : "Nothing here is like that"));
    if (hits.length && typeof cutoff === "number") {
      const best = decimal(Math.max(...hits.map(({ score }) => score)), 3);
      const least = `In this index, what fits a sentence scores ${decimal(cutoff, 3)} or more`;
      box.append(h("p", {}, `${least}; the closest moment scores ${best}.`));
    }
    box.append(...notes.map((words) => h("p", {}, words)));
    if (FILTERS.some((name) => state[name])) {
      box.append(h("p", {}, "Filters are set: without them there may be more."));
    }
    if (hits.length && !state.any) {
      box.append(this.anyway(hits.length > 1 ? `Show the closest ${hits.length} anyway` : "Show it anyway"));
    }
    return box;
  }

  anyway(words, rank = 1) {
    return button(words, () => this.look.visit({ ...this.look.state, any: true }, rank, this.model.name), "button any");
  }

  /** What there is to see after the last hit. */
  onward(number, below, cutoff) {
    const { state, visit } = this.look;
    const line = h("p", { class: "onward" });
    if (below) {
      line.append(
        this.anyway(`Show ${many(below, "more moment")} below the cut-off of ${decimal(cutoff, 3)}`, number - below + 1),
      );
    } else if (number >= state.k && state.k < MOST) {
      line.append(button("Show more", () => visit({ ...state, k: Math.min(MOST, 2 * state.k) }, number + 1, this.model.name)));
    }
    return line.hasChildNodes() ? line : "";
  }

  grid(hits, found) {
    const { state, models, visit } = this.look;
    const { name } = this.model;
    return grid(hits, { found, model: this.model, models, question: state.q }, (hit) =>
      visit({
        ...state,
        q: "",
        upload: "",
        like: String(hit.window),
        of: name,
        edition: found.edition,
        any: false,
      }),
    );
  }

  failed(error) {
    const { state, visit } = this.look;
    const words = error instanceof Failure ? error.message : `The page failed: ${error.message}`;
    const box = notice(words, error.status, () => visit(state));
    // The moment has another number by now, or is in no index any more.
    if (state.like && GONE.includes(error.status)) box.append(button("Begin anew", () => visit(anew(state, {}))));
    this.body.replaceChildren(box);
    if (!(error instanceof Failure)) console.error(error);
    this.isOld = error.status === 409;
    return "The search failed.";
  }
}

/** What went wrong, and a way out of it: asking once more only where the answer may be another one. */
export function notice(words, status, retry) {
  const again = PASSING.includes(status) || !(status < 500) ? button("Try again", retry) : null;
  return h("div", { class: "notice bad", role: "alert" }, h("p", {}, marked(words)), status === 401 ? token() : again);
}

function token() {
  const about = "The token that umt serve was given";
  const input = h("input", { name: "token", type: "password", "aria-label": about, placeholder: about, required: true });
  return h(
    "form",
    { method: "get", action: "/", class: "ask" },
    input,
    h("button", { type: "submit", class: "button" }, "Enter"),
  );
}

function took({ took_ms: { total } }) {
  return total < 1 ? "under 1 ms" : `${Math.round(total).toLocaleString("en")} ms`;
}
