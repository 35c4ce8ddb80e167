r"""The model of ``bayleaf predict``: a Gaussian process, chosen, fitted, and calibrated.

Three processes are tried, each with a linear part: a squared exponential and a Matern 3/2 kernel
with a length scale for each feature, and an infinite network of three layers of ReLU (NNGP). Their
hyper-parameters are chosen by marginal likelihood with a weak prior, and of the three the one of
largest value is kept.

Numbers. From each y_i given all other rows (`bayleaf.gp.leave_one_out`) come scores
|y_i - m_i| / s_i; their quantile at ceil(level (n + 1)) / n is the factor q of the interval
m +- q s (conformal, by leaving one out: nearly exact for exchangeable rows, whatever the noise).

Classes. Least squares on class indicators; the spread s of `class_probabilities` is multiplied by
the factor with the least log loss when one row is left out.

Both are checked on held-out folds, for which everything is done anew.

Source: Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World (2005), for the quantile;
Lee et al., ICLR 2018, for the network and the classes.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bayleaf import gp
from bayleaf.infinite import Dense, Relu, serial

NUM_FOLDS = 5
SPREADS = np.geomspace(0.25, 8, 41)
MANY_FEATURES = 30
"""Beyond so many features they share one length scale."""


class Fitted(NamedTuple):
    """A process given data; ``factor`` is q for numbers, the factor of the spread for classes."""

    name: str
    prior: Any
    posterior: Any
    centre: float
    scale: float
    factor: float


class Check(NamedTuple):
    """Held-out rows: ``index`` of each, and mean and half width, or class probabilities."""

    index: np.ndarray
    mean: np.ndarray
    half: np.ndarray


def candidates(num_features: int) -> dict[str, Any]:
    """The processes that are tried, by name."""
    shape = num_features if num_features <= MANY_FEATURES else 1
    scales = np.full(shape, np.sqrt(num_features))
    dense = Dense(1, weight_std=1.4, bias_std=0.3)
    net = serial(*[dense, Relu()] * 3, dense)
    kernels = {
        "squared exponential": 1.0 * gp.SquaredExponential(scales),
        "Matérn 3/2": 1.0 * gp.Matern32(scales),
        "infinite network": 1.0 * gp.NNGP(net),
    }
    linear = 0.1 * gp.Linear() + 0.1
    return {n: gp.GaussianProcess(k + linear, noise_std=0.5) for n, k in kernels.items()}


def fit(
    x: np.ndarray, y: np.ndarray, level: float, names: tuple[str, ...], done: Callable[[], None]
) -> Fitted:
    """The best of the processes ``names``, given all rows; y is ``[row]`` or ``[row, class]``."""
    centre, scale = (float(y.mean()), float(y.std()) or 1.0) if y.ndim == 1 else (0.0, 1.0)
    outputs = (y - centre) / scale
    found = {}
    for name in names:
        prior = candidates(x.shape[1])[name]
        log_prior = gp.LogNormalPrior.around(prior, 2.0)
        fitted = gp.fit(
            prior,
            x,
            outputs,
            log_prior=log_prior,
            fixed=["mean_function"],
            max_steps=100,
            tolerance=0.05,
        )
        found[name] = fitted
        done()
    best = max(found, key=lambda name: found[name].log_density)
    prior = found[best].process
    left_out = gp.leave_one_out(prior, x, outputs)
    factor = spread(left_out, y) if y.ndim == 2 else quantile(left_out, outputs, level)
    return Fitted(best, prior, prior.condition(x, outputs), centre, scale, factor)


def quantile(left_out: Any, outputs: np.ndarray, level: float) -> float:
    """The factor q that covers the share ``level`` of rows that were left out."""
    scores = np.sort(np.abs(outputs - np.asarray(left_out.mean)) / np.asarray(left_out.std))
    rank = min(ceil(level * (len(scores) + 1)), len(scores))
    return float(scores[rank - 1])


def spread(left_out: Any, indicators: np.ndarray) -> float:
    """The factor of the spread with the least log loss on rows that were left out."""
    truth = indicators.argmax(axis=1)
    num, size = indicators.shape
    # As if one row more had been wrong (Platt's targets): no row wrong must not mean certainty.
    slip = 1 / (num + 2)
    wanted = np.full((num, size), slip / (size - 1))
    wanted[np.arange(num), truth] = 1 - slip
    losses = []
    for factor in SPREADS:
        shares = np.asarray(gp.class_probabilities(left_out.mean, factor**2 * left_out.variance))
        losses.append(-np.sum(wanted * np.log(shares + 1e-12)))
    return float(SPREADS[int(np.argmin(losses))])


def predict(fitted: Fitted, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and half widths of intervals, or class probabilities and their spread."""
    mean, variance = fitted.posterior.predict(jnp.asarray(x), noisy=True)
    if mean.ndim == 2:
        shares = gp.class_probabilities(mean, fitted.factor**2 * variance)
        return np.asarray(shares), np.sqrt(np.asarray(variance))
    half = fitted.scale * fitted.factor * np.sqrt(np.asarray(variance))
    return fitted.centre + fitted.scale * np.asarray(mean), half


def check(
    x: np.ndarray, y: np.ndarray, level: float, name: str, seed: int, done: Callable[[], None]
) -> Check:
    """Predictions of folds that were held out, hyper-parameters and calibration included."""
    order = np.random.default_rng(seed).permutation(len(x))
    size = len(x) // NUM_FOLDS  # folds of one size run in one program
    parts = []
    for fold in range(NUM_FOLDS):
        held = order[fold * size : (fold + 1) * size]
        rest = np.setdiff1d(order, held)
        fitted = fit(x[rest], y[rest], level, (name,), done)
        parts.append((held, *predict(fitted, x[held])))
    return Check(*(np.concatenate(column) for column in zip(*parts, strict=True)))
