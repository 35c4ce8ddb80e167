r"""Hyper-parameters: by the marginal likelihood, or by sampling their posterior.

What can be chosen are the numbers of the kernel, the noise and the mean, by name: for
``GaussianProcess(2.0 * Matern52(0.3), noise_std=0.1)`` they are

    kernel.kernel.length_scale    kernel.variance    mean_function    noise_std

What is positive stays positive (searched on the log scale, `bayleaf.constraints.positive`); the
mean is any number. **What is exactly 0 is switched off and stays 0**: a noiseless process stays
noiseless, a network without biases gets none.

`fit` maximises log p(y | hyper-parameters), plus a log prior if there is one, by L-BFGS. There are
local maxima (Rasmussen & Williams 2006, figure 5.5): ``num_starts`` starts it from more places.
`target` is the posterior of the hyper-parameters for any sampler of the library.

Source: Rasmussen & Williams (2006), section 5.4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike

from bayleaf.constraints import Constraints
from bayleaf.constraints import positive as positive_constraint
from bayleaf.errors import bad_argument, warn
from bayleaf.gp.conditioned import Conditioned
from bayleaf.gp.process import GaussianProcess, Outputs
from bayleaf.run.progress import open_progress
from bayleaf.targets import Target
from bayleaf.trees import Frozen, leaf_names
from bayleaf.types import Key, Scalar, Vector
from bayleaf.variational import lbfgs

HISTORY = 10
Parameters = dict[str, Array]
LogPrior = Callable[[Parameters], Any]


class Fit(NamedTuple):
    """The process with the hyper-parameters found, and how the search went.

    ``log_density`` is the log marginal likelihood, with the log prior where one was given.
    """

    process: GaussianProcess
    log_density: float
    num_steps: int
    is_converged: bool


def parameters(process: GaussianProcess) -> Parameters:
    """The hyper-parameters that are not switched off, by name."""
    if isinstance(process.kernel, Conditioned):
        raise bad_argument(
            "process", "a posterior", "a prior", "Hyper-parameters are those of the prior."
        )
    named = zip(leaf_names(process), jax.tree.leaves(process), strict=True)
    return {
        name: leaf
        for name, leaf in named
        if eqx.is_inexact_array(leaf) and (name == "mean_function" or bool(np.all(leaf != 0)))
    }


def with_parameters(process: GaussianProcess, values: Mapping[str, Any]) -> GaussianProcess:
    """The process with other hyper-parameters, by name; the others are kept."""
    names, leaves = leaf_names(process), jax.tree.leaves(process)
    unknown = set(values) - set(names)
    if unknown:
        raise bad_argument(
            "values", f"an entry for {', '.join(sorted(unknown))}", f"names of {', '.join(names)}"
        )
    new = [
        jnp.asarray(values[name], leaf.dtype) if name in values else leaf
        for name, leaf in zip(names, leaves, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(process), new)


class Evidence(eqx.Module):
    """``(parameters, (x, y)) -> log p(y | parameters) + log_prior(parameters)``."""

    process: GaussianProcess
    log_prior: Frozen | None

    def __call__(self, values: Parameters, data: tuple[Array, Array]) -> Scalar:
        """The log density, NaN where the covariance is not positive definite."""
        total = with_parameters(self.process, values).log_marginal_likelihood(*data)
        return total if self.log_prior is None else total + self.log_prior(values)


def target(
    process: GaussianProcess,
    x: ArrayLike,
    y: ArrayLike,
    *,
    log_prior: LogPrior,
    fixed: Sequence[str] = (),
) -> Target:
    """The posterior of the hyper-parameters, for `bl.sample`.

    Args:
        process: the prior process; chains start around its hyper-parameters.
        x: points.
        y: outputs.
        log_prior: of a dictionary of hyper-parameters by name. It must be proper: the marginal
            likelihood has a limit above zero as length scales grow.
        fixed: names of hyper-parameters that keep their values.
    """
    values = _free(process, fixed)
    points, outputs = process._data(x, y)
    return Target(
        Evidence(process, Frozen(log_prior, "log_prior")),
        init=values,
        constrain=_constraints(values).prefix,
        data=(points, outputs),
    )


def fit(
    process: GaussianProcess,
    x: ArrayLike,
    y: ArrayLike,
    *,
    log_prior: LogPrior | None = None,
    fixed: Sequence[str] = (),
    num_starts: int = 1,
    key: Key | None = None,
    max_steps: int = 200,
    tolerance: float = 1e-4,
    progress: bool = False,
) -> Fit:
    """The hyper-parameters that maximise the marginal likelihood.

    Args:
        process: where the search starts.
        x: points.
        y: outputs.
        log_prior: of a dictionary of hyper-parameters by name; the result is then the mode of their
            posterior.
        fixed: names of hyper-parameters that keep their values.
        num_starts: how many starts; those after the first are drawn around it, each hyper-parameter
            times exp(N(0, 1)).
        key: for these draws.
        max_steps: steps of L-BFGS for each start.
        tolerance: the search ends when a quadratic model promises a rise of less, in nats.
        progress: whether to show a bar.

    Raises:
        NotPositiveDefiniteError: at the start; the message says what to change.
    """
    for name, value in (("num_starts", num_starts), ("max_steps", max_steps)):
        if value < 1:
            raise bad_argument(name, value, "at least 1")
    if num_starts > 1 and key is None:
        raise bad_argument("key", None, "a key, for the starts after the first")
    data = process._data(x, y)
    process.condition(x, y)  # what is wrong with the start has a name here
    values = _free(process, fixed)
    prior = None if log_prior is None else Frozen(log_prior, "log_prior")
    problem = Search(Evidence(process, prior), _constraints(values), values, data)
    first = ravel_pytree(problem.constraints.unconstrain(values))[0]
    found: list[tuple[lbfgs.Ascent, bool, int]] = []
    with open_progress({"fit": num_starts * max_steps}, shown=progress) as display:
        for i in range(num_starts):
            start = first
            if i > 0 and key is not None:
                start = first + jax.random.normal(
                    jax.random.fold_in(key, i), first.shape, first.dtype
                )
            found.append(_climb(problem, start, max_steps, tolerance, display, i * max_steps))
    best, is_converged, num_steps = max(found, key=lambda f: _finite(f[0].value))
    if not is_converged:
        warn(
            f"The search for hyper-parameters stopped after {num_steps} steps without converging. "
            "Raise max_steps, give a log_prior, or start elsewhere."
        )
    fitted = with_parameters(process, problem.constrained(best.x))
    return Fit(fitted, float(best.value), num_steps, is_converged)


class Search(eqx.Module):
    """The log density of a flat vector of unconstrained hyper-parameters."""

    evidence: Evidence
    constraints: Constraints
    values: Parameters
    data: tuple[Array, Outputs]

    def constrained(self, u: Vector) -> Parameters:
        """The hyper-parameters that a flat vector stands for."""
        return self.constraints.constrain(ravel_pytree(self.values)[1](u))

    def value_and_grad(self, u: Vector) -> tuple[Scalar, Vector]:
        """The log density of the hyper-parameters, and its gradient in ``u``."""
        return jax.value_and_grad(lambda u: self.evidence(self.constrained(u), self.data))(u)


@eqx.filter_jit
def _begin(problem: Search, start: Vector) -> lbfgs.Ascent:
    return lbfgs.begin(problem.value_and_grad, start, HISTORY)


@eqx.filter_jit
def _advance(problem: Search, at: lbfgs.Ascent) -> lbfgs.Ascent:
    return lbfgs.advance(problem.value_and_grad, at)


def _climb(
    problem: Search, start: Vector, max_steps: int, tolerance: float, display: Any, done: int
) -> tuple[lbfgs.Ascent, bool, int]:
    """One ascent: where it ended, whether it converged, and after how many steps."""
    at, step = _begin(problem, start), 0
    while step < max_steps and not bool(at.is_stuck) and not float(at.promise) < tolerance:
        at, step = _advance(problem, at), step + 1
        display.update(done + step, {"log evidence": float(at.value)})
    # Stuck at the resolution of the log density is as far as this precision goes.
    resolution = 100 * float(jnp.finfo(at.x.dtype).eps) * (1 + abs(float(at.value)))
    return at, float(at.promise) < max(tolerance, resolution), step


def _free(process: GaussianProcess, fixed: Sequence[str]) -> Parameters:
    values = parameters(process)
    unknown = set(fixed) - set(values)
    if unknown:
        raise bad_argument("fixed", ", ".join(sorted(unknown)), f"names of {', '.join(values)}")
    free = {name: value for name, value in values.items() if name not in fixed}
    if not free:
        raise bad_argument("fixed", "every hyper-parameter", "one at least that is free")
    return free


def _constraints(values: Parameters) -> Constraints:
    """Positive numbers stay positive; a negative one, and the mean, may be any number."""
    is_real = {n: n == "mean_function" or bool(np.any(v < 0)) for n, v in values.items()}
    return Constraints({n: None if is_real[n] else positive_constraint for n in values})


def _finite(value: Scalar) -> float:
    return float(value) if bool(jnp.isfinite(value)) else -np.inf


class LogNormalPrior(eqx.Module):
    """Independent log-normal priors around the hyper-parameters of a process.

    A weak one, ``spread = 1`` (a factor e either way), keeps hyper-parameters that the data say
    nothing about from running to zero or infinity, which the marginal likelihood allows. The mean
    is left flat.
    """

    centre: Parameters
    spread: float = eqx.field(static=True, default=1.0)

    @classmethod
    def around(cls, process: GaussianProcess, spread: float = 1.0) -> LogNormalPrior:
        """With the medians that the hyper-parameters of ``process`` have now."""
        if not spread > 0:
            raise bad_argument("spread", spread, "a number > 0")
        values = parameters(process)
        positive = {n: v for n, v in values.items() if n != "mean_function" and np.all(v > 0)}
        return cls(positive, spread)

    def __call__(self, values: Parameters) -> Scalar:
        """The log density in the logarithms, up to a constant."""
        gaps = [
            jnp.sum(jnp.log(values[name] / centre) ** 2)
            for name, centre in self.centre.items()
            if name in values
        ]
        return -0.5 / self.spread**2 * sum(gaps, jnp.zeros(()))
