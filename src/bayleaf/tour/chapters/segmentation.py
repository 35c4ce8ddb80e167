"""Segments of an image: a slice of a head under noise, textures, and a photograph.

Super-pixels are the sites of a partition model (`bayleaf.segment`): which of them belong together,
and how many segments there are, is unknown. Three pictures, three checks:

1. Six tiles of the noisy slice have 203 partitions. The posterior probability of each is worked
   out, and the draws must agree with the probability of each pair of neighbours to be in one
   segment.
2. The slice is the Shepp-Logan phantom, whose areas are known exactly: the segments are compared
   with them by the adjusted Rand index (1 for the truth, 0 on average for random labels).
3. So is a mosaic of textures, which differ little in their greys.

A photograph has no truth; it is there to be looked at.
"""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from skimage import data
from skimage.measure import label
from skimage.transform import resize
from sklearn.metrics import adjusted_rand_score

import bayleaf as bl
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

NOISE = 0.07
ROWS, COLUMNS = slice(36, 54), slice(84, 120)  # at the upper edge of a tumour
TILES = np.kron(np.arange(6).reshape(2, 3), np.ones((9, 12), int))


def slice_of_a_head() -> tuple[np.ndarray, np.ndarray]:
    """The phantom with noise, and its areas of one grey."""
    clean = np.asarray(data.shepp_logan_phantom())[::2, ::2]
    areas: Any = label(np.round(100 * clean).astype(int) + 1, background=0, connectivity=1)
    noise = NOISE * np.random.default_rng(0).normal(size=clean.shape)
    return np.clip(clean + noise, 0, 1), areas


def mosaic() -> tuple[np.ndarray, np.ndarray]:
    """Brick, brick on its side and gravel, which meet in the middle."""
    size = 192
    brick, gravel = (
        np.asarray(resize(picture / 255.0, (256, 256), anti_aliasing=True))[:size, :size]
        for picture in (data.brick(), data.gravel())
    )
    row, column = np.mgrid[:size, :size]
    truth = np.where(row + 0.3 * column > 0.62 * size, 0, np.where(column < 0.55 * size, 1, 2))
    return np.where(truth == 0, gravel, np.where(truth == 1, brick, brick.T)), truth


def photograph() -> np.ndarray:
    """A cup of coffee."""
    return np.asarray(resize(data.coffee(), (200, 300), anti_aliasing=True))


def segments(image: np.ndarray, **options: Any) -> bl.Segmentation:
    """The segments of an image; that chains may disagree is said on the page."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bl.errors.SamplingWarning)
        return bl.segment(image, key=jax.random.key(0), progress=False, **options)


def partitions(number: int) -> np.ndarray:
    """All partitions of so many things, labels numbered by first occurrence."""
    rows = [[0]]
    for _ in range(number - 1):
        rows = [[*row, k] for row in rows for k in range(max(row) + 2)]
    return np.array(rows)


def tiles_against_enumeration(image: np.ndarray, num_draws: int) -> list[checks.Estimate]:
    """Neighbours of six tiles in one segment: their share of the draws, and their probability."""

    def lightness(features):
        mean = features.mean[:, 0]
        return bl.partitions.NormalMean(mean, variance=16.0, prior_variance=400.0)

    small = segments(
        image[ROWS, COLUMNS],
        sites=TILES,
        texture=False,
        likelihood=lightness,
        beta=0.5,
        num_draws=num_draws,
        num_warmup=50,
    )
    labels = partitions(6)
    density = np.asarray(jax.jit(jax.vmap(small.model))(jnp.asarray(labels, jnp.int32)))
    weights = np.exp(density - density.max())
    estimates = []
    for i, j in small.features.edges:
        exact = np.average(labels[:, i] == labels[:, j], weights=weights)
        together = np.asarray(small.run.draws[..., i] == small.run.draws[..., j], float)
        estimates.append(checks.mean(f"tiles {i + 1} and {j + 1} in one segment", together, exact))
    return estimates


def run(quick: bool) -> Result:
    """Tiles against enumeration; the slice and the mosaic against the truth; a photograph."""
    sweeps = {"num_draws": 60 if quick else 250, "num_warmup": 60 if quick else 250}
    image, areas = slice_of_a_head()
    comparisons = checks.judge(tiles_against_enumeration(image, 2000 if quick else 5000))
    said = checks.statement(
        "Posterior probabilities of neighbours among six tiles against those by enumeration of "
        "all 203 partitions",
        comparisons,
    )
    head = segments(image, num_superpixels=250, **sweeps)
    textured, truth = mosaic()
    textures = segments(textured, num_superpixels=250, **sweeps)
    scores = {
        "slice": adjusted_rand_score(areas.ravel(), head.regions.ravel()),
        "mosaic": adjusted_rand_score(truth.ravel(), textures.regions.ravel()),
    }
    for name, least in (("slice", 0.8), ("mosaic", 0.5)):
        quantity = f"adjusted Rand index of the {name} with its truth"
        comparisons.append(checks.Comparison(quantity, float(scores[name]), least, relation="≥"))
    cup = segments(photograph(), num_superpixels=250, **sweeps)
    pictures = [
        picture_of(head, areas, f"a slice under noise: {scores['slice']:.2f}"),
        picture_of(textures, truth, f"textures: {scores['mosaic']:.2f}"),
        picture_of(cup, None, "a photograph"),
    ]
    return Result(said, comparisons, pictures)


def picture_of(found: bl.Segmentation, truth: np.ndarray | None, title: str) -> Picture:
    """The borders in the image, beside the probability of each."""
    figure, axes = figures.grid(1, 2, 6.4, 3.2)
    axes[0].imshow(found.overlay(), interpolation="nearest")
    axes[1].imshow(found.boundary_probability, cmap="magma", vmin=0, vmax=1)
    for axis, name in zip(axes, (title, "probability of a border"), strict=True):
        axis.set(xticks=[], yticks=[], title=name)
    number = found.num_segments.mean
    known = (
        "The truth is known here; the number above is the adjusted Rand index with it, 1 at best. "
        if truth is not None
        else "Nobody knows the truth here. "
    )
    caption = (
        f"Left, the segments with the least expected loss, outlined in yellow; there are "
        f"{number:.1f} on average over the draws. {known}Right, the probability that a segment "
        "ends at each pixel: white lines are certain, and purple ones are borders that only some "
        "of the draws have."
    )
    alt = "An image with yellow outlines, and a dark map with bright lines along the same outlines."
    return Picture(figure, caption, alt)


CHAPTER = Chapter(
    id="segmentation",
    system="Image segmentation by partitions",
    question="Which parts of an image belong together, how many are there, and how sure is that?",
    data="the Shepp-Logan phantom with noise, textures and a photograph (all from scikit-image)",
    run=run,
)
