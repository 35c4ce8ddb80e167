"""The command line: help without JAX, sampling from a file, a named error for each bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bayleaf import __version__
from bayleaf.cli import main, split_source

MODEL = """
import jax.numpy as jnp
import bayleaf as bl

init = {"mu": jnp.zeros(2)}

def log_density(p):
    return -0.5 * jnp.sum((p["mu"] - 3.0) ** 2)

target = bl.Target(log_density, init=init)
number = 7

def broken(p):
    raise ZeroDivisionError("on purpose")

def nowhere(p):
    return jnp.nan * jnp.sum(p["mu"])
"""

SHORT = ["--chains", "2", "--draws", "200", "--warmup", "200", "--quiet", "--x64"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def test_help_answers_without_jax() -> None:
    code = (
        "import sys\n"
        "from bayleaf.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit as stop:\n"
        "    print(stop.code, 'jax' in sys.modules, 'numpy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False False"
    assert "tour" in done.stdout
    assert "sample" in done.stdout


def test_python_dash_m_is_the_same_command() -> None:
    command = [sys.executable, "-m", "bayleaf", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"bayleaf {__version__}"


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("model.py:target", ("model.py", "target")),
        ("model.py", ("model.py", "log_density")),
        ("folder/model.py:f", ("folder/model.py", "f")),
        (r"C:\model.py", (r"C:\model.py", "log_density")),
        (r"C:\model.py:f", (r"C:\model.py", "f")),
    ],
)
def test_the_source_is_split_at_its_last_colon(source: str, parts: tuple[str, str]) -> None:
    path, name = split_source(source)
    assert (str(path), name) == parts


def test_sampling_a_function_writes_a_file_that_arviz_reads(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import arviz

    out = tmp_path / "run.nc"
    assert main(["sample", f"{model}:log_density", "--out", str(out), *SHORT]) == 0
    printed = capsys.readouterr().out
    assert "mu" in printed
    assert str(out) in printed.replace("\n", "")
    mu = np.asarray(arviz.from_netcdf(str(out))["posterior"]["mu"])
    assert mu.shape == (2, 200, 2)
    # Standard error about 1 / sqrt(200): ten of them.
    np.testing.assert_allclose(mu.mean(axis=(0, 1)), 3.0, atol=0.7)


@pytest.mark.slow
def test_sampling_a_target_gives_the_draws_of_its_function(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", f"{model}:target", *SHORT]) == 0
    of_target = capsys.readouterr().out
    assert main(["sample", str(model), *SHORT]) == 0
    assert capsys.readouterr().out == of_target


@pytest.mark.parametrize(
    ("name", "extra", "message"),
    [
        ("missing.py:log_density", [], "there is no file"),
        ("model.py:densty", [], "has no name 'densty'. It has: log_density"),
        ("model.py:number", [], "it must be a bayleaf.Target"),
        ("startless.py:log_density", [], "Add a variable `init`"),
        ("model.txt:log_density", [], "must end in .py"),
        ("model.py:log_density", ["--out", "missing-folder/run.nc"], "cannot write"),
        ("model.py:log_density", ["--out", "folder.nc"], "it is a folder"),
        ("model.py:log_density", ["--out", "run.csv"], "ends in .nc"),
    ],
)
def test_what_cannot_be_used_is_named(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    extra: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(model.parent)
    Path("startless.py").write_text("def log_density(p):\n    return -(p**2)\n")
    Path("model.txt").write_text(MODEL)
    Path("folder.nc").mkdir()
    assert main(["sample", name, *extra, *SHORT]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_counts_must_be_positive(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["sample", "model.py", "--draws", number])
    assert stop.value.code == 2
    assert "--draws" in capsys.readouterr().err


def test_sampling_that_fails_exits_with_one(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", f"{model}:nowhere", *SHORT]) == 1
    message = capsys.readouterr().err
    assert message.startswith("bayleaf: ")
    assert "mu" in message


def test_what_the_users_code_raises_is_not_hidden(model: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        main(["sample", f"{model}:broken", *SHORT])


def test_the_tour_gets_its_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bayleaf import tour

    seen = {}

    def record(only: list[str] | None, out: Path, quick: bool) -> int:
        seen.update(only=only, out=out, quick=quick)
        return 3

    monkeypatch.setattr(tour, "run_tour", record)
    assert main(["tour", "--only", "nuts", "gibbs", "--out", str(tmp_path), "--quick"]) == 3
    assert seen == {"only": ["nuts", "gibbs"], "out": tmp_path, "quick": True}
