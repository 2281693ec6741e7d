"""The size and the shape of the noise: silent within a band, announced outside, refused far out."""

import re
import warnings

import mne
import numpy as np
import pytest
from test_evoked import NOISE, changed, parts, problem, solve

from calibrain import SourceEstimator
from calibrain.core.warnings import (
    NoiseSamplesWarning,
    NoiseShapeWarning,
    NoiseSizeWarning,
    NoiseWarning,
)
from calibrain.recording.whitened import whitened_forward


def noises(call, *args, **more):
    "What a call says of the noise"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args, **more)
    return [w for w in caught if issubclass(w.category, NoiseWarning)]


def times(cov, factor):
    return changed(cov, data=factor * cov["data"])


@pytest.mark.parametrize("kind", ["eeg", "meg", "both"])
def test_right(kind):
    assert not noises(solve, *problem(kind))


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_within_the_band(factor):
    evoked, fwd, cov = problem()
    assert not noises(solve, evoked, fwd, times(cov, factor))


@pytest.mark.parametrize("factor, words", [(4, "4.* times smaller"), (0.2, "times larger")])
def test_outside_the_band(factor, words):
    "The factor and its direction are said, and what to do"
    evoked, fwd, cov = problem()
    [said] = noises(solve, evoked, fwd, times(cov, factor))
    assert said.category is NoiseSizeWarning
    assert re.search(words, str(said.message))
    assert "noise='baseline' takes the size from the data" in str(said.message)


def test_covariance_of_the_average():
    evoked, fwd, cov = problem(nave=12)
    [said] = noises(solve, evoked, fwd, times(cov, 1 / 12))
    assert "as if noise_cov were that of the average of 12 epochs" in str(said.message)
    evoked, fwd, cov = problem(nave=60)
    with pytest.raises(ValueError, match="as if noise_cov were that of the average of 60"):
        solve(evoked, fwd, times(cov, 1 / 60))


def test_nave_forgotten():
    evoked, fwd, cov = problem(nave=10)
    [said] = noises(solve, changed(evoked, nave=1), fwd, cov)
    assert "evoked.nave is 1: set it to the number of epochs" in str(said.message)
    evoked, fwd, cov = problem(nave=80)
    with pytest.raises(ValueError, match=r"within a factor of 30, got .* times smaller"):
        solve(changed(evoked, nave=1), fwd, cov)


def test_ad_hoc():
    "MNE-Python's default is 0.2 µV for an electrode, where an epoch has some microvolts"
    evoked, fwd, _ = problem(nave=60)
    cov = mne.make_ad_hoc_cov(evoked.info, verbose="ERROR")
    with pytest.raises(ValueError, match="an ad-hoc covariance knows no sizes"):
        solve(evoked, fwd, cov)
    said = noises(solve, evoked, fwd, cov, noise="baseline")
    assert NoiseSizeWarning not in [w.category for w in said]


@pytest.mark.parametrize("noise, solver", [("baseline", "BMN"), ("learn", "gamma_lambda_map")])
def test_size_from_the_data(noise, solver):
    "Who takes or learns the size from the data needs no warning about it"
    evoked, fwd, cov = problem()
    said = noises(solve, evoked, fwd, times(cov, 50), solver, noise=noise)
    assert NoiseSizeWarning not in [w.category for w in said]


def test_no_baseline():
    "Too much noise shows without one as well"
    evoked, fwd, cov = problem()
    late = evoked.copy().crop(0.0, None)
    assert not noises(solve, late, fwd, cov)
    noise = np.linalg.cholesky(cov["data"]) @ np.random.default_rng(0).normal(size=(32, 40))
    quiet = changed(late, data=noise / np.sqrt(evoked.nave) / 3)
    [said] = noises(solve, quiet, fwd, cov)
    assert said.category is NoiseSizeWarning and "noise of the data" in str(said.message)


@pytest.mark.parametrize("n_before", [2, 3, 5])
def test_few_samples_leave_room(n_before):
    "A baseline of a few samples says little, and nothing is said"
    for seed in range(5):
        evoked, fwd, cov = problem(seed=seed)
        assert not noises(solve, evoked.copy().crop(-0.01 * n_before, None), fwd, cov)


def test_variance_of_few_samples_is_unbiased():
    "The mean of three samples is taken out, and counts"
    powers = []
    for seed in range(30):
        e, fwd, cov = problem(seed=seed)
        powers.append(solve(e.copy().crop(-0.03, None), fwd, cov).power["baseline"])
    assert np.mean(powers) == pytest.approx(1, abs=0.12)


def brain_noise(seed=0):
    "A recording whose noise goes together, and its covariance"
    evoked, fwd, _ = problem()
    rng = np.random.default_rng(seed)
    fields = fwd["sol"]["data"][:, ::3]
    fields = fields * NOISE["eeg"] / np.sqrt((fields**2).sum(1).mean())
    root = np.hstack([fields, 0.3 * NOISE["eeg"] * np.eye(32)])
    data = root @ rng.normal(size=(root.shape[1], 100)) / np.sqrt(6)
    e = mne.EvokedArray(data, evoked.info, tmin=-0.6, nave=6, verbose="ERROR")
    return e, fwd, root @ root.T


def test_shape_that_is_known():
    e, fwd, C = brain_noise()
    assert not noises(solve, e, fwd, mne.Covariance(C, e.ch_names, [], [], 10**5))


def test_shape_that_is_not_known():
    "A diagonal of the right size, and the variances of the baseline"
    e, fwd, C = brain_noise()
    diagonal = mne.Covariance(C.diagonal().copy(), e.ch_names, [], [], 1000)
    said = noises(solve, e, fwd, diagonal, noise="baseline")
    assert [w.category for w in said] == [NoiseShapeWarning]
    said = noises(solve, e, fwd, None, noise="baseline")
    assert [w.category for w in said] == [NoiseShapeWarning]


def test_few_samples_for_a_covariance():
    "Eigenvalues are put right, so that whitened noise has power one, and few samples are announced"
    evoked, fwd, cov = problem()
    root = np.linalg.cholesky(cov["data"])
    for n, expected in ((80, [NoiseSamplesWarning]), (250, [])):
        samples = root @ np.random.default_rng(n).normal(size=(32, n))
        estimated = parts(cov, samples @ samples.T / n)
        estimated["nfree"] = n
        said = noises(whitened_forward, [evoked], fwd, estimated)
        assert [w.category for w in said] == expected
        head = whitened_forward([evoked], fwd, estimated)
        W = head.whitener.W * head.leadfield.from_si
        power = np.trace(W @ cov["data"] @ W.T) / len(W)
        assert power == pytest.approx(1, abs=0.12)
        assert n / (n - 33) > 1.13  # what it would be without


def test_a_covariance_that_was_shrunk_is_left_alone():
    evoked, fwd, cov = problem()
    some = changed(cov, nfree=200, method="shrunk")
    many = changed(cov, nfree=10**6)
    a, b = (whitened_forward([evoked], fwd, c).whitener.W for c in (some, many))
    np.testing.assert_allclose(a.T @ a, b.T @ b)


def test_arrays():
    "Data with less power than their noise"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(12, 30))
    y = rng.normal(size=(12, 50))
    for said in (dict(noise_var=1.0), dict(noise_cov=np.eye(12))):
        assert not noises(SourceEstimator("BMN", **said).fit, L, y)
    for said in (dict(noise_var=9.0), dict(noise_cov=9 * np.eye(12))):
        [warned] = noises(SourceEstimator("BMN", **said).fit, L, y)
        assert warned.category is NoiseSizeWarning
    assert not noises(SourceEstimator("gamma_lambda_map").fit, L, y)
