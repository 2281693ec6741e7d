"""Champagne: against dense matrices in every mode, under changes that must not matter, and where
it must speak up.

The dense side of each test is written from the formulas, with inverses and matrix square roots;
it shares no code with the solver.
"""

import warnings

import numpy as np
import pytest
from problems import close
from scipy import linalg
from test_evoked import problem as mne_problem

from calibrain import SourceEstimator, champagne, estimate_evoked, gamma_lambda_map, gamma_map
from calibrain.core.archive import read_arrays, write_arrays
from calibrain.core.warnings import (
    ConvergenceWarning,
    NoiseBoundaryWarning,
    NoiseSamplesWarning,
    NothingFoundWarning,
    PlausibilityWarning,
)
from calibrain.posterior.result import result_from_arrays, result_to_arrays
from calibrain.recording.whitened import whitened_forward
from calibrain.solvers.block_search import BlockRule, block_search
from calibrain.solvers.blocks import block_evidence, sources_bounded
from calibrain.solvers.evidence import Problem, data_root

pytestmark = [
    pytest.mark.filterwarnings("ignore::calibrain.core.warnings.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::calibrain.core.warnings.NoiseBoundaryWarning"),
    pytest.mark.filterwarnings("error::RuntimeWarning"),
]
FORMS = [False, "scalar", "diagonal", "full"]
PRIORS = ["scalar", "diagonal", "full"]
every_noise = pytest.mark.parametrize("form", FORMS)
every_prior = pytest.mark.parametrize("prior", PRIORS)
orientations = pytest.mark.parametrize("k", [1, 2, 3])
M, N, T = 10, 14, 90


def problem(k=1, seed=0, n_times=T, n_sources=N, n_sensors=M):
    "Leadfield, recording with two sources on, and the covariance of its noise"
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(n_sensors, n_sources * k))
    x = np.zeros((n_sources, k, n_times))
    x[[2, 9]] = rng.normal(size=(2, k, 1)) * rng.normal(size=(2, 1, n_times))
    A = rng.normal(size=(n_sensors, n_sensors)) / np.sqrt(n_sensors)
    C = A @ A.T + 0.3 * np.eye(n_sensors)
    noise = linalg.cholesky(C, lower=True) @ rng.normal(size=(n_sensors, n_times))
    return L, L @ x.reshape(-1, n_times) + noise, C


def solved(L, y, k, form, prior, **more):
    "The solver, told the noise where it is not to learn it"
    given = {} if form else dict(noise_var=0.8)
    said = dict(update_mode="convex", max_iter=30) | given | more
    return champagne(L, y, n_orient=k, learn_noise=form, source_cov=prior, **said)


def hyperparameters(r, k):
    "Γ and Λ of a result in full"
    Gamma = np.diag(r["gammas_full"])
    if "source_cov" in r:
        Gamma = linalg.block_diag(*r["source_cov"])
    Lambda = r["noise_cov"] if "noise_cov" in r else np.diag(r["lambdas"])
    return Gamma, Lambda


def dense_cost(L, y, Gamma, Lambda):
    "ℒ by the determinant and the inverse"
    Sigma = Lambda + L @ Gamma @ L.T
    P = linalg.inv(Sigma)
    return np.linalg.slogdet(Sigma)[1] + np.trace(P @ y @ y.T) / y.shape[1], P


# ---- against dense matrices


@every_noise
@every_prior
@orientations
def test_what_is_returned_is_that_of_dense_matrices(form, prior, k):
    L, y, _ = problem(k)
    r = solved(L, y, k, form, prior)
    Gamma, Lambda = hyperparameters(r, k)
    cost, P = dense_cost(L, y, Gamma, Lambda)
    gain = Gamma @ L.T @ P
    close(r.cost, cost, 1e-8, "ℒ")
    close(r.log_evidence, -T / 2 * (cost + M * np.log(2 * np.pi)), 1e-8, "evidence")
    close(r.mean, gain @ y, 1e-8, "mean")
    close(r["posterior_cov"], Gamma - gain @ L @ Gamma, 1e-8, "covariance", Gamma.max())
    close(r.history["cost"][-1], cost, 1e-8, "the last step")
    close(r.noise_var, np.trace(Lambda) / M, 1e-12, "mean noise variance")
    assert np.linalg.eigvalsh(r["posterior_cov"]).min() > -1e-12 * Gamma.max()
    assert r.mean.shape == (N * k, T) and len(r.history["cost"]) == r.n_iter + 1
    assert np.array_equal(r.active, np.flatnonzero(Gamma.diagonal()))


def power(A, p):
    "A power of a symmetric matrix"
    w, U = np.linalg.eigh(A)
    return (U * np.maximum(w, 0) ** p) @ U.T


def dense_step(L, y, Gamma, Lambda, k, form, shared):
    "One step of sources and noise, from the formulas"
    _, P = dense_cost(L, y, Gamma, Lambda)
    W = P @ y / np.sqrt(y.shape[1])
    new = np.zeros_like(Gamma)
    for n in range(0, len(Gamma), k):
        at = slice(n, n + k)
        D = L[:, at].T @ P @ L[:, at]
        A = L[:, at].T @ W
        Q = A @ A.T
        if shared:
            D, Q = np.trace(D) / k * np.eye(k), np.trace(Q) / k * np.eye(k)
        root = power(D, -0.5)
        stretch = root @ power(root @ Q @ root, 0.25) @ power(D, 0.5)
        new[at, at] = stretch @ Gamma[at, at] @ stretch.T
    q, d = (W**2).sum(1), np.diag(P)
    if form == "scalar":
        Lambda = Lambda * np.sqrt(q.sum() / d.sum())
    if form == "diagonal":
        Lambda = Lambda * np.sqrt(q / d)
    if form == "full":
        r = Lambda @ W
        C = power(P, 0.5)
        Lambda = power(P, -0.5) @ power(C @ r @ r.T @ C, 0.5) @ power(P, -0.5)
    return new, Lambda


@every_noise
@orientations
@pytest.mark.parametrize("shared", [False, True])
def test_steps_are_those_of_dense_matrices(form, k, shared):
    L, y, _ = problem(k, seed=1)
    Gamma, Lambda = 0.5 * np.eye(N * k), 0.9 * np.eye(M)
    costs = [dense_cost(L, y, Gamma, Lambda)[0]]
    for _ in range(6):
        Gamma, Lambda = dense_step(L, y, Gamma, Lambda, k, form, shared)
        costs.append(dense_cost(L, y, Gamma, Lambda)[0])
    root = np.sqrt(0.5) * np.eye(k)[None].repeat(N, 0)
    small = Problem(np.asfortranarray(L), data_root(y), k)
    fit = block_search(small, root, np.full(M, 0.9), BlockRule(shared, form), 6, 0)
    e = fit.evidence
    close(linalg.block_diag(*e.prior), Gamma, 1e-8, "Γ")
    close(e.noise_cov if form == "full" else np.diag(e.noise_cov), Lambda, 1e-8, "Λ")
    close(fit.history["cost"], costs, 1e-10, "ℒ")


@orientations
@pytest.mark.parametrize("mode", ["convex", "fast"])
def test_numbers_are_those_of_gamma_map(k, mode):
    "Given noise and noise by sensor, to the last digit; a component by itself is a source by itself"
    L, y, _ = problem(k)
    said = dict(update_mode=mode, max_iter=40)
    a = champagne(L, y, 0.8, k, learn_noise=False, **said)
    assert np.array_equal(a.mean, gamma_map(L, y, 0.8, k, **said).mean)
    b = champagne(L, y, n_orient=k, **said)
    assert np.array_equal(b.mean, gamma_lambda_map(L, y, k, **said).mean)
    assert b.kkt_violation == gamma_lambda_map(L, y, k, **said).kkt_violation
    c = champagne(L, y, 0.8, k, learn_noise=False, source_cov="diagonal", **said)
    each = gamma_map(L, y, 0.8, 1, **said)
    assert np.array_equal(c.mean, each.mean) and c.posterior.n_orient == k


# ---- one variance for all sensors


@orientations
def test_one_noise_variance_is_optimal(k):
    "By the fast search, in full matrices; and no neighbour is better"
    L, y, _ = problem(k, n_times=400, n_sensors=30)
    r = champagne(L, y, n_orient=k, learn_noise="scalar", update_mode="fast")
    assert r.converged and r.kkt_violation <= 1e-6 and np.ptp(r["lambdas"]) == 0
    Gamma, Lambda = hyperparameters(r, k)
    _, P = dense_cost(L, y, Gamma, Lambda)
    q, d = ((P @ y) ** 2).mean(1).sum(), np.trace(P)
    assert abs(q / d - 1) < 1e-6
    for factor in (0.99, 1.01):
        assert dense_cost(L, y, Gamma, factor * Lambda)[0] > r.cost
    slow = champagne(L, y, n_orient=k, learn_noise="scalar", max_iter=3000, tol=1e-9)
    close(slow.cost, r.cost, 1e-6, "ℒ of convex bounding")
    by_sensor = champagne(L, y, n_orient=k, update_mode="fast")
    assert by_sensor.cost < r.cost


# ---- what must not matter


@every_noise
@every_prior
def test_the_cost_never_rises(form, prior):
    for seed in range(3):
        L, y, _ = problem(2, seed, n_times=30)
        for mode in ("convex", "fast"):
            r = solved(L, y, 2, form, prior, update_mode=mode, max_iter=60)
            cost = r.history["cost"]
            assert (np.diff(cost) <= 1e-10 * (1 + np.abs(cost[1:]))).all()


@every_noise
@every_prior
@pytest.mark.parametrize("s", [1e-6, 300.0])
def test_units(form, prior, s):
    L, y, _ = problem(2)
    a = solved(L, y, 2, form, prior)
    given = {} if form else dict(noise_var=0.8 * s**2)
    b = solved(L, s * y, 2, form, prior, **given)
    close(b.mean, s * a.mean, 1e-6, "mean")
    close(hyperparameters(b, 2)[1], s**2 * hyperparameters(a, 2)[1], 1e-6, "Λ")
    close(b.log_evidence - a.log_evidence, -y.size * np.log(s), 1e-8, "evidence")
    c = solved(s * L, y, 2, form, prior)
    close(c.mean, a.mean / s, 1e-6, "mean, leadfield scaled")
    close(c.cost, a.cost, 1e-7, "ℒ, leadfield scaled")


@pytest.mark.parametrize("form", [False, "diagonal", "full"])
@pytest.mark.parametrize("k", [2, 3])
def test_a_covariance_turns_with_the_axes(form, k):
    "Each source's axes turned in its own way turn its estimate, and change nothing else"
    L, y, _ = problem(k, seed=2)
    turns = [linalg.qr(np.random.default_rng(n).normal(size=(k, k)))[0] for n in range(N)]
    U = linalg.block_diag(*turns)
    a, b = solved(L, y, k, form, "full"), solved(L @ U, y, k, form, "full")
    close(U @ b.mean, a.mean, 1e-8, "mean")
    close(U @ b["posterior_cov"] @ U.T, a["posterior_cov"], 1e-8, "covariance")
    close(b.history["cost"], a.history["cost"], 1e-10, "every step")
    other = solved(L @ U, y, k, form, "diagonal")
    assert not np.allclose(U @ other.mean, solved(L, y, k, form, "diagonal").mean, rtol=1e-2)


@every_noise
@pytest.mark.parametrize("prior", ["scalar", "full"])
def test_order_of_sensors_and_sources(form, prior):
    L, y, _ = problem(2)
    rng = np.random.default_rng(0)
    rows, sources = rng.permutation(M), rng.permutation(N)
    columns = (2 * sources[:, None] + [0, 1]).ravel()
    a = solved(L, y, 2, form, prior)
    b = solved(L[rows][:, columns], y[rows], 2, form, prior)
    close(b.mean, a.mean[columns], 1e-7, "mean")
    Lambda = hyperparameters(a, 2)[1]
    close(hyperparameters(b, 2)[1], Lambda[np.ix_(rows, rows)], 1e-7, "Λ")


# ---- what it is for


@pytest.mark.parametrize("seed", range(3))
def test_correlated_noise_is_learned(seed):
    "Richer noise has a lower cost, and a full covariance comes nearest to the true one"
    L, y, C = problem(1, seed, n_times=3000, n_sources=20, n_sensors=30)
    off, cost = {}, {}
    for form in FORMS[1:]:
        r = champagne(L, y, learn_noise=form, update_mode="fast", max_iter=300)
        off[form] = np.linalg.norm(hyperparameters(r, 1)[1] - C) / np.linalg.norm(C)
        cost[form] = r.cost
        assert {2, 9} == set(np.argsort(r["gammas_full"])[-2:])
    assert off["full"] < 0.5 * min(off["diagonal"], off["scalar"])
    assert cost["full"] < cost["diagonal"] < cost["scalar"]


def test_full_noise_ends_where_the_model_is_the_data():
    "Σ = YYᵀ/T, the reason why its evidence is compared with nothing"
    L, y, _ = problem(n_times=1000)
    r = champagne(L, y, learn_noise="full", update_mode="fast", max_iter=3000)
    Gamma, Lambda = hyperparameters(r, 1)
    data = y @ y.T / 1000
    assert r.cost - (np.linalg.slogdet(data)[1] + M) < 0.02
    close(Lambda + L @ Gamma @ L.T, data, 0.1, "Σ")


@pytest.mark.parametrize("k", [2, 3])
def test_directions_are_found_and_convex_bounding_alone_gets_stuck(k):
    L, y, _ = problem(k, seed=5, n_times=200, n_sources=30, n_sensors=20)
    r = solved(L, y, k, False, "full", max_iter=600)
    small = Problem(np.asfortranarray(L), data_root(y), k)
    point = block_evidence(small, np.full((30, 1, 1), 0.1) * np.eye(k), np.full(20, 0.8))
    for _ in range(600):
        point = block_evidence(small, sources_bounded(point, False), point.noise_cov)
    assert r.cost < point.cost - 0.1
    for n in (2, 9):
        w = np.linalg.eigvalsh(r["source_cov"][n])
        assert w[-1] > 20 * max(w[-2], 0)


@orientations
def test_the_certificate_of_covariances(k):
    "No direction of any source is worth more, by inverses and generalised eigenvalues"
    L, y, _ = problem(k, seed=3)
    r = solved(L, y, k, "diagonal", "full", max_iter=3000, tol=1e-9, update_mode="fast")
    Gamma, Lambda = hyperparameters(r, k)
    _, P = dense_cost(L, y, Gamma, Lambda)
    for n in range(0, N * k, k):
        at = slice(n, n + k)
        D = L[:, at].T @ P @ L[:, at]
        A = L[:, at].T @ P @ y
        ratios = linalg.eigh(A @ A.T / T, D, eigvals_only=True)
        assert ratios.max() - 1 <= r.kkt_violation + 1e-8
        left = (D - A @ A.T / T) @ Gamma[at, at]
        assert np.abs(np.linalg.eigvals(left)).max() <= 2 * k * r.kkt_violation + 1e-8
    noise_ratio = ((P @ y) ** 2).mean(1) / np.diag(P)
    assert (noise_ratio - 1).max() <= r.kkt_violation + 1e-8
    assert r.kkt_violation < 1e-2


def test_sources_that_started_at_zero_come_back():
    L, y, _ = problem(3, n_times=200)
    start = np.ones(N)
    start[[2, 9]] = 0
    said = dict(max_iter=800, update_mode="fast")
    r = solved(L, y, 3, False, "full", init_gamma=start, **said)
    assert {2, 9} == set(np.argsort(r["gammas_full"].reshape(N, 3).sum(1))[-2:])
    assert r.kkt_violation < 1e-2


def test_a_direction_that_no_sensor_sees_is_silent():
    L, y, _ = problem(3)
    L.reshape(M, N, 3)[:, :, 1] = 0
    with pytest.warns(PlausibilityWarning, match="14 of 14 sources have a direction that no sen"):
        r = solved(L, y, 3, "diagonal", "full")
    assert np.abs(r.mean[1::3]).max() < 1e-12 and r.std[1::3].max() < 1e-6
    flat = solved(np.delete(L.reshape(M, N, 3), 1, axis=2).reshape(M, -1), y, 2, "diagonal", "full")
    close(r.cost, flat.cost, 1e-10, "ℒ")


@pytest.mark.parametrize("form", [False, "full"])
def test_a_direction_that_no_sensor_sees_is_no_finding(form):
    "Of any axes, whichever way variances are sought"
    L, y, _ = problem(3)
    turned = linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    flat = np.diag([1, 0, 1]) @ turned
    L = (L.reshape(M, N, 3) @ flat).reshape(M, -1)
    with pytest.warns(PlausibilityWarning, match="14 of 14 sources have .* are no finding"):
        solved(L, y, 3, form, "diagonal", max_iter=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlausibilityWarning)
        solved(L, y, 3, form, "scalar", max_iter=3)


# ---- what is said


def test_full_noise_from_few_samples():
    L, y, _ = problem(n_times=9)
    words = r"learn_noise must be 'diagonal', .* for data of 9 directions at 10 sensors, got 'full'"
    with pytest.raises(ValueError, match=words):
        champagne(L, y, learn_noise="full")
    L, y, _ = problem(n_times=40)
    with pytest.warns(NoiseSamplesWarning, match="10 sensors is learned from 40 samples"):
        champagne(L, y, learn_noise="full", max_iter=2)
    P = np.eye(M) - 1 / M
    with pytest.raises(ValueError, match="no average reference"):
        champagne(P @ L, P @ y, learn_noise="full")
    r = SourceEstimator("champagne", dict(learn_noise="full", max_iter=20), noise_cov=P)
    assert r.fit(P @ L, P @ y).predict()["noise_cov"].shape == (M - 1, M - 1)


def test_what_is_refused():
    L, y, _ = problem()
    cases = [
        (dict(learn_noise=False), TypeError, "noise_var must be a real number, got None"),
        (dict(noise_var=1.0), ValueError, "noise_var must be None where the noise is learned"),
        (dict(learn_noise="both"), ValueError, "learn_noise must be one of False, 'scalar'"),
        (dict(source_cov=3), ValueError, "source_cov must be one of 'scalar', 'diagonal', 'full'"),
        (dict(learn_noise="full", update_mode="em"), ValueError, "update_mode must be 'convex' or"),
        (dict(source_cov="full", update_mode=1), ValueError, "where a covariance is learned"),
    ]
    for said, error, words in cases:
        with pytest.raises(error, match=words):
            champagne(L, y, **said)


@pytest.mark.filterwarnings("default")
def test_what_is_announced():
    L, y, _ = problem(2)
    with pytest.warns(ConvergenceWarning, match="champagne stopped after 2 iterations"):
        r = solved(L, y, 2, False, "full", max_iter=2)
    assert not r.converged
    rng = np.random.default_rng(0)
    with pytest.warns(NothingFoundWarning):
        r = solved(L, 0.1 * rng.normal(size=(M, 900)), 2, False, "full", max_iter=3000)
    assert r.nothing_found and not r.mean.any() and len(r.active) == 0
    for form, where in (("scalar", "everywhere"), ("diagonal", r"at \d+ of 4 sensors")):
        with pytest.warns(NoiseBoundaryWarning, match=f"ran to zero {where}"):
            r = champagne(rng.normal(size=(4, 60)), rng.normal(size=(4, 2)), learn_noise=form)
        assert r.noise_at_boundary
    L = rng.normal(size=(3, 20))
    L[2] = L[0] + L[1] + 1e-5 * rng.normal(size=20)
    with pytest.warns(NoiseBoundaryWarning, match=r"at \d of 3 sensors, where the search"):
        champagne(L, L @ rng.normal(size=(20, 60)), learn_noise="full", update_mode="fast")


# ---- on every road


@every_noise
@pytest.mark.parametrize("prior", ["scalar", "full"])
def test_through_the_estimator_and_a_file(form, prior, tmp_path):
    "Whitened with a covariance; evidence in units of the recording; saved and opened"
    L, y, C = problem(2, n_times=120)
    params = dict(learn_noise=form, source_cov=prior, max_iter=15)
    r = SourceEstimator("champagne", params, n_orient=2, noise_cov=C).fit(L, y).predict()
    W = linalg.inv(linalg.sqrtm(C).real)
    given = {} if form else dict(noise_var=1.0)
    white = champagne(W @ L, W @ y, n_orient=2, **params, **given)
    close(r.mean, white.mean, 1e-8, "mean")
    shift = 120 * np.linalg.slogdet(W)[1]
    close(r.log_evidence, white.log_evidence + shift, 1e-8, "evidence")
    back = result_from_arrays(read_arrays(write_arrays(tmp_path / "a.npz", result_to_arrays(r))))
    assert set(back) == set(r) and np.array_equal(back.std, r.std)
    for key in {"noise_cov", "source_cov"} & set(r):
        assert np.array_equal(back[key], r[key])


@pytest.mark.parametrize(
    "noise, form", [("given", False), ("baseline", False), ("learn", "scalar"), ("learn", "full")]
)
@pytest.mark.filterwarnings("ignore::calibrain.core.warnings.NoiseSamplesWarning")
def test_on_recordings(noise, form):
    "From MNE's objects, by dense matrices in the whitened space; regions read the same posterior"
    evoked, fwd, cov = mne_problem("eeg", 6)
    params = dict(learn_noise=form, source_cov="full", max_iter=40)
    said = dict(orientation="free", noise=noise, solver_params=params, progress=False)
    est = estimate_evoked(evoked, fwd, cov, "champagne", tmin=0.0, tmax=0.39, **said)
    r = est.result
    head = whitened_forward([evoked], fwd, cov, None, "free")
    W = head.whitener.W
    L, y = W @ head.leadfield.matrix(), W @ (1e6 * evoked.copy().crop(0.0, 0.39).data)
    Gamma = linalg.block_diag(*r["source_cov"])
    Lambda = r["noise_cov"] if form == "full" else np.diag(r["lambdas"])
    Lambda = Lambda * r.noise_var * len(Lambda) / np.trace(Lambda)  # of the average, not an epoch
    Sigma = Lambda + L @ Gamma @ L.T
    gain = Gamma @ L.T @ linalg.inv(Sigma)
    close(r.mean, gain @ y, 1e-6, "mean")
    assert est.n_orient == 3 and np.isfinite(est.std.data).all()
    rows = np.arange(12, 15)
    cov_of_one = (Gamma - gain @ L @ Gamma)[np.ix_(rows, rows)]
    close(r.posterior.region([4]).cov, cov_of_one, 1e-6, "covariance of a source")


@every_noise
@every_prior
def test_complex_samples_are_twice_as_many(form, prior):
    L, y, _ = problem(2, n_times=120)
    z = y[:, :60] + 1j * y[:, 60:]
    a, b = solved(L, z, 2, form, prior), solved(L, y, 2, form, prior)
    close(np.hstack([a.mean.real, a.mean.imag]), b.mean, 1e-10, "mean")
    close(a.log_evidence, b.log_evidence, 1e-12, "evidence")
    if prior == "full":
        close(a["source_cov"], b["source_cov"], 1e-12, "Γ")


@every_noise
@pytest.mark.parametrize("prior", ["scalar", "full"])
def test_on_time_components(form, prior):
    "The noise is that of all samples, the prior that of the components; dense matrices say the rest"
    L, y, _ = problem(2, n_times=300)
    few = solved(L, y, 2, form, prior, n_components=2)
    plain = solved(L, y, 2, form, prior)
    Gamma, Lambda = hyperparameters(few, 2)
    close(Lambda, hyperparameters(plain, 2)[1], 1e-12, "Λ")
    cost, P = dense_cost(L, y, Gamma, Lambda)
    close(few.cost, cost, 1e-8, "ℒ of all samples")
    close(few.mean, Gamma @ L.T @ P @ y, 1e-8, "mean")
    assert few["n_components"] == 2
    if form is False:  # γ of a sample is that of a component, times their share
        Phi = linalg.svd(y)[2][:2].T
        said = dict(max_iter=3000, tol=1e-9)
        few = solved(L, y, 2, form, prior, n_components=2, **said)
        on_them = hyperparameters(solved(L, y @ Phi, 2, form, prior, **said), 2)[0]
        Gamma = hyperparameters(few, 2)[0]
        close(np.trace(Gamma), np.trace(on_them) * 2 / 300, 1e-3, "sum of prior variances")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet = np.random.default_rng(0).normal(size=(M, 300))
        none = solved(
            L, quiet, 2, form, prior, n_components="auto", noise_var=None if form else 1.2
        )
    assert none["n_components"] == 0 and none.nothing_found


@every_noise
@every_prior
@orientations
def test_numbers_that_are_fitted_are_counted(form, prior, k):
    "Variances above zero; of a covariance those that one of its rank has"
    L, y, _ = problem(k)
    r = solved(L, y, k, form, prior, max_iter=300)
    Gamma, _ = hyperparameters(r, k)
    of_noise = {False: 0, "scalar": 1, "diagonal": M, "full": M * (M + 1) // 2}[form]
    each = Gamma.reshape(N, k, N, k)[np.arange(N), :, np.arange(N)]
    if prior == "scalar":
        of_sources = each.any((1, 2)).sum()
    elif prior == "diagonal":
        of_sources = np.count_nonzero(each)
    else:
        tol = 1e-6 * np.linalg.norm(each, 2, axis=(1, 2))
        ranks = np.linalg.matrix_rank(each, tol=tol, hermitian=True)
        of_sources = sum({0: 0, 1: k, 2: 2 * k - 1, 3: 6}[rank] for rank in ranks)
    assert r.fitted == of_sources + of_noise
