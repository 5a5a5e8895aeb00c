// Spans as a tree, and what is read from each: its kind, its rewards, its error.

/** @typedef {Record<string, any>} Span */
/** @typedef {{span: Span, depth: number, children: Node[]}} Node */

/**
 * Spans as trees, in the order they came; a span whose parent is not there is a root.
 * @param {Span[]} spans
 * @returns {Node[]}
 */
export function treesOf(spans) {
  /** @type {Map<string, Node>} */
  const nodes = new Map(spans.map((span) => [span.span_id, { span, depth: 0, children: [] }]));
  /** @type {Node[]} */
  const roots = [];
  for (const node of nodes.values()) {
    const parent = nodes.get(node.span.parent_id);
    if (parent && parent !== node && !isWithin(parent, node, nodes)) parent.children.push(node);
    else roots.push(node);
  }
  return roots.sort(byStart);
}

/** The trees as rows, parents before children, without what lies below the `closed`. @param {Node[]} roots @param {Set<string>} closed */
export function rowsOf(roots, closed) {
  /** @type {Node[]} */
  const rows = [];
  const stack = [...roots].reverse();
  roots.forEach((node) => (node.depth = 0));
  while (stack.length) {
    const node = /** @type {Node} */ (stack.pop());
    rows.push(node);
    if (closed.has(node.span.span_id)) continue;
    for (const child of [...node.children].sort(byStart).reverse()) {
      child.depth = node.depth + 1;
      stack.push(child);
    }
  }
  return rows;
}

/** What a span is, for its colour and its word. @param {Span} span */
export function kindOf(span) {
  if (isCall(span)) return "model";
  if (rewardsOf(span).length) return "reward";
  if (isError(span)) return "error";
  if (span.name === "agentlightning.operation" || "agentlightning.operation.name" in span.attributes)
    return "operation";
  if (span.name.startsWith("agentlightning.")) return "note";
  return "step";
}

/** A span's name as the reader knows it. @param {Span} span */
export function titleOf(span) {
  return span.attributes["agentlightning.operation.name"] ?? span.name.replace(/^agentlightning\./, "");
}

/** @param {Span} span */
export function isCall({ attributes }) {
  return (
    "gen_ai.request.model" in attributes ||
    "gen_ai.input.messages" in attributes ||
    "gen_ai.prompt.0.role" in attributes
  );
}

/** @param {Span} span */
export function isError(span) {
  return span.status?.status_code === "ERROR";
}

/** @param {Span} span */
export function secondsOf({ start_time, end_time }) {
  return start_time === null || end_time === null ? null : end_time - start_time;
}

/**
 * The rewards that a span carries, in every spelling there is, the primary one first.
 * @param {Span} span
 * @returns {Array<{name: string, value: number}>}
 */
export function rewardsOf({ name, attributes }) {
  const numbered = [];
  for (let n = 0; `agentlightning.reward.${n}.value` in attributes; n++) {
    const value = attributes[`agentlightning.reward.${n}.value`];
    numbered.push({ name: attributes[`agentlightning.reward.${n}.name`] ?? "primary", value });
  }
  if (numbered.length) return numbered;
  const older = name === "agentlightning.reward" || name === "agentlightning.annotation";
  const said = older ? attributes.reward : name === "reward" ? attributes.value : undefined;
  const value = said ?? ofAgentOps(attributes);
  return typeof value === "number" ? [{ name: "primary", value }] : [];
}

/**
 * The exceptions that a span tells of.
 * @param {Span} span
 * @returns {Array<{type: string, message: string, stack: string}>}
 */
export function exceptionsOf(span) {
  const told = span.events
    .filter((/** @type {any} */ event) => event.name === "exception")
    .map((/** @type {any} */ event) => event.attributes);
  if ("exception.type" in span.attributes) told.push(span.attributes);
  return told.map((/** @type {any} */ attributes) => ({
    type: attributes["exception.type"] ?? "Exception",
    message: attributes["exception.message"] ?? "",
    stack: attributes["exception.stacktrace"] ?? "",
  }));
}

/** @param {any} attributes */
function ofAgentOps(attributes) {
  for (const key of ["agentops.task.output", "agentops.entity.output"]) {
    try {
      const said = JSON.parse(attributes[key] ?? "null");
      if (said?.type === "reward") return said.value;
    } catch {
      // Not everything that AgentOps writes there is JSON.
    }
  }
  return null;
}

/** @param {Node} node @param {Node} above @param {Map<string, Node>} nodes */
function isWithin(node, above, nodes) {
  const seen = new Set();
  for (let at = /** @type {Node | undefined} */ (node); at && !seen.has(at); at = nodes.get(at.span.parent_id)) {
    if (at === above) return true;
    seen.add(at);
  }
  return false;
}

/** @param {Node} one @param {Node} other */
function byStart({ span: one }, { span: other }) {
  return (one.start_time ?? 0) - (other.start_time ?? 0) || one.sequence_id - other.sequence_id;
}
