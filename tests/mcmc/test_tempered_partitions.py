"""Parallel tempering of partitions: exact joint law of two replicas, and two valleys crossed."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayleaf as bl
from bayleaf.errors import BayleafError, SamplingWarning
from bayleaf.mcmc import GeneralisedSwendsenWang, TemperedSwendsenWang, tempered_partitions
from bayleaf.partitions import (
    DirichletMultinomial,
    DirichletProcess,
    Graph,
    NormalInverseWishart,
    NormalMean,
    PartitionModel,
)
from bayleaf.partitions.collapsed import log_weights_at
from bayleaf.partitions.machine import calls
from bayleaf.partitions.tempering import tempered_model
from tests.mcmc.test_generalised_swendsen_wang import jax_weights, numba_weights
from tests.partitions.partition_laws import (
    BONDS,
    COUPLINGS,
    DATA,
    EDGES,
    PRIORS,
    law,
    log_normal_marginal,
    model,
    partitions,
    questions,
    sizes_of,
)
from tests.tools.statistics import assert_counts, assert_mean

needs_numba = pytest.mark.skipif(not calls.is_available(), reason="needs numba")
POWERS = (1.0, 0.4)


def tempered_law(log_g, power, edges=EDGES, couplings=COUPLINGS, data=DATA):
    """The law at a power, by enumeration."""
    weights = []
    for z in partitions(len(data)):
        z = np.array(z)
        energy = sum(log_normal_marginal(data[z == k]) for k in range(z.max() + 1))
        energy += sum(b for (i, j), b in zip(edges, couplings, strict=True) if z[i] == z[j])
        weights.append(log_g(sizes_of(z)) + power * energy)
    p = np.exp(np.array(weights) - max(weights))
    return p / p.sum()


def test_the_tempered_model_has_the_tempered_law():
    log_g = PRIORS["Pitman-Yor"][1]
    own = tempered_model(model(PRIORS["Pitman-Yor"][0]), jnp.asarray(0.4))
    got = jax.vmap(own)(jnp.array(partitions(4), jnp.int32))
    expected = np.log(tempered_law(log_g, 0.4))
    np.testing.assert_allclose(got - got[0], expected - expected[0], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(tempered_law(log_g, 1.0), law(log_g), rtol=1e-12)


@pytest.mark.slow
@needs_numba
def test_the_engines_have_the_same_weights_at_a_power():
    rng = np.random.default_rng(5)
    graph = Graph.from_edges(4, np.array(EDGES))
    for likelihood in (
        NormalMean(DATA, variance=1.0, prior_variance=4.0),
        NormalInverseWishart(rng.normal(size=(4, 2)), scale=0.7),
        DirichletMultinomial(rng.integers(0, 5, size=(4, 3)), concentration=0.4),
        None,
    ):
        own = PartitionModel(graph, DirichletProcess(), likelihood, coupling=COUPLINGS)
        weak = tempered_model(own, jnp.asarray(0.3))
        # numba_weights adds the couplings of the module: ask both for the likelihood alone.
        bare = PartitionModel(graph, DirichletProcess(), weak.likelihood, coupling=COUPLINGS)
        got, expected = numba_weights(bare), jax_weights(bare, jnp.asarray(BONDS))
        np.testing.assert_allclose(got, expected, atol=1e-11, rtol=1e-11)
    z, members = questions()
    one, other = (
        log_weights_at(m, jnp.asarray(z[9]), jnp.asarray(members[9]), jnp.asarray(BONDS))
        for m in (own, weak)
    )
    assert np.abs(np.asarray(one - other)[np.isfinite(one)]).max() > 0.01


def after_one_step(own, sampler, joint, num):
    """How many of so many pairs of replicas, drawn from a law, are where after one step."""
    every = jnp.array(partitions(4), jnp.int32)
    codes = every @ (4 ** jnp.arange(4))

    def step(key):
        key_start, key_step = jax.random.split(key)
        start = jax.random.choice(key_start, 225, p=joint)
        labels = jnp.stack([every[start // 15], every[start % 15]])
        state = sampler.init(own, labels[0])._replace(replicas=labels)
        state, info = sampler.step(own, key_step, state)
        gap = jnp.abs(state.log_density - own(state.position))
        is_sound = (gap < 1e-6) & jnp.all(state.replicas[0] == state.position) & ~info.is_nan
        first, second = (
            jnp.argmax(codes == labels @ (4 ** jnp.arange(4))) for labels in state.replicas
        )
        return jnp.where(is_sound, 15 * first + second, -1)

    ends = np.asarray(jax.jit(jax.vmap(step))(jax.random.split(jax.random.key(0), num)))
    assert ends.min() >= 0
    return np.bincount(ends, minlength=225)


@pytest.mark.parametrize(
    "engine",
    [pytest.param("numba", marks=needs_numba), pytest.param("jax", marks=pytest.mark.slow)],
)
def test_a_step_leaves_the_product_of_both_laws_invariant(engine, monkeypatch):
    prior, log_g = PRIORS["Pitman-Yor"]
    own, num = model(prior), 80_000 if engine == "numba" else 50_000
    joint = np.outer(*(tempered_law(log_g, power) for power in POWERS)).ravel()
    sampler = TemperedSwendsenWang(GeneralisedSwendsenWang(0.3, engine=engine), powers=POWERS)
    assert_counts(after_one_step(own, sampler, jnp.asarray(joint), num), joint)
    if engine == "numba":
        right = tempered_partitions.changes
        monkeypatch.setattr(
            tempered_partitions, "changes", lambda key, powers, e: right(key, powers, -e)
        )
        counts = after_one_step(own, sampler, jnp.asarray(joint), num)
        with pytest.raises(AssertionError, match="expected a share"):
            assert_counts(counts, joint)


CLIQUES = [(i, j) for a in (0, 3) for i in range(a, a + 3) for j in range(i + 1, a + 3)]
CROSS = [(i, j) for i in range(3) for j in range(3, 6)]


def valleys():
    """Two triples that are one cluster, or two: between them a site must part with its friends."""
    data = np.array([-1.5, -1.5, -1.4, 1.5, 1.4, 1.6])
    couplings = np.array([4.0] * 6 + [0.25] * 9)
    edges = CLIQUES + CROSS
    likelihood = NormalMean(data, variance=1.0, prior_variance=4.0, prior_mean=0.3)
    own = PartitionModel(
        Graph.from_edges(6, np.array(edges)),
        DirichletProcess(0.7),
        likelihood,
        coupling=couplings,
    )
    log_g = PRIORS["Dirichlet process"][1]
    return own, tempered_law(log_g, 1.0, edges, couplings, data)


@pytest.mark.slow
@needs_numba
def test_two_valleys_are_visited_by_their_weights_where_plain_sweeps_stay_in_one():
    own, p = valleys()
    every = np.array(partitions(6))
    together = np.einsum("p,pij->ij", p, every[:, :, None] == every[:, None, :])[0, 3]
    assert 0.2 < together < 0.8
    sites = GeneralisedSwendsenWang(0.0, split_merges=0)
    ladder = TemperedSwendsenWang(sites, powers=(1.0, 0.6, 0.36, 0.2, 0.1))
    options: Any = {"num_warmup": 100, "key": jax.random.key(2), "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)  # R-hat of some hundred effective draws
        run = bl.sample(own, ladder, num_draws=3000, **options)
    assert_mean(run.draws[..., 0] == run.draws[..., 3], together)
    assert_mean(run.stats["num_clusters"], p @ (every.max(axis=1) + 1))
    assert 0.2 < run.stats["acceptance_rate"].mean() < 0.95
    plain = bl.sample(own, sites, init=jnp.zeros((4, 6), jnp.int32), num_draws=500, **options)
    assert np.mean(plain.draws[..., 0] == plain.draws[..., 3]) > 0.99


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TemperedSwendsenWang(powers=[1.0]), "powers: got"),
        (lambda: TemperedSwendsenWang(powers=[1.0, 0.5, 0.6]), "powers: got"),
        (lambda: TemperedSwendsenWang(powers=[0.9, 0.5]), "powers: got"),
        (lambda: TemperedSwendsenWang(powers=[1.0, 0.0]), "powers: got"),
        (lambda: TemperedSwendsenWang(GeneralisedSwendsenWang("auto")), "sweeps: got"),
    ],
)
def test_what_cannot_be_used_is_refused(make, words):
    with pytest.raises(BayleafError, match=words):
        make()
