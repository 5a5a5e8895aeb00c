// What is asked or told before anything else: the token, the keys.

import { giveToken, tokenRefused } from "../api.js";
import { KEYS, helpShown, useKeys } from "../keys.js";
import { html, useLayoutEffect, useRef } from "../ui.js";

/** @param {{title: string, close?: () => void, children?: any}} props */
function Dialog({ title, close, children }) {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useKeys(close ? { Escape: close } : {});
  useLayoutEffect(() => dialog.current?.showModal(), []);
  return html`<dialog ref=${dialog} aria-label=${title} onCancel=${close} onClose=${close}>
    <h2>${title}</h2>
    ${children}
  </dialog>`;
}

/** The list of keys. */
export function Help() {
  const close = () => (helpShown.value = false);
  return html`<${Dialog} title="Keys" close=${close}>
    <dl class="keys">
      ${KEYS.map(([key, does]) => html`<dt><kbd>${key}</kbd></dt><dd>${does}</dd>`)}
    </dl>
    <button onClick=${close}>Close</button>
  <//>`;
}

/** Asks for the store's token, which the tab keeps. */
export function TokenForm() {
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    giveToken(field.current?.value ?? "");
  };
  return html`<${Dialog} title="This store asks for a token">
    <form onSubmit=${submit}>
      <label>
        The token given to <code>agl store --token</code> or <code>AGL_TOKEN</code>
        <input ref=${field} type="password" autocomplete="off" required />
      </label>
      ${tokenRefused.value && html`<p class="bad" role="alert">The store does not know this token.</p>`}
      <p class="dim">It is kept by this tab, and forgotten when the tab is closed.</p>
      <button class="main">Open</button>
    </form>
  <//>`;
}
