"""A hierarchical model: what did coaching do in eight schools?

Each school estimated the effect of coaching its pupils for a test, with a large error. Are the
differences between schools real? The model lets the data say: the true effects are normal around a
common mean mu with a spread tau between schools, and tau is unknown too.

    theta_j = mu + tau z_j,   z_j ~ N(0, 1),   y_j ~ N(theta_j, sigma_j)

It is written with z (non-centred): the same model in terms of theta is a funnel, narrow where tau
is near zero, in which no step size fits everywhere.

The reference: 10,000 draws by Stan, published in posteriordb as
eight_schools-eight_schools_noncentered. Data: Rubin (1981).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import bayleaf as bl
from bayleaf.tour import checks, figures
from bayleaf.tour.data import load
from bayleaf.tour.entry import Chapter, Picture, Result

FILE = load("eight_schools")
effects, errors = (np.array(FILE["data"][name], float) for name in ("y", "sigma"))


def log_density(p):
    """Mu ~ N(0, 5), tau ~ half-Cauchy(0, 5)."""
    residuals = (effects - p["mu"] - p["tau"] * p["z"]) / errors
    prior = (p["mu"] / 5) ** 2 + 2 * jnp.log1p((p["tau"] / 5) ** 2) + jnp.sum(p["z"] ** 2)
    return -0.5 * (prior + jnp.sum(residuals**2))


def target() -> bl.Target:
    """Where the parameters live, and where chains start."""
    return bl.Target(
        log_density,
        init={"mu": 0.0, "tau": 1.0, "z": jnp.zeros(8)},
        constrain={"tau": bl.constraints.positive},
    )


def run(quick: bool) -> Result:
    """Sample with default settings, and compare with the published draws."""
    draws = bl.sample(
        target(), key=jax.random.key(0), num_draws=500 if quick else 2000, progress=False
    ).draws
    theta = draws["mu"][..., None] + draws["tau"][..., None] * draws["z"]
    scalars = {"tau": draws["tau"], "mu": draws["mu"]}
    scalars |= {f"theta[{j + 1}]": theta[..., j] for j in range(8)}
    estimates = []
    for name, values in scalars.items():
        estimates += checks.against_summary(name, values, FILE["reference"][name])
    excess = theta - effect_given(draws["tau"])
    for j in range(8):
        quantity = f"theta[{j + 1}] minus its exact mean given tau"
        estimates.append(checks.mean(quantity, excess[..., j], 0.0))
    comparisons = checks.judge(estimates)
    what = (
        "Ten quantities, each by mean, sd and five quantiles, against published reference draws; "
        "and the effects against their exact means given tau"
    )
    return Result(
        checks.statement(what, comparisons),
        comparisons,
        [picture_of_schools(theta, draws["mu"]), picture_of_spread(draws["tau"], theta)],
    )


def effect_given(tau):
    """The exact posterior mean of each effect if tau were known: all is Gaussian then."""
    tau = np.asarray(tau)[..., None]
    weight = 1 / (errors**2 + tau**2)
    mu = np.sum(weight * effects, axis=-1, keepdims=True)
    mu = mu / (1 / 5**2 + np.sum(weight, axis=-1, keepdims=True))
    return (tau**2 * effects + errors**2 * mu) * weight


def picture_of_schools(theta, mu) -> Picture:
    """Each school alone, and in the light of the others."""
    figure, axes = figures.canvas(height=4.4)
    order = np.argsort(effects)
    for row, j in enumerate(order):
        low, high = effects[j] - 1.645 * errors[j], effects[j] + 1.645 * errors[j]
        axes.plot([low, high], [row + 0.17] * 2, color=figures.GREY, lw=1.5)
        axes.plot(effects[j], row + 0.17, "o", mfc="white", color=figures.GREY, ms=7)
        low, high = np.quantile(theta[..., j], [0.05, 0.95])
        axes.plot([low, high], [row - 0.17] * 2, color=figures.BLUE, lw=3)
        axes.plot(theta[..., j].mean(), row - 0.17, "o", color=figures.BLUE, ms=7)
        published = FILE["reference"][f"theta[{j + 1}]"]["mean"]
        axes.plot(published, row - 0.17, "|", color=figures.ORANGE, ms=14, mew=2)
    axes.axvline(mu.mean(), color=figures.INK, ls=":", lw=1.2)
    axes.set_yticks(range(8), [f"school {'ABCDEFGH'[j]}" for j in order])
    axes.plot([], [], "o-", mfc="white", color=figures.GREY, label="the school alone")
    axes.plot([], [], "o-", color=figures.BLUE, lw=3, label="in the light of the others")
    axes.plot([], [], "|", color=figures.ORANGE, ms=12, mew=2, label="published mean")
    axes.set(
        xlabel="effect of coaching (points of the test)", title="Eight schools, pulled together"
    )
    figure.legend(loc="outside lower center", ncols=3)
    return Picture(
        figure,
        "Grey: what each school measured on its own, with a 90 % interval. Blue: the posterior, "
        "which knows all eight. Estimates move towards the common mean (dotted), those with the "
        "largest errors most, and the intervals get shorter. Orange bars: the means of the "
        "published draws, which the blue dots must hit, and do.",
        "Intervals for eight schools; the posterior ones are shorter and closer together than the "
        "measured ones.",
    )


def picture_of_spread(tau, theta) -> Picture:
    """The effects as a function of the spread: exact lines, and means of draws."""
    spread, effect = np.ravel(tau), theta.reshape(-1, 8)
    edges = np.quantile(spread, np.linspace(0, 0.98, 13))
    bins = np.digitize(spread, edges) - 1
    figure, axes = figures.canvas(height=4.4)
    across = np.linspace(0, edges[-1], 100)
    lines = effect_given(across)
    colors, markers = (figures.BLUE, figures.ORANGE), "osD^"
    for rank, j in enumerate(np.argsort(-effects)):
        look = {"color": colors[rank // 4], "marker": markers[rank % 4]}
        axes.plot(across, lines[:, j], color=look["color"], lw=1.2)
        middle = [spread[bins == b].mean() for b in range(12)]
        means = [effect[bins == b, j].mean() for b in range(12)]
        axes.plot(middle, means, ls="", ms=4.5, **look, label="ABCDEFGH"[j])
    axes.set(
        xlabel="spread between schools, tau (points)",
        ylabel="mean effect (points)",
        title="If schools differ by so much, then ...",
    )
    axes.legend(ncols=4, title="school", loc="upper left")
    return Picture(
        figure,
        "The mean effect of each school for a given spread tau between schools. If schools do not "
        "differ (left), all have the same effect; the more they may differ, the more each keeps of "
        "its own measurement. Lines: exact, since all is Gaussian once tau is known. Marks: means "
        "of the draws whose tau is near. The posterior averages over tau, which the data leave "
        "wide open.",
        "Eight lines that start together at the left and fan out to the right, with marks on them.",
    )


CHAPTER = Chapter(
    id="hierarchical",
    system="Hierarchical model by NUTS",
    question="Coaching was tried in eight schools: what did it do in each?",
    data="coaching in eight schools (Rubin 1981; posteriordb: eight_schools_noncentered)",
    run=run,
)
