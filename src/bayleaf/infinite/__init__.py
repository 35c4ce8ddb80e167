"""Infinitely wide networks: their kernels, their mean-field theory, and the finite ones.

A network is made of layers, ``serial(Dense(512), Relu(), Dense(1))``; ``net.kernel(x)`` is the
covariance of its outputs (nngp) and its tangent kernel (ntk) in the limit of infinite widths.
"""

from bayleaf.infinite.activation import Activation
from bayleaf.infinite.closed_forms import Cos, Erf, Exp, Gaussian, Gelu, Rbf, Sin
from bayleaf.infinite.combinators import FanInSum, FanOut, parallel, serial
from bayleaf.infinite.dense import Dense, Dropout, Identity, LayerNorm
from bayleaf.infinite.layer import Layer
from bayleaf.infinite.piecewise import Abs, ABRelu, LeakyRelu, Relu, Sign
from bayleaf.infinite.state import KernelState

__all__ = [
    "ABRelu",
    "Abs",
    "Activation",
    "Cos",
    "Dense",
    "Dropout",
    "Erf",
    "Exp",
    "FanInSum",
    "FanOut",
    "Gaussian",
    "Gelu",
    "Identity",
    "KernelState",
    "Layer",
    "LayerNorm",
    "LeakyRelu",
    "Rbf",
    "Relu",
    "Sign",
    "Sin",
    "parallel",
    "serial",
]
