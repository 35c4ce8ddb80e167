"""A hierarchical model: what coaching did in eight schools (Rubin 1981), by NUTS.

Written with z, the effects in units of tau (non-centred), since the funnel of the other form has no
step size that fits all of it. Smaller steps than by default, since tau may be close to zero.
``bayleaf sample examples/eight_schools.py:target`` runs it too.
"""

import jax
import jax.numpy as jnp

import bayleaf as bl

effects = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
errors = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def log_density(p):
    residuals = (effects - p["mu"] - p["tau"] * p["z"]) / errors
    prior = (p["mu"] / 5) ** 2 + 2 * jnp.log1p((p["tau"] / 5) ** 2) + jnp.sum(p["z"] ** 2)
    return -0.5 * (prior + jnp.sum(residuals**2))


target = bl.Target(
    log_density,
    init={"mu": 0.0, "tau": 1.0, "z": jnp.zeros(8)},
    constrain={"tau": bl.constraints.positive},
)

if __name__ == "__main__":
    run = bl.sample(target, bl.mcmc.NUTS(target_acceptance=0.95), key=jax.random.key(0))
    print(run.summary())
    schools = run.draws["mu"][..., None] + run.draws["tau"][..., None] * run.draws["z"]
    print("shrunken effects:", schools.mean(axis=(0, 1)).round(1))
