"""Imports go only down the list of rooms: a module may use its own room and those before it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "bayleaf"

ROOMS = [
    "types",
    "errors",
    "pages",
    "trees",
    "linalg",
    "gaussian",
    "laplace",
    "constraints",
    "targets",
    "logconcave",
    "partitions",
    "mcmc",
    "run",
    "montecarlo",
    "variational",
    "segmentation",
    "reparam",
    "infinite",
    "gp",
    "dpp",
    "filtering",
    "gan",
    "tour",
    "sklearn",
    "predict",
    "cli",
    "__main__",
]
FACE = "__init__"  # bayleaf/__init__.py names everything and imports nothing before it is used

# What the runner may know of Markov kernels: the protocol, what makes other libraries' algorithms
# fit it, and the one kernel that is the default.
RUNNER_MAY_KNOW = {"bayleaf.mcmc.kernel", "bayleaf.mcmc.foreign", "bayleaf.mcmc.nuts"}

# Extras: only these rooms may import them at import time.
OPTIONAL = {
    "arviz",
    "blackjax",
    "h5netcdf",
    "jinja2",
    "matplotlib",
    "numpyro",
    "sklearn",
    "skimage",
    "xarray",
}
FREE_TO_USE_EXTRAS = {"tour", "sklearn", "predict"}


def imports(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Dotted names that a module imports anywhere in it, relative ones made absolute."""
    home = module.split(".") if is_package else module.split(".")[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            # `from bayleaf import mcmc` names a room, `from bayleaf.errors import warn` does not.
            names.update(f"{stem}.{a.name}" if stem == "bayleaf" else stem for a in node.names)
    return names


def room(module: str) -> str:
    """The room of ``bayleaf.room.anything``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else FACE


def violations(module: str, imported: set[str]) -> list[str]:
    """What ``module`` imports from rooms below its own, or from a kernel if it is the runner."""
    own = room(module)
    found = []
    for name in sorted(n for n in imported if n.split(".")[0] == "bayleaf"):
        other = room(name)
        if other == "__version__":
            continue
        if other == FACE:
            if own not in ("tour", "sklearn", "cli"):
                found.append(f"{module} imports the public face")
        elif ROOMS.index(other) > ROOMS.index(own):
            found.append(f"{module} imports {name}, which is below it")
        elif own == "run" and other == "mcmc" and name not in RUNNER_MAY_KNOW:
            found.append(f"{module} imports {name}; the runner knows kernels by protocol only")
    return found


def modules() -> list[tuple[str, Path]]:
    files = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")
    return [
        (".".join(["bayleaf", *p.relative_to(PACKAGE).with_suffix("").parts]), p) for p in files
    ]


def imports_of_file(module: str, path: Path) -> set[str]:
    is_package = path.name == "__init__.py"
    name = module.removesuffix(".__init__")
    return imports(path.read_text(), name, is_package=is_package)


@pytest.mark.parametrize(("module", "path"), modules(), ids=[m for m, _ in modules()])
def test_a_module_imports_only_rooms_before_its_own(module: str, path: Path) -> None:
    assert room(module) in ROOMS, f"{module} has no place in the list of rooms; give it one"
    assert violations(module, imports_of_file(module, path)) == []


@pytest.mark.parametrize(("module", "path"), modules(), ids=[m for m, _ in modules()])
def test_the_core_imports_no_extra_at_import_time(module: str, path: Path) -> None:
    if room(module) in FREE_TO_USE_EXTRAS:
        return
    assert top_level_imports(path.read_text()) & OPTIONAL == set()


def top_level_imports(source: str) -> set[str]:
    """First names of what is imported outside functions and outside ``if TYPE_CHECKING``."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bayleaf.targets", "from bayleaf.run.runner import sample"),
        ("bayleaf.targets", "def late():\n    import bayleaf.mcmc.nuts"),
        ("bayleaf.mcmc.gibbs", "from ..run import results"),
        ("bayleaf.errors", "from bayleaf import targets"),
        ("bayleaf.mcmc.hmc", "import bayleaf as bl"),
        ("bayleaf.run.runner", "from bayleaf.mcmc.hmc import HMC"),
    ],
)
def test_a_planted_upward_import_is_caught(module: str, source: str) -> None:
    assert len(violations(module, imports(source, module))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bayleaf.mcmc.gibbs", "from bayleaf.mcmc.kernel import Kernel\nfrom . import hmc"),
        ("bayleaf.run.runner", "from bayleaf.mcmc.kernel import Kernel\nimport jax"),
        ("bayleaf.cli", "from bayleaf import mcmc"),
        ("bayleaf.run.archive", "from bayleaf import __version__"),
    ],
)
def test_a_downward_import_is_allowed(module: str, source: str) -> None:
    assert violations(module, imports(source, module)) == []


def test_a_planted_extra_is_caught() -> None:
    assert top_level_imports("import arviz as az") & OPTIONAL == {"arviz"}
    assert top_level_imports("def late():\n    import arviz") & OPTIONAL == set()
