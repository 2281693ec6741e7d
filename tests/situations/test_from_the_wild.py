"""Recordings as people have them: each made a wrong map with small error bars, and nothing said so."""

import warnings

import mne
import numpy as np
import pytest
import realdata
from test_evoked import problem, sensors, solve

from calibrain import calibrate, contrast, estimate_evoked, grand_average
from calibrain.core.warnings import (
    DisagreementWarning,
    NoiseSizeWarning,
    NoiseWarning,
    PlausibilityWarning,
)
from calibrain.recording.situation import look_at


def heard(call):
    "What a call warned of"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return caught


def with_field(e, channel, volts, start=0.1, end=None):
    "A recording of which one channel has something more from a time on"
    e = e.copy()
    used = (e.times >= start - 1e-9) & (e.times <= (start if end is None else end) + 1e-9)
    e.data[e.ch_names.index(channel), used] += volts
    return e


def made_elsewhere(change):
    "Data and forward solution that agree on the places of electrodes, and are both wrong"
    evoked, _, cov = problem()
    evoked = evoked.copy()
    for channel in evoked.info["chs"]:
        channel["loc"] = channel["loc"].copy()
        channel["loc"][:3] = change(channel["loc"][:3])
    src = mne.setup_volume_source_space(
        pos=dict(rr=np.array([[0, 0.02, 0.05], [0.03, 0, 0.05]]), nn=np.eye(3)[:2]),
        verbose="ERROR",
    )
    sphere = mne.make_sphere_model((0, 0, 0), 0.095, verbose="ERROR")
    fwd = mne.make_forward_solution(evoked.info, None, src, sphere, verbose="ERROR")
    return evoked, fwd, cov


# Offsets


def offset(times_noise, evoked):
    "Data on an offset that differs from channel to channel"
    e = evoked.copy()
    level = np.random.default_rng(4).normal(size=(len(e.ch_names), 1))
    e.data += times_noise * e.data[:, e.times < 0].std() * level
    return e


def test_a_baseline_that_was_not_subtracted_is_announced():
    evoked, fwd, cov = problem()
    with pytest.warns(NoiseWarning, match=r"not zero before 0 s.*apply_baseline\(\(None, 0\)\)"):
        solve(offset(0.7, evoked), fwd, cov)


def test_recommend_says_so_too():
    evoked, fwd, cov = problem()
    with pytest.warns(NoiseWarning, match="not zero before 0 s"):
        look_at(offset(0.7, evoked), fwd, cov, dict(tmin=0.0, tmax=0.3))


def test_no_passport_is_made_of_it():
    evoked, fwd, cov = problem()
    with pytest.raises(ValueError, match="zero on average before 0 s"):
        calibrate(fwd, cov, offset(30, evoked), "BMN", n_train=19, n_test=19, progress=False)


def test_a_passport_of_a_recording_whose_nave_was_lost_is_refused_before_any_work():
    evoked, fwd, cov = problem()
    e = evoked.copy()
    e.data /= 10
    with pytest.raises(ValueError, match="noise_cov must be the noise of one epoch"):
        calibrate(fwd, cov, e, "BMN", n_train=19, n_test=19, progress=False)


def test_far_from_zero_it_is_refused():
    evoked, fwd, cov = problem()
    with pytest.raises(ValueError, match=r"zero on average before 0 s.*apply_baseline"):
        solve(offset(30, evoked), fwd, cov)


def test_the_cure_cures():
    evoked, fwd, cov = problem()
    e = offset(30, evoked).apply_baseline((None, 0), verbose="ERROR")
    assert not [w for w in heard(lambda: solve(e, fwd, cov)) if "not zero" in str(w.message)]


def test_a_baseline_of_ones_own_is_not_asked_about():
    "Of an average around a movement the baseline is elsewhere"
    evoked, fwd, cov = problem()
    e = offset(0.7, evoked).apply_baseline((-0.2, -0.15), verbose="ERROR")
    e.data += 1e-6  # the reference takes it out
    assert not [w for w in heard(lambda: solve(e, fwd, cov)) if "not zero" in str(w.message)]


@realdata.needed
def test_a_real_recording_that_was_read_without_its_baseline():
    "It had 16 µAm ± 4 % in a fit without fault"
    path = realdata.BESIDE / "test-ave.fif.gz"
    e = mne.read_evokeds(path, condition="Right Auditory", verbose="ERROR")
    e.info["bads"] = realdata.KNOWN_BAD
    with pytest.raises(ValueError, match="zero on average before 0 s"):
        estimate_evoked(e, realdata.forward("eeg"), realdata.covariance(), tmin=0.08, tmax=0.09)


# Kinds of sensors


@pytest.mark.parametrize("noise", ["given", "baseline"])
@pytest.mark.parametrize("kind, factor", [("mag", 10), ("grad", 10), ("eeg", 0.1)])
def test_noise_of_one_kind_that_is_out_of_proportion(kind, factor, noise):
    evoked, fwd, cov = problem("both")
    kinds = np.array(evoked.get_channel_types())
    size = np.sqrt(np.where(kinds == kind, factor, 1.0))
    other = mne.Covariance(cov["data"] * np.outer(size, size), cov["names"], [], [], 500)
    caught = heard(lambda: solve(evoked, fwd, other, noise=noise))
    said = [w for w in caught if "kinds of sensors" in str(w.message)]
    assert [w.category for w in said] == [NoiseSizeWarning]
    assert f"of {kind}" in str(said[0].message)


@pytest.mark.parametrize("seed", range(6))
def test_kinds_in_proportion_are_silent(seed):
    evoked, fwd, cov = problem("both", seed=seed)
    said = heard(lambda: solve(evoked, fwd, cov))
    assert not [w for w in said if "kinds of sensors" in str(w.message)]


# Places of electrodes


WRONG = {
    "mirrored": (lambda p: p * [-1, 1, 1], "of -1.00 from left to right"),
    "x at the nose": (lambda p: p[[1, 0, 2]] * [1, -1, 1], "where their names say"),
    "mm": (lambda p: 1e3 * p, "positions of electrodes in m"),
    "a sphere of radius 1": (lambda p: p / np.linalg.norm(p), "positions of electrodes in m"),
}


@pytest.mark.parametrize("what", WRONG)
def test_electrodes_where_no_head_has_them(what):
    change, words = WRONG[what]
    with pytest.raises(ValueError, match=words):
        solve(*made_elsewhere(change))


def test_electrodes_in_another_order():
    places = np.array([c["loc"][:3] for c in sensors("eeg")["chs"]])
    others = iter(np.random.default_rng(0).permutation(places))
    with pytest.raises(ValueError, match="where their names say"):
        solve(*made_elsewhere(lambda _: next(others)))


@pytest.mark.parametrize("change", [lambda p: 0.8 * p, lambda p: p + 0.015, lambda p: p])
def test_other_heads_and_caps_are_silent(change):
    solve(*made_elsewhere(change))


def test_names_with_what_recorders_write_around_them():
    evoked, fwd, cov = problem()
    e = evoked.copy().rename_channels(lambda name: f"EEG {name.upper()}-REF")
    with pytest.raises(ValueError, match=r"rename_channels\(\{'EEG FP1-REF': 'Fp1', 'EEG AF3"):
        solve(e, fwd, cov)


# Sensors


def test_a_saturated_channel():
    evoked, fwd, cov = problem()
    e = evoked.copy()
    e.data[4, 25:38] = 8e-6
    with pytest.raises(ValueError, match="stand still, got FC1 at the same value for 13 samples"):
        solve(e, fwd, cov)
    e.info["bads"] = ["FC1"]
    solve(e, fwd, cov)


def test_one_electrode_that_jumps():
    evoked, fwd, cov = problem()
    said = "Cz has .* µV at 100 ms, where all other sensors foretell"
    with pytest.warns(PlausibilityWarning, match=said):
        solve(with_field(evoked, "Cz", 60e-6), fwd, cov)
    beside = with_field(evoked, "Cz", 60e-6, start=0.35)  # outside the window
    assert not [w for w in heard(lambda: solve(beside, fwd, cov)) if "foretell" in str(w.message)]


@pytest.mark.parametrize("kind", ["eeg", "meg", "both"])
@pytest.mark.parametrize("times", [1, 10])
def test_what_sources_make_is_no_jump(kind, times):
    evoked, fwd, cov = problem(kind)
    e = evoked.copy()
    e.data[:, e.times >= 0] *= times  # the noise as well
    said = heard(lambda: solve(e, fwd, cov))
    assert not [w for w in said if "foretell" in str(w.message)]


def test_electrodes_that_gel_has_bridged():
    evoked, fwd, cov = problem()
    A = np.eye(32)
    A[8] = A[7]
    C = A @ cov["data"] @ A.T
    C[8, 8] += 1e-3 * C[8, 8]
    bridged = mne.Covariance(C, cov["names"], [], [], 500)
    e = evoked.copy()
    e.data = A @ e.data
    said = heard(lambda: solve(e, fwd, bridged))
    pairs = f"{e.ch_names[7]} and {e.ch_names[8]} measure the same"
    assert [w for w in said if pairs in str(w.message)]
    assert not [w for w in heard(lambda: solve(evoked, fwd, cov)) if "the same" in str(w.message)]


# Noise without a baseline


def test_without_samples_before_the_stimulus_no_cure_needs_them():
    evoked, fwd, cov = problem()
    e = evoked.copy().crop(0.0, None)
    e.data *= 0.01
    with pytest.raises(ValueError, match=r"got data whose noise is .* With samples before 0 s"):
        solve(e, fwd, cov)


# Contrasts


def test_conditions_that_were_estimated_in_other_ways():
    evoked, fwd, cov = problem()
    other = mne.EvokedArray(0.9 * evoked.data, evoked.info, -0.2, nave=6, verbose="ERROR")
    a, b = solve(evoked, fwd, cov), solve(other, fwd, cov, "gamma_map")
    with pytest.warns(DisagreementWarning, match=r"different ways \(solver: BMN, and gamma_map\)"):
        contrast({"a": 1, "b": -1}, dict(a=a, b=b))
    b = solve(other, fwd, cov, noise="baseline")
    with pytest.warns(DisagreementWarning, match=r"different ways \(noise: "):
        contrast({"a": 1, "b": -1}, dict(a=a, b=b))
    b = solve(other, fwd, cov)
    assert not heard(lambda: contrast({"a": 1, "b": -1}, dict(a=a, b=b)))


def test_a_difference_of_the_same_data():
    est = solve(*problem())
    with pytest.warns(DisagreementWarning, match="are of the same data"):
        nothing = est - est
    assert nothing.peak().amplitude == 0 and np.isfinite(nothing.peak().std)


def test_a_subject_who_is_in_the_group_twice():
    rng = np.random.default_rng(0)
    of = [(rng.normal(size=(3, 4)), np.ones((3, 4))) for _ in range(3)]
    with pytest.warns(PlausibilityWarning, match="subject 1 and subject 4 say exactly the same"):
        grand_average([*of, of[0]])
    assert not heard(lambda: grand_average(of))
