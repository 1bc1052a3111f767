// Elements, and numbers as people read them.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element. Attributes that are functions listen to events, texts become text and never HTML. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** One of the pictures that stand at the top of index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Words in which commands stand between backticks, as the server says them. */
export function marked(words) {
  return words.split("`").map((part, number) => (number % 2 ? h("code", {}, part) : part));
}

export function button(words, click, style = "button") {
  return h("button", { type: "button", class: style, click }, words);
}

/** 75.5 seconds as 1:15, or as 1:15.5 where tenths tell two places apart. */
export function clock(seconds, tenths = false) {
  const all = tenths ? Math.round(seconds * 10) / 10 : Math.floor(seconds + 1e-6);
  const hours = Math.floor(all / 3600);
  const minutes = Math.floor((all % 3600) / 60);
  const rest = (all % 60).toFixed(tenths ? 1 : 0).padStart(tenths ? 4 : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** From where to where; with tenths where whole seconds do not say it. */
export function span(start, end) {
  const whole = Math.abs(start - Math.round(start)) < 0.05 && Math.abs(end - Math.round(end)) < 0.05;
  return `${clock(whole ? Math.round(start) : start, !whole)} – ${clock(whole ? Math.round(end) : end, !whole)}`;
}

export function many(number, one, more = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : more}`;
}

/** A number with its sign as it is printed. */
export function decimal(value, digits) {
  return value.toFixed(digits).replace("-", "−");
}

export function percent(share) {
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}
