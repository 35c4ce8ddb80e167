"""Super-pixels: some hundred connected pieces of an image, each of which keeps together.

They are those of SLIC (Achanta et al. 2012, IEEE TPAMI 34) from scikit-image, cut at the mask, and
of these the smallest are joined to their likest neighbours until there are as many as were asked
for. Images of any size then give models of one size, for which nothing is compiled anew.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from bayleaf.errors import bad_argument
from bayleaf.partitions.graphs import Graph
from bayleaf.segmentation.images import Picture, skimage


def superpixels(picture: Picture, num_superpixels: int, compactness: float) -> np.ndarray:
    """Numbers of super-pixels from 0, and -1 outside of the mask.

    Args:
        picture: the image.
        num_superpixels: how many; fewer if the mask has fewer pixels, or more pieces that nothing
            connects.
        compactness: of SLIC, in the units of the image: how much colour a way across a super-pixel
            weighs.
    """
    wanted = min(num_superpixels, int(picture.mask.sum()))
    share = picture.mask.mean()
    for surplus in (1.15, 1.4, 2.0, 4.0):
        asked = max(1, round(surplus * wanted / share))
        regions = cut(slic(picture, asked, compactness), picture.mask)
        if regions.max() + 1 >= wanted:
            break
    return joined(regions, picture.values, wanted)


def slic(picture: Picture, num_segments: int, compactness: float) -> np.ndarray:
    """Scikit-image's own, with compactness in the units of the image."""
    values = picture.values
    # Scikit-image scales by the range of all values before it compares colours with distances.
    scale = max(float(np.ptp(values)), 1e-9)
    return skimage("segmentation").slic(
        values,
        n_segments=num_segments,
        compactness=compactness / scale,
        convert2lab=False,
        start_label=0,
        spacing=picture.spacing,
        channel_axis=-1,
    )


def cut(regions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The connected pieces of regions within the mask, numbered from 0; -1 outside."""
    pieces = skimage("measure").label(np.where(mask, regions + 1, 0), background=0, connectivity=1)
    return pieces.astype(np.int64) - 1


def joined(regions: np.ndarray, values: np.ndarray, number: int) -> np.ndarray:
    """The smallest regions joined to their likest neighbours until ``number`` are left."""
    surplus = int(regions.max()) + 1 - number
    if surplus <= 0:
        return regions
    sizes, means = site_means(values, regions)
    sizes, totals = sizes.astype(float), means * sizes[:, None]
    beside: list[set[int]] = [set() for _ in sizes]
    for a, b in np.asarray(Graph.region_adjacency(regions).edges).tolist():
        beside[a].add(b)
        beside[b].add(a)
    parent = np.arange(len(sizes))
    heap = [(size, r) for r, size in enumerate(sizes.tolist())]
    heapq.heapify(heap)
    while surplus and heap:
        size, r = heapq.heappop(heap)
        if parent[r] != r or size != sizes[r] or not beside[r]:
            continue
        near = np.array(sorted(beside[r]))
        gaps = totals[near] / sizes[near, None] - totals[r] / sizes[r]
        s = int(near[np.argmin((gaps**2).sum(axis=1))])
        parent[r] = s
        sizes[s] += sizes[r]
        totals[s] += totals[r]
        for other in beside[r]:
            beside[other].discard(r)
            if other != s:
                beside[other].add(s)
                beside[s].add(other)
        heapq.heappush(heap, (sizes[s], s))
        surplus -= 1
    while (parent[parent] != parent).any():
        parent = parent[parent]
    number_of = np.unique(parent, return_inverse=True)[1]
    return np.where(regions >= 0, number_of[regions], -1)


def site_means(values: np.ndarray, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of pixels of each region, and the means [region, channel] of their values."""
    inside = regions >= 0
    number = regions[inside]
    sizes = np.bincount(number)
    totals = [np.bincount(number, values[..., c][inside]) for c in range(values.shape[-1])]
    return sizes, np.stack(totals, axis=1) / sizes[:, None]


def centres(regions: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Where each region is, [region, axis], in units of the spacing."""
    places = np.moveaxis(np.indices(regions.shape), 0, -1) * np.array(spacing)
    return site_means(places, regions)[1]


def checked_sites(sites: Any, mask: np.ndarray) -> np.ndarray:
    """A user's own super-pixels, cut at the mask and numbered from 0; what they number is kept."""
    array = np.asarray(sites)
    if array.shape != mask.shape or array.dtype.kind not in "iu":
        raise bad_argument(
            "sites",
            f"{array.dtype} numbers of shape {array.shape}",
            f'"slic", or integers of shape {mask.shape}: the super-pixel of each pixel',
        )
    regions = np.full(mask.shape, -1, np.int64)
    regions[mask] = np.unique(array[mask], return_inverse=True)[1].ravel()
    return regions


def neighbours_differ(regions: np.ndarray) -> list[tuple[np.ndarray, Any, Any]]:
    """For each axis: which pixels differ from the next, and the slices of the two."""
    found = []
    for axis in range(regions.ndim):
        here = (slice(None),) * axis + (slice(-1),)
        there = (slice(None),) * axis + (slice(1, None),)
        a, b = regions[here], regions[there]
        found.append(((a != b) & (a >= 0) & (b >= 0), here, there))
    return found


def connected_parts(labels: np.ndarray) -> np.ndarray:
    """Connected parts of labels, numbered from 1; 0 where the labels are -1."""
    shifted = np.where(labels >= 0, labels + 1, 0)
    return skimage("measure").label(shifted, background=0, connectivity=1)
