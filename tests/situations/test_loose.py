"""Loose orientation: MNE-Python's prior, between fixed and free."""

import mne
import numpy as np
import pytest
import realdata
from test_evoked import how, problem, same, sensors, solve, whitener

from calibrain import estimate_evoked
from calibrain.recording.loose import surface_axes


@pytest.mark.parametrize("solver", ["BMN", "gamma_map", "gamma_map_sflex", "BMN_joint"])
@pytest.mark.parametrize("kind", ["eeg", "meg", "both"])
@pytest.mark.parametrize("depth", [None, 0.8])
def test_its_ends_are_fixed_and_free(solver, kind, depth):
    evoked, fwd, cov = problem(kind)
    said = dict(solver=solver, noise=how(solver), depth=depth)
    for loose, orientation in ((0, "fixed"), (1, "free"), (1.0, "free")):
        a = solve(evoked, fwd, cov, loose=loose, **said)
        b = solve(evoked, fwd, cov, orientation=orientation, **said)
        assert type(a.mean) is type(b.mean)
        for x, y in ((a.mean.data, b.mean.data), (a.std.data, b.std.data)):
            np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10 * np.abs(y).max())


@pytest.mark.parametrize("solver", ["BMN", "gamma_map"])
@pytest.mark.parametrize("kind", ["eeg", "meg"])
def test_fixed_and_free_are_its_limits(solver, kind):
    "Where nothing is scaled yet, and where almost nothing is left along the cortex"
    evoked, fwd, cov = problem(kind)
    normals = fwd["source_nn"].reshape(-1, 3, 3)[:, 2] if fwd["surf_ori"] else fwd["src"][0]["nn"]
    free = solve(evoked, fwd, cov, solver, orientation="free")
    close = solve(evoked, fwd, cov, solver, loose=1 - 1e-13)
    size = np.abs(free.mean.data).max()
    np.testing.assert_allclose(close.mean.data, free.mean.data, atol=1e-7 * size)
    fixed = solve(evoked, fwd, cov, solver, orientation="fixed")
    close = solve(evoked, fwd, cov, solver, loose=1e-14)
    along = np.einsum("nct,nc->nt", close.mean.data, normals)
    size = np.abs(fixed.mean.data).max()
    np.testing.assert_allclose(along, fixed.mean.data, atol=1e-6 * size)


@pytest.mark.parametrize("loose", [0.05, 0.2, 0.7])
@pytest.mark.parametrize("depth", [None, 0.8])
@pytest.mark.parametrize("kind", ["eeg", "meg", "both"])
def test_against_matrices(loose, depth, kind):
    "The prior covariance that MNE-Python would take, in a textbook formula"
    evoked, fwd, cov = problem(kind)
    est = solve(evoked, fwd, cov, orientation="loose", loose=loose, depth=depth)
    e = evoked.copy()
    if "eeg" in e:
        e.set_eeg_reference("average", projection=True, verbose="ERROR")
    W = whitener(e, cov)
    turned = mne.convert_forward_solution(fwd, surf_ori=True, verbose="ERROR")
    rows = [turned["sol"]["row_names"].index(n) for n in e.ch_names]
    L = W @ turned["sol"]["data"][rows]
    prior = mne.forward.compute_orient_prior(turned, loose=loose, verbose="ERROR")
    if depth is not None:
        size = np.linalg.norm(L.reshape(len(L), -1, 3), axis=(0, 2))
        weights = np.maximum(size, size.max() / 10) ** -depth
        prior = prior * np.repeat(weights / np.median(weights), 3) ** 2
    P = 1e-18 * est.result.gamma * prior
    C = (L * P) @ L.T + np.eye(len(W)) / evoked.nave
    inside = (e.times > -1e-6) & (e.times < 0.3 + 1e-6)
    mean = P[:, None] * L.T @ np.linalg.solve(C, W @ e.data[:, inside])
    nn = turned["source_nn"].reshape(-1, 3, 3)
    in_space = np.einsum("nkc,nkt->nct", nn, mean.reshape(len(nn), 3, -1))
    np.testing.assert_allclose(est.mean.data, in_space, atol=1e-6 * np.abs(in_space).max())


@realdata.needed
def test_on_a_cortex():
    "The share of what is found along the surface grows with loose"
    e, fwd, cov = realdata.evoked("Right Auditory"), realdata.forward("meg"), realdata.covariance()
    normals = mne.convert_forward_solution(fwd, surf_ori=True, verbose="ERROR")["source_nn"][2::3]
    shares = []
    for loose in (0.01, 0.2, 0.6):
        said = dict(solver="BMN", tmin=0.08, tmax=0.09, progress=False)
        x = estimate_evoked(e, fwd, cov, loose=loose, **said).mean.data
        across = np.einsum("nct,nc->nt", x, normals)
        shares.append(1 - (across**2).sum() / (x**2).sum())
    assert 0 < shares[0] < shares[1] < shares[2] < 2 / 3
    assert shares[0] < 0.05


@realdata.needed
def test_normals_of_patches_or_not_as_mne_takes_them():
    fwd = realdata.forward("eeg")
    e = realdata.evoked("Right Auditory")
    said = dict(solver="BMN", tmin=0.08, tmax=0.09, progress=False)
    est = estimate_evoked(e, fwd, realdata.covariance(), loose=0.2, **said)
    turned = mne.convert_forward_solution(fwd, surf_ori=True, verbose="ERROR")
    np.testing.assert_allclose(est.basis[:, :, 2], turned["source_nn"][2::3], atol=1e-12)


def test_intervals_hold_what_they_promise():
    "Amplitudes drawn from the loose prior"
    _, fwd, cov = problem()
    rng = np.random.default_rng(0)
    axes = surface_axes(fwd["src"][0]["nn"])
    own = 40 * rng.normal(size=(25, 3, 300)) * np.sqrt([0.2, 0.2, 1])[:, None]
    x = 1e-9 * (axes @ own)
    noise = np.linalg.cholesky(cov["data"]) @ rng.normal(size=(32, 300))
    data = fwd["sol"]["data"] @ x.reshape(75, -1) + noise
    e = mne.EvokedArray(data, sensors("eeg"), tmin=0.0, nave=1, verbose="ERROR")
    said = dict(solver="BMN", loose=0.2, tmin=None, tmax=None)
    low, high = solve(e, fwd, cov, **said).interval(0.9)
    assert np.mean((low.data < x) & (x < high.data)) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(
    "said, words",
    [
        (dict(loose=-0.1), "loose must be .* got -0.1: 0 is fixed"),
        (dict(loose=2), "loose must be"),
        (dict(loose=0.2, orientation="fixed"), "'loose' where loose=0.2 is given, got 'fixed'"),
        (dict(loose=0.2, orientation="free"), "'loose' where loose=0.2 is given, got 'free'"),
        (dict(loose=0.2, orientation="meg2"), "leave one of the two out"),
        (dict(orientation=0.2), "orientation must be one of .*'loose', got 0.2"),
    ],
)
def test_what_is_refused(said, words):
    with pytest.raises(ValueError, match=words):
        solve(*problem(), **said)


def test_words_and_numbers_together():
    evoked, fwd, cov = problem()
    usual = solve(evoked, fwd, cov, orientation="loose")
    same(solve(evoked, fwd, cov, orientation="loose", loose=0.2), usual)
    same(solve(evoked, fwd, cov, loose=0.2), usual)
    assert usual.n_orient == 3


def test_a_volume_and_a_fixed_forward_solution_have_none():
    evoked, fwd, cov = problem()
    along = mne.convert_forward_solution(fwd, surf_ori=True, force_fixed=True, verbose="ERROR")
    with pytest.raises(ValueError, match=r"as the forward solution has one component .*'loose'"):
        solve(evoked, along, cov, orientation="loose")
    src = mne.setup_volume_source_space(pos=35.0, sphere=(0, 0.01, 0.01, 0.07), verbose="ERROR")
    sphere = mne.make_sphere_model((0, 0, 0.001), 0.095, verbose="ERROR")
    volume = mne.make_forward_solution(sensors("eeg"), None, src, sphere, verbose="ERROR")
    with pytest.raises(ValueError, match="got 'loose': a volume has no cortex"):
        solve(evoked, volume, cov, orientation="loose")
