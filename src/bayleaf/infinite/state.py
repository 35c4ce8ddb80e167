"""What is known of all pairs of inputs at one depth of an infinitely wide network.

For inputs a (side 1) and b (side 2) and one unit z of a layer,

    K = E z_a z_b = rho sqrt(v_a v_b),     Theta = the neural tangent kernel,

and a layer maps one `KernelState` to the next. Three choices keep float32 exact:

- the correlation is kept as ``one_minus`` = 1 - rho and ``one_plus`` = 1 + rho, both with small
  relative error. arccos near rho = 1 loses half of the digits of 1 - rho if that is formed from a
  rounded rho (1e-3 of a ReLU tangent kernel in float32). Linear layers map both without any
  difference of near numbers, see `mix`;
- variances are split into a number near 1 and a power of four for each input, ``exponent1`` and
  ``exponent2`` (powers of two, even), so that depth 50 with weight_std 16 cannot overflow;
- an input paired with itself is known by its label (``id1``, ``id2``), and stays at exactly
  one_minus = 0.

Networks on images or sequences have one more axis for each axis of positions, ``*space``: either
the covariances at the same position, ``[n1, n2, *space]``, or with ``is_full`` those of all pairs
of positions (positions of side 1 first). ``var1`` is ``[n1, *space]`` in both cases. The latter
state is a list of pairs of inputs and not a grid, see `Listing`: ``[pair, *space, *space]``.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bayleaf.infinite.arcs import root
from bayleaf.types import Scalar

Pairs = Float[Array, "..."]  # [n1, n2, *space], or of a list [pair, *space, *space]
Side1 = Float[Array, "n1 ..."]
Side2 = Float[Array, "n2 ..."]


class Listing(eqx.Module):
    """Which pairs a state holds where they are a list and not a grid.

    The list starts with each input paired with itself, whose covariances of different positions
    become variances when positions are averaged; a symmetric matrix is listed by half. Sides are
    listed too: ``var1`` is ``[pair, *space]``, and so on.

    Attributes:
        left: the number of the input on side 1 of each pair, which is where that input is paired
            with itself; ``right`` that on side 2.
        own1: the numbers of the inputs of side 1 of the matrix of kernels; ``own2`` of side 2.
        place: where in the list the pairs of that matrix are.
        num_inputs: how many inputs there are on both sides.
    """

    left: Int[Array, "pair"]
    right: Int[Array, "pair"]
    own1: Int[Array, "n1"]
    own2: Int[Array, "n2"]
    place: Int[Array, "n1 n2"]
    num_inputs: int = eqx.field(static=True)


class KernelState(eqx.Module):
    """The second moments of one layer for all pairs of inputs.

    Attributes:
        one_minus: 1 - rho, exactly 0 for an input with itself.
        one_plus: 1 + rho.
        ntk: Theta divided by ``2^((exponent1 + exponent2) / 2)``.
        var1: the variances of side 1 divided by ``2^exponent1``; ``var2`` those of side 2.
        exponent1: even integers, one for each input; ``exponent2`` likewise.
        id1: labels of the inputs; equal labels are the same input (the same dropout mask too).
            None on both sides where no input is on both.
        error: a bound on the error of K that truncated series have made so far, as a share of
            sqrt(v_a v_b).
        shape: the shape of one example in a finite network, positions first, channels last.
        is_full: all pairs of positions are here.
        is_gaussian: units are Gaussian: the last layer with weights was linear.
        is_fresh: the layer's units have mean zero given all that other branches share: a linear
            layer with weights of its own came after the last fan-out.
        listing: the pairs, where they are a list and not a grid.
    """

    one_minus: Pairs
    one_plus: Pairs
    ntk: Pairs
    var1: Side1
    var2: Side2
    exponent1: Int[Array, "n1"]
    exponent2: Int[Array, "n2"]
    id1: Int[Array, "n1"] | None
    id2: Int[Array, "n2"] | None
    error: Scalar
    shape: tuple[int, ...] = eqx.field(static=True)
    is_full: bool = eqx.field(static=True, default=False)
    is_gaussian: bool = eqx.field(static=True, default=False)
    is_fresh: bool = eqx.field(static=True, default=False)
    listing: Listing | None = None

    @property
    def num_space(self) -> int:
        """The number of axes of positions."""
        return self.var1.ndim - 1

    @property
    def rho(self) -> Pairs:
        """The correlations."""
        return 0.5 * (self.one_plus - self.one_minus)

    @property
    def scaled_nngp(self) -> Pairs:
        """K divided by ``2^((exponent1 + exponent2) / 2)``."""
        return self.rho * (self.side1(root(self.var1)) * self.side2(root(self.var2)))

    @property
    def nngp(self) -> Pairs:
        """K itself; infinite where the floating-point numbers end."""
        return self.unscaled(self.scaled_nngp)

    @property
    def full_ntk(self) -> Pairs:
        """Theta itself."""
        return self.unscaled(self.ntk)

    @property
    def q1(self) -> Side1:
        """The variances of side 1 themselves."""
        return power_of_two(self.var1, self.exponent1)

    @property
    def q2(self) -> Side2:
        """The variances of side 2 themselves."""
        return power_of_two(self.var2, self.exponent2)

    def side1(self, values: Side1) -> Array:
        """Numbers of side 1, ``[n1]`` or ``[n1, *space]``, so that they broadcast with pairs."""
        n, space = values.shape[0], values.shape[1:]
        lead = (n, 1) if self.listing is None else (n,)
        return values.reshape((*lead, *space, *self._ones(space)))

    def side2(self, values: Side2) -> Array:
        """Numbers of side 2, so that they broadcast with pairs."""
        n, space = values.shape[0], values.shape[1:]
        lead = (1, n) if self.listing is None else (n,)
        if self.is_full:
            return values.reshape((*lead, *self._ones(space), *space))
        return values.reshape((*lead, *space, *self._ones(space)))

    def _ones(self, space: tuple[int, ...]) -> tuple[int, ...]:
        return (1,) * ((1 + self.is_full) * self.num_space - len(space))

    def unscaled(self, pairs: Pairs) -> Pairs:
        """``pairs`` times ``2^((exponent1 + exponent2) / 2)``."""
        half1 = two_to(self.exponent1 // 2, pairs.dtype)
        half2 = two_to(self.exponent2 // 2, pairs.dtype)
        # The product of both sides first, so that symmetric kernels are so to the last bit.
        return pairs * (self.side1(half1) * self.side2(half2))

    def is_same(self) -> Bool[Array, "pair ..."] | None:
        """Where a unit is paired with itself, to broadcast with pairs; None if nowhere."""
        if self.id1 is None or self.id2 is None:
            return None
        if self.listing is None:
            same = self.id1[:, None] == self.id2[None, :]
        else:
            same = self.id1 == self.id2
        if not self.is_full:
            return same.reshape((*same.shape, *(1,) * self.num_space))
        space = self.var1.shape[1:]
        size = 1
        for axis in space:
            size *= axis
        eye = jnp.eye(size, dtype=bool).reshape((*(1,) * same.ndim, *space, *space))
        return same.reshape((*same.shape, *(1,) * (2 * self.num_space))) & eye

    def evolve(self, **changes: Any) -> KernelState:
        """A copy with some fields replaced."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return KernelState(**{**fields, **changes})

    def with_correlation(self, one_minus: Pairs, one_plus: Pairs, **changes: Any) -> KernelState:
        """A copy with these 1 -+ rho, an input with itself at exactly 0 and 2."""
        same = self.is_same()
        if same is not None:
            one_minus = jnp.where(same, 0, one_minus)
            one_plus = jnp.where(same, 2, one_plus)
        return self.evolve(one_minus=one_minus, one_plus=one_plus, **changes)

    def stored(self) -> KernelState:
        """The same moments, with what is known of pairs written to memory."""
        one_minus, one_plus, ntk = kept((self.one_minus, self.one_plus, self.ntk))
        return self.evolve(one_minus=one_minus, one_plus=one_plus, ntk=ntk)

    def normalised(self) -> KernelState:
        """The same moments with the largest variance of each input in [1/2, 2)."""
        sides = _split(self.var1, self.exponent1), _split(self.var2, self.exponent2)
        (var1, exponent1, half1), (var2, exponent2, half2) = kept(sides)
        return self.evolve(
            var1=var1,
            var2=var2,
            exponent1=exponent1,
            exponent2=exponent2,
            ntk=self.ntk * (self.side1(half1) * self.side2(half2)),
        )


def power_of_two(values: Float[Array, "n ..."], exponent: Int[Array, "n"]) -> Array:
    """``values * 2^exponent``, one exponent for each row, in two steps that cannot overflow."""
    half = two_to(exponent // 2, values.dtype).reshape((-1, *(1,) * (values.ndim - 1)))
    return values * half * half


def two_to(exponent: Int[Array, "n"], dtype: Any) -> Float[Array, "n"]:
    """``2^exponent`` exactly, from its bits; 0 or infinity where the normal numbers end."""
    info = jnp.finfo(dtype)
    whole = jnp.int64 if info.bits == 64 else jnp.int32
    inside = jnp.clip(exponent, info.minexp, info.maxexp - 1).astype(whole)
    bits = (inside + (info.maxexp - 1)) << info.nmant
    power = jax.lax.bitcast_convert_type(bits, info.dtype)
    power = jnp.where(exponent >= info.maxexp, jnp.inf, power)
    return jnp.where(exponent < info.minexp, 0, power)


def exponent_of(x: Float[Array, "n"]) -> Int[Array, "n"]:
    """The even e with ``x`` in [2^e, 2^(e + 2)); 0 where x is 0 or not finite."""
    info = jnp.finfo(x.dtype)
    bits = jax.lax.bitcast_convert_type(x, jnp.int64 if info.bits == 64 else jnp.int32)
    exponent = ((bits >> info.nmant) - (info.maxexp - 1)).astype(jnp.int32)
    return jnp.where((x > 0) & jnp.isfinite(x), exponent - exponent % 2, 0)


def mix(
    parts: list[tuple[Array, Array, Array, Array]],
) -> tuple[Pairs, Pairs]:
    """1 -+ rho of a sum of independent parts, without differences of near numbers.

    With part p of the sum holding the share ``A_p^2`` of the variance (the squares add up to 1 on
    each side), rho' = sum_p A1_p A2_p rho_p and

        1 - rho' = sum_p (A1_p - A2_p)^2 / 2 + sum_p A1_p A2_p (1 - rho_p),

    and 1 + rho' likewise: every term is positive.

    Args:
        parts: for each p: A1_p and A2_p (broadcasting with pairs), 1 - rho_p and 1 + rho_p.
    """
    one_minus, one_plus = 0.0, 0.0
    for share1, share2, minus, plus in parts:
        apart = 0.5 * (share1 - share2) ** 2
        both = share1 * share2
        one_minus = one_minus + (apart + both * minus)
        one_plus = one_plus + (apart + both * plus)
    return jnp.asarray(one_minus), jnp.asarray(one_plus)


@jax.custom_jvp
def kept(values: Any) -> Any:
    """The same numbers, computed once.

    XLA would otherwise copy the whole history of a side into the loop over pairs, once for each
    use: code, compile time and work grow without bound with the depth. It takes its own
    optimisation barriers away before it fuses loops, but it cannot look through a loop that has
    no round unless a number is infinite.
    """
    first = jnp.ravel(jax.tree.leaves(values)[0])[0]
    limit = jnp.isinf(first).astype(jnp.int32)

    def again(carry):
        i, old = carry
        return i + 1, jax.tree.map(lambda x: jnp.where(i >= 0, x, jnp.zeros_like(x)), old)

    return jax.lax.while_loop(lambda carry: carry[0] < limit, again, (jnp.int32(0), values))[1]


@kept.defjvp
def _kept_jvp(primals, tangents):
    return kept(*primals), tangents[0]


def safe_ratio(numerator: Array, denominator: Array) -> Array:
    """``numerator / denominator``, and 0 (with derivative 0) where the denominator is 0."""
    is_zero = denominator == 0
    return jnp.where(is_zero, 0, numerator / jnp.where(is_zero, 1, denominator))


def _split(
    var: Float[Array, "n ..."], exponent: Int[Array, "n"]
) -> tuple[Array, Int[Array, "n"], Float[Array, "n"]]:
    """Variances near 1, their exponents, and 2^(-change / 2) for the square roots."""
    largest = jax.lax.stop_gradient(jnp.max(var.reshape(var.shape[0], -1), axis=1))
    change = exponent_of(largest)
    half = two_to(-(change // 2), var.dtype)
    column = half.reshape((-1, *(1,) * (var.ndim - 1)))
    return var * column * column, exponent + change, half
