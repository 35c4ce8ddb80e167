"""Super-pixels: as many as asked for, connected, within the mask, along the edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from bayleaf.segmentation.images import picture
from bayleaf.segmentation.superpixels import joined, superpixels

rng = np.random.default_rng(0)
IMAGE = np.where(np.arange(60) < 27, 0.2, 0.8) + 0.02 * rng.normal(size=(50, 60))


def pieces(regions: np.ndarray) -> list[int]:
    """How many parts each region is in."""
    return [ndimage.label(regions == r)[1] for r in range(regions.max() + 1)]


@pytest.mark.parametrize("number", [1, 2, 17, 100])
def test_there_are_as_many_as_asked_for_and_each_is_connected(number: int) -> None:
    regions = superpixels(picture(IMAGE), number, 10.0)
    assert set(np.unique(regions)) == set(range(number))
    assert set(pieces(regions)) == {1}


def test_they_keep_to_edges() -> None:
    regions = superpixels(picture(IMAGE), 40, 10.0)
    assert not set(regions[:, :27].ravel()) & set(regions[:, 27:].ravel())


def test_a_mask_of_two_parts_cuts_them() -> None:
    mask = np.zeros(IMAGE.shape, bool)
    mask[5:20, 5:20] = mask[30:45, 30:55] = True
    regions = superpixels(picture(IMAGE, mask=mask), 12, 10.0)
    np.testing.assert_array_equal(regions >= 0, mask)
    assert regions.max() + 1 == 12
    assert set(pieces(regions)) == {1}


def test_no_more_than_there_are_pixels() -> None:
    assert superpixels(picture(np.zeros((1, 1))), 50, 10.0).max() == 0
    assert superpixels(picture(rng.uniform(size=(3, 3))), 50, 10.0).max() + 1 <= 9


def test_the_smallest_joins_its_likest_neighbour() -> None:
    regions = np.array([[0, 0, 0, 1, 2, 2]])
    values = np.array([[0.0, 0, 0, 0.8, 1, 1]])[..., None]
    np.testing.assert_array_equal(joined(regions, values, 2), [[0, 0, 0, 1, 1, 1]])
    apart = np.array([[0, -1, 1]])  # which nothing connects
    np.testing.assert_array_equal(joined(apart, np.zeros((1, 3, 1)), 1), apart)
