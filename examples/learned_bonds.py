"""Which pixels should move together? A race between fixed rules, and a network that warm-up trains.

Whatever the answer, the posterior is the same; only the effective draws per second differ.
"""

import jax
import numpy as np

import bayleaf as bl

side = 14
y, x = np.mgrid[:side, :side]
regions = 2 * (y >= side // 2) + (x >= side // 2)
rng = np.random.default_rng(0)
data = rng.normal(0, 1.2, (4, 3))[regions] + rng.normal(size=(side, side, 3))

model = bl.partitions.PartitionModel(
    bl.partitions.Graph.lattice((side, side)),
    bl.partitions.DirichletProcess(1.0),
    bl.partitions.NormalMean(data.reshape(-1, 3), variance=1.0, prior_variance=1.5),
    coupling=0.8,
)

if __name__ == "__main__":
    rules = {"auto": "auto", "learned": bl.mcmc.LearnedBonds()}
    for name, bonds in rules.items():
        run = bl.sample(
            model,
            bl.mcmc.GeneralisedSwendsenWang(bonds),
            key=jax.random.key(0),
            num_draws=2000,
            num_warmup=1000,
            progress=False,
        )
        rule = run.kernel.bonds.thaw()
        q = np.asarray(rule(jax.random.key(0), model))
        pieces = run.stats["num_components"].mean()
        clusters = run.stats["num_clusters"].mean()
        print(
            f"{name}: bonds of {q.mean():.2f} on average, {pieces:.0f} pieces a sweep, "
            f"{clusters:.2f} clusters"
        )
