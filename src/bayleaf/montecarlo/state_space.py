r"""A state-space model: a hidden chain, and what is seen of it at each time.

$$x_0 \sim f_0, \qquad x_t \sim f_t(\cdot \mid x_{t-1}), \qquad y_t \sim g_t(\cdot \mid x_t),
  \qquad t = 0, \dots, T - 1.$$

It is written down for one state at a time, any pytree of arrays; what runs it does so for all
particles at once. Simulating $f$ is enough for a bootstrap filter; a guided filter also needs its
density, since it proposes from something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bayleaf.errors import bad_argument
from bayleaf.trees import Frozen, as_arrays, frozen_function
from bayleaf.types import Key


class StateSpaceModel(eqx.Module):
    """The functions of a model and its parameters; a pytree of the parameters.

    Models of the same functions with other parameters run in the same compiled program. Each
    function takes the parameters as an additional last argument when ``params`` is given.

    Args:
        initial: ``initial(key) -> x``, a draw of f_0.
        transition: ``transition(key, x, t) -> x``, a draw of f_t given the state at t - 1.
        log_likelihood: ``log_likelihood(x, y, t)``, log g_t(y | x), a scalar.
        params: a pytree of numbers, which gradients and samplers can reach.
        initial_log_prob: ``initial_log_prob(x)``, the log density of f_0.
        transition_log_prob: ``transition_log_prob(x_new, x, t)``, the log density of f_t.
    """

    initial: Frozen
    transition: Frozen
    log_likelihood: Frozen
    params: Any
    initial_log_prob: Frozen | None
    transition_log_prob: Frozen | None

    def __init__(
        self,
        initial: Callable[..., Any],
        transition: Callable[..., Any],
        log_likelihood: Callable[..., Any],
        *,
        params: Any = None,
        initial_log_prob: Callable[..., Any] | None = None,
        transition_log_prob: Callable[..., Any] | None = None,
    ):
        self.initial = frozen_function(initial, "initial")
        self.transition = frozen_function(transition, "transition")
        self.log_likelihood = frozen_function(log_likelihood, "log_likelihood")
        self.params = as_arrays(params, "params")
        self.initial_log_prob = _optional(initial_log_prob, "initial_log_prob")
        self.transition_log_prob = _optional(transition_log_prob, "transition_log_prob")

    def with_params(self, params: Any) -> StateSpaceModel:
        """The same model with other parameters (traced ones too)."""
        return eqx.tree_at(
            lambda model: model.params, self, params, is_leaf=lambda leaf: leaf is None
        )

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What each function takes last."""
        return () if self.params is None else (self.params,)


class GuidedProposal(eqx.Module):
    """Where a guided filter draws its particles: with an eye on the observation to come.

    Its tails must reach as far as those of transition times likelihood. The functions take the
    model's parameters last, if it has any.

    Args:
        sample: ``sample(key, x, y, t) -> x_new``, given the state at t - 1 and what is seen at t.
        log_prob: ``log_prob(x_new, x, y, t)``, its normalised log density.
        initial_sample: ``initial_sample(key, y) -> x`` for t = 0; None draws from the model.
        initial_log_prob: ``initial_log_prob(x, y)``, its normalised log density.
    """

    sample: Frozen
    log_prob: Frozen
    initial_sample: Frozen | None
    initial_log_prob: Frozen | None

    def __init__(
        self,
        sample: Callable[..., Any],
        log_prob: Callable[..., Any],
        *,
        initial_sample: Callable[..., Any] | None = None,
        initial_log_prob: Callable[..., Any] | None = None,
    ):
        self.sample = frozen_function(sample, "sample")
        self.log_prob = frozen_function(log_prob, "log_prob")
        self.initial_sample = _optional(initial_sample, "initial_sample")
        self.initial_log_prob = _optional(initial_log_prob, "initial_log_prob")
        if (initial_sample is None) != (initial_log_prob is None):
            raise bad_argument(
                "initial_sample", "one of initial_sample and initial_log_prob", "both, or neither"
            )


def check_model(model: Any, proposal: Any, observations: Any, key: Key) -> None:
    """Refuse, by name, functions that do not fit each other; nothing is computed."""
    if not isinstance(model, StateSpaceModel):
        raise bad_argument(
            "model", type(model).__name__, "a state-space model", "Make a StateSpaceModel."
        )
    num_steps = check_observations(observations)
    if proposal is not None:
        _check_proposal(model, proposal, num_steps)
    y, t = jax.tree.map(lambda leaf: leaf[0], observations), jnp.zeros((), jnp.int32)
    x = jax.eval_shape(lambda key: model.initial(key, *model.arguments), key)
    moved = jax.eval_shape(lambda key, x: model.transition(key, x, t, *model.arguments), key, x)
    _check_alike("transition", moved, x)
    _check_scalar(
        "log_likelihood",
        jax.eval_shape(lambda x: model.log_likelihood(x, y, t, *model.arguments), x),
    )
    if proposal is not None:
        drawn = jax.eval_shape(lambda k, x: proposal.sample(k, x, y, t, *model.arguments), key, x)
        _check_alike("proposal.sample", drawn, x)


def check_observations(observations: Any) -> int:
    """How many steps there are; refused by name when the leaves disagree."""
    leaves = jax.tree.leaves(observations)
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        raise bad_argument(
            "observations",
            f"shapes {[leaf.shape for leaf in leaves]}",
            "arrays with the same leading axis, one entry for each of at least one time",
        )
    return leaves[0].shape[0]


def _check_proposal(model: StateSpaceModel, proposal: Any, num_steps: int) -> None:
    missing = [name for name in ("sample", "log_prob") if not hasattr(proposal, name)]
    if missing:
        raise bad_argument(
            "proposal", type(proposal).__name__, "a GuidedProposal", "See bl.montecarlo."
        )
    needed = {"transition_log_prob": num_steps > 1}
    needed["initial_log_prob"] = getattr(proposal, "initial_sample", None) is not None
    for name, is_needed in needed.items():
        if is_needed and getattr(model, name) is None:
            raise bad_argument(
                f"model.{name}",
                "None",
                "a log density, which the weights of a guided filter need",
                f"Give StateSpaceModel(..., {name}=...).",
            )


def _check_alike(name: str, got: Any, expected: Any) -> None:
    as_text = [
        str(jax.tree.map(lambda s: f"{s.dtype}{list(s.shape)}", tree)) for tree in (got, expected)
    ]
    if as_text[0] != as_text[1]:
        raise bad_argument(
            name, f"a state like {as_text[0]}", f"one like that of initial: {as_text[1]}"
        )


def _check_scalar(name: str, got: Any) -> None:
    if getattr(got, "shape", None) != () or not jnp.issubdtype(got.dtype, jnp.floating):
        raise bad_argument(
            name,
            f"{got}",
            "one real number for one state",
            "Sum over the parts of the observation.",
        )


def _optional(function: Any, name: str) -> Frozen | None:
    return None if function is None else frozen_function(function, name)
