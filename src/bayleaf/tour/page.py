"""``index.html``: one file that shows what was run, with everything in it.

The figures are inlined, and the page asks for nothing from elsewhere: it can be sent to somebody,
and opened without a network.
"""

from __future__ import annotations

import inspect
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import jax
import jinja2  # noqa: F401  whoever lacks it shall hear so before the chapters run

from bayleaf import __version__
from bayleaf.pages import rendered
from bayleaf.tour.entry import Chapter, Entry
from bayleaf.tour.figures import as_svg
from bayleaf.tour.table import numbers, short


def render(entries: Sequence[Entry], quick: bool) -> str:
    """The page of these entries."""
    values = {
        "sections": [section(entry) for entry in entries],
        "num_ok": sum(entry.ok for entry in entries),
        "seconds": sum(entry.seconds for entry in entries),
        "quick": quick,
        "made": made(),
    }
    return rendered("bayleaf.tour", values, {"short": short})


def section(entry: Entry) -> dict[str, Any]:
    """What the template shows of an entry."""
    quantity, value, reference = numbers(entry)
    return {
        "entry": entry,
        "chapter": entry.chapter,
        "quantity": quantity,
        "value": value,
        "reference": reference,
        "pictures": [(as_svg(p.figure), p.caption, p.alt) for p in entry.pictures],
        "code": source(entry.chapter),
    }


def source(chapter: Chapter) -> str:
    """The file of the chapter, which shows how it was done."""
    module = inspect.getmodule(chapter.run)
    return inspect.getsource(module) if module else ""


def made() -> str:
    """By what, on what and when."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    python = ".".join(map(str, sys.version_info[:3]))
    device = jax.devices()[0].device_kind
    return (
        f"bayleaf {__version__}, JAX {jax.__version__}, Python {python}, "
        f"{platform.system()} on {device}, {now}"
    )
