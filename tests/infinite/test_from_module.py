"""Equinox modules read into infinite networks."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import BayleafError
from bayleaf.infinite import AvgPool, Conv, Dense, Flatten, Gelu, LayerNorm, Relu, serial
from bayleaf.infinite.from_module import from_module

X = np.asarray(jax.random.normal(jax.random.key(0), (4, 5)))
KEY = jax.random.key(1)


def same_kernels(a, b):
    for name in ("nngp", "ntk"):
        np.testing.assert_array_equal(a.kernel(X, get=name), b.kernel(X, get=name), err_msg=name)


def test_an_mlp_is_read_with_the_law_and_the_widths_of_equinox():
    module = eqx.nn.MLP(5, 2, 32, 2, activation=jax.nn.relu, key=KEY)
    sw = 3**-0.5

    def dense(width, num_inputs):
        return Dense(
            width, weight_std=sw, bias_std=(3 * num_inputs) ** -0.5, parameterization="standard"
        )

    by_hand = serial(dense(32, 5), Relu(), dense(32, 32), Relu(), dense(2, 32))
    same_kernels(from_module(module), by_hand)


def test_the_law_is_the_one_that_equinox_draws_from():
    """Mean squares of many weights: a uniform law has variance of squares 4/45 of its range^4."""
    linear = eqx.nn.Linear(400, 500, key=KEY)
    dense = from_module(linear)
    squares = np.asarray(linear.weight, np.float64).ravel() ** 2 * 400
    error = np.std(squares) / squares.size**0.5
    assert abs(squares.mean() - float(dense.weight_std) ** 2) < 5 * error
    squares = np.asarray(linear.bias, np.float64) ** 2
    error = np.std(squares) / squares.size**0.5
    assert abs(squares.mean() - float(dense.bias_std) ** 2) < 5 * error


@pytest.mark.slow
def test_other_laws_may_be_asked_for():
    module = eqx.nn.Sequential(
        [
            eqx.nn.Linear(5, 8, key=KEY),
            eqx.nn.LayerNorm(8, use_weight=False, use_bias=False),
            eqx.nn.Lambda(functools.partial(jax.nn.gelu, approximate=False)),
            eqx.nn.Dropout(inference=True),
            eqx.nn.Identity(),
            eqx.nn.Linear(8, 1, use_bias=False, key=KEY),
        ]
    )
    got = from_module(module, weight_std=1.4, bias_std=0.3, parameterization="ntk")
    by_hand = serial(
        Dense(8, weight_std=1.4, bias_std=0.3), LayerNorm(1e-5), Gelu(), Dense(1, weight_std=1.4)
    )
    same_kernels(got, by_hand)


@pytest.mark.slow
def test_convolutions_and_pooling():
    module = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(2, 4, 3, padding=1, key=KEY),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.AvgPool2d(2, 2),
            eqx.nn.Conv2d(4, 4, 2, use_bias=False, key=KEY),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(16, 1, key=KEY),
        ]
    )
    got = from_module(module, weight_std=1.4, bias_std=0.3, parameterization="ntk")
    laws = {"weight_std": 1.4, "bias_std": 0.3}
    by_hand = serial(
        Conv(4, (3, 3), padding="SAME", **laws),
        Relu(),
        AvgPool((2, 2), strides=(2, 2)),
        Conv(4, (2, 2), padding="VALID", weight_std=1.4),
        Relu(),
        Flatten(),
        Dense(1, **laws),
    )
    images = np.asarray(jax.random.normal(jax.random.key(3), (3, 6, 6, 2)))
    for name in ("nngp", "ntk"):
        np.testing.assert_array_equal(
            got.kernel(images, get=name), by_hand.kernel(images, get=name), err_msg=name
        )


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (eqx.nn.GRUCell(5, 5, key=KEY), r"layers\[1\]: got GRUCell"),
        (eqx.nn.LayerNorm(5), "learned scale"),
        (eqx.nn.Lambda(jax.nn.softmax), r"layers\[1\]\.fn.*not elementwise"),
        (eqx.nn.Lambda(lambda x: jnp.cumsum(x)), "not elementwise"),
        (eqx.nn.PReLU(), "PReLU"),
        (eqx.nn.MaxPool2d(2), "MaxPool2d"),
        (eqx.nn.Linear("scalar", 5, key=KEY), "scalar"),
        (eqx.nn.Conv2d(2, 4, 3, groups=2, key=KEY), "groups"),
        (eqx.nn.Conv2d(2, 4, 3, dilation=2, key=KEY), "dilation"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name_and_place(layer, message):
    module = eqx.nn.Sequential([eqx.nn.Linear(5, 5, key=KEY), layer])
    with pytest.raises(BayleafError, match=message):
        from_module(module)
