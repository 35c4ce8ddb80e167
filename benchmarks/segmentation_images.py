"""Images whose true segments are known, all made from what installed wheels contain.

| family | image | truth |
|---|---|---|
| textures | mosaics of 4 Voronoi cells: brick, brick on its side, grass, gravel | the cells |
| shades | 7 Voronoi cells of different grey under Gaussian noise (sd 0.12) | the cells |
| phantom | the Shepp-Logan phantom under Gaussian noise | its connected areas of one grey |
| shapes | the silhouette of a horse, gravel on grass or brick on gravel | the silhouette's parts |
| brain | slices of nilearn's ICBM152 template, T1-weighted | the connected parts of each tissue |
| photograph | one of a stereo pair (a motorcycle) | layers of measured depth; test only |

Textures of training images are from the left halves of the pictures and those of test images from
the right ones; seeds differ, and so do slices of the brain. Its truth is the more probable of grey
matter, white matter, or neither, by an atlas that knew more than this image; parts of fewer than 20
pixels count for nobody, nor do pixels without a measured depth. A depth layer is no segment that
colour could tell: this family is here because it is hard.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from skimage import data
from skimage.measure import label
from skimage.transform import resize


class Case(NamedTuple):
    """An image, and its true segments; -1 where nothing is known."""

    family: str
    name: str
    image: np.ndarray
    truth: np.ndarray


def textures(side: str) -> list[np.ndarray]:
    """Brick, brick on its side, grass, gravel: 256 x 256 from one half of each picture."""
    found = []
    for picture in (data.brick(), data.grass(), data.gravel()):
        half = picture.shape[1] // 2
        part = picture[:, :half] if side == "train" else picture[:, half:]
        small = resize(part / 255.0, (256, 128), anti_aliasing=True)
        found.append(np.concatenate([small, small[:, ::-1]], axis=1))
    brick, grass, gravel = found
    return [brick, brick.T, grass, gravel]


def cells(rng: np.random.Generator, number: int, size: int) -> np.ndarray:
    """Voronoi cells of points that keep their distance."""
    while True:
        points = rng.uniform(0.1, 0.9, (number, 2)) * size
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
        if (gaps + 1e9 * np.eye(number)).min() > 0.28 * size * (4 / number) ** 0.5:
            break
    row, column = np.mgrid[:size, :size]
    far = (row[..., None] - points[:, 0]) ** 2 + (column[..., None] - points[:, 1]) ** 2
    return np.argmin(far, axis=-1)


def mosaic(seed: int, side: str) -> Case:
    """Four textures."""
    rng = np.random.default_rng(seed)
    filled, truth = textures(side), cells(rng, 4, 256)
    order = rng.permutation(4)
    image = np.choose(truth, [filled[k] for k in order])
    return Case("textures", f"mosaic {seed}", image, truth)


def shades(seed: int) -> Case:
    """Seven greys under noise."""
    rng = np.random.default_rng(seed)
    truth = cells(rng, 7, 160)
    means = rng.permutation(np.linspace(0.15, 0.85, 7))
    image = np.clip(means[truth] + 0.12 * rng.normal(size=truth.shape), 0, 1)
    return Case("shades", f"shades {seed}", image, truth)


def phantom(seed: int, noise: float) -> Case:
    """A slice of a head that never was."""
    clean = np.asarray(data.shepp_logan_phantom())[::2, ::2]
    truth = label(np.round(100 * clean).astype(int) + 1, background=0, connectivity=1)
    image = clean + noise * np.random.default_rng(seed).normal(size=clean.shape)
    return Case("phantom", f"phantom, noise {noise:g}", np.clip(image, 0, 1), truth)


def horse(side: str, inside: int, outside: int) -> Case:
    """A silhouette filled with one texture, on another."""
    shape = resize(~data.horse(), (256, 256), order=0).astype(bool)
    shape = shape[:, ::-1] if side == "train" else shape
    filled = textures(side)
    names = ["brick", "brick on its side", "grass", "gravel"]
    image = np.where(shape, filled[inside], filled[outside])
    truth = label(shape.astype(int) + 1, background=0, connectivity=1)
    return Case("shapes", f"horse of {names[inside]} on {names[outside]}", image, truth)


def brain(axis: int, place: int) -> Case:
    """A slice of the average of 152 heads: grey matter, white matter, or neither."""
    import nibabel
    import nilearn

    folder = Path(str(nilearn.__file__)).parent / "datasets" / "data"

    def one(kind: str) -> np.ndarray:
        file = folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
        volume = np.asarray(nibabel.load(file).dataobj, float) / 255.0
        return np.rot90(volume.take(place, axis))

    grey, white = one("gm"), one("wm")
    tissue = np.argmax([1 - grey - white, grey, white], axis=0)
    truth = label(tissue + 1, background=0, connectivity=1)
    truth = np.where(np.bincount(truth.ravel())[truth] >= 20, truth, -1)
    return Case("brain", f"brain, slice {place} of axis {axis}", one("t1"), truth)


def motorcycle() -> Case:
    """A photograph; the truth is its measured disparity, cut into four layers of equal size."""
    left, _, disparity = data.stereo_motorcycle()
    rows = slice(None, None, 2)
    image = resize(left, (left.shape[0] // 2, left.shape[1] // 2), anti_aliasing=True)
    disparity = disparity[rows, rows][: image.shape[0], : image.shape[1]]
    is_known = np.isfinite(disparity)
    levels = np.quantile(disparity[is_known], [0.25, 0.5, 0.75])
    layers = np.where(is_known, np.digitize(np.nan_to_num(disparity), levels), -1)
    return Case("photograph", "motorcycle, layers of depth", image, layers)


def training() -> list[Case]:
    """What settings are chosen on."""
    return [
        *(mosaic(seed, "train") for seed in range(4)),
        *(shades(seed) for seed in range(3)),
        phantom(0, 0.1),
        phantom(0, 0.05),
        horse("train", 3, 2),
        brain(2, 80),
        brain(1, 110),
    ]


def testing() -> list[Case]:
    """What they are judged on."""
    return [
        *(mosaic(seed, "test") for seed in range(100, 106)),
        *(shades(seed) for seed in range(100, 104)),
        phantom(1, 0.1),
        phantom(1, 0.07),
        phantom(1, 0.03),
        horse("test", 3, 2),
        horse("test", 0, 3),
        brain(2, 95),
        brain(1, 140),
        brain(0, 70),
        motorcycle(),
    ]
