// Entry point: renders the view that the URL selects inside the layout that all views share.

import { watchChanges } from "./changes.js";
import { Layout } from "./components/layout.js";
import { route } from "./route.js";
import { html, render } from "./ui.js";
import { Overview } from "./views/overview.js";
import { Resources } from "./views/resources.js";
import { Rollout } from "./views/rollout.js";
import { Rollouts } from "./views/rollouts.js";
import { Workers } from "./views/workers.js";

function Page() {
  return html`<${Layout}><${View} ...${route.value} /><//>`;
}

/** @param {import("./route.js").Route} route */
function View({ view, id, params }) {
  switch (view) {
    case "overview":
      return html`<${Overview} />`;
    case "rollouts":
      return id === null
        ? html`<${Rollouts} params=${params} />`
        : html`<${Rollout} key=${id} id=${id} params=${params} />`;
    case "resources":
      return html`<${Resources} params=${params} />`;
    case "workers":
      return html`<${Workers} />`;
    default:
      return html`<p class="empty">Page not found. <a href="#/">Overview</a></p>`;
  }
}

const root = /** @type {HTMLElement} */ (document.getElementById("page"));
root.replaceChildren();
render(html`<${Page} />`, root);
watchChanges();
