"""The table of a run: one line a scalar, with its posterior and how well it is known.

The statistics are ArviZ's (``arviz_stats``): rank-normalised split R-hat and bulk and tail
effective sample size (Vehtari et al. 2021, https://doi.org/10.1214/20-BA1221).
"""

from __future__ import annotations

import dataclasses
import difflib
import html
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from bayleaf.errors import bad_argument
from bayleaf.run.names import flat_draws, listing, scalar_names, select_scalars

MOST_ROWS = 60
"""A longer table is printed with a gap; all rows stay reachable by name."""

Column = Float[np.ndarray, "scalar"]


class Row(NamedTuple):
    """What is known of one scalar; the fields of `Summary`."""

    mean: float
    sd: float
    q5: float
    q95: float
    mcse: float
    ess_bulk: float
    ess_tail: float
    rhat: float


_HEADINGS = ("mean", "sd", "5 %", "95 %", "mcse", "ESS bulk", "ESS tail", "R-hat")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Summary:
    """Columns of equal length, one entry a scalar; ``summary["beta[2]"].mean`` reads one.

    Attributes:
        names: the scalars.
        mean: posterior mean.
        sd: posterior standard deviation.
        q5: 5 % quantile.
        q95: 95 % quantile.
        mcse: Monte Carlo standard error of the mean.
        ess_bulk: effective sample size for the centre of the distribution.
        ess_tail: effective sample size for its tails.
        rhat: disagreement of the chains; 1 when they agree, NaN when there is one chain only.
        num_chains: chains.
        num_draws: draws of each chain.
    """

    names: Sequence[str]
    mean: Column
    sd: Column
    q5: Column
    q95: Column
    mcse: Column
    ess_bulk: Column
    ess_tail: Column
    rhat: Column
    num_chains: int
    num_draws: int

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> Row:
        if name not in self.names:
            near = difflib.get_close_matches(name, self.names, n=3, cutoff=0.3)
            raise bad_argument(
                "name", repr(name), f"a scalar, such as {listing(near or self.names)}"
            )
        return self._row(list(self.names).index(name))

    def _row(self, index: int) -> Row:
        return Row(*(float(getattr(self, field)[index]) for field in Row._fields))

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame indexed by name (pandas must be installed)."""
        import pandas

        return pandas.DataFrame({f: getattr(self, f) for f in Row._fields}, index=list(self.names))

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        rows = [("", *_HEADINGS), *self._cells()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for name, *numbers in rows:
            cells = [n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *cells]).rstrip())
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join([*lines, "", self._footer()])

    def _repr_html_(self) -> str:
        def tr(cells: Sequence[str], tag: str) -> str:
            made = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{made}</tr>"

        body = "".join(tr(cells, "td") for cells in self._cells())
        return (
            f"<table><thead>{tr(('', *_HEADINGS), 'th')}</thead><tbody>{body}</tbody></table>"
            f"<p>{html.escape(self._footer())}</p>"
        )

    def _footer(self) -> str:
        chains = f"{self.num_chains} chain{'s' if self.num_chains != 1 else ''}"
        return (
            f"{chains} x {self.num_draws} draws. mcse: Monte Carlo standard error of the mean. "
            "ESS: effective sample size.\nR-hat: 1 when the chains agree; above 1.01 (marked *) "
            "they do not yet."
        )

    def _cells(self) -> Iterator[tuple[str, ...]]:
        """The text of the table, with a gap in the middle of a long one."""
        head, tail = MOST_ROWS - 10, len(self) - 10
        for index, name in enumerate(self.names):
            if len(self) <= MOST_ROWS or index < head or index >= tail:
                yield (name, *_texts(self._row(index)))
            elif index == head:
                yield (f"... {tail - head} more ...", *("" for _ in _HEADINGS))


def summarize(draws: Any, var_names: Sequence[str] | None = None) -> Summary:
    """The summary of draws with leading axes chain and draw.

    Args:
        draws: pytree of arrays.
        var_names: parameters or single scalars; None takes all.
    """
    leaves = jax.tree.leaves(draws)
    if not leaves or leaves[0].shape[1] == 0:
        raise bad_argument("summary", "a run without draws", "at least one draw of each chain")
    from arviz_stats.base import array_stats

    chosen = select_scalars(draws, var_names, 2)
    names = scalar_names(draws, 2)
    x = flat_draws(draws)[:, :, chosen]

    def of_chains(statistic: str, **options: Any) -> Column:
        compute = getattr(array_stats, statistic)
        return np.asarray(compute(x, chain_axis=0, draw_axis=1, **options))

    # A constant scalar (a correlation matrix's diagonal) divides 0 by 0 in R-hat: it shows as NaN.
    with np.errstate(divide="ignore", invalid="ignore"):
        return Summary(
            names=tuple(names[i] for i in chosen),
            mean=x.mean((0, 1)),
            sd=x.std((0, 1), ddof=1 if x.shape[0] * x.shape[1] > 1 else 0),
            q5=np.quantile(x, 0.05, axis=(0, 1)),
            q95=np.quantile(x, 0.95, axis=(0, 1)),
            mcse=of_chains("mcse", method="mean"),
            ess_bulk=of_chains("ess", method="bulk"),
            ess_tail=of_chains("ess", method="tail", prob=(0.05, 0.95)),
            rhat=of_chains("rhat", method="rank"),
            num_chains=x.shape[0],
            num_draws=x.shape[1],
        )


def _texts(row: Row) -> list[str]:
    """Numbers to the digit that the draws can vouch for: the second one of the mcse."""
    spread = row.mcse if 0 < row.mcse < math.inf else row.sd / 100
    known = 0 < spread < math.inf
    decimals = max(0, 1 - math.floor(math.log10(spread))) if known else 3
    posterior = [_number(v, decimals) for v in (row.mean, row.sd, row.q5, row.q95, row.mcse)]
    ess = [_number(v, 0) for v in (row.ess_bulk, row.ess_tail)]
    return [*posterior, *ess, _number(row.rhat, 3) + ("*" if row.rhat > 1.01 else " ")]


def _number(value: float, decimals: int) -> str:
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    if decimals > 6 or abs(value) >= 1e8:
        return f"{value:.3g}"
    return f"{value:.{decimals}f}"
