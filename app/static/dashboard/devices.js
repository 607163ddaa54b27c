// Devices as bars of memory: what each model has there, what is on its way or retired, what others hold, what is free.

import { h, keyed, setText, swatch } from "./dom.js";
import { bytes, plural } from "./format.js";
import { heldBytes } from "./present.js";

const MODELS_NAMED = 5;
const WORTH_A_LINE = 0.001; // of the device: below it padding is only in the bar

export class Devices {
  constructor(element, present, select) {
    this.cards = element.querySelector(".cards");
    this.present = present;
    this.cards.addEventListener("click", (event) => {
      const row = event.target.closest("button[data-model]");
      if (row) select(row.dataset.model);
    });
  }

  draw() {
    const { memory } = this.present;
    if (!memory) return;
    const cards = [...memory.devices.map((device) => this.#device(device)), this.#host(memory.host)];
    keyed(this.cards, cards, (card) => card.id, card, fill);
  }

  #device(device) {
    const total = device.total_bytes ?? device.limit_bytes;
    const held = heldBytes(device);
    const models = this.present.memory.models
      .filter((model) => model.devices[device.id])
      .map((model) => ({ name: model.id, model: model.id, colour: this.present.modelColour(model.id), size: model.devices[device.id] }))
      .sort((a, b) => b.size - a.size);
    const parts = [
      ...models,
      { name: "padding", colour: "padding", size: device.padding_bytes },
      { name: "reserved for layers on their way", short: "reserved", colour: "reserved", size: device.reserved_bytes },
      { name: "retired, still being read", short: "retired", colour: "retired", size: device.retired_bytes },
      { name: "held by others", colour: "others", size: device.others_bytes ?? 0 },
    ];
    const limit = device.limit_bytes < total ? ` · limit ${bytes(device.limit_bytes)}` : "";
    return {
      id: device.id,
      colour: this.present.deviceColour(device.id),
      about: [device.kind === "simulated" ? "simulated" : device.name, device.uuid].filter(Boolean).join(" · "),
      sum: `${bytes(held)} of ${bytes(total)}${limit}`,
      lost: device.lost,
      total,
      limit: device.limit_bytes,
      parts: parts.filter((part) => part.size > 0),
      free: device.lost ? "" : device.others_bytes === null ? "free: unknown" : `${bytes(room(device))} free`,
    };
  }

  #host(host) {
    const taken = host.total_bytes - host.available_bytes;
    const resident = Math.min(host.resident_bytes ?? 0, host.available_bytes);
    const parts = [
      { name: "in use on this machine", colour: "others", size: taken },
      { name: "weights in the page cache", colour: "host", size: resident },
      { name: "of it copies of weights", colour: "none", size: host.buffered_bytes },
      { name: "of it locked weights", colour: "none", size: host.locked_bytes },
      { name: "of it this service", colour: "none", size: host.process_rss_bytes },
    ];
    const mapped = host.mapped_bytes
      ? `${host.resident_bytes === null ? "unknown" : bytes(host.resident_bytes)} of ${bytes(host.mapped_bytes)} mapped is cached`
      : "no file is mapped";
    return {
      id: "cpu",
      colour: "host",
      about: "host memory",
      sum: mapped,
      lost: null,
      total: host.total_bytes,
      limit: host.total_bytes,
      parts: parts.filter((part) => part.size > 0),
      free: `${bytes(host.available_bytes)} available`,
    };
  }
}

/** What nobody holds and nothing is reserved on; the driver's free bytes still have what is only reserved. */
function room(device) {
  return Math.max(0, Math.min(device.limit_bytes, device.total_bytes - device.others_bytes) - heldBytes(device));
}

function card(device) {
  const name = h("h3", {}, swatch(device.colour), device.id);
  const bar = h("div", { className: "bar", role: "img" });
  const limit = h("i", { className: "limit", hidden: true });
  bar.append(h("div", { className: "segments" }), limit);
  return h("article", { className: "device", data: { device: device.id } },
    h("div", { className: "device-name" }, name, h("span", { className: "about muted" })),
    h("p", { className: "sum" }), bar, h("p", { className: "lost error", hidden: true }),
    h("ul", { className: "legend" }), h("p", { className: "free muted" }));
}

function fill(element, device) {
  const part = (selector) => element.querySelector(selector);
  setText(part(".about"), device.about);
  setText(part(".sum"), device.sum);
  setText(part(".free"), device.free);
  part(".lost").hidden = !device.lost;
  setText(part(".lost"), device.lost ? `This device is lost: ${device.lost}` : "");
  element.classList.toggle("is-lost", Boolean(device.lost));
  const drawn = device.parts.filter((one) => one.colour !== "none");
  keyed(part(".segments"), drawn, (one) => one.model ?? one.name, segment, (span, one) => {
    span.style.width = `${(100 * one.size) / device.total}%`;
    span.title = `${one.name}: ${bytes(one.size)}`;
  });
  part(".limit").hidden = device.limit >= device.total;
  part(".limit").style.left = `${(100 * device.limit) / device.total}%`;
  const words = drawn.map((one) => `${one.name} ${bytes(one.size)}`).join(", ");
  part(".bar").setAttribute("aria-label", `${device.id}, ${device.sum}: ${words || "empty"}; ${device.free}`);
  const lines = device.parts.filter((one) => one.colour !== "padding" || one.size > device.total * WORTH_A_LINE);
  keyed(part(".legend"), named(lines), (one) => one.model ?? one.name, entry, (row, one) => {
    setText(row.lastElementChild, one.size ? bytes(one.size) : "");
  });
}

/** The parts that get a line of their own; the smallest models of many share one. */
function named(parts) {
  const models = parts.filter((part) => part.model);
  if (models.length <= MODELS_NAMED) return parts;
  const rest = models.slice(MODELS_NAMED);
  const size = rest.reduce((sum, part) => sum + part.size, 0);
  const more = { name: `and ${plural(rest.length, "model")} more`, colour: "padding", size };
  return [...models.slice(0, MODELS_NAMED), more, ...parts.filter((part) => !part.model)];
}

function segment(part) {
  const span = h("span", { className: `segment ${part.colour}` });
  span.style.setProperty("--colour", `var(--${part.colour})`);
  return span;
}

function entry(part) {
  const label = part.model
    ? h("button", { type: "button", className: "link", title: part.model, data: { model: part.model } }, part.model.split("/").at(-1))
    : h("span", { title: part.name }, part.short ?? part.name);
  const mark = part.colour === "none" ? h("i", { className: "swatch none" }) : swatch(part.colour);
  mark.classList.add(part.colour);
  return h("li", {}, mark, label, h("span", { className: "number" }));
}
