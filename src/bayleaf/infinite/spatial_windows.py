"""Windows that move over the positions of images and sequences: sizes, steps and borders.

``padding`` says what stands beyond the border: ``"SAME"`` zeros (a step of 1 keeps the number of
positions), ``"CIRCULAR"`` the other end of the image, as many as "SAME" has, and ``"VALID"``
nothing, so that only whole windows count.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from bayleaf.errors import bad_argument
from bayleaf.infinite.dense import example_shape, one_of, positive_int
from bayleaf.infinite.state import KernelState

Padding = Literal["SAME", "VALID", "CIRCULAR"]


class Window(NamedTuple):
    """A window along one axis of positions."""

    size: int
    stride: int
    padding: str

    def num_places(self, length: int) -> int:
        """How many windows there are on ``length`` positions."""
        if self.padding == "VALID":
            return (length - self.size) // self.stride + 1
        return -(-length // self.stride)

    def pads(self, length: int) -> tuple[int, int]:
        """How many positions are added before and after."""
        if self.padding == "VALID":
            return 0, 0
        reach = (self.num_places(length) - 1) * self.stride + self.size
        missing = max(reach - length, 0)
        return missing // 2, missing - missing // 2

    def padded(self, x: Array, axes: tuple[int, ...]) -> Array:
        """``x`` with what stands beyond the border of these axes."""
        widths = [(0, 0)] * x.ndim
        for axis in axes:
            widths[axis] = self.pads(x.shape[axis])
        if not any(before or after for before, after in widths):
            return x
        return jnp.pad(x, widths, mode="wrap" if self.padding == "CIRCULAR" else "constant")

    def pieces(self, x: Array, *axes: int) -> list[Array]:
        """For each place in the window, what stands there in all windows.

        With two axes, both windows move: the place is the same in both.
        """
        places = [self.num_places(x.shape[axis]) for axis in axes]
        x = self.padded(x, axes)
        pieces = []
        for offset in range(self.size):
            index = [slice(None)] * x.ndim
            for axis, num in zip(axes, places, strict=True):
                index[axis] = slice(offset, offset + (num - 1) * self.stride + 1, self.stride)
            pieces.append(x[tuple(index)])
        return pieces


def windows(sizes: tuple[int, ...], strides: tuple[int, ...], padding: str) -> tuple[Window, ...]:
    """A window for each axis of positions."""
    pairs = zip(sizes, strides, strict=True)
    return tuple(Window(size, stride, padding) for size, stride in pairs)


def checked_window(window: Any) -> tuple[int, ...]:
    """The sizes of a window."""
    if not isinstance(window, tuple | list) or not window:
        raise bad_argument(
            "window", window, "a size for each axis of positions, (3, 3) for images, (3,) in a row"
        )
    return tuple(positive_int(size, "window") for size in window)


def checked_strides(strides: Any, window: tuple[int, ...]) -> tuple[int, ...]:
    """The steps of a window along each axis."""
    strides = (strides,) * len(window) if isinstance(strides, int) else strides
    if not isinstance(strides, tuple | list) or len(strides) != len(window):
        raise bad_argument(
            "strides", strides, f"one number, or {len(window)} as in window={window}"
        )
    return tuple(positive_int(stride, "strides") for stride in strides)


def checked_padding(padding: str) -> str:
    """The name of a padding."""
    return one_of(padding, "padding", ("SAME", "VALID", "CIRCULAR"))


def places(name: str, shape: Any, all_windows: tuple[Window, ...]) -> tuple[int, ...]:
    """The numbers of windows on an example of this shape, checked."""
    shape = example_shape(shape)
    space = shape[:-1]
    if len(space) != len(all_windows):
        sizes = tuple(window.size for window in all_windows)
        raise bad_argument(
            name,
            f"an example of shape {shape}",
            f"{len(all_windows)} axes of positions for the window {sizes}, and then the channels",
            "Images are [n, height, width, channels], sequences [n, position, channels].",
        )
    for length, window in zip(space, all_windows, strict=True):
        if window.padding == "VALID" and window.size > length:
            raise bad_argument(
                name,
                f"a window of {window.size} on {length} positions",
                "a window that fits into the image",
                "Use a smaller window, fewer layers, or padding='SAME'.",
            )
    return tuple(w.num_places(length) for w, length in zip(all_windows, space, strict=True))


def pair_axes(state: KernelState, axis: int) -> tuple[int, ...]:
    """The axes of pairs that belong to the axis ``axis`` of positions."""
    lead = 2 if state.listing is None else 1
    if state.is_full:
        return lead + axis, lead + state.num_space + axis
    return (lead + axis,)


def sum_of(pieces: list[Array]) -> Array:
    """Their sum."""
    return sum(pieces[1:], start=pieces[0])
