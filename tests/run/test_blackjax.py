"""BlackJAX through `bayleaf.sample`, and kernels tuned by it in BlackJAX's loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayleaf as bl
from tests.tools.statistics import assert_mean

blackjax = pytest.importorskip("blackjax")

MEAN, SD = np.array([1.0, -2.0]), np.array([0.5, 2.0])


def log_density(position):
    return -0.5 * jnp.sum(((position["x"] - MEAN) / SD) ** 2)


def walk(key, position):
    return {"x": position["x"] + 1.5 * SD * jax.random.normal(key, (2,))}


TARGET = bl.Target(log_density, init={"x": MEAN})


def make(name):
    if name == "nuts":
        return blackjax.nuts(log_density, step_size=0.7, inverse_mass_matrix=jnp.asarray(SD**2))
    return blackjax.rmh(log_density, proposal_generator=walk)


@pytest.mark.parametrize("name", ["nuts", "rmh"])
def test_its_algorithms_are_kernels_here(name, tmp_path):
    """As they are, without a wrapper; with statistics, extension and resume like any other."""
    algorithm = make(name)
    settings = {"key": jax.random.key(0), "num_warmup": 100, "progress": False}
    run = bl.sample(TARGET, algorithm, num_draws=3000, **settings)
    x = run.draws["x"]
    assert_mean([x, (x - MEAN) ** 2], [MEAN, SD**2])
    assert {"log_density", "acceptance_rate"} <= set(run.stats)
    np.testing.assert_allclose(
        run.stats["log_density"], -0.5 * np.sum(((x - MEAN) / SD) ** 2, -1), rtol=1e-9
    )
    bl.sample(TARGET, algorithm, num_draws=2500, checkpoint=tmp_path, **settings)
    resumed = bl.sample(TARGET, algorithm, num_draws=3000, checkpoint=tmp_path, **settings)
    np.testing.assert_array_equal(resumed.draws["x"], x)


@pytest.mark.slow
def test_a_kernel_tuned_here_runs_in_its_loop():
    from blackjax.util import run_inference_algorithm

    run = bl.sample(TARGET, key=jax.random.key(1), num_draws=50, num_warmup=200, progress=False)
    algorithm = run.kernel.bind(TARGET)
    _, (states, infos) = run_inference_algorithm(
        jax.random.key(2), algorithm, 3000, initial_position={"x": jnp.asarray(MEAN)}
    )
    x = np.asarray(states.position["x"])[None]
    assert_mean([x, (x - MEAN) ** 2], [MEAN, SD**2])
    assert not np.any(infos.is_divergent)
