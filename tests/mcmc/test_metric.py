"""Metrics against an explicit mass matrix, and the leapfrog integrator on each of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.mcmc.hamiltonian import depart, leapfrog
from bayleaf.mcmc.metric import Dense, Diagonal, LowRank, Metric
from tests.tools.statistics import assert_mean

DIM = 4
SCALES = np.array([0.2, 0.4, 0.8, 1.0])
VECTORS = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, 2)))[0]
EIGENVALUES = np.array([2.0, 0.1])


def make_metric(name):
    if name == "diagonal":
        return Diagonal(jnp.asarray(SCALES**2))
    low_rank = LowRank(jnp.asarray(SCALES), jnp.asarray(VECTORS), jnp.asarray(EIGENVALUES))
    if name == "low rank":
        return low_rank
    inverse_mass = explicit_inverse_mass("dense")
    return Dense(
        jnp.asarray(inverse_mass), jnp.asarray(np.linalg.cholesky(np.linalg.inv(inverse_mass)))
    )


def explicit_inverse_mass(name):
    """M^-1 from its formula in the docstring."""
    if name == "diagonal":
        return np.diag(SCALES**2)
    stretch = np.eye(DIM) + VECTORS @ np.diag(EIGENVALUES - 1) @ VECTORS.T
    return np.diag(SCALES) @ stretch @ np.diag(SCALES)


EVERY = pytest.mark.parametrize("name", ["diagonal", "low rank", "dense"])


@EVERY
def test_velocity_momentum_and_scales_are_those_of_the_explicit_mass_matrix(name):
    metric, inverse_mass = make_metric(name), explicit_inverse_mass(name)
    assert isinstance(metric, Metric)
    eye = jnp.eye(DIM)
    velocity = jax.vmap(metric.velocity, out_axes=1)(eye)
    np.testing.assert_allclose(velocity, inverse_mass, rtol=1e-12, atol=1e-12)
    # The momentum is linear in z: its covariance is that of the rows exactly, F F' = M.
    factor = np.asarray(jax.vmap(metric.momentum, out_axes=1)(eye))
    np.testing.assert_allclose(factor @ factor.T, np.linalg.inv(inverse_mass), rtol=1e-10)
    np.testing.assert_allclose(metric.scales, np.sqrt(np.diag(inverse_mass)), rtol=1e-12)


@EVERY
def test_drawn_momenta_have_the_mass_matrix_as_covariance(name):
    normal = jax.random.normal(jax.random.key(0), (20_000, DIM))
    momenta = np.asarray(jax.vmap(make_metric(name).momentum)(normal))
    mass = np.linalg.inv(explicit_inverse_mass(name))
    assert_mean(momenta[:, :, None] * momenta[:, None, :], mass, iid=True)


def potential(x):
    """Curved, coupled, not symmetric: nothing cancels by luck."""
    return 0.5 * x @ x + 0.1 * jnp.sum(x**3) / 3 + 0.25 * jnp.sum(x**4) + jnp.sin(x[0] * x[1])


value_and_grad = jax.value_and_grad(lambda x: -potential(x))
START = np.array([0.3, -0.5, 0.2, 0.4])
MOMENTUM = np.array([1.0, 0.4, -0.3, 0.2])


@jax.jit
def travel(metric, x, momentum, step, num_steps):
    """End point, its momentum, and the energies at both ends."""
    value, gradient = value_and_grad(x)
    front, kinetic = depart(momentum, gradient, metric, step)

    def advance(_, carry):
        front, _ = carry
        front, leaf = leapfrog(value_and_grad, x, metric, front, step)
        return front, leaf.energy

    front, energy = jax.lax.fori_loop(0, num_steps, advance, (front, kinetic - value))
    return x + front.offset, front.momentum, kinetic - value, energy


@EVERY
def test_the_energy_error_is_of_second_order(name):
    metric = make_metric(name)
    steps = np.array([0.02, 0.01, 0.005, 0.0025])
    errors = []
    for step, num_steps in zip(steps, (25, 50, 100, 200), strict=True):
        _, _, before, after = travel(metric, START, MOMENTUM, step, num_steps)
        errors.append(abs(float(after - before)))
    slopes = np.diff(np.log(errors)) / np.diff(np.log(steps))
    np.testing.assert_allclose(slopes, 2.0, atol=0.1)


@EVERY
def test_the_leapfrog_is_reversible_after_a_flip_of_the_momentum(name):
    metric = make_metric(name)
    x, momentum, _, _ = travel(metric, START, MOMENTUM, 0.1, 20)
    assert np.linalg.norm(x - START) > 0.1
    x, momentum, _, _ = travel(metric, x, -momentum, 0.1, 20)
    np.testing.assert_allclose(x, START, atol=1e-12)
    np.testing.assert_allclose(momentum, -MOMENTUM, atol=1e-12)
    # A negative step from the same point walks the same way back.
    there, momentum, _, _ = travel(metric, START, MOMENTUM, 0.1, 20)
    back, momentum, _, _ = travel(metric, there, momentum, -0.1, 20)
    np.testing.assert_allclose(back, START, atol=1e-12)
    np.testing.assert_allclose(momentum, MOMENTUM, atol=1e-12)


@EVERY
def test_the_leapfrog_preserves_volume(name):
    metric = make_metric(name)

    def flow(z):
        x, momentum, _, _ = travel(metric, z[:DIM], z[DIM:], 0.2, 5)
        return jnp.concatenate([x, momentum])

    jacobian = jax.jacfwd(flow)(jnp.concatenate([START, MOMENTUM]))
    assert np.linalg.norm(jacobian - np.eye(2 * DIM)) > 1
    np.testing.assert_allclose(np.linalg.det(jacobian), 1.0, rtol=1e-10)


@EVERY
def test_the_energy_is_that_of_the_explicit_mass_matrix(name):
    inverse_mass = explicit_inverse_mass(name)
    end, momentum, before, after = travel(make_metric(name), START, MOMENTUM, 0.1, 7)
    for x, p, energy in ((START, MOMENTUM, before), (end, np.asarray(momentum), after)):
        expected = float(potential(jnp.asarray(x))) + 0.5 * p @ inverse_mass @ p
        np.testing.assert_allclose(energy, expected, rtol=1e-12)


def test_small_displacements_survive_far_from_zero_in_float32():
    """Float32 numbers near a million are 1/16 apart: adding each small step to x would lose it."""
    x = jnp.full(3, 1e6, jnp.float32)
    momentum = jnp.asarray([1.0, -2.0, 0.5], jnp.float32)
    flat = jax.value_and_grad(lambda x: 0.0 * jnp.sum(x))
    metric, step = Diagonal(jnp.ones(3, jnp.float32)), jnp.float32(0.005)
    front, _ = depart(momentum, jnp.zeros(3, jnp.float32), metric, step)
    naive = x
    for _ in range(200):
        front, _ = leapfrog(flat, x, metric, front, step)
        naive = naive + step * momentum
    np.testing.assert_allclose(front.offset, momentum, rtol=1e-5)
    np.testing.assert_array_equal(x + front.offset - x, momentum)
    np.testing.assert_array_equal(naive, x)
