"""Hamiltonian Monte Carlo with unit masses, Neal (2011), figure 2."""

import numpy as np


def hamiltonian_monte_carlo(potential, gradient, x, step_size, num_leapfrog, num_steps, rng):
    """Positions ``[num_steps + 1, dim]``; ``gradient`` is that of the potential energy."""
    path = [x]
    for _ in range(num_steps):
        p = rng.normal(size=x.shape)
        y, q = x, p - 0.5 * step_size * gradient(x)
        for i in range(num_leapfrog):
            y = y + step_size * q
            if i < num_leapfrog - 1:
                q = q - step_size * gradient(y)
        q = q - 0.5 * step_size * gradient(y)
        before = potential(x) + 0.5 * p @ p
        after = potential(y) + 0.5 * q @ q
        if rng.random() < np.exp(min(0.0, before - after)):
            x = y
        path.append(x)
    return np.array(path)
