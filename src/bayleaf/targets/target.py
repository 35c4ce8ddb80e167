"""`Target`: the one thing that every algorithm works on.

A target is a log density over any pytree of parameters, the constraints that say where the
parameters live, and where chains start. Called on an unconstrained position it returns the log
density there, log-Jacobian included, so a target is itself the log density that kernels expect:

    target(u) = log p(constrain(u)) + log |det d constrain(u) / du|

It is a pytree: data are leaves and functions are static, so that a new target with the same
functions and data of the same shapes runs in the programs compiled for the old one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

from bayleaf.constraints import Constraints
from bayleaf.errors import bad_argument
from bayleaf.gaussian import Gaussian
from bayleaf.targets import starts
from bayleaf.targets.densities import Density, Posterior, num_examples
from bayleaf.trees import as_arrays, frozen_function
from bayleaf.types import Key, Position, Scalar


class Target(eqx.Module):
    """A log density, its constraints, its data and its starting points.

    Args:
        log_density: ``log_density(params)``, or ``log_density(params, data)`` when data are given;
            the log density of the constrained parameters up to a constant, written in jax.numpy.
        init: a point (a pytree of numbers, in the constrained space) around which chains start, or
            a function of a key that draws one.
        constrain: a constraint for every parameter, or a tree of constraints; parameters that a
            dictionary leaves out are real. See `bayleaf.constraints`.
        data: a pytree of arrays that is handed to ``log_density``. Data that are passed here and
            not closed over can be replaced (`with_data`) without compiling again.

    Examples:
        >>> import jax.numpy as jnp, bayleaf as bl
        >>> def log_density(params):
        ...     return -params["rate"]
        >>> target = bl.Target(
        ...     log_density, init={"rate": 1.0}, constrain={"rate": bl.constraints.positive}
        ... )
        >>> float(target({"rate": jnp.array(0.0)}))  # -exp(0), and the log-Jacobian 0
        -1.0
    """

    model: Any
    start: Any

    def __init__(
        self,
        log_density: Callable[..., Any],
        *,
        init: Any = None,
        constrain: Any = None,
        data: Any = None,
    ):
        function = frozen_function(log_density, "log_density")
        self.model = Density(Constraints(constrain), function, as_arrays(data, "data"))
        self.start = _checked_start(init, self.model)

    @classmethod
    def from_likelihood(
        cls,
        log_prior: Callable[..., Any],
        log_likelihood: Callable[..., Any],
        data: Any,
        *,
        init: Any = None,
        constrain: Any = None,
    ) -> Target:
        """A posterior whose data can be subsampled.

        Args:
            log_prior: ``log_prior(params)``, a scalar.
            log_likelihood: ``log_likelihood(params, batch)``, one number for each example of the
                batch, which is shaped like ``data`` with a shorter leading axis.
            data: a pytree of arrays with a common leading axis of examples.
            init: as for `Target`.
            constrain: as for `Target`.
        """
        data = as_arrays(data, "data")
        num_examples(data)
        model = Posterior(
            Constraints(constrain),
            frozen_function(log_prior, "log_prior"),
            frozen_function(log_likelihood, "log_likelihood"),
            data,
            jnp.ones(()),
        )
        return cls._of(model, _checked_start(init, model))

    @classmethod
    def from_gaussian_prior(
        cls,
        prior: Gaussian,
        log_likelihood: Callable[..., Any],
        *,
        data: Any = None,
        init: Any = None,
    ) -> Target:
        """A posterior with a Gaussian prior, whose parts elliptical slice sampling uses.

        Args:
            prior: the prior of the (real) vector of parameters.
            log_likelihood: ``log_likelihood(x)``, or ``log_likelihood(x, batch)`` when data are
                given; a scalar or one number for each observation.
            data: a pytree of arrays with a common leading axis of examples.
            init: as for `Target`; draws of the prior when left out.
        """
        model = Posterior(
            Constraints(),
            frozen_function(prior.log_prob, "prior"),
            frozen_function(log_likelihood, "log_likelihood"),
            as_arrays(data, "data"),
            jnp.ones(()),
            prior,
        )
        start = starts.Drawn(frozen_function(prior.sample, "prior")) if init is None else init
        return cls._of(model, _checked_start(start, model))

    @classmethod
    def from_numpyro(cls, model: Callable[..., Any], *args: Any, **kwargs: Any) -> Target:
        """A NumPyro model, called with these arguments; see `bayleaf.targets.from_numpyro`.

        Chains start around the image of unconstrained zero. Draws include deterministic sites.
        """
        from bayleaf.targets.from_numpyro import numpyro_model

        part, origin = numpyro_model(model, args, kwargs)
        return cls._of(part, starts.Around(origin))

    @classmethod
    def from_equinox(
        cls,
        module: Any,
        *,
        likelihood: Callable[..., Any],
        data: tuple[Any, Any],
        log_prior: Callable[[Any], Any] | None = None,
        prior_scale: ArrayLike = 1.0,
        init: Callable[[Key], Any] | None = None,
    ) -> Target:
        """The weights of an Equinox module; see `bayleaf.targets.networks`.

        Args:
            module: maps one example to one output.
            likelihood: ``likelihood(outputs, labels)``, one number for each example; ready ones are
                in `bayleaf.targets.likelihoods`.
            data: examples and labels.
            log_prior: of the module's inexact arrays; replaces ``prior_scale``.
            prior_scale: standard deviation of independent normal weights.
            init: a function of a key that makes a fresh module; without it chains start near
                ``module``.
        """
        from bayleaf.targets.networks import from_equinox

        options = {"log_prior": log_prior, "prior_scale": prior_scale, "init": init}
        return cls._of(*from_equinox(module, likelihood=likelihood, data=data, **options))

    @classmethod
    def from_network(
        cls,
        apply: Callable[..., Any],
        params: Any,
        *,
        likelihood: Callable[..., Any],
        data: tuple[Any, Any],
        log_prior: Callable[[Any], Any] | None = None,
        prior_scale: ArrayLike = 1.0,
        init: Callable[[Key], Any] | None = None,
    ) -> Target:
        """The parameters of any network ``apply(params, x)`` of a batch x (Flax, Haiku, by hand).

        The other arguments are those of `from_equinox`; ``init`` makes fresh parameters.
        """
        from bayleaf.targets.networks import from_network

        options = {"log_prior": log_prior, "prior_scale": prior_scale, "init": init}
        return cls._of(*from_network(apply, params, likelihood=likelihood, data=data, **options))

    def __call__(self, u: Position) -> Scalar:
        """Log density at an unconstrained position, with the log-Jacobian of the constraints."""
        return self.model.log_density(u)

    def constrain(self, u: Position) -> Position:
        """The parameters that an unconstrained position stands for."""
        return self.model.constrain(u)

    def unconstrain(self, x: Position) -> Position:
        """The unconstrained position of the parameters ``x``, arrays or plain numbers."""
        return self.model.unconstrain(as_arrays(x, "x"))

    def initial_positions(
        self,
        key: Key,
        num_chains: int,
        init: Any = None,
        *,
        need_gradient: bool = True,
        jitter: bool = True,
    ) -> Position:
        """Where chains start: unconstrained positions with a leading chain axis.

        A point is jittered by uniform(-1, 1) in each unconstrained coordinate, a function of a key
        is used as drawn; either is drawn again up to 100 times until the log density and its
        gradient are finite.

        Args:
            key: the draws of chain c follow from ``fold_in(key, c)`` alone.
            num_chains: how many.
            init: replaces the target's own; may also be one point for each chain, on an additional
                leading axis, which are then used exactly.
            need_gradient: whether the kernel uses gradients. Without, parameters may be integers.
            jitter: without, every chain starts at the very point.

        Raises:
            NonFiniteLogDensityError: no finite start was found; names the parameters.
        """
        if num_chains < 1:
            raise bad_argument("num_chains", num_chains, "at least 1")
        start = self.start
        if init is not None:
            start = starts.override(start, init, num_chains)
            _check_start(start, self.model)
        if start is None:
            raise bad_argument("init", "None", "a starting point, or a function of a key")
        if not jitter:
            start = starts.exactly(start, num_chains)
        return starts.find(self, start, key, num_chains, need_gradient)

    # By identity, as functions are: jax.jit(target) and jax.grad(target) then work as for one.
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    @property
    def data(self) -> Any:
        """The data, as arrays; None if the target has none."""
        return getattr(self.model, "data", None)

    def with_data(self, data: Any) -> Target:
        """The same target with other data; compiled programs are used again for equal shapes."""
        if self.data is None:
            raise bad_argument("data", "new data", "nothing: this target was made without data")
        data = as_arrays(data, "data")
        if jax.tree.structure(data) != jax.tree.structure(self.model.data):
            raise bad_argument(
                "data",
                str(jax.tree.structure(data)),
                f"the structure of the old: {jax.tree.structure(self.model.data)}",
            )
        return eqx.tree_at(lambda target: target.model.data, self, data)

    def subsample(self, key: Key, batch_size: int) -> Target:
        """The target whose likelihood is that of a random batch, scaled by N/n.

        Its log density, and the gradient of it, have the full ones as expectation.
        """
        return Target._of(self._part("subsample")(key, batch_size), self.start)

    def log_prior(self, params: Position) -> Scalar:
        """Log prior density of (constrained) parameters."""
        return self._part("log_prior")(params)

    def log_likelihood(self, params: Position) -> Any:
        """Log-likelihood of (constrained) parameters, one number for each example."""
        return self._part("log_likelihood")(params)

    def total_log_likelihood(self, params: Position) -> Scalar:
        """The sum of `log_likelihood`, times N/n where the target sees a batch of n of N examples.

        With `log_prior` it makes up the log density of the constrained parameters.
        """
        return self._part("total_log_likelihood")(params)

    @property
    def prior(self) -> Gaussian:
        """The Gaussian prior; only for `from_gaussian_prior`."""
        gaussian = getattr(self.model, "gaussian", None)
        if gaussian is None:
            raise AttributeError("the target has no Gaussian prior: use Target.from_gaussian_prior")
        return gaussian

    def _part(self, method: str) -> Callable[..., Any]:
        """A method that only some models have, or the error that says which do."""
        if not hasattr(self.model, method):
            raise bad_argument(
                "target",
                f"one that has no {method}",
                "one that knows its prior and its likelihood apart",
                "Make it with Target.from_likelihood.",
            )
        return getattr(self.model, method)

    @classmethod
    def _of(cls, model: Any, start: Any) -> Target:
        """A target from its parts."""
        self = object.__new__(cls)
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "start", start)
        return self


def _checked_start(init: Any, model: Any) -> Any:
    start = None if init is None else starts.as_start(init)
    _check_start(start, model)
    return start


def _check_start(start: Any, model: Any) -> None:
    """Points are checked against the constraints now; drawn ones by being finite or drawn again."""
    if isinstance(start, starts.Around):
        model.check(start.point, "init")
    elif isinstance(start, starts.Given):
        model.check(start.points, "init")
