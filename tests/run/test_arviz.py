"""The same checks in both ArviZ worlds: whichever is installed is tested."""

from __future__ import annotations

import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import BayleafError
from bayleaf.run.arviz_adapter import save_netcdf
from bayleaf.run.results import Run

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def run() -> Run:
    rng = np.random.default_rng(0)
    shape = (2, 50)
    return Run(
        {"mu": rng.normal(size=shape), "net": [{"w": rng.normal(size=(*shape, 3, 2))}]},
        stats={
            "is_divergent": rng.random(shape) < 0.1,
            "acceptance_rate": rng.random(shape),
            "num_gradients": rng.integers(1, 8, shape),
            "tree_depth": rng.integers(1, 4, shape),
            "log_density": rng.normal(size=shape),
            "energy": rng.normal(size=shape),
            "step_size": np.full(shape, 0.2),
        },
        warmup_stats={"step_size": np.full((2, 20), 0.1)},
        seconds=2.5,
    )


def _group(data, name):
    """A group as a Dataset, from a DataTree or an InferenceData."""
    group = data[name]
    return group.to_dataset() if hasattr(group, "to_dataset") else group


def test_groups_and_names_follow_the_schema(run):
    data = run.to_arviz(
        log_likelihood={"y": np.zeros((2, 50, 7))}, observed_data={"y": np.arange(7.0)}
    )
    posterior, stats = _group(data, "posterior"), _group(data, "sample_stats")
    assert set(posterior.data_vars) == {"mu", "net[0].w"}
    assert posterior["net[0].w"].dims[:2] == ("chain", "draw")
    np.testing.assert_array_equal(posterior["net[0].w"], run.draws["net"][0]["w"])
    assert set(stats.data_vars) == {
        *("diverging", "acceptance_rate", "n_steps", "tree_depth", "lp", "energy", "step_size")
    }
    assert stats["diverging"].dtype == bool
    np.testing.assert_array_equal(stats["diverging"], run.stats["is_divergent"])
    assert _group(data, "warmup_sample_stats")["step_size"].shape == (2, 20)
    assert _group(data, "log_likelihood")["y"].shape == (2, 50, 7)
    assert _group(data, "observed_data")["y"].shape == (7,)


def test_the_container_is_what_this_arviz_uses(run):
    import arviz

    expected = "DataTree" if int(arviz.__version__.split(".")[0]) >= 1 else "InferenceData"
    data = run.to_arviz()
    assert type(data).__name__ == expected
    assert data.attrs["inference_library"] == "bayleaf"
    assert data.attrs["sampling_time"] == 2.5


def test_arviz_computes_on_it(run):
    import arviz

    table = arviz.summary(run.to_arviz(), round_to="none")
    assert table.loc["mu", "mean"] == pytest.approx(run.summary()["mu"].mean)
    assert table.loc["mu", "ess_bulk"] == pytest.approx(run.summary()["mu"].ess_bulk, rel=1e-6)


def test_netcdf_round_trip(run, tmp_path):
    path = save_netcdf(run, tmp_path / "run.nc")
    import arviz

    read = arviz.from_netcdf(str(path), engine="h5netcdf")
    np.testing.assert_array_equal(_group(read, "posterior")["mu"], run.draws["mu"])
    np.testing.assert_array_equal(
        _group(read, "sample_stats")["diverging"], run.stats["is_divergent"]
    )


def test_a_run_without_stats_and_odd_leaves_converts(tmp_path):
    draws = {
        "encoder/dense": np.zeros((2, 3)),
        "half": np.asarray(jnp.ones((2, 3), jnp.bfloat16)),
        "flag": np.zeros((2, 3), bool),
    }
    data = Run(draws).to_arviz()
    posterior = _group(data, "posterior")
    assert set(posterior.data_vars) == {"encoder.dense", "half", "flag"}
    assert posterior["half"].dtype == np.float32
    save_netcdf(Run(draws), tmp_path / "odd.nc")


def test_without_arviz_the_error_names_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(BayleafError, match=r"pip install 'bayleaf\[arviz\]'"):
        run.to_arviz()


def test_nothing_heavy_is_imported_with_the_results():
    import subprocess

    code = (
        "import sys, bayleaf.run.results; "
        "print([m for m in ('arviz', 'arviz_stats', 'xarray', 'matplotlib', 'rich', 'pandas') "
        "if m in sys.modules])"
    )
    with warnings.catch_warnings():
        made = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    assert made.stdout.strip() == "[]"
