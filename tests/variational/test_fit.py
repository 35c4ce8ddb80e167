"""`fit`: exact answers, every kind of target and guide, resume, compile counts, loud failures."""

import functools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.stats import expon, norm

import bayleaf as bl
from bayleaf.errors import BayleafError, CheckpointError, NonFiniteLogDensityError, SamplingWarning
from bayleaf.run import progress
from bayleaf.variational import Fit, FullRank, LowRank, MeanField, ascent, fit, fitting
from bayleaf.variational.convergence import findings
from tests.conftest import OPTIMISE_ALL
from tests.tools.compiling import compilations
from tests.tools.statistics import assert_mean
from tests.variational.test_elbo import linear, posterior, scale

QUIET = {"progress": False}
TRACES = []


@pytest.fixture(autouse=True)
def quick_to_compile():
    """Slow tests too: it is the compiler that makes them slow."""
    jax.config.update("jax_disable_most_optimizations", not OPTIMISE_ALL)


def correlated(x, data):
    """A Gaussian with mean and precision from the data, and log evidence 1.5."""
    TRACES.append(1)
    z = data["root"].T @ (x - data["mean"])
    log_det = jnp.sum(jnp.log(jnp.diagonal(data["root"])))
    return 1.5 - 0.5 * jnp.sum(z**2) + log_det - 0.5 * x.size * jnp.log(2 * jnp.pi)


def gaussian_target(mean, covariance, dtype=np.float64):
    root = np.linalg.cholesky(np.linalg.inv(covariance)).astype(dtype)
    data = {"mean": np.asarray(mean, dtype), "root": root}
    return bl.Target(correlated, init=np.zeros(len(mean), dtype), data=data)


MEAN = np.array([100.0, -2.0, 0.03])
SCALES = np.array([30.0, 1.0, 0.01])
COVARIANCE = SCALES[:, None] * SCALES * np.array([[1, 0.9, 0.3], [0.9, 1, 0.0], [0.3, 0.0, 1]])


def assert_equal(one, other):
    jax.tree.map(
        np.testing.assert_array_equal,
        eqx.filter(one, eqx.is_array),
        eqx.filter(other, eqx.is_array),
    )


@pytest.fixture(scope="module")
def first():
    return fit(gaussian_target(MEAN, COVARIANCE), FullRank, key=jax.random.key(0), **QUIET)


def test_full_rank_recovers_a_gaussian_and_its_evidence(first):
    """Scales from 0.01 to 30: no step size in the parameters' own units would do."""
    gaussian = first.guide.to_gaussian()
    np.testing.assert_allclose((gaussian.mean - MEAN) / SCALES, 0.0, atol=1e-8)
    relative = gaussian.covariance / (SCALES[:, None] * SCALES)
    np.testing.assert_allclose(relative, COVARIANCE / (SCALES[:, None] * SCALES), atol=1e-8)
    np.testing.assert_allclose([first.elbo, *first.history[-50:]], 1.5, atol=1e-8)
    assert np.all(first.history[:20] < 1.5 - 1e-3)  # it is the ELBO and not minus it
    assert first.elbo_error < 1e-8
    assert first.pareto_k == -np.inf
    assert list(first.findings) == []


@pytest.mark.slow
def test_low_rank_recovers_low_rank_plus_diagonal():
    rng = np.random.default_rng(0)
    u = rng.normal(size=(8, 2)) * np.array([3.0, 1.0])
    covariance = u @ u.T + np.diag(rng.uniform(0.2, 2.0, 8))
    target = gaussian_target(np.arange(8.0), covariance)
    fitted = fit(target, functools.partial(LowRank, rank=2), key=jax.random.key(1), **QUIET)
    sd = np.sqrt(np.diagonal(covariance))
    got = np.asarray(fitted.guide.to_gaussian().covariance)
    np.testing.assert_allclose((got - covariance) / (sd[:, None] * sd), 0.0, atol=1e-4)
    np.testing.assert_allclose((fitted.guide.loc - np.arange(8.0)) / sd, 0.0, atol=1e-4)
    np.testing.assert_allclose(fitted.elbo, 1.5, atol=1e-5)


@pytest.mark.slow
def test_mean_field_has_the_known_optimum():
    """Means are exact; variances are the inverse of the precision's diagonal; the gap is known."""
    covariance = np.array([[1.0, 0.8], [0.8, 1.0]])
    target = gaussian_target([1.0, 2.0], covariance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        fitted = fit(
            target,
            MeanField,
            key=jax.random.key(0),
            num_check_draws=4000,
            **QUIET,
        )
    exact = 1 / np.diagonal(np.linalg.inv(covariance))
    np.testing.assert_allclose(fitted.guide.variance(), exact, rtol=0.05)
    np.testing.assert_allclose(fitted.guide.loc, [1.0, 2.0], atol=0.05)
    gap = 0.5 * (np.linalg.slogdet(covariance)[1] - np.sum(np.log(exact)))
    assert_mean(fitted.log_weights, 1.5 - gap, iid=True, mcse=2e-3)


@pytest.mark.parametrize("objective", ["joint", pytest.param("kl", marks=pytest.mark.slow)])
def test_the_elbo_at_the_optimum_is_the_log_evidence(objective):
    mean, covariance, log_evidence = posterior()
    fitted = fit(linear(), FullRank, key=jax.random.key(0), objective=objective, **QUIET)
    # With the exact divergence gradients keep their noise, and the average has what is left of it.
    tolerance = 1e-4 if objective == "joint" else 0.05
    sd = np.sqrt(np.diagonal(covariance))
    np.testing.assert_allclose((fitted.guide.loc - mean) / sd, 0.0, atol=tolerance)
    np.testing.assert_allclose(np.sqrt(fitted.guide.variance()) / sd, 1.0, atol=tolerance)
    assert fitted.elbo <= log_evidence + 5 * fitted.elbo_error + 1e-9
    np.testing.assert_allclose(fitted.elbo, log_evidence, atol=tolerance)


@pytest.mark.slow
def test_a_constrained_target_has_its_jacobian_and_draws_in_its_own_space():
    """The rate of an exponential with a Gamma prior: evidence and moments in closed form."""
    from scipy import special

    y = np.random.default_rng(0).exponential(0.5, 30)
    a, b = 2.0, 1.0

    def log_density(p, data):
        log_prior = a * jnp.log(b) - special.gammaln(a) + (a - 1) * jnp.log(p["rate"])
        return log_prior - b * p["rate"] + jnp.sum(jnp.log(p["rate"]) - p["rate"] * data)

    target = bl.Target(
        log_density, init={"rate": 1.0}, constrain={"rate": bl.constraints.positive}, data=y
    )
    n, total = y.size, b + y.sum()
    log_evidence = a * np.log(b) - special.gammaln(a) + special.gammaln(a + n)
    log_evidence -= (a + n) * np.log(total)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)  # k-hat of a log-normal against a Gamma
        fitted = fit(target, FullRank, key=jax.random.key(0), **QUIET)
    # A normal log rate is not quite that of a Gamma(32): KL is about 1 / (12 * 32).
    assert log_evidence - 0.01 < fitted.elbo < log_evidence + 5 * fitted.elbo_error
    draws = fitted.sample(4000, key=jax.random.key(1))["rate"]
    assert draws.min() > 0
    np.testing.assert_allclose(draws.mean(), (a + n) / total, rtol=0.02)
    weighted = fitted.importance(4000, key=jax.random.key(2))
    assert abs(weighted.log_evidence - log_evidence) < 5 * weighted.log_evidence_error + 1e-3


class Flow(eqx.Module):
    """A normal pushed through x + slope tanh(x): a guide that is none of ours."""

    shift: jax.Array
    log_scale: jax.Array
    slope: jax.Array

    def sample(self, key):
        e = jax.random.normal(key)
        return {"x": self.shift + jnp.exp(self.log_scale) * e + self.slope**2 * jnp.tanh(e)}

    def log_prob(self, position):
        def outwards(e):
            return self.shift + jnp.exp(self.log_scale) * e + self.slope**2 * jnp.tanh(e)

        def newton(e, _):
            return e - (outwards(e) - position["x"]) / jax.grad(outwards)(e), None

        e, _ = jax.lax.scan(newton, jnp.zeros(()), length=20)
        return norm.logpdf(e) - jnp.log(jax.grad(outwards)(e))


@pytest.mark.slow
def test_any_module_with_sample_and_log_prob_is_a_guide():
    target = bl.Target(lambda p: norm.logpdf(p["x"], 2.0, 1.5), init={"x": 0.0})
    guide = Flow(jnp.zeros(()), jnp.zeros(()), jnp.array(0.5))
    fitted = fit(
        target,
        guide,
        key=jax.random.key(0),
        optimizer=optax.adam(2e-2),
        num_steps=600,
        **QUIET,
    )
    assert isinstance(fitted.guide, Flow)
    assert_mean(fitted.log_weights, 0.0, iid=True, mcse=0.01)
    assert fitted.pareto_k == -np.inf  # no weight stands out


def test_a_bare_function_with_a_guide_needs_no_init():
    fitted = fit(
        lambda x: -0.5 * jnp.sum((x - 3) ** 2),
        MeanField(jnp.zeros(2)),
        key=jax.random.key(0),
        num_steps=300,
        **QUIET,
    )
    np.testing.assert_allclose(fitted.guide.loc, 3.0, atol=0.01)


def normal_prior(p):
    return norm.logpdf(p["w"]).sum()


def normal_likelihood(p, batch):
    x, y = batch
    return norm.logpdf(y, x @ p["w"], 1.0)


@pytest.mark.slow
def test_batches_are_unbiased_and_find_the_posterior_of_all_data():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 2)), rng.normal(size=200)
    target = bl.Target.from_likelihood(
        normal_prior, normal_likelihood, (x, y), init={"w": np.zeros(2)}
    )
    precision = np.eye(2) + x.T @ x
    covariance = np.linalg.inv(precision)
    sd = np.sqrt(np.diagonal(covariance))
    fitted = fit(target, FullRank, key=jax.random.key(0), batch_size=50, num_steps=2000, **QUIET)
    np.testing.assert_allclose((fitted.guide.loc - covariance @ x.T @ y) / sd, 0.0, atol=0.15)
    np.testing.assert_allclose(np.sqrt(fitted.guide.variance()) / sd, 1.0, atol=0.1)
    # With the guide held where it is, batches estimate the ELBO of all data.
    program = fitting.Program(target, optax.sgd(0.0), "joint", 1, 20, True)
    keys = jax.random.split(jax.random.key(1), 4000)
    terms = jax.vmap(lambda key: program.terms(fitted.guide, key)[0])(keys)
    assert_mean(terms, fitted.elbo, mcse=fitted.elbo_error, iid=True)


@pytest.mark.slow
def test_single_precision_stays_single_and_is_as_right():
    target = gaussian_target(MEAN, COVARIANCE, np.float32)
    fitted = fit(target, FullRank, key=jax.random.key(0), **QUIET)
    assert fitted.guide.loc.dtype == jnp.float32
    np.testing.assert_allclose((fitted.guide.loc - MEAN) / SCALES, 0.0, atol=1e-3)
    np.testing.assert_allclose(np.sqrt(fitted.guide.variance()) / SCALES, 1.0, atol=1e-3)
    np.testing.assert_allclose(fitted.elbo, 1.5, atol=1e-3)


def test_nothing_is_compiled_a_second_time(first):
    TRACES.clear()
    other = gaussian_target(MEAN + 1, COVARIANCE)  # new data, the same function
    keys = [jax.random.key(i) for i in range(3)]
    with compilations() as compiled:
        again = fit(gaussian_target(MEAN, COVARIANCE), FullRank, key=jax.random.key(0), **QUIET)
        fit(first.target, FullRank, key=keys[0], num_steps=170, **QUIET)
        moved = fit(other, FullRank, key=keys[1], **QUIET)
        first.extend(30, **QUIET)
        moved.importance(1000, key=keys[2])
    assert compiled == []
    assert TRACES == []
    assert_equal(again.guide, first.guide)
    np.testing.assert_allclose((moved.guide.loc - MEAN - 1) / SCALES, 0.0, atol=1e-4)


def test_an_extended_fit_has_the_bits_of_a_longer_one(first):
    settings = {"key": jax.random.key(0), **QUIET}
    short = fit(first.target, FullRank, num_steps=400, **settings)
    longer = short.extend(250, **QUIET).extend(350, **QUIET)
    assert longer.num_steps == 1000
    assert_equal(longer.guide, first.guide)
    np.testing.assert_array_equal(longer.history, first.history)
    np.testing.assert_array_equal(longer.log_weights, first.log_weights)
    assert short.num_steps == 400
    assert_equal(short.extend(600, **QUIET).guide, first.guide)


class InterruptedAt(progress.Silent):
    """Presses Ctrl-C once so many steps are done."""

    def __init__(self, step):
        self.step = step

    def update(self, done, status=None):
        if done >= self.step:
            raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore:elbo. not settled:bayleaf.errors.SamplingWarning")
def test_ctrl_c_returns_what_exists_and_a_checkpoint_resumes(first, monkeypatch, tmp_path):
    settings = {"key": jax.random.key(0), "checkpoint": tmp_path / "fit", **QUIET}
    with monkeypatch.context() as patch:
        patch.setattr(ascent, "open_progress", lambda *a, **k: InterruptedAt(50))
        with pytest.warns(SamplingWarning, match=r"Interrupted: \d+ of 1000 steps"):
            part = fit(first.target, FullRank, **settings)
    assert 50 <= part.num_steps < 1000
    whole = fit(first.target, FullRank, **settings)
    assert_equal(whole.guide, first.guide)
    np.testing.assert_array_equal(whole.history, first.history)
    with pytest.raises(CheckpointError, match="differs in guide, key"):
        fit(first.target, FullRank, **{**settings, "key": jax.random.key(1)})
    with pytest.raises(CheckpointError, match="differs in settings"):
        fit(first.target, FullRank, num_draws=3, **settings)


@pytest.mark.slow
def test_a_fit_starts_chains(first):
    run = bl.sample(
        first.target,
        key=jax.random.key(0),
        init=first.draw,
        num_warmup=100,
        num_draws=100,
        num_chains=2,
        **QUIET,
    )
    assert np.all(np.abs(run.draws.mean((0, 1)) - MEAN) < SCALES)


def test_draws_intervals_summary_and_arviz_speak_of_the_model(first):
    assert first.draws.shape == (1000, 3)
    assert first.sample(7, key=jax.random.key(3)).shape == (7, 3)
    low, high = first.interval(0.9)
    np.testing.assert_allclose((high - low) / (2 * 1.645 * SCALES), 1.0, atol=0.15)
    assert abs(first.summary()["x[0]"].mean - MEAN[0]) < 5
    data = first.to_arviz()
    assert data.posterior["x"].shape == (1, 1000, 3)
    assert data.sample_stats["log_weight"].shape == (1, 1000)
    assert "FullRank of x" in repr(first)
    assert "ELBO 1.5" in repr(first)


def test_the_picture_shows_the_history_and_each_scalar(first):
    figure = first.plot()
    titles = [axes.get_title(loc="left") for part in figure.subfigs for axes in part.axes]
    assert titles[0].startswith("ELBO 1.5")
    assert [axes.get_xlabel() for axes in figure.subfigs[1].axes] == ["x[0]", "x[1]", "x[2]"]


# What goes wrong


def caught(*args, **options):
    """The fit and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = fit(*args, **{"key": jax.random.key(0), **QUIET, **options})
    return fitted, [str(w.message) for w in caught]


def test_k_hat_is_warned_of_when_the_guide_has_lighter_tails():
    target = bl.Target(
        lambda p: jax.scipy.stats.t.logpdf(p["x"], 2.0).sum(), init={"x": np.zeros(4)}
    )
    fitted, messages = caught(target, FullRank)
    assert fitted.pareto_k > 0.7
    assert any("pareto_k: k-hat" in m and "bl.sample(target, init=fit.draw)" in m for m in messages)
    assert "pareto_k" in [finding.kind for finding in fitted.findings]


def test_an_elbo_that_still_rises_is_warned_of():
    guide = MeanField(jnp.zeros(3))  # a given guide stays where it is put, far from the mass
    target = gaussian_target(np.full(3, 50.0), np.eye(3))
    _, messages = caught(target, guide, optimizer=optax.adam(0.01), num_steps=200)
    assert any("elbo: not settled" in m and "fit.extend" in m for m in messages)


@pytest.mark.slow
def test_a_density_without_integral_never_settles():
    flat = bl.Target(lambda p: 0.0 * p["x"], init={"x": 0.0})
    _, messages = caught(flat, MeanField, num_steps=400)
    assert any("not settled" in m and "no finite integral" in m for m in messages)


@pytest.mark.slow
def test_an_elbo_that_is_lost_again_is_warned_of():
    fitted, messages = caught(
        bl.Target(lambda x: -jnp.sum(x**4), init=np.full(3, 0.1)),
        MeanField,
        optimizer=optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda t: -0.01 * t)),
        num_steps=200,
    )
    assert any("elbo: diverging" in m for m in messages), (messages, fitted.history[::20])


def test_settled_and_unsettled_histories_are_told_apart():
    rng = np.random.default_rng(0)
    lost = np.zeros(1000, bool)
    assert findings(-50 + rng.normal(size=1000), lost) == []
    assert [f.kind for f in findings(np.arange(1000.0), lost)] == ["not_settled"]
    assert [f.kind for f in findings(-np.arange(1000.0), lost)] == ["diverging"]
    lost[3] = True
    (finding,) = findings(rng.normal(size=1000), lost)
    assert "at 1 of 1000 steps, first at step 3" in finding.message


def test_a_log_density_that_is_nan_at_the_start_is_refused_by_name():
    target = bl.Target(lambda p: jnp.log(p["rate"]) + p["x"], init={"rate": -5.0, "x": 0.0})
    with pytest.raises(NonFiniteLogDensityError, match="rate"):
        fit(target, FullRank, key=jax.random.key(0), **QUIET)


def test_a_log_density_that_is_nan_everywhere_ends_the_fit_by_name():
    target = bl.Target(lambda p: jnp.log(p["rate"]) - p["x"] ** 2)
    guide = MeanField({"rate": jnp.array(-5.0), "x": jnp.array(0.0)})
    with pytest.raises(
        NonFiniteLogDensityError, match=r"every step from step 0 on.*gradient of rate|rate = -"
    ):
        fit(target, guide, key=jax.random.key(0), num_steps=500, **QUIET)


def test_steps_where_the_log_density_is_nan_are_not_taken_and_are_reported():
    """A half-normal without its constraint: draws below zero have no logarithm."""
    target = bl.Target(lambda p: jnp.log(p["x"]) - 4 * p["x"] ** 2, init={"x": 1.0})
    guide = MeanField({"x": jnp.array(0.6)}, scale=0.4)
    fitted, messages = caught(target, guide, num_draws=2, optimizer=optax.adam(1e-3), num_steps=400)
    assert np.all(np.isfinite(fitted.guide.loc))
    assert any("NaN or infinite at" in m and "first at step" in m for m in messages)
    assert any("fresh draws of the guide" in m for m in messages)
    assert fitted.elbo == -np.inf


class Headless(eqx.Module):
    loc: jax.Array

    def sample(self, key):
        return {"y": self.loc}

    def log_prob(self, position):
        return jnp.zeros(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "elbo"}, "objective: got 'elbo', expected 'joint' or 'kl'"),
        ({"objective": "kl"}, "objective: got 'kl' and a target that is one function"),
        ({"optimizer": 0.01}, r"optimizer: got 0\.01, expected an Optax optimiser"),
        ({"optimizer": optax.adam}, "optimizer"),
        ({"num_steps": 0}, "num_steps: got 0, expected a whole number, at least 1"),
        ({"num_draws": 0}, "num_draws: got 0"),
        ({"num_check_draws": 1}, "num_check_draws: got 1"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"batch_size": 5}, "subsample"),
        ({"guide": 3}, "guide: got 3, expected a guide with sample"),
        ({"guide": lambda x: x}, "guide: got a function that returns a"),
        ({"guide": MeanField({"z": jnp.zeros(2)})}, "guide: got draws with z of shape"),
        ({"guide": MeanField({"x": jnp.zeros(2)})}, r"guide: got draws with x of shape \(2,\)"),
        ({"guide": Headless(jnp.zeros(()))}, "guide: got draws with y"),
        ({"target": 3}, "target: got 3"),
        ({"target": lambda p: -(p["x"] ** 2)}, "init: got None"),
        ({"init": {"q": 1.0}}, "init"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    target = bl.Target(lambda p: -(p["x"] ** 2), init={"x": 0.0})
    settings = {"target": target, "guide": FullRank, "key": jax.random.key(0), **QUIET, **changes}
    with pytest.raises(BayleafError, match=message):
        fit(settings.pop("target"), settings.pop("guide"), **settings)


def test_an_untyped_key_is_refused():
    with pytest.raises(BayleafError, match="key: got"):
        fit(scale(), FullRank, key=np.zeros(2, np.uint32), **QUIET)


def test_a_fit_without_steps_says_that_it_cannot_go_on(first):
    bare = Fit(first.target, first.guide, first.draws, first.log_weights)
    with pytest.raises(BayleafError, match="extend"):
        bare.extend(10)
    for call in (lambda: first.extend(0), lambda: first.sample(0, key=jax.random.key(0))):
        with pytest.raises(BayleafError, match="got 0, expected at least 1"):
            call()


@pytest.mark.slow
def test_a_bayesian_network_has_the_exact_divergence_and_both_forms_agree():
    network = eqx.nn.MLP(2, 1, 3, depth=1, key=jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(20, 2))
    target = bl.Target.from_equinox(
        network,
        likelihood=bl.likelihoods.bernoulli,
        data=(x, (x[:, :1] > 0).astype(float)),
        prior_scale=0.7,
    )
    from bayleaf.variational import elbo
    from bayleaf.variational.arguments import split

    start = jax.tree.map(lambda leaf: leaf[0], target.initial_positions(jax.random.key(0), 1))
    guide = MeanField(start, scale=0.2)
    prior, log_likelihood = split(target, guide)
    assert elbo.kl_divergence(guide, prior) is not None
    options = {"key": jax.random.key(1), "num_draws": 4000}
    joint = elbo.joint(target, guide, **options)
    kl = elbo.kl(log_likelihood, prior, guide, **options)
    assert_mean(joint, float(kl.mean()), mcse=float(kl.std() / 4000**0.5), iid=True)


@pytest.mark.slow
def test_an_exponential_prior_is_estimated_where_no_closed_form_is_known():
    target = bl.Target.from_likelihood(
        lambda p: expon.logpdf(p),
        lambda p, y: norm.logpdf(y, p, 1.0),
        np.array([1.0, 1.2, 0.8]),
        init=1.0,
        constrain=bl.constraints.positive,
    )
    settings = {"key": jax.random.key(0), "num_steps": 300, **QUIET}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        joint = fit(target, FullRank, **settings)
        kl = fit(target, FullRank, objective="kl", **settings)
    np.testing.assert_allclose(kl.history, joint.history, rtol=1e-9)
