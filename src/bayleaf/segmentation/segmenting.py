"""`segment`: an image in, a `Segmentation` out, as scikit-image's functions are called."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np

from bayleaf.errors import SamplingWarning, bad_argument, warn
from bayleaf.mcmc.generalised_swendsen_wang import Decoupled, GeneralisedSwendsenWang
from bayleaf.partitions.arguments import whole
from bayleaf.partitions.coclustering import point_estimate
from bayleaf.run.arguments import check_settings
from bayleaf.run.runner import sample
from bayleaf.segmentation.agreement import disagreements
from bayleaf.segmentation.features import features
from bayleaf.segmentation.images import Picture, picture
from bayleaf.segmentation.model import segmentation_model
from bayleaf.segmentation.result import Segmentation
from bayleaf.segmentation.starts import starts
from bayleaf.segmentation.superpixels import checked_sites, superpixels

DRAWS_COMPARED = 200  # for the point estimate; twice as many take four times as long


def segment(
    image: Any,
    *,
    channel_axis: int | None = -1,
    mask: Any = None,
    spacing: Any = None,
    start_label: Any = 1,
    sites: Any = "slic",
    num_superpixels: int | None = None,
    compactness: float | None = None,
    texture: bool = True,
    prior: Any = None,
    likelihood: Any = "normal",
    beta: Any = 2.0,
    max_segments: int = 100,
    bonds: Any = None,
    loss: str = "variation_of_information",
    num_chains: int = 4,
    num_draws: int = 250,
    num_warmup: int = 250,
    key: Any = None,
    progress: bool = True,
) -> Segmentation:
    r"""Divide an image into segments, and say how sure that is.

    Super-pixels are the sites of a partition model: which of them belong together is unknown, and
    so is the number of segments. Draws from the posterior are made by generalised Swendsen-Wang
    sampling; the segmentation that is returned has the least expected loss over them.

    Args:
        image: [row, column], grey; [row, column, channel], RGB, RGBA or any channels; or a volume
            [plane, row, column], with ``channel_axis=None``. Any integers or floats (see
            `bayleaf.segmentation.images` for their units).
        channel_axis: the axis of the channels; None if there is none. An image of two axes is grey
            anyway.
        mask: which pixels belong to the image; labels are 0 elsewhere. It need not be connected.
        spacing: the size of a pixel along each axis, of anisotropic volumes.
        start_label: the first label, at least 1 since 0 stands for what is outside.
        sites: ``"slic"``, or a super-pixel's number for each pixel, integers of the shape of the
            image.
        num_superpixels: how many SLIC is to make; by default one for 160 pixels, from 100 to 600.
        compactness: of SLIC's super-pixels, in units of lightness (0 to 100); by default the
            larger of 10 and 2.5 times the noise of the image.
        texture: whether textures tell segments apart, or colours only.
        prior: on partitions; by default each segment costs 5 nats, whatever its size.
        likelihood: of a segment's features: ``"normal"`` (unknown mean and covariance, see
            `bayleaf.partitions.NormalInverseWishart`), one of `bayleaf.partitions` with data for
            each super-pixel, or a function from `bayleaf.segmentation.features.Features` to such.
        beta: strength of the couplings, which are larger along long borders and smaller along
            contrasts (`bayleaf.segmentation.model`); more makes fewer, smoother segments. Or
            couplings as they are, one for each border in the order of
            `bayleaf.partitions.Graph.region_adjacency`.
        max_segments: more than that have probability zero.
        bonds: of `bayleaf.mcmc.GeneralisedSwendsenWang`, which they make faster or slower; by
            default ``Decoupled(0.5)``.
        loss: ``"variation_of_information"`` or ``"binder"``, of which the expectation is least.
        num_chains: chains, which start from very different segmentations.
        num_draws: draws kept of each chain.
        num_warmup: sweeps before them.
        key: ``jax.random.key(seed)``; ``jax.random.key(0)`` when left out.
        progress: show a progress bar.

    Returns:
        The segmentation; ``np.asarray`` of it is an integer image of labels.

    Raises:
        BayleafError: an argument that cannot be used: an image that is empty or not finite, a mask
            that leaves nothing, super-pixels of another shape, couplings that are negative.

    Warns:
        SamplingWarning: the chains disagree, so that the uncertainty is not to be trusted.
    """
    image_ = picture(image, channel_axis=channel_axis, mask=mask, spacing=spacing)
    check(start_label, num_superpixels, compactness)
    whole(max_segments, "max_segments")
    key = jax.random.key(0) if key is None else key
    check_settings(num_draws, num_warmup, num_chains, key, None, None)
    if isinstance(sites, str) and sites == "slic":
        number = default_number(image_) if num_superpixels is None else num_superpixels
        flat = max(10.0, 2.5 * noise_level(image_)) if compactness is None else compactness
        regions = superpixels(image_, number, flat)
    else:
        regions = checked_sites(sites, image_.mask)
    found = features(image_, regions, texture=texture)
    model = segmentation_model(
        found, prior=prior, likelihood=likelihood, beta=beta, max_segments=max_segments
    )
    kernel = GeneralisedSwendsenWang(Decoupled(0.5) if bonds is None else bonds, split_merges=3)
    seed = int(jax.random.bits(key))
    with warnings.catch_warnings():
        # Labels of super-pixels by number mean nothing to the caller: see `disagreements`.
        warnings.simplefilter("ignore", SamplingWarning)
        run = sample(
            model,
            kernel,
            key=key,
            num_draws=num_draws,
            num_warmup=num_warmup,
            num_chains=num_chains,
            init=starts(found, model, num_chains, seed),
            progress=progress,
        )
    best = point_estimate(run.draws, loss=loss, max_draws=DRAWS_COMPARED)
    findings = disagreements(run, found.edges, model.max_clusters)
    for finding in findings:
        warn(finding)
    return Segmentation(
        superpixel_labels=best.labels,
        expected_loss=best.expected_loss,
        start_label=int(start_label),
        features=found,
        shown=image_.shown,
        model=model,
        run=run,
        findings=findings,
    )


def default_number(image: Picture) -> int:
    """One super-pixel for 160 pixels, within bounds."""
    return int(np.clip(image.mask.sum() // 160, 100, 600))


def noise_level(image: Picture) -> float:
    """The standard deviation of the noise of a pixel, from second differences of the lightness.

    Of these the median is taken, which edges do not move; their variance is 6 times the noise's.
    """
    from scipy import ndimage

    light = image.values[..., 0] if image.is_lab else image.values.mean(axis=-1)
    levels = [
        np.median(np.abs(ndimage.convolve1d(light, [1.0, -2.0, 1.0], axis=axis))[image.mask])
        for axis in range(light.ndim)
    ]
    return float(max(levels) / 0.6745 / np.sqrt(6))


def check(start_label: Any, num_superpixels: Any, compactness: Any) -> None:
    """Refuse settings that are none."""
    whole(start_label, "start_label")
    if num_superpixels is not None:
        whole(num_superpixels, "num_superpixels")
    if compactness is not None and not (
        isinstance(compactness, int | float) and 0 < compactness < np.inf
    ):
        raise bad_argument("compactness", compactness, "a positive number")
