"""Default settings against published reference draws, and on harder posteriors of that kind."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

import bayleaf as bl
from tests.oracles import hard, posteriordb
from tests.oracles.case import Case, disagreements, exact, read

MODELS = (*posteriordb.POSTERIORDB, *hard.SYNTHETIC, hard.centred_schools)
FAST = (posteriordb.eight_schools, hard.late_years)
SLOW = tuple(m for m in (*posteriordb.POSTERIORDB, *hard.EXACT, *hard.SYNTHETIC) if m not in FAST)


def name_of(make) -> str:
    return make.__name__


def agrees(case: Case, seed: int = 1) -> None:
    """A run with default settings agrees with the reference.

    It may warn of divergences: a handful is usual where tau comes near zero, and the reference
    shows whether they did harm.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bl.errors.SamplingWarning)
        run = bl.sample(case.target, key=jax.random.key(seed), progress=False)
    assert disagreements(case, run.draws) == []
    assert run.draws.keys() == case.init.keys()


@pytest.mark.parametrize("make", FAST, ids=name_of)
def test_default_settings_agree_with_the_reference(make) -> None:
    agrees(make())


@pytest.mark.slow
@pytest.mark.parametrize("make", SLOW, ids=name_of)
def test_default_settings_agree_with_the_reference_slow(make) -> None:
    agrees(make())


@pytest.mark.slow
def test_centred_eight_schools_are_right_or_reported() -> None:
    case = hard.centred_schools()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = bl.sample(case.target, key=jax.random.key(1), progress=False)
    if not any(issubclass(w.category, bl.errors.SamplingWarning) for w in caught):
        assert disagreements(case, run.draws) == []


@pytest.mark.parametrize("make", MODELS, ids=name_of)
def test_densities_are_those_of_an_independent_numpyro_program(make) -> None:
    numpyro_util = pytest.importorskip("numpyro.infer.util")
    from tests.oracles import numpyro_models

    case = make()
    model = getattr(numpyro_models, make.__name__)
    schools = "eight_schools-eight_schools_noncentered"
    data = read(schools if make is hard.centred_schools else case.name)["data"]
    target = case.target
    flat, unravel = ravel_pytree(target.unconstrain(case.init))

    @jax.jit
    def both(u):
        params = target.constrain(unravel(u))
        with jax.numpy_rank_promotion("allow"):
            theirs, _ = numpyro_util.log_density(model, (data,), {}, dict(params))
        return case.log_density(params), theirs

    keys = jax.random.split(jax.random.key(0), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPyro's own
        ours, theirs = np.transpose(
            [both(flat + 0.5 * jax.random.normal(k, flat.shape)) for k in keys]
        )
    # Equal up to a constant: a half-normal is written as a normal here.
    gaps = ours - theirs
    np.testing.assert_allclose(gaps, gaps[0], rtol=0, atol=1e-11 * np.abs(ours).max())


@pytest.mark.parametrize("make", hard.EXACT, ids=name_of)
def test_exact_marginals_are_those_of_direct_draws(make) -> None:
    """The closed forms of `flat_regression` against sampling sigma, then beta given sigma."""
    case = make()
    rng = np.random.default_rng(0)
    (X, y), shape = hard.DESIGNS[make.__name__](), (4, 20_000)
    n, d = X.shape
    estimate, rss, *_ = np.linalg.lstsq(X, y)
    sigma = np.sqrt(rss[0] / rng.chisquare(n - d - 1, shape))
    noise = rng.standard_normal((*shape, d)) @ np.linalg.inv(np.linalg.qr(X)[1]).T
    draws = {"beta": estimate + sigma[..., None] * noise, "sigma": sigma}
    assert disagreements(case, draws) == []


@pytest.fixture(scope="module")
def t_draws() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sigma = 1 / np.sqrt(rng.chisquare(10, (4, 2000)))
    return {"sigma": sigma, "beta": 3.0 + sigma * rng.standard_normal((4, 2000))}


@pytest.fixture(scope="module")
def t_case() -> Case:
    reference = {"beta": exact(stats.t(10, 3.0, np.sqrt(0.1)))}
    return Case("t", lambda p: 0.0, {"beta": 0.0}, {}, reference)


def test_the_comparison_accepts_independent_draws(t_case, t_draws) -> None:
    assert disagreements(t_case, t_draws) == []


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (lambda x: x + 0.03, "mean"),
        (lambda x: 3 + 1.1 * (x - 3), "sd"),
        (lambda x: np.abs(x - 3) + 3, "quantile"),
        (lambda x: x + 0.2 * np.arange(4)[:, None], "R-hat"),
        (lambda x: np.repeat(x[:, :100], 20, axis=1), "ESS"),
    ],
    ids=["shifted", "wide", "folded", "chains apart", "sticky"],
)
def test_the_comparison_names_a_planted_fault(t_case, t_draws, fault, named) -> None:
    found = disagreements(t_case, t_draws | {"beta": fault(t_draws["beta"])})
    assert any(named in sentence for sentence in found), found


def test_the_comparison_refuses_a_missing_quantity(t_case, t_draws) -> None:
    with pytest.raises(AssertionError, match="no draws"):
        disagreements(t_case, {"sigma": t_draws["sigma"]})
