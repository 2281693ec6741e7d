"An estimate that is 0 ± 0 everywhere says so, on every road."

import warnings

import mne
import numpy as np
import pytest
from test_evoked import NOISE, problem, solve

from calibrain import BMN, EvokedPosterior, SourceEstimator, gamma_map
from calibrain.core.warnings import NothingFoundWarning

rng = np.random.default_rng(0)
L = rng.normal(size=(10, 30))
QUIET = 0.3 * rng.normal(size=(10, 20))  # less than noise of variance 1
LOUD = L @ (np.arange(30) == 4)[:, None] * 5 * np.ones(20) + QUIET


def found(call, *args, **more):
    "What a call returns, and whether it said that nothing was found"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = call(*args, **more)
    return out, [str(w.message) for w in caught if w.category is NothingFoundWarning]


@pytest.mark.parametrize("solver", [BMN, gamma_map])
def test_solvers(solver):
    result, said = found(solver, L, QUIET, 1.0)
    assert len(said) == 1 and result.nothing_found
    assert not result.std.any() and not result.mean.any()
    assert "0.0" in said[0] and "no error bar" in said[0]
    assert "nothing found" in result._repr_html_()


@pytest.mark.parametrize("solver", [BMN, gamma_map])
def test_something_found(solver):
    result, said = found(solver, L, LOUD, 0.1)
    assert not said and not result.nothing_found
    assert "nothing found" not in result._repr_html_()


def test_estimator():
    estimator, said = found(SourceEstimator("BMN", noise_cov=np.eye(10)).fit, L, QUIET)
    assert len(said) == 1 and estimator.predict().nothing_found
    assert "nothing found" in estimator._repr_html_()


def test_each_of_several_recordings():
    both = np.stack([QUIET, LOUD])
    estimator, said = found(SourceEstimator("BMN", noise_var=1.0).fit, L, both)
    assert len(said) == 1
    assert [r.nothing_found for r in estimator.predict()] == [True, False]


def silent_recording():
    "A recording whose window has a little less than noise"
    evoked, fwd, cov = problem()
    e = evoked.copy()
    e.data[:] = np.linalg.cholesky(cov["data"]) @ np.random.default_rng(4).normal(size=(32, 60))
    e.data /= np.sqrt(e.nave)
    e.data[:, 20:] *= 0.9
    return e, fwd, cov


def test_evoked(tmp_path):
    est, said = found(solve, *silent_recording(), "gamma_map")
    assert len(said) == 1 and est.nothing_found
    assert "nothing found" in est._repr_html_()
    again = EvokedPosterior.load(est.save(tmp_path / "x.npz"))
    assert again.nothing_found and "nothing found" in again._repr_html_()


def test_a_source_that_is_too_weak():
    "Four nanoampere in one epoch are there, and cannot be told from noise"
    evoked, fwd, _ = problem(nave=1)
    info = evoked.info
    cov = mne.Covariance(np.full(32, NOISE["eeg"] ** 2), info["ch_names"], [], [], 1000)
    n_zero = 0
    for seed in range(8):
        g = np.random.default_rng(seed)
        x = 4e-9 * np.hanning(60)
        data = fwd["sol"]["data"][:, [13]] * x + NOISE["eeg"] * g.normal(size=(32, 60))
        e = mne.EvokedArray(data, info, tmin=-0.2, verbose="ERROR")
        est, said = found(solve, e, fwd, cov)
        assert est.nothing_found == (est.std.data.max() == 0) == bool(said)
        n_zero += est.nothing_found
    assert n_zero


def test_list_of_conditions():
    quiet, fwd, cov = silent_recording()
    both, said = found(solve, [quiet, problem()[0]], fwd, cov, "gamma_map")
    assert [one.nothing_found for one in both] == [True, False]
    assert len(said) == 1
