// The slider over n_gpu_layers: what every device would need is on the page before the hand lets go.

import { call, modelPath, Refusal } from "./api.js";
import { h, keyed, setText, swatch } from "./dom.js";
import { bytes } from "./format.js";
import { Strip } from "./strip.js";

const SETTLE_MS = 90;
let made = 0;

export class Placement {
  /**
   * `body()` gives what to plan beside n_gpu_layers, `letGo()` is called when the slider is released, and `changed(plan,
   * error)` for every answer: one of the two is null.
   */
  constructor(present, { body, letGo = () => {}, changed = () => {} }) {
    this.present = present;
    this.body = body;
    this.changed = changed;
    this.model = null;
    this.plan = null;
    this.rows = [];
    this.n_cpu_moe = 0; // of the table: a row is only true with it
    this.turn = 0;
    this.dragging = false;
    made += 1;
    const bounds = { min: 0, max: 0, value: 0 };
    this.slider = h("input", { type: "range", ...bounds, id: `layers-${made}`, disabled: true }); // until there is a plan
    this.count = h("output", { htmlFor: this.slider.id });
    this.verdict = h("p", { className: "verdict", id: `${this.slider.id}-verdict`, role: "status" });
    this.needs = h("ul", { className: "needs" });
    this.advice = h("ul", { className: "advice" });
    this.strip = new Strip(present);
    this.slider.setAttribute("aria-describedby", this.verdict.id);
    this.element = h("div", { className: "placement" },
      h("div", { className: "slider-head" }, h("label", { htmlFor: this.slider.id }, "Layers on devices"), this.count),
      this.slider, this.verdict, this.needs, this.advice);
    this.slider.addEventListener("input", () => this.#moved());
    this.slider.addEventListener("change", () => letGo());
    this.slider.addEventListener("pointerdown", () => (this.dragging = true));
    for (const end of ["pointerup", "pointercancel"]) this.slider.addEventListener(end, () => (this.dragging = false));
  }

  get value() {
    return Number(this.slider.value);
  }

  /** What a load or an offload has to say to get what the slider shows. */
  get chosen() {
    return { n_gpu_layers: this.value, n_cpu_moe: this.n_cpu_moe };
  }

  get row() {
    return this.rows.find((row) => row.n_gpu_layers === this.value) ?? null;
  }

  /** Ask for the table and put the slider at `wanted`: a number, "auto" or "all". Refusals are shown in words. */
  async ask(model, wanted) {
    if (model !== this.model) this.#clear();
    this.model = model;
    const plan = await this.#plan({ n_gpu_layers: wanted, table: true });
    if (!plan) return;
    this.rows = plan.table;
    this.n_cpu_moe = plan.n_cpu_moe;
    this.slider.max = this.rows.at(-1)?.n_gpu_layers ?? 0;
    this.#paintTrack();
    if (this.dragging) return this.#moved(); // a hand has it by now: its row, by the new table
    this.slider.value = plan.n_gpu_layers;
    this.#show(plan);
  }

  /** Where the layers will be with the slider where it is; null where that is not known. */
  async layers() {
    if (this.plan?.n_gpu_layers !== this.value) await this.#replan();
    return this.plan?.n_gpu_layers === this.value ? this.plan.layers : null;
  }

  #moved() {
    this.#drawRow(this.row);
    clearTimeout(this.settle);
    this.settle = setTimeout(() => this.#replan(), SETTLE_MS);
  }

  async #replan() {
    const plan = await this.#plan(this.chosen);
    if (plan) this.#show(plan);
  }

  async #plan(choice) {
    const turn = ++this.turn;
    clearTimeout(this.settle);
    try {
      const plan = await call(modelPath(this.model, "plan"), { method: "POST", body: { ...this.body(), ...choice } });
      return turn === this.turn ? plan : null; // an answer to an older question is nobody's
    } catch (error) {
      if (turn === this.turn) this.#refused(error);
      return null;
    }
  }

  #show(plan) {
    this.plan = plan;
    this.slider.disabled = this.strip.element.hidden = false;
    this.#drawRow(plan);
    this.strip.draw(plan.layers);
    const words = plan.advice.map((one) => one.message);
    keyed(this.advice, words, (message) => message, (message) => h("li", {}, message));
    this.changed(plan, null);
  }

  #refused(error) {
    this.#clear();
    this.verdict.className = "verdict error";
    setText(this.verdict, error instanceof Refusal ? error.message : `No plan: ${error.message}`);
    this.changed(null, error);
  }

  /** Nothing is known: neither another model's layers are shown, nor those of an older plan. */
  #clear() {
    this.plan = null;
    this.rows = [];
    this.slider.disabled = this.strip.element.hidden = true;
    for (const element of [this.count, this.verdict, this.needs, this.advice]) element.replaceChildren();
  }

  #drawRow(row) {
    if (!row) return;
    const most = this.slider.max;
    setText(this.count, `${row.n_gpu_layers} of ${most}`);
    const lacking = row.devices.filter((device) => !device.fits);
    const words = lacking.map((device) => `${device.id} lacks ${bytes(device.required_bytes - device.available_bytes)}`);
    const largest = this.#largest();
    const instead = largest === null ? "" : `; ${largest} would fit`;
    setText(this.verdict, row.fits ? "Fits." : `Does not fit: ${words.join(", ")}${instead}.`);
    this.verdict.className = row.fits ? "verdict" : "verdict error";
    this.slider.setAttribute("aria-valuetext", `${row.n_gpu_layers} of ${most} layers, ${row.fits ? "fits" : "does not fit"}`);
    keyed(this.needs, row.devices, (device) => device.id, (device) => this.#need(device), drawNeed);
  }

  #largest() {
    const fitting = this.rows.filter((row) => row.fits).map((row) => row.n_gpu_layers);
    return fitting.length ? Math.max(...fitting) : null;
  }

  /** The part of the track where it fits is green, the rest red: to be seen before anything is moved. */
  #paintTrack() {
    const last = Math.max(1, this.rows.length - 1);
    const stops = this.rows.map((row, index) => {
      const colour = row.fits ? "var(--fits)" : "var(--lacks)";
      return `${colour} ${(100 * (index - 0.5)) / last}% ${(100 * (index + 0.5)) / last}%`;
    });
    this.slider.style.setProperty("--track", `linear-gradient(to right, ${stops.join(", ")})`);
  }

  #need(device) {
    return h("li", { data: { device: device.id } },
      h("span", { className: "need-name" }, swatch(this.present.deviceColour(device.id)), device.id),
      h("span", { className: "need-bar", aria: { hidden: "true" } }, h("i", {})),
      h("span", { className: "number" }));
  }
}

function drawNeed(element, device) {
  const share = device.available_bytes ? device.required_bytes / device.available_bytes : device.required_bytes ? 1 : 0;
  element.classList.toggle("lacks", !device.fits);
  element.querySelector(".need-bar i").style.width = `${100 * Math.min(1, share)}%`;
  setText(element.lastElementChild, `needs ${bytes(device.required_bytes)}, has ${bytes(device.available_bytes)}`);
  const parts = [["weights", device.weights_bytes], ["context", device.context_bytes], ["compute", device.compute_bytes], ["padding", device.padding_bytes]];
  element.title = parts.filter(([, size]) => size).map(([name, size]) => `${name} ${bytes(size)}`).join(", ") || "needs nothing";
}
