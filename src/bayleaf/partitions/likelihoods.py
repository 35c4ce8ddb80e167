r"""Likelihoods of clusters from which the parameters have been integrated out.

All that a cluster A has to say about its data is its number of sites m and a sum over its sites of
*statistics*, so that clusters are joined by adding:

$$p(y_A) = \int \prod_{i \in A} p(y_i \mid \phi)\, p(\phi)\, d\phi
        = f\Big(m_A, \sum_{i \in A} s(y_i)\Big).$$

| likelihood | of each site | integrated out |
|---|---|---|
| `NormalMean` | $N(\mu, \sigma^2)$, known $\sigma^2$ | $\mu \sim N(\mu_0, \tau^2)$ |
| `NormalInverseWishart` | $N(\mu, \Sigma)$ | $\Sigma \sim IW(\nu, \Lambda)$ and $\mu$ |
| `DirichletMultinomial` | a histogram: counts in bins | the shares of the bins |
| `Collapsed` | your statistics and your f | |

Sources: Murphy (2007), "Conjugate Bayesian analysis of the Gaussian distribution", sections 2 and
9; Minka (2000), "Estimating a Dirichlet distribution", equation 3.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from bayleaf import linalg
from bayleaf.errors import bad_argument
from bayleaf.partitions.arguments import is_known, positive, real
from bayleaf.trees import Frozen, frozen_function
from bayleaf.types import Count, Scalar

Total = Float[Array, "stat"]
"""A sum of statistics."""


class CollapsedLikelihood(eqx.Module):
    """What a likelihood of clusters has and answers; ``statistics`` are those of each site."""

    statistics: eqx.AbstractVar[Float[Array, "site stat"]]

    def log_marginal(self, size: Count, total: Total) -> Scalar:
        """Log f of a cluster: its number of sites, and the sum of their statistics.

        At size 0 it may be anything finite.
        """
        raise NotImplementedError(type(self).__name__)

    @property
    def num_sites(self) -> int:
        """How many sites there are data for."""
        return self.statistics.shape[0]


class NormalMean(CollapsedLikelihood):
    r"""Normal data with known variance; each cluster has its own mean.

    With the sum of squares around the cluster's mean $\bar y$, channel by channel,

    $$\log p(y_A) = -\tfrac m2 \log 2 \pi \sigma^2 - \tfrac12 \log(1 + m \tau^2 / \sigma^2)
      - \frac{\sum (y_i - \bar y)^2}{2 \sigma^2} - \frac{m (\bar y - \mu_0)^2}
      {2 (\sigma^2 + m \tau^2)}.$$

    Args:
        data: y, [site] or [site, channel].
        variance: sigma^2, one number or one for each channel.
        prior_mean: mu_0, likewise.
        prior_variance: tau^2, likewise.

    Raises:
        BayleafError: data that are not finite or of another shape, a variance that is not positive.
    """

    statistics: Float[Array, "site stat"]
    variance: Float[Array, "channel"]
    prior_variance: Float[Array, "channel"]
    shift: Float[Array, "channel"]

    def __init__(
        self,
        data: Any,
        *,
        variance: Any,
        prior_variance: Any,
        prior_mean: Any = 0.0,
    ) -> None:
        y = channels(data)
        self.variance = per_channel(variance, y, "variance", is_positive=True)
        self.prior_variance = per_channel(prior_variance, y, "prior_variance", is_positive=True)
        # Sums of squares of data far from zero would cancel: data are centred first, and the rest
        # of the way to the prior mean is kept apart.
        centre = jnp.mean(y, axis=0)
        self.shift = centre - per_channel(prior_mean, y, "prior_mean")
        x = y - centre[None]
        squares = jnp.sum(x**2 / self.variance[None], axis=1, keepdims=True)
        self.statistics = jnp.concatenate([x, squares], axis=1)

    def log_marginal(self, size: Count, total: Total) -> Scalar:
        """Log p(y_A)."""
        s2, t2 = self.variance, self.prior_variance
        m = jnp.maximum(size, 1).astype(total.dtype)
        mean = total[:-1] / m
        scatter = total[-1] - m * jnp.sum(mean**2 / s2)
        distance = jnp.sum(m * (mean + self.shift) ** 2 / (s2 + m * t2))
        determinant = m * jnp.sum(jnp.log(2 * jnp.pi * s2)) + jnp.sum(jnp.log1p(m * t2 / s2))
        return -0.5 * (determinant + scatter + distance)


class NormalInverseWishart(CollapsedLikelihood):
    r"""Normal data of which each cluster has its own mean and covariance.

    These are $\Sigma \sim IW(\nu, \Lambda)$ and $\mu \mid \Sigma \sim N(\mu_0, \Sigma / \kappa)$.
    With

    $$\Lambda_A = \Lambda + \sum_{i \in A} (y_i - \bar y)(y_i - \bar y)^T
      + \frac{\kappa m}{\kappa + m} (\bar y - \mu_0)(\bar y - \mu_0)^T$$

    and D channels,

    $$\log p(y_A) = -\tfrac{m D}2 \log \pi + \log \frac{\Gamma_D((\nu + m) / 2)}{\Gamma_D(\nu / 2)}
      + \tfrac \nu2 \log |\Lambda| - \tfrac{\nu + m}2 \log |\Lambda_A|
      + \tfrac D2 \log \frac{\kappa}{\kappa + m}.$$

    Args:
        data: y, [site] or [site, channel].
        scale: Lambda, a matrix [channel, channel], or a number or diagonal; the covariance of a
            cluster is about scale / (degrees - D - 1).
        degrees: nu, above D - 1; D + 2 when left out, for which that mean is the scale itself.
        mean: mu_0; the mean of the data when left out.
        mean_strength: kappa: a cluster's mean varies as the mean of kappa of its sites would.

    Raises:
        BayleafError: data that are not finite or of another shape, a scale that is not positive
            definite, too few degrees of freedom, a strength that is not positive.
    """

    statistics: Float[Array, "site stat"]
    scale: Float[Array, "channel channel"]
    degrees: Scalar
    mean_strength: Scalar
    shift: Float[Array, "channel"]

    def __init__(
        self,
        data: Any,
        *,
        scale: Any,
        degrees: Any = None,
        mean: Any = None,
        mean_strength: Any = 0.01,
    ) -> None:
        y = channels(data)
        d = y.shape[1]
        self.scale = scale_matrix(scale, y)
        self.degrees = real(d + 2 if degrees is None else degrees, "degrees").astype(y.dtype)
        if is_known(self.degrees) and not self.degrees > d - 1:
            raise bad_argument("degrees", str(self.degrees), f"more than {d - 1} for {d} channels")
        self.mean_strength = positive(mean_strength, "mean_strength").astype(y.dtype)
        # Products of data far from zero would cancel: see `NormalMean`.
        centre = jnp.mean(y, axis=0)
        given = centre if mean is None else per_channel(mean, y, "mean")
        self.shift = centre - given
        x = y - centre[None]
        row, column = np.tril_indices(d)
        self.statistics = jnp.concatenate([x, x[:, row] * x[:, column]], axis=1)

    def log_marginal(self, size: Count, total: Total) -> Scalar:
        """Log p(y_A)."""
        d, kappa, nu = self.shift.shape[0], self.mean_strength, self.degrees
        m = size.astype(total.dtype)
        mean = total[:d] / jnp.maximum(m, 1)
        products = symmetric(total[d:], d) - m * mean[:, None] * mean[None, :]
        gap = mean + self.shift
        pulled = products + kappa * m / (kappa + m) * gap[:, None] * gap[None, :]
        before = linalg.log_determinant(jnp.linalg.cholesky(self.scale))
        after = linalg.log_determinant(jnp.linalg.cholesky(self.scale + pulled))
        halves = (nu - jnp.arange(d)) / 2
        gammas = jnp.sum(gammaln(halves + m / 2) - gammaln(halves))
        strength = d * (jnp.log(kappa) - jnp.log(kappa + m))
        rest = nu * before - (nu + m) * after + strength - m * d * jnp.log(jnp.pi)
        return gammas + 0.5 * rest


class DirichletMultinomial(CollapsedLikelihood):
    r"""Histograms: counts in bins, whose shares are the cluster's own.

    With the cluster's counts $x_b$ and their sum $N$, and $a_+ = \sum_b a_b$,

    $$\log p(y_A) = \log \frac{\Gamma(a_+)}{\Gamma(a_+ + N)}
      + \sum_b \log \frac{\Gamma(a_b + x_b)}{\Gamma(a_b)},$$

    the probability of the observations one by one: the multinomial coefficients, which are the same
    for every partition, are left out.

    Args:
        counts: of each site in each bin, [site, bin], not negative. They need not be whole: to
            temper the data, multiply them by a number below 1.
        concentration: a, one number for all bins or one for each.

    Raises:
        BayleafError: counts that are negative, not finite or of another shape; a concentration that
            is not positive.
    """

    statistics: Float[Array, "site stat"]
    concentration: Float[Array, "bin"]

    def __init__(self, counts: Any, *, concentration: Any = 1.0) -> None:
        x = channels(counts, "counts")
        if is_known(x) and bool(jnp.any(x < 0)):
            site = int(np.flatnonzero(np.any(np.asarray(x) < 0, axis=1))[0])
            raise bad_argument(f"counts[{site}]", "a negative number", "counts, at least 0")
        self.statistics = x
        self.concentration = per_channel(concentration, x, "concentration", is_positive=True)

    def log_marginal(self, size: Count, total: Total) -> Scalar:
        """Log p(y_A)."""
        del size
        a, x = self.concentration, total
        whole = gammaln(jnp.sum(a)) - gammaln(jnp.sum(a) + jnp.sum(x))
        return whole + jnp.sum(gammaln(a + x) - gammaln(a))


class Collapsed(CollapsedLikelihood):
    """A likelihood given by statistics that add, and the log marginal likelihood of their sum.

    It runs in the JAX engine.

    Args:
        statistics: of each site, [site, stat].
        log_marginal: ``log_marginal(size, total)``, the log of f; the number of sites of a cluster
            and the sum of their statistics [stat], in jax.numpy.

    Raises:
        BayleafError: statistics that are not finite or of another shape; a log_marginal that is
            NaN for one of the first sites on its own or for all together, or is no scalar.

    Examples:
        Counts of rare events, whose rate has a Gamma(2, 1) prior:

        >>> import jax.numpy as jnp, bayleaf as bl
        >>> from jax.scipy.special import gammaln
        >>> counts = jnp.array([0.0, 1.0, 7.0, 5.0])
        >>> def log_marginal(size, total):
        ...     return gammaln(2 + total[0]) - (2 + total[0]) * jnp.log(1.0 + size)
        >>> likelihood = bl.partitions.Collapsed(counts[:, None], log_marginal)
    """

    statistics: Float[Array, "site stat"]
    function: Frozen

    def __init__(self, statistics: Any, log_marginal: Any) -> None:
        self.statistics = channels(statistics, "statistics")
        self.function = frozen_function(log_marginal, "log_marginal")
        total = jnp.sum(self.statistics, axis=0)
        shape = jax.eval_shape(self.function, jnp.asarray(1), total).shape
        if shape != ():
            raise bad_argument("log_marginal", f"a result of shape {shape}", "one number")
        tried = [(1, row) for row in self.statistics[:4]] + [(self.num_sites, total)]
        for size, value in tried:
            got = self.log_marginal(jnp.asarray(size), value)
            if is_known(got) and (np.isnan(got) or got == np.inf):
                raise bad_argument(
                    "log_marginal", f"{got} for {size} site(s)", "the log of a marginal likelihood"
                )

    def log_marginal(self, size: Count, total: Total) -> Scalar:
        """Log f."""
        return jnp.asarray(self.function(size, total), total.dtype)


def channels(data: Any, name: str = "data") -> Float[Array, "site channel"]:
    """Finite real data with an axis of channels."""
    array = data if isinstance(data, jax.Array) else np.asarray(data)
    if array.dtype.kind not in "iufV":
        raise bad_argument(name, f"{array.dtype} values", "real numbers")
    if array.ndim not in (1, 2) or array.size == 0:
        raise bad_argument(name, f"shape {array.shape}", "shape [site] or [site, channel]")
    array = jnp.asarray(array)
    array = array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)
    array = array[:, None] if array.ndim == 1 else array
    if is_known(array) and not bool(jnp.all(jnp.isfinite(array))):
        rows = np.flatnonzero(~np.isfinite(np.asarray(array, float)).all(axis=1))
        raise bad_argument(
            f"{name}[{rows[0]}]",
            f"{array[rows[0]].tolist()} ({rows.size} such site(s))",
            "finite numbers",
            "Leave sites without data out of the graph.",
        )
    return array


def per_channel(
    value: Any, data: Float[Array, "site channel"], name: str, *, is_positive: bool = False
) -> Float[Array, "channel"]:
    """One finite number for each channel, from one for all or one for each."""
    array = jnp.asarray(value, data.dtype)
    if array.shape not in ((), data.shape[1:]):
        raise bad_argument(
            name, f"shape {array.shape}", f"one number, or one for each of {data.shape[1]} channels"
        )
    if is_known(array) and not bool(jnp.all(jnp.isfinite(array))):
        raise bad_argument(name, str(array), "finite numbers")
    if is_positive and is_known(array) and not bool(jnp.all(array > 0)):
        raise bad_argument(name, str(array), "positive numbers")
    return jnp.broadcast_to(array, data.shape[1:])


def scale_matrix(scale: Any, data: Float[Array, "site channel"]) -> Float[Array, "channel channel"]:
    """A positive definite matrix, from one, a diagonal or a number."""
    array, d = jnp.asarray(scale, data.dtype), data.shape[1]
    if array.ndim < 2:
        array = jnp.diag(per_channel(array, data, "scale", is_positive=True))
    if array.shape != (d, d):
        raise bad_argument("scale", f"shape {array.shape}", f"shape {(d, d)}")
    linalg.cholesky(array, "scale")
    return array


def symmetric(lower: Float[Array, "entry"], dim: int) -> Float[Array, "dim dim"]:
    """The symmetric matrix of its lower triangle, row by row."""
    row, column = np.tril_indices(dim)
    place = np.zeros((dim, dim), int)
    place[row, column] = place[column, row] = np.arange(row.size)
    return lower[place]
