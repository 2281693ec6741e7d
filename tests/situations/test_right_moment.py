"""Checks at the right moment: windows, variances, flat channels and gaps."""

from types import SimpleNamespace

import mne
import numpy as np
import pytest
import realdata
from test_evoked import head, marked, problem, same, sensors, solve

from calibrain import estimate_evoked
from calibrain.recording.input import time_window
from calibrain.recording.whitened import whitened_forward

# Windows


@pytest.mark.parametrize("sfreq", [100.0, 250.0, 600.614990234375, 1000.0, 1024.0])
@pytest.mark.parametrize("tmin", [-0.2, -0.1 + 1e-9, 0.0, 0.05, 0.0999, 0.1])
@pytest.mark.parametrize("length", [0.0, 0.0101, 0.05, 0.1 + 1e-12])
@pytest.mark.filterwarnings("ignore:tmin is not in time interval")
def test_windows_are_those_of_crop(sfreq, tmin, length):
    info = mne.create_info(["Cz"], sfreq, "eeg")
    n = int(0.5 * sfreq)
    e = mne.EvokedArray(np.zeros((1, n)), info, tmin=-0.2, verbose="ERROR")
    tmax = tmin + length
    window = time_window(e, tmin, tmax)
    np.testing.assert_array_equal(e.times[window], e.copy().crop(tmin, tmax).times)


def test_windows_after_decimation():
    "Times that are no multiples of the sampling interval"
    info = mne.create_info(["Cz"], 1000.0, "eeg")
    e = mne.EvokedArray(np.zeros((1, 400)), info, tmin=-0.2, verbose="ERROR")
    e.decimate(3, offset=1, verbose="ERROR")
    for tmin, tmax in ((0.0, 0.1), (0.05, 0.05), (0.0333, 0.15)):
        window = time_window(e, tmin, tmax)
        np.testing.assert_array_equal(e.times[window], e.copy().crop(tmin, tmax).times)


def test_one_sample():
    evoked, fwd, cov = problem()
    est = solve(evoked, fwd, cov, tmin=0.1, tmax=0.1)
    assert est.times.tolist() == [0.1]
    longer = solve(evoked, fwd, cov, tmin=0.1, tmax=0.12)
    assert est.mean.data.shape[-1] == 1 and longer.mean.data.shape[-1] == 3


@realdata.needed
def test_a_recording_whose_sampling_frequency_is_odd():
    e = realdata.evoked("Right Auditory")
    est = estimate_evoked(
        e, realdata.forward("eeg"), realdata.covariance(), "BMN", tmin=0.1, tmax=0.2, progress=False
    )
    np.testing.assert_allclose(est.times, e.copy().crop(0.1, 0.2).times, atol=1e-12)


# Variances


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
def test_noise_of_a_short_baseline_is_right_on_average(n):
    "n - 1 in the size of the noise, and in a covariance of the baseline"
    rng = np.random.default_rng(0)
    info = sensors("eeg")
    cov = mne.Covariance(np.full(32, 1e-12), info["ch_names"], [], [], 1000)
    sizes = []
    variances = []
    for _ in range(20):
        data = 1e-6 * rng.normal(size=(32, n + 3)) / np.sqrt(8)
        said = dict(tmin=-n / 100, nave=8, verbose="ERROR")
        e = mne.EvokedArray(data, info, **said)
        est = solve(e, head("eeg"), cov, noise="baseline", tmin=0.0, tmax=0.02)
        sizes.append(8 * est.result.noise_var)
        own = whitened_forward([e], head("eeg"), None, None, "free")
        variances.append(1 / np.trace(own.whitener.W @ own.whitener.W.T) * 31)
    for found in (sizes, variances):
        assert np.mean(found) == pytest.approx(1, abs=4 * np.std(found) / np.sqrt(20) + 0.01)


# Flat channels


def re_referenced(evoked, to):
    "An average that was referenced to an electrode, which stayed in the data"
    e = evoked.copy().set_eeg_reference([to], verbose="ERROR")
    assert not e.data[e.ch_names.index(to)].any()
    return e.set_eeg_reference("average", projection=True, verbose="ERROR")


@pytest.mark.parametrize("kind", ["eeg", "both"])
@pytest.mark.parametrize("applied", [False, True])
def test_the_former_reference_is_a_channel_like_the_others(kind, applied):
    evoked, fwd, cov = problem(kind)
    e = re_referenced(evoked, "Cz")
    same(solve(e.apply_proj(verbose="ERROR") if applied else e, fwd, cov), solve(evoked, fwd, cov))


@pytest.mark.filterwarnings("ignore:Location for this channel")
def test_a_reference_that_was_added():
    "mne.add_reference_channels adds zeros"
    evoked, fwd, cov = problem()
    e = evoked.copy()
    e.data -= e.data[e.ch_names.index("Cz")]
    e = mne.add_reference_channels(e.drop_channels(["Cz"]), ["Cz"])
    e.set_montage(mne.channels.make_standard_montage("biosemi32"))
    e.set_eeg_reference("average", projection=True, verbose="ERROR")
    same(solve(e, fwd, cov), solve(evoked, fwd, cov))


@pytest.mark.parametrize(
    "kind, channels, value", [("eeg", [3], 2e-6), ("eeg", [3, 7], 0.0), ("meg", [3], 0.0)]
)
def test_dead_channels(kind, channels, value):
    "A constant, two silent electrodes, a silent MEG sensor"
    evoked, fwd, cov = problem(kind)
    e = evoked.copy()
    e.data[channels] = value
    name = evoked.ch_names[channels[0]]
    with pytest.raises(ValueError, match=f"without flat channels, got {name}"):
        solve(e, fwd, cov)
    solve(marked(e, *[evoked.ch_names[i] for i in channels]), fwd, cov)


# Gaps


@pytest.mark.parametrize(
    "value, where",
    [(np.nan, "after"), (np.inf, "after"), (1.0, "after"), (np.nan, "before"), (np.inf, "before")],
)
@pytest.mark.parametrize("cov_too", [True, False])
def test_a_gap_outside_the_window_harms_nobody(value, where, cov_too):
    "NaN of an interpolated segment, or a stimulus artefact of a volt"
    evoked, fwd, cov = problem()
    e = evoked.copy()
    at = 57 if where == "after" else 4
    e.data[5, at] = value
    said = dict(noise="baseline", tmin=0.0, tmax=0.3)
    want = evoked.copy()
    if where == "before":
        want.data[:, 4] = np.nan
    got = solve(e, fwd, cov if cov_too else None, **said)
    same(got, solve(want, fwd, cov if cov_too else None, **said))
    assert np.isfinite(got.mean.data).all() and np.isfinite(got.power["baseline"])


def test_a_gap_in_the_window_of_one_condition():
    evoked, fwd, cov = problem()
    e = evoked.copy()
    e.data[[5, 9], 30:] = np.nan
    names = f"{e.ch_names[5]}, {e.ch_names[9]}"
    words = f"finite, got 42 NaN or infinite values in {names}, from 0.1 s on"
    with pytest.raises(ValueError, match=words):
        solve([evoked, e], fwd, cov)


def test_nothing_is_solved_before_it_is_checked(monkeypatch):
    evoked, fwd, cov = problem()
    ran = SimpleNamespace(times=0)

    def counted(*args):
        ran.times += 1

    monkeypatch.setattr("calibrain.recording.estimate.solve_recording", counted)
    e = evoked.copy()
    e.data[5, 30] = np.nan
    with pytest.raises(ValueError, match="finite"):
        solve([evoked, e], fwd, cov)
    assert ran.times == 0
