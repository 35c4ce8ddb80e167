"""The kernels of infinitely wide networks, for Gaussian processes.

``NNGP(net)`` is the covariance of the outputs of a network of `bayleaf.infinite` whose weights are
drawn from their prior: exact inference with it is Bayesian inference for the infinite network.
``NTK(net)`` is its tangent kernel: the mean of a process with it is where gradient descent takes
the infinite network on average (the spread around it is another one, that of
`bayleaf.gp.TrainedEnsemble`).

The standard deviations of weights and biases are leaves of the network, so that they can be chosen
by marginal likelihood like any other hyper-parameter.

Source: Lee et al., Deep neural networks as Gaussian processes, ICLR 2018; Jacot, Gabriel & Hongler,
Neural tangent kernel, NeurIPS 2018.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import ArrayLike

from bayleaf.errors import bad_argument
from bayleaf.gp.kernel import Gram, Kernel, as_points, pair
from bayleaf.types import Vector


class NNGP(Kernel):
    """The covariance of the outputs of the infinite network ``net`` at initialisation."""

    net: Any

    def __check_init__(self) -> None:
        _check(self.net)

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Gram:
        """The covariances of each point of ``x1`` with each of ``x2``."""
        a, b = pair(x1, x2)
        return self.net.kernel(a, None if x2 is None else b, get="nngp")

    def diagonal(self, x: ArrayLike) -> Vector:
        """The variance of the outputs at each point."""
        return self.net.diagonal(as_points(x), get="nngp")


class NTK(Kernel):
    """The neural tangent kernel of the infinite network ``net``."""

    net: Any

    def __check_init__(self) -> None:
        _check(self.net)

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Gram:
        """The tangent kernel of each point of ``x1`` with each of ``x2``."""
        a, b = pair(x1, x2)
        return self.net.kernel(a, None if x2 is None else b, get="ntk")

    def diagonal(self, x: ArrayLike) -> Vector:
        """The tangent kernel of each point with itself."""
        return self.net.diagonal(as_points(x), get="ntk")


def _check(net: Any) -> None:
    if not callable(getattr(net, "kernel", None)):
        raise bad_argument(
            "net",
            f"a {type(net).__name__}",
            "a network of bayleaf.infinite, with .kernel and .diagonal",
        )
