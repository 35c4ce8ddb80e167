r"""Priors on partitions: symmetric functions g of the sizes of the clusters, up to a constant.

| prior | $g(m_1, \dots, m_k)$ |
|---|---|
| `DirichletProcess` | $\alpha^k \prod_j \Gamma(m_j)$ |
| `PitmanYor` | $\prod_{l=1}^{k-1} (\theta + d\, l)\, \prod_j \Gamma(m_j - d) / \Gamma(1 - d)$ |
| `FiniteDirichlet` | $K! / (K - k)!\, \prod_j \Gamma(m_j + \gamma) / \Gamma(\gamma)$ |
| `UniformLabels` | $q! / (q - k)!$: every site draws one of q labels; Potts models |
| `UniformPartition` | 1: every partition is as likely as any other |
| `SizePower` | $\alpha^k \prod_j m_j^p$ |
| `SizeWeights` | $\alpha^k \prod_j h(m_j)$ for any h |
| `Symmetric` | any g |

All but the last are products, $g = v(k) \prod_j w(m_j)$ (`ProductPrior`).

A sampler asks what becomes of g when c sites that belong together join a cluster or make one of
their own. That is $w(m_j + c) / w(m_j)$ against $w(c)\, v(k + 1) / v(k)$; for the Dirichlet process
$\Gamma(m_j + c) / \Gamma(m_j)$ against $\alpha \Gamma(c)$. The familiar weights of the Chinese
restaurant, $m_j$ against $\alpha$, are these for c = 1 only.

Sources: Pitman & Yor (1997), Annals of Probability 25; Gnedin & Pitman (2006), Journal of
Mathematical Sciences 138, for products; Green & Richardson (2001), Scandinavian Journal of
Statistics 28, for the finite case.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, ArrayLike, Float, Int

from bayleaf.errors import bad_argument
from bayleaf.partitions.arguments import is_known, positive, real, whole
from bayleaf.trees import Frozen, frozen_function
from bayleaf.types import Count, Scalar

Sizes = Int[Array, "cluster"]
"""Sizes of clusters; zeros stand for places without one."""


class PartitionPrior(eqx.Module):
    """What a prior on partitions answers."""

    def log_weight(self, sizes: Sizes) -> Scalar:
        """Log g; zeros among the sizes are no clusters."""
        raise NotImplementedError(type(self).__name__)

    def log_joined(self, sizes: Sizes, size: Count) -> Float[Array, "cluster"]:
        """Log g after ``size`` sites have joined each place in turn, up to one common constant.

        At a place without a cluster they make a new one.
        """
        raise NotImplementedError(type(self).__name__)

    def check(self, num_sites: int) -> None:
        """Refuse a prior that is of no use for partitions of so many sites."""


class ProductPrior(PartitionPrior):
    """A prior of the form v(k) times the product of w(size)."""

    def log_opened(self, num_clusters: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log v(k + 1) - log v(k), the price of one cluster more than k; v(0) = 1."""
        raise NotImplementedError(type(self).__name__)

    def log_size(self, sizes: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log w, for sizes of at least 1."""
        raise NotImplementedError(type(self).__name__)

    def log_size_steps(self, num_sites: int) -> Float[Array, "size"]:
        """Log w(1), and then log w(m + 1) - log w(m) for m = 1, ..., num_sites - 1.

        Compiled samplers add them up in float64: log Gamma of a thousand has no digit left behind
        the third decimal in float32, its steps have.
        """
        values = self.log_size(jnp.arange(1, num_sites + 1))
        # Of two forbidden sizes the step would be NaN; infinity is carried over as it is.
        before = jnp.where(jnp.isfinite(values[:-1]), values[:-1], 0)
        rest = jnp.where(jnp.isfinite(values[:-1]), values[1:] - before, values[1:])
        return jnp.concatenate([values[:1], rest])

    def log_weight(self, sizes: Sizes) -> Scalar:
        """Log v(k) + sum of log w(size)."""
        is_there = sizes > 0
        each = jnp.where(is_there, self.log_size(jnp.maximum(sizes, 1)), 0)
        place = jnp.arange(sizes.shape[0])
        opened = jnp.where(place < jnp.sum(is_there), self.log_opened(place), 0)
        return jnp.sum(each) + jnp.sum(opened)

    def log_joined(self, sizes: Sizes, size: Count) -> Float[Array, "cluster"]:
        """Log w(m + c) - log w(m); for a new cluster log v(k + 1) - log v(k) + log w(c)."""
        is_there = sizes > 0
        here = jnp.where(is_there, self.log_size(jnp.maximum(sizes, 1)), 0)
        # A cluster that has lost sites may have a forbidden size until these, and no others, join
        # it: its weight of zero is no divisor, and all other places are closed.
        is_stuck = here == -jnp.inf
        others = jnp.sum(is_stuck) - is_stuck
        opened = self.log_opened(jnp.sum(is_there))
        gain = jnp.where(is_there, -jnp.where(is_stuck, 0, here), opened)
        return jnp.where(others > 0, -jnp.inf, gain + self.log_size(sizes + size))


class DirichletProcess(ProductPrior):
    """The Dirichlet process: alpha^k times the product of Gamma(size).

    Args:
        concentration: alpha, positive; about alpha log(1 + n / alpha) clusters are expected of n
            sites without data and couplings.
    """

    concentration: Scalar

    def __init__(self, concentration: ArrayLike = 1.0) -> None:
        self.concentration = positive(concentration, "concentration")

    def log_opened(self, num_clusters: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log alpha."""
        return jnp.log(self.concentration) + jnp.zeros(num_clusters.shape)

    def log_size(self, sizes: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log Gamma(m)."""
        return gammaln(sizes.astype(self.concentration.dtype))

    def log_size_steps(self, num_sites: int) -> Float[Array, "size"]:
        """0, log 1, log 2, ..."""
        return gamma_steps(num_sites, jnp.zeros_like(self.concentration))


class PitmanYor(ProductPrior):
    """The Pitman-Yor process, whose cluster sizes have a power-law tail.

    Args:
        discount: d in [0, 1); 0 is the Dirichlet process.
        concentration: theta, above -d.
    """

    discount: Scalar
    concentration: Scalar

    def __init__(self, discount: ArrayLike, concentration: ArrayLike = 1.0) -> None:
        d, theta = real(discount, "discount"), real(concentration, "concentration")
        if is_known(d) and not 0 <= d < 1:
            raise bad_argument("discount", str(d), "a number in [0, 1)")
        if is_known(d, theta) and not (theta > -d and np.isfinite(theta)):
            raise bad_argument("concentration", str(theta), f"a number above -discount = {-d}")
        self.discount, self.concentration = d, theta

    def log_opened(self, num_clusters: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log(theta + d k), and 0 for the first."""
        is_first = num_clusters == 0
        total = self.concentration + self.discount * num_clusters
        return jnp.where(is_first, 0, jnp.log(jnp.where(is_first, 1, total)))

    def log_size(self, sizes: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log Gamma(m - d) - log Gamma(1 - d)."""
        return gammaln(sizes - self.discount) - gammaln(1 - self.discount)

    def log_size_steps(self, num_sites: int) -> Float[Array, "size"]:
        """0, log(1 - d), log(2 - d), ..."""
        return gamma_steps(num_sites, -self.discount)


class FiniteDirichlet(ProductPrior):
    """At most K clusters, whose shares have a symmetric Dirichlet prior; with couplings, Potts.

    Args:
        num_labels: K, how many labels there are; a partition forgets which is which.
        concentration: gamma, of each label. With gamma = alpha / K and K large it is the Dirichlet
            process.
    """

    concentration: Scalar
    num_labels: int = eqx.field(static=True)

    def __init__(self, num_labels: int, concentration: ArrayLike = 1.0) -> None:
        self.num_labels = whole(num_labels, "num_labels")
        self.concentration = positive(concentration, "concentration")

    def log_opened(self, num_clusters: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log(K - k): as many labels are free; minus infinity when there is none."""
        return log_left(self.num_labels, num_clusters, self.concentration.dtype)

    def log_size(self, sizes: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log Gamma(m + gamma) - log Gamma(gamma)."""
        return gammaln(sizes + self.concentration) - gammaln(self.concentration)

    def log_size_steps(self, num_sites: int) -> Float[Array, "size"]:
        """Log gamma, log(1 + gamma), log(2 + gamma), ..."""
        first = jnp.log(self.concentration)
        return gamma_steps(num_sites, self.concentration).at[0].set(first)


class UniformLabels(ProductPrior):
    """Each site takes one of q labels, all alike: the prior of a Potts model, on partitions.

    Args:
        num_labels: q.
    """

    num_labels: int = eqx.field(static=True)

    def __init__(self, num_labels: int) -> None:
        self.num_labels = whole(num_labels, "num_labels")

    def log_opened(self, num_clusters: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log(q - k): as many labels are free; minus infinity when there is none."""
        return log_left(self.num_labels, num_clusters, jnp.zeros(()).dtype)

    def log_size(self, sizes: Int[Array, "..."]) -> Float[Array, "..."]:
        """0: sizes do not matter."""
        return jnp.zeros(sizes.shape)


class UniformPartition(ProductPrior):
    """Every partition is as likely as any other; most have many small clusters."""

    def log_opened(self, num_clusters: Int[Array, "..."]) -> Float[Array, "..."]:
        """0."""
        return jnp.zeros(num_clusters.shape)

    def log_size(self, sizes: Int[Array, "..."]) -> Float[Array, "..."]:
        """0."""
        return jnp.zeros(sizes.shape)


class SizePower(ProductPrior):
    """Alpha^k times the product of size^p.

    Args:
        power: p. Among partitions into as many clusters, p > 0 penalises small ones and makes sizes
            even; p < 0 penalises large ones' growth and leaves small ones.
        concentration: alpha, the price of a cluster: below 1 few, above 1 many.
    """

    power: Scalar
    concentration: Scalar

    def __init__(self, power: ArrayLike, concentration: ArrayLike = 1.0) -> None:
        self.power = real(power, "power")
        if is_known(self.power) and not np.isfinite(self.power):
            raise bad_argument("power", str(self.power), "a finite number")
        self.concentration = positive(concentration, "concentration")

    def log_opened(self, num_clusters: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log alpha."""
        return jnp.log(self.concentration) + jnp.zeros(num_clusters.shape)

    def log_size(self, sizes: Int[Array, "..."]) -> Float[Array, "..."]:
        """Of the power: p log m."""
        return self.power * jnp.log(sizes.astype(self.power.dtype))


class SizeWeights(ProductPrior):
    """Alpha^k times the product of h(size), for any h.

    Args:
        log_weight: log h, a function of an integer array of sizes, elementwise, in jax.numpy; minus
            infinity forbids a size.
        concentration: alpha.

    Examples:
        >>> import jax.numpy as jnp, bayleaf as bl
        >>> fewer_than_three_is_a_speck = bl.partitions.SizeWeights(
        ...     lambda sizes: jnp.where(sizes < 3, -4.0, 0.0)
        ... )
    """

    function: Frozen
    concentration: Scalar

    def __init__(self, log_weight: Any, *, concentration: ArrayLike = 1.0) -> None:
        self.function = frozen_function(log_weight, "log_weight")
        self.concentration = positive(concentration, "concentration")

    def log_opened(self, num_clusters: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log alpha."""
        return jnp.log(self.concentration) + jnp.zeros(num_clusters.shape)

    def log_size(self, sizes: Int[Array, "..."]) -> Float[Array, "..."]:
        """Log h(m)."""
        return jnp.asarray(self.function(sizes), self.concentration.dtype)

    def check(self, num_sites: int) -> None:
        """Refuse NaN, and a result of another shape."""
        sizes = jnp.arange(1, num_sites + 1)
        values = np.asarray(self.function(sizes))
        if values.shape != sizes.shape:
            raise bad_argument(
                "log_weight", f"a result of shape {values.shape}", "one number for each size"
            )
        refuse_at(values, lambda i: f"the size {i + 1}")


class Symmetric(PartitionPrior):
    """Any function of the sizes that does not look at their order.

    The sampler evaluates it once for each place that a component of sites might join. A product is
    faster as `SizeWeights`.

    Args:
        log_weight: log g(sizes), a function of an integer array of sizes of fixed length, in which
            zeros are no clusters, in jax.numpy; a scalar. Minus infinity forbids a partition.

    Examples:
        >>> import jax.numpy as jnp, bayleaf as bl
        >>> largest_is_half_at_most = bl.partitions.Symmetric(
        ...     lambda sizes: jnp.where(2 * jnp.max(sizes) <= jnp.sum(sizes), 0.0, -jnp.inf)
        ... )
    """

    function: Frozen

    def __init__(self, log_weight: Any) -> None:
        self.function = frozen_function(log_weight, "log_weight")

    def log_weight(self, sizes: Sizes) -> Scalar:
        """Log g."""
        return jnp.asarray(self.function(sizes), float)

    def log_joined(self, sizes: Sizes, size: Count) -> Float[Array, "cluster"]:
        """Log g at each partition that may result."""
        places = jnp.eye(sizes.shape[0], dtype=sizes.dtype)
        return jax.vmap(lambda place: self.log_weight(sizes + size * place))(places)

    def check(self, num_sites: int) -> None:
        """Refuse NaN, a result that is no scalar, and a function that depends on the order.

        Tried are partitions into up to eight clusters, even and uneven.
        """
        tried = np.array(list(trial_sizes(num_sites)))
        reverse = jnp.asarray(tried[:, ::-1])
        shape = jax.eval_shape(self.function, reverse[0]).shape
        if shape != ():
            raise bad_argument("log_weight", f"a result of shape {shape}", "one number")
        values = np.asarray(jax.vmap(self.log_weight)(jnp.asarray(tried)))
        refuse_at(values, lambda i: f"the sizes {tried[i][tried[i] > 0].tolist()}")
        gap = np.flatnonzero(~np.isclose(values, jax.vmap(self.log_weight)(reverse), rtol=1e-4))
        if gap.size:
            raise bad_argument(
                "log_weight",
                f"a function that changes when {tried[gap[0]].tolist()} is read backwards",
                "one that does not depend on the order of the sizes, nor on where zeros stand",
            )


def gamma_steps(num_sites: int, shift: Scalar) -> Float[Array, "size"]:
    """0, then log(m + shift): the steps of log Gamma(m + shift)."""
    steps = jnp.log(jnp.arange(1, num_sites, dtype=shift.dtype) + shift)
    return jnp.concatenate([jnp.zeros(1, shift.dtype), steps])


def log_left(total: int, num: Int[Array, "..."], dtype: Any) -> Float[Array, "..."]:
    """Log(total - num), minus infinity where nothing is left."""
    left = (total - num).astype(dtype)
    return jnp.where(left > 0, jnp.log(jnp.maximum(left, 1)), -jnp.inf)


def trial_sizes(num_sites: int) -> Any:
    """Sizes of some partitions, padded by zeros to the number of sites."""
    for k in range(1, min(num_sites, 8) + 1):
        even = [num_sites // k + (i < num_sites % k) for i in range(k)]
        uneven = [num_sites - k + 1] + [1] * (k - 1)
        for sizes in itertools.chain([even], [uneven] if uneven != even else []):
            yield sizes + [0] * (num_sites - k)
    yield [1] * num_sites


def refuse_at(values: np.ndarray, where: Callable[[int], str]) -> None:
    """The error for a user's function whose log is NaN or plus infinity."""
    bad = np.flatnonzero(np.isnan(values) | (values == np.inf))
    if bad.size:
        raise bad_argument(
            "log_weight",
            f"{values[bad[0]]} for {where(int(bad[0]))}",
            "the logarithm of a weight: a number, or -inf where it is zero",
        )
