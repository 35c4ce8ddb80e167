r"""Parallel tempering of partitions: replicas under weaker data lead from one valley to another.

Each of the replicas $\Pi_1, \dots, \Pi_R$ has its power $1 = \lambda_1 > \dots > \lambda_R > 0$ and
the law $p_{\lambda_r}$ of `bayleaf.partitions.tempering`. A step sweeps all of them and then
proposes to neighbouring pairs, every other one by turns that chance decides, to change places:

$$a = \min\big\{1, \exp\big((\lambda_r - \lambda_{r+1})\,(E_{r+1} - E_r)\big)\big\}, \qquad
  E = \sum_j \log p(y_{A_j}) + \sum_e \beta_e 1[z_i = z_j].$$

That leaves the product of the $p_{\lambda_r}$ invariant, and the draws are those of the first
replica, the posterior's. Use it where chains of `GeneralisedSwendsenWang` disagree, for bonds do
not cure that; a step takes R sweeps. Neighbours should change places in 20 to 60 percent of the
steps (``acceptance_rate``): for n sites the differences of the powers must fall about as the root
of n.

Source: Geyer (1991), Computing Science and Statistics 23; Swendsen & Wang (1986), Physical Review
Letters 57.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayleaf.errors import bad_argument
from bayleaf.mcmc.generalised_swendsen_wang import (
    GeneralisedSwendsenWang,
    PartitionInfo,
    PartitionState,
)
from bayleaf.mcmc.kernel import Kernel
from bayleaf.partitions.arguments import is_known
from bayleaf.partitions.model import PartitionModel, as_partition_model
from bayleaf.partitions.tempering import tempered_model
from bayleaf.types import Count, Flag, Key, LogDensity, Position, Scalar

POWERS = (1.0, 0.8, 0.64, 0.5, 0.4, 0.32)


class TemperedState(NamedTuple):
    """The labels, their log density, and the labels of all replicas, these among them."""

    position: Int[Array, "site"]
    log_density: Scalar
    replicas: Int[Array, "replica site"]


class TemperedInfo(NamedTuple):
    """Of the first replica, but for the rate, the share of proposed changes that were made."""

    num_clusters: Count
    num_like: Count
    size_entropy: Scalar
    log_density: Scalar
    acceptance_rate: Scalar
    is_nan: Flag


class TemperedSwendsenWang(Kernel):
    """Parallel tempering of a `bayleaf.partitions.PartitionModel`.

    Args:
        sweeps: the kernel of all replicas, whose bonds are for each power those of the model at
            that power; they must not need warm-up. None is `GeneralisedSwendsenWang()`.
        powers: lambda, falling from 1 to a positive number.

    Raises:
        BayleafError: powers that do not fall from 1 or are not positive; a kernel that would have
            to learn.
    """

    sweeps: GeneralisedSwendsenWang
    powers: Float[Array, "replica"]

    def __init__(
        self, sweeps: GeneralisedSwendsenWang | None = None, *, powers: Any = POWERS
    ) -> None:
        self.sweeps = GeneralisedSwendsenWang() if sweeps is None else sweeps
        if not isinstance(self.sweeps, GeneralisedSwendsenWang) or self.sweeps.tuner() is not None:
            raise bad_argument(
                "sweeps",
                f"{type(sweeps).__name__} that learns or is of another kind",
                "a GeneralisedSwendsenWang with bonds that need no warm-up",
                'Find bonds with "auto" in a run of its own, and give those.',
            )
        array = jnp.asarray(powers, float)
        if array.ndim != 1 or array.size < 2 or (is_known(array) and not is_ladder(array)):
            raise bad_argument("powers", str(powers), "numbers that fall from 1 and are positive")
        self.powers = array

    def init(self, log_density: LogDensity, position: Position) -> TemperedState:
        """All replicas at these labels."""
        first = self.sweeps.init(log_density, position)
        replicas = jnp.broadcast_to(first.position, (self.powers.size, *first.position.shape))
        return TemperedState(first.position, first.log_density, replicas)

    def step(
        self, log_density: LogDensity, key: Key, state: TemperedState
    ) -> tuple[TemperedState, TemperedInfo]:
        """A sweep of each replica, and the changes."""
        model = as_partition_model(log_density)
        key_sweep, key_swap = jax.random.split(key)
        keys = jax.random.split(key_sweep, self.powers.size)
        powers = self.powers.astype(model.coupling.dtype)

        def one(key: Key, power: Scalar, labels: Any) -> tuple[Any, PartitionInfo, Scalar]:
            tempered = tempered_model(model, power)
            # The log density of labels as they were is not looked at: the sweep works out its own.
            start = PartitionState(labels, jnp.zeros_like(power))
            swept, info = self.sweeps.step(tempered, key, start)
            return swept.position, info, log_prior(model, swept.position)

        labels, infos, priors = jax.vmap(one)(keys, powers, state.replicas)
        energies = (infos.log_density - priors) / powers
        place, rate = changes(key_swap, powers, energies)
        labels, (infos, priors, energies) = (
            labels[place],
            jax.tree.map(lambda leaf: leaf[place], (infos, priors, energies)),
        )
        density = priors[0] + energies[0]
        info = TemperedInfo(
            infos.num_clusters[0],
            infos.num_like[0],
            infos.size_entropy[0],
            density,
            rate,
            jnp.any(infos.is_nan),
        )
        return TemperedState(labels[0], density, labels), info


def is_ladder(powers: Float[Array, "replica"]) -> bool:
    """Whether powers fall from 1 and are positive."""
    return bool(np.all(np.diff(powers) < 0) and powers[0] == 1 and powers[-1] > 0)


def log_prior(model: PartitionModel, labels: Int[Array, "site"]) -> Scalar:
    """Log g of the sizes."""
    sizes = jnp.zeros(model.max_clusters, jnp.int32).at[labels].add(1)
    return model.prior.log_weight(sizes).astype(model.coupling.dtype)


def changes(
    key: Key, powers: Float[Array, "replica"], energies: Float[Array, "replica"]
) -> tuple[Int[Array, "replica"], Scalar]:
    """Whose labels each replica gets, and the share of the pairs that change places."""
    key_turn, key_accept = jax.random.split(key)
    num = powers.size
    turn = jax.random.bernoulli(key_turn).astype(jnp.int32) if num > 2 else 0
    gain = (powers[:-1] - powers[1:]) * (energies[1:] - energies[:-1])
    is_asked = jnp.arange(num - 1) % 2 == turn
    height = jnp.log1p(-jax.random.uniform(key_accept, gain.shape, gain.dtype))
    is_done = is_asked & (height < gain)
    up = jnp.append(is_done, False)  # this one gets the next one's labels
    down = jnp.append(False, is_done)
    place = jnp.arange(num) + up - down
    return place, jnp.sum(is_done) / jnp.sum(is_asked).astype(gain.dtype)
