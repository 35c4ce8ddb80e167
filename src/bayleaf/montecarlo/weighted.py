r"""`WeightedDraws`: draws that count for more or less than one each.

With draws $x_n \sim q$ and weights $w_n = \pi(x_n) / q(x_n)$,

$$\hat Z = \frac1N \sum_n w_n, \qquad W_n = \frac{w_n}{\sum_m w_m}, \qquad
  E_\pi f \approx \sum_n W_n f(x_n), \qquad \mathrm{ESS} = \frac{1}{\sum_n W_n^2}.$$

The standard error of $\log \hat Z$ is that of $\hat Z$ relative to it (the delta method),

$$\mathrm{se}^2 = \frac{N}{N - 1} \sum_n \Big(W_n - \frac1N\Big)^2,$$

and that of an expectation is $\{\sum_n W_n^2 (f(x_n) - \hat f)^2\}^{1/2}$. Both believe the weights
that were seen. Whether larger ones were only missed is what Pareto $\hat k$ tells: it is the shape
of the tail of the weights, and above 0.7 neither estimate nor error can be relied on.

All is computed on the host in float64, whatever the dtype of the draws.

Sources: Owen, Monte Carlo theory, methods and examples (2013), chapter 9; Vehtari et al., Pareto
smoothed importance sampling, JMLR 25 (2024), sections 2 and 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayleaf.errors import CheckpointError, bad_argument
from bayleaf.montecarlo import resampling, weighting
from bayleaf.montecarlo.weighting import Weights, check_log_weights, evidence
from bayleaf.run import archive
from bayleaf.run.diagnostics import Finding
from bayleaf.run.names import flat_draws, listing, scalar_names, select_scalars
from bayleaf.run.results import Run
from bayleaf.run.summary import Summary
from bayleaf.trees import leaf_names
from bayleaf.types import Key

LARGEST_K = 0.7
"""Above it the error of an estimate shrinks too slowly with more draws to be of use."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class WeightedDraws:
    """Draws with log weights; what samplers that have no chains give back.

    Attributes:
        draws: pytree of arrays with the leading axis draw, in the model's own space.
        log_weights: log w of each draw, up to a constant where ``log_evidence`` is given.
        log_evidence: log Z; by default that of the weights, which then must be those of a
            normalised proposal.
        log_evidence_error: standard error of ``log_evidence``; by default that of the weights, NaN
            where ``log_evidence`` is given without.

    Raises:
        BayleafError: no draws, a weight that is NaN or infinite, no positive weight, or draws and
            weights that differ in number.
    """

    draws: Any
    log_weights: Any
    log_evidence: Any = None
    log_evidence_error: Any = None

    def __post_init__(self) -> None:
        """Arrays to the host; the evidence where it is not given."""
        draws = jax.tree.map(np.asarray, self.draws)
        log_weights = np.asarray(self.log_weights)
        check_log_weights(log_weights, "log_weights")
        _check_sizes(draws, log_weights.size)
        log_evidence, error = self.log_evidence, self.log_evidence_error
        if log_evidence is None:
            if error is not None:
                raise bad_argument(
                    "log_evidence", "None", "a number, since its error is given", "Give both."
                )
            log_evidence, error = evidence(log_weights)
        error = np.nan if error is None else error
        fields = {
            "draws": draws,
            "log_weights": log_weights,
            "log_evidence": float(log_evidence),
            "log_evidence_error": float(error),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def num_draws(self) -> int:
        """How many draws there are, those of weight zero included."""
        return self.log_weights.size

    @cached_property
    def weights(self) -> Weights:
        """W, which sum to one."""
        return weighting.normalised(self.log_weights)

    @property
    def ess(self) -> float:
        """Kish's effective number of draws, ``1 / sum W^2``: from 1 to `num_draws`."""
        return float(1 / np.sum(np.square(self.weights)))

    @property
    def pareto_k(self) -> float:
        """k-hat: the shape of the weights' tail.

        Below 0.5 the weights have a variance; above 0.7 do not rely on the estimates. It is -inf
        for weights that are all equal, inf when fewer than 25 of more draws have a positive weight,
        and NaN for fewer than 25 draws, from which it cannot be told.
        """
        return self._pareto[1]

    @cached_property
    def _pareto(self) -> tuple[Weights, float]:
        return weighting.pareto_smoothed(self.log_weights)

    @property
    def findings(self) -> list[Finding]:
        """What makes the draws unreliable; empty when nothing is seen."""
        k = self.pareto_k
        if not k > LARGEST_K:
            return []
        return [
            Finding(
                "pareto_k",
                f"pareto_k: the weights' tail has k-hat = {k:.2f}, above {LARGEST_K}: a few draws "
                f"carry the estimates (effective number {self.ess:.1f} of {self.num_draws}). "
                "Use a proposal that is closer to the target and has heavier tails.",
            )
        ]

    def smoothed(self) -> WeightedDraws:
        """The same draws with Pareto-smoothed weights.

        The largest weights become the expected order statistics of the Pareto distribution that
        fits them: less noise for a little bias. The evidence is that of the smoothed weights where
        it came from the weights; where it was given it stays.
        """
        log_weights, _ = self._pareto
        plain = evidence(self.log_weights)[0]
        if not np.isclose(plain, self.log_evidence, rtol=1e-12, atol=1e-12):
            return WeightedDraws(
                self.draws, log_weights, self.log_evidence, self.log_evidence_error
            )
        return WeightedDraws(self.draws, log_weights)

    def resample(
        self,
        key: Key,
        num_draws: int | None = None,
        *,
        scheme: Callable[..., Any] = resampling.systematic,
    ) -> Any:
        """Draws of equal weight: a pytree like ``draws``, some of them repeated.

        Args:
            key: decides which.
            num_draws: how many; None for as many as there are.
            scheme: one of `bayleaf.montecarlo.resampling`.
        """
        if num_draws is not None and num_draws < 1:
            raise bad_argument("num_draws", num_draws, "at least 1")
        chosen = np.asarray(_chosen(scheme, key, jnp.asarray(self.weights), num_draws))
        return jax.tree.map(lambda leaf: leaf[chosen], self.draws)

    def expectation(self, function: Callable[[Any], Any]) -> tuple[Any, Any]:
        """Weighted mean of ``function(draw)`` and its standard error, pytrees like its value."""
        values = jax.tree.map(np.asarray, jax.vmap(function)(self.draws))
        mean = jax.tree.map(lambda v: weighting.mean(self.weights, v), values)
        return mean, jax.tree.map(lambda v: weighting.standard_error(self.weights, v), values)

    def mean(self) -> Any:
        """Weighted means, a pytree like one draw."""
        return jax.tree.map(lambda leaf: weighting.mean(self.weights, leaf), self.draws)

    def sd(self) -> Any:
        """Weighted standard deviations, a pytree like one draw."""
        return jax.tree.map(lambda leaf: weighting.sd(self.weights, leaf), self.draws)

    def quantile(self, probability: float) -> Any:
        """The smallest draw with at least this probability at or below it, coordinate-wise."""
        if not 0 <= probability <= 1:
            raise bad_argument("probability", probability, "a number from 0 to 1")
        return jax.tree.map(
            lambda leaf: weighting.quantile(self.weights, leaf, probability), self.draws
        )

    def interval(self, prob: float = 0.9) -> tuple[Any, Any]:
        """Equal-tailed credible intervals: lower and upper ends, pytrees like one draw."""
        if not 0 < prob < 1:
            raise bad_argument("prob", prob, "a number between 0 and 1", "Try prob=0.9.")
        return self.quantile((1 - prob) / 2), self.quantile((1 + prob) / 2)

    def summary(self, var_names: Sequence[str] | None = None) -> Summary:
        """Mean, sd, 90 % interval, Monte Carlo error and ESS of each scalar.

        The ESS are (sd / standard error)^2 of the mean, and the smaller one of the shares below the
        5 % and 95 % quantiles. There are no chains, so R-hat is NaN.

        Args:
            var_names: parameters (``"beta"``) or single scalars (``"beta[2]"``); None takes all.
        """
        W = self.weights
        tree = jax.tree.map(lambda leaf: leaf[None], self.draws)
        chosen = select_scalars(tree, var_names, 2)
        names, x = scalar_names(tree, 2), flat_draws(tree)[0][:, chosen]
        low, high = weighting.quantile(W, x, 0.05), weighting.quantile(W, x, 0.95)
        sd, mcse = weighting.sd(W, x), weighting.standard_error(W, x)
        tails = [weighting.effective(W, (x <= end).astype(float)) for end in (low, high)]
        return Summary(
            names=tuple(names[i] for i in chosen),
            mean=weighting.mean(W, x),
            sd=sd,
            q5=low,
            q95=high,
            mcse=mcse,
            ess_bulk=weighting.effective(W, x),
            ess_tail=np.minimum(*tails),
            rhat=np.full(len(chosen), np.nan),
            num_chains=1,
            num_draws=self.num_draws,
        )

    def to_arviz(self, key: Key, num_draws: int | None = None) -> Any:
        """Resampled draws as one chain of ArviZ, which knows no weights; see `resample`."""
        draws = jax.tree.map(lambda leaf: leaf[None], self.resample(key, num_draws))
        return Run(draws=draws).to_arviz()

    def save(self, path: str | Path) -> Path:
        """Write draws, weights and evidence to one file; `load` reads it."""
        path = Path(path)
        parts = {"draws": self.draws, "log_weights": self.log_weights}
        header = {
            "content": "weighted draws",
            "versions": archive.versions(),
            "structure": archive.structure_of(parts),
            "log_evidence": self.log_evidence,
            "log_evidence_error": self.log_evidence_error,
        }
        archive.write(path, header, jax.tree.leaves(parts))
        return path

    @classmethod
    def load(cls, path: str | Path) -> WeightedDraws:
        """Read what `save` wrote; records of other classes come back as ordered dictionaries.

        Raises:
            CheckpointError: the file is missing, damaged, or holds something else.
        """
        header, leaves = archive.read(Path(path))
        if header.get("content") != "weighted draws":
            raise CheckpointError(
                f"{path}: holds a {header.get('content', 'thing')}, expected weighted draws. "
                "Give the file that WeightedDraws.save wrote."
            )
        parts = archive.rebuild(header["structure"], leaves)
        return cls(**parts, **{n: header[n] for n in ("log_evidence", "log_evidence_error")})

    def plot(self, var_names: Sequence[str] | None = None) -> Any:
        """A Matplotlib figure: a weighted histogram of each scalar (at most twelve)."""
        from bayleaf.run.plots import _pyplot

        plt = _pyplot()
        tree = jax.tree.map(lambda leaf: leaf[None], self.draws)
        chosen = select_scalars(tree, var_names, 2)[:12]
        names, x = scalar_names(tree, 2), flat_draws(tree)[0]
        figure, rows = plt.subplots(
            len(chosen), 1, figsize=(5, 1 + 1.6 * len(chosen)), squeeze=False, layout="constrained"
        )
        for axes, i in zip(rows[:, 0], chosen, strict=True):
            ends = [weighting.quantile(self.weights, x[:, i], p) for p in (0.001, 0.999)]
            axes.hist(x[:, i], bins=40, range=ends, weights=self.weights, color="#9DB4C7")
            axes.axvline(weighting.mean(self.weights, x[:, i]), color="#222222", lw=1)
            axes.set(xlabel=names[i], yticks=[])
        rows[0, 0].set_title(repr(self), loc="left", fontsize=9)
        return figure

    def __repr__(self) -> str:
        return (
            f"WeightedDraws({self.num_draws} draws of {listing(leaf_names(self.draws), 6)}; "
            f"ESS {self.ess:.1f}, log evidence {self.log_evidence:.4g} "
            f"+- {self.log_evidence_error:.2g}, pareto_k {self.pareto_k:.2f})"
        )


@partial(jax.jit, static_argnums=(0, 3))
def _chosen(scheme: Any, key: Key, weights: Any, num_draws: int | None) -> Any:
    # Schemes return copies side by side, and a reader may take the first half.
    key, key_order = jax.random.split(key)
    return jax.random.permutation(key_order, scheme(key, weights, num_draws))


def _check_sizes(draws: Any, size: int) -> None:
    leaves = jax.tree.leaves(draws)
    if not leaves:
        raise bad_argument("draws", "an empty tree", "at least one array")
    for name, leaf in zip(leaf_names(draws), leaves, strict=True):
        if leaf.shape[:1] != (size,):
            raise bad_argument(
                f"draws, leaf {name}",
                f"shape {leaf.shape}",
                f"the leading axis {size}, one entry for each log weight",
            )
