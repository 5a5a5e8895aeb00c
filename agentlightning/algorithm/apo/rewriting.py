"""How a model criticises a prompt and writes a better one. What it is told stands in `prompts/`."""

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
LONGEST_MESSAGE: Final = 4_000
"""Characters of one message that the critic gets to see."""
LONGEST_RUN: Final = 16_000

_ANSWER = re.compile(r"<prompt>\s*(.*?)\s*</prompt>", re.DOTALL)
_JINJA_NAME = re.compile(r"\{\{-?\s*([A-Za-z_]\w*)")


@dataclass(frozen=True)
class Seen:
    """A rollout and what was recorded of it."""

    rollout: Rollout
    spans: Sequence[Span]


class Rewriter:
    """Asks `gradient_model` what is wrong with a prompt, and `apply_edit_model` for a better one."""

    def __init__(self, client: Any, gradient_model: str, apply_edit_model: str, temperature: float) -> None:
        self._client = client
        self._critic = gradient_model
        self._editor = apply_edit_model
        self._temperature = temperature

    async def critique(self, prompt: PromptTemplate, seen: Sequence[Seen]) -> str:
        """What is wrong with the prompt, going by some runs."""
        runs = "\n\n".join(_told(number, each) for number, each in enumerate(seen, 1))
        return await self._ask(self._critic, _filled("critique.md", prompt=prompt.template, runs=runs))

    async def edit(self, prompt: PromptTemplate, critique: str) -> str:
        """A new prompt that answers the critique."""
        placeholders = ", ".join(required_placeholders(prompt)) or "(there are none)"
        asked = _filled("edit.md", prompt=prompt.template, critique=critique, placeholders=placeholders)
        answer = await self._ask(self._editor, asked)
        found = _ANSWER.findall(answer)
        return found[-1] if found else answer.strip()

    async def _ask(self, model: str, prompt: str) -> str:
        # Some models take no temperature but their own, which is 1.
        options = {} if self._temperature == 1.0 else {"temperature": self._temperature}
        answer = await self._client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": prompt}],
            # A connection that is kept belongs to this run's event loop; in the next run the client would trip over it.
            extra_headers={"Connection": "close"},
            **options,
        )
        return answer.choices[0].message.content or ""


def required_placeholders(prompt: PromptTemplate) -> list[str]:
    """The placeholders of a prompt, as they stand in it."""
    if prompt.engine == "f-string":
        return [f"{{{name}}}" for name in prompt.placeholders()]
    return list(dict.fromkeys(f"{{{{{name}}}}}" for name in _JINJA_NAME.findall(prompt.template)))


def lost_placeholders(seed: PromptTemplate, text: str) -> list[str]:
    """Placeholders of the seed that `text` lacks."""
    has = required_placeholders(seed.model_copy(update={"template": text}))
    return [placeholder for placeholder in required_placeholders(seed) if placeholder not in has]


def _filled(file: str, **values: str) -> str:
    # One pass, so that braces in what is put in mean nothing.
    template = (PROMPTS / file).read_text(encoding="utf-8")
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def _told(number: int, seen: Seen) -> str:
    rollout = seen.rollout
    lines = [f'<run number="{number}" status="{rollout.status}" reward="{rollout.reward}">']
    lines.append(f"Task: {_short(json.dumps(rollout.input, ensure_ascii=False, default=str))}")
    for messages in _conversations(seen.spans):
        lines += [f"{message.get('role')}: {_short(_content(message))}" for message in messages]
    lines += [f"Note: {_short(note)}" for span in seen.spans if (note := get_message_value(span))]
    if isinstance(rollout, AttemptedRollout) and (reason := (rollout.attempt.metadata or {}).get("reason")):
        lines.append(f"It ended because: {_short(str(reason))}")
    return "\n".join(lines)[:LONGEST_RUN] + "\n</run>"


def _conversations(spans: Sequence[Span]) -> list[list[dict[str, Any]]]:
    """Each conversation once, as it stood in the end: a later call repeats what was said before it."""
    said = [each["messages"] for each in TraceToMessages().adapt(spans)]
    return [
        messages
        for place, messages in enumerate(said)
        if not any(later[: len(messages)] == messages for later in said[place + 1 :])
    ]


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str)
    calls = message.get("tool_calls")
    said = "" if content is None else text
    return f"{said} calls {json.dumps(calls, ensure_ascii=False, default=str)}" if calls else said


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} …"
