"""Slice sampling of one real number, Neal (2003): figure 3 (stepping out), 5 (shrinkage)."""

import numpy as np


def slice_sampling(log_density, x, width, max_steps, num_steps, rng):
    """Positions ``[num_steps + 1]``."""
    path = [x]
    for _ in range(num_steps):
        height = log_density(x) + np.log(rng.random())
        left = x - width * rng.random()
        right = left + width
        steps_left = int(np.floor(max_steps * rng.random()))
        steps_right = max_steps - 1 - steps_left
        while steps_left > 0 and height < log_density(left):
            left, steps_left = left - width, steps_left - 1
        while steps_right > 0 and height < log_density(right):
            right, steps_right = right + width, steps_right - 1
        while True:
            proposed = left + rng.random() * (right - left)
            if height < log_density(proposed):
                break
            if proposed < x:
                left = proposed
            else:
                right = proposed
        x = proposed
        path.append(x)
    return np.array(path)
