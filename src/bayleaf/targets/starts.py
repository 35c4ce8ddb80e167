"""Where chains start: points with a finite log density and a finite gradient, or a named error.

A sampler that starts where the log density or its gradient is NaN never moves, and most say
nothing. Here each chain draws up to `MAX_ATTEMPTS` starting points, all chains and attempts in one
compiled program; if any chain finds none, the error names what is not finite, in which parameter.

Three ways to start, each a function of target, key and chain number: `Around` a point (its
unconstrained image plus uniform(-1, 1) in each coordinate), `Drawn` by a function, or `Given`, one
point a chain.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from bayleaf.errors import NonFiniteLogDensityError, bad_argument, sentence
from bayleaf.trees import Frozen, as_arrays, leaf_names
from bayleaf.types import Count, Key, Position, Scalar

MAX_ATTEMPTS = 100


class Around(eqx.Module):
    """Start near one point: every real coordinate is jittered, integers are left as they are."""

    point: Position

    def __call__(self, target: Any, key: Key, chain: Count) -> Position:
        """The unconstrained image of the point, plus jitter."""
        del chain
        u = target.unconstrain(self.point)
        floats, rest = eqx.partition(u, lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating))
        # One draw for all leaves: the random bits of each draw are costly to compile.
        flat, unravel = ravel_pytree(floats)
        noise = jax.random.uniform(key, flat.shape, flat.dtype, -1.0, 1.0)
        return eqx.combine(unravel(flat + noise), rest)


class Drawn(eqx.Module):
    """Start at a draw of the user's function of a key, which returns (constrained) parameters."""

    function: Frozen

    def __call__(self, target: Any, key: Key, chain: Count) -> Position:
        """The unconstrained image of a fresh draw."""
        del chain
        return target.unconstrain(as_arrays(self.function(key), "init"))


class Given(eqx.Module):
    """Start exactly at the points given, one for each chain, on a leading axis."""

    points: Position

    def __call__(self, target: Any, key: Key, chain: Count) -> Position:
        """The unconstrained image of this chain's point."""
        del key
        return target.unconstrain(jax.tree.map(lambda leaf: leaf[chain], self.points))


class Found(NamedTuple):
    """What the search found for each chain; outside of `vmap` all have a leading chain axis."""

    positions: Position
    log_density: Float[Array, "*chain"]
    gradient: Position
    is_finite: Any


def as_start(init: Any) -> Around | Drawn:
    """A start from what the user gives as ``init``: a function of a key, or a point."""
    if isinstance(init, Around | Drawn):
        return init
    is_module = isinstance(init, eqx.Module) and not hasattr(init, "__func__")
    if callable(init) and not is_module:
        return Drawn(Frozen(init, "init"))
    point = as_arrays(init, "init")
    if sum(leaf.size for leaf in jax.tree.leaves(point)) == 0:
        raise bad_argument("init", "no parameters at all", "at least one number to infer")
    for name, leaf in zip(leaf_names(point), jax.tree.leaves(point), strict=True):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise bad_argument(
                f"init, parameter {name}",
                "complex numbers",
                "real numbers",
                "Use the real and imaginary parts as two parameters.",
            )
    return Around(point)


def override(start: Around | Drawn | None, init: Any, num_chains: int) -> Around | Drawn | Given:
    """The start when ``init`` is given again for one run: a function, a point, or a point a chain.

    Which of the last two follows from the shapes of the target's own starting point.
    """
    new = as_start(init)
    if start is None or isinstance(new, Drawn):
        return new
    if isinstance(start, Drawn):
        own = jax.eval_shape(start.function, jax.random.key(0))
    else:
        own = start.point
    got, expected = _shapes(new.point), _shapes(own)
    if jax.tree.structure(new.point) != jax.tree.structure(own):
        raise bad_argument(
            "init",
            f"parameters {', '.join(got)}",
            f"the structure of the target's own starting point: {', '.join(expected)}",
        )
    if got == expected:
        return new
    stacked = {name: (num_chains, *shape) for name, shape in expected.items()}
    if got == stacked:
        return Given(new.point)
    odd = [n for n in got if got[n] != expected[n] and got[n] != stacked[n]]
    name = (odd or [n for n in got if got[n] != expected[n]])[0]
    raise bad_argument(
        f"init, parameter {name}",
        f"shape {got[name]}",
        f"shape {expected[name]} for one point, or {stacked[name]} for one a chain, throughout",
    )


def exactly(start: Around | Drawn | Given, num_chains: int) -> Drawn | Given:
    """The start without jitter: a point is repeated for each chain."""
    if not isinstance(start, Around):
        return start
    repeated = [
        np.repeat(np.asarray(leaf)[None], num_chains, axis=0)
        for leaf in jax.tree.leaves(start.point)
    ]
    return Given(jax.tree.unflatten(jax.tree.structure(start.point), repeated))


def find(target: Any, start: Any, key: Key, num_chains: int, need_gradient: bool) -> Position:
    """Unconstrained starting positions with a leading chain axis.

    Raises:
        NonFiniteLogDensityError: a chain found no point with finite log density and gradient.
    """
    num_attempts = 1 if isinstance(start, Given) else MAX_ATTEMPTS
    if need_gradient:
        _refuse_integers(_first.eval_shape(target, start, key))
    found = _search(target, start, key, num_chains, num_attempts, need_gradient)
    if not np.asarray(found.is_finite).all():
        raise NonFiniteLogDensityError(_explain(target, found, num_attempts))
    return found.positions


@jax.jit  # for its shapes alone, which are then known the second time
def _first(target: Any, start: Any, key: Key) -> Position:
    return start(target, key, jnp.zeros((), int))


@partial(jax.jit, static_argnums=(3, 4, 5))
def _search(
    target: Any, start: Any, key: Key, num_chains: int, num_attempts: int, need_gradient: bool
) -> Found:
    """Redraw the chains without a good point until all have one or the attempts are spent."""
    chains = jnp.arange(num_chains)
    keys = jax.vmap(lambda chain: jax.random.fold_in(key, chain))(chains)

    def attempt(number: Count) -> Found:
        def one(chain_key: Key, chain: Count) -> Found:
            u = start(target, jax.random.fold_in(chain_key, number), chain)
            value, gradient = _evaluate(target, u, need_gradient)
            finite = jnp.all(jnp.isfinite(ravel_pytree((value, gradient))[0]))
            return Found(u, value, gradient, finite)

        return jax.vmap(one)(keys, chains)

    def redraw(carry: tuple[Count, Found]) -> tuple[Count, Found]:
        number, old = carry
        new = attempt(number)
        kept = jax.tree.map(partial(_where_chain, old.is_finite), old, new)
        return number + 1, kept

    def unfinished(carry: tuple[Count, Found]) -> Any:
        number, found = carry
        return (number < num_attempts) & ~jnp.all(found.is_finite)

    # The loop starts from zeros: a first attempt outside it would compile the density twice.
    shapes = jax.eval_shape(attempt, jnp.zeros((), int))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.while_loop(unfinished, redraw, (jnp.zeros((), int), nothing))[1]


def _evaluate(target: Any, u: Position, need_gradient: bool) -> tuple[Scalar, Position]:
    if need_gradient:
        return jax.value_and_grad(target)(u)
    return target(u), ()


def _where_chain(keep: Any, old: Array, new: Array) -> Array:
    return jnp.where(keep.reshape(keep.shape + (1,) * (old.ndim - 1)), old, new)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return dict(zip(leaf_names(tree), [leaf.shape for leaf in jax.tree.leaves(tree)], strict=True))


def _refuse_integers(shapes: Any) -> None:
    for name, leaf in zip(leaf_names(shapes), jax.tree.leaves(shapes), strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise bad_argument(
                f"init, parameter {name}",
                f"{leaf.dtype} numbers",
                "floating-point numbers, because the kernel uses gradients",
                "Write 1.0, not 1; a discrete parameter needs a kernel without gradients.",
            )


def _explain(target: Any, found: Found, num_attempts: int) -> str:
    """What is not finite, where, and what to try."""
    bad = np.flatnonzero(~np.asarray(found.is_finite))
    chain = bad[0]
    position, gradient = jax.tree.map(lambda leaf: leaf[chain], (found.positions, found.gradient))
    value = float(found.log_density[chain])
    parameters = target.constrain(position)
    tries = "at the point given" if num_attempts == 1 else f"at each of {num_attempts} draws"
    got = f"log density {value:.6g} {tries} ({len(bad)} of {len(found.is_finite)} chains)"
    culprits = _not_finite(gradient) or _not_finite(parameters)
    if culprits:
        got += f", not finite in the gradient of {', '.join(culprits)}"
    if np.isneginf(value):
        advice = "The start has zero density: give an init inside the support, or constrain=."
    elif np.isfinite(value):
        advice = "Look for sqrt, log, norm or where at a point without slope in that parameter."
    else:
        advice = f"{_origin(target, position)} or for NaN in the data."
    shown = f"Chain {chain} started at {_values(parameters)}."
    return sentence("init", got, "a finite log density and gradient", f"{shown} {advice}")


def _origin(target: Any, position: Position) -> str:
    """Where the first NaN comes from, as JAX's checks of single operations tell it."""
    advice = "Look for log or sqrt of a negative number, for 0/0,"
    try:
        message = checkify.checkify(target, errors=checkify.nan_checks)(position)[0].get()
    except Exception:  # a primitive without a check; the report is useful without this line
        return advice
    return f"First {message.splitlines()[0]} {advice}" if message else advice


def _not_finite(tree: Any) -> list[str]:
    leaves = jax.tree.leaves(tree)
    bad = [not np.all(np.isfinite(np.asarray(leaf))) for leaf in leaves]
    names = [name for name, b in zip(leaf_names(tree), bad, strict=True) if b]
    return names if len(names) <= 3 else [*names[:3], f"{len(names) - 3} more"]


def _values(tree: Any, most: int = 5) -> str:
    pairs = list(zip(leaf_names(tree), jax.tree.leaves(tree), strict=True))
    shown = [
        f"{name} = {np.array2string(np.asarray(leaf), precision=4, threshold=6, edgeitems=2)}"
        for name, leaf in pairs[:most]
    ]
    return ", ".join(shown + ["..."] * (len(pairs) > most)).replace("\n", "")
