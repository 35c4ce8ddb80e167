"""Angles from 1 - cos, by polynomials: no digit is lost where two inputs nearly coincide.

With g = 1 - cos theta for theta in [0, pi/2], both quotients below are analytic in g up to g = 2:

    theta                          = sqrt(2 g) T(g),
    sin theta - theta cos theta    = sqrt(2 g) g S(g).

``arccos(1 - g)`` from the rounded cosine keeps half of the digits of a small angle, and on CPUs it
is slower than all the rest of a kernel: a polynomial of degree 7 (float32) or 19 (float64) is both
exact to round-off and fused with what surrounds it.

The coefficients interpolate T and S at the Chebyshev nodes of [0, 1], computed with 60 digits; the
relative errors are below 2e-8 and 4e-18.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

_T32 = (
    0.9999999887111962,
    0.08333477335804672,
    0.018720286104555818,
    0.005810106182867109,
    0.0010457118094042118,
    0.002360617306944364,
    -0.0014075971361058445,
    0.0008568279940530558,
)
_S32 = (
    0.6666666743265199,
    0.033332585655865735,
    0.0053688618619712235,
    0.0011725843604247616,
    0.0005248584761172332,
    -0.00012459246588548492,
    0.00016579629327443404,
)
_T64 = (
    1.0,
    0.08333333333333481,
    0.018749999999804007,
    0.005580357153149729,
    0.0018988712426045871,
    0.0006991347866401814,
    0.0002710829738618468,
    0.00010952478156304421,
    4.2692769784813946e-05,
    2.9476162165201884e-05,
    -2.5699535695643385e-05,
    8.83581357866731e-05,
    -0.00016213955816771024,
    0.0002443364393224066,
    -0.00027684276140276827,
    0.00023706559370590235,
    -0.00014754729306870457,
    6.351458381230858e-05,
    -1.693274189783836e-05,
    2.14847428871298e-06,
)
_S64 = (
    0.6666666666666666,
    0.03333333333333303,
    0.005357142857179702,
    0.0012400793633356652,
    0.0003452494121563137,
    0.00010755779825484322,
    3.6158202998243135e-05,
    1.2788983548915049e-05,
    4.985490838461272e-06,
    9.265133669526417e-07,
    3.2447742038482658e-06,
    -5.1988229491147325e-06,
    9.163377609430705e-06,
    -1.1249263398824157e-05,
    1.0539500249821205e-05,
    -7.086261963685134e-06,
    3.292315524835681e-06,
    -9.423924987958779e-07,
    1.2933809121934056e-07,
)

Values = Float[Array, "..."]


def half_angle(gap: Values) -> Values:
    """The angle theta in [0, pi/2] with cos theta = 1 - gap, for gap in [0, 1]."""
    return root(2 * gap) * _horner(gap, _T32, _T64)


def chord_area(gap: Values) -> Values:
    """``sin theta - theta cos theta`` for cos theta = 1 - gap, gap in [0, 1]."""
    return root(2 * gap) * gap * _horner(gap, _S32, _S64)


def arcsin(x: Values) -> Values:
    """``arcsin x`` for x in [0, 1], to round-off relative to itself."""
    # arcsin(x) = x T(2 x^2); near x = 1 pi/2 minus the half angle, so that one T serves both.
    is_small = x <= 0.7
    gap = jnp.where(is_small, 2 * x * x, 1 - x)
    series = _horner(gap, _T32, _T64)
    return jnp.where(
        is_small, x * series, jnp.pi / 2 - root(2 * jnp.where(is_small, 1, gap)) * series
    )


def root(x: Values) -> Values:
    """The square root, with derivative 0 at 0.

    A gap of exactly zero belongs to an input and itself: it stays zero whatever the parameters are,
    and infinity times zero would make every gradient NaN.
    """
    is_positive = x > 0
    return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, x, 1)), 0)


def _horner(x: Values, single: tuple[float, ...], double: tuple[float, ...]) -> Values:
    coefficients = double if x.dtype == jnp.float64 else single
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value
