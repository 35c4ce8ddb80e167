"""Kernels of many inputs, tile by tile: in a bounded memory, on several devices, onto a disk.

``net.kernel(x)`` holds a dozen arrays of the size of the result (times the pairs of positions, for
images). `kernel_matrix` computes tiles that fit a budget and moves each to the host; of a symmetric
matrix only the tiles on and below the diagonal. Any number of inputs will do: the last tiles are
filled up with copies and cut. All tiles have one shape, so that one program is compiled.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, ArrayLike

from bayleaf.errors import bad_argument
from bayleaf.infinite.layer import (
    Layer,
    Report,
    checked_inputs,
    checked_names,
    evaluate,
    host_memory,
    named_tuple,
)
from bayleaf.run.progress import open_progress

ARRAYS_AT_ONCE = 12  # of the size of a tile, while it is computed


def kernel_matrix(
    net: Layer,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    get: str | tuple[str, ...] = "nngp",
    memory: int | float = 1e9,
    mesh: Mesh | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> Any:
    """The kernel as an array of the host, or in a file.

    Args:
        net: a network with one output.
        x1: inputs, ``[n1, ...]``.
        x2: inputs, ``[n2, ...]``; None means ``x1`` with itself.
        get: as in ``net.kernel``.
        memory: bytes that a tile and its intermediate arrays may take, on each device.
        mesh: devices that share the rows of each tile, along the first axis of the mesh.
        out: where to write the result, ``NAME.npy``; it is then a `numpy.memmap` of that file. For
            several kernels, ``NAME.nngp.npy`` and so on.
        progress: show a bar.

    Returns:
        ``[n1, n2]`` for one name, a named tuple for several.

    Raises:
        BayleafError: as ``net.kernel``, and when the result does not fit the memory of the host or
            one pair does not fit the budget.
    """
    names = checked_names(get)
    a, b, id1, _ = checked_inputs(x1, x2)
    is_symmetric = id1 is not None
    num_devices = 1 if mesh is None else int(mesh.devices.shape[0])
    shape = _tile_shape(net, a, b, memory, num_devices, is_symmetric)
    results = _empty(names, (a.shape[0], b.shape[0]), a.dtype, out)
    tiles = [
        (i, j)
        for i in range(0, a.shape[0], shape[0])
        for j in range(0, b.shape[0], shape[1])
        if not is_symmetric or j < i + shape[0]
    ]
    reports = []
    host1 = np.asarray(a)
    host2 = host1 if is_symmetric else np.asarray(b)
    with open_progress({"kernel": len(tiles)}, shown=progress) as display:
        for done, (i, j) in enumerate(tiles):
            rows, ids1 = _filled(host1, i, shape[0], -1)
            columns, ids2 = _filled(host2, j, shape[1], -1 - shape[0])
            labels = (ids1, ids2) if is_symmetric else (None, None)
            if mesh is None:
                values, report = evaluate(net, rows, columns, *labels, names)
            else:
                values, report = _sharded(net, rows, columns, *labels, names, mesh)
            reports.append(report)
            for result, value in zip(results, values, strict=True):
                _store(result, np.asarray(value), i, j, is_symmetric)
            display.update(done + 1)
    _judge(reports, names)
    for result in results:
        if isinstance(result, np.memmap):
            result.flush()
    return results[0] if isinstance(get, str) else named_tuple(names)(*results)


@eqx.filter_jit
def _sharded(
    net: Layer,
    x1: Array,
    x2: Array,
    id1: Array | None,
    id2: Array | None,
    names: tuple[str, ...],
    mesh: Mesh,
) -> tuple[list[Array], Report]:
    """`evaluate` with the rows of ``x1`` on the devices of the mesh."""
    rows, all_ = PartitionSpec(mesh.axis_names[0]), PartitionSpec()
    arrays, static = eqx.partition(net, eqx.is_array)

    def part(arrays: Any, x1: Array, x2: Array, id1: Any, id2: Any) -> Any:
        values, report = evaluate(eqx.combine(arrays, static), x1, x2, id1, id2, names)
        return values, jax.tree.map(lambda leaf: leaf[None], report)

    specs = (all_, rows, all_, rows, all_)
    # The loops of `evaluate` do not say on which devices their carries differ.
    split = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)
    return split(arrays, x1, x2, id1, id2)


def _tile_shape(
    net: Layer, x1: Array, x2: Array, memory: int | float, num_devices: int, is_symmetric: bool
) -> tuple[int, int]:
    """Rows and columns of a tile; rows are a multiple of the number of devices."""
    if not memory > 0:
        raise bad_argument("memory", memory, "a number of bytes > 0")
    positions = math.prod(x1.shape[1:-1]) ** (2 if net.mixes_positions else 1)
    pair = ARRAYS_AT_ONCE * positions * x1.dtype.itemsize
    entries = int(memory * num_devices / pair)
    if entries < num_devices:
        raise bad_argument(
            "memory",
            f"{memory:.3g} bytes",
            f"at least {pair:.3g}, for one pair of inputs of shape {x1.shape[1:]}",
            "Give more memory, or pool the images first.",
        )
    n1, n2 = x1.shape[0], x2.shape[0]
    side = math.isqrt(entries)
    if entries >= n1 * n2:
        rows, columns = n1, n2
    elif is_symmetric:
        rows = columns = min(n1, side)
    else:
        columns = min(n2, max(side, entries // n1))
        rows = min(n1, max(entries // columns, 1))
    return -(-rows // num_devices) * num_devices, columns


def _filled(x: np.ndarray, start: int, size: int, first_label: int) -> tuple[Array, Array]:
    """``size`` rows from ``start`` on, filled up with copies whose labels occur nowhere else."""
    rows = x[start : start + size]
    labels = np.arange(start, start + len(rows), dtype=np.int32)
    missing = size - len(rows)
    if missing:
        rows = np.concatenate([rows, np.repeat(x[:1], missing, axis=0)])
        labels = np.concatenate([labels, first_label - np.arange(missing, dtype=np.int32)])
    return jnp.asarray(rows), jnp.asarray(labels)


def _store(result: np.ndarray, tile: np.ndarray, i: int, j: int, is_symmetric: bool) -> None:
    """The tile at its place, and mirrored."""
    tile = tile[: result.shape[0] - i, : result.shape[1] - j]
    rows, columns = slice(i, i + tile.shape[0]), slice(j, j + tile.shape[1])
    result[rows, columns] = tile
    if is_symmetric and i != j:
        result[columns, rows] = tile.T


def _empty(
    names: tuple[str, ...], shape: tuple[int, int], dtype: Any, out: str | Path | None
) -> list[np.ndarray]:
    """Where the kernels go: arrays, or files."""
    if out is not None:
        path = Path(out)
        if path.suffix != ".npy":
            raise bad_argument("out", str(out), "a name that ends in .npy")
        paths = [path if len(names) == 1 else path.with_suffix(f".{name}.npy") for name in names]
        return [
            np.lib.format.open_memmap(p, mode="w+", dtype=np.dtype(dtype), shape=shape)
            for p in paths
        ]
    size = math.prod(shape) * np.dtype(dtype).itemsize * len(names)
    free = host_memory()
    if size > free:
        raise bad_argument(
            "x1, x2",
            f"{shape[0]} and {shape[1]} inputs, whose kernels take {size / 1e9:.3g} GB",
            f"at most the {free / 1e9:.3g} GB of this machine",
            "Pass out='kernel.npy' to write them to a file, use float32, or fewer inputs.",
        )
    return [np.empty(shape, dtype) for _ in names]


def _judge(reports: list[Report], names: tuple[str, ...]) -> None:
    """The worst of all tiles."""
    Report(
        jnp.asarray(all(np.all(r.inputs_are_finite) for r in reports)),
        jnp.asarray(all(np.all(r.outputs_are_finite) for r in reports)),
        jnp.asarray(max(np.max(r.error) for r in reports)),
    ).judge(names)
