// The form at the top: which models, which filters, which switches; it shows a state, and reads it again.

import { FILTERS } from "./address.js";
import { h } from "./dom.js";

const WIDEST = 3; // more columns than this are too narrow unless somebody asks for them

/** Models that can be searched: those with an index. */
export function searchable(models) {
  return models.filter(({ index }) => index);
}

/** The models that a state means: those it names, or else the champions first, as many as fit. */
export function chosen(models, names) {
  const able = searchable(models);
  const named = able.filter(({ name }) => names.includes(name));
  if (named.length) return named;
  const usual = [...able]
    .sort((one, other) => Number(Boolean(other.champion)) - Number(Boolean(one.champion)))
    .slice(0, WIDEST);
  return able.filter((model) => usual.includes(model));
}

export class Controls {
  constructor(form, changed) {
    this.form = form;
    this.fields = form.elements;
    this.boxes = form.querySelector("#models");
    this.filters = form.querySelector("#filters");
    this.count = form.querySelector("#filters-count");
    this.sentence = "";
    form.addEventListener("change", (event) => event.target.closest(".options") && event.target.id !== "sound" && changed());
    form.querySelector("#no-filters").addEventListener("click", () => {
      for (const name of FILTERS) this.fields[name].value = "";
      changed();
    });
    document.addEventListener("click", (event) => this.filters.contains(event.target) || this.filters.removeAttribute("open"));
    this.filters.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      this.filters.removeAttribute("open");
      this.filters.querySelector("summary").focus();
    });
  }

  /** Offer what the models and their indexes have. */
  offer(models) {
    const able = searchable(models);
    this.boxes.hidden = able.length < 2;
    this.boxes.replaceChildren(this.boxes.firstElementChild, ...able.map(box));
    for (const [name, field] of [
      ["labels", "label"],
      ["splits", "split"],
    ]) {
      const values = [...new Set(able.flatMap(({ index }) => index[name] ?? []))].sort((one, other) =>
        one.localeCompare(other),
      );
      this.form.querySelector(`#by-${field}`).hidden = !values.length;
      this.fields[field].replaceChildren(
        h("option", { value: "" }, "any"),
        ...values.map((value) => h("option", { value }, value)),
      );
    }
  }

  /** Show a state. */
  show(state, models) {
    const names = chosen(models, state.models).map(({ name }) => name);
    for (const input of this.boxes.querySelectorAll("input")) input.checked = names.includes(input.value);
    // What is being typed stays, where the sentence is the one that was shown before.
    if (state.q !== this.sentence) this.fields.q.value = this.sentence = state.q;
    this.fields.rerank.checked = state.rerank;
    for (const name of FILTERS) this.fields[name].value = state[name];
    this.filters.hidden = !searchable(models).length;
    // For sentences only.
    const isForClips = Boolean(state.like || state.upload);
    this.form.querySelector("#by-rerank").hidden =
      isForClips || !searchable(models).some(({ abilities }) => abilities.includes("match"));
    const active = FILTERS.filter((name) => state[name]).length;
    this.count.hidden = !active;
    this.count.textContent = String(active);
  }

  /** Return what is chosen now. No model at all means the usual ones, as in an address. */
  chosen(models) {
    const checked = [...this.boxes.querySelectorAll("input:checked")].map(({ value }) => value);
    const usual = chosen(models, []).map(({ name }) => name);
    const asUsual = checked.length === usual.length && checked.every((name) => usual.includes(name));
    const settings = { models: asUsual ? [] : checked, rerank: this.fields.rerank.checked };
    for (const name of FILTERS) settings[name] = this.fields[name].value.trim();
    return settings;
  }
}

function box({ name, kind, champion }) {
  const title = champion ? `${kind}, the champion` : kind;
  return h(
    "label",
    { class: "chip", title },
    h("input", { type: "checkbox", name: "model", value: name }),
    h("span", {}, name, champion ? h("span", { class: "crown" }, " champion") : ""),
  );
}
