// A hit that plays where it stands: from its first second to its last, and no further.

import { missing } from "./api.js";
import { h, icon, marked, span } from "./dom.js";

let current = null; // only one plays at a time
let sound = false;

/** Let clips be heard, the one that plays too. */
export function hear(value) {
  sound = value;
  for (const video of document.querySelectorAll(".shot video")) video.muted = !value;
}

/** Stop whatever plays. */
export function hush() {
  current?.stop();
}

/** The picture of a hit, which plays when it is pressed. `element.dataset.state`: idle, loading, playing, paused, ended or failed. */
export class Shot {
  constructor(hit) {
    this.hit = hit;
    this.still = hit.end_s <= hit.start_s; // an image lasts no time
    this.url = hit.media_url;
    this.reel = null;
    this.bar = h("span", { class: "bar" });
    this.note = h("p", { class: "said", role: "status" });
    this.picture = h("img", { class: "picture", src: hit.thumbnail_url, alt: "", loading: "lazy", decoding: "async" });
    this.button = h("button", { type: "button", class: "play", click: () => this.pressed() });
    this.element = h(
      "div",
      { class: "shot" },
      h("img", { class: "backdrop", src: hit.thumbnail_url, alt: "", loading: "lazy", decoding: "async" }),
      this.picture,
      h("span", { class: "span", "aria-hidden": "true" }, this.still ? "image" : span(hit.start_s, hit.end_s)),
      this.bar,
      this.button,
      this.note,
    );
    this.picture.addEventListener("error", () => this.element.classList.add("bare"));
    this.is("idle");
  }

  is(state) {
    const { name, start_s, end_s } = this.hit;
    const [verb, picture] = { playing: ["Pause", "pause"], loading: ["Stop", "pause"], ended: ["Play again", "again"] }[
      state
    ] ?? ["Play", "play"];
    this.element.dataset.state = state;
    this.button.setAttribute("aria-label", this.still ? `Open: ${name}` : `${verb}: ${name}, ${span(start_s, end_s)}`);
    this.button.replaceChildren(h("span", { class: "disc" }, icon(this.still ? "search" : picture)));
  }

  pressed() {
    const state = this.element.dataset.state;
    if (state === "playing") this.pause();
    else if (state === "paused") this.resume();
    else if (state === "loading") this.stop();
    else this.play();
  }

  /** Play from a second of the file, the first of the hit unless another is given. */
  async play(second = this.hit.start_s) {
    if (this.still) return void open(this.hit.media_url, "_blank", "noopener");
    if (current !== this) hush();
    current = this;
    this.note.textContent = "";
    this.is("loading");
    this.reel ??= new Reel(this.url, this.hit);
    const reel = this.reel;
    if (!reel.element.isConnected) this.picture.after(reel.element);
    try {
      await reel.start(second);
    } catch {
      return this.reel === reel ? this.fails(second) : undefined;
    }
    return this.reel === reel ? this.running() : undefined;
  }

  running() {
    this.is("playing");
    const reel = this.reel;
    const { start_s, end_s } = this.hit;
    const goesOn = () => {
      if (this.reel !== reel || this.element.dataset.state !== "playing") return false;
      this.bar.style.setProperty("--done", String(Math.min(1, (reel.time - start_s) / Math.max(0.01, end_s - start_s))));
      if (reel.time < end_s - 0.02 && !reel.ended) return true;
      this.ended();
      return false;
    };
    const look = () => goesOn() && requestAnimationFrame(look);
    // A hidden tab draws no frames, but its clips go on: their own clock stops them too.
    reel.element.ontimeupdate = goesOn;
    reel.element.onerror = () => this.reel === reel && this.fails(reel.time);
    look();
  }

  ended() {
    this.reel.pause();
    this.bar.style.setProperty("--done", "1");
    this.is("ended");
  }

  pause() {
    this.reel.pause();
    this.is("paused");
  }

  async resume() {
    if (current !== this) hush();
    current = this;
    const reel = this.reel;
    try {
      await reel.resume();
    } catch {
      return; // it was stopped before it went on
    }
    if (this.reel === reel) this.running();
  }

  stop() {
    if (current === this) current = null;
    this.reel?.close();
    this.reel = null;
    this.bar.style.setProperty("--done", "0");
    this.is("idle");
  }

  /** Ask for the file in a form that every browser plays; if it is that already, or does not come, say so. */
  async fails(second) {
    this.stop();
    this.is("loading");
    const words = await missing(this.url);
    if (this.element.dataset.state !== "loading") return undefined; // it was pressed again
    if (!words && this.url === this.hit.media_url) {
      this.url += "?transcode=true";
      return current ? this.is("idle") : this.play(second);
    }
    this.is("failed");
    this.note.replaceChildren(h("span", {}, marked(words || "This browser cannot play the file.")));
    return undefined;
  }
}

/** The file itself, asked for by its place, so that only that part of it is loaded. */
class Reel {
  constructor(url, { start_s, end_s }) {
    this.element = h("video", {
      preload: "auto",
      playsinline: true,
      "aria-hidden": "true",
      tabindex: "-1",
      disablepictureinpicture: true,
    });
    this.element.muted = !sound;
    this.element.src = `${url}#t=${start_s},${end_s}`;
  }

  get time() {
    return this.element.currentTime;
  }

  get ended() {
    return this.element.ended;
  }

  async start(second) {
    const video = this.element;
    if (video.readyState < HTMLMediaElement.HAVE_METADATA) await happens(video, "loadedmetadata");
    if (!video.videoWidth) throw new Error("no pictures in a form that the browser knows");
    if (Math.abs(video.currentTime - second) > 0.02) video.currentTime = second;
    await video.play();
  }

  pause() {
    this.element.pause();
  }

  resume() {
    return this.element.play();
  }

  close() {
    this.element.pause();
    this.element.removeAttribute("src");
    this.element.load(); // lets go of the connection
    this.element.remove();
  }
}

function happens(target, name) {
  return new Promise((resolve, reject) => {
    target.addEventListener(name, resolve, { once: true });
    target.addEventListener("error", () => reject(target.error), { once: true });
  });
}
