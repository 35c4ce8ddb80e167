"""Tables of numbers and words as matrices of standardised features.

Numbers are centred and scaled by the training data; a missing one becomes the mean, with a column
of its own that says so. Words become one column for each of the most frequent levels, of which
"missing" may be one; rare and unseen ones share a column. Columns that cannot help are left out and
named: those with one value, and texts that differ in nearly every row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bayleaf.errors import bad_argument

MAX_LEVELS = 20
MISSING, RARE = "(missing)", "(rare)"


class Numeric(NamedTuple):
    """A column of numbers."""

    name: str
    mean: float
    sd: float
    has_missing: bool


class Words(NamedTuple):
    """A column of words, with the levels that have a column."""

    name: str
    levels: tuple[str, ...]


class Encoder(NamedTuple):
    """How rows become features; ``dropped`` says which columns do not and why."""

    columns: tuple[Numeric | Words, ...]
    dropped: dict[str, str]

    @property
    def features(self) -> list[str]:
        """The name of each feature."""
        names = []
        for column in self.columns:
            if isinstance(column, Words):
                names += [f"{column.name} = {level}" for level in column.levels]
            else:
                names += [column.name, *([f"{column.name} missing"] * column.has_missing)]
        return names

    def encode(self, frame: Any) -> np.ndarray:
        """The features of each row, ``[row, feature]``."""
        lacking = [c.name for c in self.columns if c.name not in frame.columns]
        if lacking:
            raise bad_argument("--test", f"a table without {', '.join(lacking)}", "these columns")
        parts: list[np.ndarray] = []
        for column in self.columns:
            if isinstance(column, Words):
                values = words(frame[column.name], column.levels)
                parts += [np.asarray(values == level, float) for level in column.levels]
            else:
                numbers = np.asarray(pd.to_numeric(frame[column.name], errors="coerce"), float)
                is_missing = ~np.isfinite(numbers)
                parts.append(np.where(is_missing, 0, (numbers - column.mean) / column.sd))
                if column.has_missing:
                    parts.append(is_missing.astype(float))
        return np.stack(parts, axis=1)


def read(path: Path) -> Any:
    """The table in a CSV file."""
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError, UnicodeError) as error:  # pandas' own errors are ValueErrors
        raise bad_argument(str(path), str(error).strip(), "a readable CSV file") from error
    if frame.empty:
        raise bad_argument(str(path), "a table without rows", "a header and rows")
    return frame


def learn(frame: Any) -> Encoder:
    """How to encode tables like this one."""
    columns: list[Numeric | Words] = []
    dropped: dict[str, str] = {}
    for name in map(str, frame.columns):
        series = frame[name]
        if series.nunique(dropna=False) < 2:
            dropped[name] = "one value only"
        elif pd.api.types.is_numeric_dtype(series) and not pd.api.types.is_bool_dtype(series):
            numbers = series.to_numpy(float)
            known = numbers[np.isfinite(numbers)]
            sd = float(np.std(known)) or 1.0
            columns.append(Numeric(name, float(np.mean(known)), sd, known.size < numbers.size))
        elif series.nunique() > max(MAX_LEVELS, 0.5 * len(series)):
            dropped[name] = "text that differs in most rows"
        else:
            counts = words(series, None).value_counts()
            kept = [str(level) for level in counts.index[:MAX_LEVELS]]
            is_cut = len(counts) > MAX_LEVELS and RARE not in kept
            columns.append(Words(name, tuple([*kept, RARE] if is_cut else kept)))
    if not columns:
        raise bad_argument("TRAIN.csv", "no usable column beside the target", "one at least")
    return Encoder(tuple(columns), dropped)


def words(series: Any, levels: tuple[str, ...] | None) -> Any:
    """Values as text, with names for what is missing and for what has no level."""
    text = series.astype(object).where(series.notna(), MISSING).astype(str)
    return text if levels is None else text.where(text.isin(levels), RARE)


def is_classes(target: Any) -> bool:
    """Whether a target is text, true or false, or at most five whole numbers."""
    if not pd.api.types.is_numeric_dtype(target) or pd.api.types.is_bool_dtype(target):
        return True
    values = target.dropna().unique()
    return len(values) <= 5 and bool(np.all(values == np.round(values)))
