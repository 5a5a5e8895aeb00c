"""Model calls that criticise a prompt and write a better one. The instructions for the models are in `prompts/`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...adapter import TraceToMessages, get_message_value
from ...types import AttemptedRollout, PromptTemplate, Rollout, Span

PROMPTS: Final = Path(__file__).with_name("prompts")
MAX_MESSAGE_CHARACTERS: Final = 4_000
MAX_RUN_CHARACTERS: Final = 16_000
"""Maximum lengths of one message and of one rollout in the request to the critic model. Longer ones are truncated."""

RolloutTrace = tuple[Rollout, Sequence[Span]]
"""A rollout with the spans of its latest attempt."""

_REWRITTEN = re.compile(r"<prompt>\s*(.*?)\s*</prompt>", re.DOTALL)
_JINJA_NAME = re.compile(r"\{\{-?\s*([A-Za-z_]\w*)")


@dataclass(frozen=True)
class Rewriter:
    """Criticises prompts with one model and rewrites them with another."""

    client: Any
    critic_model: str
    editor_model: str
    temperature: float

    async def critique(self, prompt: PromptTemplate, traces: Sequence[RolloutTrace]) -> str:
        """Return the critic model's critique of `prompt`, based on rollouts that used the prompt."""
        runs = "\n\n".join(_format_run(number, *trace) for number, trace in enumerate(traces, 1))
        return await self._complete(self.critic_model, _render("critique.md", prompt=prompt.template, runs=runs))

    async def edit(self, prompt: PromptTemplate, critique: str) -> str:
        """Ask the editor model for a new prompt that addresses the critique, and return the text of that prompt."""
        placeholders = ", ".join(required_placeholders(prompt)) or "(there are none)"
        request = _render("edit.md", prompt=prompt.template, critique=critique, placeholders=placeholders)
        answer = await self._complete(self.editor_model, request)
        found = _REWRITTEN.findall(answer)
        return found[-1] if found else answer.strip()

    async def _complete(self, model: str, prompt: str) -> str:
        # Omit the temperature if it is 1, the default, because some models reject requests that specify it.
        options = {} if self.temperature == 1.0 else {"temperature": self.temperature}
        answer = await self.client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": prompt}],
            # A pooled connection is bound to this run's event loop and would fail if a later run reused the client.
            extra_headers={"Connection": "close"},
            **options,
        )
        return answer.choices[0].message.content or ""


def required_placeholders(prompt: PromptTemplate) -> list[str]:
    """Return the prompt's distinct placeholders, including their braces."""
    if prompt.engine == "f-string":
        return [f"{{{name}}}" for name in prompt.placeholders()]
    return list(dict.fromkeys(f"{{{{{name}}}}}" for name in _JINJA_NAME.findall(prompt.template)))


def missing_placeholders(seed: PromptTemplate, text: str) -> list[str]:
    """Return the placeholders of the seed prompt that are missing from `text`."""
    present = required_placeholders(seed.model_copy(update={"template": text}))
    return [placeholder for placeholder in required_placeholders(seed) if placeholder not in present]


def _render(file: str, **values: str) -> str:
    # Substitute all values in one pass, so that placeholders inside a value are left unchanged.
    template = (PROMPTS / file).read_text(encoding="utf-8")
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def _format_run(number: int, rollout: Rollout, spans: Sequence[Span]) -> str:
    lines = [f'<run number="{number}" status="{rollout.status}" reward="{rollout.reward}">']
    lines.append(f"Task: {_truncate(_json(rollout.input))}")
    for messages in _conversations(spans):
        lines += [f"{message.get('role')}: {_truncate(_message_text(message))}" for message in messages]
    lines += [f"Note: {_truncate(note)}" for span in spans if (note := get_message_value(span))]
    if isinstance(rollout, AttemptedRollout) and (reason := (rollout.attempt.metadata or {}).get("reason")):
        lines.append(f"Reason for the status: {_truncate(str(reason))}")
    return "\n".join(lines)[:MAX_RUN_CHARACTERS] + "\n</run>"


def _conversations(spans: Sequence[Span]) -> list[list[dict[str, Any]]]:
    """Return the messages of each conversation in the spans.

    Each model call in a conversation repeats the messages of the earlier calls, so only the messages of the last
    call are returned.
    """
    calls = [each["messages"] for each in TraceToMessages().adapt(spans)]
    return [
        messages
        for n, messages in enumerate(calls)
        if not any(later[: len(messages)] == messages for later in calls[n + 1 :])
    ]


def _message_text(message: dict[str, Any]) -> str:
    content, tool_calls = message.get("content"), message.get("tool_calls")
    text = content if isinstance(content, str) else "" if content is None else _json(content)
    return f"{text} calls {_json(tool_calls)}" if tool_calls else text


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _truncate(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else f"{text[:MAX_MESSAGE_CHARACTERS]} …"
