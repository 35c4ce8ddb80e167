"""Exact regression against the formulas, scikit-learn, and itself by another road."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from bayleaf import gp
from bayleaf.errors import BayleafError, SamplingWarning
from bayleaf.gp import marginal, process
from bayleaf.linalg import NotPositiveDefiniteError
from tests.tools.compiling import compilations
from tests.tools.statistics import assert_mean

RNG = np.random.default_rng(1)
X, NEW = RNG.standard_normal((25, 3)), RNG.standard_normal((8, 3))
Y = np.sin(X.sum(1)) + 0.1 * RNG.standard_normal(25)
KERNEL = 1.7 * gp.SquaredExponential([1.0, 2.0, 3.0])
PRIOR = gp.GaussianProcess(KERNEL, noise_std=0.2, mean=0.3)


def by_hand(noise_variance=0.04, mean=0.3, y=Y):
    """Mean, covariance and log marginal likelihood, solved by NumPy."""
    gram = np.asarray(KERNEL(X)) + noise_variance * np.eye(25)
    cross = np.asarray(KERNEL(NEW, X))
    posterior = mean + cross @ np.linalg.solve(gram, y - mean)
    covariance = np.asarray(KERNEL(NEW)) - cross @ np.linalg.solve(gram, cross.T)
    evidence = stats.multivariate_normal(np.full(25, mean), gram).logpdf(y)
    return posterior, covariance, evidence


def test_noisy_outputs_are_the_formulas_of_the_talk():
    mean, covariance, evidence = by_hand()
    posterior = PRIOR.condition(X, Y)
    np.testing.assert_allclose(posterior.mean(NEW), mean, rtol=1e-11)
    np.testing.assert_allclose(posterior.covariance(NEW), covariance, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(posterior.variance(NEW), np.diag(covariance), rtol=1e-10)
    noisy = posterior.predict(NEW, noisy=True)
    np.testing.assert_allclose(noisy.variance, np.diag(covariance) + 0.04, rtol=1e-11)
    np.testing.assert_allclose(noisy.std, np.sqrt(noisy.variance))
    np.testing.assert_allclose(PRIOR.log_marginal_likelihood(X, Y), evidence, rtol=1e-12)
    joint = posterior.gaussian(NEW, noisy=True)
    np.testing.assert_allclose(joint.covariance, covariance + 0.04 * np.eye(8), rtol=1e-9)


def test_scikit_learn_says_the_same():
    kernel = ConstantKernel(1.7) * RBF([1.0, 2.0, 3.0])
    theirs = GaussianProcessRegressor(kernel, alpha=0.04, optimizer=None).fit(X, Y)
    mean, std = theirs.predict(NEW, return_std=True)
    ours = gp.GaussianProcess(KERNEL, noise_std=0.2).condition(X, Y).predict(NEW)
    np.testing.assert_allclose(ours.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(ours.std, std, rtol=1e-9)


def test_noiseless_outputs_are_met_exactly_and_the_jitter_is_reported():
    prior = gp.GaussianProcess(1.5 * gp.Matern32(1.0))
    posterior = prior.condition(X, Y)
    np.testing.assert_allclose(posterior.mean(X), Y, rtol=1e-10)
    assert np.max(posterior.variance(X)) < 1e-12
    assert posterior.added == 0
    jittered = gp.GaussianProcess(1.5 * gp.Matern32(1.0), jitter=1e-6).condition(X, Y)
    np.testing.assert_allclose(jittered.added, 1.5e-6, rtol=1e-9)
    # That of noise of the same variance, and nothing else.
    noisy = gp.GaussianProcess(1.5 * gp.Matern32(1.0), noise_std=1.5e-6**0.5).condition(X, Y)
    np.testing.assert_allclose(jittered.mean(NEW), noisy.mean(NEW), rtol=1e-9)


def test_several_outputs_share_a_factor_and_are_solved_apart():
    outputs = np.stack([Y, np.cos(X[:, 0])], axis=1)
    both = PRIOR.condition(X, outputs)
    each = [PRIOR.condition(X, outputs[:, i]) for i in range(2)]
    expected = np.stack([one.mean(NEW) for one in each], axis=1)
    np.testing.assert_allclose(both.mean(NEW), expected, rtol=1e-11)
    np.testing.assert_allclose(both.variance(NEW), each[0].variance(NEW), rtol=1e-12)
    total = sum(PRIOR.log_marginal_likelihood(X, outputs[:, i]) for i in range(2))
    np.testing.assert_allclose(PRIOR.log_marginal_likelihood(X, outputs), total, rtol=1e-12)
    assert both.sample(NEW, key=jax.random.key(0), num_draws=3).shape == (3, 8, 2)


def test_a_posterior_is_a_process_conditioning_in_two_parts_is_conditioning_on_all():
    first = PRIOR.condition(X[:10], Y[:10])
    second = first.condition(X[10:], Y[10:])
    whole = PRIOR.condition(X, Y)
    np.testing.assert_allclose(second.mean(NEW), whole.mean(NEW), rtol=1e-10)
    np.testing.assert_allclose(second.covariance(NEW), whole.covariance(NEW), rtol=1e-9, atol=1e-13)
    parts = PRIOR.log_marginal_likelihood(X[:10], Y[:10]) + first.log_marginal_likelihood(
        X[10:], Y[10:]
    )
    np.testing.assert_allclose(parts, PRIOR.log_marginal_likelihood(X, Y), rtol=1e-11)


def test_noise_of_each_datum_weighs_it():
    stds = np.linspace(0.05, 0.5, 25)
    prior = gp.GaussianProcess(KERNEL, noise_std=stds)
    gram = np.asarray(KERNEL(X)) + np.diag(stds**2)
    expected = np.asarray(KERNEL(NEW, X)) @ np.linalg.solve(gram, Y)
    posterior = prior.condition(X, Y)
    np.testing.assert_allclose(posterior.mean(NEW), expected, rtol=1e-10)
    with pytest.raises(BayleafError, match="one noise_std for all"):
        posterior.predict(NEW, noisy=True)


@pytest.mark.parametrize("noisy", [False, True])
def test_draws_of_the_posterior_have_its_moments(noisy):
    posterior = PRIOR.condition(X, Y)
    draws = np.asarray(posterior.sample(NEW, key=jax.random.key(0), num_draws=20_000, noisy=noisy))
    mean, covariance, _ = by_hand()
    wrong, right = (covariance + v * np.eye(8) for v in ((0, 0.04) if noisy else (0.04, 0)))
    gaps = draws - mean
    products = gaps[:, :, None] * gaps[:, None, :]
    assert_mean({"mean": gaps, "product": products}, {"mean": 0.0, "product": right}, iid=True)
    with pytest.raises(AssertionError):  # the planted bug: draws of f taken for draws of y
        assert_mean(products, wrong, iid=True)


def test_draws_of_a_singular_posterior_need_no_jitter():
    posterior = gp.GaussianProcess(gp.Matern32(1.0)).condition(X, Y)
    draws = posterior.sample(X, key=jax.random.key(0), num_draws=5)
    np.testing.assert_allclose(draws, np.broadcast_to(Y, (5, 25)), atol=1e-6)


@pytest.mark.slow
def test_the_gradient_is_that_of_plain_differentiation_in_both_modes_and_twice():
    residual = jnp.asarray(np.stack([Y, Y**2], axis=1))[:12]
    x = X[:12]

    def covariance(p):
        kernel = jnp.exp(p[0]) * gp.SquaredExponential(jnp.exp(p[1]))
        return kernel(x) + jnp.exp(p[2]) * jnp.eye(12)

    def plain(p):
        factor = jnp.linalg.cholesky(covariance(p))
        white = jax.scipy.linalg.solve_triangular(factor, residual, lower=True)
        size = 2 * jnp.sum(jnp.log(jnp.diagonal(factor))) + 12 * jnp.log(2 * jnp.pi)
        return -0.5 * (jnp.sum(white**2) + 2 * size)

    def ours(p):
        return marginal.log_density(covariance(p), residual)

    p = jnp.log(jnp.array([1.7, 2.0, 0.04]))
    v = jnp.array([1.0, -0.5, 0.3])
    slope = jax.jit(jax.grad(plain))
    np.testing.assert_allclose(ours(p), plain(p), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.grad(ours))(p), slope(p), rtol=1e-8)
    along = jax.jit(lambda p: jax.jvp(ours, (p,), (v,))[1])
    np.testing.assert_allclose(along(p), slope(p) @ v, rtol=1e-8)
    twice = jax.jit(lambda p: jax.jvp(jax.grad(ours), (p,), (v,))[1])
    bend = (slope(p + 1e-5 * v) - slope(p - 1e-5 * v)) / 2e-5
    np.testing.assert_allclose(twice(p), bend, rtol=1e-5)
    by_mean = jax.grad(lambda m: marginal.log_density(covariance(p), residual - m))(0.1)
    expected = np.sum(np.linalg.solve(covariance(p), residual - 0.1))
    np.testing.assert_allclose(by_mean, expected, rtol=1e-9)


@pytest.mark.parametrize("size", [1, 7, 64, 65])
def test_the_inverse_by_halves_is_the_inverse(size):
    root = np.random.default_rng(4).standard_normal((size, size + 3))
    matrix = root @ root.T
    inverse = marginal.inverse_from_factor(jnp.linalg.cholesky(matrix), block=8)
    np.testing.assert_allclose(inverse @ matrix, np.eye(size), atol=1e-8)


@pytest.mark.slow
def test_conjugate_gradients_give_what_the_factor_gives():
    solver = gp.ConjugateGradient(rank=6, block_size=7, tolerance=1e-12)
    white = KERNEL + gp.White(0.01)  # between two batches it is zero, on the diagonal it is not
    for kernel in (KERNEL, white):
        exact = gp.GaussianProcess(kernel, noise_std=0.2).condition(X, Y)
        iterative = gp.GaussianProcess(kernel, noise_std=0.2, solver=solver).condition(X, Y)
        np.testing.assert_allclose(iterative.mean(NEW), exact.mean(NEW), rtol=1e-9)
        np.testing.assert_allclose(iterative.variance(NEW), exact.variance(NEW), rtol=1e-8)
        np.testing.assert_allclose(
            iterative.covariance(NEW), exact.covariance(NEW), rtol=1e-7, atol=1e-11
        )


@pytest.mark.slow
def test_the_preconditioner_saves_steps():
    x = np.random.default_rng(5).standard_normal((60, 2))
    extra = jnp.full(60, 1e-4)
    steps = {
        rank: int(
            gp.ConjugateGradient(rank=rank)
            .factorise(gp.SquaredExponential(2.0), jnp.asarray(x), extra)
            .run(jnp.asarray(np.random.default_rng(6).standard_normal((60, 1))))
            .num_steps
        )
        for rank in (1, 30)
    }
    assert steps[30] < steps[1] / 4


def test_conjugate_gradients_that_do_not_converge_are_no_answer():
    prior = gp.GaussianProcess(
        KERNEL, noise_std=0.2, solver=gp.ConjugateGradient(rank=1, max_steps=2)
    )
    with pytest.warns(SamplingWarning, match="did not converge"):
        posterior = prior.condition(X, Y)
    assert np.all(np.isnan(posterior.mean(NEW)))
    with pytest.raises(BayleafError, match="noise > 0"):
        gp.GaussianProcess(KERNEL, solver=gp.ConjugateGradient()).condition(X, Y)
    with pytest.raises(BayleafError, match="determinant"):
        prior.log_marginal_likelihood(X, Y)


def test_predictions_in_blocks_are_those_of_one(monkeypatch):
    posterior = PRIOR.condition(X, Y)
    whole = posterior.predict(NEW)
    monkeypatch.setattr(process, "BLOCK_BYTES", 3 * 25 * 8)
    blocks = posterior.predict(NEW)
    np.testing.assert_allclose(blocks.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(blocks.variance, whole.variance, rtol=1e-11)


def test_float32_stays_float32_and_close():
    x, y, new = (a.astype(np.float32) for a in (X, Y, NEW))
    posterior = PRIOR.condition(x, y).predict(new)
    exact = PRIOR.condition(X, Y).predict(NEW)
    assert posterior.mean.dtype == posterior.variance.dtype == jnp.float32
    np.testing.assert_allclose(posterior.mean, exact.mean, atol=1e-4)
    np.testing.assert_allclose(posterior.variance, exact.variance, atol=1e-4)


def test_the_second_time_compiles_nothing_with_other_data_and_hyper_parameters():
    def all_of(process, x, y):
        posterior = process.condition(x, y)
        return posterior.predict(NEW), process.log_marginal_likelihood(x, y)

    all_of(PRIOR, X, Y)
    other = gp.GaussianProcess(0.9 * gp.SquaredExponential([3.0, 1.0, 1.0]), noise_std=0.1, mean=1)
    with compilations() as names:
        all_of(other, X[::-1], Y + 1)
    assert names == []


def test_jit_and_vmap_agree_with_eager():
    def evidence(noise_std):
        prior = gp.GaussianProcess(KERNEL, noise_std=noise_std)
        return prior.log_marginal_likelihood(X, Y), prior.condition(X, Y).mean(NEW)

    stds = jnp.array([0.1, 0.3])
    batched = eqx.filter_jit(jax.vmap(evidence))(stds)
    one = evidence(0.3)
    np.testing.assert_allclose(batched[0][1], one[0], rtol=1e-11)
    np.testing.assert_allclose(batched[1][1], one[1], rtol=1e-10)


def test_what_a_user_gets_wrong_has_a_name():
    smooth = gp.GaussianProcess(gp.SquaredExponential(300.0))
    with pytest.raises(NotPositiveDefiniteError, match="jitter"):
        smooth.condition(X, Y)
    with pytest.raises(NotPositiveDefiniteError, match="Rows 0 and 25 of x are equal"):
        gp.GaussianProcess(gp.Matern12(1.0)).condition(np.vstack([X, X[:1]]), np.append(Y, 0.0))
    with pytest.raises(NotPositiveDefiniteError, match="not a covariance kernel"):
        gp.GaussianProcess(lambda a, b=None: -KERNEL(a, b), noise_std=0.1).condition(X, Y)
    with pytest.raises(NotPositiveDefiniteError, match="not a covariance kernel"):
        gp.GaussianProcess(lambda a, b=None: -np.ones((25, 25)), noise_std=0.1).condition(X, Y)
    bad = X.copy()
    bad[3, 1] = np.nan
    with pytest.raises(BayleafError, match=r"x: got NaN .* row 3"):
        PRIOR.condition(bad, Y)
    with pytest.raises(BayleafError, match="y: got shape"):
        PRIOR.condition(X, Y[:-1])
    with pytest.raises(BayleafError, match="noise_std"):
        gp.GaussianProcess(KERNEL, noise_std=-1.0)
    with pytest.raises(BayleafError, match="jitter"):
        gp.GaussianProcess(KERNEL, jitter=-1.0)
    with pytest.raises(BayleafError, match=r"need .* GB"):
        gp.solvers.check_memory(gp.Cholesky(), 10**6, 8, 8e9)


def test_leave_one_out_is_leaving_one_out():
    ours = gp.leave_one_out(PRIOR, X, Y)
    for i in (0, 7):
        rest = np.delete(np.arange(25), i)
        one = PRIOR.condition(X[rest], Y[rest]).predict(X[i : i + 1], noisy=True)
        np.testing.assert_allclose(ours.mean[i], one.mean[0], rtol=1e-9)
        np.testing.assert_allclose(ours.variance[i], one.variance[0], rtol=1e-9)
