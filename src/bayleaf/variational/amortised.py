r"""Amortised inference: an encoder that gives a guide for each example, and its decoder.

A latent variable z for each example x of a data set, with p(z) fixed, p_theta(x | z) a network (the
*decoder*), and the guide q_phi(z | x) what another network (the *encoder*) makes of x. Both are
fitted by maximising the sum over the examples of the ELBO of `bayleaf.variational.elbo`, the very
functions that `fit` uses:

    sum_i E_q(z | x_i)[ log p_theta(x_i | z) ] - KL( q_phi(z | x_i) || p(z) ),

estimated on a random batch of n of the N examples and scaled by N / n. This is the variational
autoencoder (Kingma & Welling 2014, https://arxiv.org/abs/1312.6114, eq. 10).

With linear networks it is probabilistic PCA, whose maximum likelihood is known in closed form: at
the optimum the ELBO equals it (Tipping & Bishop 1999, eq. 8). The tests hold the code to that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayleaf.errors import NonFiniteLogDensityError, bad_argument, sentence
from bayleaf.gaussian import Gaussian
from bayleaf.run.diagnostics import Finding
from bayleaf.run.host import to_host
from bayleaf.targets.densities import num_examples, stratified_indices
from bayleaf.trees import as_arrays
from bayleaf.types import Key, Position, Scalar
from bayleaf.variational import arguments, elbo
from bayleaf.variational.ascent import Ascent, Outcome
from bayleaf.variational.guides import MeanField
from bayleaf.variational.results import BATCH


class GaussianEncoder(eqx.Module):
    """A mean-field guide from a network of one example with 2 k outputs: means, then log-scales."""

    network: Any

    def __call__(self, x: Array) -> MeanField:
        """The guide for the latent variable of ``x``."""
        return MeanField.from_parameters(*jnp.split(self.network(x), 2))


class Autoencoder(eqx.Module):
    """Both networks, the prior and the likelihood: a model of one example with its guide."""

    encoder: Any
    decoder: Any
    prior: Any
    likelihood: Any

    def log_likelihood(self, x: Any, z: Position) -> Scalar:
        """``log p(x | z)``."""
        one = jax.tree.map(lambda leaf: leaf[None], (self.decoder(z), x))
        return self.likelihood(*one)[0]

    def terms(self, objective: str, x: Any, **options: Any) -> elbo.Terms:
        """Terms whose mean is the ELBO of one example, in either form."""
        guide = self.encoder(x)
        if objective == "kl":
            return elbo.kl(partial(self.log_likelihood, x), self.prior, guide, **options)
        return elbo.joint(
            lambda z: self.log_likelihood(x, z) + self.prior.log_prob(z), guide, **options
        )


class Program(eqx.Module):
    """What decides a step: the data, and how the model's two networks are fitted to them."""

    data: Any
    prior: Any
    likelihood: Any
    optimizer: Any = eqx.field(static=True)
    objective: str = eqx.field(static=True)
    num_draws: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    stick_the_landing: bool = eqx.field(static=True)

    def terms(self, guide: Any, key: Key) -> elbo.Terms:
        """One term for each draw: the ELBO of all examples, as a batch estimates it."""
        model = Autoencoder(guide[0], guide[1], self.prior, self.likelihood)
        key_batch, key_draws = jax.random.split(key)
        total = num_examples(self.data)
        index = stratified_indices(key_batch, total, self.batch_size)
        batch = jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0), self.data)
        options = {"num_draws": self.num_draws, "stick_the_landing": self.stick_the_landing}

        def of_one(x: Any, key: Key) -> elbo.Terms:
            return model.terms(self.objective, x, key=key, **options)

        keys = jax.random.split(key_draws, self.batch_size)
        return total * jnp.mean(jax.vmap(of_one)(batch, keys), axis=0)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AmortisedFit:
    """A fitted encoder and decoder.

    Attributes:
        model: both, with the prior and the likelihood.
        history: the ELBO of all data, in nats, as each step's batch estimated it.
        findings: what makes the fit unreliable; empty when nothing was seen.
        seconds: wall-clock time.
        state: pytree of all that is needed to go on.
        continuation: takes more steps.
    """

    model: Autoencoder
    history: Float[np.ndarray, "step"]
    findings: Sequence[Finding] = ()
    seconds: float = 0.0
    state: Any = None
    continuation: Callable[..., AmortisedFit] | None = None

    @property
    def encoder(self) -> Any:
        """q(z | x): a function of one example."""
        return self.model.encoder

    @property
    def decoder(self) -> Any:
        """p(x | z): a function of one latent variable."""
        return self.model.decoder

    @property
    def num_steps(self) -> int:
        """Steps of the optimiser."""
        return self.history.size

    def elbo(self, data: Any, *, key: Key, num_draws: int = 10) -> Float[np.ndarray, "example"]:
        """The ELBO of each example of ``data``: a lower bound of its log-likelihood."""
        return self._bound(data, key, num_draws, jnp.mean)

    def log_likelihood(
        self, data: Any, *, key: Key, num_draws: int = 100
    ) -> Float[np.ndarray, "example"]:
        """Log p(x) of each example by importance sampling, the guide being the proposal.

        A lower bound in expectation too, that tightens as ``num_draws`` grows; see
        `bayleaf.variational.elbo.importance_bound`.
        """
        return self._bound(data, key, num_draws, elbo.importance_bound)

    def sample(self, num_draws: int, *, key: Key) -> Any:
        """Outputs of the decoder at draws of the prior, on a leading axis."""
        arguments.check_count("num_draws", num_draws, 1)
        return _generate(self.model, key, num_draws)

    def reconstruct(self, data: Any, *, key: Key) -> Any:
        """Outputs of the decoder at one draw of the guide of each example."""
        return _reconstruct(self.model, as_arrays(data, "data"), key)

    def extend(self, num_steps: int, *, progress: bool = True) -> AmortisedFit:
        """The fit after ``num_steps`` more steps, as if they had been asked for at once."""
        arguments.check_count("num_steps", num_steps, 1)
        if self.continuation is None:
            raise bad_argument("extend", "a fit without its data", "one of fit_amortised")
        return self.continuation(num_steps, progress=progress)

    def _bound(self, data: Any, key: Key, num_draws: int, reduce: Any) -> Any:
        arguments.check_count("num_draws", num_draws, 1)
        data = as_arrays(data, "data")
        num_examples(data)
        return to_host(_bounds(self.model, data, key, num_draws, reduce))

    def __repr__(self) -> str:
        last = float(np.mean(self.history[-50:])) if self.history.size else float("nan")
        return f"AmortisedFit({self.num_steps} steps; ELBO of all data about {last:.6g})"


def fit_amortised(
    encoder: Any,
    decoder: Any,
    data: Any,
    *,
    key: Any,
    likelihood: Callable[[Any, Any], Any],
    prior: Any = None,
    objective: str = "kl",
    optimizer: Any = None,
    num_steps: int = 3000,
    num_draws: int = 1,
    batch_size: int | None = None,
    stick_the_landing: bool = True,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> AmortisedFit:
    """Fit an encoder and a decoder to data: a variational autoencoder.

    Args:
        encoder: maps one example to a guide; `GaussianEncoder` makes one of a network.
        decoder: maps one latent variable to what the likelihood takes.
        data: a pytree of arrays with a common leading axis of examples.
        key: a typed key.
        likelihood: ``likelihood(outputs, examples)``, one number for each example of a batch, such
            as `bayleaf.likelihoods.bernoulli`.
        prior: p(z); None is standard normal.
        objective: ``"kl"`` (the divergence exact for Gaussians) or ``"joint"``; see `fit`.
        optimizer: an Optax optimiser; None takes Adam with the step size 2e-3 / sqrt(1 + t / 1000).
        num_steps: steps of the optimiser.
        num_draws: draws of each example's guide in a step.
        batch_size: examples of a step; None takes 100, or all if there are fewer.
        stick_the_landing: see `fit`.
        progress: show a progress bar.
        checkpoint: a directory, as for `fit`.

    Returns:
        The fitted networks.

    Raises:
        BayleafError: an argument that cannot be used.
        NonFiniteLogDensityError: the ELBO is not finite from some step on.
        CheckpointError: the checkpoint is damaged, or belongs to another configuration.
    """
    data = as_arrays(data, "data")
    total = num_examples(data)
    if batch_size is None:
        batch_size = min(100, total)
    arguments.check_settings(
        objective, optimizer, num_steps, num_draws, batch_size, 2, key, checkpoint
    )
    if batch_size > total:
        raise bad_argument("batch_size", batch_size, f"at most the {total} examples of the data")
    for name, value in {"encoder": encoder, "decoder": decoder, "likelihood": likelihood}.items():
        if not callable(value):
            raise bad_argument(name, value, "a function")
    prior = _checked_prior(encoder, prior, data, key)
    _check_likelihood(Autoencoder(encoder, decoder, prior, likelihood), data, key)
    settings = (objective, num_draws, batch_size, stick_the_landing)
    chosen = default_optimizer() if optimizer is None else optimizer
    program = Program(data, prior, likelihood, chosen, *settings)

    def judge(outcome: Outcome, continuation: Callable[..., AmortisedFit]) -> AmortisedFit:
        if outcome.first_lost is not None:
            got = f"NaN or infinity at every step from step {outcome.first_lost} on"
            advice = "Look at the data for NaN, bound the log-scales of the encoder, or use a "
            raise NonFiniteLogDensityError(
                sentence("elbo", got, "a finite ELBO and gradient", advice + "smaller step size.")
            )
        # Networks are rarely fitted until nothing changes: that the ELBO still rises is no news.
        findings = [finding for finding in outcome.findings if finding.kind != "not_settled"]
        return AmortisedFit(
            Autoencoder(outcome.guide[0], outcome.guide[1], prior, likelihood),
            outcome.history,
            findings,
            outcome.seconds,
            outcome.state,
            continuation,
        )

    ascent = Ascent(program, (encoder, decoder), key, judge)
    if checkpoint is not None:
        optimizer = "default" if optimizer is None else optimizer
        parts = {"data": data, "prior": prior, "likelihood": likelihood, "optimizer": optimizer}
        ascent.save_to(checkpoint, **parts, settings=settings)
    return ascent.run(num_steps, progress)


@cache
def default_optimizer() -> Any:
    """Adam with the step size 2e-3 / sqrt(1 + t / 1000)."""
    import optax

    return optax.adam(lambda count: 2e-3 / jnp.sqrt(1 + count / 1000))


def _checked_prior(encoder: Any, prior: Any, data: Any, key: Key) -> Any:
    """The prior, standard normal by default; and whether the encoder gives guides at all."""
    first = jax.tree.map(lambda leaf: leaf[0], data)
    guide = eqx.filter_eval_shape(encoder, first)
    if not arguments.is_guide(guide):
        raise bad_argument(
            "encoder",
            f"a function that returns a {type(guide).__name__}",
            "one that returns a guide, with sample(key) and log_prob(z)",
            "Try bl.variational.GaussianEncoder(network).",
        )
    if prior is not None:
        return prior
    z = eqx.filter_eval_shape(lambda g, k: g.sample(k), guide, key)
    if getattr(z, "ndim", None) != 1:
        raise bad_argument("prior", None, "a prior, for the guides are not of vectors")
    return Gaussian.from_scale(jnp.zeros(z.shape, z.dtype), jnp.ones(z.shape, z.dtype))


def _check_likelihood(model: Autoencoder, data: Any, key: Key) -> None:
    """Refuse a likelihood that is not one number an example, before anything is compiled."""

    def outputs(model: Autoencoder, data: Any, key: Key) -> Any:
        examples = jax.tree.map(lambda leaf: leaf[:2], data)
        draws = jax.vmap(lambda x: model.encoder(x).sample(key))(examples)
        return model.likelihood(jax.vmap(model.decoder)(draws), examples)

    got = eqx.filter_eval_shape(outputs, model, data, key)
    size = min(2, num_examples(data))
    if getattr(got, "shape", None) != (size,):
        raise bad_argument(
            "likelihood",
            f"for {size} examples a result of shape {getattr(got, 'shape', None)}",
            "one number for each example",
            "Sum over everything but the leading axis.",
        )


@eqx.filter_jit
def _bounds(model: Autoencoder, data: Any, key: Key, num_draws: int, reduce: Any) -> Array:
    keys = jax.random.split(key, num_examples(data))

    def of_one(pair: Any) -> Scalar:
        x, key = pair
        return reduce(model.terms("joint", x, key=key, num_draws=num_draws))

    return jax.lax.map(of_one, (data, keys), batch_size=min(BATCH, keys.size))


@eqx.filter_jit
def _generate(model: Autoencoder, key: Key, num_draws: int) -> Any:
    keys = jax.random.split(key, num_draws)
    return jax.vmap(lambda key: model.decoder(model.prior.sample(key)))(keys)


@eqx.filter_jit
def _reconstruct(model: Autoencoder, data: Any, key: Key) -> Any:
    keys = jax.random.split(key, num_examples(data))
    return jax.vmap(lambda x, key: model.decoder(model.encoder(x).sample(key)))(data, keys)
