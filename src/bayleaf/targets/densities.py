r"""Log densities of parameters, as one function or as a prior and a likelihood.

On the unconstrained space a density gains the log-Jacobian of its constraints:

    log p(u) = log p(x) + log |det dx/du|,   x = constrain(u).

A posterior also knows its parts, and can replace its data by a random batch of n of the N examples
with the likelihood scaled by N/n, which estimates the log density without bias:

    log p(x) = log prior(x) + scale * sum_i log likelihood_i(x),   scale = 1, or N/n for a batch.

The user's functions are called through one jitted function, so that their Python bodies run once
for each shape and dtype of their arguments, whatever gradients, loops and batches surround them.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayleaf.constraints import Constraints
from bayleaf.errors import bad_argument
from bayleaf.gaussian import Gaussian
from bayleaf.trees import Frozen
from bayleaf.types import Key, Position, Scalar


class Constrained(eqx.Module):
    """What densities with a tree of constraints share: the map from the reals and back."""

    constraints: Constraints

    def constrain(self, u: Position) -> Position:
        """The parameters at ``u``."""
        return self.constraints.constrain(u)

    def unconstrain(self, x: Position) -> Position:
        """The inverse of `constrain`."""
        return self.constraints.unconstrain(x)

    def check(self, x: Position, argument: str) -> None:
        """Raise, by name, if a parameter is outside its constraint."""
        self.constraints.check(x, argument)


class Density(Constrained):
    """A log density given as one function, ``function(params)`` or ``function(params, data)``."""

    function: Frozen
    data: Any

    def log_density(self, u: Position) -> Scalar:
        """On the unconstrained space, with the log-Jacobian."""
        x = self.constraints.constrain(u)
        value = as_scalar(_called(self.function, x, self.data), x, "log_density")
        return value + self.constraints.log_jacobian(u)


class Posterior(Constrained):
    """A log density made of a prior and a likelihood with one term an example.

    ``likelihood(params, data)`` returns the log-likelihood of each example of ``data``, whose
    leaves have a leading axis of examples. Without data ``likelihood(params)`` may return any
    shape. ``gaussian`` is the prior itself when it is Gaussian.
    """

    prior: Frozen
    likelihood: Frozen
    data: Any
    scale: Scalar
    gaussian: Gaussian | None = None

    def log_density(self, u: Position) -> Scalar:
        """On the unconstrained space, with the log-Jacobian."""
        x = self.constraints.constrain(u)
        prior = self.log_prior(x)
        likelihood = self.total_log_likelihood(x).astype(prior.dtype)
        return prior + likelihood + self.constraints.log_jacobian(u)

    def log_prior(self, x: Position) -> Scalar:
        """Log prior density of the (constrained) parameters."""
        return as_scalar(_called(self.prior, x, None), x, "log_prior")

    def log_likelihood(self, x: Position) -> Float[Array, "..."]:
        """Log-likelihood of each example, unscaled."""
        values = _called(self.likelihood, x, self.data)
        if not isinstance(values, jax.Array) or not jnp.issubdtype(values.dtype, jnp.floating):
            raise bad_argument("log_likelihood", _described(values), "an array of real numbers")
        if self.data is not None and values.shape[:1] != (num_examples(self.data),):
            raise bad_argument(
                "log_likelihood",
                f"a result of shape {values.shape}",
                f"one number for each of the {num_examples(self.data)} examples",
                "Return the terms and not their sum: mini-batches and ArviZ need them.",
            )
        return values

    def total_log_likelihood(self, x: Position) -> Scalar:
        """The sum over all examples, as the batch estimates it."""
        total = jnp.sum(self.log_likelihood(x))
        return self.scale.astype(total.dtype) * total

    def subsample(self, key: Key, batch_size: int) -> Posterior:
        """The same posterior seen through a random batch, its likelihood scaled by N/n."""
        if self.data is None:
            raise bad_argument("target", "no data", "data to draw a batch from, given as data=...")
        total = num_examples(self.data)
        if not 1 <= batch_size <= total:
            raise bad_argument("batch_size", batch_size, f"a number from 1 to {total} (the data)")
        index = stratified_indices(key, total, batch_size)
        batch = jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), self.data)
        scale = self.scale * (total / batch_size)
        return eqx.tree_at(lambda p: (p.data, p.scale), self, (batch, scale))


def stratified_indices(key: Key, total: int, size: int) -> Int[Array, "batch"]:
    """One index from each of ``size`` equal parts of ``range(total)``.

    Every index is as likely as any other, so sums over the batch are unbiased, with no more
    variance than independent draws; ``size == total`` gives each index once. Sampling without
    replacement would sort all N examples at each step.
    """
    part = np.arange(size, dtype=np.int64) * total
    start, rest = part // size, (part % size) / size
    # Whole numbers and fractions stay apart: float32 cannot count past 2^24 examples.
    offset = jnp.asarray(rest, float) + jax.random.uniform(key, (size,), float) * (total / size)
    return jnp.minimum(jnp.asarray(start) + jnp.floor(offset).astype(int), total - 1)


def num_examples(data: Any) -> int:
    """The common length of the leading axis of all leaves."""
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(lengths) != 1 or lengths == {()}:
        raise bad_argument(
            "data",
            f"leaves of shapes {[jnp.shape(leaf) for leaf in jax.tree.leaves(data)]}",
            "arrays with one leading axis of examples, equally long",
        )
    return lengths.pop()[0]


def as_scalar(value: Any, position: Position, name: str) -> Scalar:
    """The value as a scalar in the precision of the position; anything else is refused."""
    if not isinstance(value, jax.Array) or value.shape != ():
        raise bad_argument(
            name,
            f"a result that is {_described(value)}",
            "a scalar",
            "Sum over all terms, for example with jnp.sum(...).",
        )
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise bad_argument(name, "a complex number", "a real number", "Take its .real part.")
    floats = [x.dtype for x in jax.tree.leaves(position) if jnp.issubdtype(x.dtype, jnp.floating)]
    return value.astype(jnp.result_type(*floats) if floats else float)


@jax.jit
def _called(function: Frozen, x: Position, data: Any) -> Any:
    """The user's function. As a jitted function of pytrees its trace is cached by their types."""
    return function(x) if data is None else function(x, data)


def _described(value: Any) -> str:
    if isinstance(value, jax.Array):
        return f"an array of shape {value.shape} and type {value.dtype}"
    return "None" if value is None else f"a {type(value).__name__}"
