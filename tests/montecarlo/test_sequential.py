"""Particle filters against an exact Kalman filter, and against themselves in higher precision."""

import functools
import warnings

import equinox as eqx
import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from bayleaf.errors import BayleafError
from bayleaf.montecarlo import GuidedProposal, StateSpaceModel, particle_filter, resampling
from bayleaf.montecarlo.particle_filter import Scheme, log_likelihood, run_filter
from bayleaf.montecarlo.particle_keys import UNROLLED, particle_keys, threefry, unrolled
from bayleaf.montecarlo.sequential import sequential
from tests.textbook.kalman import kalman
from tests.tools.compiling import compilations
from tests.tools.statistics import assert_mean

PARAMS = {"a": 0.8, "q": 0.6, "r": 0.7}
NUM_STEPS = 12


def initial(key, p):
    return 1.5 * jax.random.normal(key, dtype=p["a"].dtype)


def initial_log_prob(x, p):
    return norm.logpdf(x, 0.0, 1.5)


def transition(key, x, t, p):
    return p["a"] * x + p["q"] * jax.random.normal(key, dtype=x.dtype)


def transition_log_prob(new, x, t, p):
    return norm.logpdf(new, p["a"] * x, p["q"])


def likelihood(x, y, t, p):
    return norm.logpdf(y, x, p["r"])


def posterior_of(mean, sd, y, p):
    precision = 1 / sd**2 + 1 / p["r"] ** 2
    return (mean / sd**2 + y / p["r"] ** 2) / precision, precision**-0.5


def guide(wrong=0.0):
    """The best proposal: p(x_t | x_t-1, y_t). ``wrong`` widens it."""

    def sample(key, x, y, t, p):
        mean, sd = posterior_of(p["a"] * x, p["q"], y, p)
        return mean + (sd + wrong) * jax.random.normal(key)

    def log_prob(new, x, y, t, p):
        mean, sd = posterior_of(p["a"] * x, p["q"], y, p)
        return norm.logpdf(new, mean, sd + wrong)

    def initial_sample(key, y, p):
        mean, sd = posterior_of(0.0, 1.5, y, p)
        return mean + sd * jax.random.normal(key)

    def initial_guide_log_prob(x, y, p):
        mean, sd = posterior_of(0.0, 1.5, y, p)
        return norm.logpdf(x, mean, sd)

    return GuidedProposal(
        sample, log_prob, initial_sample=initial_sample, initial_log_prob=initial_guide_log_prob
    )


def linear_model(params=None, dtype=None):
    params = {k: jnp.asarray(v, dtype) for k, v in (params or PARAMS).items()}
    return StateSpaceModel(
        initial,
        transition,
        likelihood,
        params=params,
        initial_log_prob=initial_log_prob,
        transition_log_prob=transition_log_prob,
    )


def simulated(num_steps=NUM_STEPS, seed=0, params=PARAMS):
    rng, x, y = np.random.default_rng(seed), 0.0, []
    for t in range(num_steps):
        noise = rng.standard_normal()
        x = 1.5 * noise if t == 0 else params["a"] * x + params["q"] * noise
        y.append(x + params["r"] * rng.standard_normal())
    return np.array(y)


def exact(y, params=PARAMS):
    """Log-likelihood, filtered means and sds."""
    a, q, r = (np.array([[params[k]]]) for k in "aqr")
    value, _, means, covariances = kalman(
        y[:, None], a, q**2, np.eye(1), r**2, np.zeros(1), np.array([[2.25]])
    )
    return value, means[:, 0], np.sqrt(covariances[:, 0, 0])


Y = simulated()
SETTINGS = {
    "bootstrap": {},
    "every step": {"ess_threshold": 1.0},
    "stratified": {"resampling": resampling.stratified},
    "multinomial": {"resampling": resampling.multinomial, "ess_threshold": 1.0},
    "residual": {"resampling": resampling.residual, "ess_threshold": 0.8},
    "killing": {"resampling": resampling.killing, "ess_threshold": 0.9},
    "never": {"ess_threshold": 0.0},
    "guided": {"proposal": guide()},
    "badly guided": {"proposal": guide(0.5), "ess_threshold": 0.7},
}


def estimator(num_particles, options):
    """Log-likelihood estimates by many keys; the threshold and the data are arguments."""
    model, options = linear_model(), dict(options)

    def once(key, y, threshold):
        options["ess_threshold"] = threshold
        return log_likelihood(model, y, key=key, num_particles=num_particles, **options)

    return jax.jit(jax.vmap(once, in_axes=(0, None, None)))


shared_estimator = functools.cache(estimator)


def estimates(num_repeats, num_particles, y=Y, *, make=shared_estimator, **settings):
    """Independent log-likelihood estimates of one setting."""
    threshold = jnp.asarray(settings.pop("ess_threshold", 0.5))
    keys = jax.random.split(jax.random.key(0), num_repeats)
    program = make(num_particles, tuple(settings.items()))
    return np.asarray(program(keys, jnp.asarray(y), threshold))


def assert_unbiased(name, y=Y, make=shared_estimator):
    ratio = np.exp(estimates(4000, 50, y, make=make, **SETTINGS[name]) - exact(y)[0])
    assert_mean(ratio, 1.0, iid=True)
    return ratio


# Each with a program of its own; what the schemes do alone is proved in test_resampling.
OWN = ("stratified", "residual", "killing", "badly guided")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in OWN)) for n in SETTINGS]
)
def test_the_likelihood_is_unbiased(name):
    ratio = assert_unbiased(name)
    if name == "guided":
        assert np.std(ratio) < 0.6 * np.std(assert_unbiased("bootstrap"))


@pytest.mark.parametrize("bug", ["carried weights", "normalised average", "proposal ratio"])
def test_planted_bugs_are_caught(bug, monkeypatch):
    """Weights forgotten where one does not resample; plain means of weights; no f / q."""
    right = particle_filter._weigh
    if bug == "proposal ratio":

        def wrong(model, particles, log_weights, log_ratio, step):
            return right(model, particles, log_weights, None, step)

    elif bug == "carried weights":

        def wrong(model, particles, log_weights, log_ratio, step):
            return right(model, particles, None, log_ratio, step)

    else:

        def wrong(model, particles, log_weights, log_ratio, step):
            population, _ = right(model, particles, log_weights, log_ratio, step)
            log_g = jax.vmap(lambda x: model.log_likelihood(x, step.y, step.t, model.params))
            return population, jnp.log(jnp.mean(jnp.exp(log_g(particles))))

    monkeypatch.setattr(particle_filter, "_weigh", wrong)
    name = "badly guided" if bug == "proposal ratio" else "bootstrap"
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased(name, make=estimator)  # compiled anew, with the bug in it


def test_missing_observations_are_passed_over():
    y = Y.copy()
    y[[0, 3, 4, 11]] = np.nan
    for name in ("bootstrap", "guided"):
        assert_unbiased(name, y)
    model = linear_model()
    found = sequential(model, np.full(NUM_STEPS, np.nan), key=jax.random.key(0), num_particles=128)
    assert found.log_likelihood == 0
    np.testing.assert_allclose(found.ess, 128)


@pytest.mark.parametrize("name", ["bootstrap", "guided"])
def test_filtering_distributions(name):
    y = Y.copy()
    y[5] = np.nan
    settings = SETTINGS[name]
    found = sequential(
        linear_model(),
        y,
        key=jax.random.key(1),
        num_particles=20_000,
        keep_history=True,
        **settings,
    )
    value, means, sds = exact(y)
    # Errors of filtered means are about sd / sqrt(ESS), and twice that for what was handed on.
    width = 12 / np.sqrt(np.minimum.accumulate(found.ess))
    assert np.all(np.abs(found.mean - means) / sds < width)
    assert np.all(np.abs(found.sd / sds - 1) < width)
    assert abs(found.log_likelihood - value) < 0.1
    at = found.at(4)
    np.testing.assert_allclose(at.mean(), found.mean[4], rtol=1e-10)
    np.testing.assert_allclose(at.sd(), found.sd[4], rtol=1e-10)
    np.testing.assert_allclose(at.ess, found.ess[4], rtol=1e-8)
    np.testing.assert_allclose(found.at(-1).log_evidence, found.log_likelihood)
    np.testing.assert_allclose(found.last.mean(), found.mean[-1], rtol=1e-10)
    assert "20000 particles" in repr(found)


def test_paths_follow_the_smoothing_distribution():
    """Means of whole paths against the exact ones, by one large Gaussian."""
    times = np.arange(NUM_STEPS)
    a, q, r = (PARAMS[k] for k in "aqr")
    variance = [2.25]
    for _ in times[1:]:
        variance.append(a**2 * variance[-1] + q**2)
    low = np.minimum(times[:, None], times)
    prior = np.array(variance)[low] * a ** np.abs(times[:, None] - times)
    gain = prior @ np.linalg.inv(prior + r**2 * np.eye(NUM_STEPS))
    mean = gain @ Y
    sd = np.sqrt(np.diag(prior - gain @ prior))

    found = sequential(
        linear_model(), Y, key=jax.random.key(3), num_particles=20_000, keep_history=True
    )
    paths = found.paths(jax.random.key(4), 20_000)
    assert paths.shape == (20_000, NUM_STEPS)
    # Fewer ancestors the further back: at least 500 lines are left at the first time.
    assert np.unique(paths[:, 0]).size > 500
    assert np.all(np.abs(paths.mean(axis=0) - mean) / sd < 6 / 500**0.5)
    # A path is a line of ancestors: each step of it is one that some particle made.
    steps = paths[:, 1:] - a * paths[:, :-1]
    assert np.all(np.abs(steps.std(axis=0) - q) < 0.2)


def test_degenerate_sizes():
    """One particle, one time: the estimate is a likelihood, and its mean the exact one."""
    ratio = np.exp(estimates(20_000, 1, Y[:1]) - exact(Y[:1])[0])
    assert_mean(ratio, 1.0, iid=True)
    found = sequential(linear_model(), Y, key=jax.random.key(0), num_particles=1)
    np.testing.assert_allclose(found.ess, 1.0)
    np.testing.assert_allclose(found.sd, 0.0)
    found = sequential(linear_model(), Y[:1], key=jax.random.key(0), num_particles=1)
    assert found.increments.shape == (1,)


def two_dimensional():
    """A tracked point: position and velocity, both seen with noise of its own."""
    A = jnp.array([[1.0, 0.5], [0.0, 0.9]])
    root = jnp.array([[0.3, 0.0], [0.1, 0.2]])

    def step(key, x, t):
        moved = A @ jnp.stack([x["place"], x["speed"]]) + root @ jax.random.normal(key, (2,))
        return {"place": moved[0], "speed": moved[1], "count": x["count"] + 1}

    def start(key):
        z = jax.random.normal(key, (2,))
        return {"place": z[0], "speed": z[1], "count": jnp.zeros((), jnp.int32)}

    def seen(x, y, t):
        return norm.logpdf(y["a"], x["place"], 0.5) + norm.logpdf(y["b"], x["speed"], 1.0)

    rng = np.random.default_rng(4)
    y = {"a": rng.standard_normal(8), "b": rng.standard_normal(8)}
    stacked = np.stack([y["a"], y["b"]], axis=1)
    value, _, means, _ = kalman(
        stacked, np.asarray(A), np.asarray(root @ root.T), np.eye(2), np.diag([0.25, 1.0]),
        np.zeros(2), np.eye(2),
    )  # fmt: skip
    return StateSpaceModel(start, step, seen), y, value, means


@pytest.mark.slow
def test_states_and_observations_are_any_trees():
    model, y, value, means = two_dimensional()
    keys = jax.random.split(jax.random.key(0), 2000)
    observations = jax.tree.map(jnp.asarray, y)
    run = jax.vmap(lambda key: log_likelihood(model, observations, key=key, num_particles=100))
    assert_mean(np.exp(np.asarray(jax.jit(run)(keys)) - value), 1.0, iid=True)
    found = sequential(model, y, key=jax.random.key(1), num_particles=20_000)
    assert np.max(np.abs(found.mean["place"] - means[:, 0])) < 0.05
    np.testing.assert_allclose(found.mean["count"], np.arange(8))
    assert found.last.draws["count"].dtype == np.int32


@pytest.mark.slow
def test_gradients_are_unbiased():
    """Mean of the gradient of the estimate, against that of Kalman's likelihood.

    Without the derivative of the resampled weights it is biased, which the same test finds.
    """
    model, y = linear_model(), jnp.asarray(Y[:6])

    def ratio(params, key, settings):
        estimate = log_likelihood(
            model.with_params(params), y, key=key, num_particles=30, ess_threshold=settings
        )
        return jnp.exp(estimate - exact(Y[:6])[0])

    def difference(name):
        def value(shift):
            return exact(Y[:6], PARAMS | {name: PARAMS[name] + shift})[0]

        return (value(1e-5) - value(-1e-5)) / 2e-5

    expected = {name: difference(name) for name in PARAMS}
    keys = jax.random.split(jax.random.key(0), 20_000)

    def gradients():
        per_key = jax.vmap(jax.grad(ratio), in_axes=(None, 0, None))
        return jax.jit(per_key)(model.params, keys, jnp.asarray(0.7))

    assert_mean(gradients(), expected, iid=True)

    @jax.custom_jvp
    def stopped(log_weights, ancestors):
        return jnp.zeros_like(log_weights)

    stopped.defjvp(lambda primals, tangents: (stopped(*primals), 0 * tangents[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(particle_filter, "_renewed", stopped)
        with pytest.raises(AssertionError, match="means are wrong"):
            assert_mean(gradients(), expected, iid=True)


@pytest.mark.slow
def test_jit_equals_eager_and_vmap_equals_a_loop():
    model, y = linear_model(), jnp.asarray(Y[:3])
    keys = jax.random.split(jax.random.key(7), 3)

    def run(key):
        return log_likelihood(model, y, key=key, num_particles=16, ess_threshold=0.9)

    compiled = jax.jit(run)
    one_by_one = [float(compiled(key)) for key in keys]
    np.testing.assert_allclose(jax.jit(jax.vmap(run))(keys), one_by_one, rtol=1e-12)
    np.testing.assert_allclose(run(keys[0]), one_by_one[0], rtol=1e-12)


def test_nothing_compiles_twice():
    settings = {"key": jax.random.key(0), "num_particles": 128}
    sequential(linear_model(), Y, **settings)
    other = linear_model({"a": 0.3, "q": 1.0, "r": 0.9})
    with compilations() as compiled:
        sequential(linear_model(), Y, key=jax.random.key(5), num_particles=128)
        moved = sequential(other, Y + 1, key=jax.random.key(1), num_particles=128)
    assert compiled == []
    assert moved.log_likelihood != 0


def test_the_key_decides_everything():
    one, two, other = (
        sequential(linear_model(), Y, key=jax.random.key(seed), num_particles=128)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.mean, two.mean)
    assert one.log_likelihood != other.log_likelihood


@pytest.mark.slow
def test_float32_at_100_000_particles():
    """The mean of log-likelihoods over 200 steps, in float32 and in float64."""
    y = simulated(200, seed=3)
    value, _, _ = exact(y)
    found = {}
    for dtype in (jnp.float32, jnp.float64):
        model, observations = linear_model(dtype=dtype), jnp.asarray(y, dtype)
        scheme = Scheme(num_particles=100_000, has_moments=False)
        run = eqx.filter_jit(run_filter)
        keys = [jax.random.key(i) for i in range(8)]
        increments = [run(model, observations, key, scheme)[1].increment for key in keys]
        assert {each.dtype for each in increments} == {jnp.dtype(dtype)}
        found[dtype] = [float(jnp.sum(each)) for each in increments]
    single, double = (np.asarray(found[dtype]) for dtype in (jnp.float32, jnp.float64))
    error = np.sqrt((single.var(ddof=1) + double.var(ddof=1)) / 8)
    assert error < 0.06
    assert abs(single.mean() - double.mean()) < 3 * error
    assert abs(single.mean() - value) < 4 * error


def test_float32_throughout():
    model = linear_model(dtype=jnp.float32)
    found = sequential(model, Y.astype(np.float32), key=jax.random.key(0), num_particles=5000)
    assert {found.increments.dtype, found.ess.dtype, found.mean.dtype} == {np.dtype(np.float32)}
    assert abs(found.log_likelihood - exact(Y)[0]) < 0.2


@pytest.mark.parametrize(
    ("num_rounds", "key", "counter", "expected"),
    [
        (13, (0, 0), (0, 0), (0x9D1C5EC6, 0x8BD50731)),
        (13, (0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0xFD36D048, 0x2D17272C)),
        (13, (0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xBA3E4725, 0xF27D669E)),
        (20, (0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        (20, (0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        (20, (0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_the_cipher_gives_the_answers_of_its_authors(num_rounds, key, counter, expected):
    """The known answers of their Random123; twenty rounds are also those of JAX."""
    key, counter = (tuple(map(jnp.uint32, pair)) for pair in (key, counter))
    assert tuple(map(int, threefry(key, counter, num_rounds))) == expected
    if num_rounds == 20:
        jaxs = jax.extend.random.threefry_2x32(jnp.stack(key), jnp.stack(counter))
        assert tuple(map(int, jaxs)) == expected


def test_keys_of_the_unrolled_cipher_do_all_that_keys_do():
    """Each bit of each width is fair; split and folded keys differ; gammas are gammas."""
    key = jax.random.wrap_key_data(jnp.uint32([3, 4]), impl=UNROLLED)
    for kind in (jnp.uint8, jnp.uint16, jnp.uint32, jnp.uint64):
        words = np.asarray(jax.random.bits(key, (2000,), kind))
        for bit in range(8 * words.itemsize):
            assert_mean((words >> kind(bit) & kind(1)).astype(float), 0.5, iid=True)
    split = jax.random.key_data(jax.random.split(key, (2, 3))).reshape(-1, 2)
    folded = jnp.stack([jax.random.key_data(jax.random.fold_in(key, i + 6)) for i in range(5)])
    assert len(np.unique(np.concatenate([split, folded]), axis=0)) == 11
    assert_mean(np.asarray(jax.random.gamma(key, 2.5, (4000,))), 2.5, iid=True)


def test_particles_have_keys_of_their_own():
    keys = particle_keys(unrolled(jax.random.key(0)), 1000)
    assert len(np.unique(np.asarray(jax.random.key_data(keys)), axis=0)) == 1000
    z = np.asarray(jax.vmap(jax.random.normal)(keys))
    assert_mean(z, 0.0, iid=True)
    assert_mean(z[1:] * z[:-1], 0.0, iid=True)
    assert_mean(z**2, 1.0, iid=True)


def test_what_goes_wrong_is_named_with_its_step():
    def bounded(x, y, t, p):
        nan_at_7 = jnp.where((t == 7) & (p["q"] == 0), jnp.nan, 0.0)
        return jnp.where(jnp.abs(x - y) < 2.0, nan_at_7, -jnp.inf)

    y = np.zeros(10)
    y[4] = 100.0
    model = StateSpaceModel(initial, transition, bounded, params=linear_model().params)
    with pytest.raises(BayleafError, match=r"step 4: all 30 particles are impossible"):
        sequential(model, y, key=jax.random.key(0), num_particles=30)
    dead = eqx.filter_jit(log_likelihood)
    assert dead(model, jnp.asarray(y), key=jax.random.key(0), num_particles=30) == -jnp.inf
    model = model.with_params(model.params | {"a": jnp.asarray(0.1), "q": jnp.asarray(0.0)})
    with pytest.raises(BayleafError, match=r"step 7: the model gave nan"):
        sequential(model, np.zeros(10), key=jax.random.key(0), num_particles=30)


def test_what_is_refused():
    model = linear_model()
    good = {"key": jax.random.key(0), "num_particles": 128}

    def with_parts(**parts):
        functions = {"initial": initial, "transition": transition, "log_likelihood": likelihood}
        return StateSpaceModel(**(functions | parts), params=model.params)

    infinite = np.where(np.arange(3) == 1, np.inf, 0.0)
    cases = {
        "num_particles: got 0": (model, Y, {"num_particles": 0}),
        "ess_threshold: got 1.5": (model, Y, {"ess_threshold": 1.5}),
        "observations: .*leading axis": (model, {"a": Y, "b": Y[:3]}, {}),
        "observations: .*infinite number at step 1": (model, infinite, {}),
        "transition: got a state like": (
            with_parts(transition=lambda key, x, t, p: jnp.stack([x, x])), Y, {},
        ),
        "log_likelihood: .*one real number": (
            with_parts(log_likelihood=lambda x, y, t, p: jnp.stack([x, y])), Y, {},
        ),
        "model.transition_log_prob: got None": (with_parts(), Y, {"proposal": guide()}),
    }  # fmt: skip
    for message, (model_, y, settings) in cases.items():
        with pytest.raises(BayleafError, match=message):
            sequential(model_, y, **(good | settings))
    with pytest.raises(BayleafError, match="both, or neither"):
        GuidedProposal(likelihood, likelihood, initial_sample=initial)
    found = sequential(model, Y, **good)
    for call in (lambda: found.at(0), lambda: found.paths(jax.random.key(0))):
        with pytest.raises(BayleafError, match="keep_history=True"):
            call()
    kept = sequential(model, Y, keep_history=True, **good)
    with pytest.raises(BayleafError, match="time: got 12"):
        kept.at(12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.at(11)
