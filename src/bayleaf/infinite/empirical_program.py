"""A function of parameters and one example, opened where its parameters are used.

The derivative of a dense layer y = h W in its weights is an outer product, so that its share of
the tangent kernel needs h and D = df/dy only and never the derivative in W itself:

    <df_a(x) / dW, df_b(x') / dW> = sum_st (h_s . h'_t) (D_as . D'_bt),

with s and t over positions (one for a dense layer, the pixels for a convolution, whose h are
patches). To find such layers in any function of JAX we read its jaxpr. A parameter counts as a
layer's weights if its only use, after reshaping, transposing or scaling by a number (which leaves
inner products alone up to the square of that number), is one side of a dot_general without batch
axes or the kernel of a convolution without groups. Everything else - biases, shared weights,
embeddings, whatever happens inside of loops - is *direct*: its derivative is taken as it is.

`trace_program` reads the function, `evaluate` runs it with a zero added to each such y and to each
direct parameter: the derivatives in those zeros are the D.

Source: Novak, Sohl-Dickstein & Schoenholz, ICML 2022 (structured derivatives), for the idea.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal
from jaxtyping import Array

INLINED = {"pjit", "jit", "closed_call", "core_call", "checkpoint", "remat", "remat2"}
"""Calls that are opened; parameters that enter any other call are direct."""

SAME = {"transpose", "reshape", "squeeze", "expand_dims", "copy", "copy_p", "neg"}
"""Operations on a parameter that leave inner products of its derivatives alone."""


class Step(NamedTuple):
    """One equation; values are numbered, and a constant stands for itself."""

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[int | Literal, ...]
    outputs: tuple[int, ...]
    shapes_in: tuple[Any, ...]
    shapes: tuple[Any, ...]


class Layer(NamedTuple):
    """Where a parameter is the weights of a layer: step ``at``, whose operand ``operand`` it is."""

    leaf: int
    at: int
    operand: int


class Program(NamedTuple):
    """The steps, the numbers of parameters, example and output, and the layers that were found."""

    steps: list[Step]
    constants: dict[int, Any]
    leaves: tuple[int, ...]
    example: int
    output: int | Literal
    layers: dict[int, Layer]
    num_outputs: int

    def shape(self, leaf: int, leaves: Sequence[Any]) -> Any:
        """Shape and dtype of the zero that belongs to a parameter."""
        if leaf in self.layers:
            return self.steps[self.layers[leaf].at].shapes[0]
        return jax.ShapeDtypeStruct(leaves[leaf].shape, leaves[leaf].dtype)


class Site(NamedTuple):
    """What a layer got while the program ran: the other operand, and the factor of its weights."""

    other: Array
    scale: Array


def trace_program(function: Any, leaves: Sequence[Any], example: Any) -> Program:
    """Read ``function(leaves, example) -> [output]``."""
    closed = jax.make_jaxpr(function)(list(leaves), example)
    steps: list[Step] = []
    constants: dict[int, Any] = {}
    counter = iter(range(10**9))

    def inline(closed: ClosedJaxpr, arguments: Sequence[int | Literal]) -> list[int | Literal]:
        jaxpr = closed.jaxpr
        names: dict[Any, int | Literal] = dict(zip(jaxpr.invars, arguments, strict=True))
        for variable, value in zip(jaxpr.constvars, closed.consts, strict=True):
            names[variable] = number = next(counter)
            constants[number] = value

        def read(atom: Any) -> int | Literal:
            return atom if isinstance(atom, Literal) else names[atom]

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            if equation.primitive.name in INLINED:
                inner = equation.params["jaxpr"]
                if not isinstance(inner, ClosedJaxpr):
                    inner = ClosedJaxpr(inner, ())
                results = inline(inner, inputs)
            else:
                results = [next(counter) for _ in equation.outvars]
                steps.append(
                    Step(
                        equation.primitive,
                        equation.params,
                        tuple(inputs),
                        tuple(results),
                        tuple(v.aval for v in equation.invars),
                        tuple(v.aval for v in equation.outvars),
                    )
                )
            names.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    numbers = [next(counter) for _ in closed.jaxpr.invars]
    (output,) = inline(closed, numbers)
    *leaf_numbers, example_number = numbers
    shape = closed.out_avals[0]
    layers = find_layers(steps, leaf_numbers, output)
    return Program(
        steps, constants, tuple(leaf_numbers), example_number, output, layers, shape.shape[0]
    )


def find_layers(
    steps: list[Step], leaf_numbers: Sequence[int], output: int | Literal
) -> dict[int, Layer]:
    """The parameters whose only use is as the weights of a layer."""
    origin = {number: leaf for leaf, number in enumerate(leaf_numbers)}
    uses: dict[int, list[Layer | None]] = defaultdict(list)
    makers = {number: step for step in steps for number in step.outputs}
    for index, step in enumerate(steps):
        for operand, value in enumerate(step.inputs):
            if isinstance(value, Literal) or value not in origin:
                continue
            leaf = origin[value]
            if keeps_products(step, operand, makers):
                origin[step.outputs[0]] = leaf
            elif is_layer(step, operand):
                uses[leaf].append(Layer(leaf, index, operand))
            else:
                uses[leaf].append(None)
    if not isinstance(output, Literal) and output in origin:
        uses[origin[output]].append(None)
    found = {leaf: use[0] for leaf, use in uses.items() if len(use) == 1}
    return {leaf: layer for leaf, layer in found.items() if layer is not None}


def keeps_products(step: Step, operand: int, makers: dict[int, Step]) -> bool:
    """Whether the step only rearranges the operand or multiplies it by one number."""
    name = step.primitive.name
    if name in SAME:
        return True
    if name == "convert_element_type":
        return bool(jnp.issubdtype(step.params["new_dtype"], jnp.inexact))
    if name == "broadcast_in_dim":
        return step.shapes_in[0].size == step.shapes[0].size
    if name == "mul" or (name == "div" and operand == 0):
        return is_one_number(step.inputs[1 - operand], step.shapes_in[1 - operand], makers)
    return False


def is_one_number(value: int | Literal, shape: Any, makers: dict[int, Step]) -> bool:
    """Whether a value is a scalar, or a scalar spread over a shape."""
    if shape.size == 1:
        return True
    maker = None if isinstance(value, Literal) else makers.get(value)
    if maker is None or maker.primitive.name != "broadcast_in_dim":
        return False
    return is_one_number(maker.inputs[0], maker.shapes_in[0], makers)


def is_layer(step: Step, operand: int) -> bool:
    """Whether the operand is the weights of a dense layer or of a convolution."""
    if step.primitive.name == "dot_general":
        _, batch = step.params["dimension_numbers"]
        return not batch[0]
    if step.primitive.name == "conv_general_dilated":
        groups = step.params["feature_group_count"], step.params["batch_group_count"]
        return operand == 1 and groups == (1, 1)
    return False


def evaluate(
    program: Program, leaves: Sequence[Array], example: Array, zeros: Sequence[Array]
) -> tuple[Array, dict[int, Site]]:
    """The output, and what each layer got; ``zeros`` are added where derivatives are wanted."""
    values: dict[int, Any] = dict(program.constants)
    scales: dict[int, Array] = {}
    layer_at = {layer.at: layer for layer in program.layers.values()}
    sites: dict[int, Site] = {}
    for leaf, (number, value) in enumerate(zip(program.leaves, leaves, strict=True)):
        if leaf in program.layers:
            values[number], scales[number] = value, jnp.ones((), value.dtype)
        else:
            values[number] = value + zeros[leaf]
    values[program.example] = example

    def read(value: int | Literal) -> Any:
        return value.val if isinstance(value, Literal) else values[value]

    for index, step in enumerate(program.steps):
        inputs = [read(value) for value in step.inputs]
        results = perform(step, inputs)
        layer = layer_at.get(index)
        if layer is not None:
            number = step.inputs[layer.operand]
            assert isinstance(number, int)
            sites[layer.leaf] = Site(inputs[1 - layer.operand], scales[number])
            results[0] = results[0] + zeros[layer.leaf]
        else:
            carry_scale(step, inputs, scales)
        values.update(zip(step.outputs, results, strict=True))
    return read(program.output), sites


def perform(step: Step, inputs: list[Any]) -> list[Any]:
    """Do one step."""
    found = step.primitive.get_bind_params(step.params)
    # Before JAX 0.10 the functions of a call came apart from its other parameters.
    functions, parameters = found if isinstance(found, tuple) else ((), found)
    results = step.primitive.bind(*functions, *inputs, **parameters)
    return list(results) if step.primitive.multiple_results else [results]


def carry_scale(step: Step, inputs: list[Any], scales: dict[int, Array]) -> None:
    """Note by what number the result of a step is a multiple of a parameter."""
    for operand, value in enumerate(step.inputs):
        if isinstance(value, Literal) or value not in scales:
            continue
        scale, name = scales[value], step.primitive.name
        if name in ("mul", "div"):
            number = jnp.reshape(jnp.asarray(inputs[1 - operand]), (-1,))[0]
            scale = scale * number if name == "mul" else scale / number
        if len(step.outputs) == 1:
            scales[step.outputs[0]] = scale


def positions(step: Step, operand: int, other: Array) -> Array:
    """The other operand as ``[position, feature]``; patches, for a convolution."""
    if step.primitive.name == "dot_general":
        contracted = step.params["dimension_numbers"][0][1 - operand]
        free = [axis for axis in range(other.ndim) if axis not in contracted]
        size = int(np.prod([other.shape[axis] for axis in contracted]))
        return jnp.transpose(other, [*free, *contracted]).reshape(-1, size)
    params = step.params
    numbers, kernel = params["dimension_numbers"], step.shapes_in[1].shape
    patches = jax.lax.conv_general_dilated_patches(
        other,
        filter_shape=[kernel[axis] for axis in numbers.rhs_spec[2:]],
        window_strides=params["window_strides"],
        padding=params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=numbers,
    )
    axis = numbers.out_spec[1]
    return jnp.moveaxis(patches, axis, -1).reshape(-1, patches.shape[axis])


def cotangents(step: Step, operand: int, other: Array, cotangent: Array) -> Array:
    """Derivatives in y, ``[output, *y]``, as ``[output, position, feature]``."""
    num_outputs = cotangent.shape[0]
    if step.primitive.name == "dot_general":
        contracted = step.params["dimension_numbers"][0][1 - operand]
        free = [size for axis, size in enumerate(other.shape) if axis not in contracted]
        num_positions = int(np.prod(free))
        if operand == 0:  # y = [features of W, positions]
            flat = cotangent.reshape(num_outputs, -1, num_positions)
            return jnp.swapaxes(flat, 1, 2)
        return cotangent.reshape(num_outputs, num_positions, -1)
    axis = step.params["dimension_numbers"].out_spec[1] + 1
    return jnp.moveaxis(cotangent, axis, -1).reshape(num_outputs, -1, cotangent.shape[axis])
