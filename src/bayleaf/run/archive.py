"""One file of arrays with a header: what checkpoints and saved runs are written in.

The file is an ordinary ``.npz`` archive without pickles. Its first member is a JSON header, the
others are the leaves of a pytree in order; the zip format's checksums tell a damaged file from a
good one. It is written to a temporary name in the same directory, flushed to disk, then renamed:
under its final name a file is either complete or absent, whenever the process is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayleaf import __version__
from bayleaf.errors import CheckpointError

FORMAT_VERSION = 1
_HEADER = "bayleaf_header"


def write(path: Path, header: dict[str, Any], leaves: Sequence[Any]) -> None:
    """Write ``header`` and ``leaves`` to ``path`` so that no reader sees half a file."""
    packed = [_pack(leaf) for leaf in leaves]
    header = {"format_version": FORMAT_VERSION, "leaves": [kind for kind, _ in packed], **header}
    members = {_HEADER: np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)}
    members |= {f"leaf_{i:05d}": array for i, (_, array) in enumerate(packed)}
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **members)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    _sync_directory(path.parent)


def read(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """The header and the leaves of a file made by `write`.

    Raises:
        CheckpointError: the file is missing, damaged, foreign, or of a newer format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file. Check the path.")
    try:
        # Opened here because np.load, given a path, leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            header = json.loads(archive[_HEADER].tobytes())
            _require_known_format(path, header)
            kinds = header["leaves"]
            leaves = [_unpack(kind, archive[f"leaf_{i:05d}"]) for i, kind in enumerate(kinds)]
    except CheckpointError:
        raise
    except (
        OSError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as e:
        raise CheckpointError(
            f"{path}: not a file that bayleaf wrote, or damaged ({type(e).__name__}: {e}). "
            "Restore it from a copy, or delete it and start again."
        ) from e
    return header, leaves


def structure_of(tree: Any) -> Any:
    """The shape of a pytree as JSON: what `rebuild` needs beside the leaves."""
    if tree is None:
        return None
    if jax.tree_util.all_leaves([tree]):
        return "leaf"
    paths = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
    children = [structure_of(child) for _, child in paths]
    if type(tree) in (list, tuple):
        return {type(tree).__name__: children}
    names = [_field(path[0]) for path, _ in paths]
    kind = "dict" if type(tree) is dict else "record"
    return {kind: [list(pair) for pair in zip(names, children, strict=True)]}


def rebuild(structure: Any, leaves: Sequence[Any]) -> Any:
    """The pytree with this structure; records of other classes become ordered dictionaries."""
    remaining = iter(leaves)

    def build(node: Any) -> Any:
        match node:
            case None:
                return None
            case "leaf":
                return next(remaining)
            case {"list": children}:
                return [build(child) for child in children]
            case {"tuple": children}:
                return tuple([build(child) for child in children])
            case {"dict": items}:
                return {name: build(child) for name, child in items}
            case {"record": items}:  # ordered: its leaves must keep the order of the record's
                return OrderedDict((name, build(child)) for name, child in items)
            case _:
                raise CheckpointError(f"unknown node {node!r} in a saved structure.")

    return build(structure)


def _field(entry: Any) -> str | int:
    """The name of a child: a dictionary's key, a record's field, or a position."""
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            value = getattr(entry, attribute)
            return value if isinstance(value, (str, int)) else str(value)
    return str(entry)


def versions() -> dict[str, str]:
    """The versions of the packages that decide bits, for the header."""
    return {"bayleaf": __version__, "jax": jax.__version__, "numpy": np.__version__}


def _require_known_format(path: Path, header: dict[str, Any]) -> None:
    if header["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: got format version {header['format_version']}, expected at most "
            f"{FORMAT_VERSION}. Read it with the newer bayleaf that wrote it."
        )


def _pack(leaf: Any) -> tuple[str, np.ndarray]:
    """A leaf as a plain array and the word by which `_unpack` finds its type again."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return f"key:{jax.random.key_impl(leaf)}", np.asarray(jax.random.key_data(leaf))
    array = np.asarray(leaf)
    if array.dtype == object:
        raise TypeError(f"a leaf of type {type(leaf).__name__} is not an array")
    if array.dtype.kind == "V":  # bfloat16 and float8: .npy keeps their bytes, not their names
        return f"raw:{array.dtype.name}", array.view(f"u{array.dtype.itemsize}")
    return "array", array


def _unpack(kind: str, array: np.ndarray) -> Any:
    how, _, name = kind.partition(":")
    if how == "key":
        return jax.random.wrap_key_data(jnp.asarray(array), impl=name)
    return array.view(jnp.dtype(name)) if how == "raw" else array


def _sync_directory(directory: Path) -> None:
    # A rename is durable only once the directory itself is on disk. Not every system can do this.
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
