// Trees of spans, and the kind, rewards and exceptions of each span.

/** @typedef {Record<string, any>} Span */
/** @typedef {{span: Span, depth: number, children: SpanNode[]}} SpanNode */

/**
 * Arrange spans in trees, and sort the roots by start time. A span whose parent is missing is a root.
 * @param {Span[]} spans
 * @returns {SpanNode[]}
 */
export function buildTrees(spans) {
  /** @type {Map<string, SpanNode>} */
  const nodes = new Map(spans.map((span) => [span.span_id, { span, depth: 0, children: [] }]));
  /** @type {SpanNode[]} */
  const roots = [];
  for (const node of nodes.values()) {
    const parent = nodes.get(node.span.parent_id);
    if (parent && parent !== node && !isDescendant(parent, node, nodes)) parent.children.push(node);
    else roots.push(node);
  }
  return roots.sort(compareByStart);
}

/**
 * List the spans of the trees as rows, with parents before children. Descendants of `collapsed` spans are left out.
 * @param {SpanNode[]} roots
 * @param {Set<string>} collapsed
 */
export function flattenTrees(roots, collapsed) {
  /** @type {SpanNode[]} */
  const rows = [];
  const stack = [...roots].reverse();
  roots.forEach((node) => (node.depth = 0));
  while (stack.length) {
    const node = /** @type {SpanNode} */ (stack.pop());
    rows.push(node);
    if (collapsed.has(node.span.span_id)) continue;
    for (const child of [...node.children].sort(compareByStart).reverse()) {
      child.depth = node.depth + 1;
      stack.push(child);
    }
  }
  return rows;
}

/** The kind of a span, which determines its colour. @param {Span} span */
export function spanKind(span) {
  if (isCall(span)) return "model";
  if (spanRewards(span).length) return "reward";
  if (isError(span)) return "error";
  if (span.name === "agentlightning.operation" || "agentlightning.operation.name" in span.attributes)
    return "operation";
  if (span.name.startsWith("agentlightning.")) return "note";
  return "step";
}

/**
 * The title of a span: the operation's name, or the span's name without the prefix `agentlightning.`.
 * @param {Span} span
 */
export function spanTitle(span) {
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
export function spanSeconds({ start_time, end_time }) {
  return start_time === null || end_time === null ? null : end_time - start_time;
}

/**
 * The rewards that a span records in any known format, with the primary reward first. Late spans have none.
 * @param {Span} span
 * @returns {Array<{name: string, value: number}>}
 */
export function spanRewards({ name, attributes }) {
  if (attributes["agentlightning.late"]) return [];
  const numbered = [];
  for (let n = 0; `agentlightning.reward.${n}.value` in attributes; n++) {
    const value = attributes[`agentlightning.reward.${n}.value`];
    numbered.push({ name: attributes[`agentlightning.reward.${n}.name`] ?? "primary", value });
  }
  if (numbered.length) return numbered;
  const isLegacy = name === "agentlightning.reward" || name === "agentlightning.annotation";
  const single = isLegacy ? attributes.reward : name === "reward" ? attributes.value : undefined;
  const value = single ?? agentOpsReward(attributes);
  return typeof value === "number" ? [{ name: "primary", value }] : [];
}

/**
 * The exceptions recorded in a span.
 * @param {Span} span
 * @returns {Array<{type: string, message: string, stack: string}>}
 */
export function spanExceptions(span) {
  const exceptions = span.events
    .filter((/** @type {any} */ event) => event.name === "exception")
    .map((/** @type {any} */ event) => event.attributes);
  if ("exception.type" in span.attributes) exceptions.push(span.attributes);
  return exceptions.map((/** @type {any} */ attributes) => ({
    type: attributes["exception.type"] ?? "Exception",
    message: attributes["exception.message"] ?? "",
    stack: attributes["exception.stacktrace"] ?? "",
  }));
}

/** @param {any} attributes */
function agentOpsReward(attributes) {
  for (const key of ["agentops.task.output", "agentops.entity.output"]) {
    try {
      const output = JSON.parse(attributes[key] ?? "null");
      if (output?.type === "reward") return output.value;
    } catch {
      // Not JSON: AgentOps also stores plain text in these attributes.
    }
  }
  return null;
}

/** @param {SpanNode} node @param {SpanNode} ancestor @param {Map<string, SpanNode>} nodes */
function isDescendant(node, ancestor, nodes) {
  const seen = new Set();
  for (
    let current = /** @type {SpanNode | undefined} */ (node);
    current && !seen.has(current);
    current = nodes.get(current.span.parent_id)
  ) {
    if (current === ancestor) return true;
    seen.add(current);
  }
  return false;
}

/** @param {SpanNode} a @param {SpanNode} b */
function compareByStart({ span: a }, { span: b }) {
  return (a.start_time ?? 0) - (b.start_time ?? 0) || a.sequence_id - b.sequence_id;
}
