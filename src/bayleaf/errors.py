"""One way to say that an input is wrong: what was got, what was expected, what to try.

Every error that a user can cause is raised through this module, before the work starts, and every
trouble that appears while the work runs is raised or warned through it by name.
"""

from __future__ import annotations

import warnings
from typing import Any


class BayleafError(ValueError):
    """Base of every error that bayleaf raises about its inputs."""


class NonFiniteLogDensityError(BayleafError):
    """The log density or its gradient is NaN or infinite where a run must start."""


class NotLogConcaveError(BayleafError):
    """The density is not log-concave, so that no hull encloses it."""


class CheckpointError(BayleafError):
    """A checkpoint is unreadable, or belongs to another run."""


class SamplingWarning(UserWarning):
    """Something in a run makes its draws unreliable; the message names it."""


def bad_argument(name: str, got: Any, expected: str, try_: str = "") -> BayleafError:
    """The error for an argument that cannot be used; the caller raises it.

    Args:
        name: the argument, as the user spells it.
        got: its value, or a short description of it.
        expected: what would have been right.
        try_: what to do next, as a full sentence.
    """
    return BayleafError(sentence(name, got, expected, try_))


def sentence(name: str, got: Any, expected: str, try_: str = "") -> str:
    """``name: got X, expected Y. Try Z``, in one line."""
    shown = got if isinstance(got, str) else repr(got)
    if len(shown) > 200:
        shown = shown[:197] + "..."
    return f"{name}: got {shown}, expected {expected}." + (f" {try_}" if try_ else "")


def warn(message: str) -> None:
    """Warn the user of trouble seen in a run."""
    warnings.warn(message, SamplingWarning, stacklevel=3)
