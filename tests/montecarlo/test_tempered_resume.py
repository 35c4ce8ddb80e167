"""Tempered runs that are killed, interrupted or changed: the same particles, bit for bit."""

import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import bayleaf as bl
from bayleaf.errors import CheckpointError
from bayleaf.montecarlo import tempered
from bayleaf.run import progress
from bayleaf.run.checkpoint import Checkpoint

# The package has a function of that name, so the module is found in another way.
module = sys.modules["bayleaf.montecarlo.tempered"]


def log_likelihood(x, y):
    return norm.logpdf(y, x[None], 0.05).sum(-1)


def make_target(shift=0.0):
    prior = bl.Gaussian.from_scale(jnp.zeros(2), 1.0)
    data = jnp.array([[0.5, -0.5], [0.4, -0.3]]) + shift
    return bl.Target.from_gaussian_prior(prior, log_likelihood, data=data)


def run(**changes):
    settings = {"key": jax.random.key(1), "num_particles": 256, "progress": False}
    return tempered(changes.pop("target", make_target()), **(settings | changes))


def assert_equal(got, expected):
    np.testing.assert_array_equal(got.draws, expected.draws)
    np.testing.assert_array_equal(got.temperatures, expected.temperatures)
    jax.tree.map(np.testing.assert_array_equal, dict(got.stages), dict(expected.stages))
    assert got.log_evidence == expected.log_evidence
    assert got.log_evidence_error == expected.log_evidence_error


@pytest.fixture(scope="module")
def whole():
    return run()


class InterruptedAt(progress.Silent):
    """Presses Ctrl-C once a stage is done."""

    def __init__(self, stage):
        self.stage = stage

    def update(self, done, status=None):
        if status["stage"] >= self.stage:
            raise KeyboardInterrupt


def test_ctrl_c_raises_and_the_same_call_goes_on(whole, monkeypatch, tmp_path):
    assert len(whole.temperatures) >= 4
    with monkeypatch.context() as patch:
        patch.setattr(module, "open_progress", lambda *args, **kwargs: InterruptedAt(2))
        with pytest.raises(KeyboardInterrupt, match=r"after 2 stages.*The same call goes on"):
            run(checkpoint=tmp_path / "run")
        with pytest.raises(KeyboardInterrupt, match="Nothing is kept without checkpoint="):
            run()
    assert Checkpoint.open(tmp_path / "run").counts == {"step": 2}
    assert_equal(run(checkpoint=tmp_path / "run"), whole)
    assert_equal(run(checkpoint=tmp_path / "run"), whole)  # nothing is left to do


def test_another_configuration_is_refused_by_name(tmp_path):
    path = tmp_path / "run"
    run(checkpoint=path)
    changes = {
        "key": {"key": jax.random.key(2)},
        "settings": {"ess_share": 0.6},
        "kernel": {"kernel": bl.mcmc.MetropolisHastings(bl.mcmc.RandomWalk(scale=1.0))},
        "target": {"target": make_target(0.1)},
    }
    for name, change in changes.items():
        with pytest.raises(CheckpointError, match=f"differs in {name}"):
            run(checkpoint=path, **change)


def test_progress_shows_temperature_and_acceptance(monkeypatch):
    seen = []

    class Recorder(progress.Silent):
        def update(self, done, status=None):
            seen.append((done, dict(status)))

    monkeypatch.setattr(module, "open_progress", lambda *args, **kwargs: Recorder())
    result = run()
    assert [status["stage"] for _, status in seen] == list(range(1, len(result.temperatures) + 1))
    assert seen[-1][0] == 100
    percents = [done for done, _ in seen]
    assert percents == sorted(percents)
    np.testing.assert_allclose([s["temperature"] for _, s in seen], result.temperatures)
    assert all(0 < status["acceptance"] <= 1 for _, status in seen)


SCRIPT = """
import sys
import jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", {cache!r})  # one process compiles for all
import bayleaf as bl
sys.path.insert(0, {root!r})
from tests.montecarlo.test_tempered_resume import run
import time
from bayleaf.run.loop import Loop
advance = Loop._advance
def slowly(self, *args):
    kept = advance(self, *args)
    print("stage", flush=True)
    time.sleep(0.5 if len(sys.argv) > 2 else 0)
    return kept
Loop._advance = slowly
result = run(checkpoint=sys.argv[1])
print("evidence", repr(result.log_evidence), repr(result.log_evidence_error), result.draws.sum())
"""


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    """kill -9 after the second stage; the same call in a new process ends as one without."""
    from pathlib import Path

    root = str(Path(__file__).parents[2])
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format(root=root, cache=str(tmp_path / "cache"))))

    def started(*arguments):
        command = [sys.executable, str(script), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)

    killed = started(str(tmp_path / "run"), "slowly")
    for _ in range(2):
        assert killed.stdout.readline() == "stage\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert 2 <= Checkpoint.open(tmp_path / "run").counts["step"] < 5
    ends = [started(str(tmp_path / name)).communicate()[0] for name in ("run", "fresh")]
    lines = [[line for line in end.splitlines() if "evidence" in line] for end in ends]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 1
    assert ends[0].count("stage") < ends[1].count("stage")
