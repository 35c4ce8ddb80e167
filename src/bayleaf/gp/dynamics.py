r"""Infinitely wide networks in training: the law of their outputs at any time.

Gradient descent on the squared error of an infinite network, from random weights, with step size
eta -> 0 and time t (eta times the number of steps), is linear in the outputs:

    d f(x) / dt = -Theta(x, X) (f(X) - Y),   loss = 1/2 sum (f(X) - Y)^2

with the tangent kernel Theta. With A_t = Theta^-1 (I - exp(-Theta t)), Theta = Theta(X, X), and K
the covariance of the outputs at initialisation (NNGP):

    f_t(x)    = f_0(x) + Theta(x, X) A_t (Y - f_0(X))                        (Lee et al. eq. 10, 11)
    mean      = Theta(x, X) A_t Y                                            (eq. 14)
    cov(x, z) = K(x, z) + Theta(x, X) A_t K A_t Theta(X, z)
                - Theta(x, X) A_t K(X, z) - K(x, X) A_t Theta(X, z)          (eq. 15)

The covariance needs both kernels and is that of no Gaussian process with kernel Theta.
Training the read-out layer alone is the same with K in place of Theta, and as t goes to infinity it
ends in the posterior of the process with kernel K.

`Flow` is the trajectory for one kernel; it works for empirical tangent kernels of finite networks
as well, where f_t is their linearisation f_lin. `TrainedEnsemble` is the law over initialisations.

The loss here is a sum. For the mean of squares over y.size numbers, 1/2 mean (f - Y)^2, as in
neural-tangents, pass time = t / y.size.

Source: Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein & Pennington, Wide neural networks of
any depth evolve as linear models, NeurIPS 2019.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from bayleaf.errors import bad_argument
from bayleaf.gp.arguments import check_finite, check_outputs
from bayleaf.gp.kernel import Points, as_points
from bayleaf.linalg import NotPositiveDefiniteError
from bayleaf.trees import is_traced
from bayleaf.types import Matrix, Scalar, Vector

Outputs = Float[Array, "num *output"]


class Flow(eqx.Module):
    """Gradient flow on the squared error with tangent kernel ``theta`` at the data.

    Args:
        theta: Theta(X, X), or an empirical one.
        jitter: what is added to its diagonal, as a share of its mean. Without, and with a singular
            theta, t = infinity is refused; every finite time works.
    """

    values: Vector
    vectors: Matrix

    def __init__(self, theta: ArrayLike, *, jitter: float = 0.0):
        matrix = jnp.asarray(theta)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise bad_argument("theta", f"shape {matrix.shape}", "a square matrix")
        if not is_traced(matrix):
            check_finite(matrix, "theta")
        extra = jitter * jnp.mean(jnp.diagonal(matrix))
        self.values, self.vectors = jnp.linalg.eigh(matrix)
        self.values = self.values + extra
        if not is_traced(matrix) and float(self.values[0]) < -1e-4 * float(self.values[-1]):
            raise NotPositiveDefiniteError(
                f"theta: got a matrix with smallest eigenvalue {float(self.values[0]):.3g}, "
                "expected a positive semi-definite one."
            )

    @property
    def max_step_size(self) -> Scalar:
        """The step size below which gradient descent on this loss converges, 2 / max eigenvalue."""
        return 2 / self.values[-1]

    def response(self, y: Float[Array, "num *column"], time: ArrayLike = math.inf) -> Outputs:
        """``A_t y``."""
        self._check(time)
        gain = gains(self.values, jnp.asarray(time, self.values.dtype))
        columns = y.reshape(y.shape[0], -1)
        return (self.vectors @ (gain[:, None] * (self.vectors.T @ columns))).reshape(y.shape)

    def predict(
        self,
        theta: ArrayLike,
        y: ArrayLike,
        *,
        time: ArrayLike = math.inf,
        start: ArrayLike = 0.0,
        start_data: ArrayLike = 0.0,
    ) -> Outputs:
        """``f_t(x)``: where one network is at ``time``.

        Args:
            theta: Theta(x, X).
            y: the outputs that it is trained on.
            time: step size times number of steps.
            start: f_0(x), the network's outputs before; 0 gives the mean over networks.
            start_data: f_0(X).
        """
        outputs = jnp.asarray(y, self.values.dtype)
        error = outputs - jnp.asarray(start_data, outputs.dtype)
        return jnp.asarray(start, outputs.dtype) + jnp.asarray(theta) @ self.response(error, time)

    def _check(self, time: ArrayLike) -> None:
        if is_traced((time, self.values)):
            return
        moment = float(np.asarray(time))
        if not moment >= 0:
            raise bad_argument("time", moment, "a number of at least 0")
        smallest, largest = float(self.values[0]), float(self.values[-1])
        rounding = len(self.values) * float(jnp.finfo(self.values.dtype).eps)
        if math.isinf(moment) and smallest <= rounding * largest:
            raise NotPositiveDefiniteError(
                f"theta: got a matrix with smallest eigenvalue {smallest:.3g} and largest "
                f"{largest:.3g}, expected a positive definite one at time = infinity. Leave out "
                "rows that are equal, use float64, a finite time, or a jitter such as 1e-6."
            )


def gains(values: Vector, time: Scalar) -> Vector:
    """``(1 - exp(-lambda t)) / lambda``: 1 / lambda at infinity, t where lambda is 0."""
    # expm1 keeps the digits that 1 - exp(-small) loses; lambda = 0 must not divide.
    safe = jnp.where(values > 0, values, 1)
    finite = jnp.where(values > 0, -jnp.expm1(-safe * time) / safe, time)
    return jnp.where(jnp.isinf(time), 1 / safe, finite)


class Ensemble(NamedTuple):
    """Mean ``[num]`` or ``[num, output]``, and the covariance, which all outputs share."""

    mean: Outputs
    covariance: Float[Array, "num num"]


class TrainedEnsemble(eqx.Module):
    """The outputs of infinitely wide networks after training, over random initialisations.

    Args:
        net: a network of `bayleaf.infinite`: anything with ``kernel(x1, x2, get=...)``.
        x: the points that it is trained at.
        y: the outputs that it is trained on, ``[num]`` or ``[num, output]``.
        trained: "all" weights (tangent kernel), or the "readout" layer alone (NNGP).
        jitter: as for `Flow`.

    Raises:
        BayleafError: shapes that do not fit, NaN.
    """

    net: Any
    x: Points
    y: Outputs
    flow: Flow
    covariance: Matrix
    get: str = eqx.field(static=True)

    def __init__(
        self, net: Any, x: ArrayLike, y: ArrayLike, *, trained: str = "all", jitter: float = 0.0
    ):
        if trained not in ("all", "readout"):
            raise bad_argument("trained", trained, '"all" or "readout"')
        self.net, self.x = net, as_points(x)
        outputs = jnp.asarray(y)
        check_outputs(outputs, self.x.shape[0], jnp.zeros(()))
        self.y = outputs.astype(self.x.dtype)
        if not is_traced((self.x, self.y)):
            check_finite(self.x, "x")
            check_finite(self.y, "y")
        self.get = "ntk" if trained == "all" else "nngp"
        self.covariance, theta = _both(net, self.x, None, self.get)
        self.flow = Flow(theta, jitter=jitter)

    def predict(self, x: ArrayLike, *, time: ArrayLike = math.inf) -> Ensemble:
        """Mean and covariance of the outputs at ``x`` at ``time``: step size times steps."""
        self.flow._check(time)
        return _predict(self, as_points(x), jnp.asarray(time, self.y.dtype))


@eqx.filter_jit
def _both(net: Any, x1: Points, x2: Points | None, get: str) -> tuple[Array, Array]:
    """K and Theta; one of them twice when the read-out layer alone is trained."""
    if get == "nngp":
        covariance = net.kernel(x1, x2, get="nngp")
        return covariance, covariance
    covariance, theta = net.kernel(x1, x2, get=("nngp", "ntk"))
    return covariance, theta


@eqx.filter_jit
def _predict(ensemble: TrainedEnsemble, x: Points, time: Scalar) -> Ensemble:
    cross, theta = _both(ensemble.net, x, ensemble.x, ensemble.get)
    prior, _ = _both(ensemble.net, x, None, "nngp")
    pull = ensemble.flow.response(theta.T, time)  # A_t Theta(X, x)
    mixed = cross @ pull
    covariance = prior + pull.T @ ensemble.covariance @ pull - mixed - mixed.T
    return Ensemble(pull.T @ ensemble.y, covariance)
