"""Log-likelihoods for networks: from a batch of outputs and labels, one number an example.

Any function of (outputs, labels) with a result of shape (batch,) serves as well. Shapes that do
not match are refused, because (n, 1) against (n,) would broadcast to n^2 terms in silence.
"""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Shaped

from bayleaf.errors import bad_argument
from bayleaf.types import Scalar


def categorical(
    logits: Float[Array, "batch *shape category"], labels: Int[Array, "batch ..."]
) -> Float[Array, "batch"]:
    """Integer labels 0 .. K-1, class probabilities softmax(logits). A label beyond K gives NaN."""
    _same_shape("labels", labels.shape, logits.shape[:-1])
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1, mode="fill")
    return _over_examples(chosen)


def bernoulli(
    logits: Float[Array, "batch *shape"], labels: Shaped[Array, "batch ..."]
) -> Float[Array, "batch"]:
    """Labels 0 or 1 (any type), probability of 1 sigmoid(logits)."""
    _same_shape("labels", labels.shape, logits.shape)
    sign = 2 * labels.astype(logits.dtype) - 1
    return _over_examples(jax.nn.log_sigmoid(sign * logits))


class Normal(eqx.Module):
    """Real labels with Gaussian noise of known standard deviation."""

    noise: Array = eqx.field(converter=jnp.asarray)

    def __call__(
        self, means: Float[Array, "batch *shape"], labels: Shaped[Array, "batch ..."]
    ) -> Float[Array, "batch"]:
        """Log N(labels; means, noise^2)."""
        return _normal(means, labels, self.noise.astype(means.dtype))


class LearntNoise(eqx.Module):
    """Real labels with Gaussian noise whose standard deviation is inferred too.

    The parameters become ``{"network": ..., "noise": ...}``; the noise is positive with a
    half-normal prior of the given scale.
    """

    prior_scale: Array = eqx.field(converter=jnp.asarray, default=1.0)

    def __call__(
        self,
        means: Float[Array, "batch *shape"],
        labels: Shaped[Array, "batch ..."],
        noise: Scalar,
    ) -> Float[Array, "batch"]:
        """Log N(labels; means, noise^2)."""
        return _normal(means, labels, noise)

    def log_prior(self, noise: Scalar) -> Scalar:
        """Half-normal log density."""
        scale = self.prior_scale.astype(noise.dtype)
        return _log_normal_density(noise, scale) + math.log(2)


def normal(noise: ArrayLike) -> Normal:
    """Gaussian noise of known standard deviation."""
    if not np.all(np.asarray(noise) > 0):
        raise bad_argument("noise", noise, "a number > 0")
    return Normal(noise)


def normal_with_learnt_noise(prior_scale: ArrayLike = 1.0) -> LearntNoise:
    """Gaussian noise whose standard deviation is a parameter; see `LearntNoise`."""
    return LearntNoise(prior_scale)


def _normal(means: Array, labels: Array, noise: Scalar) -> Float[Array, "batch"]:
    _same_shape("labels", labels.shape, means.shape)
    return _over_examples(_log_normal_density(labels.astype(means.dtype) - means, noise))


def _log_normal_density(x: Array, scale: Scalar) -> Array:
    return -0.5 * jnp.square(x / scale) - jnp.log(scale) - 0.5 * math.log(2 * math.pi)


def _over_examples(terms: Float[Array, "batch *rest"]) -> Float[Array, "batch"]:
    return jnp.sum(terms.reshape(terms.shape[0], -1), axis=1)


def _same_shape(name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if got != expected:
        raise bad_argument(
            name,
            f"shape {got}",
            f"shape {expected}, to match the outputs of the network",
            "Reshape the labels, or squeeze the outputs.",
        )
