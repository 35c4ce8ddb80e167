"""The command: read, fit, check, predict, write."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from rich.console import Console

from bayleaf import gp
from bayleaf.errors import bad_argument
from bayleaf.predict import model, report, table
from bayleaf.run.progress import open_progress

SMALLEST = 20


class Settings(NamedTuple):
    """What the command line says."""

    train: Path
    target: str
    test: Path | None
    out: Path
    level: float
    task: str
    max_rows: int
    seed: int
    quiet: bool


def run(settings: Settings) -> int:
    """Do it all; returns the exit code."""
    with jax.enable_x64(True):
        return _run(settings)


def _run(settings: Settings) -> int:
    if not 0 < settings.level < 1:
        raise bad_argument("--level", settings.level, "a number between 0 and 1")
    frame, notes = load(settings)
    target = frame.pop(settings.target)
    rows = None if settings.test is None else table.read(settings.test)
    encoder = table.learn(frame)
    x = encoder.encode(frame)
    new = None if rows is None else encoder.encode(rows)
    is_classes = table.is_classes(target) if settings.task == "auto" else settings.task[0] == "c"
    y, labels = outputs(target, is_classes)
    notes += [f"column {name} is not used: {why}" for name, why in encoder.dropped.items()]

    settings.out.mkdir(parents=True, exist_ok=True)
    names = tuple(model.candidates(x.shape[1]))
    steps = {"choose": len(names), "check": model.NUM_FOLDS}
    count = 0
    with open_progress(steps, shown=not settings.quiet) as display:

        def done() -> None:
            nonlocal count
            count += 1
            display.update(count)

        fitted = model.fit(x, y, settings.level, names, done)
        check = model.check(x, y, settings.level, fitted.name, settings.seed, done)
    # Without new rows: each row as it was predicted when held out.
    index = check.index if rows is None else np.arange(len(rows))
    values = check[1:] if new is None else model.predict(fitted, new)
    base = frame.iloc[index] if rows is None else rows
    written = as_frame(base, settings, values, labels)
    if rows is None:
        written = written.sort_index()
    written.to_csv(settings.out / "predictions.csv", index=False)
    page = report.page(settings, fitted, check, y, labels, encoder, notes, written, len(x))
    (settings.out / "index.html").write_text(page.html, encoding="utf-8")
    console = Console()
    for line in page.lines:
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"written: {settings.out / 'predictions.csv'}, {settings.out / 'index.html'}")
    return 0


def load(settings: Settings) -> tuple[Any, list[str]]:
    """The training table, and what was left out of it."""
    frame = table.read(settings.train)
    if settings.target not in frame.columns:
        known = ", ".join(map(str, frame.columns))
        raise bad_argument("--target", settings.target, f"a column of the table: {known}")
    notes = []
    is_known = frame[settings.target].notna()
    if not is_known.all():
        notes.append(f"{(~is_known).sum()} rows without {settings.target} are not used")
        frame = frame[is_known]
    if len(frame) > settings.max_rows:
        notes.append(
            f"{settings.max_rows} of {len(frame)} rows are used, drawn at random: exact inference "
            "takes time in the cube of their number (--max-rows)"
        )
        frame = frame.sample(settings.max_rows, random_state=settings.seed)
    if len(frame) < SMALLEST:
        raise bad_argument(str(settings.train), f"{len(frame)} rows", f"at least {SMALLEST}")
    return frame.reset_index(drop=True), notes


def outputs(target: Any, is_classes: bool) -> tuple[np.ndarray, list[str] | None]:
    """What the process is conditioned on, and the names of the classes if there are any."""
    if not is_classes:
        numbers = np.asarray(pd.to_numeric(target, errors="coerce"), float)
        if not np.all(np.isfinite(numbers)):
            raise bad_argument("--target", f"{target.name}: not all are numbers", "numbers")
        return numbers, None
    names, index = np.unique(target.astype(str), return_inverse=True)
    most = min(50, len(target) // 3)
    if not 2 <= len(names) <= most:
        got, try_ = f"{len(names)} classes in {len(target)} rows", "Or --task regression."
        raise bad_argument("--target", got, f"2 to {most}", try_)
    return np.asarray(gp.class_targets(index, len(names))), list(names)


def as_frame(
    base: Any, settings: Settings, values: tuple[Any, ...], labels: list[str] | None
) -> Any:
    """The rows with their predictions beside."""
    first, second = values
    name = settings.target
    if labels is None:
        low, high = first - second, first + second
        new = {f"{name}_predicted": first, f"{name}_low": low, f"{name}_high": high}
    else:
        new = {f"{name}_predicted": np.array(labels)[first.argmax(axis=1)]}
        new |= {f"probability_{label}": first[:, i] for i, label in enumerate(labels)}
    return base.assign(**new)
