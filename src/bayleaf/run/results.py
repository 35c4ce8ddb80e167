"""What a run gives back: draws on the host, what the sampler recorded, and ways to look at them.

A `Run` holds NumPy arrays only. Everything derived from them (summary, intervals, ArviZ, plots) is
computed when asked for, by the libraries that keep it well; they are imported at that moment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from bayleaf.errors import CheckpointError, bad_argument
from bayleaf.run import archive
from bayleaf.run.diagnostics import Finding
from bayleaf.run.names import listing
from bayleaf.run.summary import Summary, summarize
from bayleaf.trees import leaf_names


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run:
    """Draws from all chains and what is known about how they were made.

    Attributes:
        draws: pytree of NumPy arrays with leading axes chain and draw, in the model's own space.
        stats: what the kernel recorded at each draw, by name; arrays of shape [chain, draw].
        warmup_stats: the same for the warm-up steps.
        kernel: the kernel with what it learnt in warm-up. Of a loaded run its printed form, until
            `load` is told the target.
        sampler: pytree of all that is needed to go on (kernel, states, key); its leaves are saved.
        num_warmup: warm-up steps of each chain.
        findings: what is wrong with the draws; empty when nothing was seen.
        fingerprint: hashes of what the run was configured with, by name.
        seconds: wall-clock time of the run.
        continuation: draws more; the runner puts it here.
    """

    draws: Any
    stats: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    warmup_stats: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kernel: Any = None
    sampler: Any = None
    num_warmup: int = 0
    findings: Sequence[Finding] = ()
    fingerprint: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    continuation: Callable[..., Run] | None = None

    @property
    def num_chains(self) -> int:
        """How many chains ran."""
        return jax.tree.leaves(self.draws)[0].shape[0]

    @property
    def num_draws(self) -> int:
        """Kept draws of each chain."""
        return jax.tree.leaves(self.draws)[0].shape[1]

    def __repr__(self) -> str:
        kernel = self.kernel if isinstance(self.kernel, str) else type(self.kernel).__name__
        return (
            f"Run({self.num_chains} chains x {self.num_draws} draws of "
            f"{listing(leaf_names(self.draws), 6)}; {kernel.partition('(')[0]})"
        )

    def summary(self, var_names: Sequence[str] | None = None) -> Summary:
        """Mean, sd, 90 % interval, Monte Carlo error, ESS and R-hat of each scalar.

        Args:
            var_names: parameters (``"beta"``) or single scalars (``"beta[2]"``); None takes all.
        """
        return summarize(self.draws, var_names)

    def interval(self, prob: float = 0.9) -> tuple[Any, Any]:
        """Equal-tailed credible intervals: as much probability lies below as above.

        Args:
            prob: the probability inside, between 0 and 1.

        Returns:
            The lower and the upper ends, each a pytree like one draw.
        """
        return self._bounds("eti", prob)

    def highest_density_interval(self, prob: float = 0.9) -> tuple[Any, Any]:
        """The shortest credible intervals; see `interval` for arguments and result."""
        return self._bounds("hdi", prob)

    def _bounds(self, kind: Literal["eti", "hdi"], prob: float) -> tuple[Any, Any]:
        if not 0 < prob < 1:
            raise bad_argument("prob", prob, "a number between 0 and 1", "Try prob=0.9.")
        from arviz_stats.base import array_stats

        def both_ends(leaf: Any) -> np.ndarray:
            pooled = np.asarray(leaf, np.float64).reshape(-1, *leaf.shape[2:])
            return getattr(array_stats, kind)(pooled, prob, axis=0)

        ends = jax.tree.map(both_ends, self.draws)
        return jax.tree.map(lambda e: e[..., 0], ends), jax.tree.map(lambda e: e[..., 1], ends)

    def to_arviz(
        self,
        *,
        log_likelihood: Mapping[str, Any] | None = None,
        observed_data: Mapping[str, Any] | None = None,
    ) -> Any:
        """The run as ArviZ wants it: a DataTree (ArviZ 1), or InferenceData (ArviZ 0.23).

        Args:
            log_likelihood: pointwise log likelihoods by name, [chain, draw, observation...].
            observed_data: the data by name.
        """
        from bayleaf.run.arviz_adapter import to_arviz

        return to_arviz(self, log_likelihood=log_likelihood, observed_data=observed_data)

    def extend(self, num_draws: int, *, progress: bool = True) -> Run:
        """A run with ``num_draws`` more draws of each chain; what exists is kept as it is."""
        if num_draws < 1:
            raise bad_argument("num_draws", num_draws, "at least 1")
        if self.continuation is None:
            raise bad_argument(
                "extend",
                "a run without its target",
                "the target that it was sampled from",
                "A file holds no functions: load it by Run.load(path, target=...).",
            )
        return self.continuation(self, num_draws, progress=progress)

    def save(self, path: str | Path) -> Path:
        """Write the run to one file, without pickle; `load` reads it.

        Functions and classes are not written. What is needed to go on is, so a run loaded with its
        target can be extended.
        """
        path = Path(path)
        parts = {
            "draws": self.draws,
            "stats": dict(self.stats),
            "warmup_stats": dict(self.warmup_stats),
            "sampler": jax.tree.leaves(self.sampler),
        }
        header = {
            "content": "run",
            "versions": archive.versions(),
            "structure": archive.structure_of(parts),
            "kernel": self.kernel if isinstance(self.kernel, str) else repr(self.kernel),
            "num_warmup": self.num_warmup,
            "findings": [list(finding) for finding in self.findings],
            "fingerprint": dict(self.fingerprint),
            "seconds": self.seconds,
        }
        archive.write(path, header, jax.tree.leaves(parts))
        return path

    @classmethod
    def load(cls, path: str | Path, *, target: Any = None, kernel: Any = None) -> Run:
        """Read a run from the file that `save` wrote.

        Dictionaries, lists and tuples come back as they were; a record of another class (a named
        tuple, a module) comes back as an ordered dictionary of its fields.

        Args:
            path: the file.
            target: what the run was sampled from; needed only to `extend` it.
            kernel: the kernel that was passed to ``sample``, if one was.

        Raises:
            CheckpointError: the file is missing, damaged, or not a saved run.
        """
        path = Path(path)
        header, leaves = archive.read(path)
        if header.get("content") != "run":
            raise CheckpointError(
                f"{path}: holds a {header.get('content', 'thing')}, expected a run. "
                "Give the file that Run.save wrote."
            )
        parts = archive.rebuild(header["structure"], leaves)
        run = cls(
            **parts,
            kernel=header["kernel"],
            num_warmup=header["num_warmup"],
            findings=tuple(Finding(*finding) for finding in header["findings"]),
            fingerprint=header["fingerprint"],
            seconds=header["seconds"],
        )
        if target is None:
            return run
        from bayleaf.run import runner

        return runner.attach(run, target, kernel)

    def plot(self, var_names: Sequence[str] | None = None) -> Any:
        """A figure with the trace and the ranks of each scalar; see `bayleaf.run.plots`."""
        from bayleaf.run.plots import plot_trace

        return plot_trace(self, var_names)

    def plot_pairs(self, var_names: Sequence[str] | None = None) -> Any:
        """A figure of each scalar against each other, divergent draws marked."""
        from bayleaf.run.plots import plot_pairs

        return plot_pairs(self, var_names)
