"""What counts as an image, and what is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

import bayleaf as bl
from bayleaf.segmentation.images import picture

rng = np.random.default_rng(0)
GREY = rng.uniform(size=(6, 8))
RGB = rng.integers(0, 256, (6, 8, 3), np.uint8)


def test_integers_are_divided_by_their_largest_and_floats_in_the_unit_interval_kept() -> None:
    whole = rng.integers(0, 256, (6, 8), np.uint8)
    np.testing.assert_allclose(picture(whole).values[..., 0], whole / 2.55)
    np.testing.assert_allclose(picture(whole.astype(np.uint16) * 257).values[..., 0], whole / 2.55)
    np.testing.assert_allclose(picture(GREY).values[..., 0], 100 * GREY)


def test_other_floats_are_scaled_by_the_range_within_the_mask() -> None:
    image = 500.0 * GREY - 100
    mask = np.ones(GREY.shape, bool)
    mask[0, 0] = False
    image[0, 0] = 1e9
    seen = picture(image, mask=mask).values[mask]
    np.testing.assert_allclose([seen.min(), seen.max()], [0, 100])


def test_colours_are_those_of_lab() -> None:
    from skimage.color import rgb2lab

    np.testing.assert_allclose(picture(RGB).values, rgb2lab(RGB))
    first = picture(np.moveaxis(RGB, -1, 0), channel_axis=0)
    np.testing.assert_allclose(first.values, picture(RGB).values)


def test_transparent_pixels_are_outside_and_others_blended_over_white() -> None:
    rgba = np.concatenate([RGB, np.full((6, 8, 1), 255, np.uint8)], axis=-1)
    np.testing.assert_allclose(picture(rgba).values, picture(RGB).values)
    rgba[0, :, 3] = 0
    assert not picture(rgba).mask[0].any()
    half = np.concatenate([np.zeros((6, 8, 3)), np.full((6, 8, 1), 0.5)], axis=-1)
    np.testing.assert_allclose(picture(half).shown, 0.5)


def test_nan_outside_of_the_mask_does_no_harm() -> None:
    image, mask = GREY.copy(), np.ones(GREY.shape, bool)
    image[2, 3], mask[2, 3] = np.nan, False
    assert np.isfinite(picture(image, mask=mask).values).all()


def test_a_volume_has_no_channels() -> None:
    found = picture(rng.uniform(size=(3, 4, 5)), channel_axis=None, spacing=(2, 1, 1))
    assert found.values.shape == (3, 4, 5, 1)
    assert found.spacing == (2.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("image", "options", "named"),
    [
        (np.zeros((0, 5)), {}, "image: got an empty image"),
        (np.full((4, 4), np.nan), {}, "image: got 16 pixel.* NaN or infinite"),
        (np.zeros((4, 4), complex), {}, "image: got complex128"),
        (np.array([["a"]]), {}, "image: got <U1"),
        (np.zeros(7), {}, "image: got shape"),
        (np.zeros((2, 3, 4, 5, 6)), {}, "image: got shape"),
        (np.zeros((8, 32, 32)), {}, "image: got 32 channels.*channel_axis=None"),
        (np.zeros((4, 4, 4)), {}, "fully transparent"),
        (RGB, {"channel_axis": 3}, "channel_axis: got 3"),
        (GREY, {"mask": np.zeros((6, 8), bool)}, "mask: got a mask that leaves no pixel"),
        (GREY, {"mask": np.ones((8, 6), bool)}, "mask: got bool values of shape"),
        (GREY, {"mask": np.full((6, 8), 0.5)}, "mask: got float64"),
        (GREY, {"spacing": (1, 0)}, "spacing"),
        (GREY, {"spacing": (1, 1, 1)}, "spacing"),
    ],
)
def test_what_is_no_image_is_refused_by_name(image, options, named) -> None:
    with pytest.raises(bl.errors.BayleafError, match=named):
        bl.segment(image, **options)
