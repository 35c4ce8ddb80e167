"""What `bayleaf.segment` returns: labels, and how sure they are.

Everything is derived from draws of the labels of super-pixels, `Segmentation.run`; a matrix of all
pairs of pixels is never made.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bayleaf.errors import bad_argument
from bayleaf.partitions.coclustering import coclustering, num_clusters, point_estimate
from bayleaf.partitions.model import PartitionModel
from bayleaf.run.results import Run
from bayleaf.segmentation.features import Features
from bayleaf.segmentation.superpixels import connected_parts, neighbours_differ


class NumSegments(NamedTuple):
    """The posterior of the number of segments.

    Attributes:
        draws: the number in each draw, [chain, draw].
        mean: its expectation.
        probabilities: of each number that occurred.
    """

    draws: np.ndarray
    mean: float
    probabilities: dict[int, float]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """A segmentation of an image, and the draws that it was chosen from.

    ``np.asarray(segmentation)`` is `labels`.

    Attributes:
        superpixel_labels: the segment of each super-pixel, from 0.
        expected_loss: of the labels, over the draws; variation of information in nats, or Binder's
            share of pairs of super-pixels.
        start_label: the first of `labels`.
        features: what is known of the super-pixels; ``features.regions`` says where they are.
        shown: the image, RGB from 0 to 1.
        model: the partition model.
        run: all draws: ``run.draws`` [chain, draw, super-pixel].
        findings: why the uncertainty is not to be trusted; empty if nothing was seen.
    """

    superpixel_labels: np.ndarray
    expected_loss: float
    start_label: int
    features: Features
    shown: np.ndarray
    model: PartitionModel
    run: Run
    findings: Sequence[str]

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The segment of each pixel, from `start_label`; 0 outside of the mask.

        A segment may lie in several places that look alike; `regions` are its connected parts.
        """
        return self._spread(self.superpixel_labels + self.start_label)

    @functools.cached_property
    def regions(self) -> np.ndarray:
        """The connected parts of the segments, from `start_label`; 0 outside of the mask."""
        parts = connected_parts(np.where(self.mask, self.labels, -1))
        return np.where(parts > 0, parts - 1 + self.start_label, 0)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The labels, for NumPy."""
        del copy  # a new array is made anyway
        return np.array(self.labels, dtype)

    def __repr__(self) -> str:
        number = self.num_segments
        return (
            f"Segmentation({' x '.join(map(str, self.shape))} pixels, "
            f"{len(self.superpixel_labels)} super-pixels, "
            f"{len(np.unique(self.superpixel_labels))} segments; "
            f"posterior mean {number.mean:.1f})"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the image, without channels."""
        return self.features.regions.shape

    @property
    def mask(self) -> np.ndarray:
        """Which pixels belong to the image."""
        return self.features.regions >= 0

    @property
    def superpixels(self) -> np.ndarray:
        """The super-pixel of each pixel, from 0, or -1 outside of the mask."""
        return self.features.regions

    @functools.cached_property
    def num_segments(self) -> NumSegments:
        """The posterior of the number of segments."""
        draws = num_clusters(self.run.draws)
        numbers, counts = np.unique(draws, return_counts=True)
        shares = dict(zip(numbers.tolist(), (counts / draws.size).tolist(), strict=True))
        return NumSegments(draws, float(draws.mean()), shares)

    @functools.cached_property
    def boundary_probability(self) -> np.ndarray:
        """For each pixel, the probability that a segment ends beside it; float, 0 to 1.

        That is one minus the probability that its super-pixel and the next one are in the same
        segment, the larger one if several are next to it.
        """
        regions, edges = self.features.regions, self.features.edges
        image = np.zeros(regions.shape)
        if len(edges) == 0:
            return image
        apart = 1 - coclustering(self.run.draws, edges)
        number = len(self.superpixel_labels)
        keys = edges[:, 0].astype(np.int64) * number + edges[:, 1]
        for differs, here, there in neighbours_differ(regions):
            a, b = regions[here][differs], regions[there][differs]
            at = np.searchsorted(keys, np.minimum(a, b) * number + np.maximum(a, b))
            for side in (here, there):
                view = image[side]
                view[differs] = np.maximum(view[differs], apart[at])
        return image

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """Of each super-pixel, how much it belongs to each segment, [super-pixel, segment].

        The probability that it is in the same segment as a super-pixel of that one, averaged over
        these, and scaled to sum to 1.
        """
        own = np.unique(self.superpixel_labels, return_inverse=True)[1].ravel()
        sizes = np.bincount(own)
        total = np.zeros((len(own), len(sizes)))
        for z in self.run.draws.reshape(-1, len(own)):
            table = np.bincount(z * len(sizes) + own, minlength=(z.max() + 1) * len(sizes))
            total += (table.reshape(-1, len(sizes)) / sizes)[z]
        return total / total.sum(axis=1, keepdims=True)

    @functools.cached_property
    def entropy(self) -> np.ndarray:
        """For each pixel, the entropy in nats of `probabilities`: 0 where its segment is sure."""
        from scipy.special import entr

        return self._spread(entr(self.probabilities).sum(axis=1))

    def coclustering(self, i: Any, j: Any) -> float:
        """The probability that two pixels are in the same segment.

        Args:
            i: a pixel, ``(row, column)``, or ``(plane, row, column)`` in a volume.
            j: another one.

        Raises:
            BayleafError: a pixel outside of the image or of its mask.
        """
        pair = [[self._site(i, "i"), self._site(j, "j")]]
        return float(coclustering(self.run.draws, np.array(pair))[0])

    def draw(self, chain: int, draw: int) -> np.ndarray:
        """One segmentation of those that were drawn: labels like `labels`."""
        return self._spread(np.asarray(self.run.draws[chain, draw]) + self.start_label)

    def chain_labels(self, chain: int) -> np.ndarray:
        """The labels that one chain by itself would give."""
        best = point_estimate(self.run.draws[chain], max_draws=200).labels
        return self._spread(best + self.start_label)

    def overlay(self, *, color: Any = (1.0, 0.85, 0.0)) -> np.ndarray:
        """The image with the borders of the segments drawn in, RGB, uint8."""
        from bayleaf.segmentation.pictures import overlay

        return overlay(self.shown, np.where(self.mask, self.labels, 0), color)

    def plot(self) -> Any:
        """A Matplotlib figure: borders, segments, their probability, and their number."""
        from bayleaf.segmentation.pictures import plot

        return plot(self)

    def to_arviz(self) -> Any:
        """The draws and statistics as ArviZ wants them; see `bayleaf.Run.to_arviz`."""
        return self.run.to_arviz()

    def _spread(self, values: np.ndarray) -> np.ndarray:
        """What is known of super-pixels, at their pixels; 0 outside of the mask."""
        zero = np.zeros((), values.dtype)
        return np.where(self.mask, values[np.maximum(self.features.regions, 0)], zero)

    def _site(self, pixel: Any, name: str) -> int:
        place = np.asarray(pixel)
        if place.shape != (len(self.shape),) or place.dtype.kind not in "iu":
            raise bad_argument(name, str(pixel), f"{len(self.shape)} integers, a pixel")
        if (place < 0).any() or (place >= self.shape).any():
            raise bad_argument(name, str(pixel), f"a pixel of an image of shape {self.shape}")
        site = int(self.features.regions[tuple(place)])
        if site < 0:
            raise bad_argument(name, str(pixel), "a pixel within the mask")
        return site
