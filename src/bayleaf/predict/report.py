"""The page of ``bayleaf predict``: how good, how sure, by what, in one file."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from bayleaf import gp
from bayleaf.pages import rendered
from bayleaf.predict.model import Check, Fitted
from bayleaf.predict.table import Encoder
from bayleaf.tour import figures
from bayleaf.tour.page import made


class Page(NamedTuple):
    """The page, and the same facts in lines for a terminal."""

    html: str
    lines: list[str]


def page(
    settings: Any,
    fitted: Fitted,
    check: Check,
    y: np.ndarray,
    labels: list[str] | None,
    encoder: Encoder,
    notes: list[str],
    written: Any,
    num_rows: int,
) -> Page:
    """The page of one run."""
    with figures.style():
        if labels is None:
            facts, pictures = numbers(settings, check, y)
        else:
            facts, pictures = classes(check, y, labels)
        relevant = relevance(fitted, encoder)
        if relevant is not None:
            pictures.append(relevant)
        shown = [(figures.as_svg(figure), caption, alt) for figure, caption, alt in pictures]
    facts = [("model", f"Gaussian process, {fitted.name} kernel and a linear part"), *facts]
    values = {
        "target": settings.target,
        "source": settings.train.name,
        "num_rows": num_rows,
        "num_features": len(encoder.features),
        "facts": facts,
        "pictures": shown,
        "notes": notes,
        "columns": list(map(str, written.columns)),
        "rows": [[cell(v) for v in row] for row in written.head(20).itertuples(index=False)],
        "made": made(),
    }
    return Page(rendered("bayleaf.predict", values), [f"{name}: {value}" for name, value in facts])


def numbers(settings: Any, check: Check, y: np.ndarray) -> tuple[list[Any], list[Any]]:
    """Facts and pictures of a regression."""
    truth, level = y[check.index], settings.level
    inside = np.abs(truth - check.mean) <= check.half
    low, high = stats.binomtest(int(inside.sum()), len(inside)).proportion_ci(0.95)
    error = float(np.sqrt(np.mean((truth - check.mean) ** 2)))
    explained = 1 - np.var(truth - check.mean) / np.var(truth)
    facts = [
        ("typical error on held-out rows", f"{error:.4g} (root mean square)"),
        ("explained share of the variance", f"{explained:.1%}"),
        (
            f"held-out rows inside their {level:.0%} interval",
            f"{inside.mean():.1%} of {len(inside)} (95 % confidence: {low:.1%} to {high:.1%})",
        ),
    ]
    return facts, [picture_of_numbers(settings.target, check, truth, inside, level)]


def picture_of_numbers(
    name: str, check: Check, truth: np.ndarray, inside: np.ndarray, level: float
) -> tuple[Any, str, str]:
    """What was predicted of each held-out row against what it was."""
    figure, axes = figures.canvas(6.2, 4.2)
    for mask, color, label in (
        (inside, figures.BLUE, "inside its interval"),
        (~inside, figures.ORANGE, "outside"),
    ):
        axes.errorbar(
            check.mean[mask],
            truth[mask],
            xerr=check.half[mask],
            fmt="o" if color == figures.BLUE else "D",
            ms=3,
            lw=0.5,
            alpha=0.6,
            color=color,
            label=label,
        )
    ends = [min(truth.min(), check.mean.min()), max(truth.max(), check.mean.max())]
    axes.plot(ends, ends, color=figures.INK, lw=1, ls="--")
    axes.set(xlabel=f"{name}, predicted", ylabel=f"{name}, true", title="Rows that were held out")
    axes.legend(loc="upper left")
    caption = (
        f"Each row as it was predicted without it, with its {level:.0%} interval. On the dashed "
        "line the prediction is right; an interval that does not reach it is orange."
    )
    return figure, caption, "Points around a diagonal with horizontal bars."


def classes(check: Check, y: np.ndarray, labels: list[str]) -> tuple[list[Any], list[Any]]:
    """Facts and pictures of a classification."""
    truth = y[check.index].argmax(axis=1)
    right = check.mean.argmax(axis=1) == truth
    share = check.mean[np.arange(len(truth)), truth]
    base = np.bincount(truth, minlength=len(labels)).max() / len(truth)
    low, high = stats.binomtest(int(right.sum()), len(right)).proportion_ci(0.95)
    confidence = check.mean.max(axis=1).mean()
    verdict = "too sure" if confidence > high else "not sure enough"
    verdict = "as it should be" if low <= confidence <= high else verdict
    facts = [
        (
            "right on held-out rows",
            f"{right.mean():.1%} of {len(right)} (95 % confidence: {low:.1%} to {high:.1%}); "
            f"{base:.1%} by always naming the most frequent class",
        ),
        ("mean log loss on held-out rows", f"{-np.mean(np.log(share + 1e-12)):.3f}"),
        ("mean probability of the predicted class", f"{confidence:.1%}, which is {verdict}"),
    ]
    return facts, [
        picture_of_calibration(check.mean.max(axis=1), right),
        table_of(check, truth, labels),
    ]


def picture_of_calibration(confidence: np.ndarray, right: np.ndarray) -> tuple[Any, str, str]:
    """How often rows of a given confidence are right."""
    groups = np.array_split(np.argsort(confidence), min(8, max(2, len(right) // 15)))
    figure, axes = figures.canvas()
    axes.plot([0, 1], [0, 1], color=figures.GREY, ls="--", lw=1)
    for group in groups:
        low, high = stats.binomtest(int(right[group].sum()), len(group)).proportion_ci(0.95)
        middle, rate = confidence[group].mean(), right[group].mean()
        bars = [[rate - low], [high - rate]]
        axes.errorbar([middle], [rate], yerr=bars, fmt="o", color=figures.BLUE)
    axes.set(
        xlim=(min(0.98, confidence.min()) - 0.02, 1.02),
        ylim=(0, 1.03),
        xlabel="probability of the predicted class",
        ylabel="share that is right",
        title="Are the probabilities right?",
    )
    caption = (
        "Held-out rows in groups of equal size, by how sure the prediction was; bars are 95 % "
        "confidence intervals. Calibrated predictions lie on the dashed line."
    )
    return figure, caption, "Points with bars along a diagonal."


def table_of(check: Check, truth: np.ndarray, labels: list[str]) -> tuple[Any, str, str]:
    """How often each class is taken for each other."""
    size = len(labels)
    counts = np.zeros((size, size), int)
    np.add.at(counts, (truth, check.mean.argmax(axis=1)), 1)
    figure, axes = figures.canvas()
    axes.imshow(np.sqrt(counts), cmap="Blues")
    for row, column in np.ndindex(size, size):
        is_dark = np.sqrt(counts[row, column]) > 0.6 * np.sqrt(counts.max())
        if counts[row, column] and size <= 15:
            color = "white" if is_dark else figures.INK
            axes.text(column, row, counts[row, column], ha="center", va="center", color=color)
    ticks = range(size)
    axes.set_xticks(ticks, labels, rotation=30 if size > 3 else 0)
    axes.set_yticks(ticks, labels)
    axes.set(xlabel="predicted", ylabel="true", title="Held-out rows, by class")
    return (
        figure,
        "How many rows of each class (row) were predicted as which (column).",
        ("A table of counts with large numbers on its diagonal."),
    )


def relevance(fitted: Fitted, encoder: Encoder) -> tuple[Any, str, str] | None:
    """The features by inverse length scale, where each has one of its own."""
    values = gp.parameters(fitted.prior)
    scales = next((v for n, v in values.items() if n.endswith("length_scale")), None)
    names = encoder.features
    if scales is None or np.size(scales) != len(names) or len(names) < 2:
        return None
    weight = 1 / np.asarray(scales)
    order = np.argsort(weight)[-15:]
    figure, axes = figures.canvas(4.7, 1.2 + 0.22 * len(order))
    axes.barh(range(len(order)), weight[order], color=figures.BLUE)
    axes.set_yticks(range(len(order)), [names[i] for i in order])
    axes.set(xlabel="1 / length scale", title="What bends the prediction")
    caption = (
        "The inverse length scale of each standardised feature: along a feature with a long bar "
        "the prediction changes fast. Its straight part is not counted here."
    )
    return figure, caption, "Horizontal bars, one for each feature."


def cell(value: Any) -> str:
    """A value of the table, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
