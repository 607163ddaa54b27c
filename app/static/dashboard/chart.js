// What is held on the devices over the last five minutes: one area for each device, one above the other.

import { h, keyed, setText, svg, swatch } from "./dom.js";
import { bytes } from "./format.js";
import { HISTORY_SECONDS } from "./present.js";

const WIDTH = 600;
const HEIGHT = 160;

export class Chart {
  constructor(element, present) {
    this.present = present;
    this.image = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.top = h("span", { className: "chart-top muted" });
    this.legend = h("ul", { className: "strip-legend" });
    element.append(h("div", { className: "plot" }, this.image, this.top), h("div", { className: "chart-axis muted" },
      h("span", {}, "5 min ago"), h("span", {}, "now")), this.legend);
  }

  /** Draw up to `now`, in seconds by the service's clock. */
  draw(now) {
    const { memory, history } = this.present;
    if (!memory) return;
    const capacity = memory.devices.reduce((sum, device) => sum + device.limit_bytes, 0);
    const below = history.map(() => 0);
    const areas = memory.devices.map((device) => {
      const floor = [...below];
      history.forEach((sample, index) => (below[index] += sample.held[device.id] ?? 0));
      return { id: device.id, shape: area(history, floor, below, now, capacity || 1) };
    });
    keyed(this.image, areas, (one) => one.id, (one) => this.#path(one.id), (path, one) => path.setAttribute("d", one.shape));
    setText(this.top, `${bytes(below.at(-1) ?? 0)} of ${bytes(capacity)}`);
    this.image.setAttribute("aria-label", `${bytes(below.at(-1) ?? 0)} of ${bytes(capacity)} are held on all devices now; five minutes ago ${bytes(heldAt(history))}`);
    keyed(this.legend, memory.devices, (device) => device.id, (device) => h("li", {}, swatch(this.present.deviceColour(device.id)), device.id));
  }

  #path(device) {
    const path = svg("path");
    path.style.fill = `var(--${this.present.deviceColour(device)})`;
    return path;
  }
}

function heldAt(history) {
  return Object.values(history[0]?.held ?? {}).reduce((sum, size) => sum + size, 0);
}

/** The outline of what lies between two rows of sums: steps, for memory stays as it is until it changes. */
function area(history, floor, roof, now, capacity) {
  const x = (time) => Math.max(0, WIDTH * (1 - (now - time) / HISTORY_SECONDS)).toFixed(1);
  const y = (size) => (HEIGHT * (1 - size / capacity)).toFixed(1);
  const edge = (sums) => {
    const points = history.map((sample, index) => [[x(sample.time), y(sums[index])], [x(history[index + 1]?.time ?? now), y(sums[index])]]);
    return points.flat();
  };
  return `M${[...edge(roof), ...edge(floor).reverse()].map((point) => point.join(",")).join("L")}Z`;
}
