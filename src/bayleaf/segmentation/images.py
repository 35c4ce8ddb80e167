"""What counts as an image: scikit-image's conventions, checked, and the units that are used inside.

| got | becomes |
|---|---|
| grey, [row, column] or one channel | its value, from 0 to 100 |
| RGB | CIE Lab: lightness from 0 to 100, and two colours; a step of 2 is just visible |
| RGBA | blended over white; where it is fully transparent it is outside of the mask |
| any other number of channels | the channels, from 0 to 100 together |
| a volume, ``channel_axis=None`` | as grey |

Integers are divided by the largest number of their type (uint8, uint16) as everywhere in
scikit-image; floats are taken as they are if they lie in [0, 1], and else scaled from their least
to their greatest value within the mask, as are signed and long integers.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np

from bayleaf.errors import BayleafError, bad_argument

MOST_CHANNELS = 16
"""More are a volume whose ``channel_axis`` was forgotten."""


class Picture(NamedTuple):
    """An image as the model sees it.

    Attributes:
        values: [row, column, channel] or [plane, row, column, channel], in the units above.
        shown: the same for people, RGB from 0 to 1.
        mask: which pixels belong to it.
        spacing: the size of a pixel along each axis.
        is_lab: whether the channels are those of Lab.
    """

    values: np.ndarray
    shown: np.ndarray
    mask: np.ndarray
    spacing: tuple[float, ...]
    is_lab: bool


def picture(
    image: Any,
    *,
    channel_axis: int | None = -1,
    mask: Any = None,
    spacing: Any = None,
) -> Picture:
    """The image in the units of this room; what is none is refused by name."""
    array, mask, is_seen = channels_last(image, channel_axis, mask)
    if array.dtype.kind == "f" and not np.isfinite(array[is_seen]).all():
        bad = int((~np.isfinite(array[is_seen])).any(axis=-1).sum())
        raise bad_argument(
            "image",
            f"{bad} pixel(s) that are NaN or infinite",
            "finite values",
            "Leave them out: mask=np.isfinite(image), for a grey image.",
        )
    unit = from_zero_to_one(array, is_seen)
    if unit.shape[-1] == 4:
        alpha = unit[..., 3:]
        is_seen = is_seen & (alpha[..., 0] > 0)
        if not is_seen.any():
            raise bad_argument("image", "a fully transparent image", "pixels that can be seen")
        unit = unit[..., :3] * alpha + (1 - alpha)
    is_lab = unit.shape[-1] == 3
    values = skimage("color").rgb2lab(unit) if is_lab else 100 * unit
    shown = unit if is_lab else np.repeat(unit.mean(axis=-1, keepdims=True), 3, axis=-1)
    # What lies outside of the mask is looked at by filters only: it gets the mean.
    values = np.where(is_seen[..., None], values, values[is_seen].mean(axis=0))
    return Picture(
        values.astype(np.float64), shown, is_seen, checked_spacing(spacing, mask.ndim), is_lab
    )


def channels_last(
    image: Any, channel_axis: int | None, mask: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image with its channels on the last axis, and its mask."""
    array = np.asarray(image)
    if array.dtype.kind not in "buif":
        raise bad_argument("image", f"{array.dtype} values", "numbers, such as uint8 or float")
    if array.size == 0:
        raise bad_argument("image", f"an empty image of shape {array.shape}", "pixels")
    if channel_axis is None or array.ndim == 2:  # no image has one spatial axis
        array = array[..., None]
    elif not isinstance(channel_axis, int | np.integer) or not (
        -array.ndim <= channel_axis < array.ndim
    ):
        raise bad_argument(
            "channel_axis", channel_axis, f"an axis of an image of shape {array.shape}, or None"
        )
    else:
        array = np.moveaxis(array, channel_axis, -1)
    if array.ndim not in (3, 4):
        raise bad_argument(
            "image",
            f"shape {np.shape(image)} with channel_axis={channel_axis}",
            "an image [row, column], [row, column, channel], or a volume [plane, row, column]",
            "Of a volume without channels pass channel_axis=None.",
        )
    if array.shape[-1] > MOST_CHANNELS:
        raise bad_argument(
            "image",
            f"{array.shape[-1]} channels (channel_axis={channel_axis})",
            f"at most {MOST_CHANNELS}",
            "Of a volume without channels pass channel_axis=None.",
        )
    return array, *checked_mask(mask, array.shape[:-1])


def checked_mask(mask: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The mask, twice, as flags of the shape of the image."""
    if mask is None:
        flags = np.ones(shape, bool)
    else:
        flags = np.asarray(mask)
        if flags.shape != shape or flags.dtype.kind not in "bui":
            raise bad_argument(
                "mask", f"{flags.dtype} values of shape {flags.shape}", f"flags of shape {shape}"
            )
        flags = flags.astype(bool)
    if not flags.any():
        raise bad_argument("mask", "a mask that leaves no pixel", "at least one pixel that is True")
    return flags, flags


def from_zero_to_one(array: np.ndarray, is_seen: np.ndarray) -> np.ndarray:
    """Values from 0 to 1, by the type where it says how, else by their range."""
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float64) / np.iinfo(array.dtype).max
    values = array.astype(np.float64)
    seen = values[is_seen]
    low, high = float(seen.min()), float(seen.max())
    if array.dtype.kind in "fb" and low >= 0 and high <= 1:
        return np.where(is_seen[..., None], values, 0)
    scale = high - low if high > low else 1.0
    return np.where(is_seen[..., None], (values - low) / scale, 0)


def checked_spacing(spacing: Any, num_axes: int) -> tuple[float, ...]:
    """One positive number for each axis."""
    if spacing is None:
        return (1.0,) * num_axes
    sizes = np.asarray(spacing)
    is_good = sizes.shape == (num_axes,) and sizes.dtype.kind in "uif"
    if not is_good or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise bad_argument("spacing", str(spacing), f"{num_axes} positive numbers, one an axis")
    return tuple(float(size) for size in sizes)


def skimage(module: str) -> Any:
    """A module of scikit-image, or the error that says how to install it."""
    try:
        return importlib.import_module(f"skimage.{module}")
    except ModuleNotFoundError as error:
        raise BayleafError(
            "segment: scikit-image is not installed. Install the extra: "
            "pip install 'bayleaf[images]'."
        ) from error
