"""Kernels against their formulas, their algebra, their gradients, and the prior that they make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayleaf as bl
from bayleaf import gp
from bayleaf.errors import BayleafError
from bayleaf.gp import stationary
from bayleaf.infinite import Dense, Relu, serial

RNG = np.random.default_rng(0)
X1, X2 = RNG.standard_normal((6, 3)), RNG.standard_normal((4, 3))
SCALES = np.array([0.7, 1.3, 2.0])
VARIANCES = np.array([0.5, 1.0, 2.0])
NET = serial(Dense(8, weight_std=1.4, bias_std=0.3), Relu(), Dense(1, weight_std=1.4, bias_std=0.3))


def by_hand(profile):
    """The matrix of a function of the scaled distance."""
    gaps = (X1[:, None] - X2[None]) / SCALES
    return profile(np.sqrt(np.sum(gaps**2, axis=-1)))


DOTS = (X1 * VARIANCES) @ X2.T
KERNELS = {
    "squared exponential": (
        gp.SquaredExponential(SCALES),
        by_hand(lambda r: np.exp(-(r**2) / 2)),
    ),
    "matern 1/2": (gp.Matern12(SCALES), by_hand(lambda r: np.exp(-r))),
    "matern 3/2": (
        gp.Matern32(SCALES),
        by_hand(lambda r: (1 + np.sqrt(3) * r) * np.exp(-np.sqrt(3) * r)),
    ),
    "matern 5/2": (
        gp.Matern52(SCALES),
        by_hand(lambda r: (1 + np.sqrt(5) * r + 5 / 3 * r**2) * np.exp(-np.sqrt(5) * r)),
    ),
    "rational quadratic": (
        gp.RationalQuadratic(SCALES, 0.8),
        by_hand(lambda r: (1 + r**2 / 1.6) ** -0.8),
    ),
    "periodic": (
        gp.Periodic(SCALES, 0.9),
        np.exp(-2 * np.sum(np.sin(np.pi * (X1[:, None] - X2[None]) / SCALES) ** 2, -1) / 0.9**2),
    ),
    "linear": (gp.Linear(VARIANCES), DOTS),
    "polynomial": (gp.Polynomial(3, VARIANCES, 0.4), (DOTS + 0.4) ** 3),
    "constant": (gp.Constant(0.3), np.full((6, 4), 0.3)),
    "white": (gp.White(0.3), np.zeros((6, 4))),
    "algebra": (
        2.0 * gp.Linear(VARIANCES) * gp.Constant(0.5) + gp.Matern12(SCALES) + 1.0,
        DOTS + by_hand(lambda r: np.exp(-r)) + 1,
    ),
}


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_is_its_formula(name):
    kernel, expected = KERNELS[name]
    np.testing.assert_allclose(kernel(X1, X2), expected, rtol=1e-13, atol=1e-14)


EVERY = {name: kernel for name, (kernel, _) in KERNELS.items()} | {
    "nngp": gp.NNGP(NET),
    "ntk": gp.NTK(NET),
    "nngp + matern": 0.5 * gp.NNGP(NET) + gp.Matern52(SCALES),
}


@pytest.mark.parametrize("name", EVERY)
def test_a_kernel_of_one_batch_is_symmetric_with_its_diagonal_and_serves_as_a_prior(name):
    kernel = EVERY[name]
    matrix = np.asarray(kernel(X1))
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(np.diagonal(matrix), kernel.diagonal(X1), rtol=1e-14)
    assert np.linalg.eigvalsh(matrix)[0] > -1e-12 * matrix.max()
    assert kernel(X1.astype(np.float32)).dtype == jnp.float32
    prior = bl.Gaussian(jnp.zeros(6), kernel(X1) + 1e-6 * np.eye(6))
    assert bool(jnp.isfinite(prior.log_prob(jnp.zeros(6))))


@pytest.mark.parametrize("name", ["matern 1/2", "matern 3/2", "matern 5/2"])
@pytest.mark.parametrize("num_features", [3, 6])
def test_gradients_on_equal_points_are_finite_and_agree_with_differences(name, num_features):
    # A root with a safe branch for zero gave another value under jit and grad than without.
    make = type(EVERY[name])
    rng = np.random.default_rng(3)
    x = rng.standard_normal((5, num_features))
    x[4] = x[0]
    weights = rng.standard_normal((5, 5))

    def value(scale):
        return jnp.sum(weights * make(scale)(x))

    got, slope = jax.jit(jax.value_and_grad(value))(0.7)
    # The distance of equal points may come out as 1e-8, so the step must be much larger.
    difference = (value(0.7 + 1e-3) - value(0.7 - 1e-3)) / 2e-3
    np.testing.assert_allclose(got, value(0.7), rtol=1e-7)
    np.testing.assert_allclose(slope, difference, rtol=1e-4)


def test_few_and_many_features_give_the_same_distances(monkeypatch):
    by_differences = stationary.squared_distances(jnp.asarray(X1), jnp.asarray(X2))
    monkeypatch.setattr(stationary, "FEW", 0)
    by_products = stationary.squared_distances(jnp.asarray(X1), jnp.asarray(X2))
    np.testing.assert_allclose(by_products, by_differences, rtol=1e-13)


def test_a_long_series_keeps_its_digits_in_float32():
    # Days of a century: |a|^2 would be 1e9 and its round-off 100 days squared.
    x = np.arange(36_000, 36_020, dtype=np.float32)[:, None]
    exact = np.exp(-0.5 * (np.arange(20)[:, None] - np.arange(20)[None]) ** 2)
    np.testing.assert_allclose(gp.SquaredExponential(1.0)(x), exact, atol=1e-6)


BAD = {
    "x1: got shape": lambda: gp.Matern52(1.0)(np.zeros(3)),
    "x2: got shape": lambda: gp.Matern52(1.0)(np.zeros((3, 2)), np.zeros((3, 1))),
    "length_scale: got -1.0": lambda: gp.Matern52(-1.0),
    "length_scale: got shape": lambda: gp.Matern52([1.0, 2.0])(np.zeros((3, 3))),
    "variance: got 0": lambda: 0.0 * gp.Matern52(1.0),
    "net: got a dict": lambda: gp.NNGP({}),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message):
    with pytest.raises(BayleafError, match=message):
        BAD[message]()
