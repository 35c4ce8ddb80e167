"""Learned bonds: a network says which neighbours move together, and the posterior stays exact.

A sweep of the generalised Swendsen-Wang algorithm ties neighbours of one cluster together, each
pair with a probability q, and lets the pieces choose their clusters anew. Any q that does not look
at the labels leaves the posterior as it is; it only decides how well the sampler mixes. So q may
come from a neural network, whatever its weights.

That is checked where the posterior can be enumerated: eight patches of a photograph have 4140
partitions, whose probabilities two networks with random weights must give. Then a network is
trained in warm-up on a noisy piece of the photograph, to move far for its cost, and compared with
the rule it began with, in effective draws per counted cost.
"""

from __future__ import annotations

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gammaln, softmax
from scipy.stats import multivariate_normal

import bayleaf as bl
from bayleaf.mcmc import Contrast, GeneralisedSwendsenWang, LearnedBonds
from bayleaf.mcmc.learned_bonds import BondNetwork
from bayleaf.mcmc.mixing import least_effective
from bayleaf.partitions import DirichletProcess, Graph, NormalMean, PartitionModel
from bayleaf.tour import checks, figures
from bayleaf.tour.chapters.potts import photograph
from bayleaf.tour.entry import Chapter, Picture, Result

PATCHES, COUPLING = (2, 4), 0.8
VARIANCE, PRIOR_VARIANCE = 0.002, 0.1
SIDE, NOISE = 12, 0.15
WHERE = (46, 90)  # the piece's upper left corner, at the side of the temple


def model_of(grey: np.ndarray, variance: float) -> PartitionModel:
    """Clusters of pixels, or patches, whose grey is a mean of their own plus noise."""
    likelihood = NormalMean(
        grey.ravel(), variance=variance, prior_variance=PRIOR_VARIANCE, prior_mean=0.5
    )
    graph = Graph.lattice(grey.shape)
    return PartitionModel(graph, DirichletProcess(1.0), likelihood, coupling=COUPLING)


def partitions(num_sites: int) -> np.ndarray:
    """All partitions as labels numbered by first sites, [partition, site]."""
    rows = [[0]]
    for _ in range(num_sites - 1):
        rows = [[*row, label] for row in rows for label in range(max(row) + 2)]
    return np.array(rows)


def exact(grey: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All partitions and their probabilities, from normal densities of sets of patches."""
    every, y, n = partitions(grey.size), grey.ravel(), grey.size
    value = np.zeros(2**n)
    for code in range(1, 2**n):
        y_set = y[[i for i in range(n) if code >> i & 1]]
        covariance: Any = VARIANCE * np.eye(y_set.size) + PRIOR_VARIANCE
        value[code] = multivariate_normal(np.full(y_set.size, 0.5), covariance).logpdf(y_set)
        value[code] += gammaln(y_set.size)  # alpha = 1
    weight = COUPLING * np.sum(every[:, edges[:, 0]] == every[:, edges[:, 1]], axis=1)
    for label in range(n):
        weight = weight + value[(every == label) @ 2 ** np.arange(n)]
    return every, np.asarray(softmax(weight))


def random_network(seed: int) -> Any:
    """A network that nobody has trained, with weights of order one."""
    network = BondNetwork(key=jax.random.key(seed))
    out = eqx.nn.Linear(4, "scalar", key=jax.random.key(seed + 1))
    return eqx.tree_at(lambda n: n.out, network, jax.tree.map(lambda w: 2 * w, out))


def sample(own: PartitionModel, bonds: Any, num_draws: int, num_warmup: int = 100) -> Any:
    """Chains with these bonds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bl.errors.SamplingWarning)  # they are compared as they are
        return bl.sample(
            own,
            GeneralisedSwendsenWang(bonds),
            key=jax.random.key(0),
            num_draws=num_draws,
            num_warmup=num_warmup,
            progress=False,
        )


def run(quick: bool) -> Result:
    """Exact probabilities whatever the network, and what training gains."""
    picture = photograph()
    row, column = WHERE
    piece = picture[row : row + SIDE, column : column + SIDE]
    patches = picture[row : row + 16, column : column + 32].reshape(2, 8, 4, 8).mean(axis=(1, 3))
    few = model_of(patches, VARIANCE)
    every, p = exact(patches, np.asarray(few.graph.edges))
    estimates, seen = [], {}
    for name, seed in (("random network", 0), ("another one", 5)):
        q = LearnedBonds(random_network(seed))(jax.random.key(0), few)
        draws = np.asarray(sample(few, q, 2000 if quick else 6000).draws)
        number = draws.max(axis=-1) + 1
        seen[name] = np.array([(number == k).mean() for k in range(1, 7)])
        together = p @ (every[:, :, None] == every[:, None, :]).reshape(len(p), -1)
        doubt = np.argsort(-together * (1 - together))[:6:2]
        estimates.append(
            checks.mean(f"clusters, {name}", number.astype(float), p @ (every.max(axis=1) + 1))
        )
        for i, j in (divmod(int(pair), 8) for pair in doubt):
            same = np.asarray(draws[..., i] == draws[..., j], float)
            what = f"probability that patches {i + 1} and {j + 1} are one cluster, {name}"
            estimates.append(checks.mean(what, same, together[8 * i + j]))
    comparisons = checks.judge(estimates)

    noisy = piece + NOISE * np.random.default_rng(0).normal(size=piece.shape)
    many = model_of(noisy, NOISE**2)
    trained = sample(many, LearnedBonds(), 8, 600 if quick else 1500)
    learned, duel = trained.kernel.bonds.thaw(), trained.sampler.tuning.duel
    rules = {"contrast": Contrast()(jax.random.key(0), many), "learned": learned.fixed}
    value = np.asarray(jax.vmap(least_effective)(jax.tree.map(jnp.asarray, duel)), float)
    found = {"the rule it began with": float(value[0]), "trained network": float(value[1])}
    kept = max(value) if np.ptp(rules["contrast"] - rules["learned"]) > 0 else value[0]
    comparisons.append(
        checks.Comparison(
            "effective draws per cost of the bonds that are kept, over those of the rule",
            float(kept / value[0]),
            1.0,
            relation="≥",
        )
    )
    what = "Posterior of eight patches under two networks with random weights, against all 4140"
    exact_number = np.array([p[every.max(axis=1) + 1 == k].sum() for k in range(1, 7)])
    pictures = [
        picture_of_numbers(exact_number, seen),
        picture_of_bonds(noisy, np.asarray(many.graph.edges), rules),
        picture_of_worth(found),
    ]
    return Result(checks.statement(f"{what} partitions", comparisons), comparisons, pictures)


def picture_of_numbers(exact_number: np.ndarray, seen: dict[str, np.ndarray]) -> Picture:
    """The number of clusters, exact and from both networks."""
    figure, axes = figures.canvas()
    k = np.arange(1, 7)
    axes.bar(k, exact_number, color=figures.PALE, width=0.8, label="exact")
    marks = (("o", figures.BLUE), ("x", figures.ORANGE))
    for (name, share), (mark, colour), shift in zip(
        seen.items(), marks, (-0.12, 0.12), strict=True
    ):
        axes.plot(k + shift, share, mark, color=colour, ms=7, mfc="none", label=name)
    axes.set(xlabel="clusters of eight patches", ylabel="probability", title="Whatever the bonds")
    axes.legend()
    return Picture(
        figure,
        "How many clusters eight patches of a photograph fall into: grey bars, by summing over all "
        "4140 partitions; circles and crosses, shares of draws whose bonds come from two networks "
        "with random weights. Both stand at the tops of the bars: bonds decide how fast the chain "
        "moves, not where it goes.",
        "A bar chart with two sets of marks at the tops of the bars.",
    )


def picture_of_bonds(noisy: np.ndarray, edges: np.ndarray, rules: dict[str, Any]) -> Picture:
    """The bond probabilities before and after training, on the piece."""
    figure, axes = figures.grid(1, 2, 6.4, 3.4)
    top = max(float(np.max(rules[name])) for name in ("contrast", "learned"))
    for axis, name in zip(axes, ("contrast", "learned"), strict=True):
        axis.imshow(noisy, cmap="gray", alpha=0.55)
        y, x = np.divmod(edges, noisy.shape[1])
        for e, q in enumerate(np.asarray(rules[name])):
            axis.plot(x[e], y[e], color=figures.ORANGE, lw=2.5, alpha=float(q) / top)
        average = float(np.mean(rules[name]))
        axis.set(xticks=[], yticks=[], title=f"{name}: {average:.2f} on average")
    return Picture(
        figure,
        "The probability that two neighbouring pixels of a noisy piece of the photograph are tied "
        "together when they are in one cluster, as the strength of the line between them. Left, "
        "the rule that training began with, which ties pixels of like grey; right, the same after "
        "warm-up has trained the network to move far for its cost. It does not draw the edges of "
        "the picture: bonds that do so mix badly.",
        "Two noisy grey squares under a grid of orange lines of varying strength.",
    )


def picture_of_worth(found: dict[str, float]) -> Picture:
    """Effective draws per cost of the rule and the network."""
    figure, axes = figures.canvas(4.7, 2.2)
    names = list(found)[::-1]
    axes.barh(names, [1e3 * found[name] for name in names], color=[figures.BLUE, figures.GREY])
    axes.set(xlabel="effective draws per 1000 visits of pieces", title="What training gains")
    return Picture(
        figure,
        "The duel at the end of the warm-up: effective draws of the slowest statistic, per counted "
        "cost of the sweeps. The better of both makes the recorded draws. A gain over the rule is "
        "no reason to train: on the data sets of the benchmark the best single strength of bonds, "
        "which warm-up finds by bonds='auto', is as good.",
        "Two horizontal bars.",
    )


CHAPTER = Chapter(
    id="learned-bonds",
    system="Swendsen-Wang with learned bonds",
    question="May a neural network choose which pixels move together, and does it pay?",
    data="pieces of a photograph of a Chinese temple (from scikit-learn), with noise added",
    run=run,
)
