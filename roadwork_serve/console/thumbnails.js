// Small pictures of journal entries, loaded as they come into view, a few at a time.

import { mediaUrl } from "./api.js";
import { make } from "./page.js";

const AT_ONCE = 2, TRIES = 3, PAUSE_MS = 1500;

export class Thumbnails {
  // The pictures are released when the page is left.
  constructor(signal) {
    this.signal = signal;
    this.waiting = [];
    this.running = 0;
    this.urls = new Map(); // by the id of the entry
    this.seen = new IntersectionObserver((found) => found.filter((each) => each.isIntersecting).forEach((each) => this.want(each.target)));
    signal.addEventListener("abort", () => {
      this.seen.disconnect();
      this.waiting.length = 0;
      for (const url of this.urls.values()) URL.revokeObjectURL(url);
    });
  }

  // Returns a frame that the picture of the entry comes into.
  of(entry) {
    const frame = make("span", { class: "thumbnail", "data-media": entry.verdict.media, "data-id": entry.id });
    if (!entry.media_available) frame.append(make("span", { class: "quiet" }, "not stored"));
    else if (this.urls.has(entry.id)) this.fill(frame, this.urls.get(entry.id));
    else this.seen.observe(frame);
    return frame;
  }

  fill(frame, url) {
    frame.replaceChildren(make("img", { src: url, alt: "" }));
  }

  want(frame) {
    this.seen.unobserve(frame);
    this.waiting.push(frame);
    this.next();
  }

  async next() {
    if (this.running >= AT_ONCE || !this.waiting.length) return;
    this.running += 1;
    await this.load(this.waiting.shift());
    this.running -= 1;
    this.next();
  }

  async load(frame) {
    for (let tried = 1; frame.isConnected && !this.signal.aborted; tried += 1) {
      try {
        const { url } = await mediaUrl(`/v1/journal/${encodeURIComponent(frame.dataset.id)}/thumbnail`);
        if (this.signal.aborted) return URL.revokeObjectURL(url);
        this.urls.set(frame.dataset.id, url);
        return this.fill(frame, url);
      } catch (error) {
        if (![429, 503].includes(error.status) || tried === TRIES) {
          frame.replaceChildren(make("span", { class: "quiet", title: error.message }, "no picture"));
          return;
        }
        await new Promise((done) => setTimeout(done, PAUSE_MS * tried));
      }
    }
  }
}
