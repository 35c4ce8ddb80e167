"""The pieces of an empirical tangent kernel: features of rows, their products, tiles, costs.

The features of one input are, for each array of the parameters, what its share of the kernel needs:
h and D for a layer (`empirical_program`), or the derivative itself. For a layer with S positions,
K features in and M out there are two ways to the same share,

    sum_st (h_s . h'_t) (D_as . D'_bt)    or    G_a : G'_b  with  G_a = sum_s h_s D_as',

of which the first is cheap for one position and the second for many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bayleaf.errors import bad_argument
from bayleaf.infinite.empirical_program import (
    Program,
    Step,
    cotangents,
    evaluate,
    positions,
    trace_program,
)
from bayleaf.trees import Frozen


class Task(eqx.Module):
    """A function and its parameters; what is not a floating point array in them stays fixed."""

    function: Frozen
    params: Frozen

    def leaves(self) -> list[Array]:
        """The arrays that are differentiated."""
        return jax.tree.leaves(self.leaves_tree())

    def leaves_tree(self) -> Any:
        """The parameters without all the rest."""
        return eqx.filter(self.params.thaw(), eqx.is_inexact_array)

    def batch(self, leaves: Sequence[Array], x: Array) -> Array:
        """The batch with other values of the differentiated arrays."""
        params, fixed = eqx.partition(self.params.thaw(), eqx.is_inexact_array)
        params = jax.tree.unflatten(jax.tree.structure(params), list(leaves))
        out = self.function(eqx.combine(params, fixed), x)
        if not isinstance(out, jax.Array):
            raise bad_argument("f", f"{type(out).__name__} as output", "one array [batch, ...]")
        return out

    def one(self, leaves: Sequence[Array], x: Array) -> Array:
        """The outputs for one input, as a vector."""
        return jnp.ravel(self.batch(leaves, x[None]))


class Feature(NamedTuple):
    """``entering`` is [row, position, in] or None; ``back`` is [row, output, position, out]."""

    entering: Array | None
    back: Array


LARGE = 2**16
"""A direct parameter of more numbers than this is worked on by itself: its derivatives for all
outputs at once would leave room for a few rows only, which then are made again and again."""


def program_of(task: Task, x: Array) -> Program:
    """The function of one input, opened."""
    example = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    return trace_program(task.one, task.leaves(), example)


def by_themselves(leaves: list[Array], kinds: Iterable[str], method: str) -> tuple[int, ...]:
    """The parameters whose Jacobians are formed: all, or the large ones that are direct."""
    return tuple(
        leaf
        for leaf, kind in enumerate(kinds)
        if method == "jacobian" or (kind == "direct" and leaves[leaf].size > LARGE)
    )


def features(
    program: Program, leaves: list[Array], example: Array, kept: list[int]
) -> list[Feature]:
    """The features of one input (without their axis ``row``) for some parameters."""
    shapes = [program.shape(leaf, leaves) for leaf in range(len(leaves))]
    zeros = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]

    def run(zeros: list[Array]) -> Any:
        return evaluate(program, leaves, example, zeros)

    out, pull, sites = jax.vjp(run, zeros, has_aux=True)
    # Layers that do not reach the output have zero derivatives, of their own dtype.
    (backs,) = jax.vmap(pull)(jnp.eye(out.shape[0], dtype=out.dtype))
    found = []
    for leaf in kept:
        back = backs[leaf]
        layer = program.layers.get(leaf)
        if layer is None:
            found.append(Feature(None, back.reshape(out.shape[0], 1, -1)))
            continue
        step, site = program.steps[layer.at], sites[leaf]
        h = positions(step, layer.operand, site.other) * site.scale
        d = cotangents(step, layer.operand, site.other, back)
        if is_outer_cheaper(d.shape[0], d.shape[1], d.shape[2], h.shape[1]):
            outer = jnp.einsum("sk,asm->akm", h, d)
            found.append(Feature(None, outer.reshape(out.shape[0], 1, -1)))
        else:
            found.append(Feature(h, d))
    return found


def is_outer_cheaper(num_outputs: int, positions: int, m: int, k: int) -> bool:
    """Per pair of inputs: S^2 (K + o M) multiplications for the Gram matrices, o K M for G."""
    return positions**2 * (k + num_outputs * m) > num_outputs * k * m


def contract(left: Feature, right: Feature, trace: bool) -> Array:
    """The share of one array of the parameters, [row, row] or [row, output, row, output]."""
    n1, num_outputs, num_positions, m = left.back.shape
    n2 = right.back.shape[0]
    if left.entering is None or right.entering is None:
        return gram(left.back, right.back, trace)
    if num_positions == 1:
        entering = left.entering[:, 0] @ right.entering[:, 0].T
        back = gram(left.back, right.back, trace)
        return entering * back if trace else entering[:, None, :, None] * back
    entering = jnp.einsum("isk,jtk->isjt", left.entering, right.entering)
    if trace:
        back = jnp.einsum("iasm,jatm->isjt", left.back, right.back)
        return jnp.einsum("isjt,isjt->ij", entering, back) / num_outputs
    flat = (part.reshape(-1, m) for part in (left.back, right.back))
    back = jnp.einsum("pm,qm->pq", *flat)
    back = back.reshape(n1, num_outputs, num_positions, n2, num_outputs, num_positions)
    return jnp.einsum("isjt,iasjbt->iajb", entering, back)


def gram(left: Array, right: Array, trace: bool) -> Array:
    """Products of all rows, summed over positions and features."""
    n1, num_outputs = left.shape[:2]
    n2 = right.shape[0]
    if trace:
        return left.reshape(n1, -1) @ right.reshape(n2, -1).T / num_outputs
    full = left.reshape(n1 * num_outputs, -1) @ right.reshape(n2 * num_outputs, -1).T
    return full.reshape(n1, num_outputs, n2, num_outputs)


def grouped(leaves: list[Array], chosen: Sequence[int]) -> list[list[int]]:
    """Parameters in groups that are not larger than the largest of them, so that few are made."""
    limit = max((leaves[leaf].size for leaf in chosen), default=0)
    groups: list[list[int]] = []
    room = 0
    for leaf in sorted(chosen, key=lambda leaf: -leaves[leaf].size):
        if leaves[leaf].size > room:
            groups.append([])
            room = limit
        groups[-1].append(leaf)
        room -= leaves[leaf].size
    return groups


def by_jacobian(
    task: Task,
    group: list[int],
    x1: Array,
    x2: Array | None,
    trace: bool,
    num_outputs: int,
    size: int,
) -> Array:
    """The share of a group of parameters: rows of the Jacobian, times rows of the Jacobian.

    A row belongs to an input and an output. For the trace one output is done after the other, so
    that no product of different outputs is formed.
    """
    leaves = task.leaves()
    other = x1 if x2 is None else x2

    def part(chosen: list[Array], x: Array) -> Array:
        replaced = list(leaves)
        for leaf, value in zip(group, chosen, strict=True):
            replaced[leaf] = value
        return task.one(replaced, x)

    def row(x: Array, output: Array) -> Array:
        chosen = [leaves[leaf] for leaf in group]
        gradient = jax.grad(lambda chosen: part(chosen, x)[output])(chosen)
        return jnp.concatenate([jnp.ravel(leaf) for leaf in gradient])

    def share(a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
        rows = jax.vmap(lambda at: row(*at))
        if x2 is None and a[1].shape[0] <= size:
            jacobian = rows(a)
            return jacobian @ jacobian.T
        return tiled(rows, lambda left, right: left @ right.T, a, b, size)

    if trace:
        out = jax.eval_shape(task.one, leaves, x1[0]).dtype
        start = jnp.zeros((x1.shape[0], other.shape[0]), jnp.result_type(out, *leaves))

        def add(total: Array, output: Array) -> tuple[Array, None]:
            outputs = [jnp.full(x.shape[0], output) for x in (x1, other)]
            return total + share((x1, outputs[0]), (other, outputs[1])), None

        return jax.lax.scan(add, start, jnp.arange(num_outputs))[0] / num_outputs

    def pairs(x: Array) -> tuple[Array, Array]:
        outputs = jnp.tile(jnp.arange(num_outputs), x.shape[0])
        return jnp.repeat(x, num_outputs, axis=0), outputs

    full = share(pairs(x1), pairs(other))
    full = full.reshape(x1.shape[0], num_outputs, other.shape[0], num_outputs)
    return jnp.swapaxes(full, 1, 2)


def tiled(
    rows: Callable[[Any], Any],
    product: Callable[[Any, Any], Array],
    x1: Any,
    x2: Any,
    size: int,
) -> Array:
    """All tiles of ``size`` rows by ``size`` rows, one at a time; the last ones are padded."""
    n1, n2 = (jax.tree.leaves(x)[0].shape[0] for x in (x1, x2))
    left, right = split(x1, size), split(x2, size)

    def band(block: Any) -> Array:
        one = rows(block)
        tiles = jax.lax.map(lambda other: product(one, rows(other)), right)
        # [tile, row, row2, ...] to [row, tile * row2, ...]
        tiles = jnp.moveaxis(tiles, 0, 1)
        return tiles.reshape(tiles.shape[0], -1, *tiles.shape[3:])

    bands = jax.lax.map(band, left)
    full = bands.reshape(-1, *bands.shape[2:])
    return full[:n1, :n2]


def split(tree: Any, size: int) -> Any:
    """[block, size, ...]; copies of the first row fill the last block."""

    def blocks(x: Array) -> Array:
        count = min(size, x.shape[0])
        missing = -x.shape[0] % count
        padded = jnp.concatenate([x, jnp.repeat(x[:1], missing, axis=0)])
        return padded.reshape(-1, count, *x.shape[1:])

    return jax.tree.map(blocks, tree)


def costs(
    program: Program, leaves: list[Array], num: tuple[int, int], is_same: bool, trace: bool
) -> dict[str, float]:
    """Multiplications of each method."""
    n1, n2 = num
    num_outputs = program.num_outputs
    rows, pairs = n1 if is_same else n1 + n2, float(n1 * n2)
    forward = sum(step_cost(step) for step in program.steps)
    per_pair = num_outputs if trace else num_outputs**2
    size = sum(leaf.size for leaf in leaves)
    shares = 0.0
    for leaf in range(len(leaves)):
        s, k, m = layer_sizes(program, leaves, leaf)
        outer = k * m if k else m
        if k and not is_outer_cheaper(num_outputs, s, m, k):
            shares += s**2 * (k + per_pair * m)
        else:
            shares += per_pair * outer
    return {
        "layers": rows * forward * (1 + num_outputs) + pairs * shares,
        # Each output's derivative in the weights is as dear as the pass that leads to it.
        "jacobian": rows * forward * (1 + 2 * num_outputs) + pairs * per_pair * size,
        "products": n2 * num_outputs * forward * 3 + pairs * num_outputs * forward * 2,
    }


def step_cost(step: Step) -> float:
    """Multiplications of one step; elementwise ones count one for each number."""
    size = float(sum(np.prod(shape.shape) for shape in step.shapes))
    if step.primitive.name == "dot_general":
        (axes, _), _ = step.params["dimension_numbers"]
        return size * float(np.prod([step.shapes_in[0].shape[axis] for axis in axes]))
    if step.primitive.name == "conv_general_dilated":
        kernel = step.shapes_in[1]
        features = kernel.shape[step.params["dimension_numbers"].rhs_spec[0]]
        return size * kernel.size / features
    if step.primitive.name != "scan":
        return size
    inner = step.params["jaxpr"].jaxpr.eqns
    return step.params["length"] * sum(
        step_cost(
            Step(
                e.primitive,
                e.params,
                (),
                (),
                *(tuple(v.aval for v in side) for side in (e.invars, e.outvars)),
            )
        )
        for e in inner
    )


def layer_sizes(program: Program, leaves: list[Array], leaf: int) -> tuple[int, int, int]:
    """Positions, features in and features out; (1, 0, size) for a direct parameter."""
    layer = program.layers.get(leaf)
    size = leaves[leaf].size
    if layer is None:
        return 1, 0, size
    step = program.steps[layer.at]
    if step.primitive.name == "dot_general":
        axes = step.params["dimension_numbers"][0][layer.operand]
        k = int(np.prod([step.shapes_in[layer.operand].shape[axis] for axis in axes]))
    else:
        features = step.shapes_in[1].shape[step.params["dimension_numbers"].rhs_spec[0]]
        k = size // features
    m = size // k
    return int(step.shapes[0].size // m), k, m


def numbers_per_row(
    program: Program, leaves: list[Array], method: str, num: tuple[int, int]
) -> float:
    """How many numbers one row (one column, for products) needs while it is worked on."""
    num_outputs = program.num_outputs
    between = float(sum(np.prod(shape.shape) for step in program.steps for shape in step.shapes))
    size = float(sum(leaf.size for leaf in leaves))
    if method == "products":
        return 2 * size + 2 * num[0] * between
    largest = max(leaf.size for leaf in leaves)
    if method == "jacobian":
        return largest + between
    total = num_outputs * between
    for leaf in range(len(leaves)):
        s, k, m = layer_sizes(program, leaves, leaf)
        if k and is_outer_cheaper(num_outputs, s, m, k):
            total += num_outputs * k * m
        elif k or m <= LARGE:
            total += s * k + num_outputs * s * m
        else:
            total = max(total, m)
    return total
