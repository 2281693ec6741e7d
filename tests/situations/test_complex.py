"""Complex recordings: real and imaginary parts are samples, means are complex."""

import mne
import numpy as np
import pytest
from test_evoked import few_steps, how, problem, solve

from calibrain import EvokedPosterior, SourceEstimator
from calibrain.solvers.registry import SOLVERS

QUIET = pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.ConvergenceWarning",
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
)


def arrays(n_orient=1):
    rng = np.random.default_rng(0)
    L = rng.normal(size=(8, 20 * n_orient))
    x = np.zeros((20 * n_orient, 6), complex)
    x[3:6] = 5 * (rng.normal(size=(3, 6)) + 1j * rng.normal(size=(3, 6)))
    noise = rng.normal(size=(8, 6)) + 1j * rng.normal(size=(8, 6))
    coords = 0.07 * rng.normal(size=(20, 3))
    return L, L @ x + noise, coords / np.linalg.norm(coords, axis=1, keepdims=True) * 0.07


@QUIET
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n_orient", [1, 3])
def test_the_same_as_twice_as_many_samples(solver, n_orient):
    "By the estimator and by the solver itself"
    L, y, coords = arrays(n_orient)
    learns = SOLVERS[solver].learns_noise
    params = few_steps(solver, 30)
    if "src_coords" in SOLVERS[solver].takes():
        params["src_coords"] = coords
    noise = dict() if learns else dict(noise_var=1.0)
    said = dict(solver_params=params, n_orient=n_orient, **noise)
    got = SourceEstimator(solver, **said).fit(L, y).predict()
    by_hand = SourceEstimator(solver, **said).fit(L, np.hstack([y.real, y.imag])).predict()
    direct = SOLVERS[solver].function(L, y, n_orient=n_orient, **params, **noise)
    for found in (got, direct):
        assert found.mean.shape == (20 * n_orient, 6)
        np.testing.assert_allclose(found.mean.real, by_hand.mean[:, :6], atol=1e-9)
        np.testing.assert_allclose(found.mean.imag, by_hand.mean[:, 6:], atol=1e-9)
        np.testing.assert_allclose(found.std, by_hand.std)
        assert found.log_evidence == pytest.approx(by_hand.log_evidence)
        assert found["posterior_mean"].dtype == complex


def test_real_data_in_a_complex_array():
    "Imaginary parts of zero are samples as well; the mean of each part is that of its own"
    L, y, _ = arrays()
    found = SourceEstimator("BMN", noise_var=1.0).fit(L, y.real + 0j).predict()
    np.testing.assert_allclose(found.mean.imag, 0, atol=1e-12)


def test_one_sample_without_an_axis():
    L, y, _ = arrays()
    found = SourceEstimator("BMN", noise_var=1.0).fit(L, y[:, 0]).predict()
    want = SourceEstimator("BMN", noise_var=1.0).fit(L, y[:, :1]).predict()
    np.testing.assert_allclose(found.mean, want.mean)
    assert found.mean.shape == (20, 1)


def test_several_recordings_and_a_covariance():
    L, y, _ = arrays()
    A = np.random.default_rng(1).normal(size=(8, 8))
    C = A @ A.T + np.eye(8)
    many = SourceEstimator("BMN", noise_cov=C).fit(L, np.stack([y, 1j * y])).predict()
    np.testing.assert_allclose(many[1].mean, 1j * many[0].mean, atol=1e-9)
    parts = SourceEstimator("BMN", noise_cov=C).fit(L, np.hstack([y.real, y.imag])).predict()
    assert many[0].log_evidence == pytest.approx(parts.log_evidence)


@QUIET
@pytest.mark.parametrize("solver", ["BMN", "gamma_map_sflex", "BMN_joint"])
def test_an_evoked_of_fourier_coefficients(solver, tmp_path):
    "Turned by 90 degrees everything turns, and nothing else changes"
    evoked, fwd, cov = problem()
    rng = np.random.default_rng(4)
    data = evoked.data + 1j * evoked.data[:, rng.permutation(60)]
    e = mne.EvokedArray(data, evoked.info, tmin=-0.2, nave=6, verbose="ERROR")
    turned = mne.EvokedArray(1j * data, evoked.info, tmin=-0.2, nave=6, verbose="ERROR")
    said = dict(solver=solver, noise=how(solver), orientation="fixed", depth=0.8)
    a, b = solve(e, fwd, cov, **said), solve(turned, fwd, cov, **said)
    size = np.abs(a.mean.data).max()
    np.testing.assert_allclose(b.mean.data, 1j * a.mean.data, atol=1e-6 * size)
    np.testing.assert_allclose(b.std.data, a.std.data, rtol=1e-6, atol=1e-6 * a.std.data.max())
    assert a.power == pytest.approx(b.power, rel=1e-6)
    assert np.iscomplexobj(a.mean.data) and np.isrealobj(a.std.data)
    again = EvokedPosterior.load(a.save(tmp_path / "x.npz"))
    np.testing.assert_array_equal(again.mean.data, a.mean.data)
    low, high = a.interval(0.9)
    assert (low.data.real <= high.data.real).all() and (low.data.imag <= high.data.imag).all()
    assert a.exceedance(5e-9).data.min() >= 0 and a.exceedance(5e-9).data.max() <= 1
    assert repr(a) and a._repr_html_()


def test_the_real_part_alone_is_not_the_answer():
    evoked, fwd, cov = problem()
    e = mne.EvokedArray(1j * evoked.data, evoked.info, tmin=-0.2, nave=6, verbose="ERROR")
    found = solve(e, fwd, cov)
    assert np.abs(found.mean.data.imag).max() > 1e-9 > np.abs(found.mean.data.real).max()


def test_intervals_hold_what_they_promise():
    "Real and imaginary parts of amplitudes that were drawn from the model"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(15, 30))
    x = 3 * (rng.normal(size=(30, 400)) + 1j * rng.normal(size=(30, 400)))
    noise = rng.normal(size=(15, 400)) + 1j * rng.normal(size=(15, 400))
    found = SourceEstimator("BMN", noise_var=1.0).fit(L, L @ x + noise).predict()
    off = (found.mean - x) / found.std[:, None]
    for part in (off.real, off.imag):
        assert np.mean(np.abs(part) < 1.6449) == pytest.approx(0.9, abs=0.02)
    draws = found.posterior.sample(500, seed=0)[:, :, :3]
    np.testing.assert_allclose(draws.imag.std(0).mean(1), found.std, rtol=0.15)


def test_a_leadfield_is_real():
    L, y, _ = arrays()
    with pytest.raises(TypeError, match="L must be real numbers, got dtype complex128"):
        SourceEstimator("BMN", noise_var=1.0).fit(L + 0j, y)
