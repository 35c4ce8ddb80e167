"""Ising's model at its critical point, by clusters: the energy against Kaufman's exact one."""

import jax
import numpy as np

import bayleaf as bl
from bayleaf.partitions import Graph, Potts

SIZE = 32
KAUFMAN = -1.433658  # energy per spin of the periodic 32 x 32 lattice (1949)

if __name__ == "__main__":
    lattice = Graph.lattice((SIZE, SIZE), periodic=True)
    potts = Potts.ising(lattice, np.log1p(np.sqrt(2)) / 2)
    # Of each draw the magnetisation is kept, not the lattice.
    run = bl.sample(
        potts.target(keep=potts.magnetisation),
        bl.mcmc.SwendsenWang(),
        key=jax.random.key(0),
        num_draws=4000,
    )
    energy = (lattice.num_edges - 2 * run.stats["num_like"]) / lattice.num_sites
    print(run.summary())
    print(f"energy per spin {energy.mean():.4f}, exact {KAUFMAN}")
    print(f"clusters in a sweep: {run.stats['num_clusters'].mean():.0f}")
