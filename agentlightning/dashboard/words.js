// How times, numbers and values are said. All of it plain text: nothing here makes markup.

const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu;

/**
 * Text with what cannot be seen, or would turn the line around, written out: `\u202e`, `\u001b`.
 * @param {any} value
 * @returns {string}
 */
export function visible(value) {
  return String(value).replace(HIDDEN, (mark) =>
    mark === "\r" ? "" : `\\u${(mark.codePointAt(0) ?? 0).toString(16).padStart(4, "0")}`,
  );
}

/** A value on one line: texts as they are, the rest as JSON. @param {any} value @param {number} [most] */
export function brief(value, most = 300) {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "");
  return visible(text.length > most ? `${text.slice(0, most)}…` : text).replace(/\s+/g, " ");
}

/** A value in full, on as many lines as it needs. @param {any} value */
export function full(value) {
  return typeof value === "string" ? visible(value) : visible(JSON.stringify(value, null, 2) ?? "");
}

/** `3.2 s`, `450 ms`, `1.4 ms`, `2 min 5 s`. @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 0.00005) return "0 ms";
  if (seconds < 0.00995) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

/** `12 s ago`. @param {number} time @param {number} now seconds since the epoch, both */
export function ago(time, now) {
  const seconds = now - time;
  if (seconds < 1) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

/** The time to the millisecond, in the reader's own zone. @param {number} time seconds since the epoch */
export function exactTime(time) {
  const date = new Date(time * 1000);
  if (Number.isNaN(date.getTime())) return String(time);
  const two = (/** @type {number} */ number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const clock = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  return `${day} ${clock}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** `12,345`. @param {number | null | undefined} number */
export function count(number) {
  return number === null || number === undefined ? "–" : number.toLocaleString("en-US");
}

/** A reward or score: few digits, never `-0`. @param {number | null | undefined} number */
export function score(number) {
  if (number === null || number === undefined) return "–";
  const text = Math.abs(number) >= 1000 ? number.toPrecision(4) : number.toFixed(3).replace(/\.?0+$/, "");
  return text === "-0" ? "0" : text;
}

/** `$0.0123`. @param {number} dollars */
export function money(dollars) {
  return `$${dollars >= 100 ? dollars.toFixed(2) : Number(dollars.toPrecision(3))}`;
}

/** `1.2 kB`. @param {number} size */
export function bytes(size) {
  if (size < 1000) return `${size} B`;
  return size < 1_000_000 ? `${(size / 1000).toFixed(1)} kB` : `${(size / 1_000_000).toFixed(1)} MB`;
}

/** `1 rollout`, `2 rollouts`. @param {number} number @param {string} noun */
export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}
