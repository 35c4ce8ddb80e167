"""The tangent kernel tells what training does: formula against networks actually trained.

Under gradient descent with step eta on the mean of squares, a network linearised in its parameters
has at inputs x, after t steps,

    f_t(x) = f_0(x) - Theta(x, X) Theta(X, X)^-1 (1 - (1 - 2 eta Theta(X, X) / N)^t) (f_0(X) - y),

Theta the kernel of its gradients: exact at every width, so the linearised network, trained step by
step, must reproduce it to rounding. A wide network stays close to its linearisation and its kernel
close to the infinite one, so that the mean of many trained networks must be the same formula with
f_0 = 0 and the infinite kernel, up to the standard error.

Threes are told from eights.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from bayleaf.infinite import Dense, Erf, serial
from bayleaf.infinite.empirical import empirical_ntk
from bayleaf.infinite.linearised import linearise
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

SETTINGS: dict[str, Any] = {"weight_std": 1.5, "bias_std": 0.1}
NUM_TRAIN, NUM_TEST, WIDTH = 40, 40, 256
RATE, STEPS = 0.03, 100


def digits() -> tuple[np.ndarray, ...]:
    """Threes (-1) and eights (+1): training images and labels, test images and labels."""
    pixels, target = map(np.asarray, load_digits(return_X_y=True))
    chosen = np.isin(target, (3, 8))
    x, y = pixels[chosen] - pixels.mean(axis=0), target[chosen]
    x = 8 * x / np.linalg.norm(x, axis=1, keepdims=True)
    y = np.where(y == 8, 1.0, -1.0)[:, None]
    parts = x[:NUM_TRAIN], y[:NUM_TRAIN], x[NUM_TRAIN:][:NUM_TEST], y[NUM_TRAIN:][:NUM_TEST]
    return tuple(np.asarray(part, np.float32) for part in parts)


def network():
    """Two hidden layers and one output."""
    return serial(
        Dense(WIDTH, **SETTINGS), Erf(), Dense(WIDTH, **SETTINGS), Erf(), Dense(1, **SETTINGS)
    )


def train(f, params, x, y, at):
    """Outputs at ``at`` before each step of gradient descent, [step + 1, image]."""

    def loss(p):
        return jnp.mean((f(p, x) - y) ** 2)

    def step(p, _):
        new = jax.tree.map(lambda leaf, slope: leaf - RATE * slope, p, jax.grad(loss)(p))
        return new, f(p, at)[:, 0]

    return jax.lax.scan(step, params, length=STEPS + 1)[1]


def by_formula(kernels, starts, y, times) -> np.ndarray:
    """The outputs f_t at the test images, [time, image], in float64."""
    (kernel_test, kernel_train), (start_test, start_train) = kernels, starts
    values, vectors = np.linalg.eigh(np.asarray(kernel_train, np.float64))
    gap = vectors.T @ (np.asarray(start_train, np.float64) - y)[:, 0]
    paths = []
    for t in times:
        share = (1 - (1 - 2 * RATE * values / NUM_TRAIN) ** t) / values
        change = np.asarray(kernel_test, np.float64) @ (vectors @ (share * gap))
        paths.append(np.asarray(start_test, np.float64)[:, 0] - change)
    return np.stack(paths)


def run(quick: bool) -> Result:
    """Train one linearised network, and many real ones."""
    x, y, x_test, _ = map(jnp.asarray, digits())
    net = network()
    params = net.init(jax.random.key(0), (64,))
    linearised = linearise(net.apply, params)
    linear = np.asarray(jax.jit(lambda p: train(linearised, p, x, y, x_test))(params))
    kernels = (empirical_ntk(net.apply, params, a, x) for a in (x_test, x))
    starts = net.apply(params, x_test), net.apply(params, x)
    exact_linear = by_formula(kernels, starts, np.asarray(y), range(STEPS + 1))
    gap = float(np.max(np.abs(linear - exact_linear)))

    num = 60
    keys = jax.random.split(jax.random.key(1), num)
    everything = jnp.concatenate([x_test, x])
    trained = np.asarray(
        jax.lax.map(lambda key: train(net.apply, net.init(key, (64,)), x, y, everything), keys)
    )
    trained, starts_train = trained[:, :, :NUM_TEST], trained[:, 0, NUM_TEST:]
    infinite = [np.asarray(net.kernel(a, x, get="ntk")) for a in (x_test, x)]
    zero = np.zeros((NUM_TEST, 1)), np.zeros((NUM_TRAIN, 1))
    theory = by_formula(infinite, zero, np.asarray(y), range(STEPS + 1))
    # The start of each network, carried through the formula, has mean zero: taken away, it leaves
    # the same mean and less noise.
    starts_carried = np.stack(
        [
            by_formula(infinite, (test[:, None], own[:, None]), 0 * np.asarray(y), range(STEPS + 1))
            for test, own in zip(trained[:, 0], starts_train, strict=True)
        ]
    )
    steadied = trained - starts_carried
    estimates = [
        checks.Estimate(
            f"mean output for test digit {image}, step {step}",
            float(steadied[:, step, image].mean()),
            float(theory[step, image]),
            float(steadied[:, step, image].std(ddof=1) / num**0.5),
            num,
        )
        for image in (0, 1, 2, 3)
        for step in (5, STEPS)
    ]
    comparisons = [
        checks.Comparison("largest gap of the linearised network to the formula", gap, 0.0, 2e-3),
        *checks.judge(estimates),
    ]
    checked = (
        f"A linearised network trained for {STEPS} steps against its closed form, in single "
        f"precision; the mean of {num} trained networks of width {WIDTH} against the infinite "
        f"tangent kernel with a false-alarm rate of {checks.FALSE_ALARM:.0e}"
    )
    return Result(
        checked,
        comparisons,
        [picture_of_paths(steadied, theory), picture_of_ends(steadied, theory)],
    )


def picture_of_paths(trained, theory) -> Picture:
    """Outputs for a few test digits while training goes on."""
    figure, axes = figures.canvas()
    steps = np.arange(STEPS + 1)
    labels = digits()[3][:, 0]
    chosen = [np.flatnonzero(labels == sign)[0] for sign in (1, -1)]
    for image, color, name in zip(
        chosen, (figures.BLUE, figures.ORANGE), ("an 8", "a 3"), strict=True
    ):
        low, high = np.quantile(trained[:, :, image], [0.05, 0.95], axis=0)
        axes.fill_between(steps + 1, low, high, color=color, alpha=0.2, lw=0)
        axes.plot(steps + 1, trained[:, :, image].mean(axis=0), color=color, lw=2, label=name)
        axes.plot(steps + 1, theory[:, image], color=figures.INK, lw=1.5, ls=(0, (2, 2)))
    axes.plot([], [], color=figures.INK, ls=(0, (2, 2)), label="infinite width")
    axes.set(
        xscale="log",
        xlabel="step of gradient descent + 1",
        ylabel="output",
        title="Learning, told beforehand",
    )
    axes.legend(loc="upper left")
    return Picture(
        figure,
        "Outputs for two digits that were not trained on, less what each network's random start "
        "contributes. Lines: means over 60 networks of 256 units; bands: nine of ten of them. "
        "Dotted: what the infinitely wide network does, from its tangent kernel without any "
        "training.",
        "Two curves that part from zero, each under a dotted line, with bands that broaden.",
    )


def picture_of_ends(trained, theory) -> Picture:
    """All test digits at the end."""
    figure, axes = figures.canvas()
    labels = digits()[3][:, 0]
    ends, exact = trained[:, -1].mean(axis=0), theory[-1]
    for sign, color, marker, name in ((1, figures.BLUE, "o", "8"), (-1, figures.ORANGE, "s", "3")):
        mine = labels == sign
        axes.plot(exact[mine], ends[mine], marker, color=color, ms=5, label=name)
    span = [exact.min(), exact.max()]
    axes.plot(span, span, color=figures.INK, lw=1)
    axes.set(
        xlabel="output by the tangent kernel",
        ylabel="mean output of trained networks",
        title="Test digits after training",
    )
    axes.legend()
    return Picture(
        figure,
        "Each mark is a digit that was not trained on. Its mean output over trained networks, less "
        "their random starts, is what the kernel says, on the line, up to a few hundredths.",
        "Marks of two kinds along the diagonal, threes low and eights high.",
    )


CHAPTER = Chapter(
    id="ntk",
    system="The neural tangent kernel",
    question="Can one know what a network will learn without training it?",
    data="80 handwritten threes and eights (from scikit-learn)",
    run=run,
)
