"""Swendsen-Wang and single-site kernels against matrices and laws known by enumeration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.mcmc.single_site import SingleSiteGibbs, SingleSiteMetropolis
from bayleaf.partitions import sweep
from tests.partitions.enumeration import BUGS, law, site_by_site, sweep_matrix
from tests.partitions.models import MODELS, potts
from tests.tools.transitions import (
    assert_invariant_matrix,
    assert_transitions,
    count_transitions,
)

ENGINES = ("numba", "jax")


@functools.cache
def exact(name, bug=None):
    return sweep_matrix(MODELS[name], bug=bug)


def stepper(model, step):
    """A step of labels as a step of their number, the last site changing fastest."""
    q = model.num_states
    powers = jnp.asarray(q ** np.arange(model.num_sites)[::-1], jnp.int32)

    def numbered(key, number):
        labels = (number.astype(jnp.int32) // powers) % q
        return jnp.sum(step(key, labels) * powers)

    return numbered


@functools.cache
def counted(name, engine, num_steps=4000):
    """Transitions of very many independent sweeps."""
    p = potts(name)
    step = stepper(MODELS[name], lambda key, z: sweep(p, key, z, engine=engine).labels)
    num_states = len(law(MODELS[name]))
    return count_transitions(step, num_states, key=jax.random.key(1), num_steps=num_steps)


@pytest.mark.parametrize("name", MODELS)
def test_the_enumerated_sweep_leaves_the_law_invariant(name):
    p = law(MODELS[name])
    assert_invariant_matrix(exact(name), p)
    any_bonds = np.random.default_rng(0).uniform(0, 0.9, len(MODELS[name].edges))
    assert_invariant_matrix(sweep_matrix(MODELS[name], any_bonds), p)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MODELS)
def test_one_sweep_has_the_enumerated_transition_matrix(name, engine):
    possible = law(MODELS[name]) > 0
    assert_transitions(counted(name, engine)[possible], exact(name)[possible])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_caught(bug, engine):
    """The counts are far from the matrix of each wrong sweep, and that leaves the law."""
    name = "ring in a field"
    wrong = exact(name, bug)
    with pytest.raises(AssertionError, match="transition"):
        assert_transitions(counted(name, engine), wrong)
    if bug != "singletons stay":  # which is slow and right
        with pytest.raises(AssertionError):
            assert_invariant_matrix(wrong, law(MODELS[name]))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("q", ["none", "some"])
def test_bonds_of_any_probability_leave_a_residual(q, engine):
    """None at all: the sites are drawn one after the other. Some: more or less than usual."""
    name = "frustrated in a field"
    model, p = MODELS[name], potts(name)
    bonds = np.zeros(()) if q == "none" else np.linspace(0.1, 0.9, len(model.edges))
    step = stepper(
        model, lambda key, z: sweep(p, key, z, probability=jnp.asarray(bonds), engine=engine).labels
    )
    counts = count_transitions(step, len(law(model)), key=jax.random.key(2), num_steps=4000)
    assert_transitions(counts, sweep_matrix(model, np.broadcast_to(bonds, len(model.edges))))


@pytest.mark.parametrize("kernel", [SingleSiteGibbs(), SingleSiteMetropolis()])
@pytest.mark.parametrize("name", ["ring in a field", "frustrated in a field", "torus"])
def test_single_sites_are_scanned_by_colour(name, kernel):
    model, p = MODELS[name], potts(name)
    order = np.argsort(p.graph.colours, stable=True)
    matrix = site_by_site(model, order, accept=isinstance(kernel, SingleSiteMetropolis))
    assert_invariant_matrix(matrix, law(model))
    step = stepper(model, lambda key, z: kernel.step(p, key, kernel.init(p, z))[0].position)
    counts = count_transitions(step, len(law(model)), key=jax.random.key(3), num_steps=4000)
    assert_transitions(counts, matrix)
    with pytest.raises(AssertionError, match="transition"):  # the colours the other way round
        assert_transitions(
            counts, site_by_site(model, order[::-1], isinstance(kernel, SingleSiteMetropolis))
        )
