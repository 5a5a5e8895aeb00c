// Client-side routing: the view, its object and its parameters, all in the URL fragment.
//
// `#/rollouts/ro-1?span=…` is { view: "rollouts", id: "ro-1", params: { span: … } }. The fragment also works in a page
// that was exported to a file, and never reaches the store's log.

import { computed, signal } from "./ui.js";

/** @typedef {{view: string, id: string | null, params: Record<string, string>}} Route */

const hash = signal(location.hash);
const syncHash = () => (hash.value = location.hash);
addEventListener("hashchange", syncHash);

/** @type {{readonly value: Route}} */
export const route = computed(() => parseHash(hash.value));

/**
 * The URL of a view, an object in it, and its parameters; empty parameters are left out.
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

/** Go to a URL, as a click on a link would. @param {string} url */
export function navigate(url) {
  location.hash = url;
  syncHash();
}

/**
 * Change parameters of the current view without a new entry in the browser's history.
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
