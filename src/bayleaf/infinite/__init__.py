"""Infinitely wide networks: their kernels, their mean-field theory, and the finite ones.

A network is made of layers, ``serial(Dense(512), Relu(), Dense(1))``; ``net.kernel(x)`` is the
covariance of its outputs (nngp) and its tangent kernel (ntk) in the limit of infinite widths.
"""

from bayleaf.infinite.activation import Activation
from bayleaf.infinite.closed_forms import Cos, Erf, Exp, Gaussian, Gelu, Rbf, Sin
from bayleaf.infinite.combinators import FanInSum, FanOut, parallel, serial
from bayleaf.infinite.dense import Dense, Dropout, Identity, LayerNorm
from bayleaf.infinite.drift import Drift, ntk_drift
from bayleaf.infinite.empirical import (
    NTKPlan,
    empirical_nngp,
    empirical_ntk,
    ntk_plan,
    ntk_vector_product,
)
from bayleaf.infinite.from_module import from_module
from bayleaf.infinite.kernel_matrix import kernel_matrix
from bayleaf.infinite.layer import Layer
from bayleaf.infinite.linearised import Linearised, linearise
from bayleaf.infinite.mean_field import FixedPoint, MeanField, NoFixedPointError
from bayleaf.infinite.mean_field_moments import PiecewiseLinear, SmoothActivation
from bayleaf.infinite.mean_field_phase import (
    NoCriticalLineError,
    critical_weight_std,
    phase_diagram,
)
from bayleaf.infinite.mean_field_roots import Status
from bayleaf.infinite.mean_field_simulate import Simulation, simulate
from bayleaf.infinite.piecewise import ABRelu, Abs, LeakyRelu, Relu, Sign
from bayleaf.infinite.series import Elementwise, Polynomial
from bayleaf.infinite.spatial import Conv
from bayleaf.infinite.spatial_attention import SelfAttention
from bayleaf.infinite.spatial_pool import (
    AvgPool,
    BatchNorm,
    Flatten,
    GlobalAvgPool,
    GlobalSumPool,
    MaxPool,
    SumPool,
)
from bayleaf.infinite.state import KernelState

__all__ = [
    "ABRelu",
    "Abs",
    "Activation",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "Cos",
    "Dense",
    "Drift",
    "Dropout",
    "Elementwise",
    "Erf",
    "Exp",
    "FanInSum",
    "FanOut",
    "FixedPoint",
    "Flatten",
    "Gaussian",
    "Gelu",
    "GlobalAvgPool",
    "GlobalSumPool",
    "Identity",
    "KernelState",
    "Layer",
    "LayerNorm",
    "LeakyRelu",
    "Linearised",
    "MaxPool",
    "MeanField",
    "NTKPlan",
    "NoCriticalLineError",
    "NoFixedPointError",
    "PiecewiseLinear",
    "Polynomial",
    "Rbf",
    "Relu",
    "SelfAttention",
    "Sign",
    "Simulation",
    "Sin",
    "SmoothActivation",
    "Status",
    "SumPool",
    "critical_weight_std",
    "empirical_nngp",
    "empirical_ntk",
    "from_module",
    "kernel_matrix",
    "linearise",
    "ntk_drift",
    "ntk_plan",
    "ntk_vector_product",
    "parallel",
    "phase_diagram",
    "serial",
    "simulate",
]
