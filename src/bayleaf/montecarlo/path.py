r"""The path from a prior to a target, on the unconstrained space.

    log p_t(u) = log prior(u) + t log r(u),   log r(u) = log target(u) - log prior(u),   t in [0, 1]

with the log-Jacobian of the constraints in both ends, once. The prior may be any normalised
distribution that can be drawn from; the closer to the target, the shorter the path.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bayleaf.errors import bad_argument
from bayleaf.gaussian import Gaussian
from bayleaf.montecarlo.model_prior import ModelPrior, model_prior
from bayleaf.targets import Target
from bayleaf.targets.densities import Posterior
from bayleaf.targets.from_numpyro import NumPyroModel
from bayleaf.targets.starts import Around
from bayleaf.trees import Frozen, leaf_names
from bayleaf.types import Key, Position, Scalar


class Path(eqx.Module):
    """The two ends.

    Attributes:
        target: the target.
        prior: the distribution, or the tree of distributions, on the space of the parameters.
        likelihood_only: r is the likelihood, known apart: nothing is lost in a difference.
    """

    target: Any
    prior: Frozen
    likelihood_only: bool = eqx.field(static=True, default=False)

    def sample(self, key: Key) -> Position:
        """An unconstrained draw of the prior."""
        prior = self.prior.thaw()
        draw = prior.sample(key) if isinstance(prior, ModelPrior) else sample(prior, key)
        return self.target.unconstrain(draw)

    def log_prior(self, u: Position) -> Scalar:
        """Log density of the prior on the unconstrained space."""
        prior = self.prior.thaw()
        if isinstance(prior, ModelPrior):
            return prior.log_density(u)
        x = self.target.constrain(u)
        jacobian = self.target.model.constraints.log_jacobian(u)
        return log_prob(prior, x) + jacobian

    def log_ratio(self, u: Position) -> Scalar:
        """``log r``."""
        if self.likelihood_only:
            return self.target.total_log_likelihood(self.target.constrain(u))
        return self.target(u) - self.log_prior(u)

    def at(self, temperature: Scalar) -> Tempered:
        """The density at a temperature."""
        return Tempered(self, temperature)


class Tempered(eqx.Module):
    """``log p_t``: the log density that kernels see."""

    path: Path
    temperature: Scalar

    def __call__(self, u: Position) -> Scalar:
        """Log density at an unconstrained position."""
        log_prior = self.path.log_prior(u)
        return log_prior + self.temperature.astype(log_prior.dtype) * self.path.log_ratio(u)

    @property
    def prior(self) -> Gaussian:
        """The Gaussian prior part, for elliptical slice sampling."""
        prior = self.path.prior.thaw()
        if not (self.path.likelihood_only and isinstance(prior, Gaussian)):
            raise AttributeError("the prior is not Gaussian")
        return prior

    def total_log_likelihood(self, x: Position) -> Scalar:
        """``t log likelihood``."""
        value = self.path.target.total_log_likelihood(x)
        return self.temperature.astype(value.dtype) * value


def as_path(target: Any, prior: Any) -> Path:
    """The path from ``prior``, or the target's own prior, to ``target``.

    Raises:
        BayleafError: a target or a prior that cannot be used; says what is missing.
    """
    if not isinstance(target, Target):
        if not callable(target):
            raise bad_argument(
                "target", repr(target), "a bl.Target, or a function that returns a log density"
            )
        target = Target(target)
    if prior is None and isinstance(target.model, NumPyroModel):
        return Path(target, Frozen(model_prior(target.model), "prior"))
    if prior is None:
        prior = getattr(target, "prior", None)
        if prior is None:
            raise bad_argument(
                "prior",
                "None",
                "a distribution, for the target does not know how to draw from its prior",
                "Give prior=bl.Gaussian(...), a distribution of NumPyro, or a tree of such.",
            )
        return Path(target, Frozen(prior, "prior"), likelihood_only=True)
    check_prior(target, prior)
    path = Path(target, Frozen(prior, "prior"))
    check_structure(path)
    return Path(target, path.prior, likelihood_only=knows_prior(path))


def check_prior(target: Target, prior: Any) -> None:
    """Refuse what cannot be drawn from or evaluated."""
    parts = jax.tree.leaves(prior, is_leaf=is_distribution)
    if not parts:
        raise bad_argument("prior", repr(prior), "at least one distribution")
    for part in parts:
        missing = [n for n in ("sample", "log_prob") if not callable(getattr(part, n, None))]
        if missing:
            kind = part if isinstance(part, type) else type(part)
            raise bad_argument(
                "prior",
                f"a {kind.__name__} that has no {' and no '.join(missing)}",
                "a distribution with sample(key) and a normalised log_prob(x)",
                "Try bl.Gaussian, a distribution of NumPyro, or a tree of such.",
            )
        if isinstance(part, type):
            raise bad_argument("prior", f"the class {part.__name__}", "an object")
    if not hasattr(target.model, "constraints"):
        raise bad_argument(
            "target",
            "a NumPyro model together with prior=",
            "the model alone, whose own prior is used",
            "Leave prior= out, or write the log density for bl.Target(..., constrain=...).",
        )


def check_structure(path: Path) -> None:
    """Refuse a prior whose draws are no parameters of the target."""
    prior = path.prior.thaw()
    try:
        draw = jax.eval_shape(lambda key: sample(prior, key), jax.random.key(0))
    except Exception as error:
        raise bad_argument(
            "prior",
            f"a sample(key) that fails ({type(error).__name__}: {error})",
            "a proper distribution that can be drawn from",
        ) from error
    start = path.target.start
    if isinstance(start, Around):
        names, shapes = _shapes(draw), _shapes(start.point)
        same = jax.tree.structure(draw) == jax.tree.structure(start.point)
        if not same or names != shapes:
            raise bad_argument("prior", f"draws {names}", f"draws like the parameters: {shapes}")
    try:
        u = jax.eval_shape(path.sample, jax.random.key(0))
        shapes = jax.eval_shape(lambda u: (path.target(u), path.log_prior(u)), u)
    except Exception as error:
        raise bad_argument(
            "prior",
            f"draws {_shapes(draw)}, at which the target or log_prob fails ({error})",
            "draws with the structure and the shapes of the target's parameters",
        ) from error


def knows_prior(path: Path) -> bool:
    """Whether the target knows its likelihood apart, and its log prior is ``prior`` or a multiple.

    Seen at draws of the prior: the difference of the two log densities is constant.
    """
    model = path.target.model
    if not isinstance(model, Posterior):
        return False
    ours, theirs = jax.tree.map(np.asarray, _both_priors(path, jax.random.key(0)))
    gap = theirs - ours
    rounding = 100 * np.finfo(ours.dtype).eps * (1 + np.max(np.abs(ours)) + np.max(np.abs(theirs)))
    return bool(np.all(np.isfinite(gap)) and np.ptp(gap) <= rounding)


@eqx.filter_jit
def _both_priors(path: Path, key: Key) -> tuple[Any, Any]:
    """Log density of the prior, and the target's own log prior, at some draws."""

    def both(key: Key) -> tuple[Any, Any]:
        u = path.sample(key)
        x = path.target.constrain(u)
        return log_prob(path.prior.thaw(), x), path.target.log_prior(x)

    return jax.vmap(both)(jax.random.split(key, 64))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = [tuple(leaf.shape) for leaf in jax.tree.leaves(tree)]
    return dict(zip(leaf_names(tree), leaves, strict=True))


def is_distribution(node: Any) -> bool:
    """Whether a node of a tree can be drawn from and evaluated."""
    return callable(getattr(node, "sample", None)) and callable(getattr(node, "log_prob", None))


def sample(prior: Any, key: Key) -> Position:
    """One draw of each distribution of the tree."""
    parts, structure = jax.tree.flatten(prior, is_leaf=is_distribution)
    keys = [key] if len(parts) == 1 else jax.random.split(key, len(parts))
    draws = [part.sample(k) for part, k in zip(parts, keys, strict=True)]
    return jax.tree.unflatten(structure, draws)


def log_prob(prior: Any, x: Position) -> Scalar:
    """The sum of the log densities; NumPyro's distributions return one for each coordinate."""
    parts, structure = jax.tree.flatten(prior, is_leaf=is_distribution)
    values = structure.flatten_up_to(x)
    terms: list[Array] = [
        jnp.sum(part.log_prob(value)) for part, value in zip(parts, values, strict=True)
    ]
    return jnp.sum(jnp.stack(terms))
