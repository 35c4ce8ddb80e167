"""SGLD and SGHMC against the exact stationary laws of their discretisations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import solve_discrete_lyapunov

import bayleaf as bl
from bayleaf.errors import BayleafError
from bayleaf.mcmc.langevin import SGHMC, SGLD
from bayleaf.mcmc.minibatch import ControlVariate
from tests.tools.statistics import assert_mean

EPS, OMEGA, GAMMA = 0.2, 1.0, 0.1  # eps omega = 0.2; eps omega^2 > gamma: Euler has no law here


def gaussian(x):
    return -0.5 * OMEGA**2 * jnp.sum(x * x)


def baoab_matrices(eps, gamma, omega):
    """(A, Q) of z' = A z + N(0, Q), z = (x, p), at unit mass and temperature."""
    kick = np.array([[1, 0], [-eps * omega**2 / 2, 1]])
    drift = np.array([[1, eps / 2], [0, 1]])
    c = np.exp(-gamma * eps)
    noise = kick @ drift @ np.array([[0], [np.sqrt(1 - c * c)]])
    return kick @ drift @ np.diag([1, c]) @ drift @ kick, noise @ noise.T


def euler_matrices(eps, gamma, omega):
    a = np.array([[1, eps], [-eps * omega**2, 1 - gamma * eps]])
    return a, np.diag([0, 2 * gamma * eps])


def euler_step(log_density, key, x, p, eps, gamma):
    """The planted bug: both updates from the old point, as several libraries have it."""
    noise = jax.random.normal(key, p.shape)
    kick = eps * jax.grad(log_density)(x) - eps * gamma * p + jnp.sqrt(2 * gamma * eps) * noise
    return x + eps * p, p + kick


def stationary_variance(a, q):
    assert np.max(np.abs(np.linalg.eigvals(a))) < 1, "no stationary law"
    return solve_discrete_lyapunov(a, q)[0, 0]


def squares_of(step, start, num_steps, key):
    """x^2 averaged over time for each of many independent oscillators, started at ``start``."""

    def body(state, key):
        state = step(key, state)
        return state, state[0] ** 2

    return np.asarray(jax.lax.scan(body, start, jax.random.split(key, num_steps))[1].mean(0))


def kernel_squares(kernel, num_steps=200, size=10_000):
    """The same for a kernel, on N(0, 1 / omega^2) in every coordinate."""
    x = jax.random.normal(jax.random.key(1), (size,)) / OMEGA
    state = kernel.init(gaussian, x)
    if hasattr(state, "momentum"):
        state = state._replace(momentum=jax.random.normal(jax.random.key(2), (size,)))

    @jax.jit
    def run(state):
        def body(state, key):
            state, info = kernel.step(gaussian, key, state)
            return state, (state.position**2, getattr(info, "kinetic_temperature", 0.0))

        keys = jax.random.split(jax.random.key(3), num_steps)
        squares, heat = jax.lax.scan(body, state, keys)[1]
        return squares.mean(0), heat

    squares, heat = run(state)
    return np.asarray(squares), np.asarray(heat)


def test_one_step_of_sghmc_is_the_exact_linear_map():
    """Deterministic part to round-off; the noise along the direction that Lyapunov's Q says."""
    a, q = baoab_matrices(EPS, GAMMA, OMEGA)

    def move(z, temperature):
        kernel = SGHMC(EPS, friction=GAMMA, temperature=temperature)
        state = kernel.init(gaussian, z[:1])._replace(momentum=z[1:])
        state, _ = kernel.step(gaussian, jax.random.key(0), state)
        return jnp.concatenate([state.position, state.momentum])

    np.testing.assert_allclose(jax.jacfwd(lambda z: move(z, 0.0))(jnp.ones(2)), a, atol=1e-12)
    noise = np.asarray(move(jnp.ones(2), 1.0) - move(jnp.ones(2), 0.0))
    np.testing.assert_allclose(noise[0] / noise[1], q[0, 0] / q[0, 1], rtol=1e-10)


@pytest.mark.parametrize("eps_omega", [0.2, 1.0, 1.9])
def test_baoab_positions_are_exact_and_euler_is_refused(eps_omega):
    """Lyapunov's equation: variance ratio 1 for BAOAB up to the stability limit."""
    exact = stationary_variance(*baoab_matrices(eps_omega, GAMMA, 1.0))
    np.testing.assert_allclose(exact, 1.0, rtol=1e-10)
    with pytest.raises(AssertionError, match="no stationary law"):
        stationary_variance(*euler_matrices(eps_omega, GAMMA, 1.0))
    # Even where it exists, Euler's law is far from 1.
    assert stationary_variance(*euler_matrices(0.2, 2.0, 1.0)) > 1.1


def test_sghmc_variance_is_within_two_per_cent_and_euler_fails_the_same_test():
    squares, heat = kernel_squares(SGHMC(EPS, friction=1.0))
    assert_mean(squares, 1 / OMEGA**2, iid=True)
    assert abs(squares.mean() - 1) < 0.02
    # Exact kinetic temperature of BAOAB: 1 - (eps omega)^2 / 4.
    np.testing.assert_allclose(heat[50:].mean(), 1 - EPS**2 / 4, rtol=5e-3)

    start = (
        jax.random.normal(jax.random.key(1), (10_000,)),
        jax.random.normal(jax.random.key(2), (10_000,)),
    )
    wrong = squares_of(
        lambda key, z: euler_step(gaussian, key, *z, EPS, 1.0), start, 200, jax.random.key(3)
    )
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_mean(wrong, 1 / OMEGA**2, iid=True)
    assert wrong.mean() > 1.05


def test_sghmc_temperature_and_mass():
    kernel = SGHMC(EPS, temperature=0.25, inverse_mass=jnp.full(10_000, 0.5))
    x = 0.5 * jax.random.normal(jax.random.key(1), (10_000,))
    p = 0.5 * jax.random.normal(jax.random.key(2), (10_000,)) * np.sqrt(2)
    state = kernel.init(gaussian, x)._replace(momentum=p)
    step = jax.jit(lambda key, state: kernel.step(gaussian, key, state)[0])
    for key in jax.random.split(jax.random.key(3), 40):
        state = step(key, state)
    assert_mean(np.asarray(state.position) ** 2, 0.25, iid=True)
    scalar = SGHMC(EPS, temperature=0.25, inverse_mass=0.5)
    np.testing.assert_array_equal(
        scalar.step(gaussian, key, state)[0].position, kernel.step(gaussian, key, state)[0].position
    )


def test_sgld_has_the_law_of_its_euler_maruyama_chain():
    """x' = (1 - eps) x + N(0, 2 eps): variance 1 / (1 - eps / 2), from any start."""
    eps = 0.3
    squares, _ = kernel_squares(SGLD(eps))
    a = (1 - eps) ** 2
    exact = 1 / (1 - eps / 2)
    num_steps = 200
    transient = sum(a**t for t in range(1, num_steps + 1)) / num_steps * (1 - exact)
    assert_mean(squares, exact + transient, iid=True)
    # Welling and Teh's step used as ours (half the drift) is caught.
    with pytest.raises(AssertionError):
        assert_mean(squares, 1 / (1 - eps / 4), iid=True)


def test_units_of_sgd():
    """Under a constant force SGD with momentum moves by lr / (1 - mu) a step; so do we."""
    kernel = SGHMC.from_sgd(0.01, 0.9, num_data=50, temperature=0.0)
    rate, mu = kernel.to_sgd(num_data=50)
    np.testing.assert_allclose([rate, mu], [0.01, 0.9], rtol=1e-12)

    def loss_times_data(x):
        return 50 * jnp.sum(x)

    state = kernel.init(loss_times_data, jnp.zeros(1))
    step = jax.jit(lambda key, state: kernel.step(loss_times_data, key, state)[0])
    for key in jax.random.split(jax.random.key(0), 400):
        state, last = step(key, state), state
    speed = float((state.position - last.position)[0])
    np.testing.assert_allclose(speed, 0.01 / (1 - 0.9), rtol=1e-6)


@pytest.mark.parametrize("kernel", [SGLD, SGHMC])
def test_schedules_and_counts(kernel):
    kernel = kernel(optax.exponential_decay(0.1, 1, 0.5))
    state = kernel.init(gaussian, jnp.ones(2))
    state, first = kernel.step(gaussian, jax.random.key(0), state)
    state = kernel.refresh(gaussian, state)
    state, second = kernel.step(gaussian, jax.random.key(1), state)
    np.testing.assert_allclose([first.step_size, second.step_size], [0.1, 0.05], rtol=1e-6)
    assert int(state.count) == 2
    leaves = jax.tree.leaves(kernel)
    assert all(np.ndim(leaf) == 0 for leaf in leaves), "a kernel passes through jit"
    jax.jit(lambda k, s: k.step(gaussian, jax.random.key(0), s))(kernel, state)


def test_refresh_keeps_momentum_and_sees_the_new_density():
    kernel = SGHMC(0.1)
    state = kernel.init(gaussian, jnp.ones(3))
    state, _ = kernel.step(gaussian, jax.random.key(0), state)
    new = kernel.refresh(lambda x: 2 * gaussian(x), state)
    np.testing.assert_array_equal(new.momentum, state.momentum)
    np.testing.assert_allclose(new.gradient, 2 * state.gradient)


@pytest.mark.parametrize("make", [SGLD, SGHMC])
def test_pytrees_and_float32(make):
    position = {"a": jnp.ones((2, 2), jnp.float32), "b": (jnp.zeros((), jnp.float32),)}
    kernel = make(0.1)

    def log_density(tree):
        return -0.5 * (jnp.sum(tree["a"] ** 2) + tree["b"][0] ** 2)

    state = kernel.init(log_density, position)
    new, info = jax.jit(lambda s: kernel.step(log_density, jax.random.key(0), s))(state)
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)
    assert new.position["a"].dtype == jnp.float32
    assert bool(info.is_accepted)


@pytest.mark.parametrize("make", [SGLD, SGHMC])
def test_nan_is_flagged_and_never_entered(make):
    def half(x):
        return jnp.where(x[0] > 0, jnp.nan, -0.5 * jnp.sum(x**2))

    def outside(x):
        return jnp.where(x[0] > 0, -jnp.inf, -0.5 * jnp.sum(x**2))

    kernel = make(0.3)

    def run(log_density):
        def body(state, key):
            state, info = kernel.step(log_density, key, state)
            return state, (state.position[0], info)

        keys = jax.random.split(jax.random.key(0), 300)
        return jax.jit(lambda s: jax.lax.scan(body, s, keys)[1])(
            kernel.init(log_density, jnp.array([-0.5]))
        )

    x, info = run(half)
    assert np.all(x <= 0)
    assert np.any(info.is_nan)
    assert len(np.unique(x)) > 100, "the chain turns back and goes on"
    np.testing.assert_array_equal(info.is_accepted, ~info.is_nan)
    x, info = run(outside)
    assert np.all(x <= 0)
    assert not np.any(info.is_nan)
    assert np.any(info.is_divergent)


def linear_target():
    """Normal observations with unknown mean: the gradient of each example is known."""
    data = jnp.linspace(-1, 3, 40)
    return bl.Target.from_likelihood(
        lambda x: -0.5 * jnp.sum(x**2),
        lambda x, batch: -0.5 * (batch - x[0]) ** 2,
        data,
        init=jnp.zeros(1),
    )


@pytest.mark.parametrize("make", [SGLD, SGHMC])
def test_mini_batches(make):
    """The gradient of a batch averages to the full one, and steps resume from the state alone."""
    target = linear_target()
    kernel = make(0.01, batch_size=8)
    start = kernel.init(target, jnp.zeros(1))
    step = jax.jit(lambda key, state: kernel.step(target, key, state)[0])

    def probe(key):
        state = step(key, start)
        return state.gradient - jax.grad(target)(state.position)

    gaps = jax.vmap(probe)(jax.random.split(jax.random.key(0), 4000))
    assert np.std(gaps) > 0.1, "the batches differ"
    assert_mean(np.asarray(gaps), 0.0, iid=True)

    keys = jax.random.split(jax.random.key(1), 6)
    through = start
    for key in keys:
        through = step(key, through)
    resumed = start
    for key in keys[:3]:
        resumed = step(key, resumed)
    resumed = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), resumed)
    for key in keys[3:]:
        resumed = step(key, resumed)
    jax.tree.map(np.testing.assert_array_equal, resumed, through)


def test_sghmc_with_batches_finds_the_posterior():
    """Posterior N(40 / 41, 1 / 41); mini-batch noise is small at this step."""
    target = linear_target()
    kernel = SGHMC(0.01, friction=5.0, batch_size=20)

    def chain(key):
        def body(state, key):
            state = kernel.step(target, key, state)[0]
            return state, state.position

        state = kernel.init(target, jnp.full(1, 40 / 41))
        return jax.lax.scan(body, state, jax.random.split(key, 1500))[1]

    draws = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), 100))[:, 300::10]
    assert_mean(np.asarray(draws), 40 / 41)


def test_control_variate_is_exact_at_the_anchor_and_unbiased_elsewhere():
    target = linear_target()
    anchor = jnp.array([40 / 41])
    steady = ControlVariate.at(target, anchor)
    keys = jax.random.split(jax.random.key(0), 50)

    def gradient(key, x):
        return jax.grad(steady.subsample(key, 5))(x)

    at_anchor = jax.vmap(gradient, in_axes=(0, None))(keys, anchor)
    full = jnp.broadcast_to(jax.grad(target)(anchor), at_anchor.shape)
    np.testing.assert_allclose(at_anchor, full, atol=1e-12)
    away = jax.vmap(gradient, in_axes=(0, None))(keys, anchor + 1)
    full = jnp.broadcast_to(jax.grad(target)(anchor + 1), away.shape)
    np.testing.assert_allclose(away, full, rtol=1e-10)  # the curvature is the same in each batch
    state = SGLD(0.01, batch_size=5).init(steady, anchor)
    np.testing.assert_allclose(state.gradient, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: SGLD(0.0), "step_size"),
        (lambda: SGLD(-1.0), "step_size"),
        (lambda: SGLD(0.1, temperature=-1.0), "temperature"),
        (lambda: SGLD(0.1, batch_size=0), "batch_size"),
        (lambda: SGHMC(0.1, friction=-0.1), "friction"),
        (lambda: SGHMC(0.1, friction=200.0), r"friction \* step_size"),
        (lambda: SGHMC(0.1, inverse_mass=jnp.array([1.0, 0.0])), "inverse_mass"),
        (lambda: SGHMC.from_sgd(0.1, 1.0), "momentum"),
        (lambda: SGHMC.from_sgd(-0.1, 0.9), "learning_rate"),
        (lambda: SGLD(0.1, batch_size=5).init(gaussian, jnp.zeros(1)), "subsample"),
        (
            lambda: SGHMC(0.1, inverse_mass=jnp.ones(3)).step(
                gaussian, jax.random.key(0), SGHMC(0.1).init(gaussian, jnp.zeros(2))
            ),
            "inverse_mass",
        ),
    ],
)
def test_bad_settings_are_named(make, name):
    with pytest.raises(BayleafError, match=name):
        make()
