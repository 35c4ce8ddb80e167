"""`run_tour`: the chapters one after another, the table, the page and the results."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax

from bayleaf.errors import bad_argument
from bayleaf.tour.chapters import CHAPTERS
from bayleaf.tour.entry import Chapter, Entry
from bayleaf.tour.figures import style
from bayleaf.tour.page import render
from bayleaf.tour.table import open_table


def run_tour(
    only: Sequence[str] | None = None, out: str | Path = "bayleaf-tour", quick: bool = False
) -> int:
    """Run the tour.

    Args:
        only: ids of the chapters to run; None runs all.
        out: folder for ``index.html`` and ``results.json``.
        quick: shorter runs with the same checks.

    Returns:
        The exit code: 0 when every entry is ok, and 1 otherwise.

    Raises:
        BayleafError: an id that is not known, or a folder that cannot be written to.
    """
    chapters = choose(only)
    folder = make_folder(out)
    entries = []
    with open_table(chapters) as table:
        try:
            for chapter in chapters:
                table.begin(chapter)
                entries.append(visit(chapter, quick))
                table.end(entries[-1])
        finally:
            write(folder, entries, quick)  # an interrupted tour leaves what it has
        table.close(entries, folder / "index.html")
    return 0 if all(entry.ok for entry in entries) else 1


def choose(only: Sequence[str] | None) -> list[Chapter]:
    """The chapters with these ids, in the order of the tour."""
    known = {chapter.id: chapter for chapter in CHAPTERS}
    for name in only or ():
        if name not in known:
            raise bad_argument("--only", name, "ids of the tour: " + ", ".join(known))
    return [chapter for chapter in CHAPTERS if not only or chapter.id in only]


def make_folder(out: str | Path) -> Path:
    """The folder, made before any work is done for it."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise bad_argument("--out", str(out), f"a folder that can be made ({reason})") from error
    return folder


def visit(chapter: Chapter, quick: bool) -> Entry:
    """Run one chapter, in double precision. What it raises makes an entry that is not ok."""
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught, jax.enable_x64(True), style():
        warnings.simplefilter("always")
        try:
            result = chapter.run(quick)
        except Exception as error:  # the other chapters still have something to show
            failure = f"could not be checked: {type(error).__name__}: {error}"
            return Entry(chapter, failure, seconds=time.perf_counter() - began)
    remarks = [str(warning.message) for warning in caught]
    return Entry(chapter, *result, remarks=remarks, seconds=time.perf_counter() - began)


def write(folder: Path, entries: Sequence[Entry], quick: bool) -> None:
    """The page and the results, of what has run so far."""
    results = [entry.to_json() for entry in entries]
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "index.html").write_text(render(entries, quick), encoding="utf-8")
