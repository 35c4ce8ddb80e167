"""Regions of a noisy picture, when nobody says how many there are.

Each pixel has two channels. Clusters have unknown means and covariances, which are integrated out;
a Dirichlet process is the prior on their number, and couplings make neighbours alike.
"""

import jax
import numpy as np

import bayleaf as bl

rows, columns = 14, 36
y, x = np.mgrid[:rows, :columns]
truth = np.zeros((rows, columns), int)
truth[(y - 6) ** 2 + ((x - 10) / 2) ** 2 < 16] = 1
truth[(y > 3) & (x > 24)] = 2
colours = np.array([[0.0, 0.0], [2.0, 0.5], [0.5, -2.0]])
picture = colours[truth] + np.random.default_rng(0).normal(0, 0.4, (rows, columns, 2))

model = bl.partitions.PartitionModel(
    bl.partitions.Graph.lattice((rows, columns)),
    bl.partitions.DirichletProcess(0.5),
    bl.partitions.NormalInverseWishart(picture.reshape(-1, 2), scale=1.0),
    coupling=1.0,
    max_clusters=10,
)

if __name__ == "__main__":
    run = bl.sample(
        model,
        bl.mcmc.GeneralisedSwendsenWang(),
        key=jax.random.key(0),
        num_draws=200,
        num_warmup=200,
        progress=False,
    )
    found = bl.partitions.point_estimate(run.draws).labels.reshape(rows, columns)
    unsure = 1 - bl.partitions.coclustering(run.draws, model.graph.edges)
    for truth_row, row in zip(truth, found, strict=True):
        drawn = ("".join(".#o+x%"[min(label, 5)] for label in line) for line in (truth_row, row))
        print("   ".join(drawn))
    values, counts = np.unique(bl.partitions.num_clusters(run.draws), return_counts=True)
    for value, count in zip(values, counts, strict=True):
        print(f"{value} clusters with probability {count / counts.sum():.2f}")
    print(f"expected number of pairs of neighbours in different clusters: {unsure.sum():.0f}")
