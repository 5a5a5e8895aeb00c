"""The pages of each environment, and the expected spans of their agents."""

from __future__ import annotations

import linecache
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

PAGES = Path(__file__).parents[2] / "docs" / "how-to" / "frameworks"
_CODE = re.compile(r"^```py\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """A page of the docs with agents to run."""

    name: str
    rollouts: int = 20
    """Concurrent rollouts."""
    calls: int = 2
    """Model calls of one rollout."""
    parents: tuple[str, ...] = ()
    """Prefixes of names; each call is within a span for each of them."""
    tool: str | None = None
    """The name of the tool's span or operation; None if the tool has no span."""
    tool_span_has_result: bool = True

    def agents(self) -> dict[str, Any]:
        """Return the agents that the page's code defines, by name."""
        from agentlightning import LitAgent

        module = _import(self.name.replace("-", "_"), "\n\n".join(_CODE.findall(self.text)))
        return {name: value for name, value in vars(module).items() if isinstance(value, LitAgent)}

    @property
    def text(self) -> str:
        """The text of the page."""
        return (PAGES / f"{self.name}.md").read_text()


def _import(name: str, code: str) -> ModuleType:
    """Import code as a module with a file of its own: some libraries read the source of functions."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"page_{name}.py"
        path.write_text(code)
        linecache.getlines(str(path))
        spec = spec_from_file_location(path.stem, path)
        assert spec
        assert spec.loader
        module = module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module


OPENAI = Page("openai-sdk")
ENVIRONMENTS = {
    "openai1": [OPENAI],
    "openai2": [OPENAI],
    "core": [
        OPENAI,
        Page("anthropic-sdk"),
        Page("langgraph", parents=("LangGraph", "model"), tool="add"),
        Page("openai-agents", parents=("Calculator",), tool="add"),
        Page("pydantic-ai", parents=("invoke_agent",), tool="execute_tool add"),
        Page("mcp", rollouts=3, tool="call_tool"),  # each rollout starts a server
    ],
    "mcp": [Page("mcp", tool="call_tool")],
    "litellm": [
        Page("litellm"),
        Page("smolagents", parents=("ToolCallingAgent.run", "Step "), tool="SimpleTool"),
        Page("dspy", calls=3, parents=("ReAct.forward",), tool="add.__call__"),
    ],
    "microsoft": [
        Page("autogen", parents=("invoke_agent",), tool="calculator.add"),
        Page("agent-framework", parents=("invoke_agent",), tool="execute_tool add", tool_span_has_result=False),
    ],
    "crewai": [Page("crewai", parents=("Crew",), tool="add.run")],
}
CORE = ("openai1", "openai2", "core")
"""The environments that the test suite runs."""


def pages_without_an_environment() -> Iterator[str]:
    """Yield the pages of the docs that no environment runs."""
    known = {page.name for pages in ENVIRONMENTS.values() for page in pages}
    return (path.stem for path in sorted(PAGES.glob("*.md")) if path.stem not in {*known, "index"})
