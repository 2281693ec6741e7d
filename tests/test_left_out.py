"""Channels that are left out on the road of recordings: against arrays, and for every solver."""

import warnings

import mne
import numpy as np
import pytest
from test_nave import QUICK, forward, info, recording
from test_together import cov

from calibrain import compare, estimate_evoked, leave_channels_out
from calibrain.core.warnings import NoiseSizeWarning
from calibrain.estimator import sensor_groups
from calibrain.head.leadfield import Leadfield
from calibrain.solvers.bind import bind
from calibrain.solvers.left_out_sensors import sensor_group_scores
from calibrain.solvers.registry import SAMPLERS, SOLVERS

BASE = dict(solver="BMN", orientation="fixed", tmin=0.0)


def without_reference():
    e = recording().copy()
    e.del_proj()
    return mne.EvokedArray(e.data, info(), tmin=-0.3, nave=e.nave, verbose="ERROR")


def test_the_road_of_recordings_is_that_of_arrays():
    e = without_reference()
    lf = Leadfield.from_forward(forward(), "fixed")
    covariance = 25.0 / e.nave * np.eye(32)  # µV²
    y = 1e6 * e.data[:, 30:]
    groups = sensor_groups(32, 4)
    found = leave_channels_out(e, forward(), cov(), BASE, n_groups=4)
    reference = np.eye(32) - 1 / 32  # which estimate_evoked adds where it is missing
    projected = reference @ covariance @ reference
    by_hand = sensor_group_scores(
        bind("BMN"), reference @ lf.matrix(), reference @ y, projected, groups
    )
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)


@pytest.mark.parametrize("solver", [*SOLVERS, *SAMPLERS])
def test_every_solver_is_scored_and_compared(solver):
    s = {**SOLVERS, **SAMPLERS}[solver]
    base = dict(BASE, solver=solver, noise="learn" if s.learns_noise else "given")
    if solver == "spike_slab":
        base["solver_params"] = QUICK
    scores = leave_channels_out(recording(), forward(), cov(), base, n_groups=2)
    assert scores.shape == (2, 30) and np.isfinite(scores).all()
    found = estimate_evoked(recording(), forward(), cov(), progress=False, **base)
    norm = estimate_evoked(recording(), forward(), cov(), progress=False, **BASE)
    of_norm = leave_channels_out(recording(), forward(), cov(), BASE, n_groups=2)
    c = compare(dict(it=found, norm=norm), dict(it=scores, norm=of_norm))
    assert np.isclose(c.stacking.sum(), 1) and c._repr_html_()


@pytest.mark.parametrize("noise", ["given", "baseline"])
def test_noise_of_the_wrong_size(noise):
    "What is said to be half as noisy foretells worse, unless the baseline corrects it"
    half = mne.make_ad_hoc_cov(info(), dict(eeg=5e-6 / np.sqrt(3)), verbose="ERROR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseSizeWarning)  # it says so
        wrong = leave_channels_out(recording(), forward(), half, dict(BASE, noise=noise))
    right = leave_channels_out(recording(), forward(), cov(), BASE)
    assert (right.mean() > wrong.mean() + 0.5) == (noise == "given")


@pytest.mark.parametrize("kind", ["given to sensors", "loose", "depth"])
def test_other_ways_to_say_the_prior(kind):
    base = dict(BASE)
    if kind == "depth":
        base |= dict(depth=0.8)
    if kind == "loose":
        base |= dict(orientation="free")
    if kind == "given to sensors":
        base |= dict(picks=recording().ch_names[:20])
    scores = leave_channels_out(recording(), forward(), cov(), base)
    assert scores.shape == (5, 30) and np.isfinite(scores).all()


@pytest.mark.parametrize(
    "base, words",
    [
        (dict(calibration=None), "got calibration"),
        (dict(noise="true"), "noise"),
        (dict(solver="gamma_lambda_map"), "noise must be 'learn'"),
        (dict(tmin=3.0), "tmin"),
    ],
)
def test_bad_arguments(base, words):
    with pytest.raises((ValueError, TypeError), match=words):
        leave_channels_out(recording(), forward(), cov(), base)
    with pytest.raises(ValueError, match="noise_cov"):
        leave_channels_out(recording(), forward(), None, BASE)


def test_a_spectrum_is_refused_by_its_name():
    e = recording()
    spectrum = mne.EvokedArray((1 + 1j) * e.data, e.info, tmin=-0.3, nave=20, verbose="ERROR")
    with pytest.raises(TypeError, match="evoked must be real, got complex data"):
        leave_channels_out(spectrum, forward(), cov(), BASE)


@pytest.mark.parametrize("noise", ["baseline", "learn"])
def test_noise_that_nobody_passed(noise):
    base = dict(BASE, solver="BMN" if noise == "baseline" else "champagne", noise=noise)
    scores = leave_channels_out(recording(), forward(), None, base)
    told = leave_channels_out(recording(), forward(), cov(), BASE)
    assert abs(scores.mean() - told.mean()) < 2
