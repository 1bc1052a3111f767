// Why a hit was found: its frames and how much each counted; and what else the model can say about it.

import { answer, classify, why } from "./api.js";
import { clock, decimal, h, icon, marked, percent } from "./dom.js";

let number = 0;

/** A button, and the panel that it opens below the row of its hit. */
export class Why {
  constructor({ hit, found, model, models, question, item, shot }) {
    Object.assign(this, { hit, found, model, models, question, item, shot });
    this.panel = null;
    this.id = `why-${number++}`;
    this.explains = model.abilities.includes("attention");
    this.says = models.some(talks);
    this.word = this.explains ? "Why" : "Ask";
    const opens = {
      type: "button",
      class: "quiet why",
      "aria-expanded": "false",
      "aria-label": `${this.word}: ${hit.name}`,
      click: () => this.turn(),
    };
    this.button = this.explains || this.says ? h("button", opens, icon(this.explains ? "why" : "ask"), this.word) : null;
  }

  turn() {
    if (this.panel) this.close();
    else this.open();
  }

  open() {
    for (const other of this.item.parentElement.querySelectorAll(".panel .close")) other.click();
    const { path, media_url: url, start_s: start } = this.hit;
    const whole = h("a", { class: "quiet", href: `${url}#t=${start}`, target: "_blank", rel: "noopener" }, "Whole file");
    const close = { type: "button", class: "quiet close", "aria-label": "Close", click: () => this.close() };
    const ways = h("div", { class: "ways" }, whole, h("button", close, icon("close")));
    const head = h("div", { class: "bar" }, h("h3", {}, this.word, " ", h("q", {}, path)), ways);
    this.body = h("div", { class: "body" });
    this.note = h("p", { class: "note", role: "status" });
    const leave = (event) => event.key === "Escape" && this.close();
    this.panel = h("li", { class: "panel", id: this.id, keydown: leave }, head, this.body, this.note);
    const what = { window: this.hit.window, index: this.model.name, edition: this.found.edition };
    if (this.says) this.panel.append(more(what, this.models));
    this.item.after(this.panel);
    this.item.classList.add("open");
    this.button.setAttribute("aria-expanded", "true");
    this.button.setAttribute("aria-controls", this.id);
    if (this.explains) this.load();
  }

  close() {
    const inside = this.panel.contains(document.activeElement);
    this.panel.remove();
    this.panel = null;
    this.item.classList.remove("open");
    this.button.setAttribute("aria-expanded", "false");
    this.button.removeAttribute("aria-controls");
    if (inside) this.button.focus();
  }

  async load() {
    this.note.textContent = "Looking at the frames …";
    try {
      const said = await why({
        window: this.hit.window,
        q: this.question,
        model: this.model.name,
        edition: this.found.edition,
      });
      this.body.replaceChildren(this.sentence(said), this.strip(said.frames));
      this.note.textContent =
        "Bright is where the model looked; a bar is a frame's share of its attention. Press a frame to play from there.";
    } catch (failure) {
      this.body.replaceChildren(h("p", { class: "notice bad", role: "alert" }, marked(failure.message)));
      this.note.textContent = "";
    }
  }

  sentence(said) {
    const numbers = [
      ["score", said.score, 3],
      ["cut-off", this.found.cutoff, 3],
      ["match", said.match, 2],
    ];
    const known = numbers.filter(([, value]) => typeof value === "number");
    return h(
      "p",
      { class: "numbers" },
      known.map(([name, value, digits]) => h("span", {}, `${name} `, h("b", {}, decimal(value, digits)))),
    );
  }

  strip(frames) {
    const most = Math.max(...frames.map(({ weight }) => weight), 1e-9);
    const pictures = frames.map((frame) => {
      const button = h(
        "button",
        {
          type: "button",
          class: frame.weight === most ? "frame most" : "frame",
          "aria-label": `Play from ${clock(frame.second, true)}, which has ${percent(frame.weight)} of the attention`,
          click: () => this.shot.play(Math.min(frame.second, this.hit.end_s)),
        },
        h("img", { src: frame.image_url, alt: "", loading: "lazy" }),
        h("span", { class: "weight" }, h("span", { class: "fill" })),
        h("span", { class: "second" }, clock(frame.second, true)),
        h("span", { class: "share" }, percent(frame.weight)),
      );
      button.style.setProperty("--share", String(frame.weight / most));
      return h("li", {}, button);
    });
    return h("ol", { class: "strip", role: "list" }, pictures);
  }
}

/** Whether a model can say something of a clip. */
export function talks({ abilities }) {
  return abilities.includes("classify") || abilities.includes("ask");
}

/** Classes and answers for a clip: `what` is {file} or {window, index, edition}. Only what the models can do is offered. */
export function more(what, models) {
  const classes = models.filter(({ abilities }) => abilities.includes("classify"));
  const answers = models.filter(({ abilities }) => abilities.includes("ask"));
  const said = h("div", { class: "replies", "aria-live": "polite" });
  const box = h("div", { class: "more" });
  const reply = async (make) => {
    said.replaceChildren(h("p", { class: "note" }, "Looking …"));
    try {
      said.replaceChildren(...(await make()));
    } catch (failure) {
      said.replaceChildren(h("p", { class: "notice bad", role: "alert" }, marked(failure.message)));
    }
  };
  if (classes.length) {
    const press = () =>
      reply(async () => (await Promise.all(classes.map(({ name }) => tasks(what, name, classes.length > 1)))).flat());
    box.append(h("button", { type: "button", class: "button classify", click: press }, "What is shown?"));
  }
  if (answers.length) {
    const input = h("input", {
      type: "text",
      name: "question",
      placeholder: "Ask about this clip",
      "aria-label": "A question about this clip",
      required: true,
    });
    const submit = (event) => {
      event.preventDefault();
      reply(() => Promise.all(answers.map(({ name }) => answered(what, input.value.trim(), name, answers.length > 1))));
    };
    box.append(h("form", { class: "ask", submit }, input, h("button", { type: "submit", class: "button" }, "Ask")));
  }
  box.append(said);
  return box;
}

async function tasks(what, model, named) {
  const { tasks: found } = await classify(what, model);
  return Object.entries(found).map(([task, labels]) =>
    bars(
      named ? `${model}: ${task}` : task,
      labels.map(({ label, probability }) => ({ text: label, probability })),
    ),
  );
}

async function answered(what, question, model, named) {
  const { answers } = await answer(what, question, model);
  return bars(named ? `${model}: ${question}` : question, answers);
}

function bars(title, rows) {
  const items = rows.map(({ text, probability }) => {
    const item = h(
      "li",
      {},
      h("span", { class: "text" }, text),
      h("span", { class: "share" }, percent(probability)),
      h("span", { class: "track", "aria-hidden": "true" }, h("span", { class: "fill" })),
    );
    item.style.setProperty("--share", String(probability));
    return item;
  });
  return h("figure", { class: "bars" }, h("figcaption", {}, title), h("ol", { role: "list" }, items));
}
