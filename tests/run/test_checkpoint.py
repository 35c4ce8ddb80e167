from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import CheckpointError
from bayleaf.run import archive
from bayleaf.run.checkpoint import Checkpoint, restore

PRINT = {"log_density": "aaaa", "kernel": "bbbb"}


def _chunk(index: int) -> list[np.ndarray]:
    return [np.full((2, 3), float(index)), np.arange(index, index + 4)]


def _grow(path, num_chunks: int) -> Checkpoint:
    """Go on from what is there until ``num_chunks`` chunks are committed."""
    if Checkpoint.exists(path):
        checkpoint = Checkpoint.open(path, PRINT)
    else:
        checkpoint = Checkpoint.create(path, PRINT)
    for index in range(checkpoint.counts.get("done", 0), num_chunks):
        checkpoint.append(_chunk(index))
        checkpoint.commit([jax.random.key(index), np.float32(index)], {"done": index + 1})
    return checkpoint


def _require_consistent(path) -> int:
    """The number of chunks that count, after checking that state and chunks agree on it."""
    if not Checkpoint.exists(path):
        return 0
    checkpoint = Checkpoint.open(path, PRINT)
    done = checkpoint.counts["done"]
    key, value = checkpoint.state()
    assert value == done - 1
    assert bool(key == jax.random.key(done - 1))
    chunks = list(checkpoint.chunks())
    assert len(chunks) == done
    for index, chunk in enumerate(chunks):
        for got, want in zip(chunk, _chunk(index), strict=True):
            np.testing.assert_array_equal(got, want)
            assert got.dtype == want.dtype
    return done


def test_what_is_written_is_read(tmp_path):
    _grow(tmp_path / "run", 3)
    assert _require_consistent(tmp_path / "run") == 3


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    leaves = [
        jax.random.split(jax.random.key(1), 3),
        jax.random.key(2, impl="rbg"),
        jnp.arange(3, dtype=jnp.bfloat16),
        np.array([np.nan, -0.0, np.inf], np.float32),
        np.array(True),
        np.zeros((0, 2), np.int8),
        7,
    ]
    checkpoint = Checkpoint.create(tmp_path, PRINT)
    checkpoint.commit(leaves, {})
    for got, want in zip(Checkpoint.open(tmp_path).state(), leaves, strict=True):
        assert np.shape(got) == np.shape(want)
        if isinstance(want, jax.Array) and jnp.issubdtype(want.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(got) == jax.random.key_impl(want)
            got, want = jax.random.key_data(got), jax.random.key_data(want)
        assert np.asarray(got).dtype == np.asarray(want).dtype
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_dying_at_any_moment_leaves_a_consistent_checkpoint(tmp_path, monkeypatch, function):
    """The process dies at its 1st, 2nd, ... disk operation; each time the run is taken up again."""
    original = getattr(os, function)
    seen = set()
    for fatal in range(1, 12):
        path, calls = tmp_path / str(fatal), iter(range(1, 10_000))

        def dies(*args, calls=calls, fatal=fatal):
            if next(calls) == fatal:
                raise KeyboardInterrupt
            return original(*args)

        monkeypatch.setattr(os, function, dies)
        with pytest.raises(KeyboardInterrupt):
            _grow(path, 50)
        monkeypatch.setattr(os, function, original)
        done = _require_consistent(path)
        seen.add(done)
        _grow(path, done + 2)
        assert _require_consistent(path) == done + 2
    assert len(seen) > 2  # the deaths struck at different depths


@pytest.mark.slow
def test_kill_9_leaves_a_consistent_checkpoint(tmp_path):
    code = textwrap.dedent(
        """
        import sys
        from tests.run.test_checkpoint import _grow
        _grow(sys.argv[1], int(sys.argv[2]))
        """
    )
    last = 0
    for attempt in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run"), "1000000"])
        limit = time.monotonic() + 60
        while time.monotonic() < limit and not _has_grown(tmp_path / "run", last):
            time.sleep(0.01)
        time.sleep(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = _require_consistent(tmp_path / "run")
        assert done > last
        last = done


def _has_grown(path, last: int) -> bool:
    return (path / f"draws-{last + 3:06d}.npz").exists()


def test_a_finished_chunk_is_never_written_again(tmp_path):
    _grow(tmp_path, 1)
    first = (tmp_path / "draws-000000.npz").stat()
    sizes = []
    for num_chunks in (2, 30):
        _grow(tmp_path, num_chunks)
        sizes.append((tmp_path / "state.npz").stat().st_size)
    again = (tmp_path / "draws-000000.npz").stat()
    assert (again.st_ino, again.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert sizes[1] <= sizes[0] + 16  # the state does not grow with the number of chunks


def test_series_are_kept_apart(tmp_path):
    checkpoint = Checkpoint.create(tmp_path, PRINT)
    checkpoint.append([np.zeros(2)], label="warmup")
    checkpoint.append([np.ones(2)], label="draws")
    checkpoint.append([np.ones(2) * 2], label="draws")
    checkpoint.commit([], {})
    checkpoint = Checkpoint.open(tmp_path)
    assert [chunk[0][0] for chunk in checkpoint.chunks("warmup")] == [0]
    assert [chunk[0][0] for chunk in checkpoint.chunks("draws")] == [1, 2]
    assert list(checkpoint.chunks("nothing")) == []


def test_another_configuration_is_refused_by_name(tmp_path):
    _grow(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"differs in kernel\. Use the same"):
        Checkpoint.open(tmp_path, PRINT | {"kernel": "cccc"})
    with pytest.raises(CheckpointError, match="differs in kernel, mesh"):
        Checkpoint.open(tmp_path, {"log_density": "aaaa", "mesh": "x"})


def test_create_protects_what_is_there(tmp_path):
    _grow(tmp_path / "run", 1)
    with pytest.raises(CheckpointError, match="already holds a run"):
        Checkpoint.create(tmp_path / "run", PRINT)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"other files \(.*thesis\.tex"):
        Checkpoint.create(tmp_path, PRINT)
    with pytest.raises(CheckpointError, match="cannot make the directory"):
        Checkpoint.create(tmp_path / "thesis.tex", PRINT)


def test_leftovers_of_a_run_that_never_committed_are_swept(tmp_path):
    Checkpoint.create(tmp_path, PRINT).append(_chunk(5))
    (tmp_path / ".state.npz.1234.tmp").write_bytes(b"half a file")
    _grow(tmp_path, 2)
    assert _require_consistent(tmp_path) == 2
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("victim", ["state.npz", "draws-000001.npz"])
@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "text", "foreign", "remove"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, victim, harm):
    _grow(tmp_path, 3)
    file = tmp_path / victim
    content = file.read_bytes()
    with zipfile.ZipFile(file) as members:  # harm the bytes of an array, not the zip's padding
        inside = members.getinfo("leaf_00000.npy").header_offset + 150
    flipped = content[:inside] + bytes([content[inside] ^ 255]) + content[inside + 1 :]
    match harm:
        case "truncate":
            file.write_bytes(content[: len(content) // 2])
        case "flip":
            file.write_bytes(flipped)
        case "empty":
            file.write_bytes(b"")
        case "text":
            file.write_text("once upon a time")
        case "foreign":
            np.savez(file, a=np.ones(3))
        case "remove":
            file.unlink()
    with pytest.raises(CheckpointError, match=re.escape(victim)):
        list(Checkpoint.open(tmp_path, PRINT).chunks())


def test_a_chunk_of_another_run_is_refused(tmp_path):
    _grow(tmp_path / "a", 2)
    _grow(tmp_path / "b", 2)
    os.replace(tmp_path / "b" / "draws-000001.npz", tmp_path / "a" / "draws-000001.npz")
    with pytest.raises(CheckpointError, match="belongs to another run"):
        list(Checkpoint.open(tmp_path / "a").chunks())


def test_a_newer_format_and_a_pickle_are_refused(tmp_path):
    file = tmp_path / "state.npz"
    archive.write(file, {"content": "checkpoint", "format_version": 99}, [])
    with pytest.raises(CheckpointError, match="format version 99, expected at most 1"):
        Checkpoint.open(tmp_path)
    np.savez(file, bayleaf_header=np.array([{"format_version": 1}], dtype=object))
    with pytest.raises(CheckpointError, match="not a file that bayleaf wrote"):
        Checkpoint.open(tmp_path)
    with pytest.raises(TypeError, match="not an array"):
        archive.write(file, {}, [object()])


def test_the_header_says_what_wrote_it(tmp_path):
    _grow(tmp_path, 1)
    with np.load(tmp_path / "state.npz", allow_pickle=False) as members:
        header = json.loads(members["bayleaf_header"].tobytes())
    assert header["versions"] == {**archive.versions()}
    assert header["versions"]["jax"] == jax.__version__
    assert header["fingerprint"] == PRINT


def test_state_is_restored_into_an_example_and_misfits_are_named(tmp_path):
    tree = {"position": {"mu": np.zeros(2), "tau": np.float32(1)}, "key": jax.random.key(0)}
    checkpoint = Checkpoint.create(tmp_path, PRINT)
    checkpoint.commit(jax.tree.leaves(tree), {})
    like = {"position": {"mu": jnp.ones(2), "tau": np.float32(3)}, "key": jax.random.key(9)}
    got = Checkpoint.open(tmp_path).state(like)
    assert jax.tree.structure(got) == jax.tree.structure(tree)
    np.testing.assert_array_equal(got["position"]["mu"], np.zeros(2))

    leaves = jax.tree.leaves(tree)
    like["position"]["mu"] = jnp.ones(3)
    with pytest.raises(
        CheckpointError, match=r"position\.mu: got float64\[2\], expected float64\[3"
    ):
        restore(like, leaves, "file")
    with pytest.raises(CheckpointError, match="got 3 saved arrays, expected 1"):
        restore(np.zeros(2), leaves, "file")
