"""Metropolis-Hastings, Hastings (1970), equation 8."""

import numpy as np


def metropolis_hastings(log_density, draw, log_proposal, x, num_steps, rng):
    """Positions ``[num_steps + 1, ...]``; ``log_proposal(to, start)`` is log q(to | start)."""
    path = [x]
    for _ in range(num_steps):
        proposed = draw(x, rng)
        log_ratio = log_density(proposed) + log_proposal(x, proposed)
        log_ratio -= log_density(x) + log_proposal(proposed, x)
        if rng.random() < np.exp(min(0.0, log_ratio)):
            x = proposed
        path.append(x)
    return np.array(path)
