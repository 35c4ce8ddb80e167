"""Convolutions, pooling and attention: published kernels, brute force, bad input."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from bayleaf.errors import BayleafError
from bayleaf.infinite import (
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    FanInSum,
    FanOut,
    Flatten,
    GlobalAvgPool,
    GlobalSumPool,
    Identity,
    MaxPool,
    Relu,
    SelfAttention,
    SumPool,
    parallel,
    serial,
)
from bayleaf.infinite.spatial_windows import checked_padding, checked_window
from bayleaf.infinite.tiles import by_tiles, tile_entries
from tests.infinite import spatial_reference as reference
from tests.tools.compiling import compilations

ORACLES = Path(__file__).parents[1] / "oracles" / "infinite"
INPUTS = np.load(ORACLES / "inputs.npz")
SETTINGS = {"weight_std": 1.4, "bias_std": 0.3}
SEQUENCES = np.asarray(jax.random.normal(jax.random.key(0), (5, 7, 3)))


def blocks(end):
    """A published network."""
    hidden = [Conv(8, (3, 3), **SETTINGS), Relu()] * 2
    return serial(*hidden, end, Dense(1, **SETTINGS))


def flattened_diagonal(images):
    """The two kernels of each image with itself: no angle, hence no arccos, is needed."""

    def conv(moment):
        wide = np.pad(moment, ((0, 0), (1, 1), (1, 1)))
        rows, columns = moment.shape[1:]
        return sum(wide[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)) / 9

    nngp, ntk = np.mean(images.astype(np.float64) ** 2, axis=-1), 0 * images[..., 0]
    for _ in range(2):
        nngp = 1.4**2 * conv(nngp) + 0.3**2
        ntk = (1.4**2 * conv(ntk) + nngp) / 2
        nngp = nngp / 2
    nngp, ntk = 1.4**2 * np.mean(nngp, axis=(1, 2)) + 0.3**2, 1.4**2 * np.mean(ntk, axis=(1, 2))
    return nngp, ntk + nngp


@pytest.mark.parametrize(("name", "end"), [("flatten", Flatten()), ("gap", GlobalAvgPool())])
@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)])
def test_published_kernels(name, end, dtype):
    with jax.enable_x64(True):
        images = np.concatenate([INPUTS["I1"], INPUTS["I2"]]).astype(dtype)
        published = dict(np.load(ORACLES / f"conv_relu_{name}.npz"))
        net = blocks(end)
        kernels = net.kernel(images)
        with compilations() as compiled:
            net.kernel(images[::-1].copy())
        assert not compiled
        n = len(INPUTS["I1"])
        rtol = 1e-12 if dtype == np.float64 else 1e-5
        for kind, exact in zip(("nngp", "ntk"), flattened_diagonal(images), strict=True):
            got = np.asarray(getattr(kernels, kind))
            assert got.dtype == dtype
            if name == "flatten":
                np.testing.assert_allclose(np.diagonal(got), exact, rtol=rtol)
                # The file's own tangent kernel is wrong by 7e-10 on the diagonal: arccos near 1.
                # With 50 digits the kernels are those of this test.
                published[f"{kind}_11"][np.diag_indices(n)] = exact[:n]
                published[f"{kind}_22"][np.diag_indices(len(exact) - n)] = exact[n:]
            parts = {"11": got[:n, :n], "21": got[n:, :n], "22": got[n:, n:]}
            for block, part in parts.items():
                np.testing.assert_allclose(part, published[f"{kind}_{block}"], rtol=rtol)


def strided(x):
    """A network on images with strides, residual branches and pooling, and its kernels."""
    branch = serial(Relu(), Conv(6, (3, 3), padding="CIRCULAR", **SETTINGS))
    net = serial(
        Conv(6, (3, 2), strides=(2, 1), **SETTINGS),
        FanOut(2),
        parallel(branch, Identity()),
        FanInSum(),
        AvgPool((2, 2), strides=(1, 2), padding="SAME"),
        Relu(),
        Flatten(),
        Dense(1, **SETTINGS),
    )
    picks = reference.selections((4, 5), (3, 2), (2, 1), "SAME")
    start = reference.conv(reference.first(x), picks, 1.4, 0.3)
    picks = reference.selections((2, 5), (3, 3), (1, 1), "CIRCULAR")
    other = reference.conv(reference.relu(start), picks, 1.4, 0.3)
    total = tuple(a + b for a, b in zip(start, other, strict=True))
    pooled = reference.pool(total, reference.selections((2, 5), (2, 2), (1, 2), "SAME"), 4)
    return net, reference.dense(reference.flatten(reference.relu(pooled)), 1.4, 0.3)


def standard(x):
    """A network on sequences in the standard parameterisation."""
    conv = {"parameterization": "standard", **SETTINGS}
    net = serial(
        Conv(6, (3,), padding="VALID", **conv),
        Relu(),
        Conv(5, (2,), strides=3, **conv),
        GlobalSumPool(),
    )
    picks = reference.selections((7,), (3,), (1,), "VALID")
    kernels = reference.relu(reference.conv(reference.first(x), picks, 1.4, 0.3, 3))
    picks = reference.selections((5,), (2,), (3,), "SAME")
    kernels = reference.conv(kernels, picks, 1.4, 0.3, 6)
    return net, reference.pool(kernels, list(np.eye(2)[:, None]), 1)


def delta(x):
    """Delta-orthogonal weights."""
    conv = {"padding": "CIRCULAR", "start": "delta_orthogonal", **SETTINGS}
    net = serial(Conv(6, (3,), **conv), Relu(), Conv(6, (5,), **conv), SumPool((7,)), Flatten())
    kernels = reference.first(x)
    for size, activation in ((3, reference.relu), (5, lambda kernels: kernels)):
        picks = reference.selections((7,), (size,), (1,), "CIRCULAR")
        kernels = activation(reference.conv(kernels, picks, 1.4, 0.3, middle=True))
    return net, reference.pool(kernels, [np.ones((1, 7))], 1)


def attended(x):
    """A softmax of scores that are constants."""
    net = serial(
        Dense(6, **SETTINGS),
        Relu(),
        SelfAttention(6, 2, query_std=1.1, key_std=1.2, value_std=0.9, bias_std=0.2),
        GlobalAvgPool(),
    )
    kernels = reference.relu(reference.dense(reference.first(x), 1.4, 0.3))
    kernels = reference.attention(kernels, lambda s: softmax(s, axis=-1), 1.32, 0.9, 0.2)
    return net, reference.pool(kernels, [np.full((1, 7), 1 / 7)], 1)


def scored(x):
    """Gaussian scores."""
    settings = {"mechanism": "identity", "scaling": "sqrt", "key_std": 0.8, "bias_std": 0.2}
    net = serial(Dense(6, **SETTINGS), SelfAttention(6, 2, **settings), Flatten())
    kernels = reference.dense(reference.first(x), 1.4, 0.3)
    return net, reference.flatten(reference.random_scores(kernels, 0.8, 0.2))


@pytest.mark.parametrize("case", [strided, standard, delta, attended, scored])
def test_brute_force(case):
    x = SEQUENCES if case is not strided else np.asarray(SEQUENCES[:, :4, None] + np.zeros((5, 1)))
    x = x.astype(np.float64)
    if case is strided:
        x = np.sin(np.arange(x.size).reshape(x.shape) ** 1.5)
    x[3] = x[0]  # the same input once more, on the other side
    with jax.enable_x64(True):
        net, expected = case(x)
        got = net.kernel(x[:3], x[3:])
    for kind, pairs in zip(("nngp", "ntk"), expected, strict=True):
        right = pairs.reshape(5, 5)[:3, 3:]
        # arccos of the reference loses half of the digits where two inputs coincide.
        np.testing.assert_allclose(getattr(got, kind)[1:], right[1:], rtol=1e-12)
        np.testing.assert_allclose(getattr(got, kind), right, rtol=1e-7)


def test_tiles_make_the_same_matrix():
    x, y = jnp.arange(14.0).reshape(7, 2), jnp.ones((5, 2))
    labels = jnp.arange(7)

    def kernels(a, b, ids1, ids2):
        b = a if b is None else b
        same = 0 if ids1 is None else 100.0 * (ids1[:, None] == ids2[None])
        return [a @ b.T + same], jnp.max(a)

    for other, ids in ((None, labels), (y, None)):
        whole = kernels(x, other, ids, ids)
        for entries in (4, 6, 100):
            tiled = jax.jit(by_tiles, static_argnums=(0, 5))(kernels, x, other, ids, ids, entries)
            np.testing.assert_array_equal(tiled[0][0], whole[0][0])
            assert tiled[1] == whole[1]
    assert tile_entries(jnp.zeros((2, 200, 200, 3)), True) == 1


def test_more_vectors_than_one_tile_holds():
    x = jax.random.normal(jax.random.key(0), (600, 20))
    net = serial(Dense(1, weight_std=1.4), Relu(), Dense(1, weight_std=1.4))
    whole = net.kernel(x, get="ntk")
    np.testing.assert_array_equal(whole, whole.T)
    np.testing.assert_allclose(whole[:40, 570:], net.kernel(x[:40], x[570:], get="ntk"), rtol=1e-12)
    np.testing.assert_allclose(jnp.diag(whole), net.diagonal(x, get="ntk"), rtol=1e-12)


def test_near_duplicates_keep_their_digits_in_float32():
    """1 - rho of windows from differences: without them the tangent kernel is off by 1e-4."""
    layer = Conv(1, (3,), weight_std=1.4, bias_std=0.3)
    x = SEQUENCES[:2].astype(np.float32)
    y = x * np.float32(1 + 2e-4) + np.float32(1e-4)
    one_minus = jax.jit(lambda a, b: layer.state(a, b).one_minus)
    single = one_minus(x, y)
    with jax.enable_x64(True):
        exact = one_minus(x.astype(np.float64), y.astype(np.float64))
    np.testing.assert_allclose(single[0, 0], exact[0, 0], rtol=2e-3)
    assert np.all(exact[0, 0] < 1e-5)


def test_finite_networks_have_the_shapes_they_announce():
    images = jnp.ones((2, 8, 6, 3))
    net = serial(
        Conv(4, (3, 3), strides=(2, 1), **SETTINGS),
        AvgPool((2, 2)),
        SelfAttention(4, 2, scaling="sqrt"),
        SumPool((2, 1)),
        Flatten(),
        Dense(5),
    )
    assert net.output_shape((8, 6, 3)) == (5,)

    def outputs(key):
        return net.apply(net.init(key, (8, 6, 3)), images)

    assert jax.eval_shape(outputs, jax.random.key(0)).shape == (2, 5)
    ramp = jnp.arange(6.0).reshape(1, 6, 1)
    np.testing.assert_allclose(AvgPool((2,)).apply((), ramp)[0, :, 0], [0.5, 2.5, 4.5])
    np.testing.assert_allclose(GlobalAvgPool().apply((), ramp)[0], [2.5])
    circular = Conv(1, (3,), padding="CIRCULAR", parameterization="standard")
    sums = circular.apply({"weight": jnp.ones((3, 1, 1))}, ramp)
    np.testing.assert_allclose(sums[0, :, 0], [6, 3, 6, 9, 12, 9])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Conv(4, (3, 3)).output_shape((7, 3)), "Conv: got an example of shape"),
        (lambda: Conv(4, (9,), padding="VALID").output_shape((7, 3)), "window that fits"),
        (lambda: AvgPool((2,)).output_shape((7, 3)), "divides the image"),
        (lambda: GlobalAvgPool().output_shape((7,)), "axes of positions"),
        (lambda: SelfAttention(4).output_shape((7,)), "axes of positions"),
        (lambda: checked_window(3), "window: got 3"),
        (lambda: Conv(4, (3, 0)), "window: got 0"),
        (lambda: Conv(4, (3,), strides=(1, 2)), "strides"),
        (lambda: checked_padding("same"), "padding"),
        (lambda: Conv(4, (2,), start="delta_orthogonal"), "odd sizes"),
        (lambda: Conv(4, (3, 3)).kernel(SEQUENCES), "Conv: got an example of shape"),
        (lambda: Conv(4, (3,)).kernel(SEQUENCES), "End with Flatten"),
        (lambda: serial(Conv(4, (3,)), Flatten(), Relu()).kernel(SEQUENCES), "not Gaussian"),
        (lambda: SelfAttention(4, scaling="sqrt").kernel(SEQUENCES), "mechanism='softmax'"),
        (lambda: MaxPool((2, 2)), "Use AvgPool"),
        (lambda: BatchNorm(), "Use LayerNorm"),
    ],
)
def test_bad_input_is_named(build, words):
    with pytest.raises(BayleafError, match=words):
        build()
