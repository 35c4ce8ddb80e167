"""What is wrong with these draws: reports that name the parameter, the chain, and what to try.

Each check looks at arrays on the host after the fact and returns a `Finding` or nothing; the runner
turns findings into warnings. A healthy run gives an empty list. R-hat and effective sample size are
those of ArviZ (Vehtari et al. 2021, https://doi.org/10.1214/20-BA1221).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from bayleaf.run.names import flat_draws, listing, scalar_names

MOST_SCALARS = 256
"""R-hat and ESS cost about 2 ms a scalar: a network's weights are judged by this many of them."""

TINY_STEP = 1e-8
"""A step below this explores nothing at any plausible scale."""

HUGE = 1e6
"""Draws this many times farther out than the start are suspected of running away."""

LONG_REST = 100
"""Draws that a working sampler does not spend in one place (0.77^100 is 1e-11).

In a long run it is a tenth of the draws."""

Draws = Float[np.ndarray, "chain draw scalar"]
Flags = Bool[np.ndarray, "chain draw"]
Scalars = Float[np.ndarray, "scalar"]


class Finding(NamedTuple):
    """One thing that is wrong: ``kind`` for programs, ``message`` for people."""

    kind: str
    message: str


def diagnose(
    draws: Any,
    stats: Mapping[str, Any],
    *,
    start: Any = None,
    max_depth: int | None = None,
) -> list[Finding]:
    """Everything seen that makes these draws unreliable, the gravest first.

    Args:
        draws: pytree of arrays with leading axes chain and draw.
        stats: what the kernel recorded, by name; arrays of shape [chain, draw]. Looked at are
            ``is_nan``, ``is_log_concave``, ``is_divergent``, ``step_size`` and ``tree_depth``,
            also those of the parts of a composed kernel (``block.is_nan``).
        start: pytree of initial positions (leading chain axis) in the space of ``draws``; tells
            how large the scale was when the run began. None takes a scale of 1.
        max_depth: the limit of the kernel, when it has one.
    """
    x, names = flat_draws(draws), scalar_names(draws, 2)
    if x.size == 0:
        return []
    began_at = np.ones(len(names))
    if start is not None:
        starts = flat_draws(jax.tree.map(lambda leaf: np.asarray(leaf)[:, None], start))
        began_at = np.maximum(1.0, np.abs(starts).max((0, 1)))
    continuous = any(np.asarray(leaf).dtype.kind not in "biu" for leaf in jax.tree.leaves(draws))
    found = [
        _nan_draws(x, names),
        *(_nan_density(x, names, *part) for part in recorded(stats, "is_nan")),
        *(_not_log_concave(*part) for part in recorded(stats, "is_log_concave")),
        *(_divergences(x, names, *part) for part in recorded(stats, "is_divergent")),
        *(_tiny_step(*part) for part in recorded(stats, "step_size")),
        _stuck_chains(x) if continuous else None,
        _runaway(x, names, began_at),
        *(_deep_trees(*part, max_depth) for part in recorded(stats, "tree_depth")),
    ]
    grave = {f.kind for f in found if f is not None} & {"nan_draws", "stuck", "runaway"}
    if not grave:  # otherwise the chains disagree for a reason that is already named
        found += _convergence(x, names)
    return [finding for finding in found if finding is not None]


def recorded(stats: Mapping[str, Any], field: str) -> list[tuple[str, np.ndarray]]:
    """All series of this name, those of a composed kernel's parts too, each with a prefix."""
    return [
        (f"{part}: " if part else "", np.asarray(values))
        for name, values in stats.items()
        for part, _, last in [name.rpartition(".")]
        if last == field and np.size(values)
    ]


def _nan_draws(x: Draws, names: list[str]) -> Finding | None:
    bad = ~np.isfinite(x)
    if not bad.any():
        return None
    where = [names[i] for i in np.flatnonzero(bad.any((0, 1)))]
    return Finding(
        "nan_draws",
        f"{bad.any(-1).sum()} of {bad[..., 0].size} draws are NaN or infinite, in "
        f"{listing(where)} ({_chains(bad.any((1, 2)))}). A chain that starts at NaN never leaves "
        "it: check the initial position and the constraint of these parameters.",
    )


def _nan_density(x: Draws, names: list[str], part: str, flags: np.ndarray) -> Finding | None:
    if not flags.any():
        return None
    return Finding(
        "nan_density",
        f"{part}the log density or its gradient was NaN in {_share(flags)} of the steps "
        f"({_chains(flags.any(1))}){_concentration(x, names, flags)}. Such proposals are rejected, "
        "so the draws leave out a region that may have mass. Look for the log or the root of a "
        "negative number, 0/0 and inf - inf; return -inf only where the density is truly zero.",
    )


def _not_log_concave(part: str, flags: np.ndarray) -> Finding | None:
    if flags.all():
        return None
    return Finding(
        "not_log_concave",
        f"{part}{_share(~flags)} of the steps ({_chains(~flags.all(1))}) met a conditional density "
        "that is not log-concave, or cannot be normalised, and left its coordinate as it was: the "
        "draws must not be used. Sample these parameters by Slice.",
    )


def _divergences(x: Draws, names: list[str], part: str, flags: np.ndarray) -> Finding | None:
    if not flags.any():
        return None
    if flags.mean() > 0.95:
        return Finding(
            "divergences",
            f"{part}{_share(flags)} of the transitions diverged: the sampler hardly moved and the "
            "draws must not be used. The log density or its gradient is wrong or NaN near the "
            "start; evaluate both there, and check the constraints.",
        )
    return Finding(
        "divergences",
        f"{part}{flags.sum()} of {flags.size} transitions diverged ({_share(flags)}, "
        f"{_chains(flags.any(1))}){_concentration(x, names, flags)}. The draws may miss the "
        "sharply curved part of the posterior. Raise the target acceptance rate, or "
        "re-parameterise (non-centred form for hierarchical models).",
    )


def _tiny_step(part: str, step_size: np.ndarray) -> Finding | None:
    last = step_size[:, -1]
    bad = ~(last >= TINY_STEP)  # so written that NaN counts
    if not bad.any():
        return None
    return Finding(
        "tiny_step",
        f"{part}the step size is {last[bad][0]:.2g} ({_chains(bad)}): the sampler stands still. "
        "Warm-up found no step that it could accept; the log density is not smooth, or is NaN "
        "around the start.",
    )


def _stuck_chains(x: Draws) -> Finding | None:
    """Chains that stay at one position; a scalar that is constant by construction is no matter."""
    num_draws = x.shape[1]
    if num_draws < 10:
        return None
    rests = np.array([_longest_run(chain) for chain in np.all(x[:, 1:] == x[:, :-1], axis=-1)])
    stuck = rests >= min(num_draws - 1, max(LONG_REST, num_draws // 10))
    if not stuck.any():
        return None
    still = rests >= num_draws - 1
    how = "never moved" if still[stuck].all() else f"stood still for {rests.max()} draws in a row"
    return Finding(
        "stuck",
        f"{_chains(stuck)} {how}: every proposal was rejected. Try smaller proposals or a longer "
        "warm-up; start from init= inside the bulk of the distribution; make sure that the log "
        "density is finite there.",
    )


def _runaway(x: Draws, names: list[str], began_at: Scalars) -> Finding | None:
    """Scalars that leave for infinity, as they do when the density cannot be normalised.

    A large scale alone is no fault (a population counts in millions). What is: to be far out
    compared with the start, and to be travelling, each chain in a region of its own or ever wider.
    """
    if x.shape[1] < 20 or not np.isfinite(x).all():
        return None
    late = x[:, x.shape[1] // 2 :]
    far = np.median(np.abs(late), (0, 1)) > HUGE * began_at
    if not far.any():
        return None
    far[far] = _split_rhat(x[..., far]) > 1.2  # 99.9 % of random walks exceed it
    if not far.any():
        return None
    leaving = [names[i] for i in np.flatnonzero(far)]
    size = np.abs(late[..., far]).max()
    return Finding(
        "runaway",
        f"{listing(leaving)} ran away to {size:.1e} and did not settle. The density is probably "
        "improper: it does not fall off in some direction, so it has no mean and no spread. Give "
        "each of these parameters a proper prior, and check the sign of the log density.",
    )


def _deep_trees(part: str, tree_depth: np.ndarray, limit: int | None) -> Finding | None:
    if limit is None or (hit := tree_depth >= limit).mean() <= 0.05:
        return None
    return Finding(
        "tree_depth",
        f"{part}{_share(hit)} of the transitions reached max_depth={limit} before they "
        "turned: draws are correct but costly and close together. A longer warm-up learns the "
        "metric better; or re-parameterise strongly correlated parameters.",
    )


def _convergence(x: Draws, names: list[str]) -> list[Finding | None]:
    """R-hat and ESS, each against what a run of this length can be asked for."""
    num_chains, num_draws, num_scalars = x.shape
    if num_draws < 50:
        return []
    looked_at = np.unique(np.linspace(0, num_scalars - 1, MOST_SCALARS).round().astype(int))
    among = f" (of {looked_at.size} scalars looked at)" if looked_at.size < num_scalars else ""
    looked_at = looked_at[np.ptp(x[..., looked_at], axis=(0, 1)) > 0]  # a constant has no R-hat
    if looked_at.size == 0:
        return []
    x, names = x[..., looked_at], [names[i] for i in looked_at]

    # R-hat of independent draws strays above 1.01 by chance in shorter runs.
    limit = 1.01 if num_draws >= 400 else 1.1
    rhat, ess = _rank_statistics(x)
    wanted = min(100 * min(num_chains, 4), num_chains * num_draws // 10)
    found: list[Finding | None] = []
    if (rhat > limit).any():
        worst = [f"{names[i]} {rhat[i]:.2f}" for i in _largest(rhat) if rhat[i] > limit]
        found.append(
            Finding(
                "rhat",
                f"R-hat is above {limit}{among}: {listing(worst)}. The chains have not come to "
                "agree. Draw more, warm up longer, look for separate modes in run.plot(), or for a "
                "direction in which the density is flat.",
            )
        )
    if (ess < wanted).any():
        worst = [f"{names[i]} {ess[i]:.0f}" for i in _largest(-ess) if ess[i] < wanted]
        found.append(
            Finding(
                "ess",
                f"effective sample size is below {wanted}{among}: {listing(worst)}. Means and "
                "quantiles are uncertain. Draw more (run.extend), or re-parameterise.",
            )
        )
    return found


def _rank_statistics(x: Draws) -> tuple[Scalars, Scalars]:
    """Rank-normalised R-hat and bulk ESS of each scalar, as ArviZ computes them.

    Asked for both, ArviZ ranks the draws three times, which is most of the work; twice will do.
    """
    from arviz_stats.base import array_stats
    from scipy.special import ndtri
    from scipy.stats import rankdata

    def normalised(x: Draws) -> Draws:  # Vehtari et al., eq. 14
        pooled = x.reshape(-1, x.shape[-1])
        return ndtri((rankdata(pooled, axis=0) - 3 / 8) / (len(pooled) + 1 / 4)).reshape(x.shape)

    bulk, folded = normalised(x), normalised(np.abs(x - np.median(x, axis=(0, 1))))
    with np.errstate(divide="ignore", invalid="ignore"):
        rhat = [
            array_stats.rhat(z, chain_axis=0, draw_axis=1, method="split") for z in (bulk, folded)
        ]
        ess = array_stats.ess(bulk, chain_axis=0, draw_axis=1, method="mean")
    return np.maximum(rhat[0], rhat[1]), np.asarray(ess)


class Monitor:
    """Cheap R-hat and divergences of the draws so far, for the progress bar.

    R-hat is recomputed only when its cost stays below 1 % of the time since the last one, on at
    most ``most_scalars`` scalars and ``most_draws`` thinned draws of each chain.
    """

    def __init__(
        self,
        most_scalars: int = 16,
        most_draws: int = 500,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._most_scalars, self._most_draws, self._clock = most_scalars, most_draws, clock
        self._chunks: list[Draws] = []
        self._divergences, self._rhat = 0, float("nan")
        self._last, self._cost = clock(), 0.03

    def add(self, draws: Any, stats: Mapping[str, Any]) -> dict[str, Any]:
        """Take in a chunk of draws and stats (axes chain, draw); what the bar should show now."""
        x = flat_draws(draws)
        chosen = np.unique(np.linspace(0, x.shape[-1] - 1, self._most_scalars).round().astype(int))
        self._chunks.append(x[..., chosen])
        if self._clock() - self._last > 100 * self._cost:
            self._update_rhat()
        status: dict[str, Any] = {"rhat": self._rhat}
        if divergent := recorded(stats, "is_divergent"):
            self._divergences += sum(int(flags.sum()) for _, flags in divergent)
            status["divergences"] = self._divergences
        if step_sizes := recorded(stats, "step_size"):
            status["step_size"] = float(step_sizes[0][1][:, -1].mean())
        return status

    def _update_rhat(self) -> None:
        from arviz_stats.base import array_stats  # noqa: F401  imported first, so as not to count

        began = self._clock()
        self._rhat = live_rhat(np.concatenate(self._chunks, axis=1), self._most_draws)
        self._last = self._clock()
        self._cost = self._last - began


def live_rhat(x: Draws, most_draws: int = 500) -> float:
    """The worst split R-hat over scalars of thinned draws; NaN when it cannot be said."""
    thinned = x[:, :: -(-x.shape[1] // most_draws)]
    rhat = _split_rhat(thinned)
    return float(np.nanmax(rhat)) if np.isfinite(rhat).any() else float("nan")


def _split_rhat(x: Draws) -> Scalars:
    """R-hat of each scalar; one chain is compared with itself, first half with second."""
    from arviz_stats.base import array_stats

    if x.shape[0] == 1:
        half = x.shape[1] // 2
        x = np.concatenate([x[:, :half], x[:, half : 2 * half]])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(array_stats.rhat(x, chain_axis=0, draw_axis=1, method="split"))


def _concentration(x: Draws, names: list[str], flags: Flags) -> str:
    """Where flagged draws gather: the scalar that tells them best from the others, if one does.

    The statistic is Mann and Whitney's: the mean rank of the flagged draws, standardised.
    """
    num_flagged, num = int(flags.sum()), flags.size
    if not 5 <= num_flagged <= num - 5:
        return ""
    from scipy.stats import rankdata

    pooled = x.reshape(num, -1)[:, :MOST_SCALARS]
    ranks = rankdata(pooled, axis=0) / num
    shift = ranks[flags.ravel()].mean(0) - ranks.mean(0)
    z = shift * np.sqrt(12 * num_flagged * num / (num - num_flagged))
    best = int(np.argmax(np.nan_to_num(np.abs(z))))
    if not abs(z[best]) > 6:
        return ""
    inside, outside = (np.median(pooled[f, best]) for f in (flags.ravel(), ~flags.ravel()))
    side = "small" if shift[best] < 0 else "large"
    return f", mostly at {side} {names[best]} (median {inside:.3g} there, {outside:.3g} elsewhere)"


def _longest_run(flags: Bool[np.ndarray, "draw"]) -> int:
    """Length of the longest stretch of True."""
    ends = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((ends[1::2] - ends[::2]).max(initial=0))


def _largest(values: Scalars) -> list[int]:
    return np.argsort(-np.nan_to_num(values, nan=-np.inf)).tolist()


def _share(flags: Bool[np.ndarray, "..."]) -> str:
    share = 100 * flags.mean()
    return f"{share:.0f} %" if share >= 10 else f"{share:.2g} %"


def _chains(flags: Any) -> str:
    """The chains whose flag is set, in words."""
    if flags.all():
        return "all chains" if flags.size > 1 else "the only chain"
    numbers = [str(i) for i in np.flatnonzero(flags)]
    return f"chain{'s' if len(numbers) > 1 else ''} {listing(numbers, 8)}"
