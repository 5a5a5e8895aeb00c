// Client-side routing: the URL fragment contains the view, the id of the object that it shows, and its parameters.
//
// `#/rollouts/ro-1?span=…` is { view: "rollouts", id: "ro-1", params: { span: … } }. Fragments also work in a page that
// was exported to a file. Browsers do not send them to the store, so they never appear in its log.

import { computed, signal } from "./ui.js";

/** @typedef {{view: string, id: string | null, params: Record<string, string>}} Route */

const hash = signal(location.hash);
const syncHash = () => (hash.value = location.hash);
addEventListener("hashchange", syncHash);

/** @type {{readonly value: Route}} */
export const route = computed(() => parseHash(hash.value));

/**
 * Return the URL of a view, optionally with an object's id and parameters. Empty parameters are left out.
 * @param {string} view
 * @param {string | null} [id]
 * @param {Record<string, any>} [params]
 */
export function link(view, id = null, params = {}) {
  const present = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(present.map(([key, value]) => [key, String(value)]));
  const path = view === "overview" ? "#/" : `#/${view}${id === null ? "" : `/${encodeURIComponent(id)}`}`;
  return query.size ? `${path}?${query}` : path;
}

/** Go to a URL, like a click on a link. @param {string} url */
export function navigate(url) {
  location.hash = url;
  syncHash();
}

/**
 * Change parameters of the current view without adding an entry to the browser's history.
 * @param {Record<string, any>} changes
 */
export function updateParams(changes) {
  const { view, id, params } = route.value;
  history.replaceState(null, "", link(view, id, { ...params, ...changes }));
  syncHash();
}

/** @param {string} hash @returns {Route} */
function parseHash(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [view, id] = path.split("/", 2);
  return {
    view: view || "overview",
    id: id ? decode(id) : null,
    params: Object.fromEntries(new URLSearchParams(query)),
  };
}

/** @param {string} text */
function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
