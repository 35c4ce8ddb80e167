"""To what depth can a tanh network be trained, with dropout and without?"""

import jax.numpy as jnp
import numpy as np

import bayleaf as bl

weight_variance = np.linspace(1.0, 3.0, 9)
for keep in (1.0, 0.98, 0.9):
    grid = bl.infinite.phase_diagram(
        jnp.tanh,
        weight_std=np.sqrt(weight_variance),
        bias_std=0.05**0.5,
        keep_probability=keep,
    )
    depth = np.asarray(grid.trainable_depth)
    best = weight_variance[np.argmax(depth)]
    print(f"keep {keep:.2f}: depth {depth.max():.0f} at weight variance {best:.2f}")

critical = bl.infinite.critical_weight_std(jnp.tanh, bias_std=0.05**0.5)
print(f"without dropout depth is unlimited at weight variance {float(critical) ** 2:.4f}")
