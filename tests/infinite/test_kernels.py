"""Kernels of fully connected networks: reference values, float32, symmetry, transformations."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import BayleafError, SamplingWarning
from bayleaf.infinite import (
    ABRelu,
    Dense,
    Dropout,
    Elementwise,
    Erf,
    FanInSum,
    FanOut,
    Gelu,
    Identity,
    LayerNorm,
    Relu,
    Sign,
    inputs,
    parallel,
    serial,
)
from tests.tools.compiling import compilations

ORACLES = Path(__file__).parents[1] / "oracles" / "infinite"
WITH_BIAS = {"weight_std": 1.4, "bias_std": 0.3}


def dense(width=16, **settings):
    return Dense(width, **WITH_BIAS, **settings)


def hidden(activation, depth=3):
    return serial(*[layer for _ in range(depth) for layer in (dense(), activation)], dense(1))


def standard(width):
    return dense(width, parameterization="standard")


NETS = {
    "fc_relu": lambda: hidden(Relu()),
    "fc_erf": lambda: hidden(Erf()),
    "fc_gelu": lambda: hidden(Gelu()),
    "fc_abrelu": lambda: hidden(ABRelu(-0.5, 1.5)),
    "fc_relu_standard": lambda: serial(standard(24), Relu(), standard(40), Relu(), standard(1)),
    "fc_residual": lambda: serial(
        dense(),
        FanOut(2),
        parallel(Identity(), serial(Relu(), dense(), Relu(), dense())),
        FanInSum(),
        Relu(),
        dense(1),
    ),
    "quad_fc_tanh": lambda: hidden(Elementwise(jnp.tanh, num_terms=200)),
    "quad_fc_softplus": lambda: hidden(Elementwise(jax.nn.softplus, num_terms=100)),
}


def points(dtype=np.float64):
    arrays = np.load(ORACLES / "inputs.npz")
    return jnp.asarray(arrays["X1"].astype(dtype)), jnp.asarray(arrays["X2"].astype(dtype))


def size_of(name, suffix):
    """sqrt(K_aa K_bb) of the reference, what an error is compared with."""
    reference = np.load(ORACLES / f"{name}.npz")
    one = np.diag(reference["nngp_11"])
    if suffix == "_11":
        return np.sqrt(np.outer(one, one))
    if "nngp_22" in reference:
        two = np.diag(reference["nngp_22"])
        return np.sqrt(np.outer(two, one))
    return np.abs(reference["nngp_21"])


@pytest.mark.parametrize(
    "name",
    [n if n == "fc_relu" else pytest.param(n, marks=pytest.mark.slow) for n in NETS],
)
def test_float64_agrees_with_the_references(name):
    net, reference = NETS[name](), np.load(ORACLES / f"{name}.npz")
    x1, x2 = points()
    # The reference by quadrature is good to 1e-12, the erf of neural-tangents to 1e-13.
    for suffix, args in (("_11", (x1,)), ("_21", (x2, x1))):
        got = net.kernel(*args, get=("nngp", "ntk"))
        np.testing.assert_allclose(got.nngp, reference["nngp" + suffix], rtol=3e-12)
        np.testing.assert_allclose(got.ntk, reference["ntk" + suffix], rtol=3e-12)
        if suffix == "_11":
            np.testing.assert_allclose(got.ntk, got.ntk.T, rtol=4e-15)
            np.testing.assert_allclose(jnp.diagonal(got.nngp), net.diagonal(x1), rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fc_relu", "fc_erf", "fc_residual"])
def test_float32_agrees_with_the_references(name):
    net, reference = NETS[name](), np.load(ORACLES / f"{name}.npz")
    x1, x2 = points(np.float32)
    got = net.kernel(x2, x1)
    assert got.ntk.dtype == jnp.float32
    size = size_of(name, "_21")
    assert np.max(np.abs(got.nngp - reference["nngp_21"]) / size) < 2e-6
    assert np.max(np.abs(got.ntk - reference["ntk_21"]) / size) < 1e-5


def near_duplicates(num_features):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, num_features)).astype(np.float32)
    noise = rng.standard_normal(x.shape)
    steps = np.array([0, 1e-4, 1e-3, 1e-2, 1e-1, 1])[:, None]
    near = (x + steps * noise).astype(np.float32)
    near[1] *= -1  # near the opposite
    return x, near


def worst_float32_error(net, x, y):
    got = net.kernel(jnp.asarray(x), jnp.asarray(y))
    exact = net.kernel(jnp.asarray(x, jnp.float64), jnp.asarray(y, jnp.float64))
    size = np.sqrt(np.outer(net.diagonal(jnp.asarray(x)), net.diagonal(jnp.asarray(y))))
    return max(float(np.max(np.abs(a - b) / size)) for a, b in zip(got, exact, strict=True))


@pytest.mark.parametrize("num_features", [pytest.param(3, marks=pytest.mark.slow), 60])
def test_near_duplicates_are_exact_in_float32(num_features):
    x, near = near_duplicates(num_features)
    assert worst_float32_error(hidden(Relu(), 3), x, near) < 1e-5


@pytest.mark.slow
def test_a_smooth_layer_before_a_kinked_one_keeps_near_duplicates_apart():
    x, near = near_duplicates(60)
    net = serial(dense(), Gelu(), dense(), Erf(), dense(), Relu(), dense(1))
    assert worst_float32_error(net, x, near) < 1e-5


@pytest.mark.slow
def test_known_kinks_keep_near_duplicates_apart():
    x, near = near_duplicates(60)
    hard_tanh = Elementwise(lambda x: jnp.clip(x, -1, 1), num_terms=8, kinks=(-1.0, 1.0))
    assert worst_float32_error(hidden(hard_tanh, 2), x, near) < 1e-5


@pytest.mark.slow
def test_a_kinked_function_is_its_closed_form():
    x1, x2 = points()
    relu = Elementwise(jax.nn.relu, num_terms=8, kinks=[0.0])
    for args in ((x1,), (x2, x1)):
        got, exact = (hidden(a, 2).kernel(*args) for a in (relu, Relu()))
        for one, other in zip(got, exact, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.slow
def test_a_rounded_correlation_is_caught(monkeypatch):
    def rounded(unit1, unit2, id1=None, id2=None):
        rho = unit1 @ unit2.T
        return 1 - rho, 1 + rho

    monkeypatch.setattr(inputs, "contrasts", rounded)
    x, near = near_duplicates(60)
    net = hidden(ABRelu(0.0, 1.01), 3)  # another one, since programs are kept
    assert worst_float32_error(net, x, near) > 1e-5


@pytest.mark.slow
def test_the_diagonal_is_exact_in_float32():
    x = jnp.asarray(near_duplicates(60)[0])
    net = hidden(Relu(), 3)
    got = jnp.diagonal(net.kernel(x, get="ntk"))
    exact = jnp.diagonal(net.kernel(x.astype(jnp.float64), get="ntk"))
    np.testing.assert_allclose(got, exact, rtol=1e-6)


@pytest.mark.parametrize(
    ("depth", "weight_std"),
    [pytest.param(3, 1e7, marks=pytest.mark.slow), pytest.param(50, 16.0, marks=pytest.mark.slow)],
)
def test_depth_and_scale_do_not_overflow(depth, weight_std):
    """Variances are 128^50, too large for float32. By hand: rho' = kappa(rho), Theta' likewise."""
    pairs = [(Dense(1, weight_std=weight_std), Relu()) for _ in range(depth)]
    loop = serial(*[layer for pair in pairs for layer in pair])
    x = jnp.asarray(near_duplicates(3)[0])
    rho = np.asarray(x, np.float64)
    rho = rho / np.linalg.norm(rho, axis=1, keepdims=True)
    rho = np.clip(rho @ rho.T, -1, 1)
    ratio = rho.copy()
    for layer in range(depth):
        theta = np.arccos(rho)
        new = (np.sin(theta) + (np.pi - theta) * rho) / np.pi
        np.fill_diagonal(new, 1)
        ratio = ratio * (1 - theta / np.pi) + (new if layer < depth - 1 else 0)
        rho = new
    got = loop.kernel(x, get=("correlation", "relative_ntk"))
    np.testing.assert_allclose(got.correlation, rho, atol=2e-6)
    np.testing.assert_allclose(got.relative_ntk, ratio, rtol=2e-5)
    with pytest.raises(BayleafError, match="correlation"):
        loop.kernel(x, get="nngp")


@pytest.mark.slow
def test_gradients_are_finite_and_right():
    x1, _ = points()
    net = hidden(Relu(), 2)

    def total(net, x):
        kernel = net.kernel(x)
        return jnp.sum(jnp.sin(kernel.nngp)) + jnp.sum(jnp.cos(kernel.ntk))

    slope_net, slope_x = eqx.filter_jit(jax.grad(total, argnums=(0, 1), allow_int=True))(net, x1)
    step = 1e-6
    for where in (lambda n: n.layers[0].weight_std, lambda n: n.layers[2].bias_std):
        ends = [total(eqx.tree_at(where, net, where(net) + sign * step), x1) for sign in (1, -1)]
        np.testing.assert_allclose(where(slope_net), (ends[0] - ends[1]) / (2 * step), rtol=1e-6)
    change = jnp.zeros_like(x1).at[2, 3].set(step)
    numeric = (total(net, x1 + change) - total(net, x1 - change)) / (2 * step)
    np.testing.assert_allclose(slope_x[2, 3], numeric, rtol=1e-5)


def test_vmap_over_what_is_no_input():
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, 20)))
    stds = jnp.asarray([0.5, 2.0])
    both = jax.vmap(lambda std: Dense(1, weight_std=std).kernel(x, get="nngp"))(stds)
    np.testing.assert_allclose(both, stds[:, None, None] ** 2 * (x @ x.T / 20)[None], rtol=1e-13)


@pytest.mark.slow
def test_vmap_equals_a_loop():
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, 20)))
    net = hidden(Relu(), 1)
    both = jax.vmap(lambda x: net.kernel(x, get="ntk"))(x)
    for got, one in zip(both, x, strict=True):
        np.testing.assert_allclose(got, net.kernel(one, get="ntk"), rtol=1e-13)


def test_nothing_is_compiled_a_second_time():
    x1, x2 = points()
    hidden(Erf(), 1).kernel(x1, x2)
    other = eqx.tree_at(lambda n: n.layers[0].weight_std, hidden(Erf(), 1), jnp.asarray(2.0))
    moved = x2 + 1
    with compilations() as compiled:
        got = other.kernel(x1, moved)
    assert compiled == []
    assert not np.allclose(got.nngp, hidden(Erf(), 1).kernel(x1, x2).nngp)


def test_dropout_changes_the_diagonal_and_no_duplicate():
    x = jnp.asarray([[1.0, 2.0], [1.0, 2.0], [0.5, -1.0]])
    plain = serial(Dense(8), Relu(), Dense(1)).kernel(x)
    dropped = serial(Dense(8), Relu(), Dropout(0.8), Dense(1)).kernel(x)
    factor = np.where(np.eye(3, dtype=bool), 1 / 0.8, 1.0)
    np.testing.assert_allclose(dropped.nngp, factor * plain.nngp, rtol=1e-14)
    np.testing.assert_allclose(dropped.ntk, factor * plain.ntk, rtol=1e-14)


@pytest.mark.slow
def test_layer_norm_makes_variances_one():
    x1, _ = points()
    state = serial(dense(), LayerNorm()).state(x1)
    np.testing.assert_allclose(jnp.diagonal(state.nngp), 1.0, rtol=1e-14)
    before = dense().kernel(x1)
    size = jnp.sqrt(jnp.outer(jnp.diagonal(before.nngp), jnp.diagonal(before.nngp)))
    np.testing.assert_allclose(state.full_ntk, before.ntk / size, rtol=1e-14)


def test_one_pair_on_a_ray_has_a_long_series_in_float32():
    """A power of 2 rho would overflow; the value is E tanh(s z) tanh(3 s z), by a sum."""
    x = np.random.default_rng(0).standard_normal((1, 20)).astype(np.float32)
    s, z = np.sqrt(np.mean(x**2)), np.linspace(-12, 12, 4001)
    weights = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    net = serial(Dense(1), Elementwise(jnp.tanh, num_terms=200), Dense(1))
    got = net.kernel(x, 3 * x, get="nngp")
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, weights @ (np.tanh(s * z) * np.tanh(3 * s * z)), rtol=2e-6)


def test_inputs_of_zeros_have_kernels():
    x = jnp.asarray([[0.0, 0.0], [1.0, 2.0]])
    assert np.all(serial(Dense(4), Relu(), Dense(1)).kernel(x, get="ntk")[0] == 0)
    # With a bias: K = 1/2 (one ReLU of variance 1), by hand.
    net = serial(Dense(4, bias_std=1.0), Relu(), Dense(1))
    np.testing.assert_allclose(net.kernel(x, get="nngp")[0, 0], 0.5, rtol=1e-15)
    np.testing.assert_allclose(net.kernel(x, get="ntk")[0, 0], 1.0, rtol=1e-15)
    zero_bias = Dense(4, bias_std=0.0, parameterization="standard")
    assert zero_bias.kernel(x, get="ntk")[0, 0] == 1  # the bias is trained


@pytest.mark.slow
def test_sign_stops_what_is_trained_before_it():
    x1, _ = points()
    net = serial(dense(), Sign(), Dense(1))
    got = net.kernel(x1)
    np.testing.assert_array_equal(got.ntk, got.nngp)


@pytest.mark.slow
def test_a_short_series_warns():
    x1, _ = points()
    net = serial(Dense(4, weight_std=5.0), Elementwise(jnp.tanh, num_terms=8), Dense(1))
    with pytest.warns(SamplingWarning, match="num_terms"):
        net.kernel(x1)


BAD = {
    "one row": (lambda: dense().kernel(jnp.ones(3)), "x1"),
    "features": (lambda: dense().kernel(jnp.ones((2, 3)), jnp.ones((2, 4))), "x2"),
    "nan": (lambda: dense().kernel(jnp.asarray([[1.0, np.nan]])), "NaN"),
    "words": (lambda: dense().kernel(np.array([["a"]])), "numbers"),
    "get": (lambda: dense().kernel(jnp.ones((2, 3)), get="ntkk"), "get"),
    "too many": (
        lambda: dense().kernel(np.broadcast_to(np.float32(1), (10_000_000, 1))),
        "kernel_matrix",
    ),
    "activation first": (lambda: Relu().kernel(jnp.ones((2, 3))), "Dense"),
    "two activations": (lambda: serial(dense(), Relu(), Relu()).kernel(jnp.ones((2, 3))), "Dense"),
    "norm after": (lambda: serial(dense(), Relu(), LayerNorm()).kernel(jnp.ones((2, 3))), "Gauss"),
    "not a layer": (lambda: serial(dense(), jnp.tanh), "Elementwise"),
    "not a function": (lambda: Elementwise(3.0), "function"),
    "not elementwise": (lambda: Elementwise(jnp.sum), "elementwise"),
    "branches": (lambda: serial(FanOut(2), parallel(dense())).kernel(jnp.ones((2, 3))), "FanOut"),
    "no fan-out": (lambda: serial(dense(), FanInSum()).kernel(jnp.ones((2, 3))), "FanOut"),
    "shared": (
        lambda: serial(dense(), FanOut(2), parallel(Identity(), Identity()), FanInSum()).kernel(
            jnp.ones((2, 3))
        ),
        "share",
    ),
    "open branches": (lambda: serial(dense(), FanOut(2)).kernel(jnp.ones((2, 3))), "FanInSum"),
    "width": (lambda: Dense(0), "width"),
    "std": (lambda: Dense(3, weight_std=-1.0), "weight_std"),
    "parameterization": (lambda: Dense(3, parameterization="mup"), "parameterization"),
    "keep": (lambda: Dropout(0.0), "keep_probability"),
    "batch axis": (lambda: dense().init(jax.random.key(0), (-1, 3)), "batch axis"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named(name):
    call, word = BAD[name]
    with pytest.raises(BayleafError, match=word):
        call()
