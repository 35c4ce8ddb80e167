"""Training of infinite networks against closed forms, an ODE, and the processes at its two ends."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from bayleaf import gp
from bayleaf.errors import BayleafError
from bayleaf.infinite import Dense, Erf, serial
from bayleaf.linalg import NotPositiveDefiniteError

RNG = np.random.default_rng(0)
X, NEW = RNG.standard_normal((6, 3)), RNG.standard_normal((4, 3))
Y = RNG.standard_normal((6, 2))
STD = {"weight_std": 1.4, "bias_std": 0.3}
NET = serial(Dense(8, **STD), Erf(), Dense(1, **STD))
ENSEMBLE = gp.TrainedEnsemble(NET, X, Y)
K, THETA = (np.asarray(m) for m in NET.kernel(X, get=("nngp", "ntk")))
K_NEW, THETA_NEW = (np.asarray(m) for m in NET.kernel(NEW, X, get=("nngp", "ntk")))


@pytest.mark.parametrize("time", [0.0, 0.03, 2.0, 1e9, math.inf])
def test_mean_and_covariance_are_the_formulas(time):
    decay = expm(-THETA * time) if time < 1e3 else np.zeros((6, 6))
    pull = np.linalg.solve(THETA, (np.eye(6) - decay)) @ THETA_NEW.T
    mixed = K_NEW @ pull
    covariance = np.asarray(NET.kernel(NEW, get="nngp")) + pull.T @ K @ pull - mixed - mixed.T
    got = ENSEMBLE.predict(NEW, time=time)
    np.testing.assert_allclose(got.mean, pull.T @ Y, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(got.covariance, covariance, rtol=1e-9, atol=1e-11)


def test_at_the_data_training_ends_in_the_data():
    end = ENSEMBLE.predict(X)
    np.testing.assert_allclose(end.mean, Y, rtol=1e-10)
    np.testing.assert_allclose(end.covariance, np.zeros((6, 6)), atol=1e-10)


@pytest.mark.slow
def test_training_the_read_out_ends_in_the_posterior_of_the_network():
    readout = gp.TrainedEnsemble(NET, X, Y, trained="readout").predict(NEW)
    posterior = gp.GaussianProcess(gp.NNGP(NET)).condition(X, Y)
    np.testing.assert_allclose(readout.mean, posterior.mean(NEW), rtol=1e-9)
    np.testing.assert_allclose(readout.covariance, posterior.covariance(NEW), rtol=1e-8, atol=1e-11)
    # The planted confusion: with the tangent kernel the spread is that of no posterior.
    tangent = gp.GaussianProcess(gp.NTK(NET)).condition(X, Y)
    spread = ENSEMBLE.predict(NEW).covariance
    np.testing.assert_allclose(ENSEMBLE.predict(NEW).mean, tangent.mean(NEW), rtol=1e-9)
    assert not np.allclose(spread, tangent.covariance(NEW), rtol=0.1)


def test_a_flow_follows_gradient_descent_in_small_steps():
    flow, start, start_new = (
        gp.Flow(THETA),
        np.random.default_rng(4).standard_normal((6, 2)),
        np.ones((4, 2)),
    )
    step_size, num_steps = 1e-4 * float(flow.max_step_size), 20_000

    def step(carry, _):
        f, f_new = carry
        error = f - Y
        return (f - step_size * THETA @ error, f_new - step_size * THETA_NEW @ error), None

    ends, _ = jax.lax.scan(
        step, (jnp.asarray(start), jnp.asarray(start_new)), None, length=num_steps
    )
    time = step_size * num_steps
    for theta, begin, end in ((THETA, start, ends[0]), (THETA_NEW, start_new, ends[1])):
        got = flow.predict(theta, Y, time=time, start=begin, start_data=start)
        np.testing.assert_allclose(got, end, rtol=2e-4, atol=2e-4)


@pytest.mark.slow
def test_a_singular_kernel_has_every_finite_time_and_no_end():
    twice = np.vstack([X, X[:1]])
    outputs = np.vstack([Y, Y[:1] + 1])
    ensemble = gp.TrainedEnsemble(NET, twice, outputs)
    assert np.all(np.isfinite(ensemble.predict(NEW, time=5.0).mean))
    with pytest.raises(NotPositiveDefiniteError, match="jitter"):
        ensemble.predict(NEW)
    assert np.all(np.isfinite(gp.TrainedEnsemble(NET, twice, outputs, jitter=1e-4).predict(NEW)[0]))


def test_bad_input_is_named():
    with pytest.raises(BayleafError, match="time"):
        ENSEMBLE.predict(NEW, time=-1.0)
    with pytest.raises(BayleafError, match="trained"):
        gp.TrainedEnsemble(NET, X, Y, trained="half")
    with pytest.raises(BayleafError, match="y: got shape"):
        gp.TrainedEnsemble(NET, X, Y[:3])
    with pytest.raises(BayleafError, match="theta: got shape"):
        gp.Flow(THETA_NEW)
