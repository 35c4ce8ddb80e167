"""A network linearised in its parameters: what a very wide one is throughout its training.

    f_lin(p, x) = f(p0, x) + sum over parameters of df(p0, x) / dp (p - p0).

Its tangent kernel does not change, so that gradient descent on squares has a closed form. A wide
network stays as close to it as 1 / sqrt(width).

Source: Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein & Pennington, NeurIPS 2019, equation 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from bayleaf.trees import Frozen, frozen_function


class Linearised(eqx.Module):
    """The function to first order around ``params``; called as it is, ``linearised(params, x)``."""

    function: Frozen
    params: Frozen

    def __call__(self, params: Any, x: Any) -> Any:
        """The value f_lin(params, x), by one Jacobian-vector product."""
        start, fixed = eqx.partition(self.params.thaw(), eqx.is_inexact_array)
        now = eqx.filter(params, eqx.is_inexact_array)
        step = jax.tree.map(lambda new, old: (new - old).astype(old.dtype), now, start)
        value, change = jax.jvp(
            lambda p: self.function(eqx.combine(p, fixed), x), (start,), (step,)
        )
        return jax.tree.map(lambda a, b: a + b, value, change)


def linearise(f: Callable[[Any, Any], Any], params: Any) -> Linearised:
    """The linearisation of ``f(params, x)`` at ``params``.

    Args:
        f: any differentiable function of JAX.
        params: p0, any pytree; its floating point arrays are what is linear.

    Raises:
        BayleafError: ``f`` is no function.
    """
    return Linearised(frozen_function(f, "f"), Frozen(params, "params"))
