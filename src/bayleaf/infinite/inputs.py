"""The first state: covariances of the inputs, with 1 - rho exact for near duplicates.

A Gram matrix of unit vectors gives rho with an absolute error of a few units in the last place, so
1 - rho of two inputs that nearly coincide is lost. It is half of a squared distance,

    1 - rho = |u_a - u_b|^2 / 2,   1 + rho = |u_a + u_b|^2 / 2,    u = x / |x|,

which is formed directly: for all pairs where inputs have few features, else for those rows that
hold a pair with |rho| near 1. That costs O(n features) for each such row.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayleaf.infinite.state import KernelState, Listing, Pairs, exponent_of, two_to

FEW_FEATURES = 16


class Directions(NamedTuple):
    """Inputs as unit vectors, mean squares divided by 2^exponent, and the exponents."""

    unit: Float[Array, "n *shape"]
    var: Float[Array, "n *space"]
    exponent: Int[Array, "n"]


def input_state(
    x1: Directions,
    x2: Directions | None,
    id1: Int[Array, "n1"] | None = None,
    id2: Int[Array, "n2"] | None = None,
    *,
    is_full: bool = False,
) -> KernelState:
    """The state of inputs, given by their `directions`.

    K is the mean product over features or channels; Theta is zero, since nothing has been trained.

    Args:
        x1: the inputs of side 1.
        x2: the inputs of side 2; None is ``x1`` again.
        id1: labels of side 1; None if no input is on both sides.
        id2: labels of side 2.
        is_full: all pairs of positions, for networks that mix positions.
    """
    if is_full and x1.unit.ndim > 2:
        return _listed_state(x1, x2, id1, id2)
    unit1, var1, exponent1 = x1
    unit2, var2, exponent2 = x1 if x2 is None else x2
    zero = jnp.zeros((), unit1.dtype)
    state = KernelState(
        zero, zero, zero, var1, var2, exponent1, exponent2, id1, id2, zero, unit1.shape[1:]
    )
    pairs = contrasts(unit1, unit2, id1, id2)
    return state.with_correlation(*pairs, ntk=jnp.zeros_like(pairs[0]))


def _listed_state(
    x1: Directions, x2: Directions | None, id1: Array | None, id2: Array | None
) -> KernelState:
    """All pairs of positions of a list of pairs of inputs."""
    listing = listed(len(x1.var), None if x2 is None else len(x2.var))
    both = x1 if x2 is None else Directions(*map(jnp.concatenate, zip(x1, x2, strict=True)))
    unit, var, exponent = both
    labels = jnp.arange(len(var), dtype=jnp.int32)
    if id1 is not None and id2 is not None:
        labels = id1 if x2 is None else jnp.concatenate([id1, id2])
    left, right = listing.left, listing.right
    zero = jnp.zeros((), unit.dtype)
    state = KernelState(
        zero,
        zero,
        zero,
        var[left],
        var[right],
        exponent[left],
        exponent[right],
        labels[left],
        labels[right],
        zero,
        unit.shape[1:],
        is_full=True,
        listing=listing,
    )
    space = unit.shape[1:-1]
    flat = unit.reshape(unit.shape[0], -1, unit.shape[-1])
    minus, plus = (
        pairs.reshape(-1, *space, *space) for pairs in jax.vmap(contrasts)(flat[left], flat[right])
    )
    return state.with_correlation(minus, plus, ntk=jnp.zeros_like(minus))


def listed(n1: int, n2: int | None) -> Listing:
    """All pairs of ``n1`` inputs with ``n2`` others, or by half those of ``n1`` with themselves."""
    if n2 is None:
        rows, columns = np.triu_indices(n1, 1)
        selves = own1 = own2 = np.arange(n1)
        left, right = np.concatenate([selves, rows]), np.concatenate([selves, columns])
        place = np.zeros((n1, n1), np.int32)
        place[left, right] = place[right, left] = np.arange(left.size)
    else:
        selves = np.arange(n1 + n2)
        own1, own2 = selves[:n1], selves[n1:]
        left = np.concatenate([selves, np.repeat(np.arange(n1), n2)])
        right = np.concatenate([selves, np.tile(np.arange(n1, n1 + n2), n1)])
        place = selves.size + np.arange(n1 * n2).reshape(n1, n2)
    indices = (jnp.asarray(x, jnp.int32) for x in (left, right, own1, own2, place))
    return Listing(*indices, num_inputs=selves.size)


def directions(x: Float[Array, "n *shape"]) -> Directions:
    """Of inputs ``[n, feature]`` or ``[n, *space, channel]``; a vector of zeros has none: zeros."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x).reshape(x.shape[0], -1), axis=1))
    exponent = exponent_of(largest)
    scale = two_to(-exponent, x.dtype).reshape((-1, *(1,) * (x.ndim - 1)))
    scaled = x * scale
    square = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    is_zero = square == 0
    # An input of zeros has no direction: all its covariances are zero.
    length = jnp.sqrt(jnp.where(is_zero, 1, square))
    return Directions(scaled / length, square[..., 0] / x.shape[-1], 2 * exponent)


def contrasts(
    unit1: Float[Array, "n1 *space feature"],
    unit2: Float[Array, "n2 *space feature"],
    id1: Int[Array, "n1"] | None = None,
    id2: Int[Array, "n2"] | None = None,
) -> tuple[Pairs, Pairs]:
    """1 - rho and 1 + rho of unit vectors; 1 and 1 with a vector of zeros.

    Args:
        unit1: vectors of length 1 or 0.
        unit2: likewise.
        id1: labels; pairs of equal labels are known to coincide and need no repair.
        id2: labels of side 2.
    """
    if unit1.shape[-1] <= FEW_FEATURES:
        return _contrasts_of_few(unit1, unit2)
    if unit1.ndim == 2:
        if id1 is None or id2 is None:
            id1, id2 = jnp.arange(unit1.shape[0]), -1 - jnp.arange(unit2.shape[0])
        return _contrasts_of_many(unit1, unit2, id1, id2)
    rho = _gram(unit1, unit2)
    return 1 - rho, 1 + rho


def _gram(
    unit1: Float[Array, "n1 *space feature"], unit2: Float[Array, "n2 *space feature"]
) -> Pairs:
    return jnp.einsum("n...c,m...c->nm...", unit1, unit2, precision=jax.lax.Precision.HIGHEST)


def _contrasts_of_few(
    unit1: Float[Array, "n1 *space feature"], unit2: Float[Array, "n2 *space feature"]
) -> tuple[Pairs, Pairs]:
    """Differences of all pairs; unrolled, so that no array of all differences is stored."""
    one_minus, one_plus = 0.0, 0.0
    for i in range(unit1.shape[-1]):
        a, b = unit1[..., i][:, None], unit2[..., i][None]
        one_minus = one_minus + 0.5 * (a - b) ** 2
        one_plus = one_plus + 0.5 * (a + b) ** 2
    # With a vector of zeros the sums are 1/2 and 1/2, or 0 and 0.
    zero1 = jnp.all(unit1 == 0, axis=-1)[:, None]
    zero2 = jnp.all(unit2 == 0, axis=-1)[None]
    is_zero = zero1 | zero2
    return jnp.where(is_zero, 1, one_minus), jnp.where(is_zero, 1, one_plus)


@jax.custom_jvp
def _contrasts_of_many(
    unit1: Float[Array, "n1 feature"],
    unit2: Float[Array, "n2 feature"],
    id1: Int[Array, "n1"],
    id2: Int[Array, "n2"],
) -> tuple[Float[Array, "n1 n2"], Float[Array, "n1 n2"]]:
    """From the Gram matrix, and again from differences in rows with a pair near rho = -+ 1.

    Both numbers are kept as one, the smaller of them with the sign of rho: on CPUs these passes
    over the memory take as long as a layer.
    """
    rho = _gram(unit1, unit2)
    near = 1 - 10 * jnp.finfo(rho.dtype).eps ** 0.5
    # A sum, since XLA's `any` works on one core and for longer than the matrix product.
    is_pair = (jnp.abs(rho) > near) & (id1[:, None] != id2[None])
    is_near = jnp.sum(is_pair.astype(rho.dtype), axis=1) > 0
    rows = jnp.argsort(~is_near)
    count = jnp.sum(is_near)

    def is_going(carry):
        return carry[0] < count

    def repair(carry):
        done, gaps = carry
        row = rows[done]
        # Gathering what is near would need a size; one row of differences is cheap.
        minus = 0.5 * jnp.sum((unit2 - unit1[row][None]) ** 2, axis=1)
        plus = 0.5 * jnp.sum((unit2 + unit1[row][None]) ** 2, axis=1)
        here = gaps[row]
        is_near = jnp.abs(here) < 1 - near
        exact = jnp.copysign(jnp.where(jnp.signbit(here), plus, minus), here)
        return done + 1, gaps.at[row].set(jnp.where(is_near, exact, here))

    gaps = jnp.copysign(jnp.maximum(1 - jnp.abs(rho), 0), rho)
    _, gaps = jax.lax.while_loop(is_going, repair, (jnp.zeros((), count.dtype), gaps))
    is_acute, small = ~jnp.signbit(gaps), jnp.abs(gaps)
    return jnp.where(is_acute, small, 2 - small), jnp.where(is_acute, 2 - small, small)


@_contrasts_of_many.defjvp
def _contrasts_of_many_jvp(primals, tangents):
    change = _gram(tangents[0], primals[1]) + _gram(primals[0], tangents[1])
    return _contrasts_of_many(*primals), (-change, change)
