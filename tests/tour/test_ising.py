"""The exact answers of the chapters on Ising's and Potts's models, against others."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from bayleaf.tour.chapters import ising, potts
from tests.partitions.enumeration import Model, law, states

ORACLES = Path(__file__).parents[1] / "oracles" / "swendsen_wang"


def test_kaufmans_formula_gives_the_published_numbers():
    cases = json.loads((ORACLES / "ising_kaufman.json").read_text(encoding="utf-8"))["finite"]
    for case in cases:
        log_z = ising.log_partition(case["beta"], case["L"])
        np.testing.assert_allclose(log_z, case["logZ"], rtol=1e-12)
        energy = ising.exact_energy(case["beta"], case["L"])
        np.testing.assert_allclose(energy, case["energy_per_site"], atol=1e-8)
    np.testing.assert_allclose(ising.exact_energy(ising.CRITICAL, 64), -1.4239380, atol=1e-6)


def test_the_recursion_along_the_rows_gives_the_marginals_of_the_enumeration():
    rng = np.random.default_rng(0)
    seen, means = rng.random((3, 3)), np.array([0.2, 0.5, 0.9])
    sites = np.arange(9).reshape(3, 3)
    pairs = [*zip(sites[:, 1:].ravel(), sites[:, :-1].ravel(), strict=True)]
    pairs += zip(sites[1:].ravel(), sites[:-1].ravel(), strict=True)
    field = -0.5 * ((seen.reshape(-1, 1) - means) / potts.NOISE) ** 2
    model = Model(9, 3, tuple(pairs), (potts.COUPLING,) * len(pairs), field)
    z, p = states(model), law(model)
    found = potts.exact_marginals(seen, means).reshape(9, 3)
    for site, state in itertools.product(range(9), range(3)):
        np.testing.assert_allclose(found[site, state], p[z[:, site] == state].sum(), rtol=1e-10)
