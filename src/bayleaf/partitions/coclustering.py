r"""What draws of a partition say together: who belongs with whom, and one partition to show.

Labels have no meaning from draw to draw; what has is whether two sites are in one cluster. The
share of draws in which they are estimates

$$p_{ij} = P(z_i = z_j \mid y).$$

One partition in place of all is chosen by its expected loss over the draws, not because it came
last, or was the most probable of those that were seen. Two losses between partitions are known
here, both zero for equal ones, both made from the sizes of clusters and of their intersections:

- Binder: the number of pairs of sites on whose togetherness they differ, as a share of all pairs;
- variation of information: $H(a \mid b) + H(b \mid a)$, in nats. It shies from small clusters that
  Binder's loss is apt to add, and is the default.

Sources: Binder (1978), Biometrika 65; Meila (2007), Journal of Multivariate Analysis 98; Wade &
Ghahramani (2018), Bayesian Analysis 13, on the two as losses for point estimates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bayleaf.errors import bad_argument

MOST_SITES_OF_A_MATRIX = 8192  # whose matrix of pairs takes half a gigabyte


class PointEstimate(NamedTuple):
    """A partition, and its expected loss over the draws."""

    labels: np.ndarray
    expected_loss: float


def coclustering(draws: Any, pairs: Any = None) -> np.ndarray:
    """The shares of draws in which sites are in the same cluster.

    Args:
        draws: labels, integers [..., site], such as ``run.draws``.
        pairs: integers [pair, 2], such as ``graph.edges``; None takes all, as a matrix.

    Returns:
        One number for each pair, or a matrix [site, site].

    Raises:
        BayleafError: draws or pairs of another kind; all pairs of too many sites.
    """
    labels = checked_draws(draws)
    num_draws, num_sites = labels.shape
    if pairs is not None:
        ends = checked_pairs(pairs, num_sites)
        together = np.zeros(len(ends))
        for z in labels:
            together += z[ends[:, 0]] == z[ends[:, 1]]
        return together / num_draws
    if num_sites > MOST_SITES_OF_A_MATRIX:
        raise bad_argument(
            "pairs",
            f"all pairs of {num_sites} sites",
            f"chosen pairs, for more than {MOST_SITES_OF_A_MATRIX} sites",
            "Pass graph.edges, say.",
        )
    matrix = np.zeros((num_sites, num_sites))
    for z in labels:
        matrix += z[:, None] == z[None]
    return matrix / num_draws


def num_clusters(draws: Any) -> np.ndarray:
    """The number of clusters of each draw: integers, with the leading axes of the draws.

    Args:
        draws: labels, integers [..., site].
    """
    labels = checked_draws(draws)
    ordered = np.sort(labels, axis=1)
    counts = 1 + np.count_nonzero(np.diff(ordered, axis=1), axis=1)
    return counts.reshape(np.shape(draws)[:-1])


def point_estimate(
    draws: Any, *, loss: str = "variation_of_information", max_draws: int = 500
) -> PointEstimate:
    """The draw whose expected loss over the draws is least.

    Args:
        draws: labels, integers [..., site].
        loss: ``"variation_of_information"`` or ``"binder"``.
        max_draws: of more draws than that, as many are taken at even distances, since every one is
            compared with every other.

    Raises:
        BayleafError: draws of another kind, an unknown loss.
    """
    measures = {"binder": squares, "variation_of_information": entropies}
    if loss not in measures:
        raise bad_argument("loss", loss, " or ".join(f'"{name}"' for name in sorted(measures)))
    labels = checked_draws(draws)
    if len(labels) > max_draws:
        labels = labels[np.linspace(0, len(labels) - 1, max_draws).round().astype(int)]
    distinct, inverse, counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    del inverse
    measure = measures[loss]
    own = np.array([measure(np.bincount(z)[None])[0] for z in distinct])
    expected = [
        np.average(own[k] + own - 2 * measure(intersections(z, distinct)), weights=counts)
        for k, z in enumerate(distinct)
    ]
    best = int(np.argmin(expected))
    return PointEstimate(distinct[best], scaled(loss, max(expected[best], 0.0), labels.shape[1]))


def distance(first: Any, second: Any, *, loss: str = "variation_of_information") -> float:
    """The loss between two partitions.

    Args:
        first: labels, integers [site].
        second: likewise.
        loss: as for `point_estimate`.
    """
    both = checked_draws(np.stack([np.asarray(first), np.asarray(second)]))
    measure = squares if loss == "binder" else entropies
    own = [measure(np.bincount(z)[None])[0] for z in both]
    shared = measure(intersections(both[0], both[1:]))[0]
    return scaled(loss, max(own[0] + own[1] - 2 * shared, 0.0), both.shape[1])


def intersections(z: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Sizes of the intersections of z's clusters with those of each of the others."""
    num, num_others = int(z.max()) + 1, int(others.max()) + 1
    cells = (np.arange(len(others))[:, None] * num + z) * num_others + others
    sizes = np.bincount(cells.ravel(), minlength=len(others) * num * num_others)
    return sizes.reshape(len(others), num * num_others)


def squares(sizes: np.ndarray) -> np.ndarray:
    """Sum of squares: ordered pairs within the parts."""
    return np.sum(sizes.astype(float) ** 2, axis=1)


def entropies(sizes: np.ndarray) -> np.ndarray:
    """Sum of m log m, the entropy's part that differs between partitions of the same sites."""
    m = sizes.astype(float)
    return np.sum(m * np.log(np.where(m > 0, m, 1.0)), axis=1)


def scaled(loss: str, value: float, num_sites: int) -> float:
    """As a share of pairs, or in nats a site."""
    if loss == "binder":
        return float(value / max(num_sites * (num_sites - 1), 1))
    return float(value / num_sites)


def checked_draws(draws: Any) -> np.ndarray:
    """Labels [draw, site], numbered from 0 within each draw."""
    labels = np.asarray(draws)
    if labels.ndim < 1 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise bad_argument(
            "draws",
            f"{labels.dtype} numbers of shape {labels.shape}",
            "labels, integers of shape [..., site]",
        )
    labels = labels.reshape(-1, labels.shape[-1]).astype(np.int64)
    if labels.min() < 0 or labels.max() >= labels.shape[1]:
        dense = [np.unique(z, return_inverse=True)[1].ravel() for z in labels]
        labels = np.stack(dense)
    return labels


def checked_pairs(pairs: Any, num_sites: int) -> np.ndarray:
    """Pairs of sites."""
    ends = np.asarray(pairs)
    if ends.ndim != 2 or ends.shape[1] != 2 or ends.dtype.kind not in "iu":
        raise bad_argument(
            "pairs", f"{ends.dtype} numbers of shape {ends.shape}", "integers of shape [pair, 2]"
        )
    if ends.size and not (ends.min() >= 0 and ends.max() < num_sites):
        raise bad_argument(
            "pairs", f"sites from {ends.min()} to {ends.max()}", f"sites from 0 to {num_sites - 1}"
        )
    return ends
