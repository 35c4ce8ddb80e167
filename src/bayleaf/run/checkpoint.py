"""A checkpoint of a run on disk: a directory that is consistent whenever the process is killed.

    state.npz             header, counts, and the leaves of everything needed to go on
    draws-000000.npz ...  one file for each chunk of draws, written once and never touched again

A chunk counts only when the state file that is written after it says so. A process killed in
between leaves a chunk that nobody counts; the resumed run makes the same chunk again and replaces
it. Each commit writes one chunk and one state, so the work is linear in the length of the run.

The header carries a *fingerprint*: a name and a hash for each thing that decides the draws (log
density, kernel, key, ...). Resuming with another configuration is refused, and the error names
what differs.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bayleaf.errors import CheckpointError
from bayleaf.run import archive
from bayleaf.trees import leaf_names

_STATE = "state.npz"


class Checkpoint:
    """A checkpoint directory, open for appending and reading.

    Write: ``append`` any number of chunks, then ``commit`` the state that follows them.
    Read: ``open``, then ``state``, ``counts`` and ``chunks``.
    """

    def __init__(self, path: Path, fingerprint: dict[str, str], run_id: str):
        self.path = path
        self.counts: dict[str, int] = {}
        self._fingerprint = fingerprint
        self._run_id = run_id
        self._num_files: dict[str, int] = {}
        self._state: list[Any] = []

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether ``path`` holds a checkpoint that `open` can resume."""
        return (Path(path) / _STATE).is_file()

    @classmethod
    def create(cls, path: str | Path, fingerprint: Mapping[str, str]) -> Checkpoint:
        """Start an empty checkpoint in the directory ``path``, which is made if missing.

        Raises:
            CheckpointError: the directory holds a checkpoint already, or other files.
        """
        path = Path(path)
        if cls.exists(path):
            raise CheckpointError(
                f"checkpoint: {path} already holds a run. Resume it, or delete the directory."
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise CheckpointError(
                f"checkpoint: cannot make the directory {path} ({e}). Choose another path."
            ) from e
        strangers = [f.name for f in path.iterdir() if not _is_leftover(f.name)]
        if strangers:
            raise CheckpointError(
                f"checkpoint: {path} holds other files ({', '.join(sorted(strangers)[:3])}). "
                "Give an empty or a new directory."
            )
        for leftover in path.iterdir():  # a run killed before its first commit
            leftover.unlink()
        return cls(path, dict(fingerprint), uuid.uuid4().hex)

    @classmethod
    def open(cls, path: str | Path, fingerprint: Mapping[str, str] | None = None) -> Checkpoint:
        """Open a checkpoint to go on with it, as of its last `commit`.

        Args:
            path: the directory.
            fingerprint: of the run that wants to resume; None reads without comparing.

        Raises:
            CheckpointError: it is missing, damaged, or of a run with another fingerprint.
        """
        path = Path(path)
        header, leaves = archive.read(path / _STATE)
        if header.get("content") != "checkpoint":
            raise CheckpointError(
                f"checkpoint: {path / _STATE} holds a {header.get('content', 'thing')} and not a "
                "checkpoint. Give the directory that a run was checkpointed to."
            )
        if fingerprint is not None:
            _require_same(path, header["fingerprint"], dict(fingerprint))
        self = cls(path, header["fingerprint"], header["run_id"])
        self.counts = header["counts"]
        self._num_files = header["num_files"]
        self._state = leaves
        return self

    def append(self, chunk_leaves: Sequence[Any], label: str = "draws") -> None:
        """Write one chunk to its own file; it counts from the next `commit` on.

        Args:
            chunk_leaves: the arrays of the chunk.
            label: which series the chunk continues (``draws``, ``warmup``).
        """
        index = self._num_files.get(label, 0)
        header = {"content": "chunk", "run_id": self._run_id}
        archive.write(self._chunk_path(label, index), header, chunk_leaves)
        self._num_files[label] = index + 1

    def commit(self, state_leaves: Sequence[Any], counts: Mapping[str, int]) -> None:
        """Replace the state; from here on all chunks appended so far count.

        Args:
            state_leaves: everything the run needs to go on, as flat leaves (keys allowed).
            counts: named numbers, such as steps done.
        """
        header = {
            "content": "checkpoint",
            "run_id": self._run_id,
            "versions": archive.versions(),
            "fingerprint": self._fingerprint,
            "counts": {name: int(count) for name, count in counts.items()},
            "num_files": self._num_files,
        }
        archive.write(self.path / _STATE, header, state_leaves)
        self.counts, self._state = header["counts"], list(state_leaves)

    def state(self, like: Any = None) -> Any:
        """The last committed state: flat leaves, or a tree shaped ``like`` the example."""
        return list(self._state) if like is None else restore(like, self._state, str(self.path))

    @property
    def labels(self) -> list[str]:
        """The series that have chunks."""
        return list(self._num_files)

    def chunks(self, label: str = "draws") -> Iterator[list[Any]]:
        """The chunks of one series that count, in order, each as flat leaves."""
        for index in range(self._num_files.get(label, 0)):
            file = self._chunk_path(label, index)
            header, leaves = archive.read(file)
            if header.get("run_id") != self._run_id:
                raise CheckpointError(
                    f"{file}: this chunk belongs to another run. Restore the directory from a "
                    "copy, or delete it and start again."
                )
            yield leaves

    def _chunk_path(self, label: str, index: int) -> Path:
        return self.path / f"{label}-{index:06d}.npz"


def restore(like: Any, leaves: Sequence[Any], source: str) -> Any:
    """The tree of ``like`` with saved ``leaves`` in place of its own.

    Raises:
        CheckpointError: the leaves do not fit; names the first that does not.
    """
    expected, structure = jax.tree.flatten(like)
    if len(leaves) != len(expected):
        raise CheckpointError(
            f"{source}: got {len(leaves)} saved arrays, expected {len(expected)}. "
            "It was written by another target or kernel; use the same ones."
        )
    for name, want, got in zip(leaf_names(like), expected, leaves, strict=True):
        want_is, got_is = _described(want), _described(got)
        if want_is != got_is:
            raise CheckpointError(
                f"{source}: {name}: got {got_is}, expected {want_is}. "
                "It was written by another target or kernel; use the same ones."
            )
    return jax.tree.unflatten(structure, leaves)


def _described(leaf: Any) -> str:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return f"{dtype}{list(np.shape(leaf))}"


def _require_same(path: Path, saved: dict[str, str], asked: dict[str, str]) -> None:
    differing = sorted(k for k in saved | asked if saved.get(k) != asked.get(k))
    if differing:
        raise CheckpointError(
            f"checkpoint: {path} was written by a run that differs in {', '.join(differing)}. "
            "Use the same configuration to resume it, or another directory for a new run."
        )


def _is_leftover(name: str) -> bool:
    stem, _, index = name.removesuffix(".npz").rpartition("-")
    is_chunk = name.endswith(".npz") and bool(stem) and index.isdigit()
    return is_chunk or (name.startswith(".") and name.endswith(".tmp"))
