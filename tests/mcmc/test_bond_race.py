"""The race between rules for bonds: what it measures, who wins, and that it changes no law."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayleaf as bl
from bayleaf.errors import BayleafError
from bayleaf.mcmc import GeneralisedSwendsenWang, Raced, bond_race, mixing
from bayleaf.partitions import DirichletProcess, Graph, NormalMean, PartitionModel
from bayleaf.partitions.machine import calls
from tests.partitions.partition_laws import PRIORS, law, model, partitions
from tests.run.test_resume import assert_equal, interrupt_at
from tests.tools.statistics import assert_mean

needs_numba = pytest.mark.skipif(not calls.is_available(), reason="needs numba")


STATES = type("States", (), {"position": np.zeros((2, 5), int), "log_density": np.zeros(1)})


@eqx.filter_jit
def moments(series, block):
    """The sums over a series [sweep, chain, stat], whose blocks are of one sampler each."""
    recent = jnp.zeros((mixing.NUM_LAGS, *series.shape[1:]))
    first = mixing.watch(STATES)._replace(origin=series[0, 0], recent=recent)
    first = mixing.noted(first, series[0], jnp.array(True))

    def sweep(carry, t):
        seen, total = carry
        one = mixing.of_sweep(seen, series[t], jnp.asarray(2.0), (t - 1) % block)
        seen = mixing.noted(seen, series[t], jnp.array(False))
        return (seen, jax.tree.map(jnp.add, total, one)), None

    start = first, mixing.no_moments(first)
    return jax.lax.scan(sweep, start, jnp.arange(1, len(series)))[0][1]


def test_correlations_are_those_of_jumps_within_blocks():
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(size=(17, 2, 5)), axis=0)
    x[:, :, 2] = 7.0  # never moves
    sums = moments(x, 8)
    rho = np.asarray(mixing.correlations(sums))
    counted = x[1:].reshape(-1, 5)
    variance = counted.var(axis=0)
    for lag in range(1, 5):
        # x[0] was there before the first block; x[8] before the second one.
        starts = [s for first in (0, 8) for s in range(first, first + 9 - lag)]
        squares = np.mean([(x[s + lag] - x[s]) ** 2 for s in starts], axis=(0, 1))
        varies = [0, 1, 3, 4]
        expected = 1 - squares[varies] / (2 * variance[varies])
        np.testing.assert_allclose(rho[lag - 1, varies], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(rho[:, 2], 0)
    np.testing.assert_allclose(sums.cost / sums.num, 2.0)


def test_the_time_of_an_autoregression_is_exact_however_slow():
    many = jnp.full(mixing.NUM_LAGS, 1e12)
    lags = np.arange(1, mixing.NUM_LAGS + 1)
    for r in (0.3, 0.9, 0.999):
        got = mixing.autocorrelation_times(jnp.asarray(r**lags)[:, None], many)
        np.testing.assert_allclose(got, (1 + r) / (1 - r), rtol=1e-9)
    noise = jnp.array([0.05, 0.2, 0.2, 0.2])[:, None]  # the first is nothing, of a hundred jumps
    few = jnp.full(mixing.NUM_LAGS, 100.0)
    np.testing.assert_allclose(mixing.autocorrelation_times(noise, few), 1.0)


def quarters(coupling, gap, side=12):
    """A lattice of four quarters whose data differ by a gap."""
    row, column = np.mgrid[:side, :side] // (side // 2)
    data = gap * (2.0 * row + column).ravel() + np.random.default_rng(0).normal(size=side**2)
    likelihood = NormalMean(data, variance=1.0, prior_variance=4.0)
    graph = Graph.lattice((side, side))
    return PartitionModel(graph, DirichletProcess(), likelihood, coupling=coupling)


def raced(own, kernel, **changes):
    settings = {"num_warmup": 500, "num_draws": 50, "key": jax.random.key(0), "progress": False}
    return bl.sample(own, kernel, **settings | changes)


def winner(run):
    return int(run.kernel.bonds.thaw().winner)


@pytest.mark.slow
@needs_numba
def test_the_better_rule_wins_on_either_side():
    """Clear cases: large pieces cost next to nothing, or never find a better place."""
    kernel = GeneralisedSwendsenWang("auto")
    weak, strong = (raced(quarters(*own), kernel) for own in ((1.0, 0.0), (1.0, 1.6)))
    assert (winner(weak), winner(strong)) == (3, 0)


def test_the_longest_time_is_that_of_the_worst_tenth_of_the_pairs_that_vary():
    num = 3 + 20
    sums = mixing.no_moments(mixing.watch(STATES))
    sums = jax.tree.map(lambda x: jnp.zeros((*x.shape[:-1], num)) if x.ndim else x, sums)
    rho = jnp.asarray([0.1, 0.1, 0.1] + [0.0] * 17 + [0.5, 0.9, 0.5])
    lags = jnp.arange(1, mixing.NUM_LAGS + 1)[:, None]
    varies = jnp.ones(num).at[-2].set(0.01)  # a pair that is hardly ever apart does not count
    jumps = 2 * (1 - rho[None] ** lags) * varies[None]
    many = jnp.asarray(1e9)
    sums = sums._replace(
        num=many, squares=many * varies, num_jumps=jnp.full(4, many), jumps=many * jumps
    )
    times = np.array([1.0] * 17 + [3.0, 3.0])
    np.testing.assert_allclose(mixing.longest_time(sums), np.quantile(times, 0.9), rtol=1e-6)
    slower = sums._replace(jumps=sums.jumps.at[:, 0].set(many * 2 * (1 - 0.8 ** lags[:, 0])))
    np.testing.assert_allclose(mixing.longest_time(slower), 9.0, rtol=1e-6)


def test_the_rate_of_jumps_is_exact_for_autoregressions():
    sums = mixing.no_moments(mixing.watch(STATES))
    num = sums.squares.size
    rho = jnp.asarray([0.0, 0.5, 0.9] + [0.8] * (num - 3))
    sums = sums._replace(
        num=jnp.asarray(10.0),
        squares=jnp.full(num, 10.0),
        num_jumps=jnp.full(4, 10.0),
        jumps=jnp.zeros((4, num)).at[0].set(20 * (1 - rho)),
        cost=jnp.asarray(70.0),
    )
    expected = 1 / (np.mean([1, 3, 19, 9]) * 7)
    np.testing.assert_allclose(mixing.jump_rate(sums, sums), expected, rtol=1e-6)


@eqx.filter_jit
def judged(rules, num_running):
    order = jnp.arange(len(rules), dtype=jnp.int32)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *rules)
    racing = bond_race.Racing(mixing.watch(STATES), order, num_running, stacked)
    return bond_race.best(racing), bond_race.fewer(racing, jnp.asarray(0.5))


def test_the_winner_has_most_effective_draws_per_cost():
    rng = np.random.default_rng(0)
    still = moments(np.repeat(rng.normal(size=(8, 20, 5)), 8, axis=0), 8)
    quick = moments(rng.normal(size=(64, 20, 5)), 8)
    dear = quick._replace(cost=3 * quick.cost)
    unknown = jax.tree.map(jnp.zeros_like, quick)
    four = jnp.asarray(4, jnp.int32)
    assert judged((still, dear, quick, still), four)[0] == 2
    assert judged((still, dear, quick, still), four - 2)[0] == 1  # the others have fallen out
    assert judged((quick, quick, dear, unknown), four)[0] == -1
    dearer = quick._replace(cost=(1 + bond_race.TIE / 2) * quick.cost)
    assert judged((dearer, quick, dear, still), four)[0] == 0  # as good as a tie: the first
    assert judged((still, quick, dearer, still), four)[0] == 1
    after = judged((still, dear, still, quick), four)[1]
    assert (int(after.num_running), after.order[:2].tolist()) == (2, [3, 1])
    assert set(after.order.tolist()) == {0, 1, 2, 3}


@needs_numba
def test_the_race_is_resumed_bit_for_bit_and_ends_with_warm_up(monkeypatch, tmp_path):
    own, kernel = quarters(1.0, 0.0, side=6), GeneralisedSwendsenWang("auto")
    whole = raced(own, kernel, num_warmup=300)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 200)
        with pytest.raises(KeyboardInterrupt):
            raced(own, kernel, num_warmup=300, checkpoint=tmp_path / "run")
    again = raced(own, kernel, num_warmup=300, checkpoint=tmp_path / "run")
    assert_equal(again, whole)
    assert winner(again) == winner(whole) >= 0
    more = whole.extend(50, progress=False)
    assert winner(more) == winner(whole)
    assert int(more.sampler.tuning.watched.recent.size) > 0


@pytest.mark.slow
def test_warm_up_too_short_for_a_race_leaves_chance_to_choose():
    run = raced(model(DirichletProcess(0.7)), GeneralisedSwendsenWang("auto"), num_warmup=12)
    assert winner(run) == -1
    rule = run.kernel.bonds.thaw()
    keys = jax.random.split(jax.random.key(0), 40)
    used = jax.vmap(lambda key: rule(key, model(DirichletProcess(0.7))))(keys)[:, 0]
    assert len(np.unique(used)) == len(bond_race.AUTO)


@pytest.mark.slow
def test_chains_of_the_winner_have_the_law():
    own, log_g = model(DirichletProcess(0.7)), PRIORS["Dirichlet process"][1]
    num_draws = 4000 if calls.is_available() else 1500
    run = raced(own, GeneralisedSwendsenWang("auto"), num_draws=num_draws, num_warmup=300)
    assert winner(run) >= 0
    every = np.array(partitions(4))
    assert_mean(run.stats["num_clusters"], law(log_g) @ (every.max(axis=1) + 1))
    assert_mean(run.draws[..., 0] == run.draws[..., 3], law(log_g) @ (every[:, 0] == every[:, 3]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GeneralisedSwendsenWang("best"), 'bonds: got best, expected "auto"'),
        (lambda: Raced([0.5]), "rules: got"),
        (lambda: Raced([0.5, 1.0]), "bonds: got 1.0"),
    ],
)
def test_what_cannot_be_raced_is_refused(make, words):
    with pytest.raises(BayleafError, match=words):
        make()


def test_a_race_needs_warm_up():
    with pytest.raises(BayleafError, match="num_warmup: got 0"):
        raced(model(DirichletProcess(0.7)), GeneralisedSwendsenWang("auto"), num_warmup=0)
