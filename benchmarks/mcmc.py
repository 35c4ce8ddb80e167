"""NUTS against BlackJAX (two adaptations) and NumPyro: effective draws per gradient and per second.

    python benchmarks/mcmc.py [--targets schools gaussian] [--repeats 5] [--out FILE]

Four chains side by side on one device, float64, 1000 kept draws of each chain. bayleaf runs as
``bl.sample(target, key=key)`` does, with its own warm-up; the peers get the 1000 warm-up steps that
they advise. All of a run is timed: warm-up, sampling and the way of the draws to the host. The
libraries take turns, one run each per repeat and seed, so that a slow moment hits all of them.

Each peer is one jitted function, its fastest form: called in the usual way, NumPyro compiles anew
in every run. Peers start at 0.1 N(0, I), bayleaf where it starts by default (uniform(-1, 1)).

Gradients are leapfrog steps, those of every warm-up step included. NumPyro does not keep its
warm-up steps in this form of the call; they are counted in a second run with the same key, which is
not timed. None of the peers searches for a first step size by default; what bayleaf spends on that
is counted as warm-up.

One JSON object per run goes to stdout, then a summary of medians. ``--out`` keeps all in one file,
from which ``benchmarks/tables.py`` makes the table of the README.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats
from models import MODELS, Model

import bayleaf as bl

NUM_CHAINS, NUM_WARMUP, NUM_DRAWS = 4, 1000, 1000


class Outcome(NamedTuple):
    """What one run left: draws [chain, draw, dim] and, per run, what they cost."""

    draws: Any
    warmup_gradients: Any
    sampling_gradients: Any
    divergences: Any


class Sampler(NamedTuple):
    """One library on one model; ``count_warmup`` is for a peer that does not report it."""

    run: Callable[[int], Outcome]
    count_warmup: Callable[[int], int] | None = None


def bayleaf(model: Model) -> Sampler:
    target = bl.Target(model.log_density, init=jnp.zeros(model.dim))

    def run(seed: int) -> Outcome:
        run = bl.sample(target, key=jax.random.key(seed), num_draws=NUM_DRAWS, progress=False)
        return Outcome(
            run.draws,
            run.warmup_stats["num_gradients"].sum(),
            run.stats["num_gradients"].sum(),
            run.stats["is_divergent"].sum(),
        )

    return Sampler(run)


def blackjax_window(model: Model) -> Sampler:
    import blackjax

    def keep(state, info, adaptation):
        return info.num_integration_steps

    warmup = blackjax.window_adaptation(blackjax.nuts, model.log_density, adaptation_info_fn=keep)
    return _blackjax(model, warmup)


def blackjax_low_rank(model: Model) -> Sampler:
    import blackjax

    def keep(state, info, adaptation):
        # The adaptation itself reads the last mu_star from what is kept.
        return Kept(info.num_integration_steps, adaptation)

    class Kept(NamedTuple):
        num_integration_steps: Any
        adaptation_state: Any

    warmup = blackjax.window_adaptation_low_rank(
        blackjax.nuts, model.log_density, adaptation_info_fn=keep
    )
    return _blackjax(model, warmup)


def _blackjax(model: Model, warmup: Any) -> Sampler:
    import blackjax

    def chain(key, position):
        warmup_key, sampling_key = jax.random.split(key)
        (state, parameters), info = warmup.run(warmup_key, position, num_steps=NUM_WARMUP)
        kernel = blackjax.nuts(model.log_density, **parameters)

        def step(state, key):
            state, info = kernel.step(key, state)
            return state, (state.position, info.num_integration_steps, info.is_divergent)

        keys = jax.random.split(sampling_key, NUM_DRAWS)
        _, (draws, steps, divergent) = jax.lax.scan(step, state, keys)
        return Outcome(draws, getattr(info, "num_integration_steps", info), steps, divergent)

    chains = jax.jit(jax.vmap(chain))

    def run(seed: int) -> Outcome:
        keys = jax.random.split(jax.random.key(seed), NUM_CHAINS)
        draws, *counts = jax.device_get(chains(keys, _starts(model, seed)))
        return Outcome(draws, *(count.sum() for count in counts))

    return Sampler(run)


def numpyro(model: Model) -> Sampler:
    from numpyro.infer import MCMC, NUTS

    def mcmc() -> MCMC:
        return MCMC(
            NUTS(potential_fn=lambda q: -model.log_density(q)),
            num_warmup=NUM_WARMUP,
            num_samples=NUM_DRAWS,
            num_chains=NUM_CHAINS,
            chain_method="vectorized",
            progress_bar=False,
        )

    @jax.jit
    def fit(key, starts):
        sampler = mcmc()
        sampler.run(key, init_params=starts, extra_fields=("num_steps", "diverging"))
        extra = sampler.get_extra_fields()
        return sampler.get_samples(group_by_chain=True), extra["num_steps"], extra["diverging"]

    @jax.jit
    def warm(key, starts):
        sampler = mcmc()
        sampler.warmup(key, init_params=starts, extra_fields=("num_steps",), collect_warmup=True)
        return sampler.get_extra_fields()["num_steps"].sum()

    def run(seed: int) -> Outcome:
        draws, steps, divergent = jax.device_get(fit(jax.random.key(seed), _starts(model, seed)))
        return Outcome(draws, None, steps.sum(), divergent.sum())

    return Sampler(run, lambda seed: warm(jax.random.key(seed), _starts(model, seed)))


LIBRARIES = {
    "bayleaf": bayleaf,
    "BlackJAX window": blackjax_window,
    "BlackJAX low-rank": blackjax_low_rank,
    "NumPyro": numpyro,
}


def _starts(model: Model, seed: int) -> Any:
    return 0.1 * jax.random.normal(jax.random.key(seed + 1000), (NUM_CHAINS, model.dim))


def measure(name: str, libraries: list[str], repeats: int) -> list[dict[str, Any]]:
    """All records of one target; the libraries take turns."""
    model = MODELS[name]()
    samplers = {library: LIBRARIES[library](model) for library in libraries}
    # JAX's own start-up, which would otherwise be counted as compilation of whoever comes first.
    jax.block_until_ready(jax.jit(jax.grad(model.log_density))(jnp.zeros(model.dim)))
    first_call = {library: _timed(s.run, 0)[1]["run_s"] for library, s in samplers.items()}
    records = []
    for seed in range(1, repeats + 1):
        for library, sampler in samplers.items():
            outcome, times = _timed(sampler.run, seed)
            warmup = outcome.warmup_gradients
            if sampler.count_warmup is not None:
                warmup = sampler.count_warmup(seed)
            costs = {"first_call_s": first_call[library]} | times
            who = {"target": model.name, "dim": model.dim, "library": library, "seed": seed}
            records.append(who | costs | _quality(outcome._replace(warmup_gradients=warmup)))
            print(json.dumps(records[-1]), flush=True)
    return records


def _timed(run: Callable[[int], Outcome], seed: int) -> tuple[Outcome, dict[str, float]]:
    """The outcome, seconds on the clock, and seconds of all cores: these bear a busy machine."""
    start, start_cpu = time.perf_counter(), time.process_time()
    outcome = run(seed)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return outcome, {"run_s": seconds, "cpu_s": cpu}


def _quality(outcome: Outcome) -> dict[str, Any]:
    columns = np.moveaxis(np.asarray(outcome.draws, np.float64), -1, 0)
    axes = {"chain_axis": 0, "draw_axis": 1}
    return {
        "min_ess": min(float(array_stats.ess(x, method="bulk", **axes)) for x in columns),
        "max_rhat": max(float(array_stats.rhat(x, **axes)) for x in columns),
        "warmup_gradients": int(outcome.warmup_gradients),
        "sampling_gradients": int(outcome.sampling_gradients),
        "divergences": int(outcome.divergences),
    }


def summarise(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over the repeats, one entry per target and library, with ratios to the peers."""
    entries = {}
    for record in records:
        entries.setdefault((record["target"], record["library"]), []).append(record)
    summary = [_medians(group) for group in entries.values()]
    for entry in summary:
        rivals = {e["library"]: e for e in summary if e["target"] == entry["target"]}
        blackjax = [e for library, e in rivals.items() if library.startswith("BlackJAX")]
        if entry["library"] == "bayleaf" and blackjax:
            entry["ratios"] = _ratios(entry, blackjax, rivals.get("NumPyro"))
    return summary


def _medians(group: list[dict[str, Any]]) -> dict[str, Any]:
    def median(value: Callable[[dict[str, Any]], float]) -> float:
        return float(np.median([value(record) for record in group]))

    def gradients(record: dict[str, Any]) -> int:
        return record["warmup_gradients"] + record["sampling_gradients"]

    same = {key: group[0][key] for key in ("target", "dim", "library")}
    measured = ("run_s", "cpu_s", "min_ess", "max_rhat", "warmup_gradients", "sampling_gradients")
    return same | {
        "repeats": len(group),
        "compile_s": group[0]["first_call_s"] - median(lambda r: r["run_s"]),
        **{key: median(lambda r, key=key: r[key]) for key in measured},
        "ess_per_1000_gradients": median(lambda r: 1000 * r["min_ess"] / gradients(r)),
        "ess_per_s": median(lambda r: r["min_ess"] / r["run_s"]),
        "ess_per_cpu_s": median(lambda r: r["min_ess"] / r["cpu_s"]),
        "divergences_per_run": float(np.mean([r["divergences"] for r in group])),
    }


def _ratios(
    entry: dict[str, Any], blackjax: list[dict[str, Any]], numpyro: dict[str, Any] | None
) -> dict[str, float]:
    """How bayleaf stands to the better of BlackJAX's adaptations, for each measure on its own."""
    ratios = {
        key: entry[key] / max(rival[key] for rival in blackjax)
        for key in ("ess_per_1000_gradients", "ess_per_s", "ess_per_cpu_s")
    }
    if numpyro is not None:
        for key in ("ess_per_s", "ess_per_cpu_s"):
            ratios[f"{key}_numpyro"] = entry[key] / numpyro[key]
    return ratios


def geometric_means(summary: list[dict[str, Any]]) -> dict[str, float]:
    """Over all targets, of every ratio."""
    ratios = [entry["ratios"] for entry in summary if "ratios" in entry]
    keys = ratios[0] if ratios else ()
    return {key: float(np.exp(np.mean([np.log(r[key]) for r in ratios]))) for key in keys}


def tables(summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the README shows."""
    shown = {
        "ESS per 1000 gradients": "ess_per_1000_gradients",
        "ESS/s": "ess_per_s",
        "run (s)": "run_s",
        "compile (s)": "compile_s",
        "min ESS": "min_ess",
        "divergences": "divergences_per_run",
    }
    speed = {
        "caption": "NUTS, 4 chains of 1000 draws, warm-up counted; medians",
        "columns": ["target", "library", *shown],
        "rows": [
            [f"{e['target']} ({e['dim']})", e["library"], *(e[key] for key in shown.values())]
            for e in summary
        ],
    }
    rows = [[e["target"], *e["ratios"].values()] for e in summary if "ratios" in e]
    means = geometric_means(summary)
    if not means:
        return [speed]
    ratios = {
        "caption": "bayleaf over the better of BlackJAX's two adaptations, and over NumPyro",
        "columns": ["target", *(_HEADINGS[key] for key in means)],
        "rows": [*rows, ["geometric mean", *means.values()]],
    }
    return [speed, ratios]


_HEADINGS = {
    "ess_per_1000_gradients": "ESS per gradient",
    "ess_per_s": "ESS/s",
    "ess_per_cpu_s": "ESS per CPU second",
    "ess_per_s_numpyro": "ESS/s, NumPyro",
    "ess_per_cpu_s_numpyro": "ESS per CPU second, NumPyro",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="NUTS against BlackJAX and NumPyro.")
    parser.add_argument("--targets", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    records = [
        record
        for target in options.targets
        for record in measure(target, options.libraries, options.repeats)
    ]
    summary = summarise(records)
    results = {
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), float64",
        "versions": {"Python": platform.python_version()}
        | {name: version(name) for name in ("jax", "blackjax", "numpyro")},
        "geometric_means": geometric_means(summary),
        "summary": summary,
        "tables": tables(summary),
    }
    print(json.dumps(results))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results | {"records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
