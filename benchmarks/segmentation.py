"""`bl.segment` against scikit-image's segmentations, on images whose truth is known exactly.

Each peer is tuned once, by a grid over its parameters, for the best mean adjusted Rand index on the
training images of `segmentation_images` (quickshift, which takes seconds an image, on the first
image of each family), and then runs on other images. So was the one setting of
`bl.segment`, its defaults. Segments are connected regions for everybody (`Segmentation.regions`).

Beside the figures of that one setting stands what each peer reaches when it is tuned anew for each
family of images, which nobody can do who does not know the truth.

    python benchmarks/segmentation.py --out benchmarks/results/segmentation.json
    python benchmarks/segmentation.py --show failures.png   # the worst, to look at
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from segmentation_images import Case, testing, training
from skimage import color, graph, segmentation
from skimage.transform import resize
from sklearn.metrics import adjusted_rand_score

import bayleaf as bl

REPEATS = 3
PHOTOGRAPH = (321, 481)


def rgb(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else color.gray2rgb(image)


def felzenszwalb(image: np.ndarray, **options: Any) -> np.ndarray:
    axis = None if image.ndim == 2 else -1
    return segmentation.felzenszwalb(image, channel_axis=axis, **options)


@functools.lru_cache(maxsize=32)
def cached_slic(pixels: bytes, shape: tuple[int, ...], num: int, compactness: float) -> np.ndarray:
    """The same for all thresholds; a key of bytes compares in microseconds."""
    image = np.frombuffer(pixels, np.float64).reshape(shape)
    return segmentation.slic(image, n_segments=num, compactness=compactness, start_label=1)


def slic_and_merging(
    image: np.ndarray, compactness: float, threshold: float, num: int
) -> np.ndarray:
    pixels = rgb(image)
    parts = cached_slic(pixels.tobytes(), pixels.shape, num, compactness)
    if len(np.unique(parts)) == 1:  # of which scikit-image makes no graph
        return parts
    adjacency = graph.rag_mean_color(255 * pixels, parts)
    return graph.cut_threshold(parts, adjacency, threshold)


def quickshift(image: np.ndarray, **options: Any) -> np.ndarray:
    return segmentation.quickshift(rgb(image), **options)


def ours(image: np.ndarray, seed: int = 0) -> np.ndarray:
    import jax

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bl.errors.SamplingWarning)
        return bl.segment(image, key=jax.random.key(seed), progress=False).regions


def grid(**values: list[Any]) -> list[dict[str, Any]]:
    """All combinations."""
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


PEERS: dict[str, tuple[Callable[..., np.ndarray], list[dict[str, Any]]]] = {
    "felzenszwalb": (
        felzenszwalb,
        grid(
            scale=[30, 100, 300, 600, 1000],
            sigma=[0.5, 0.8, 2.0, 4.0],
            min_size=[50, 300, 1000],
        ),
    ),
    "slic + merging": (
        slic_and_merging,
        grid(compactness=[0.1, 1, 10], num=[100, 200, 400], threshold=[5, 10, 20, 35, 50]),
    ),
    "quickshift": (
        quickshift,
        grid(kernel_size=[3, 5], max_dist=[10, 30, 60], ratio=[1.0], sigma=[0, 2]),
    ),
}
"""Of each peer the function and the grid over its parameters."""
FEW = {"quickshift"}
"""Peers that take seconds an image: they are tuned on the first image of each family only."""


def score(case: Case, labels: np.ndarray) -> float:
    """The adjusted Rand index, over the pixels whose truth is known."""
    is_known = case.truth >= 0
    return float(adjusted_rand_score(case.truth[is_known], labels[is_known]))


def by_family(cases: list[Case], scores: np.ndarray) -> dict[str, float]:
    """The mean of each family of images."""
    families = dict.fromkeys(case.family for case in cases)
    return {f: float(np.mean(scores[[c.family == f for c in cases]])) for f in families}


def tuned(cases: list[Case], function: Any, options: list[dict[str, Any]]) -> dict[str, Any]:
    """The best of a grid on all training images, and the best for each family."""
    # Case by case, so that what several settings share is found in the cache.
    scores = np.array([[score(c, function(c.image, **o)) for o in options] for c in cases]).T
    families = np.array([list(by_family(cases, row).values()) for row in scores])
    names = list(by_family(cases, scores[0]))
    # Each family counts alike, however many images it has.
    return {
        "once": options[int(np.argmax(families.mean(axis=1)))],
        "training": float(families.mean(axis=1).max()),
        "by family": {f: options[int(np.argmax(families[:, k]))] for k, f in enumerate(names)},
    }


def seconds_of(function: Callable[[np.ndarray], Any], image: np.ndarray) -> float:
    began = time.perf_counter()
    function(image)
    return time.perf_counter() - began


def timings(settings: dict[str, Any]) -> dict[str, float]:
    """Median seconds for a photograph of 481 x 321 pixels, of interleaved repeats, when warm."""
    from skimage import data

    photographs = [
        resize(picture, PHOTOGRAPH, anti_aliasing=True)
        for picture in (data.coffee(), data.chelsea(), data.astronaut()[:350])
    ]
    functions: dict[str, Any] = {"bayleaf": ours}
    for name, (function, _) in PEERS.items():
        functions[name] = lambda x, f=function, o=settings[name]["once"]: f(x, **o)
    ours(photographs[0])
    spent: dict[str, list[float]] = {name: [] for name in functions}
    for picture in photographs[:REPEATS]:
        for name, function in functions.items():
            spent[name].append(seconds_of(function, picture))
    return {name: statistics.median(values) for name, values in spent.items()}


def measure() -> dict[str, Any]:
    """All figures."""
    train, test = training(), testing()
    first = list({case.family: case for case in reversed(train)}.values())
    settings = {name: tuned(first if name in FEW else train, *peer) for name, peer in PEERS.items()}
    results: dict[str, list[np.ndarray]] = {"bayleaf": [ours(case.image) for case in test]}
    anew: dict[str, list[float]] = {}
    for name, (function, _) in PEERS.items():
        once = settings[name]["once"]
        results[name] = [function(case.image, **once) for case in test]
        best = settings[name]["by family"]
        anew[name] = [score(c, function(c.image, **best.get(c.family, once))) for c in test]
    scores = {
        name: np.array([score(c, z) for c, z in zip(test, labels, strict=True)])
        for name, labels in results.items()
    }
    return {
        "settings": settings,
        "scores": {name: values.tolist() for name, values in scores.items()},
        "tuned for each family": anew,
        "seconds": timings(settings),
        "tables": tables(test, scores, anew),
        "results": results,
    }


def tables(test: list[Case], scores: dict[str, np.ndarray], anew: dict[str, Any]) -> list[Any]:
    """What is to be shown."""
    names = list(scores)
    families = {name: by_family(test, values) for name, values in scores.items()}
    own = {name: by_family(test, np.array(values)) for name, values in anew.items()}
    columns = list(families["bayleaf"])
    rows = [
        [name, float(np.mean(list(f.values()))), *(f[c] for c in columns)]
        for name, f in families.items()
    ]
    rows += [
        [f"{name}, tuned for each family", float(np.mean(list(f.values()))), *f.values()]
        for name, f in own.items()
    ]
    return [
        {
            "caption": "Adjusted Rand index on test images, settings chosen once on others: the "
            "mean over families of images, and of each. Greater is better",
            "columns": ["", "mean", *columns],
            "rows": rows,
        },
        {
            "caption": "Adjusted Rand index of each test image",
            "columns": ["image", *names],
            "rows": [
                [case.name, *(float(scores[n][k]) for n in names)] for k, case in enumerate(test)
            ],
        },
    ]


def show(path: Path, test: list[Case], results: dict[str, Any], scores: dict[str, Any]) -> None:
    """All test images with the segments of everybody, the failures too."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * (1 + len(results)), 3 * len(test)), layout="constrained")
    axes = figure.subplots(len(test), 1 + len(results))
    for k, case in enumerate(test):
        axes[k, 0].imshow(case.truth, cmap="tab20", interpolation="nearest")
        axes[k, 0].set_title(f"truth: {case.name}", fontsize=8)
        for axis, (name, labels) in zip(axes[k, 1:], results.items(), strict=True):
            marked = segmentation.mark_boundaries(rgb(case.image), labels[k], color=(1, 0.85, 0))
            axis.imshow(marked)
            axis.set_title(f"{name}: {scores[name][k]:.2f}", fontsize=8)
    for axis in axes.ravel():
        axis.axis("off")
    figure.savefig(path, dpi=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the figures here")
    parser.add_argument("--show", type=Path, metavar="PNG", help="draw all segmentations")
    options = parser.parse_args()
    figures = measure()
    results = figures.pop("results")
    if options.show:
        show(options.show, testing(), results, figures["scores"])
    count, figures_seconds = os.cpu_count(), figures["seconds"]
    machine = f"1 of {count} CPU cores ({platform.machine()})"
    versions = {name: version(name) for name in ("jax", "numba", "scikit-image", "nilearn")}
    figures["tables"].append(
        {
            "caption": "Seconds for a photograph of 481 x 321 pixels, after a first one "
            "(bayleaf: 4 chains of 500 sweeps)",
            "columns": list(figures_seconds),
            "rows": [list(figures_seconds.values())],
        }
    )
    written = {"machine": machine, "versions": versions, **figures}
    print(json.dumps(written, indent=2))
    if options.out:
        options.out.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
