"""A variational autoencoder of handwritten digits, with its likelihood known by quadrature.

An image is 64 black or white pixels; a decoder network makes their probabilities of a latent point
z ~ N(0, I), and an encoder network makes of an image the guide q(z | x). Both are fitted to 1,500
images. With two latent coordinates the likelihood of an unseen image,

    p(x) = integral of p(x | z) N(z; 0, I) dz,

is a sum over a fine grid, which no autoencoder of many dimensions has. Against it are held the two
bounds: the ELBO, which must lie below, and the average of many weights p(x, z) / q(z | x), which
must come close to it. The model must also beat independent pixels.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import bayleaf as bl
from bayleaf.tour import figures
from bayleaf.tour.checks import Comparison
from bayleaf.tour.entry import Chapter, Picture, Result
from bayleaf.variational import GaussianEncoder, fit_amortised

LATENT, WIDTH = 2, 128
digits, labels = load_digits(return_X_y=True)
images = (digits > 7).astype(np.float32)
order = np.random.default_rng(0).permutation(labels.size)
seen, unseen = order[:1500], order[1500:]


def networks(key):
    """The encoder and the decoder before they have learnt anything."""
    one, two = jax.random.split(key)
    shape: dict[str, Any] = {"width_size": WIDTH, "depth": 2, "activation": jnp.tanh}
    shape["dtype"] = jnp.float32
    encoder = eqx.nn.MLP(64, 2 * LATENT, key=one, **shape)
    return GaussianEncoder(encoder), eqx.nn.MLP(LATENT, 64, key=two, **shape)


@eqx.filter_jit
def by_quadrature(model, x, size: int = 81, reach: float = 5.0):
    """Log p(x) of each image: the sum over a square grid of latent points."""
    ticks = jnp.linspace(-reach, reach, size)
    grid = jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1).reshape(-1, LATENT)
    logits = jax.vmap(model.decoder)(grid)
    # log p(x | z) = sum over the pixels of x l - softplus(l): one product for all of them.
    given = x @ logits.T - jnp.sum(jax.nn.softplus(logits), axis=1)[None]
    joint = given + jax.vmap(model.prior.log_prob)(grid)[None]
    return jax.nn.logsumexp(joint, axis=1) + 2 * jnp.log(ticks[1] - ticks[0])


def independent_pixels(train, test) -> Any:
    """Log p(x) if each pixel were black with its own probability, whatever the others are."""
    share = (train.sum(axis=0) + 0.5) / (train.shape[0] + 1)
    return test @ np.log(share) + (1 - test) @ np.log1p(-share)


def run(quick: bool) -> Result:
    """Fit both networks, and hold the bounds to the exact likelihood."""
    train, test = images[seen], images[unseen]
    fitted = fit_amortised(
        *networks(jax.random.key(0)),
        train,
        key=jax.random.key(1),
        likelihood=bl.likelihoods.bernoulli,
        num_steps=1000 if quick else 2500,
        progress=False,
    )
    exact = np.asarray(by_quadrature(fitted.model, jnp.asarray(test)), np.float64)
    bound = fitted.elbo(test, key=jax.random.key(2), num_draws=100)
    several = fitted.log_likelihood(test, key=jax.random.key(3), num_draws=1000 if quick else 2000)
    simple = independent_pixels(train, test)
    comparisons = [
        Comparison(
            "log-likelihood of an unseen digit by weighted draws of the guide, against quadrature",
            float(several.mean()),
            float(exact.mean()),
            0.3,
        ),
        Comparison(
            "the same, which may not exceed it",
            float(several.mean()),
            float(exact.mean()),
            0.05,
            "≤",
        ),
        Comparison("ELBO, below it", float(bound.mean()), float(exact.mean()), 0.05, "≤"),
        Comparison(
            "likelihood, above that of independent pixels",
            float(exact.mean()),
            float(simple.mean()) + 3,
            relation="≥",
        ),
    ]
    return Result(
        f"The bounds of {test.shape[0]} digits that were not fitted, against their exact "
        "log-likelihood by quadrature. The logarithm of an average of weights falls short of it by "
        "half of their relative variance divided by their number, which is large where the guide "
        "is narrower than the posterior: 0.3 nats are allowed on average",
        comparisons,
        [picture_of_map(fitted), picture_of_pairs(fitted, test), picture_of_bounds(exact, bound)],
    )


def picture_of_map(fitted) -> Picture:
    """What the decoder makes of a grid of latent points."""
    number, tile = 11, 10  # a tile is an image of 8 x 8 with a margin
    ticks = np.linspace(-2.2, 2.2, number)
    points = np.stack(np.meshgrid(ticks, ticks[::-1]), axis=-1).reshape(-1, LATENT)
    shown = jax.nn.sigmoid(jax.vmap(fitted.decoder)(jnp.asarray(points, jnp.float32)))
    padded = np.pad(
        np.asarray(shown).reshape(number, number, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1))
    )
    tiles = padded.transpose(0, 2, 1, 3).reshape(number * tile, number * tile)
    figure, axes = figures.canvas(4.7, 4.9)
    axes.imshow(tiles, cmap="gray_r", extent=(-2.4, 2.4, -2.4, 2.4), interpolation="nearest")
    axes.set(
        xlabel="first latent coordinate",
        ylabel="second latent coordinate",
        title="A map of the digits that the model knows",
    )
    return Picture(
        figure,
        "The image that the decoder makes of each point of a grid in the latent plane. "
        "Neighbouring points give similar digits, and one digit turns into another: the model has "
        "arranged what it has seen on a plane.",
        "A square of small grey images of digits that change gradually from tile to tile.",
    )


def picture_of_pairs(fitted, test) -> Picture:
    """Unseen digits above what the model makes of them."""
    chosen = [np.flatnonzero(labels[unseen] == digit)[0] for digit in range(10)]
    logits = fitted.reconstruct(test[chosen], key=jax.random.key(5))
    rows = (test[chosen], np.asarray(jax.nn.sigmoid(logits)))
    figure, panels = figures.grid(2, 10, 6.4, 1.8)
    for axes_of_row, row, name in zip(panels, rows, ("unseen", "model"), strict=True):
        for axes, image in zip(axes_of_row, row, strict=True):
            axes.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set_visible(False)
        axes_of_row[0].set_ylabel(name)
    return Picture(
        figure,
        "Above: one unseen image of each digit from 0 to 9. Below: the image through the encoder, "
        "one draw of its guide, and the decoder. Two numbers hold what is common to the shape; "
        "digits that look alike on this plane (4 and 9, 3 and 8) are confused at times.",
        "Two rows of ten small images; the lower ones are blurred versions of the upper ones.",
    )


def picture_of_bounds(exact, bound) -> Picture:
    """The ELBO of each unseen digit against its log-likelihood."""
    figure, axes = figures.canvas()
    low, high = min(exact.min(), bound.min()) - 1, exact.max() + 1
    axes.plot([low, high], [low, high], color=figures.INK, ls=(0, (4, 3)), lw=1, label="equal")
    axes.plot(exact, bound, ".", color=figures.BLUE, ms=4, alpha=0.6, label="unseen digits")
    axes.set(
        xlabel="log-likelihood by quadrature (nats)",
        ylabel="ELBO (nats)",
        title="A lower bound, image by image",
    )
    axes.legend(loc="upper left")
    return Picture(
        figure,
        "Each dot is an unseen digit. The ELBO lies below the exact log-likelihood, by the "
        "divergence of the encoder's guide from the true posterior of its latent point.",
        "Scatter plot; all dots lie on or below a dashed diagonal.",
    )


CHAPTER = Chapter(
    id="vae",
    system="Variational autoencoder",
    question="How close are the bounds of an autoencoder to the likelihood that they bound?",
    data="1,797 handwritten digits of 8 x 8 pixels, made black and white (from scikit-learn)",
    run=run,
)
