// The event log: what happened, newest first, in words. Progress is no event worth a line.

import { h } from "./dom.js";
import { clock, nameParts, plural } from "./format.js";
import { ENDED } from "./present.js";
import { outcome } from "./jobs.js";

const LINES = 300;

export class Log {
  constructor() {
    this.list = document.getElementById("log");
    this.announcer = document.getElementById("announcer");
  }

  /** Note an event beside what was known of its subject before. */
  note(name, data, before) {
    if (name === "snapshot") this.line("page", `the present: ${plural(data.models.length, "model")}, ${data.memory.models.length} loaded`);
    if (name === "job" && (data.state !== before?.state || data.stage !== before?.stage)) this.#job(data);
    if (name === "model" && before && data.state !== before.state) this.line("model", `${nameParts(data.id)[1]} is ${data.state}`);
  }

  /** Add a line; `kind` is its colour and first word. */
  line(kind, words, fault = false) {
    const time = h("time", {}, clock(Date.now() / 1000));
    this.list.prepend(h("li", { className: fault ? "error" : "" }, time, h("span", { className: "kind" }, kind), h("span", {}, words)));
    while (this.list.childElementCount > LINES) this.list.lastElementChild.remove();
  }

  #job(job) {
    const name = nameParts(job.model)[1];
    if (!ENDED.has(job.state)) {
      this.line(job.kind, `${name}: ${job.stage ?? job.state}`);
      return;
    }
    const why = job.state === "failed" ? `: ${job.error?.message}` : "";
    this.line(job.kind, `${name} ${job.state}${why || ` · ${outcome(job).split(" · ").slice(1).join(" · ")}`}`, job.state === "failed");
    this.announcer.textContent = `${job.kind} of ${name} ${job.state}${why}`;
  }
}
