"""What can be wrong with a density, found inside compiled code and told in words outside of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bayleaf.errors import BayleafError, NotLogConcaveError
from bayleaf.types import Count, Scalar

FINE, NAN, INFINITE, NOT_CONCAVE, IMPROPER, NOWHERE, EXHAUSTED = range(7)


class Trouble(NamedTuple):
    """The first thing that was wrong, and where; code 0 is nothing."""

    code: Count
    where: Scalar


def fine(dtype: Any) -> Trouble:
    """No trouble so far."""
    return Trouble(jnp.zeros((), jnp.int32), jnp.zeros((), dtype))


def noted(trouble: Trouble, code: Array, where: Array) -> Trouble:
    """With another trouble noted, unless there was one before."""
    is_first = trouble.code == FINE
    return Trouble(
        jnp.where(is_first, jnp.asarray(code, jnp.int32), trouble.code),
        jnp.where(is_first, where, trouble.where),
    )


def first_value_trouble(x: Array, value: Array) -> tuple[Array, Array]:
    """A log density that is NaN or plus infinity at some of these points."""
    is_nan, is_infinite = jnp.isnan(value), jnp.isposinf(value)
    is_bad = is_nan | is_infinite
    at = jnp.argmax(is_bad)
    code = jnp.where(is_nan[at], NAN, jnp.where(is_infinite[at], INFINITE, FINE))
    return code, x[at]


WORDS = {
    NAN: "the log density is NaN at x = {x}. Look for the log or the root of a negative number, "
    "and pass support=(low, high)",
    INFINITE: "the log density is plus infinity at x = {x}. Such a density is not log-concave; "
    "transform the variable so that its pole goes to the end of the line",
    NOT_CONCAVE: "the density is not log-concave: the log density bends upwards at x = {x}. "
    "Use adaptive_rejection_metropolis, which corrects for it",
    IMPROPER: "the density cannot be normalised: it does not fall off towards an infinite end of "
    "its support (the search ended at x = {x}). Check its sign, or pass support=(low, high)",
    NOWHERE: "the log density is minus infinity wherever it was evaluated (about x = {x}). Pass "
    "init=, points at which the density is positive, or support=(low, high)",
    EXHAUSTED: "hardly any draw is accepted (the hull peaks near x = {x}): the log density jumps, "
    "or its rounding errors are larger than its features. Shift or rescale the variable",
}


def raise_trouble(trouble: Trouble, what: str, is_many: bool) -> None:
    """Raise what is wrong with the first bad target; nothing when all are well.

    Args:
        trouble: codes and places, one for each target.
        what: the argument that is to blame.
        is_many: whether to say which target it is.
    """
    codes = np.atleast_1d(np.asarray(trouble.code))
    if not codes.any():
        return
    bad = np.flatnonzero(codes)
    first = bad[0]
    code, x = int(codes[first]), np.atleast_1d(np.asarray(trouble.where))[first]
    which = f"target {first} ({bad.size} of {codes.size} targets are unusable): " if is_many else ""
    kind = NotLogConcaveError if code in (NOT_CONCAVE, INFINITE) else BayleafError
    raise kind(f"{what}: {which}{WORDS[code].format(x=f'{x:.6g}')}.")
