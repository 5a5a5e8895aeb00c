"""Create `fixtures/*.json`: the same calls, as tracing libraries record them.

    python tests/adapter/make_fixtures.py            # all of them, each in a temporary environment
    python tests/adapter/make_fixtures.py wire       # one, in the environment of this Python

Every scenario is one or two calls of a real SDK to the scripted model. Ids are counters and times are ranks, so a new
fixture differs from the old one only if the library has changed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

SDKS = ["openai==3.54.0", "anthropic==2.12.0", "starlette", "uvicorn"]
LIBRARIES = {
    "wire": ["-e", str(HERE.parent.parent)],
    "openinference": [
        "opentelemetry-sdk",
        "openinference-instrumentation-openai==0.1.66",
        "openinference-instrumentation-anthropic",
    ],
    "opentelemetry": [
        "opentelemetry-sdk",
        "opentelemetry-instrumentation-genai-openai==1.3b0",
        "opentelemetry-instrumentation-genai-anthropic==1.3b0",
    ],
    "agentops": ["agentops==0.4.21"],
    "logfire": ["logfire==5.2.0"],
    "langfuse": ["langfuse==5.0.4"],
}
BOTH = {f"{library}_and_wire": [*LIBRARIES[library], *LIBRARIES["wire"]] for library in ("openinference", "agentops")}

# The calls

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}
OTHER_TOOL = {"type": "function", "function": {**TOOL["function"], "name": "add_slowly"}}
RESPONSES_TOOL = {"type": "function", "strict": False, **TOOL["function"]}
ANTHROPIC_TOOL = {
    "name": "add",
    "description": "Adds two numbers.",
    "input_schema": TOOL["function"]["parameters"],
}
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
QUESTION = {"role": "user", "content": "What is 2 + 3?"}


def chat(openai: Any, _: Any) -> None:
    openai.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello there"}])


def chat_stream(openai: Any, _: Any) -> None:
    for _chunk in openai.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "Hello there"}],
        stream=True,
        stream_options={"include_usage": True},
    ):
        pass


def conversation(openai: Any, _: Any) -> None:
    openai.chat.completions.create(
        model="m",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who are you?"},
            {"role": "assistant", "content": "A model."},
            {"role": "user", "content": "And today?"},
        ],
        temperature=0.5,
        max_tokens=20,
        seed=7,
    )


def tool_call(openai: Any, _: Any) -> None:
    openai.chat.completions.create(model="m", messages=[QUESTION], tools=[TOOL])


def tool_result(openai: Any, _: Any) -> None:
    called = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
    openai.chat.completions.create(
        model="m",
        messages=[
            QUESTION,
            {"role": "assistant", "content": None, "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "call_1", "content": "5"},
        ],
        tools=[TOOL],
    )


def tool_call_stream(openai: Any, _: Any) -> None:
    for _chunk in openai.chat.completions.create(model="m", messages=[QUESTION], tools=[TOOL], stream=True):
        pass


def picture(openai: Any, _: Any) -> None:
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    openai.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])


def several_turns(openai: Any, _: Any) -> None:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
    for question in ("Hello there", "And today?"):
        messages.append({"role": "user", "content": question})
        answer = openai.chat.completions.create(model="m", messages=messages)
        messages.append({"role": "assistant", "content": answer.choices[0].message.content})


def any_script(openai: Any, _: Any) -> None:
    text = 'Grüße, 世界! \U0001f44b\U0001f3fd שלום "quoted" \\ back\n\tand a new line'
    openai.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])


def json_mode(openai: Any, _: Any) -> None:
    openai.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": '{"task": "JSON"}'}],
        response_format={"type": "json_object"},
    )


def parameters(openai: Any, _: Any) -> None:
    openai.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "Hello there"}],
        temperature=0.0,
        top_p=0.5,
        max_completion_tokens=20,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        stop=["END"],
        user="someone",
    )


def two_choices(openai: Any, _: Any) -> None:
    openai.chat.completions.create(model="m", messages=[{"role": "user", "content": "Say it twice"}], n=2)


def refusal(openai: Any, _: Any) -> None:
    openai.chat.completions.create(model="m", messages=[{"role": "user", "content": "Do something bad"}])


def cut_short(openai: Any, _: Any) -> None:
    openai.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Count to a million"}], max_tokens=5
    )


def long_text(openai: Any, _: Any) -> None:
    openai.chat.completions.create(model="m", messages=[{"role": "user", "content": "A long way. " * 400}])


def developer(openai: Any, _: Any) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello there"}]
    openai.chat.completions.create(model="m", messages=messages, reasoning_effort="low")


def text_parts(openai: Any, _: Any) -> None:
    content = [{"type": "text", "text": "Hello "}, {"type": "text", "text": "there"}]
    openai.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])


def several_tools(openai: Any, _: Any) -> None:
    """Call two tools in one turn, with both results in the next."""
    messages: list[Any] = [{"role": "user", "content": "What is 2 + 3, and 4 + 5?"}]
    tools = [TOOL, OTHER_TOOL]
    answer = openai.chat.completions.create(model="m", messages=messages, tools=tools, parallel_tool_calls=True)
    message = answer.choices[0].message
    messages.append(message.model_dump(include={"role", "content", "tool_calls"}))
    messages += [
        {"role": "tool", "tool_call_id": call.id, "content": f"from {call.function.name}"}
        for call in message.tool_calls
    ]
    openai.chat.completions.create(model="m", messages=messages, tools=tools)


def several_tools_stream(openai: Any, _: Any) -> None:
    messages = [{"role": "user", "content": "What is 2 + 3, and 4 + 5?"}]
    for _chunk in openai.chat.completions.create(model="m", messages=messages, tools=[TOOL, OTHER_TOOL], stream=True):
        pass


def responses(openai: Any, _: Any) -> None:
    openai.responses.create(model="m", instructions="Be brief.", input="Hello there", temperature=0.5)


def responses_stream(openai: Any, _: Any) -> None:
    for _event in openai.responses.create(model="m", input=[{"role": "user", "content": "Hello there"}], stream=True):
        pass


def responses_turns(openai: Any, _: Any) -> None:
    conversation = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A model."},
        {"role": "user", "content": "And today?"},
    ]
    for _event in openai.responses.create(model="m", input=conversation, stream=True):
        pass


def responses_tools(openai: Any, _: Any) -> None:
    answer = openai.responses.create(model="m", input=[QUESTION], tools=[RESPONSES_TOOL])
    call = answer.output[0]
    openai.responses.create(
        model="m",
        input=[
            QUESTION,
            {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
            {"type": "function_call_output", "call_id": call.call_id, "output": "5"},
        ],
        tools=[RESPONSES_TOOL],
    )


def anthropic(_: Any, anthropic: Any) -> None:
    messages = [{"role": "user", "content": "Hello there"}]
    anthropic.messages.create(model="m", messages=messages, max_tokens=20)


def anthropic_turns(_: Any, anthropic: Any) -> None:
    messages = [
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A model."},
        {"role": "user", "content": [{"type": "text", "text": "And today?"}]},
    ]
    anthropic.messages.create(model="m", messages=messages, max_tokens=20)


def anthropic_stream(_: Any, anthropic: Any) -> None:
    messages = [{"role": "user", "content": "Hello there"}]
    for _event in anthropic.messages.create(
        model="m", system="Be brief.", messages=messages, max_tokens=20, stream=True
    ):
        pass


def anthropic_tools(_: Any, anthropic: Any) -> None:
    answer = anthropic.messages.create(model="m", messages=[QUESTION], tools=[ANTHROPIC_TOOL], max_tokens=20)
    call = answer.content[0]
    anthropic.messages.create(
        model="m",
        messages=[
            QUESTION,
            {"role": "assistant", "content": [call.model_dump(include={"type", "id", "name", "input"})]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "5"}]},
        ],
        tools=[ANTHROPIC_TOOL],
        max_tokens=20,
    )


SCENARIOS: dict[str, Callable[[Any, Any], None]] = {
    scenario.__name__: scenario
    for scenario in (
        chat,
        chat_stream,
        conversation,
        tool_call,
        tool_result,
        tool_call_stream,
        several_turns,
        any_script,
        json_mode,
        parameters,
        two_choices,
        refusal,
        cut_short,
        long_text,
        developer,
        text_parts,
        several_tools,
        several_tools_stream,
        picture,
        responses,
        responses_stream,
        responses_turns,
        responses_tools,
        anthropic,
        anthropic_turns,
        anthropic_stream,
        anthropic_tools,
    )
}


def _answer(call: Any) -> Any:
    from tests.scripted_model import Answer

    prompt = str(call.body.get("messages") or call.body.get("input"))
    has_results = any(marker in prompt for marker in ("'tool'", "tool_result", "function_call_output"))
    if len(call.body.get("tools", ())) > 1 and not has_results:
        return Answer(tool_calls=[("add", {"a": 2, "b": 3}), ("add_slowly", {"a": 4, "b": 5})])
    if call.body.get("tools") and not has_results:
        return Answer(tool_calls=[("add", {"a": 2, "b": 3})])
    if call.question in ANSWERS:
        return Answer(extra={"choices": [_choice(n, **choice) for n, choice in enumerate(ANSWERS[call.question])]})
    return Answer(call.question if call.question.startswith("Gr") else "It is 5, I think.")


ANSWERS: dict[str, list[dict[str, Any]]] = {
    '{"task": "JSON"}': [{"content": '{"answer": [5, {"sure": false}]}'}],
    "Say it twice": [{"content": "It is 5."}, {"content": "It is five."}],
    "Do something bad": [{"content": None, "refusal": "I will not."}],
    "Count to a million": [{"content": "1, 2, 3,", "finish_reason": "length"}],
    "A long way. " * 400: [{"content": "On and on. " * 400}],
}
"""Answers to some questions; all others get a short one."""


def _choice(index: int, *, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {"index": index, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}


# The libraries


def _wire(provider: Any) -> None:
    from opentelemetry import context

    from agentlightning.instrumentation import WIRE_TAP
    from agentlightning.instrumentation.context import SCOPE

    class RecordingScope:
        call_tracer = provider.get_tracer("agentlightning")
        eager_decode = True

    WIRE_TAP.apply()
    context.attach(context.set_value(SCOPE, RecordingScope()))


def _openinference(provider: Any) -> None:
    from openinference.instrumentation.anthropic import AnthropicInstrumentor
    from openinference.instrumentation.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=provider)
    AnthropicInstrumentor().instrument(tracer_provider=provider)


def _opentelemetry(provider: Any) -> None:
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_ONLY"
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
    from opentelemetry.instrumentation.genai.anthropic import AnthropicInstrumentor
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=provider)
    AnthropicInstrumentor().instrument(tracer_provider=provider)


def _agentops(provider: Any) -> None:
    import openai.resources.chat

    # The instrumentor imports these modules under their names in openai 1.
    sys.modules.setdefault("openai.resources.beta.chat", openai.resources.chat)
    sys.modules.setdefault("openai.resources.beta.chat.completions", openai.resources.chat.completions)
    from agentops.sdk.core import tracer
    from opentelemetry import trace

    trace.set_tracer_provider(provider)
    tracer.provider = provider
    tracer._initialized = True
    tracer._config = {}
    from agentops.instrumentation.providers.anthropic import AnthropicInstrumentor
    from agentops.instrumentation.providers.openai import OpenaiInstrumentor

    OpenaiInstrumentor().instrument(tracer_provider=provider)
    AnthropicInstrumentor().instrument(tracer_provider=provider)


def _logfire(provider: Any) -> None:
    import logfire
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    logfire.configure(
        send_to_logfire=False,
        console=False,
        additional_span_processors=[SimpleSpanProcessor(provider.exporter)],
        advanced=logfire.AdvancedOptions(id_generator=provider.id_generator),
    )
    provider.get_tracer = trace.get_tracer_provider().get_tracer
    logfire.instrument_openai()
    logfire.instrument_anthropic()


def _langfuse(provider: Any) -> None:
    import langfuse

    provider.client = langfuse.Langfuse(
        public_key="pk-lf-none",
        secret_key="sk-lf-none",
        base_url="http://127.0.0.1:9",
        tracer_provider=provider,
        span_exporter=provider.exporter,
        should_export_span=lambda _: True,
    )


def _and_wire(setup: Callable[[Any], None]) -> Callable[[Any], None]:
    def both(provider: Any) -> None:
        setup(provider)
        _wire(provider)

    return both


SETUPS = {
    "wire": _wire,
    "openinference": _openinference,
    "opentelemetry": _opentelemetry,
    "agentops": _agentops,
    "openinference_and_wire": _and_wire(_openinference),
    "agentops_and_wire": _and_wire(_agentops),
    "logfire": _logfire,
    "langfuse": _langfuse,
}


def make(library: str) -> None:
    """Write the fixture of an installed library."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from tests.scripted_model import ScriptedModel

    os.environ["ANTHROPIC_OPEN_TELEMETRY"] = "false"
    exporter = InMemorySpanExporter()
    provider: Any = TracerProvider(id_generator=_counting_ids())
    provider.exporter = exporter
    if library not in ("langfuse", "logfire"):
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    SETUPS[library](provider)
    fixture: dict[str, Any] = {}
    for name, scenario in SCENARIOS.items():
        exporter.clear()
        with ScriptedModel(_answer, takes_call=True) as model:
            clients = _clients(library, model, provider)
            with provider.get_tracer("agent").start_as_current_span("agent"):
                scenario(*clients)
        if library == "langfuse":
            provider.client.flush()
        fixture[name] = _to_json(list(exporter.get_finished_spans()))
        print(f"{library:22} {name:18} {len(fixture[name])} spans")
    (HERE / "fixtures" / f"{library}.json").write_text(json.dumps(fixture, indent=1, sort_keys=True) + "\n")


def _clients(library: str, model: Any, provider: Any) -> tuple[Any, Any]:
    from anthropic import Anthropic

    if library == "langfuse":
        from langfuse.openai import OpenAI
    else:
        from openai import OpenAI
    return OpenAI(base_url=model.base_url, api_key="none"), Anthropic(base_url=model.url, api_key="none")


def _counting_ids() -> Any:
    from itertools import count

    from opentelemetry.sdk.trace.id_generator import IdGenerator

    class CountingIds(IdGenerator):
        def __init__(self) -> None:
            self._numbers = count(1)

        def generate_span_id(self) -> int:
            return next(self._numbers)

        def generate_trace_id(self) -> int:
            return next(self._numbers) << 64

    return CountingIds()


def _to_json(spans: list[Any]) -> list[dict[str, Any]]:
    times = sorted({time for span in spans for time in (span.start_time, span.end_time)})
    return [_span(span, {time: float(rank) for rank, time in enumerate(times)}) for span in spans]


_NOT_REPRODUCIBLE = re.compile(
    "port|server.address|url.full|time_to|duration|start_time|chunk_count|event_count|code[.]|logfire.(msg|json_schema)$"
)


def _span(span: Any, ranks: dict[int, float]) -> dict[str, Any]:
    return {
        "trace_id": f"{span.context.trace_id:032x}",
        "span_id": f"{span.context.span_id:016x}",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "name": span.name,
        "status": {"status_code": span.status.status_code.name, "description": span.status.description},
        "attributes": {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in span.attributes.items()
            if not _NOT_REPRODUCIBLE.search(key)
        },
        "start_time": ranks[span.start_time],
        "end_time": ranks[span.end_time],
    }


# Temporary environments


def _make_all() -> Iterator[subprocess.CompletedProcess[bytes]]:
    for library, packages in {**LIBRARIES, **BOTH}.items():
        with tempfile.TemporaryDirectory() as folder:
            venv.create(folder, with_pip=True)
            python = f"{folder}/bin/python"
            subprocess.run([python, "-m", "pip", "install", "-q", *SDKS, *packages], check=True)
            yield subprocess.run([python, __file__, library], check=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        make(sys.argv[1])
    else:
        for _ in _make_all():
            pass
