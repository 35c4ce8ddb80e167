"""Wide finite networks on images and sequences approach the kernels, at the rate 1 / width."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import BayleafError
from bayleaf.infinite import (
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Relu,
    SelfAttention,
    layer,
    serial,
)
from tests.tools.statistics import assert_mean

SETTINGS = {"weight_std": 1.4, "bias_std": 0.3}
WIDTHS, NUM = (16, 64), 200
X = np.asarray(jax.random.normal(jax.random.key(3), (2, 4, 2)), np.float32)


def circular(width, start="gaussian"):
    conv = {"padding": "CIRCULAR", "start": start, **SETTINGS}
    return [Conv(width, (3,), **conv), Relu(), Conv(width, (3,), strides=2, **SETTINGS), Relu()]


def flat(width):
    return serial(*circular(width), Flatten(), Dense(1, **SETTINGS))


def pooled(width):
    first = [*circular(width), AvgPool((2,)), Conv(width, (1,)), Relu()]
    return serial(*first, GlobalAvgPool(), Dense(1, **SETTINGS))


def delta(width):
    return serial(*circular(width, "delta_orthogonal"), Flatten(), Dense(1, **SETTINGS))


def linear_attention(width):
    attention = SelfAttention(width, width, head_width=width, bias_std=0.2)
    return serial(Dense(width, **SETTINGS), attention, Flatten(), Dense(1, **SETTINGS))


def gaussian_scores(width):
    attention = SelfAttention(
        width, width, head_width=width, mechanism="identity", scaling="sqrt", bias_std=0.2
    )
    return serial(Dense(width, **SETTINGS), attention, GlobalAvgPool(), Dense(1, **SETTINGS))


def tangent_kernels(net):
    """``[draw, 2, 2]`` of networks drawn from the prior."""

    @jax.jit
    def draw(keys):
        def one(key):
            params = net.init(key, X.shape[1:])
            jacobian = jax.jacrev(lambda p: net.apply(p, X)[:, 0])(params)
            rows = [leaf.reshape(2, -1) for leaf in jax.tree.leaves(jacobian)]
            return sum(row @ row.T for row in rows)

        return jax.lax.map(one, keys)

    return np.asarray(draw(jax.random.split(jax.random.key(1), NUM)))


@pytest.mark.slow
@pytest.mark.parametrize("build", [flat, pooled, delta, linear_attention, gaussian_scores])
def test_tangent_kernels_of_wide_networks(build):
    # Convolutions in float64 are slow on CPUs, and the noise of draws is far larger.
    with jax.enable_x64(False):
        narrow, wide = (tangent_kernels(build(width)).astype(float) for width in WIDTHS)
        nngp, exact = (np.asarray(k, float) for k in build(8).kernel(X))
    # The variance falls like 1 / width: 4 for these widths, and 1 if nothing converges.
    ratio = np.mean(narrow.var(axis=0) / wide.var(axis=0))
    assert 2.4 < ratio < 7
    # The mean of both widths without its term of order 1 / width.
    extrapolated = (4 * wide - narrow) / 3
    assert_mean(extrapolated, exact, iid=True)
    # A sum without one of its parts is noticed: with Gaussian scores, the gradient of the scores.
    part = 2 if build is gaussian_scores else 0.5
    with pytest.raises(AssertionError):
        assert_mean(extrapolated, exact - part * nngp, iid=True)


def test_memory_is_refused_for_what_is_held_at_once(monkeypatch):
    """Tiles of a pooled network are dropped one after the other; a matrix of vectors is not."""
    monkeypatch.setattr(layer, "host_memory", lambda: 4e9)
    pooled = serial(Conv(8, (3, 3)), Relu(), GlobalAvgPool(), Dense(1))
    images = jax.ShapeDtypeStruct((300, 16, 16, 3), jnp.float32)
    layer.check_size(pooled, images, images, 1)
    vectors = jax.ShapeDtypeStruct((20_000, 5), jnp.float32)
    with pytest.raises(BayleafError, match="kernel_matrix"):
        layer.check_size(serial(Dense(8), Relu(), Dense(1)), vectors, vectors, 1)
    large = jax.ShapeDtypeStruct((2, 200, 200, 3), jnp.float32)
    with pytest.raises(BayleafError, match="inputs"):
        layer.check_size(pooled, large, large, 1)
