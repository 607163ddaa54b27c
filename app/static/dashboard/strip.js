// The layers of a model as a strip of cells, each in the colour of its device; what is on its way is hatched.

import { h, keyed, swatch } from "./dom.js";
import { bytes } from "./format.js";

export class Strip {
  constructor(present) {
    this.present = present;
    this.cells = h("div", { className: "cells", role: "img" });
    this.legend = h("ul", { className: "strip-legend" });
    this.element = h("div", { className: "strip" }, this.cells, this.legend);
  }

  /** Draw `layers` as they are; where `target` differs, the part `share` (0…1) of what is to be copied has arrived. */
  draw(layers, target = null, share = 0) {
    const arrivals = this.#arrivals(layers, target, share);
    keyed(this.cells, layers, (layer) => layer.layer, cell, (element, layer) => {
      const arriving = arrivals.get(layer.layer);
      const there = arriving?.devices ?? layer.devices;
      const state = arriving ? (arriving.copied ? "copied" : "arriving") : "";
      const looks = `${JSON.stringify(there)}${state}`;
      if (element.looks === looks) return;
      element.looks = looks;
      element.className = `cell ${layer.role} ${state}`;
      element.dataset.device = Object.keys(there).join(" ");
      element.style.background = this.#paint(there);
      element.title = `${title(layer)}: ${where(there)}${state ? ", on its way" : ""}, ${bytes(layer.size_bytes)}`;
    });
    this.#tell(layers, arrivals);
  }

  /** What is to be copied, in the order in which each device is filled, and whether it has arrived by its bytes. */
  #arrivals(layers, target, share) {
    const arrivals = new Map();
    if (!target) return arrivals;
    const wanted = new Map(target.map((layer) => [layer.layer, layer]));
    const groups = new Map();
    for (const layer of layers) {
      const goal = wanted.get(layer.layer);
      if (!goal || JSON.stringify(goal.devices) === JSON.stringify(layer.devices)) continue;
      const device = Object.keys(goal.devices).find((id) => id !== "cpu");
      if (!device) continue; // a release copies nothing: it is there when the job is done
      if (!groups.has(device)) groups.set(device, []);
      groups.get(device).push(goal);
    }
    for (const group of groups.values()) {
      let left = share * group.reduce((sum, layer) => sum + layer.size_bytes, 0);
      for (const layer of group) {
        left -= layer.size_bytes;
        arrivals.set(layer.layer, { devices: layer.devices, copied: left >= 0 });
      }
    }
    return arrivals;
  }

  #paint(devices) {
    const entries = Object.entries(devices);
    const total = entries.reduce((sum, [, size]) => sum + size, 0) || 1;
    let top = 0;
    const stops = entries.map(([id, size]) => {
      const colour = `var(--${this.present.deviceColour(id)})`;
      const from = top;
      top += (100 * size) / total;
      return `${colour} ${from}% ${top}%`;
    });
    return `linear-gradient(${stops.join(", ")})`;
  }

  #tell(layers, arrivals) {
    const counts = new Map();
    for (const layer of layers) {
      const devices = Object.keys(arrivals.get(layer.layer)?.devices ?? layer.devices);
      for (const id of devices) counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    const rows = [...counts].sort(([a], [b]) => (a === "cpu") - (b === "cpu") || a.localeCompare(b, "en", { numeric: true }));
    const words = rows.map(([id, count]) => `${count} on ${id}`).join(", ");
    const label = `${layers.length} layers, input and output included: ${words}${arrivals.size ? `; ${arrivals.size} on their way` : ""}`;
    if (this.cells.getAttribute("aria-label") === label) return;
    this.cells.setAttribute("aria-label", label);
    const items = rows.map(([id, count]) => h("li", {}, swatch(this.present.deviceColour(id)), `${id} ${count}`));
    if (arrivals.size) items.push(h("li", {}, h("i", { className: "swatch arriving" }), `on their way ${arrivals.size}`));
    this.legend.replaceChildren(...items);
  }
}

function cell() {
  return h("i", { className: "cell" });
}

function title(layer) {
  return typeof layer.layer === "number" ? `Layer ${layer.layer}` : `The ${layer.layer} layer`;
}

function where(devices) {
  const ids = Object.keys(devices);
  return ids.length === 1 ? ids[0] : Object.entries(devices).map(([id, size]) => `${id} ${bytes(size)}`).join(" and ");
}
