"""Infinitely wide networks as scikit-learn estimators.

    model = make_pipeline(StandardScaler(), bl.sklearn.NNGPRegressor())
    mean, std = model.fit(X, y).predict(X_new, return_std=True)

A fully connected network of infinite width is a Gaussian process; fitting is exact, in O(n^3) for
n examples, and in double precision. Scale the features first, as for any network. Hyper-parameters
are chosen by marginal likelihood, with a weak log-normal prior around the values given.

Source: Lee et al., Deep neural networks as Gaussian processes, ICLR 2018; `bayleaf.gp` has the
formulas.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

import bayleaf as bl
from bayleaf import infinite
from bayleaf.errors import bad_argument

ACTIVATIONS = ("relu", "erf", "gelu")


class _NNGP(BaseEstimator):
    """What both estimators share: the network, the fit, the means and variances."""

    def __init__(
        self,
        depth: int = 3,
        *,
        activation: str = "relu",
        weight_std: float = 1.4,
        bias_std: float = 0.3,
        noise_std: float = 0.1,
        fit_hyperparameters: bool = True,
    ):
        self.depth = depth
        self.activation = activation
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.noise_std = noise_std
        self.fit_hyperparameters = fit_hyperparameters

    def _prior(self) -> Any:
        """The process before any data."""
        if self.depth < 1:
            raise bad_argument("depth", self.depth, "at least 1 hidden layer")
        if self.activation not in ACTIVATIONS:
            raise bad_argument("activation", self.activation, f"one of {', '.join(ACTIVATIONS)}")
        layer = {"relu": infinite.Relu, "erf": infinite.Erf, "gelu": infinite.Gelu}
        dense = infinite.Dense(1, weight_std=self.weight_std, bias_std=self.bias_std)
        net = infinite.serial(*[dense, layer[self.activation]()] * self.depth, dense)
        kernel = 1.0 * bl.gp.NNGP(net)
        return bl.gp.GaussianProcess(kernel, noise_std=self.noise_std)

    def _fit(self, x: np.ndarray, outputs: np.ndarray) -> None:
        with jax.enable_x64(True):
            prior = self._prior()
            if self.fit_hyperparameters:
                log_prior = bl.gp.LogNormalPrior.around(prior)
                found = bl.gp.fit(prior, x, outputs, log_prior=log_prior, fixed=["mean_function"])
                prior = found.process
            self.prior_ = prior
            self.posterior_ = prior.condition(x, outputs)
            self.log_marginal_likelihood_ = float(prior.log_marginal_likelihood(x, outputs))

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: NumPy arrays, which keep their precision wherever they are read."""
        inherited: Any = super().__getstate__()
        state = dict(inherited)
        for name in state.keys() & {"prior_", "posterior_"}:
            state[name] = jax.tree.map(np.asarray, state[name])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Back to JAX, in double precision."""
        with jax.enable_x64(True):
            for name in state.keys() & {"prior_", "posterior_"}:
                state[name] = jax.tree.map(jnp.asarray, state[name])
        parent: Any = super()
        parent.__setstate__(state)

    def _predict(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Means of the outputs, and the variance of new noisy ones."""
        check_is_fitted(self)
        points: Any = validate_data(self, x, reset=False, dtype=np.float64)
        with jax.enable_x64(True):
            mean, variance = self.posterior_.predict(points, noisy=True)
        return np.asarray(mean), np.asarray(variance)


class NNGPRegressor(RegressorMixin, _NNGP):
    """Bayesian regression with an infinitely wide network.

    Args:
        depth: hidden layers.
        activation: "relu", "erf" or "gelu".
        weight_std: sigma_w of every layer, where the search starts.
        bias_std: sigma_b of every layer.
        noise_std: of the outputs, in units of their standard deviation.
        fit_hyperparameters: whether these are chosen by marginal likelihood.

    Attributes:
        posterior_: the `bayleaf.gp.GaussianProcess` of the standardised outputs, given the data.
        log_marginal_likelihood_: of these.
    """

    def fit(self, X: Any, y: Any) -> NNGPRegressor:
        """Fit to features ``[num, feature]`` and outputs ``[num]``."""
        checked: Any = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        x, outputs = checked
        self.centre_ = float(np.mean(outputs))
        self.scale_ = float(np.std(outputs)) or 1.0  # all outputs may be equal
        self._fit(x, (outputs - self.centre_) / self.scale_)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The mean of y, and with ``return_std`` the standard deviation of a new, noisy y."""
        mean, variance = self._predict(X)
        mean = self.centre_ + self.scale_ * mean
        return (mean, self.scale_ * np.sqrt(variance)) if return_std else mean


class NNGPClassifier(ClassifierMixin, _NNGP):
    """Classification with an infinitely wide network, by least squares on class indicators.

    The arguments are those of `NNGPRegressor`. Probabilities are those of each class having the
    largest output; see `bayleaf.gp.class_probabilities` for what they are not.

    Attributes:
        classes_: the labels, in the order of the columns of `predict_proba`.
        posterior_: the `bayleaf.gp.GaussianProcess` of the indicators, given the data.
        log_marginal_likelihood_: of these.
    """

    def fit(self, X: Any, y: Any) -> NNGPClassifier:
        """Fit to features ``[num, feature]`` and labels ``[num]``."""
        checked: Any = validate_data(self, X, y, dtype=np.float64)
        x, labels = checked
        check_classification_targets(labels)
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise bad_argument("y", "one class", "labels of at least two classes")
        with jax.enable_x64(True):
            targets = np.asarray(bl.gp.class_targets(index, len(self.classes_)))
        self._fit(x, targets)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, ``[num, class]``."""
        mean, variance = self._predict(X)
        with jax.enable_x64(True):
            outputs = jnp.asarray(mean), jnp.asarray(variance)
            return np.asarray(bl.gp.class_probabilities(*outputs))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row."""
        mean, _ = self._predict(X)
        return self.classes_[mean.argmax(axis=1)]
