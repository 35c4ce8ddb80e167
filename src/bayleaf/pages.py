"""Pages of HTML that need no other file: those of the tour and of the commands.

Each room that writes one keeps its template beside its code, as ``page.html.jinja``, which fills in
the frame that stands beside this file: ``{% extends "bayleaf" %}``.
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
    from jinja2 import Environment, FunctionLoader

    environment = Environment(
        loader=FunctionLoader(template), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(filters or {})
    return environment.get_template(room).render(**values)


def template(package: str) -> str:
    """The text of the template that a package holds."""
    return (resources.files(package) / "page.html.jinja").read_text(encoding="utf-8")
