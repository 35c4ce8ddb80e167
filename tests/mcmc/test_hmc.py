"""HMC: the textbook trajectory, invariance, float32, bad densities; planted bugs are caught."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayleaf.errors import BayleafError
from bayleaf.mcmc import hmc
from bayleaf.mcmc.hmc import HMC
from bayleaf.mcmc.metric import Dense, Diagonal, LowRank
from tests.textbook.hmc import hamiltonian_monte_carlo
from tests.tools.chains import end_positions
from tests.tools.geweke import geweke_test
from tests.tools.statistics import assert_cdf, assert_mean

NUM_CHAINS = 20_000


def banana(x):
    """x0 ~ N(0, 1) and x1 given x0 ~ N(x0^2, 1): curved, and every margin is known."""
    return -0.5 * x[0] ** 2 - 0.5 * (x[1] - x[0] ** 2) ** 2


def banana_draws():
    z = np.random.default_rng(0).normal(size=(NUM_CHAINS, 2))
    return jnp.asarray(np.stack([z[:, 0], z[:, 1] + z[:, 0] ** 2], axis=1))


def assert_banana(x):
    """What was drawn, straightened, are two independent standard normals."""
    x = np.asarray(x)
    assert np.max(np.abs(x)) < 1e3, "the draws do not follow the law: some have run away"
    z = np.stack([x[:, 0], x[:, 1] - x[:, 0] ** 2], axis=1)
    assert_mean(z[:, :, None] * z[:, None, :], np.eye(2), iid=True, false_alarm=4e-7)
    assert_cdf(z[:, 0], stats.norm.cdf, iid=True, false_alarm=3e-7)
    assert_cdf(z[:, 1], stats.norm.cdf, iid=True, false_alarm=3e-7)


INVERSE_MASS = np.array([[1.0, 0.6], [0.6, 2.0]])
DENSE = Dense(
    jnp.asarray(INVERSE_MASS), jnp.asarray(np.linalg.cholesky(np.linalg.inv(INVERSE_MASS)))
)
LOW_RANK = LowRank(jnp.array([1.0, 1.5]), jnp.array([[0.6], [0.8]]), jnp.array([2.0]))


def stay(kernel, num_steps=3):
    """Ends of independent chains that started at exact draws."""
    starts = banana_draws()
    ends = end_positions(kernel, banana, starts, key=jax.random.key(1), num_steps=num_steps)
    assert np.mean(np.any(np.asarray(ends != starts), axis=1)) > 0.5
    return ends


@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(HMC(6, 0.4), marks=pytest.mark.slow),
        HMC(3, 0.5, Diagonal(jnp.array([0.5, 2.0])), is_length_random=False),
        HMC(6, 0.35, DENSE),
        HMC(6, 0.35, LOW_RANK),
    ],
    ids=["identity", "diagonal, fixed length", "dense", "low rank"],
)
def test_started_at_stationarity_it_stays_there(kernel):
    assert_banana(stay(kernel))


def test_started_at_a_skewed_law_of_one_number_it_stays_there():
    """The logarithm of a Gamma(3) number, as a scalar position."""
    starts = jnp.log(jax.random.gamma(jax.random.key(3), 3.0, (NUM_CHAINS,)))
    ends = end_positions(
        HMC(5, 0.5), lambda x: 3 * x - jnp.exp(x), starts, key=jax.random.key(4), num_steps=3
    )
    assert_cdf(np.exp(ends), stats.gamma(3).cdf, iid=True)


class GivenNumbers:
    """Stands in for a NumPy generator: hands out the numbers that the kernel drew."""

    def __init__(self, momenta, uniforms):
        self.momenta, self.uniforms = iter(momenta), iter(uniforms)

    def normal(self, size):
        momentum = next(self.momenta)
        assert momentum.shape == size
        return momentum

    def random(self):
        return next(self.uniforms)


def test_the_same_momenta_give_the_textbook_trajectory():
    """Position by position, accepted and rejected ones, to rounding."""
    kernel = HMC(4, 0.35, is_length_random=False)
    x = jnp.array([0.5, -0.3])
    step = jax.jit(lambda key, state: kernel.step(banana, key, state))
    keys = jax.random.split(jax.random.key(0), 30)

    def numbers(key):
        key_momentum, _, key_accept = jax.random.split(key, 3)
        return jax.random.normal(key_momentum, (2,)), jax.random.exponential(key_accept)

    momenta, exponentials = jax.vmap(numbers)(keys)
    state, path, rates = kernel.init(banana, x), [x], []
    for key in keys:
        state, info = step(key, state)
        path.append(state.position)
        rates.append(float(info.acceptance_rate))
        assert info.num_gradients == 4
    gradient = jax.jit(jax.grad(lambda x: -banana(x)))
    expected = hamiltonian_monte_carlo(
        lambda x: -float(banana(x)),
        lambda x: np.asarray(gradient(x)),
        np.asarray(x),
        0.35,
        4,
        30,
        GivenNumbers(np.asarray(momenta), np.exp(-np.asarray(exponentials))),
    )
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-9)
    assert min(rates) < 0.97


def test_the_number_of_steps_is_uniform_and_counted():
    kernel = HMC(4, 0.3)
    state = kernel.init(banana, jnp.zeros(2))
    step = jax.jit(jax.vmap(lambda key: kernel.step(banana, key, state)[1].num_gradients))
    counts = np.bincount(step(jax.random.split(jax.random.key(0), 4000)), minlength=6)
    assert counts[0] == counts[5] == 0
    assert stats.chisquare(counts[1:5]).pvalue > 1e-6


def test_geweke():
    """theta ~ N(0, 1), y ~ N(exp(theta), 1): neither conjugate nor symmetric."""

    def log_joint(theta, y):
        return -0.5 * theta**2 - 0.5 * (y - jnp.exp(theta)) ** 2

    geweke_test(
        HMC(3, 0.3),
        prior=jax.random.normal,
        simulate=lambda key, theta: jnp.exp(theta) + jax.random.normal(key),
        log_joint=log_joint,
        key=jax.random.key(0),
        num_chains=10_000,
        num_sweeps=4,
    )


def flip_kinetic_energy(monkeypatch):
    """The talk's exp(+K): the kinetic energy enters H with the other sign."""
    depart, leapfrog = hmc.depart, hmc.leapfrog

    def bad_depart(*args):
        front, kinetic = depart(*args)
        return front, -kinetic

    def bad_leapfrog(*args):
        front, leaf = leapfrog(*args)
        return front, leaf._replace(energy=-leaf.energy - 2 * leaf.log_density)

    monkeypatch.setattr(hmc, "depart", bad_depart)
    monkeypatch.setattr(hmc, "leapfrog", bad_leapfrog)
    return HMC(3, 0.7, is_length_random=False)


def turn_acceptance_upside_down(monkeypatch):
    """The talk's min(1, exp(H* - H))."""
    leapfrog = hmc.leapfrog

    def bad_leapfrog(value_and_grad, start, metric, front, step):
        kinetic = 0.5 * front.momentum @ metric.velocity(front.momentum)
        before = kinetic - value_and_grad(start)[0]
        front, leaf = leapfrog(value_and_grad, start, metric, front, step)
        return front, leaf._replace(energy=2 * before - leaf.energy)

    monkeypatch.setattr(hmc, "leapfrog", bad_leapfrog)
    return HMC(1, 0.9)


def forget_the_half(monkeypatch):
    """A full kick at the start of the trajectory where a half one belongs."""
    depart = hmc.depart

    def bad_depart(momentum, gradient, metric, step):
        front, kinetic = depart(momentum, gradient, metric, step)
        kick = 0.5 * step * gradient
        return front._replace(
            half_momentum=front.half_momentum + kick,
            half_velocity=front.half_velocity + metric.velocity(kick),
        ), kinetic

    monkeypatch.setattr(hmc, "depart", bad_depart)
    return HMC(3, 0.5, is_length_random=False)


def draw_momenta_with_the_inverse_mass(monkeypatch):
    """The kinetic energy of one mass matrix, momenta of another."""
    del monkeypatch
    return HMC(3, 0.35, Dense(DENSE.inverse_mass, jnp.linalg.cholesky(DENSE.inverse_mass)))


@pytest.mark.parametrize(
    "plant",
    [
        flip_kinetic_energy,
        turn_acceptance_upside_down,
        forget_the_half,
        draw_momenta_with_the_inverse_mass,
    ],
    ids=lambda plant: plant.__name__,
)
def test_planted_bugs_are_caught(plant, monkeypatch):
    kernel = plant(monkeypatch)
    with pytest.raises(AssertionError, match=r"means are wrong|do not follow"):
        assert_banana(stay(kernel))


def test_small_steps_far_from_zero_are_not_lost_in_float32():
    """64 steps of about 0.01 near a million, where float32 numbers are 1/16 apart."""
    kernel = HMC(64, 0.01, is_length_random=False)
    start = jnp.full((5,), 1e6, jnp.float32)

    def flat(x):
        return 0 * jnp.sum(x)

    key = jax.random.key(0)
    state, info = jax.jit(lambda x: kernel.step(flat, key, kernel.init(flat, x)))(start)
    momentum = jax.random.normal(jax.random.split(key, 3)[0], (5,), jnp.float32)
    assert info.is_accepted
    moved = np.asarray(state.position, np.float64) - 1e6
    np.testing.assert_allclose(moved, 0.64 * momentum, atol=1 / 32)
    assert np.max(np.abs(moved)) > 0.3


def test_a_uniform_of_exactly_zero_accepts_no_bad_proposal():
    """In float32 one uniform in 8 million is 0, whose logarithm accepts whatever is proposed."""
    key = jax.random.key(16438558)
    key_accept = jax.random.split(key, 3)[2]
    assert jax.random.uniform(key_accept, dtype=jnp.float32) == 0

    def cliff(x):
        return jnp.where(jnp.sum(jnp.abs(x)) == 0, 0.0, -100.0).astype(x.dtype)

    kernel = HMC(1, 0.1)
    x = jnp.zeros(1, jnp.float32)
    _, info = jax.jit(lambda x: kernel.step(cliff, key, kernel.init(cliff, x)))(x)
    assert not info.is_accepted


def test_divergence_zero_density_and_nan_are_told_apart():
    kernel = HMC(8, 0.5, is_length_random=False)
    start = jnp.full(2, 0.5)

    def edge(value):
        return lambda x: jnp.where(jnp.all(x == start), 0.0, value)

    def nan_gradient(x):
        return banana(x) + jnp.where(jnp.all(x == start), 0.0, jnp.sqrt(0 * jnp.sum(x)))

    def steep(x):
        return -1e4 * jnp.sum(x**4)

    expected = {
        "zero density": (edge(-jnp.inf), True, False),
        "NaN": (edge(jnp.nan), True, True),
        "plus infinity": (edge(jnp.inf), True, True),
        "NaN in the gradient alone": (nan_gradient, True, True),
        "a wall": (steep, True, False),
        "banana": (lambda x: banana(x / 4), False, False),
    }
    for name, (density, is_divergent, is_nan) in expected.items():
        x = jax.jit(jax.value_and_grad(density))(start)
        state = hmc.HamiltonianState(start, x[0], jnp.nan_to_num(x[1]))
        new, info = jax.jit(lambda s, f=density: kernel.step(f, jax.random.key(0), s))(state)
        assert (bool(info.is_divergent), bool(info.is_nan)) == (is_divergent, is_nan), name
        if is_divergent:
            assert not info.is_accepted
            assert info.acceptance_rate == 0
            assert (
                info.num_gradients < 8 or name == "plus infinity"
            )  # what has blown up is not followed
            np.testing.assert_array_equal(new.position, start)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": float("nan")}, "step_size"),
        ({"target_acceptance": 1.0}, "target_acceptance"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, name):
    with pytest.raises(BayleafError, match=name):
        HMC(**settings)


def test_a_step_without_a_step_size_says_what_to_do():
    kernel = HMC()
    with pytest.raises(BayleafError, match="step_size"):
        kernel.step(banana, jax.random.key(0), kernel.init(banana, jnp.zeros(2)))
