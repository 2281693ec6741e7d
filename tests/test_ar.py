"Autoregressive noise: closed forms, dense Gaussians, and what is fitted on a baseline."

import numpy as np
import pytest
from problems import close
from scipy.stats import multivariate_normal

from calibrain import fit_ar
from calibrain.head.ar import Autoregression, autocorrelation
from calibrain.simulation.noise import TimeModel

PROCESSES = ([], [0.9], [-0.5], [1.2, -0.5], [0.4, 0.3, -0.2, 0.1])


def noise(a, n_rows, n_times, seed=0, scale=1.0):
    return scale * TimeModel(a).draw(n_rows, n_times, seed)


@pytest.mark.parametrize("a", PROCESSES, ids=str)
@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_the_precision_is_the_inverse_of_the_covariance(a, n):
    model = Autoregression(a, variance=3.0)
    dense = model.covariance(n)
    close(model.precision(n).toarray() @ dense, np.eye(n), 1e-10, "product")
    W = model.whitener(n).toarray()
    close(W @ model.correlation(n) @ W.T, np.eye(n), 1e-10, "whitened")
    i, j = model.precision(n).nonzero()
    assert np.abs(i - j).max(initial=0) <= model.order and not np.triu(W, 1).any()


def test_one_coefficient_in_closed_form():
    a, n = 0.7, 30
    lag = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    model = Autoregression([a], variance=2.0)
    close(model.covariance(n), 2 * a**lag, 1e-12, "covariance")
    close(model.innovation, 1 - a**2, 1e-12, "innovation")
    exact = n / ((1 + a) / (1 - a) - 2 * a * (1 - a**n) / (n * (1 - a) ** 2))
    close(model.n_effective(n, "mean"), exact, 1e-12, "of the mean")
    b = a**2
    exact = n / ((1 + b) / (1 - b) - 2 * b * (1 - b**n) / (n * (1 - b) ** 2))
    close(model.n_effective(n), exact, 1e-12, "of the power")


def test_two_coefficients_in_closed_form():
    a1, a2 = 1.2, -0.5
    rho = [1, a1 / (1 - a2)]
    for _ in range(10):
        rho.append(a1 * rho[-1] + a2 * rho[-2])
    close(autocorrelation(np.array([a1, a2]), 12), rho, 1e-12, "autocorrelation")


@pytest.mark.parametrize("a", PROCESSES, ids=str)
@pytest.mark.parametrize("n", [1, 3, 25])
def test_the_likelihood_is_that_of_a_dense_gaussian(a, n):
    model = Autoregression(a, variance=0.4)
    data = np.random.default_rng(1).normal(size=(4, n))
    dense = multivariate_normal(np.zeros(n), model.covariance(n)).logpdf(data)
    close(model.log_likelihood(data), np.sum(dense), 1e-10, "log likelihood")


@pytest.mark.parametrize("of, power", [("mean", 1), ("power", 2)])
def test_means_scatter_as_those_of_so_many_samples(of, power):
    a, n = [0.8, -0.1], 60
    x = noise(a, 20_000, n)
    model = Autoregression(a)
    scatter = (x**power).mean(axis=1).var()
    close(scatter, (1 if power == 1 else 2) / model.n_effective(n, of), 0.05, of)


@pytest.mark.parametrize("method", ["yule-walker", "least-squares"])
@pytest.mark.parametrize("a", PROCESSES, ids=str)
def test_what_is_drawn_is_found(a, method):
    data = noise(a, 40, 1000, scale=3.0)
    found = fit_ar(data, len(a), method)
    close(np.r_[found.coefficients, 0], np.r_[a, 0], 0.02, "coefficients", scale=1)
    close(found.variance, 9, 0.1, "variance")
    white = found.whiten(data)
    neighbours = (white[:, 1:] * white[:, :-1]).mean() / (white**2).mean()
    assert abs(neighbours) < 0.02
    close((white**2).mean(), (data**2).mean(), 0.05, "as much power as before")


@pytest.mark.parametrize("a", PROCESSES, ids=str)
def test_the_order_is_found(a):
    orders = [fit_ar(noise(a, 30, 300, seed)).order for seed in range(5)]
    assert np.median(orders) == len(a)
    found = fit_ar(noise(a, 30, 300))
    assert found.bic.min() == 0 and len(found.bic) == 21


def test_the_fit_is_the_likeliest():
    "Near the coefficients found no others have a higher exact likelihood, but for the ends"
    data = noise([1.2, -0.5], 20, 800)
    found = fit_ar(data, 2, "least-squares")
    data = data - data.mean(axis=1, keepdims=True)
    at_best = found.log_likelihood(data)
    for step in ([0.02, 0], [-0.02, 0], [0, 0.02], [0, -0.02]):
        near = Autoregression(found.coefficients + step, found.variance)
        assert near.log_likelihood(data) < at_best


def test_several_baselines_and_complex_ones_are_pooled():
    data = noise([0.6], 10, 400)
    halves = [data[:, :200], data[:, 200:]]
    centred = [b - b.mean(1, keepdims=True) for b in halves]
    r = [sum((b[:, : 200 - h] * b[:, h:]).sum() for b in centred) for h in (0, 1)]
    close(fit_ar(halves, 1).coefficients, [r[1] / r[0]], 1e-12, "pooled")
    assert fit_ar(halves, 1).n_samples == 400
    both = fit_ar(data[:5] + 1j * data[5:], 1)
    close(both.coefficients, fit_ar(data, 1).coefficients, 1e-12, "parts are rows")
    z = data[:5] + 1j * data[5:]
    close(both.whiten(z).real, both.whiten(z.real), 1e-12, "whitened by parts")


def test_units_change_nothing_but_the_variance():
    data = noise([0.5, 0.2], 10, 300)
    one, other = fit_ar(data), fit_ar(1e-6 * data)
    close(other.coefficients, one.coefficients, 1e-9, "coefficients")
    close(other.variance, 1e-12 * one.variance, 1e-9, "variance")


@pytest.mark.parametrize(
    "arguments, error, says",
    [
        (dict(order=-1), ValueError, "order must be finite and >= 0"),
        (dict(order=30), ValueError, "the shortest baseline has 30 samples"),
        (dict(order="aic"), ValueError, "order must be one of 'bic'"),
        (dict(order=1.5), TypeError, "order must be a whole number"),
        (dict(baselines=np.empty((3, 0))), ValueError, "baselines must be non-empty"),
        (dict(baselines=[]), ValueError, "one stretch of noise at least"),
        (dict(baselines=np.zeros((3, 20))), ValueError, "different from constants"),
        (dict(baselines=np.full((3, 20), np.nan)), ValueError, "baselines must be finite"),
        (dict(method="burg"), ValueError, "method must be one of"),
    ],
)
def test_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        fit_ar(**dict(baselines=noise([0.5], 3, 30)) | arguments)


def test_not_stationary():
    with pytest.raises(ValueError, match="stationary process"):
        Autoregression([1.1])
    growing = 1.05 ** np.arange(100)[None]
    with pytest.raises(ValueError, match=r"the process must be stationary.*yule-walker"):
        fit_ar(growing, 1, "least-squares")
    assert abs(fit_ar(growing, 1).coefficients[0]) < 1


def test_parts_of_complex_noise_are_rows_of_their_own():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3, 20)) + 1j * rng.normal(size=(3, 20))
    a = Autoregression([0.5, -0.2], 0.7)
    np.testing.assert_allclose(
        a.log_likelihood(z), a.log_likelihood(np.vstack([z.real, z.imag])), rtol=1e-12
    )


@pytest.mark.parametrize("variance", [0, -1.0, np.nan, "1"])
def test_a_variance_that_is_none(variance):
    with pytest.raises((ValueError, TypeError), match="variance must be"):
        Autoregression([0.5], variance)
