"""Tempered sequential Monte Carlo: closed forms, its stated error, modes, kernels, bad input.

Evidence is compared with closed forms in units of the standard error that the run states. Over many
runs its square must be the variance of log Z: the whole distribution of the ratio is tested.
"""

import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import stats as jstats
from scipy import special, stats

import bayleaf as bl
from bayleaf.errors import BayleafError, NonFiniteLogDensityError, SamplingWarning
from bayleaf.montecarlo import stages, temperature, tempered
from bayleaf.montecarlo.genealogy import evidence_error
from tests.conftest import OPTIMISE_ALL
from tests.tools.compiling import compilations
from tests.tools.statistics import FALSE_ALARM, assert_mean

QUIET = {"progress": False}
SIZE = 1024  # one program for all that share a model and a kernel
next_temperature, log_ess = jax.jit(temperature.next_temperature), jax.jit(temperature.log_ess)
KEY = jax.random.key(0)
WIDTH = stats.norm.isf(FALSE_ALARM / 2)

y_normal = np.array([1.2, 0.7, 2.1, 1.5])
counts = np.array([3, 5, 2, 6, 4])
tosses, heads = 20, 13
rolls = np.array([4, 7, 2])
rng = np.random.default_rng(0)
design = rng.standard_normal((30, 4))
response = design @ np.array([1.0, -1.0, 0.5, 0.0]) + 0.5 * rng.standard_normal(30)


@pytest.fixture(autouse=True)
def quick_to_compile():
    """Slow tests too: their programs run for milliseconds."""
    jax.config.update("jax_disable_most_optimizations", not OPTIMISE_ALL)


class Conjugate(NamedTuple):
    """A model whose evidence and posterior mean are known."""

    target: bl.Target
    prior: object
    log_evidence: float
    mean: np.ndarray


class Beta:
    """A prior of one's own, as a user writes it."""

    def sample(self, key):
        return jax.random.beta(key, 2.0, 3.0)

    def log_prob(self, x):
        return jstats.beta.logpdf(x, 2.0, 3.0)


class Dirichlet:
    def sample(self, key):
        return jax.random.dirichlet(key, jnp.array([1.0, 2.0, 1.5]))

    def log_prob(self, x):
        return jstats.dirichlet.logpdf(x, jnp.array([1.0, 2.0, 1.5]))


def log_likelihood_normal(x, y):
    return jstats.norm.logpdf(y, x[0], 0.5)


def normal_normal(y=y_normal):
    prior = bl.Gaussian.from_scale(jnp.zeros(1), 2.0)
    covariance = 4 * np.ones((y.size, y.size)) + 0.25 * np.eye(y.size)
    evidence = stats.multivariate_normal(np.zeros(y.size), covariance).logpdf(y)
    mean = y.sum() / 0.25 / (y.size / 0.25 + 1 / 4)
    target = bl.Target.from_gaussian_prior(prior, log_likelihood_normal, data=jnp.asarray(y))
    return Conjugate(target, None, evidence, np.array([mean]))


def gamma_poisson():
    import numpyro
    import numpyro.distributions as dist

    a, b, n, total = 2.0, 0.5, counts.size, counts.sum()

    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(a, b))
        numpyro.sample("y", dist.Poisson(rate).expand([5]).to_event(1), obs=y)

    target = bl.Target.from_numpyro(model, jnp.asarray(counts))
    evidence = a * np.log(b) - special.gammaln(a) + special.gammaln(a + total)
    evidence -= (a + total) * np.log(b + n) + special.gammaln(counts + 1).sum()
    return Conjugate(target, None, evidence, np.array([(a + total) / (b + n)]))


def beta_binomial():
    def log_density(p):
        return jstats.binom.logpmf(heads, tosses, p) + jstats.beta.logpdf(p, 2.0, 3.0)

    target = bl.Target(log_density, init=0.5, constrain=bl.constraints.unit_interval)
    evidence = special.betaln(2 + heads, 3 + tosses - heads) - special.betaln(2, 3)
    evidence += np.log(special.comb(tosses, heads))
    return Conjugate(target, Beta(), evidence, np.array((2 + heads) / (5 + tosses)))


def linear_regression():
    prior = bl.Gaussian.from_scale(jnp.zeros(4), 1.0)

    def log_prior(beta):  # without its constant: the prior that is given has it
        return -0.5 * jnp.sum(beta**2)

    def log_likelihood(beta, data):
        X, y = data
        return jstats.norm.logpdf(y, X @ beta, 0.5)

    target = bl.Target.from_likelihood(
        log_prior, log_likelihood, (design, response), init=jnp.zeros(4)
    )
    covariance = design @ design.T + 0.25 * np.eye(30)
    evidence = stats.multivariate_normal(np.zeros(30), covariance).logpdf(response)
    mean = np.linalg.solve(design.T @ design + 0.25 * np.eye(4), design.T @ response)
    return Conjugate(target, prior, evidence, mean)


def dirichlet_multinomial():
    alpha = np.array([1.0, 2.0, 1.5])

    def log_density(params):
        p = params["p"]
        likelihood = jnp.sum(jnp.asarray(rolls) * jnp.log(p))
        return likelihood + jstats.dirichlet.logpdf(p, jnp.asarray(alpha))

    target = bl.Target(
        log_density, init={"p": np.ones(3) / 3}, constrain={"p": bl.constraints.simplex}
    )

    def log_beta(a):
        return special.gammaln(a).sum() - special.gammaln(a.sum())

    evidence = log_beta(alpha + rolls) - log_beta(alpha)
    return Conjugate(target, {"p": Dirichlet()}, evidence, (alpha + rolls) / (alpha + rolls).sum())


def by_chain(run):
    return jax.tree.map(lambda x: x.reshape(run.num_chains, -1, *x.shape[1:]), run.draws)


def assert_agrees(model, **settings):
    run = tempered(model.target, model.prior, key=KEY, num_particles=SIZE, **settings, **QUIET)
    gap = run.log_evidence - model.log_evidence
    assert abs(gap) < 3 * run.log_evidence_error, (gap, run.log_evidence_error)
    assert 0 < run.log_evidence_error < 0.3
    mean = jax.tree.leaves(run.mean())[0]
    _, error = run.expectation(lambda x: x)
    z = (mean - model.mean) / jax.tree.leaves(error)[0]
    assert np.max(np.abs(z)) < WIDTH, z
    assert run.temperatures[-1] == 1
    assert np.all(np.diff(run.temperatures) > 0)
    return run


RANDOM_WALK = bl.mcmc.MetropolisHastings(bl.mcmc.RandomWalk())
FIXED = bl.mcmc.MetropolisHastings(bl.mcmc.RandomWalk(scale=0.8))


@pytest.mark.slow
def test_the_evidence_of_a_normal_model(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a healthy run warns of nothing
        run = assert_agrees(normal_normal())
    assert run.findings == ()
    assert run.draws.shape == (SIZE, 1)
    assert "log evidence" in repr(run)
    assert run.summary()["x[0]"].mean == pytest.approx(run.draws.mean())
    again = type(run).load(run.save(tmp_path / "run.npz"))
    np.testing.assert_array_equal(again.draws, run.draws)
    assert again.log_evidence_error == run.log_evidence_error
    np.testing.assert_allclose(run.stages["ess"][:-1], SIZE / 2, rtol=0.01)


@pytest.mark.slow
def test_a_fixed_kernel_and_one_that_stands_still():
    assert_agrees(normal_normal(), kernel=FIXED)
    still = bl.mcmc.MetropolisHastings(bl.mcmc.RandomWalk(scale=1e9))
    with pytest.warns(SamplingWarning, match="kernel: MetropolisHastings moved in only 0 of its"):
        tempered(normal_normal().target, kernel=still, key=KEY, num_particles=SIZE, **QUIET)


# Each model by another kernel: so that few programs prove both.
PAIRS = {
    "gamma-Poisson of NumPyro, which brings its prior, NUTS": (gamma_poisson, bl.mcmc.NUTS()),
    "beta-binomial, slice": (beta_binomial, bl.mcmc.Slice()),
    "regression, default": (linear_regression, None),
    "Dirichlet-multinomial, random walk": (dirichlet_multinomial, RANDOM_WALK),
    "normal, elliptical": (normal_normal, bl.mcmc.EllipticalSlice()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_the_evidence_of_conjugate_models_by_any_kernel(name):
    model, kernel = PAIRS[name]
    assert_agrees(model(), kernel=kernel)


def test_a_second_run_compiles_nothing():
    settings = {"num_particles": SIZE, **QUIET}
    first = tempered(normal_normal().target, key=KEY, **settings)
    other = normal_normal(y_normal + 3)
    with compilations() as compiled:
        again = tempered(normal_normal().target, key=KEY, ess_share=0.5, **settings)
        tempered(other.target, key=jax.random.key(5), ess_share=0.7, **settings)
    assert compiled == []
    np.testing.assert_array_equal(again.draws, first.draws)
    assert again.log_evidence == first.log_evidence


def z_scores(model, num_runs):
    """(log Z hat - log Z) / stated error, of independent runs."""
    settings = {"num_particles": SIZE, **QUIET}
    runs = [
        tempered(model.target, model.prior, key=jax.random.key(100 + i), **settings)
        for i in range(num_runs)
    ]
    return np.array([(r.log_evidence - model.log_evidence) / r.log_evidence_error for r in runs])


def assert_honest(z):
    """The mean square of z is 1 within its own noise and the first-order error of the estimate."""
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], z.size) / z.size
    # The stated error is estimated from one run; its relative noise of about 15 % widens z by 5 %.
    assert 0.8 * low < np.mean(z**2) < 1.25 * high, (np.mean(z**2), low, high)


@pytest.mark.slow
def test_the_stated_error_is_that_of_many_runs():
    assert_honest(z_scores(normal_normal(), 200))


def test_an_error_that_forgets_a_stage_is_not_honest(monkeypatch):
    """Planted: the error of the first stage alone."""
    from bayleaf.montecarlo import population

    monkeypatch.setattr(
        population, "evidence_error", lambda g, parents: evidence_error(g[:1], parents[:1]) / 2
    )
    with pytest.raises(AssertionError):
        assert_honest(z_scores(normal_normal(), 40))


@pytest.mark.parametrize(
    "plant",
    ["no normalisation", "temperature twice", "weights of the ratio"],
)
def test_planted_bugs_in_the_evidence_are_caught(plant, monkeypatch):
    """log N forgotten; the increment counted twice; the weights of the wrong power."""
    model, original = normal_normal(), stages.advance
    size = np.log(SIZE)

    def wrong(path, tuner, population, *rest):
        new, stage = original(path, tuner, population, *rest)
        bugs = {
            "no normalisation": stage.log_increment + size,
            "temperature twice": 2 * stage.log_increment,
            "weights of the ratio": stage.log_increment * new.temperature,
        }
        return new, stage._replace(log_increment=bugs[plant])

    from bayleaf.montecarlo import tempered as room

    monkeypatch.setattr(sys_module(room), "advance", wrong)
    with pytest.raises(AssertionError):
        assert_agrees(model)


def sys_module(room):
    """The module, which has the name of the function in it."""
    import sys

    return sys.modules["bayleaf.montecarlo.tempered"] if callable(room) else room


class TestTemperature:
    """The next temperature, against its equation and closed forms."""

    log_ratio = jnp.asarray(np.random.default_rng(1).standard_normal(500) * 30)

    @pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
    def test_the_share_is_met_exactly(self, share):
        t = next_temperature(jnp.array(0.0), self.log_ratio, jnp.array(share))
        ess = np.exp(log_ess(t * self.log_ratio))
        np.testing.assert_allclose(ess, share * 500, rtol=1e-9)

    def test_two_values_in_closed_form(self):
        # Half of the weights are 1, half are w = exp(-delta): ESS / N = (1 + w)^2 / (2 + 2 w^2).
        log_ratio = jnp.asarray(np.repeat([0.0, -10.0], 50))
        t = next_temperature(jnp.array(0.0), log_ratio, jnp.array(0.8))
        w = (1 - np.sqrt(1 - (1 - 1.6) ** 2)) / 0.6
        np.testing.assert_allclose(t, -np.log(w) / 10, rtol=1e-9)

    def test_it_ends_at_exactly_one(self):
        assert next_temperature(jnp.array(0.9), self.log_ratio / 1e4, jnp.array(0.5)) == 1

    def test_impossible_particles_do_not_count(self):
        log_ratio = self.log_ratio.at[:400].set(-jnp.inf)
        t = next_temperature(jnp.array(0.0), log_ratio, jnp.array(0.5))
        alone = next_temperature(jnp.array(0.0), log_ratio[400:], jnp.array(0.5))
        np.testing.assert_allclose(t, alone, rtol=1e-9)

    def test_float32_with_huge_ratios(self):
        log_ratio = jnp.asarray(self.log_ratio * 1e30, jnp.float32)
        t = next_temperature(jnp.float32(0), log_ratio, jnp.float32(0.5))
        assert 0 < t < 1e-29
        ess = np.exp(log_ess(t * (log_ratio - jnp.max(log_ratio))))
        np.testing.assert_allclose(ess, 250, rtol=0.02)


class TestGenealogy:
    """The error from chains and their ancestors."""

    def test_one_stage_is_the_error_of_a_mean(self):
        g = np.random.default_rng(0).exponential(size=64)
        shares = np.log(g / g.mean())[None]
        expected = g.std(ddof=1) / np.sqrt(64) / g.mean()
        np.testing.assert_allclose(evidence_error(shares, np.arange(64)[None]), expected)

    def test_chains_that_never_mix_are_one_mean(self):
        """Every chain keeps its own line: the increments add up before they are squared."""
        rng = np.random.default_rng(0)
        level = 0.01 * rng.standard_normal(64)
        shares = np.log1p(level - level.mean())[None].repeat(3, 0)
        parents = np.arange(64)[None].repeat(3, 0)
        one = evidence_error(shares[:1], parents[:1])
        np.testing.assert_allclose(evidence_error(shares, parents), 3 * one, rtol=1e-6)
        np.testing.assert_allclose(
            evidence_error(shares, parents, lag=0), np.sqrt(3) * one, rtol=1e-6
        )


def two_modes(x):
    """0.3 N(-3, 0.3^2) + 0.7 N(3, 0.3^2) in two dimensions."""
    modes = [jnp.sum(jstats.norm.logpdf(x, m, 0.3)) + jnp.log(w) for m, w in ((-3, 0.3), (3, 0.7))]
    return jax.nn.logsumexp(jnp.stack(modes))


def bimodal():
    prior = bl.Gaussian.from_scale(jnp.zeros(2), 3.0)
    return Conjugate(bl.Target(two_modes), prior, 0.0, np.full(2, 0.4 * 3))


@functools.cache
def bimodal_runs():
    model = bimodal()
    return [
        tempered(model.target, model.prior, key=jax.random.key(i), num_particles=SIZE, **QUIET)
        for i in range(60)
    ]


@pytest.mark.slow
def test_both_modes_are_found_in_proportion():
    runs = bimodal_runs()
    shares = np.array([np.mean(run.draws[:, 0] > 0) for run in runs])
    assert_mean(shares, 0.7, iid=True)
    assert shares.std() < 0.1
    for sign, run in ((1, runs[0]), (-1, runs[0])):
        inside = run.draws[run.draws[:, 0] * sign > 0]
        assert abs(inside.mean() - 3 * sign) < 0.1
        assert abs(inside.std() - 0.3) < 0.05


@pytest.mark.slow
def test_the_error_knows_that_modes_do_not_mix():
    z = np.array([run.log_evidence / run.log_evidence_error for run in bimodal_runs()])
    assert_honest(z)


@pytest.mark.slow
def test_gibbs_moves_the_particles():
    def log_density(params):
        likelihood = jnp.sum(jstats.norm.logpdf(jnp.asarray(y_normal), params["a"] + params["b"]))
        return likelihood + jstats.norm.logpdf(params["a"]) + jstats.norm.logpdf(params["b"])

    import numpyro.distributions as dist

    target = bl.Target(log_density, init={"a": 0.0, "b": 0.0})
    prior = {"a": dist.Normal(0.0, 1.0), "b": dist.Normal(0.0, 1.0)}
    covariance = 2 * np.ones((4, 4)) + np.eye(4)
    evidence = stats.multivariate_normal(np.zeros(4), covariance).logpdf(y_normal)
    mean = np.array(y_normal.sum() / (4 + 1 / 2) / 2)
    kernel = bl.mcmc.Gibbs({"a": bl.mcmc.HMC(), "b": bl.mcmc.Slice()})
    model = Conjugate(target, prior, evidence, mean)
    assert_agrees(model, kernel=kernel)


@pytest.mark.slow
def test_float32():
    with jax.enable_x64(False):
        model = normal_normal(y_normal.astype(np.float32))
        run = tempered(model.target, key=jax.random.key(3), **QUIET)
    assert run.draws.dtype == np.float32
    assert abs(run.log_evidence - model.log_evidence) < 3 * run.log_evidence_error


class TestBadInput:
    """Each mistake is named, before any work."""

    def test_no_prior(self):
        with pytest.raises(BayleafError, match=r"prior: got None"):
            tempered(bl.Target(two_modes, init=jnp.zeros(2)), key=KEY)

    def test_a_prior_without_sample(self):
        class Improper:
            def log_prob(self, x):
                return 0.0

        with pytest.raises(BayleafError, match="Improper that has no sample"):
            tempered(bl.Target(two_modes), Improper(), key=KEY)

    def test_a_prior_of_another_structure(self):
        target = bl.Target(two_modes, init=jnp.zeros(2))
        for prior in ({"x": bl.Gaussian.from_scale(jnp.zeros(2), 1.0)}, normal_normal().target):
            with pytest.raises(BayleafError, match="prior"):
                tempered(target, prior, key=KEY)
        with pytest.raises(BayleafError, match=r"prior: got draws \{'x': \(3,\)\}"):
            tempered(target, bl.Gaussian.from_scale(jnp.zeros(3), 1.0), key=KEY)

    def test_a_prior_that_is_not_normalised(self):
        class Unnormalised:
            def sample(self, key):
                return jax.random.normal(key, (2,))

            def log_prob(self, x):
                return -0.5 * jnp.sum(x**2)

        with pytest.warns(SamplingWarning, match=r"prior: exp\(log_prob\) integrates to about 6"):
            tempered(bl.Target(two_modes), Unnormalised(), FIXED, key=KEY, **QUIET)

    def test_nan_and_zero_likelihoods(self):
        prior = bl.Gaussian.from_scale(jnp.zeros(2), 1.0)
        cases = [
            (lambda x: jnp.sum(jnp.log(x)), "log density nan at .* of 64 draws of the prior"),
            (lambda x: jnp.where(x[0] > 99, 0.0, -jnp.inf), "log density -inf at all of 64"),
        ]
        for function, message in cases:
            with pytest.raises(NonFiniteLogDensityError, match=message):
                tempered(bl.Target(function), prior, key=KEY, num_particles=64, **QUIET)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"num_particles": 8}, "num_particles: got 8, expected a whole number, at least 32"),
            ({"num_steps": 3}, "num_steps: got 3, expected a divisor of num_particles = 2048"),
            ({"num_warmup": -1}, "num_warmup: got -1"),
            ({"ess_share": 1.0}, "ess_share: got 1.0"),
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises(BayleafError, match=message):
            tempered(normal_normal().target, **({"key": KEY} | settings))

    def test_kernels_that_cannot_follow(self):
        target = normal_normal().target
        bound = bl.mcmc.HMC(step_size=0.1).bind(target)
        exact = bl.mcmc.Gibbs({"a": bl.mcmc.Conditional(lambda key, position: 0.0)})
        for kernel, message in (
            (bound, "a bound algorithm"),
            (exact, "a Gibbs kernel with a Conditional"),
            (bl.mcmc.SGLD(step_size=0.1), "SGLD"),
        ):
            with pytest.raises(BayleafError, match=message):
                tempered(target, kernel=kernel, key=KEY)

    @pytest.mark.filterwarnings("ignore:kernel.*worth less:bayleaf.errors.SamplingWarning")
    def test_a_prior_that_hardly_meets_the_target_is_named(self):
        prior = bl.Gaussian.from_scale(jnp.zeros(1), 1.0)
        target = bl.Target(lambda x: jnp.where(x[0] > 2.5, -x[0], -jnp.inf))
        with pytest.warns(SamplingWarning, match=r"prior: of 2048 particles .* were effective"):
            tempered(target, prior, FIXED, key=KEY, **QUIET)
