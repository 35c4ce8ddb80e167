"""Weighted draws: exact sums by hand, estimates against known targets, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import bayleaf as bl
from bayleaf.errors import BayleafError, CheckpointError
from bayleaf.montecarlo import weighting
from bayleaf.montecarlo.weighted import WeightedDraws
from tests.tools.statistics import assert_counts, assert_mean

RNG = np.random.default_rng(0)


def gamma_by_exponential(num_draws=4000, rate=0.4):
    """Gamma(3, 1) without its normaliser Gamma(3) = 2, by an exponential proposal."""
    x = np.random.default_rng(1).exponential(1 / rate, num_draws)
    log_weights = 2 * np.log(x) - x - (np.log(rate) - rate * x)
    return WeightedDraws({"x": x, "pair": np.stack([x, -x], 1)}, log_weights)


def test_three_draws_by_hand():
    found = WeightedDraws({"x": np.array([1.0, 2.0, 4.0])}, np.log([1.0, 2.0, 1.0]))
    assert found.num_draws == 3
    np.testing.assert_allclose(found.weights, [0.25, 0.5, 0.25])
    np.testing.assert_allclose(found.ess, 1 / (0.0625 + 0.25 + 0.0625))
    np.testing.assert_allclose(found.log_evidence, np.log(4 / 3))
    np.testing.assert_allclose(
        found.log_evidence_error, np.std([1, 2, 1], ddof=1) / 3**0.5 / (4 / 3)
    )
    np.testing.assert_allclose(found.mean()["x"], 2.25)
    np.testing.assert_allclose(found.sd()["x"], np.sqrt(0.25 * 1 + 0.5 * 4 + 0.25 * 16 - 2.25**2))
    assert [float(found.quantile(p)["x"]) for p in (0.0, 0.25, 0.26, 0.75, 0.76, 1.0)] == [
        1.0,
        1.0,
        2.0,
        2.0,
        4.0,
        4.0,
    ]
    mean, error = found.expectation(lambda draw: draw["x"] > 1.5)
    np.testing.assert_allclose(mean, 0.75)
    np.testing.assert_allclose(error, np.sqrt(0.0625 * 0.5625 + 0.25 * 0.0625 + 0.0625 * 0.0625))


def test_constant_factors_of_the_weights_change_the_evidence_alone():
    found = gamma_by_exponential()
    for shift in (-800.0, 800.0):
        moved = WeightedDraws(found.draws, found.log_weights + shift)
        np.testing.assert_allclose(moved.weights, found.weights, rtol=1e-10)
        np.testing.assert_allclose(moved.log_evidence - shift, found.log_evidence, rtol=1e-10)
        np.testing.assert_allclose(moved.log_evidence_error, found.log_evidence_error, rtol=1e-9)
        np.testing.assert_allclose(moved.pareto_k, found.pareto_k, rtol=1e-8)


def test_a_known_target():
    found = gamma_by_exponential()
    assert abs(found.log_evidence - np.log(2)) < 5 * found.log_evidence_error
    mean, error = found.expectation(lambda draw: draw["x"])
    assert abs(mean - 3) < 5 * error
    np.testing.assert_allclose(mean, found.mean()["x"])
    low, high = found.interval(0.8)
    np.testing.assert_allclose(
        [low["x"], high["x"]], stats.gamma(3).ppf([0.1, 0.9]), rtol=5 / np.sqrt(found.ess)
    )
    assert low["pair"].shape == (2,)
    table = found.summary()
    assert list(table) == ["pair[0]", "pair[1]", "x"]
    np.testing.assert_allclose(table["x"].mcse, error)
    np.testing.assert_allclose(table["x"].sd, found.sd()["x"])
    assert table["x"].ess_tail > 1000
    assert "pair[1]" in str(table)
    assert "log evidence" in repr(found)
    assert len(found.summary(["x"])) == 1


def test_errors_are_those_of_repetition():
    """The stated errors have the size of the spread over 2000 repetitions."""
    rate, num_draws, repeats = 0.5, 400, 2000
    x = np.random.default_rng(2).exponential(1 / rate, (repeats, num_draws))
    log_weights = 2 * np.log(x) - x - (np.log(rate) - rate * x)
    found = [WeightedDraws(a, b) for a, b in zip(x, log_weights, strict=True)]
    scores = [(f.log_evidence - np.log(2)) / f.log_evidence_error for f in found]
    # Squares of standard normal scores, but for terms of order 1/N.
    assert_mean(np.square(scores) - 1, 0.0, mcse=0.02, iid=True)
    means = [f.expectation(lambda x: x) for f in found[:400]]
    scores = np.array([(mean - 3) / error for mean, error in means])
    assert_mean(np.square(scores) - 1, 0.0, mcse=0.05, iid=True)
    # exp(log evidence) is unbiased, with no correction.
    assert_mean(np.exp([f.log_evidence for f in found]), 2.0, iid=True)


def test_nearly_equal_weights_keep_their_error():
    """As N / ESS - 1 it would be lost below 1e-8."""
    log_weights = 1e-10 * RNG.standard_normal(1000)
    found = WeightedDraws(np.zeros(1000), log_weights)
    expected = np.std(log_weights, ddof=1) / 1000**0.5
    np.testing.assert_allclose(found.log_evidence_error, expected, rtol=1e-4)


@pytest.mark.parametrize(("tail", "is_trusted"), [(0.2, True), (0.5, True), (1.2, False)])
def test_pareto_k_finds_the_tail(tail, is_trusted):
    weights = stats.genpareto(tail).rvs(20_000, random_state=3)
    found = WeightedDraws(np.arange(20_000.0), np.log(weights + 1e-3))
    assert abs(found.pareto_k - tail) < 0.15
    assert (found.findings == []) is is_trusted
    if not is_trusted:
        assert "k-hat = 1." in found.findings[0].message


def test_pareto_k_where_there_is_no_tail():
    assert WeightedDraws(np.zeros(100), np.zeros(100)).pareto_k == -np.inf
    assert WeightedDraws(np.zeros(100), np.full(100, 1e5) + 1e-12).pareto_k == -np.inf
    assert np.isnan(WeightedDraws(np.zeros(10), RNG.standard_normal(10)).pareto_k)
    mostly_zero = np.where(np.arange(1000) < 5, 0.0, -np.inf)
    found = WeightedDraws(np.zeros(1000), mostly_zero)
    assert found.pareto_k == np.inf
    assert found.findings
    some_zero = np.where(np.arange(1000) < 300, -np.inf, RNG.standard_normal(1000))
    assert WeightedDraws(np.zeros(1000), some_zero).pareto_k < 0.7


def test_smoothing_changes_the_tail_alone():
    weights = stats.genpareto(0.6).rvs(2000, random_state=4)
    found = WeightedDraws(np.arange(2000.0), np.log(weights) + 7.0)
    smooth = found.smoothed()
    changed = np.abs(smooth.log_weights - found.log_weights) > 1e-9
    assert changed.sum() <= 3 * 2000**0.5
    assert np.min(found.log_weights[changed]) > np.max(found.log_weights[~changed])
    assert smooth.log_evidence != found.log_evidence
    assert abs(smooth.log_evidence - found.log_evidence) < 1
    given = WeightedDraws(found.draws, found.log_weights, -3.0, 0.1).smoothed()
    assert (given.log_evidence, given.log_evidence_error) == (-3.0, 0.1)


def test_resampling_has_the_weights_as_shares():
    probabilities = np.array([0.1, 0.0, 0.6, 0.3])
    with np.errstate(divide="ignore"):
        found = WeightedDraws({"i": np.arange(4)}, np.log(probabilities))
    # One draw from each of many keys: independent.
    keys = jax.random.split(jax.random.key(0), 300)
    ends = [int(found.resample(key, 1)["i"][0]) for key in keys]
    assert_counts(np.bincount(ends, minlength=4), probabilities)
    equal = found.resample(jax.random.key(1))["i"]
    assert equal.shape == (4,)
    many = found.resample(jax.random.key(2), 1000)["i"]
    np.testing.assert_array_equal(np.bincount(many, minlength=4), [100, 0, 600, 300])
    assert np.any(np.diff(many) < 0), "copies are not side by side"


def test_evidence_given_from_outside_is_kept():
    found = WeightedDraws(np.zeros(3), np.zeros(3), log_evidence=-4.0, log_evidence_error=0.2)
    assert (found.log_evidence, found.log_evidence_error) == (-4.0, 0.2)
    assert np.isnan(WeightedDraws(np.zeros(3), np.zeros(3), log_evidence=-4.0).log_evidence_error)
    assert np.isnan(WeightedDraws(np.zeros(1), np.zeros(1)).log_evidence_error)


def test_a_file_holds_all(tmp_path):
    found = gamma_by_exponential(50)
    loaded = WeightedDraws.load(found.save(tmp_path / "draws.npz"))
    assert loaded.log_evidence == found.log_evidence
    assert loaded.log_evidence_error == found.log_evidence_error
    np.testing.assert_array_equal(loaded.log_weights, found.log_weights)
    np.testing.assert_array_equal(loaded.draws["pair"], found.draws["pair"])
    run = bl.Run(draws={"x": np.zeros((1, 3))})
    with pytest.raises(CheckpointError, match="expected weighted draws"):
        WeightedDraws.load(run.save(tmp_path / "run.npz"))


def test_pictures_and_arviz():
    pytest.importorskip("matplotlib")
    found = gamma_by_exponential(100)
    assert len(found.plot().axes) == 3
    assert len(found.plot(["x"]).axes) == 1
    pytest.importorskip("arviz")
    posterior = found.to_arviz(jax.random.key(0), 60)["posterior"]
    assert posterior["pair"].shape == (1, 60, 2)


def test_device_arrays_come_to_the_host():
    found = WeightedDraws({"x": jnp.zeros((3, 2), jnp.float32)}, jnp.zeros(3, jnp.float32))
    assert type(found.draws["x"]) is np.ndarray
    assert found.draws["x"].dtype == np.float32


def test_what_is_refused():
    x = np.zeros(3)
    cases = {
        "NaN in 1 of 3 draws .first: draw 1": (x, [0.0, np.nan, 0.0]),
        r"\+inf in 2 of 3 draws .first: draw 0": (x, [np.inf, 0.0, np.inf]),
        "-inf in all 3 draws": (x, [-np.inf] * 3),
        r"log_weights: got shape \(3, 1\)": (x, np.zeros((3, 1))),
        r"log_weights: got shape \(0,\)": (np.zeros(0), np.zeros(0)),
        r"draws, leaf b: got shape \(2,\)": ({"a": x, "b": np.zeros(2)}, x),
        "draws: got an empty tree": ({}, x),
        "log_weights: got dtype": (x, np.array(["a", "b", "c"])),
    }
    for message, (draws, log_weights) in cases.items():
        with pytest.raises(BayleafError, match=message):
            WeightedDraws(draws, np.asarray(log_weights))
    with pytest.raises(BayleafError, match="log_evidence: got None"):
        WeightedDraws(x, x, log_evidence_error=0.1)
    found = WeightedDraws(x, x)
    with pytest.raises(BayleafError, match="prob: got 1"):
        found.interval(1.0)
    with pytest.raises(BayleafError, match="probability: got 2"):
        found.quantile(2.0)
    with pytest.raises(BayleafError, match="num_draws: got 0"):
        found.resample(jax.random.key(0), 0)


def test_quantiles_skip_impossible_draws():
    values = np.array([-9.0, 1.0, 2.0, 99.0])
    weights = np.array([0.0, 0.5, 0.5, 0.0])
    assert weighting.quantile(weights, values, 0.0) == 1.0
    assert weighting.quantile(weights, values, 1.0) == 2.0
