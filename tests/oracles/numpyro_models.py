"""The models of `posteriordb` and `hard` once more, as NumPyro programs: an independent statement.

Each function takes the ``data`` of the JSON file. Parameters have the names that the log densities
of this package use, so that `numpyro.infer.util.log_density` can be compared with them point by
point. A flat prior is an improper uniform.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
from numpyro import distributions as dist
from numpyro.distributions import constraints


def _flat(name, support=constraints.real, shape=()):
    return numpyro.sample(name, dist.ImproperUniform(support, (), shape))


def eight_schools(data):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    trans = numpyro.sample("theta_trans", dist.Normal(0, 1).expand([8]).to_event(1))
    numpyro.sample(
        "y",
        dist.Normal(mu + tau * trans, jnp.array(data["sigma"], float)),
        obs=jnp.array(data["y"], float),
    )


def centred_schools(data):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([8]).to_event(1))
    numpyro.sample(
        "y", dist.Normal(theta, jnp.array(data["sigma"], float)), obs=jnp.array(data["y"], float)
    )


def kidiq(data):
    beta = _flat("beta", constraints.real_vector, (4,))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    hs, iq = jnp.array(data["mom_hs"], float), jnp.array(data["mom_iq"])
    location = beta[0] + beta[1] * hs + beta[2] * iq + beta[3] * hs * iq
    numpyro.sample("y", dist.Normal(location, sigma), obs=jnp.array(data["kid_score"], float))


def ark(data):
    y, order = jnp.array(data["y"]), data["K"]
    alpha = numpyro.sample("alpha", dist.Normal(0, 10))
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([order]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    location = alpha + jnp.convolve(y, beta)[order - 1 : len(y) - 1]
    numpyro.sample("y", dist.Normal(location, sigma), obs=y[order:])


def gp_regression(data):
    rho = numpyro.sample("rho", dist.Gamma(25, 4))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    x = jnp.array(data["x"], float)
    gram = alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x[None, :]) / rho) ** 2)
    numpyro.sample(
        "y",
        dist.MultivariateNormal(jnp.zeros(len(x)), gram + jnp.diag(jnp.full(len(x), 1.0) * sigma)),
        obs=jnp.array(data["y"]),
    )


def gaussian_mixture(data):
    mu = _flat("mu", constraints.ordered_vector, (2,))
    numpyro.factor("mu_prior", dist.Normal(0, 2).log_prob(mu).sum())
    sigma = numpyro.sample("sigma", dist.HalfNormal(2).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5, 5))
    mixing = dist.Categorical(probs=jnp.stack([theta, 1 - theta]))
    y = jnp.array(data["y"])
    numpyro.sample("y", dist.MixtureSameFamily(mixing, dist.Normal(mu, sigma)), obs=y)


def linear_regression(data):
    X, y = jnp.array(data["X"]), jnp.array(data["y"])
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10))
    numpyro.sample("y", dist.Normal(jnp.dot(X, beta), sigma), obs=y)


def _recursion(coefficient, inputs):
    """The solution of h[t] = coefficient * h[t-1] + inputs[t], h[-1] = 0, as one matrix product."""
    time = jnp.arange(len(inputs))
    lag = time[:, None] - time[None, :]
    powers = jnp.where(lag >= 0, coefficient ** jnp.maximum(lag, 0), 0.0)
    return jnp.dot(powers, inputs)


def arma11(data):
    # Predictions m[t] = mu + phi y[t-1] + theta (y[t-1] - m[t-1]), a recursion with -theta.
    y = jnp.array(data["y"])
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    phi = numpyro.sample("phi", dist.TruncatedNormal(0, 2, low=-1, high=1))
    theta = numpyro.sample("theta", dist.TruncatedNormal(0, 2, low=-1, high=1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    first = mu + phi * mu
    predictions = _recursion(-theta, jnp.append(first, mu + (phi + theta) * y[:-1]))
    numpyro.sample("y", dist.Normal(predictions, sigma), obs=y)


def garch11(data):
    y = jnp.array(data["y"])
    mu = _flat("mu")
    alpha0 = _flat("alpha0", constraints.positive)
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    alpha1 = numpyro.deterministic("alpha1", weights[0])
    beta1 = numpyro.deterministic("beta1", weights[1])
    shocks = jnp.append(data["sigma1"] ** 2, alpha0 + alpha1 * (y[:-1] - mu) ** 2)
    numpyro.sample("y", dist.Normal(mu, jnp.sqrt(_recursion(beta1, shocks))), obs=y)


def hidden_markov(data):
    # The forward recursion on probabilities, scaled to one at each step.
    y = jnp.array(data["y"])
    stay = numpyro.sample("stay", dist.Dirichlet(jnp.ones(2)))
    leave = numpyro.sample("leave", dist.Dirichlet(jnp.ones(2)))
    level = _flat("level", constraints.ordered_vector, (2,))
    numpyro.factor("level_prior", dist.Normal(jnp.array([3.0, 10.0]), 1).log_prob(level).sum())
    density = jnp.exp(dist.Normal(level[None, :], 1).log_prob(y[:, None]) + 20)
    matrix = jnp.stack([stay, leave])

    def forward(alpha, row):
        alpha = jnp.dot(alpha, matrix) * row
        return alpha / alpha.sum(), jnp.log(alpha.sum())

    start = density[0]
    _, logs = jax.lax.scan(forward, start / start.sum(), density[1:])
    numpyro.factor("likelihood", logs.sum() + jnp.log(start.sum()))


def gp_counts(data):
    x = jnp.array(data["x"])
    rho = numpyro.sample("rho", dist.Gamma(25, 4))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2))
    f_tilde = numpyro.sample("f_tilde", dist.Normal(0, 1).expand([len(x)]).to_event(1))
    gram = alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x[None, :]) / rho) ** 2)
    f = jnp.linalg.cholesky(gram + 1e-10 * jnp.eye(len(x))) @ f_tilde
    numpyro.sample("k", dist.Poisson(jnp.exp(f)), obs=jnp.array(data["k"]))
