r"""What is known of each super-pixel: its colour and its texture.

Colour is the mean of its pixels. Texture is how the lightness L of two pixels of the same
super-pixel differs over short ways, root mean squares of differences (a variogram) on a log scale,

$$t_{h, a} = \tfrac12 \log\big(1 + \overline{(L_p - L_{p + h e_a})^2}\big), \qquad h = 1, 3,$$

along each axis a, of which are taken the mean at h = 3 (how rough), the gap between h = 1 and h = 3
(how fine), and the gap between the axes (which way). Pairs do not reach over borders of
super-pixels, as filters would, so that an edge is no texture. Textures have a pattern that is
larger than a super-pixel: sums of squares are shared with neighbours of like colour.

**The noise** of each feature, its variation within a segment, comes from neighbours, most of which
belong together: $s^2 = \operatorname{median} (x_i - x_j)^2 / 0.91$ over edges, plus the square of a
least difference that is of any interest. So it is a prior that looks at the data.

A super-pixel is *one* observation of these features, however many pixels it has: neighbouring
pixels are not independent, and their likelihood is tempered to that of one.

Sources: Haralick (1979), Proceedings of the IEEE 67, on variograms as texture; Rother, Kolmogorov &
Blake (2004), ACM Transactions on Graphics 23, on contrast relative to its mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bayleaf.partitions.graphs import Graph
from bayleaf.segmentation.images import Picture
from bayleaf.segmentation.superpixels import centres, site_means

if TYPE_CHECKING:
    from scipy import sparse

LAGS = (1, 3)
LEAST_COLOUR, LEAST_TEXTURE = 2.0, 0.05  # differences that nobody would call a border
TEXTURE_NOISE = 1.5  # shared sums make neighbours too alike for a measure of noise
OWN_SHARE = 0.3  # of a super-pixel's own sums, where all neighbours together have at most 1
SOME = 5.0  # pairs of pixels
MEDIAN_OF_SQUARES = 0.91  # of differences of two standard normal numbers: 2 x 0.455


class Features(NamedTuple):
    """What is known of the super-pixels.

    Attributes:
        mean: the features of each, [site, feature]: channels first, then texture.
        noise: variance of each feature within a segment, [feature].
        regions: the super-pixel of each pixel, from 0, or -1 outside.
        values: the image in the units of `bayleaf.segmentation.images`, [..., channel].
        places: the centres of the super-pixels, [site, axis].
        edges: which are neighbours, [edge, 2].
        lengths: of the borders between these, in pixels.
    """

    mean: np.ndarray
    noise: np.ndarray
    regions: np.ndarray
    values: np.ndarray
    places: np.ndarray
    edges: np.ndarray
    lengths: np.ndarray

    @property
    def gaps(self) -> np.ndarray:
        """Squared distances between neighbours in units of the noise, [edge]."""
        ends = self.mean[self.edges]
        return ((ends[:, 0] - ends[:, 1]) ** 2 / self.noise).sum(axis=1)


def features(picture: Picture, regions: np.ndarray, *, texture: bool) -> Features:
    """The features of super-pixels; without ``texture``, of their colours only."""
    graph = Graph.region_adjacency(regions)
    edges, lengths = np.asarray(graph.edges), np.asarray(graph.lengths, float)
    colour = site_means(picture.values, regions)[1]
    noise = noise_of(colour, edges, LEAST_COLOUR)
    mean = colour
    if texture:
        light = picture.values[..., 0] if picture.is_lab else picture.values.mean(axis=-1)
        share = sharing(colour, noise, edges, lengths)
        grain = textures(light, regions, share)
        mean = np.concatenate([colour, grain], axis=1)
        grain_noise = TEXTURE_NOISE**2 * noise_of(grain, edges, LEAST_TEXTURE)
        noise = np.concatenate([noise, grain_noise])
    places = centres(regions, picture.spacing)
    return Features(mean, noise, regions, picture.values, places, edges, lengths)


def noise_of(mean: np.ndarray, edges: np.ndarray, least: float) -> np.ndarray:
    """The variance of each feature within segments."""
    if len(edges) == 0:
        return np.full(mean.shape[1], least**2)
    squares = (mean[edges[:, 0]] - mean[edges[:, 1]]) ** 2
    return np.median(squares, axis=0) / MEDIAN_OF_SQUARES + least**2


def sharing(
    colour: np.ndarray, noise: np.ndarray, edges: np.ndarray, lengths: np.ndarray
) -> sparse.csr_array:
    """The weights by which super-pixels share sums of squares with neighbours of like colour."""
    from scipy import sparse

    number = len(colour)
    first, second = edges[:, 0], edges[:, 1]
    gaps = ((colour[first] - colour[second]) ** 2 / noise).sum(axis=1)
    weights = lengths * np.exp(-gaps / 4)
    total = np.bincount(first, lengths, number) + np.bincount(second, lengths, number)
    sites = np.arange(number)
    rows, columns = np.r_[first, second, sites], np.r_[second, first, sites]
    shares = np.r_[weights / total[first], weights / total[second], np.full(number, OWN_SHARE)]
    return sparse.csr_array((shares, (rows, columns)), (number, number))


def textures(light: np.ndarray, regions: np.ndarray, share: sparse.csr_array) -> np.ndarray:
    """Roughness, fineness, and directions of each super-pixel, [site, feature]."""
    number = int(regions.max()) + 1
    logs = np.empty((len(LAGS), light.ndim, number))
    for row, lag in enumerate(LAGS):
        for axis in range(light.ndim):
            here = (slice(None),) * axis + (slice(-lag),)
            there = (slice(None),) * axis + (slice(lag, None),)
            is_within = (regions[here] == regions[there]) & (regions[here] >= 0)
            site = regions[here][is_within]
            squares = (light[here] - light[there])[is_within] ** 2
            total = share @ np.bincount(site, squares, number)
            pairs = share @ np.bincount(site, minlength=number).astype(float)
            # A super-pixel of few pairs says little of itself: it gets some of the whole image's.
            mean = squares.mean() if squares.size else 0.0
            logs[row, axis] = 0.5 * np.log1p((total + SOME * mean) / (pairs + SOME))
    rough = logs[-1].mean(axis=0)
    fine = logs[0].mean(axis=0) - rough
    ways = logs[0, :-1] - logs[0, -1]
    return np.column_stack([rough, fine, *ways])
