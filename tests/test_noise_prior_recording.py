"The baseline of a recording as a prior on its noise: automatic, said, and able to be left out."

import warnings

import mne
import numpy as np
import pytest
from problems import close

from calibrain import baseline_prior, calibrate, estimate_evoked
from calibrain.core.warnings import NoiseBoundaryWarning, NoiseWarning, PlausibilityWarning
from calibrain.passport.runs import solve as runs_solve
from calibrain.passport.scene import recording_scene
from calibrain.recording.bound import bind_to_recording
from calibrain.recording.input import baseline_samples
from calibrain.recording.methods import methods_paragraph
from calibrain.recording.time import ar_correlation
from calibrain.simulation.noise import TimeModel
from calibrain.solvers.registry import SOLVERS

N_SENSORS, N_SOURCES, NAVE = 32, 25, 10
pytestmark = pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.NoiseWarning",
    "ignore::calibrain.core.warnings.ConvergenceWarning",
)


@pytest.fixture(scope="module")
def recorded():
    "A response of one source in white noise, with 60 samples before it"
    return recording()


def recorded_quietly():
    "The same, with next to no noise before the stimulus"
    evoked, fwd, cov = recording()
    evoked.data[:, :60] *= 1e-2
    return evoked, fwd, cov


def recording():
    rng = np.random.default_rng(2)
    montage = mne.channels.make_standard_montage("biosemi32")
    info = mne.create_info(montage.ch_names, 200.0, "eeg").set_montage(montage)
    nn = rng.normal(size=(N_SOURCES, 3))
    nn[:, 2] = abs(nn[:, 2])
    nn /= np.linalg.norm(nn, axis=1, keepdims=True)
    src = mne.setup_volume_source_space(
        pos=dict(rr=nn * rng.uniform(0.02, 0.07, (N_SOURCES, 1)), nn=nn), verbose="ERROR"
    )
    sphere = mne.make_sphere_model((0, 0, 0), 0.095, verbose="ERROR")
    fwd = mne.make_forward_solution(info, None, src, sphere, verbose="ERROR")
    cov = mne.Covariance(np.full(N_SENSORS, 9e-12), info["ch_names"], [], [], 0)
    x = np.zeros((3 * N_SOURCES, 120))
    x[9:12, 60:] = 60e-9 * rng.normal(size=(3, 1)) * np.sin(np.arange(60) / 8)
    noise = 3e-6 / np.sqrt(NAVE) * rng.normal(size=(N_SENSORS, 120))
    data = fwd["sol"]["data"] @ x + noise
    evoked = mne.EvokedArray(data, info, tmin=-0.3, nave=NAVE, verbose="ERROR")
    evoked.set_eeg_reference("average", projection=True, verbose="ERROR")
    return evoked, fwd, cov


def solve(recorded, solver="BMN_joint", **more):
    evoked, fwd, cov = recorded
    said = dict(tmin=0.0, noise="learn", progress=False) | more
    return estimate_evoked(evoked, fwd, cov, solver, **said)


@pytest.mark.parametrize("solver", ["BMN_joint", "gamma_lambda_map", "gamma_lambda_map_sflex"])
def test_the_baseline_is_the_prior(recorded, solver):
    est = solve(recorded, solver)
    assert est.settings["parameters"].count("noise_prior='baseline'") == 1
    assert "and the baseline" in est.settings["noise"]
    close(est.result["noise_prior_variance"], 1 / NAVE, 0.15, "power before the stimulus")
    assert 40 < est.result["noise_prior_dof"] < 60
    assert "degrees of freedom, against 60 samples" in methods_paragraph(est)

    same = (est.result["noise_prior_variance"], est.result["noise_prior_dof"])
    by_hand = solve(recorded, solver, solver_params=dict(noise_prior=same))
    close(by_hand.result.mean, est.result.mean, 1e-12, "mean")


def test_it_can_be_left_out(recorded):
    without = solve(recorded, solver_params=dict(noise_prior=None))
    assert "noise_prior_dof" not in without.result
    assert without.settings["parameters"] == "noise_prior=None"
    assert "baseline" not in without.settings["noise"]
    evoked, fwd, cov = recorded
    cut = evoked.copy().crop(0, None)
    before = solve((cut, fwd, cov))
    assert "parameters" not in before.settings and "noise_prior_dof" not in before.result
    close(before.result.mean, without.result.mean, 1e-12, "mean")
    with pytest.raises(ValueError, match="noise_prior in solver_params must be None or"):
        solve((cut, fwd, cov), solver_params=dict(noise_prior="baseline"))


def test_others_are_not_asked(recorded):
    "Solvers that are told the noise, and those that learn it in a way of their own"
    told = solve(recorded, "BMN", noise="given")
    assert "noise_prior" not in str(told.settings)


def test_conditions_together_have_one_prior(recorded):
    evoked, fwd, cov = recorded
    other = evoked.copy()
    other.nave = 4 * NAVE
    other._data = other._data / 2
    pair = solve(([evoked, other], fwd, cov), "gamma_lambda_map", shared=True)
    alone = solve(recorded, "gamma_lambda_map")
    close(pair[0].result["noise_prior_dof"], 2 * alone.result["noise_prior_dof"], 1e-9, "dof")
    powers = [e.result["noise_prior_variance"] for e in pair]
    close(powers, [1.0 * alone.result["noise_prior_variance"], powers[0] / 4], 1e-9, "power")


def test_epochs_have_each_their_own(recorded):
    evoked, fwd, cov = recorded
    rng = np.random.default_rng(0)
    data = evoked.data + 3e-6 * rng.normal(size=(3, N_SENSORS, 120))
    epochs = mne.EpochsArray(data, evoked.info, tmin=-0.3, verbose="ERROR")
    epochs.set_eeg_reference("average", projection=True, verbose="ERROR")
    each = [e.result["noise_prior_variance"] for e in solve((epochs, fwd, cov), average=False)]
    assert len(set(each)) == 3 and np.all(np.abs(np.array(each) - 1.1) < 0.3)


def test_passports_know_it(recorded):
    evoked, fwd, cov = recorded
    said = dict(n_train=2, n_test=2, levels=(0.3, 0.5), progress=False, seed=0)
    passport = calibrate(fwd, cov, evoked, "BMN_joint", noise="learn", tmin=0.0, **said)
    est = solve(recorded, calibration=passport)
    assert est.calibration is not None
    with pytest.raises(ValueError, match="noise_prior=None, got noise_prior='baseline'"):
        solve(recorded, calibration=passport, solver_params=dict(noise_prior=None))


def test_runs_of_a_passport_have_the_prior_of_their_own_baseline(recorded):
    evoked, fwd, cov = recorded
    scene = recording_scene(evoked, fwd, cov, tmin=0.0)
    rng = np.random.default_rng(0)
    before = rng.normal(size=(len(scene.leadfield.L), scene.n_before))
    y = rng.normal(size=(len(before), scene.n_times))
    bound = bind_to_recording("BMN_joint", dict(noise_prior="baseline"), "learn").told(3)
    result = runs_solve(bound, y, scene, None, before)
    close(result["noise_prior_variance"], baseline_prior(before).variance, 1e-12, "power")


def test_noise_that_is_far_off_names_the_prior(recorded):
    "A sparse, strong signal: without a prior one variance for all calls it noise"
    evoked, fwd, cov = recorded
    rng = np.random.default_rng(5)
    strong = evoked.copy()
    outlier = rng.normal(size=(N_SENSORS, 1)) * np.sin(np.arange(60) / 8)
    strong._data[:, 60:] += 3e-5 * (outlier - outlier.mean(0))  # a field that no source has
    with pytest.warns(PlausibilityWarning, match="noise_prior='baseline' in solver_params, or"):
        solve((strong, fwd, cov), solver_params=dict(noise_prior=None))


def test_short_baselines_say_nothing():
    assert baseline_prior(np.ones((4, 1))) is None
    assert baseline_prior(np.ones((4, 0))) is None


# ---- noise that goes on in time


@pytest.fixture(scope="module")
def slow(recorded):
    "The same, with noise of which each sample is like the one before"
    evoked, fwd, cov = recorded
    noise = TimeModel([0.97]).draw(N_SENSORS, 120, 3) * 3e-6 / np.sqrt(NAVE)
    noise[:, 60:] += 4 * (evoked.data[:, 60:] - evoked.data[:, 60:].mean(1, keepdims=True))
    e = mne.EvokedArray(noise, evoked.info, tmin=-0.3, nave=NAVE, verbose="ERROR")
    return e.set_eeg_reference("average", projection=True, verbose="ERROR"), fwd, cov


def test_samples_that_are_not_independent_are_said(slow, recorded):
    with pytest.warns(NoiseWarning, match="counts each of 60 samples as independent"):
        solve(slow, "gamma_map", noise="given")
    for more in (dict(n_components="auto"), {}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            which = slow if more else recorded
            solve(which, "gamma_map", noise="given", solver_params=more)
        assert not any("as independent" in str(w.message) for w in caught)


def test_a_sampler_may_be_told_an_autoregression(slow):
    few = dict(n_sweeps=16, n_burn=4, n_chains=2, patches=None)
    lags = solve(slow, "spike_slab", noise="given", solver_params=few)
    ar = solve(slow, "spike_slab", noise="given", solver_params=few | dict(time_cov="ar"))
    assert "time_cov='ar'" in ar.settings["parameters"]
    assert "time_cov" not in lags.settings["parameters"]

    evoked = slow[0]
    head = recording_scene(*slow, tmin=0.0).head
    before = np.sqrt(NAVE) * baseline_samples(evoked, head.whiten(evoked))
    R = ar_correlation([before], 60)
    by_hand = solve(slow, "spike_slab", noise="given", solver_params=few | dict(time_cov=R))
    close(ar.result.mean, by_hand.result.mean, 1e-12, "mean")
    assert np.abs(ar.result.mean - lags.result.mean).max() > 0

    cut = slow[0].copy().crop(0, None), *slow[1:]
    with pytest.raises(ValueError, match="time_cov in solver_params must be a matrix or None"):
        solve(cut, "spike_slab", noise="given", solver_params=few | dict(time_cov="ar"))
    with pytest.raises(ValueError, match="must be one of 'lags', 'ar', got 'burg'"):
        solve(slow, "spike_slab", noise="given", solver_params=few | dict(time_cov="burg"))


def test_runs_of_a_passport_are_told_the_autoregression_of_their_own_baseline(slow):
    scene = recording_scene(*slow, tmin=0.0)
    rng = np.random.default_rng(0)
    rows = len(scene.leadfield.L)
    before = TimeModel([0.9]).draw(rows, 60, 1)
    y = rng.normal(size=(rows, scene.n_times))
    few = dict(n_sweeps=16, n_burn=4, n_chains=2, patches=None)
    told = [
        bind_to_recording("spike_slab", few | dict(time_cov=way), "given").told(3, scene.coords)
        for way in ("ar", ar_correlation([before], scene.n_times))
    ]
    one, other = (runs_solve(bound, y, scene, 1.0, before) for bound in told)
    close(one.mean, other.mean, 1e-12, "mean")


@pytest.mark.parametrize("solver", ["champagne", "reml", "BMN_joint", "gamma_lambda_map"])
def test_a_cure_that_is_named_is_one_that_the_solver_takes(solver):
    "Of noise that ran to zero, and of noise that is not what the baseline has"
    takes = "noise_prior" in SOLVERS[solver].takes()
    rng = np.random.default_rng(0)
    L, y = rng.normal(size=(6, 80)), rng.normal(size=(6, 2))
    with pytest.warns(NoiseBoundaryWarning, match="ran to zero") as caught:
        SOLVERS[solver].function(L, y)
    words = [str(w.message) for w in caught if w.category is NoiseBoundaryWarning]
    assert takes == ("noise_prior" in words[0]) and takes != ("learn_noise=False" in words[0])

    evoked, fwd, cov = recorded_quietly()
    params = dict(noise_prior=None) if takes else {}
    with pytest.warns(PlausibilityWarning, match="noise that was learned") as caught:
        solve((evoked, fwd, cov), solver, solver_params=params)
    words = [str(w.message) for w in caught if "that was learned" in str(w.message)]
    assert takes == ("noise_prior='baseline' in solver_params" in words[0])
