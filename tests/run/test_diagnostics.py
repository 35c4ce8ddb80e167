"""Every report of `bayleaf.run.diagnostics` fires on its cause, and none on healthy draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.mcmc.metric import Diagonal
from bayleaf.mcmc.nuts import NUTS
from bayleaf.run import diagnostics
from bayleaf.run.diagnostics import Monitor, diagnose

SHAPE = (4, 1000)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return _rng(seed).normal(size=SHAPE + shape)


def _autoregressive(rho: float, *, seed: int = 0) -> np.ndarray:
    x = _normal(seed=seed)
    for t in range(1, SHAPE[1]):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * x[:, t]
    return x


def _kinds(*args, **kwargs) -> list[str]:
    return [finding.kind for finding in diagnose(*args, **kwargs)]


def _message(kind: str, *args, **kwargs) -> str:
    (message,) = [f.message for f in diagnose(*args, **kwargs) if f.kind == kind]
    return message


@pytest.mark.parametrize("seed", range(5))
def test_healthy_runs_raise_no_alarm(seed):
    rejecting = _normal(2, seed=seed)
    for t in range(1, SHAPE[1]):  # a Metropolis chain that accepts three proposals in four
        stay = _rng(seed).random(SHAPE)[:, t] < 0.25
        rejecting[stay, t] = rejecting[stay, t - 1]
    draws = {
        "autocorrelated": _autoregressive(0.5, seed=seed),
        "huge": 1e12 * (5 + _normal(seed=seed)),
        "tiny": 1e-12 * _normal(seed=seed),
        "heavy": _rng(seed).standard_cauchy(SHAPE),
        "positive": np.exp(5 * _normal(seed=seed)),
        "correlation": np.broadcast_to(np.eye(2), (*SHAPE, 2, 2)),
        "rejecting": rejecting,
        "label": _rng(seed).integers(0, 3, SHAPE),
        "float32": _normal(seed=seed + 100).astype(np.float32),
    }
    stats = {
        "is_nan": np.zeros(SHAPE, bool),
        "is_divergent": np.zeros(SHAPE, bool),
        "step_size": np.full(SHAPE, 1e-4),
        "tree_depth": np.where(_rng(seed).random(SHAPE) < 0.01, 10, 4),
    }
    start = jax.tree.map(lambda leaf: np.zeros_like(leaf[:, 0]), draws)
    assert diagnose(draws, stats, start=start, max_depth=10) == []


@pytest.mark.parametrize(("num_chains", "num_draws"), [(4, 400), (4, 100), (1, 500), (64, 60)])
def test_shorter_healthy_runs_raise_no_alarm(num_chains, num_draws):
    draws = _rng(3).normal(size=(num_chains, num_draws, 10))
    assert diagnose(draws, {}) == []


@pytest.mark.parametrize("num_draws", [0, 1, 2, 5, 49])
def test_runs_too_short_to_judge_are_not_judged(num_draws):
    assert (
        diagnose({"a": _rng().normal(size=(4, num_draws))}, {"step_size": np.ones((4, num_draws))})
        == []
    )


def test_a_slow_discrete_chain_is_not_stuck():
    labels = np.zeros(SHAPE, int)
    labels[:, ::150] = 1
    assert "stuck" not in _kinds({"label": labels}, {})


def test_nan_draws_are_named():
    draws = {"mu": _normal(), "beta": _normal(3)}
    draws["beta"][2, 500:, 1] = np.nan
    message = _message("nan_draws", draws, {})
    assert "500 of 4000 draws" in message
    assert "in beta[1] (chain 2)" in message


def test_a_chain_that_starts_at_nan_is_reported():
    draws = {"mu": _normal(), "tau": _normal()}
    draws["tau"][0] = np.nan
    assert "in tau (chain 0)" in _message("nan_draws", draws, {})


def test_nan_density_says_how_often_and_where():
    draws = {"mu": _normal(), "tau": np.abs(_normal(seed=1))}
    is_nan = (draws["tau"] < 0.5) & (_rng(2).random(SHAPE) < 0.5)
    message = _message("nan_density", draws, {"is_nan": is_nan})
    assert f"NaN in {100 * is_nan.mean():.0f} % of the steps (all chains)" in message
    assert "mostly at small tau (median 0.2" in message
    assert _kinds(draws, {"is_nan": np.zeros(SHAPE, bool)}) == []


def test_nan_without_a_place_names_none():
    message = _message("nan_density", _normal(5), {"is_nan": _rng(1).random(SHAPE) < 0.1})
    assert "mostly" not in message


def test_a_conditional_that_is_not_log_concave_is_reported():
    flags = np.ones(SHAPE, bool)
    flags[2, :10] = False
    message = _message("not_log_concave", _normal(), {"tau.is_log_concave": flags})
    assert message.startswith("tau: 0.25 % of the steps (chain 2) met a conditional density")
    assert _kinds(_normal(), {"is_log_concave": np.ones(SHAPE, bool)}) == []


def test_divergences_are_counted_and_placed():
    draws = {"mu": _normal(), "tau": np.exp(_normal(seed=1))}
    flags = np.zeros(SHAPE, bool)
    flags[1:3] = (draws["tau"] < 0.1)[1:3]
    message = _message("divergences", draws, {"is_divergent": flags})
    assert f"{flags.sum()} of 4000 transitions diverged" in message
    assert "chains 1, 2" in message
    assert "mostly at small tau" in message


def test_divergence_everywhere_is_said_more_strongly():
    message = _message("divergences", _normal(), {"is_divergent": np.ones(SHAPE, bool)})
    assert "100 % of the transitions diverged" in message
    assert "must not be used" in message


def test_parts_of_a_composed_kernel_are_named():
    stats = {"theta.is_divergent": np.eye(4, 1000, dtype=bool), "mu.is_nan": np.zeros(SHAPE, bool)}
    assert _message("divergences", _normal(), stats).startswith("theta: 4 of 4000 transitions")


@pytest.mark.parametrize("step", [0.0, 1e-12, np.nan])
def test_a_vanishing_step_size_is_reported(step):
    sizes = np.full(SHAPE, 0.5)
    sizes[3] = step
    assert f"the step size is {step:.2g} (chain 3)" in _message(
        "tiny_step", _normal(), {"step_size": sizes}
    )


def test_a_constant_chain_is_stuck():
    draws = {"mu": _normal(), "tau": _normal(seed=1)}
    for leaf in draws.values():
        leaf[1] = leaf[1, 0]
    assert "chain 1 never moved" in _message("stuck", draws, {})


def test_a_chain_that_rests_for_long_is_stuck():
    draws = _normal(3)
    draws[2, 300:450] = draws[2, 300]
    assert "chain 2 stood still for 149 draws in a row" in _message("stuck", draws, {})


def test_a_runaway_is_told_from_a_large_scale():
    walk = 1e9 * np.cumsum(_normal(), axis=1)
    draws = {"settled": 1e12 + 1e10 * _normal(seed=1), "walk": walk}
    message = _message("runaway", draws, {})
    assert message.startswith("walk ran away to")
    assert "improper" in message
    assert "runaway" not in _kinds(
        draws, {}, start={"settled": np.ones(4), "walk": 1e12 * np.ones(4)}
    )


def test_rhat_names_the_worst_scalars_first():
    draws = {"good": _normal(), "bad": _normal(2, seed=1)}
    draws["bad"][0, :, 0] += 0.5
    draws["bad"][0, :, 1] += 3
    message = _message("rhat", draws, {})
    assert "bad[1] 1." in message
    assert message.index("bad[1]") < message.index("bad[0]")
    assert "good" not in message


def test_two_modes_are_seen():
    draws = _normal()
    draws[:2] += 10
    assert "rhat" in _kinds(draws, {})


def test_low_ess_is_reported_with_its_number():
    message = _message("ess", {"slow": _autoregressive(0.97)}, {})
    assert "below 400: slow " in message


def test_only_some_of_very_many_scalars_are_looked_at(monkeypatch):
    monkeypatch.setattr(diagnostics, "MOST_SCALARS", 5)
    draws = _normal(50)
    draws[0] += 5
    message = _message("rhat", draws, {})
    assert "(of 5 scalars looked at)" in message
    assert all(name in message for name in ("x[12]", "x[24]", "x[49]"))


def test_deep_trees_are_reported_above_a_share():
    depth = np.where(_rng().random(SHAPE) < 0.3, 10, 5)
    assert "of the transitions reached max_depth=10" in _message(
        "tree_depth", _normal(), {"tree_depth": depth}, max_depth=10
    )
    assert _kinds(_normal(), {"tree_depth": depth}) == []


def test_the_gravest_comes_first_and_silences_its_consequences():
    draws = np.zeros((*SHAPE, 2))
    stats = {
        "is_nan": np.ones(SHAPE, bool),
        "is_divergent": np.ones(SHAPE, bool),
        "step_size": np.zeros(SHAPE),
    }
    assert _kinds(draws, stats) == ["nan_density", "divergences", "tiny_step", "stuck"]


# Bad inputs, on chains of a real kernel. One program serves all of them: it is compiled once.

BAD_INPUTS = {
    "nan everywhere": (lambda x: x * jnp.nan, 0.1, 0.5, {"nan_density", "stuck"}),
    "nan gradient at start": (lambda x: -jnp.sqrt(x**2), 0.0, 0.5, {"nan_density", "stuck"}),
    "nan on half": (lambda x: jnp.log(jnp.sign(x)) - x**2 / 2, 0.5, 0.5, {"nan_density"}),
    "improper": (lambda x: 0.0 * x, 0.1, 1e8, {"runaway"}),
    "start at nan": (lambda x: -(x**2) / 2, jnp.nan, 0.5, {"nan_draws"}),
    "fine": (lambda x: -(x**2) / 2, 0.1, 1.0, set()),
}


@jax.jit
def _nuts_run(case, start, step_size):
    """Positions and infos of 200 steps of four chains, without warm-up."""
    kernel = NUTS(step_size=step_size, metric=Diagonal(jnp.ones(1)), max_depth=6)
    densities = [density for density, *_ in BAD_INPUTS.values()]

    def log_density(position):
        return jax.lax.switch(case, densities, position["theta"][0])

    def step(state, key):
        state, info = kernel.step(log_density, key, state)
        return state, (state.position, info._asdict())

    def chain(key):
        begin = kernel.init(log_density, {"theta": jnp.full(1, start)})
        return jax.lax.scan(step, begin, jax.random.split(key, 200))[1]

    return jax.vmap(chain)(jax.random.split(jax.random.key(0), 4))


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs_are_recognised_and_a_good_one_is_not_accused(name):
    _, start, step_size, expected = BAD_INPUTS[name]
    case = list(BAD_INPUTS).index(name)
    draws, stats = jax.tree.map(np.asarray, _nuts_run(case, start, step_size))
    found = set(_kinds(draws, stats, start={"theta": np.full((4, 1), start)}, max_depth=6))
    assert found == expected if name == "fine" else expected <= found


# The numbers beside the progress bar.


def test_the_monitor_counts_and_finds_disagreement():
    now = [0.0]
    monitor = Monitor(clock=lambda: now[0])
    stats = {"is_divergent": np.eye(4, 100, dtype=bool), "step_size": np.full((4, 100), 0.25)}
    first = monitor.add({"x": _normal()[:, :100]}, stats)
    assert first["divergences"] == 4
    assert first["step_size"] == 0.25
    assert np.isnan(first["rhat"])  # nothing is computed in the first seconds
    now[0] = 10.0
    assert monitor.add({"x": _normal()[:, 100:200]}, stats)["rhat"] < 1.05
    now[0] = 20.0
    apart = _normal()[:, :100] + 5 * np.arange(4)[:, None]
    status = monitor.add({"x": apart}, {})
    assert status["rhat"] > 1.3
    assert "divergences" not in status


def test_the_monitor_spends_one_percent_of_the_time(monkeypatch):
    now, calls = [0.0], []

    def slow_rhat(*_):
        calls.append(now[0])
        now[0] += 2.0
        return 1.0

    monkeypatch.setattr(diagnostics, "live_rhat", slow_rhat)
    monitor = Monitor(clock=lambda: now[0])
    for _ in range(1000):
        now[0] += 1.0
        monitor.add({"x": np.zeros((4, 1))}, {})
    assert 4 <= len(calls) <= 6
    assert np.diff(calls).min() >= 200


def test_the_monitor_judges_a_single_chain_by_its_halves():
    drifting = np.linspace(0, 10, 500)[None, :, None] + _rng().normal(size=(1, 500, 1))
    assert diagnostics.live_rhat(drifting) > 1.5
    assert np.isnan(diagnostics.live_rhat(np.zeros((1, 2, 1))))


def test_rank_statistics_are_those_of_arviz():
    """With ties, constants in part of the chains, heavy tails and an odd number of draws."""
    from arviz_stats.base import array_stats

    from bayleaf.run.diagnostics import _rank_statistics

    rng = np.random.default_rng(0)
    x = rng.standard_t(1, size=(3, 401, 4))
    x[..., 1] = np.round(x[..., 1])
    x[..., 2] = np.cumsum(rng.normal(size=(3, 401)), axis=1)
    x[0, :, 3] = 1.0
    rhat, ess = _rank_statistics(x)
    np.testing.assert_allclose(rhat, array_stats.rhat(x, chain_axis=0, draw_axis=1), rtol=0.01)
    np.testing.assert_allclose(ess, array_stats.ess(x, chain_axis=0, draw_axis=1), rtol=0.01)
    even = x[:, :400]
    rhat, ess = _rank_statistics(even)
    np.testing.assert_allclose(rhat, array_stats.rhat(even, chain_axis=0, draw_axis=1), rtol=1e-12)
    np.testing.assert_allclose(ess, array_stats.ess(even, chain_axis=0, draw_axis=1), rtol=1e-12)
