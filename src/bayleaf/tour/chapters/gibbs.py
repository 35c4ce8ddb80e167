"""Gibbs sampling: when did disasters in British coal mines become rare?

The disasters of each year are Poisson counts, with one rate before an unknown year of change and
another from then on. Given the year, both rates are Gamma distributed; given the rates, the year
has a probability for each of its 111 values. So every block is drawn exactly from its conditional,
and the year is discrete, which no gradient method could do.

The exact answer: the rates integrate out, so the posterior of the year is a sum of 111 terms,

    p(c | y) ~ G(S, c) G(T, n - c),   G(s, m) = Gamma(1 + s) / (1 + m)^(1 + s),

with S disasters in the c years before the change and T in the n - c years after it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gammaln, softmax

import bayleaf as bl
from bayleaf.tour import checks, figures
from bayleaf.tour.data import load
from bayleaf.tour.entry import Chapter, Picture, Result

DATA = load("coal")["data"]
counts = np.array(DATA["disasters"])
years = np.arange(counts.size)


def log_density(p):
    """Exponential priors on both rates, a uniform one on the year of change."""
    rate = jnp.where(years < p["change"], p["early"], p["late"])
    return jnp.sum(counts * jnp.log(rate) - rate) - p["early"] - p["late"]


def draw_rate(is_mine):
    """Exactly from the Gamma conditional of the rate that holds in the years ``is_mine``."""

    def draw(key, p):
        mine = is_mine(p["change"])
        return jax.random.gamma(key, 1.0 + jnp.sum(counts * mine)) / (1.0 + jnp.sum(mine))

    return bl.mcmc.Conditional(draw)


def draw_change(key, p):
    """Exactly from the probabilities of all years, given both rates."""
    of_year = jax.vmap(lambda year: log_density({**p, "change": year}))(years)
    return jax.random.categorical(key, of_year)


kernel = bl.mcmc.Gibbs(
    {
        "early": draw_rate(lambda change: years < change),
        "late": draw_rate(lambda change: years >= change),
        "change": bl.mcmc.Conditional(draw_change),
    }
)


def exact() -> dict[str, np.ndarray]:
    """The posterior of the year, and mean and mean square of both rates, by summation."""
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    shapes = {"early": 1.0 + before, "late": 1.0 + counts.sum() - before}
    weights = {"early": 1.0 + years, "late": 1.0 + counts.size - years}
    log_p = sum(np.asarray(gammaln(shapes[k])) - shapes[k] * np.log(weights[k]) for k in shapes)
    p = np.asarray(softmax(log_p))
    answer = {"year": p}
    for name, a in shapes.items():
        b = weights[name]
        answer[name] = np.array([p @ (a / b), p @ (a * (a + 1) / b**2)])
    return answer


def run(quick: bool) -> Result:
    """Sample, and compare with the sums."""
    draws = bl.sample(
        log_density,
        kernel,
        init={"early": 2.0, "late": 1.0, "change": 50},
        key=jax.random.key(0),
        num_draws=1000 if quick else 5000,
        num_warmup=100,
        progress=False,
    ).draws
    answer = exact()
    estimates = []
    for name in ("early", "late"):
        center, square = answer[name]
        spread = np.sqrt(square - center**2)
        estimates.append(checks.mean(f"disasters a year, {name}: mean", draws[name], center))
        estimates.append(checks.sd(f"disasters a year, {name}: sd", draws[name], center, spread))
    by_year = np.cumsum(answer["year"])
    for year in (36, 38, 40, 42, 45):
        is_before = draws["change"] <= year
        quantity = f"probability that the change came by {DATA['first_year'] + year}"
        estimates.append(checks.share(quantity, is_before, by_year[year]))
    comparisons = checks.judge(estimates)
    return Result(
        checks.statement("The rates and the year, against exact summation", comparisons),
        comparisons,
        [picture_of_rates(draws), picture_of_year(draws, answer["year"])],
    )


def picture_of_rates(draws) -> Picture:
    """The counts, and the rate of each year."""
    some = {name: figures.thinned(value, 2000)[:, None] for name, value in draws.items()}
    rate = np.where(years < some["change"], some["early"], some["late"])
    low, high = np.quantile(rate, [0.05, 0.95], axis=0)
    calendar = DATA["first_year"] + years
    figure, axes = figures.canvas()
    axes.bar(calendar, counts, color=figures.PALE, width=0.8, label="disasters")
    axes.fill_between(calendar, low, high, color=figures.SKY, alpha=0.5, label="rate, 90 % band")
    axes.plot(calendar, rate.mean(axis=0), color=figures.BLUE, label="rate, mean")
    axes.set(xlabel="year", ylabel="disasters a year", title="Disasters, and the rate behind them")
    axes.legend(loc="upper right")
    return Picture(
        figure,
        "Grey bars: disasters with ten or more killed in British coal mines, year by year. Blue: "
        "the rate that the model infers, with the band that holds it with probability 90 %. It "
        "falls from about three a year to about one, and the slope is as steep as the data are "
        "sure of the year: the model itself knows only a sudden change.",
        "Bar chart of disasters a year from 1851 to 1961; the inferred rate falls from three to "
        "one around 1890.",
    )


def picture_of_year(draws, probability) -> Picture:
    """The posterior of the year, drawn and exact."""
    shown = slice(30, 52)
    drawn = np.bincount(draws["change"].ravel(), minlength=years.size) / draws["change"].size
    calendar = DATA["first_year"] + years[shown]
    figure, axes = figures.canvas()
    axes.bar(calendar, drawn[shown], color=figures.SKY, label="Gibbs sampler")
    axes.plot(calendar, probability[shown], "o", color=figures.INK, ms=4, label="exact")
    axes.set(
        xlabel="first year of the lower rate",
        ylabel="probability",
        title="When did it change?",
    )
    axes.legend()
    return Picture(
        figure,
        "How probable each year is as the first of the quieter time. Bars: share of the draws. "
        "Dots: the exact probability, which for this model can be summed by hand. The dots sit on "
        "the tops of the bars: the sampler has found the right distribution, and not only its "
        "peak.",
        "Probability of each year of change between 1881 and 1902, bars of draws topped by exact "
        "dots, highest at 1891.",
    )


CHAPTER = Chapter(
    id="gibbs",
    system="Gibbs sampling",
    question="When did disasters in British coal mines become rare, and by how much?",
    data="191 disasters in British coal mines, 1851 to 1961 (Jarrett 1979)",
    run=run,
)
