"""A picture of a fit: the ELBO over the steps, and each scalar's marginal under the guide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float

from bayleaf.run.names import flat_draws, scalar_names, select_scalars
from bayleaf.run.plots import _BARS, _GREY, _INK, _STYLE, _pyplot

if TYPE_CHECKING:
    from bayleaf.variational.results import Fit

MOST = 12


def plot_fit(fit: Fit, var_names: Sequence[str] | None = None) -> Any:
    """The ELBO of each step with its running mean, and histograms of the draws.

    Args:
        fit: the fit to show.
        var_names: parameters or single scalars; None shows the first twelve scalars.

    Returns:
        A Matplotlib figure.
    """
    plt = _pyplot()
    tree = jax.tree.map(lambda leaf: leaf[None], fit.draws)
    chosen = select_scalars(tree, var_names, 2)[:MOST]
    names, x = scalar_names(tree, 2), flat_draws(tree)[0]
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    with plt.rc_context(_STYLE):
        figure = plt.figure(figsize=(9, 2.6 + 1.7 * rows), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(2.6, 1.7 * rows))
        _draw_history(above.subplots(), fit)
        panels = below.subplots(rows, columns, squeeze=False).ravel()
        for axes, i in zip(panels, chosen, strict=False):
            axes.hist(x[:, i], bins=40, color=_BARS)
            axes.axvline(x[:, i].mean(), color=_INK, lw=1)
            axes.set(xlabel=names[i], yticks=[])
        for axes in panels[len(chosen) :]:
            axes.set_axis_off()
    return figure


def _draw_history(axes: Any, fit: Fit) -> None:
    title = f"ELBO {fit.elbo:.4g} ± {fit.elbo_error:.2g}, Pareto k-hat {fit.pareto_k:.2f}"
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set(xlabel="step", ylabel="ELBO")
    if fit.history.size == 0:
        axes.set_axis_off()
        return
    smooth = _running_mean(fit.history, max(1, fit.history.size // 50))
    axes.plot(fit.history, color=_GREY, lw=0.5, alpha=0.7, label="at each step")
    axes.plot(smooth, color=_INK, lw=1.5, label="running mean")
    axes.axhline(fit.elbo, color="#0072B2", ls="--", lw=1, label="of the fitted guide")
    finite = fit.history[np.isfinite(fit.history)]
    if finite.size:  # the first steps may lie a thousand nats below the rest
        low, high = np.quantile(finite, 0.05), finite.max()
        axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low) + 1e-3)
    axes.legend(loc="lower right")


def _running_mean(values: Float[np.ndarray, "step"], width: int) -> Float[np.ndarray, "step"]:
    """Of the last ``width`` values, of those that there are at the beginning."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, values.size + 1)
    begin = np.maximum(0, end - width)
    return (total[end] - total[begin]) / (end - begin)
