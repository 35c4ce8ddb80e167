"""Wide networks become Gaussian processes: the NNGP kernel against networks that grow.

For a random network with weights of variance sw^2 / width and biases of variance sb^2 the outputs
for inputs x, x' have, when the width goes to infinity, the covariance

    K^l(x, x') = sb^2 + sw^2 E phi(u) phi(v),   (u, v) ~ N(0, K^(l-1) on {x, x'}).

With one hidden layer, the mean over networks of phi(x) . phi(x') / width has this value at *every*
width, since the first layer is Gaussian whatever its width: an exact answer for Monte Carlo. With
more layers the mean is off by 1 / width. Single networks fluctuate like 1 / sqrt(width), so that
the slope of the error over the width, on logarithmic axes, must be -1/2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from bayleaf.infinite import Dense, Relu, serial
from bayleaf.infinite.empirical import empirical_nngp
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

SETTINGS: dict[str, Any] = {"weight_std": 1.5, "bias_std": 0.1}
WIDTHS = (16, 64, 256, 1024)
NUM_DEEP = (400, 400, 100, 40)  # networks of three layers: the slope has an error of 0.03
NUM_IMAGES = 12


def images() -> np.ndarray:
    """Some digits, their mean removed, each of length sqrt(64)."""
    pixels, _ = map(np.asarray, load_digits(return_X_y=True))
    pixels = pixels[:NUM_IMAGES] - pixels.mean(axis=0)
    return 8 * pixels / np.linalg.norm(pixels, axis=1, keepdims=True)


def network(width: int, num_hidden: int):
    """Hidden layers of one width; as many outputs as units, so that the kernel is a mean."""
    layers = [layer for _ in range(num_hidden) for layer in (Dense(width, **SETTINGS), Relu())]
    return serial(*layers, Dense(width, **SETTINGS))


def sampled(width: int, num_hidden: int, num: int, x: np.ndarray) -> np.ndarray:
    """Kernels of ``num`` random networks, [network, image, image]."""
    net = network(width, num_hidden)
    hidden = serial(*net.layers[:-1])

    @jax.jit
    def one(key):
        h = hidden.apply(hidden.init(key, x.shape[1:]), jnp.asarray(x))
        # The outputs' covariance given the hidden units: exact in the last layer.
        gram = empirical_nngp(lambda _, h: h, None, h)
        return SETTINGS["weight_std"] ** 2 * gram + SETTINGS["bias_std"] ** 2

    return np.asarray(jax.lax.map(one, jax.random.split(jax.random.key(width), num)))


def run(quick: bool) -> Result:
    """Means against the exact kernel, and how fast networks get there."""
    x = images()
    num = {1: (100 if quick else 400,) * 4, 3: [n // 2 if quick else n for n in NUM_DEEP]}
    exact = {hidden: np.asarray(network(8, hidden).kernel(x, get="nngp")) for hidden in (1, 3)}
    kernels = {
        hidden: [sampled(*of, x) for of in zip(WIDTHS, [hidden] * 4, num[hidden], strict=True)]
        for hidden in (1, 3)
    }
    estimates = []
    for width, found in zip(WIDTHS, kernels[1], strict=True):
        for name, i, j in (("variance of an output", 0, 0), ("covariance of two", 0, 1)):
            values = found[:, i, j]
            error = values.std(ddof=1) / len(values) ** 0.5
            estimates.append(
                checks.Estimate(
                    f"{name}, width {width}",
                    float(values.mean()),
                    float(exact[1][i, j]),
                    float(error),
                    len(values),
                )
            )
    comparisons = checks.judge(estimates)
    errors = {
        hidden: [
            float(
                np.sqrt(np.mean((found - exact[hidden]) ** 2))
                / np.sqrt(np.mean(exact[hidden] ** 2))
            )
            for found in kernels[hidden]
        ]
        for hidden in (1, 3)
    }
    for hidden, label in ((1, "one hidden layer"), (3, "three")):
        slope = np.polyfit(np.log(WIDTHS), np.log(errors[hidden]), 1)[0]
        comparisons.append(
            checks.Comparison(f"slope of the error over the width, {label}", slope, -0.5, 0.08)
        )
    what = "Covariances over random networks of four widths against the infinite one"
    return Result(
        checks.statement(what, comparisons[: len(estimates)]),
        comparisons,
        [picture_of_errors(errors), picture_of_entries(kernels, exact)],
    )


def picture_of_errors(errors) -> Picture:
    """Error over width."""
    figure, axes = figures.canvas()
    looks = {1: (figures.BLUE, "o-", "one hidden layer"), 3: (figures.ORANGE, "s--", "three")}
    for hidden, (color, style, label) in looks.items():
        axes.loglog(WIDTHS, errors[hidden], style, color=color, label=label)
    guide = errors[1][0] * np.sqrt(WIDTHS[0] / np.array(WIDTHS))
    axes.loglog(WIDTHS, guide, ":", color=figures.INK, label="1 / √width")
    axes.set(
        xlabel="width of the network",
        ylabel="error of the covariance (relative)",
        title="Single networks approach the kernel",
    )
    axes.set_xticks(WIDTHS, [str(width) for width in WIDTHS])
    axes.minorticks_off()
    axes.legend()
    return Picture(
        figure,
        "How far the covariance in one random network is from that of the infinitely wide one, for "
        "pairs of handwritten digits. Both lines fall like the dotted one, 1 / √width.",
        "Two falling lines on logarithmic axes, parallel to a dotted one.",
    )


def picture_of_entries(kernels, exact) -> Picture:
    """Entries of single networks over the exact ones."""
    figure, axes = figures.canvas()
    at = np.triu_indices(NUM_IMAGES)
    for position, color, marker in ((0, figures.SKY, "."), (3, figures.BLUE, "o")):
        axes.plot(
            exact[3][at],
            kernels[3][position][0][at],
            marker,
            color=color,
            ms=4,
            label=f"width {WIDTHS[position]}",
        )
    ends = [exact[3].min(), exact[3].max()]
    axes.plot(ends, ends, color=figures.INK, lw=1)
    axes.set(
        xlabel="covariance by the formula",
        ylabel="covariance in one network",
        title="Every pair of twelve digits",
    )
    axes.legend(loc="upper left")
    return Picture(
        figure,
        "Each mark is a pair of digits, in one random network with three hidden layers. With 1024 "
        "units per layer the network is close to the line, with 16 it is far from it.",
        "Scatter of two kinds of marks around the diagonal, one of them close to it.",
    )


CHAPTER = Chapter(
    id="infinite-width",
    system="Infinitely wide networks (NNGP)",
    question="When is a random neural network a Gaussian process?",
    data="12 handwritten digits (from scikit-learn)",
    run=run,
)
