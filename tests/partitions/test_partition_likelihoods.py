"""Collapsed likelihoods against predictive laws, site by site, from SciPy; and the machine code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import gammaln

from bayleaf.errors import BayleafError
from bayleaf.linalg import NotPositiveDefiniteError
from bayleaf.partitions import Collapsed, DirichletMultinomial, NormalInverseWishart, NormalMean
from bayleaf.partitions.machine.collapsed_calls import written_down

RNG = np.random.default_rng(3)
DATA = RNG.normal(size=(7, 3)) @ np.array([[1.0, 0.5, 0.0], [0, 1.0, -0.4], [0, 0, 2.0]])
SCALE = np.array([[2.0, 0.3, 0.1], [0.3, 1.0, 0.0], [0.1, 0.0, 3.0]])
COUNTS = RNG.integers(0, 4, size=(7, 5))


def log_marginal(likelihood, rows):
    rows = np.asarray(rows)
    total = jnp.sum(likelihood.statistics[rows], axis=0)
    return float(likelihood.log_marginal(jnp.asarray(len(rows)), total))


def normal_predictive(y, variance, prior_variance, prior_mean):
    total = 0.0
    for channel in range(y.shape[1]):
        mean, spread, s2 = prior_mean[channel], prior_variance[channel], variance[channel]
        for value in y[:, channel]:
            total += stats.norm(mean, np.sqrt(spread + s2)).logpdf(value)
            gain = spread / (spread + s2)
            mean, spread = mean + gain * (value - mean), spread * (1 - gain)
    return total


def student_predictive(y, scale, degrees, mean, strength):
    total, d = 0.0, y.shape[1]
    for value in y:
        freedom = degrees - d + 1
        shape = scale * (strength + 1) / (strength * freedom)
        total += stats.multivariate_t(mean, shape, df=freedom).logpdf(value)
        gap = value - mean
        scale = scale + strength / (strength + 1) * np.outer(gap, gap)
        mean, strength, degrees = mean + gap / (strength + 1), strength + 1, degrees + 1
    return total


def urn_predictive(counts, concentration):
    total, urn = 0.0, np.array(concentration, float)
    for row in counts:
        for b, count in enumerate(row):
            for _ in range(count):
                total += np.log(urn[b] / urn.sum())
                urn[b] += 1
    return total


def normal_mean(y):
    return NormalMean(
        y, variance=[1.0, 0.5, 2.0], prior_variance=[4.0, 1.0, 9.0], prior_mean=[0.3, 0.0, -1.0]
    )


def wishart(y):
    return NormalInverseWishart(
        y, scale=SCALE, degrees=4.5, mean=[0.3, 0.0, -1.0], mean_strength=0.6
    )


@pytest.mark.parametrize("rows", [[2], [0, 3], range(7)])
def test_each_is_the_product_of_its_predictive_laws(rows):
    y, mean = DATA[list(rows)], np.array([0.3, 0.0, -1.0])
    assert log_marginal(normal_mean(DATA), rows) == pytest.approx(
        normal_predictive(y, [1.0, 0.5, 2.0], [4.0, 1.0, 9.0], mean), abs=1e-11
    )
    assert log_marginal(wishart(DATA), rows) == pytest.approx(
        student_predictive(y, SCALE, 4.5, mean, 0.6), abs=1e-11
    )
    histogram = DirichletMultinomial(COUNTS, concentration=[0.5, 1.0, 2.0, 0.1, 1.0])
    assert log_marginal(histogram, rows) == pytest.approx(
        urn_predictive(COUNTS[list(rows)], [0.5, 1.0, 2.0, 0.1, 1.0]), abs=1e-11
    )


def test_one_channel_needs_no_axis_and_numbers_stand_for_all_channels():
    flat = NormalMean(DATA[:, 0], variance=1.0, prior_variance=2.0)
    column = NormalMean(DATA[:, :1], variance=[1.0], prior_variance=[2.0], prior_mean=[0.0])
    assert log_marginal(flat, range(7)) == log_marginal(column, range(7))
    number = NormalInverseWishart(DATA, scale=2.0)
    matrix = NormalInverseWishart(
        DATA, scale=2 * np.eye(3), degrees=5, mean=DATA.mean(axis=0), mean_strength=0.01
    )
    assert log_marginal(number, range(7)) == pytest.approx(log_marginal(matrix, range(7)))


@pytest.mark.parametrize("make", [NormalMean, NormalInverseWishart])
@pytest.mark.parametrize(("dtype", "far", "tolerance"), [("f4", 1e3, 2e-3), ("f8", 1e6, 1e-8)])
def test_data_far_from_zero_keep_their_digits(make, dtype, far, tolerance):
    y = np.round(DATA * 64) / 64  # so that adding `far` loses nothing
    options = {"prior_mean": far} if make is NormalMean else {"mean": far}
    own = {"variance": 1.0, "prior_variance": 4.0} if make is NormalMean else {"scale": 1.0}
    near = make(y.astype(dtype), **own)
    moved = make((y + far).astype(dtype), **own, **options)
    if make is NormalInverseWishart:
        near = make(y.astype(dtype), mean=0.0, **own)
    assert moved.statistics.dtype == dtype
    gap = log_marginal(moved, range(7)) - log_marginal(near, range(7))
    assert abs(gap) < tolerance

    # What the test is for: the same formula on sums of squares that are not centred.
    y32 = (y + far).astype(dtype)
    mean = y32.mean(axis=0)
    naive = (y32**2).sum(axis=0) - 7 * mean**2
    right = ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    assert np.abs(naive - right).max() > 10 * tolerance


LIKELIHOODS = {
    "normal": normal_mean(DATA),
    "Wishart": wishart(DATA),
    "histogram": DirichletMultinomial(COUNTS, concentration=0.7),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_machine_code_has_the_same_formulas(name):
    pytest.importorskip("numba")
    from bayleaf.partitions.machine import marginals

    likelihood = LIKELIHOODS[name]
    kind, dim, numbers = written_down(likelihood, jnp.float64)
    numbers, statistics = np.asarray(numbers), np.asarray(likelihood.statistics)
    room, by_size = np.empty((dim, dim)), np.full(8, np.nan)
    first, second = statistics[:2].sum(axis=0), statistics[2:].sum(axis=0)
    both = np.empty_like(first)
    for _ in range(2):  # the second time from by_size
        own = marginals.log_marginal(kind, numbers, dim, 2, first, room, by_size)
        assert own == pytest.approx(log_marginal(likelihood, range(2)), abs=1e-11)
    joined = marginals.log_joined(
        kind, numbers, dim, 2, first[None], 0, own, 5, second, room, both, by_size
    )
    assert joined == pytest.approx(log_marginal(likelihood, range(7)), abs=1e-11)


def test_gradients_and_vmap():
    def loss(scale):
        likelihood = NormalInverseWishart(DATA, scale=scale)
        sizes = jnp.array([1, 2])
        totals = jnp.stack([likelihood.statistics[0], likelihood.statistics[1:3].sum(axis=0)])
        return jnp.sum(jax.vmap(likelihood.log_marginal)(sizes, totals))

    slope = jax.jit(jax.grad(loss))(1.5)
    assert slope == pytest.approx(float(loss(1.5 + 1e-6) - loss(1.5 - 1e-6)) / 2e-6, rel=1e-6)


def test_a_likelihood_of_the_user():
    counts = np.array([0.0, 1.0, 7.0, 5.0])

    def poisson_gamma(size, total):
        return gammaln_jax(2 + total[0]) - (2 + total[0]) * jnp.log(1.0 + size)

    gammaln_jax = jax.scipy.special.gammaln
    likelihood = Collapsed(counts, poisson_gamma)
    expected = gammaln(2 + 13) - 15 * np.log(5)
    assert log_marginal(likelihood, range(4)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NormalMean([1.0, np.nan, np.inf], variance=1.0, prior_variance=1.0), r"data\[1\]"),
        (lambda: NormalMean(np.zeros((2, 2, 2)), variance=1.0, prior_variance=1.0), "data: got sh"),
        (lambda: NormalMean([], variance=1.0, prior_variance=1.0), "data"),
        (lambda: NormalMean(["a"], variance=1.0, prior_variance=1.0), "data: .*real numbers"),
        (lambda: NormalMean([1.0], variance=0.0, prior_variance=1.0), "variance: .*positive"),
        (lambda: NormalMean([1.0], variance=1.0, prior_variance=-1.0), "prior_variance"),
        (lambda: NormalMean(DATA, variance=[1.0, 2.0], prior_variance=1.0), "of 3 channels"),
        (lambda: NormalInverseWishart(DATA, scale=1.0, degrees=2.0), "degrees: .*more than 2"),
        (lambda: NormalInverseWishart(DATA, scale=1.0, mean_strength=0.0), "mean_strength"),
        (lambda: NormalInverseWishart(DATA, scale=np.eye(2)), r"scale: got shape \(2, 2\)"),
        (lambda: DirichletMultinomial(-COUNTS), r"counts\[\d\]: got a negative"),
        (lambda: DirichletMultinomial(COUNTS, concentration=0.0), "concentration"),
        (lambda: Collapsed(COUNTS, 3.0), "log_marginal: got 3.0, expected a function"),
        (lambda: Collapsed(COUNTS, lambda m, t: t), "log_marginal: got a result of shape"),
        (lambda: Collapsed(COUNTS, lambda m, t: jnp.log(3.0 - m)), "nan for 7 site"),
    ],
)
def test_bad_input_is_refused_by_name(make, words):
    with pytest.raises(BayleafError, match=words):
        make()


def test_a_scale_that_is_not_positive_definite_is_refused():
    with pytest.raises(NotPositiveDefiniteError, match="scale"):
        NormalInverseWishart(DATA, scale=np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]]))
