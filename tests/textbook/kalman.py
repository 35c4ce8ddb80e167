"""A Kalman filter in NumPy: the exact answers for linear Gaussian models."""

from __future__ import annotations

import numpy as np


def kalman(y, A, Q, H, R, m, P):
    """Log-likelihood, its increments, and filtered means and covariances.

    x_0 ~ N(m, P), x_t ~ N(A x_t-1, Q), y_t ~ N(H x_t, R); rows of ``y`` that are NaN are missing.
    """
    increments, means, covariances = [], [], []
    for t, seen in enumerate(y):
        if t > 0:
            m, P = A @ m, A @ P @ A.T + Q
        increment = 0.0
        if not np.all(np.isnan(seen)):
            S, gap = H @ P @ H.T + R, seen - H @ m
            gain = np.linalg.solve(S, H @ P).T
            increment = -0.5 * (gap @ np.linalg.solve(S, gap) + np.linalg.slogdet(2 * np.pi * S)[1])
            m, P = m + gain @ gap, P - gain @ S @ gain.T
        increments.append(increment)
        means.append(m)
        covariances.append(P)
    return sum(increments), np.array(increments), np.array(means), np.array(covariances)
