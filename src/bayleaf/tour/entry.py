"""What a chapter of the tour is made of, and what becomes of it when it has run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bayleaf.tour.checks import Comparison


class Picture(NamedTuple):
    """A Matplotlib figure with the words that belong to it.

    ``caption`` says what is drawn, what to see in it and why that is right; ``alt`` says what is
    drawn to somebody who cannot see it.
    """

    figure: Any
    caption: str
    alt: str


class Result(NamedTuple):
    """What a chapter found. The first comparison is its headline: ``value`` and ``reference``."""

    checked: str
    comparisons: Sequence[Comparison]
    pictures: Sequence[Picture]


class Chapter(NamedTuple):
    """A system, the data that it runs on, and the function that does so.

    ``run(quick)`` takes whether the runs shall be short.
    """

    id: str
    system: str
    question: str
    data: str
    run: Callable[[bool], Result]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A chapter that has run: a row of the table, a section of the page."""

    chapter: Chapter
    checked: str
    comparisons: Sequence[Comparison] = ()
    pictures: Sequence[Picture] = ()
    remarks: Sequence[str] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether something was compared, and nothing of it disagrees."""
        return bool(self.comparisons) and all(c.ok for c in self.comparisons)

    @property
    def headline(self) -> Comparison | None:
        """The comparison that stands for the chapter: the first, or the first that failed."""
        failed = [c for c in self.comparisons if not c.ok]
        return next(iter([*failed, *self.comparisons]), None)

    def to_json(self) -> dict[str, Any]:
        """The entry of ``results.json``; JSON has no NaN, so that becomes null."""
        headline = self.headline
        return {
            "id": self.chapter.id,
            "system": self.chapter.system,
            "data": self.chapter.data,
            "checked": self.checked,
            "value": finite(headline.value) if headline else None,
            "reference": finite(headline.reference) if headline else None,
            "ok": self.ok,
            "seconds": round(self.seconds, 2),
        }


def finite(number: float) -> float | None:
    """The number, or None where JSON has no word for it."""
    return float(number) if math.isfinite(number) else None
