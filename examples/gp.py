"""A Gaussian process: chosen by marginal likelihood, noisy and noiseless, and a count model."""

import jax
import jax.numpy as jnp

import bayleaf as bl

x = jnp.linspace(0.0, 6.0, 40)[:, None]
y = jnp.sin(2 * x[:, 0]) + 0.2 * jax.random.normal(jax.random.key(0), (40,))
new = jnp.array([[1.5], [6.5], [20.0]])

# Hyper-parameters by marginal likelihood, then the posterior of the function and of new outputs.
prior = bl.gp.GaussianProcess(1.0 * bl.gp.SquaredExponential(0.5), noise_std=0.5)
found = bl.gp.fit(prior, x, y, fixed=["mean_function"])
print({name: round(float(v), 3) for name, v in bl.gp.parameters(found.process).items()})
prediction = found.process.condition(x, y).predict(new, noisy=True)
for point, mean, std in zip(new[:, 0], prediction.mean, prediction.std, strict=True):
    print(f"at {point:4.1f}: {mean:+.2f} +- {std:.2f}")

# Noiseless: through every point. What the jitter added is reported.
smooth = bl.gp.GaussianProcess(bl.gp.Matern52(0.5), jitter=1e-6)
through = smooth.condition(x[::4], jnp.sin(2 * x[::4, 0]))
print(
    "largest gap to the data:", float(jnp.max(abs(through.mean(x[::4]) - jnp.sin(2 * x[::4, 0]))))
)
print("variance added by the jitter:", float(through.added))

# Counts: the same prior, another likelihood, by elliptical slice sampling.
counts = jax.random.poisson(jax.random.key(1), jnp.exp(y))
log_rate = bl.gp.GaussianProcess(bl.gp.Matern52(1.0), jitter=1e-6).gaussian(x)
target = bl.Target.from_gaussian_prior(log_rate, lambda f: counts * f - jnp.exp(f))
run = bl.sample(
    target, bl.mcmc.EllipticalSlice(), key=jax.random.key(2), num_draws=2000, progress=False
)
print("rate at the first points:", jnp.exp(run.draws).mean(axis=(0, 1))[:3])
