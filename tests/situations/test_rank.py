"""Rank: what counts is what data, covariance and projections have together.

Maxwell filtering, interpolated channels, references taken out by hand, ranks that are said.
"""

import warnings

import mne
import numpy as np
import pytest
from test_evoked import NOISE, problem, same, solve

from calibrain import SourceEstimator
from calibrain.core.warnings import NoiseShapeWarning, RankWarning
from calibrain.recording.whitened import whitened_forward

LONG = 140  # samples, more than there are sensors


def heard(call, *args, **more):
    "What a call returns, and what it warned of"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = call(*args, **more)
    return out, caught


def ranks(caught):
    return [str(w.message) for w in caught if w.category is RankWarning]


def noise_only(kind, change=None, seed=0):
    "White noise of a recording, changed as a matrix says"
    evoked, fwd, _ = problem(kind)
    size = np.array([NOISE[k] for k in evoked.get_channel_types()])
    noise = np.random.default_rng(seed).normal(size=(len(size), LONG))
    if change is not None:
        noise = change @ noise
    data = size[:, None] * noise / np.sqrt(evoked.nave)
    said = dict(tmin=-0.7, nave=evoked.nave, verbose="ERROR")
    e = mne.EvokedArray(data, evoked.info, **said)
    exact = mne.Covariance(np.diag(size**2), e.ch_names, [], [], 0)
    return e, fwd, exact


def lost(n, keep, seed=1):
    "A projection that leaves some of n directions, as Maxwell filtering does"
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, keep)))[0]
    return Q @ Q.T


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_data_of_lower_rank_than_the_covariance(dtype):
    "Noise of 20 directions with a covariance of 31 is announced, and stays noise"
    e, fwd, cov = noise_only("eeg", lost(32, 20))
    e.data = e.data.astype(dtype).astype(float)
    est, caught = heard(solve, e, fwd, cov, "gamma_map")
    assert any("31 directions of EEG, the data 20" in text for text in ranks(caught))
    assert len(est.result.posterior.gamma) < 25
    assert est.power["baseline"] == pytest.approx(1, abs=0.15)


def test_a_covariance_of_the_same_data_is_silent():
    P = lost(32, 20)
    e, fwd, cov = noise_only("eeg", P)
    there = mne.Covariance(P @ cov["data"] @ P, e.ch_names, [], [], 0)
    _, caught = heard(solve, e, fwd, there)
    assert not ranks(caught)


def test_interpolated_channels():
    "Three channels that are mixtures of others leave three directions fewer"
    mix = np.eye(32)
    for bad in (3, 7, 11):
        mix[bad] = 0
        mix[bad, [0, 1, 20, 21]] = 0.25
    e, fwd, cov = noise_only("eeg", mix)
    _, caught = heard(whitened_forward, [e], fwd, cov)
    assert any("31 directions of EEG, the data 28" in text for text in ranks(caught))


def test_few_samples_say_nothing_of_rank():
    "A window of ten samples has rank ten, and is no Maxwell filter"
    e, fwd, cov = noise_only("eeg")
    e.crop(-0.05, 0.05)
    head, caught = heard(whitened_forward, [e], fwd, cov)
    assert not ranks(caught) and head.whitener.rank == 31


def test_smooth_data_say_nothing_of_rank():
    "Data below 8 Hz, upsampled to 1000 Hz, have few directions in time, all of them in space"
    e, fwd, cov = noise_only("eeg")
    smooth = e.copy().resample(1000.0, npad=100, verbose="ERROR").filter(None, 8.0, verbose="ERROR")
    head, caught = heard(whitened_forward, [smooth], fwd, cov)
    assert not ranks(caught) and head.whitener.rank == 31


def test_projections_are_no_surprise():
    "What info's projections take away is known, applied or not"
    evoked, fwd, cov = problem("meg")
    _, caught = heard(solve, evoked, fwd, cov)
    assert not ranks(caught)
    _, caught = heard(solve, evoked.copy().apply_proj(verbose="ERROR"), fwd, cov)
    assert not ranks(caught)


def test_data_outside_the_covariance():
    "A covariance of Maxwell-filtered data with unfiltered data leaves power out, and says so"
    e, fwd, cov = noise_only("eeg")
    P = lost(32, 20)
    there = mne.Covariance(P @ cov["data"] @ P, e.ch_names, [], [], 0)
    _, caught = heard(solve, e, fwd, there)
    assert any("of the data's power lies outside" in text for text in ranks(caught))


@pytest.mark.parametrize("kind, rank, found", [
    ("meg", dict(mag=10, grad=8), 18),
    ("meg", dict(mag=10), 10 + 25),
    ("meg", dict(meg=20), 20),
    ("eeg", dict(eeg=20), 20),
])  # fmt: skip
def test_rank_that_is_said(kind, rank, found):
    "It counts, for magnetometers and gradiometers too, and comes back as it was"
    evoked, fwd, cov = problem(kind)
    said = dict(rank)
    head = whitened_forward([evoked], fwd, cov, rank=said)
    assert said == rank
    if rank != dict(mag=10):
        assert head.whitener.rank == found
    kinds = np.array(evoked.get_channel_types())
    for one in set(rank) & {"mag", "grad"}:
        W = head.whitener.W[:, kinds == one]
        assert np.linalg.matrix_rank(W, tol=1e-6 * np.abs(W).max()) == rank[one]


def test_whitened_with_a_rank_of_each_kind():
    "In the directions that are kept the noise becomes white"
    evoked, fwd, cov = problem("meg")
    head = whitened_forward([evoked], fwd, cov, rank=dict(mag=10, grad=8))
    W = head.whitener.W * head.leadfield.from_si
    np.testing.assert_allclose(W @ cov["data"] @ W.T, np.eye(18), atol=1e-6)


@pytest.mark.parametrize("rank, words", [
    (dict(mag=5000), r"rank\['mag'\] must be finite and >= 1 and <= "),
    (dict(meg=38), "projections and filters leave no more"),
    (dict(mag=3, meg=20), "rank must be said once for each channel"),
    (dict(magnetometers=3), "rank must be of eeg, mag, grad, meg, got 'magnetometers'"),
])  # fmt: skip
def test_ranks_that_cannot_be(rank, words):
    evoked, fwd, cov = problem("meg")
    with pytest.raises(ValueError, match=words):
        whitened_forward([evoked], fwd, cov, rank=rank)


def test_a_rank_for_other_channels():
    "One dict for all subjects: announced, without effect, and not changed"
    evoked, fwd, cov = problem("meg")
    rank = dict(eeg=58)
    est, caught = heard(solve, evoked, fwd, cov, rank=rank)
    assert rank == dict(eeg=58)
    assert ranks(caught) == ["rank['eeg'] has no effect: no eeg channels are used"]
    same(est, solve(evoked, fwd, cov))


def test_what_mne_warns_of_is_heard(monkeypatch):
    evoked, fwd, cov = problem()
    compute = mne.cov.compute_whitener

    def warns(*args, **more):
        if more.get("pca"):
            warnings.warn("something is odd", RuntimeWarning, stacklevel=2)
        return compute(*args, **more)

    monkeypatch.setattr(mne.cov, "compute_whitener", warns)
    _, caught = heard(solve, evoked, fwd, cov)
    assert ranks(caught) == ["MNE-Python on noise_cov: something is odd"]


def test_arrays():
    "The same on the road of arrays"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(20, 40))
    y = lost(20, 12) @ rng.normal(size=(20, 90))
    _, caught = heard(SourceEstimator("BMN", noise_cov=np.eye(20)).fit, L, y)
    assert any("noise_cov reaches 20 directions, the data 12" in text for text in ranks(caught))


def test_list_of_conditions():
    "Short conditions show together what each alone cannot"
    e, fwd, cov = noise_only("eeg", lost(32, 20))
    halves = [e.copy().crop(None, -0.2), e.copy().crop(-0.19, None)]
    _, caught = heard(whitened_forward, halves, fwd, cov)
    assert any("the data 20" in text for text in ranks(caught))


def test_variances_of_the_baseline_after_maxwell_filtering():
    "No covariance at all: announced as what it is"
    e, fwd, _ = noise_only("eeg", lost(32, 12))
    _, caught = heard(solve, e, fwd, None, noise="baseline")
    assert {w.category for w in caught} & {RankWarning, NoiseShapeWarning}


def test_an_artefact_outside_the_window_says_nothing_of_rank():
    "A stimulator's artefacts, 100,000 times the noise, after the window"
    e, fwd, cov = noise_only("eeg")
    e.data[:, 120:] += 1e5 * e.data[:, 60:80]
    est, caught = heard(solve, e, fwd, cov)
    assert not ranks(caught) and est.result.posterior.mean.shape[1] == 31


def test_single_epochs_of_lower_rank_than_the_covariance():
    "One epoch has too few samples to tell; several have enough"
    e, fwd, cov = noise_only("eeg", lost(32, 20))
    data = np.sqrt(e.nave) * e.data[:, :120].reshape(32, 6, 20).transpose(1, 0, 2)
    events = np.c_[np.arange(6) * 20, np.zeros(6, int), np.ones(6, int)]
    epochs = mne.EpochsArray(data, e.info, events, tmin=-0.1, verbose="ERROR")
    found, caught = heard(solve, epochs, fwd, cov, average=False, tmax=0.05)
    assert any("31 directions of EEG, the data 20" in text for text in ranks(caught))
    assert len(found) == 6
