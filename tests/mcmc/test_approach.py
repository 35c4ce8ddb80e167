"""The ascent to the mass: arrives from afar, stops where there is no mode, stays when there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import cauchy, norm

from bayleaf.mcmc.approach import MAX_TRIES, approach
from bayleaf.mcmc.hmc import HMC
from bayleaf.mcmc.nuts import NUTS

DIM = 10
X = np.random.default_rng(0).normal(size=(200, DIM - 1)) * np.logspace(-1, 1, DIM - 1)
Y = X @ np.ones(DIM - 1) + np.random.default_rng(1).normal(size=200)


def regression(p):
    """y ~ N(X beta, sigma), with log sigma as a coordinate."""
    scale = jnp.exp(p["log_sigma"])
    prior = norm.logpdf(p["beta"], 0, 10).sum() + norm.logpdf(p["log_sigma"])
    return norm.logpdf(jnp.asarray(Y), jnp.asarray(X) @ p["beta"], scale).sum() + prior


def start(beta, log_sigma):
    return {"beta": jnp.full(DIM - 1, beta), "log_sigma": jnp.asarray(log_sigma)}


climb = jax.jit(lambda p: approach(regression, p))


@pytest.mark.slow
def test_a_regression_ten_billion_nats_away_arrives():
    """Known noise, columns in units from 0.1 to 10: a Gaussian of condition 10,000."""

    def density(beta):
        residual = jnp.asarray(Y) - jnp.asarray(X) @ beta
        return -0.5 * jnp.sum((residual / 0.1) ** 2) - 0.005 * jnp.sum(beta**2)

    top = density(jnp.linalg.solve(X.T @ X + 1e-4 * jnp.eye(DIM - 1), X.T @ Y))
    starts = jax.random.normal(jax.random.key(0), (20, DIM - 1)) * 1000
    ends, num_gradients = jax.jit(jax.vmap(lambda x: approach(density, x)))(starts)
    below = np.asarray(top - jax.vmap(density)(ends))
    assert np.min(np.asarray(top - jax.vmap(density)(starts))) > 1e9
    assert np.max(np.asarray(num_gradients)) < MAX_TRIES
    # Patience ends up to 100 nats short of the mode (a draw lies 4.5 below): warm-up does the rest.
    assert np.max(below) < 200


@pytest.mark.parametrize(("beta", "log_sigma"), [(300.0, -2.0), (-30.0, -5.0), (3.0, 5.0)])
def test_with_the_noise_unknown_what_is_left_is_for_warm_up(beta, log_sigma):
    """Here the noise swells first, which leaves a plateau on which the ascent loses patience.

    All but a millionth of the way is done by then, and the energies are those of a typical start.
    """
    begin = start(beta, log_sigma)
    end, num_gradients = climb(begin)
    assert int(num_gradients) < 100
    assert jax.tree.structure(end) == jax.tree.structure(begin)
    top = float(regression(start(1.0, 0.0)))
    gap_before, gap_after = top - float(regression(begin)), top - float(regression(end))
    assert gap_after < max(1e-5 * gap_before, 20)


def test_the_gradients_are_counted_and_nothing_is_random():
    calls = []

    def counted(p):
        jax.debug.callback(lambda: calls.append(1))
        return regression(p)

    begin = start(2.0, 1.0)
    counting = jax.jit(lambda p: approach(counted, p))
    end, num_gradients = counting(begin)
    jax.effects_barrier()
    assert len(calls) == int(num_gradients)
    # The same program: another one, without the counter, may round otherwise when optimised.
    again, _ = counting(begin)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), end, again))


def test_started_in_the_mass_it_stays_near():
    """From draws of a Gaussian: a few steps, and never below the start."""
    draws = jnp.asarray(np.random.default_rng(0).normal(size=(200, 20)))
    scales = jnp.logspace(-2, 2, 20)

    def density(x):
        return -0.5 * jnp.sum((x / scales) ** 2)

    begin = draws * scales[None]
    ends, num_gradients = jax.jit(jax.vmap(lambda x: approach(density, x)))(begin)
    gain = jax.vmap(density)(ends) - jax.vmap(density)(begin)
    assert np.all(np.asarray(gain) >= 0)
    assert np.max(np.abs(ends / scales[None])) < 6
    assert np.mean(np.asarray(num_gradients)) < 15


EFFECTS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def centred_eight_schools(x):
    """No mode: the density is infinite where tau is 0 and all effects are alike."""
    theta, mu, log_tau = x[:8], x[8], x[9]
    tau = jnp.exp(log_tau)
    likelihood = norm.logpdf(jnp.asarray(EFFECTS), theta, jnp.asarray(ERRORS)).sum()
    prior = norm.logpdf(theta, mu, tau).sum() + norm.logpdf(mu, 0, 5) + cauchy.logpdf(tau, 0, 5)
    return likelihood + prior + log_tau


def test_a_density_without_a_mode_is_not_followed_to_infinity():
    starts = jax.random.uniform(jax.random.key(0), (50, 10), minval=-2, maxval=2)
    ends, num_gradients = jax.jit(jax.vmap(lambda x: approach(centred_eight_schools, x)))(starts)
    assert np.all(np.isfinite(np.asarray(ends)))
    assert np.max(np.asarray(num_gradients)) < 100
    assert np.min(np.exp(np.asarray(ends)[:, 9])) > 1e-3


def test_points_that_are_not_finite_are_stepped_around():
    """A first step of any length leaves the box; beyond it wait NaN, +inf in disguise and -inf."""

    def boxed(outside):
        def density(x):
            value = -0.5 * jnp.sum((x - 0.9) ** 2) * 1e4
            return jnp.where(jnp.all(jnp.abs(x) < 1), value, outside)

        return density

    for outside in (jnp.nan, -jnp.inf):
        density = boxed(outside)
        x, _ = jax.jit(lambda x, f=density: approach(f, x))(jnp.full(3, -0.9))
        np.testing.assert_allclose(x, 0.9, atol=0.1)

    def bad_gradient(x):
        """Higher beyond 2, but with a NaN gradient there."""
        return boxed(-jnp.inf)(x) + jnp.where(x[0] > 2, jnp.sqrt(0 * x[0]), 0.0)

    x, _ = jax.jit(lambda x: approach(bad_gradient, x))(jnp.full(3, -0.9))
    assert np.all(np.isfinite(np.asarray(x)))


def test_a_flat_density_a_nan_and_a_lone_point_end_the_ascent():
    densities = {
        "flat": lambda x: 0.0 * jnp.sum(x),
        "NaN": lambda x: jnp.nan * jnp.sum(x),
        "nowhere": lambda x: -jnp.inf + 0 * jnp.sum(x),
        "lone": lambda x: jnp.where(jnp.all(x == 0.5), jnp.sum(x), -jnp.inf),
    }
    for name, density in densities.items():
        x, tries = jax.jit(lambda x, f=density: approach(f, x))(jnp.full(3, 0.5))
        np.testing.assert_array_equal(x, 0.5, err_msg=name)
        assert int(tries) < MAX_TRIES / 2, name


def test_an_endless_slope_is_left_in_the_end():
    x, tries = jax.jit(lambda x: approach(lambda x: jnp.sum(x), x))(jnp.zeros(3))
    assert int(tries) <= MAX_TRIES
    assert np.all(np.isfinite(np.asarray(x)))


@pytest.mark.parametrize("kernel", [HMC(), NUTS()])
def test_hamiltonian_kernels_approach_in_the_dtype_of_the_position(kernel):
    begin = jnp.full(3, 50.0, jnp.float32)
    end, num_gradients = kernel.approach(lambda x: -0.5 * jnp.sum(x**2), begin)
    assert end.dtype == jnp.float32
    assert int(num_gradients) < 30
    assert np.max(np.abs(np.asarray(end))) < 1
