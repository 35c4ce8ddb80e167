"""Adaptive rejection inside Gibbs: which measurements tell a malignant tumour?

A logistic regression of the diagnosis on two measurements, with normal priors. None of the
conditional densities has a name, but each is log-concave, so that lines through a few of its points
enclose it from above, and every coefficient is drawn exactly from its conditional by adaptive
rejection.

The exact answer: the posterior of the three coefficients, by the trapezium rule on a grid of 41
points each over nine standard deviations, which for a density as smooth as this is exact to many
digits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from sklearn.datasets import load_breast_cancer

import bayleaf as bl
from bayleaf.logconcave.fit import fit_hull
from bayleaf.logconcave.hull import TangentHull
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

NAMES = ("intercept", "radius", "texture")
PRIOR_SD = 2.5
measured, benign = map(np.asarray, load_breast_cancer(return_X_y=True))
scaled = (measured[:, :2] - measured[:, :2].mean(0)) / measured[:, :2].std(0)
X = np.stack([np.ones(len(scaled)), *scaled.T], axis=1)
y = 1.0 - benign
GRID_SIZE, GRID_REACH = 27, 4.5


def log_density(beta):
    """Normal priors, and the likelihood of all diagnoses."""
    logit = X @ beta
    return jnp.sum(y * logit - jax.nn.softplus(logit)) - 0.5 * jnp.sum(beta**2) / PRIOR_SD**2


def exact() -> tuple[np.ndarray, np.ndarray]:
    """The grid along each direction, and the probabilities of its points.

    The grid is laid in the directions in which the posterior is nearly a unit normal.
    """
    beta = np.zeros(3)
    for _ in range(30):
        p = 1 / (1 + np.exp(-X @ beta))
        gradient = X.T @ (y - p) - beta / PRIOR_SD**2
        precision = (X * (p * (1 - p))[:, None]).T @ X + np.eye(3) / PRIOR_SD**2
        beta = beta + np.linalg.solve(precision, gradient)
    factor = np.linalg.inv(np.linalg.cholesky(precision)).T
    axis = np.linspace(-GRID_REACH, GRID_REACH, GRID_SIZE)
    z = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    points = beta + z @ factor.T
    log_p = np.asarray(
        jax.jit(lambda points: jax.lax.map(log_density, points, batch_size=512))(points)
    )
    p = np.exp(log_p - log_p.max())
    return points, p / p.sum()


def run(quick: bool) -> Result:
    """Sample, and compare with the grid."""
    found = bl.sample(
        log_density,
        bl.mcmc.AdaptiveRejection(),
        init=np.zeros(3),
        key=jax.random.key(0),
        num_draws=500 if quick else 1500,
        num_warmup=50,
        progress=False,
    )
    draws, (points, p) = found.draws, exact()
    means = p @ points
    spreads = np.sqrt(p @ (points - means) ** 2)
    estimates = []
    for i, name in enumerate(NAMES):
        estimates.append(checks.mean(f"{name}: mean", draws[..., i], means[i]))
        estimates.append(checks.sd(f"{name}: sd", draws[..., i], means[i], spreads[i]))
    product = np.prod(points[:, 1:] - means[1:], axis=1)
    drawn = np.prod(draws[..., 1:] - means[1:], axis=-1)
    estimates.append(checks.mean("radius and texture: covariance", drawn, p @ product))
    comparisons = checks.judge(estimates)
    refused = checks.Comparison(
        "share of sweeps with a conditional that is not log-concave",
        float(1 - np.mean(found.stats["is_log_concave"])),
        0.0,
    )
    return Result(
        checks.statement("The three coefficients, against a grid", comparisons),
        [*comparisons, refused],
        [picture_of_hull(means), picture_of_margins(draws, points, p)],
    )


def picture_of_hull(means) -> Picture:
    """The conditional of one coefficient, its hull and its squeeze."""

    def conditional(t):
        return log_density(jnp.asarray(means).at[1].set(t))

    points = jnp.asarray(means[1] + np.array([-0.5, 0.0, 0.5]))
    ends = jnp.asarray(-jnp.inf, points.dtype), jnp.asarray(jnp.inf, points.dtype)
    hull = jax.device_get(
        jax.jit(lambda points: fit_hull(TangentHull(), conditional, points, *ends, 1).hull)(points)
    )
    x = np.linspace(means[1] - 0.95, means[1] + 0.95, 600)
    values = np.asarray(jax.vmap(conditional)(jnp.asarray(x, points.dtype)))
    top = values.max()
    distance = np.abs(x[:, None] - hull.x)
    side = (x[:, None] >= hull.x).astype(int)
    knot = np.arange(hull.x.size)
    rate, width = hull.rate[knot, side], hull.width[knot, side]
    lines = np.where(distance <= width * (1 + 1e-6), hull.value + rate * distance, np.inf)
    upper = lines.min(axis=1)
    lower = np.interp(x, hull.x, hull.value, left=-np.inf, right=-np.inf)
    figure, axes = figures.canvas()
    axes.plot(x, np.exp(upper - top), color=figures.ORANGE, label="hull")
    axes.plot(x, np.exp(values - top), color=figures.INK, label="conditional density")
    axes.plot(x, np.exp(lower - top), color=figures.BLUE, ls="--", label="squeeze")
    axes.plot(hull.x, np.exp(hull.value - top), "o", color=figures.INK, ms=4)
    axes.set(
        xlim=(x[0], x[-1]),
        ylim=(0, 1.4),
        xlabel="coefficient of the radius",
        ylabel="density (its highest value is 1)",
        title="Seven points enclose a density",
    )
    axes.legend(loc="upper left")
    return Picture(
        figure,
        "The density of one coefficient, the others held fixed, lies between two functions that "
        "touch it at seven points. Draws come from the hull. One below the squeeze is accepted "
        "at once; only between the two is the density asked. More points bring the two together.",
        "A bell-shaped curve between a slightly higher and a slightly lower curve of exponential "
        "pieces that touch it at seven dots.",
    )


def picture_of_margins(draws, points, p) -> Picture:
    """The margins of both slopes, drawn and exact."""
    figure, axes = figures.canvas()
    for i, color in ((1, figures.SKY), (2, figures.GREEN)):
        figures.density(axes, draws[..., i], f"{NAMES[i]}, draws", color, alpha=0.6)
        x = np.linspace(points[:, i].min(), points[:, i].max(), 200)
        # The grid's points, each spread over a fifth of a standard deviation.
        spread = 0.2 * np.sqrt(p @ (points[:, i] - p @ points[:, i]) ** 2)
        height = stats.norm.pdf(x[:, None], points[:, i], spread) @ p
        axes.plot(x, height, color=figures.INK, lw=1.2, label="exact" if i == 2 else None)
    axes.set(
        xlabel="coefficient (log odds per standard deviation)",
        ylabel="density",
        title="How much each measurement tells",
    )
    axes.legend(loc="upper right")
    return Picture(
        figure,
        "Histograms of the draws of both slopes, and the exact posterior from a grid of points "
        "(black). A tumour with a larger radius is far more likely to be malignant; the texture "
        "tells less, but tells something.",
        "Two histograms with curves on their tops, one near 1 and a wider one near 4.",
    )


CHAPTER = Chapter(
    id="adaptive-rejection",
    system="Adaptive rejection in Gibbs",
    question="Which measurements tell a malignant tumour, when no conditional has a name?",
    data="569 breast tumours (from scikit-learn)",
    run=run,
)
