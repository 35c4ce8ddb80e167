"""The generalised Swendsen-Wang kernel: its exact matrix on four sites, its law, both engines.

`tests.partitions.partition_laws` makes the matrix of one sweep from the conditional weights that
the sampler itself uses, without noise. The wrong versions that look right each fail it.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayleaf as bl
from bayleaf.errors import BayleafError
from bayleaf.mcmc import Decoupled, GeneralisedSwendsenWang
from bayleaf.partitions import (
    Collapsed,
    DirichletMultinomial,
    DirichletProcess,
    Graph,
    NormalInverseWishart,
    NormalMean,
    PartitionModel,
    PitmanYor,
    ProductPrior,
    SizeWeights,
    Symmetric,
    collapsed,
    split_merge,
)
from bayleaf.partitions.machine import calls, collapsed_calls
from tests.partitions.partition_laws import (
    BONDS,
    COUPLINGS,
    DATA,
    EDGES,
    PRIORS,
    answers,
    kernel,
    law,
    model,
    partitions,
    questions,
)
from tests.partitions.test_partition_model import CASES, oracle
from tests.tools.compiling import compilations
from tests.tools.statistics import assert_mean
from tests.tools.transitions import (
    assert_invariant_counts,
    assert_invariant_matrix,
    assert_transitions,
    count_transitions,
)

needs_numba = pytest.mark.skipif(not calls.is_available(), reason="needs numba")
ENGINES = [pytest.param("numba", marks=needs_numba), "jax"]


@eqx.filter_jit
def jax_weights(own, probability):
    z, members = questions()
    ask = functools.partial(collapsed.log_weights_at, own, probability=probability)
    return jax.vmap(ask)(jnp.asarray(z), jnp.asarray(members))


def table(own, probability=BONDS):
    """The answers of the JAX engine."""
    return answers(np.asarray(jax_weights(own, jnp.asarray(probability))))


def numba_weights(own, probability=BONDS):
    """The same from the machine code's own function, in the same places."""
    from bayleaf.partitions.machine import collapsed as code
    from bayleaf.partitions.machine import marginals
    from bayleaf.partitions.machine.graph import neighbours

    kind, dim, numbers = collapsed_calls.written_down(own.likelihood, jnp.float64)
    numbers, statistics = np.array(numbers), np.array(own.statistics)
    log_size = code.size_weights(np.array(own.prior.log_size_steps(4)), 4)
    opened = np.array(own.prior.log_opened(jnp.arange(own.max_clusters)))
    room, by_size = np.empty((dim, dim)), np.full(5, np.nan)
    program = (kind, numbers, dim, room, np.empty(statistics.shape[1]), by_size)
    rows = []
    for z, members in zip(*questions(), strict=True):
        rest = np.flatnonzero(~members)
        number = np.zeros(4, np.int32)  # the members are component 0
        number[rest] = 1 + np.arange(len(rest))
        edges = np.array(EDGES, np.int32)
        links = neighbours(edges, COUPLINGS + np.log1p(-probability), number, 1 + len(rest))
        pull = np.zeros(4)
        for k in range(links[0][0], links[0][1]):
            pull[z[rest[links[1][k] - 1]]] += links[2][k]
        sizes = np.array([np.sum(~members & (z == j)) for j in range(own.max_clusters)])
        totals = np.stack(
            [statistics[~members & (z == j)].sum(axis=0) for j in range(own.max_clusters)]
        )
        values = np.array(
            [
                marginals.log_marginal(kind, numbers, dim, m, total, room, by_size) if m else 0.0
                for m, total in zip(sizes, totals, strict=True)
            ]
        )
        present = np.flatnonzero(sizes)
        size, more = int(members.sum()), statistics[members].sum(axis=0)
        weights, joined = np.empty(5), np.empty(5)
        clusters = (sizes, totals, values)
        count = code.weigh(
            program, log_size, opened, clusters, present, (size, more), pull, weights, joined
        )
        row = np.full(own.max_clusters, -np.inf)
        row[present] = weights[: len(present)]
        if count > len(present):
            row[np.flatnonzero(sizes == 0)[0]] = weights[count - 1]
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("name", PRIORS)
def test_one_sweep_leaves_the_law_exactly_invariant_whatever_the_bonds(name):
    prior, log_g = PRIORS[name]
    for bonds in (BONDS, np.maximum(0, -np.expm1(-COUPLINGS)), np.zeros(5)):
        assert_invariant_matrix(kernel(table(model(prior), bonds), bonds), law(log_g))


def test_at_most_so_many_clusters():
    prior, log_g = PRIORS["Dirichlet process"]
    matrix = kernel_among(table(model(prior, max_clusters=2)), 2)
    assert_invariant_matrix(matrix, law(log_g, most=2)[law(log_g, most=2) > 0])


def kernel_among(answered, most):
    """The part of the matrix that belongs to partitions into few clusters."""
    is_inside = np.array([max(z) < most for z in partitions(4)])
    matrix = kernel(answered)
    assert np.all(matrix[np.ix_(is_inside, ~is_inside)] == 0)
    return matrix[np.ix_(is_inside, is_inside)]


class Restaurant(DirichletProcess):
    """The bug: a new cluster has weight alpha, whatever the size of what moves there."""

    def log_joined(self, sizes, size):
        right = super().log_joined(sizes, size)
        return jnp.where(sizes > 0, right, jnp.log(self.concentration))


def drift(matrix):
    p = law(PRIORS["Dirichlet process"][1])
    return np.abs(p @ matrix - p).max()


def test_the_four_wrong_versions_do_not_leave_the_law_invariant():
    own = model(DirichletProcess(0.7))
    assert drift(kernel(table(own))) < 1e-14
    swendsen_wang = -np.expm1(-COUPLINGS)  # for which the residual coupling is 0
    wrong = {
        "residual couplings dropped": kernel(table(own, swendsen_wang), BONDS),
        "1 - q forgotten": kernel(table(own, np.zeros(5)), BONDS),
        "all at once from the same counts": kernel(table(own), at_once=True),
        "Gamma(|C|) forgotten": kernel(table(model(Restaurant(0.7)))),
    }
    small = {bug: drift(matrix) for bug, matrix in wrong.items() if drift(matrix) < 1e-3}
    assert small == {}


@needs_numba
@pytest.mark.parametrize("name", [n for n, (p, _) in PRIORS.items() if isinstance(p, ProductPrior)])
def test_the_engines_have_the_same_weights(name):
    own = model(PRIORS[name][0])
    np.testing.assert_allclose(
        numba_weights(own), jax_weights(own, jnp.asarray(BONDS)), atol=1e-12, rtol=1e-12
    )


@pytest.mark.slow
@needs_numba
def test_the_engines_have_the_same_weights_for_each_likelihood_and_where_sizes_are_forbidden():
    rng = np.random.default_rng(5)
    graph = Graph.from_edges(4, np.array(EDGES))
    even = SizeWeights(lambda m: jnp.where(m == 1, -jnp.inf, 0.1 * m))
    for likelihood in (
        NormalInverseWishart(rng.normal(size=(4, 2)), scale=0.7),
        DirichletMultinomial(rng.integers(0, 5, size=(4, 3)), concentration=0.4),
        None,
    ):
        for prior in (PitmanYor(0.2, 0.9), even):
            own = PartitionModel(graph, prior, likelihood, coupling=COUPLINGS, max_clusters=3)
            got, expected = numba_weights(own), jax_weights(own, jnp.asarray(BONDS))
            # Questions with more than three clusters, or clusters of one, have no answer.
            has_answer = (questions()[0].max(axis=1) < 3) & np.isfinite(expected).any(axis=1)
            np.testing.assert_allclose(
                got[has_answer], expected[has_answer], atol=1e-11, rtol=1e-11
            )


def stepper(own, sampler):
    """A step from the number of a partition to that of another."""
    every = jnp.array(partitions(4), jnp.int32)
    codes = every @ (4 ** jnp.arange(4))

    def step(key, start):
        state = sampler.init(own, every[start])
        state, info = sampler.step(own, key, state)
        gap = jnp.abs(state.log_density - own(state.position)) + jnp.abs(
            state.log_density - info.log_density
        )
        is_sound = (info.num_clusters == state.position.max() + 1) & (gap < 1e-9) & ~info.is_nan
        number = jnp.argmax(codes == state.position @ (4 ** jnp.arange(4)))
        return jnp.where(is_sound, number, len(every))  # off the space: the count would not add up

    return step


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_steps_follow_the_exact_matrix(engine):
    own = model(PitmanYor(0.3, 0.5))
    step = stepper(own, GeneralisedSwendsenWang(BONDS, split_merges=0, engine=engine))
    num_steps = 20_000 if engine == "numba" else 4_000
    counts = count_transitions(step, 15, key=jax.random.key(3), num_steps=num_steps)
    assert_transitions(counts, kernel(table(own)))
    with pytest.raises(AssertionError, match="transition"):
        assert_transitions(counts, kernel(table(own, -np.expm1(-COUPLINGS)), BONDS))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_splits_and_merges_leave_the_law_invariant(engine, monkeypatch):
    prior, log_g = PRIORS["Pitman-Yor"]
    own, p = model(prior), law(log_g)
    num_steps = 20_000 if engine == "numba" else 4_000
    sampler = GeneralisedSwendsenWang(0.0, split_merges=3, engine=engine)
    counts = count_transitions(
        stepper(own, sampler), 15, key=jax.random.key(4), num_steps=num_steps
    )
    assert_invariant_counts(counts, p)
    alone = kernel(table(own, np.zeros(5)), np.zeros(5))
    with pytest.raises(AssertionError, match="transition"):
        assert_transitions(counts, alone)  # they do something
    if engine == "jax":
        plant_dealing_that_is_forgotten(monkeypatch)
        wrong = count_transitions(
            stepper(own, sampler), 15, key=jax.random.key(4), num_steps=num_steps
        )
        with pytest.raises(AssertionError, match="standard errors"):
            assert_invariant_counts(wrong, p)


def plant_dealing_that_is_forgotten(monkeypatch):
    """The bug: the probability of dealing the components so is left out of the ratio."""
    right = split_merge.allocate

    def wrong(*args):
        return right(*args)._replace(log_dealt=jnp.zeros(()))

    monkeypatch.setattr(split_merge, "allocate", wrong)


def test_an_emptied_cluster_leaves_exactly_nothing_behind():
    own = model(DirichletProcess())
    left = 0.1 + 0.2 - 0.3  # of rounding, when the last site goes
    total = jnp.array([[1.0, 2.0], [0.1 + 0.2, 5.0]])
    clusters = collapsed.Clusters(jnp.array([3, 1]), total, jnp.array([-4.0, -1.0]))
    component = collapsed.Component(jnp.asarray(1), jnp.array([0.3, 5.0]))
    after = collapsed.taken_out(own, clusters, component, jnp.asarray(1))
    assert left != 0
    np.testing.assert_array_equal(after.totals[1], 0)
    assert (int(after.sizes[1]), float(after.log_marginals[1])) == (0, 0.0)


@pytest.mark.slow
def test_chains_through_the_runner_have_the_law():
    own, log_g = model(PRIORS["Pitman-Yor"][0]), PRIORS["Pitman-Yor"][1]
    run = bl.sample(
        own,
        GeneralisedSwendsenWang(),
        key=jax.random.key(1),
        num_draws=4_000 if calls.is_available() else 1_500,
        num_warmup=50,
        progress=False,
    )
    z = np.asarray(run.draws)
    pairs = z[..., :, None] == z[..., None, :]
    every = np.array(partitions(4))
    same = np.einsum("p,pij->ij", law(log_g), every[:, :, None] == every[:, None, :])
    upper = np.triu_indices(4, 1)
    assert_mean(pairs[..., upper[0], upper[1]], same[upper])
    assert_mean(run.stats["num_clusters"], law(log_g) @ (every.max(axis=1) + 1))
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_mean(pairs[..., upper[0], upper[1]], same[upper] + 0.08)


@pytest.mark.slow
def test_any_prior_and_any_likelihood_run_in_the_jax_engine_and_are_refused_by_the_other():
    def log_marginal(size, total):
        return -0.5 * jnp.log1p(size) - 0.5 * (total[1] - total[0] ** 2 / (1.0 + size))

    own = PartitionModel(
        Graph.lattice((2, 2)),
        Symmetric(lambda sizes: -0.1 * jnp.max(sizes) ** 2),
        Collapsed(np.stack([DATA, DATA**2], axis=1), log_marginal),
    )
    state, info = (
        GeneralisedSwendsenWang()
        .bind(own)
        .step(jax.random.key(0), GeneralisedSwendsenWang().init(own, jnp.zeros(4, jnp.int32)))
    )
    assert state.position.shape == (4,)
    assert not info.is_nan
    if calls.is_available():
        with pytest.raises(BayleafError, match="engine: got numba for Symmetric with Collapsed"):
            GeneralisedSwendsenWang(engine="numba").step(own, jax.random.key(0), state)


def test_a_likelihood_that_becomes_nan_is_reported_and_not_chosen():
    def log_marginal(size, total):
        return jnp.where(size == 2, jnp.nan, 0.0) + 0 * total[0]

    own = PartitionModel(
        Graph.lattice((2, 2)), DirichletProcess(), Collapsed(np.zeros(4), log_marginal)
    )
    _, info = compiled_step(GeneralisedSwendsenWang(0.0), own, jax.random.key(0), jnp.arange(4))
    assert bool(info.is_nan)


def test_numbers_that_the_partition_decides():
    own = PartitionModel(Graph.lattice((1, 4)), DirichletProcess(), coupling=1e4)
    sampler = GeneralisedSwendsenWang(Decoupled(1.0))
    labels = jnp.array([1, 1, 1, 1])
    state, info = compiled_step(sampler, own, jax.random.key(0), labels)
    np.testing.assert_array_equal(state.position, 0)  # bonded throughout, and numbered anew
    assert (int(info.num_components), int(info.num_clusters), int(info.num_like)) == (1, 1, 3)
    assert float(info.size_entropy) == 0.0


def test_decoupled_bonds_know_no_negative_couplings():
    own = model(DirichletProcess())
    got = Decoupled(0.5)(jax.random.key(0), own)
    np.testing.assert_allclose(got, -np.expm1(-0.5 * np.maximum(COUPLINGS, 0)), rtol=1e-12)
    several = Decoupled([0.0, 1.0])
    keys = jax.random.split(jax.random.key(0), 20)
    used = np.unique(jax.vmap(lambda key: several(key, own))(keys)[:, 0])
    np.testing.assert_allclose(used, [0.0, -np.expm1(-COUPLINGS[0])])


def test_the_second_call_compiles_nothing():
    def steps(concentration, shift, key):
        own = PartitionModel(
            Graph.from_edges(4, np.array(EDGES)),
            DirichletProcess(concentration),
            NormalMean(DATA + shift, variance=1.0, prior_variance=4.0),
            coupling=COUPLINGS,
        )
        return compiled_step(GeneralisedSwendsenWang(), own, key, jnp.zeros(4, jnp.int32))

    steps(0.5, 0.0, jax.random.key(0))
    with compilations() as names:
        steps(0.9, 1.0, jax.random.key(1))
    assert names == []


@eqx.filter_jit
def compiled_step(sampler, own, key, labels):
    return sampler.step(own, key, sampler.init(own, labels))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GeneralisedSwendsenWang(1.0), r"bonds: got 1.0, expected a probability in \[0"),
        (lambda: GeneralisedSwendsenWang([0.5, -0.1]), r"bonds\[1\]: got -0.1"),
        (lambda: GeneralisedSwendsenWang(np.nan), "bonds: got nan"),
        (lambda: GeneralisedSwendsenWang(np.zeros((2, 2))), "bonds: got shape"),
        (lambda: GeneralisedSwendsenWang(engine="fast"), "engine: got fast"),
        (lambda: GeneralisedSwendsenWang(split_merges=-1), "split_merges: got -1"),
        (lambda: Decoupled([-1.0]), "strengths"),
        (lambda: Decoupled([]), "strengths"),
        (lambda: one_step(GeneralisedSwendsenWang(np.zeros(3))), r"bonds: got shape \(3,\)"),
        (lambda: one_step(GeneralisedSwendsenWang(), np.zeros(4)), "position: got float64"),
        (lambda: one_step(GeneralisedSwendsenWang(), np.zeros(3, int)), "position: .*shape"),
    ],
)
def test_bad_input_is_refused_by_name(make, words):
    with pytest.raises(BayleafError, match=words):
        make()


def one_step(sampler, labels=(0, 0, 0, 0)):
    own = model(DirichletProcess())
    return sampler.step(own, jax.random.key(0), sampler.init(own, jnp.asarray(labels)))


@needs_numba
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_pair_probabilities_of_three_million_sweeps(name):
    """Within 0.003 of the oracle; a missing Gamma(|C|) would be off by 0.0065 to 0.0106."""
    own, case = oracle(name)
    num_chains, num_sweeps = 200, 15_000
    sampler = GeneralisedSwendsenWang(engine="numba")

    def chain(key):
        def step(carry, key):
            state, count = carry
            state, info = sampler.step(own, key, state)
            z = state.position
            is_k = jnp.arange(1, z.shape[0] + 1) == info.num_clusters
            return (state, (count[0] + (z[:, None] == z[None]), count[1] + is_k)), None

        n = own.graph.num_sites
        nothing = (jnp.zeros((n, n), jnp.int32), jnp.zeros(n, jnp.int32))
        start = sampler.init(own, jnp.zeros(n, jnp.int32)), nothing
        carry, _ = jax.lax.scan(step, start, jax.random.split(key, num_sweeps))
        return carry[1]

    keys = jax.random.split(jax.random.key(0), num_chains)
    same, clusters = jax.jit(jax.vmap(chain))(keys)
    total = num_chains * num_sweeps
    np.testing.assert_allclose(same.sum(axis=0) / total, case["pair_same"], atol=0.003)
    np.testing.assert_allclose(clusters.sum(axis=0) / total, case["p_num_clusters"], atol=0.003)
