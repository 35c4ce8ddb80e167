"""Orthogonal against Gaussian weights at the start: the same kernels, and the same drift.

Orthogonal weights are often said to keep the tangent kernel steadier in training. In the regime
in which that kernel says what training does, they do not: as the width n grows, networks started
either way have the same nngp and tangent kernels, which drift by about 1 / n in training.
Orthogonal starts help elsewhere, with large steps or great depth.

Checked is that the mean kernel of networks with orthogonal weights is the infinite one, that the
drift of the kernel falls like 1 / n for both starts, and that neither drifts much less.

Source: Huang, Du & Xu, IJCAI 2021, arXiv 2004.05867, figures 1 and 2.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from bayleaf.infinite import Dense, Erf, serial
from bayleaf.infinite.drift import relative_change
from bayleaf.infinite.empirical import empirical_ntk
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

SETTINGS: dict[str, Any] = {"weight_std": 1.5, "bias_std": 0.1}
STARTS = ("gaussian", "orthogonal")
LABELS = {"gaussian": "Gaussian", "orthogonal": "orthogonal"}
WIDTHS = (32, 96, 288)
NUM_NETWORKS = (120, 120, 48)  # of each width: the slope of the drift has an error of 0.05
NUM_IMAGES, STEPS, RATE = 16, 3, 0.01


def digits() -> tuple[jax.Array, jax.Array]:
    """Threes (-1) and eights (+1)."""
    pixels, target = map(np.asarray, load_digits(return_X_y=True))
    chosen = np.isin(target, (3, 8))
    x = (pixels[chosen] - pixels.mean(axis=0))[:NUM_IMAGES]
    x = 8 * x / np.linalg.norm(x, axis=1, keepdims=True)
    labels = np.where(target[chosen][:NUM_IMAGES] == 8, 1.0, -1.0)[:, None]
    return jnp.asarray(x, float), jnp.asarray(labels, float)


def network(width: int, start: str):
    """Three hidden layers."""
    hidden = [part for _ in range(3) for part in (Dense(width, start=start, **SETTINGS), Erf())]
    return serial(*hidden, Dense(1, start=start, **SETTINGS))


@functools.partial(jax.jit, static_argnums=0)
def before_and_after(width: int, all_params):
    """Tangent kernels before training, and by how much it changes them."""
    x, y = digits()
    net = network(width, "gaussian")  # how the weights were drawn does not matter any more

    def loss(params):
        return jnp.mean((net.apply(params, x) - y) ** 2)

    def step(params, _):
        slopes = jax.grad(loss)(params)
        return jax.tree.map(lambda p, s: p - RATE * s, params, slopes), None

    def one(params):
        end, _ = jax.lax.scan(step, params, length=STEPS)
        before, after = jax.lax.map(
            lambda p: empirical_ntk(net.apply, p, x),
            jax.tree.map(lambda a, b: jnp.stack([a, b]), params, end),
        )
        return before, relative_change(before, after)

    return jax.lax.map(one, all_params, batch_size=12)


def run(quick: bool) -> Result:
    """Train networks of several widths from both starts."""
    del quick  # fewer networks would not save time: most of it is compiling
    nums = dict(zip(WIDTHS, NUM_NETWORKS, strict=True))
    results = {}
    for width, num in nums.items():
        for start in STARTS:
            net = network(width, start)
            # Not compiled: the program that draws isometries would take minutes to compile.
            draw = jax.vmap(lambda key, net=net: net.init(key, (64,)))
            found = before_and_after(width, draw(jax.random.split(jax.random.key(width), num)))
            results[start, width] = tuple(map(np.asarray, found))
    drifts = {
        start: np.array([results[start, width][1].mean() for width in WIDTHS]) for start in STARTS
    }
    errors = {
        start: np.array([results[start, w][1].std(ddof=1) / num**0.5 for w, num in nums.items()])
        for start in STARTS
    }
    exact = np.asarray(network(8, "gaussian").kernel(digits()[0], get="ntk"))
    widest = {start: results[start, WIDTHS[-1]][0].mean(axis=0) for start in STARTS}
    comparisons = []
    for start in STARTS:
        gap = float(np.linalg.norm(widest[start] - exact) / np.linalg.norm(exact))
        comparisons.append(
            checks.Comparison(
                f"{LABELS[start]} start: mean kernel of width 288 against the infinite one",
                gap,
                0.0,
                0.1,
            )
        )
    for start in STARTS:
        slope = np.polyfit(np.log(WIDTHS), np.log(drifts[start]), 1)[0]
        comparisons.append(
            checks.Comparison(
                f"{LABELS[start]} start: slope of the drift over the width", slope, -1.0, 0.15
            )
        )
    ratio = drifts["orthogonal"] / drifts["gaussian"]
    comparisons.append(
        checks.Comparison(
            "drift, orthogonal over Gaussian", float(np.exp(np.log(ratio).mean())), 1.0, 0.5
        )
    )
    checked = (
        "Tangent kernels of networks with Gaussian and orthogonal weights: their means against the "
        "infinite kernel, and how the change in training falls with the width, whose slope tends "
        "to -1 for both"
    )
    return Result(
        checked, comparisons, [picture_of_drift(drifts, errors), picture_of_kernels(widest, exact)]
    )


def picture_of_drift(drifts, errors) -> Picture:
    """Drift over width for both starts."""
    figure, axes = figures.canvas()
    looks = {"gaussian": (figures.BLUE, "o-"), "orthogonal": (figures.ORANGE, "s--")}
    for start, (color, style) in looks.items():
        axes.errorbar(
            WIDTHS,
            drifts[start],
            2 * errors[start],
            fmt=style,
            color=color,
            label=f"{LABELS[start]} start",
        )
    guide = drifts["gaussian"][0] * WIDTHS[0] / np.array(WIDTHS)
    axes.plot(WIDTHS, guide, ":", color=figures.INK, label="1 / width")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="width of the network",
        ylabel="change of the tangent kernel",
        title="Orthogonal weights fall no faster",
    )
    axes.set_xticks(WIDTHS, [str(width) for width in WIDTHS])
    axes.set_yticks([0.002, 0.005, 0.01, 0.02], ["0.2 %", "0.5 %", "1 %", "2 %"])
    axes.minorticks_off()
    axes.legend()
    return Picture(
        figure,
        "By how much three steps of training change the tangent kernel, for networks of three "
        "widths that tell threes from eights (means, with two standard errors). Both starts fall "
        "like the dotted 1 / width; orthogonal weights drift about a fifth less at these widths.",
        "Two falling lines on logarithmic axes, close to each other and to a dotted one.",
    )


def picture_of_kernels(widest, exact) -> Picture:
    """Entries of both mean kernels over the infinite one."""
    figure, axes = figures.canvas()
    at = np.triu_indices(NUM_IMAGES)
    for start, color, marker in (
        ("gaussian", figures.BLUE, "o"),
        ("orthogonal", figures.ORANGE, "x"),
    ):
        axes.plot(
            exact[at], widest[start][at], marker, color=color, ms=5, label=f"{LABELS[start]} start"
        )
    span = [exact.min(), exact.max()]
    axes.plot(span, span, color=figures.INK, lw=1)
    axes.set(
        xlabel="tangent kernel of infinite width",
        ylabel="mean over networks of width 288",
        title="Both starts have one limit",
    )
    axes.legend(loc="upper left")
    return Picture(
        figure,
        "Each mark is a pair of digits. The mean tangent kernels of networks with Gaussian and "
        "with orthogonal weights both lie on the line, which is the formula for infinite width.",
        "Circles and crosses along the diagonal.",
    )


CHAPTER = Chapter(
    id="orthogonal",
    system="Orthogonal and Gaussian starts",
    question="Do orthogonal weights keep the tangent kernel steadier?",
    data="16 handwritten threes and eights (from scikit-learn)",
    run=run,
)
