r"""Gaussian processes: regression with noisy and with noiseless outputs, exact.

    f ~ GP(mean, kernel),   y_i = f(x_i) + e_i,   e_i ~ N(0, noise_std^2)

Given outputs Y at X the process is again Gaussian. With A = K(X, X) + noise_std^2 I it has

    mean(x)   + k(x, X) A^-1 (Y - mean(X))
    k(x, x')  - k(x, X) A^-1 k(X, x')                                   (R&W 2.25, 2.26)

so that `GaussianProcess.condition` returns a `GaussianProcess`: it has a mean, a covariance, joint
draws, and can be conditioned on more data. Everything is about f, and about a new noisy y with
``noisy=True``, which adds noise_std^2 to the variance.

Noiseless outputs are ``noise_std=0``: the process goes through them. Covariances of smooth kernels
are then singular to working precision, and nothing is added in silence: give ``jitter``, a share
of the mean variance; what was added is reported in ``added`` of the result.

Several outputs, ``y`` of shape [num, output], are independent processes with the same kernel; they
share one factor. Predictions come in blocks of test points, so that no matrix of all test points by
all data is ever made.

Source: Rasmussen & Williams (2006), sections 2.2 and 2.7. In the talk the slide on noiseless
outputs still shows noisy terms; what is computed here is the formula above with noise_std = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from bayleaf.errors import bad_argument
from bayleaf.gaussian import Gaussian
from bayleaf.gp import marginal
from bayleaf.gp.arguments import (
    available_memory,
    check_finite,
    check_outputs,
    nonnegative,
)
from bayleaf.gp.conditioned import Conditioned, ConditionedMean, unconditioned
from bayleaf.gp.conjugate_gradient import warn_unsolved
from bayleaf.gp.kernel import Numbers, Points, as_points, diagonal, strong
from bayleaf.gp.solvers import Cholesky, Solver, add_diagonal, check_memory
from bayleaf.trees import is_traced
from bayleaf.types import Key, Matrix, Scalar, Vector

BLOCK_BYTES = 2**27
"""The largest matrix of test points by data that a prediction makes."""

Outputs = Float[Array, "num *output"]


class Prediction(NamedTuple):
    """Mean ``[num]`` or ``[num, output]``, and the variance, which all outputs share, ``[num]``."""

    mean: Outputs
    variance: Vector

    @property
    def std(self) -> Vector:
        """The standard deviations."""
        return jnp.sqrt(self.variance)


class GaussianProcess(eqx.Module):
    """A Gaussian process with noisy outputs: a prior, or a posterior by `condition`.

    Args:
        kernel: a kernel of `bayleaf.gp`, or any callable that follows its protocol.
        mean: the prior mean: one number, or a function from points to one number each.
        noise_std: sigma_epsilon, the standard deviation of the noise of the outputs: one number, or
            one for each of the data. 0 means noiseless.
        jitter: what is added to the diagonal of the covariance of the data, as a share of its mean.
        solver: `Cholesky` or `bayleaf.gp.ConjugateGradient`.

    Examples:
        >>> import jax.numpy as jnp, bayleaf as bl
        >>> x = jnp.linspace(0.0, 1.0, 5)[:, None]
        >>> process = bl.gp.GaussianProcess(bl.gp.SquaredExponential(0.3), noise_std=0.1)
        >>> posterior = process.condition(x, jnp.sin(6 * x[:, 0]))
        >>> mean, variance = posterior.predict(x)
        >>> mean.shape, bool(variance.max() < 0.01)
        ((5,), True)
    """

    kernel: Any
    mean_function: Any
    noise_std: Scalar | Vector
    jitter: float = eqx.field(static=True)
    solver: Solver

    def __init__(
        self,
        kernel: Callable[..., Any],
        *,
        mean: ArrayLike | Callable[..., Any] = 0.0,
        noise_std: Numbers = 0.0,
        jitter: float = 0.0,
        solver: Solver | None = None,
    ):
        if not callable(kernel):
            raise bad_argument("kernel", kernel, "a kernel, such as gp.Matern52(0.5)")
        if not jitter >= 0:
            raise bad_argument("jitter", jitter, "a number of at least 0", "Try 1e-8.")
        self.kernel, self.jitter = kernel, float(jitter)
        self.mean_function = mean if callable(mean) else strong(mean)
        self.noise_std = nonnegative(noise_std, "noise_std")
        self.solver = Cholesky() if solver is None else solver

    @property
    def added(self) -> float | Scalar:
        """The variance that ``jitter`` added to each of the data; 0 for a prior."""
        return self.kernel.added if isinstance(self.kernel, Conditioned) else 0.0

    def mean(self, x: ArrayLike) -> Outputs:
        """The mean of f at ``x``."""
        return _mean(self, as_points(x))

    def covariance(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Matrix | Array:
        """The covariances of f at ``x1`` with f at ``x2``."""
        return _covariance(self, as_points(x1), None if x2 is None else as_points(x2))

    def variance(self, x: ArrayLike, *, noisy: bool = False) -> Vector:
        """The marginal variance of f, or of y when ``noisy``, at ``x``."""
        return self.predict(x, noisy=noisy).variance

    def predict(self, x: ArrayLike, *, noisy: bool = False) -> Prediction:
        """Mean and marginal variance at ``x``, of f, or of y when ``noisy``."""
        points = as_points(x)
        self._check_noise(noisy)
        size = self._block_size(points)
        if is_traced((self, points)) or points.shape[0] <= size:
            return _predict(self, points, noisy)
        starts = range(0, points.shape[0], size)
        # The last block is filled up with copies of its last row: all blocks run in one program.
        parts = [_predict(self, _block(points, start, size), noisy) for start in starts]
        num = points.shape[0]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:num], *parts)

    def gaussian(self, x: ArrayLike, *, noisy: bool = False) -> Gaussian:
        """The joint distribution at ``x`` as a `bayleaf.Gaussian`, ``jitter`` included.

        It is the prior of `Target.from_gaussian_prior` and so of `mcmc.EllipticalSlice`.
        """
        points = as_points(x)
        self._check_noise(noisy)
        mean, covariance = self.mean(points), self.covariance(points)
        if mean.ndim != 1:
            raise bad_argument("mean", f"{mean.shape[1]} outputs", "one output for a Gaussian")
        extra = self.jitter * jnp.mean(jnp.diagonal(covariance))
        if noisy:
            extra = extra + jnp.asarray(self.noise_std, mean.dtype) ** 2
        return Gaussian(mean, add_diagonal(covariance, jnp.broadcast_to(extra, mean.shape)))

    def sample(
        self, x: ArrayLike, *, key: Key, num_draws: int = 1, noisy: bool = False
    ) -> Float[Array, "draw num *output"]:
        """Joint draws at ``x``, of f, or of y when ``noisy``."""
        if num_draws < 1:
            raise bad_argument("num_draws", num_draws, "at least 1")
        self._check_noise(noisy)
        return _sample(self, as_points(x), key, num_draws, noisy)

    def condition(self, x: ArrayLike, y: ArrayLike) -> GaussianProcess:
        """The process, given the outputs ``y`` at ``x``.

        Args:
            x: points, ``[num, feature]``, or what else the kernel takes.
            y: outputs, ``[num]``, or ``[num, output]`` for several with one kernel.

        Raises:
            BayleafError: shapes that do not fit, NaN, too many points for the memory, the same
                point twice with two noiseless outputs.
            NotPositiveDefiniteError: noiseless covariances that are singular to working precision,
                or a function that is no kernel.
        """
        points, outputs = self._data(x, y)
        kernel, mean = _condition(self, points, outputs)
        if not is_traced((self, points, outputs)):
            kernel.solved.check(self.kernel, points, self._extra(points))
            warn_unsolved(mean.weights)
        where = (lambda p: p.kernel, lambda p: p.mean_function)
        return eqx.tree_at(lambda p: [w(p) for w in where], self, [kernel, mean])

    def log_marginal_likelihood(self, x: ArrayLike, y: ArrayLike) -> Scalar:
        """``log p(y)`` at the hyper-parameters of this process, which it can be differentiated in.

        Several outputs are independent: their log densities are added. NaN when the covariance is
        not positive definite.
        """
        if not isinstance(self.solver, Cholesky):
            raise bad_argument(
                "solver",
                type(self.solver).__name__,
                "gp.Cholesky: the marginal likelihood needs a determinant",
                "Choose hyper-parameters on a part of the data.",
            )
        return _log_marginal(self, *self._data(x, y))

    def _data(self, x: ArrayLike, y: ArrayLike) -> tuple[Points, Outputs]:
        """Points and outputs of one precision, checked."""
        points, outputs = as_points(x), jnp.asarray(y)
        check_outputs(outputs, points.shape[0], self.noise_std)
        outputs = outputs.astype(points.dtype)
        if not is_traced((points, outputs)):
            check_finite(points, "x")
            check_finite(outputs, "y")
            check_memory(
                self.solver, points.shape[0], points.dtype.itemsize, available_memory(points)
            )
        return points, outputs

    def _extra(self, x: Points) -> Vector:
        """The diagonal that is added to the covariance of the data."""
        noise = jnp.broadcast_to(self.noise_std.astype(x.dtype) ** 2, x.shape[:1])
        return noise + self.jitter * jnp.mean(diagonal(self.kernel, x)) if self.jitter else noise

    def _block_size(self, x: Points) -> int:
        """Test points of one block: so many that their covariances with the data stay small."""
        if not isinstance(self.kernel, Conditioned):
            return x.shape[0]
        return max(1, BLOCK_BYTES // (self.kernel.x.shape[0] * x.dtype.itemsize))

    def _check_noise(self, noisy: bool) -> None:
        if noisy and self.noise_std.ndim:
            raise bad_argument(
                "noisy",
                True,
                "one noise_std for all: that of the data is known for them alone",
                "Predict f, and add the variance of the noise at the new points.",
            )


def _block(x: Points, start: int, size: int) -> Points:
    rows = jnp.minimum(jnp.arange(start, start + size), x.shape[0] - 1)
    return x[rows]


@eqx.filter_jit
def _mean(process: GaussianProcess, x: Points) -> Outputs:
    function = process.mean_function
    if isinstance(function, jax.Array):
        return jnp.broadcast_to(function.astype(x.dtype), x.shape[:1])
    return function(x)


@eqx.filter_jit
def _covariance(process: GaussianProcess, x1: Points, x2: Points | None) -> Array:
    return process.kernel(x1, x2)


@eqx.filter_jit
def _predict(process: GaussianProcess, x: Points, noisy: bool) -> Prediction:
    variance = diagonal(process.kernel, x)
    if noisy:
        variance = variance + process.noise_std.astype(variance.dtype) ** 2
    return Prediction(_mean(process, x), variance)


@eqx.filter_jit
def _sample(
    process: GaussianProcess, x: Points, key: Key, num_draws: int, noisy: bool
) -> Float[Array, "draw num *output"]:
    mean = _mean(process, x)
    key_f, key_y = jax.random.split(key)
    # Not by Cholesky: posterior covariances are singular, and U sqrt(lambda) needs no jitter.
    values, vectors = jnp.linalg.eigh(process.kernel(x))
    # On the scale of the prior: after noiseless data every eigenvalue is round-off of that.
    is_psd = values[0] > -1e-3 * jnp.max(diagonal(unconditioned(process.kernel), x))
    scale = jnp.where(is_psd, jnp.sqrt(jnp.maximum(values, 0)), jnp.nan)
    shape = (num_draws, *mean.shape)
    z = jax.random.normal(key_f, shape, mean.dtype)
    draws = mean[None] + jnp.einsum("ij,dj...->di...", vectors * scale[None], z)
    if noisy:
        noise_std = process.noise_std.astype(mean.dtype)
        draws = draws + noise_std * jax.random.normal(key_y, shape, mean.dtype)
    return draws


@eqx.filter_jit
def _condition(
    process: GaussianProcess, x: Points, y: Outputs
) -> tuple[Conditioned, ConditionedMean]:
    extra = process._extra(x)
    solved = process.solver.factorise(process.kernel, x, extra)
    weights = solved.solve(residual(process, x, y)).reshape(y.shape)
    added = jnp.mean(extra - process.noise_std.astype(x.dtype) ** 2)
    kernel = Conditioned(process.kernel, x, solved, added)
    return kernel, ConditionedMean(process.mean_function, process.kernel, x, weights)


@eqx.filter_jit
def _log_marginal(process: GaussianProcess, x: Points, y: Outputs) -> Scalar:
    covariance = add_diagonal(process.kernel(x), process._extra(x))
    return marginal.log_density(covariance, residual(process, x, y))


def residual(process: GaussianProcess, x: Points, y: Outputs) -> Float[Array, "num output"]:
    """``y - mean(x)`` as columns."""
    mean = _mean(process, x)
    columns = y.reshape(y.shape[0], -1)
    return columns - (mean[:, None] if mean.ndim == 1 else mean)
