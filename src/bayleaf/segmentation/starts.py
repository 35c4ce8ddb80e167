"""Where the chains start: from unlike segmentations, all of which are fine enough.

1. the cut of Ward's hierarchy of the features that the model finds most probable;
2. that hierarchy cut into forty;
3. tiles (Voronoi cells of random super-pixels), which know nothing of the image;
4. the most probable cut of a hierarchy of features and places.

More chains start from other tiles. Chains that agree in the end do so for a reason. None starts
from a single segment, or from a few large tiles: to merge what is alike takes single steps, to
split what is not takes one large step, and such chains stay far below the others.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayleaf.partitions.model import PartitionModel
from bayleaf.segmentation.features import Features

CUTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 30, 40)
SITES_OF_A_TILE = 4
MOST_SITES_OF_A_HIERARCHY = 4000  # whose table of distances takes 64 megabytes


def starts(
    features: Features, model: PartitionModel, num_chains: int, seed: int
) -> Int[Array, "chain site"]:
    """Labels for each chain to start at."""
    number, rng = len(features.mean), np.random.default_rng(seed)
    if number <= 2 or number > MOST_SITES_OF_A_HIERARCHY:
        found = [np.zeros(number, int)]
    else:
        alike = features.mean / np.sqrt(features.noise)
        places = features.places / features.places.std(axis=0).max()
        cuts = ward_cuts(alike)
        near = ward_cuts(np.concatenate([alike, alike.std() * places], axis=1))
        found = [best_of(cuts, model), cuts[-1], tiles(features.places, rng, model.max_clusters)]
        found += [best_of(near, model)]
    for _ in range(num_chains - len(found)):
        found.append(tiles(features.places, rng, model.max_clusters))
    return jnp.asarray(np.stack(found[:num_chains]) % model.max_clusters, jnp.int32)


def best_of(cuts: list[np.ndarray], model: PartitionModel) -> np.ndarray:
    """The most probable."""
    values = log_densities(model, jnp.asarray(np.stack(cuts) % model.max_clusters, jnp.int32))
    return cuts[int(np.argmax(values))]


def ward_cuts(points: np.ndarray) -> list[np.ndarray]:
    """Labels of Ward's hierarchy of points [site, axis], cut into each number of `CUTS`."""
    from scipy.cluster import hierarchy

    tree = hierarchy.ward(points)
    return [hierarchy.fcluster(tree, k, "maxclust") - 1 for k in CUTS]


def tiles(places: np.ndarray, rng: np.random.Generator, most: int) -> np.ndarray:
    """Super-pixels by the nearest of some that were chosen at random."""
    from scipy.spatial import KDTree

    chosen = rng.choice(
        len(places), min(max(len(places) // SITES_OF_A_TILE, 1), most), replace=False
    )
    nearest = KDTree(places[chosen]).query(places)[1]
    return np.unique(nearest, return_inverse=True)[1].ravel()


@eqx.filter_jit
def log_densities(model: PartitionModel, labels: Int[Array, "cut site"]) -> Float[Array, "cut"]:
    """The log density of several partitions."""
    return jax.vmap(model)(labels)
