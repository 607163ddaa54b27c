// Calls to the service. Addresses are relative to the page, so that it may live below a path of a proxy.

const KEY = "loadmaster-key";

/** What the service refused, in its own words and with its numbers. */
export class Refusal extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.code = error.code;
    this.facts = error;
  }
}

/** A model's address. Ids hold slashes, which stay; everything else that means something in an address is escaped. */
export function modelPath(id, action = "") {
  return `v1/models/${id.split("/").map(encodeURIComponent).join("/")}${action && `/${action}`}`;
}

let askForKey = null;
let asking = null;

/** `ask(reason)` shows the key dialog and promises the key. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** A response that is a success. A 401 asks for a key and tries again; other refusals are thrown. */
export async function open(path, { method = "GET", body, headers = {}, signal } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const response = await fetch(path, {
      method,
      headers: {
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...(key ? { Authorization: `Bearer ${key}` } : {}),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      signal,
    });
    if (response.ok) return response;
    const refusal = await refusalOf(response);
    if (response.status !== 401) throw refusal;
    if (sessionStorage.getItem(KEY) === key) {
      asking ??= askForKey(key ? "The service does not know this key." : refusal.message).finally(() => (asking = null));
      sessionStorage.setItem(KEY, await asking);
    }
  }
}

/** The JSON of a successful answer. */
export async function call(path, options) {
  return (await open(path, options)).json();
}

async function refusalOf(response) {
  try {
    return new Refusal(response.status, (await response.json()).error);
  } catch {
    return new Refusal(response.status, { message: `HTTP ${response.status} ${response.statusText}`, code: "http" });
  }
}
