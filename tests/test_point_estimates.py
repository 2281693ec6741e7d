"""MxNE and LCMV: the amplitudes of MNE-Python, optimal by themselves, and never an error bar."""

import warnings

import mne
import numpy as np
import pytest
from problems import close
from test_evoked import problem, referenced

import calibrain
from calibrain import (
    SourceEstimator,
    calibrate,
    coverage_curve,
    estimate_evoked,
    lcmv,
    mxne,
)
from calibrain.calibration.conformal import conformal_run
from calibrain.calibration.credible_sets import mahalanobis
from calibrain.core.archive import read_arrays, write_arrays
from calibrain.core.warnings import ConvergenceWarning
from calibrain.evaluation.evaluate import evaluate, mean_posterior_std, sharpness
from calibrain.head.leadfield import Leadfield
from calibrain.posterior.mapped import mapped
from calibrain.posterior.result import result_from_arrays, result_to_arrays
from calibrain.recording.whitened import whitened_forward
from calibrain.solvers.registry import REFERENCE, SOLVERS, describe, solver_table
from calibrain.study.ways import solver_ways

references = pytest.mark.parametrize("solver", [mxne, lcmv], ids=["mxne", "lcmv"])
orientations = pytest.mark.parametrize("k", [1, 2, 3])
M, N, T = 12, 25, 40


def recording(k=1, seed=0, n_times=T):
    "Leadfield, sources of which two are on, recording"
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(M, N * k))
    x = np.zeros((N, k, n_times))
    x[[3, 17]] = rng.normal(size=(2, k, n_times))
    x = x.reshape(N * k, n_times)
    return L, x, L @ x + 0.5 * rng.normal(size=(M, n_times))


# ---- MNE-Python


def ours(solver, orientation, **params):
    "The amplitudes of the evoked response that MNE-Python is given, nAm"
    evoked, fwd, cov = problem("eeg", 1)
    head = whitened_forward([evoked], fwd, cov, None, orientation)
    y = 1e6 * evoked.data
    estimator = SourceEstimator(solver, params, noise_cov=head.whitener)
    return estimator.fit(head.leadfield, y).predict()


@pytest.mark.parametrize("orientation", ["fixed", "free"])
@pytest.mark.parametrize("alpha", [20.0, 60.0])
def test_mixed_norm_of_mne_python(orientation, alpha):
    evoked, fwd, cov = problem("eeg", 1)
    loose = dict(fixed=0.0, free=1.0)[orientation]
    said = dict(alpha=alpha, loose=loose, depth=0.0, debias=False, tol=1e-12, maxit=20_000)
    said |= dict(pick_ori="vector" if loose else None, time_pca=False, verbose="ERROR")
    theirs = mne.inverse_sparse.mixed_norm(referenced(evoked), fwd, cov, **said)
    r = ours("mxne", orientation, alpha=alpha, tol=1e-13, max_iter=20_000)
    full = np.zeros_like(r.mean.reshape(25, -1, r.mean.shape[1]))
    at = np.searchsorted(fwd["src"][0]["vertno"], theirs.vertices[0])
    full[at] = 1e9 * theirs.data.reshape(len(at), full.shape[1], -1)
    close(r.mean, full.reshape(r.mean.shape), 1e-6, "amplitudes")


@pytest.mark.parametrize("pick_ori", ["vector", "max-power"])
def test_lcmv_of_mne_python(pick_ori):
    evoked, fwd, cov = problem("eeg", 1)
    e = referenced(evoked).apply_proj(verbose="ERROR")
    data = mne.Covariance(e.data @ e.data.T / e.data.shape[1], e.ch_names, [], e.info["projs"], 60)
    said = dict(reg=0.05, noise_cov=cov, pick_ori=pick_ori, weight_norm=None, verbose="ERROR")
    filters = mne.beamformer.make_lcmv(e.info, fwd, data, **said)
    theirs = mne.beamformer.apply_lcmv(e, filters, verbose="ERROR").data * 1e9
    reg = 0.05 * 31 / 32  # theirs is a share of the mean over 32 channels, of which 31 are left
    mean = ours("lcmv", "free", pick_ori=pick_ori, reg=reg).mean.reshape(25, 3, -1)
    if pick_ori == "vector":
        close(mean, theirs, 1e-6, "amplitudes")
    else:
        u = filters["max_power_ori"]
        close(np.einsum("nk,nkt->nt", u, mean), theirs, 1e-6, "along the direction")
        close(u[:, :, None] * theirs[:, None], mean, 1e-6, "amplitudes")


# ---- by themselves


@orientations
def test_mixed_norm_is_optimal(k):
    "The subgradient of every source, from the definition"
    L, _, y = recording(k)
    r = mxne(L, y, n_orient=k, alpha=30, tol=1e-12)
    alpha = r["alpha"]
    pull = (L.T @ (y - L @ r.mean)).reshape(N, -1)
    X = r.mean.reshape(N, -1)
    length = np.linalg.norm(X, axis=1)
    on = length > 0
    close(pull[on], alpha * X[on] / length[on][:, None], 1e-4, "pull of sources that are on")
    assert np.linalg.norm(pull[~on], axis=1).max() <= alpha * (1 + 1e-6)
    assert 0 < on.sum() < N and r.converged and r["duality_gap"] <= 1e-12
    at_zero = np.linalg.norm((L.T @ y).reshape(N, -1), axis=1).max()
    close(alpha, 0.3 * at_zero, 1e-12, "the largest penalty")


@orientations
def test_filters_have_unit_gain(k):
    L, _, y = recording(k)
    r = lcmv(L, y, n_orient=k)
    gain = np.einsum("nam,mnb->nab", r["filters"].reshape(N, k, M), L.reshape(M, N, k))
    close(gain, np.broadcast_to(np.eye(k), gain.shape), 1e-9, "WL")
    C = y @ y.T / T
    C += 0.05 * np.trace(C) / M * np.eye(M)
    P = np.linalg.inv(C)
    for n in range(N):
        G = L[:, n * k : n * k + k]
        W = np.linalg.inv(G.T @ P @ G) @ G.T @ P
        close(r.mean[n * k : n * k + k], W @ y, 1e-8, "amplitudes")


@references
def test_units_and_order(solver):
    L, _, y = recording(2)
    a = solver(L, y, n_orient=2)
    close(solver(1e-3 * L, 50 * y, n_orient=2).mean, 5e4 * a.mean, 1e-6, "units")
    sources = np.random.default_rng(0).permutation(N)
    columns = (2 * sources[:, None] + [0, 1]).ravel()
    close(solver(L[:, columns], y, n_orient=2).mean, a.mean[columns], 1e-3, "order of sources")


def test_too_few_passes_are_announced():
    L, _, y = recording()
    with pytest.warns(ConvergenceWarning, match="mxne stopped after max_iter=3 passes: the obj"):
        assert not mxne(L, y, alpha=1, max_iter=3).converged


def test_what_is_refused():
    L, _, y = recording(3)
    for said, words in (
        (dict(alpha=0), "alpha must be finite and > 0"),
        (dict(alpha=100), "alpha must be .*it is in percent"),
        (dict(alpha="sure"), "alpha must be a real number"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            mxne(L, y, n_orient=3, **said)
    for said, words in (
        (dict(reg=0), "reg must be finite and > 0"),
        (dict(pick_ori="normal"), "pick_ori must be one of 'vector', 'max-power'"),
    ):
        with pytest.raises(ValueError, match=words):
            lcmv(L, y, n_orient=3, **said)
    L[:, 4::3] = 0
    with pytest.raises(ValueError, match="L must be seen in every direction of every source"):
        lcmv(L, y, n_orient=3)


# ---- never an error bar


@references
def test_nothing_is_said_of_uncertainty(solver):
    L, _, y = recording(2)
    r = solver(L, y, n_orient=2)
    assert np.isnan(r.std).all() and np.isnan(r.cost) and np.isnan(r.log_evidence)
    assert not [key for key in r if key.startswith("posterior_cov")]
    assert "no posterior" in repr(r) and "error bars" in r._repr_html_()
    assert not r.nothing_found
    for asked in ("var", "gamma", "blocks", "dense", "region", "read_out", "sample", "prior_var"):
        with pytest.raises(TypeError, match=f"`{asked}`, got a point estimate, which has no error"):
            getattr(r.posterior, asked)


@references
def test_what_needs_a_posterior_refuses(solver):
    "By one message, which names the cure"
    L, x, y = recording(2)
    r = solver(L, y, n_orient=2)
    words = "got a point estimate, which has no error bars: use one that has, such as gamma_map"
    for ask in (
        lambda: coverage_curve(x, r),
        lambda: mahalanobis(x, r),
        lambda: mean_posterior_std(r),
        lambda: sharpness(r),
        lambda: conformal_run(x, r),
        lambda: mapped(r, np.eye(2 * N), 2),
    ):
        with pytest.raises(TypeError, match=words):
            ask()


@references
def test_roads_that_are_about_error_bars_refuse(solver):
    evoked, fwd, cov = problem("eeg", 1)
    name = solver.__name__
    words = f"solver must be one with a posterior for .*, got '{name}', a reference without error"
    with pytest.raises(ValueError, match=words):
        estimate_evoked(evoked, fwd, cov, name, progress=False)
    with pytest.raises(ValueError, match=words):
        calibrate(Leadfield.random(8, 20), np.eye(8), solver=name)
    with pytest.raises(ValueError, match=words):
        solver_ways([dict(solver=name, noise="oracle")])


@references
def test_errors_of_amplitudes_are_there(solver):
    lf = Leadfield.random(M, N)
    rng = np.random.default_rng(0)
    x = np.zeros((N, T))
    x[[3, 17]] = 5 * rng.normal(size=(2, T))
    r = solver(lf, lf.matrix() @ x + 0.1 * rng.normal(size=(M, T)))
    record = evaluate(x, r, lf)
    for name in ("mse", "auc", "localisation_error", "emd", "f1_rank", "explained_variance"):
        assert np.isfinite(record[name]), name
    assert record["n_active"] == 2 and record["auc"] > 0.8
    left_out = {"crps", "log_score", "interval_score", "sharpness", "calibration_error", "level"}
    assert not left_out & {*record}
    assert record["found_by"] == ("amplitude" if solver is mxne else "rank")


# ---- roads


@references
def test_registry_and_estimator(solver, tmp_path):
    name = solver.__name__
    assert getattr(calibrain, name) is solver and describe(name) is REFERENCE[name]
    assert name not in SOLVERS and not describe(solver).posterior
    row = next(row for row in solver_table().split("\n") if f"`{name}`" in row)
    assert "none: a reference" in row and "not used" in row

    L, _, y = recording(2)
    A = np.random.default_rng(1).normal(size=(M, M))
    C = A @ A.T + np.eye(M)
    e = SourceEstimator(name, n_orient=2, noise_cov=C).fit(L, y)
    W = e.whitener_.W
    close(e.predict().mean, solver(W @ L, W @ y, n_orient=2).mean, 1e-9, "whitened")
    plain = SourceEstimator(name, n_orient=2).fit(L, y).predict()
    close(plain.mean, solver(L, y, n_orient=2).mean, 1e-12, "not told the noise")

    back = result_from_arrays(
        read_arrays(write_arrays(tmp_path / "a.npz", result_to_arrays(plain)))
    )
    assert np.array_equal(back.mean, plain.mean) and set(back) == set(plain)
    assert np.isnan(back.std).all()


@references
def test_complex_samples(solver):
    L, _, y = recording(2)
    z = y[:, : T // 2] + 1j * y[:, T // 2 :]
    a, b = solver(L, z, n_orient=2), solver(L, y, n_orient=2)
    close(np.hstack([a.mean.real, a.mean.imag]), b.mean, 1e-12, "amplitudes")


@references
def test_small_recordings(solver):
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n_sensors, n_times in ((1, 1), (1, 30), (6, 1)):
            L, y = rng.normal(size=(n_sensors, 8)), rng.normal(size=(n_sensors, n_times))
            r = solver(L, y)
            assert r.mean.shape == (8, n_times) and np.isfinite(r.mean).all()
