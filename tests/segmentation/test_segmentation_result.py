"""Maps and numbers of a `Segmentation` against those worked out from draws by hand."""

from __future__ import annotations

import numpy as np
import pytest

import bayleaf as bl
from bayleaf.run.results import Run
from bayleaf.segmentation.features import features
from bayleaf.segmentation.images import picture
from bayleaf.segmentation.model import segmentation_model
from bayleaf.segmentation.pictures import in_mean_colours

SITES = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, -1, -1]])
DRAWS = np.array([[[0, 0, 1], [0, 0, 1]], [[0, 1, 1], [0, 1, 2]]])  # [chain, draw, site]
IMAGE = np.array([[0.2, 0.2, 0.4, 0.4], [0.2, 0.2, 0.4, 0.4], [0.9, 0.9, 0, 0]])


@pytest.fixture
def three() -> bl.Segmentation:
    found = features(picture(IMAGE, mask=SITES >= 0), SITES, texture=False)
    model = segmentation_model(found, prior=None, likelihood="normal", beta=1.0, max_segments=3)
    shown = np.repeat(IMAGE[..., None], 3, axis=-1)
    return bl.Segmentation(
        superpixel_labels=np.array([0, 0, 1]),
        expected_loss=0.1,
        start_label=1,
        features=found,
        shown=shown,
        model=model,
        run=Run(draws=DRAWS, stats={"num_clusters": np.array([[2, 2], [2, 3]])}),
        findings=(),
    )


def test_labels_are_spread_and_zero_outside(three) -> None:
    np.testing.assert_array_equal(three.labels, [[1, 1, 1, 1], [1, 1, 1, 1], [2, 2, 0, 0]])
    np.testing.assert_array_equal(three.draw(1, 1)[:, 1:3], [[1, 2], [1, 2], [3, 0]])
    assert "3 x 4 pixels, 3 super-pixels, 2 segments" in repr(three)


def test_the_number_of_segments(three) -> None:
    number = three.num_segments
    assert number.probabilities == {2: 0.75, 3: 0.25}
    assert number.mean == 2.25


def test_borders_have_the_larger_of_their_probabilities(three) -> None:
    # Together: 0 and 1 in 2 of 4 draws, 0 and 2 in none.
    np.testing.assert_allclose(
        three.boundary_probability,
        [[0, 0.5, 0.5, 0], [1, 1, 0.5, 0], [1, 1, 0, 0]],
    )


def test_coclustering_of_pixels(three) -> None:
    assert three.coclustering((0, 0), (0, 3)) == 0.5
    assert three.coclustering((0, 2), (2, 0)) == 0.25
    for pixel in [(0, 4), (-1, 0), (0,), (0.5, 1), (2, 3)]:
        with pytest.raises(bl.errors.BayleafError, match="j: got"):
            three.coclustering((0, 0), pixel)


def test_entropy_is_that_of_shared_membership(three) -> None:
    # With segments {0, 1} and {2}: site 1 is with itself always, with 0 in half, with 2 in a
    # quarter of the draws.
    weights = np.array([[(1 + 0.5) / 2, 0], [(0.5 + 1) / 2, 0.25], [(0 + 0.25) / 2, 1]])
    p = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(three.probabilities, p)
    entropy = -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=1)
    np.testing.assert_allclose(three.entropy, np.where(SITES >= 0, entropy[SITES], 0), atol=1e-12)


def test_parts_that_do_not_touch_are_regions(three) -> None:
    import dataclasses

    lonely = dataclasses.replace(three, superpixel_labels=np.array([0, 1, 1]))
    np.testing.assert_array_equal(lonely.regions[:, 0], [1, 1, 3])
    assert set(np.unique(lonely.labels)) == {0, 1, 2}


def test_pictures(three) -> None:
    overlay = three.overlay(color=(1, 0, 0))
    assert overlay.dtype == np.uint8
    np.testing.assert_array_equal(overlay[1, 0], [255, 0, 0])
    np.testing.assert_array_equal(overlay[0, 0], [51, 51, 51])
    means = in_mean_colours(three.shown, three.labels)
    np.testing.assert_allclose(means[0, 0], 0.3)
    np.testing.assert_allclose(means[2, 3], 1.0)
    assert len(three.plot().axes) == 5
