"""Mean-field theory: the maps, their fixed points, and that what has none is named."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from bayleaf.errors import BayleafError
from bayleaf.infinite import Erf, Relu
from bayleaf.infinite import mean_field_moments as moments
from bayleaf.infinite.mean_field import MeanField, NoFixedPointError, Status
from bayleaf.infinite.mean_field_phase import (
    NoCriticalLineError,
    critical_weight_std,
    phase_diagram,
    solve_many,
)
from tests.tools.compiling import compilations

ORACLES = Path(__file__).parents[1] / "oracles" / "infinite"
ROWS = json.loads((ORACLES / "mean_field.json").read_text())["rows"]
ACTIVATIONS = {"tanh": jnp.tanh, "erf": jax.lax.erf}


def column(rows, name):
    return np.array([row[name] for row in rows])


@pytest.fixture(scope="module", params=["tanh", "erf"])
def computed(request):
    rows = [row for row in ROWS if row["activation"] == request.param]
    points = phase_diagram(
        ACTIVATIONS[request.param],
        weight_std=np.sqrt(column(rows, "sigma_w2")),
        bias_std=np.sqrt(column(rows, "sigma_b2")),
        keep_probability=column(rows, "keep"),
    )
    return rows, points


def test_fixed_points_and_slopes_are_those_of_independent_quadrature(computed):
    rows, points = computed
    for name, got in [("q_star", points.q), ("chi_1", points.chi_1), ("chi_c", points.chi_2)]:
        np.testing.assert_allclose(got, column(rows, name), rtol=1e-11, err_msg=name)
    np.testing.assert_allclose(points.c, column(rows, "c_star"), rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(points.xi_q, column(rows, "xi_q"), rtol=1e-9)
    assert np.all(points.residual_q < 1e-13)
    assert np.all(points.residual_c < 1e-13)
    # xi = -1 / log chi multiplies errors of chi by xi.
    for name, got in [("xi_c", points.xi_2), ("xi_grad", points.xi_grad)]:
        error = np.abs(np.asarray(got) / column(rows, name) - 1)
        assert np.all(error < 1e-12 * np.maximum(np.abs(column(rows, name)), 10)), name


def test_a_c_map_that_divides_by_the_keep_probability_is_caught():
    row = next(r for r in ROWS if r["keep"] == 0.95 and r["sigma_b2"] > 0)
    right = MeanField(
        jnp.tanh,
        weight_std=row["sigma_w2"] ** 0.5,
        bias_std=row["sigma_b2"] ** 0.5,
        keep_probability=row["keep"],
    )
    q, c = row["q_star"], row["c_star"]
    np.testing.assert_allclose(right.c_map(c, q), c, rtol=1e-12)
    product = right.activation.at(jnp.asarray(q)).value_and_slope(jnp.asarray(c))[0]
    wrong = (row["sigma_w2"] / row["keep"] * product + row["sigma_b2"]) / q
    assert abs(float(wrong) - c) > 1e-2


def test_a_linear_network_has_its_closed_form():
    sw2, sb2, rho = 0.7, 0.3, 0.9
    theory = MeanField(lambda u: u, weight_std=sw2**0.5, bias_std=sb2**0.5, keep_probability=rho)
    point = theory.fixed_point()
    q = sb2 / (1 - sw2 / rho)
    np.testing.assert_allclose(point.q, q, rtol=1e-13)
    np.testing.assert_allclose(point.c, sb2 / (1 - sw2) / q, rtol=1e-13)
    np.testing.assert_allclose([point.chi_1, point.chi_q], sw2 / rho, rtol=1e-12)
    np.testing.assert_allclose(point.chi_2, sw2, rtol=1e-12)


def test_relu_has_the_arc_cosine_map():
    sw2, sb2, rho = 1.5, 0.3, 0.9
    theory = MeanField(jax.nn.relu, weight_std=sw2**0.5, bias_std=sb2**0.5, keep_probability=rho)
    point = theory.fixed_point()
    q = sb2 / (1 - sw2 / 2 / rho)
    np.testing.assert_allclose(point.q, q, rtol=1e-13)
    for c in (-1.0, -0.4, 0.9, 1 - 1e-9, 1.0):
        theta = np.arccos(c)
        product = q * (np.sin(theta) + (np.pi - theta) * c) / (2 * np.pi)
        np.testing.assert_allclose(theory.c_map(c, q), (sw2 * product + sb2) / q, rtol=1e-13)
    np.testing.assert_allclose(
        point.chi_2, sw2 * (np.pi - np.arccos(float(point.c))) / (2 * np.pi), rtol=1e-13
    )


def test_layers_are_activations_too():
    """ReLU by name, and the closed forms of Erf by their function."""
    settings = {"weight_std": 1.1, "bias_std": 0.3}
    assert moments.as_activation(Relu()) == moments.relu
    layer = MeanField(Erf(), **settings).fixed_point()
    function = MeanField(jax.lax.erf, **settings).fixed_point()
    np.testing.assert_allclose([layer.q, layer.chi_1], [function.q, function.chi_1], rtol=1e-13)
    np.testing.assert_allclose(layer.chi_1, 1.1**2 * Erf().slope_moment(layer.q), rtol=1e-12)


def conditional_mean_of_hard_tanh(mean, sd):
    """E clip(mean + sd z, -1, 1)."""
    low, high = (-1 - mean) / sd, (1 - mean) / sd
    inside = stats.norm.cdf(high) - stats.norm.cdf(low)
    middle = mean * inside + sd * (stats.norm.pdf(low) - stats.norm.pdf(high))
    return middle - stats.norm.cdf(low) + stats.norm.sf(high)


@jax.jit
def hard_tanh_moments(q, c):
    return moments.hard_tanh.at(q).value_and_slope(c)


@pytest.mark.parametrize(("q", "c"), [(0.7, 0.3), (2.0, 0.97), (0.5, -0.6), (9.0, 0.9999)])
def test_hard_tanh_against_adaptive_quadrature(q, c):
    sd, rest = q**0.5, (q * (1 - c**2)) ** 0.5

    def product(u):
        conditional = conditional_mean_of_hard_tanh(c * u, rest)
        return np.clip(u, -1, 1) * conditional * stats.norm.pdf(u / sd) / sd

    def slope(u):
        low, high = (-1 - c * u) / rest, (1 - c * u) / rest
        return (stats.norm.cdf(high) - stats.norm.cdf(low)) * stats.norm.pdf(u / sd) / sd

    reach = 12 * sd
    pieces = [(-reach, -1), (-1, 1), (1, reach)]
    options = {"epsabs": 1e-13, "epsrel": 1e-12, "limit": 400}
    expected = sum(integrate.quad(product, a, b, **options)[0] for a, b in pieces)
    expected_slope = integrate.quad(slope, -1, 1, **options)[0]
    value, got_slope = hard_tanh_moments(jnp.asarray(q), jnp.asarray(c))
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    np.testing.assert_allclose(got_slope, expected_slope, rtol=1e-10)


@pytest.mark.parametrize("activation", [moments.hard_tanh, moments.as_activation(jnp.tanh)])
def test_slopes_are_derivatives(activation):
    q, c, step = jnp.asarray(0.8), jnp.asarray(0.4), 1e-5

    @jax.jit
    def everything(q, c):
        by_autodiff = jax.grad(lambda q: activation.second_moment(q)[0])(q)
        moments_there = activation.second_moment(q), activation.slope_moment(q)
        return by_autodiff, *moments_there, jax.vmap(activation.at(q).value_and_slope)(c)

    points = c + jnp.array([0, step, -step, 0.6])
    by_autodiff, (second, slope), slope_moment, (values, slopes) = everything(q, points)
    np.testing.assert_allclose(slope, by_autodiff, rtol=1e-11)
    np.testing.assert_allclose(slopes[0], (values[1] - values[2]) / (2 * step) / q, rtol=1e-8)
    np.testing.assert_allclose(values[3], second, rtol=1e-13)
    np.testing.assert_allclose(slopes[3], slope_moment, rtol=1e-12)


def test_what_the_series_leaves_out_is_told():
    """A steep activation at large q: the bound covers the difference to a longer integral."""
    q, c = 60.0, 0.999
    activation = moments.as_activation(jnp.tanh)
    law = activation.at(jnp.asarray(q))
    z, step = np.linspace(-9, 9, 3601, retstep=True)
    weights = step * stats.norm.pdf(z)
    v = np.sqrt(q) * (c * z[:, None] + np.sqrt(1 - c**2) * z)
    expected = weights @ (np.tanh(np.sqrt(q) * z) * (np.tanh(v) @ weights))
    error = abs(float(law.value_and_slope(jnp.asarray(c))[0]) - expected)
    assert 1e-9 < error < float(law.left_out(jnp.asarray(c)))


@pytest.fixture(scope="module")
def grid():
    return phase_diagram(
        jnp.tanh,
        weight_std=np.linspace(0.6, 2.2, 9)[:, None, None],
        bias_std=np.array([0.0, 0.1, 0.5])[None, :, None],
        keep_probability=np.array([0.8, 1.0])[None, None],
    )


def test_a_grid_has_the_shape_of_its_settings_and_solves_each(grid):
    assert grid.q.shape == (9, 3, 2)
    found = np.asarray(grid.status) == Status.FOUND
    assert np.all(grid.residual_q[found] < 1e-14)
    assert np.all(grid.residual_c[found] < 1e-13)
    one = MeanField(
        jnp.tanh, weight_std=grid.weight_std[4, 1, 0], bias_std=0.1, keep_probability=0.8
    ).fixed_point()
    np.testing.assert_allclose([one.q, one.c], [grid.q[4, 1, 0], grid.c[4, 1, 0]], rtol=1e-13)
    # Only tanh without biases and with sw^2 / rho <= 1 has no signal left.
    silent = (grid.weight_std**2 / grid.keep_probability <= 1) & (grid.bias_std == 0)
    np.testing.assert_array_equal(np.asarray(grid.status) == Status.VANISHES, silent)
    expected = (grid.weight_std**2 / grid.keep_probability)[silent]
    np.testing.assert_allclose(grid.chi_1[silent], expected, rtol=1e-12)


def test_dropout_leaves_no_critical_line(grid):
    found = np.asarray(grid.status) == Status.FOUND
    dropped = found & (np.asarray(grid.keep_probability) < 1)
    assert np.all(grid.c[dropped] < 1)
    assert np.all(grid.chi_2[dropped] < 1)
    whole = found & (np.asarray(grid.keep_probability) == 1)
    ordered = whole & (np.asarray(grid.chi_1) < 1)
    assert ordered.any()
    np.testing.assert_array_equal(grid.c[ordered], 1)
    np.testing.assert_array_equal(grid.chi_2[ordered], grid.chi_1[ordered])
    assert np.all(grid.c[whole & ~ordered] < 1)


def test_a_second_grid_compiles_nothing(grid):
    settings = {"bias_std": np.full((1, 3, 1), 0.3), "keep_probability": np.full((1, 1, 2), 0.9)}
    with compilations() as names:
        phase_diagram(jnp.tanh, weight_std=np.linspace(0.5, 2.0, 9)[:, None, None], **settings)
    assert names == []


def test_iteration_of_the_maps_ends_there():
    theory = MeanField(jnp.tanh, weight_std=1.6, bias_std=0.2, keep_probability=0.9)
    point = theory.fixed_point()

    def both(carry, _):
        q, c = carry
        return (theory.q_map(q), theory.c_map(c, point.q)), None

    (q, c), _ = jax.lax.scan(both, (jnp.asarray(7.0), jnp.asarray(0.99)), length=300)
    np.testing.assert_allclose([q, c], [point.q, point.c], rtol=1e-12)


@pytest.mark.parametrize(
    "activation", [jnp.tanh, pytest.param(jax.nn.hard_tanh, marks=pytest.mark.slow)]
)
def test_derivatives_are_implicit(activation):
    known = moments.as_activation(activation)
    rho, step = jnp.array([1.0, 1.0, 0.9]), 1e-5

    def outcome(sw):
        points = solve_many(known, sw, jnp.full(3, 0.3), rho)
        return jnp.stack([points.q, points.c, points.chi_1, points.chi_2])

    @jax.jit
    def everything(sw):
        one = jnp.ones_like(sw)
        ahead, behind = jax.lax.map(outcome, jnp.stack([sw + step, sw - step]))
        forward = jax.jvp(outcome, (sw,), (one,))[1]
        total, pull = jax.vjp(outcome, sw)
        return (ahead - behind) / (2 * step), forward, pull(jnp.ones_like(total))[0]

    numeric, forward, reverse = everything(jnp.array([1.1, 1.9, 1.2]))
    np.testing.assert_allclose(forward, numeric, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(reverse, np.sum(forward, axis=0), rtol=1e-9)


def test_what_has_no_fixed_point_is_named():
    with pytest.raises(NoFixedPointError, match="without bound"):
        MeanField(jax.nn.relu, weight_std=1.5, bias_std=0.1).fixed_point()
    with pytest.raises(NoFixedPointError, match="without bound"):
        MeanField(jax.nn.relu, weight_std=2**0.5, bias_std=0.1).fixed_point()
    with pytest.raises(NoFixedPointError, match="goes to zero"):
        MeanField(jnp.tanh, weight_std=0.9, bias_std=0.0).fixed_point()
    critical = MeanField(jax.nn.relu, weight_std=2**0.5, bias_std=0.0).fixed_point()
    assert int(critical.status) == Status.MARGINAL
    np.testing.assert_allclose([critical.chi_1, critical.c], 1.0, rtol=1e-14)
    points = phase_diagram(jax.nn.relu, weight_std=np.array([1.0, 1.5, 2.0]), bias_std=0.1)
    np.testing.assert_array_equal(points.status, [0, 1, 1])
    assert np.all(np.isinf(points.q[1:]))
    assert np.all(np.isnan(points.c[1:]))


@pytest.mark.slow
def test_the_critical_line():
    bias_std = np.sqrt([0.0, 0.05, 0.3])
    found = critical_weight_std(jnp.tanh, bias_std=bias_std)
    np.testing.assert_allclose(found[0], 1.0, rtol=1e-12)
    points = phase_diagram(jnp.tanh, weight_std=found[1:], bias_std=bias_std[1:])
    np.testing.assert_allclose(points.chi_1, 1.0, rtol=1e-12)
    # The published 1.76 for sb^2 = 0.05.
    assert round(float(found[1]) ** 2, 2) == 1.76
    he = critical_weight_std(jax.nn.relu, bias_std=0.0, keep_probability=0.9)
    np.testing.assert_allclose(he**2, 1.8, rtol=1e-13)
    with pytest.raises(NoCriticalLineError, match=r"bias_std = 0\.1"):
        critical_weight_std(jax.nn.relu, bias_std=0.1)


def test_bad_input_is_refused_by_name():
    with pytest.raises(BayleafError, match="kink"):
        MeanField(jax.nn.elu, weight_std=1.0, bias_std=0.1)
    with pytest.raises(BayleafError, match="activation"):
        MeanField("tanh", weight_std=1.0, bias_std=0.1)
    with pytest.raises(BayleafError, match="weight_std"):
        MeanField(jnp.tanh, weight_std=-1.0, bias_std=0.1)
    with pytest.raises(BayleafError, match="keep_probability"):
        phase_diagram(jnp.tanh, weight_std=1.0, bias_std=0.1, keep_probability=[0.5, 0.0])
    with pytest.raises(BayleafError, match="slopes"):
        moments.PiecewiseLinear((0.0,), (1.0,))
    with pytest.raises(BayleafError, match="kinks"):
        moments.PiecewiseLinear((1.0, 0.0), (1.0, 0.0, 1.0))


def test_single_precision_stays_single_and_close():
    settings = [np.float32(x) for x in (1.3, 0.3, 0.9)]
    names = ("weight_std", "bias_std", "keep_probability")
    point = MeanField(jnp.tanh, **dict(zip(names, map(jnp.asarray, settings), strict=True)))
    single = point.fixed_point()
    double = MeanField(jnp.tanh, **dict(zip(names, map(float, settings), strict=True)))
    assert single.q.dtype == single.chi_2.dtype == jnp.float32
    for name in ("q", "c", "chi_1", "chi_2"):
        expected = getattr(double.fixed_point(), name)
        # Errors of c* are those of the map over 1 - chi_2 = 0.26.
        np.testing.assert_allclose(getattr(single, name), expected, rtol=8e-6, err_msg=name)


@pytest.mark.slow
def test_depths_of_published_runs_follow_the_smaller_length():
    """L_max / min(xi_1, xi_2) scatters by a factor 1.2 with dropout, L_max / xi_1 by far more."""
    panels = json.loads((ORACLES / "dropout_trainable_depth.json").read_text())["panels"]
    panel = panels["heatmap_r98_s10_Gau"]
    points = phase_diagram(
        jnp.tanh,
        weight_std=np.sqrt(panel["sigma_w2"]),
        bias_std=0.05**0.5,
        keep_probability=0.98,
    )
    depth = np.array(panel["max_trainable_depth"])

    def scatter(length):
        return np.exp(np.std(np.log(depth / np.asarray(length))))

    assert scatter(points.trainable_depth) < 1.2
    assert scatter(points.xi_1) > 1.7
    assert 8 < np.median(depth / np.asarray(points.trainable_depth)) * 12 < 10
