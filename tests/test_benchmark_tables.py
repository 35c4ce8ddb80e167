"""The README's tables come from the results files and from nowhere else."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
TEXT = "before\n<!-- benchmarks:mcmc -->\nold\n<!-- /benchmarks:mcmc -->\nafter\n"
RESULTS = {
    "machine": "2 cores",
    "versions": {"jax": "0.12", "blackjax": "1.7"},
    "tables": [
        {
            "caption": "Speed",
            "columns": ["target", "ESS/s", "ratio"],
            "rows": [["schools", 12345.6, 1.3141], ["gp", None, 0.04]],
        }
    ],
}
FILLED = """before
<!-- benchmarks:mcmc -->

**Speed**

| target | ESS/s | ratio |
| --- | ---: | ---: |
| schools | 12,346 | 1.31 |
| gp | – | 0.0400 |

Measured on: 2 cores; jax 0.12, blackjax 1.7.

<!-- /benchmarks:mcmc -->
after
"""


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_up_to_date(tables: ModuleType) -> None:
    assert tables.main(["--check"]) == 0


def test_a_place_is_filled_and_filling_again_changes_nothing(
    tables: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "mcmc.json").write_text(json.dumps(RESULTS))
    assert tables.fill(TEXT, tmp_path) == FILLED
    assert tables.fill(FILLED, tmp_path) == FILLED


def test_a_place_without_results_says_how_to_measure(tables: ModuleType, tmp_path: Path) -> None:
    filled = tables.fill(TEXT, tmp_path)
    assert "run `python benchmarks/mcmc.py`" in filled
    assert "old" not in filled


def test_results_without_a_place_are_an_error(tables: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "forgotten.json").write_text(json.dumps(RESULTS))
    with pytest.raises(ValueError, match="forgotten"):
        tables.fill(TEXT, tmp_path)


def test_a_ragged_row_is_an_error(tables: ModuleType) -> None:
    with pytest.raises(ValueError, match="1 cells for the 2"):
        tables.table(["a", "b"], [[1]])
