"""Regions of a posterior, against dense covariances, draws and MNE-Python's own labels.

Gaussian and mixture posteriors, one and three components, depth and whitening; what is no region
is refused.
"""

import re
from dataclasses import replace
from functools import cache

import mne
import numpy as np
import pytest
import realdata
from scipy import integrate, sparse, stats

from calibrain import BMN, EvokedPosterior, estimate_evoked, gamma_map_sflex
from calibrain.calibration.calibration import Calibration
from calibrain.core.warnings import NotCalibratedWarning, NothingFoundWarning
from calibrain.head.leadfield import Leadfield
from calibrain.posterior.gaussian import Posterior, selection
from calibrain.posterior.lengths import mean_length, power_moments
from calibrain.posterior.mapped import mapped
from calibrain.posterior.mixture import Mixture, State
from calibrain.recording.labels import region_weights, sign_flip
from calibrain.recording.regions import RegionPosterior

N = 200  # Sources, half of them in each hemisphere
TIMES = 6
TIGHT = dict(rtol=1e-10, atol=1e-10)


@cache
def head(k):
    return Leadfield.random(24, N, k, unit="fT/nAm")


def gaussian(k, depth=False):
    "A posterior of all sources, its columns weighted where there is depth"
    rng = np.random.default_rng(k)
    L = head(k).matrix()
    x = np.zeros((N * k, TIMES))
    x[: 12 * k] = rng.normal(size=(12 * k, TIMES)) * 4
    y = L @ x + rng.normal(size=(24, TIMES))
    weights = np.repeat(rng.uniform(0.5, 2, N), k) if depth else np.ones(N * k)
    result = BMN(L * weights, y, 1.0, n_orient=k)
    S = sparse.diags_array(weights, format="csr") @ result.posterior.S
    return replace(result, posterior=replace(result.posterior, S=sparse.csr_array(S)))


def mixture(k, patches=False):
    "States over a few sources each, one of them empty"
    rng = np.random.default_rng(10 + k)
    states = [State(np.zeros(0, int), np.zeros((0, TIMES)), np.zeros((0, 0)))]
    for _ in range(7):
        atoms = np.sort(rng.choice(N, 3, replace=False))
        root = rng.normal(size=(3 * k, 3 * k))
        states.append(State(atoms, rng.normal(size=(3 * k, TIMES)) * 3, root @ root.T))
    S = None
    if patches:
        near = sparse.csr_array(rng.random((N, N)) * (rng.random((N, N)) < 0.05) + np.eye(N))
        S = sparse.csc_array(sparse.kron(near, np.eye(k)))
    weights = rng.dirichlet(np.ones(8))
    return replace(gaussian(k), posterior=Mixture(tuple(states), weights, N, k, TIMES, S))


RESULTS = {
    "gaussian": lambda k: gaussian(k),
    "depth": lambda k: gaussian(k, depth=True),
    "mixture": lambda k: mixture(k),
    "patches": lambda k: mixture(k, patches=True),
}


@cache
def estimate(kind, k):
    lf = head(k)
    vertices = [np.arange(0, N, 2), np.arange(1, N, 2)]
    where = ("surface", vertices, lf.coords, lf.basis, 0.05, 0.01, "somebody", "a tone")
    return EvokedPosterior(RESULTS[kind](k), *where, normals=lf.normals)


def label(first, last, hemi="lh", name=None, subject="somebody"):
    name = name or f"{first}-{hemi}"
    return mne.Label(np.arange(first, last), hemi=hemi, name=name, subject=subject)


LABELS = [label(0, 60), label(60, 140), label(50, 200, "rh"), label(150, 190)]


@cache
def dense(kind, k):
    "Mean `(n, n_times)` and covariance `(n_times, n, n)` of all coefficients, from the definition"
    p = estimate(kind, k).posterior
    if isinstance(p, Posterior):
        S = p.S.toarray()
        cov = S @ (np.diag(p.gamma) - p.V.T @ p.V) @ S.T
        return S @ p.coeff_mean, np.tile(cov, (TIMES, 1, 1))
    each = [dense_state(p, state) for state in p.states]
    mean = sum(w * m for w, (m, _) in zip(p.weights, each))
    second = sum(w * (C + m.T[:, :, None] * m.T[:, None]) for w, (m, C) in zip(p.weights, each))
    return mean, second - mean.T[:, :, None] * mean.T[:, None]


def dense_state(p, state):
    k = p.n_orient
    rows = (state.atoms[:, None] * k + np.arange(k)).ravel()
    E = np.zeros((N * k, len(rows)))
    E[rows, np.arange(len(rows))] = 1
    S = np.eye(N * k) if p.S is None else p.S.toarray()
    return S @ E @ state.mean, S @ E @ state.cov @ E.T @ S.T


def dense_weights(est, mode, components):
    "A, from the definition, with loops"
    k = est.n_orient
    offset = len(est.vertices[0])
    rows = []
    for one in LABELS:
        part = 0 if one.hemi == "lh" else 1
        inside = np.flatnonzero(np.isin(est.vertices[part], one.vertices)) + part * offset
        normals = est.normals[inside]
        signs = sign_flip(normals) if mode == "mean_flip" else np.ones(len(inside))
        scale = 1 if mode == "sum" else 1 / len(inside)
        c = 3 if components == "vector" else 1
        A = np.zeros((c, N, k))
        for i, n, sign in zip(inside, normals, signs):
            Q = np.eye(3) if est.basis is None else est.basis[i]
            if components == "vector":
                A[:, i] = sign * scale * Q
            else:
                A[0, i] = sign * scale * (1.0 if k == 1 else n @ Q)
        rows.append(A.reshape(c, N * k))
    return np.concatenate(rows)


KINDS = pytest.mark.parametrize("kind", RESULTS)
SIZES = pytest.mark.parametrize("k", [1, 2, 3])


@KINDS
@SIZES
@pytest.mark.parametrize(
    "mode, components",
    [("mean", "normal"), ("mean_flip", "normal"), ("sum", "normal"), ("mean", "vector")],
)
def test_linear_modes_are_those_of_the_dense_covariance(kind, k, mode, components):
    est = estimate(kind, k)
    A = dense_weights(est, mode, components)
    mean, cov = dense(kind, k)
    found = est.regions(LABELS, mode, components)
    cov = A @ cov @ A.T
    std = np.sqrt(np.diagonal(cov, axis1=1, axis2=2)).T
    np.testing.assert_allclose(found.mean.reshape(len(A), -1), A @ mean, **TIGHT)
    np.testing.assert_allclose(found.std.reshape(len(A), -1), std, **TIGHT)
    np.testing.assert_allclose(np.broadcast_to(found.cov, cov.shape), cov, **TIGHT)


@KINDS
@SIZES
def test_power_is_that_of_the_dense_covariance(kind, k):
    """Of a Gaussian by tr((WC)²) and a quadratic form, of a mixture state by state."""
    est = estimate(kind, k)
    p = est.posterior
    within = region_weights(LABELS, est)
    W = np.repeat(within.weights.toarray(), k, axis=1)
    W /= within.weights.toarray().sum(1)[:, None]
    whole = isinstance(p, Posterior)
    mean, cov = dense(kind, k)
    parts = (
        [(1.0, mean, cov[0])]
        if whole
        else [(w, *dense_state(p, state)) for w, state in zip(p.weights, p.states)]
    )
    first = np.zeros((len(W), TIMES))
    second = np.zeros((TIMES, len(W), len(W)))
    for weight, m, C in parts:
        expected = W @ (m**2 + np.diag(C)[:, None])
        joint = 2 * W @ C**2 @ W.T + 4 * np.array([(W * x) @ C @ (W * x).T for x in m.T])
        first += weight * expected
        second += weight * (joint + expected.T[:, :, None] * expected.T[:, None])
    found = est.regions(LABELS, "power")
    np.testing.assert_allclose(found.mean, first, rtol=1e-10)
    joint = second - first.T[:, :, None] * first.T[:, None]
    np.testing.assert_allclose(found.cov, joint, rtol=1e-9, atol=1e-10 * np.abs(joint).max())


@KINDS
@pytest.mark.parametrize("k", [1, 3])
def test_draws_agree_with_moments(kind, k):
    "Lengths and powers, and exact quantiles of amplitudes, within the error of the draws"
    est = estimate(kind, k)
    n = 4000
    for record in (est.regions(LABELS, components="norm"), est.regions(LABELS, "power")):
        drawn = record.draws(n, seed=3)
        error = record.std / np.sqrt(n)
        assert (np.abs(drawn.mean(0) - record.mean) < 5 * error + 1e-9).all()
        kurtosis = np.mean((drawn - drawn.mean(0)) ** 4, axis=0)
        of_variance = np.sqrt(kurtosis / n)
        assert (np.abs(drawn.var(0) - record.std**2) < 6 * of_variance + 1e-9).all()
    scalar = est.regions(LABELS, components="normal")
    low, high = scalar.interval(0.8, exact=True)
    drawn = scalar.draws(n, seed=4)
    np.testing.assert_allclose(((drawn >= low) & (drawn <= high)).mean(0).min(), 0.8, atol=0.03)
    above = (np.abs(drawn) > 0.5).mean(0)
    np.testing.assert_allclose(scalar.exceedance(0.5), above, atol=0.04)


def test_draws_of_regions_are_joint():
    "Covariances between regions, as the record gives them"
    record = estimate("patches", 1).regions(LABELS)
    drawn = record.draws(20_000, seed=0)
    for t in (0, 3):
        found = np.cov(drawn[:, :, t].T)
        size = np.sqrt(np.outer(*2 * (np.diag(record.cov[t]),)))
        assert (np.abs(found - record.cov[t]) / size).max() < 0.06


@pytest.mark.parametrize("spread", [(1, 1, 1), (4, 1, 1e-6), (9, 0, 0)])
@pytest.mark.parametrize("length", [0, 0.3, 3, 30])
def test_the_mean_length_is_an_integral_of_exceedance(spread, length):
    "∫ P(‖x‖ > r) dr, and the mean of a noncentral χ where axes are alike"
    from calibrain.posterior.exceedance import exceedance

    mean = np.full((1, 3, 1), length / np.sqrt(3))
    cov = np.diag(spread).astype(float)[None]
    found = mean_length(mean, cov)[0, 0]
    r = np.linspace(1e-9, length + 8 * np.sqrt(max(spread)), 401)
    beyond = [exceedance(mean, cov, x)[0, 0] for x in r]
    assert found == pytest.approx(integrate.simpson(beyond, x=r), rel=2e-4)
    if spread == (1, 1, 1):
        mean_chi = stats.ncx2.expect(np.sqrt, args=(3, length**2), lb=0, ub=(length + 9) ** 2)
        assert found == pytest.approx(mean_chi, rel=1e-5)


def test_lengths_are_right_on_average():
    """Truths from the prior: neither the length of the mean nor that of an estimate is.

    The mean over 200 runs of E‖x‖ is that of the true lengths; ‖E x‖ is too short.
    """
    rng = np.random.default_rng(5)
    L = rng.normal(size=(4, 12))
    labels = dict(all=np.ones(4))
    true, said, short = [], [], []
    gain = L.T @ np.linalg.inv(L @ L.T + 4 * np.eye(4))
    V = np.linalg.cholesky(np.linalg.inv(L @ L.T + 4 * np.eye(4))).T @ L
    mean_of = np.kron(np.ones(4) / 4, np.eye(3)).reshape(3, 12)
    for _ in range(200):
        x = rng.normal(size=(12, 1))
        y = L @ x + 2 * rng.normal(size=(4, 1))
        posterior = Posterior(np.ones(12), V, gain @ y, selection(np.arange(12), 12), 3)
        est = EvokedPosterior(
            replace(gaussian(3), posterior=posterior),
            "volume",
            [np.arange(4)],
            np.zeros((4, 3)),
            None,
            0.0,
            0.01,
        )
        record = est.regions(labels, components="norm")
        true.append(np.linalg.norm(mean_of @ x))
        said.append(record.mean[0, 0])
        short.append(np.linalg.norm(mean_of @ posterior.mean))
    error = np.std(true) / np.sqrt(200)
    assert abs(np.mean(said) - np.mean(true)) < 3 * error
    assert np.mean(short) < np.mean(true) - 3 * error


def test_the_strongest_of_two_gaussians():
    "Against the integral over two independent amplitudes"
    posterior = Posterior(
        np.array([4.0, 1]), np.zeros((1, 2)), np.array([[1.0], [2.0]]), selection([0, 1], 2)
    )
    result = replace(gaussian(1), posterior=posterior)
    est = EvokedPosterior(result, "volume", [np.arange(2)], np.zeros((2, 3)), None, 0.0, 0.01)
    found = est.regions(dict(a=[1, 0], b=[0, 1])).strongest(20_000, seed=1)

    def density(x):
        return stats.norm.pdf(x, 1, 2) * (stats.norm.cdf(abs(x), 2) - stats.norm.cdf(-abs(x), 2))

    wanted = integrate.quad(density, -20, 20, points=[0])[0]
    np.testing.assert_allclose(found[:, 0], [wanted, 1 - wanted], atol=0.012)


def test_silent_regions_are_not_the_strongest():
    "Where all regions are zero in a state, none is"
    est = estimate("mixture", 1)
    probability = est.regions(dict(a=np.arange(N) < 20, b=np.arange(N) > 180)).strongest(3000)
    reached = [
        np.any([(s < 20).any() or (s > 180).any()]) for s in (x.atoms for x in est.posterior.states)
    ]
    some = est.posterior.weights @ np.array(reached, float)
    np.testing.assert_allclose(probability.sum(0), some, atol=0.04)


def test_peaks():
    "A peak without error is where it is; with error, intervals hold the time and the amplitude"
    times = np.linspace(0, 0.1, 41)
    wave = np.exp(-(((times - 0.06) / 0.02) ** 2) / 2)
    for std, width in ((1e-6, 0.0), (0.5, 0.02)):
        posterior = Posterior(
            np.array([std**2]), np.zeros((1, 1)), -5 * wave[None], selection([0], 1)
        )
        result = replace(gaussian(1), posterior=posterior)
        one = ("volume", [np.arange(1)], np.zeros((1, 3)), None, 0.0, times[1])
        peaks = EvokedPosterior(result, *one).regions(dict(a=[1])).peak(0.9, 2000, seed=2)
        low, high = peaks.latency[0, 1:]
        assert low <= 0.06 + 1e-9 and high >= 0.06 - 1e-9
        assert high - low <= width + 1e-9 and (width == 0 or high > low)
        reach = stats.norm.ppf(0.95) * std
        np.testing.assert_allclose(peaks.at_mean[0], [-5, -5 - reach, -5 + reach], rtol=1e-6)
        assert peaks.amplitude[0, 0] <= -5 + 1e-5
    assert "-5 (-5.82 to -4.18)" in peaks._repr_html_()


# ---- as MNE-Python has it


def source_space(est):
    "What MNE-Python wants to know of the surfaces"
    parts = []
    for part, vertices in enumerate(est.vertices):
        first = part * len(est.vertices[0])
        nn = np.zeros((N, 3))
        nn[:, 2] = 1
        nn[vertices] = est.normals[first : first + len(vertices)]
        one = dict(type="surf", id=101 + part, vertno=vertices, nn=nn, nuse=len(vertices), np=N)
        parts.append(one | dict(subject_his_id="somebody", rr=nn, use_tris=None, tris=None))
    return mne.SourceSpaces(parts)


def test_flips_are_those_of_mne():
    est = estimate("gaussian", 1)
    src = source_space(est)
    for one in LABELS:
        inside = region_weights(one, est).sources[0]
        theirs = mne.label_sign_flip(one, src)
        np.testing.assert_array_equal(sign_flip(est.normals[inside]), theirs)


@pytest.mark.parametrize("mode", ["mean", "mean_flip"])
def test_means_are_those_of_mne(mode):
    est = estimate("depth", 1)
    theirs = mne.extract_label_time_course(
        est.mean, LABELS, source_space(est), mode=mode, verbose="ERROR"
    )
    np.testing.assert_allclose(est.regions(LABELS, mode).mean, 1e9 * theirs, **TIGHT)


@KINDS
def test_a_region_of_one_source_has_its_interval(kind):
    est = estimate(kind, 1)
    region = est.regions(dict(one=np.arange(N) == 3))
    for mine, theirs in zip(region.interval(0.9), est.interval(0.9)):
        np.testing.assert_allclose(mine[0], 1e9 * theirs.data[3], **TIGHT)
    mine, theirs = region.exceedance(1.0), est.exceedance(1e-9).data
    np.testing.assert_allclose(mine[0], theirs[3], **TIGHT)


SENTENCE = (
    r"a tone, 50-rh, (\d+) ms: (\S+) nAm \((\S+) to (\S+), 90 %, not calibrated\), "
    r"(above|below) zero with probability (above |below )?([\d.]+)(?:, and zero with [\d.]+)?; "
    r"sum of 75 sources"
)


@KINDS
def test_a_sentence_is_what_the_posterior_says(kind):
    region = estimate(kind, 1).regions(LABELS, "sum")
    text = region.sentence("50-rh", time=region.times[3], level=0.9)
    *numbers, side, bound, chance = re.fullmatch(SENTENCE, text).groups()
    low, high = (x[2, 3] for x in region.interval(0.9, exact=True))
    said = [float(number) for number in numbers]
    expected = [1e3 * region.times[3], region.mean[2, 3], low, high]
    np.testing.assert_allclose(said, expected, rtol=6e-3)
    assert side == ("above" if region.mean[2, 3] > 0 else "below")
    drawn = region.draws(20_000, seed=0)[:, 2, 3]
    counted = np.mean(drawn * np.sign(region.mean[2, 3]) > 0)
    assert float(chance) == pytest.approx(counted, abs=0.015)
    assert (bound is not None) == (chance in ("0.999", "0.001"))


def test_a_sentence_says_where_normals_cancel():
    "Half of a region points the other way: its mean is small and sure, whatever is there"
    est = estimate("gaussian", 1)
    up = np.zeros((N, 3))
    up[:, 2] = 1
    for turned, coherence in ((0, 1), (7, 16 / 30), (8, 14 / 30), (15, 0)):
        normals = up.copy()
        normals[:turned] = -normals[:turned]
        e = replace(est, basis=normals[:, :, None], normals=normals)
        region = e.regions(label(0, 60, "lh"), "sum")
        np.testing.assert_allclose(region.coherence, coherence, atol=1e-12)
        cancels = "normals point one way by" in region.sentence()
        assert cancels == (coherence < 0.5)
        for other in (dict(mode="mean_flip"), dict(components="norm", mode="mean")):
            assert "normals" not in e.regions(label(0, 60, "lh"), **other).sentence()


def test_a_sentence_of_what_has_no_sign():
    est = estimate("gaussian", 3)
    for said in (dict(components="norm"), dict(mode="power")):
        region = est.regions(LABELS, **said)
        text = region.sentence()
        assert "a size, which is above zero whatever is there" in text and region.unit in text
        assert "probability" not in text and "larger" not in text
        of_difference = replace(region, comment="A − B").sentence()
        assert "of a difference does not say which is the larger" in of_difference
    with pytest.raises(ValueError, match="components must be one value for each region"):
        est.regions(LABELS, components="vector").sentence()


def test_a_sentence_of_what_is_off():
    "The first state alone has no source on"
    est = estimate("mixture", 1)
    empty = replace(est.posterior, states=est.posterior.states[:1], weights=np.ones(1))
    silent = replace(est, result=replace(est.result, posterior=empty))
    with pytest.warns(NothingFoundWarning):
        assert "what is off has no error bar" in silent.regions(LABELS, "sum").sentence()


def test_both_hemispheres():
    est = estimate("gaussian", 1)
    both = LABELS[0] + LABELS[2]
    assert both.hemi == "both"
    found = est.regions(both)
    assert len(found.sources[0]) == 30 + 75
    np.testing.assert_allclose(found.mean[0], est.posterior.mean[found.sources[0]].mean(0), **TIGHT)


# ---- what is no region


@pytest.mark.parametrize(
    "labels, error, words",
    [
        (label(0, 9, subject="sample"), ValueError, r"'0-lh' of subject 'sample': label.morph"),
        (label(0, 0, name="gone-lh"), ValueError, "without an empty one, got 'gone-lh' of no vert"),
        ([label(1, 2, name="odd-lh")], ValueError, "none in odd-lh: leave these out"),
        ([], ValueError, "one region at least, got none: pass an mne.Label"),
        ({}, ValueError, "one region at least, got none"),
        ([LABELS[0], LABELS[0]], ValueError, "2 labels of 1 names: pass {name: label}"),
        ("aparc", TypeError, "in a volume, .* got one on the cortex"),
        (np.ones(N), TypeError, "got a ndarray: pass {name: mask}"),
        ([LABELS[0], np.ones(N)], TypeError, "got a list"),
        (dict(a=np.ones(3)), ValueError, r"labels\['a'\] must be of shape \(200\).*np.isin"),
        (dict(a=np.zeros(N, bool)), ValueError, "zeros alone: leave the region out"),
        (dict(a=np.full(N, np.nan)), ValueError, r"labels\['a'\] must be finite"),
    ],
)
def test_bad_labels(labels, error, words):
    with pytest.raises(error, match=words):
        estimate("gaussian", 1).regions(labels)


def test_estimates_without_such_sources():
    est = estimate("gaussian", 1)
    of_one = replace(est, vertices=[np.arange(N), np.array([], int)])
    with pytest.raises(ValueError, match="no sources in 'rh', got '50-rh'"):
        of_one.regions(LABELS)
    volume = replace(est, space="volume", vertices=[np.arange(N)])
    with pytest.raises(TypeError, match=r"in a volume, got one: pass a segmentation"):
        volume.regions(LABELS)
    with pytest.raises(ValueError, match="one without vertices: estimate again"):
        replace(est, vertices=[np.array([], int)] * 2).regions(LABELS)
    blind = replace(estimate("gaussian", 3), normals=None)
    with pytest.raises(ValueError, match="no normals: estimate on a cortex"):
        blind.regions(LABELS, "mean_flip")
    assert blind.regions(LABELS).mean.shape == (4, 3, TIMES)
    posterior = replace(est.posterior, coeff_mean=est.posterior.coeff_mean * 1j)
    with pytest.raises(TypeError, match="of real amplitudes, got complex ones"):
        replace(est, result=replace(est.result, posterior=posterior)).regions(LABELS)


@pytest.mark.parametrize(
    "said, words",
    [
        (dict(mode="max"), "mode must be one of 'mean', 'mean_flip', 'sum', 'power', got 'max'"),
        (dict(mode=np.ones(3)), r"mode must be of shape \(200\)"),
        (dict(components="radial"), "components must be one of 'normal', 'vector', 'norm'"),
        (dict(mode="mean_flip", components="norm"), "vectors have no sign to flip"),
    ],
)
def test_bad_wishes(said, words):
    with pytest.raises(ValueError, match=words):
        estimate("gaussian", 3).regions(LABELS, **said)


def test_overlap_matters_only_where_one_is_told_from_another():
    est = estimate("gaussian", 1)
    record = est.regions([LABELS[0], label(50, 90)])
    assert record.cov[0, 1] != 0
    with pytest.raises(ValueError, match="'0-lh' and '50-lh', which share sources"):
        record.strongest()


def test_nothing_found_is_said():
    est = estimate("mixture", 1)
    empty = replace(est.posterior, states=est.posterior.states[:1], weights=np.ones(1))
    silent = replace(est, result=replace(est.result, posterior=empty))
    with pytest.warns(NothingFoundWarning, match="no certainty"):
        record = silent.regions(LABELS)
    assert not record.std.any()


def test_a_passport_says_nothing_of_regions(monkeypatch):
    "Neither silently calibrated nor silently not"
    est = estimate("gaussian", 1)
    monkeypatch.setattr(Calibration, "__post_init__", lambda self: None)
    calibrated = replace(est, calibration=Calibration({}, None))
    with pytest.warns(NotCalibratedWarning, match="do not hold for regions"):
        record = calibrated.regions(LABELS)
    assert "single sources" in record.about and "single sources" in record._repr_html_()
    peaks = record.peak()
    for said in (record.about, record._repr_html_(), repr(peaks), peaks._repr_html_()):
        assert said.count("not calibrated") == 1
    np.testing.assert_array_equal(record.std, est.regions(LABELS).std)


# ---- in files and pictures


def test_normals_survive_a_file(tmp_path):
    est = estimate("gaussian", 3)
    again = EvokedPosterior.load(est.save(tmp_path / "a.npz"))
    found, before = (e.regions(LABELS, "mean_flip") for e in (again, est))
    np.testing.assert_array_equal(found.mean, before.mean)


def test_frames():
    pytest.importorskip("pandas")
    vectors = estimate("gaussian", 3).regions(LABELS).to_frame()
    assert list(vectors.columns[:3]) == ["region", "component", "time"]
    assert len(vectors) == 4 * 3 * TIMES
    assert vectors.attrs["units"] == dict.fromkeys(["mean", "std", "low", "high"], "nAm") | {
        "time": "s"
    }
    powers = estimate("gaussian", 1).regions(LABELS, "power").to_frame()
    assert powers.attrs["units"]["mean"] == "nAm²"
    one = vectors.query("region == '60-lh' and component == 'y'")
    np.testing.assert_array_equal(one["mean"], estimate("gaussian", 3).regions(LABELS).mean[1, 1])


def test_the_legend_is_beside_the_waveforms():
    ax = estimate("mixture", 1).regions(LABELS).plot()
    ax.figure.canvas.draw()
    box = ax.get_legend().get_window_extent()
    assert box.x0 >= ax.get_window_extent().x1 - 1
    assert "nAm" in ax.get_ylabel() and "ms" in ax.get_xlabel()
    with pytest.raises(ValueError, match="draw their lengths"):
        estimate("gaussian", 3).regions(LABELS).plot()


# ---- a real recording


@realdata.needed
@pytest.mark.parametrize("orientation", ["fixed", "loose"])
@pytest.mark.filterwarnings("ignore:noise_cov was estimated")
def test_a_real_recording(orientation):
    "Whitened and depth weighted, against the dense covariance, and MNE-Python's own mean"
    fwd = realdata.forward("meg")
    est = estimate_evoked(
        realdata.evoked("Right Auditory"),
        fwd,
        realdata.covariance(),
        "BMN",
        tmin=0.08,
        tmax=0.09,
        orientation=orientation,
        depth=0.8,
        progress=False,
    )
    labels = [around(est, i) for i in (20, 60)]
    found = est.regions(labels, "mean_flip")
    A = np.zeros((2, est.posterior.S.shape[0]))
    k = est.n_orient
    for row, of, one in zip(A, found.sources, labels):
        signs = sign_flip(est.normals[of])
        assert (signs == mne.label_sign_flip(one, fwd["src"])).mean() >= 0.8  # of other normals
        for i, sign in zip(of, signs):
            along = np.ones(1) if k == 1 else est.normals[i] @ est.basis[i]
            row[k * i : k * (i + 1)] = sign * along / len(of)
    np.testing.assert_allclose(found.cov, A @ est.posterior.dense() @ A.T, rtol=1e-9)
    if k == 1:
        said = dict(mode="mean", verbose="ERROR")
        theirs = mne.extract_label_time_course(est.mean, labels, fwd["src"], **said)
        np.testing.assert_allclose(est.regions(labels).mean, 1e9 * theirs, rtol=1e-9)


def around(est, i, n=15):
    "A label of the sources nearest to one of the left hemisphere"
    lh = est.vertices[0]
    distance = np.linalg.norm(est.coords[: len(lh)] - est.coords[i], axis=1)
    near = np.sort(lh[np.argsort(distance)[:n]])
    return mne.Label(near, hemi="lh", name=f"around {i}", subject="sample")


def test_patches_of_a_solver():
    "Columns of S are patches: powers and means as of the dense covariance"
    lf = head(1)
    rng = np.random.default_rng(0)
    x = np.zeros((N, 4))
    x[:5] = 6
    y = lf.matrix() @ x + rng.normal(size=(24, 4))
    params = dict(src_coords=lf.coords, sigma=0.01, max_iter=2000)
    result = gamma_map_sflex(lf.matrix(), y, 1.0, **params)
    where = ("surface", estimate("gaussian", 1).vertices, lf.coords, lf.basis, 0.0, 0.01)
    est = EvokedPosterior(result, *where, normals=lf.normals)
    C, m = result.posterior.dense(), result.posterior.mean
    W = region_weights(LABELS, est).weights.toarray()
    W /= W.sum(1)[:, None]
    np.testing.assert_allclose(est.regions(LABELS).cov, W @ C @ W.T, **TIGHT)
    power = est.regions(LABELS, "power")
    np.testing.assert_allclose(power.mean, W @ (m**2 + np.diag(C)[:, None]), **TIGHT)


def test_maps_and_groups_are_checked():
    p = estimate("gaussian", 3).posterior
    with pytest.raises(ValueError, match="A must be of 3 rows for each read-out, got 4 rows"):
        mapped(p, np.ones((4, 3 * N)), 3)
    with pytest.raises(ValueError, match="groups must be weights >= 0"):
        power_moments(p, np.ones((2, 3 * N)), np.array([[1.0, -1]]))


@pytest.mark.parametrize("ask", ["exceedance", "greater"])
@pytest.mark.parametrize("mode", ["sum", "power"])
def test_a_threshold_in_ampere_metres_is_refused(ask, mode):
    regions = estimate("gaussian", 1).regions(LABELS, mode)
    with pytest.raises(
        ValueError, match=r"threshold must be of a size in nAm.*10e-9 Am are 10 nAm"
    ):
        getattr(regions, ask)(10e-9)


def two_states(waves, share=0.5):
    "A mixture of two sources: in a share of it the first is on, else the second"
    each = [State(np.array([i]), np.atleast_2d(wave), np.eye(1)) for i, wave in enumerate(waves)]
    weights = np.array([share, 1 - share])
    return Mixture(tuple(each), weights, 2, 1, len(np.atleast_1d(waves[0])))


def test_powers_where_a_state_reaches_no_region():
    "E z² of the one that does is 3² + 1; the other says 0"
    p = two_states([[3.0], [2.0]])
    here = power_moments(p, np.eye(2), np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(here.mean, [[5.0]])
    np.testing.assert_allclose(here.cov, [[[0.5 * (2 + 4 * 9 + 100) - 25]]])
    nowhere = power_moments(p, np.zeros((1, 2)), np.ones((1, 1)))
    assert nowhere.mean == nowhere.cov == 0


@pytest.mark.parametrize("share", [0.96, 0.4])
def test_a_silent_draw_peaks_at_no_time(share):
    "… and not at the first sample of the window, wherever that is"
    times = np.linspace(0.05, 0.15, 21)
    wave = 10 * np.exp(-(((times - 0.1) / 0.02) ** 2) / 2)
    p = two_states([wave, wave], share)
    peaks = RegionPosterior(("a",), [[0]], mapped(p, np.array([[1.0, 0.0]])), times).peak()
    assert abs(peaks.latency[0] - 0.1).max() < 0.025
    assert abs(peaks.active[0] - share) < 0.05
    assert f"{100 * peaks.active[0]:.0f} %" in peaks._repr_html_()
    never = RegionPosterior(("a",), [[0]], mapped(p, np.zeros((1, 2))), times).peak()
    assert np.isnan(never.latency).all() and never.active == 0
