// What the service last said. Events come in, views read; nothing else is kept on this page.

export const HISTORY_SECONDS = 300;
const JOBS_KEPT = 1000; // as many as the service keeps
const MODEL_COLOURS = 10;
const DEVICE_COLOURS = 8;
export const ENDED = new Set(["succeeded", "failed", "cancelled"]);
export const HELD = new Set(["loading", "loaded", "moving", "unloading"]);

/** Models and jobs by id, all memory, its history, and colours that stay. Sizes are in bytes. */
export class Present {
  models = new Map();
  jobs = new Map();
  memory = null;
  /** `{time, held: {device: bytes}}`, oldest first. */
  history = [];
  /** Where each layer will be when the model's job is done: a plan's layers by model id. */
  targets = new Map();
  #colours = new Map();
  #tookAt = 0; // by our clock

  /** Take an event in; returns what was known of its subject before. */
  apply(name, data) {
    if (name === "snapshot") return this.#replace(data);
    if (name === "memory") return this.takeMemory(data);
    const all = name === "job" ? this.jobs : this.models;
    const before = all.get(data.id);
    all.set(data.id, data);
    if (name === "job" && ENDED.has(data.state)) this.targets.delete(data.model);
    if (this.jobs.size > JOBS_KEPT) this.#forgetOldest();
    return before;
  }

  /** The memory, from an event or a poll; one that is known, or older, is left out. */
  takeMemory(memory) {
    if (this.memory && memory.time <= this.memory.time) return;
    this.memory = memory;
    this.#tookAt = Date.now();
    const held = memory.devices.map((device) => [device.id, heldBytes(device)]);
    if (pixel(this.history.at(-1)?.time) === pixel(memory.time)) this.history.pop();
    this.history.push({ time: memory.time, held: Object.fromEntries(held) });
    const oldest = memory.time - HISTORY_SECONDS;
    // One sample before the window says where the line comes from.
    while (this.history.length > 2 && this.history[1].time < oldest) this.history.shift();
    this.#colour(memory.models.map((model) => model.id));
  }

  /** The time by the service's clock, in seconds. A memory that does not change keeps the time of its last change. */
  get now() {
    return this.memory.time + (Date.now() - this.#tookAt) / 1000;
  }

  /** The model's job that has not ended; one that only looks does not count. */
  activeJob(model) {
    const job = this.jobs.get(this.models.get(model)?.job);
    return job && !ENDED.has(job.state) ? job : null;
  }

  /** So many jobs, the newest first, but those that have not ended before all others, and all of them. */
  newestJobs(count) {
    const all = [...this.jobs.values()].sort((a, b) => b.created_at - a.created_at);
    const live = all.filter((job) => !ENDED.has(job.state));
    return [...live, ...all.filter((job) => ENDED.has(job.state)).slice(0, Math.max(0, count - live.length))];
  }

  modelMemory(model) {
    return this.memory?.models.find((row) => row.id === model) ?? null;
  }

  modelColour(model) {
    return `model-${this.#colours.get(model) ?? 0}`;
  }

  deviceColour(device) {
    const index = this.memory?.devices.findIndex((row) => row.id === device) ?? -1;
    return index < 0 ? "host" : `device-${index % DEVICE_COLOURS}`;
  }

  #replace({ models, jobs, memory }) {
    this.models = new Map(models.map((model) => [model.id, model]));
    this.jobs = new Map(jobs.map((job) => [job.id, job]).reverse()); // the oldest first, as they will come;
    for (const model of this.targets.keys()) if (!this.activeJob(model)) this.targets.delete(model);
    this.memory = null; // of another process, perhaps, whose clock says nothing
    this.takeMemory(memory);
  }

  #forgetOldest() {
    const oldest = [...this.jobs.values()].find((job) => ENDED.has(job.state));
    if (oldest) this.jobs.delete(oldest.id);
  }

  /** A colour for each loaded model: the one of its name if no other has it, and the same as long as the page lives. */
  #colour(loaded) {
    for (const id of loaded) {
      if (this.#colours.has(id)) continue;
      const taken = new Set(loaded.map((other) => this.#colours.get(other)));
      let colour = [...id].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) >>> 0, 7) % MODEL_COLOURS;
      for (let tries = 0; taken.has(colour) && tries < MODEL_COLOURS; tries += 1) colour = (colour + 1) % MODEL_COLOURS;
      this.#colours.set(id, colour);
    }
  }
}

/** Samples of the same half second would be drawn on the same pixel: the last one stays. */
function pixel(time) {
  return Math.floor(2 * time);
}

/** All that we hold of a device, whatever for. */
export function heldBytes(device) {
  return device.used_bytes + device.reserved_bytes + device.retired_bytes;
}
