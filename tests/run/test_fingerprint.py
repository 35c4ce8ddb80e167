from __future__ import annotations

import functools
import subprocess
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.run.fingerprint import fingerprint

SCALE = np.array([1.0, 2.0])


def _helper(x):
    return x * 2


def _uses_global(x):
    return jnp.sum(x * SCALE)


def _uses_helper(x):
    return _helper(x)


def _same(a, b) -> bool:
    return fingerprint(part=a) == fingerprint(part=b)


def _closing_over(data):
    return lambda x: x * data


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros(3), np.zeros(4)),
        (np.zeros(4), np.zeros((2, 2))),
        (np.zeros(3), np.zeros(3, np.float32)),
        (np.zeros(3), np.array([0, 0, 1e-300])),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ([1, 2], (1, 2)),
        (1, 1.0),
        (1, True),
        (jax.random.key(0), jax.random.key(1)),
        (jax.random.key(0), jax.random.key(0, impl="rbg")),
        (eqx.nn.Linear(2, 1, key=jax.random.key(0)), eqx.nn.Linear(2, 1, key=jax.random.key(1))),
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x: x + 1, lambda x: x - 1),
        (lambda x, a=1: x + a, lambda x, a=2: x + a),
        (_closing_over(np.ones(2)), _closing_over(np.zeros(2))),
        (functools.partial(_helper, x=1), functools.partial(_helper, x=2)),
        (jax.jit(lambda x: x + 1), jax.jit(lambda x: x + 2)),
        (jnp.sin, jnp.cos),
    ],
)
def test_what_decides_the_draws_changes_the_hash(a, b):
    assert _same(a, a)
    assert not _same(a, b)


def test_equal_configurations_hash_alike():
    assert _same(_closing_over(np.ones(2)), _closing_over(np.ones(2)))
    assert _same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert _same(jnp.ones(3), np.ones(3))
    assert _same(object(), object())


def test_a_changed_global_or_helper_is_seen(monkeypatch):
    before = fingerprint(data=_uses_global, helper=_uses_helper)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", np.array([1.0, 3.0]))
    after = fingerprint(data=_uses_global, helper=_uses_helper)
    assert before["data"] != after["data"]
    assert before["helper"] == after["helper"]

    def _helper(x):
        return x * 3

    _helper.__module__ = __name__
    monkeypatch.setattr(sys.modules[__name__], "_helper", _helper)
    assert fingerprint(helper=_uses_helper)["helper"] != before["helper"]


def test_recursion_ends():
    def factorial(n):
        return 1 if n == 0 else n * factorial(n - 1)

    assert _same(factorial, factorial)


def test_hashes_are_the_same_in_another_process():
    code = textwrap.dedent(
        """
        import types
        import jax, numpy as np
        from bayleaf.run.fingerprint import fingerprint

        class Odd:
            pass

        def model(x, odd=Odd()):
            return x if x in {"a", "b", "c", "d"} else [y for y in (1, 2, x)]

        parts = dict(model=model, jitted=jax.jit(model), words={"p", "q", "r"})
        print(sorted(fingerprint(key=jax.random.key(3), **parts).items()))
        """
    )
    run = functools.partial(subprocess.run, check=True, capture_output=True, text=True)
    seen = {run([sys.executable, "-c", code], env=_environment(seed)).stdout for seed in "12"}
    assert len(seen) == 1


def _environment(hash_seed: str) -> dict[str, str]:
    import os

    return os.environ | {"PYTHONHASHSEED": hash_seed, "JAX_PLATFORMS": "cpu"}
