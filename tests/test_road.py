"""One road from a recording to a result: `SourceEstimator` and `estimate_evoked` say the same.

From arrays or from MNE's objects, the same problem has the same answer, what is refused on one
road is refused on the other, and a result knows where and when its amplitudes are.
"""

import mne
import numpy as np
import pytest

from calibrain import BMN, SourceEstimator, estimate_evoked, gamma_lambda_map
from calibrain.head.leadfield import Leadfield
from calibrain.head.prepared import prepare
from calibrain.head.whitening import Whitener
from calibrain.recording.whitened import whitened_forward
from calibrain.solvers.bind import bind
from calibrain.solvers.registry import SOLVERS
from calibrain.solvers.solve import MatchedRecording, solve_recording

pytestmark = pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.ConvergenceWarning",
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
)
NAVE = 9


@pytest.fixture(scope="module")
def recording():
    "Evoked, forward solution and covariance: 32 electrodes, 30 sources on a shell, one of them on"
    rng = np.random.default_rng(0)
    montage = mne.channels.make_standard_montage("biosemi32")
    info = mne.create_info(montage.ch_names, 100.0, "eeg").set_montage(montage)
    nn = rng.normal(size=(30, 3))
    nn[:, 2] = abs(nn[:, 2])
    nn /= np.linalg.norm(nn, axis=1, keepdims=True)
    src = mne.setup_volume_source_space(pos=dict(rr=0.06 * nn, nn=nn), verbose="ERROR")
    sphere = mne.make_sphere_model((0, 0, 0), 0.095, verbose="ERROR")
    fwd = mne.make_forward_solution(info, None, src, sphere, verbose="ERROR")
    cov = mne.make_ad_hoc_cov(info, dict(eeg=3e-6), verbose="ERROR")
    x = np.zeros((90, 50))
    x[12:15, 20:] = 60e-9 * rng.normal(size=(3, 1)) * np.sin(np.arange(30) / 5)
    data = fwd["sol"]["data"] @ x + 3e-6 / np.sqrt(NAVE) * rng.normal(size=(32, 50))
    evoked = mne.EvokedArray(data, info, tmin=-0.2, nave=NAVE, verbose="ERROR")
    return evoked, fwd, cov


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("orientation", ["fixed", "free"])
def test_both_ends_of_the_road_meet(recording, solver, orientation):
    "MNE's objects in, or the leadfield, data in µV and the whitener of the average as arrays"
    evoked, fwd, cov = recording
    learned = SOLVERS[solver].learns_noise
    fast = dict(update_mode="fast") if "update_mode" in SOLVERS[solver].takes() else {}
    params = dict(fast, max_iter=300 if fast else 20)  # where a search stops halfway is rounding
    said = dict(solver=solver, orientation=orientation, solver_params=params, progress=False)
    noise = "learn" if learned else "given"
    est = estimate_evoked(evoked, fwd, cov, noise=noise, tmin=0.0, tmax=0.2, **said)

    head = whitened_forward([evoked], fwd, cov, None, orientation)
    epochs = 1 if learned else NAVE  # learned in multiples of one epoch's covariance
    w = Whitener(np.sqrt(epochs) * head.whitener.W)
    y = 1e6 * evoked.copy().crop(0.0, 0.2).data
    if "noise_prior" in SOLVERS[solver].takes():  # which a recording has from its baseline
        prior = [est.result[f"noise_prior_{part}"] for part in ("variance", "dof")]
        params = params | dict(noise_prior=tuple(prior))
    there = SourceEstimator(solver, params, noise_cov=w).fit(head.leadfield, y).predict()

    size = np.abs(there.mean).max()
    np.testing.assert_allclose(est.result.mean, there.mean, rtol=0, atol=1e-6 * size)
    np.testing.assert_allclose(est.result.log_evidence, there.log_evidence, rtol=1e-8)
    np.testing.assert_allclose(est.result.cost, there.cost, rtol=1e-8)
    np.testing.assert_allclose(epochs * est.result.noise_var, there.noise_var, rtol=1e-6)


def test_a_result_knows_where_and_when(recording):
    evoked, fwd, cov = recording
    est = estimate_evoked(evoked, fwd, cov, "BMN", tmin=0.0, tmax=0.1, depth=0.8, progress=False)
    assert est.result.unit == "nAm"
    np.testing.assert_array_equal(est.result.coords, fwd["source_rr"])
    np.testing.assert_allclose(est.result.times, est.times, atol=1e-12)

    lf = Leadfield.random(8, 20)
    y = np.random.default_rng(0).normal(size=(8, 5))
    for form in (lf, prepare(lf)):
        for noise in (dict(noise_var=1.0), dict(noise_cov=np.eye(8))):
            result = SourceEstimator(BMN, **noise).fit(form, y).predict()
            np.testing.assert_array_equal(result.coords, lf.coords)
            assert (result.times, result.unit) == (None, "nAm")
    assert SourceEstimator(BMN, noise_var=1.0).fit(lf.matrix(), y).predict().coords is None


BAD = {
    "no such parameter": (dict(solver_params=dict(sigma=1)), "BMN has no parameter sigma to set"),
    "the road's own": (dict(solver_params=dict(n_orient=1)), "no parameter n_orient to set here"),
    "parameters a list": (dict(solver_params=[1]), "solver_params must be a dict or None, got"),
    "no such solver": (dict(solver="bmn"), "solver must be one of 'gamma_map', .*, got 'bmn'"),
    "no solver": (dict(solver=3), "solver must be a function or one of gamma_map, .*, got 3"),
}


@pytest.mark.parametrize("what", BAD)
def test_both_roads_refuse_alike(recording, what):
    evoked, fwd, cov = recording
    more, words = BAD[what]
    passed = dict(solver="BMN") | more
    with pytest.raises((TypeError, ValueError), match=words):
        estimate_evoked(evoked, fwd, cov, progress=False, **passed)
    with pytest.raises((TypeError, ValueError), match=words):
        SourceEstimator(noise_var=1.0, **passed).fit(np.eye(3), np.eye(3))


def test_too_many_components(recording):
    def plain(L, y, noise_var):
        return BMN(L, y, noise_var)

    with pytest.raises(ValueError, match=r"orientation must be one of \(1,\) for plain, got 3"):
        estimate_evoked(*recording, plain, progress=False)
    e = SourceEstimator(plain, noise_var=1.0)
    with pytest.raises(ValueError, match=r"n_orient must be one of \(1,\) for plain, got 3"):
        e.fit(Leadfield.random(8, 20, 3), np.eye(8))


def test_whitened_noise_that_is_not_learned():
    "A solver with noise of each sensor that is told not to learn it, on both roads"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(8, 20))
    y = rng.normal(size=(8, 30))
    e = SourceEstimator(gamma_lambda_map, dict(learn_lambda=False), noise_cov=4 * np.eye(8))
    told = gamma_lambda_map(L, y, init_lambda=4.0, learn_lambda=False)
    np.testing.assert_allclose(e.fit(L, y).predict().cost, told.cost, rtol=1e-9)


@pytest.mark.parametrize("variance", [1.0, 1 / NAVE])
def test_the_size_of_whitened_noise(variance):
    "Noise of another size in the record is a covariance of another size"
    lf = Leadfield.random(8, 20)
    y = np.random.default_rng(0).normal(size=(8, 5))
    bound = bind("BMN")
    w = Whitener(np.eye(8) / 3)
    result = solve_recording(bound, MatchedRecording(prepare(lf, W=w.W), w.W @ y, w, variance))
    told = BMN(lf, y, 9 * variance)
    np.testing.assert_allclose(result.mean, told.mean, atol=1e-12)
    np.testing.assert_allclose(result.log_evidence, told.log_evidence)
    assert bound.arguments == {}, "a bound solver stays as it was"


def test_positions_of_a_result_are_its_own():
    "Whoever passes positions may move them afterwards"
    rng = np.random.default_rng(0)
    coords = rng.normal(scale=0.03, size=(30, 3))
    before = coords.copy()
    estimator = SourceEstimator("gamma_map_sflex", dict(src_coords=coords), noise_var=1.0)
    found = estimator.fit(rng.normal(size=(8, 30)), rng.normal(size=(8, 5))).predict()
    coords += 1
    np.testing.assert_array_equal(found.coords, before)
