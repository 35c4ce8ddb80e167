"""How deep a signal gets: mean-field theory with dropout, against random networks and integrals.

In a wide random network with weights of variance sw^2 / width and biases of variance sb^2, the
variance q of a unit and the correlation c of two inputs change from layer to layer by

    q' = (sw^2 / rho) E phi(sqrt(q) z)^2 + sb^2,    c' = (sw^2 E phi(u) phi(v) + sb^2) / q,

where rho is the probability with which dropout keeps a unit. Where the maps end, chi_1 and chi_2
say by which factor gradients and differences of correlations change per layer, and 12 min(xi_1,
xi_2) with xi = 1 / |log chi| is about the depth to which tanh networks can be trained.

Three exact answers: fixed points by plain NumPy sums over a grid of (z, z'), the closed form of
ReLU networks, and the published critical weight variance 1.76 of tanh with sb^2 = 0.05. Then two
handwritten digits go through many networks, whose mean correlation the theory must tell.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize
from sklearn.datasets import load_digits

from bayleaf.infinite.mean_field import MeanField
from bayleaf.infinite.mean_field_phase import critical_weight_std, phase_diagram
from bayleaf.infinite.mean_field_simulate import simulate
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

BIAS_STD, KEEP = 0.05**0.5, 0.95
WEIGHT_STDS = (1.2**0.5, 2.5**0.5)
DEPTH, WIDTH, NUM_NETWORKS = 20, 200, 60
LAYERS = (2, 5, 20)


def two_digits() -> np.ndarray:
    """The covariance of a three and an eight, so scaled that both have variance one."""
    pixels, target = map(np.asarray, load_digits(return_X_y=True))
    pair = np.stack([pixels[target == digit][0] for digit in (3, 8)])
    pair = pair / np.linalg.norm(pair, axis=1, keepdims=True)
    return pair @ pair.T


def by_sums(weight_std: float) -> tuple[float, float]:
    """q* and c* of tanh by SciPy's root finder over sums on a grid."""
    z, step = np.linspace(-8, 8, 321, retstep=True)
    weights = step * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

    def variance(q):
        return weight_std**2 / KEEP * weights @ np.tanh(np.sqrt(q) * z) ** 2 + BIAS_STD**2 - q

    q: Any = optimize.brentq(variance, 1e-3, 50, xtol=1e-14)

    def correlation(c):
        v = np.sqrt(q) * (c * z[:, None] + np.sqrt(1 - c**2) * z)
        product = weights @ (np.tanh(np.sqrt(q) * z) * (np.tanh(v) @ weights))
        return (weight_std**2 * product + BIAS_STD**2) / q - c

    c: Any = optimize.brentq(correlation, 0, 1, xtol=1e-14)
    return q, c


def theory_of(weight_std: float) -> MeanField:
    """A tanh network with dropout."""
    return MeanField(jnp.tanh, weight_std=weight_std, bias_std=BIAS_STD, keep_probability=KEEP)


def path_of(theory: MeanField, start: np.ndarray) -> np.ndarray:
    """The correlations of two inputs of one variance in each layer, by the maps."""

    def layer(carry, _):
        q, c = carry
        following = theory.q_map(q), theory.c_map(c, q)
        return following, c

    begin = (jnp.asarray(start[0, 0]), jnp.asarray(start[0, 1]))
    begin = jax.tree.map(lambda x: x.astype(theory.weight_std.dtype), begin)
    return np.asarray(jax.lax.scan(layer, begin, length=DEPTH + 1)[1])


def run(quick: bool) -> Result:
    """Compare fixed points, then send the digits through networks."""
    comparisons = []
    tolerance = 1e-5  # single precision, times 1 / (1 - chi_2)
    for weight_std in WEIGHT_STDS:
        point = theory_of(weight_std).fixed_point()
        name = f"weight variance {weight_std**2:.1f}"
        for letter, got, exact in zip("qc", (point.q, point.c), by_sums(weight_std), strict=True):
            comparisons.append(
                checks.Comparison(f"{letter}* of tanh, {name}", float(got), exact, 4 * tolerance)
            )
    relu = MeanField(jax.nn.relu, weight_std=1.2, bias_std=0.3, keep_probability=0.9).fixed_point()
    exact = 0.09 / (1 - 1.44 / 1.8)
    comparisons.append(checks.Comparison("q* of ReLU", float(relu.q), exact, tolerance))
    critical = float(critical_weight_std(jnp.tanh, bias_std=BIAS_STD)) ** 2
    comparisons.append(checks.Comparison("critical weight variance", critical, 1.76, 0.005))

    start = two_digits()
    ends = [travel(weight_std, start) for weight_std in WEIGHT_STDS]
    estimates = []
    for weight_std, (maps, networks) in zip(WEIGHT_STDS, ends, strict=True):
        for layer in LAYERS:
            values = networks[:, layer]
            estimates.append(
                checks.Estimate(
                    f"correlation in layer {layer}, weight variance {weight_std**2:.1f}",
                    float(values.mean()),
                    float(maps[layer]),
                    float(values.std(ddof=1) / NUM_NETWORKS**0.5),
                    NUM_NETWORKS,
                )
            )
    comparisons += checks.judge(estimates)
    checked = (
        "Fixed points with dropout against root finding over plain sums and closed forms, the "
        "critical line against the published value, and the paths of two digits through random "
        f"networks of width {WIDTH} against the theory, with a false-alarm rate of "
        f"{checks.FALSE_ALARM:.0e} for all of them"
    )
    return Result(checked, comparisons, [picture_of_depth(quick), picture_of_paths(ends)])


def travel(weight_std: float, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlations per layer: by the theory, and in many networks."""
    theory = theory_of(weight_std)

    @jax.jit
    def network(key):
        out = simulate(theory, start, width=WIDTH, depth=DEPTH, key=key)
        return out.correlation[:, 0, 1]

    keys = jax.random.split(jax.random.key(0), NUM_NETWORKS)
    return path_of(theory, start), np.asarray(jax.lax.map(network, keys))


def picture_of_depth(quick: bool) -> Picture:
    """Two maps of the trainable depth."""
    size = 30 if quick else 50
    variances, biases = np.linspace(0.6, 3.5, size), np.linspace(0.01, 0.5, size)
    points = phase_diagram(
        jnp.tanh,
        weight_std=np.sqrt(variances)[None, :, None],
        bias_std=np.sqrt(biases)[None, None, :],
        keep_probability=np.array([1.0, KEEP])[:, None, None],
    )
    depth = np.minimum(np.asarray(points.trainable_depth), 1000)
    line = np.asarray(critical_weight_std(jnp.tanh, bias_std=np.sqrt(biases))) ** 2
    figure, axes = figures.grid(1, 2, 6.4, 3.3, sharey=True)
    for axis, values, title in zip(axes, depth, ("no dropout", "dropout of 5 %"), strict=True):
        image = axis.pcolormesh(
            variances,
            biases,
            np.log10(values).T,
            vmin=1,
            vmax=3,
            cmap="viridis",
            shading="auto",
            rasterized=True,
        )
        axis.plot(line, biases, "--", color="white", lw=1.5)
        axis.set(xlabel="weight variance", title=title)
    axes[0].set_ylabel("bias variance")
    bar = figure.colorbar(image, ax=axes, ticks=[1, 2, 3], label="trainable depth (layers)")
    bar.ax.set_yticklabels(["10", "100", "1000+"])
    return Picture(
        figure,
        "To what depth tanh networks can be trained, by the theory. Left: along the critical line "
        "(dashed) signals and gradients get arbitrarily far. Right: dropping 5 % of the units "
        "decorrelates even equal inputs, so that no line is left on which depth is unlimited; the "
        "dashed line is the same as on the left.",
        "Two maps over weight and bias variance; the left one has a bright curve along a dashed "
        "line, the right one is dark throughout.",
    )


def picture_of_paths(ends) -> Picture:
    """Correlations of the two digits per layer."""
    figure, axes = figures.canvas()
    looks = ((figures.BLUE, "o"), (figures.ORANGE, "s"))
    layers = np.arange(DEPTH + 1)
    for weight_std, (maps, networks), (color, marker) in zip(WEIGHT_STDS, ends, looks, strict=True):
        axes.plot(layers, maps, color=color, lw=2)
        axes.fill_between(
            layers, *np.quantile(networks, [0.05, 0.95], axis=0), color=color, alpha=0.2, lw=0
        )
        axes.plot(
            layers,
            networks.mean(axis=0),
            marker,
            color=color,
            ms=3.5,
            label=f"weight variance {weight_std**2:.1f}",
        )
    axes.set(
        xlabel="layer",
        ylabel="correlation of the two digits",
        title="A three and an eight on their way",
        ylim=(0, 1.02),
    )
    axes.set_xticks(range(0, DEPTH + 1, 5))
    axes.legend(loc="upper right")
    return Picture(
        figure,
        "Two handwritten digits go through random tanh networks with 5 % dropout. Lines: theory "
        "for infinite width. Marks: means over 60 networks of 200 units; bands: nine of ten of "
        "them. After some layers the correlation no longer tells which inputs they were: that is "
        "what limits depth.",
        "Two curves with marks on them; each settles at a constant after a few layers.",
    )


CHAPTER = Chapter(
    id="phase-diagram",
    system="Mean-field theory of deep networks",
    question="To what depth can a network with dropout be trained?",
    data="two handwritten digits (from scikit-learn)",
    run=run,
)
