"""BlackJAX both ways: its kernel in our runner, and ours in its loop."""

import blackjax
import jax
import jax.numpy as jnp
from blackjax.util import run_inference_algorithm

import bayleaf as bl

precision = jnp.array([[2.0, -1.0], [-1.0, 1.0]])


def log_density(x):
    return -0.5 * x @ precision @ x


target = bl.Target(log_density, init=jnp.zeros(2))

if __name__ == "__main__":
    theirs = blackjax.nuts(target, step_size=0.8, inverse_mass_matrix=jnp.array([1.0, 2.0]))
    run = bl.sample(target, bl.mcmc.from_blackjax(theirs), key=jax.random.key(0), num_warmup=100)
    print("theirs in our runner, covariance:")
    print(jnp.cov(run.draws.reshape(-1, 2).T).round(2))

    ours = bl.mcmc.NUTS(step_size=0.8).bind(target)
    _, (states, _) = run_inference_algorithm(
        jax.random.key(1), ours, num_steps=4000, initial_position=jnp.zeros(2)
    )
    print("ours in their loop, covariance:")
    print(jnp.cov(states.position.T).round(2))
    print("exact:")
    print(jnp.linalg.inv(precision))
