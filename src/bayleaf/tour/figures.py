"""The look of the tour's pictures, and how they get into the page.

Colours are Okabe and Ito's, which the colour-blind can tell apart; what differs in colour differs
in line or marker too. Figures are made without pyplot, so that no window system is needed and no
figure stays open. Each becomes one SVG file inside the page, with its text as outlines.
"""

from __future__ import annotations

import base64
import io
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK, SKY = "#0072B2", "#D55E00", "#009E73", "#B5588F", "#56B4E9"
INK, GREY, PALE = "#222222", "#767676", "#D9D9D9"

STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "font.size": 10,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "savefig.dpi": 160,
    "svg.fonttype": "path",
    "svg.hashsalt": "bayleaf",
}


def style() -> AbstractContextManager[None]:
    """In this context figures look alike, whatever the user's own settings."""
    settings: Any = {**matplotlib.rcParamsDefault, **STYLE, "backend": "agg"}
    return matplotlib.rc_context(settings)


def canvas(width: float = 4.7, height: float = 3.6) -> tuple[Figure, Any]:
    """A figure with one pair of axes, of a size that reads well on a phone."""
    return grid(1, 1, width, height)


def grid(
    rows: int, columns: int, width: float = 4.7, height: float = 3.6, **options: Any
) -> tuple[Figure, Any]:
    """A figure of several small axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def thinned(draws: np.ndarray, number: int = 1000) -> np.ndarray:
    """About ``number`` of the draws, all chains pooled: enough to see."""
    pooled = draws.reshape(-1, *draws.shape[2:])
    return pooled[:: max(1, len(pooled) // number)]


def density(axes: Any, draws: np.ndarray, label: str, color: str = SKY, **options: Any) -> None:
    """A histogram of the draws, scaled to area one."""
    axes.hist(np.ravel(draws), bins=60, density=True, color=color, label=label, **options)


def as_svg(figure: Figure) -> str:
    """The figure as a ``data:`` address, for the ``src`` of an image."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
