"""What the processes of this room check before they work."""

from __future__ import annotations

import os

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bayleaf.errors import bad_argument
from bayleaf.gp.kernel import Numbers, strong
from bayleaf.trees import is_traced


def nonnegative(value: Numbers, name: str) -> Array:
    """One number, or one for each of the data, of at least 0."""
    array = strong(value)
    if array.ndim > 1:
        raise bad_argument(name, f"shape {array.shape}", "a number, or one for each of the data")
    if not is_traced(array) and not np.all(np.isfinite(array) & (np.asarray(array) >= 0)):
        raise bad_argument(name, str(np.asarray(array)), "finite numbers of at least 0")
    return array


def check_outputs(y: Array, num: int, noise_std: Array) -> None:
    """Outputs for each of ``num`` points, as a vector or as columns."""
    if y.ndim not in (1, 2) or y.shape[0] != num or num == 0:
        raise bad_argument(
            "y", f"shape {y.shape}", f"shape ({max(num, 1)},), or ({max(num, 1)}, output)"
        )
    if jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise bad_argument("y", "complex numbers", "real numbers")
    if noise_std.ndim and noise_std.shape[0] != num:
        raise bad_argument(
            "noise_std",
            f"shape {noise_std.shape}",
            f"one number, or {num}: one for each of the data",
        )


def check_finite(x: Array, name: str) -> None:
    """Raise, by the row, if there is a NaN or an infinity."""
    is_bad = ~np.isfinite(np.asarray(x)).reshape(x.shape[0], -1).all(axis=1)
    if is_bad.any():
        row = int(np.argmax(is_bad))
        raise bad_argument(
            name,
            f"NaN or infinite numbers in {is_bad.sum()} rows, the first of them row {row}",
            "finite numbers",
            "Leave out these rows, or fill in what is missing.",
        )


def available_memory(x: Array) -> float | None:
    """Free bytes of the machine, where it says so and computes on its own memory."""
    if next(iter(x.devices())).platform != "cpu":
        return None
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return None
