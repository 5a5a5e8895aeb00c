"""The docs run: each page's Python is one program, its links lead somewhere, its pictures are those of the tables."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import benchmarks.page
from agentlightning.store import lifecycle
from docs import command_line
from tests.scripted_model import ScriptedModel

HOUSE = Path(__file__).parent.parent
PAGES = [HOUSE / "README.md", *sorted((HOUSE / "docs").rglob("*.md")), *sorted((HOUSE / "examples").rglob("*.md"))]

PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
MERMAID = re.compile(r"^```mermaid\n(.*?)\n```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def name(page: Path) -> str:
    return str(page.relative_to(HOUSE))


def programs() -> list[Path]:
    """Pages with Python in them; what is not meant to run is marked ```py."""
    return [page for page in PAGES if PYTHON.search(page.read_text())]


def answer(question: str) -> str:
    """A model that knows a capital, and picks rooms rightly once it is told what is wanted."""
    if "<critique>" in question:
        return "<prompt>Rooms: {rooms}. Take the smallest room that is large enough. {request}</prompt>"
    if "<prompt>" in question:
        return "It does not say that the smallest room is wanted."
    if question.startswith("Rooms:"):
        people = int(re.findall(r"\d+", question)[-1])
        right = next(room for room, seats in ROOMS.items() if seats >= people)
        return right if "smallest" in question else "Oak"
    return f"You ask: {question} The answer is Paris."


ROOMS = {"Birch": 4, "Elm": 8, "Larch": 14, "Oak": 24}


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel(answer) as model:
        yield model


@pytest.mark.parametrize("page", programs(), ids=name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, model: ScriptedModel, tmp_path: Path) -> None:
    program = "\n\n".join(PYTHON.findall(page.read_text()))

    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "none", "PYTHONPATH": str(HOUSE)},
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr, ran.stderr


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    links = LINK.findall(CODE.sub("", page.read_text()))

    dead = [link for link in links if not (page.parent / link).exists()]

    assert dead == []


def test_the_pictures_of_the_lifecycle_are_drawn_from_its_tables() -> None:
    drawn = MERMAID.findall((HOUSE / "docs/explanation/the-store.md").read_text())

    assert drawn == list(lifecycle.diagrams().values())


TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
PROMISE = re.compile(r"^\*\*(P\d+)\.\*\*.*?(?=^\*\*P|^## |\Z)", re.DOTALL | re.MULTILINE)
PROMISES = (HOUSE / "docs/explanation/promises.md").read_text()


def test_every_promise_names_a_test_and_every_test_it_names_is_there() -> None:
    promises = {found[1]: TEST.findall(found[0]) for found in PROMISE.finditer(PROMISES)}

    assert list(promises) == [f"P{number}" for number in range(1, 28) if number != 11]
    assert [promise for promise, tests in promises.items() if not tests] == []
    named = TEST.findall(PROMISES)
    assert [test for file, test in named if not re.search(rf"def {test}\b", text_of(file))] == []


def test_every_command_that_the_promises_name_is_there() -> None:
    commands = re.findall(r"`python -m (tests\.faults\.\w+) (--\w+)", PROMISES)

    files = {module: text_of(module.replace(".", "/") + ".py") for module, _ in commands}
    assert len(files) > 5
    assert [module for module, option in commands if f'"{option}"' not in files[module]] == []


def text_of(file: str) -> str:
    return (HOUSE / file).read_text()


def test_readme_and_docs_name_the_two_commands_that_do_all_the_set_up() -> None:
    readme = (HOUSE / "README.md").read_text()

    assert re.findall(r"^\$ (scripts/\w+)$", readme, re.MULTILINE) == ["scripts/demo", "scripts/test"]


def test_the_page_of_benchmarks_tells_what_was_measured() -> None:
    assert benchmarks.page.PAGE.read_text() == benchmarks.page.page() + "\n", "python -m benchmarks.page writes it anew"


@pytest.mark.parametrize(
    ("came", "said"),
    [
        ({"broken_off": True, "tried": 1_234}, "(**broken off after 1,234 of 200,000**) | 0 of 200,000 | 9.9 |"),
        ({"broken_off": False, "tried": 1_234}, "(**only 1,234 of 200,000**) | 0 of 200,000 | 9.9 |"),
        ({"broken_off": False, "tried": 200_000}, "200,000 made-up requests: 0 answers of 500 or more | 0 of"),
    ],
)
def test_the_page_of_benchmarks_says_what_was_broken_off_and_how_busy_the_machine_was(
    came: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(benchmarks.page.RESULTS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "fuzz.json").write_text(json.dumps({"load": 9.9, "broken": [], **came}))
    trainer = json.loads((tmp_path / "trainer.json").read_text())
    (tmp_path / "trainer.json").write_text(json.dumps({**trainer, "load": 8.8}))
    monkeypatch.setattr(benchmarks.page, "RESULTS", tmp_path)

    page = benchmarks.page.page()

    assert said in page
    assert "\n\nThe load was 8.8.\n" in page


def test_the_page_of_the_command_line_says_what_the_commands_say() -> None:
    assert command_line.PAGE.read_text() == command_line.page(), "python -m docs.command_line writes it anew"


def test_the_page_of_the_environment_names_every_variable_of_ours() -> None:
    code = "".join(file.read_text() for file in (HOUSE / "agentlightning").rglob("*.py"))
    said = text_of("docs/reference/environment.md")

    ours = set(re.findall(r"\bAGL_[A-Z_]+\b", code))
    assert ours == set(re.findall(r"\bAGL_[A-Z_]+\b", said))
    assert len(ours) > 15
