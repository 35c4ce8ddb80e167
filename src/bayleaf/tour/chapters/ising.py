"""Ising's model at its critical point: whole clusters turn, and the energy is Kaufman's.

Each site of an L x L lattice carries a spin, up or down, that likes to agree with its four
neighbours. At the critical temperature clusters of like spins have all sizes, up to that of the
lattice. A sampler that turns one spin after the other needs L^2.2 sweeps to turn the largest ones;
Swendsen and Wang's turns all clusters at once.

The exact answer is Kaufman's (1949) for the periodic lattice, with J the coupling,

    Z = (2 sinh 2J)^(L^2 / 2) / 2 * (Y1 + Y2 + Y3 + Y4),
    Y1 = prod_r 2 cosh(L g_(2r+1) / 2),    Y2 = prod_r 2 sinh(L g_(2r+1) / 2),
    Y3 = prod_r 2 cosh(L g_2r / 2),        Y4 = prod_r 2 sinh(L g_2r / 2),    r = 0, ..., L - 1,
    cosh g_k = cosh(2J) coth(2J) - cos(pi k / L),    g_0 = 2J + log tanh J,

of which the energy is the derivative, -d log Z / dJ.
"""

from __future__ import annotations

import warnings

import jax
import numpy as np

import bayleaf as bl
from bayleaf.partitions import Graph, Potts
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

CRITICAL = np.log1p(np.sqrt(2)) / 2
SIZE = 64
SMALL = 32  # where single spins are turned too
TEMPERATURES = np.array([0.8, 0.9, 1.0, 1.1, 1.25])  # of the critical one
SHOWN = {0.9: "colder", 1.0: "critical", 1.25: "hotter"}


def log_partition(coupling: float, size: int) -> float:
    """Kaufman's log Z."""
    waves = np.pi * np.arange(2 * size) / size
    cosh = np.cosh(2 * coupling) / np.tanh(2 * coupling) - np.cos(waves)
    g = np.arccosh(np.maximum(cosh, 1.0))
    g[0] = 2 * coupling + np.log(np.tanh(coupling))  # negative below the critical coupling
    half = size * g / 2
    # log of 2 cosh and of 2 sinh, whose arguments are large: the products would overflow
    log_cosh = np.abs(half) + np.log1p(np.exp(-2 * np.abs(half)))
    with np.errstate(divide="ignore"):
        log_sinh = np.abs(half) + np.log(-np.expm1(-2 * np.abs(half)))
    odd, even = slice(1, None, 2), slice(0, None, 2)
    logs = [log_cosh[odd].sum(), log_sinh[odd].sum(), log_cosh[even].sum(), log_sinh[even].sum()]
    signs = [1, 1, 1, np.sign(half[0])]
    top = max(logs)
    total = sum(s * np.exp(y - top) for s, y in zip(signs, logs, strict=True))
    return size**2 / 2 * np.log(2 * np.sinh(2 * coupling)) - np.log(2) + top + np.log(total)


def exact_energy(coupling: float, size: int, step: float = 2e-4) -> float:
    """Per site: minus the derivative of log Z, by a difference of fifth order."""
    weights, places = np.array([1, -8, 8, -1]) / (12 * step), np.array([-2, -1, 1, 2]) * step
    values = [log_partition(coupling + place, size) for place in places]
    return float(-(weights @ values) / size**2)


def model(temperature: float, size: int = SIZE) -> Potts:
    """The periodic lattice at a temperature, in units of the critical one."""
    return Potts.ising(Graph.lattice((size, size), periodic=True), CRITICAL / temperature)


def sample(potts: Potts, kernel, num_draws: int, num_warmup: int, key: int = 0):
    """Energies per site, [chain, sweep], and the last state of the first chain."""
    last = {"num_chains": 4, "num_warmup": num_warmup, "progress": False}
    # Of each draw one number is kept, and the energy is among the statistics: no lattice piles up.
    target = potts.target(keep=potts.magnetisation)
    run = bl.sample(target, kernel, key=jax.random.key(key), num_draws=num_draws, **last)
    energies = 2 - 2 * run.stats["num_like"] / potts.graph.num_sites
    size = int(potts.graph.num_sites**0.5)
    return np.asarray(energies, np.float64), run.sampler.states.position[0].reshape(size, size)


def autocorrelation_time(energies: np.ndarray) -> float:
    """Sweeps for half an independent draw, 1/2 + the sum of the autocorrelations."""
    return energies.size / (2 * checks.effective_sample_size(energies))


def run(quick: bool) -> Result:
    """Energies at several temperatures, and how fast two samplers forget at the critical one."""
    num_draws = 1000 if quick else 4000
    runs = {
        t: sample(model(t), bl.mcmc.SwendsenWang(), num_draws, 200, key)
        for key, t in enumerate(TEMPERATURES)
    }
    estimates = [
        checks.mean(
            f"energy per site at {t:.2f} of the critical temperature",
            energies,
            exact_energy(CRITICAL / t, SIZE),
        )
        for t, (energies, _) in sorted(runs.items(), key=lambda item: abs(item[0] - 1))
    ]
    comparisons = checks.judge(estimates)
    small, num_sweeps = model(1.0, SMALL), 1500 if quick else 4000
    clusters, _ = sample(small, bl.mcmc.SwendsenWang(), num_sweeps, 200)
    with warnings.catch_warnings():  # that it has hardly come to agree is the point
        warnings.simplefilter("ignore", bl.errors.SamplingWarning)
        spins, _ = sample(small, bl.mcmc.SingleSiteMetropolis(), num_sweeps, 200)
    times = autocorrelation_time(clusters), autocorrelation_time(spins)
    comparisons.append(
        checks.Comparison(
            "sweeps to forget by single spins, over those by clusters",
            times[1] / times[0],
            2.0,
            relation="≥",
        )
    )
    what = f"Energies of a lattice of {SIZE} x {SIZE} spins against Kaufman's exact ones"
    pictures = [
        picture_of_states(runs),
        picture_of_energies(runs),
        picture_of_traces(clusters, spins, times),
    ]
    return Result(checks.statement(what, comparisons), comparisons, pictures)


def picture_of_states(runs) -> Picture:
    """The last state at three temperatures."""
    figure, axes = figures.grid(1, 3, 6.0, 2.4)
    for axis, (t, label) in zip(axes, SHOWN.items(), strict=True):
        axis.imshow(runs[t][1], cmap="Greys", interpolation="nearest", vmin=-0.35, vmax=1.35)
        axis.set(xticks=[], yticks=[], title=f"{label} ({t})")
    return Picture(
        figure,
        "Spins, up (dark) or down (pale), after some thousand sweeps at 0.9, 1 and 1.25 of the "
        "critical temperature. Colder, one direction has won; hotter, patches are small; at the "
        "critical point there are patches of every size.",
        "Three square patterns of dark and pale cells: nearly uniform, patchy at all scales, "
        "finely speckled.",
    )


def picture_of_energies(runs) -> Picture:
    """Energies against Kaufman's curve."""
    across = np.linspace(0.75, 1.3, 120)
    figure, axes = figures.canvas()
    exact = [exact_energy(CRITICAL / t, SIZE) for t in across]
    axes.plot(across, exact, color=figures.INK, lw=1.5, label="Kaufman, exact")
    means = [runs[t][0].mean() for t in TEMPERATURES]
    axes.plot(
        TEMPERATURES,
        means,
        "o",
        color=figures.ORANGE,
        ms=7,
        mfc="none",
        mew=1.8,
        label="Swendsen-Wang",
    )
    axes.axvline(1.0, color=figures.GREY, lw=0.8, ls=":")
    axes.set(
        xlabel="temperature (critical = 1)",
        ylabel="mean energy per spin",
        title="The energy, and the exact curve",
    )
    axes.legend(loc="upper left")
    return Picture(
        figure,
        "Circles: the mean energy of a spin, from the draws; their errors are smaller than the "
        "line is wide. The curve is exact for this finite lattice. It is steepest at the critical "
        "temperature (dotted), where samplers have it hardest.",
        "Five circles on a rising curve, which is steepest in the middle.",
    )


def picture_of_traces(clusters, spins, times) -> Picture:
    """How the energy wanders, sweep after sweep."""
    figure, axes = figures.grid(2, 1, 4.7, 3.6, sharex=True, sharey=True)
    shown = (
        (clusters, figures.BLUE, "clusters", times[0]),
        (spins, figures.ORANGE, "one spin after the other", times[1]),
    )
    for axis, (energies, color, label, time) in zip(axes, shown, strict=True):
        axis.plot(energies[0, :400], color=color, lw=0.9)
        axis.set_title(f"{label}: forgets in {time:.0f} sweeps")
    axes[0].set_ylabel("energy")
    axes[1].set(ylabel="energy", xlabel="sweep")
    return Picture(
        figure,
        f"The energy of a spin at the critical temperature, sweep after sweep, on a lattice of "
        f"{SMALL} x {SMALL}. Turning whole "
        "clusters (above) gives a fresh value every few sweeps. Turning single spins by "
        "Metropolis's rule (below) leaves waves of dozens of sweeps, and longer ones on "
        "larger lattices.",
        "Two noisy lines: the upper one jumps up and down at once, the lower one drifts in slow "
        "waves.",
    )


CHAPTER = Chapter(
    id="ising",
    system="Swendsen-Wang on Ising's model",
    question="Near a phase transition single-site samplers freeze. Do whole clusters help?",
    data=f"a lattice of {SIZE} x {SIZE} spins, for which the energy is known exactly",
    run=run,
)
