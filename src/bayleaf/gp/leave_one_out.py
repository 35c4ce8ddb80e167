r"""What a process says of each datum, given all the others, from one factor.

    mean_i = y_i - (A^-1 (Y - mean))_i / (A^-1)_ii,   variance_i = 1 / (A^-1)_ii   (R&W 5.12)

The variance is that of the noisy y_i. It costs one inverse and no refitting; hyper-parameters are
those of the process. Use it to check, and to repair, the calibration of a model.

Source: Rasmussen & Williams (2006), section 5.4.2.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import ArrayLike

from bayleaf.gp.kernel import Points
from bayleaf.gp.marginal import inverse_from_factor
from bayleaf.gp.process import GaussianProcess, Outputs, Prediction, residual
from bayleaf.gp.solvers import Cholesky, Factorised


def leave_one_out(process: GaussianProcess, x: ArrayLike, y: ArrayLike) -> Prediction:
    """Mean and variance of each y, given the others; ``process`` is the prior."""
    points, outputs = process._data(x, y)
    solved, prediction = _leave_one_out(process, points, outputs)
    solved.check(process.kernel, points, process._extra(points))
    return prediction


@eqx.filter_jit
def _leave_one_out(
    process: GaussianProcess, x: Points, y: Outputs
) -> tuple[Factorised, Prediction]:
    solved = Cholesky().factorise(process.kernel, x, process._extra(x))
    precision = jnp.diagonal(inverse_from_factor(solved.factor))
    weights = solved.solve(residual(process, x, y))
    mean = y.reshape(y.shape[0], -1) - weights / precision[:, None]
    return solved, Prediction(mean.reshape(y.shape), 1 / precision)
