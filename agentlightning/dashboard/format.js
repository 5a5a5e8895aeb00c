// Formatting of times, numbers and values. All functions return plain text, never markup.

const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu;

/**
 * Escape invisible and direction-changing characters, for example as `\u202e`, and remove carriage returns.
 * @param {any} value
 * @returns {string}
 */
export function printable(value) {
  return String(value).replace(INVISIBLE, (mark) =>
    mark === "\r" ? "" : `\\u${(mark.codePointAt(0) ?? 0).toString(16).padStart(4, "0")}`,
  );
}

/**
 * Format a value on one line, truncated to `maxLength` characters: strings as they are, other values as JSON.
 * @param {any} value
 * @param {number} [maxLength]
 */
export function oneLine(value, maxLength = 300) {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "");
  return printable(text.length > maxLength ? `${text.slice(0, maxLength)}…` : text).replace(/\s+/g, " ");
}

/** Format a value in full: strings as they are, other values as indented JSON. @param {any} value */
export function prettyPrint(value) {
  return typeof value === "string" ? printable(value) : printable(JSON.stringify(value, null, 2) ?? "");
}

/** @type {Record<string, string>} */
const STATUS_LABELS = { queuing: "Queued", requeuing: "Requeued", timeout: "Timed out" };

/** The label for the status of a rollout, an attempt or a worker. @param {string} status */
export function statusLabel(status) {
  return STATUS_LABELS[status] ?? status.charAt(0).toUpperCase() + status.slice(1);
}

/** Format a duration: `3.2 s`, `450 ms`, `1.4 ms`, `2 min 5 s`. @param {number | null | undefined} seconds */
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

/** Format a duration in its largest unit only: `12 s`, `3 min`. @param {number} seconds */
export function roughDuration(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/**
 * Format a time relative to the current time: `12 s ago`.
 * @param {number} time seconds since the epoch
 * @param {number} now seconds since the epoch
 */
export function relativeTime(time, now) {
  return now - time < 1 ? "now" : `${roughDuration(now - time)} ago`;
}

/** Format a time to the millisecond, in the browser's time zone. @param {number} time seconds since the epoch */
export function exactTime(time) {
  const date = new Date(time * 1000);
  if (Number.isNaN(date.getTime())) return String(time);
  const twoDigits = (/** @type {number} */ number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${twoDigits(date.getMonth() + 1)}-${twoDigits(date.getDate())}`;
  const clock = [date.getHours(), date.getMinutes(), date.getSeconds()].map(twoDigits).join(":");
  return `${day} ${clock}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** Format an integer: `12,345`. @param {number | null | undefined} number */
export function count(number) {
  return number === null || number === undefined ? "–" : number.toLocaleString("en-US");
}

/** Format a reward or score with few digits, and never as `-0`. @param {number | null | undefined} number */
export function score(number) {
  if (number === null || number === undefined) return "–";
  const text = Math.abs(number) >= 1000 ? number.toPrecision(4) : number.toFixed(3).replace(/\.?0+$/, "");
  return text === "-0" ? "0" : text;
}

/** Format an amount of money: `$0.0123`. @param {number} dollars */
export function money(dollars) {
  return `$${dollars >= 100 ? dollars.toFixed(2) : Number(dollars.toPrecision(3))}`;
}

/** Format a size: `1.2 kB`. @param {number} size bytes */
export function bytes(size) {
  if (size < 1000) return `${size} B`;
  return size < 1_000_000 ? `${(size / 1000).toFixed(1)} kB` : `${(size / 1_000_000).toFixed(1)} MB`;
}

/**
 * Format a number with its noun: `1 rollout`, `2 rollouts`, `2 matches`.
 * @param {number} number
 * @param {string} noun
 */
export function plural(number, noun) {
  const ending = number === 1 ? "" : noun.endsWith("ch") ? "es" : "s";
  return `${count(number)} ${noun}${ending}`;
}
