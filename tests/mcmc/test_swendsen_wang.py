"""Swendsen-Wang and single-site kernels against matrices and laws known by enumeration."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats

import bayleaf as bl
from bayleaf.errors import BayleafError
from bayleaf.mcmc.single_site import SingleSiteGibbs, SingleSiteMetropolis
from bayleaf.mcmc.swendsen_wang import SwendsenWang
from bayleaf.partitions import Graph, Potts, sweep
from tests.partitions.enumeration import BUGS, law, site_by_site, sweep_matrix
from tests.partitions.models import ENGINES, MODELS, has_numba, potts
from tests.tools.chains import run_chains
from tests.tools.compiling import compilations
from tests.tools.statistics import assert_mean
from tests.tools.transitions import (
    assert_invariant_matrix,
    assert_transitions,
    count_transitions,
)

ORACLES = Path(__file__).parents[1] / "oracles" / "swendsen_wang"


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


QUICK = ("frustrated in a field",)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
)
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_weaker_bonds_leave_the_rest_of_the_coupling(engine):
    name, kernel = "frustrated in a field", SwendsenWang(strength=0.4, engine=engine)
    model, p = MODELS[name], potts(name)
    bonds = -np.expm1(-0.4 * np.maximum(0, model.couplings))
    step = stepper(model, lambda key, z: kernel.step(p, key, kernel.init(p, z))[0].position)
    counts = count_transitions(step, len(law(model)), key=jax.random.key(2), num_steps=4000)
    assert_transitions(counts, sweep_matrix(model, bonds))
    with pytest.raises(AssertionError, match="transition"):
        assert_transitions(counts, exact(name))
    # exp(-100) is below the spacing of float32 at 1: the rest of the coupling must not be lost.
    strong = Potts(Graph.from_edges(2, [(0, 1)]), 2, np.float32(200))
    half = SwendsenWang(strength=0.5, engine=engine)
    state, _ = half.step(strong, jax.random.key(0), half.init(strong, jnp.array([0, 1])))
    assert state.position[0] == state.position[1]


@pytest.mark.parametrize("kernel", [SingleSiteGibbs(), SingleSiteMetropolis()])
@pytest.mark.parametrize("name", ["ring in a field", "frustrated in a field"])
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


def oracle(name):
    return json.loads((ORACLES / f"{name}.json").read_text(encoding="utf-8"))


def run(target, kernel, *, num_draws, seed=0, **options):
    settings = {"key": jax.random.key(seed), "num_warmup": 100, "progress": False, **options}
    return bl.sample(target, kernel, num_draws=num_draws, **settings)


def chains(model, kernel, num_draws):
    """Labels ``[chain, draw, site]`` of four chains, after a tenth of them."""
    starts = jax.vmap(model.random_labels)(jax.random.split(jax.random.key(5), 4))
    draws, _ = run_chains(kernel, model, starts, key=jax.random.key(6), num_draws=num_draws)
    return np.asarray(draws)[:, num_draws // 10 :]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "name",
    [
        "potts_q2_3x4_strongfield",
        pytest.param("potts_q3_3x3_free_nofield", marks=pytest.mark.slow),
    ],
)
def test_marginals_and_pairs_are_those_of_the_enumeration(name, engine):
    case = oracle(name)
    graph = Graph.from_edges(len(case["field"]), case["edges"])
    model = Potts(graph, case["q"], case["beta"], field=np.array(case["field"]))
    draws = chains(model, SwendsenWang(engine=engine), 3000)
    is_state = draws[..., None] == np.arange(case["q"])
    assert_mean(is_state, np.array(case["site_marginals"]))
    first, second = np.triu_indices(graph.num_sites, 1)
    pairs = np.array(case["pair_same"])[first, second]
    assert_mean(draws[..., first] == draws[..., second], pairs)


def energies(model, stats):
    """Per site, of Ising's model with coupling one: minus the sum of s s' over the edges."""
    return (model.graph.num_edges - 2 * stats["num_like"]) / model.graph.num_sites


def critical(size):
    return Potts.ising(Graph.lattice((size, size), periodic=True), np.log1p(np.sqrt(2)) / 2)


def few(model):
    """Keeps hardly anything: lattices are large, and their energies are in the statistics."""
    return model.target(keep=lambda labels: labels[:1])


@pytest.mark.parametrize(
    ("size", "engine"),
    [(32, None), *(pytest.param(*at, marks=pytest.mark.slow) for at in ((8, "jax"), (16, None)))],
)
def test_energies_are_kaufmans(size, engine):
    case = next(
        c
        for c in oracle("ising_kaufman")["finite"]
        if (c["L"], c["beta_name"]) == (size, "critical")
    )
    model = critical(size)
    stats = run(few(model), SwendsenWang(engine=engine), num_draws=4000).stats
    energy = energies(model, stats)
    assert_mean(energy, case["energy_per_site"])
    assert_mean(size**2 * (energy - case["energy_per_site"]) ** 2, case["var_energy_per_site"])
    assert_mean(stats["log_density"] / model.coupling, stats["num_like"].mean(), mcse=1e-9)


@pytest.mark.parametrize("kernel", [SwendsenWang(), SingleSiteGibbs(), SingleSiteMetropolis()])
def test_the_4x4_lattice_is_as_enumerated(kernel):
    (case,) = [c for c in oracle("ising_enum_4x4")["cases"] if abs(c["beta"] - 0.4407) < 1e-4]
    model = critical(4)
    draws = chains(model, kernel, 6000).reshape(4, -1, 4, 4)
    s = 2.0 * draws - 1
    m = np.abs(s.mean((2, 3)))
    assert_mean([m, m**2, m**4], [case["abs_m"], case["m2"], case["m4"]])
    assert_mean((s * np.roll(s, 1, 2)).mean((2, 3)), case["corr_1_0"])
    assert_mean((s * np.roll(s, (2, 2), (2, 3))).mean((2, 3)), case["corr_2_2"])


@pytest.mark.slow
def test_the_energy_of_a_critical_lattice_decorrelates_in_4_to_5_sweeps():
    """The time 1/2 + sum of rho at L = 64 is 4.6 to within 0.5; and the energy is Kaufman's.

    -1.423938 is Kaufman's; `tests/tour` checks the function that it comes from.
    """
    model = critical(64)
    stats = run(few(model), SwendsenWang(), num_draws=25_000).stats
    energy = energies(model, stats)
    assert_mean(energy, -1.4239380, mcse=1e-6)
    tau = energy.size / (2 * float(array_stats.ess(energy, method="mean")))
    assert abs(tau - 4.6) < 0.5


def test_draws_follow_from_the_key_and_nothing_is_compiled_twice():
    graph = Graph.lattice((6, 6))
    first = run(Potts(graph, 3, 0.8), SwendsenWang(), num_draws=200)
    again = run(Potts(graph, 3, 0.8), SwendsenWang(), num_draws=200)
    np.testing.assert_array_equal(first.draws, again.draws)
    with compilations() as compiled:
        other = run(Potts(graph, 3, 0.9), SwendsenWang(), num_draws=200, seed=1)
    assert compiled == []
    assert np.any(other.draws != first.draws)
    assert first.findings == []


@pytest.mark.slow
def test_what_is_kept_is_what_was_asked_for_and_runs_go_on():
    model = Potts(Graph.lattice((6, 6)), 3, 0.8)
    target = model.target(keep=lambda labels: {"like": model.num_like(labels)})
    whole = run(model, SwendsenWang(), num_draws=300)
    short = run(target, SwendsenWang(), num_draws=200)
    np.testing.assert_array_equal(short.draws["like"], whole.stats["num_like"][:, :200])
    longer = short.extend(100, progress=False)
    np.testing.assert_array_equal(longer.draws["like"], whole.stats["num_like"])


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        pytest.param(SwendsenWang(engine="numba"), np.float32, marks=has_numba),
        pytest.param(SwendsenWang(engine="numba"), np.float64, marks=has_numba),
        (SwendsenWang(engine="jax"), np.float32),
        (SingleSiteMetropolis(), np.float32),
    ],
)
def test_jit_vmap_and_dtypes(kernel, dtype):
    model = Potts(Graph.lattice((3, 4), periodic=True), 3, dtype(0.7), field=np.eye(12, 3))
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 3, (4, 12)), jnp.int8)
    keys = jax.random.split(jax.random.key(0), 4)

    def step(key, labels):
        return kernel.step(model, key, kernel.init(model, labels))

    state, info = jax.jit(jax.vmap(step))(keys, labels)
    assert state.position.dtype == jnp.int8
    assert state.log_density.dtype == info.magnetisation.dtype == dtype
    compiled = jax.jit(step)
    for i in range(4):
        one, _ = compiled(keys[i], labels[i])
        np.testing.assert_array_equal(one.position, state.position[i])
        np.testing.assert_allclose(one.log_density, model(one.position), rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_couplings_so_strong_that_every_bond_is_drawn(engine):
    """exp(-200) is below the smallest float32: all of the lattice is one cluster, and no NaN."""
    model = Potts(Graph.lattice((5, 5)), 4, np.float32(200), field=np.zeros((25, 4)))
    kernel = SwendsenWang(engine=engine)
    state = kernel.init(model, jnp.zeros(25, jnp.int32))
    state, info = kernel.step(model, jax.random.key(0), state)
    assert info.num_clusters == 1
    assert state.log_density == 200 * model.graph.num_edges


def test_a_block_of_gibbs_takes_a_sweep_as_its_conditional():
    """Two states whose means are known and whose coupling is not: here just that it runs."""
    model = Potts(Graph.lattice((4, 4)), 2, 0.5)

    def draw(key, position):
        field = jnp.stack([jnp.zeros(16), jnp.full(16, position["h"])], axis=1)
        return sweep(model.with_field(field), key, position["z"]).labels

    kernel = bl.mcmc.Gibbs({"z": bl.mcmc.Conditional(draw), "h": bl.mcmc.Slice(1.0)})

    def log_density(position):
        field = jnp.stack([jnp.zeros(16), jnp.full(16, position["h"])], axis=1)
        return model.with_field(field)(position["z"]) - 0.5 * position["h"] ** 2

    start = {"z": jnp.zeros(16, jnp.int32), "h": jnp.array(0.0)}
    chain = kernel.bind(log_density)
    state, _ = chain.step(jax.random.key(0), chain.init(start))
    assert jnp.all((state.position["z"] == 0) | (state.position["z"] == 1))


def test_named_errors():
    model = Potts(Graph.lattice((2, 2)), 2, 0.5)
    for kernel in (SwendsenWang(), SingleSiteGibbs(), SingleSiteMetropolis()):
        with pytest.raises(BayleafError, match=r"target.*Potts"):
            kernel.init(lambda z: 0.0, jnp.zeros(4, int))
        with pytest.raises(BayleafError, match=r"position.*labels"):
            kernel.init(model, jnp.zeros(4))
        with pytest.raises(BayleafError, match=r"position.*labels"):
            kernel.init(model, jnp.zeros(5, int))
    with pytest.raises(BayleafError, match="engine"):
        SwendsenWang(engine="cuda")
    with pytest.raises(BayleafError, match="strength"):
        SwendsenWang(strength=1.5)
    with pytest.raises(BayleafError, match="init"):
        few(model).unconstrain({"labels": jnp.zeros(1)})
