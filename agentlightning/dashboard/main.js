// What runs first: shows the view that the URL names, inside the frame that all views share.

import { listen } from "./live.js";
import { Frame } from "./parts/frame.js";
import { route } from "./route.js";
import { html, render } from "./ui.js";
import { Overview } from "./views/overview.js";
import { Resources } from "./views/resources.js";
import { Rollout } from "./views/rollout.js";
import { Rollouts } from "./views/rollouts.js";
import { Workers } from "./views/workers.js";

function Page() {
  return html`<${Frame}><${View} ...${route.value} /><//>`;
}

/** @param {import("./route.js").Route} at */
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
      return html`<p class="empty">There is no such page. <a href="#/">Overview</a></p>`;
  }
}

const place = /** @type {HTMLElement} */ (document.getElementById("page"));
place.replaceChildren();
render(html`<${Page} />`, place);
listen();
