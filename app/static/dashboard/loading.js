// The load dialog: a strategy, the slider, what else can be said, and the service's own words where it refuses.

import { call, modelPath } from "./api.js";
import { h, setText } from "./dom.js";
import { nameParts } from "./format.js";
import { Placement } from "./placement.js";
import { showRefusal } from "./refusal.js";

const STRATEGIES = [
  ["first", "First layers"],
  ["last", "Last layers"],
  ["ends", "Both ends"],
  ["llama.cpp", "As llama.cpp does"],
  ["best", "The best of the first three"],
];

export const KEEP_ALIVE = [["-1", "until it is unloaded"], ["60", "1 minute without use"], ["300", "5 minutes without use"], ["3600", "1 hour without use"]];

export class Loading {
  constructor(dialog, present) {
    this.dialog = dialog;
    this.present = present;
    this.placement = new Placement(present, { body: () => this.body(), changed: (plan, error) => this.#planned(plan, error) });
  }

  /** Show the dialog for a model, with the largest number of layers that fits chosen. */
  async open(model) {
    this.model = model;
    this.dialog.replaceChildren(this.#form(model));
    this.dialog.showModal();
    await this.placement.ask(model, "auto");
    this.placement.slider.focus();
  }

  /** What the fields say, without n_gpu_layers: what is the service's default is left out. */
  body() {
    const { strategy, split, n_ctx: context, host, unknown } = this.fields;
    const chosen = [...this.devices.querySelectorAll("input:checked")].map((box) => box.value);
    return {
      strategy: strategy.value,
      ...(chosen.length && chosen.length < this.devices.querySelectorAll("input").length ? { devices: chosen } : {}),
      ...(split.value === "layer" ? {} : { split: { mode: split.value } }),
      ...(context.value ? { context: { n_ctx: Number(context.value) } } : {}),
      ...(host.value === "mmap" ? {} : { host: host.value }),
      ...(unknown.checked ? { allow_unknown_architecture: true } : {}),
    };
  }

  #form(model) {
    this.fields = {
      strategy: choice(STRATEGIES),
      split: choice([["layer", "whole layers"], ["row", "by rows"], ["none", "one device only"]]),
      n_ctx: h("input", { type: "number", min: 1, step: 1, placeholder: "none" }),
      host: choice([["mmap", "mapped"], ["mlock", "mapped and locked"], ["buffered", "copied"]]),
      evict: choice([["true", "unload idle models"], ["layers", "take layers off idle models"], ["false", "refuse"]]),
      keep_alive: choice(KEEP_ALIVE),
      pinned: h("input", { type: "checkbox" }),
      unknown: h("input", { type: "checkbox" }),
    };
    this.unknown = h("label", { className: "check", hidden: true }, this.fields.unknown, "Load it although its architecture is unknown");
    const ids = this.present.memory.devices.map((device) => device.id);
    this.devices = h("div", { className: "checks" }, ...ids.map((id) =>
      h("label", { className: "check" }, h("input", { type: "checkbox", value: id, checked: true }), id)));
    this.refusal = h("div", { className: "refusal", role: "alert" });
    this.submit = h("button", { className: "primary", type: "submit", disabled: true }, "Load");
    const [folder, name] = nameParts(model);
    const title = h("h2", { id: "load-title" }, "Load ", h("span", { className: "folder" }, folder), name);
    const form = h("form", {}, title,
      labelled("Strategy", this.fields.strategy), this.placement.strip.element, this.placement.element, this.unknown,
      h("details", {}, h("summary", {}, "More options"), h("div", { className: "options" },
        labelled("Shared among devices", this.fields.split), labelled("The rest on the host", this.fields.host),
        labelled("Plan for a context of (tokens)", this.fields.n_ctx), labelled("Where there is no room", this.fields.evict),
        labelled("Keep it loaded", this.fields.keep_alive),
        h("label", { className: "check" }, this.fields.pinned, "Pinned: never evicted for another model")),
        ids.length > 1 ? h("fieldset", {}, h("legend", {}, "Devices"), this.devices) : null),
      this.refusal,
      h("div", { className: "buttons" },
        h("button", { type: "button", className: "close", onclick: () => this.dialog.close() }, "Close"), this.submit));
    form.addEventListener("change", (event) => {
      const { strategy, split, n_ctx: context, host, unknown } = this.fields;
      const planned = [strategy, split, context, host, unknown];
      if (planned.includes(event.target) || this.devices.contains(event.target)) this.#again();
      if (event.target === this.fields.evict) this.#planned(this.placement.plan, null);
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#load();
    });
    return form;
  }

  #again() {
    this.refusal.replaceChildren();
    this.placement.ask(this.model, "auto");
  }

  #planned(plan, error) {
    if (error?.facts?.param === "allow_unknown_architecture") this.unknown.hidden = false;
    this.submit.disabled = !plan || (!plan.fits && this.fields.evict.value === "false");
    if (plan) setText(this.submit, plan.fits ? `Load, ${plan.n_gpu_layers} on devices` : "Make room and load");
  }

  async #load() {
    const body = {
      ...this.body(),
      ...this.placement.chosen,
      evict: this.fields.evict.value === "layers" ? "layers" : this.fields.evict.value === "true",
      pinned: this.fields.pinned.checked,
      keep_alive: Number(this.fields.keep_alive.value),
    };
    const { model, refusal, submit } = this; // the dialog may be another model's by the time of an answer
    submit.disabled = true;
    refusal.replaceChildren();
    try {
      const layers = await this.placement.layers();
      if (layers) this.present.targets.set(model, layers);
      const job = await call(modelPath(model, "load"), { method: "POST", body });
      if (!this.present.jobs.has(job.id)) this.present.apply("job", job);
      if (submit === this.submit) this.dialog.close();
    } catch (error) {
      this.present.targets.delete(model);
      showRefusal(refusal, error);
    } finally {
      submit.disabled = false;
    }
  }
}

/** A select of `[value, words]`. */
export function choice(options) {
  return h("select", {}, ...options.map(([value, words]) => h("option", { value }, words)));
}

/** A label with its field. */
export function labelled(words, field) {
  return h("label", { className: "field" }, h("span", {}, words), field);
}
