"""A particle filter: the changing volatility of a series, and the likelihood of its parameters."""

import jax
import jax.numpy as jnp
import numpy as np

import bayleaf as bl


def initial(key, p):
    return p["sd"] / jnp.sqrt(1 - p["phi"] ** 2) * jax.random.normal(key)


def transition(key, x, t, p):
    return p["phi"] * x + p["sd"] * jax.random.normal(key)


def log_likelihood(x, y, t, p):
    return jax.scipy.stats.norm.logpdf(y, 0.0, jnp.exp(0.5 * x))


def simulated(num_steps, phi=0.97, sd=0.25):
    rng, x, y = np.random.default_rng(0), 0.0, []
    for _ in range(num_steps):
        x = phi * x + sd * rng.standard_normal()
        y.append(np.exp(0.5 * x) * rng.standard_normal())
    return np.array(y)


model = bl.montecarlo.StateSpaceModel(
    initial, transition, log_likelihood, params={"phi": 0.97, "sd": 0.25}
)

if __name__ == "__main__":
    y = simulated(300)
    result = bl.montecarlo.sequential(model, y, key=jax.random.key(0), num_particles=2000)
    print(result)
    for t in range(0, 300, 15):
        bar = "#" * int(20 * np.exp(0.5 * result.mean[t]))
        print(f"{t:4d}  {np.exp(0.5 * result.mean[t]):5.2f}  {bar}")
    for phi in (0.8, 0.9, 0.97, 0.99):
        other = model.with_params({"phi": jnp.array(phi), "sd": jnp.array(0.25)})
        found = bl.montecarlo.sequential(other, y, key=jax.random.key(1), num_particles=2000)
        print(f"phi = {phi:.2f}: log-likelihood {found.log_likelihood:.2f}")
