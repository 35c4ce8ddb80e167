"""Tangent kernels of finite networks, by all methods, against the Jacobian multiplied out."""

from __future__ import annotations

import functools
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import BayleafError
from bayleaf.infinite import empirical, empirical_blocks
from bayleaf.infinite.drift import ntk_drift
from bayleaf.infinite.empirical import (
    METHODS,
    empirical_nngp,
    empirical_ntk,
    ntk_plan,
    ntk_vector_product,
)
from bayleaf.infinite.linearised import linearise
from bayleaf.trees import Frozen, frozen_function
from tests.tools.compiling import compilations

ORACLES = Path(__file__).parents[1] / "oracles" / "infinite"
ORACLE = dict(np.load(ORACLES / "empirical_fc.npz"))
INPUTS = np.load(ORACLES / "inputs.npz")
X1, X2 = INPUTS["X1"], INPUTS["X2"]
PARAMS = {name: jnp.asarray(ORACLE[name]) for name in ("W0", "W1", "W2", "b0", "b1", "b2")}


def network(p, x):
    def layer(h, number):
        bias = jnp.broadcast_to(p[f"b{number}"], (h.shape[0], p[f"b{number}"].size))
        return 1.4 / h.shape[1] ** 0.5 * h @ p[f"W{number}"] + 0.3 * bias

    h = jax.nn.relu(layer(jax.lax.erf(layer(x, 0)), 1))
    return layer(h, 2)


def multiplied_out(f, params, x1, x2):
    """The definition: all derivatives, summed over all parameters."""
    params, fixed = eqx.partition(params, eqx.is_inexact_array)

    @jax.jit
    def jacobian(x):
        full = jax.jacrev(lambda p: f(eqx.combine(p, fixed), x).reshape(x.shape[0], -1))(params)
        leaves = jax.tree.leaves(full)
        return jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=2)

    return np.einsum("iap,jbp->ijab", jacobian(jnp.asarray(x1)), jacobian(jnp.asarray(x2)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("max_bytes", [pytest.param(2**28, marks=pytest.mark.slow), 3000])
def test_every_method_gives_the_published_kernels(method, max_bytes):
    options = {"method": method, "max_bytes": max_bytes}
    full = empirical_ntk(network, PARAMS, X2, X1, trace=False, **options)
    np.testing.assert_allclose(full, ORACLE["full_ntk_21"], rtol=1e-11)
    traced = empirical_ntk(network, PARAMS, X2, X1, **options)
    np.testing.assert_allclose(traced, ORACLE["trace_ntk_21"], rtol=1e-13)


def test_the_nngp_kernel_is_the_published_one():
    np.testing.assert_allclose(
        empirical_nngp(network, PARAMS, X2, X1), ORACLE["nngp_21"], rtol=1e-12
    )


def test_the_plan_says_what_is_done_and_what_it_would_cost():
    plan = ntk_plan(network, PARAMS, X1)
    assert plan.method == "layers" == min(plan.multiplications, key=plan.multiplications.get)
    assert plan.layers == {
        **dict.fromkeys(("W0", "W1", "W2"), "dense"),
        **dict.fromkeys(("b0", "b1", "b2"), "direct"),
    }
    # First layer 7 x 9, second 9 x 8, third 8 x 3: one forward pass.
    forward = 7 * 9 + 9 * 8 + 8 * 3
    assert plan.multiplications["layers"] > 6 * forward * 4
    assert ntk_plan(network, PARAMS, X1, max_bytes=3000).num_rows < plan.num_rows


def convolution(p, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(x, 0.7 * p["a"], (1, 2), "SAME", dimension_numbers=numbers)
    h = jnp.tanh(h + jnp.broadcast_to(p["c"], h.shape))
    h = jax.lax.conv_general_dilated(h, p["b"], (1, 1), "VALID", dimension_numbers=numbers)
    return jnp.mean(jax.nn.relu(h), axis=(1, 2)) @ p["w"]


def hidden(p, x):
    """What no layer is to be found in: a loop, shared weights, a product of parameters."""

    def body(h, w):
        return jnp.tanh(h @ w), None

    h, _ = jax.lax.scan(body, x @ p["shared"], p["stack"])
    return (h @ p["shared"].T) * jnp.broadcast_to(p["gain"] ** 2, (x.shape[0], p["gain"].size))


def sequence(p, x):
    """A dense layer at several positions, weights on the left, a bias and a learned factor."""
    h = jnp.einsum("kd,nsd->nks", p["left"], x) * p["factor"]
    h = jnp.swapaxes(jnp.tanh(h), 1, 2) @ p["right"] / 3.0
    return h.reshape(x.shape[0], -1)[:, :4]


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape) / 2


CASES = {
    "convolution": (
        convolution,
        {
            "a": normal(0, 3, 3, 2, 3),
            "b": normal(1, 2, 2, 3, 4),
            "c": normal(2, 3),
            "w": normal(3, 4, 2),
        },
        INPUTS["I1"],
        {"a": "convolution", "b": "convolution", "c": "direct", "w": "dense"},
    ),
    "hidden": (
        hidden,
        {"shared": normal(0, 7, 5), "stack": normal(1, 3, 5, 5), "gain": normal(2, 7)},
        X1,
        {"shared": "direct", "stack": "direct", "gain": "direct"},
    ),
    "sequence": (
        sequence,
        {"left": normal(0, 6, 4), "right": normal(1, 6, 3), "factor": normal(2)},
        INPUTS["S1"],
        {"left": "dense", "right": "dense", "factor": "direct"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_layers_are_found_where_they_are_and_only_there(name):
    f, params, x, expected = CASES[name]
    assert ntk_plan(f, params, x).layers == expected
    full = multiplied_out(f, params, x, x)
    got = empirical_ntk(f, params, x, trace=False, method="layers")
    np.testing.assert_allclose(got, full, rtol=1e-10, atol=1e-12)
    traced = empirical_ntk(f, params, x, method="layers", max_bytes=2000)
    expected_trace = np.einsum("ijaa->ij", full) / full.shape[-1]
    np.testing.assert_allclose(traced, expected_trace, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_both_ways_of_many_positions_agree(monkeypatch):
    f, params, x, _ = CASES["convolution"]
    full = multiplied_out(f, params, x, x)
    for choice in (True, False):
        monkeypatch.setattr(empirical_blocks, "is_outer_cheaper", lambda *_: choice)  # noqa: B023
        # Another function each time, or the program of the first choice would be used again.
        anew = functools.partial(f)
        got = empirical_ntk(anew, params, x, trace=False, method="layers")
        np.testing.assert_allclose(got, full, rtol=1e-10, atol=1e-12)
        traced = empirical_ntk(anew, params, x, method="layers")
        np.testing.assert_allclose(traced, np.einsum("ijaa->ij", full) / 2, rtol=1e-10, atol=1e-12)


def test_shared_weights_taken_for_a_layer_would_be_wrong(monkeypatch):
    """The planted bug: the first use of a parameter is taken for its only one."""
    f, params, x, _ = CASES["hidden"]
    full = multiplied_out(f, params, x, x)
    found = empirical_blocks.trace_program

    def first_use(*arguments):
        program = found(*arguments)
        number = program.leaves[1]  # gain, shared, stack: in the order of their names
        at = next(
            i
            for i, step in enumerate(program.steps)
            if step.primitive.name == "dot_general" and number in step.inputs
        )
        from bayleaf.infinite.empirical_program import Layer

        return program._replace(layers={1: Layer(1, at, 1)})

    monkeypatch.setattr(empirical_blocks, "trace_program", first_use)
    got = empirical_ntk(functools.partial(f), params, x, trace=False, method="layers")
    assert np.max(np.abs(got - full)) > 1e-2


def test_equinox_models_are_opened():
    model = eqx.nn.Sequential(
        [
            eqx.nn.Linear(7, 6, key=jax.random.key(0)),
            eqx.nn.LayerNorm(6),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.Linear(6, 2, key=jax.random.key(1)),
        ]
    )

    def f(model, x):
        return jax.vmap(model)(x)

    kinds = ntk_plan(f, model, X1).layers
    assert kinds["layers[0].weight"] == kinds["layers[3].weight"] == "dense"
    got = empirical_ntk(f, model, X1, X2, trace=False)
    np.testing.assert_allclose(got, multiplied_out(f, model, X1, X2), rtol=1e-10)


def test_products_with_vectors():
    v = np.asarray(normal(5, 4, 3))
    full = empirical_ntk(network, PARAMS, X1, X2, trace=False)
    got = ntk_vector_product(network, PARAMS, X1, v, X2)
    np.testing.assert_allclose(got, np.einsum("ijab,jb->ia", full, v), rtol=1e-11)
    with pytest.raises(BayleafError, match="v: got shape"):
        ntk_vector_product(network, PARAMS, X1, v, X1)


def test_other_parameters_compile_nothing():
    empirical_ntk(network, PARAMS, X1)
    others = jax.tree.map(lambda leaf: 2 * leaf, PARAMS)
    with compilations() as names:
        empirical_ntk(network, others, X1 + 1)
    assert names == []


def test_memory_is_bounded():
    params = {"w": jnp.zeros((300, 300)), "v": jnp.zeros((300, 2))}
    x = jnp.zeros((200, 300))

    def f(p, x):
        return jax.lax.fori_loop(0, 2, lambda _, h: jnp.tanh(h @ p["w"]), x) @ p["v"]

    task = empirical_blocks.Task(frozen_function(f, "f"), Frozen(params, "params"))
    sizes = {}
    for budget in (2**23, 2**30):
        plan = ntk_plan(f, params, x, method="jacobian", max_bytes=budget)
        program = empirical.by_blocks.lower(task, x, None, True, (0, 1), plan.num_rows).compile()
        memory = program.compiled.memory_analysis()
        sizes[budget] = memory.temp_size_in_bytes
    assert sizes[2**23] < 3 * 2**23
    assert sizes[2**30] > 200 * 300 * 300 * 8


def test_bad_input_is_refused_by_name():
    with pytest.raises(BayleafError, match="f: got output"):
        empirical_ntk(lambda p, x: jnp.sum(x @ p), jnp.ones(7), X1)
    with pytest.raises(BayleafError, match="method"):
        empirical_ntk(network, PARAMS, X1, method="fast")
    with pytest.raises(BayleafError, match="x1, x2"):
        empirical_ntk(network, PARAMS, X1, INPUTS["S1"])
    with pytest.raises(BayleafError, match="end"):
        ntk_drift(network, PARAMS, {"W0": PARAMS["W0"]}, X1)


def test_the_linearisation_is_the_first_order():
    f = linearise(network, PARAMS)
    direction = jax.tree.map(lambda leaf: jnp.ones_like(leaf), PARAMS)

    def moved(size):
        return jax.tree.map(lambda a, b: a + size * b, PARAMS, direction)

    np.testing.assert_allclose(f(PARAMS, X1), network(PARAMS, X1), rtol=1e-13)
    errors = [np.max(np.abs(f(moved(s), X1) - network(moved(s), X1))) for s in (1e-3, 1e-4)]
    assert 80 < errors[0] / errors[1] < 120  # second order in the step
    far = moved(2.0)
    np.testing.assert_allclose(
        empirical_ntk(f, far, X1), empirical_ntk(network, PARAMS, X1), rtol=1e-12
    )


def test_drift_is_measured_against_the_start():
    double = {**PARAMS, "W2": 2 * PARAMS["W2"]}
    drift = ntk_drift(network, PARAMS, double, X1)
    assert float(drift.weights["W2"]) == 1.0
    assert float(drift.weights["W0"]) == 0.0
    before, after = (empirical_ntk(network, p, X1) for p in (PARAMS, double))
    expected = np.linalg.norm(after - before) / np.linalg.norm(before)
    np.testing.assert_allclose(drift.kernel, expected, rtol=1e-13)
