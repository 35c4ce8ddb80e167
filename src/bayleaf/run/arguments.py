"""What the arguments of `bayleaf.sample` may be, and the error for each that cannot be used."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bayleaf.errors import bad_argument
from bayleaf.mcmc.foreign import Foreign
from bayleaf.mcmc.kernel import Kernel
from bayleaf.mcmc.nuts import NUTS
from bayleaf.targets import Target


def as_target(target: Any, init: Any) -> Target:
    """The target, that of a model which offers one, or that of a function and ``init``."""
    if isinstance(target, Target):
        return target
    if callable(getattr(target, "target", None)):
        return target.target()
    if not callable(target):
        raise bad_argument(
            "target", repr(target), "a bl.Target, or a function that returns a log density"
        )
    if init is None:
        raise bad_argument(
            "init",
            None,
            "a starting point, for the target is a bare function",
            "Pass init=, or make a bl.Target.",
        )
    return Target(target, init=init)


def as_kernel(kernel: Any) -> Kernel:
    """The kernel; NUTS when there is none; a bound algorithm as a kernel."""
    if kernel is None:
        return NUTS()
    if isinstance(kernel, Kernel):
        return kernel
    if isinstance(kernel, type):
        raise bad_argument(
            "kernel", f"the class {kernel.__name__}", "an object", f"Write {kernel.__name__}(...)."
        )
    if hasattr(kernel, "init") and hasattr(kernel, "step"):
        return Foreign(kernel)
    raise bad_argument(
        "kernel", repr(kernel), "a kernel of bl.mcmc, or an object with init and step"
    )


def check_settings(
    num_draws: Any, num_warmup: Any, num_chains: Any, key: Any, checkpoint: Any, mesh: Any
) -> None:
    """Refuse counts that are no counts, keys that are no typed key, meshes that do not divide."""
    lowest = {"num_draws": (num_draws, 1), "num_warmup": (num_warmup, 0)}
    lowest |= {"num_chains": (num_chains, 1)}
    for name, (value, least) in lowest.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise bad_argument(name, repr(value), f"a whole number, at least {least}")
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key) or key.shape != ():
        got = repr(key) if dtype is None else f"an array of shape {key.shape} and type {dtype}"
        raise bad_argument("key", got, "one typed key", "Use jax.random.key(seed).")
    if not isinstance(checkpoint, str | os.PathLike | None):
        raise bad_argument("checkpoint", repr(checkpoint), "the path of a directory")
    if not isinstance(mesh, Mesh | None):
        raise bad_argument(
            "mesh", repr(mesh), "a jax.sharding.Mesh", 'Try jax.make_mesh((2,), ("chain",)).'
        )
    if mesh is not None and num_chains % mesh.size:
        raise bad_argument(
            "num_chains",
            num_chains,
            f"a multiple of the {mesh.size} devices of the mesh",
            f"Try num_chains={-(-num_chains // mesh.size) * mesh.size}.",
        )
