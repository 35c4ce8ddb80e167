"""Every Python example of the README, of docs/ and of examples/ runs as printed."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run_page(page: Path) -> int:
    """Run the examples of a page one after the other in one namespace; returns how many."""
    parsers = [PythonCodeBlockParser(), SkipParser()]
    examples = list(Sybil(parsers=parsers, path=str(page.parent)).parse(page).examples())
    for example in examples:
        example.evaluate()
    return len(examples)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Examples that write files write them in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_the_examples_of_a_page_run(page: Path, elsewhere: Path) -> None:
    assert run_page(page) == page.read_text(encoding="utf-8").count("```python\n")


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=[p.name for p in EXAMPLES])
def test_an_example_runs_and_is_short(example: Path, elsewhere: Path) -> None:
    assert len(example.read_text(encoding="utf-8").splitlines()) < 60
    runpy.run_path(str(example), run_name="__main__")


def test_a_broken_example_is_caught(elsewhere: Path) -> None:
    page = elsewhere / "page.md"
    page.write_text("text\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError):
        run_page(page)
