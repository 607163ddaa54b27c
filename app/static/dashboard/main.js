// The page: the stream of events on one side, the views on the other, and one drawing for each frame in between.

import { call, onKeyNeeded } from "./api.js";
import { Chart } from "./chart.js";
import { Detail } from "./detail.js";
import { Devices } from "./devices.js";
import { setText } from "./dom.js";
import { clock, duration } from "./format.js";
import { Jobs } from "./jobs.js";
import { Loading } from "./loading.js";
import { Log } from "./log.js";
import { Models } from "./models.js";
import { HELD, Present } from "./present.js";
import { follow } from "./stream.js";

// No event tells of what others take, nor of every byte of a copy: between events memory is asked for, so that nothing
// on the page is older than a second.
const POLL_SECONDS = 0.7;
const TICK_MS = 250;
const $ = (id) => document.getElementById(id);

const present = new Present();
const log = new Log();
const loading = new Loading($("load"), present);
const detail = new Detail($("detail"), present, (model) => loading.open(model));
const devices = new Devices($("devices"), present, select);
const models = new Models(present, { select, act: (id) => { select(id); detail.focus(); } });
const jobs = new Jobs(present, select);
const chart = new Chart($("chart"), present);

let changed = { models: new Set(), jobs: false, memory: false };
let waiting = false;
let connection = "connecting";
let toldAt = 0; // when the service was last heard of memory, by our clock
let polling = false;

function select(id) {
  if (!present.models.has(id)) return;
  models.mark(id);
  detail.show(id);
  if (matchMedia("(max-width: 900px)").matches && document.activeElement !== models.list) {
    $("detail").scrollIntoView({ behavior: "smooth", block: "start" });
  }
}

function take(name, data) {
  const before = present.apply(name, data);
  log.note(name, data, before);
  if (name === "snapshot") changed = { models: "all", jobs: true, memory: true };
  if (name === "model" && changed.models !== "all") changed.models.add(data.id);
  if (name === "job") changed.jobs = true;
  if (name === "memory") changed.memory = true;
  if (name === "snapshot" || name === "memory") toldAt = Date.now();
  plan();
}

function plan() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(draw);
}

function draw() {
  waiting = false;
  const now = changed;
  changed = { models: new Set(), jobs: false, memory: false };
  if (now.memory) devices.draw();
  if (now.models === "all" || now.models.size) models.draw(now.models);
  if (now.jobs) jobs.draw();
  if (now.models === "all") models.mark(models.selected ?? firstHeld());
  if (now.models === "all" && models.selected) detail.show(models.selected);
  detail.draw();
  if (now.memory) chart.draw(present.now);
}

/** A page that opens shows what is loaded, so that its layers are seen at once. */
function firstHeld() {
  const all = [...present.models.values()];
  return (all.find((model) => HELD.has(model.state)) ?? (all.length === 1 ? all[0] : null))?.id ?? null;
}

function stands(state, reason) {
  if (state === "connecting" && connection === "waiting") return; // until it answers, it is still not there
  if (state === connection) return;
  connection = state;
  document.body.dataset.connection = state;
  setText($("connection-state"), { connecting: "Connecting …", live: "Live", waiting: "Reconnecting …" }[state]);
  if (state !== "connecting") log.line("page", state === "live" ? "connected" : `not connected: ${reason}`, state !== "live");
  const stale = state === "waiting" && present.memory;
  $("stale").hidden = !stale;
  setText($("stale"), stale ? `Not connected: ${reason}. What is shown was true at ${clock(toldAt / 1000)}; the page reconnects by itself.` : "");
}

async function tick() {
  const seconds = (Date.now() - toldAt) / 1000;
  if (toldAt) setText($("age"), `· memory ${age(seconds)}`);
  if (connection !== "live" || seconds < POLL_SECONDS || document.hidden || polling) return;
  polling = true;
  try {
    present.takeMemory(await call("v1/memory"));
    toldAt = Date.now();
    changed.memory = true;
    plan();
  } catch {
    // The stream tells of a service that is gone; the age, which goes on, tells of numbers that are old.
  } finally {
    polling = false;
  }
}

function age(seconds) {
  return seconds < 1 ? "of this second" : `${duration(Math.floor(seconds)).replace(".0", "")} old`;
}

function askForKey(reason) {
  setText($("key-reason"), reason);
  $("key-value").value = "";
  $("key").returnValue = "";
  $("key").showModal();
  return new Promise((given) => {
    // There is nothing to see without a key: a dialog that was only closed opens again.
    $("key").onclose = () => ($("key").returnValue === "given" ? given($("key-value").value) : $("key").showModal());
  });
}

onKeyNeeded(askForKey);
$("rescan").addEventListener("click", async () => {
  $("rescan").disabled = true;
  await call("v1/models/rescan", { method: "POST" }).catch((error) => log.line("page", error.message, true));
  $("rescan").disabled = false;
});
setInterval(tick, TICK_MS);
follow("v1/events", take, stands);
