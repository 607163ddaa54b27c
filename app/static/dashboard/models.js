// The list of models: filtered, sorted, one row each. A thousand rows are made once; an event touches its own row only.

import { h, keyed, setText } from "./dom.js";
import { bytes, nameParts } from "./format.js";
import { HELD } from "./present.js";

const NAMES = new Intl.Collator("en", { numeric: true }); // once: localeCompare would make one for every comparison
const FAULTY = new Set(["failed", "invalid"]);

export class Models {
  /** `select(id)` shows a model, `act(id)` is what Enter and a double click do. */
  constructor(present, { select, act }) {
    this.present = present;
    this.select = select;
    this.list = document.getElementById("model-list");
    this.filter = document.getElementById("filter");
    this.states = document.getElementById("state-filter");
    this.count = document.getElementById("models-count");
    this.none = document.getElementById("no-models");
    this.selected = null;
    this.rows = new Map();
    this.order = "";
    this.filter.addEventListener("input", () => this.#arrange());
    this.states.addEventListener("change", () => this.#arrange());
    this.list.addEventListener("click", (event) => this.#choose(event.target.closest("[role=option]")));
    this.list.addEventListener("dblclick", () => this.selected && act(this.selected));
    this.list.addEventListener("keydown", (event) => this.#key(event, act));
  }

  /** Draw the models of these ids anew, or all of them. */
  draw(changed) {
    const { models } = this.present;
    if (changed === "all") {
      for (const id of this.rows.keys()) if (!models.has(id)) this.rows.delete(id);
    }
    for (const model of changed === "all" ? models.values() : [...changed].map((id) => models.get(id))) {
      if (!this.rows.has(model.id)) this.rows.set(model.id, row(model));
      fill(this.rows.get(model.id), model);
    }
    this.#arrange();
  }

  /** Mark a model as the one that is shown. */
  mark(id) {
    if (id === this.selected) return;
    this.rows.get(this.selected)?.setAttribute("aria-selected", "false");
    this.selected = id;
    const element = this.rows.get(id);
    if (!element) return;
    element.setAttribute("aria-selected", "true");
    this.list.setAttribute("aria-activedescendant", element.id);
    // The list scrolls, and not the page, as scrollIntoView would have it.
    const [top, bottom] = [element.offsetTop, element.offsetTop + element.offsetHeight];
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    else if (bottom > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = bottom - this.list.clientHeight;
  }

  #arrange() {
    const all = [...this.present.models.values()];
    const shown = all.filter((model) => this.#matches(model)).sort(inOrder);
    const order = shown.map((model) => model.id).join("\n");
    if (order !== this.order || shown.length !== this.list.childElementCount) {
      this.order = order;
      keyed(this.list, shown, (model) => model.id, (model) => this.rows.get(model.id));
    }
    const loaded = all.filter((model) => model.generation !== null).length;
    setText(this.count, `${shown.length < all.length ? `${shown.length} of ` : ""}${all.length} · ${loaded} loaded`);
    this.none.hidden = shown.length > 0;
    setText(this.none, all.length ? "No model is called so." : "There is no model below the models directory yet: put a GGUF file there, then rescan.");
  }

  #matches(model) {
    const state = this.states.value;
    if (state === "held" && !HELD.has(model.state)) return false;
    if (state === "faulty" && !FAULTY.has(model.state)) return false;
    if (state === "available" && model.state !== "available") return false;
    const text = `${model.id} ${model.architecture ?? ""} ${model.quantization ?? ""}`.toLowerCase();
    return this.filter.value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  }

  #choose(element) {
    if (element) this.select(element.dataset.key);
  }

  #key(event, act) {
    const options = [...this.list.children];
    const here = options.indexOf(this.rows.get(this.selected));
    const page = Math.max(1, Math.floor(this.list.clientHeight / (options[0]?.offsetHeight || 48)));
    const steps = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: options.length - 1, PageDown: here + page, PageUp: here - page };
    if (event.key === "Enter" && this.selected) act(this.selected);
    else if (event.key in steps) this.#choose(options[Math.max(0, Math.min(options.length - 1, steps[event.key]))]);
    else return;
    event.preventDefault();
  }
}

/** What is in memory first, then by name. */
function inOrder(a, b) {
  return HELD.has(b.state) - HELD.has(a.state) || NAMES.compare(a.id, b.id);
}

let rowsMade = 0;

function row(model) {
  const [folder, name] = nameParts(model.id);
  rowsMade += 1;
  return h("div", { role: "option", id: `model-${rowsMade}`, className: "model", title: model.id, aria: { selected: "false" } },
    h("span", { className: "model-name" }, h("span", { className: "folder" }, folder), h("span", { className: "name" }, name)),
    h("span", { className: "state" }), h("span", { className: "facts" }), h("span", { className: "layers" }), h("span", { className: "size" }));
}

function fill(element, model) {
  const [, state, facts, layers, size] = element.children;
  setText(state, model.state);
  element.dataset.state = model.state;
  setText(facts, [model.architecture, model.quantization, model.type === "model" ? null : model.type].filter(Boolean).join(" · "));
  setText(layers, model.n_gpu_layers === null || !HELD.has(model.state) ? "" : `${model.n_gpu_layers}/${model.n_layer} layers`);
  setText(size, bytes(model.size_bytes));
}
