// The event stream by fetch, for EventSource can send no key. Reconnects for ever, and replays what was missed.

import { open, Refusal } from "./api.js";

const SILENCE_MS = 40_000; // the service sends a comment every 15 s: after this long the connection is dead
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 5_000;

/** `told(name, data)` hears every event; `stands(state, reason)` is "connecting", "live" or "waiting". */
export async function follow(path, told, stands) {
  let last = null;
  let wait = FIRST_WAIT_MS;
  for (;;) {
    const silence = new Silence();
    try {
      stands("connecting");
      const headers = last ? { "Last-Event-ID": last } : {};
      const response = await open(path, { headers, signal: silence.signal });
      silence.heard();
      stands("live");
      wait = FIRST_WAIT_MS;
      for await (const event of frames(response.body, () => silence.heard())) {
        hand(told, event.event, JSON.parse(event.data));
        last = event.id; // after it was taken in: what was lost on the way is replayed
      }
      stands("waiting", "the service ended the stream");
    } catch (error) {
      stands("waiting", error instanceof Refusal ? error.message : "the service does not answer");
    } finally {
      silence.over();
    }
    await pause(wait * (0.75 + Math.random() / 2));
    wait = Math.min(LONGEST_WAIT_MS, wait * 2);
  }
}

/** A fault of a view is a fault of this page: it is reported as one, and not taken for the service's silence. */
function hand(told, name, data) {
  try {
    told(name, data);
  } catch (fault) {
    reportError(fault);
  }
}

/** Aborts when nothing was heard for too long, once something was: until then the key dialog may be open. */
class Silence {
  #controller = new AbortController();
  #timer = 0;

  get signal() {
    return this.#controller.signal;
  }

  heard() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#controller.abort(), SILENCE_MS);
  }

  over() {
    clearTimeout(this.#timer);
    this.#controller.abort();
  }
}

async function* frames(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = fields(block);
      if ("data" in event) yield event;
    }
  }
}

function fields(block) {
  const found = {};
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) found[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
  }
  return found;
}

/** Wait, but not once the network or the tab comes back. */
function pause(milliseconds) {
  return new Promise((done) => {
    const over = () => {
      clearTimeout(timer);
      removeEventListener("online", over);
      document.removeEventListener("visibilitychange", seen);
      done();
    };
    const seen = () => document.hidden || over();
    const timer = setTimeout(over, milliseconds);
    addEventListener("online", over);
    document.addEventListener("visibilitychange", seen);
  });
}
