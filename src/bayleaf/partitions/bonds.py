r"""Rules for bonds: with what probability like neighbours hold together in a sweep.

A rule is a function ``rule(key, model)`` that returns $q_e$ in [0, 1), one number or one for each
edge. It may use the data and chance but knows no labels; then
`bayleaf.mcmc.GeneralisedSwendsenWang` is exact whatever the rule says.

- `Decoupled`: from the couplings alone, $1 - e^{-\delta \beta_e}$.
- `Contrast`: that times $e^{-c\, D_e}$, so that pieces end where the data change,

$$D_{ij} = \tfrac12 \log p(y_i, y_i) + \tfrac12 \log p(y_j, y_j) - \log p(y_i, y_j).$$

D is zero for equal data and never negative: the log of the marginal likelihood of two sites is
convex in the sum of their statistics, for every exponential family and conjugate prior (for normal
data, about a quarter of the squared distance over the variance).

Sources: Higdon (1998), Journal of the American Statistical Association 93, section 3; Barbu & Zhu
(2005), IEEE Transactions on Pattern Analysis and Machine Intelligence 27, for bonds from the data.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayleaf.errors import bad_argument
from bayleaf.partitions.arguments import is_known, real
from bayleaf.partitions.model import PartitionModel
from bayleaf.trees import Frozen, frozen_function
from bayleaf.types import Key, Scalar


class Decoupled(eqx.Module):
    r"""Bonds with probability $1 - e^{-\delta \max(\beta_e, 0)}$, $\delta$ drawn for each sweep.

    Args:
        strengths: the values of delta, one or several, equally likely; 0 is Gibbs sampling, 1 is
            Swendsen and Wang's, above 1 pieces are larger and repel what they were cut from.

    Raises:
        BayleafError: a strength that is negative or not finite.
    """

    strengths: Float[Array, "rule"]

    def __init__(self, strengths: Any) -> None:
        array = jnp.atleast_1d(jnp.asarray(strengths, float))
        is_good = array.ndim == 1 and array.size > 0
        if not is_good or (is_known(array) and not np.all((array >= 0) & np.isfinite(array))):
            raise bad_argument("strengths", str(strengths), "numbers, at least 0")
        self.strengths = array

    def __call__(self, key: Key, model: PartitionModel) -> Float[Array, "..."]:
        """The probabilities of one sweep."""
        delta = jax.random.choice(key, self.strengths).astype(model.coupling.dtype)
        return -jnp.expm1(-delta * jnp.maximum(model.coupling, 0))


class Contrast(eqx.Module):
    r"""Bonds with probability $(1 - e^{-\delta \max(\beta_e, 0)})\, e^{-c\, D_e}$.

    Args:
        rate: c; 0 is `Decoupled`.
        strength: delta.

    Raises:
        BayleafError: numbers that are negative or not finite.
    """

    rate: Scalar
    strength: Scalar

    def __init__(self, rate: Any = 0.25, strength: Any = 1.0) -> None:
        self.rate, self.strength = real(rate, "rate"), real(strength, "strength")
        for name, value in (("rate", self.rate), ("strength", self.strength)):
            if is_known(value) and not (value >= 0 and np.isfinite(value)):
                raise bad_argument(name, str(value), "a number, at least 0")

    def __call__(self, key: Key, model: PartitionModel) -> Float[Array, "edge"]:
        """The probabilities, the same for each sweep."""
        del key
        return self.among(model, contrasts(model))

    def among(self, model: PartitionModel, contrast: Float[Array, "edge"]) -> Float[Array, "edge"]:
        """The probabilities at given contrasts D."""
        delta = self.strength.astype(contrast.dtype)
        drawn = -jnp.expm1(-delta * jnp.maximum(model.coupling, 0))
        return drawn * jnp.exp(-self.rate.astype(contrast.dtype) * contrast)


def pair_log_marginals(
    model: PartitionModel, first: Float[Array, "edge stat"], second: Float[Array, "edge stat"]
) -> Float[Array, "edge"]:
    """Log p of pairs of sites with these statistics."""
    size = jnp.full(first.shape[:1], 2)
    return model.log_marginals(size, first + second)


def contrasts(model: PartitionModel) -> Float[Array, "edge"]:
    """D of each edge; zero without data."""
    ends = model.statistics[model.graph.edges]
    first, second = ends[:, 0], ends[:, 1]
    own = pair_log_marginals(model, first, first) + pair_log_marginals(model, second, second)
    # Rounding may leave equal data slightly below zero, and bonds above their limit.
    return jnp.maximum(own / 2 - pair_log_marginals(model, first, second), 0)


def frozen_bonds(bonds: Any) -> Frozen | Float[Array, "..."]:
    """A rule, or probabilities, as the kernel keeps them."""
    return frozen_function(bonds, "bonds") if callable(bonds) else checked_bonds(bonds)


def probabilities(bonds: Any, key: Key, model: PartitionModel) -> Float[Array, "..."]:
    """The probabilities of one sweep, in [0, 1)."""
    dtype = model.coupling.dtype
    q = jnp.asarray(bonds(key, model) if isinstance(bonds, Frozen) else bonds, dtype)
    if q.shape not in ((), (model.graph.num_edges,)):
        raise bad_argument(
            "bonds",
            f"shape {q.shape}",
            f"one probability, or one for each of {model.graph.num_edges} edges",
        )
    # At exactly 1, which a strong coupling reaches by rounding, nothing could ever be cut again.
    return jnp.clip(q, 0, 1 - jnp.finfo(dtype).eps)


def checked_bonds(bonds: Any) -> Float[Array, "..."]:
    """Probabilities in [0, 1)."""
    array = jnp.asarray(bonds, float)
    if array.ndim > 1:
        raise bad_argument("bonds", f"shape {array.shape}", "one number, or one for each edge")
    if is_known(array) and not np.all((array >= 0) & (array < 1)):
        where = np.flatnonzero(~((np.atleast_1d(array) >= 0) & (np.atleast_1d(array) < 1)))[0]
        raise bad_argument(
            "bonds" if array.ndim == 0 else f"bonds[{where}]",
            str(np.atleast_1d(array)[where]),
            "a probability in [0, 1)",
            "An edge that is always bonded could never be cut: use 0.99.",
        )
    return array
