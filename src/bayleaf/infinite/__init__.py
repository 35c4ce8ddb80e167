"""Infinitely wide networks: their kernels, their mean-field theory, and the finite ones.

A network is made of layers, ``serial(Dense(512), Relu(), Dense(1))``; ``net.kernel(x)`` is the
covariance of its outputs (nngp) and its tangent kernel (ntk) in the limit of infinite widths.
"""

from bayleaf.infinite.activation import Activation
from bayleaf.infinite.closed_forms import Cos, Erf, Exp, Gaussian, Gelu, Rbf, Sin
from bayleaf.infinite.combinators import FanInSum, FanOut, parallel, serial
from bayleaf.infinite.dense import Dense, Dropout, Identity, LayerNorm
from bayleaf.infinite.kernel_matrix import kernel_matrix
from bayleaf.infinite.layer import Layer
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
    "Dropout",
    "Elementwise",
    "Erf",
    "Exp",
    "FanInSum",
    "FanOut",
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
    "MaxPool",
    "Polynomial",
    "Rbf",
    "Relu",
    "SelfAttention",
    "Sign",
    "Sin",
    "SumPool",
    "kernel_matrix",
    "parallel",
    "serial",
]
