from __future__ import annotations

import sys

import matplotlib as mpl
import numpy as np
import pytest

from bayleaf.errors import BayleafError
from bayleaf.run import plots
from bayleaf.run.results import Run

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def _run(num_chains: int = 3, num_draws: int = 100, num_scalars: int = 2) -> Run:
    rng = np.random.default_rng(0)
    draws = {"mu": rng.normal(size=(num_chains, num_draws)), "beta": None}
    draws["beta"] = rng.normal(size=(num_chains, num_draws, num_scalars - 1))
    flags = np.zeros((num_chains, num_draws), bool)
    flags[0, :5] = True
    return Run(draws, {"is_divergent": flags})


def _legend(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def _draw(figure) -> None:
    figure.canvas.draw()  # warnings are errors here: a missing glyph or a bad layout would show


def test_trace_has_a_row_a_scalar_and_names_everything():
    figure = _run().plot()
    _draw(figure)
    rows = np.reshape(figure.axes, (2, 3))
    assert [row[0].get_ylabel() for row in rows] == ["beta[0]", "mu"]
    assert [axes.get_xlabel() for axes in rows[-1]] == ["value", "draw", "rank among all draws"]
    assert all(axes.get_title(loc="left") for axes in rows[0])
    legend = _legend(figure)
    assert legend[:3] == ["chain 0", "chain 1", "chain 2"]
    assert "divergent draw (5)" in legend


def test_the_trace_shows_the_draws_and_marks_divergent_ones():
    run = _run()
    trace = plots.plot_trace(run, ["mu"]).axes[1]
    *chains, crosses = trace.get_lines()
    for line, values in zip(chains, run.draws["mu"], strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)
    np.testing.assert_array_equal(crosses.get_xdata(), range(5))
    np.testing.assert_array_equal(crosses.get_ydata(), run.draws["mu"][0, :5])


def test_rank_counts_add_up_and_tell_a_strange_chain():
    run = _run(num_draws=400)
    run.draws["mu"][1] += 10
    ranks = plots.plot_trace(run, ["mu"]).axes[2]
    counts = [patch.get_data().values for patch in ranks.patches]
    assert [c.sum() for c in counts] == [400, 400, 400]
    assert counts[1][:13].sum() == 0  # the chain that is 10 higher has the highest third of ranks


def test_a_run_without_divergences_has_none_in_the_legend():
    run = _run()
    figure = Run(run.draws).plot()
    assert not any("divergent" in text for text in _legend(figure))


def test_many_scalars_are_cut_with_a_note_unless_asked_for(monkeypatch):
    monkeypatch.setattr(plots, "_MOST_ROWS", 2)
    monkeypatch.setattr(plots, "_MOST_PAIRED", 2)
    run = _run(num_draws=20, num_scalars=4)
    figure = run.plot()
    _draw(figure)
    assert len(figure.axes) == 2 * 3
    assert "first 2 of 4 scalars" in figure.legends[0].get_title().get_text()
    assert len(run.plot(["beta"]).axes) == 3 * 3
    pairs = run.plot_pairs()
    assert len(pairs.axes) == 4
    assert "first 2 of 4" in pairs.get_suptitle()


def test_pairs_show_draws_below_and_correlations_above():
    run = _run(num_scalars=3)
    run.draws["beta"][..., 1] = -run.draws["mu"]
    figure = run.plot_pairs(["mu", "beta"])
    _draw(figure)
    grid = np.reshape(figure.axes, (3, 3))
    assert grid[0, 2].texts[0].get_text() == "\N{MINUS SIGN}1.00"
    points, crosses = grid[2, 0].get_lines()
    np.testing.assert_array_equal(points.get_xdata(), run.draws["mu"].ravel())
    np.testing.assert_array_equal(points.get_ydata(), -run.draws["mu"].ravel())
    assert crosses.get_xdata().size == 5
    assert grid[2, 0].get_xlabel() == "mu"
    assert grid[2, 0].get_ylabel() == "beta[1]"
    assert _legend(figure) == ["divergent draw (5)"]


def test_long_runs_are_thinned_for_the_picture():
    figure = Run({"mu": np.random.default_rng(0).normal(size=(2, 30_000))}).plot()
    assert len(figure.axes[1].get_lines()[0].get_xdata()) <= 2000


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_draws_that_are_not_finite_or_constant_can_be_shown(bad):
    draws = {"odd": np.ones((2, 30)), "dead": np.full((2, 30), bad), "fixed": np.ones((2, 30))}
    draws["odd"][0, :3] = bad
    _draw(Run(draws).plot())
    _draw(Run(draws).plot_pairs())


def test_many_chains_and_one_draw_can_be_shown():
    _draw(Run({"a": np.random.default_rng(0).normal(size=(20, 1))}).plot())


def test_wrong_requests_are_named():
    with pytest.raises(BayleafError, match=r"var_names: got 'm', expected a parameter"):
        _run().plot(["m"])
    with pytest.raises(BayleafError, match="at least two scalars"):
        _run().plot_pairs(["mu"])
    with pytest.raises(BayleafError, match="without draws"):
        Run({"a": np.zeros((2, 0))}).plot()


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(BayleafError, match=r"pip install 'bayleaf\[tour\]'"):
        _run().plot()
