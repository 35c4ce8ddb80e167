"""Variational inference: the guide closest to a posterior, and whether it is close enough.

How fast diabetes progresses, regressed on two blood values that go together. With a Gaussian
likelihood the posterior is Gaussian, so a full-rank guide becomes the posterior itself; mean field,
which cannot know of correlation, claims far too much, and k-hat says so.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from sklearn.datasets import load_diabetes

import bayleaf as bl

measured, progress = load_diabetes(return_X_y=True, scaled=False)
blood = measured[:, 4:6]  # total and low-density cholesterol
x = np.column_stack([np.ones(len(blood)), (blood - blood.mean(0)) / blood.std(0)])


def log_likelihood(w, data):
    x, y = data
    return norm.logpdf(y, x @ w, 70.0)


prior = bl.Gaussian.from_scale(np.array([150.0, 0.0, 0.0]), np.array([50.0, 30.0, 30.0]))
target = bl.Target.from_gaussian_prior(prior, log_likelihood, data=(x, progress))

if __name__ == "__main__":
    fit = bl.variational.fit(target, bl.variational.FullRank, key=jax.random.key(0))
    print(fit)
    print(fit.summary())
    both = bl.variational.fit(
        target, bl.variational.FullRank, objective="kl", key=jax.random.key(0)
    )
    print(f"ELBO by E[log p(y, w) - log q(w)] {fit.elbo:.2f}")
    print(f"ELBO by E[log p(y | w)] - KL      {both.elbo:.2f}")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mean_field = bl.variational.fit(target, bl.variational.MeanField, key=jax.random.key(0))
    print(f"mean field: sd {jnp.sqrt(mean_field.guide.variance())}")
    print(f"full rank:  sd {jnp.sqrt(fit.guide.variance())}")
    for warning in caught:
        print("warned:", warning.message)
