"""Gaussian processes: kernels, exact regression, hyper-parameters, trained infinite networks."""

from __future__ import annotations

from bayleaf.gp.classification import class_probabilities, class_targets
from bayleaf.gp.conjugate_gradient import ConjugateGradient
from bayleaf.gp.dot_product import Linear, Polynomial
from bayleaf.gp.dynamics import Ensemble, Flow, TrainedEnsemble
from bayleaf.gp.hyperparameters import (
    Fit,
    LogNormalPrior,
    fit,
    parameters,
    target,
    with_parameters,
)
from bayleaf.gp.kernel import Constant, Kernel, Product, Scaled, Sum, White
from bayleaf.gp.leave_one_out import leave_one_out
from bayleaf.gp.networks import NNGP, NTK
from bayleaf.gp.process import GaussianProcess, Prediction
from bayleaf.gp.solvers import Cholesky
from bayleaf.gp.stationary import (
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    RationalQuadratic,
    SquaredExponential,
)

__all__ = [
    "NNGP",
    "NTK",
    "Cholesky",
    "ConjugateGradient",
    "Constant",
    "Ensemble",
    "Fit",
    "Flow",
    "GaussianProcess",
    "Kernel",
    "Linear",
    "LogNormalPrior",
    "Matern12",
    "Matern32",
    "Matern52",
    "Periodic",
    "Polynomial",
    "Prediction",
    "Product",
    "RationalQuadratic",
    "Scaled",
    "SquaredExponential",
    "Sum",
    "TrainedEnsemble",
    "White",
    "class_probabilities",
    "class_targets",
    "fit",
    "leave_one_out",
    "parameters",
    "target",
    "with_parameters",
]
