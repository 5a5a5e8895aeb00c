// A model's call, read from its span: messages made of parts, tokens, cost, and the request as it was sent.

/** @typedef {{role: string, parts: Part[], finish?: string}} Message */
/** @typedef {{type: string, [key: string]: any}} Part */

/**
 * @param {Record<string, any>} span
 */
export function callOf(span) {
  const { attributes } = span;
  const request = parsed(attributes["agentlightning.request"]);
  const response = parsed(attributes["agentlightning.response"]);
  return {
    asked: messagesOf(attributes, "gen_ai.input.messages", "gen_ai.prompt"),
    answered: messagesOf(attributes, "gen_ai.output.messages", "gen_ai.completion"),
    tools: parsed(attributes["gen_ai.tool.definitions"]) ?? [],
    model: attributes["gen_ai.response.model"] ?? attributes["gen_ai.request.model"] ?? "a model",
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

/** The request as a command for a terminal. @param {ReturnType<typeof callOf>} call */
export function asCurl(call) {
  const body = JSON.stringify(bodyOf(call), null, 2).replaceAll("'", `'\\''`);
  const path = call.path.replace(/^.*\/v1\//, "/");
  return [
    `curl "$OPENAI_BASE_URL${path}" \\`,
    `  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \\`,
    `  -d '${body}'`,
  ].join("\n");
}

/** The request as Python. @param {ReturnType<typeof callOf>} call */
export function asPython(call) {
  const name = call.path.endsWith("/responses") ? "responses" : "chat.completions";
  return `import json
from openai import OpenAI

request = json.loads(${pythonText(JSON.stringify(bodyOf(call)))})
print(OpenAI().${name}.create(**request))
`;
}

/** @param {ReturnType<typeof callOf>} call */
function bodyOf(call) {
  if (call.request) return call.request;
  const messages = call.asked.map(({ role, parts }) => ({ role, content: parts.map(textOf).join("") }));
  return { model: call.model, messages, ...call.settings };
}

/** A Python literal: JSON's own escapes are Python's too. @param {string} text */
function pythonText(text) {
  return JSON.stringify(text);
}

/** The text of a part, where it has one. @param {Part} part */
export function textOf(part) {
  if (typeof part.content === "string") return part.content;
  if (part.type === "tool_call_response")
    return typeof part.response === "string" ? part.response : JSON.stringify(part.response);
  return "";
}

/** @param {any} attributes @param {string} whole @param {string} indexed @returns {Message[]} */
function messagesOf(attributes, whole, indexed) {
  const said = parsed(attributes[whole]);
  if (Array.isArray(said)) return said.map(asMessage);
  const found = [];
  for (let n = 0; `${indexed}.${n}.role` in attributes || `${indexed}.${n}.content` in attributes; n++) {
    found.push(indexedMessage(attributes, `${indexed}.${n}`));
  }
  return found;
}

/** @param {any} said @returns {Message} */
function asMessage(said) {
  const parts = Array.isArray(said?.parts) ? said.parts : [{ type: "text", content: said?.content ?? "" }];
  return { role: String(said?.role ?? "unknown"), parts, finish: said?.finish_reason };
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
      arguments: parsed(args) ?? args,
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
  const asked = attributes["gen_ai.usage.input_tokens"] ?? attributes["gen_ai.usage.prompt_tokens"] ?? null;
  const answered = attributes["gen_ai.usage.output_tokens"] ?? attributes["gen_ai.usage.completion_tokens"] ?? null;
  return { asked, answered };
}

/** Each token of the answer and how likely it was, where the server told. @param {any} attributes @returns {Array<{token: string, logprob: number}>} */
function logprobsOf(attributes) {
  const said = parsed(attributes["agentlightning.logprobs"]);
  const content = said?.content ?? (Array.isArray(said) ? said : []);
  return Array.isArray(content)
    ? content.filter((one) => typeof one?.token === "string" && typeof one?.logprob === "number")
    : [];
}

/** @param {any} text */
function parsed(text) {
  if (typeof text !== "string") return text ?? null;
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
