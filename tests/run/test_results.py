from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
import pytest

from bayleaf.errors import BayleafError, CheckpointError
from bayleaf.run import archive
from bayleaf.run.diagnostics import Finding
from bayleaf.run.results import Run
from bayleaf.run.summary import MOST_ROWS


class Pair(NamedTuple):
    zeta: np.ndarray
    alpha: np.ndarray


def _run(num_chains: int = 4, num_draws: int = 500) -> Run:
    rng = np.random.default_rng(0)
    shape = (num_chains, num_draws)
    draws = {
        "beta": 3 + 2 * rng.normal(size=(*shape, 3)),
        "layers": [Pair(rng.normal(size=shape), rng.exponential(size=(*shape, 1, 2)))],
        "nothing": None,
        "label": rng.integers(0, 3, shape).astype(np.int8),
    }
    return Run(
        draws,
        stats={"is_divergent": rng.random(shape) < 0.01, "step_size": np.full(shape, 0.3)},
        warmup_stats={"step_size": np.full((num_chains, 10), 0.1, np.float32)},
        kernel=Pair(1, 2),
        sampler={"key": jax.random.split(jax.random.key(1), num_chains), "x": np.arange(3)},
        num_warmup=10,
        findings=(Finding("ess", "too low"),),
        fingerprint={"kernel": "abcd"},
        seconds=1.5,
    )


@pytest.fixture(scope="module")
def run() -> Run:
    return _run()


def test_size_and_repr(run):
    assert (run.num_chains, run.num_draws) == (4, 500)
    assert repr(run) == (
        "Run(4 chains x 500 draws of beta, label, layers[0].zeta, layers[0].alpha; Pair)"
    )


def test_summary_agrees_with_arviz_scalar_by_scalar(run):
    from arviz_stats.base import array_stats

    summary = run.summary()
    assert len(summary) == 7
    x = run.draws["beta"][..., 2]
    row = summary["beta[2]"]
    assert row.mean == pytest.approx(x.mean())
    assert row.sd == pytest.approx(x.std(ddof=1))
    assert (row.q5, row.q95) == pytest.approx(tuple(np.quantile(x, [0.05, 0.95])))
    assert row.ess_bulk == pytest.approx(array_stats.ess(x, chain_axis=0, draw_axis=1))
    assert row.rhat == pytest.approx(array_stats.rhat(x, chain_axis=0, draw_axis=1))
    assert row.mcse == pytest.approx(row.sd / np.sqrt(2000), rel=0.2)
    assert summary.rhat.max() < 1.05
    assert next(iter(summary)) == "beta[0]"
    tail = array_stats.ess(x, chain_axis=0, draw_axis=1, method="tail", prob=(0.05, 0.95))
    assert row.ess_tail == pytest.approx(tail)


def test_summary_of_chosen_parameters(run):
    assert list(run.summary(["layers", "beta[1]"])) == [
        "layers[0].zeta",
        "layers[0].alpha[0,0]",
        "layers[0].alpha[0,1]",
        "beta[1]",
    ]
    with pytest.raises(BayleafError, match=r"got 'beta\[7\]'"):
        run.summary(["beta[7]"])
    with pytest.raises(BayleafError, match=r"got 'btea', expected a scalar, such as beta"):
        run.summary()["btea"]


def test_summary_prints_as_an_aligned_table():
    draws = {"mu": np.tile(np.arange(8.0), (4, 50)), "constant": np.ones((4, 400))}
    draws["apart"] = draws["mu"] + 100 * np.arange(4)[:, None]
    lines = str(Run(draws).summary()).splitlines()
    assert lines[0].split() == [
        *("mean", "sd", "5", "%", "95", "%", "mcse", "ESS", "bulk", "ESS", "tail", "R-hat")
    ]
    assert {len(line.rstrip("* ")) for line in lines[2:5]} <= set(range(len(lines[0]) + 1))
    table = dict(zip(("apart", "constant", "mu"), lines[2:5], strict=True))
    assert all(line.startswith(name) for name, line in table.items())
    assert table["apart"].endswith("*")
    assert not table["mu"].endswith("*")
    assert table["constant"].split()[-1] == "-"
    assert "4 chains x 400 draws" in lines[-2]
    ends = [line.index(number) + len(number) for line, number in _means(lines)]
    assert len(set(ends)) == 1  # right-aligned


def _means(lines):
    return [(line, " " + line.split()[1]) for line in lines[2:5]]


def test_digits_follow_the_monte_carlo_error():
    rng = np.random.default_rng(1)
    draws = {
        "slope": 0.0301 + 1e-3 * rng.normal(size=(4, 500)),
        "big": 1e9 * (1 + rng.random((4, 500))),
    }
    text = str(Run(draws).summary())
    slope = next(line for line in text.splitlines() if line.startswith("slope")).split()
    assert slope[1].startswith("0.0301") or slope[1].startswith("0.0300")
    assert float(slope[5]) > 0  # the mcse is never rounded away
    assert "e+09" in text


def test_a_long_summary_has_a_gap_and_reaches_all_rows():
    summary = Run(np.random.default_rng(0).normal(size=(4, 50, 200))).summary()
    lines = str(summary).splitlines()
    assert len(lines) == 2 + MOST_ROWS + 1 + 3
    assert any("... 140 more ..." in line for line in lines)
    assert summary["x[123]"].rhat > 0


def test_summary_in_a_notebook_and_in_pandas(run):
    html = run.summary()._repr_html_()
    assert html.count("<tr>") == 8
    assert "<td>beta[0]</td>" in html
    table = run.summary().to_pandas()
    assert table.loc["beta[0]", "mean"] == run.summary()["beta[0]"].mean


def test_one_chain_and_no_draws():
    summary = Run({"a": np.random.default_rng(0).normal(size=(1, 200))}).summary()
    assert np.isnan(summary["a"].rhat)
    assert "1 chain x" in str(summary)
    with pytest.raises(BayleafError, match="a run without draws"):
        Run({"a": np.zeros((4, 0))}).summary()


def test_intervals_are_pytrees_that_hold_the_probability(run):
    low, high = run.interval(0.9)
    assert jax.tree.structure(low) == jax.tree.structure(run.draws)
    assert low["beta"].shape == (3,)
    x = run.draws["layers"][0].alpha
    inside = (x >= low["layers"][0].alpha) & (x <= high["layers"][0].alpha)
    np.testing.assert_allclose(inside.mean((0, 1)), 0.9, atol=2e-3)
    np.testing.assert_allclose((x < low["layers"][0].alpha).mean((0, 1)), 0.05, atol=2e-3)


def test_the_highest_density_interval_is_shorter_on_a_skewed_scalar(run):
    (low, high), (hdi_low, hdi_high) = run.interval(0.8), run.highest_density_interval(0.8)
    width = high["layers"][0].alpha - low["layers"][0].alpha
    hdi_width = hdi_high["layers"][0].alpha - hdi_low["layers"][0].alpha
    assert (hdi_width < 0.9 * width).all()
    x = run.draws["layers"][0].alpha
    inside = (x >= hdi_low["layers"][0].alpha) & (x <= hdi_high["layers"][0].alpha)
    np.testing.assert_allclose(inside.mean((0, 1)), 0.8, atol=5e-3)


@pytest.mark.parametrize("prob", [0.0, 1.0, 90.0, -0.5])
def test_a_probability_outside_0_1_is_refused(run, prob):
    with pytest.raises(BayleafError, match=f"prob: got {prob}, expected a number between 0 and 1"):
        run.interval(prob)


def test_a_saved_run_comes_back_bit_for_bit(run, tmp_path):
    path = run.save(tmp_path / "posterior.npz")
    again = Run.load(path)
    for got, want in zip(jax.tree.leaves(again.draws), jax.tree.leaves(run.draws), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    assert list(again.summary()) == list(run.summary())
    assert again.draws["nothing"] is None
    assert list(again.draws["layers"][0]) == ["zeta", "alpha"]  # fields keep their order
    assert again.stats["is_divergent"].dtype == bool
    assert again.warmup_stats["step_size"].dtype == np.float32
    assert (again.num_warmup, again.seconds, again.fingerprint) == (10, 1.5, {"kernel": "abcd"})
    assert again.findings == run.findings
    assert again.kernel == "Pair(zeta=1, alpha=2)"
    assert "; Pair)" in repr(again)
    key, x = again.sampler
    assert bool((key == run.sampler["key"]).all())
    np.testing.assert_array_equal(x, run.sampler["x"])
    twice = Run.load(again.save(tmp_path / "again.npz"))
    assert list(twice.summary()) == list(run.summary())


@pytest.mark.parametrize(
    "tree",
    [
        np.zeros((1, 2)),
        (np.zeros((1, 2)), [np.ones((1, 2))]),
        {1: np.zeros((1, 2)), 2: np.ones((1, 2))},
    ],
)
def test_any_pytree_of_plain_containers_keeps_its_structure(tree, tmp_path):
    again = Run.load(Run(tree).save(tmp_path / "run.npz")).draws
    assert jax.tree.structure(again) == jax.tree.structure(tree)


def test_saving_leaves_no_half_file(run, tmp_path):
    run.save(tmp_path / "a.npz")
    before = (tmp_path / "a.npz").read_bytes()
    broken = Run({"a": np.zeros((1, 2))}, sampler=[object()])
    with pytest.raises(TypeError, match="not an array"):
        broken.save(tmp_path / "a.npz")
    assert (tmp_path / "a.npz").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_what_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        Run.load(tmp_path / "missing.npz")
    archive.write(tmp_path / "state.npz", {"content": "checkpoint"}, [])
    with pytest.raises(CheckpointError, match="holds a checkpoint, expected a run"):
        Run.load(tmp_path / "state.npz")


def test_extend_without_a_target_says_what_to_do(run, tmp_path):
    loaded = Run.load(run.save(tmp_path / "run.npz"))
    with pytest.raises(BayleafError, match=r"load it by Run\.load\(path, target=\.\.\.\)"):
        loaded.extend(10)


def test_extend_asks_the_continuation():
    def more(run, num_draws, *, progress):
        assert progress is False
        draws = jax.tree.map(lambda x: np.concatenate([x, x[:, :num_draws]], axis=1), run.draws)
        return Run(draws, continuation=run.continuation)

    run = Run({"a": np.zeros((2, 5))}, continuation=more)
    assert run.extend(3, progress=False).num_draws == 8
    with pytest.raises(BayleafError, match="num_draws: got 0, expected at least 1"):
        run.extend(0)
