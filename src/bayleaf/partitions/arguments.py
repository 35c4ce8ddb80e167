"""Numbers that users give, or the error for each that cannot be used."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from bayleaf.errors import bad_argument
from bayleaf.types import Scalar


def is_known(*arrays: Any) -> bool:
    """Whether the values can be looked at: not while they are traced."""
    return not any(isinstance(array, Tracer) for array in arrays)


def real(value: Any, name: str) -> Scalar:
    """One real number."""
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if array.shape != () or array.dtype.kind not in "iufV":
        raise bad_argument(name, value, "one real number")
    array = jnp.asarray(array)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def positive(value: Any, name: str) -> Scalar:
    """One positive number."""
    number = real(value, name)
    if is_known(number) and not (number > 0 and np.isfinite(number)):
        raise bad_argument(name, str(number), "a positive number")
    return number


def whole(value: Any, name: str) -> int:
    """A whole number, at least 1."""
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or not 1 <= value < 2**31:
        raise bad_argument(name, value, "a whole number, at least 1")
    return int(value)
