"""Adaptive rejection: logistic regression, each coefficient drawn from its full conditional.

With a log-concave prior every conditional is log-concave, though none has a name. And one density
with ten thousand different arguments is drawn from in one call.
"""

import jax
import jax.numpy as jnp

import bayleaf as bl

# O-ring failures of 23 shuttle flights and the temperature at launch (Dalal et al. 1989).
fahrenheit = jnp.array(
    [66, 70, 69, 68, 67, 72, 73, 70, 57, 63, 70, 78, 67, 53, 67, 75, 70, 81, 76, 79, 75, 76, 58]
)
failed = jnp.array([0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1])
temperature = (fahrenheit - 70) / 7


def log_density(p):
    logit = p["intercept"] + p["slope"] * temperature
    log_prior = -0.5 * (p["intercept"] ** 2 + p["slope"] ** 2) / 3**2
    return log_prior + jnp.sum(failed * logit - jax.nn.softplus(logit))


def log_gamma(x, shape):
    return (shape - 1) * jnp.log(x) - x


if __name__ == "__main__":
    run = bl.sample(
        log_density,
        bl.mcmc.AdaptiveRejection(),
        init={"intercept": 0.0, "slope": 0.0},
        key=jax.random.key(0),
        num_draws=2000,
        num_warmup=100,
        progress=False,
    )
    print(run.summary())

    shapes = jnp.linspace(1.5, 20.0, 10_000)
    found = bl.montecarlo.adaptive_rejection(
        log_gamma, args=shapes, support=(0, jnp.inf), key=jax.random.key(1), num_draws=100
    )
    print(found, found.draws.shape)
    print("largest error of a mean:", abs(found.draws.mean(0) - shapes).max())
