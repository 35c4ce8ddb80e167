"""Runs that are killed, interrupted, changed or asked for more, with and without a checkpoint."""

import json
import os
import signal
import subprocess
import sys
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayleaf as bl
from bayleaf.errors import CheckpointError, SamplingWarning
from bayleaf.mcmc import NUTS, MetropolisHastings, RandomWalk
from bayleaf.run import loop, progress, runner
from bayleaf.run.checkpoint import Checkpoint

QUIET = {"progress": False}


def log_density(params, data):
    return -0.5 * jnp.sum((params["x"] - data) ** 2)


def make_target(shift=0.0):
    return bl.Target(log_density, init={"x": np.zeros(2)}, data=np.array([1.0, 2.0]) + shift)


def walk(**changes):
    """A cheap run that learns its step size; a healthy one, so that a warning is news."""
    settings = {
        "target": make_target(),
        "kernel": MetropolisHastings(RandomWalk()),
        "key": jax.random.key(0),
        "num_draws": 2000,
        "num_warmup": 200,
        "num_chains": 4,
    }
    return bl.sample(**settings | QUIET | changes)


def assert_equal(run, other):
    for part in ("draws", "stats", "warmup_stats"):
        got, expected = getattr(run, part), getattr(other, part)
        jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.fixture(scope="module")
def whole():
    return walk()


class InterruptedAt(progress.Silent):
    """Presses Ctrl-C once so many steps are done."""

    def __init__(self, step):
        self.step = step

    def update(self, done, status=None):
        if done >= self.step:
            raise KeyboardInterrupt


def interrupt_at(monkeypatch, step):
    monkeypatch.setattr(runner, "open_progress", lambda *args, **kwargs: InterruptedAt(step))


def test_ctrl_c_returns_what_exists_and_the_run_goes_on(whole, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 900)
        with pytest.warns(SamplingWarning, match=r"Interrupted: each chain has \d+ of 2000 draws"):
            run = walk(checkpoint=tmp_path / "run")
    assert 700 <= run.num_draws < 2000
    missing = 2000 - run.num_draws
    assert_equal(run.extend(missing, **QUIET), whole)
    # The checkpoint was written on by the extension: nothing is left to do.
    assert_equal(walk(checkpoint=tmp_path / "run"), whole)


def test_ctrl_c_in_warm_up_has_nothing_to_return_but_the_checkpoint_resumes(
    whole, monkeypatch, tmp_path
):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 100)
        with pytest.raises(KeyboardInterrupt):
            walk(checkpoint=tmp_path / "run")
    assert Checkpoint.open(tmp_path / "run").counts["step"] in range(100, 200)
    assert_equal(walk(checkpoint=tmp_path / "run"), whole)


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_ctrl_c_while_the_checkpoint_is_written_waits_until_it_is(
    whole, monkeypatch, tmp_path, nth
):
    """The signal comes between a chunk and the state that counts it."""
    original, calls = Checkpoint.append, []

    def append(self, leaves, label="draws"):
        original(self, leaves, label)
        calls.append(label)
        if label == "draws" and calls.count("draws") == nth:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "append", append)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SamplingWarning)
            try:
                run = walk(checkpoint=tmp_path / "run")
            except KeyboardInterrupt:  # it would stop pytest itself
                pytest.fail("the interrupt did not wait")
    assert run.num_draws < 2000
    assert_equal(run.extend(2000 - run.num_draws, **QUIET), whole)
    assert_equal(walk(checkpoint=tmp_path / "run"), whole)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_in_a_thread_works_without_signals(whole, tmp_path):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(walk(checkpoint=tmp_path / "run")))
    thread.start()
    thread.join()
    assert_equal(runs[0], whole)


def test_a_finished_checkpoint_returns_and_more_draws_extend_it(whole, monkeypatch, tmp_path):
    path = tmp_path / "run"
    walk(checkpoint=path, num_draws=1200)
    files = sorted(path.iterdir())

    def advance(*args):
        raise AssertionError("a finished run has no step to take")

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_advance", advance)
        again = walk(checkpoint=path, num_draws=1200)
    assert again.num_draws == 1200
    assert sorted(path.iterdir()) == files
    assert_equal(walk(checkpoint=path), whole)
    assert_equal(walk(checkpoint=path), whole)
    fewer = walk(checkpoint=path, num_draws=500)  # what exists is not thrown away
    assert fewer.num_draws == 2000


def test_a_kernel_without_warm_up_is_resumed(tmp_path):
    settings = {"kernel": MetropolisHastings(RandomWalk(1.0)), "num_warmup": 0}
    expected = walk(**settings)
    walk(**settings, num_draws=900, checkpoint=tmp_path)
    assert_equal(walk(**settings, checkpoint=tmp_path), expected)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("target", {"target": make_target(shift=1.0)}),
        ("target", {"target": make_target().with_data(np.array([1.0, 2.5]))}),
        ("kernel", {"kernel": MetropolisHastings(RandomWalk(0.5))}),
        ("kernel", {"kernel": NUTS()}),
        ("key", {"key": jax.random.key(1)}),
        ("num_chains", {"num_chains": 3}),
        ("num_warmup", {"num_warmup": 100}),
        ("init", {"init": {"x": np.ones(2)}}),
    ],
)
def test_a_changed_configuration_is_refused_by_name(started, name, changes):
    with pytest.raises(CheckpointError, match=rf"differs in .*\b{name}\b"):
        walk(checkpoint=started, **changes)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "run"
    walk(checkpoint=path, num_draws=1200)
    return path


def test_a_target_with_another_density_is_refused(started):
    other = bl.Target(
        lambda p, data: -0.5 * jnp.sum((p["x"] + data) ** 2),
        init={"x": np.zeros(2)},
        data=np.array([1.0, 2.0]),
    )
    with pytest.raises(CheckpointError, match="differs in target"):
        walk(checkpoint=started, target=other)


def test_extending_one_run_twice_writes_its_checkpoint_once(whole, tmp_path):
    short = walk(num_draws=1200, checkpoint=tmp_path)
    short.extend(300, **QUIET)
    assert_equal(short.extend(800, **QUIET), whole)
    assert Checkpoint.open(tmp_path).counts["step"] == 200 + 1500
    assert_equal(walk(checkpoint=tmp_path), whole)


PROGRAM = """
import json, os, signal, sys
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
import bayleaf as bl
from bayleaf.run import progress, runner

settings = json.loads(sys.argv[1])

class Killed(progress.Silent):
    def update(self, done, status=None):
        if done >= settings["at"]:
            os.kill(os.getpid(), signal.SIGKILL)

if "at" in settings:
    runner.open_progress = lambda *args, **kwargs: Killed()

def log_density(p):
    return -0.5 * jnp.sum(p["x"] ** 2 / jnp.array([1.0, 4.0])) - p["s"] + jnp.log(p["s"])

target = bl.Target(
    log_density, init={"x": np.zeros(2), "s": 1.0}, constrain={"s": bl.constraints.positive}
)
run = bl.sample(
    target, bl.mcmc.NUTS(max_depth=6), key=jax.random.key(0), num_draws=400, num_warmup=150,
    checkpoint=settings["path"], progress=False,
)
run.save(settings["out"])
"""


def run_program(tmp_path, name, **settings):
    """The program's end and the run that it saved, if it came to that."""
    out = tmp_path / f"{name}.npz"
    settings = json.dumps({"path": None, "out": str(out), **settings})
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROGRAM, settings]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done, bl.Run.load(out) if out.exists() else None


@pytest.mark.slow
def test_kill_9_and_resume_equal_a_run_without(tmp_path):
    """NUTS, killed in warm-up, resumed and killed in sampling, resumed."""
    done, whole = run_program(tmp_path, "whole")
    assert done.returncode == 0, done.stderr
    path = str(tmp_path / "checkpoint")
    for at in (60, 300):
        died, none = run_program(tmp_path, "killed", path=path, at=at)
        assert died.returncode == -signal.SIGKILL
        assert none is None
        step = Checkpoint.open(path).counts["step"]
        assert at <= step < 550
    assert step > 150
    resumed, run = run_program(tmp_path, "resumed", path=path)
    assert resumed.returncode == 0, resumed.stderr
    assert_equal(run, whole)
