"""What is claimed of wide networks in training, by training them: figure 2 of arXiv 2004.05867."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.infinite import Dense, Erf, serial
from bayleaf.infinite.drift import relative_change
from bayleaf.infinite.empirical import empirical_ntk
from bayleaf.infinite.linearised import linearise

WIDTHS = (32, 128, 384)
RATE, STEPS, NUM = 0.03, 10, 12
X = np.asarray(jax.random.normal(jax.random.key(0), (8, 6)))
Y = np.sign(X[:, :1])
Z = np.asarray(jax.random.normal(jax.random.key(1), (5, 6)))


def network(width, start):
    settings = {"weight_std": 1.5, "bias_std": 0.1, "start": start}
    return serial(
        Dense(width, **settings), Erf(), Dense(width, **settings), Erf(), Dense(1, **settings)
    )


@pytest.fixture(scope="module")
def measured():
    """Per start and width: drifts of kernel and weights, distances to the linearised network."""
    results = {}
    for width in WIDTHS:
        net = network(width, "gaussian")

        def train(f, params):
            def step(p, _):
                slopes = jax.grad(lambda p: jnp.mean((f(p, X) - Y) ** 2))(p)
                return jax.tree.map(lambda a, b: a - RATE * b, p, slopes), None

            return jax.lax.scan(step, params, length=STEPS)[0]

        @jax.jit
        def one(params, net=net, train=train):
            linear = linearise(net.apply, params)
            end, end_linear = train(net.apply, params), train(linear, params)
            gap = jnp.sqrt(jnp.mean((net.apply(end, Z) - linear(end_linear, Z)) ** 2))
            kernels = [empirical_ntk(net.apply, p, X) for p in (params, end)]
            weights = relative_change(params[2]["weight"], end[2]["weight"])
            return jnp.stack([relative_change(*kernels), weights, gap])

        for start in ("gaussian", "orthogonal"):
            drawn = network(width, start)
            keys = jax.random.split(jax.random.key(width), NUM)
            rows = [one(drawn.init(key, (6,))) for key in keys]
            results[start, width] = np.asarray(rows).mean(axis=0)
    return results


def slopes(measured, start):
    values = np.log([measured[start, width] for width in WIDTHS[1:]])
    return np.diff(values, axis=0)[0] / np.log(WIDTHS[2] / WIDTHS[1])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["gaussian", "orthogonal"])
def test_the_kernel_drifts_like_one_over_width(measured, start):
    kernel, weights, gap = slopes(measured, start)
    assert -1.25 < kernel < -0.75
    assert -1.2 < weights < -0.8 or -0.6 < weights < -0.4
    assert gap < -0.4  # the linearised network is approached at least like 1 / sqrt(width)


@pytest.mark.slow
def test_orthogonal_weights_do_not_keep_it_steadier_by_order(measured):
    for width in WIDTHS:
        ratio = measured["orthogonal", width][0] / measured["gaussian", width][0]
        assert 0.5 < ratio < 2
