"""Make the reference files of ``synthetic/``: simulated data, and a long NumPyro run on each.

``python -m tests.oracles.make_references`` from the root of the repository; a few minutes. Nothing
of bayleaf takes part in the sampling: models, transforms, NUTS and its dense metric are NumPyro's.
"""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
import numpyro
from numpyro.infer import MCMC, NUTS, init_to_value

from tests.oracles import numpyro_models
from tests.oracles.case import HERE, moments, scalars

NUM_CHAINS, NUM_WARMUP, NUM_DRAWS = 4, 2000, 10_000


def arma11_data(rng):
    errors = 0.5 * rng.standard_normal(200)
    y = np.zeros(200)
    for t in range(200):
        lagged, error = (y[t - 1], errors[t - 1]) if t else (0.0, 0.0)
        y[t] = 0.3 + 0.8 * lagged + 0.3 * error + errors[t]
    return {"y": y.round(6).tolist()}


def garch11_data(rng):
    y, variance = np.zeros(200), 1.0
    for t in range(200):
        y[t] = 5.0 + np.sqrt(variance) * rng.standard_normal()
        variance = 1.5 + 0.5 * (y[t] - 5.0) ** 2 + 0.2 * variance
    return {"y": y.round(6).tolist(), "sigma1": 0.5}


def hidden_markov_data(rng):
    state, y = 0, []
    for _ in range(100):
        y.append((3.0, 9.0)[state] + rng.standard_normal())
        state = int(rng.random() < (0.1, 0.7)[state])
    return {"y": np.round(y, 6).tolist()}


def gp_counts_data(rng):
    x = np.linspace(-10, 10, 15)
    f = 1.0 + 1.2 * np.sin(x / 4)
    return {"x": x.round(6).tolist(), "k": rng.poisson(np.exp(f)).tolist()}


MODELS = {
    "arma11": (arma11_data, {"mu": 0.0, "phi": 0.5, "theta": 0.1, "sigma": 0.5}),
    "garch11": (garch11_data, {"mu": 5.0, "alpha0": 1.0, "weights": np.full(3, 1 / 3)}),
    "hidden_markov": (hidden_markov_data, {"level": np.array([3.0, 9.0])}),
    "gp_counts": (gp_counts_data, {"rho": 6.0, "alpha": 1.0}),
}


def make(name: str) -> dict:
    simulate, start = MODELS[name]
    data = simulate(np.random.default_rng(20))
    kernel = NUTS(
        getattr(numpyro_models, name),
        dense_mass=True,
        target_accept_prob=0.99,
        init_strategy=init_to_value(values=start),
    )
    mcmc = MCMC(
        kernel,
        num_warmup=NUM_WARMUP,
        num_samples=NUM_DRAWS,
        num_chains=NUM_CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(20), data)
    draws = {k: np.asarray(v) for k, v in mcmc.get_samples(group_by_chain=True).items()}
    draws.pop("weights", None)  # alpha1 and beta1 say the same
    draws.pop("f_tilde", None)
    divergences = int(mcmc.get_extra_fields()["diverging"].sum())
    return {
        "name": name,
        "source": "simulated; reference by NumPyro NUTS, dense metric, "
        f"{NUM_CHAINS} chains of {NUM_WARMUP} + {NUM_DRAWS}, {divergences} divergences",
        "data": data,
        "reference": {label: moments(x) for label, x in scalars(draws)},
    }


def main(names: list[str]) -> None:
    numpyro.enable_x64()
    (HERE / "synthetic").mkdir(exist_ok=True)
    for name in names or MODELS:
        (HERE / "synthetic" / f"{name}.json").write_text(json.dumps(make(name)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
