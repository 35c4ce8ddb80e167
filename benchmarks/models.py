"""Four targets as log densities of one flat vector, so that every library gets the same function.

- eight schools, not centred (10 parameters): Rubin (1981); tau ~ half-Cauchy(0, 5) on a log scale.
- logistic regression (25): the first 24 columns of the breast cancer data, standardised, and an
  intercept; N(0, 1) priors.
- Gaussian (100): correlation 0.9^|i-j|, sds from 0.1 to 10.
- stochastic volatility (103): mu, atanh phi, log sigma and 100 standardised innovations of an
  AR(1) log variance; simulated returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm


class Model(NamedTuple):
    """A log density on R^dim."""

    name: str
    dim: int
    log_density: Callable[[Any], Any]


def eight_schools() -> Model:
    y = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sd = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def log_density(q):
        mu, log_tau, z = q[0], q[1], q[2:]
        tau = jnp.exp(log_tau)
        prior = norm.logpdf(mu, 0, 5) - jnp.log1p((tau / 5) ** 2) + log_tau
        return prior + norm.logpdf(z).sum() + norm.logpdf(y, mu + tau * z, sd).sum()

    return Model("eight schools", 10, log_density)


def logistic_regression() -> Model:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    columns = data.data[:, :24]
    columns = (columns - columns.mean(0)) / columns.std(0)
    X = jnp.concatenate([jnp.ones((len(columns), 1)), jnp.asarray(columns)], axis=1)
    y = jnp.asarray(data.target, float)

    def log_density(q):
        logits = X @ q
        return jnp.sum(y * logits - jax.nn.softplus(logits)) + norm.logpdf(q).sum()

    return Model("logistic regression", 25, log_density)


def gaussian() -> Model:
    index = np.arange(100)
    sd = np.logspace(-1, 1, 100)
    covariance = 0.9 ** np.abs(index[:, None] - index[None, :]) * sd[:, None] * sd[None, :]
    precision = jnp.asarray(np.linalg.inv(covariance))

    def log_density(q):
        return -0.5 * q @ (precision @ q)

    return Model("Gaussian", 100, log_density)


def stochastic_volatility() -> Model:
    returns = jnp.asarray(_simulated_returns(100))

    def log_density(q):
        mu, a, log_sigma, z = q[0], q[1], q[2], q[3:]
        phi, sigma = jnp.tanh(a), jnp.exp(log_sigma)

        def transition(x, innovation):
            x = phi * x + sigma * innovation
            return x, x

        first = sigma / jnp.sqrt(1 - phi**2) * z[0]
        _, later = jax.lax.scan(transition, first, z[1:])
        h = mu + jnp.append(first, later)
        prior = norm.logpdf(mu, 0, 2) + norm.logpdf(a, 1.5, 0.5) + norm.logpdf(z).sum()
        prior += norm.logpdf(sigma) + log_sigma
        return prior - 0.5 * jnp.sum(h + returns**2 * jnp.exp(-h))

    return Model("stochastic volatility", 103, log_density)


def _simulated_returns(num_days: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    mu, phi, sigma = -1.0, 0.95, 0.25
    h = np.zeros(num_days)
    h[0] = mu + sigma / np.sqrt(1 - phi**2) * rng.standard_normal()
    for t in range(1, num_days):
        h[t] = mu + phi * (h[t - 1] - mu) + sigma * rng.standard_normal()
    return np.exp(h / 2) * rng.standard_normal(num_days)


MODELS = {
    "schools": eight_schools,
    "logistic": logistic_regression,
    "gaussian": gaussian,
    "volatility": stochastic_volatility,
}
