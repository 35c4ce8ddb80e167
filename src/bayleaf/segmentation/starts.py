"""Where the chains start: as unlike each other as segmentations can be.

1. the cut of Ward's hierarchy of the features that the model finds most probable;
2. one segment;
3. tiles (Voronoi cells of random super-pixels), which know nothing of the image;
4. Ward's cut into forty, to be merged.

More chains start from other tiles. Chains that agree in the end do so for a reason.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.cluster import hierarchy
from scipy.spatial import KDTree

from bayleaf.partitions.model import PartitionModel
from bayleaf.segmentation.features import Features

CUTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 30, 40)
NUM_TILES = 25
MOST_SITES_OF_A_HIERARCHY = 4000  # whose table of distances takes 64 megabytes


def starts(
    features: Features, model: PartitionModel, num_chains: int, seed: int
) -> Int[Array, "chain site"]:
    """Labels for each chain to start at."""
    number, rng = len(features.mean), np.random.default_rng(seed)
    if number <= 2 or number > MOST_SITES_OF_A_HIERARCHY:
        found = [np.zeros(number, int)]
    else:
        cuts = ward_cuts(features)
        values = log_densities(model, jnp.asarray(np.stack(cuts), jnp.int32))
        best = cuts[int(np.argmax(values))]
        found = [best, np.zeros(number, int), tiles(features.places, rng), cuts[-1]]
    found += [tiles(features.places, rng) for _ in range(num_chains - len(found))]
    most = model.max_clusters
    return jnp.asarray(np.stack(found[:num_chains]) % most, jnp.int32)


def ward_cuts(features: Features) -> list[np.ndarray]:
    """Labels of the hierarchy cut into each number of `CUTS`."""
    tree = hierarchy.ward(features.mean / np.sqrt(features.noise))
    return [hierarchy.fcluster(tree, k, "maxclust") - 1 for k in CUTS]


def tiles(places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Super-pixels by the nearest of some that were chosen at random."""
    chosen = rng.choice(len(places), min(NUM_TILES, len(places)), replace=False)
    nearest = KDTree(places[chosen]).query(places)[1]
    return np.unique(nearest, return_inverse=True)[1].ravel()


@eqx.filter_jit
def log_densities(model: PartitionModel, labels: Int[Array, "cut site"]) -> Float[Array, "cut"]:
    """The log density of several partitions."""
    return jax.vmap(model)(labels)
