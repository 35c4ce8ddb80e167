"""The command ``bayleaf``: the tour, sampling from a log density in a file, segments of an image.

Nothing here imports JAX before it has work to do, so that ``bayleaf --help`` answers at once and
``--x64`` can still be set. Exit codes: 0 all well; 1 the work was started and failed; 2 the command
line or the file that it names cannot be used, and the message says what to change. What the user's
own code raises is shown with its traceback.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from bayleaf import __version__
from bayleaf.errors import BayleafError, bad_argument

SAMPLE_EXAMPLE = """\
example: model.py holds

    import jax.numpy as jnp

    init = {"mu": 0.0, "log_sigma": 0.0}

    def log_density(p):
        z = (jnp.array([1.2, 0.7, 2.1]) - p["mu"]) / jnp.exp(p["log_sigma"])
        return -0.5 * jnp.sum(z**2) - 3 * p["log_sigma"] - 0.5 * p["log_sigma"] ** 2

and the command is

    bayleaf sample model.py:log_density --chains 4 --draws 1000 --out run.nc

The name may also be that of a bayleaf.Target, which brings its own start and its constraints
(write `import bayleaf as bl` and `target = bl.Target(...)` in the file). For a plain function the
start is the variable `init` of the same file, or the function's attribute `init`.
"""


class UsageError(Exception):
    """The command line, or the file that it names, cannot be used."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; what it returns is the exit code of the process."""
    options = build_parser().parse_args(argv)
    try:
        return options.command(options)
    except UsageError as error:
        return complain(str(error), 2)
    except BayleafError as error:
        return complain(str(error), 1)
    except KeyboardInterrupt:
        return complain("interrupted", 130)


def complain(message: str, code: int) -> int:
    """Say on standard error what went wrong; returns ``code``."""
    print(f"bayleaf: {message}", file=sys.stderr)
    return code


def build_parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    parser = argparse.ArgumentParser(prog="bayleaf", description="Bayesian inference in JAX.")
    parser.add_argument("--version", action="version", version=f"bayleaf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_tour(commands)
    add_sample(commands)
    add_segment(commands)
    add_predict(commands)
    return parser


def add_tour(commands: Any) -> None:
    """The options of ``bayleaf tour``."""
    about = "run every system on real data, check each against an exact answer, write a page"
    tour = commands.add_parser("tour", help=about, description=about[0].upper() + about[1:] + ".")
    tour.add_argument(
        "--only", nargs="+", metavar="ID", help="run these chapters only, such as: nuts gibbs"
    )
    tour.add_argument(
        "--out",
        type=Path,
        default=Path("bayleaf-tour"),
        metavar="DIR",
        help="folder for index.html and results.json (default: %(default)s)",
    )
    tour.add_argument("--quick", action="store_true", help="shorter runs with the same checks")
    tour.set_defaults(command=run_tour)


def add_sample(commands: Any) -> None:
    """The options of ``bayleaf sample``."""
    sample = commands.add_parser(
        "sample",
        help="sample from a log density in a Python file",
        description="Sample from a log density, or a bayleaf.Target, in a Python file.",
        epilog=SAMPLE_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sample.add_argument("source", metavar="FILE.py:NAME", help="the file and the name in it")
    sample.add_argument("--chains", type=count, default=4, metavar="N", help="default: 4")
    sample.add_argument("--draws", type=count, default=1000, metavar="N", help="default: 1000")
    sample.add_argument("--warmup", type=count, metavar="N", help="default: the runner's own")
    sample.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    sample.add_argument(
        "--kernel",
        choices=["nuts", "hmc", "slice"],
        default="nuts",
        help="the sampler; slice needs no gradient (default: nuts)",
    )
    sample.add_argument("--out", type=Path, metavar="RUN.nc", help="write the draws as netCDF")
    sample.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="save here as it runs, and resume from it"
    )
    sample.add_argument("--x64", action="store_true", help="compute in double precision")
    sample.add_argument("--quiet", action="store_true", help="no progress bar")
    sample.set_defaults(command=run_sample)


def add_segment(commands: Any) -> None:
    """The options of ``bayleaf segment``."""
    about = "divide an image into segments, with their uncertainty"
    options = commands.add_parser(
        "segment",
        help=about,
        description=about[0].upper() + about[1:] + ". Writes labels.png (16 bits), overlay.png, "
        "uncertainty.png and index.html.",
    )
    options.add_argument("image", type=Path, metavar="IMAGE", help="a grey, RGB or RGBA file")
    add_folder(options, "bayleaf-segment")
    options.add_argument("--mask", type=Path, metavar="IMAGE", help="leave out what is black here")
    options.add_argument(
        "--superpixels", type=count, metavar="N", help="default: one for 160 pixels, at most 600"
    )
    options.add_argument(
        "--beta", type=strength, default=2.0, metavar="B", help="more: fewer segments (default: 2)"
    )
    options.add_argument("--chains", type=count, default=4, metavar="N", help="default: 4")
    options.add_argument("--draws", type=count, default=250, metavar="N", help="default: 250")
    options.add_argument("--warmup", type=count, default=250, metavar="N", help="default: 250")
    options.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    options.add_argument("--no-texture", action="store_true", help="segments differ by colour only")
    options.add_argument("--quiet", action="store_true", help="no progress bar")
    options.set_defaults(command=run_segment)


def add_predict(commands: Any) -> None:
    """The options of ``bayleaf predict``."""
    about = "predict a column of a table, with calibrated uncertainty"
    options = commands.add_parser(
        "predict",
        help=about,
        description=about[0].upper() + about[1:] + ". Writes predictions.csv and index.html.",
    )
    options.add_argument("train", type=Path, metavar="TRAIN.csv", help="the rows to learn from")
    options.add_argument("--target", required=True, metavar="COLUMN", help="what to predict")
    options.add_argument(
        "--test", type=Path, metavar="TEST.csv", help="rows to predict; default: those held out"
    )
    add_folder(options, "bayleaf-predict")
    options.add_argument(
        "--level", type=float, default=0.9, metavar="P", help="of intervals (default: 0.9)"
    )
    options.add_argument("--task", choices=["auto", "regression", "classification"], default="auto")
    options.add_argument(
        "--max-rows", type=count, default=1500, metavar="N", help="use so many (default: 1500)"
    )
    options.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    options.add_argument("--quiet", action="store_true", help="no progress bar")
    options.set_defaults(command=run_predict)


def add_folder(options: Any, default: str) -> None:
    """Where the files go."""
    options.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path(default),
        metavar="DIR",
        help="folder for the files (default: %(default)s)",
    )


def count(text: str) -> int:
    """A positive whole number; argparse turns the error into exit code 2."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return number


def strength(text: str) -> float:
    """A finite number, at least 0; argparse turns the error into exit code 2."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number, at least 0")
    return number


def run_tour(options: argparse.Namespace) -> int:
    """``bayleaf tour``."""
    try:
        from bayleaf import tour
    except ModuleNotFoundError as error:
        raise needs_extra(error, "tour") from error
    return tour.run_tour(only=options.only, out=options.out, quick=options.quick)


def run_sample(options: argparse.Namespace) -> int:
    """``bayleaf sample``: load, sample, print the summary, write the file."""
    path, name = split_source(options.source)
    if options.out is not None:
        check_out(options.out)

    import jax
    from rich.console import Console

    import bayleaf as bl

    if options.x64:
        jax.config.update("jax_enable_x64", True)
    target = find_target(load(path), name, path)
    kernels = {"nuts": bl.mcmc.NUTS, "hmc": bl.mcmc.HMC, "slice": bl.mcmc.Slice}
    warmup = {} if options.warmup is None else {"num_warmup": options.warmup}
    run = bl.sample(
        target,
        kernels[options.kernel](),
        key=jax.random.key(options.seed),
        num_draws=options.draws,
        num_chains=options.chains,
        progress=not options.quiet,
        checkpoint=options.checkpoint,
        **warmup,
    )
    console = Console()
    console.print(str(run.summary()), markup=False, soft_wrap=True)
    if options.out is not None:
        run.to_arviz().to_netcdf(options.out, engine="h5netcdf")
        console.print(f"draws written to {options.out}")
    return 0


def run_segment(options: argparse.Namespace) -> int:
    """``bayleaf segment``."""
    require(("skimage", "jinja2"), "images")
    from bayleaf.segmentation import command

    settings = command.Settings(
        image=options.image,
        out=options.out,
        mask=options.mask,
        num_superpixels=options.superpixels,
        beta=options.beta,
        num_chains=options.chains,
        num_draws=options.draws,
        num_warmup=options.warmup,
        seed=options.seed,
        texture=not options.no_texture,
        quiet=options.quiet,
    )
    try:
        return command.run(settings)
    except command.UnusableFile as error:
        raise UsageError(str(error)) from error


def run_predict(options: argparse.Namespace) -> int:
    """``bayleaf predict``."""
    require(("pandas", "matplotlib", "jinja2"), "tour")
    from bayleaf.predict import command

    names = ("train", "target", "test", "out", "level", "task", "max_rows", "seed", "quiet")
    return command.run(command.Settings(**{name: getattr(options, name) for name in names}))


def split_source(source: str) -> tuple[Path, str]:
    """``model.py:target`` in its two parts; the name is ``log_density`` when none is given."""
    file, _, name = source.rpartition(":")
    if not (file and name.isidentifier()):  # no colon, or the one in C:\model.py
        file, name = source, "log_density"
    return Path(file), name


def load(path: Path) -> ModuleType:
    """Execute a Python file as a module.

    Its own folder comes first on the import path, as it does when the file is run.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}. Give it as FILE.py:NAME.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file. Its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def find_target(module: ModuleType, name: str, path: Path) -> Any:
    """The target called ``name`` in a loaded file."""
    from bayleaf.targets import Target

    if not hasattr(module, name):
        known = [n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")]
        raise UsageError(f"{path} has no name {name!r}. It has: {', '.join(known) or 'nothing'}.")
    found = getattr(module, name)
    if isinstance(found, Target):
        return found
    if not callable(found):
        raise UsageError(
            f"{name} in {path} is of type {type(found).__name__}; it must be a bayleaf.Target, "
            "or a function from parameters to a log density."
        )
    init = getattr(found, "init", getattr(module, "init", None))
    if init is None:
        raise UsageError(
            f"{path} says nowhere where to start. Add a variable `init` with parameters that "
            f"{name} takes, such as init = {{'mu': 0.0}}."
        )
    return Target(found, init=init)


def check_out(path: Path) -> None:
    """Raise before any work when the draws could not be written at its end."""
    if path.suffix != ".nc":
        raise UsageError(str(bad_argument("--out", str(path), "a name that ends in .nc")))
    require(("arviz", "h5netcdf"), "arviz")
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}.") from error


def require(modules: tuple[str, ...], extra: str) -> None:
    """Raise before any work when an optional package is missing."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise needs_extra(ModuleNotFoundError(f"No module named {module!r}"), extra)


def needs_extra(error: ModuleNotFoundError, extra: str) -> UsageError:
    """What to install when an optional package is missing."""
    return UsageError(f"{error}. Install it with: pip install 'bayleaf[{extra}]'")
