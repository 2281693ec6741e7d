"""Epochs one by one, with shared work and bounded memory."""

import gc
import tracemalloc
import warnings

import mne
import numpy as np
import pytest
from test_evoked import changed, how, problem, same, solve

from calibrain import estimate_evoked
from calibrain.core.warnings import NoiseWarning


def epochs(n=6, reject=None, seed=0):
    "Epochs of one problem; two kinds of events"
    evoked, fwd, cov = problem(nave=1)
    rng = np.random.default_rng(seed)
    data = evoked.data + 3e-6 * rng.normal(size=(n, 32, 60))
    events = np.c_[np.arange(n) * 100, np.zeros(n, int), 1 + np.arange(n) % 2]
    said = dict(event_id=dict(tone=1, flash=2), reject=reject, verbose="ERROR")
    return mne.EpochsArray(data, evoked.info, events, tmin=-0.2, **said), fwd, cov


@pytest.mark.parametrize("solver", ["BMN", "gamma_map_sflex", "BMN_joint"])
def test_each_is_what_it_would_be_alone(solver):
    some, fwd, cov = epochs()
    said = dict(noise=how(solver), orientation="fixed")
    all_of_them = solve(some, fwd, cov, solver, average=False, **said)
    assert len(all_of_them) == 6
    for number, got in enumerate(all_of_them):
        alone = mne.EvokedArray(some.get_data(copy=True)[number], some.info, -0.2, nave=1)
        same(got, solve(alone, fwd, cov, solver, **said))
        assert got.nave == 1
    same(all_of_them[-1], got)
    assert [est.comment for est in all_of_them[:2]] == ["tone", "flash"]


def test_work_is_shared_and_nothing_is_kept(monkeypatch):
    some, fwd, cov = epochs(40)
    from calibrain.recording import estimate

    calls = []
    whole = estimate.whitened_forward
    monkeypatch.setattr(estimate, "whitened_forward", lambda *args: calls.append(1) or whole(*args))
    found = solve(some, fwd, cov, average=False)
    assert calls == [1]
    next(iter(found))
    gc.freeze()  # what other tests left need not be looked through forty times
    tracemalloc.start()
    sizes = []
    for _ in found:
        gc.collect()  # MNE-Python's info refers to itself
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    gc.unfreeze()
    assert calls == [1]
    assert max(sizes[20:]) < 1.5 * max(sizes[:20])


def test_epochs_that_are_still_in_a_file(tmp_path):
    "Read one by one; what is passed stays as it was"
    some, fwd, cov = epochs()
    some.save(tmp_path / "x-epo.fif", verbose="ERROR")
    lazy = mne.read_epochs(tmp_path / "x-epo.fif", preload=False, verbose="ERROR")
    found = solve(lazy, fwd, cov, average=False)
    for a, b in zip(found, solve(some, fwd, cov, average=False)):
        same(a, b, rtol=1e-4)
    assert not lazy.preload


def test_rejected_epochs_are_left_out():
    some, fwd, cov = epochs()
    data = some.get_data(copy=True)
    data[2, 4, 10] = 1.0
    noisy = mne.EpochsArray(data, some.info, some.events, -0.2, reject=dict(eeg=1e-3))
    assert len(solve(noisy, fwd, cov, average=False)) == 5


def test_noise_of_all_baselines_together():
    "Of single epochs, not of their average, in which what they share is stronger"
    some, fwd, _ = epochs(30)
    found = solve(some, fwd, None, average=False, noise="baseline")
    size = [est.power["baseline"] for est in found]
    assert np.mean(size) == pytest.approx(1, abs=0.1)


def test_checks_come_first_and_each_epoch_is_looked_at():
    some, fwd, cov = epochs()
    with pytest.raises(ValueError, match="tmin must be"):
        solve(some, fwd, cov, average=False, tmin=3.0, tmax=None)
    with pytest.raises(TypeError, match=r"mne\.Epochs where average=False, got EvokedArray"):
        solve(some.average(), fwd, cov, average=False)
    with pytest.raises(ValueError, match="average must be one of True, False"):
        solve(some, fwd, cov, average="mean")
    with pytest.raises(ValueError, match="got none: were all rejected"):
        solve(some[:0], fwd, cov, average=False)
    broken = some.copy()
    broken._data[3, 5, 30] = np.nan
    found = solve(broken, fwd, cov, average=False)
    assert found[2].n_orient == 3
    with pytest.raises(ValueError, match=f"NaN or infinite values in {some.ch_names[5]}"):
        found[3]
    with pytest.raises(IndexError):
        found[6]


def test_averages_are_as_they_were():
    some, fwd, cov = epochs()
    same(solve(some, fwd, cov), solve(some.average(), fwd, cov))


def test_progress(capsys, monkeypatch):
    monkeypatch.setattr("calibrain.core.progress.watched", lambda: True)
    some, fwd, cov = epochs(3)
    list(estimate_evoked(some, fwd, cov, "BMN", average=False, progress=True))
    assert "3/3" in capsys.readouterr().err
    list(estimate_evoked(some, fwd, cov, "BMN", average=False, progress=False))
    assert capsys.readouterr().err == ""


def noise_only(n=12, seed=3):
    "Epochs of noise of one covariance"
    evoked, fwd, cov = problem(nave=1)
    root = np.linalg.cholesky(cov["data"])
    data = root @ np.random.default_rng(seed).normal(size=(n, 32, 60))
    events = np.c_[np.arange(n) * 100, np.zeros(n, int), np.ones(n, int)]
    return mne.EpochsArray(data, evoked.info, events, tmin=-0.2, verbose="ERROR"), fwd, cov


def test_one_noisy_epoch_does_not_stop_the_others():
    "A baseline 100 times as noisy as it should be is said by its power, and nothing else"
    some, fwd, cov = noise_only()
    some._data[3] *= 10
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoiseWarning)
        found = list(solve(some, fwd, cov, average=False))
    assert found[3].power["baseline"] > 50 > 2 > found[4].power["baseline"]


@pytest.mark.parametrize("factor, wrong", [(1 / 100, "times larger"), (100, "times smaller")])
def test_a_covariance_that_is_far_off_is_refused_before_the_first(factor, wrong):
    some, fwd, cov = noise_only()
    off = changed(cov, data=factor * cov["data"])
    with pytest.raises(ValueError, match=f"within a factor of 30, got .*{wrong}"):
        solve(some, fwd, off, average=False)
