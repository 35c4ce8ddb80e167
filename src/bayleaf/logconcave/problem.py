"""The arguments of adaptive rejection, checked and made into arrays: one row for each target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayleaf.errors import bad_argument
from bayleaf.logconcave.hull import scalar
from bayleaf.trees import Frozen, as_arrays, frozen_function

# Where to look first: about zero, above a lower end, and in shares of an interval.
AROUND_ZERO = np.array([-1e3, -30.0, -1.0, -0.03, 0.0, 0.03, 1.0, 30.0, 1e3])
ABOVE_END = np.array([1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0, 3.0, 30.0, 1e3])
IN_INTERVAL = np.array([1e-4, 1e-2, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1 - 1e-4])


class Problem(eqx.Module):
    """Log densities and where they live; arrays have a leading target axis."""

    log_density: Frozen
    args: Any
    points: Float[Array, "target point"]
    low: Float[Array, "target"]
    high: Float[Array, "target"]

    def bound(self, args: Any) -> Callable[[Any], Any]:
        """The log density of the target with these args."""
        return self.log_density if args is None else lambda x: self.log_density(x, args)

    def evaluate(self, target: Array, x: Array) -> Array:
        """Log densities of targets, given by number, at points."""
        if self.args is None:
            return jax.vmap(lambda x: scalar(self.log_density, x))(x)
        args = jax.tree.map(lambda leaf: leaf[target], self.args)
        return jax.vmap(lambda x, args: scalar(self.bound(args), x))(x, args)


def problem(
    log_density: Any, key: Any, num_draws: Any, support: Any, init: Any, args: Any
) -> Problem:
    """The checked problem; refuses what cannot be sampled, by name."""
    function = frozen_function(log_density, "log_density")
    check_key(key)
    check_count("num_draws", num_draws)
    args = None if args is None else as_arrays(args, "args")
    num_targets = 1 if args is None else _leading(args)
    low, high = _ends(support)
    dtype = _dtype(low, high, init, args)
    low, high = (_of_targets("support", end, num_targets, dtype) for end in (low, high))
    _check_ends(low, high)
    points = starting_points(low, high) if init is None else _given(init, low, high, dtype)
    return Problem(function, args, *(jnp.asarray(leaf, dtype) for leaf in (points, low, high)))


def check_key(key: Any) -> None:
    """Refuse what is no single typed key."""
    is_key = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not is_key or key.ndim:
        raise bad_argument("key", key, "one typed key", "Make it by jax.random.key(0).")


def check_count(name: str, value: Any) -> None:
    """Refuse what is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise bad_argument(name, value, "a whole number >= 1")


def starting_points(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """A grid for each target that covers many scales."""
    low, high = low[:, None], high[:, None]
    has_low, has_high = np.isfinite(low), np.isfinite(high)
    eps = np.finfo(low.dtype).eps
    at_low, at_high = np.where(has_low, low, 0), np.where(has_high, high, 0)
    # Next to an end of 1e6 points that differ by 1e-4 are one in float32.
    above = at_low + ABOVE_END * np.maximum(1, 1e5 * eps * np.abs(at_low))
    below = at_high - ABOVE_END[::-1] * np.maximum(1, 1e5 * eps * np.abs(at_high))
    inside = at_low * (1 - IN_INTERVAL) + at_high * IN_INTERVAL
    half_open = np.where(has_low, above, np.where(has_high, below, AROUND_ZERO))
    return np.where(has_low & has_high, inside, half_open)


def _given(init: Any, low: np.ndarray, high: np.ndarray, dtype: Any) -> np.ndarray:
    """The user's points, and one more on either side of them."""
    points = np.asarray(init, dtype)
    if points.ndim > 2 or points.size == 0:
        raise bad_argument("init", f"shape {points.shape}", "[knot] or [target, knot]")
    if points.ndim == 2 and points.shape[0] != low.size:
        raise bad_argument("init", f"{points.shape[0]} rows", f"{low.size}, one for each target")
    points = np.sort(
        np.broadcast_to(np.atleast_1d(points), (low.size, points.shape[-1] if points.ndim else 1))
    )
    outside = ~((points > low[:, None]) & (points < high[:, None]) & np.isfinite(points))
    if outside.any():
        raise bad_argument(
            "init",
            f"{points[outside][0]:g}",
            f"points strictly inside of the support ({low[outside.any(1)][0]:g}, "
            f"{high[outside.any(1)][0]:g})",
        )
    first, last = points[:, 0], points[:, -1]
    eps = np.finfo(points.dtype).eps
    width = np.maximum(last - first, 1 + 1e3 * eps * np.abs(first))
    with np.errstate(invalid="ignore"):
        before = np.maximum(first - width, np.where(np.isfinite(low), (low + first) / 2, low))
        after = np.minimum(last + width, np.where(np.isfinite(high), (high + last) / 2, high))
    return np.concatenate([before[:, None], points, after[:, None]], axis=1)


def _leading(args: Any) -> int:
    leaves: list[Any] = jax.tree.leaves(args)
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        shapes = [leaf.shape for leaf in leaves]
        raise bad_argument(
            "args", f"shapes {shapes}", "arrays with a common leading axis of at least one target"
        )
    return leaves[0].shape[0]


def _ends(support: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        low, high = support
        low, high = np.asarray(low), np.asarray(high)
        if low.dtype.kind not in "biuf" or high.dtype.kind not in "biuf":
            raise TypeError
    except (TypeError, ValueError):
        raise bad_argument("support", support, "two ends (low, high)") from None
    return low, high


def _dtype(low: Any, high: Any, init: Any, args: Any) -> Any:
    """The precision of the floating arrays that were given; that of JAX where none was."""
    given = [x for x in [low, high, init, *jax.tree.leaves(args)] if hasattr(x, "dtype")]
    floating = [x.dtype for x in given if jnp.issubdtype(x.dtype, jnp.floating) and np.ndim(x)]
    default = jnp.zeros(()).dtype
    return jax.dtypes.canonicalize_dtype(jnp.result_type(*floating) if floating else default)


def _of_targets(name: str, end: np.ndarray, num_targets: int, dtype: Any) -> np.ndarray:
    if end.ndim > 1 or (end.ndim == 1 and end.shape[0] != num_targets):
        raise bad_argument(
            name, f"an end of shape {end.shape}", f"numbers, or {num_targets} for the targets"
        )
    return np.broadcast_to(end.astype(dtype), (num_targets,))


def _check_ends(low: np.ndarray, high: np.ndarray) -> None:
    if np.isnan(low).any() or np.isnan(high).any():
        raise bad_argument("support", "NaN", "two ends (low, high)")
    is_empty = ~(low < high) | (low == np.inf) | (high == -np.inf)
    if is_empty.any():
        first = np.flatnonzero(is_empty)[0]
        which = f"target {first}: " if low.size > 1 else ""
        raise bad_argument(
            "support",
            f"{which}({low[first]:g}, {high[first]:g}), which is empty",
            "low < high",
        )
