r"""The model of a segmentation: super-pixels fall into segments.

It is a `bayleaf.partitions.PartitionModel` on the graph of neighbouring super-pixels, with

$$\beta_e = \beta\, \frac{\ell_e}{\bar \ell}\, \exp\Big(-\frac{g_e}{2 \bar g}\Big)$$

for a border of length $\ell_e$ between super-pixels whose features differ by $g_e$ (squared, in
units of the noise; bars are means over all borders). A long border costs more than a short one, and
one along a contrast less. Both depend on the image: this prior knows the data.

The prior on partitions charges $-\log \alpha = 5$ nats for each segment, whatever its size. The
Dirichlet process would charge n times the entropy of the sizes on top, which favours one large
segment by hundreds of nats; what keeps segments together is here the couplings' affair.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bayleaf.errors import bad_argument
from bayleaf.partitions.graphs import Graph
from bayleaf.partitions.likelihoods import CollapsedLikelihood, NormalInverseWishart
from bayleaf.partitions.model import PartitionModel
from bayleaf.partitions.priors import SizePower
from bayleaf.segmentation.features import Features

PRICE = 5.0  # of a segment, in nats


def segmentation_model(
    features: Features,
    *,
    prior: Any,
    likelihood: Any,
    beta: Any,
    max_segments: int,
) -> PartitionModel:
    """The model of these super-pixels; see `bayleaf.segment` for the arguments."""
    number = len(features.mean)
    coupling = couplings(features, beta)
    edges, coupling = padded(number, features.edges, coupling, features.regions.ndim)
    return PartitionModel(
        Graph.from_edges(number, edges),
        SizePower(0.0, np.exp(-PRICE)) if prior is None else prior,
        as_likelihood(likelihood, features),
        coupling=coupling,
        max_clusters=max_segments,
    )


def couplings(features: Features, beta: Any) -> np.ndarray:
    """Beta for each border."""
    strength = np.asarray(beta)
    shape = features.lengths.shape
    if strength.dtype.kind not in "uif" or strength.shape not in ((), shape):
        raise bad_argument(
            "beta",
            f"{strength.dtype} values of shape {strength.shape}",
            f"one number, or one for each of {len(features.edges)} borders of super-pixels",
        )
    if not np.isfinite(strength).all() or (strength < 0).any():
        raise bad_argument(
            "beta",
            str(beta),
            "finite numbers, at least 0",
            "Neighbours that repel make no segments; 0 leaves out where super-pixels lie.",
        )
    if strength.ndim == 1:
        return strength.astype(float)
    if len(features.edges) == 0:
        return np.zeros(0)
    gaps = features.gaps
    contrast = np.exp(-gaps / (2 * max(float(gaps.mean()), 1e-12)))
    return float(strength) * features.lengths / features.lengths.mean() * contrast


def padded(
    num_sites: int, edges: np.ndarray, coupling: np.ndarray, num_axes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The edges, with repetitions that couple nothing up to a multiple of the sites.

    A planar graph has fewer than 3 n edges, so all images with as many super-pixels get 3 n, and
    share one compiled program.
    """
    if len(edges) == 0:
        return edges, coupling
    least = 3 if num_axes == 2 else 7
    length = num_sites * max(least, -(-len(edges) // num_sites))
    more = length - len(edges)
    again = np.arange(more) % len(edges)
    return np.concatenate([edges, edges[again]]), np.concatenate([coupling, np.zeros(more)])


def as_likelihood(likelihood: Any, features: Features) -> CollapsedLikelihood:
    """The likelihood of the super-pixels."""
    if isinstance(likelihood, CollapsedLikelihood):
        return likelihood
    if callable(likelihood):
        made: Any = likelihood(features)
        return made
    if likelihood != "normal":
        raise bad_argument(
            "likelihood",
            likelihood,
            '"normal", a bayleaf.partitions likelihood, or a function of the features',
        )
    return NormalInverseWishart(features.mean, scale=features.noise)
