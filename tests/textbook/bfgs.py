"""The inverse Hessian of BFGS by its recursion on dense matrices, and the diagonal it starts at.

Nocedal & Wright, Numerical Optimization (2006), eq. 6.17; Zhang et al., Pathfinder (2022),
algorithm 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Pairs = Sequence[tuple[np.ndarray, np.ndarray]]


def inverse_hessian(diagonal: np.ndarray, pairs: Pairs) -> np.ndarray:
    """H after all pairs (step, change of the gradient), oldest first."""
    H = np.diag(diagonal)
    for s, z in pairs:
        rho = 1 / (s @ z)
        V = np.eye(len(s)) - rho * np.outer(s, z)
        H = V @ H @ V.T + rho * np.outer(s, s)
    return H


def diagonal_after(diagonal: np.ndarray, pairs: Pairs) -> np.ndarray:
    """The diagonal after all pairs, coordinate by coordinate."""
    alpha = np.array(diagonal, float)
    for s, z in pairs:
        a, b, c = z @ np.diag(alpha) @ z, z @ s, s @ np.diag(1 / alpha) @ s
        for i in range(len(alpha)):
            y = a / (b * alpha[i]) + z[i] ** 2 / b - a * s[i] ** 2 / (b * c * alpha[i] ** 2)
            alpha[i] = 1 / y
    return alpha
