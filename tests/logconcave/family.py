"""Log-concave densities of one variable with their exact CDFs, all of them one log density.

One function of ``(x, args)`` and arguments that say which density is meant: so one compiled program
serves them all.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

inf = np.inf


def powers(x, p):
    """Gamma, exponential: x^a exp(-b x)."""
    return p[0] * jnp.log(x) - p[1] * x


def beta(x, p):
    return p[0] * jnp.log(x) + p[1] * jnp.log1p(-x)


def normal(x, p):
    return -0.5 * ((x - p[0]) / p[1]) ** 2


def linear(x, p):
    return p[0] * x


def weibull(x, p):
    return (p[0] - 1) * jnp.log(x) - x ** p[0]


def logistic(x, p):
    z = (x - p[0]) / p[1]
    return -z - 2 * jnp.logaddexp(0.0, -z)


def gumbel(x, p):
    z = (x - p[0]) / p[1]
    return -z - jnp.exp(-z)


def laplace(x, p):
    return -jnp.abs((x - p[0]) / p[1])


def box(x, p):
    """Zero outside of an interval that the support does not tell."""
    return jnp.where((x > p[0]) & (x < p[1]), 0 * x, -inf)


KINDS = (powers, beta, normal, linear, weibull, logistic, gumbel, laplace, box)


def log_density(x, args):
    branches = [lambda x, p, kind=kind: kind(x, p) for kind in KINDS]
    return jax.lax.switch(args["kind"], branches, x, args["parameters"])


class Case(NamedTuple):
    kind: Any
    parameters: tuple[float, float]
    support: tuple[float, float]
    exact: Any


class Rising:
    """exp(50 x) on (0, 1)."""

    @staticmethod
    def cdf(x):
        return np.expm1(50 * x) / np.expm1(50)


CASES = {
    "Gamma(2.5)": Case(powers, (1.5, 1), (0, inf), stats.gamma(2.5)),
    "Gamma(1.01), steep at the end": Case(powers, (0.01, 1), (0, inf), stats.gamma(1.01)),
    "Gamma(1000)": Case(powers, (999, 1), (0, inf), stats.gamma(1000)),
    "Gamma of rate 1e6": Case(powers, (4, 1e6), (0, inf), stats.gamma(5, scale=1e-6)),
    "Gamma of rate 1e-6": Case(powers, (4, 1e-6), (0, inf), stats.gamma(5, scale=1e6)),
    "exponential": Case(powers, (0, 1), (0, inf), stats.expon()),
    "Beta(2, 5)": Case(beta, (1, 4), (0, 1), stats.beta(2, 5)),
    "Beta(1.01, 1.01), steep at both ends": Case(
        beta, (0.01, 0.01), (0, 1), stats.beta(1.01, 1.01)
    ),
    "Beta(1e4, 2)": Case(beta, (1e4 - 1, 1), (0, 1), stats.beta(1e4, 2)),
    "normal": Case(normal, (0, 1), (-inf, inf), stats.norm()),
    "normal beyond 4": Case(normal, (0, 1), (4, inf), stats.truncnorm(4, inf)),
    "normal beyond 8": Case(normal, (0, 1), (8, inf), stats.truncnorm(8, inf)),
    "normal beyond 30": Case(normal, (0, 1), (30, inf), stats.truncnorm(30, inf)),
    "normal below -30": Case(normal, (0, 1), (-inf, -30), stats.truncnorm(-inf, -30)),
    "normal on (-1, 8)": Case(normal, (0, 1), (-1, 8), stats.truncnorm(-1, 8)),
    "normal on a wide support": Case(normal, (5, 1), (-1e6, 1e6), stats.norm(5, 1)),
    "half-normal": Case(normal, (0, 1), (0, inf), stats.halfnorm()),
    "normal, sd 1e-8": Case(normal, (0, 1e-8), (-inf, inf), stats.norm(0, 1e-8)),
    "normal, sd 1e8": Case(normal, (3e3, 1e8), (-inf, inf), stats.norm(3e3, 1e8)),
    "normal(1e6, 1e-3)": Case(normal, (1e6, 1e-3), (-inf, inf), stats.norm(1e6, 1e-3)),
    "exponential on (0, 1), rising": Case(linear, (50, 0), (0, 1), Rising),
    "exponential on (0, 1), falling": Case(
        linear, (-50, 0), (0, 1), stats.truncexpon(50, scale=1 / 50)
    ),
    "exponential on (0, 1), nearly flat": Case(
        linear, (-1e-9, 0), (0, 1), stats.truncexpon(1e-9, scale=1e9)
    ),
    "uniform": Case(linear, (0, 0), (2, 5), stats.uniform(2, 3)),
    "uniform, its ends unknown": Case(box, (5, 6), (-inf, inf), stats.uniform(5, 1)),
    "Weibull(1.5)": Case(weibull, (1.5, 0), (0, inf), stats.weibull_min(1.5)),
    "Weibull(8)": Case(weibull, (8, 0), (0, inf), stats.weibull_min(8)),
    "logistic": Case(logistic, (0, 1), (-inf, inf), stats.logistic()),
    "Gumbel": Case(gumbel, (-7, 3), (-inf, inf), stats.gumbel_r(-7, 3)),
    "Laplace, its kink at a knot": Case(laplace, (0, 1), (-inf, inf), stats.laplace()),
    "Laplace, far": Case(laplace, (1e4, 0.1), (-inf, inf), stats.laplace(1e4, 0.1)),
}
# float32 cannot hold these: the spacing of numbers at the mean, or of log densities at the mode,
# is no longer small against the scale.
TOO_FINE_FOR_FLOAT32 = {"normal(1e6, 1e-3)", "Laplace, far", "Gamma(1000)", "Beta(1e4, 2)"}


def arrays(names, dtype):
    """``args`` and ``support`` of these cases, for `adaptive_rejection`."""
    cases = [CASES[name] for name in names]
    args = {
        "kind": jnp.array([KINDS.index(case.kind) for case in cases]),
        "parameters": jnp.array([case.parameters for case in cases], dtype),
    }
    low, high = (np.array([case.support[i] for case in cases], dtype) for i in (0, 1))
    return args, (low, high)
