"""Minimum norm: the lowest minimum of its evidence, and the posterior there."""

import numpy as np
import pytest
from problems import N_PROBLEMS, close, well_posed
from routine import some

from calibrain import BMN, BMN_joint, gamma_lambda_map
from calibrain.core.warnings import NoiseBoundaryWarning
from calibrain.head.basis import normalisation
from calibrain.solvers.search import NOISE_FLOOR
from calibrain.solvers.spectrum import Spectrum, best_gamma, best_gamma_noise

pytestmark = pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.ConvergenceWarning",
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
)


# ---- no point is lower


def random_spectrum(seed):
    """Eigenvalues from equal to spread over thirteen decades, with and without a null space.

    The data are from the model, or from anywhere.
    """
    rng = np.random.default_rng(seed)
    M = int(rng.integers(1, 30))
    d = np.exp(rng.choice([0.01, 0.3, 3, 15]) * rng.normal(size=M))
    d[d < 1e-14 * d.max()] = 0
    if rng.random() < 0.3:
        d[np.argsort(d)[: rng.integers(0, M)]] = 0
    s = np.exp(rng.choice([0.3, 3, 10]) * rng.normal(size=M)) * (rng.random(M) < 0.9)
    if rng.random() < 0.3:
        s = d * s + rng.exponential(size=M)
    s[rng.integers(M)] += 1
    s[d == 0] = np.maximum(s[d == 0], 1e-3 * s.mean())
    return Spectrum(d, s, np.eye(M)), s.mean() * np.exp(3 * rng.normal())


def grid_search(cost, low, high):
    "The lowest of 20,000 points between two values"
    points = np.exp(np.linspace(np.log(low), np.log(high), 20_000))
    return min(cost(some_points).min() for some_points in np.array_split(points, 10))


def n_minima(cost, low, high):
    "How many minima a grid shows"
    slope = np.diff(cost(np.exp(np.linspace(np.log(low), np.log(high), 2000))))
    return ((slope[:-1] < -1e-9) & (slope[1:] > 1e-9)).sum()


def test_minimum_norm_finds_the_lowest_minimum():
    "No point of a grid forty times as fine, and reaching further, is lower"
    seeds = some(range(N_PROBLEMS), every=11)
    several = 0
    for seed in seeds:
        e, noise = random_spectrum(seed)

        def cost(gamma, e=e, noise=noise):
            model = gamma[:, None] * e.d + noise
            return (np.log(model) + e.s / model).sum(1)

        gamma = best_gamma(e, noise)[0][-1, 0]
        assert gamma >= 0
        seen = e.d > 0
        top = 1e3 * ((e.s[seen] + noise) / e.d[seen]).max()
        bottom = noise / e.d.max()
        lowest = min(grid_search(cost, 1e-12 * bottom, top), cost(np.zeros(1))[0])
        above = max(e.cost(gamma, noise) - lowest, 0)
        close(above, 0, 1e-9, f"γ, problem {seed}", 1 + abs(lowest))
        several += n_minima(cost, 1e-8 * bottom, top) > 1
    assert several >= len(seeds) // 50 + 1, "some have more than one minimum"


def test_minimum_norm_with_learned_noise_finds_the_lowest_minimum():
    for seed in some(range(N_PROBLEMS), every=11):
        e, _ = random_spectrum(seed)
        d, s = e.d, e.s

        def profile(ratio, d=d, s=s):
            u = ratio[:, None] * d
            return len(d) * np.log((s / (u + 1)).mean(1)) + np.log1p(u).sum(1) + len(d)

        gamma, noise = best_gamma_noise(e)[0][-1]
        seen = d > 0
        high = max((s[seen] / d[seen]).sum() / (NOISE_FLOOR * s.sum()), 1e-6 / d.max())
        lowest = min(grid_search(profile, 1e-12 / d.max(), high), profile(np.zeros(1))[0])
        above = max(e.cost(gamma, noise) - lowest, 0)
        close(above, 0, 1e-9, f"γ and λ, problem {seed}", 1 + abs(lowest))


@pytest.mark.parametrize("noise", [0.5, 60.0])
def test_several_minima(noise):
    "One direction that the data fill and one that they do not: in between there is a hill"
    e = Spectrum(np.array([1.0, 1e4]), np.array([1e3, 0.0]), np.eye(2))
    gamma = best_gamma(e, noise)[0][-1, 0]
    lowest = min(e.cost(g, noise) for g in np.logspace(-6, 6, 5000))
    assert (gamma == 0) == (e.cost(0, noise) < lowest)


def test_a_signal_that_barely_shows():
    e = Spectrum(np.ones(1), np.full(1, 1.001), np.eye(1))
    close(best_gamma(e, 1.0)[0][-1, 0], 1e-3, 1e-6, "γ")


def test_two_minima_of_almost_one_depth():
    near = Spectrum(
        np.array([82.92045179, 560.29718678, 28752.90439483]),
        np.array([0.45881941, 7.20318824, 1.56270777]),
        np.eye(3),
    )
    gamma = best_gamma(near, 1.0)[0][-1, 0]
    lowest = min(near.cost(g, 1.0) for g in np.logspace(-6, 2, 5000))
    assert near.cost(gamma, 1.0) <= lowest + 1e-12


def test_no_minimum_inside():
    "Data where no source reaches: γ = 0, and nothing is active"
    L = np.eye(6)[:, :3]
    y = np.r_[np.zeros((3, 4)), np.arange(1.0, 13).reshape(3, 4)]
    for silent in (BMN(L, y, 0.3), BMN_joint(L, y)):
        assert silent["gamma"] == 0 and len(silent["active_indices"]) == 0
        assert not silent["posterior_mean"].any() and not silent.posterior.var.any()


@pytest.mark.parametrize("apart", [1e-2, 1e-4, 1e-6, 1e-9, 0])
def test_nearly_equal_eigenvalues(apart):
    "The cost falls so gently towards λ = 0 that its slope there is below rounding"
    r = BMN_joint(np.diag([1, 1 + apart]), np.array([1.0, 1.1]))
    assert r.noise_at_boundary == (apart > 0) and abs(r.cost - 2.19969) < 2e-3


# ---- average reference


@pytest.mark.parametrize("n_sources", [6, 18, 19])
def test_average_reference_says_nothing_about_noise(n_sources):
    """A direction without leadfield and without data is left out of learning.

    The other M − 1 give the noise that a recording without reference gives.
    """
    rng = np.random.default_rng(0)
    L = rng.normal(size=(20, n_sources))
    y = L @ rng.normal(size=(n_sources, 400)) + 0.5 * rng.normal(size=(20, 400))
    kept = np.linalg.qr(np.eye(20)[:, :19] - 1 / 20)[0]  # a basis of what average reference keeps
    a = BMN_joint(L - L.mean(0), y - y.mean(0))
    b = BMN_joint(kept.T @ L, kept.T @ y)
    close(a["lambda"], b["lambda"], 1e-9, "λ")
    close(a["gamma"], b["gamma"], 1e-9, "γ")
    assert not a.noise_at_boundary
    if n_sources == 6:
        assert abs(a["lambda"] - 0.25) < 0.02


@pytest.mark.parametrize("n_times", [1, 3, 6, 7, 20])
def test_average_reference_and_few_samples(n_times):
    "Of directions that no source reaches as many are empty by chance as samples are missing"
    rng = np.random.default_rng(1)
    L = rng.normal(size=(9, 2))
    y = 3 * L @ rng.normal(size=(2, n_times)) + rng.normal(size=(9, n_times))
    kept = np.linalg.qr(np.eye(9)[:, :8] - 1 / 9)[0]
    a = BMN_joint(L - L.mean(0), y - y.mean(0))
    b = BMN_joint(kept.T @ L, kept.T @ y)
    close(a["lambda"], b["lambda"], 1e-9, "λ")


def test_average_reference_and_one_noise_variance_a_sensor():
    rng = np.random.default_rng(0)
    L = rng.normal(size=(20, 6))
    y = L @ rng.normal(size=(6, 400)) + 0.5 * rng.normal(size=(20, 400))
    r = gamma_lambda_map(L - L.mean(0), y - y.mean(0), max_iter=2000)
    assert abs(r["lambdas"].mean() - 0.25) < 0.05 and not r.noise_at_boundary
    few_sensors = rng.normal(size=(6, 40))
    six = (y - y.mean(0))[:6]
    with pytest.warns(NoiseBoundaryWarning, match="ran to zero"):
        r = gamma_lambda_map(few_sensors - few_sensors.mean(0), six - six.mean(0), max_iter=2000)
    assert r.noise_at_boundary


# ---- depth


def given_noise(*args, **more):
    return BMN(*args, 0.3, **more)


def dense_weights(L, k):
    "W by matrix roots, block by block"
    M, K = L.shape
    power = L @ L.T
    C = np.linalg.inv(power + 1e-6 * np.trace(power) / M * np.eye(M))
    W = np.zeros((K, K))
    for first in range(0, K, k):
        block = slice(first, first + k)
        w, U = np.linalg.eigh(L[:, block].T @ C @ L[:, block])
        W[block, block] = (U / np.sqrt(w)) @ U.T
    return W


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("solver", [given_noise, BMN_joint], ids=["BMN", "BMN_joint"])
def test_normalised_minimum_norm(solver, k):
    "Mean and covariance by the formula with W; W from matrix roots; units change nothing"
    rng = np.random.default_rng(k)
    L = rng.normal(size=(12, 6 * k))
    y = 2 * rng.normal(size=(12, 9))
    W = dense_weights(L, k)
    close(normalisation(L, k).toarray(), W, 1e-9, "W")
    r = solver(L, y, n_orient=k, normalization=True)
    gamma = r["gamma"]
    G = L @ W
    Sigma = gamma * G @ G.T + r.noise_var * np.eye(12)
    gain = gamma * W @ G.T @ np.linalg.inv(Sigma)
    close(r["posterior_mean"], gain @ y, 1e-8, "mean")
    close(r["posterior_cov"], gamma * W @ W.T - gain @ G * gamma @ W.T, 1e-8, "covariance")
    in_volts = solver(1e-6 * L, y, n_orient=k, normalization=True)
    close(in_volts["posterior_mean"] * 1e-6, r["posterior_mean"], 1e-8, "mean in V")


def test_a_direction_that_no_sensor_sees_has_no_weight():
    "A dead source, and a source seen in two of its three orientations (MEG)"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(12, 18))
    L[:, 3:6] = 0
    blind = np.array([1.0, 2.0, 2.0]) / 3
    L[:, 6:9] -= np.outer(L[:, 6:9] @ blind, blind)
    W = normalisation(L, 3).toarray()
    dead = W[3:6, 3:6]
    seen_in_two = W[6:9, 6:9]
    assert not dead.any()
    assert np.allclose(seen_in_two @ blind, 0, atol=1e-9 * W.max())
    assert np.linalg.matrix_rank(seen_in_two, tol=1e-6 * W.max()) == 2
    r = BMN(L, rng.normal(size=(12, 5)), 0.3, 3, normalization=True)
    assert np.isfinite(r["posterior_mean"]).all()
    assert not r["posterior_mean"][3:6].any() and not r.posterior.var[3:6].any()


# ---- steps


def first_of_published(scale=1, **start):
    "The published rule after one step, the recording and its starts scaled"
    L, y = well_posed(0)
    start = {name: scale**2 * value for name, value in start.items()}
    return BMN_joint(L, scale * y, rule="calibrain-1.0", max_iter=1, **start)


def test_the_published_minimum_norm_starts_where_it_is_told():
    starts = (dict(), dict(init_gamma=0.01), dict(init_lambda=0.01))
    assert len({first_of_published(**start)["gamma"] for start in starts}) == 3
    both = dict(init_gamma=0.01, init_lambda=0.02)
    scaled = first_of_published(scale=10, **both)
    close(scaled["gamma"], 100 * first_of_published(**both)["gamma"], 1e-9, "γ")


def test_minimum_norm_with_too_few_steps_says_so():
    L, y = well_posed(0)
    assert not BMN(L, y, 0.25, max_iter=1).converged
    assert BMN(L, y, 0.25).converged
