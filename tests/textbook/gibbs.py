"""Gibbs sampling of a bivariate normal, Geman & Geman (1984): each given the other in turn."""

import numpy as np


def gibbs_bivariate_normal(x, y, correlation, num_sweeps, rng):
    """Pairs ``[num_sweeps + 1, 2]`` for unit variances."""
    path = [(x, y)]
    sd = np.sqrt(1 - correlation**2)
    for _ in range(num_sweeps):
        x = correlation * y + sd * rng.normal()
        y = correlation * x + sd * rng.normal()
        path.append((x, y))
    return np.array(path)
