"""Kernels of other libraries in our loops: anything with ``init(position)``, ``step(key, state)``.

    nuts = blackjax.nuts(log_density, step_size=0.1, inverse_mass_matrix=jnp.ones(3))
    bl.sample(target, bl.mcmc.from_blackjax(nuts), key=key)

The other way round, ``kernel.bind(log_density)`` is what BlackJAX's loops take.

Such an algorithm carries its own log density; the one that our runner hands over is not used by
it, so give both the same. For the same reason it cannot be a block of `Gibbs`. BlackJAX is never
imported here.
"""

from __future__ import annotations

from typing import Any

from bayleaf.errors import bad_argument
from bayleaf.mcmc.kernel import Kernel
from bayleaf.trees import Frozen
from bayleaf.types import Key, LogDensity, Position


class Foreign(Kernel):
    """A kernel made of a bound algorithm.

    Args:
        algorithm: an object with ``init(position)`` and ``step(key, state) -> (state, info)``,
            such as a ``blackjax.base.SamplingAlgorithm`` or what `Kernel.bind` returns. Its states
            have the field ``position``.
        init_key: handed to ``init(position, key)`` by algorithms whose first state is random.
    """

    algorithm: Frozen
    init_key: Key | None

    def __init__(self, algorithm: Any, init_key: Key | None = None) -> None:
        for name in ("init", "step"):
            if not callable(getattr(algorithm, name, None)):
                raise bad_argument(
                    "algorithm",
                    algorithm,
                    f"an object with a function {name!r}",
                    "Call the constructor with its log density first: blackjax.nuts(log_density, "
                    "...).",
                )
        self.algorithm = Frozen(algorithm, "algorithm")
        self.init_key = init_key

    def init(self, log_density: LogDensity, position: Position) -> Any:
        """The algorithm's own first state; ``log_density`` is not used."""
        keys = () if self.init_key is None else (self.init_key,)
        state = self.algorithm.thaw().init(position, *keys)
        if not hasattr(state, "position"):
            raise bad_argument(
                "algorithm",
                f"states of type {type(state).__name__}",
                "states with the field 'position'",
                "Wrap its init and step so that the state has one.",
            )
        return state

    def step(self, log_density: LogDensity, key: Key, state: Any) -> tuple[Any, Any]:
        """The algorithm's own step; ``log_density`` is not used."""
        return self.algorithm.thaw().step(key, state)


def from_blackjax(algorithm: Any) -> Foreign:
    """A BlackJAX sampling algorithm as a kernel of ours.

    Its parameters are fixed when it is made; nothing is learnt in warm-up.
    """
    return Foreign(algorithm)
