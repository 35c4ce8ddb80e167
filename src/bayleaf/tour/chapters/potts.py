"""Potts's model with data: a noisy photograph is divided into three shades.

Each pixel of a photograph has one of q = 3 shades; what is seen is its shade plus noise. Neighbours
tend to have the same shade. The posterior of the shades z given the picture y is a Potts model in a
field, which is the log likelihood,

    log p(z | y) = beta * #{neighbours with z_i = z_j} - sum_i (y_i - m_(z_i))^2 / (2 s^2) + const,

and is sampled by clusters. From the draws comes what no single segmentation has: how sure the shade
of each pixel is.

The exact answer is known for a strip of the picture, 6 pixels wide and as long as one likes. Its
rows are a Markov chain of 3^6 = 729 states, and the forward-backward recursion gives the posterior
of every pixel. The sampler must agree with it on the strip; then it does the whole picture.
"""

from __future__ import annotations

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp, softmax

import bayleaf as bl
from bayleaf.partitions import Graph, Potts
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

NUM_SHADES, COUPLING, NOISE = 3, 1.0, 0.25
STRENGTH = 0.3  # of the bonds: the data outweigh the couplings
STRIP = (24, 6)
WHERE = (40, 86)  # the upper left corner of the strip, at the side of the temple


def photograph() -> np.ndarray:
    """A Chinese temple in grey, from 0 to 1, every fourth pixel."""
    from sklearn.datasets import load_sample_image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grey = load_sample_image("china.jpg").mean(axis=2)[::4, ::4]
    return (grey - grey.min()) / (grey.max() - grey.min())


def shades_of(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each shade and the shade of each pixel: k-means in one dimension."""
    means = np.quantile(grey, (np.arange(NUM_SHADES) + 0.5) / NUM_SHADES)
    for _ in range(50):
        shades = np.abs(grey[..., None] - means).argmin(axis=-1)
        means = np.array([grey[shades == s].mean() for s in range(NUM_SHADES)])
    return means, shades


def posterior(seen: np.ndarray, means: np.ndarray) -> Potts:
    """The model of the shades of all pixels that are seen."""
    field = -0.5 * ((seen.reshape(-1, 1) - means) / NOISE) ** 2
    return Potts(Graph.lattice(seen.shape), NUM_SHADES, COUPLING, field=field)


def exact_marginals(seen: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The posterior of each pixel of a narrow strip, [row, column, shade], by its rows."""
    rows = np.array(list(itertools.product(range(NUM_SHADES), repeat=seen.shape[1])))
    inside = COUPLING * (rows[:, 1:] == rows[:, :-1]).sum(axis=1)
    between = COUPLING * (rows[:, None] == rows[None]).sum(axis=2)
    fit = -0.5 * ((seen[:, None, :] - means[rows]) / NOISE) ** 2
    local = fit.sum(axis=2) + inside
    forward, backward = local.copy(), np.zeros_like(local)
    for row in range(1, len(local)):
        forward[row] += logsumexp(forward[row - 1][:, None] + between, axis=0)
    for row in range(len(local) - 1, 0, -1):
        backward[row - 1] = logsumexp(between + local[row] + backward[row], axis=1)
    p = np.asarray(softmax(forward + backward, axis=1))
    return np.stack([p @ (rows == s) for s in range(NUM_SHADES)], axis=-1)


def sample(potts: Potts, num_draws: int) -> np.ndarray:
    """Shades of all pixels, [chain, draw, site], in bytes: a picture has many."""
    target = potts.target(keep=lambda shades: shades.astype(jnp.int8))
    return bl.sample(
        target,
        bl.mcmc.SwendsenWang(strength=STRENGTH),
        key=jax.random.key(0),
        num_draws=num_draws,
        num_warmup=100,
        progress=False,
    ).draws


def run(quick: bool) -> Result:
    """The strip against its exact posterior, then the whole picture."""
    means, truth = shades_of(photograph())
    seen = means[truth] + NOISE * np.random.default_rng(0).normal(size=truth.shape)

    strip = seen[WHERE[0] : WHERE[0] + STRIP[0], WHERE[1] : WHERE[1] + STRIP[1]]
    exact = exact_marginals(strip, means)
    draws = sample(posterior(strip, means), 3000 if quick else 10_000)
    draws = draws.reshape(*draws.shape[:2], *STRIP)
    share = np.stack([(draws == s).mean(axis=(0, 1)) for s in range(NUM_SHADES)], axis=-1)
    doubt = 1 - exact.max(axis=-1)
    pixels = np.dstack(np.unravel_index(np.argsort(-doubt, axis=None)[:8], STRIP))[0]
    estimates = [
        checks.mean(
            f"probability of shade {s + 1} at row {row}, column {column}",
            np.asarray(draws[:, :, row, column] == s, float),
            exact[row, column, s],
        )
        for row, column in pixels
        for s in (int(exact[row, column].argmax()),)
    ]
    comparisons = checks.judge(estimates)

    whole = sample(posterior(seen, means), 200 if quick else 500)
    chance = np.stack([(whole == s).mean(axis=(0, 1)) for s in range(NUM_SHADES)], axis=-1)
    chance = chance.reshape(*truth.shape, NUM_SHADES)
    alone = np.abs(seen[..., None] - means).argmin(axis=-1)
    wrong = {"each alone": (alone != truth).mean(), "together": (chance.argmax(-1) != truth).mean()}
    comparisons.append(
        checks.Comparison(
            "share of pixels with a wrong shade, over that of each pixel alone",
            float(wrong["together"] / wrong["each alone"]),
            0.6,
            relation="≤",
        )
    )
    what = (
        f"Posterior probabilities of pixels of a strip of {STRIP[0]} x {STRIP[1]} against "
        "the exact ones"
    )
    pictures = [picture_of_shades(seen, alone, chance, wrong), picture_of_strip(exact, share)]
    return Result(checks.statement(what, comparisons), comparisons, pictures)


def picture_of_shades(seen, alone, chance, wrong) -> Picture:
    """The noisy picture, two segmentations, and the doubt about one."""
    figure, axes = figures.grid(2, 2, 6.0, 4.4)
    shown = (
        (seen, "what is seen", "gray"),
        (alone, f"each pixel alone: {wrong['each alone']:.0%} wrong", "gray"),
        (chance.argmax(-1), f"together: {wrong['together']:.0%} wrong", "gray"),
        (1 - chance.max(-1), "doubt", "magma"),
    )
    for axis, (image, title, colours) in zip(axes.ravel(), shown, strict=True):
        axis.imshow(image, cmap=colours, interpolation="nearest")
        axis.set(xticks=[], yticks=[], title=title)
    return Picture(
        figure,
        "A photograph of three shades under noise (above left). Choosing the likeliest shade of "
        "each pixel by itself leaves speckles (above right). The most probable shade of each "
        "pixel under the Potts model, in which neighbours tend to agree, removes most of them "
        "(below left). Below right, the probability that this shade is wrong: bright along edges "
        "and on small things, dark elsewhere.",
        "Four versions of a photograph of a temple: noisy, speckled, clean, and a map that is "
        "bright along the edges.",
    )


def picture_of_strip(exact, share) -> Picture:
    """All probabilities of the strip against the exact ones."""
    figure, axes = figures.canvas()
    axes.plot([0, 1], [0, 1], color=figures.INK, lw=1)
    axes.plot(exact.ravel(), share.ravel(), "o", color=figures.BLUE, ms=4, mfc="none")
    axes.set(
        xlabel="exact probability",
        ylabel="share of the draws",
        title=f"{exact.size} probabilities of a narrow strip",
    )
    return Picture(
        figure,
        "For each pixel of the strip, and each of the three shades, the share of draws in which "
        "the pixel has this shade, against its exact posterior probability from the recursion "
        "along the rows. All lie on the diagonal.",
        "Circles along the diagonal of a square, from zero to one.",
    )


CHAPTER = Chapter(
    id="potts",
    system="Potts's model with data",
    question="A noisy photograph is divided into three shades. How sure is the shade of a pixel?",
    data="a photograph of a Chinese temple (from scikit-learn), three shades, with noise added",
    run=run,
)
