// Where the reader is: the view, the thing it shows and how, all of it in the URL behind `#`.
//
// `#/rollouts/ro-1?span=…` is { view: "rollouts", id: "ro-1", params: { span: … } }. Behind `#` because a page that
// was exported to a file has no other place for it, and because it never reaches the store's log.

import { computed, signal } from "./ui.js";

/** @typedef {{view: string, id: string | null, params: Record<string, string>}} Route */

const hash = signal(location.hash);
const look = () => (hash.value = location.hash);
addEventListener("hashchange", look);

/** @type {{readonly value: Route}} */
export const route = computed(() => read(hash.value));

/**
 * The URL of a view, a thing in it, and how it is shown; parameters that say nothing are left out.
 * @param {string} view
 * @param {string | null} [id]
 * @param {Record<string, any>} [params]
 */
export function link(view, id = null, params = {}) {
  const said = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(said.map(([key, value]) => [key, String(value)]));
  const path = view === "overview" ? "#/" : `#/${view}${id === null ? "" : `/${encodeURIComponent(id)}`}`;
  return query.size ? `${path}?${query}` : path;
}

/** Go there, as a click on a link would. @param {string} to */
export function go(to) {
  location.hash = to;
  look();
}

/**
 * Show the same thing differently. What is only another look at it does not become a step of the Back button.
 * @param {Record<string, any>} changes
 * @param {{replace?: boolean}} [how]
 */
export function change(changes, { replace = true } = {}) {
  const { view, id, params } = route.value;
  const to = link(view, id, { ...params, ...changes });
  if (!replace) return go(to);
  history.replaceState(null, "", to);
  look();
}

/** @param {string} hash @returns {Route} */
function read(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [view, id] = path.split("/", 2);
  return {
    view: view || "overview",
    id: id ? decoded(id) : null,
    params: Object.fromEntries(new URLSearchParams(query)),
  };
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
