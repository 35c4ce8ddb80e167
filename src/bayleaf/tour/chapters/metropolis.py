"""Metropolis-Hastings, with three proposals: does a large nucleus mean a malignant tumour?

Logistic regression of the diagnosis of 569 breast tumours on the mean radius of their cell nuclei:
two parameters, no closed form. Propose x* ~ q(x* | x) and accept it with probability

    min(1, p(x*) q(x | x*) / (p(x) q(x* | x))).

The random walk proposes near by, the independence sampler from a Gaussian fitted at the mode (with
twice its covariance, for the tails), Langevin (MALA) up the gradient. Same formula, same posterior.

The exact answer: in two dimensions the posterior can be summed on a grid.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_breast_cancer

import bayleaf as bl
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

measured, diagnosis = map(np.asarray, load_breast_cancer(return_X_y=True))
radius = measured[:, 0]
malignant = (diagnosis == 0).astype(float)
x = (radius - radius.mean()) / radius.std()
PRIOR_SCALE = 5.0


def log_density(beta):
    """The log posterior of intercept and slope; the prior is N(0, 5) on each."""
    logit = beta[0] + beta[1] * x
    log_likelihood = jnp.sum(malignant * logit - jnp.logaddexp(0.0, logit))
    return log_likelihood - 0.5 * jnp.sum((beta / PRIOR_SCALE) ** 2)


def proposals() -> dict[str, object]:
    """The three of them; what they leave open is learnt in warm-up."""
    found = minimize(
        lambda b: -log_density(b), np.zeros(2), jac=lambda b: -jax.grad(log_density)(b)
    )
    covariance = jnp.linalg.inv(-jax.hessian(log_density)(found.x))
    return {
        "random walk": bl.mcmc.RandomWalk(),
        "independence": bl.mcmc.Independence.from_gaussian(jnp.array(found.x), 2 * covariance),
        "Langevin": bl.mcmc.Langevin(),
    }


def exact(num_points: int = 161) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two axes, and the posterior probability of each point of their grid."""
    intercept, slope = np.linspace(-1.8, 0.4, num_points), np.linspace(1.8, 5.6, num_points)
    points = np.stack(np.meshgrid(intercept, slope, indexing="ij"), axis=-1).reshape(-1, 2)
    log_p = np.concatenate([jax.vmap(log_density)(part) for part in np.array_split(points, 20)])
    p = np.exp(log_p - log_p.max()).reshape(num_points, num_points)
    return intercept, slope, p / p.sum()


def run(quick: bool) -> Result:
    """Sample by each proposal, and compare with the grid."""
    intercept, slope, p = exact()
    axes = {"slope": (slope, p.sum(axis=0)), "intercept": (intercept, p.sum(axis=1))}
    draws, estimates = {}, []
    for name, proposal in proposals().items():
        draws[name] = bl.sample(
            log_density,
            bl.mcmc.MetropolisHastings(proposal),
            init=jnp.zeros(2),
            key=jax.random.key(0),
            num_draws=2000 if quick else 10_000,
            num_warmup=500,
            progress=False,
        ).draws
        for column, quantity in ((1, "slope"), (0, "intercept")):
            at, weight = axes[quantity]
            center = weight @ at
            spread = np.sqrt(weight @ (at - center) ** 2)
            mine = draws[name][..., column]
            estimates.append(checks.mean(f"{name}: mean of the {quantity}", mine, center))
            estimates.append(checks.sd(f"{name}: sd of the {quantity}", mine, center, spread))
    comparisons = checks.judge(estimates)
    return Result(
        checks.statement("Slope and intercept by three proposals, against a grid", comparisons),
        comparisons,
        [picture_of_tumours(draws["random walk"]), picture_of_draws(draws, intercept, slope, p)],
    )


def picture_of_tumours(draws) -> Picture:
    """The data, and the probability that the model gives."""
    across = np.linspace(radius.min(), radius.max(), 100)
    beta = figures.thinned(draws, 2000)
    logit = beta[:, :1] + beta[:, 1:] * (across - radius.mean()) / radius.std()
    low, middle, high = np.quantile(1 / (1 + np.exp(-logit)), [0.05, 0.5, 0.95], axis=0)
    figure, axes = figures.canvas()
    shift = np.random.default_rng(0).uniform(-0.03, 0.03, radius.size)
    axes.plot(radius, malignant + shift, "|", color=figures.INK, ms=6, alpha=0.4)
    axes.fill_between(across, low, high, color=figures.SKY, alpha=0.6, lw=0, label="90 % band")
    axes.plot(across, middle, color=figures.BLUE, lw=2, label="probability of malignant")
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["benign: 0", "0.25", "0.5", "0.75", "malignant: 1"])
    axes.set(xlabel="mean radius of the nuclei (as recorded)", title="569 tumours")
    axes.legend(loc="center right")
    return Picture(
        figure,
        "Each tick is a tumour, above if it was malignant and below if not. The curve is the "
        "probability of malignant that the model infers from the radius alone, with the band that "
        "holds it with probability 90 %.",
        "An S-shaped curve rising from benign to malignant as the radius grows, over ticks for 569 "
        "tumours.",
    )


def picture_of_draws(draws, intercept, slope, p) -> Picture:
    """The three clouds on the exact contours."""
    figure, grid = figures.grid(1, 3)
    # Contours that hold 50, 90 and 99 % of the exact posterior.
    ranked = np.sort(p.ravel())
    levels = [ranked[np.searchsorted(np.cumsum(ranked), 1 - share)] for share in (0.99, 0.9, 0.5)]
    for axes, (name, cloud) in zip(grid, draws.items(), strict=True):
        some = figures.thinned(cloud, 700)
        axes.plot(
            some[:, 0], some[:, 1], ".", color=figures.BLUE, ms=2.5, alpha=0.5, rasterized=True
        )
        axes.contour(intercept, slope, p.T, levels=levels, colors=figures.INK, linewidths=1)
        axes.set(title=name, xlim=(-1.4, 0.1), ylim=(2.3, 5.0))
        axes.label_outer()
    grid[0].set_ylabel("slope")
    grid[1].set_xlabel("intercept")
    return Picture(
        figure,
        "The posterior of the two parameters. Black: exact contours that hold 50, 90 and 99 % of "
        "it, from a sum over a grid. Blue: 700 draws by each proposal. All three fill the same "
        "contours in the same way, though they move by quite different steps: that is what the "
        "acceptance rule is for.",
        "Three scatter plots, each with the same three nested contours over the draws.",
    )


CHAPTER = Chapter(
    id="metropolis",
    system="Metropolis-Hastings, three proposals",
    question="Does a large cell nucleus mean that a breast tumour is malignant?",
    data="569 breast tumours (Wisconsin diagnostic data, from scikit-learn)",
    run=run,
)
