"""A `Run` in the two worlds of ArviZ: DataTree (1.x, Python >= 3.12) and InferenceData (0.23).

Groups and names follow ArviZ's schema, so that its plots find divergences, energies and tree
depths: https://python.arviz.org/en/stable/schema/schema.html
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from bayleaf import __version__
from bayleaf.errors import BayleafError
from bayleaf.trees import leaf_names

if TYPE_CHECKING:
    from bayleaf.run.results import Run

_SCHEMA_NAMES = {
    "is_divergent": "diverging",
    "log_density": "lp",
    "num_gradients": "n_steps",
}


def to_arviz(
    run: Run,
    *,
    log_likelihood: Mapping[str, Any] | None = None,
    observed_data: Mapping[str, Any] | None = None,
) -> Any:
    """The run as a DataTree or an InferenceData, whichever the installed ArviZ uses.

    Args:
        run: the run.
        log_likelihood: pointwise log likelihoods by name, [chain, draw, observation...].
        observed_data: the data by name.
    """
    try:
        with warnings.catch_warnings():  # 0.23 announces 1.0 whenever it is imported
            warnings.simplefilter("ignore", FutureWarning)
            import arviz
    except ImportError as e:
        raise BayleafError(
            "to_arviz: ArviZ is not installed. Install the extra: pip install 'bayleaf[arviz]'."
        ) from e
    leaves = zip(leaf_names(run.draws), jax.tree.leaves(run.draws), strict=True)
    groups = {
        "posterior": {_allowed(name): _plain(leaf) for name, leaf in leaves},
        "sample_stats": _schema(run.stats),
        "warmup_sample_stats": _schema(run.warmup_stats),
        "log_likelihood": dict(log_likelihood or {}),
        "observed_data": dict(observed_data or {}),
    }
    groups = {name: group for name, group in groups.items() if group}
    attrs: dict[str, Any] = {
        "inference_library": "bayleaf",
        "inference_library_version": __version__,
    }
    if run.seconds:
        attrs["sampling_time"] = run.seconds
    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.from_dict(groups, save_warmup=True, attrs={"/": attrs})
    return arviz.from_dict(**groups, save_warmup=True, attrs=attrs)


def save_netcdf(run: Run, path: str | Path) -> Path:
    """Write the run as a netCDF file that any ArviZ reads."""
    path = Path(path)
    to_arviz(run).to_netcdf(str(path), engine="h5netcdf")
    return path


def _schema(stats: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {_allowed(_SCHEMA_NAMES.get(n, n)): _plain(value) for n, value in stats.items()}


def _allowed(name: str) -> str:
    return name.replace("/", ".")  # netCDF and DataTree read a slash as a group


def _plain(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype.kind == "V" else array  # bfloat16, float8
