"""Pages of HTML that need no other file: those of the tour and of the commands.

Each room that writes one keeps its template beside its code, as ``page.html.jinja``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any


def rendered(
    room: str, values: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]] | None = None
) -> str:
    """The page of a room, such as ``"bayleaf.tour"``.

    Args:
        room: the package that holds the template.
        values: what the template shows; text is escaped.
        filters: functions that the template may call on values.

    Raises:
        ModuleNotFoundError: Jinja is not installed.
    """
    from jinja2 import Environment

    text = (resources.files(room) / "page.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(filters or {})
    return environment.from_string(text).render(**values)
