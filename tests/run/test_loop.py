"""The loop by itself, on a program that has nothing to do with chains."""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import CheckpointError
from bayleaf.run import loop
from bayleaf.run.loop import Loop
from bayleaf.run.progress import Silent

CAPACITY = 16
IDENTITY = {"program": "walk"}


@partial(jax.jit, static_argnames="capacity")
def walk(state, num_steps, capacity=CAPACITY):
    """Add a random number whose key follows from the step; keep the sums."""

    def body(i, carry):
        state, kept = carry
        key = jax.random.fold_in(state["key"], state["step"])
        x = state["x"] + jax.random.normal(key)
        return {**state, "x": x, "step": state["step"] + 1}, kept.at[i].set(x)

    return jax.lax.fori_loop(0, num_steps, body, (state, jnp.zeros(capacity)))


def make(capacity=CAPACITY):
    start = {"key": jax.random.key(0), "x": jnp.zeros(()), "step": jnp.zeros((), jnp.int32)}
    return Loop(partial(walk, capacity=capacity), start, capacity=capacity)


def kept(some_loop, name="sums"):
    return np.concatenate(some_loop.series[name])


def run(some_loop, total=100, **options):
    some_loop.advance_to(total, "sums", Silent(), **options)
    return kept(some_loop)


@pytest.fixture(scope="module")
def whole():
    return run(make())


def test_it_takes_the_steps_it_is_told_and_keeps_nothing_of_a_chunk_beyond_them(whole):
    assert whole.shape == (100,)
    key = jax.random.key(0)
    steps = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i)))(jnp.arange(100))
    np.testing.assert_allclose(whole, np.cumsum(steps), rtol=1e-12)


def test_the_chunks_do_not_matter(whole, monkeypatch):
    np.testing.assert_array_equal(run(make(capacity=7)), whole)
    monkeypatch.setattr(loop, "FIRST_CHUNK", 1)
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    np.testing.assert_array_equal(run(make()), whole)


def test_series_follow_one_another(whole):
    phases = make()
    phases.advance_to(30, "first", Silent())
    phases.advance_to(100, "sums", Silent())
    np.testing.assert_array_equal(kept(phases, "first"), whole[:30])
    np.testing.assert_array_equal(kept(phases), whole[30:])


def test_it_stops_when_the_state_says_so(whole):
    limit = float(np.abs(whole).max()) / 2
    sums = run(make(capacity=1), is_done=lambda state: abs(float(state["x"])) > limit)
    assert 1 < len(sums) < 100
    assert np.abs(sums[:-1]).max() <= limit < abs(sums[-1])


def test_the_display_is_told_after_each_chunk():
    told = []

    class Display(Silent):
        def update(self, done, status=None):
            told.append((done, status))

    make().advance_to(
        40, "sums", Display(), notice=lambda kept, n: {"last": float(kept[-1]), "n": n}
    )
    steps = [status["n"] for _, status in told]
    assert sum(steps) == 40
    assert [done for done, _ in told] == np.cumsum(steps).tolist()


def test_an_interrupted_loop_resumes_bit_for_bit_in_another(whole, tmp_path):
    class Interrupts(Silent):
        def update(self, done, status=None):
            if done >= 40:
                raise KeyboardInterrupt

    broken = make()
    broken.save_to(tmp_path, IDENTITY)
    with contextlib.suppress(KeyboardInterrupt):
        broken.advance_to(100, "sums", Interrupts())
    assert 40 <= broken.step < 100
    resumed = make()
    resumed.save_to(tmp_path, IDENTITY)
    assert resumed.step == broken.step
    np.testing.assert_array_equal(run(resumed), whole)


def test_a_checkpoint_of_something_else_is_refused_by_name(tmp_path):
    first = make()
    first.save_to(tmp_path, IDENTITY)
    run(first, 10)
    with pytest.raises(CheckpointError, match="differs in program"):
        make().save_to(tmp_path, {"program": "another"})


def test_a_released_loop_writes_no_more(tmp_path):
    first = make()
    first.save_to(tmp_path, IDENTITY)
    run(first, 10)
    before = sorted(path.name for path in tmp_path.iterdir())
    first.release()
    run(first, 50)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
