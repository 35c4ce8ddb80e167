"""A variational autoencoder of handwritten digits: two numbers an image."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import bayleaf as bl

digits, _ = load_digits(return_X_y=True)
images = (digits > 7).astype(np.float32)
train, test = images[:1500], images[1500:]

one, two = jax.random.split(jax.random.key(0))
shape = {"width_size": 64, "depth": 2, "activation": jnp.tanh}
encoder = bl.variational.GaussianEncoder(eqx.nn.MLP(64, 2 * 2, key=one, **shape))
decoder = eqx.nn.MLP(2, 64, key=two, **shape)

if __name__ == "__main__":
    fit = bl.variational.fit_amortised(
        encoder,
        decoder,
        train,
        key=jax.random.key(1),
        likelihood=bl.likelihoods.bernoulli,
        num_steps=2000,
    )
    print(fit)
    elbo = fit.elbo(test, key=jax.random.key(2)).mean()
    several = fit.log_likelihood(test, key=jax.random.key(3)).mean()
    print(f"unseen digits: ELBO {elbo:.2f}, by 100 weighted draws {several:.2f} nats an image")
    shades = np.array([" ", ".", "o", "#"])
    rows = jax.nn.sigmoid(fit.reconstruct(test[:5], key=jax.random.key(4))).reshape(5, 8, 8)
    for line in np.moveaxis(np.asarray(rows), 1, 0):
        print("   ".join("".join(shades[(row * 3.999).astype(int)]) for row in line))
