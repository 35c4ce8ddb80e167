"""A Bayesian neural network by HMC: reading handwritten digits, and saying when it is unsure.

All 760 weights and biases of a small network are unknown, with a normal prior; HMC draws whole
networks from the posterior, in single precision. What the model says of a new digit is the mean of
what all these networks say.

Nobody knows this posterior in closed form, but every posterior on an open space fulfils

    E[ -w . grad log p(w | data) ] = number of weights in w

exactly, for all weights and for those of each layer (integrate by parts): the check of the sampler.
Chains that have not settled miss it by many standard errors. The predictions are compared with
logistic regression on digits that neither has seen. They must also not claim too much: of n digits
each named with probability p_i, about sum p_i must be right, with variance sum p_i (1 - p_i).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import bayleaf as bl
from bayleaf.mcmc.metric import Diagonal
from bayleaf.targets import likelihoods, networks
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
order = np.random.default_rng(0).permutation(labels.size)
LAYERS = ("first weights", "first biases", "last weights", "last biases")
ONE_IN_A_MILLION = 4.75  # standard deviations of a normal, one-sided


def run(quick: bool) -> Result:
    """Sample networks, check the identity, and let them read unseen digits."""
    seen, unseen = np.split(order, [500 if quick else 1000])
    network = eqx.nn.MLP(
        64, 10, 10, depth=1, activation=jnp.tanh, dtype=jnp.float32, key=jax.random.key(0)
    )
    target = bl.Target.from_equinox(
        network,
        likelihood=likelihoods.categorical,
        data=(images[seen], labels[seen]),
        prior_scale=1.5,
    )
    size = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_array)))
    draws = bl.sample(
        target,
        bl.mcmc.HMC(num_steps=60, metric=Diagonal(jnp.ones(size, jnp.float32))),
        key=jax.random.key(0),
        num_draws=100 if quick else 150,
        num_warmup=100,
        progress=False,
    ).draws

    bayes = predict(target, draws, images[unseen])
    point = predict(target, most_probable(target, draws), images[unseen])
    logistic = LogisticRegression(max_iter=2000).fit(images[seen], labels[seen])
    scores = {
        "all networks": score(bayes, labels[unseen]),
        "the most probable one": score(point, labels[unseen]),
        "logistic regression": score(logistic.predict_proba(images[unseen]), labels[unseen]),
    }
    ours, theirs = scores["all networks"], scores["logistic regression"]
    confidence = bayes.max(axis=1)
    margin = ONE_IN_A_MILLION * np.sqrt(np.sum(confidence * (1 - confidence)))
    named, claimed = ours[0] * unseen.size, float(confidence.sum())
    identity = checks.judge(identity_of_layers(target, draws))
    at_least: Any = (
        ("share of unseen digits named rightly, against logistic regression", ours[0], theirs[0]),
        ("log-likelihood of an unseen digit, against logistic regression", ours[1], theirs[1]),
        ("unseen digits named rightly, against what it claims", named, claimed, margin),
    )
    comparisons = [checks.Comparison(*numbers, relation="≥") for numbers in at_least]
    what = (
        "Unseen digits against logistic regression; not more sure than right (binomial bound, "
        "1e-6); and E[-w . grad log p] of each layer, which is its number of weights exactly"
    )
    return Result(
        checks.statement(what, identity),
        [*comparisons, *identity],
        [picture_of_unsure(bayes, unseen), picture_of_reliability(bayes, labels[unseen], scores)],
    )


def identity_of_layers(target, draws):
    """The identity for the weights and the biases of each layer."""
    gradient = jax.jit(lambda w: jax.lax.map(jax.vmap(jax.grad(target)), w))(
        jax.tree.map(jnp.asarray, draws)
    )
    estimates = []
    for name, w, g in zip(LAYERS, jax.tree.leaves(draws), jax.tree.leaves(gradient), strict=True):
        product = -np.asarray(w * g, np.float64).reshape(*w.shape[:2], -1).sum(axis=-1)
        estimates.append(checks.mean(f"identity of the {name}", product, float(w[0, 0].size)))
    return estimates


def predict(target, draws, x):
    """The probability of each class, averaged over up to 200 draws."""
    every = max(1, jax.tree.leaves(draws)[0].shape[1] // 50)
    some = jax.tree.map(lambda leaf: leaf[:, ::every], draws)
    logits = networks.predict(target, some, x)
    return np.asarray(jax.nn.softmax(logits.astype(float), axis=-1).mean(axis=(0, 1)))


def most_probable(target, draws):
    """The network at a mode of the posterior, by gradient ascent from a draw."""
    optimizer = optax.adam(1e-2)

    def ascend(carry, _):
        weights, state = carry
        updates, state = optimizer.update(jax.grad(lambda w: -target(w))(weights), state)
        return (optax.apply_updates(weights, updates), state), None

    start = jax.tree.map(lambda leaf: jnp.asarray(leaf[0, 0]), draws)
    loop = jax.jit(lambda carry: jax.lax.scan(ascend, carry, length=1000)[0])
    weights, _ = loop((start, optimizer.init(start)))
    return jax.tree.map(lambda leaf: leaf[None, None], weights)


def score(probability, truth):
    """The share named rightly, and the mean log-likelihood."""
    right = probability.argmax(axis=1) == truth
    of_truth = probability[np.arange(truth.size), truth]
    return float(right.mean()), float(np.log(of_truth).mean())


def picture_of_unsure(bayes, unseen) -> Picture:
    """The digits of which it is least sure, and one of which it is sure."""
    unsure = np.argsort(bayes.max(axis=1))
    chosen = [*unsure[:5], unsure[-1]]
    figure, grid = figures.grid(4, 3, height=4.6, height_ratios=(1.5, 1, 1.5, 1))
    for k, i in enumerate(chosen):
        row, column = 2 * (k // 3), k % 3
        picture, bars = grid[row, column], grid[row + 1, column]
        picture.imshow(images[unseen[i]].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        picture.set_axis_off()
        picture.set_title(f"it is a {labels[unseen[i]]}", fontsize=9, loc="center")
        is_truth = np.arange(10) == labels[unseen[i]]
        bars.bar(range(10), bayes[i], color=np.where(is_truth, figures.BLUE, figures.PALE))
        bars.set(ylim=(0, 1), xticks=range(10), yticks=[0, 1])
        bars.tick_params(labelsize=7, length=2)
    figure.supylabel("probability of each digit", fontsize=9)
    return Picture(
        figure,
        "The five unseen digits of which the network is least sure, and last the one of which it "
        "is surest. Bars: its probability of each digit from 0 to 9, blue for what it really is. "
        "The doubt is spread over digits that look alike, at pictures where a person would "
        "hesitate. (Hidden units can trade places without a change in what a network says, so the "
        "chains do not agree on single weights, as the sampler remarks below; no check here "
        "depends on that.)",
        "Six small images of handwritten digits, each above a bar chart of ten probabilities.",
    )


def picture_of_reliability(bayes, truth, scores) -> Picture:
    """How often it is right, by how sure it is."""
    confidence, right = bayes.max(axis=1), bayes.argmax(axis=1) == truth
    edges = np.quantile(confidence, np.linspace(0, 1, 9))
    bins = np.clip(np.digitize(confidence, edges) - 1, 0, 7)
    figure, axes = figures.canvas(height=4.6)
    axes.plot([0, 1], [0, 1], color=figures.INK, ls=":", lw=1.2, label="as sure as right")
    for b in range(8):
        mine = bins == b
        claimed, share = confidence[mine].mean(), right[mine].mean()
        half = 1.645 * np.sqrt(claimed * (1 - claimed) / mine.sum())
        axes.plot([claimed] * 2, [claimed - half, claimed + half], color=figures.SKY, lw=6)
        axes.plot(claimed, share, "o", color=figures.BLUE, ms=6)
    axes.plot([], [], color=figures.SKY, lw=6, label="where 90 % of dots would be, if so")
    axes.plot([], [], "o", color=figures.BLUE, label="an eighth of the unseen digits")
    axes.set(
        xlim=(0.3, 1.02),
        ylim=(0.3, 1.02),
        xlabel="how sure it is (probability it gives its answer)",
        ylabel="how often it is right",
        title="Is it as often right as it says?",
    )
    axes.legend(loc="lower right")
    table = "; ".join(f"{name} {a:.1%} and {ll:.3f}" for name, (a, ll) in scores.items())
    return Picture(
        figure,
        "Unseen digits in eight groups, by how sure the network is. Dots above the dotted line "
        "mean that it is right more often than it says: this posterior is careful, above all where "
        "it hesitates, and never claims too much. Named rightly, and log-likelihood of a digit: "
        f"{table}. Averaging over networks names more digits rightly than the most probable "
        "network does; that it is too careful about easy ones costs it likelihood.",
        "Eight dots on or above the diagonal of a plot of accuracy against confidence.",
    )


CHAPTER = Chapter(
    id="neural-network",
    system="Bayesian neural network by HMC",
    question="Can a network read handwriting, and say where it is not sure?",
    data="1797 handwritten digits of 8 x 8 pixels (from scikit-learn)",
    run=run,
)
