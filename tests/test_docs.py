"""The docs are correct: each page's Python runs, links and anchors exist, and generated parts are up to date."""

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

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")])

PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
MERMAID = re.compile(r"^```mermaid\n(.*?)\n```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)#?([^)\s]*)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(file: str) -> str:
    return (ROOT / file).read_text()


def pages_with_programs() -> list[Path]:
    """List the pages with Python code that runs; other Python code is marked ```py."""
    return [page for page in PAGES if PYTHON.search(page.read_text())]


ROOMS = {"Birch": 4, "Elm": 8, "Larch": 14, "Oak": 24}


def answer(question: str) -> str:
    """Answer as a model that knows a capital, and selects the right room only with an improved prompt."""
    if "<critique>" in question:
        return "<prompt>Rooms: {rooms}. Take the smallest room that is large enough. {request}</prompt>"
    if "<prompt>" in question:
        return "It does not say that the smallest room is wanted."
    if question.startswith("Rooms:"):
        people = int(re.findall(r"\d+", question)[-1])
        right = next(room for room, seats in ROOMS.items() if seats >= people)
        return right if "smallest" in question else "Oak"
    return f"You ask: {question} The answer is Paris."


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel(answer) as model:
        yield model


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", pages_with_programs(), ids=name)
def test_python_of_page_runs_as_one_program(page: Path, model: ScriptedModel, tmp_path: Path) -> None:
    program = "\n\n".join(PYTHON.findall(page.read_text()))

    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "none", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr, result.stderr


def test_links_and_anchors_exist() -> None:
    broken = [
        f"{name(page)}: {file}#{anchor}"
        for page in PAGES
        for file, anchor in LINK.findall(CODE.sub("", page.read_text()))
        if not link_exists(page, file, anchor)
    ]

    assert broken == []


def link_exists(page: Path, file: str, anchor: str) -> bool:
    target = page.parent / file if file else page
    return target.exists() and (not anchor or anchor in anchors_of(target.read_text()))


def anchors_of(text: str) -> set[str]:
    """Return the anchors of a page: explicit ids, and headings as GitHub converts them."""
    headings = HEADING.findall(CODE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings} | set(
        re.findall(r'<a id="([^"]+)">', text)
    )


def test_index_links_every_page() -> None:
    index = DOCS / "index.md"
    linked = {(DOCS / file).resolve() for file, _ in LINK.findall(index.read_text())}

    pages = {page for page in DOCS.rglob("*.md") if page.parent.name != "frameworks" or page.name == "index.md"}
    assert pages - linked == {index}


def test_lifecycle_diagrams_match_the_tables() -> None:
    diagrams = MERMAID.findall(text_of("docs/explanation/the-store.md"))

    assert diagrams == list(lifecycle.diagrams().values())


TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
GUARANTEE = re.compile(r"^\*\*(P\d+)\.\*\*.*?(?=^\*\*P|^## |\Z)", re.DOTALL | re.MULTILINE)
GUARANTEES = text_of("docs/explanation/promises.md")


def test_every_guarantee_names_existing_tests() -> None:
    tests_by_guarantee = {found[1]: TEST.findall(found[0]) for found in GUARANTEE.finditer(GUARANTEES)}

    assert list(tests_by_guarantee) == [f"P{number}" for number in range(1, 36) if number not in (11, 28, 29, 30, 34)]
    assert [guarantee for guarantee, tests in tests_by_guarantee.items() if not tests] == []
    assert [f"{file}::{test}" for file, test in TEST.findall(GUARANTEES) if not is_defined(test, file)] == []


def is_defined(test: str, file: str) -> bool:
    return (ROOT / file).exists() and re.search(rf"def {test}\b", text_of(file)) is not None


def test_commands_of_guarantees_exist() -> None:
    commands = re.findall(r"`python -m (tests\.faults\.\w+) --(\w+)", GUARANTEES)

    code = {module: text_of(module.replace(".", "/") + ".py").partition("\ndef main(")[2] for module, _ in commands}
    assert len(code) > 5
    assert [module for module, option in commands if not re.search(rf"\b{option}=", code[module])] == []


def test_readme_names_the_two_set_up_commands() -> None:
    assert re.findall(r"^\$ (scripts/\w+)$", text_of("README.md"), re.MULTILINE) == ["scripts/demo", "scripts/test"]


def test_changelog_uses_only_standard_sections() -> None:
    sections = re.findall(r"^### (.+)$", text_of("CHANGELOG.md"), re.MULTILINE)

    assert sections
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_benchmarks_page_is_up_to_date() -> None:
    assert benchmarks.page.PAGE.read_text() == benchmarks.page.page() + "\n", "run python -m benchmarks.page"


@pytest.mark.parametrize(
    ("measured", "line"),
    [
        ({"broken_off": True, "tried": 1_234}, "(**interrupted after 1,234 of 200,000**) | 0 of 200,000 | 9.9 |"),
        ({"broken_off": False, "tried": 1_234}, "(**only 1,234 of 200,000**) | 0 of 200,000 | 9.9 |"),
        (
            {"broken_off": False, "tried": 200_000},
            "200,000 generated requests: 0 responses with status 500 or more | 0 of",
        ),
    ],
)
def test_benchmarks_page_marks_interrupted_runs_and_shows_load(
    measured: dict[str, Any], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(benchmarks.page.RESULTS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "fuzz.json").write_text(json.dumps({"load": 9.9, "broken": [], **measured}))
    trainer = json.loads((tmp_path / "trainer.json").read_text())
    (tmp_path / "trainer.json").write_text(json.dumps({**trainer, "load": 8.8}))
    monkeypatch.setattr(benchmarks.page, "RESULTS", tmp_path)

    page = benchmarks.page.page()

    assert line in page
    assert "\n\nThe load was 8.8.\n" in page


def test_command_line_page_is_up_to_date() -> None:
    assert command_line.PAGE.read_text() == command_line.page(), "run python -m docs.command_line"


def test_environment_page_lists_every_variable() -> None:
    code = "".join(file.read_text() for file in (ROOT / "agentlightning").rglob("*.py"))
    page = text_of("docs/reference/environment.md")

    variables = set(re.findall(r"\bAGL_[A-Z_]+\b", code))
    assert variables == set(re.findall(r"\bAGL_[A-Z_]+\b", page))
    assert len(variables) > 15
