// What the service refused: its own sentence, and below it the numbers as people read them.

import { h } from "./dom.js";
import { bytes } from "./format.js";

const TOLD = new Set(["message", "type", "code", "param"]);

/** Show an error: a Refusal of the API, or one that kept the page from asking. */
export function showRefusal(element, error) {
  element.replaceChildren(...told(error.facts ?? { message: unreachable(error) }));
}

/** The elements for an error object of the service. */
export function told(error) {
  const facts = Object.entries(error).filter(([name, value]) => !TOLD.has(name) && !isEmpty(value) && !isSaid(error.message, value));
  const rows = facts.map(([name, value]) => [h("dt", {}, words(name)), h("dd", {}, fact(name, value))]).flat();
  return [h("p", { className: "error" }, error.message), ...(rows.length ? [h("dl", { className: "facts" }, ...rows)] : [])];
}

function unreachable(error) {
  return error instanceof TypeError ? "The service does not answer." : error.message;
}

function isEmpty(value) {
  return value === null || value === "" || (Array.isArray(value) && value.length === 0);
}

/** A name that stands in the sentence is not told again; a size is, for there it has all its digits. */
function isSaid(message, value) {
  return typeof value === "string" && message.includes(value);
}

function words(name) {
  return name.replace("largest_n_gpu_layers", "layers that would fit").replace(/_bytes$/, "").replaceAll("_", " ");
}

function fact(name, value) {
  if (name.endsWith("_bytes")) return bytes(value);
  return Array.isArray(value) ? value.join(", ") : String(value);
}
