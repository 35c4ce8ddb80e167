"""Adaptive rejection: the right law for every log-concave density, and the others are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayleaf.errors import BayleafError, NotLogConcaveError
from bayleaf.logconcave import hull, sampler
from bayleaf.logconcave.hull import SecantHull, TangentHull
from bayleaf.montecarlo import adaptive_rejection
from tests.conftest import OPTIMISE_ALL
from tests.logconcave import family
from tests.tools.compiling import compilations
from tests.tools.statistics import FALSE_ALARM, assert_cdf

NUM_DRAWS = 20_000
SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_to_compile():
    """Slow tests too: it is the compiler that makes them slow."""
    jax.config.update("jax_disable_most_optimizations", not OPTIMISE_ALL)


def sample(names, method=None, dtype=np.float64, num_draws=NUM_DRAWS, key=0, **options):
    args, support = family.arrays(names, dtype)
    return adaptive_rejection(
        family.log_density,
        key=jax.random.key(key),
        num_draws=num_draws,
        support=support,
        args=args,
        hull=method,
        **options,
    )


def p_values(draws, names):
    exact = [family.CASES[name].exact for name in names]
    return np.array(
        [
            stats.kstest(column.astype(np.float64), law.cdf).pvalue
            for column, law in zip(draws.T, exact, strict=True)
        ]
    )


@pytest.fixture(scope="module")
def everything():
    return sample(list(family.CASES))


def test_every_law_is_exact(everything):
    """Kolmogorov-Smirnov, 1e-6 for all cases together."""
    names = list(family.CASES)
    values = p_values(everything.draws, names)
    worst = int(np.argmin(values))
    assert values[worst] > FALSE_ALARM / len(names), (names[worst], values[worst])
    # A fixed seed, and the goal is 1e-3 for each: five of a thousand seeds would miss it.
    assert np.sum(values < 0.05) <= 7  # Binomial(31, 0.05): 2e-4
    assert everything.draws.shape == (NUM_DRAWS, len(names))
    assert everything.acceptance_rate > 0.9
    assert everything.num_evaluations < 0.2 * everything.draws.size


def test_draws_are_independent(everything):
    """The lag-one correlation of ranks is normal with variance 1/n."""
    ranks = stats.rankdata(everything.draws, axis=0) / NUM_DRAWS - 0.5
    lag = 12 * np.mean(ranks[1:] * ranks[:-1], axis=0) * np.sqrt(NUM_DRAWS)
    assert np.abs(lag).max() < stats.norm.isf(FALSE_ALARM / 2 / lag.size)


@SLOW
@pytest.mark.parametrize(
    ("method", "dtype"),
    [(TangentHull(), np.float32), (SecantHull(), np.float64)],
)
def test_every_law_at_1e5_draws_with_both_hulls_and_in_both_precisions(method, dtype):
    names = list(family.CASES)
    if dtype == np.float32:
        names = [name for name in names if name not in family.TOO_FINE_FOR_FLOAT32]
    found = sample(names, method, dtype, num_draws=100_000, key=1)
    assert found.draws.dtype == dtype
    values = p_values(found.draws, names)
    worst = int(np.argmin(values))
    assert values[worst] > FALSE_ALARM / len(names), (names[worst], values[worst])


def gamma(x):
    return 1.5 * jnp.log(x) - x


def gammas(x, power):
    return power * jnp.log(x) - x


ONE = {"key": jax.random.key(3), "num_draws": 4000, "support": (0, np.inf)}


@functools.cache
def one_run():
    return adaptive_rejection(gamma, **ONE)


@SLOW
def test_one_target_has_the_draws_of_the_batch_of_one():
    one = one_run()
    many = adaptive_rejection(gammas, args=np.array([1.5]), **ONE)
    assert one.draws.shape == (4000,)
    assert many.draws.shape == (4000, 1)
    np.testing.assert_allclose(one.draws, many.draws[:, 0], rtol=1e-12)
    again = adaptive_rejection(gamma, **ONE)
    np.testing.assert_array_equal(one.draws, again.draws)
    assert adaptive_rejection(gamma, **{**ONE, "num_draws": 1}).draws.shape == (1,)


@SLOW
def test_the_result_has_what_a_run_has():
    one = one_run()
    row = one.summary()["x"]
    assert abs(row.mean - 2.5) < 5 * row.mcse
    levels = stats.gamma(2.5).cdf(one.interval(0.9))
    np.testing.assert_allclose(levels, [0.05, 0.95], atol=5 * np.sqrt(0.05 * 0.95 / 4000))
    assert one.num_draws == 4000
    assert "4000 draws of x" in repr(one)
    assert sampler.AUDIT > 1


def test_a_second_call_compiles_nothing(everything):
    names = list(family.CASES)
    with compilations() as compiled:
        other = sample(names, key=5, num_draws=NUM_DRAWS - 5000)
    assert compiled == []
    assert not np.any(other.draws[:5] == everything.draws[:5])


def narrow(x):
    """Positive between 1e5 and 1e5 + 1 only."""
    return jnp.where((x > 1e5) & (x < 1e5 + 1), 0 * x, -jnp.inf)


CONCAVE, IMPROPER = "not log-concave", "cannot be normalised"
UNUSABLE = {
    "two modes": (lambda x: two_modes(x, 10.0), -np.inf, CONCAVE),
    "two modes that look like one": (lambda x: two_modes(x, 1.1), -np.inf, CONCAVE),
    "a small mode far away": (
        lambda x: jnp.logaddexp(-0.5 * x**2, -0.5 * (x - 20) ** 2 - 7),
        -np.inf,
        CONCAVE,
    ),
    "a spike": (
        lambda x: jnp.logaddexp(-0.5 * x**2, -50 * (x - 1) ** 2 - 1),
        -np.inf,
        CONCAVE,
    ),
    "Student's t, 3": (lambda x: -2 * jnp.log1p(x * x / 3), -np.inf, CONCAVE),
    "Student's t, 30": (lambda x: -15.5 * jnp.log1p(x * x / 30), -np.inf, CONCAVE),
    "Cauchy": (lambda x: -jnp.log1p(x * x), -np.inf, CONCAVE),
    "Gamma(1/2)": (lambda x: -0.5 * jnp.log(x) - x, 0, CONCAVE),
    "Gamma(0.99)": (lambda x: -0.01 * jnp.log(x) - x, 0, CONCAVE),
    "log-normal": (lambda x: -jnp.log(x) - 0.5 * jnp.log(x) ** 2, 0, CONCAVE),
    "Pareto": (lambda x: -3 * jnp.log1p(x), 0, CONCAVE),
    "a wave": (lambda x: -0.5 * x * x + 0.3 * jnp.sin(8 * x), -np.inf, CONCAVE),
    "exp(x^2)": (lambda x: x * x, -np.inf, CONCAVE),
    "flat": (lambda x: 0 * x, -np.inf, IMPROPER),
    "exp(x)": (lambda x: x, 0, IMPROPER),
    "exp(-x)": (lambda x: -x, -np.inf, IMPROPER),
    "NaN": (lambda x: x * jnp.nan, -np.inf, "NaN at x = "),
    "NaN on a side": (
        lambda x: jnp.where(x > 2, jnp.nan, -0.5 * x * x),
        -np.inf,
        "NaN at x = 30",
    ),
    "log of a negative number": (lambda x: 1.5 * jnp.log(x) - x, -np.inf, "NaN at x = -1000"),
    "zero wherever the grid looks": (narrow, -np.inf, "minus infinity wherever"),
    "nowhere positive": (lambda x: 0 * x - jnp.inf, -np.inf, "minus infinity wherever"),
    "infinite": (lambda x: 0 * x + jnp.inf, -np.inf, "plus infinity at x"),
}


def two_modes(x, at):
    return jnp.logaddexp(-0.5 * (x - at) ** 2, -0.5 * (x + at) ** 2)


def unusable(x, which):
    return jax.lax.switch(which, [case[0] for case in UNUSABLE.values()], x)


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("method", [TangentHull(), pytest.param(SecantHull(), marks=SLOW)])
def test_densities_that_cannot_be_drawn_from_are_refused_by_name(name, method):
    _, low, said = UNUSABLE[name]
    kind = NotLogConcaveError if said == CONCAVE else BayleafError
    with pytest.raises(kind, match=said) as caught:
        adaptive_rejection(
            unusable,
            key=jax.random.key(0),
            num_draws=200,  # without slopes a spike may hide between the knots of 3 draws
            support=(low, np.inf),
            args=np.array([list(UNUSABLE).index(name)]),
            hull=method,
        )
    assert "target 0" in str(caught.value)
    if said == CONCAVE:
        assert "adaptive_rejection_metropolis" in str(caught.value)


@SLOW
def test_a_dent_that_no_knot_has_seen_is_found_by_the_draws():
    """Convex between 0.30 and 0.35 only, in an otherwise normal density."""

    def dented(x):
        inside = (x > 0.301) & (x < 0.349)
        return -0.5 * x * x - jnp.where(inside, 1.0, 0.0)

    with pytest.raises(NotLogConcaveError, match=r"bends upwards at x = 0\.3"):
        adaptive_rejection(dented, key=jax.random.key(0), num_draws=200_000)


def normal(x):
    return -0.5 * x**2


GOOD = {"key": jax.random.key(0), "num_draws": 10}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"support": (1, 1)}, r"support: got \(1, 1\), which is empty"),
        ({"support": (2, 1)}, r"support: got \(2, 1\), which is empty"),
        ({"support": (0, np.nan)}, "support: got NaN"),
        ({"support": 3}, "support: got 3, expected two ends"),
        ({"support": ("a", "b")}, "support: got"),
        ({"support": (np.zeros(3), 1)}, "an end of shape"),
        ({"num_draws": 0}, "num_draws: got 0, expected a whole number"),
        ({"num_draws": 2.5}, "num_draws: got 2.5"),
        ({"num_draws": True}, "num_draws: got True"),
        ({"key": 0}, "key: got 0, expected one typed key"),
        ({"key": jax.random.split(jax.random.key(0))}, "key: got"),
        ({"init": -1.0, "support": (0, 1)}, r"init: got -1, expected points strictly inside"),
        ({"init": [0.0, np.nan]}, "init: got nan"),
        ({"init": np.zeros((2, 3))}, "init: got 2 rows, expected 1"),
        ({"init": []}, "init: got shape"),
        ({"args": 1.0}, r"args: got shapes \[\(\)\], expected arrays with a common"),
        ({"args": (np.ones(2), np.ones(3))}, "args: got shapes"),
        ({"args": np.ones((0, 2))}, "args: got shapes"),
        ({"args": ["a"]}, "args, leaf"),
    ],
)
def test_unusable_arguments_are_refused_by_name(options, match):
    with pytest.raises(BayleafError, match=match):
        adaptive_rejection(normal, **{**GOOD, **options})


def test_what_is_no_function_is_refused():
    with pytest.raises(BayleafError, match="log_density: got 3, expected a function"):
        adaptive_rejection(3, **GOOD)


@SLOW
def test_init_is_where_the_search_begins():
    """Where the grid misses the density, which is refused without it (among `UNUSABLE`)."""
    draws = adaptive_rejection(narrow, init=[1e5 + 0.2], **{**GOOD, "num_draws": 5000}).draws
    assert_cdf(draws, stats.uniform(1e5, 1).cdf, iid=True)


@SLOW
def test_any_pytree_of_arguments_and_a_support_for_each_target():
    def gamma(x, args):
        shape, rest = args
        return jnp.sum(jnp.stack([shape - 1, *rest["more"]])) * jnp.log(x) - rest["rate"] * x

    shapes, rates = np.array([2.0, 3.0]), np.array([1.0, 10.0])
    args = (shapes, {"more": (np.array([0.5, 0.0]),), "rate": rates})
    found = adaptive_rejection(
        gamma, args=args, support=(0, np.array([np.inf, 0.3])), key=jax.random.key(0),
        num_draws=5000,
    )  # fmt: skip
    assert_cdf(found.draws[:, 0], stats.gamma(2.5).cdf, iid=True)
    whole = stats.gamma(3, scale=0.1)
    assert_cdf(found.draws[:, 1], lambda x: whole.cdf(x) / whole.cdf(0.3), iid=True)


FEW = ["Gamma(2.5)", "normal", "normal beyond 4"]


@pytest.fixture
def fresh():
    """Planted bugs are compiled in, and must not stay. They come last: all else is forgotten."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def wrong_masses(knots, rate, width, gap, right=hull._pieces):
    """The division by the rate is forgotten: narrow pieces weigh as much as wide ones."""
    found = right(knots, rate, width, gap)
    mass = found.log_mass - jnp.log(jnp.abs(found.step))
    return found._replace(log_mass=mass, log_total=jax.scipy.special.logsumexp(mass))


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_wrong_masses_are_caught(monkeypatch):
    monkeypatch.setattr(hull, "_pieces", wrong_masses)
    assert np.any(p_values(sample(FEW).draws, FEW) < FALSE_ALARM / len(FEW))


def everything_is_squeezed(knots, rate, width, gap, right=hull._pieces):
    """The squeeze accepts what only the density could judge."""
    return right(knots, rate, width, 0 * gap)


@SLOW
@pytest.mark.usefixtures("fresh")
def test_a_squeeze_above_the_density_is_caught(monkeypatch):
    monkeypatch.setattr(hull, "_pieces", everything_is_squeezed)
    with pytest.raises(NotLogConcaveError):  # by the share of draws that is evaluated all the same
        sample(FEW)


@SLOW
@pytest.mark.usefixtures("fresh")
def test_a_support_that_is_forgotten_is_caught(monkeypatch):
    build = hull.build

    def endless(method, knots):
        return build(method, knots._replace(low=jnp.full_like(knots.low, -jnp.inf)))

    monkeypatch.setattr("bayleaf.logconcave.fit.build", endless)
    draws = sample(["normal on (-1, 8)"]).draws[:, 0]
    with pytest.raises(AssertionError):
        assert_cdf(draws, stats.truncnorm(-1, 8).cdf, iid=True)
