"""Functions compiled by numba as custom calls of XLA, so that no Python runs inside a program.

XLA calls such a function with the address of a *call frame*: a C struct with the operands, the
results and, once, at registration, a request for the version of the interface. Its layout is that
of ``xla/ffi/api/c_api.h`` (version 0), in words of eight bytes:

    frame   1: extension   2: api   7: number of operands   9: their addresses   14: the results'
    buffer  2: dtype       3: address of the data   4: rank   5: address of the dimensions

A function of a frame begins with `is_request`, and then sees for each chain its part of the buffers
by `whole`, `reals` and `flags`.

Numba is an extra (``fast``): only `bayleaf.partitions.machine.calls` imports from this folder, and
only inside functions. Numba keeps what it has compiled in a cache and looks at the date of the file
of the function that is called, not of those that it calls: who edits one of these files deletes the
``__pycache__`` of this folder.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

OPERANDS, RESULTS = 9, 14
"""Words of the frame that hold the addresses of the lists of operands and of results."""

_DOUBLE = 12  # XLA_FFI_DataType_F64
_METADATA = 1  # XLA_FFI_Extension_Metadata

_REGISTERED: dict[str, Any] = {}


def machine_code(function: Callable[..., Any]) -> Any:
    """Compile a function by numba when it is first called; the result is kept on disk."""
    # The tests wrap each function of the library in a checker of types, which numba cannot read.
    return numba.njit(cache=True, nogil=True)(inspect.unwrap(function))


def register(name: str, function: Callable[..., Any]) -> None:
    """Compile a function of the frame's address, and make it known to XLA on the CPU by a name."""
    code = numba.cfunc(types.uint64(types.uint64), cache=True)(inspect.unwrap(function))
    _REGISTERED[name] = code  # or its memory would be freed
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(code.ctypes), platform="cpu")


def _pointer(_context: Any, address: Any, dtype: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(dtype.dtype)(address, dtype), generate


pointer = intrinsic(inspect.unwrap(_pointer))


@machine_code
def view(address, size, dtype):
    """The array of ``size`` numbers at an address; writing to it writes there."""
    return numba.carray(pointer(address, dtype), size)


@machine_code
def is_request(frame):
    """Answer the request for the version, if the frame is one.

    The version named is the caller's own: what is used of the interface has been there since 0.1.
    """
    words = view(frame, 15, types.uint64)
    if words[1] == 0:
        return False
    extension = view(words[1], 4, types.uint64)
    if types.uint32(extension[1]) == _METADATA:
        api = view(words[2], 5, types.uint64)
        view(extension[3], 5, types.uint64)[3] = api[4]
    return True


@machine_code
def _buffer(frame, side, number):
    buffers = view(view(frame, 15, types.uint64)[side], number + 1, types.uint64)
    return view(buffers[number], 6, types.uint64)


@machine_code
def address(frame, side, number):
    """Where the data of an operand or a result begin."""
    return _buffer(frame, side, number)[3]


@machine_code
def extents(frame, side, number):
    """The dimensions of an operand or a result."""
    buffer = _buffer(frame, side, number)
    return view(buffer[5], numba.int64(buffer[4]), types.int64)


@machine_code
def num_chains(frame):
    """How many chains `vmap` asks for: all dimensions but the last of the first result."""
    total = 1
    for extent in extents(frame, RESULTS, 0)[:-1]:
        total *= extent
    return total


@machine_code
def share(frame, side, number, chain):
    """Where this chain's part of a buffer begins, and its length, in numbers.

    What `vmap` has not batched along an axis has the extent 1 there, and is the same for all.
    """
    batch, own = extents(frame, RESULTS, 0)[:-1], extents(frame, side, number)
    length = 1
    for extent in own[batch.size :]:
        length *= extent
    start, stride = 0, length
    for axis in range(batch.size - 1, -1, -1):
        if own[axis] > 1:
            start += (chain % batch[axis]) * stride
            stride *= own[axis]
        chain //= batch[axis]
    return start, length


@machine_code
def whole(frame, side, number, chain):
    """This chain's part of a buffer of int32."""
    start, length = share(frame, side, number, chain)
    return view(address(frame, side, number) + types.uint64(4 * start), length, types.int32)


@machine_code
def flags(frame, side, number, chain):
    """This chain's part of a buffer of booleans, as bytes."""
    start, length = share(frame, side, number, chain)
    return view(address(frame, side, number) + types.uint64(start), length, types.uint8)


@machine_code
def is_double(frame, side, number):
    """Whether a floating-point buffer is of 64 bits; else it is of 32."""
    return types.uint32(_buffer(frame, side, number)[2]) == _DOUBLE


@machine_code
def reals(frame, side, number, chain):
    """This chain's part of a floating-point buffer, as doubles."""
    start, length = share(frame, side, number, chain)
    at = address(frame, side, number)
    if is_double(frame, side, number):
        return view(at + types.uint64(8 * start), length, types.float64)
    return view(at + types.uint64(4 * start), length, types.float32).astype(np.float64)


@machine_code
def put_real(frame, number, chain, value):
    """Write this chain's number into a floating-point result."""
    at = address(frame, RESULTS, number)
    if is_double(frame, RESULTS, number):
        view(at, chain + 1, types.float64)[chain] = value
    else:
        view(at, chain + 1, types.float32)[chain] = value


@machine_code
def put_whole(frame, number, chain, value):
    """Write this chain's number into a result of int32."""
    view(address(frame, RESULTS, number), chain + 1, types.int32)[chain] = value
