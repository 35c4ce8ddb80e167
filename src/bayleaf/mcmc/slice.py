r"""Slice sampling: draw uniformly under the graph of the density.

Given $x$, draw a height $\log y = \log\pi(x) - E$, $E \sim \mathrm{Exp}(1)$, and then $x'$
uniformly from the slice $\{x' : \pi(x') \ge y\}$, along one line at a time. An interval of width
$w$ is placed at random around $x$, stepped out until both ends are off the slice, and shrunk
towards $x$ at every draw that misses.

- `Slice` goes through the coordinates one after another.
- `HitAndRunSlice` takes one random direction a step; once it has learnt the covariance of the
  target, strong correlations do not slow it down.

Use them where there is no gradient: they have nothing to tune by hand, and a poor width costs only
evaluations. Each update of a coordinate takes four to ten evaluations of the density, so with
gradients and many dimensions `NUTS` is better.

Source: Neal, Slice sampling (2003): figure 3 (stepping out), figure 5 (shrinkage); section 5 for
general directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from bayleaf.errors import bad_argument
from bayleaf.mcmc.kernel import Kernel, Tuner
from bayleaf.mcmc.moments import Moments, covariance_factor, moments_init, moments_update
from bayleaf.mcmc.proposals import check_positive, fitted, ravel_chains, ravel_real
from bayleaf.types import Count, Flag, Key, LogDensity, Position, Scalar

WIDTH_PER_JUMP = 3.0  # two uniform points of an interval are a third of its width apart, on average


class SliceState(NamedTuple):
    """A position and its log density."""

    position: Position
    log_density: Scalar


class SliceInfo(NamedTuple):
    """What happened in one transition.

    ``is_exhausted``: some interval was shrunk to the limit without a point of the slice in it, and
    the position stayed. Only a log density that is NaN or random where the chain is does that.
    """

    is_nan: Flag
    is_exhausted: Flag
    num_evaluations: Count


class Slice(Kernel):
    """Slice sampling, coordinate by coordinate.

    Args:
        width: w, the first guess of a slice's width: one for all or one for each number of the
            raveled position; None learns it in warm-up.
        max_steps: the interval grows to at most this many widths.
        max_shrinks: draws from the shrinking interval before a coordinate is given up.
    """

    width: ArrayLike | None = None
    max_steps: int = eqx.field(default=16, static=True)
    max_shrinks: int = eqx.field(default=100, static=True)

    def __check_init__(self) -> None:
        """Refuse limits that leave no room."""
        check_limits(self.width, self.max_steps, self.max_shrinks)

    def init(self, log_density: LogDensity, position: Position) -> SliceState:
        """Evaluate the log density at ``position``."""
        return SliceState(position, jnp.asarray(log_density(position)))

    def step(
        self, log_density: LogDensity, key: Key, state: SliceState
    ) -> tuple[SliceState, SliceInfo]:
        """Update every coordinate once."""
        x, unravel = ravel_real(state.position, "Slice")
        width = jnp.broadcast_to(fitted(self.width, "width", x), x.shape)

        def update(carry: tuple[Any, Any], given: tuple[Any, Any]) -> tuple[Any, SliceInfo]:
            (x, value), (i, key) = carry, given

            def line(t: Scalar) -> Scalar:
                return log_density(unravel(x.at[i].add(t)))

            t, value, info = slice_line(
                line, key, value, width[i], self.max_steps, self.max_shrinks
            )
            return (x.at[i].add(t), value), info

        start = (x, state.log_density)
        given = (jnp.arange(x.size), jax.random.split(key, x.size))
        (x, value), infos = jax.lax.scan(update, start, given)
        info = SliceInfo(
            jnp.any(infos.is_nan), jnp.any(infos.is_exhausted), jnp.sum(infos.num_evaluations)
        )
        return SliceState(unravel(x), value), info._replace(
            num_evaluations=info.num_evaluations.astype(jnp.int32)
        )

    def tuner(self) -> WidthTuner | None:
        """The widths are learnt unless they are given."""
        return WidthTuner() if self.width is None else None


class HitAndRunSlice(Kernel):
    r"""Slice sampling along one random direction $L z / \lVert z \rVert$ a step.

    Args:
        width: first guess of a slice's width along the direction; None learns it in warm-up.
        shape: L: one scale for all, a vector of scales or a matrix (a factor of the target's
            covariance); None learns the matrix in warm-up.
        max_steps: the interval grows to at most this many widths.
        max_shrinks: draws from the shrinking interval before the step is given up.
    """

    width: ArrayLike | None = None
    shape: ArrayLike | None = None
    max_steps: int = eqx.field(default=16, static=True)
    max_shrinks: int = eqx.field(default=100, static=True)

    def __check_init__(self) -> None:
        """Refuse limits that leave no room."""
        check_limits(self.width, self.max_steps, self.max_shrinks)

    def init(self, log_density: LogDensity, position: Position) -> SliceState:
        """Evaluate the log density at ``position``."""
        return SliceState(position, jnp.asarray(log_density(position)))

    def step(
        self, log_density: LogDensity, key: Key, state: SliceState
    ) -> tuple[SliceState, SliceInfo]:
        """One line through the position."""
        x, unravel = ravel_real(state.position, "HitAndRunSlice")
        shape = fitted(self.shape, "shape", x)
        width = fitted(self.width, "width", x)
        key_direction, key_line = jax.random.split(key)
        z = jax.random.normal(key_direction, x.shape, x.dtype)
        z = z / jnp.linalg.norm(z)
        direction = shape @ z if shape.ndim == 2 else shape * z
        t, value, info = slice_line(
            lambda t: log_density(unravel(x + t * direction)),
            key_line,
            state.log_density,
            width,
            self.max_steps,
            self.max_shrinks,
        )
        return SliceState(unravel(x + t * direction), value), info

    def tuner(self) -> DirectionTuner | None:
        """Width and shape are learnt where they are not given."""
        is_given = self.width is not None and self.shape is not None
        return None if is_given else DirectionTuner(self.width is None, self.shape is None)


class _Search(NamedTuple):
    """One interval on its way: both ends are stepped out, then it is shrunk until a draw hits."""

    left: Scalar
    right: Scalar
    steps: Int[Array, "2"]  # steps that each end may still take
    draw: Scalar  # the abscissa evaluated last
    value: Scalar  # log density there
    is_hit: Flag
    is_nan: Flag
    num_evaluations: Count
    num_draws: Count


def slice_line(
    line: Callable[[Scalar], Any],
    key: Key,
    log_density: Scalar,
    width: Scalar,
    max_steps: int,
    max_shrinks: int,
) -> tuple[Scalar, Scalar, SliceInfo]:
    """One slice update on a line: the new abscissa (the old one is 0), its log density, the info.

    The three phases of Neal's figures 3 and 5 share one loop with one evaluation in its body: the
    log density is compiled once, and chains in different phases do not wait for each other.
    """
    key_height, key_place, key_steps, key_draws = jax.random.split(key, 4)
    dtype = width.dtype
    height = log_density - jax.random.exponential(key_height, dtype=log_density.dtype)
    # Figure 3: the interval's place and the split of the steps between its ends are both random,
    # else the move is not reversible when the limit is met.
    left = -width * jax.random.uniform(key_place, dtype=dtype)
    steps_left = jax.random.randint(key_steps, (), 0, max_steps)
    steps = jnp.stack([steps_left, max_steps - 1 - steps_left])
    zero, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    no = jnp.zeros((), bool)
    start = _Search(left, left + width, steps, zero, log_density, no, no, none, none)

    def is_searching(search: _Search) -> Flag:
        return ~search.is_hit & (search.num_draws < max_shrinks)

    def advance(search: _Search) -> _Search:
        is_left = search.steps[0] > 0
        is_right = ~is_left & (search.steps[1] > 0)
        is_draw = ~is_left & ~is_right
        u = jax.random.uniform(jax.random.fold_in(key_draws, search.num_draws), dtype=dtype)
        draw = search.left + u * (search.right - search.left)
        t = jnp.where(is_left, search.left, jnp.where(is_right, search.right, draw))
        value = jnp.asarray(line(t), log_density.dtype)
        # >= and not >: in float32 a log density of 1e6 swallows the exponential draw, and then the
        # slice must still hold the point itself. NaN and zero density are outside.
        is_inside = (value >= height) & (value > -jnp.inf)
        is_miss = is_draw & ~is_inside
        new_left = search.left - jnp.where(is_left & is_inside, width, zero)
        new_right = search.right + jnp.where(is_right & is_inside, width, zero)
        # An end that is off the slice has no steps left.
        goes_on = jnp.stack([is_left, is_right]) & is_inside
        was_stepped = jnp.stack([is_left, is_right])
        steps = jnp.where(was_stepped, jnp.where(goes_on, search.steps - 1, 0), search.steps)
        return _Search(
            left=jnp.where(is_miss & (t < 0), t, new_left),
            right=jnp.where(is_miss & (t >= 0), t, new_right),
            steps=steps,
            draw=t,
            value=value,
            is_hit=is_draw & is_inside,
            is_nan=search.is_nan | jnp.isnan(value),
            num_evaluations=search.num_evaluations + 1,
            num_draws=search.num_draws + is_draw.astype(jnp.int32),
        )

    end = jax.lax.while_loop(is_searching, advance, start)
    info = SliceInfo(end.is_nan | jnp.isnan(log_density), ~end.is_hit, end.num_evaluations)
    t = jnp.where(end.is_hit, end.draw, zero)
    return t, jnp.where(end.is_hit, end.value, log_density), info


class WidthTuning(NamedTuple):
    """The positions before the step, and the mean jump of each coordinate."""

    last: Float[Array, "chain dim"]
    jump: Float[Array, "dim"]


class WidthTuner(Tuner):
    """Learns the widths of the slices from how far the chains jump.

    A slice update lands uniformly on the slice, a third of its width away on average. This is the
    width given the other coordinates, which may be far below the marginal spread.
    """

    def init(
        self, log_density: LogDensity, kernel: Slice, states: Any
    ) -> tuple[Slice, WidthTuning]:
        """Unit widths."""
        x = ravel_chains(states.position)
        tuning = WidthTuning(x, jnp.full(x.shape[1], 1 / WIDTH_PER_JUMP, x.dtype))
        return with_field(kernel, "width", WIDTH_PER_JUMP * tuning.jump), tuning

    def resume(
        self, log_density: LogDensity, kernel: Slice, tuning: WidthTuning, states: Any
    ) -> tuple[Slice, WidthTuning]:
        """The widths as they are."""
        del log_density, states
        # Where the chains will start is not known: the first step tells nothing about jumps.
        return kernel, tuning._replace(last=jnp.full_like(tuning.last, jnp.nan))

    def update(
        self,
        kernel: Slice,
        tuning: WidthTuning,
        states: Any,
        infos: Any,
        step: Any,
        num_warmup: Any,
    ) -> tuple[Slice, WidthTuning]:
        """Add the last step's jumps."""
        x = ravel_chains(states.position)
        jump = mean_jump(tuning.jump, jnp.mean(jnp.abs(x - tuning.last), axis=0), step)
        return with_field(kernel, "width", WIDTH_PER_JUMP * jump), WidthTuning(x, jump)


class DirectionTuning(NamedTuple):
    """The positions before the step, the mean jump in units of the shape, and the moments."""

    last: Float[Array, "chain dim"]
    jump: Scalar
    moments: Moments
    shape: Float[Array, "dim dim"]


class DirectionTuner(Tuner):
    """Learns the covariance of the target, and the width from how far the chains jump."""

    learns_width: bool = eqx.field(static=True)
    learns_shape: bool = eqx.field(static=True)

    def init(
        self, log_density: LogDensity, kernel: HitAndRunSlice, states: Any
    ) -> tuple[HitAndRunSlice, DirectionTuning]:
        """Unit width, unit shape."""
        x = ravel_chains(states.position)
        dim = x.shape[1]
        shape = as_matrix(kernel.shape, dim, x.dtype)
        jump = jnp.asarray(1 / WIDTH_PER_JUMP, x.dtype)
        tuning = DirectionTuning(x, jump, moments_init(dim, x.dtype), shape)
        return self._kernel(kernel, tuning), tuning

    def resume(
        self,
        log_density: LogDensity,
        kernel: HitAndRunSlice,
        tuning: DirectionTuning,
        states: Any,
    ) -> tuple[HitAndRunSlice, DirectionTuning]:
        """The shape of the draws; the width, in units of it, as it is."""
        del log_density
        x = ravel_chains(states.position)
        moments = moments_update(moments_init(x.shape[1], x.dtype), x)
        shape = tuning.shape
        if self.learns_shape:
            factor = covariance_factor(moments, len(x))
            shape = jnp.where(jnp.all(jnp.isfinite(factor)), factor, shape)
        last = jnp.full_like(tuning.last, jnp.nan)
        tuning = DirectionTuning(last, tuning.jump, moments, shape)
        return self._kernel(kernel, tuning), tuning

    def update(
        self,
        kernel: HitAndRunSlice,
        tuning: DirectionTuning,
        states: Any,
        infos: Any,
        step: Any,
        num_warmup: Any,
    ) -> tuple[HitAndRunSlice, DirectionTuning]:
        """Add the last step's draws and jumps."""
        x = ravel_chains(states.position)
        scaled = jnp.linalg.solve(tuning.shape, (x - tuning.last).T)
        jump = mean_jump(tuning.jump, jnp.mean(jnp.linalg.norm(scaled, axis=0)), step)
        moments = moments_update(tuning.moments, x)
        shape = tuning.shape
        if self.learns_shape:
            # A factor costs O(dim^3): renew it at every 25th step only.
            factor = jax.lax.cond(
                (step + 1) % 25 == 0, lambda: covariance_factor(moments, len(x)), lambda: shape
            )
            shape = jnp.where(jnp.all(jnp.isfinite(factor)), factor, shape)
        tuning = DirectionTuning(x, jump, moments, shape)
        return self._kernel(kernel, tuning), tuning

    def _kernel(self, kernel: HitAndRunSlice, tuning: DirectionTuning) -> HitAndRunSlice:
        if self.learns_width:
            kernel = with_field(kernel, "width", WIDTH_PER_JUMP * tuning.jump)
        return with_field(kernel, "shape", tuning.shape) if self.learns_shape else kernel


def mean_jump(mean: Array, jump: Array, step: Any) -> Array:
    """Running mean whose weights grow with the step; never zero, or the chain would stay."""
    gain = 2 / (jnp.asarray(step, mean.dtype) + 3)
    jump = jnp.where(jnp.isfinite(jump) & (jump > 0), jump, mean)
    return mean + gain * (jump - mean)


def as_matrix(shape: ArrayLike | None, dim: int, dtype: Any) -> Float[Array, "dim dim"]:
    """A given shape as a matrix; the identity when there is none."""
    shape = jnp.asarray(1.0 if shape is None else shape, dtype)
    return shape if shape.ndim == 2 else jnp.diag(jnp.broadcast_to(shape, (dim,)))


def with_field(kernel: Any, name: str, value: Any) -> Any:
    """The kernel with one parameter replaced (it may be None so far)."""
    return eqx.tree_at(lambda k: getattr(k, name), kernel, value, is_leaf=lambda leaf: leaf is None)


def check_limits(width: Any, max_steps: int, max_shrinks: int) -> None:
    """Refuse what cannot find a slice."""
    check_positive("width", width)
    for name, value in (("max_steps", max_steps), ("max_shrinks", max_shrinks)):
        if not isinstance(value, int) or value < 1:
            raise bad_argument(name, value, "a whole number >= 1")
