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


KINKED = {
    "relu": (jax.nn.relu, (0.0,)),
    "hard tanh": (lambda x: jnp.clip(x, -1, 1), (-1.0, 1.0)),
    "relu6": (lambda x: jnp.clip(x, 0, 6), (0.0, 6.0)),
    "soft shrink": (lambda x: x - jnp.clip(x, -0.5, 0.5), (-0.5, 0.5)),
    "hard swish": (lambda x: x * jnp.clip(x + 3, 0, 6) / 6, (-3.0, 3.0)),
    "selu": (jax.nn.selu, (0.0,)),
}


def series_of(function, kinks, q, num_terms=300):
    """c_n(q) in NumPy, on panels that end at the kinks."""
    ends = np.unique(np.concatenate([np.arange(-12, 12.5, 0.5), np.array(kinks) / np.sqrt(q)]))
    points, shares = np.polynomial.legendre.leggauss(20)
    half, middle = np.diff(ends)[:, None] / 2, (ends[1:] + ends[:-1])[:, None] / 2
    z = (middle + half * points).ravel()
    row, before = (half * shares).ravel() * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), 0 * z
    values, sums = np.asarray(function(jnp.asarray(np.sqrt(q) * z))), []
    for n in range(num_terms):
        sums.append(values @ row)
        row, before = (z * row - np.sqrt(n) * before) / np.sqrt(n + 1), row
    return np.array(sums)


@pytest.mark.parametrize(
    "name",
    [n if n == "selu" else pytest.param(n, marks=pytest.mark.slow) for n in KINKED],
)
def test_known_kinks_take_part_exactly(name):
    """At |rho| = 0.7 a plain series of 300 terms has all digits; ours has 32 terms and kinks."""
    function, kinks = KINKED[name]
    activation = Elementwise(function, num_terms=32, kinks=kinks)
    n, rho = np.arange(300), np.array([-0.7, 0.2, 0.7])
    q1, q2 = jnp.array([[1.3], [0.6], [2.0]]), jnp.array([[1.3], [1.4], [2.02]])
    got = activation.cross(pair(rho[None], q1, q2))
    c = [
        series_of(function, kinks, a) * series_of(function, kinks, b)
        for a, b in zip(q1.ravel(), q2.ravel(), strict=True)
    ]
    value = np.array([np.sum(row * rho[:, None] ** n, axis=1) for row in c])
    size = np.sqrt(activation.second_moment(q1) * activation.second_moment(q2))
    error = np.max(np.abs(got.value - value) / size, axis=1)
    assert np.all(error <= got.error)
    assert got.error < 1e-5
    if name not in ("hard swish", "selu"):  # straight between the kinks: nothing is left out
        assert np.all(error < np.array([1e-12, 1e-12, 1e-7]))
        powers = n[1:] * rho[:, None] ** (n[1:] - 1)
        slope = np.array([np.sum(row[1:] * powers, axis=1) for row in c]) / np.sqrt(q1 * q2)
        np.testing.assert_allclose(got.slope, slope, atol=1e-7)


@pytest.mark.parametrize(
    ("activation", "same"),
    [
        (Elementwise(jnp.abs, kinks=[0.0]), Abs()),
        (Elementwise(lambda x: jnp.where(x > 0, x, 0.2 * x), kinks=[0.0]), LeakyRelu(0.2)),
        # A kink that is none changes nothing.
        (Elementwise(jnp.tanh, num_terms=100, kinks=[0.7]), Elementwise(jnp.tanh, num_terms=100)),
    ],
)
def test_kinks_agree_with_closed_forms_up_to_rho_one(activation, same):
    rho = jnp.asarray([-1, -0.999, 0.0, 0.99, 1 - 1e-7, 1])
    got, expected = (a.cross(pair(rho, 0.8, 0.8)) for a in (activation, same))
    np.testing.assert_allclose(got.value, expected.value, atol=1e-10)
    np.testing.assert_allclose(got.slope, expected.slope, atol=1e-8)


def test_a_kink_that_is_not_told_is_reported():
    """The planted error: ReLU by a plain series is wrong, by less than it says."""
    rho = jnp.asarray([-0.9, 0.5, 0.95, 0.999])
    units = pair(rho, 1.0, 1.0)
    got, exact = Elementwise(jax.nn.relu).cross(units), Relu().cross(units)
    error = np.max(np.abs(got.value - exact.value)) / 0.5
    assert 1e-5 < error <= got.error


@pytest.mark.parametrize(
    "call",
    [
        lambda: Elementwise(jnp.sign, kinks=[0.0]),
        lambda: Elementwise(jnp.abs, kinks=[float("nan")]),
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
