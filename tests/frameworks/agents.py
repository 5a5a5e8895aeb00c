"""Which page's agents run in which environment, and what is to be seen of them."""

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
    """A page of the docs whose agents are carried out."""

    name: str
    rollouts: int = 20
    """How many at once."""
    calls: int = 2
    """How often an agent asks the model in one rollout."""
    parents: tuple[str, ...] = ()
    """Among the spans around each call there is one whose name begins so, for each of these."""
    tool: str | None = None
    """The name of its tool's span or operation; None: a tool is seen through the conversation only."""
    tool_tells: bool = True
    """Whether that span says what came out."""

    def agents(self) -> dict[str, Any]:
        """The agents that the page's code defines, by name."""
        from agentlightning import LitAgent

        module = _imported(self.name.replace("-", "_"), "\n\n".join(_CODE.findall(self.text)))
        return {name: value for name, value in vars(module).items() if isinstance(value, LitAgent)}

    @property
    def text(self) -> str:
        """The page."""
        return (PAGES / f"{self.name}.md").read_text()


def _imported(name: str, code: str) -> ModuleType:
    """The code as a module with a file of its own, since some libraries read the source of functions."""
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
        Page("mcp", rollouts=3, tool="call_tool"),  # each starts a server of its own
    ],
    "mcp": [Page("mcp", tool="call_tool")],
    "litellm": [
        Page("litellm"),
        Page("smolagents", parents=("ToolCallingAgent.run", "Step "), tool="SimpleTool"),
        Page("dspy", calls=3, parents=("ReAct.forward",), tool="add.__call__"),
    ],
    "microsoft": [
        Page("autogen", parents=("invoke_agent",), tool="calculator.add"),
        Page("agent-framework", parents=("invoke_agent",), tool="execute_tool add", tool_tells=False),
    ],
    "crewai": [Page("crewai", parents=("Crew",), tool="add.run")],
}
CORE = ("openai1", "openai2", "core")
"""Those that are tried with every change."""


def pages_without_an_environment() -> Iterator[str]:
    """Pages of the docs that nothing carries out."""
    known = {page.name for pages in ENVIRONMENTS.values() for page in pages}
    return (path.stem for path in sorted(PAGES.glob("*.md")) if path.stem not in {*known, "index"})
