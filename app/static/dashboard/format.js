// Numbers as people read them. What is not known is said to be unknown, and never shown as 0.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** 30081024 as "28.7 MiB". */
export function bytes(count) {
  if (count === null || count === undefined) return "unknown";
  let value = Math.abs(count);
  let unit = 0;
  while (value >= 1023.95 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${count < 0 ? "-" : ""}${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** 134515008 as "135 M". */
export function parameters(count) {
  if (count === null || count === undefined) return "unknown";
  for (const [size, name] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (count >= size) return `${(count / size).toPrecision(3).replace(/\.0+$/, "")} ${name}`;
  }
  return String(count);
}

/** 75.2 seconds as "1 min 15 s". */
export function duration(seconds) {
  if (seconds < 0.95) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** Seconds since the epoch as the time of day here. */
export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
}

/** `1 layer`, `2 layers`. */
export function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** The last part of a model's id, and what stands before it. */
export function nameParts(id) {
  const cut = id.lastIndexOf("/") + 1;
  return [id.slice(0, cut), id.slice(cut)];
}
