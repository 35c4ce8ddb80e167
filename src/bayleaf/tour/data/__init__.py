"""Small data sets and reference summaries that come with the tour; see PROVENANCE.md beside."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def load(name: str) -> dict[str, Any]:
    """The file ``name.json``: its ``data``, and the ``reference`` where there is one."""
    return json.loads((resources.files(__name__) / f"{name}.json").read_text(encoding="utf-8"))
