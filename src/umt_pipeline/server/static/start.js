// What is there before anything is asked, and what is asked if it is not a sentence.

import { anew, write } from "./address.js";
import { h, many, marked } from "./dom.js";
import { more, talks } from "./why.js";

const MOMENTS = 12;

/** A few moments of a model's index to begin with; `visit(next)` goes to those like one of them. */
export function mosaic(model, state, visit) {
  const { windows, edition } = model.index;
  const number = Math.min(MOMENTS, windows);
  const spread = Array.from({ length: number }, (_, n) => Math.floor(((n + 0.5) * windows) / number));
  const tiles = spread.map((window) => {
    const next = anew(state, { like: String(window), of: model.name, edition });
    const image = picture(model, window, edition, `Moment ${window + 1} of ${windows}`);
    const click = (event) => {
      if (event.metaKey || event.ctrlKey) return;
      event.preventDefault();
      visit(next);
    };
    const item = h("li", {}, h("a", { href: write(next), click }, image));
    image.addEventListener("error", () => item.remove());
    return item;
  });
  const title = h("h2", { id: "moments" }, "Or begin with a moment");
  return h("section", { class: "mosaic", "aria-labelledby": "moments" }, title, h("ul", { role: "list" }, tiles));
}

/** The moment of an index that others are compared with; the name of its file comes with them. */
export function askedMoment(model, state) {
  const image = picture(model, state.like, state.edition || model.index.edition, "The moment that others are compared with");
  return [image, h("div", { class: "about" }, h("h2", {}, "Moments like this one"), h("p", { class: "note" }))];
}

/** A person's own clip, and what the models can say about it. */
export function askedFile(file, models) {
  const src = URL.createObjectURL(file);
  const video = h("video", {
    src,
    controls: true,
    playsinline: true,
    preload: "metadata",
    "aria-label": `Your clip ${file.name}`,
  });
  video.muted = true;
  video.addEventListener("error", () => {
    video.replaceWith(h("p", { class: "note blank" }, "This browser cannot play it. The server may still read it."));
  });
  const about = h("div", { class: "about" }, h("h2", {}, "Moments like your clip"), h("p", { class: "note" }, file.name));
  if (models.some(talks)) about.append(more({ file }, models));
  return [video, about];
}

/** What is served, a line for each model, and why something newer is not. */
export function facts(models) {
  return models.flatMap(({ name, kind, champion, behind, index }) => {
    const about = `${many(index.windows, "moment")} in ${many(index.files, "file")}`;
    const rest = ` ${kind}${champion ? ", champion" : ""} · ${about} · generation ${index.generation}`;
    return [h("p", {}, h("b", {}, name), rest), ...behind.map((why) => h("p", { class: "note bad" }, marked(`${name}: ${why}`)))];
  });
}

function picture(model, window, edition, alt) {
  const path = `/thumbnails/${encodeURIComponent(model.name)}/${encodeURIComponent(window)}.jpg`;
  return h("img", { src: `${path}?edition=${encodeURIComponent(edition)}`, alt, decoding: "async" });
}
