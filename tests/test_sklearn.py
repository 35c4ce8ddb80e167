"""The estimators: scikit-learn's own checks, and what they predict."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from bayleaf import gp
from bayleaf.errors import BayleafError
from bayleaf.infinite import Dense, Relu, serial
from bayleaf.sklearn import NNGPClassifier, NNGPRegressor

FIXED = {"depth": 1, "fit_hyperparameters": False}


@pytest.mark.slow
@parametrize_with_checks([NNGPRegressor(**FIXED), NNGPClassifier(**FIXED)])
def test_scikit_learn_accepts_them(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_the_regressor_is_the_process_and_finds_hyper_parameters():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 2))
    y = 5 + 3 * np.sin(x[:, 0]) + 0.3 * rng.standard_normal(40)
    fixed = NNGPRegressor(depth=1, fit_hyperparameters=False).fit(x, y)
    dense = Dense(1, weight_std=1.4, bias_std=0.3)
    prior = gp.GaussianProcess(1.0 * gp.NNGP(serial(dense, Relu(), dense)), noise_std=0.1)
    expected = prior.condition(x, (y - y.mean()) / y.std()).predict(x[:5], noisy=True)
    mean, std = fixed.predict(x[:5], return_std=True)
    np.testing.assert_allclose(mean, y.mean() + y.std() * expected.mean, rtol=1e-9)
    np.testing.assert_allclose(std, y.std() * expected.std, rtol=1e-9)
    found = NNGPRegressor(depth=1).fit(x, y)
    assert found.log_marginal_likelihood_ > fixed.log_marginal_likelihood_


@pytest.mark.slow
def test_the_classifier_tells_tumours_apart():
    x, y = load_breast_cancer(return_X_y=True)
    names = np.array(["malignant", "benign"])[y]
    model = make_pipeline(StandardScaler(), NNGPClassifier(depth=2, fit_hyperparameters=False))
    model.fit(x[:200], names[:200])
    assert np.mean(model.predict(x[200:]) == names[200:]) > 0.94
    probabilities = model.predict_proba(x[200:])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert list(model[-1].classes_) == ["benign", "malignant"]


def test_wrong_arguments_are_named():
    x, y = np.zeros((3, 1)), np.arange(3.0)
    for bad, name in ((NNGPRegressor(depth=0), "depth"), (NNGPRegressor(activation="x"), "activ")):
        with pytest.raises(BayleafError, match=name):
            bad.fit(x, y)
    with pytest.raises(BayleafError, match="class"):
        NNGPClassifier().fit(x, np.zeros(3, int))
