r"""Classification by least squares on class indicators, and what its predictions say of classes.

The outputs of a point of class c are 1 - 1/C in column c and -1/C elsewhere, which add up to zero
(Lee et al. 2018, section 4); a process with C outputs is conditioned on them, and the class with
the largest mean is predicted. All outputs share one variance s^2, so that with independent
outputs the probability that class c is the largest is

    P_c = E_z prod_{d != c} Phi((m_c - m_d) / s + z),   z ~ N(0, 1),

computed by Gauss-Hermite quadrature. It is a regression and not a likelihood of labels: whether
these probabilities are calibrated must be checked on data (`bayleaf.gp.leave_one_out`). For a
likelihood of labels use `Target.from_gaussian_prior` with `mcmc.EllipticalSlice`.

Source: Lee et al., Deep neural networks as Gaussian processes, ICLR 2018.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from bayleaf.errors import bad_argument
from bayleaf.types import Vector

NUM_NODES = 40


def class_targets(labels: ArrayLike, num_classes: int) -> Float[Array, "num output"]:
    """The outputs that stand for labels 0, 1, ..., num_classes - 1."""
    values = np.asarray(labels)
    is_whole = values.ndim == 1 and np.issubdtype(values.dtype, np.integer)
    if not is_whole or (values.size and (values.min() < 0 or values.max() >= num_classes)):
        raise bad_argument(
            "labels",
            f"{values.dtype} of shape {values.shape}",
            f"a vector of 0, ..., {num_classes - 1}",
        )
    return jax.nn.one_hot(jnp.asarray(values), num_classes, dtype=float) - 1 / num_classes


def class_probabilities(
    mean: Float[Array, "num output"], variance: Vector
) -> Float[Array, "num output"]:
    """The probability that each output is the largest, of independent Gaussians of one variance."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_NODES)
    share = jnp.asarray(weights / weights.sum(), mean.dtype)
    z = jnp.asarray(nodes, mean.dtype)[None, None, None]
    scale = jnp.sqrt(jnp.maximum(variance, jnp.finfo(mean.dtype).tiny))
    gap = (mean[:, :, None] - mean[:, None, :]) / scale[:, None, None]
    log_below = jax.scipy.stats.norm.logcdf(gap[..., None] + z)
    # A class is not compared with itself.
    itself = jnp.eye(mean.shape[1], dtype=bool)[None, :, :, None]
    total = jnp.sum(jnp.where(itself, 0, log_below), axis=2)
    log_share = jax.nn.logsumexp(total + jnp.log(share)[None, None], axis=2)
    return jax.nn.softmax(log_share, axis=1)  # the rest of the quadrature's error
