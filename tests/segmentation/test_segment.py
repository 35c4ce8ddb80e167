"""`segment` as a user calls it: exact posteriors, exact truths, conventions, bad input."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayleaf as bl
from bayleaf.segmentation.agreement import disagreements
from tests.tools.compiling import compilations
from tests.tools.statistics import assert_mean

rng = np.random.default_rng(0)
QUICK: dict[str, Any] = {"num_superpixels": 60, "num_draws": 40, "num_warmup": 40}
HALVES = np.where(np.arange(48) < 22, 0.2, 0.8)[None].repeat(40, axis=0)
NOISY = np.clip(HALVES + 0.03 * rng.normal(size=HALVES.shape), 0, 1)


def segmented(image, **options) -> bl.Segmentation:
    """Short runs, whose chains may disagree."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bl.errors.SamplingWarning)
        return bl.segment(image, progress=False, **{**QUICK, **options})


@pytest.fixture(scope="module")
def halves() -> bl.Segmentation:
    return segmented(NOISY)


def is_half(labels: np.ndarray) -> bool:
    """Whether the labels are 1 and 2 on the two halves, whichever is which."""
    left, right = np.unique(labels[:, :22]), np.unique(labels[:, 22:])
    return {*left, *right} == {1, 2} and len(left) == len(right) == 1


def test_two_halves_are_found(halves) -> None:
    assert halves.labels.dtype.kind == "i"
    assert is_half(halves.labels)
    np.testing.assert_array_equal(np.asarray(halves), halves.labels)
    assert halves.num_segments.probabilities[2] > 0.8
    assert halves.coclustering((0, 0), (39, 10)) > 0.95
    assert halves.coclustering((0, 0), (0, 47)) < 0.05
    sure = halves.boundary_probability
    assert sure[:, 21:23].min() > 0.95
    assert sure[:, :20].max() < 0.2


def test_the_same_key_gives_the_same_draws_and_another_key_others(halves) -> None:
    again = segmented(NOISY)
    np.testing.assert_array_equal(again.run.draws, halves.run.draws)
    other = segmented(NOISY, key=jax.random.key(1))
    assert (np.asarray(other.run.stats["log_density"]) != halves.run.stats["log_density"]).any()


def test_another_image_of_another_size_compiles_nothing(halves) -> None:
    del halves
    other = rng.uniform(size=(37, 61))
    with compilations() as names:
        segmented(other, key=jax.random.key(5))
    assert names == []


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_each_kind_of_number_gives_the_same(kind: str, halves) -> None:
    scale = 1 if kind == "float32" else np.iinfo(kind).max
    assert is_half(segmented((scale * NOISY).astype(kind)).labels)


def test_constant_images_are_one_segment() -> None:
    got = segmented(np.full((40, 48), 7, np.uint8))
    assert set(np.unique(got.labels)) == {1}
    assert got.num_segments.mean < 1.2


@pytest.mark.slow
def test_one_pixel_is_one_segment() -> None:
    got = segmented(np.array([[3]], np.uint8))
    np.testing.assert_array_equal(got.labels, [[1]])
    np.testing.assert_array_equal(got.boundary_probability, [[0.0]])
    np.testing.assert_array_equal(got.entropy, [[0.0]])


def test_a_disconnected_mask_leaves_zeros_outside() -> None:
    mask = np.zeros(HALVES.shape, bool)
    mask[4:36, 4:18] = mask[4:36, 28:44] = True
    got = segmented(NOISY, mask=mask)
    np.testing.assert_array_equal(got.labels > 0, mask)
    np.testing.assert_array_equal(got.regions > 0, mask)
    assert not set(got.labels[:, :22][mask[:, :22]]) & set(got.labels[:, 22:][mask[:, 22:]])
    with pytest.raises(bl.errors.BayleafError, match=r"i: got .* within the mask"):
        got.coclustering((0, 0), (10, 10))


def test_labels_start_where_they_are_told_to() -> None:
    got = segmented(NOISY, start_label=5)
    assert set(np.unique(got.labels)) == {5, 6}
    assert got.regions.min() == 5


@pytest.mark.slow
def test_a_volume_of_flat_voxels() -> None:
    volume = np.where(np.arange(20) < 9, 0.2, 0.7)[None, None].repeat(6, 0).repeat(16, 1)
    volume = volume + 0.03 * rng.normal(size=volume.shape)
    got = segmented(volume, channel_axis=None, spacing=(3, 1, 1))
    assert got.labels.shape == volume.shape
    assert set(np.unique(got.labels[..., :9])) != set(np.unique(got.labels[..., 9:]))
    assert len(np.unique(got.labels)) == 2
    assert got.overlay().shape == (*volume.shape, 3)
    assert got.plot() is not None


@pytest.mark.slow
def test_rgb_and_rgba_pictures() -> None:
    rgb = np.zeros((40, 48, 3), np.uint8)
    rgb[:, :22], rgb[:, 22:] = (200, 40, 40), (40, 120, 60)
    rgb = np.clip(rgb + rng.normal(0, 4, rgb.shape), 0, 255).astype(np.uint8)
    assert is_half(segmented(rgb).labels)
    alpha = np.full((40, 48, 1), 255, np.uint8)
    alpha[:5] = 0
    got = segmented(np.concatenate([rgb, alpha], axis=-1)).labels
    assert not got[:5].any()
    assert is_half(got[5:])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"beta": -0.5}, "beta"),
        ({"start_label": 0}, "start_label"),
        ({"num_superpixels": 0}, "num_superpixels"),
        ({"compactness": -1.0}, "compactness"),
        ({"max_segments": 0}, "max_segments"),
        ({"sites": np.zeros((3, 3), int)}, "sites"),
        ({"sites": "slick"}, "sites"),
        ({"likelihood": "poisson"}, "likelihood"),
        ({"loss": "hinge"}, "loss"),
        ({"num_draws": 0}, "num_draws"),
        ({"key": 0}, "key"),
    ],
)
def test_settings_that_are_none_are_refused_by_name(options, named) -> None:
    with pytest.raises(bl.errors.BayleafError, match=named):
        segmented(NOISY, **options)


# Four sites of one's own, all fifteen partitions of them.
SITES = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
FOUR = np.array([[0.2, 0.2, 0.24, 0.24]] * 2 + [[0.31, 0.31, 0.36, 0.36]] * 2)
PARTITIONS = [
    (0, a, b, c) for a in range(2) for b in range(max(0, a) + 2) for c in range(max(0, a, b) + 2)
]


def exact_togetherness(model, *, bug: bool = False) -> np.ndarray:
    """P(z_i = z_j) of all pairs, by enumeration; the planted bug forgets the couplings."""
    z = np.array(PARTITIONS)
    density = np.array([float(model(jnp.asarray(row, jnp.int32))) for row in z])
    if bug:
        ends, beta = np.asarray(model.graph.edges), np.asarray(model.coupling)
        density = density - ((z[:, ends[:, 0]] == z[:, ends[:, 1]]) * beta).sum(axis=1)
    p = np.exp(density - density.max())
    return np.einsum("p,pij->ij", p / p.sum(), z[:, :, None] == z[:, None, :])


@pytest.mark.slow
def test_draws_follow_the_exact_posterior() -> None:
    def by_lightness(f):
        return bl.partitions.NormalMean(f.mean[:, 0], variance=9.0, prior_variance=100.0)

    got = segmented(
        FOUR,
        sites=SITES,
        texture=False,
        beta=0.7,
        likelihood=by_lightness,
        prior=bl.partitions.DirichletProcess(1.0),
        num_draws=2000,
        num_warmup=20,
    )
    assert len(PARTITIONS) == 15
    first, second = np.triu_indices(4, 1)
    draws = (got.run.draws[..., first] == got.run.draws[..., second]).astype(float)
    assert_mean(draws, exact_togetherness(got.model)[first, second])
    with pytest.raises(AssertionError):
        assert_mean(draws, exact_togetherness(got.model, bug=True)[first, second])
    assert got.coclustering((0, 0), (3, 3)) == draws[..., 2].mean()


def test_chains_that_disagree_are_warned_about(halves) -> None:
    assert disagreements(halves.run, halves.features.edges, 100) == ()
    import dataclasses

    draws = np.array(halves.run.draws)
    draws[0] = 0
    apart = dataclasses.replace(halves.run, draws=draws)
    (found,) = disagreements(apart, halves.features.edges, 100)
    assert "chains disagree" in found
    assert "number of like neighbours" in found
    (found,) = disagreements(halves.run, halves.features.edges, 2)
    assert "max_segments" in found


def test_disagreement_of_a_hard_image_reaches_the_user() -> None:
    hard = np.clip(0.5 + 0.08 * np.cumsum(rng.normal(size=(40, 48)), axis=1), 0, 1)
    with pytest.warns(bl.errors.SamplingWarning, match="chains disagree"):
        bl.segment(hard, progress=False, **{**QUICK, "num_warmup": 1, "num_draws": 10})
