"""Gaussian moments of every activation against a two-dimensional quadrature in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import BayleafError
from bayleaf.infinite import (
    ABRelu,
    Abs,
    Cos,
    Elementwise,
    Erf,
    Exp,
    Gaussian,
    Gelu,
    LeakyRelu,
    Polynomial,
    Rbf,
    Relu,
    Sign,
    Sin,
    arcs,
)
from bayleaf.infinite.activation import pair

ACTIVATIONS = {
    "relu": Relu(),
    "leaky": LeakyRelu(0.2),
    "abs": Abs(),
    "abrelu": ABRelu(-0.5, 1.5),
    "sign": Sign(),
    "erf": Erf(),
    "gelu": Gelu(),
    "sin": Sin(1.3, 0.7, 0.4),
    "cos": Cos(),
    "rbf": Rbf(0.6),
    "exp": Exp(0.5, 0.4),
    "gaussian": Gaussian(1.2, 0.8),
    "polynomial": Polynomial([0.3, 1.0, -0.2, 0.1]),
    "tanh": Elementwise(jnp.tanh, num_terms=60),
}
SMOOTH = [name for name in ACTIVATIONS if name not in ("relu", "leaky", "abs", "abrelu", "sign")]
Z = np.arange(-11, 11, 0.04) + 0.02
WEIGHTS = 0.04 * np.exp(-(Z**2) / 2) / np.sqrt(2 * np.pi)
Q1, Q2 = 0.6, 1.4


def expectations(phi, slope, rho):
    """E phi(u) phi(v) and E phi'(u) phi'(v), by trapezoidal sums in polar coordinates."""
    angles = np.linspace(0, 2 * np.pi, 1601)[:-1] + 1e-3
    radii = (np.arange(1200) + 0.5) * 0.01
    weight = (radii * np.exp(-(radii**2) / 2) * 0.01)[:, None] / angles.size
    u = np.sqrt(Q1) * radii[:, None] * np.cos(angles)
    v = np.sqrt(Q2) * radii[:, None] * np.cos(angles - np.arccos(rho))
    return np.sum(weight * phi(u) * phi(v)), np.sum(weight * slope(u) * slope(v))


def expectations_of_kinked(phi, slope, rho, degree):
    """The same for phi(r x) = r^degree phi(x): only the angle is left to be summed over."""
    angles = (np.arange(400_000) + 0.5) * (2 * np.pi / 400_000)
    u, v = np.cos(angles), np.cos(angles - np.arccos(rho))
    scale = 2 * np.sqrt(Q1 * Q2) if degree else 1.0  # E r^2 = 2
    return scale * np.mean(phi(u) * phi(v)), np.mean(slope(u) * slope(v))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("rho", [-0.7, 0.3])
def test_cross_moments(name, rho):
    activation = ACTIVATIONS[name]

    def phi(x):
        return np.asarray(activation(jnp.asarray(x)))

    def slope(x):
        x = jnp.asarray(x)
        return np.asarray(jax.jvp(activation, (x,), (jnp.ones_like(x),))[1])

    if name in SMOOTH:
        expected, accuracy = expectations(phi, slope, rho), 3e-5
    else:
        # Sums of 400,000 terms, wrong by at most a step's share at each of 4 jumps of size 2.
        expected, accuracy = expectations_of_kinked(phi, slope, rho, name != "sign"), 2e-5
    got = activation.cross(pair(rho, Q1, Q2))
    for value, reference in zip(got[:2], expected, strict=True):
        assert abs(float(value) - reference) <= accuracy


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_moments_of_one_unit_are_the_cross_moments_at_rho_one(name):
    activation = ACTIVATIONS[name]
    q = jnp.asarray(0.9)
    got = activation.cross(pair(1.0, 0.9, 0.9))
    np.testing.assert_allclose(activation.second_moment(q), got.value, rtol=1e-11)
    np.testing.assert_allclose(activation.slope_moment(q), got.slope, rtol=1e-7)


@pytest.mark.parametrize("name", SMOOTH)
def test_one_unit_by_quadrature(name):
    activation = ACTIVATIONS[name]
    values = np.asarray(activation(jnp.asarray(np.sqrt(Q2) * Z)))
    np.testing.assert_allclose(activation.second_moment(jnp.asarray(Q2)), values**2 @ WEIGHTS)


def test_angles_in_both_precisions():
    theta = np.concatenate([[0.0], np.logspace(-6, np.log10(np.pi / 2), 50)])
    gap = 2 * np.sin(theta / 2) ** 2
    gap[-1] = 1.0
    for dtype, accuracy in ((np.float32, 3e-7), (np.float64, 5e-16)):
        np.testing.assert_allclose(arcs.half_angle(jnp.asarray(gap, dtype)), theta, rtol=accuracy)
        area = np.asarray(arcs.chord_area(jnp.asarray(gap, dtype)))
        big = theta > 1e-2  # below, the plain formula has lost its digits
        plain = np.sin(theta) - theta * np.cos(theta)
        np.testing.assert_allclose(area[big], plain[big], rtol=max(accuracy, 1e-11))
        np.testing.assert_allclose(area[~big], theta[~big] ** 3 / 3, rtol=2e-5)
        x = np.linspace(0, 1, 41)
        np.testing.assert_allclose(
            arcs.arcsin(jnp.asarray(x, dtype)), np.arcsin(x), rtol=2 * accuracy
        )
    assert np.isfinite(jax.grad(arcs.half_angle)(0.0))


@pytest.mark.parametrize(
    "call",
    [
        lambda: ABRelu(0.0, 0.0),
        lambda: LeakyRelu(float("nan")),
        lambda: Rbf(-1.0),
        lambda: Gaussian(rate=0.0),
        lambda: Polynomial([]),
        lambda: Elementwise(jnp.tanh, num_terms=0),
        lambda: Elementwise(lambda x: jnp.log(-jnp.abs(x))),
    ],
)
def test_what_is_wrong_is_refused(call):
    with pytest.raises(BayleafError):
        call()
