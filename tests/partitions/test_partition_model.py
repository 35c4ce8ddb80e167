"""The density of partition models against enumerations, and what is refused."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayleaf as bl
from bayleaf.errors import BayleafError
from bayleaf.partitions import (
    DirichletProcess,
    FiniteDirichlet,
    Graph,
    NormalMean,
    PartitionModel,
    SizeWeights,
    Symmetric,
    first_come_labels,
)
from bayleaf.partitions.model import checked_graph, checked_likelihood, checked_prior
from tests.partitions.partition_laws import PRIORS, first_come, law, model, partitions

ORACLES = Path(__file__).parents[1] / "oracles" / "swendsen_wang"
CASES = sorted(path.stem for path in ORACLES.glob("partition_*.json"))


def oracle(name):
    """A published case: the model, and its record."""
    case = json.loads((ORACLES / f"{name}.json").read_text())
    own, data = case["prior"], case["likelihood"]
    prior = (
        DirichletProcess(own["alpha"])
        if own["type"] == "dp"
        else FiniteDirichlet(own["K"], own["gamma"])
    )
    likelihood = NormalMean(
        np.array(case["y"]),
        variance=data["sigma2"],
        prior_variance=data["tau2"],
        prior_mean=data["mu0"],
    )
    graph = Graph.from_edges(len(case["y"]), np.array(case["edges"]))
    return PartitionModel(graph, prior, likelihood, coupling=np.array(case["beta"])), case


@pytest.mark.parametrize("name", CASES)
def test_every_partition_has_the_probability_of_the_oracle(name):
    own, case = oracle(name)
    every = np.load(ORACLES / f"{name}_allprobs.npz")
    assert len(every["z"]) == case["n_partitions"]
    log_p = np.asarray(jax.jit(jax.vmap(own))(jnp.asarray(every["z"], jnp.int32)))
    p = np.exp(log_p - log_p.max())
    np.testing.assert_allclose(p / p.sum(), every["p"], rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_enters_by_its_formula(name):
    prior, log_g = PRIORS[name]
    every = jnp.array(partitions(4), jnp.int32)
    log_p = np.asarray(jax.vmap(model(prior))(every))
    p = np.exp(log_p - log_p.max())
    np.testing.assert_allclose(p / p.sum(), law(log_g), rtol=1e-10, atol=1e-15)


def test_names_of_clusters_do_not_matter_and_impossible_labels_have_probability_zero():
    own = model(DirichletProcess(0.7), max_clusters=3)
    assert own(jnp.array([0, 1, 0, 2])) == pytest.approx(float(own(jnp.array([2, 0, 2, 1]))))
    for labels in ([0, 1, 2, 3], [0, -1, 0, 0]):
        assert own(jnp.array(labels)) == -np.inf


def test_first_come_labels():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 6, size=(20, 9))
    got = jax.vmap(lambda z: first_come_labels(z, 6))(jnp.asarray(labels, jnp.int32))
    assert [tuple(z) for z in np.asarray(got).tolist()] == [first_come(z) for z in labels.tolist()]


def test_chains_start_at_random_partitions_that_are_possible():
    target = model(FiniteDirichlet(2, 1.0)).target()
    starts = np.asarray(
        target.initial_positions(jax.random.key(0), 40, need_gradient=False), np.int32
    )
    assert set(starts.max(axis=1)) == {0, 1}
    assert all(first_come(z) == tuple(z) for z in starts.tolist())


def test_with_prior_inside_of_jit():
    own = model(DirichletProcess(0.7))
    labels = jnp.array([0, 0, 1, 2])
    traced = jax.jit(lambda alpha: own.with_prior(DirichletProcess(alpha))(labels))(1.9)
    assert traced == pytest.approx(float(model(DirichletProcess(1.9))(labels)))


def test_float32_data_give_a_float32_density():
    data = np.array([0.1, 0.4, 3.0, 2.5], np.float32)
    likelihood = NormalMean(data, variance=1.0, prior_variance=4.0)
    own = PartitionModel(Graph.lattice((2, 2)), DirichletProcess(), likelihood)
    assert own(jnp.array([0, 0, 1, 1])).dtype == jnp.float32


GRID = Graph.lattice((2, 2))
DATA = NormalMean([1.0, 2.0, 3.0], variance=1.0, prior_variance=1.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: checked_graph(3), "graph: got a int"),
        (lambda: checked_prior(lambda s: 0.0, 4), "prior: .*Symmetric"),
        (lambda: bad(prior=Symmetric(lambda s: jnp.log(-1.0 * s[0]))), "log_weight: got nan"),
        (lambda: bad(prior=SizeWeights(lambda m: jnp.nan * m)), "log_weight: got nan"),
        (lambda: checked_likelihood(np.zeros(4), 4), "likelihood: got a ndarray"),
        (lambda: bad(likelihood=DATA), "likelihood: got data for 3 sites, expected data for 4"),
        (lambda: bad(coupling=np.nan), "coupling: got nan"),
        (lambda: bad(coupling=np.zeros(3)), r"coupling: got shape \(3,\)"),
        (lambda: bad(max_clusters=0), "max_clusters: got 0"),
        (lambda: bl.mcmc.GeneralisedSwendsenWang().init(lambda z: 0.0, jnp.zeros(4, int)), "targ"),
    ],
)
def test_bad_input_is_refused_by_name(make, words):
    with pytest.raises(BayleafError, match=words):
        make()


def bad(prior=None, likelihood=None, coupling=1.0, max_clusters=None):
    prior = DirichletProcess() if prior is None else prior
    return PartitionModel(GRID, prior, likelihood, coupling=coupling, max_clusters=max_clusters)
