// Short messages about what was just done, at the bottom of the page.

import { html, signal } from "../ui.js";

const LASTS = 8_000;

/** @typedef {{id: number, text: string, bad: boolean, link?: {href: string, text: string}}} Message */

/** @type {import("../vendor/signals.js").Signal<Message[]>} */
const messages = signal([]);
let next = 1;

/**
 * Say something for a few seconds.
 * @param {string} text
 * @param {{bad?: boolean, link?: {href: string, text: string}}} [more]
 */
export function say(text, { bad = false, link } = {}) {
  const id = next++;
  messages.value = [...messages.value, { id, text, bad, link }];
  setTimeout(() => (messages.value = messages.value.filter((message) => message.id !== id)), LASTS);
}

export function Messages() {
  return html`<div class="messages" role="status" aria-live="polite">
    ${messages.value.map(
      ({ id, text, bad, link }) =>
        html`<p key=${id} class=${bad ? "bad" : ""}>${text} ${link && html`<a href=${link.href}>${link.text}</a>`}</p>`,
    )}
  </div>`;
}
