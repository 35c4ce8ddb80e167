r"""The evidence lower bound, in both forms, of any guide.

For a model p(x, z) = p(x | z) p(z) and a guide q, the logarithm of the evidence is bounded below,
since the logarithm is concave (Jensen's inequality):

    log p(x) >= L(q) = E_q[ log p(x, z) - log q(z) ]              `joint`
                     = E_q[ log p(x | z) ] - KL( q || p(z) )       `kl`

The gap is KL(q || p(z | x)), so the larger L the better the guide, and L = log p(x) exactly when q
is the posterior. The two forms have the same expectation and different noise. In `kl` the
divergence from the prior is exact where it is known in closed form (`kl_divergence`), and what is
noisy is the likelihood alone. In `joint` the terms log p and -log q cancel as the guide nears the
posterior, where every draw gives L = log p(x): the fit becomes exact.

**Value and gradient are two things.** Both functions return the terms whose mean is L. With
``stick_the_landing`` log q is evaluated by a guide whose parameters do not move:

    grad L = E[ grad_phi { log p(x, z(phi)) - log q(z(phi); stopped phi) } ],

which leaves out the score grad_phi log q(z; phi), whose expectation is zero. The value is the same;
the variance of the gradient vanishes at q = posterior, where that of the full gradient does not
(Roeder, Wu & Duvenaud 2017, https://arxiv.org/abs/1703.09194, eq. 7). Where the divergence is
exact no log q is drawn and there is nothing to leave out.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayleaf.gaussian import Gaussian
from bayleaf.linalg import log_determinant, solve_lower
from bayleaf.types import Key, LogDensity, Position, Scalar
from bayleaf.variational.guides import GaussianGuide

Terms = Float[Array, "draw"]


def joint(
    log_density: LogDensity,
    guide: Any,
    *,
    key: Key,
    num_draws: int,
    stick_the_landing: bool = True,
) -> Terms:
    """``log p(x, z) - log q(z)`` at draws of the guide; their mean estimates the bound.

    Args:
        log_density: of z: ``log p(x, z)``, up to a constant that the bound then lacks too.
        guide: q.
        key: of the draws.
        num_draws: how many.
        stick_the_landing: of the gradient, see above; the values are the same.
    """
    draws = drawn(guide, key, num_draws)
    evaluated = stopped(guide) if stick_the_landing else guide
    return jax.vmap(lambda z: _difference(log_density(z), evaluated.log_prob(z)))(draws)


def kl(
    log_likelihood: LogDensity,
    prior: Any,
    guide: Any,
    *,
    key: Key,
    num_draws: int,
    stick_the_landing: bool = True,
) -> Terms:
    """``log p(x | z) - KL(q || p)`` at draws of the guide; their mean estimates the bound.

    The divergence is `kl_divergence` where that is known; else it is estimated from the same draws.

    Args:
        log_likelihood: of z: ``log p(x | z)``.
        prior: p(z), normalised; it needs ``log_prob(z)`` only, or to be Gaussian.
        guide: q.
        key: of the draws.
        num_draws: how many.
        stick_the_landing: of the gradient of an estimated divergence.
    """
    draws = drawn(guide, key, num_draws)
    values = jax.vmap(log_likelihood)(draws)
    divergence = kl_divergence(guide, prior)
    if divergence is not None:
        return values - divergence.astype(values.dtype)
    evaluated = stopped(guide) if stick_the_landing else guide
    ratios = jax.vmap(lambda z: _difference(prior.log_prob(z), evaluated.log_prob(z)))(draws)
    return values + ratios.astype(values.dtype)


def kl_divergence(guide: Any, prior: Any) -> Scalar | None:
    """KL(guide || prior) in closed form for two Gaussians, else None.

    Either may be a guide; a prior that has ``to_gaussian()`` is asked for it.

    With guide N(m, S) and prior N(m0, L0 L0'),

        KL = 1/2 [ tr((L0 L0')^-1 S) + |L0^-1 (m - m0)|^2 - n + log det L0 L0' - log det S ].
    """
    to_gaussian = getattr(prior, "to_gaussian", None)
    gaussian = prior if to_gaussian is None else to_gaussian()
    if not (isinstance(guide, GaussianGuide) and isinstance(gaussian, Gaussian)):
        return None
    if gaussian.factor.ndim == 1:
        trace = jnp.sum(guide.variance() / jnp.square(gaussian.factor))
    else:
        trace = jnp.sum(jnp.square(solve_lower(gaussian.factor, guide.columns())))
    distance = jnp.sum(jnp.square(gaussian.whiten(guide.loc)))
    volumes = log_determinant(gaussian.factor) - guide.log_determinant()
    return 0.5 * (trace - gaussian.dim + distance + volumes)


def drawn(guide: Any, key: Key, num_draws: int) -> Position:
    """Independent draws of the guide, on a leading axis."""
    return jax.vmap(guide.sample)(jax.random.split(key, num_draws))


def stopped(guide: Any) -> Any:
    """The guide with parameters that gradients do not see."""
    moving, rest = eqx.partition(guide, eqx.is_inexact_array)
    return eqx.combine(jax.lax.stop_gradient(moving), rest)


def importance_bound(terms: Terms) -> Scalar:
    """``log mean exp`` of the terms of `joint`: the bound of several draws, at least as tight.

    Its expectation grows with the number of draws to log p(x) (Burda, Grosse & Salakhutdinov 2016,
    https://arxiv.org/abs/1509.00519, eq. 8).
    """
    return jax.nn.logsumexp(terms) - jnp.log(jnp.asarray(terms.shape[0], terms.dtype))


def _difference(log_p: Scalar, log_q: Scalar) -> Scalar:
    """In the wider of the two precisions."""
    dtype = jnp.result_type(log_p, log_q)
    return log_p.astype(dtype) - log_q.astype(dtype)
