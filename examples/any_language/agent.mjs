// An agent in Node. OpenAI's package reads the model's address, and OpenTelemetry's package the store's address, from the
// environment. Only the task in AGL_TASK and the reward on the last line are specific to Agent Lightning.
import { context, propagation, trace } from "@opentelemetry/api";
import { NodeSDK } from "@opentelemetry/sdk-node";
import OpenAI from "openai";

const telemetry = new NodeSDK(); // reads OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_RESOURCE_ATTRIBUTES, …
telemetry.start();
const run = propagation.extract(context.active(), {
  traceparent: process.env.TRACEPARENT,
  baggage: process.env.BAGGAGE,
});
const tracer = trace.getTracer("multiplier");
const client = new OpenAI(); // reads OPENAI_BASE_URL and OPENAI_API_KEY
const model = process.env.AGL_MODEL;

const tools = [
  {
    type: "function",
    function: {
      name: "multiply",
      description: "Multiply two numbers.",
      parameters: {
        type: "object",
        properties: { a: { type: "number" }, b: { type: "number" } },
        required: ["a", "b"],
      },
    },
  },
];

function multiply(call) {
  return tracer.startActiveSpan("multiply", (span) => {
    const { a, b } = JSON.parse(call.function.arguments);
    span.setAttributes({ "tool.name": "multiply", a, b });
    span.end();
    return String(a * b);
  });
}

async function answer(question) {
  const messages = [{ role: "user", content: question }];
  const first = await client.chat.completions.create({ model, messages, tools });
  const { message } = first.choices[0];
  messages.push(message);
  for (const call of message.tool_calls ?? []) {
    messages.push({ role: "tool", tool_call_id: call.id, content: multiply(call) });
  }
  let text = "";
  for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? "";
  }
  return text;
}

const text = await context.with(run, () => answer(process.env.AGL_TASK));
await telemetry.shutdown(); // sends the remaining spans
console.log(text);
console.log(JSON.stringify({ reward: text.includes("51") ? 1 : 0 }));
