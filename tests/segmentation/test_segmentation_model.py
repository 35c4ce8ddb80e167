"""Features, couplings and starts against numbers worked out by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import BayleafError
from bayleaf.partitions import Graph, PartitionModel
from bayleaf.segmentation.features import features
from bayleaf.segmentation.images import picture
from bayleaf.segmentation.model import couplings, padded, segmentation_model
from bayleaf.segmentation.starts import CUTS, starts, ward_cuts

rng = np.random.default_rng(0)
TILES = np.kron(np.arange(20).reshape(4, 5), np.ones((6, 6), int))
STRIPES = np.tile([0.3, 0.7], 15)[None].repeat(24, axis=0)


def found(image, *, texture=True):
    return features(picture(image), TILES, texture=texture)


def test_colour_is_the_mean_and_noise_the_median_between_neighbours() -> None:
    steps = np.kron(np.array([[0.1, 0.2, 0.3, 0.4, 0.5]] * 4), np.ones((6, 6)))
    got = found(steps, texture=False)
    np.testing.assert_allclose(got.mean[:5, 0], [10, 20, 30, 40, 50])
    # 16 neighbours in rows differ by 10, 15 in columns by 0; the median of all squares is 100.
    np.testing.assert_allclose(got.noise, [100 / 0.91 + 4])
    np.testing.assert_allclose(got.lengths, 6)


def test_texture_tells_stripes_from_their_transpose_and_from_nothing() -> None:
    upright = found(STRIPES).mean[:, 1:]
    lying = found(np.tile([0.3, 0.7], 12)[:, None].repeat(30, axis=1)).mean[:, 1:]
    flat = found(np.full((24, 30), 0.5)).mean[:, 1:]
    log = 0.5 * np.log1p(40.0**2)
    np.testing.assert_allclose(upright, np.tile([log / 2, 0, -log], (20, 1)), atol=1e-9)
    np.testing.assert_allclose(lying, np.tile([log / 2, 0, log], (20, 1)), atol=1e-9)
    np.testing.assert_allclose(flat, 0)


def test_an_edge_between_superpixels_is_no_texture() -> None:
    step = np.where(np.arange(30) < 12, 0.1, 0.9)[None].repeat(24, axis=0)
    np.testing.assert_allclose(found(step).mean[:, 1:], 0, atol=1e-9)


def test_couplings_follow_the_formula() -> None:
    regions = np.array([[0, 0, 1], [0, 0, 2]])
    got = features(picture(np.array([[0, 0, 0.2], [0, 0, 0.8]])), regions, texture=False)
    gaps = np.array([20.0, 80.0, 60.0]) ** 2 / got.noise
    expected = 2.0 * np.exp(-gaps / (2 * gaps.mean()))  # all borders are one pixel long
    np.testing.assert_allclose(couplings(got, 2.0), expected)
    np.testing.assert_allclose(couplings(got, [1.0, 2.0, 0.0]), [1, 2, 0])


@pytest.mark.slow
def test_padding_changes_no_probability() -> None:
    got = found(rng.uniform(size=(24, 30)))
    model = segmentation_model(got, prior=None, likelihood="normal", beta=1.5, max_segments=9)
    bare = PartitionModel(
        Graph.from_edges(20, got.edges),
        model.prior,
        model.likelihood,
        coupling=couplings(got, 1.5),
        max_clusters=9,
    )
    assert model.graph.num_edges == 60 > got.edges.shape[0]
    for _ in range(2):
        z = jnp.asarray(rng.integers(0, 5, 20), jnp.int32)
        np.testing.assert_allclose(model(z), bare(z), rtol=1e-12)
    edges, coupling = padded(4, np.zeros((0, 2), int), np.zeros(0), 2)
    assert edges.shape == (0, 2)
    assert coupling.size == 0


def test_starts_differ_and_the_first_is_the_likeliest_cut() -> None:
    image = np.kron([[0.2, 0.2, 0.2, 0.8, 0.8]] * 4, np.ones((6, 6)))
    image = image + 0.01 * rng.normal(size=image.shape)
    got = found(image)
    model = segmentation_model(got, prior=None, likelihood="normal", beta=2.0, max_segments=100)
    labels = np.asarray(starts(got, model, 6, 0))
    assert len(np.unique(labels, axis=0)) >= 5
    assert (labels >= 0).all()
    assert (labels < 20).all()
    cuts = ward_cuts(got.mean / np.sqrt(got.noise))
    best = max(float(model(jnp.asarray(z, jnp.int32))) for z in cuts)
    np.testing.assert_allclose(float(model(jnp.asarray(labels[0], jnp.int32))), best)
    assert len(CUTS) == len(cuts)


@pytest.mark.parametrize(
    ("beta", "named"),
    [(-1.0, "beta"), (np.nan, "beta"), (np.full(3, 1.0), "beta"), ("contrast", "beta")],
)
def test_couplings_that_are_none_are_refused(beta, named) -> None:
    with pytest.raises(BayleafError, match=named):
        couplings(found(STRIPES), beta)


def test_a_likelihood_may_be_made_from_the_features() -> None:
    from bayleaf.partitions import NormalMean

    got = found(STRIPES)

    def of_colour(f):
        return NormalMean(f.mean[:, :1], variance=4.0, prior_variance=900.0)

    model = segmentation_model(got, prior=None, likelihood=of_colour, beta=1.0, max_segments=5)
    assert isinstance(model.likelihood, NormalMean)
    with pytest.raises(BayleafError, match="likelihood"):
        segmentation_model(got, prior=None, likelihood="nrmal", beta=1.0, max_segments=5)
