"""Morphed estimates: against dense covariances, MNE-Python's own morph, and what is refused."""

from dataclasses import replace

import mne
import numpy as np
import pytest
from scipy import sparse
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation
from test_regions import TIMES, N, dense, estimate

from calibrain import EvokedPosterior, contrast
from calibrain.calibration.calibration import Calibration
from calibrain.core.warnings import NotCalibratedWarning, NothingFoundWarning
from calibrain.posterior.gaussian import Posterior
from calibrain.posterior.mixture import Mixture
from calibrain.recording.morph import MorphedPosterior

TIGHT = dict(rtol=1e-10, atol=1e-10)
FROM = [np.arange(0, N, 2), np.arange(1, N, 2)]  # Of the estimates of test_regions
TO = [np.arange(0, 160, 2), np.arange(70)]


def sphere(n):
    "Points all over a sphere"
    z = 1 - (2 * np.arange(n) + 1) / n
    turn = np.arange(n) * np.pi * (3 - np.sqrt(5))
    return np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], 1)


@pytest.fixture(scope="module")
def morph(tmp_path_factory):
    "MNE-Python's own, between two brains that are spheres"
    folder = tmp_path_factory.mktemp("subjects")
    for subject, turned in (
        ("somebody", [0.0, 0, 0]),
        ("fsaverage", [1.0, 2, 0.5]),
    ):
        (folder / subject / "surf").mkdir(parents=True)
        rr = 100 * Rotation.from_rotvec(turned).apply(sphere(N))
        tris = ConvexHull(rr).simplices
        corners = rr[tris]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        inwards = (normal * corners.mean(1)).sum(1) < 0
        tris[inwards] = tris[inwards][:, ::-1]
        for half in ("lh", "rh"):
            for name in ("sphere.reg", "white"):
                path = folder / subject / "surf" / f"{half}.{name}"
                mne.write_surface(path, rr, tris, verbose="ERROR")
    stc = mne.SourceEstimate(np.zeros((N, 1)), FROM, 0, 1, subject="somebody")
    names = dict(subject_from="somebody", subject_to="fsaverage", subjects_dir=folder)
    return mne.compute_source_morph(stc, **names, spacing=TO, smooth=5, verbose="ERROR")


def blocks(est, components):
    "From the coefficients to amplitudes or vectors, with loops"
    k = est.n_orient
    c = 3 if components == "vector" else 1
    D = np.zeros((N * c, N * k))
    for i in range(N):
        Q = np.eye(3) if est.basis is None else est.basis[i]
        if components == "normal":
            Q = np.ones((1, 1)) if k == 1 else est.normals[i][None] @ Q
        D[c * i : c * (i + 1), k * i : k * (i + 1)] = Q
    return D


@pytest.mark.parametrize("kind", ["gaussian", "depth", "mixture", "patches"])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("components", ["normal", "vector"])
def test_variances_are_those_of_the_dense_covariance(morph, kind, k, components):
    est = estimate(kind, k)
    found = est.morph(morph, components)
    mean, cov = dense(kind, k)
    c = 3 if components == "vector" else 1
    A = np.kron(morph.morph_mat.toarray(), np.eye(c)) @ blocks(est, components)
    variance = np.diagonal(A @ cov @ A.T, axis1=1, axis2=2).T
    shape = (150, TIMES) if c == 1 else (150, 3, TIMES)
    np.testing.assert_allclose(1e9 * found.mean.data, (A @ mean).reshape(shape), **TIGHT)
    np.testing.assert_allclose(1e18 * found.std.data**2, variance.reshape(shape), **TIGHT)
    B = np.random.default_rng(0).normal(size=(4, len(A)))
    joint = B @ A @ cov @ A.T @ B.T
    mine = np.broadcast_to(found.posterior.read_out(B).cov, joint.shape)
    np.testing.assert_allclose(mine, joint, atol=1e-10 * np.abs(joint).max())


@pytest.mark.parametrize("k", [1, 3])
def test_the_mean_is_that_of_mne(morph, k):
    est = estimate("gaussian", k)
    found, theirs = est.morph(morph), morph.apply(est.mean)
    assert type(found.mean) is type(theirs) and found.mean.subject == "fsaverage"
    for mine, their in zip(found.mean.vertices, theirs.vertices):
        np.testing.assert_array_equal(mine, their)
    np.testing.assert_allclose(found.mean.data, theirs.data, rtol=1e-10, atol=1e-20)


def test_a_morphed_estimate_answers_all_that_an_estimate_does(morph, tmp_path):
    found = estimate("gaussian", 1).morph(morph)
    draws = found.posterior.sample(4000, seed=0)
    low, high = found.interval(0.9)
    within = ((draws > 1e9 * low.data) & (draws < 1e9 * high.data)).mean()
    assert abs(within - 0.9) < 0.01
    counted = (np.abs(draws) > 2).mean(0)
    np.testing.assert_allclose(found.exceedance(2e-9).data, counted, atol=0.04)
    label = mne.Label(np.arange(0, 60), hemi="lh", name="a", subject="fsaverage")
    A = np.zeros((1, 150))
    A[0, :30] = 1 / 30
    np.testing.assert_allclose(found.regions(label).cov, found.posterior.read_out(A).cov, **TIGHT)
    difference = contrast({"A": 1, "B": -1}, {"A": found, "B": found})
    np.testing.assert_allclose(difference.std.data, np.sqrt(2) * found.std.data)
    assert "of part" in str(found) and "fsaverage" in found._repr_html_()
    back = MorphedPosterior.load(found.save(tmp_path / "a.npz"))
    np.testing.assert_allclose(back.std.data, found.std.data)
    assert back.subject == "fsaverage" and "of part" in str(
        EvokedPosterior.load(tmp_path / "a.npz")
    )


@pytest.mark.parametrize("k", [1, 3])
def test_a_mixture_keeps_its_states(morph, k):
    est = estimate("patches", k)
    found = est.morph(morph)
    assert isinstance(found.posterior, Mixture)
    p, before = found.posterior, est.posterior
    np.testing.assert_allclose(p.count_probability, before.count_probability)
    assert all(len(a.atoms) == len(b.atoms) for a, b in zip(p.states, before.states))
    half = (p.reached > 0).sum()
    assert 0 < ((p.inclusion > 0) & (p.inclusion <= p.reached + 1e-12)).sum() <= half
    found.peak()


def test_bases_do_not_change_what_is_on():
    "Within half of a patch, whatever the axes of its sources are"
    p = estimate("patches", 3).posterior
    turns = Rotation.from_rotvec(np.random.default_rng(0).normal(size=(N, 3))).as_matrix()
    turned = sparse.csc_array(sparse.bsr_array((turns, np.arange(N), np.arange(N + 1))) @ p.S)
    first = replace(p, S=sparse.csc_array(p.S)).inclusion
    np.testing.assert_allclose(replace(p, S=turned).inclusion, first)


def made(M, start, kind="surface", **changes):
    about = dict.fromkeys(
        ("zooms", "niter_affine", "niter_sdr", "spacing", "smooth", "xhemi", "shape", "affine")
    )
    about |= dict.fromkeys(("pre_affine", "sdr_morph", "vol_morph_mat", "morph_mat"))
    about |= dict(subject_from="somebody", subject_to="fsaverage", vertices_to=TO)
    about |= dict(kind=kind, src_data=start)
    about["morph_mat" if kind == "surface" else "vol_morph_mat"] = M
    return mne.SourceMorph(**about | changes)


def test_a_volume_by_its_matrix():
    est = replace(estimate("gaussian", 3), space="volume", vertices=[np.arange(0, 2 * N, 2)])
    rng = np.random.default_rng(0)
    M = sparse.csr_array(rng.random((50, N)) * (rng.random((50, N)) < 0.05))
    inuse = np.zeros(2 * N, bool)
    inuse[::2] = True
    start = dict(inuse=[inuse])
    morph = made(M, start, "volume", vertices_to=[np.arange(50)])
    found = est.morph(morph)
    A = np.kron(M.toarray(), np.eye(3)) @ blocks(est, "vector")
    variance = np.diag(A @ est.posterior.dense() @ A.T).reshape(50, 3, 1)
    np.testing.assert_allclose(1e18 * found.std.data**2, variance * np.ones(TIMES), **TIGHT)
    assert isinstance(found.mean, mne.VolVectorSourceEstimate)
    without = made(None, start, "volume", vertices_to=[np.arange(50)])
    with pytest.raises(ValueError, match=r"call morph.compute_vol_morph_mat\(\) first"):
        est.morph(without)


# ---- bad input

M = sparse.csr_array(np.eye(150, N))


@pytest.mark.parametrize(
    "morph, error, words",
    [
        (np.eye(3), TypeError, "morph must be an mne.SourceMorph, got a ndarray"),
        (made(M, dict(vertices_from=FROM), subject_from="else"), ValueError, "'somebody'.*'else'"),
        (made(M, dict(vertices_from=FROM[::-1])), ValueError, r"one from 100 \+ 100, but others"),
        (made(M, dict(vertices_from=[FROM[0][1:], FROM[1]])), ValueError, r"from 99 \+ 100"),
        (made(M, dict(vertices_from=FROM), "mixed"), ValueError, "of the kind .*'surface'"),
    ],
)
def test_what_is_no_morph_of_this_estimate(morph, error, words, monkeypatch):
    monkeypatch.setattr(Posterior, "mean", None)  # before any work
    with pytest.raises(error, match=words):
        estimate("gaussian", 1).morph(morph)


def test_components(morph):
    with pytest.raises(ValueError, match="components must be one of 'normal', 'vector'"):
        estimate("gaussian", 3).morph(morph, "norm")
    mixed = replace(estimate("gaussian", 1), space="mixed")
    with pytest.raises(ValueError, match="of the kind of the estimate, 'mixed', got 'surface'"):
        mixed.morph(morph)


def test_error_bars_that_are_not_what_they_seem(morph):
    est = replace(estimate("gaussian", 1), calibration=Calibration.__new__(Calibration))
    with pytest.warns(NotCalibratedWarning, match="do not hold for what several"):
        assert est.morph(morph).calibration is None
    p = est.posterior
    nothing = replace(p, gamma=p.gamma * 0, V=p.V * 0, coeff_mean=p.coeff_mean * 0)
    silent = replace(est, calibration=None, result=replace(est.result, posterior=nothing))
    with pytest.warns(NothingFoundWarning, match="no certainty"):
        silent.morph(morph)
