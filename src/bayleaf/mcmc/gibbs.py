r"""Gibbs sampling: one block of the position after another, each by a kernel of its own.

With the position a dictionary of blocks $x = (x_1, \dots, x_B)$, one step updates, in the order
given,

$$x_b \sim K_b\big(\cdot \mid x_b;\; \pi(x_b \mid x_{-b})\big), \qquad b = 1, \dots, B,$$

where $K_b$ is any kernel that leaves the conditional invariant, or an exact draw from it
(`Conditional`). The conditional is never normalised: it is the joint log density as a function of
the block alone. Use it when some blocks have closed-form conditionals, are discrete, or want
another sampler than the rest; strongly dependent blocks are better put into one (a tuple of names).

    Gibbs({"mu": Conditional(draw_mu), ("log_tau", "theta"): NUTS()})

Positions are those that the log density takes: with a `bayleaf.Target` that has constraints, the
unconstrained ones.

Source: Geman & Geman (1984), section XI; Tierney (1994), section 2.4, for kernels within blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from bayleaf.errors import bad_argument
from bayleaf.mcmc.foreign import Foreign
from bayleaf.mcmc.kernel import Kernel, Tuner
from bayleaf.mcmc.proposals import check_same_kind
from bayleaf.trees import Frozen, frozen_function
from bayleaf.types import Key, LogDensity, Position, Scalar

BlockName = str | tuple[str, ...]


class GibbsState(NamedTuple):
    """The joint position and log density, and the state of every block's kernel."""

    position: dict[str, Any]
    log_density: Scalar
    blocks: dict[str, Any]


class Conditional(eqx.Module):
    """A block that is drawn exactly from its conditional.

    Args:
        sample: ``sample(key, position)``: a new value of the block, of the same shapes and dtypes,
            given the whole position (a dictionary of values for a block of several names).
    """

    sample: Frozen

    def __init__(self, sample: Callable[[Key, Any], Any]) -> None:
        self.sample = frozen_function(sample, "sample")


class BlockDensity(eqx.Module):
    """The joint log density as a function of one block, the rest of the position held fixed."""

    log_density: LogDensity
    position: dict[str, Any]
    block: BlockName = eqx.field(static=True)

    def __call__(self, value: Any) -> Any:
        """The log density of the joint position with this value of the block."""
        return self.log_density(put(self.position, self.block, value))

    @property
    def subsample(self) -> Callable[[Key, int], LogDensity]:
        """Mini-batches of the joint log density, where it has them."""
        inner = self.log_density.subsample  # type: ignore[attr-defined]
        return lambda key, size: BlockDensity(inner(key, size), self.position, self.block)


class Gibbs(Kernel):
    """A systematic scan over blocks.

    Args:
        blocks: block -> kernel or `Conditional`, in the order of the scan. A block is the name of
            a top-level entry of the position, or a tuple of names, whose kernel then sees the
            dictionary of just these. Together the blocks cover every entry once.

    The state keeps the state of each block's kernel, so that momenta persist; the info is a
    dictionary with each block's info ("a,b" for the block ("a", "b")).

    Raises:
        BayleafError: no block, overlapping blocks, something that is no kernel; at ``init`` a
            position that is no dictionary, or whose entries are not those of the blocks.
    """

    names: tuple[BlockName, ...] = eqx.field(static=True)
    kernels: tuple[Any, ...]

    def __init__(self, blocks: Mapping[BlockName, Any]) -> None:
        check_blocks(blocks)
        self.names = tuple(blocks)
        self.kernels = tuple(blocks.values())

    def init(self, log_density: LogDensity, position: Position) -> GibbsState:
        """Start every block's kernel."""
        check_position(self.names, position)
        blocks = {
            label(name): ()
            if isinstance(kernel, Conditional)
            else kernel.init(BlockDensity(log_density, position, name), take(position, name))
            for name, kernel in zip(self.names, self.kernels, strict=True)
        }
        return GibbsState(position, jnp.asarray(log_density(position)), blocks)

    def step(
        self, log_density: LogDensity, key: Key, state: GibbsState
    ) -> tuple[GibbsState, dict[str, Any]]:
        """Update every block once."""
        position, blocks, infos = state.position, dict(state.blocks), {}
        keys = jax.random.split(key, len(self.names))
        for name, kernel, block_key in zip(self.names, self.kernels, keys, strict=True):
            at = label(name)
            if isinstance(kernel, Conditional):
                value, infos[at] = kernel.sample(block_key, position), ()
                check_same_kind(f"Conditional of {at!r}", value, take(position, name))
            else:
                density = BlockDensity(log_density, position, name)
                # The other blocks have moved: what the kernel knows of its density is out of date.
                block = kernel.refresh(density, blocks[at])
                blocks[at], infos[at] = kernel.step(density, block_key, block)
                value = blocks[at].position
            position = put(position, name, value)
        # The last block's kernel has just evaluated the joint log density; exact draws have not.
        last = getattr(blocks[label(self.names[-1])], "log_density", None)
        joint = jnp.asarray(log_density(position)) if last is None else last
        return GibbsState(position, joint, blocks), infos

    def refresh(self, log_density: LogDensity, state: GibbsState) -> GibbsState:
        """Blocks are refreshed before each of their steps; only the joint value is renewed."""
        return state._replace(log_density=jnp.asarray(log_density(state.position)))

    def tuner(self) -> Tuner | None:
        """What the blocks' kernels can learn, together."""
        tuners = tuple(
            None if isinstance(kernel, Conditional) else kernel.tuner() for kernel in self.kernels
        )
        return None if all(tuner is None for tuner in tuners) else GibbsTuner(self.names, tuners)


class GibbsTuner(Tuner):
    """The tuners of the blocks, side by side.

    Every chain has a conditional of its own. A block's tuner is given that of the first chain,
    which it may use to find a first step size; all it learns later comes from the states and infos
    of all chains, and each of these was made under its own conditional.
    """

    names: tuple[BlockName, ...] = eqx.field(static=True)
    tuners: tuple[Any, ...]

    def init(
        self, log_density: LogDensity, kernel: Gibbs, states: GibbsState
    ) -> tuple[Gibbs, tuple[Any, ...]]:
        """Fill in the free parameters of every block."""
        first = jax.tree.map(lambda leaf: leaf[0], states.position)
        kernels, tunings = list(kernel.kernels), [()] * len(self.tuners)
        for i, (name, tuner) in enumerate(zip(self.names, self.tuners, strict=True)):
            if tuner is not None:
                density = BlockDensity(log_density, first, name)
                block = states.blocks[label(name)]
                kernels[i], tunings[i] = tuner.init(density, kernels[i], block)
        return self._replace(kernel, kernels), tuple(tunings)

    def resume(
        self, log_density: LogDensity, kernel: Gibbs, tuning: tuple[Any, ...], states: GibbsState
    ) -> tuple[Gibbs, tuple[Any, ...]]:
        """Every block's tuner begins again."""
        first = jax.tree.map(lambda leaf: leaf[0], states.position)
        kernels, tunings = list(kernel.kernels), list(tuning)
        for i, (name, tuner) in enumerate(zip(self.names, self.tuners, strict=True)):
            if tuner is not None:
                density = BlockDensity(log_density, first, name)
                block = states.blocks[label(name)]
                kernels[i], tunings[i] = tuner.resume(density, kernels[i], tunings[i], block)
        return self._replace(kernel, kernels), tuple(tunings)

    def observe(self, tuning: tuple[Any, ...], states: GibbsState, infos: Any, step: Any) -> Any:
        """Let every block's tuner note the step."""
        return tuple(
            noted
            if tuner is None
            else tuner.observe(noted, states.blocks[label(name)], infos[label(name)], step)
            for name, tuner, noted in zip(self.names, self.tuners, tuning, strict=True)
        )

    def update(
        self,
        kernel: Gibbs,
        tuning: tuple[Any, ...],
        states: GibbsState,
        infos: dict[str, Any],
        step: Any,
        num_warmup: Any,
    ) -> tuple[Gibbs, tuple[Any, ...]]:
        """Update every block's tuner."""
        kernels, tunings = list(kernel.kernels), list(tuning)
        for i, (name, tuner) in enumerate(zip(self.names, self.tuners, strict=True)):
            if tuner is not None:
                at = label(name)
                kernels[i], tunings[i] = tuner.update(
                    kernels[i], tunings[i], states.blocks[at], infos[at], step, num_warmup
                )
        return self._replace(kernel, kernels), tuple(tunings)

    def _replace(self, kernel: Gibbs, kernels: list[Any]) -> Gibbs:
        return Gibbs(dict(zip(self.names, kernels, strict=True)))


def label(block: BlockName) -> str:
    """The block's key in ``state.blocks`` and in the info."""
    return block if isinstance(block, str) else ",".join(block)


def members(block: BlockName) -> tuple[str, ...]:
    """The entries of the position that a block holds."""
    return (block,) if isinstance(block, str) else block


def take(position: dict[str, Any], block: BlockName) -> Any:
    """The block's part of the position: one entry, or a dictionary of several."""
    return position[block] if isinstance(block, str) else {name: position[name] for name in block}


def put(position: dict[str, Any], block: BlockName, value: Any) -> dict[str, Any]:
    """The position with another value of the block."""
    return {**position, **({block: value} if isinstance(block, str) else value)}


def check_blocks(blocks: Any) -> None:
    """Refuse what is no partition into kernels."""
    if not isinstance(blocks, Mapping) or not blocks:
        raise bad_argument("blocks", blocks, "a dictionary {name or tuple of names: kernel}")
    seen: set[str] = set()
    for block, kernel in blocks.items():
        if not members(block) or not all(isinstance(name, str) for name in members(block)):
            raise bad_argument("blocks", block, "names, or tuples of names, as keys")
        for name in members(block):
            if name in seen:
                raise bad_argument("blocks", f"{name!r} twice", "blocks that do not overlap")
            seen.add(name)
        if isinstance(kernel, Foreign):
            raise bad_argument(
                f"blocks[{block!r}]",
                "a Foreign algorithm, which carries a log density of its own",
                "a kernel that takes the conditional log density of its block",
            )
        if not isinstance(kernel, Kernel | Conditional):
            raise bad_argument(
                f"blocks[{block!r}]",
                kernel,
                "a kernel, or Conditional(sample)",
                "Wrap a function that draws the block exactly: Conditional(function).",
            )


def check_position(names: tuple[BlockName, ...], position: Any) -> None:
    """Refuse positions whose top-level entries are not exactly those of the blocks."""
    if not isinstance(position, dict):
        raise bad_argument(
            "position",
            "a bare array" if isinstance(position, jax.Array) else type(position).__name__,
            "a dictionary, whose entries the blocks of Gibbs name",
        )
    known = {name for block in names for name in members(block)}
    for name in known - set(position):
        raise bad_argument("blocks", f"unknown name {name!r}", f"one of {sorted(position)}")
    for name in sorted(set(position) - known):
        raise bad_argument(
            "blocks", f"no block for {name!r}", "a block for every entry of the position"
        )
