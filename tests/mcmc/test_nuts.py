"""NUTS: the paper's recursion point for point, its exact law, invariance; planted bugs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayleaf.errors import BayleafError
from bayleaf.mcmc import nuts
from bayleaf.mcmc.hamiltonian import HamiltonianState
from bayleaf.mcmc.metric import Dense
from bayleaf.mcmc.nuts import NUTS
from tests.textbook.nuts import no_u_turn
from tests.tools.chains import end_positions
from tests.tools.geweke import geweke_test
from tests.tools.statistics import assert_cdf, assert_counts, assert_mean

NUM_CHAINS = 10_000
DEPTHS = [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow), 10]


def banana(x):
    """x0 ~ N(0, 1) and x1 given x0 ~ N(x0^2, 1): curved, and every margin is known."""
    return -0.5 * x[0] ** 2 - 0.5 * (x[1] - x[0] ** 2) ** 2


def banana_gradient(x):
    gap = x[1] - x[0] ** 2
    return np.array([x[0] - 2 * x[0] * gap, gap])


def coin_flips(key):
    """The directions of a step with this key, as the kernel draws them."""
    bits = int(nuts.seeds(key).direction)
    return [1 if (bits >> depth) & 1 else -1 for depth in range(10)]


def compare_with_recursion(max_depth, step_size, num_starts=400):
    """How many transitions differ from the paper's recursion, and how deep they were."""
    starts = 1.5 * np.random.default_rng(0).normal(size=(num_starts, 2))
    keys = jax.random.split(jax.random.key(1), num_starts)
    kernel = NUTS(step_size=step_size, max_depth=max_depth)

    def step(x, key):
        momentum = jax.random.normal(key, (2,))
        state, info = kernel.step(banana, key, kernel.init(banana, x))
        return momentum, state.position, info

    momenta, ends, infos = jax.tree.map(np.asarray, jax.jit(jax.vmap(step))(starts, keys))
    differences = 0
    for i in range(num_starts):
        expected = no_u_turn(
            lambda x: -banana(x),
            banana_gradient,
            starts[i],
            momenta[i],
            step_size,
            coin_flips(keys[i])[:max_depth],
        )
        reachable = [point.x for point, p in zip(expected.points, expected.law, strict=True) if p]
        gap = min(np.max(np.abs(ends[i] - x)) for x in reachable)
        same = infos.num_gradients[i] == expected.num_leapfrog
        same &= infos.tree_depth[i] == expected.depth
        differences += not (same and gap < 1e-9)
    return differences, infos.tree_depth


@pytest.mark.parametrize(("max_depth", "step_size"), [(10, 0.3), (3, 0.1)])
def test_trajectories_are_those_of_the_recursion_of_the_paper(max_depth, step_size):
    differences, depths = compare_with_recursion(max_depth, step_size)
    assert differences == 0
    assert len(np.unique(depths)) >= 3
    assert depths.max() <= max_depth


def forget_the_subtrees(monkeypatch):
    """Only the whole trajectory is checked for a U-turn."""
    turn_back = nuts.turn_back

    def bad(*args):
        memory, is_turning = turn_back(*args)
        return memory, is_turning & False

    monkeypatch.setattr(nuts, "turn_back", bad)


def check_one_end_only(monkeypatch):
    """Momenta at the first point of each sub-tree are taken from the last one."""
    turn_back = nuts.turn_back

    def bad(memory, front, direction, leaf):
        memory, _ = turn_back(memory, front, direction, leaf)
        same = memory._replace(momentum=jnp.zeros_like(memory.momentum) + front.momentum[None])
        return memory, turn_back(same, front, direction, leaf)[1]

    monkeypatch.setattr(nuts, "turn_back", bad)


@pytest.mark.parametrize("plant", [forget_the_subtrees, check_one_end_only])
def test_planted_u_turn_bugs_are_caught(plant, monkeypatch):
    plant(monkeypatch)
    differences, _ = compare_with_recursion(10, 0.3, num_starts=100)
    assert differences > 0


class GivenMomentum(eqx.Module):
    """Unit masses, and every trajectory starts with the same momentum."""

    given: jax.Array

    def velocity(self, momentum):
        return momentum

    def momentum(self, normal):
        return self.given

    @property
    def scales(self):
        return jnp.ones_like(self.given)


X, P, STEP, DEPTH = np.array([-1.5, -1.2]), np.array([-1.9, 0.9]), 0.4, 3


def exact_law():
    """Places and probabilities of the next draw from X with momentum P, over all directions."""
    law = {}
    for bits in range(2**DEPTH):
        directions = [1 if (bits >> depth) & 1 else -1 for depth in range(DEPTH)]
        result = no_u_turn(lambda x: -banana(x), banana_gradient, X, P, STEP, directions)
        for point, probability in zip(result.points, result.law, strict=True):
            place = tuple(np.round(point.x, 9))
            law[place] = law.get(place, 0.0) + probability / 2**DEPTH
    return np.array(list(law)), np.array(list(law.values()))


def assert_exact_law(num_draws=100_000):
    places, probabilities = exact_law()
    kernel = NUTS(step_size=STEP, metric=GivenMomentum(jnp.asarray(P)), max_depth=DEPTH)
    state = kernel.init(banana, jnp.asarray(X))
    keys = jax.random.split(jax.random.key(0), num_draws)
    ends = jax.jit(jax.vmap(lambda key: kernel.step(banana, key, state)[0].position))(keys)
    gaps = np.max(np.abs(np.asarray(ends)[:, None, :] - places[None]), axis=2)
    assert np.max(np.min(gaps, axis=1)) < 1e-8, "the kernel left the trajectory"
    counts = np.bincount(np.argmin(gaps, axis=1), minlength=len(places))
    assert_counts(counts, probabilities, what="point")


def test_the_draw_has_the_exact_law_of_biased_progressive_sampling():
    _, probabilities = exact_law()
    assert len(probabilities) >= 10
    assert_exact_law()


def weigh_all_leaves_alike(monkeypatch):
    """Within a sub-tree the leaves are chosen uniformly, not in proportion to exp(-H)."""
    add_leaf = nuts.add_leaf

    def bad(tree, front, leaf, energy, side, seed):
        new = add_leaf(tree, front, leaf, energy, side, seed)
        chosen = nuts.uniform(seed, tree.num_leaves) * (tree.leaf + 1) < 1
        point = nuts.Proposal(front.offset, *leaf, new.subtree.log_weight)
        subtree = jax.tree.map(lambda a, b: jnp.where(chosen, a, b), point, tree.subtree)
        return new._replace(subtree=subtree._replace(log_weight=new.subtree.log_weight))

    monkeypatch.setattr(nuts, "add_leaf", bad)


def forget_the_old_half(monkeypatch):
    """A complete sub-tree is always preferred to what was there before."""
    close_subtree = nuts.close_subtree

    def bad(tree, max_depth, seed):
        heavy = tree.subtree._replace(log_weight=tree.subtree.log_weight + 1000)
        new = close_subtree(tree._replace(subtree=heavy), max_depth, seed)
        weight = close_subtree(tree, max_depth, seed)
        return weight._replace(whole=new.whole._replace(log_weight=weight.whole.log_weight))

    monkeypatch.setattr(nuts, "close_subtree", bad)


PLANTED = pytest.mark.parametrize("plant", [weigh_all_leaves_alike, forget_the_old_half])


@PLANTED
def test_planted_selection_bugs_are_caught_by_the_exact_law(plant, monkeypatch):
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="expected a share"):
        assert_exact_law(20_000)


@pytest.mark.parametrize("max_depth", [1, 4])
def test_on_a_flat_density_the_draw_is_uniform_over_the_last_doubling(max_depth):
    """All weights are 1: each doubling replaces the draw. Where the trajectory lies is a sum of
    fair flips, so the distance is 1 + two independent uniform numbers below 2^(depth - 1)."""
    kernel = NUTS(step_size=1.0, metric=GivenMomentum(jnp.ones(1)), max_depth=max_depth)

    def flat(x):
        return 0.0 * jnp.sum(x)

    state = kernel.init(flat, jnp.zeros(1))
    keys = jax.random.split(jax.random.key(0), 50_000)
    new, info = jax.jit(jax.vmap(lambda key: kernel.step(flat, key, state)))(keys)
    assert np.all(np.asarray(info.num_gradients) == 2**max_depth - 1)
    assert np.all(np.asarray(info.tree_depth) == max_depth)
    half = np.full(2 ** (max_depth - 1), 0.5 ** (max_depth - 1))
    distance = np.concatenate([[0], np.convolve(half, half)])
    law = np.concatenate([distance[:0:-1] / 2, [0], distance[1:] / 2])
    places = np.rint(np.asarray(new.position[:, 0])).astype(int) + len(distance) - 1
    assert_counts(np.bincount(places, minlength=len(law)), law, what="place")


def grid_of_uniforms(num_seeds, num_indices, first_seed=0):
    seeds = jnp.arange(first_seed, first_seed + num_seeds, dtype=jnp.uint32)
    indices = jnp.arange(num_indices)
    both = jax.vmap(jax.vmap(nuts.uniform, (None, 0)), (0, None))
    return np.asarray(jax.jit(both)(seeds, indices), np.float64)


@pytest.mark.parametrize("first_seed", [0, 0xDEADBEEF])
def test_the_hash_is_uniform_and_independent_across_indices_and_seeds(first_seed):
    """Consecutive seeds are the hardest case: the kernel's are random."""
    u = grid_of_uniforms(1024, 1024, first_seed)
    assert np.all((u > 0) & (u < 1))
    p_values = [stats.kstest(u.ravel(), "uniform").pvalue]
    p_values += [stats.kstest(u[i], "uniform").pvalue for i in range(0, 1024, 64)]
    p_values += [stats.kstest(u[:, i], "uniform").pvalue for i in range(0, 1024, 64)]
    for shift in [(0, 1), (0, 2), (0, 512), (1, 0), (2, 0), (512, 0), (1, 1)]:
        other = np.roll(u, shift, axis=(0, 1))
        cells = np.histogram2d(u.ravel(), other.ravel(), bins=32, range=[[0, 1]] * 2)[0]
        p_values.append(stats.chisquare(cells.ravel()).pvalue)
    assert min(p_values) > 1e-6 / len(p_values)


@pytest.mark.parametrize("make", ["consecutive", "folded in"])
def test_the_seeds_are_fair_and_independent_of_one_another_and_of_the_momentum(make):
    """They are hashed from the key that also makes the momentum."""
    numbers = jnp.arange(1 << 15)
    base = jax.random.key(0)
    one = jax.random.key if make == "consecutive" else lambda i: jax.random.fold_in(base, i)
    keys = jax.jit(jax.vmap(one))(numbers)
    seeds = jax.jit(jax.vmap(nuts.seeds))(keys)
    normals = jax.jit(jax.vmap(lambda key: jax.random.normal(key, (2,))))(keys)
    # A column a bit of a seed or a sign of a momentum; each is a fair coin, each pair independent.
    coins = [(np.asarray(word)[:, None] >> np.arange(32)) & 1 for word in seeds]
    coins = 2.0 * np.concatenate([*coins, np.asarray(normals) > 0], axis=1) - 1
    later = np.roll(coins, 1, axis=0)
    sums = [coins.sum(axis=0), (coins.T @ coins)[np.triu_indices(98, 1)], (coins.T @ later).ravel()]
    scores = np.concatenate(sums) / np.sqrt(len(coins))
    assert np.max(np.abs(scores)) < stats.norm.isf(1e-6 / (2 * len(scores)))


def test_the_hash_stays_off_zero_and_one():
    """0 would choose a leaf of any weight; 1 would refuse a leaf of all the weight."""
    smallest = largest = 0.5
    for i in range(8):
        u = grid_of_uniforms(1 << 21, 1, first_seed=i << 28)
        smallest, largest = min(smallest, u.min()), max(largest, u.max())
    assert 2.0**-24 <= smallest < 1e-5
    assert 1 - 1e-5 < largest <= 1 - 2.0**-24


NORMALS = np.random.default_rng(0).normal(size=(NUM_CHAINS, 2))
COVARIANCE = np.array([[1.0, 0.95], [0.95, 1.0]])
FACTOR = np.linalg.cholesky(COVARIANCE)
PRECISION = np.linalg.inv(COVARIANCE)


def log_gamma(x):
    """The logarithm of a Gamma(3) number: skewed."""
    return jnp.sum(3 * x - jnp.exp(x))


def stay(kernel, log_density, starts, num_steps=3):
    """Ends of independent chains that started at exact draws."""
    starts = jnp.asarray(starts)
    ends = end_positions(kernel, log_density, starts, key=jax.random.key(1), num_steps=num_steps)
    ends = np.asarray(ends)
    assert np.mean(np.any(ends != np.asarray(starts), axis=1)) > 0.5
    return ends


def assert_normals(z):
    """Two independent standard normals."""
    assert_mean(z[:, :, None] * z[:, None, :], np.eye(2), iid=True, false_alarm=4e-7)
    for i in range(2):
        assert_cdf(z[:, i], stats.norm.cdf, iid=True, false_alarm=3e-7)


def assert_stays_at_the_banana(kernel):
    starts = np.stack([NORMALS[:, 0], NORMALS[:, 1] + NORMALS[:, 0] ** 2], axis=1)
    x = stay(kernel, banana, starts)
    assert_normals(np.stack([x[:, 0], x[:, 1] - x[:, 0] ** 2], axis=1))


@pytest.mark.parametrize("max_depth", DEPTHS)
def test_it_stays_at_a_banana(max_depth):
    assert_stays_at_the_banana(NUTS(step_size=0.5, max_depth=max_depth))


@pytest.mark.parametrize("max_depth", DEPTHS)
def test_it_stays_at_a_skewed_law_of_one_number(max_depth):
    kernel = NUTS(step_size=0.7, max_depth=max_depth)
    starts = np.log(np.random.default_rng(0).gamma(3.0, size=(NUM_CHAINS, 1)))
    ends = stay(kernel, log_gamma, starts)
    assert_cdf(np.exp(ends[:, 0]), stats.gamma(3).cdf, iid=True)


@pytest.mark.parametrize("max_depth", DEPTHS)
def test_it_stays_at_a_correlated_gaussian(max_depth):
    kernel = NUTS(step_size=0.3, max_depth=max_depth)
    x = stay(kernel, lambda x: -0.5 * x @ (PRECISION @ x), NORMALS @ FACTOR.T)
    assert_normals(np.linalg.solve(FACTOR, x.T).T)


@PLANTED
def test_planted_selection_bugs_are_caught_by_invariance(plant, monkeypatch):
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=r"means are wrong|do not follow"):
        assert_stays_at_the_banana(NUTS(step_size=0.7, max_depth=3))


def test_momenta_of_another_mass_matrix_are_caught():
    inverse_mass = jnp.array([[1.0, 0.6], [0.6, 2.0]])
    kernel = NUTS(
        step_size=0.4, metric=Dense(inverse_mass, jnp.linalg.cholesky(inverse_mass)), max_depth=3
    )
    with pytest.raises(AssertionError, match=r"means are wrong|do not follow"):
        assert_stays_at_the_banana(kernel)


def test_geweke():
    """theta ~ N(0, 1), y ~ N(exp(theta), 1): neither conjugate nor symmetric."""

    def log_joint(theta, y):
        return -0.5 * theta**2 - 0.5 * (y - jnp.exp(theta)) ** 2

    geweke_test(
        NUTS(step_size=0.4, max_depth=4),
        prior=jax.random.normal,
        simulate=lambda key, theta: jnp.exp(theta) + jax.random.normal(key),
        log_joint=log_joint,
        key=jax.random.key(0),
        num_chains=10_000,
        num_sweeps=3,
    )


@pytest.mark.slow
def test_divergence_zero_density_and_nan_are_told_apart():
    start = jnp.full(2, 0.5)

    def edge(value):
        return lambda x: jnp.where(jnp.all(x == start), 0.0, value)

    def nan_gradient(x):
        return banana(x) + jnp.where(jnp.all(x == start), 0.0, jnp.sqrt(0 * jnp.sum(x)))

    expected = {
        "zero density": (edge(-jnp.inf), True, False),
        "NaN": (edge(jnp.nan), True, True),
        "plus infinity": (edge(jnp.inf), True, True),
        "NaN in the gradient alone": (nan_gradient, True, True),
        "a wall": (lambda x: -1e4 * jnp.sum(x**4), True, False),
        "banana": (lambda x: banana(x / 4), False, False),
    }
    kernel = NUTS(step_size=0.5, max_depth=5)
    for name, (density, is_divergent, is_nan) in expected.items():
        value, gradient = jax.value_and_grad(density)(start)
        state = HamiltonianState(start, value, jnp.nan_to_num(gradient))
        new, info = jax.jit(lambda s, f=density: kernel.step(f, jax.random.key(0), s))(state)
        assert (bool(info.is_divergent), bool(info.is_nan)) == (is_divergent, is_nan), name
        if is_divergent:
            assert info.num_gradients < 31
            assert jnp.all(jnp.isfinite(new.position))
            assert jnp.isfinite(info.energy)
        if name in ("zero density", "NaN", "plus infinity"):
            np.testing.assert_array_equal(new.position, start)
            assert info.acceptance_rate == 0


def test_small_steps_far_from_zero_are_not_lost_in_float32():
    """63 steps of about 0.01 near a million, where float32 numbers are 1/16 apart.

    On a flat density the draw lies among the last 32 points, wherever the flips put them.
    """

    def flat(x):
        return 0 * jnp.sum(x)

    kernel = NUTS(
        step_size=0.0625, metric=GivenMomentum(jnp.full(2, 0.25, jnp.float32)), max_depth=6
    )
    start = jnp.full(2, 1e6, jnp.float32)
    step = jax.jit(jax.vmap(lambda key: kernel.step(flat, key, kernel.init(flat, start))))
    state, info = step(jax.random.split(jax.random.key(0), 1000))
    assert np.all(np.asarray(info.num_gradients) == 63)
    moved = np.asarray(state.position, np.float64)[:, 0] - 1e6
    assert np.mean(moved != 0) > 0.95
    assert np.max(moved) > 0.8
    assert np.min(moved) < -0.8


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"max_depth": 0}, "max_depth"),
        ({"max_depth": 21}, "max_depth"),
        ({"step_size": -1.0}, "step_size"),
        ({"target_acceptance": 0.0}, "target_acceptance"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, name):
    with pytest.raises(BayleafError, match=name):
        NUTS(**settings)
