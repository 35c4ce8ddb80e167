"""Gaussian processes: kernels, exact regression, hyper-parameters, trained infinite networks."""

from __future__ import annotations

from bayleaf.gp.conjugate_gradient import ConjugateGradient
from bayleaf.gp.dot_product import Linear, Polynomial
from bayleaf.gp.kernel import Constant, Kernel, Product, Scaled, Sum, White
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
    "GaussianProcess",
    "Kernel",
    "Linear",
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
    "White",
]
