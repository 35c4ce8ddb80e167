"""``bayleaf segment in.png -o out/``: from a file to four files.

`labels.png` (16 bits, 0 outside of the mask), `overlay.png` (borders in the image),
`uncertainty.png` (8 bits, the probability of a border), and `index.html`, which shows them all and
needs no other file.
"""

from __future__ import annotations

import base64
import io
import platform
import sys
import tempfile
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bayleaf import __version__
from bayleaf.errors import BayleafError, SamplingWarning
from bayleaf.pages import rendered
from bayleaf.segmentation.images import picture
from bayleaf.segmentation.pictures import in_mean_colours, uncertainty
from bayleaf.segmentation.result import Segmentation
from bayleaf.segmentation.segmenting import segment

MOST_LABELS = 2**16 - 1


class UnusableFile(BayleafError):
    """A file that the command line names cannot be read, written, or segmented."""


class Settings(NamedTuple):
    """What the command line says."""

    image: Path
    out: Path
    mask: Path | None
    num_superpixels: int | None
    beta: float
    num_chains: int
    num_draws: int
    num_warmup: int
    seed: int
    texture: bool
    quiet: bool


def run(settings: Settings) -> int:
    """Segment the file, and write what came out; the exit code."""
    import jax
    from rich.console import Console

    image = read(settings.image)
    mask = None if settings.mask is None else read_mask(settings.mask)
    try:
        picture(image, mask=mask)
    except BayleafError as error:
        raise UnusableFile(f"{settings.image} cannot be segmented: {error}") from error
    prepare(settings.out)
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SamplingWarning)
        result = segment(
            image,
            mask=mask,
            num_superpixels=settings.num_superpixels,
            beta=settings.beta,
            num_chains=settings.num_chains,
            num_draws=settings.num_draws,
            num_warmup=settings.num_warmup,
            texture=settings.texture,
            key=jax.random.key(settings.seed),
            progress=not settings.quiet,
        )
    write(result, settings, time.monotonic() - began)
    console, number = Console(), result.num_segments
    for warning in caught:
        if issubclass(warning.category, SamplingWarning):
            console.print(f"warning: {warning.message}", markup=False, soft_wrap=True)
    low, high = np.quantile(number.draws, [0.05, 0.95])
    console.print(
        f"{len(np.unique(result.superpixel_labels))} segments shown; the posterior has "
        f"{low:.0f} to {high:.0f} (90 %), {number.mean:.1f} on average",
        soft_wrap=True,
    )
    console.print(f"written: {settings.out / 'index.html'}", markup=False, soft_wrap=True)
    return 0


def read(path: Path) -> np.ndarray:
    """The pixels of an image file: one image, no volume."""
    if not path.is_file():
        raise UnusableFile(f"there is no file {path}.")
    try:
        from imageio.v3 import imread  # from its bytes, since it leaves files open on errors

        options: Any = {"extension": path.suffix or None}
        image = np.asarray(imread(path.read_bytes(), **options))
    except Exception as error:  # each format of images has errors of its own
        raise UnusableFile(f"{path} is not an image that can be read: {error}") from error
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] > 4):
        raise UnusableFile(
            f"{path} holds an array of shape {image.shape}, expected one grey, RGB or RGBA image. "
            "Segment volumes and films by bayleaf.segment in Python."
        )
    return image


def read_mask(path: Path) -> np.ndarray:
    """Flags: what is not black in an image file."""
    image = read(path)
    return np.asarray(image > 0 if image.ndim == 2 else (image[..., :3] > 0).any(axis=-1))


def prepare(folder: Path) -> None:
    """Raise before any work when the files could not be written at its end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UnusableFile(f"cannot write to {folder}: {error.strerror or error}.") from error


def write(result: Segmentation, settings: Settings, seconds: float) -> None:
    """The four files."""
    labels = result.labels
    if labels.max() > MOST_LABELS:
        raise BayleafError(f"{labels.max()} segments do not fit into 16 bits.")
    pictures = {
        "labels.png": labels.astype(np.uint16),
        "overlay.png": result.overlay(),
        "uncertainty.png": uncertainty(result),
    }
    for name, pixels in pictures.items():
        (settings.out / name).write_bytes(as_png(pixels))
    page = render(result, settings, seconds)
    (settings.out / "index.html").write_text(page, encoding="utf-8")


def as_png(pixels: np.ndarray) -> bytes:
    """The bytes of a PNG file."""
    from imageio.v3 import imwrite

    buffer = io.BytesIO()
    imwrite(buffer, pixels, extension=".png")
    return buffer.getvalue()


def render(result: Segmentation, settings: Settings, seconds: float) -> str:
    """The page; figures are inside, and nothing is asked for from elsewhere."""
    try:
        return rendered("bayleaf.segmentation", contents(result, settings, seconds))
    except ModuleNotFoundError as error:
        raise BayleafError(
            "segment: Jinja is not installed. Install the extra: pip install 'bayleaf[images]'."
        ) from error


def contents(result: Segmentation, settings: Settings, seconds: float) -> dict[str, Any]:
    """What the page shows."""
    number = result.num_segments
    colours = in_mean_colours(result.shown, result.labels)
    shown = {
        "overlay": result.overlay(),
        "colours": np.round(255 * colours).astype(np.uint8),
        "uncertainty": uncertainty(result),
    }
    most = max(number.probabilities.values())
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {
        "name": settings.image.name,
        "rows": result.shape[0],
        "columns": result.shape[1],
        "num_shown": len(np.unique(result.superpixel_labels)),
        "mean": number.mean,
        "bars": [(k, p, 100 * p / most) for k, p in number.probabilities.items()],
        "pictures": {name: data_address(pixels) for name, pixels in shown.items()},
        "findings": result.findings,
        "num_superpixels": len(result.superpixel_labels),
        "settings": settings,
        "seconds": seconds,
        "made": f"bayleaf {__version__}, Python {'.'.join(map(str, sys.version_info[:3]))}, "
        f"{platform.system()}, {now}",
    }


def data_address(pixels: np.ndarray) -> str:
    """An image as a ``data:`` address, for the ``src`` of an image."""
    return "data:image/png;base64," + base64.b64encode(as_png(pixels)).decode("ascii")
