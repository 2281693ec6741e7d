"""A recording and the sampler: what it is told, what it answers, and what is said of the answer.

Against the sampler called on whitened arrays by hand, under changes that must not matter, with
windows in which there is nothing, heads that are not those of the recording, and in files.
"""

import warnings
from functools import cache

import mne
import numpy as np
import pytest
import realdata
from scipy import linalg, signal

from calibrain import EvokedPosterior, estimate_evoked, spike_slab
from calibrain.core.warnings import NoiseWarning, PlausibilityWarning
from calibrain.recording.bound import PATCHES
from calibrain.recording.time import baseline_factor, time_correlation
from calibrain.recording.whitened import whitened_forward

SFREQ = 200.0
BEFORE = 120  # Samples before the stimulus
SHORT = dict(n_sweeps=16, n_burn=10, n_chains=2)  # Enough to see what is passed on
pytestmark = pytest.mark.filterwarnings("ignore:spike_slab. the chains do not agree")


@cache
def head(seed=0, n=80):
    "32 electrodes on a sphere and sources on a shell below them"
    montage = mne.channels.make_standard_montage("biosemi32")
    info = mne.create_info(montage.ch_names, SFREQ, "eeg").set_montage(montage)
    rng = np.random.default_rng(seed)
    nn = rng.normal(size=(n, 3))
    nn[:, 2] = abs(nn[:, 2])
    nn /= np.linalg.norm(nn, axis=1, keepdims=True)
    src = mne.setup_volume_source_space(pos=dict(rr=0.07 * nn, nn=nn), verbose="ERROR")
    sphere = mne.make_sphere_model((0, 0, 0), 0.095, verbose="ERROR")
    return mne.make_forward_solution(info, None, src, sphere, verbose="ERROR"), info


def fixed():
    return mne.convert_forward_solution(head()[0], force_fixed=True, verbose="ERROR")


def recording(amplitude=60.0, nave=9, seed=0, memory=0.0, source=7):
    "One source that responds for 0.3 s, in noise of 3 µV an epoch that may remember"
    _fwd, info = head()
    rng = np.random.default_rng(seed)
    n_times = BEFORE + 80
    white = rng.normal(size=(32, n_times + 200))
    slow = signal.lfilter([np.sqrt(1 - memory**2)], [1, -memory], white)[:, 200:]
    course = np.zeros(n_times)
    course[BEFORE + 10 : BEFORE + 70] = amplitude * np.hanning(60)
    data = 1e-9 * fixed()["sol"]["data"][:, source, None] * course + 3e-6 / np.sqrt(nave) * slow
    e = mne.EvokedArray(data, info, -BEFORE / SFREQ, "a tone", nave, verbose="ERROR")
    return e.set_eeg_reference(projection=True, verbose="ERROR"), course


def cov():
    return mne.make_ad_hoc_cov(head()[1], dict(eeg=3e-6), verbose="ERROR")


def solve(e, fwd=None, noise_cov="ad hoc", params=None, **more):
    said = dict(tmin=0.0, tmax=0.39, orientation="fixed", progress=False) | more
    noise_cov = cov() if isinstance(noise_cov, str) else noise_cov
    fwd = head()[0] if fwd is None else fwd
    return estimate_evoked(e, fwd, noise_cov, "spike_slab", solver_params=params, **said)


def whitened(e, orientation="fixed", **more):
    h = whitened_forward([e], head()[0], cov(), None, orientation, **more)
    white = h.whiten(e)
    return h, white[:, :BEFORE], white[:, BEFORE : BEFORE + 79]


# ---- what the sampler is told


def autocorrelation(before, n_lags):
    "By definition, with loops"
    sums = np.zeros(n_lags)
    for b in before:
        b = b - b.mean(1, keepdims=True)
        n = b.shape[1]
        for lag in range(n_lags):
            sums[lag] += sum((b[:, t] * b[:, t + lag]).sum() for t in range(n - lag))
    return sums / sums[0]


def test_correlation_in_time_is_its_definition():
    rng = np.random.default_rng(0)
    before = [rng.normal(size=(5, n)).cumsum(1) for n in (24, 40)]
    rho = autocorrelation(before, 12)
    at = np.arange(12) / 12
    taper = np.where(at < 0.5, 1 - 6 * at**2 * (1 - at), 2 * (1 - at) ** 3)
    R = time_correlation(before, 30)
    assert np.allclose(R, R.T) and np.array_equal(R.diagonal(), np.ones(30))
    assert np.allclose(R[0, 12:], 0)
    expected = 0.99 * rho * taper
    assert np.allclose(R[0, 1:12], expected[1:], atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_correlation_in_time_can_be_inverted(seed):
    rng = np.random.default_rng(seed)
    b, a = signal.butter(4, 0.1)
    low_passed = signal.lfilter(b, a, rng.normal(size=(20, 100)))
    w = linalg.eigvalsh(time_correlation([low_passed], 150))
    assert w[0] > 0.009 and w[-1] / w[0] < 1e4


@pytest.mark.parametrize("orientation, depth", [("fixed", None), ("free", None), ("fixed", 0.8)])
@pytest.mark.parametrize("noise", ["given", "baseline", "learn"])
def test_it_is_the_sampler_on_whitened_arrays(orientation, depth, noise):
    e, _ = recording(memory=0.8)
    est = solve(e, params=SHORT, orientation=orientation, depth=depth, noise=noise)
    h, before, window = whitened(e, orientation, depth=depth)
    R = time_correlation([before], window.shape[1])
    size = before.var(1, ddof=1).mean() * e.nave
    noise_var = dict(given=1 / e.nave, baseline=size / e.nave, learn=None)[noise]
    L = h.weighted.L
    by_hand = spike_slab(
        L,
        window,
        noise_var,
        h.leadfield.n_orient,
        patches=PATCHES,
        src_coords=h.leadfield.coords,
        time_cov=R,
        **SHORT,
    )
    weights = np.ones(len(by_hand.mean)) if depth is None else np.repeat(h.weights, est.n_orient)
    assert np.allclose(est.posterior.mean, weights[:, None] * by_hand.mean)
    assert np.allclose(est.posterior.std, weights[:, None] * by_hand.std)
    assert np.isclose(est.result.noise_var, by_hand.noise_var)
    assert np.allclose(est.result["inclusion"], by_hand["inclusion"])
    assert np.allclose(est.result["posterior_mean"], est.posterior.mean)
    factor = baseline_factor(before, by_hand["n_components"], by_hand.noise_var, R)
    assert np.isclose(est.power["baseline_factor"], factor)
    assert est.power["noise_factor"] == np.median(by_hand["noise_factor"])


def test_loose_sources_have_the_prior_of_their_components():
    e, _ = recording()
    est = solve(e, params=SHORT | dict(orientation="isotropic"), orientation="loose", loose=0.04)
    free = solve(e, params=SHORT | dict(orientation="isotropic"), orientation="free")
    drawn = [np.abs(x.posterior.mean).reshape(80, 3, -1).max((0, 2)) for x in (est, free)]
    across, along = drawn[0][-1], drawn[0][:2].max()
    assert est.n_orient == 3 and along < across, drawn


def test_what_the_user_says_comes_first():
    e, _ = recording(memory=0.8)
    points = solve(e, params=SHORT | dict(patches=None, time_cov=None))
    assert points.posterior.S is None and points.posterior.time_root is None
    assert solve(e, params=SHORT).posterior.time_root.shape == (79, 79)


def test_slow_noise_is_no_source():
    e, _ = recording(0.0, memory=0.95)
    with pytest.warns(UserWarning, match="no time component stands above the noise"):
        est = solve(e, noise="baseline")
    assert est.result["n_components"] == 0
    low, high = est.interval(0.9)
    assert (low.data <= 0).all() and (high.data >= 0).all()
    assert solve(e, noise="baseline", params=SHORT | dict(time_cov=None)).result["n_components"] > 0


def test_without_a_baseline_noise_is_white_in_time_and_that_is_said():
    e, _ = recording()
    with pytest.warns(NoiseWarning, match="noise is taken to be white in time"):
        est = solve(e.copy().crop(0.0, 0.39), params=SHORT)
    assert est.posterior.time_root is None and "baseline_factor" not in est.power


# ---- what it answers


def test_the_response_is_found_with_its_error_bars():
    e, course = recording()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        est = solve(e, params=dict(patches=None, n_sweeps=240))
    assert np.abs(est.mean.data).max(1).argmax() == 7
    truth = 1e-9 * course[BEFORE : BEFORE + 79]
    low, high = est.interval(0.99)
    held = (low.data[7] <= truth) & (truth <= high.data[7])
    assert held.mean() > 0.9, held.mean()
    assert 1 <= est.power["noise_factor"] < 3 * est.power["baseline_factor"]
    assert not est.nothing_found and "sources that are on" in est._repr_html_()


def test_its_estimates_are_those_of_the_mixture():
    e, _ = recording()
    for orientation in ("fixed", "free"):
        est = solve(e, params=SHORT, orientation=orientation)
        p = est.posterior
        Q = est._directions()
        draws = p.sample(8_000, 0, sources=[7]).reshape(8_000, est.n_orient, -1)
        in_space = np.einsum("ik,nkt->nit", Q[7], draws)
        std = 1e9 * est.std.data[7].reshape(in_space.shape[1:])
        assert np.abs(in_space.std(0) / np.maximum(std, 1e-9) - 1).max() < 0.1
        assert np.ptp(std, axis=1).max() > 0, "the variance changes with time"
        p_above = (np.linalg.norm(draws, axis=1) > 20).mean(0)
        assert np.abs(est.exceedance(20e-9).data[7] - p_above).max() < 0.02


@pytest.mark.parametrize("depth", [None, 0.8])
def test_what_is_expected_to_be_left_is_that_of_draws(depth):
    e, _ = recording()
    est = solve(e, params=SHORT, depth=depth)
    h, _, window = whitened(e)
    draws = est.posterior.sample(2_000, 1)
    left = e.nave * np.mean((window - h.plain.L @ draws) ** 2)
    assert np.isclose(left, est.power["expected_residual"], rtol=0.02)
    mean_left = e.nave * np.mean((window - h.plain.L @ est.posterior.mean) ** 2)
    assert np.isclose(mean_left, est.power["residual"])


def test_in_a_file(tmp_path):
    e, _ = recording(memory=0.5)
    est = solve(e, params=SHORT, depth=0.8)
    again = EvokedPosterior.load(est.save(tmp_path / "tone.npz"))
    for a, b in ((est.mean, again.mean), (est.std, again.std)):
        assert np.array_equal(a.data, b.data)
    assert np.array_equal(est.exceedance(5e-9).data, again.exceedance(5e-9).data)
    assert again.power == est.power and again._repr_html_() == est._repr_html_()


def test_conditions_share_what_the_baselines_say():
    pair = [recording(seed=s, memory=0.8)[0] for s in (0, 1)]
    both = solve(pair, params=SHORT)
    h, first, _ = whitened(pair[0])
    second = h.whiten(pair[1])[:, :BEFORE]
    R = time_correlation([first, second], 79)
    root = both[0].posterior.time_root
    assert np.allclose(root @ root, R) and np.array_equal(root, both[1].posterior.time_root)


def test_epochs_one_by_one():
    each = np.stack([recording(300.0, nave=1, seed=s)[0].data for s in range(3)])
    epochs = mne.EpochsArray(each, head()[1], tmin=-BEFORE / SFREQ, verbose="ERROR")
    epochs.set_eeg_reference(projection=True, verbose="ERROR")
    found = solve(epochs, params=SHORT, average=False)
    assert len(found) == 3 and found[1].posterior.time_root is not None
    assert np.array_equal(found[1].mean.data, found[1].mean.data)


# ---- what is said of the answer


def test_another_head_is_announced():
    e, _ = recording(400.0)
    other = head()[0].copy()
    other["sol"]["data"] = np.random.default_rng(0).permutation(other["sol"]["data"])
    with pytest.warns(PlausibilityWarning, match="times the noise, where the baseline has"):
        est = solve(e, other, params=SHORT | dict(n_slots=3))
    assert est.power["noise_factor"] > 3 * est.power["baseline_factor"]


def test_complex_data_are_refused_by_name():
    e, _ = recording()
    spectral = e.copy()
    spectral.data = signal.hilbert(e.data)
    with pytest.raises((TypeError, ValueError), match=r"real|complex"):
        solve(spectral)


@realdata.needed
@pytest.mark.parametrize("kind", ["meg", "eeg"])
def test_a_pattern_on_the_left_is_seen_on_the_right(kind):
    e = realdata.evoked("Left visual")
    est = estimate_evoked(
        e,
        realdata.forward(kind),
        realdata.covariance(),
        "spike_slab",
        tmin=0.05,
        tmax=0.15,
        noise="baseline",
        progress=False,
        solver_params=dict(n_sweeps=40, n_burn=20, n_chains=2),
    )
    energy = (est.posterior.mean**2).reshape(est.posterior.n_sources, -1).sum(1)
    right = est.coords[:, 0] > 0
    assert energy[right].sum() > 0.6 * energy.sum()
    assert est.power["noise_factor"] < 4 * est.power["baseline_factor"]
