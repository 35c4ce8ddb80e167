"""Potts models: densities by enumeration, their parts, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayleaf as bl
from bayleaf.errors import BayleafError
from bayleaf.partitions import Graph, Potts
from tests.partitions.enumeration import law, states
from tests.partitions.models import MODELS, potts

RING = Graph.lattice((2, 2))


@pytest.mark.parametrize("name", MODELS)
def test_the_log_density_is_the_formula(name):
    z = jnp.asarray(states(MODELS[name]), jnp.int32)
    values = np.asarray(jax.vmap(potts(name))(z))
    p = np.exp(values - values.max())
    np.testing.assert_allclose(p / p.sum(), law(MODELS[name]), rtol=1e-12)


def test_ising_is_potts_with_twice_the_coupling():
    rng = np.random.default_rng(0)
    graph = Graph.lattice((3, 4), periodic=True)
    coupling, field = rng.normal(size=graph.num_edges), rng.normal(size=12)
    model = Potts.ising(graph, coupling, field=field)
    z = rng.integers(0, 2, (20, 12)).astype(np.int32)
    s = 2 * z - 1
    first, second = np.asarray(graph.edges).T
    exact = (coupling * s[:, first] * s[:, second]).sum(1) + s @ field
    got = np.asarray(jax.vmap(model)(jnp.asarray(z)))
    np.testing.assert_allclose(got - got[0], exact - exact[0], atol=1e-12)
    np.testing.assert_allclose(
        jax.vmap(model.magnetisation)(jnp.asarray(z)), np.abs(s.mean(1)), atol=1e-12
    )


def test_counts_and_magnetisation():
    model = Potts(RING, 3, 0.5)
    assert model.num_like(jnp.array([0, 0, 0, 1])) == 2
    assert model.magnetisation(jnp.array([0, 0, 0, 0])) == 1
    np.testing.assert_allclose(model.magnetisation(jnp.array([0, 1, 2, 2])), (3 / 2 - 1) / 2)
    many = Potts(RING, 100, 0.5)
    np.testing.assert_allclose(many.magnetisation(jnp.array([5, 7, 7, 99])), (50 - 1) / 99)
    assert Potts(RING, 1, 0.5).magnetisation(jnp.zeros(4, int)) == 1


def test_labels_outside_have_density_zero():
    model = Potts(RING, 3, 0.5, field=np.zeros((4, 3)))
    assert model(jnp.array([0, 1, 2, 3])) == -jnp.inf
    assert model(jnp.array([0, -1, 2, 2])) == -jnp.inf


def test_a_field_of_states_is_that_of_every_site_and_dtypes_follow_the_couplings():
    one = Potts(RING, 2, np.float32(0.5), field=np.array([0.1, 0.7]))
    each = Potts(RING, 2, np.float32(0.5), field=np.tile([0.1, 0.7], (4, 1)))
    z = jnp.array([0, 1, 1, 0])
    assert one(z).dtype == each(z).dtype == jnp.float32
    assert one(z) == each(z)
    assert Potts(RING, 2, 0.5)(z).dtype == jnp.float64


def test_the_field_can_be_replaced_and_traced():
    model = Potts(RING, 2, 0.5)
    z = jnp.array([0, 1, 1, 0])

    @jax.jit
    def at(field):
        return model.with_field(field)(z)

    assert at(jnp.array([0.0, 2.0])) == model(z) + 4
    gradient = jax.grad(lambda coupling: Potts(RING, 2, coupling)(z))(0.3)
    assert gradient == model.num_like(z)


def test_random_labels_follow_the_field_and_avoid_what_is_forbidden():
    field = np.full((4, 3), -np.inf)
    field[np.arange(4), [0, 2, 1, 1]] = 0
    model = Potts(RING, 3, 0.5, field=field)
    np.testing.assert_array_equal(model.random_labels(jax.random.key(0)), [0, 2, 1, 1])


BAD = np.zeros((4, 2))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((RING, 0, 0.5), {}, "num_states"),
        ((RING, True, 0.5), {}, "num_states"),
        ((RING, 2, np.nan), {}, "coupling"),
        ((RING, 2, [0.5, np.inf, 0.1, 0.1]), {}, r"coupling\[1\]"),
        ((RING, 2, [0.5, 0.1]), {}, "coupling.*4 edges"),
        ((RING, 2, 0.5), {"field": np.zeros(3)}, "field.*shape"),
        ((RING, 2, 0.5), {"field": np.zeros((3, 2))}, "field.*shape"),
        ((RING, 2, 0.5), {"field": np.where(np.eye(4, 2) > 0, np.nan, 0)}, r"field\[0\]"),
        ((RING, 2, 0.5), {"field": [0.0, np.inf]}, "field"),
        ((RING, 2, 0.5), {"field": BAD + np.array([[0], [0], [-np.inf], [0]])}, r"field\[2\]"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, options, message):
    with pytest.raises(BayleafError, match=message):
        Potts(*arguments, **options)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (jnp.array([0, 1, 2, 0]), "init.*label 2"),
        (jnp.array([0, -1, 1, 0]), "init.*label -1"),
        (jnp.zeros(4), "init.*integers"),
        (jnp.zeros((7, 3), int), "init"),
    ],
)
def test_starts_that_are_no_labels_are_refused(init, message):
    with pytest.raises(BayleafError, match=message):
        bl.sample(
            Potts(RING, 2, 0.5),
            bl.mcmc.SwendsenWang(engine="jax"),
            key=jax.random.key(0),
            init=init,
            progress=False,
        )
