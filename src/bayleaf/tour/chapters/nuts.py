"""The no-U-turn sampler: a regression whose parameters are correlated by 0.99.

Test scores of 434 children, explained by whether the mother finished high school, by her IQ, and by
the product of the two. Nothing is centred, so the four coefficients can trade off against each
other: the posterior is a thin, long needle. NUTS is run with its default settings, whose warm-up
learns the direction of the needle.

The reference: 10,000 draws by Stan, published in posteriordb as kidiq-kidscore_interaction.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import cauchy, norm

import bayleaf as bl
from bayleaf.tour import checks, figures
from bayleaf.tour.data import load
from bayleaf.tour.entry import Chapter, Picture, Result

FILE = load("kidiq")
score, high_school, iq = (
    np.array(FILE["data"][name], float) for name in ("kid_score", "mom_hs", "mom_iq")
)
design = np.stack([np.ones_like(iq), high_school, iq, high_school * iq], axis=1)
LABELS = ("intercept", "high school", "IQ", "high school × IQ")


def log_density(p):
    """A flat prior on the coefficients, a half-Cauchy one on the scale of what is unexplained."""
    log_likelihood = norm.logpdf(score, design @ p["beta"], p["sigma"]).sum()
    return cauchy.logpdf(p["sigma"], 0, 2.5) + log_likelihood


def target() -> bl.Target:
    """Where the parameters live, and where chains start."""
    return bl.Target(
        log_density,
        init={"beta": jnp.zeros(4), "sigma": 1.0},
        constrain={"sigma": bl.constraints.positive},
    )


def run(quick: bool) -> Result:
    """Sample with default settings, and compare with the published draws."""
    draws = bl.sample(
        target(), key=jax.random.key(0), num_draws=500 if quick else 2000, progress=False
    ).draws
    scalars = {f"beta[{i + 1}]": draws["beta"][..., i] for i in range(4)}
    scalars["sigma"] = draws["sigma"]
    estimates = []
    for name, values in scalars.items():
        label = LABELS[int(name[5]) - 1] if name.startswith("beta") else "sigma"
        estimates += checks.against_summary(label, values, FILE["reference"][name])
    comparisons = checks.judge(estimates)
    what = "Five parameters, each by mean, sd and five quantiles, against published reference draws"
    return Result(
        checks.statement(what, comparisons),
        comparisons,
        [picture_of_scores(draws), picture_of_needle(draws), picture_of_quantiles(scalars)],
    )


def picture_of_scores(draws) -> Picture:
    """The children, and the two lines."""
    figure, axes = figures.canvas(4.1, 3.4)
    across = np.linspace(iq.min(), iq.max(), 60)
    beta = figures.thinned(draws["beta"], 1000)
    kinds = (
        (0, figures.ORANGE, "x", "--", "not finished"),
        (1, figures.BLUE, "o", "-", "finished"),
    )
    for finished, color, marker, style, label in kinds:
        mine = high_school == finished
        axes.scatter(iq[mine], score[mine], s=14, marker=marker, color=color, alpha=0.35, lw=0.8)
        terms = np.stack([np.ones(60), np.full(60, finished), across, finished * across])
        low, middle, high = np.quantile(beta @ terms, [0.05, 0.5, 0.95], axis=0)
        axes.plot(across, middle, style, color=color, lw=2, label=f"mother's high school: {label}")
        axes.fill_between(across, low, high, color=color, alpha=0.2, lw=0)
    axes.set(
        xlabel="mother's IQ (points)",
        ylabel="child's test score (points)",
        title="Scores of 434 children",
    )
    axes.legend(loc="lower right")
    return Picture(
        figure,
        "Each mark is a child. The lines are the expected score, the bands hold them with "
        "probability 90 %. Children of mothers who did not finish high school (crosses, dashed) "
        "score lower, and the gap closes with the mother's IQ.",
        "Scatter plot of children's scores against mothers' IQ with two rising lines that meet at "
        "high IQ.",
    )


def picture_of_needle(draws) -> Picture:
    """Two coefficients against each other."""
    figure, axes = figures.canvas(4.1, 3.4)
    beta = figures.thinned(draws["beta"], 1500)
    axes.plot(beta[:, 1], beta[:, 3], ".", color=figures.BLUE, ms=3, alpha=0.5, rasterized=True)
    correlation = np.corrcoef(beta[:, 1], beta[:, 3])[0, 1]
    axes.set(
        xlabel="effect of high school (points)",
        ylabel="high school × IQ (points per IQ point)",
        title=f"The needle: a correlation of {correlation:.3f}",
    )
    return Picture(
        figure,
        "Draws of two of the coefficients. More of one can be made up by less of the other, so the "
        "posterior is a needle, far longer than it is wide. A sampler that takes steps of the same "
        "size in all directions creeps along it; warm-up has learnt its shape here, and the draws "
        "cover all of it.",
        "Scatter of two coefficients along a thin falling line.",
    )


def picture_of_quantiles(scalars) -> Picture:
    """Quantiles of the run beside those of the reference."""
    figure, axes = figures.canvas(4.1, 3.4)
    for row, (name, values) in enumerate(scalars.items()):
        reference = FILE["reference"][name]
        q = np.array(list(reference["q"].values()))
        ours = np.quantile(values, [float(p) for p in reference["q"]])
        ours, q = (
            (ours - reference["mean"]) / reference["sd"],
            (q - reference["mean"]) / reference["sd"],
        )
        axes.plot(q, np.full(5, row), "o", mfc="none", color=figures.INK, ms=10)
        axes.plot(ours, np.full(5, row), "|", color=figures.ORANGE, ms=12, mew=2)
    axes.plot([], [], "o", mfc="none", color=figures.INK, ms=10, label="published draws")
    axes.plot([], [], "|", color=figures.ORANGE, ms=12, mew=2, label="bayleaf")
    axes.set_yticks(range(5), [*LABELS, "sigma"])
    axes.set(xlabel="standard deviations from the mean", title="Five quantiles of each parameter")
    axes.set_ylim(5.1, -0.6)
    axes.legend(loc="lower center", ncols=2)
    return Picture(
        figure,
        "For each parameter the values below which 5, 25, 50, 75 and 95 % of the posterior lie: "
        "circles from the published draws of another program, bars from this run. The bars sit "
        "in the circles, up to the sampling error of both.",
        "Five rows of five circles, each with a bar in it.",
    )


CHAPTER = Chapter(
    id="nuts",
    system="No-U-turn sampler (NUTS)",
    question="How much do a mother's schooling and IQ tell about her child's test score?",
    data="test scores of 434 children (posteriordb: kidiq-kidscore_interaction)",
    run=run,
)
