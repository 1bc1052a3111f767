// The grid of hits, and how one walks through it with the keyboard.

import { decimal, h, icon } from "./dom.js";
import { Shot } from "./player.js";
import { Why } from "./why.js";

const MATCH = "How well sentence and clip go together when the model reads both at once: above 0 they rather do";
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Hits, best first. `context` says whose they are: {found, model, models, question}; `alike(hit)` is called for "more like this". */
export function grid(hits, context, alike) {
  return h(
    "ol",
    { class: "grid", role: "list" },
    hits.map((hit) => card(hit, context, alike)),
  );
}

function card(hit, context, alike) {
  const shot = new Shot(hit);
  const item = h("li", { class: "hit", "data-window": hit.window, "data-rank": hit.rank });
  const why = new Why({ ...context, hit, item, shot });
  const again = { type: "button", class: "quiet alike", "aria-label": `More like this: ${hit.name}`, click: () => alike(hit) };
  item.append(
    shot.element,
    h("div", { class: "about" }, h("p", { class: "name", title: hit.path }, hit.name), facts(hit), hit.note ? h("p", { class: "note bad" }, hit.note) : null),
    h("div", { class: "actions" }, h("button", again, icon("alike"), "More like this"), why.button),
  );
  return item;
}

function facts(hit) {
  const line = h("p", { class: "numbers" }, number("score", hit.score, 3, "How alike the two vectors are: their cosine"));
  if (hit.match !== null) line.append(number("match", hit.match, 2, MATCH));
  if (hit.label) line.append(h("span", { class: "tag", title: "Label" }, hit.label));
  if (hit.split) line.append(h("span", { class: "tag plain", title: "Split" }, hit.split));
  return line;
}

function number(name, value, digits, title) {
  return h("span", { title }, `${name} `, h("b", {}, decimal(value, digits)));
}

/** Skeletons while a search is under way. */
export function waiting(length = 8) {
  const bone = () => ["shot", "line", "line short"].map((style) => h("div", { class: style }));
  return h(
    "ol",
    { class: "grid", "aria-hidden": "true" },
    Array.from({ length }, () => h("li", { class: "bone" }, bone())),
  );
}

/** Arrow keys go from hit to hit, Home and End to the first and the last. Returns whether a key was used. */
export function walk(event, columns) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return false;
  const plays = [...columns.querySelectorAll(".hit .play")];
  const here = event.target.closest(".hit")?.querySelector(".play");
  if (!here || !plays.length) return false;
  let next = null;
  if (event.key === "Home") next = plays[0];
  else if (event.key === "End") next = plays.at(-1);
  else if (event.key in ARROWS) next = neighbour(here, plays, ARROWS[event.key]);
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
  return next !== null;
}

/** The nearest one in a direction, as it is seen; at the end of a row, the next one in order. */
function neighbour(here, plays, [dx, dy]) {
  const from = here.getBoundingClientRect();
  const middle = (box) => [box.left + box.width / 2, box.top + box.height / 2];
  const [x, y] = middle(from);
  let best = null;
  for (const play of plays) {
    const box = play.getBoundingClientRect();
    const [across, down] = [middle(box)[0] - x, middle(box)[1] - y];
    const ahead = dx ? across * dx : down * dy;
    const aside = Math.abs(dx ? down : across);
    const inLine = aside < (dx ? from.height : from.width) / 2;
    if (ahead < 2 || (!inLine && dx)) continue;
    const far = ahead + 3 * aside;
    if (!best || far < best.far) best = { play, far };
  }
  if (best) return best.play;
  return dx ? (plays[plays.indexOf(here) + dx] ?? null) : null;
}
