// Short notifications at the bottom of the page.

import { html, signal } from "../ui.js";

const VISIBLE_MS = 8_000;

/** @typedef {{id: number, text: string, isError: boolean, link?: {href: string, text: string}}} Notification */

/** @type {import("../vendor/signals.js").Signal<Notification[]>} */
const notifications = signal([]);
let nextId = 1;

/**
 * Show a notification for a few seconds.
 * @param {string} text
 * @param {{isError?: boolean, link?: {href: string, text: string}}} [options]
 */
export function notify(text, { isError = false, link } = {}) {
  const id = nextId++;
  notifications.value = [...notifications.value, { id, text, isError, link }];
  setTimeout(() => (notifications.value = notifications.value.filter((one) => one.id !== id)), VISIBLE_MS);
}

export function Notifications() {
  return html`<div class="notifications" role="status" aria-live="polite">
    ${notifications.value.map(
      ({ id, text, isError, link }) =>
        html`<p key=${id} class=${isError ? "bad" : ""}>${text} ${link && html`<a href=${link.href}>${link.text}</a>`}</p>`,
    )}
  </div>`;
}
