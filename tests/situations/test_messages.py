"""Messages: what was passed, which channel it is, and what to do."""

import mne
import numpy as np
import pytest
from test_evoked import problem, same, solve

from calibrain import (
    BMN,
    Leadfield,
    SourceEstimator,
    estimate_evoked,
    gamma_lambda_map,
    gamma_map,
)

L = np.random.default_rng(0).normal(size=(32, 40))
Y = np.random.default_rng(1).normal(size=(32, 5))


def objects():
    "What people have in their hands"
    evoked, fwd, cov = problem()
    raw = mne.io.RawArray(evoked.data, evoked.info, verbose="ERROR")
    epochs = mne.EpochsArray(evoked.data[None], evoked.info, tmin=-0.2, verbose="ERROR")
    est = solve(evoked, fwd, cov)
    return dict(
        evoked=(evoked, "mne.EvokedArray", "estimate_evoked"),
        epochs=(epochs, "mne.EpochsArray", "estimate_evoked"),
        raw=(raw, "mne.RawArray", "mne.Epochs"),
        forward=(fwd, "mne.Forward", "Leadfield.from_forward"),
        covariance=(cov, "mne.Covariance", "noise_cov"),
        estimate=(est.mean, "mne.VolVectorSourceEstimate", "its data"),
        posterior=(est, "calibrain.EvokedPosterior", "data of its estimate"),
        result=(est.result, "calibrain.Result", "its mean"),
    )


OBJECTS = list(objects())
PATHS = dict(
    estimator=lambda L, y: SourceEstimator("BMN", noise_var=1.0).fit(L, y),
    BMN=lambda L, y: BMN(L, y, 1.0),
    gamma_map=lambda L, y: gamma_map(L, y, 1.0),
    gamma_lambda_map=lambda L, y: gamma_lambda_map(L, y),
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("what", OBJECTS)
@pytest.mark.parametrize("argument", ["L", "y"])
def test_an_object_where_an_array_is_expected(path, what, argument):
    passed, kind, cure = objects()[what]
    arrays = (passed, Y) if argument == "L" else (L, passed)
    words = f"{argument} must be an array of numbers, got {kind}: .*{cure}"
    with pytest.raises(TypeError, match=words):
        PATHS[path](*arrays)


@pytest.mark.parametrize(
    "passed, kind", [("y.npy", "str"), (dict(y=Y), "dict"), (None, "NoneType")]
)
def test_other_things_where_an_array_is_expected(passed, kind):
    with pytest.raises(TypeError, match=f"y must be .*{kind}"):
        SourceEstimator("BMN", noise_var=1.0).fit(L, passed)


def test_objects_in_another_order():
    "Forward solution and covariance exchanged, a Raw, an array"
    evoked, fwd, cov = problem()
    raw = mne.io.RawArray(evoked.data, evoked.info, verbose="ERROR")
    with pytest.raises(TypeError, match=r"got Forward: the order is evoked, forward, noise_cov"):
        estimate_evoked(fwd, evoked, cov)
    with pytest.raises(TypeError, match=r"forward must be an mne\.Forward, got Covariance"):
        estimate_evoked(evoked, cov, fwd)
    with pytest.raises(TypeError, match=r"got RawArray: cut it into mne\.Epochs"):
        estimate_evoked(raw, fwd, cov)
    with pytest.raises(TypeError, match="got ndarray: arrays go to SourceEstimator"):
        estimate_evoked(evoked.data, fwd, cov)


# Channels by name


def test_nan_names_its_channel():
    evoked, fwd, _ = problem()
    lf = Leadfield.from_forward(fwd)
    y = 1e6 * evoked.data
    y[4, 2] = np.nan
    y[9, 2:4] = np.inf
    words = f"y must be finite, got 3 NaN or infinite values in {lf.ch_names[4]}, {lf.ch_names[9]}:"
    with pytest.raises(ValueError, match=words):
        SourceEstimator("BMN", noise_var=1.0).fit(lf, y)
    fitted = SourceEstimator("BMN", noise_var=1.0).fit(lf, 1e6 * evoked.data)
    with pytest.raises(ValueError, match=words):
        fitted.predict(y)
    with pytest.raises(ValueError, match="3 NaN or infinite values in row 4, row 9:"):
        BMN(lf.matrix(), y, 1.0)


# Picks


@pytest.mark.parametrize("picks", ["meg", "mag", ["grad"], ["meg", "eeg"]])
def test_meg_is_picked_and_the_forward_solution_is_for_eeg(picks):
    evoked, _, cov = problem("both")
    fwd = problem("eeg")[1]
    words = "picks must be among eeg, as the forward solution has eeg, got .*: leave picks out"
    with pytest.raises(ValueError, match=words):
        solve(evoked, fwd, cov, picks=picks)


def test_eeg_is_picked_and_the_forward_solution_is_for_meg():
    evoked, _, cov = problem("both")
    with pytest.raises(ValueError, match="as the forward solution has grad and mag, got 'eeg'"):
        solve(evoked, problem("meg")[1], cov, picks="eeg")


@pytest.mark.parametrize("dtype", [list, np.array, tuple, lambda x: np.array(x, np.int16)])
def test_integer_picks(dtype):
    evoked, fwd, cov = problem()
    some = [0, 3, 5, *range(10, 30), -1]
    by_name = solve(evoked, fwd, cov, picks=[evoked.ch_names[i] for i in some])
    same(solve(evoked, fwd, cov, picks=dtype(some)), by_name)


def test_picks_of_mne():
    "pick_types, a slice, 'data', one number"
    evoked, fwd, cov = problem("both")
    eeg = mne.pick_types(evoked.info, meg=False, eeg=True)
    same(solve(evoked, fwd, cov, picks=eeg), solve(evoked, fwd, cov, picks="eeg"))
    same(solve(evoked, fwd, cov, picks="data"), solve(evoked, fwd, cov))
    only_eeg = problem("eeg")[1]
    same(solve(evoked, only_eeg, cov, picks="data"), solve(evoked, only_eeg, cov))
    meg = slice(0, len(evoked.ch_names) - 32)
    same(solve(evoked, fwd, cov, picks=meg), solve(evoked, fwd, cov, picks="meg"))
    assert Leadfield.from_forward(problem()[1], picks=[0, 2]).ch_names == ("Fp1", "F7")


def test_a_pick_of_a_bad_channel_by_number():
    evoked, fwd, cov = problem()
    evoked = evoked.copy()
    evoked.info["bads"] = [evoked.ch_names[3]]
    with pytest.raises(
        ValueError, match=f"picks must be without bad channels, got {evoked.ch_names[3]}"
    ):
        solve(evoked, fwd, cov, picks=[1, 2, 3])
