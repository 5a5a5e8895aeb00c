// A model call parsed from its span: messages and their parts, tokens, cost, and the original request.

/** @typedef {{role: string, parts: Part[], finish?: string}} Message */
/** @typedef {{type: string, [key: string]: any}} Part */

/** @param {Record<string, any>} span */
export function parseCall(span) {
  const { attributes } = span;
  const request = parseJson(attributes["agentlightning.request"]);
  const response = parseJson(attributes["agentlightning.response"]);
  return {
    input: messagesOf(attributes, "gen_ai.input.messages", "gen_ai.prompt"),
    output: messagesOf(attributes, "gen_ai.output.messages", "gen_ai.completion"),
    tools: parseJson(attributes["gen_ai.tool.definitions"]) ?? [],
    model: attributes["gen_ai.response.model"] ?? attributes["gen_ai.request.model"] ?? "unknown model",
    settings: settingsOf(attributes),
    tokens: tokensOf(attributes),
    cost: response?.usage?.cost ?? attributes["gen_ai.usage.cost"] ?? null,
    streamed: attributes["agentlightning.streamed"] === true,
    incomplete: attributes["agentlightning.incomplete"] === true,
    captureError: attributes["agentlightning.capture_error"],
    logprobs: logprobsOf(attributes),
    request,
    path: attributes["url.path"] ?? "/v1/chat/completions",
  };
}

/** The request as a curl command. @param {ReturnType<typeof parseCall>} call */
export function asCurl(call) {
  const body = JSON.stringify(bodyOf(call), null, 2).replaceAll("'", `'\\''`);
  const path = call.path.replace(/^.*\/v1\//, "/");
  return [
    `curl "$OPENAI_BASE_URL${path}" \\`,
    `  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \\`,
    `  -d '${body}'`,
  ].join("\n");
}

/** The request as Python code. @param {ReturnType<typeof parseCall>} call */
export function asPython(call) {
  const name = call.path.endsWith("/responses") ? "responses" : "chat.completions";
  return `import json
from openai import OpenAI

request = json.loads(${pythonLiteral(JSON.stringify(bodyOf(call)))})
print(OpenAI().${name}.create(**request))
`;
}

/** @param {ReturnType<typeof parseCall>} call */
function bodyOf(call) {
  if (call.request) return call.request;
  const messages = call.input.map(({ role, parts }) => ({ role, content: parts.map(textOf).join("") }));
  return { model: call.model, messages, ...call.settings };
}

/** Format a text as a Python string literal. JSON's escape sequences are valid in Python. @param {string} text */
function pythonLiteral(text) {
  return JSON.stringify(text);
}

/** The text of a part, or an empty string if the part does not contain text. @param {Part} part */
export function textOf(part) {
  if (typeof part.content === "string") return part.content;
  if (part.type === "tool_call_response")
    return typeof part.response === "string" ? part.response : JSON.stringify(part.response);
  return "";
}

/**
 * Read messages from the JSON attribute `key`, or else from the indexed attributes that start with `prefix`.
 * @param {any} attributes
 * @param {string} key
 * @param {string} prefix
 * @returns {Message[]}
 */
function messagesOf(attributes, key, prefix) {
  const stored = parseJson(attributes[key]);
  if (Array.isArray(stored)) return stored.map(toMessage);
  const messages = [];
  for (let n = 0; `${prefix}.${n}.role` in attributes || `${prefix}.${n}.content` in attributes; n++) {
    messages.push(indexedMessage(attributes, `${prefix}.${n}`));
  }
  return messages;
}

/** @param {any} stored @returns {Message} */
function toMessage(stored) {
  const parts = Array.isArray(stored?.parts) ? stored.parts : [{ type: "text", content: stored?.content ?? "" }];
  return { role: String(stored?.role ?? "unknown"), parts, finish: stored?.finish_reason };
}

/** @param {any} attributes @param {string} prefix @returns {Message} */
function indexedMessage(attributes, prefix) {
  /** @type {Part[]} */
  const parts = [];
  const content = attributes[`${prefix}.content`];
  if (content !== undefined && content !== "") parts.push({ type: "text", content });
  for (let n = 0; `${prefix}.tool_calls.${n}.name` in attributes; n++) {
    const at = `${prefix}.tool_calls.${n}`;
    const args = attributes[`${at}.arguments`];
    parts.push({
      type: "tool_call",
      id: attributes[`${at}.id`],
      name: attributes[`${at}.name`],
      arguments: parseJson(args) ?? args,
    });
  }
  return { role: attributes[`${prefix}.role`] ?? "assistant", parts, finish: attributes[`${prefix}.finish_reason`] };
}

/** @param {any} attributes */
function settingsOf(attributes) {
  const settings = Object.entries(attributes).filter(
    ([key]) => key.startsWith("gen_ai.request.") && !key.endsWith(".model"),
  );
  return Object.fromEntries(settings.map(([key, value]) => [key.slice("gen_ai.request.".length), value]));
}

/** @param {any} attributes */
function tokensOf(attributes) {
  const input = attributes["gen_ai.usage.input_tokens"] ?? attributes["gen_ai.usage.prompt_tokens"] ?? null;
  const output = attributes["gen_ai.usage.output_tokens"] ?? attributes["gen_ai.usage.completion_tokens"] ?? null;
  return { input, output };
}

/**
 * The output tokens with their log probabilities, or an empty array if the server did not return any.
 * @param {any} attributes
 * @returns {Array<{token: string, logprob: number}>}
 */
function logprobsOf(attributes) {
  const logprobs = parseJson(attributes["agentlightning.logprobs"]);
  const content = logprobs?.content ?? (Array.isArray(logprobs) ? logprobs : []);
  return Array.isArray(content)
    ? content.filter((one) => typeof one?.token === "string" && typeof one?.logprob === "number")
    : [];
}

/** @param {any} text */
function parseJson(text) {
  if (typeof text !== "string") return text ?? null;
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
