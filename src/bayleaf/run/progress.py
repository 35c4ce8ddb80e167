"""What a run shows while it works: a bar in a terminal or notebook, lines in a log, or nothing.

The runner calls ``update(done, status)`` after each chunk; nothing here runs inside compiled code.
Redrawing is limited in rate, so that showing progress costs less than 1 % of a run. Divergences and
R-hat are written in yellow when they give cause for worry.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

LINE_SECONDS = 10.0

_LABELS = {"divergences": "divergent", "rhat": "R-hat", "step_size": "step"}


@runtime_checkable
class Progress(Protocol):
    """A context manager that is told how far the run is."""

    def __enter__(self) -> Progress: ...

    def __exit__(self, *exception: object) -> None: ...

    def update(self, done: int, status: Mapping[str, Any] | None = None) -> None:
        """Tell that ``done`` steps of all are done, counted from the first of all.

        Args:
            done: steps done, those of an earlier, resumed part included.
            status: what to show beside: ``divergences``, ``rhat``, ``step_size``, or any other
                name with a number.
        """
        ...


def open_progress(
    phases: Mapping[str, int],
    *,
    shown: bool = True,
    done: int = 0,
) -> Progress:
    """The display that suits where the program runs.

    Args:
        phases: the steps of each phase, by its name and in order: ``{"warm-up": 300, ...}``.
        shown: False gives a display that stays silent.
        done: steps that an earlier part of the run has done already.
    """
    if not shown:
        return Silent()
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return Bar(phases, done=done)
    return Lines(phases, done=done)


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to tidy up."""

    def update(self, done: int, status: Mapping[str, Any] | None = None) -> None:
        """Do nothing."""


class Lines:
    """For logs: at most one line in ten seconds, so a short run writes nothing."""

    def __init__(
        self,
        phases: Mapping[str, int],
        *,
        done: int = 0,
        file: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._phases, self._total = phases, sum(phases.values())
        self._first, self._file, self._clock = done, file or sys.stderr, clock

    def __enter__(self) -> Lines:
        self._began = self._last = self._clock()
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to tidy up."""

    def update(self, done: int, status: Mapping[str, Any] | None = None) -> None:
        """Write a line if the last one is ten seconds old."""
        now = self._clock()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        elapsed = now - self._began
        left = elapsed * (self._total - done) / max(done - self._first, 1)
        parts = [
            f"{_phase(done, self._phases)}: {done}/{self._total} steps",
            f"{_duration(elapsed)} elapsed, {_duration(left)} left",
            *(f"{label} {value}" for label, value in _readable(status)),
        ]
        self._file.write(", ".join(parts) + "\n")
        self._file.flush()


class Bar:
    """For a terminal or a notebook: one line, redrawn in place by rich."""

    def __init__(
        self,
        phases: Mapping[str, int],
        *,
        done: int = 0,
        console: Any = None,
    ):
        self._phases, self._total = phases, sum(phases.values())
        self._display = _rich_progress(console)
        self._task = self._display.add_task(
            "starting", total=self._total, completed=done, status=""
        )

    def __enter__(self) -> Bar:
        self._display.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Draw the last state and leave the line standing."""
        self._display.stop()

    def update(self, done: int, status: Mapping[str, Any] | None = None) -> None:
        """Take note; the line is redrawn four times a second."""
        self._display.update(
            self._task,
            completed=done,
            description=_phase(done, self._phases),
            status="  ".join(_coloured(status)),
        )


def _rich_progress(console: Any) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = console or Console(stderr=True)
    return Progress(
        TextColumn("[bold]{task.description:<8}"),
        BarColumn(bar_width=min(30, max(3, console.width - 77))),  # the rest of the line takes 77
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("+"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        TextColumn("{task.fields[status]}"),
        console=console,
        refresh_per_second=4,  # a redraw takes 1 ms; the clock must tick while XLA compiles
    )


def _phase(done: int, phases: Mapping[str, int]) -> str:
    """The phase that the next step belongs to; after the last step, the last."""
    ends = np.cumsum(list(phases.values()))
    return list(phases)[min(np.searchsorted(ends, done, side="right"), len(phases) - 1)]


def _readable(status: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Labels and short numbers; what is not known yet (NaN) is left out."""
    shown = []
    for name, value in (status or {}).items():
        if value is not None and value == value:
            text = f"{value:.2f}" if name == "rhat" else f"{value:.3g}"
            shown.append((_LABELS.get(name, name.replace("_", " ")), text))
    return shown


def _coloured(status: Mapping[str, Any] | None) -> list[str]:
    most = {"divergences": 0, "rhat": 1.05}
    values = {name: (status or {}).get(name) or 0 for name in most}
    alarming = {_LABELS[name] for name, value in values.items() if value > most[name]}
    return [
        f"{label} [yellow]{text}[/]" if label in alarming else f"{label} {text}"
        for label, text in _readable(status)
    ]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
