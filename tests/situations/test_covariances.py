"What is no covariance is refused on every road, in the same words, before any work."

import mne
import numpy as np
import pytest
from test_evoked import changed, no_solver, parts, problem, same, solve  # noqa: F401  (a fixture)

from calibrain import Leadfield, SourceEstimator
from calibrain.recording.whitened import whitened_forward


def indefinite(C):
    size = np.sqrt(C.diagonal())
    d, U = np.linalg.eigh(C / np.outer(size, size))
    d[:3] = -0.01 * d[-1]
    return (U * d) @ U.T * np.outer(size, size)


def skew(C):
    C = C.copy()
    C[0, 1] = 0.9 * C[0, 0]
    C[1, 0] = 0
    return C


def with_nan(C):
    C = C.copy()
    C[2, 2] = np.nan
    return C


BAD = {  # what is wrong: a change of the covariance, words
    "indefinite": (indefinite, r"without negative eigenvalues, got -0\.0\d+ of the largest \(3 of"),
    "asymmetric": (skew, "must be symmetric, got entries that differ by"),
    "NaN": (with_nan, "noise_cov must be finite"),
    "zero": (np.zeros_like, "different from zero somewhere"),
    "negative": (lambda C: -C, "without negative variances"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("kind", ["eeg", "meg", "both"])
def test_recording(what, kind, no_solver):  # noqa: F811  (the fixture)
    change, words = BAD[what]
    evoked, fwd, cov = problem(kind)
    with pytest.raises(ValueError, match=words):
        solve(evoked, fwd, parts(cov, change(cov["data"])))


@pytest.mark.parametrize("what", BAD)
def test_arrays(what, no_solver):  # noqa: F811  (the fixture)
    change, words = BAD[what]
    evoked, fwd, cov = problem()
    lf = Leadfield.from_forward(fwd, "fixed", evoked.ch_names)
    y = 1e6 * evoked.data
    with pytest.raises(ValueError, match=words):
        SourceEstimator("BMN", noise_cov=change(1e12 * cov["data"])).fit(lf, y)
    with pytest.raises(ValueError, match=words):
        SourceEstimator("BMN", noise_cov=parts(cov, change(cov["data"]))).fit(lf, y)


def test_an_asymmetry_among_electrodes_beside_magnetometers():
    "Small in fT², and half of an electrode's variance"
    evoked, fwd, cov = problem("both")
    C = cov["data"].copy()
    at = [cov["names"].index(n) for n in ("Cz", "Pz")]
    C[at[0], at[1]] += 0.5 * C[at[0], at[0]]
    with pytest.raises(ValueError, match="must be symmetric"):
        solve(evoked, fwd, parts(cov, C))


def test_rounding_is_no_mistake():
    "Single precision leaves eigenvalues a little below zero, and entries a little apart"
    evoked, fwd, cov = problem()
    P = np.eye(32) - 1 / 32
    C = (P @ cov["data"] @ P).astype(np.float32).astype(float)
    assert np.linalg.eigvalsh(C)[0] < 1e-9 * np.linalg.eigvalsh(C)[-1]
    same(solve(evoked, fwd, parts(cov, C)), solve(evoked, fwd, cov), rtol=1e-3)


def test_diagonal():
    "As a vector, as a matrix, and as MNE-Python's as_diag"
    evoked, fwd, cov = problem()
    d = cov["data"].diagonal().copy()
    full = solve(evoked, fwd, parts(cov, np.diag(d)))
    same(solve(evoked, fwd, parts(cov, d)), full)
    same(solve(evoked, fwd, cov.copy().as_diag()), full)


@pytest.mark.parametrize("kind", ["eeg", "meg"])
def test_projections_of_the_covariance(kind):
    "Already applied to it, or only listed: the same noise"
    evoked, fwd, cov = problem(kind)
    e = evoked.copy()
    if kind == "eeg":
        e.set_eeg_reference("average", projection=True, verbose="ERROR")
    projected = whitened_forward([e], fwd, cov)
    P, _, _ = mne._fiff.proj.make_projector(e.info["projs"], e.ch_names)
    applied = parts(cov, P @ cov["data"] @ P.T)
    applied["projs"] = e.info["projs"]
    listed = changed(cov, projs=e.info["projs"])
    for other in (applied, listed):
        W = whitened_forward([e], fwd, other).whitener.W
        V = projected.whitener.W
        scale = np.abs(V.T @ V).max()
        np.testing.assert_allclose(W.T @ W, V.T @ V, atol=1e-6 * scale)
