"""The tangent kernel of an Equinox model, and of the infinite network that it stands for."""

import equinox as eqx
import jax
import numpy as np
from sklearn.datasets import load_digits

import bayleaf as bl

x = load_digits().data[:30] / 16
for width in (64, 256, 1024):
    model = eqx.nn.MLP(64, 1, width, 2, activation=jax.nn.relu, key=jax.random.key(width))
    finite = bl.infinite.empirical_ntk(lambda m, x: jax.vmap(m)(x), model, x)
    exact = bl.infinite.from_module(model).kernel(x, get="ntk")
    gap = np.linalg.norm(finite - exact) / np.linalg.norm(exact)
    print(f"width {width}: relative distance to the infinite kernel {gap:.3f}")
