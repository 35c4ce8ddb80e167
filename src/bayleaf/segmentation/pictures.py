"""Pictures of a segmentation. Matplotlib is imported when a figure is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bayleaf.errors import BayleafError
from bayleaf.segmentation.images import skimage

if TYPE_CHECKING:
    from bayleaf.segmentation.result import Segmentation

INK = "#222222"
STYLE = {"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "text.color": INK}


def overlay(shown: np.ndarray, labels: np.ndarray, color: Any) -> np.ndarray:
    """The image with borders drawn along the inner sides of the segments, RGB, uint8."""
    image = np.clip(shown, 0, 1).copy()
    is_border = skimage("segmentation").find_boundaries(labels, mode="inner")
    image[is_border] = np.asarray(color, float)
    return np.round(255 * image).astype(np.uint8)


def in_mean_colours(shown: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each segment in the mean of its colours, RGB from 0 to 1; what has no label is white."""
    _, number = np.unique(labels, return_inverse=True)
    number = number.reshape(labels.shape)
    sizes = np.bincount(number.ravel())
    flat = np.clip(shown, 0, 1).reshape(-1, 3)
    means = [np.bincount(number.ravel(), flat[:, c]) / sizes for c in range(3)]
    colours = np.stack(means, axis=1)[number]
    return np.where((labels > 0)[..., None], colours, 1.0)


def uncertainty(segmentation: Segmentation) -> np.ndarray:
    """The probability of a border, uint8: white where a segment ends for sure."""
    return np.round(255 * segmentation.boundary_probability).astype(np.uint8)


def plot(segmentation: Segmentation) -> Any:
    """Four pictures in a figure; of a volume, the middle plane."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BayleafError(
            "plot: Matplotlib is not installed. Install the extra: pip install 'bayleaf[images]'."
        ) from error
    plane = middle(segmentation.shape)
    settings: Any = {**mpl.rcParamsDefault, **STYLE, "backend": "agg"}
    labels = np.where(segmentation.mask, segmentation.labels, 0)
    with mpl.rc_context(settings):
        figure = Figure(figsize=(9, 9 * aspect(segmentation)), layout="constrained")
        axes = figure.subplots(2, 2)
        images = (
            ("segments", segmentation.overlay()[plane], {}),
            (
                "segments in their mean colours",
                in_mean_colours(segmentation.shown, labels)[plane],
                {},
            ),
            (
                "probability that a segment ends here",
                segmentation.boundary_probability[plane],
                {"cmap": "magma", "vmin": 0, "vmax": 1},
            ),
        )
        for axis, (title, image, options) in zip(axes.ravel(), images, strict=False):
            drawn = axis.imshow(image, interpolation="nearest", **options)
            axis.set(xticks=[], yticks=[], title=title)
            if options:
                figure.colorbar(drawn, ax=axis, shrink=0.8)
        draw_numbers(axes[1, 1], segmentation.num_segments.probabilities)
    return figure


def draw_numbers(axes: Any, probabilities: dict[int, float]) -> None:
    """Bars: the posterior of the number of segments."""
    axes.bar(list(probabilities), list(probabilities.values()), color="#0072B2", width=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="number of segments", ylabel="probability", title="how many segments")


def middle(shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The index of the plane to show: all of an image, the middle of a volume."""
    return (shape[0] // 2,) if len(shape) == 3 else (slice(None),)


def aspect(segmentation: Segmentation) -> float:
    """Height by width of the figure."""
    rows, columns = segmentation.shape[-2:]
    return float(np.clip(rows / columns, 0.5, 1.5))
