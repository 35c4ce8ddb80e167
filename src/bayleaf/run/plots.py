"""Pictures of a run: each scalar's posterior, trace and ranks; and scalars against each other.

Rank plots are those of Vehtari et al. 2021 (https://doi.org/10.1214/20-BA1221): all draws of a
scalar are ranked together, and each chain's ranks are counted; chains that agree give flat counts.
Matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from bayleaf.errors import BayleafError, bad_argument
from bayleaf.run.diagnostics import recorded
from bayleaf.run.names import flat_draws, scalar_names, select_scalars

if TYPE_CHECKING:
    from bayleaf.run.results import Run

# Okabe and Ito's colours, which the colour-blind can tell apart; the red is kept for divergences.
_CHAIN_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#7F6A00", "#5E4FA2")
_INK, _GREY, _BAD = "#222222", "#9A9A9A", "#D00000"
_BARS = "#8FB4D0"
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "font.size": 9,
    "legend.frameon": False,
    "figure.dpi": 110,
}
_MOST_ROWS = 12
_MOST_PAIRED = 6
_MOST_POINTS = 2000
_RANK_BINS = 20


def plot_trace(run: Run, var_names: Sequence[str] | None = None) -> Any:
    """One row a scalar: its posterior, its chains over time, and how the chains rank.

    Args:
        run: the run to show.
        var_names: parameters or single scalars; None shows the first twelve scalars.

    Returns:
        A Matplotlib figure.
    """
    plt = _pyplot()
    x, names, note = _chosen(run, var_names, _MOST_ROWS)
    divergent = _divergent(run)
    with plt.rc_context(_STYLE):
        figure, rows = plt.subplots(
            len(names),
            3,
            figsize=(11, 1.2 + 1.55 * len(names)),
            squeeze=False,
            layout="constrained",
            width_ratios=(1, 2.2, 1.2),
        )
        for row, name, values in zip(rows, names, np.moveaxis(x, -1, 0), strict=True):
            _draw_posterior(row[0], name, values)
            _draw_trace(row[1], values, divergent)
            _draw_ranks(row[2], values)
        for axes, title in zip(
            rows[0],
            (
                "Posterior, 90 % shaded",
                "Trace of each chain",
                "Ranks: flat when chains agree",
            ),
            strict=True,
        ):
            axes.set_title(title, loc="left", fontweight="bold")
        for axes, label in zip(rows[-1], ("value", "draw", "rank among all draws"), strict=True):
            axes.set_xlabel(label)
        _add_legend(figure, x.shape[0], int(divergent.sum()), note)
    return figure


def plot_pairs(run: Run, var_names: Sequence[str] | None = None) -> Any:
    """Each scalar against each other: draws below the diagonal, correlations above it.

    Args:
        run: the run to show.
        var_names: parameters or single scalars; None shows the first six scalars.

    Returns:
        A Matplotlib figure.
    """
    plt = _pyplot()
    x, names, note = _chosen(run, var_names, _MOST_PAIRED)
    if len(names) < 2:
        raise bad_argument("var_names", ", ".join(names), "at least two scalars to pair")
    pooled, bad = x.reshape(-1, len(names)), _divergent(run).ravel()
    with plt.rc_context(_STYLE):
        size = max(5.0, 1.9 * len(names))
        figure, grid = plt.subplots(
            len(names), len(names), figsize=(size, size), squeeze=False, layout="constrained"
        )
        for i, row in enumerate(grid):
            for j, axes in enumerate(row):
                if i == j:
                    axes.hist(_finite(pooled[:, i]), bins=40, color=_BARS)
                    axes.set_yticks([])
                    axes.spines["left"].set_visible(False)
                    axes.set_title(names[i], fontweight="bold")
                elif i > j:
                    _draw_pair(axes, pooled[:, j], pooled[:, i], bad)
                else:
                    _write_correlation(axes, pooled[:, j], pooled[:, i])
                axes.set_xlabel(names[j] if i == len(names) - 1 else "")
                axes.set_ylabel(names[i] if j == 0 and i > 0 else "")
        figure.suptitle(
            f"Pairs of scalars: draws below the diagonal, correlation above\n{note}",
            x=0.01,
            ha="left",
            fontsize=10,
            fontweight="bold",
        )
        if bad.any():
            figure.legend(handles=[_divergence_handle(int(bad.sum()))], loc="outside lower left")
    return figure


def _draw_posterior(axes: Any, name: str, values: Float[np.ndarray, "chain draw"]) -> None:
    pooled = _finite(values.ravel())
    axes.set_ylabel(name, fontweight="bold", rotation=0, ha="right", va="center")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    if pooled.size == 0:
        return
    least, low, high, most = np.quantile(pooled, [0.001, 0.05, 0.95, 0.999])
    # A few far draws of a heavy tail would squeeze the bulk into one bar; the trace shows them.
    counts, edges = np.histogram(pooled, bins=40, range=(least, most))
    middle = (edges[1:] + edges[:-1]) / 2
    inside = (middle >= low) & (middle <= high)
    colours = np.where(inside, _BARS, "#DCE6EE")
    axes.bar(middle, counts, width=np.diff(edges), color=colours)
    axes.axvline(pooled.mean(), color=_INK, lw=1)


def _draw_trace(
    axes: Any, values: Float[np.ndarray, "chain draw"], divergent: Bool[np.ndarray, "chain draw"]
) -> None:
    every = -(-values.shape[1] // _MOST_POINTS)
    when = np.arange(0, values.shape[1], every)
    for chain, value in enumerate(values):
        axes.plot(when, value[::every], color=_colour(chain), lw=0.6, alpha=0.75, rasterized=True)
    where = np.nonzero(divergent)
    axes.plot(where[1], values[where], "x", color=_BAD, ms=4, mew=1.1, zorder=3)
    axes.set_xlim(0, max(values.shape[1] - 1, 1))


def _draw_ranks(axes: Any, values: Float[np.ndarray, "chain draw"]) -> None:
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=None).reshape(values.shape)
    edges = np.linspace(0, values.size, _RANK_BINS + 1)
    for chain, rank in enumerate(ranks):
        counts = np.histogram(rank, bins=edges)[0]
        axes.stairs(counts, edges, baseline=None, color=_colour(chain), lw=1.3, alpha=0.9)
    expected = values.shape[1] / _RANK_BINS
    axes.axhline(expected, color=_INK, lw=0.8, ls=(0, (4, 3)))
    axes.set_ylim(0, max(axes.get_ylim()[1], 2 * expected))
    axes.set_xlim(0, values.size)
    axes.set_ylabel("draws")


def _draw_pair(
    axes: Any,
    x: Float[np.ndarray, "draw"],
    y: Float[np.ndarray, "draw"],
    bad: Bool[np.ndarray, "draw"],
) -> None:
    every = -(-x.size // _MOST_POINTS)
    style = {"ls": "", "rasterized": True}
    axes.plot(x[::every], y[::every], marker=".", ms=3, mew=0, alpha=0.4, color="#0072B2", **style)
    axes.plot(x[bad], y[bad], marker="x", ms=4, mew=1.1, color=_BAD, **style)


def _write_correlation(
    axes: Any, x: Float[np.ndarray, "draw"], y: Float[np.ndarray, "draw"]
) -> None:
    axes.set_axis_off()
    with np.errstate(divide="ignore", invalid="ignore"):  # a constant scalar has none
        r = np.corrcoef(x, y)[0, 1]
    text = "-" if np.isnan(r) else f"{r:+.2f}".replace("-", "\N{MINUS SIGN}")
    strength = 0.0 if np.isnan(r) else abs(float(r))
    axes.text(
        0.5,
        0.5,
        text,
        ha="center",
        va="center",
        fontsize=10 + 8 * strength,
        color=_INK,
        alpha=0.35 + 0.65 * strength,
        transform=axes.transAxes,
    )


def _add_legend(figure: Any, num_chains: int, num_divergent: int, note: str) -> None:
    from matplotlib.lines import Line2D

    shown = min(num_chains, len(_CHAIN_COLOURS))
    handles = [Line2D([], [], color=_colour(c), lw=2, label=f"chain {c}") for c in range(shown)]
    if num_chains > shown:
        handles.append(Line2D([], [], lw=0, label=f"... {num_chains} chains, colours repeat"))
    handles.append(Line2D([], [], color=_INK, lw=1, label="mean"))
    handles.append(
        Line2D([], [], color=_INK, lw=0.8, ls=(0, (4, 3)), label="ranks if all chains agree")
    )
    if num_divergent:
        handles.append(_divergence_handle(num_divergent))
    title = note or None
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=len(handles),
        title=title,
        alignment="left",
        columnspacing=1.4,
        handlelength=1.4,
    )


def _divergence_handle(count: int) -> Any:
    from matplotlib.lines import Line2D

    label = f"divergent draw ({count})"
    return Line2D([], [], color=_BAD, marker="x", ls="", ms=5, mew=1.3, label=label)


def _chosen(
    run: Run, var_names: Sequence[str] | None, most: int
) -> tuple[Float[np.ndarray, "chain draw scalar"], list[str], str]:
    """The draws to show, their names, and a note when some are left out."""
    if run.num_draws == 0:
        raise bad_argument("plot", "a run without draws", "at least one draw of each chain")
    names, chosen = scalar_names(run.draws, 2), select_scalars(run.draws, var_names, 2)
    note = ""
    if var_names is None and len(chosen) > most:
        note = f"The first {most} of {len(chosen)} scalars (choose others by var_names=)"
        chosen = chosen[:most]
    return flat_draws(run.draws)[..., chosen], [names[i] for i in chosen], note


def _divergent(run: Run) -> Bool[np.ndarray, "chain draw"]:
    flags = np.zeros((run.num_chains, run.num_draws), dtype=bool)
    for _, of_part in recorded(run.stats, "is_divergent"):
        flags |= of_part.astype(bool)
    return flags


def _finite(values: Float[np.ndarray, "draw"]) -> Float[np.ndarray, "finite"]:
    return values[np.isfinite(values)]


def _colour(chain: int) -> str:
    return _CHAIN_COLOURS[chain % len(_CHAIN_COLOURS)]


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as e:
        raise BayleafError(
            "plot: Matplotlib is not installed. Install the extra: pip install 'bayleaf[tour]'."
        ) from e
    return plt
