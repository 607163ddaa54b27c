// The slider over n_gpu_layers: what every device would need is on the page before the hand lets go.

import { call, modelPath, Refusal } from "./api.js";
import { h, keyed, setText, swatch } from "./dom.js";
import { bytes } from "./format.js";
import { Strip } from "./strip.js";

const SETTLE_MS = 90;
let made = 0;

export class Placement {
  /** `body()` gives what to plan beside n_gpu_layers; `let go(n)` is called when the slider is released. */
  constructor(present, { body, letGo = () => {}, changed = () => {} }) {
    this.present = present;
    this.body = body;
    this.changed = changed;
    this.model = null;
    this.plan = null;
    this.rows = [];
    this.turn = 0;
    this.dragging = false;
    made += 1;
    this.slider = h("input", { type: "range", min: 0, max: 0, value: 0, id: `layers-${made}` });
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
    this.slider.addEventListener("change", () => letGo(this.value));
    this.slider.addEventListener("pointerdown", () => (this.dragging = true));
    for (const end of ["pointerup", "pointercancel"]) this.slider.addEventListener(end, () => (this.dragging = false));
  }

  get value() {
    return Number(this.slider.value);
  }

  get row() {
    return this.rows.find((row) => row.n_gpu_layers === this.value) ?? null;
  }

  /** Ask for the table and put the slider at `wanted`: a number, "auto" or "all". Refusals are shown in words. */
  async ask(model, wanted) {
    this.model = model;
    const plan = await this.#plan(wanted, true);
    if (!plan) return;
    this.rows = plan.table;
    this.slider.max = this.rows.at(-1)?.n_gpu_layers ?? 0;
    this.slider.value = plan.n_gpu_layers;
    this.#paintTrack();
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
    const plan = await this.#plan(this.value, false);
    if (plan) this.#show(plan);
  }

  async #plan(n, table) {
    const turn = ++this.turn;
    clearTimeout(this.settle);
    try {
      const plan = await call(modelPath(this.model, "plan"), { method: "POST", body: { ...this.body(), n_gpu_layers: n, table } });
      return turn === this.turn ? plan : null; // an answer to an older question is nobody's
    } catch (error) {
      if (turn === this.turn) this.#refused(error);
      return null;
    }
  }

  #show(plan) {
    this.plan = plan;
    this.#drawRow(plan);
    this.strip.draw(plan.layers);
    const words = plan.advice.map((one) => one.message);
    keyed(this.advice, words, (message) => message, (message) => h("li", {}, message));
    this.changed(plan);
  }

  #refused(error) {
    this.plan = null;
    this.rows = [];
    this.verdict.className = "verdict error";
    setText(this.verdict, error instanceof Refusal ? error.message : `No plan: ${error.message}`);
    this.needs.replaceChildren();
    this.advice.replaceChildren();
    this.changed(null);
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
