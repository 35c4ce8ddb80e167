"""Bonds of a network: exact whatever it says, trained in warm-up only, with a way back.

The exact one-sweep matrix is that of `tests.partitions.partition_laws`.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayleaf as bl
from bayleaf.errors import BayleafError
from bayleaf.mcmc import Contrast, GeneralisedSwendsenWang, LearnedBonds, learned_bonds, mixing
from bayleaf.mcmc.learned_bonds import BondNetwork
from bayleaf.partitions import (
    DirichletMultinomial,
    DirichletProcess,
    Graph,
    NormalInverseWishart,
    NormalMean,
    PartitionModel,
    PitmanYor,
)
from bayleaf.partitions.bonds import contrasts
from bayleaf.partitions.machine import calls
from tests.mcmc.test_bond_race import quarters, raced
from tests.mcmc.test_generalised_swendsen_wang import table
from tests.partitions.partition_laws import COUPLINGS, DATA, EDGES, PRIORS, kernel, law, model
from tests.run.test_resume import assert_equal, interrupt_at
from tests.tools.transitions import assert_invariant_matrix

needs_numba = pytest.mark.skipif(not calls.is_available(), reason="needs numba")


def random_network(seed, size=1.0):
    """A network with random weights in all layers."""
    network = BondNetwork(key=jax.random.key(seed))
    out = eqx.nn.Linear(4, "scalar", key=jax.random.key(seed + 1))
    return eqx.tree_at(lambda n: n.out, network, jax.tree.map(lambda w: size * w, out))


@pytest.mark.parametrize("name", ["Dirichlet process", "Pitman-Yor"])
def test_one_sweep_leaves_the_law_exactly_invariant_whatever_the_network_says(name):
    prior, log_g = PRIORS[name]
    own = model(prior)
    seen = []
    for seed, size in ((0, 1.0), (1, 30.0)):
        rule = LearnedBonds(random_network(seed, size), start=Contrast(0.1, strength=2.0))
        q = np.asarray(rule(jax.random.key(0), own), np.float64)
        matrix = kernel(table(own, q), q)
        assert np.abs(law(log_g) @ matrix - law(log_g)).max() < 1e-12
        assert_invariant_matrix(matrix, law(log_g))
        seen.append(q)
    assert np.abs(seen[0] - seen[1]).max() > 0.2
    # The residual couplings of other bonds than those that were drawn: not invariant.
    wrong = kernel(table(own, seen[0]), seen[1])
    assert np.abs(law(log_g) @ wrong - law(log_g)).max() > 1e-3


def test_it_begins_at_the_rule_and_stays_below_its_limit():
    own = model(DirichletProcess())
    first = Contrast()(jax.random.key(0), own)
    np.testing.assert_allclose(LearnedBonds()(jax.random.key(0), own), first, rtol=1e-12)
    assert np.all(np.asarray(first) <= np.maximum(0, -np.expm1(-COUPLINGS)))
    strong = eqx.tree_at(lambda n: n.out.bias, random_network(0, 0.0), jnp.asarray(1e4))
    q = LearnedBonds(strong)(jax.random.key(0), own)
    np.testing.assert_allclose(q, np.where(COUPLINGS > 0, learned_bonds.LARGEST, 0))
    weak = eqx.tree_at(lambda n: n.out.bias, random_network(0, 0.0), jnp.asarray(-1e4))
    assert np.all(np.asarray(LearnedBonds(weak)(jax.random.key(0), own)) < 1e-30)


@pytest.mark.slow
def test_contrast_is_zero_for_equal_data_and_never_negative():
    rng = np.random.default_rng(0)
    graph = Graph.lattice((6, 6))
    data = rng.normal(size=(36, 2))
    counts = rng.integers(0, 9, size=(36, 3))
    alike = [data.copy(), counts.copy()]
    for values in (data, counts, *alike):
        values[1] = values[0]  # the ends of the first edge of a row
    likelihoods = [
        NormalMean(data, variance=0.5, prior_variance=2.0, prior_mean=1.0),
        NormalInverseWishart(data, scale=0.7),
        DirichletMultinomial(counts, concentration=0.4),
    ]
    edge = np.flatnonzero(np.all(np.asarray(graph.edges) == [0, 1], axis=1))[0]
    for likelihood in likelihoods:
        got = np.asarray(contrasts(PartitionModel(graph, DirichletProcess(), likelihood)))
        assert got[edge] < 1e-12 < got.min(initial=1, where=np.arange(got.size) != edge)
    ends = np.asarray(graph.edges)
    squares = np.sum((data[ends[:, 0]] - data[ends[:, 1]]) ** 2, axis=1)
    # By hand, for NormalMean: the mean of two is known with variance 0.5 + 2 * 2 over 2.
    expected = squares / 4 * (1 / 0.5 - 1 / (0.5 + 2 * 2.0))
    got = contrasts(PartitionModel(graph, DirichletProcess(), likelihoods[0]))
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
    bare = PartitionModel(graph, DirichletProcess(), coupling=0.7)
    np.testing.assert_allclose(Contrast()(jax.random.key(0), bare), -np.expm1(-0.7), rtol=1e-6)


def test_features_do_not_care_for_the_order_of_sites_in_an_edge():
    turned = np.array(EDGES)[:, ::-1]
    likelihood = NormalMean(DATA, variance=1.0, prior_variance=4.0, prior_mean=0.3)
    other = PartitionModel(
        Graph.from_edges(4, turned), PitmanYor(0.3, 0.5), likelihood, coupling=COUPLINGS
    )
    one = learned_bonds.edge_features(model(PitmanYor(0.3, 0.5)))
    np.testing.assert_allclose(learned_bonds.edge_features(other), one, rtol=1e-12, atol=1e-12)
    assert np.all(np.isfinite(one))


def test_the_search_finds_the_top_of_a_hill():
    """Each trial is worth minus its squared distance from a point: the mean must go there."""
    goal = jnp.array([1.0, -2.0, 0.5])
    own = model(DirichletProcess())
    states = type("S", (), {"position": np.zeros((2, 4), int), "log_density": np.zeros(1)})
    empty = mixing.no_moments(mixing.watch(states))
    zero = jnp.zeros(3)
    learning = learned_bonds.Learning(
        mixing.watch(states),
        learned_bonds.edge_features(own),
        jnp.zeros(5),
        zero,
        zero,
        zero + 0.5,
        jnp.zeros(learned_bonds.num_trials(3)),
        empty,
        empty,
        empty,
    )

    @eqx.filter_jit
    def climb(learning, sign):
        def generation(learning, g):
            noise = learned_bonds.trials(learning, g)
            weights = learning.mean[None] + learning.spread[None] * noise
            worth = sign * jnp.sum((weights - goal[None]) ** 2, axis=1)
            return learned_bonds.learnt(learning._replace(worth=worth), g), None

        return jax.lax.scan(generation, learning, jnp.arange(80))[0]

    after = climb(learning, -1.0)
    np.testing.assert_allclose(after.mean, goal, atol=0.01)
    assert np.all(np.asarray(after.spread) < 0.1)
    assert np.abs(climb(learning, 1.0).mean - goal).max() > 1  # the wrong sign


def parts(run):
    rule = run.kernel.bonds.thaw()
    return [*jax.tree.leaves(rule.network), rule.fixed]


@pytest.mark.slow
@needs_numba
def test_training_is_resumed_bit_for_bit_and_ends_with_warm_up(monkeypatch, tmp_path):
    own = quarters(1.0, 0.0)
    sampler = GeneralisedSwendsenWang(LearnedBonds())
    whole = raced(own, sampler)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 200)
        with pytest.raises(KeyboardInterrupt):
            raced(own, sampler, checkpoint=tmp_path / "run")
    again = raced(own, sampler, checkpoint=tmp_path / "run")
    assert_equal(again, whole)
    more = whole.extend(50, progress=False)
    for one, two, three in zip(parts(whole), parts(again), parts(more), strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
    learning = whole.sampler.tuning
    assert np.abs(learning.mean - learning.began).max() > 0.05  # it has tried
    rule = whole.kernel.bonds.thaw()
    again_for_any = LearnedBonds(rule.network)(jax.random.key(0), own)
    np.testing.assert_allclose(rule.fixed, again_for_any, rtol=1e-6)


def test_the_start_is_kept_unless_the_network_was_better():
    states = type("S", (), {"position": np.zeros((2, 4), int), "log_density": np.zeros(1)})
    quick = mixing.no_moments(mixing.watch(states))
    quick = quick._replace(num=jnp.asarray(9.0), num_jumps=jnp.full(4, 9.0), cost=jnp.asarray(9.0))
    dear = quick._replace(cost=jnp.asarray(18.0))

    def kept(start, network):
        duel = jax.tree.map(lambda *x: jnp.stack(x), start, network)
        fields: Any = dict.fromkeys(learned_bonds.Learning._fields)
        fields |= {"began": jnp.zeros(2), "mean": jnp.ones(2), "duel": duel}
        return float(learned_bonds.winner(learned_bonds.Learning(**fields))[0])

    assert kept(dear, quick) == 1.0
    assert kept(quick, dear) == 0.0
    assert kept(quick, quick) == 0.0
    assert kept(jax.tree.map(jnp.zeros_like, quick), quick) == 0.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LearnedBonds(0.5), "network: got 0.5"),
        (lambda: LearnedBonds(start=2.0), "bonds: got 2.0"),
        (lambda: BondNetwork(0, key=jax.random.key(0)), "width: got 0"),
        (lambda: Contrast(-1.0), "rate: got -1"),
        (lambda: Contrast(strength=np.inf), "strength: got inf"),
    ],
)
def test_what_cannot_be_used_is_refused(make, words):
    with pytest.raises(BayleafError, match=words):
        make()


def test_it_needs_warm_up():
    with pytest.raises(BayleafError, match="num_warmup: got 0"):
        bl.sample(
            model(DirichletProcess()),
            GeneralisedSwendsenWang(LearnedBonds()),
            key=jax.random.key(0),
            num_warmup=0,
            progress=False,
        )
