"""The tangent kernel of a finite network, that is, of any function f(params, x) of JAX.

    Theta[i, j, a, b] = sum over all parameters p of  df_a(x1_i) / dp  df_b(x2_j) / dp,

[input 1, input 2, output, output], or its mean over a = b. Three ways give the same numbers:

- **layers**: sum over the layers of (Gram matrix of what enters) times (Gram matrix of what comes
  back), for dense layers and convolutions found in the function; see `empirical_program`. The
  derivative in a matrix of weights is never formed. Nearly always the cheapest.
- **jacobian**: derivatives in all parameters, a block of inputs at a time, multiplied together. For
  functions that hide their layers, e.g. inside of a scan.
- **products**: one column after the other, J1 (J2' e): a vector-Jacobian product and a
  Jacobian-vector product each, so that no Jacobian is ever held. For few inputs and parameters
  used very often.

`ntk_plan` says which one ``method="auto"`` takes and what each would cost in multiplications; all
of them work in blocks of rows that keep to ``max_bytes``.

Sources: Jacot, Gabriel & Hongler 2018 for the kernel; Novak, Sohl-Dickstein & Schoenholz, ICML 2022
for the three ways. They leave the choice to measured costs; here it follows from counting
multiplications in the jaxpr, which needs no compilation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayleaf.errors import bad_argument
from bayleaf.infinite import empirical_blocks as blocks
from bayleaf.infinite.empirical_program import Program
from bayleaf.trees import Frozen, frozen_function, leaf_names

METHODS = ("layers", "jacobian", "products")


class NTKPlan(NamedTuple):
    """How a tangent kernel will be computed.

    Attributes:
        method: "layers", "jacobian" or "products".
        multiplications: what each method would cost.
        num_rows: inputs per block, so that ``max_bytes`` suffices.
        layers: for each array of the parameters, "dense", "convolution" or "direct": what is
            known about how it is used.
    """

    method: str
    multiplications: dict[str, float]
    num_rows: int
    layers: dict[str, str]


def empirical_ntk(
    f: Callable[[Any, Any], Any],
    params: Any,
    x1: Any,
    x2: Any = None,
    *,
    trace: bool = True,
    method: str = "auto",
    max_bytes: int = 2**28,
) -> Float[Array, "..."]:
    """The tangent kernel of ``f`` at ``params``.

    Args:
        f: ``f(params, x)`` with ``x`` of shape [batch, ...] gives [batch, ...]; a row of the output
            may depend on its own row of ``x`` only (no batch normalisation). An Equinox model goes
            in as ``lambda model, x: jax.vmap(model)(x)``.
        params: any pytree; arrays of floating point numbers are differentiated.
        x1: inputs, [n1, ...].
        x2: inputs, [n2, ...]; None means ``x1``.
        trace: the mean over equal outputs, [n1, n2]; False gives [n1, n2, output, output].
        method: "layers", "jacobian", "products", or "auto" for the cheapest by `ntk_plan`.
        max_bytes: memory for what is held per block, beside the result.

    Raises:
        BayleafError: ``f`` does not keep the batch axis, or an unknown method.
    """
    task = blocks.Task(frozen_function(f, "f"), Frozen(params, "params"))
    x1, x2, plan = prepared(task, x1, x2, trace, method, max_bytes)
    if plan.method == "products":
        return by_products(task, x1, x1 if x2 is None else x2, trace, plan.num_rows)
    direct = blocks.by_themselves(task.leaves(), plan.layers.values(), plan.method)
    return by_blocks(task, x1, x2, trace, direct, plan.num_rows)


def ntk_plan(
    f: Callable[[Any, Any], Any],
    params: Any,
    x1: Any,
    x2: Any = None,
    *,
    trace: bool = True,
    method: str = "auto",
    max_bytes: int = 2**28,
) -> NTKPlan:
    """What `empirical_ntk` does with the same arguments, and what the other methods would cost."""
    task = blocks.Task(frozen_function(f, "f"), Frozen(params, "params"))
    return prepared(task, x1, x2, trace, method, max_bytes)[2]


def prepared(
    task: blocks.Task, x1: Any, x2: Any, trace: bool, method: str, max_bytes: int
) -> tuple[Array, Array | None, NTKPlan]:
    """The inputs as arrays, and the plan."""
    if method not in ("auto", *METHODS):
        raise bad_argument("method", method, 'one of "auto", "layers", "jacobian", "products"')
    x1 = jnp.asarray(x1)
    x2 = None if x2 is None else jnp.asarray(x2)
    if x1.ndim == 0 or (x2 is not None and x2.shape[1:] != x1.shape[1:]):
        got = f"shapes {x1.shape} and {None if x2 is None else x2.shape}"
        raise bad_argument("x1, x2", got, "[n1, ...] and [n2, ...] with the same rest")
    check_batch(task, x1)
    program = blocks.program_of(task, x1)
    num = x1.shape[0], x1.shape[0] if x2 is None else x2.shape[0]
    costs = blocks.costs(program, task.leaves(), num, x2 is None, trace)
    chosen = min(costs, key=lambda name: costs[name]) if method == "auto" else method
    itemsize = jnp.result_type(*task.leaves(), x1).itemsize
    size = blocks.numbers_per_row(program, task.leaves(), chosen, num) * itemsize
    share = 1 if chosen == "products" else 2
    num_rows = int(max(1, min(max(num), max_bytes // (share * size))))
    return x1, x2, NTKPlan(chosen, costs, num_rows, kinds(program, task))


def check_batch(task: blocks.Task, x: Array) -> None:
    """The output of a batch has its length."""
    two = jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype)
    out = jax.eval_shape(task.batch, task.leaves(), two)
    shape = getattr(out, "shape", None)
    if not shape or shape[0] != 2:
        raise bad_argument(
            "f",
            f"output of shape {shape} for a batch of 2",
            "an array [batch, ...]",
            "Map a function of one example over the batch with jax.vmap.",
        )


def kinds(program: Program, task: blocks.Task) -> dict[str, str]:
    """What each differentiated array is, by its name."""
    names = leaf_names(task.leaves_tree())
    kind = {}
    for leaf, name in enumerate(names):
        layer = program.layers.get(leaf)
        if layer is None:
            kind[name] = "direct"
        else:
            is_dense = program.steps[layer.at].primitive.name == "dot_general"
            kind[name] = "dense" if is_dense else "convolution"
    return kind


@eqx.filter_jit
def by_blocks(
    task: blocks.Task, x1: Array, x2: Array | None, trace: bool, direct: tuple[int, ...], size: int
) -> Array:
    """Blocks of rows against blocks of rows; the parameters ``direct`` by their Jacobians."""
    program = blocks.program_of(task, x1)
    leaves = task.leaves()
    kept = [leaf for leaf in range(len(leaves)) if leaf not in direct]

    def features(x: Array) -> list[blocks.Feature]:
        return jax.vmap(lambda row: blocks.features(program, leaves, row, kept))(x)

    def product(left: list[blocks.Feature], right: list[blocks.Feature]) -> Array:
        shares = [blocks.contract(a, b, trace) for a, b in zip(left, right, strict=True)]
        total = sum(shares[1:], shares[0])
        return total if trace else jnp.swapaxes(total, 1, 2)

    total = jnp.zeros((), jnp.result_type(*leaves, x1))
    if kept and x2 is None and x1.shape[0] <= size:
        rows = features(x1)
        total = product(rows, rows)
    elif kept:
        total = blocks.tiled(features, product, x1, x1 if x2 is None else x2, size)
    for group in blocks.grouped(leaves, direct):
        share = blocks.by_jacobian(task, group, x1, x2, trace, program.num_outputs, size)
        total = share if total.ndim == 0 else total + share
    return total


@eqx.filter_jit
def by_products(task: blocks.Task, x1: Array, x2: Array, trace: bool, num_rows: int) -> Array:
    """J1 (J2' e) for each input of ``x2`` and each output."""
    leaves = task.leaves()
    num_outputs = blocks.program_of(task, x1).num_outputs

    def column(number: Array) -> Array:
        row, output = number // num_outputs, number % num_outputs
        one = jax.nn.one_hot(output, num_outputs, dtype=jnp.result_type(*leaves, x1))
        _, pull = jax.vjp(lambda p: task.one(p, x2[row]), leaves)
        return tangents(task, leaves, x1, pull(one.astype(pull_dtype(task, leaves, x2)))[0])

    columns = jax.lax.map(column, jnp.arange(x2.shape[0] * num_outputs), batch_size=num_rows)
    full = columns.reshape(x2.shape[0], num_outputs, x1.shape[0], num_outputs)
    if trace:
        return jnp.einsum("jbib->ij", full) / num_outputs
    return jnp.transpose(full, (2, 0, 3, 1))


def pull_dtype(task: blocks.Task, leaves: list[Array], x: Array) -> Any:
    """The dtype of the outputs."""
    return jax.eval_shape(task.one, leaves, x[0]).dtype


def tangents(task: blocks.Task, leaves: list[Array], x: Array, direction: Any) -> Array:
    """J(x) times a direction in parameter space, [n, output]."""
    return jax.vmap(lambda row: jax.jvp(lambda p: task.one(p, row), (leaves,), (direction,))[1])(x)


def ntk_vector_product(
    f: Callable[[Any, Any], Any], params: Any, x1: Any, v: Any, x2: Any = None
) -> Float[Array, "..."]:
    """Theta(x1, x2) v = J1 (J2' v) without the kernel: one backward and one forward pass.

    Args:
        f: as in `empirical_ntk`.
        params: where the derivatives are taken.
        x1: inputs, [n1, ...].
        v: of the shape of ``f(params, x2)``.
        x2: inputs, [n2, ...]; None means ``x1``.

    Returns:
        An array of the shape of ``f(params, x1)``.
    """
    task = blocks.Task(frozen_function(f, "f"), Frozen(params, "params"))
    x1 = jnp.asarray(x1)
    return compiled_product(task, x1, x1 if x2 is None else jnp.asarray(x2), jnp.asarray(v))


@eqx.filter_jit
def compiled_product(task: blocks.Task, x1: Array, x2: Array, v: Array) -> Array:
    """See `ntk_vector_product`."""
    leaves = task.leaves()
    out, pull = jax.vjp(lambda p: task.batch(p, x2), leaves)
    if v.shape != out.shape:
        raise bad_argument("v", f"shape {v.shape}", f"that of f(params, x2), {out.shape}")
    (direction,) = pull(v.astype(out.dtype))
    return jax.jvp(lambda p: task.batch(p, x1), (leaves,), (direction,))[1]


def empirical_nngp(
    f: Callable[[Any, Any], Any], params: Any, x1: Any, x2: Any = None
) -> Float[Array, "n1 n2"]:
    """The mean over outputs of f(x1) f(x2)', whose mean over networks tends to the NNGP kernel."""
    left = jnp.asarray(f(params, jnp.asarray(x1)))
    right = left if x2 is None else jnp.asarray(f(params, jnp.asarray(x2)))
    left, right = (part.reshape(part.shape[0], -1) for part in (left, right))
    return left @ right.T / left.shape[1]
