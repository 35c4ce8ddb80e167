"""Short hashes that say whether two runs are configured alike, one for each named part.

A checkpoint may be resumed only by the run that it belongs to. What decides the draws is a mixture
of arrays, settings and functions; each is reduced to a hash of its type, structure, shapes, dtypes
and bytes. A function counts by its name, its compiled code, its defaults, and what it closes over
or reads from its module: arrays and numbers by value, helper functions of the same module by their
code. So an edited model or changed data are seen. An object of an unknown class counts by the name
of the class alone: nothing that changes from one process to the next, such as an address or the
order of a set, enters a hash.
"""

from __future__ import annotations

import builtins
import dataclasses
import functools
import hashlib
import inspect
import types
from typing import Any

import jax
import numpy as np

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))


def fingerprint(**parts: Any) -> dict[str, str]:
    """A hash for each part: ``fingerprint(kernel=kernel, key=key)["kernel"]``.

    Two parts hash alike when they have the same structure, shapes, dtypes, bytes and code.
    """
    return {name: _hash(part) for name, part in parts.items()}


def _hash(part: Any) -> str:
    digest = hashlib.sha256()
    _feed(digest, part, set())
    return digest.hexdigest()[:16]


def _feed(digest: Any, value: Any, seen: set[int]) -> None:
    """Add ``value`` to the digest; ``seen`` holds the functions on the way, which may be cyclic."""

    def say(text: str) -> None:
        digest.update(f"{text};".encode())

    def descend(label: str, children: Any) -> None:
        say(f"{label}:{len(children)}")
        for name, child in children:
            say(str(name))
            _feed(digest, child, seen)

    if isinstance(value, _PLAIN):
        say(f"{type(value).__name__}={value!r}")
    elif isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        say(f"key {jax.random.key_impl(value)}")
        _feed(digest, np.asarray(jax.random.key_data(value)), seen)
    elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
        array = np.asarray(value)
        say(f"array {array.dtype} {array.shape}")
        if array.dtype == object:
            descend("object", list(enumerate(array.ravel().tolist())))
        else:
            digest.update(np.ascontiguousarray(array).tobytes())
    elif isinstance(value, types.CodeType):
        digest.update(value.co_code)
        descend("code", [("names", value.co_names), *enumerate(value.co_consts)])
    elif isinstance(value, (set, frozenset)):  # their order differs between processes
        descend("set", list(enumerate(sorted(value, key=repr))))
    elif isinstance(value, dict):
        descend("dict", sorted(value.items(), key=lambda item: repr(item[0])))
    elif isinstance(value, (list, tuple)):
        descend(_class_name(value), list(enumerate(value)))
    elif isinstance(value, functools.partial):
        descend("partial", [("f", value.func), ("a", value.args), ("k", value.keywords)])
    elif isinstance(value, types.MethodType):
        descend("method", [("f", value.__func__), ("self", value.__self__)])
    elif isinstance(value, types.FunctionType):
        descend(f"def {value.__module__}.{value.__qualname__}", _function_parts(value, seen))
    elif callable(inner := getattr(value, "__wrapped__", None)):  # jax.jit and its like
        descend(_class_name(value), [("wrapped", inner)])
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f.name for f in dataclasses.fields(value)]
        descend(_class_name(value), [(name, getattr(value, name, None)) for name in fields])
    elif (children := _pytree_children(value)) is not None:
        descend(_class_name(value), list(enumerate(children)))
    else:
        name = getattr(value, "__qualname__", None)
        say(f"{value.__module__}.{name}" if isinstance(name, str) else _class_name(value))


def _function_parts(function: types.FunctionType, seen: set[int]) -> list[tuple[str, Any]]:
    """What decides a function's result; nothing when it is already on the way (recursion)."""
    if id(function) in seen:
        return []
    seen.add(id(function))
    parts = [
        ("code", function.__code__),
        ("defaults", function.__defaults__),
        ("keyword defaults", function.__kwdefaults__),
    ]
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    parts += [(name, cell.cell_contents) for name, cell in cells if cell != types.CellType()]
    parts += [(name, value) for name, value in _read_globals(function) if _counts(value, function)]
    return parts


def _read_globals(function: types.FunctionType) -> list[tuple[str, Any]]:
    names = sorted(_global_names(function.__code__))
    found = function.__globals__
    return [(n, found[n]) for n in names if n in found and not hasattr(builtins, n)]


def _global_names(code: types.CodeType) -> set[str]:
    """Names that the code or a function written inside it may read from its module."""
    nested = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*(_global_names(inner) for inner in nested))


def _counts(value: Any, function: types.FunctionType) -> bool:
    """Whether a global is the user's own (data, helpers), not a library's."""
    if inspect.ismodule(value) or inspect.isclass(value):
        return False
    if callable(value):
        return inspect.unwrap(value).__module__ == function.__module__
    return isinstance(value, (*_PLAIN, np.ndarray, np.generic, jax.Array, dict, list, tuple))


def _pytree_children(value: Any) -> list[Any] | None:
    leaves, structure = jax.tree.flatten(value, is_leaf=lambda node: node is not value)
    return None if jax.tree_util.treedef_is_leaf(structure) else leaves


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
