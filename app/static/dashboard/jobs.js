// Jobs: how far, how fast, how long still, and a button that calls them off.

import { call } from "./api.js";
import { h, keyed, setText } from "./dom.js";
import { bytes, clock, duration, nameParts } from "./format.js";
import { ENDED } from "./present.js";
import { showRefusal, told } from "./refusal.js";

const SHOWN = 30;

export class Jobs {
  constructor(present, select) {
    this.present = present;
    this.list = document.getElementById("jobs");
    this.none = document.getElementById("no-jobs");
    this.list.addEventListener("click", (event) => {
      const model = event.target.closest("button[data-model]")?.dataset.model;
      if (model) select(model);
    });
  }

  draw() {
    const jobs = this.present.newestJobs(SHOWN);
    this.none.hidden = jobs.length > 0;
    keyed(this.list, jobs, (job) => job.id, jobRow, fillJob);
  }
}

/** A row for a job, to be filled by `fillJob`. */
export function jobRow(job) {
  const [, name] = nameParts(job.model);
  const refusal = h("div", { className: "refusal", role: "alert" });
  const cancel = h("button", { type: "button", className: "cancel", aria: { label: `Cancel: ${job.kind} ${name}` } }, "Cancel");
  cancel.addEventListener("click", async () => {
    cancel.disabled = true;
    try {
      await call(`v1/jobs/${job.id}`, { method: "DELETE" });
    } catch (error) {
      cancel.disabled = false;
      showRefusal(refusal, error);
    }
  });
  return h("li", { className: "job" },
    h("div", { className: "job-head" },
      h("span", { className: "job-title" }, h("b", {}, job.kind), " ",
        h("button", { type: "button", className: "link", title: job.model, data: { model: job.model } }, name)),
      h("span", { className: "state" }), cancel),
    h("progress", { max: 1, aria: { label: `${job.kind} ${name}` } }),
    h("p", { className: "job-words muted" }), h("div", { className: "job-fault" }), refusal);
}

export function fillJob(element, job) {
  const part = (selector) => element.querySelector(selector);
  const ended = ENDED.has(job.state);
  element.dataset.state = job.state;
  setText(part(".state"), job.state);
  part(".cancel").hidden = ended;
  part("progress").hidden = ended;
  part("progress").value = job.progress;
  setText(part(".job-words"), ended ? outcome(job) : progressWords(job));
  const fault = job.error?.message ?? "";
  if (element.fault !== fault) {
    element.fault = fault;
    part(".job-fault").replaceChildren(...(job.error && job.state === "failed" ? told(job.error) : []));
  }
}

function progressWords(job) {
  return [
    job.stage ?? "waiting",
    job.bytes_total ? `${bytes(job.bytes_done)} of ${bytes(job.bytes_total)}` : null,
    job.bytes_per_second ? `${bytes(job.bytes_per_second)}/s` : null,
    job.eta_seconds !== null ? `${duration(job.eta_seconds)} left` : null,
  ].filter(Boolean).join(" · ");
}

/** What a job that has ended did, in a line. */
export function outcome(job) {
  const took = job.started_at === null ? null : `in ${duration(job.finished_at - job.started_at)}`;
  const evicted = (job.result?.evicted ?? []).map((one) => nameParts(one.model)[1]);
  return [
    clock(job.finished_at),
    job.cause === "request" ? null : `by ${job.cause}`,
    job.result?.summary ?? null,
    job.bytes_done ? `${bytes(job.bytes_done)} copied` : null,
    job.result?.released_bytes ? `${bytes(job.result.released_bytes)} given back` : null,
    took,
    job.bytes_done && job.bytes_per_second ? `${bytes(job.bytes_per_second)}/s` : null,
    evicted.length ? `made room: ${evicted.join(", ")}` : null,
  ].filter(Boolean).join(" · ");
}
