"""A Bayesian neural network: which digits is it unsure of?

Handwritten digits of 8 x 8 pixels, the weights of a small network by SGHMC on mini-batches. What it
says of an image is the mean over all draws of the weights. Hidden units can change places, so that
chains need not agree on the weights, of which the runner warns. Their predictions are compared.
"""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import bayleaf as bl
from bayleaf.targets import likelihoods, networks

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
train, test = slice(0, 1200), slice(1200, None)

network = eqx.nn.MLP(64, 10, width_size=32, depth=1, key=jax.random.key(0))
target = bl.Target.from_equinox(
    network, likelihood=likelihoods.categorical, data=(images[train], labels[train])
)

if __name__ == "__main__":
    warnings.simplefilter("ignore", bl.errors.SamplingWarning)
    kernel = bl.mcmc.SGHMC(step_size=0.01, friction=5.0, batch_size=200)
    run = bl.sample(
        target, kernel, key=jax.random.key(1), num_chains=2, num_warmup=1000, num_draws=1000
    )
    some = jax.tree.map(lambda leaf: leaf[:, ::10], run.draws)
    logits = networks.predict(target, some, images[test])
    probability = jax.nn.softmax(logits).mean(axis=(0, 1))
    by_chain = jax.nn.softmax(logits).mean(axis=1).argmax(axis=-1)
    is_right = probability.argmax(axis=-1) == labels[test]
    unsure = jnp.argsort(probability.max(axis=-1))[:100]
    print(f"the two chains agree on {(by_chain[0] == by_chain[1]).mean():.3f} of the unseen digits")
    print(f"right on unseen digits: {is_right.mean():.3f}")
    print(f"right on the 100 it is least sure of: {is_right[unsure].mean():.3f}")
