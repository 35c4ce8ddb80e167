"""The table of results: it fills live in a terminal, and is printed line by line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table as Grid

from bayleaf.tour.checks import Comparison
from bayleaf.tour.entry import Chapter, Entry


def open_table(chapters: Sequence[Chapter]) -> LiveTable | Lines:
    """The display that suits where the program runs."""
    console = Console()
    return LiveTable(console, chapters) if console.is_terminal else Lines(console, chapters)


class LiveTable:
    """All chapters from the start, the one that runs with its clock ticking."""

    def __init__(self, console: Console, chapters: Sequence[Chapter]):
        self.chapters = chapters
        self.entries: dict[str, Entry] = {}
        self.running: tuple[str, float] | None = None
        self.live = Live(get_renderable=self.grid, console=console, refresh_per_second=4)

    def __enter__(self) -> LiveTable:
        self.live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.live.__exit__(*exception)

    def begin(self, chapter: Chapter) -> None:
        """A chapter starts."""
        self.running = (chapter.id, time.perf_counter())

    def end(self, entry: Entry) -> None:
        """A chapter has ended."""
        self.entries[entry.chapter.id] = entry
        self.running = None

    def close(self, entries: Sequence[Entry], page: Path) -> None:
        """All have ended."""
        self.live.refresh()
        for line in conclusion(entries, page):
            self.live.console.print(line, highlight=False)

    def grid(self) -> Grid:
        """The table as it stands."""
        grid = Grid(title="bayleaf tour", title_justify="left", expand=False)
        for heading in ("id", "system", "compared"):
            grid.add_column(heading)
        for heading in ("value", "reference", "ok", "seconds"):
            grid.add_column(heading, justify="right", no_wrap=True)
        for chapter in self.chapters:
            grid.add_row(*self.cells(chapter))
        return grid

    def cells(self, chapter: Chapter) -> tuple[str, ...]:
        """One row: a chapter that waits, runs or has run."""
        if entry := self.entries.get(chapter.id):
            mark = "[green]ok[/green]" if entry.ok else "[bold red]NO[/bold red]"
            return (chapter.id, chapter.system, *numbers(entry), mark, f"{entry.seconds:.1f}")
        if self.running and self.running[0] == chapter.id:
            elapsed = time.perf_counter() - self.running[1]
            return (
                chapter.id,
                chapter.system,
                "[cyan]running[/cyan]",
                "",
                "",
                "",
                f"{elapsed:.0f}",
            )
        return (f"[dim]{chapter.id}[/dim]", f"[dim]{chapter.system}[/dim]", "", "", "", "", "")


class Lines:
    """One line for each chapter as it ends, for logs and pipes."""

    def __init__(self, console: Console, chapters: Sequence[Chapter]):
        self.console = console
        self.width = max(len(chapter.id) for chapter in chapters)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exception: Any) -> None:
        return None

    def begin(self, chapter: Chapter) -> None:
        """Nothing is printed before there is a result."""

    def end(self, entry: Entry) -> None:
        """Print the result."""
        mark = "ok" if entry.ok else "NO"
        quantity, value, reference = numbers(entry)
        line = f"{mark}  {entry.chapter.id:<{self.width}}  {entry.seconds:5.1f} s  {quantity}"
        self.say(f"{line}: {value}, reference {reference}" if value else line)

    def close(self, entries: Sequence[Entry], page: Path) -> None:
        """Print the sum of it."""
        for line in conclusion(entries, page):
            self.say(line)

    def say(self, line: str) -> None:
        """A plain line, neither wrapped nor coloured."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def numbers(entry: Entry) -> tuple[str, str, str]:
    """What was compared, the value and the reference; or what went wrong."""
    headline = entry.headline
    if headline is None:
        return entry.checked, "", ""
    return headline.quantity, short(headline.value), expected(headline)


def expected(comparison: Comparison) -> str:
    """The reference with what it may be off by: ``0.82 ± 0.01``, or ``≥ 0.9``."""
    reference = short(comparison.reference)
    if comparison.relation != "=":
        return f"{comparison.relation} {reference}"
    return f"{reference} ± {comparison.tolerance:.2g}"


def short(number: float) -> str:
    """Five significant digits, without an exponent where that is readable."""
    return f"{number:,.0f}" if 1e5 <= abs(number) < 1e7 else f"{number:.5g}"


def conclusion(entries: Sequence[Entry], page: Path) -> list[str]:
    """What to say at the end."""
    good = sum(entry.ok for entry in entries)
    seconds = sum(entry.seconds for entry in entries)
    lines = [f"{good} of {len(entries)} ok in {seconds:.0f} s. The page: {page}"]
    for entry in entries:
        if not entry.ok:
            lines.append(f"{entry.chapter.id}: {entry.checked}")
    return lines
