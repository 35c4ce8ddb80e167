"""The public face: every name is there, nothing heavy is imported for it, one version."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bayleaf as bl

ROOT = Path(__file__).parents[1]
PEERS = [
    "arviz",
    "blackjax",
    "h5netcdf",
    "matplotlib",
    "numba",
    "numpyro",
    "skimage",
    "sklearn",
    "torch",
]
PEERS += ["xarray"]


def fresh_python(code: str, **environment: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ROOMS = ["gp", "infinite", "mcmc", "montecarlo", "partitions", "segmentation", "variational"]


@pytest.mark.parametrize("package", ["bayleaf", *(f"bayleaf.{room}" for room in ROOMS)])
def test_every_public_name_resolves(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_the_face_lists_its_names_and_refuses_others() -> None:
    assert dir(bl) == sorted(bl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'sampel'"):
        bl.sampel  # noqa: B018


def test_importing_bayleaf_does_not_import_jax() -> None:
    assert fresh_python("import bayleaf, sys; print('jax' in sys.modules)") == "False"


def test_the_whole_face_costs_little_beyond_jax_and_equinox(tmp_path: Path) -> None:
    """All names together: 0.3 s of processor time beyond JAX and Equinox, and no peer imported.

    With bytecode, as after any installation: compiling the sources is no part of an import.
    """
    code = (
        "import jax, equinox, time, sys\n"
        "start = time.process_time()\n"
        "import bayleaf as bl\n"
        "[getattr(bl, name) for name in bl.__all__]\n"
        "print(time.process_time() - start)\n"
        f"print([p for p in {PEERS} if p in sys.modules])\n"
    )
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    fresh_python(code, **bytecode)
    runs = [fresh_python(code, **bytecode).splitlines() for _ in range(2)]
    assert min(float(seconds) for seconds, _ in runs) < 0.3
    assert runs[0][1] == "[]"


def test_one_version_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {bl.__version__}\n" in citation
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == bl.__version__
