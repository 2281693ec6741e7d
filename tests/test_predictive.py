"""What is left of the data, against what the model expects: calibrated, or announced."""

from dataclasses import replace
from functools import cache

import mne
import numpy as np
import pytest
import realdata
from scipy import linalg

from calibrain import EvokedPosterior, contrast, estimate_evoked
from calibrain.head.leadfield import Leadfield
from calibrain.recording.predictive import PATTERN_FAR

SFREQ, N_BEFORE, N_AFTER = 200.0, 60, 60
NAVE = 25


@cache
def info():
    montage = mne.channels.make_standard_montage("biosemi64")
    return mne.create_info(montage.ch_names, SFREQ, "eeg").set_montage(montage)


@cache
def forward(radius=0.078):
    n = np.random.default_rng(3).normal(size=(150, 3))
    n[:, 2] = abs(n[:, 2])
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    src = mne.setup_volume_source_space(pos=dict(rr=radius * n, nn=n), verbose="ERROR")
    sphere = mne.make_sphere_model((0, 0, 0), 0.095, verbose="ERROR")
    return mne.make_forward_solution(info(), None, src, sphere, verbose="ERROR")


@cache
def covariance():
    return mne.make_ad_hoc_cov(info(), dict(eeg=5e-6), verbose="ERROR")


def smooth(x):
    "Coloured in time, of the same variance"
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    kernel /= np.linalg.norm(kernel)
    return np.apply_along_axis(np.convolve, 1, x, kernel, mode="same")


def recording(amplitudes, noise, comment="a tone"):
    "Amplitudes of sources of the right head, nAm, and noise of one epoch in its standard deviations"
    L = Leadfield.from_forward(forward()).data[:, :, 0] * 1e-6
    x = np.zeros((150, N_BEFORE + N_AFTER))
    x[:, N_BEFORE:] = amplitudes
    data = L @ x + 5e-6 / np.sqrt(NAVE) * noise
    said = dict(tmin=-N_BEFORE / SFREQ, nave=NAVE, comment=comment, verbose="ERROR")
    e = mne.EvokedArray(data, info(), **said)
    return e.set_eeg_reference(projection=True, verbose="ERROR")


def white(rng):
    return rng.normal(size=(64, N_BEFORE + N_AFTER))


def estimate(e, solver="BMN", fwd=None, **other):
    said = dict(tmin=0.0, tmax=(N_AFTER - 1) / SFREQ, progress=False)
    return estimate_evoked(e, fwd or forward(), covariance(), solver, **(said | other))


def dense_freedom(est):
    "tr(Λ Σ_y⁻¹ Λ) / λ, from the definition"
    L = Leadfield.from_forward(forward(), "fixed").matrix()
    G = est.fit.W @ L
    p = est.posterior
    prior = p.S.toarray() * p.gamma @ p.S.toarray().T
    noise = np.diag(est.fit.noise)
    expected = noise @ linalg.solve(noise + G @ prior @ G.T, noise)
    return expected, expected.trace() / est.fit.noise.mean()


@pytest.mark.parametrize("solver", ["BMN", "gamma_map"])
def test_the_expected_residual_is_that_of_the_definition(solver):
    rng = np.random.default_rng(0)
    e = recording(3 * rng.normal(size=(150, N_AFTER)), white(rng))
    est = estimate(e, solver, orientation="fixed")
    expected, freedom = dense_freedom(est)
    kept = np.diag(est.fit.noise) - est.fit.field_cov
    np.testing.assert_allclose(kept, expected, atol=1e-9 * est.fit.noise.mean())
    assert est.predictive_check().freedom == pytest.approx(freedom, rel=1e-9)


def test_data_of_the_model_are_as_expected():
    "Drawn from the prior that the estimate has: mean and spread of the share, and of every sensor"
    shares, chance, by_sensor, by_time, deviations = [], [], [], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        e = recording(4 * rng.normal(size=(150, N_AFTER)), white(rng))
        est = estimate(e, orientation="fixed")
        check = est.predictive_check()
        shares.append(check.share)
        chance.append(check.chance)
        by_sensor.append(check.by_sensor)
        by_time.append(check.by_time)
        deviations.append(check.standardised)
        assert check.verdict == "fits", str(check)
    assert np.mean(shares) == pytest.approx(1, abs=0.025)
    assert np.std(shares) < 1.5 * np.mean(chance)
    assert np.mean(by_sensor, axis=0) == pytest.approx(np.ones(64), abs=0.2)
    assert np.mean(by_time, axis=0) == pytest.approx(np.ones(N_AFTER), abs=0.35)
    assert np.std(deviations) == pytest.approx(1, abs=0.02)
    # without its degrees of freedom the residual would look too small by a quarter
    assert est.power["residual"] < 0.85


@pytest.mark.filterwarnings("ignore:spike_slab. the chains do not agree")
@pytest.mark.parametrize("solver", ["gamma_map", "gamma_map_sflex", "spike_slab"])
def test_other_solvers_are_as_calibrated(solver):
    "Three sources, as a sparse solver has them; a sampler knows its supports only roughly"
    shares = []
    quick = dict(n_sweeps=24, n_burn=12, n_chains=2, patches=None)
    params = quick if solver == "spike_slab" else {}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = np.zeros((150, N_AFTER))
        x[rng.choice(150, 3, replace=False)] = 40 * smooth(rng.normal(size=(3, N_AFTER)))
        wide = dict(sigma=0.001) if solver == "gamma_map_sflex" else {}
        est = estimate(recording(x, white(rng)), solver, solver_params=params | wide)
        check = est.predictive_check()
        assert check.verdict == "fits", str(check)
        shares.append(check.share)
    assert np.mean(shares) == pytest.approx(1, abs=0.12)


def one_source(size=200.0):
    x = np.zeros((150, N_AFTER))
    x[7] = size * np.sin(np.arange(N_AFTER) / 8)
    return x


@pytest.mark.parametrize("noise", ["given", "baseline", "learn"])
def test_a_wrong_head_is_announced(noise):
    "Sources that are all deep make no steep field, be the noise told or learned"
    e = recording(one_source(100), white(np.random.default_rng(1)))
    solver = "gamma_lambda_map" if noise == "learn" else "gamma_map"
    check = estimate(e, solver, forward(0.03), noise=noise).predictive_check()
    assert check.verdict == "sources"
    assert "do not make this field" in str(check) and solver in str(check)
    assert estimate(e, solver, noise=noise).predictive_check().verdict == "fits"


def test_a_sampler_on_a_wrong_head_is_announced():
    e = recording(one_source(), white(np.random.default_rng(1)))
    quick = dict(n_sweeps=24, n_burn=12, n_chains=2, patches=None)
    with pytest.warns(UserWarning):
        est = estimate(e, "spike_slab", forward(0.03), solver_params=quick)
    assert est.predictive_check().verdict == "sources"


def test_one_pattern_among_many_sensors_is_announced():
    "A topography that no source makes, too weak for the power over all sensors"
    rng = np.random.default_rng(2)
    noise = white(rng)
    noise[:, N_BEFORE:] += np.outer((-1.0) ** np.arange(64), 0.7 * np.sin(np.arange(N_AFTER) / 6))
    check = estimate(recording(one_source(20), noise)).predictive_check()
    assert check.ratio < 1.5
    assert check.pattern > PATTERN_FAR * check.pattern_before
    assert check.verdict == "sources" and "pattern across sensors" in str(check)


def test_noise_that_is_coloured_in_time_is_none_of_the_sources_doing():
    "Slow noise has strong patterns by chance; before the stimulus, too"
    for seed in range(6):
        rng = np.random.default_rng(seed)
        est = estimate(recording(one_source(20), smooth(white(rng))))
        check = est.predictive_check()
        assert check.verdict == "fits", str(check)
    assert (
        check.chance
        > 1.3 * estimate(recording(one_source(20), white(rng))).predictive_check().chance
    )


@pytest.mark.filterwarnings("ignore:the noise of the baseline")
def test_noise_that_is_stronger_than_was_said_is_told_apart():
    rng = np.random.default_rng(4)
    e = recording(one_source(20), 1.6 * white(rng))
    check = estimate(e).predictive_check()
    assert check.verdict == "noise"
    assert "noise='baseline'" in str(check)
    assert estimate(e, noise="baseline").predictive_check().verdict == "fits"


@pytest.mark.filterwarnings("ignore")
def test_strong_correlated_noise_is_announced():
    "A pattern of noise that the covariance does not know, stronger after the stimulus than before"
    rng = np.random.default_rng(6)
    noise = white(rng)
    across = rng.normal(size=64)
    noise[:, :N_BEFORE] += np.outer(across, rng.normal(size=N_BEFORE))
    noise[:, N_BEFORE:] += np.outer(across, 4 * rng.normal(size=N_AFTER))
    assert estimate(recording(one_source(20), noise)).predictive_check().verdict == "sources"


def test_less_than_noise_is_overfitted():
    rng = np.random.default_rng(7)
    noise = white(rng)
    noise[:, N_BEFORE:] *= 0.5
    check = estimate(recording(one_source(20), noise)).predictive_check()
    assert check.verdict == "overfits" and "too narrow" in str(check)


@pytest.mark.filterwarnings("ignore")
def test_without_a_baseline_the_noise_is_that_which_was_said():
    e = recording(one_source(20), white(np.random.default_rng(8))).crop(0, None)
    check = estimate(e).predictive_check()
    assert not check.from_baseline and check.reference == pytest.approx(1)
    assert np.isnan(check.pattern) and check.verdict == "fits"
    assert "before the stimulus" not in str(check)


def test_complex_data_have_two_parts():
    rng = np.random.default_rng(9)
    e = recording(one_source(20), white(rng))
    other = recording(one_source(20), white(rng))
    both = mne.EvokedArray(
        e.data + 1j * other.data, e.info, tmin=e.tmin, nave=NAVE, verbose="ERROR"
    )
    check = estimate(both).predictive_check()
    assert check.share == pytest.approx(1, abs=0.1)
    assert np.mean(check.by_time) == pytest.approx(check.share)


def test_it_is_kept_in_a_file(tmp_path):
    est = estimate(recording(one_source(), white(np.random.default_rng(1))))
    again = EvokedPosterior.load(est.save(tmp_path / "tone.npz"))
    one, two = est.predictive_check(), again.predictive_check()
    np.testing.assert_array_equal(one.standardised, two.standardised)
    assert str(one) == str(two)
    assert two.largest(2) == one.largest(2) and len(two.largest(2)) == 2
    assert len(two.plot().axes) == 5  # with a map, as places of sensors are kept, too


def test_an_estimate_without_data_is_refused():
    e = recording(one_source(), white(np.random.default_rng(1)))
    est = estimate(e)
    with pytest.raises(ValueError, match="the estimate must be of estimate_evoked"):
        replace(est, fit=None).predictive_check()
    with pytest.raises(ValueError, match="check each condition on its own"):
        contrast({"A": 1, "B": -1}, {"A": est, "B": est}).predictive_check()


@realdata.needed
@pytest.mark.filterwarnings("ignore")
def test_a_real_recording():
    "The tone fits; of the pattern EEG has a field that is steeper than minimum norm makes it"
    said = dict(tmin=0.05, tmax=0.15, orientation="free", progress=False)
    cov = realdata.covariance()

    def check(condition, kind):
        e, fwd = realdata.evoked(condition), realdata.forward(kind)
        return estimate_evoked(e, fwd, cov, "BMN", **said).predictive_check()

    tone = check("Right Auditory", "meg")
    assert tone.verdict == "fits" and tone.share == pytest.approx(1.04, abs=0.03)
    steep = check("Left visual", "eeg")
    assert steep.verdict == "sources" and steep.ratio > 2
