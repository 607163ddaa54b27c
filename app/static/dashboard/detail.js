// One model: what it is, where its layers are, and the slider that moves them while it stays loaded.

import { call, modelPath } from "./api.js";
import { h, setText } from "./dom.js";
import { bytes, clock, nameParts, parameters } from "./format.js";
import { fillJob, jobRow } from "./jobs.js";
import { choice, KEEP_ALIVE, labelled } from "./loading.js";
import { Placement } from "./placement.js";
import { heldBytes, HELD } from "./present.js";
import { showRefusal, told } from "./refusal.js";
import { Strip } from "./strip.js";

const LOADABLE = new Set(["available", "failed"]);

export class Detail {
  constructor(element, present, load) {
    this.element = element;
    this.present = present;
    this.load = load;
    this.id = null;
    this.layers = null;
    this.request = null; // what it was asked to be, by whomever
    this.last = null; // the job that changed it last, since it is shown
    this.busy = false; // an answer of the service is awaited
    this.room = null; // what the devices held when the slider's table was planned
    this.wanted = null; // what was asked for while another change was on its way
    this.#empty();
  }

  /** Show a model. */
  show(id) {
    if (id === this.id) return;
    this.id = id;
    this.layers = null;
    this.request = null;
    this.wanted = null;
    this.last = null;
    this.seen = null;
    this.#build();
    this.draw();
  }

  /** Put the keyboard where the shown model is changed. */
  focus() {
    const model = this.present.models.get(this.id);
    if (LOADABLE.has(model?.state)) this.load(this.id);
    else (model?.state === "loaded" ? this.placement.slider : this.element.querySelector("h2")).focus();
  }

  draw() {
    const model = this.present.models.get(this.id);
    if (!model) return this.id === null ? undefined : this.#gone();
    if (!this.title.isConnected) this.#build();
    const job = this.present.activeJob(model.id);
    this.last = job?.id ?? this.last;
    setText(this.state, model.state);
    this.state.dataset.state = model.state;
    this.#facts(model);
    this.#buttons(model);
    this.#fault(model);
    this.#job(job);
    this.#retention(model);
    this.control.hidden = !(model.state === "loaded" || model.state === "moving");
    const seen = [model.state, model.generation, model.strategy, job?.id].join();
    if (seen !== this.seen) {
      this.seen = seen;
      this.#read(model.id);
    }
    this.#room(model, job);
    this.#next(model, job);
    this.#strip(model, job);
  }

  #build() {
    const [folder, name] = nameParts(this.id);
    this.title = h("h2", { id: "detail-title", tabIndex: -1 }, h("span", { className: "folder" }, folder), name);
    this.state = h("span", { className: "state" });
    this.facts = h("dl", { className: "model-facts" });
    this.strip = new Strip(this.present);
    this.fault = h("div", { className: "refusal" });
    this.refusal = h("div", { className: "refusal", role: "alert" });
    this.jobs = h("ul", { className: "jobs" });
    this.jobs.hidden = true;
    this.placement = new Placement(this.present, {
      body: () => ({ ...this.request, n_cpu_moe: this.present.models.get(this.id).n_cpu_moe ?? 0 }),
      letGo: () => this.#move(this.placement.chosen),
    });
    this.keep = choice(KEEP_ALIVE);
    this.keep.addEventListener("change", () => this.#patch({ keep_alive: Number(this.keep.value) }));
    this.pinned = h("input", { type: "checkbox" });
    this.pinned.addEventListener("change", () => this.#patch({ pinned: this.pinned.checked }));
    this.used = h("p", { className: "muted used" });
    this.control = h("div", { className: "control" }, this.placement.element,
      h("div", { className: "options" }, labelled("Keep it loaded", this.keep),
        h("label", { className: "check" }, this.pinned, "Pinned: never evicted for another model")), this.used);
    this.buttons = { load: this.#button("Load …", () => this.load(this.id), "primary"),
      rebalance: this.#button("Rebalance", () => this.#patch({ rebalance: true }), "", "Deal all layers out anew, whatever has to be copied"),
      verify: this.#button("Verify", () => this.#post("verify", { deep: true }), "", "Read every byte: valid data, and true copies on the devices"),
      unload: this.#button("Unload", () => this.#post("unload", {})) };
    this.element.replaceChildren(
      h("div", { className: "heading" }, this.title, this.state, h("div", { className: "buttons" }, ...Object.values(this.buttons))),
      this.facts, this.fault, this.strip.element, this.jobs, this.refusal, this.control);
  }

  #button(words, act, className = "", title = "") {
    return h("button", { type: "button", className, title, onclick: act }, words);
  }

  #facts(model) {
    const memory = this.present.modelMemory(model.id);
    const facts = [
      ["architecture", model.architecture ?? "unknown"], ["parameters", parameters(model.parameters)],
      ["quantisation", model.quantization ?? "unknown"], ["size", bytes(model.size_bytes)],
      ["layers", model.n_layer ?? "unknown"], ["context", model.context_length?.toLocaleString("en") ?? "unknown"],
      ...(memory && HELD.has(model.state) ? [["on devices", `${bytes(memory.gpu_bytes)} (${memory.gpu_percent} %)`], ["strategy", model.strategy], ["generation", model.generation]] : []),
    ];
    const text = JSON.stringify(facts);
    if (text === this.facts.text) return;
    this.facts.text = text;
    this.facts.replaceChildren(...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
  }

  #buttons(model) {
    const held = model.state === "loaded" || model.state === "moving";
    this.buttons.load.hidden = !LOADABLE.has(model.state) || model.type !== "model";
    this.buttons.rebalance.hidden = !held;
    this.buttons.rebalance.disabled = model.state !== "loaded";
    this.buttons.unload.hidden = !HELD.has(model.state);
    this.buttons.unload.disabled = model.state === "unloading";
    this.buttons.verify.hidden = model.state === "invalid";
  }

  #fault(model) {
    const last = this.present.jobs.get(this.last);
    const error = model.error ?? (last?.state === "failed" ? last.error : null);
    const text = JSON.stringify(error);
    if (text === this.fault.text) return;
    this.fault.text = text;
    this.fault.replaceChildren(...(error ? told(error) : []));
  }

  #job(job) {
    this.jobs.hidden = !job;
    if (!job) return this.jobs.replaceChildren();
    if (this.jobs.firstElementChild?.dataset.key !== job.id) {
      this.jobs.replaceChildren(jobRow(job));
      this.jobs.firstElementChild.dataset.key = job.id;
    }
    fillJob(this.jobs.firstElementChild, job);
  }

  #retention(model) {
    if (model.keep_alive === null) return;
    const value = String(model.keep_alive);
    if (![...this.keep.options].some((option) => option.value === value)) {
      this.keep.append(h("option", { value }, `${value} s without use`));
    }
    if (document.activeElement !== this.keep) this.keep.value = value;
    this.pinned.checked = model.pinned;
    const leaves = model.expires_at ? `, unloaded at ${clock(model.expires_at)} unless it is used` : "";
    setText(this.used, `last used at ${clock(model.used_at)}${leaves}`);
  }

  /** Where the layers are, and what the model was asked to be: both are others after a change. */
  async #read(id) {
    this.room = this.request = null;
    if (this.present.models.get(id).state === "invalid") return;
    try {
      const [{ data }, { request }] = await Promise.all([call(modelPath(id, "layers")), call(modelPath(id))]);
      if (id !== this.id) return;
      this.layers = data;
      this.request = request;
      this.draw();
    } catch (error) {
      if (id === this.id) showRefusal(this.refusal, error);
    }
  }

  /** Ask for the slider's table anew when what the devices hold is not what it was planned with. */
  #room(model, job) {
    if (model.state !== "loaded" || !this.request || job || this.busy || this.wanted !== null || this.placement.dragging) return;
    const room = JSON.stringify(this.present.memory.devices.map((device) => [device.limit_bytes, heldBytes(device)]));
    if (room === this.room) return;
    this.room = room;
    this.placement.ask(model.id, model.n_gpu_layers);
  }

  #strip(model, job) {
    this.strip.element.hidden = !this.layers;
    if (!this.layers) return;
    const share = job?.bytes_total ? job.bytes_done / job.bytes_total : 0;
    this.strip.draw(this.layers, job && this.present.targets.get(model.id), share);
  }

  /** The slider was let go: move now, or, where another change is on its way, as soon as that has ended. */
  #move(choice) {
    const model = this.present.models.get(this.id);
    if (this.busy || this.present.activeJob(model.id)) {
      this.wanted = choice;
      return;
    }
    this.wanted = null;
    if (choice.n_gpu_layers !== model.n_gpu_layers) this.#patch(choice, () => this.placement.layers());
  }

  #next(model, job) {
    if (this.wanted !== null && !job && !this.busy && model.state === "loaded") this.#move(this.wanted);
  }

  #patch(body, layers) {
    return this.#ask("offload", "PATCH", body, layers);
  }

  #post(action, body) {
    return this.#ask(action, "POST", body);
  }

  /** Ask for a change; `layers` promises where they will be, for the strip. */
  async #ask(action, method, body, layers = () => null) {
    const { id } = this;
    this.refusal.replaceChildren();
    this.busy = true;
    try {
      const target = await layers();
      if (target) this.present.targets.set(id, target);
      await call(modelPath(id, action), { method, body });
    } catch (error) {
      this.present.targets.delete(id);
      if (id === this.id) showRefusal(this.refusal, error);
      this.room = null; // the slider goes back to what is
    } finally {
      this.busy = false;
      this.draw();
    }
  }

  #gone() {
    this.id = null;
    this.#empty("This model is gone.");
  }

  #empty(words = "Choose a model to see where its layers are, and to move them.") {
    this.title = h("h2", { id: "detail-title", tabIndex: -1 }, "No model chosen");
    this.element.replaceChildren(this.title, h("p", { className: "empty" }, words));
  }
}
