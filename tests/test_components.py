"""Variances from a few time components: every solver, by a second route, and the traps.

The second route knows nothing of `on_components`: its own singular vectors, the plain solver on
the compressed recording, and dense matrices for what all samples say.
"""

import warnings

import numpy as np
import pytest
from routine import number
from scipy import linalg

from calibrain import SourceEstimator, gamma_lambda_map, gamma_map
from calibrain.core.archive import read_arrays, write_arrays
from calibrain.core.warnings import NothingFoundWarning
from calibrain.posterior.result import result_from_arrays, result_to_arrays
from calibrain.solvers.registry import SOLVERS

pytestmark = pytest.mark.filterwarnings("ignore::calibrain.core.warnings.ConvergenceWarning")
M, N, T, LAMBDA = 24, 40, 120, 2.0
COORDS = np.random.default_rng(7).normal(scale=0.03, size=(N, 3))
every_solver = pytest.mark.parametrize("name", SOLVERS)
orientations = pytest.mark.parametrize("k", [1, 2, 3])


def recording(seed=0, k=1, n_times=T, strength=3.0):
    "Leadfield, two sources with two waveforms of low frequency, recording"
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(M, N * k))
    t = np.linspace(0, 1, n_times)
    waveforms = np.stack([np.sin(2 * np.pi * (2 * t + phase)) for phase in (0, 0.15)])
    x = np.zeros((N, k, n_times))
    x[[5, 17]] = strength * rng.normal(size=(2, k, 1)) * waveforms[:, None]
    x = x.reshape(N * k, n_times)
    return L, x, L @ x + np.sqrt(LAMBDA) * rng.normal(size=(M, n_times))


def solved(name, L, y, k=1, noise=LAMBDA, **params):
    "Any solver, with the noise given where it can be"
    s = SOLVERS[name]
    said = dict(n_orient=k) | params
    if not s.learns_noise:
        said["noise_var"] = noise
    if "src_coords" in s.takes():
        said["src_coords"] = COORDS
    if "update_mode" in s.takes():
        said = dict(update_mode="fast") | said
    return s.function(L, y, **said)


def with_noise(name, L, y, k, noise):
    "The plain solver with this noise, one value by sensor, also where it could learn it"
    if name == "champagne":  # which takes one value for all sensors
        name = "gamma_lambda_map"
    takes = SOLVERS[name].takes()
    if "learn_lambda" in takes:
        return solved(name, L, y, k, learn_lambda=False, init_lambda=noise)
    if "learn_noise" in takes:
        return solved(name, L, y, k, learn_noise=False, noise_var=float(noise[0]))
    return solved(name, L, y, k, float(noise[0]))


@orientations
@every_solver
def test_by_a_second_route(name, k):
    "The plain solver on YΦ finds γ; dense matrices with γ r/T say the rest of all samples"
    L, _, y = recording(k, k)
    found = solved(name, L, y, k, n_components="auto")
    noise = found["lambdas"] if "lambdas" in found else np.full(M, found.noise_var)
    std = np.sqrt(noise)[:, None]
    Phi = linalg.svd(y / std)[2][: found["n_components"]].T
    plain = with_noise(name, L, y @ Phi, k, noise)
    gamma = plain.posterior.gamma * Phi.shape[1] / T
    assert np.allclose(found.posterior.gamma, gamma, rtol=1e-4)

    S = found.posterior.S.toarray()
    prior = S * found.posterior.gamma @ S.T
    Sigma = L @ prior @ L.T + np.diag(noise)
    gain = prior @ L.T @ np.linalg.inv(Sigma)
    size = np.abs(found.mean).max()
    assert np.allclose(found.mean, gain @ y, rtol=0, atol=1e-8 * size)
    assert np.allclose(found["posterior_cov"], prior - gain @ L @ prior, atol=1e-8 * prior.max())
    cost = np.linalg.slogdet(Sigma)[1] + np.trace(np.linalg.solve(Sigma, y @ y.T)) / T
    assert np.isclose(found.cost, cost, rtol=1e-9)
    evidence = -T / 2 * (cost + M * np.log(2 * np.pi))
    assert np.isclose(found.log_evidence, evidence, rtol=1e-9)
    assert found.gamma == pytest.approx(found.posterior.gamma.sum() / (N * k), rel=1e-9)


@every_solver
def test_all_of_few_samples_are_all_samples(name):
    "With as many components as samples there is nothing to lose"
    L, _, y = recording(n_times=10)
    if SOLVERS[name].learns_noise:
        noise = np.full(M, LAMBDA)
        takes = SOLVERS[name].takes()
        given = dict(learn_noise=False, noise_var=LAMBDA)
        if "learn_lambda" in takes:
            given = dict(learn_lambda=False, init_lambda=noise)
    else:
        given = {}
    few = solved(name, L, y, n_components=10, **given)
    plain = solved(name, L, y, **given)
    assert few["n_components"] == 10 and "n_components" not in plain
    size = np.abs(plain.mean).max()
    assert np.allclose(few.mean, plain.mean, rtol=0, atol=1e-5 * size)
    assert np.isclose(few.cost, plain.cost, rtol=1e-8)


@every_solver
def test_the_cost_that_falls_and_the_cost_of_all_samples(name):
    L, _, y = recording(1)
    plain, few = solved(name, L, y), solved(name, L, y, n_components="auto")
    if name != "eLORETA":  # the weights of its prior go with γ, so these are two priors
        assert few.cost >= plain.cost - 1e-9 * abs(plain.cost)
    assert few.converged and few.kkt_violation < 1e-5
    if SOLVERS[name].cost_falls:
        steps = few.history["cost"]
        assert (np.diff(steps) <= 1e-9 * np.abs(steps[1:])).all()
    if SOLVERS[name].learns_noise:
        assert few.noise_var == plain.noise_var and few.n_iter > plain.n_iter


def test_amplitudes_are_not_in_the_span_of_the_components():
    "What two components do not hold is not said to be zero"
    L, _, y = recording(2)
    found = gamma_map(L, y, LAMBDA, update_mode="fast", n_components=2)
    Phi = linalg.svd(y)[2][:2].T
    outside = found.mean - found.mean @ Phi @ Phi.T
    expected = len(found.posterior.gamma) * (T - 2)
    assert np.linalg.matrix_rank(outside) == len(found.posterior.gamma)
    assert (outside**2).sum() > 1e-3 * expected * found.posterior.var.max()


def test_intervals_of_active_sources_hold_the_truth():
    "At least .82 of them at .9; in the span of the components a fifth would"
    held = []
    for seed in range(number(routine=6, everything=40)):
        L, x, y = recording(100 + seed)
        found = gamma_map(L, y, LAMBDA, update_mode="fast", n_components="auto")
        on = [5, 17]
        inside = np.abs(found.mean - x)[on] <= 1.645 * found.std[on][:, None]
        held.append(inside.mean())
    assert np.mean(held) > 0.82


@pytest.mark.parametrize("mode", ["fast", "em"])
@every_solver
def test_nothing_above_the_noise(name, mode):
    "0 ± 0, said to be nothing, at an optimum; for all samples there is something in this noise"
    rng = np.random.default_rng(3)
    L, y = rng.normal(size=(M, N)), rng.normal(size=(M, T))
    modes = dict(update_mode=mode) if "update_mode" in SOLVERS[name].takes() else {}
    with pytest.warns(NothingFoundWarning):
        found = solved(name, L, y, noise=1.1, n_components="auto", **modes)
    assert found["n_components"] == 0 and found.nothing_found
    assert not found.mean.any() and not found.std.any() and len(found.active) == 0
    assert found.kkt_violation < 0.1
    noise = found["lambdas"] if "lambdas" in found else np.full(M, found.noise_var)
    cost = np.log(noise).sum() + ((y**2).mean(1) / noise).sum()
    assert np.isclose(found.cost, cost, rtol=1e-9)


@every_solver
def test_complex_samples_are_twice_as_many(name):
    L, _, y = recording(4)
    z = y[:, : T // 2] + 1j * y[:, T // 2 :]
    together, real = (
        solved(name, L, z, n_components="auto"),
        solved(name, L, y, n_components="auto"),
    )
    assert np.iscomplexobj(together.mean)
    assert np.array_equal(np.hstack([together.mean.real, together.mean.imag]), real.mean)
    assert (together.cost, together["n_components"]) == (real.cost, real["n_components"])


@every_solver
def test_units_and_order_of_sensors_change_nothing(name):
    L, _, y = recording(5)
    rows = np.random.default_rng(0).permutation(M)
    one = solved(name, L, y, n_components="auto")
    other = solved(name, 1e-3 * L[rows], 1e-3 * y[rows], noise=1e-6 * LAMBDA, n_components="auto")
    size = np.abs(one.mean).max()
    assert one["n_components"] == other["n_components"]
    assert np.allclose(one.mean, other.mean, rtol=0, atol=1e-4 * size)


def test_a_start_is_a_variance_at_a_sample():
    "Started at the optimum of the samples the search on components is at its own at once"
    L, _, y = recording(6)
    said = dict(n_components="auto", update_mode="convex", tol=1e-8)
    end = gamma_map(L, y, LAMBDA, max_iter=20000, **said)
    again = gamma_map(L, y, LAMBDA, init_gamma=end["gammas_full"], **said)
    assert again.n_iter < 20
    assert np.isclose(again.cost, end.cost, rtol=1e-9)


def test_a_noisy_sensor_brings_no_component():
    "Each sensor is weighed by its noise before components are counted"
    L, _, y = recording(7)
    noise = np.full(M, LAMBDA)
    noise[3] = 400 * LAMBDA
    y[3] += np.sqrt(noise[3] - LAMBDA) * np.random.default_rng(0).normal(size=T)
    said = dict(update_mode="fast", n_components="auto", learn_lambda=False)
    assert gamma_lambda_map(L, y, init_lambda=noise, **said)["n_components"] == 2
    assert gamma_lambda_map(L, y, init_lambda=np.full(M, LAMBDA), **said)["n_components"] == 3


@pytest.mark.parametrize("shape", [(1, 30), (12, 1), (1, 1)])
@every_solver
def test_one_sensor_or_one_sample(name, shape):
    rng = np.random.default_rng(8)
    L, y = rng.normal(size=(shape[0], N)), 9 * rng.normal(size=shape)
    for asked in ("auto", 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = solved(name, L, y, n_components=asked)
        assert found.mean.shape == (N, shape[1]) and np.isfinite(found.cost)


def test_on_both_roads_and_in_a_file(tmp_path):
    "Whitened data, in units of the recording; saved and opened"
    L, _, y = recording(9)
    params = dict(n_components="auto", update_mode="fast")
    white = SourceEstimator("gamma_map", params, noise_cov=LAMBDA * np.eye(M)).fit(L, y).predict()
    plain = gamma_map(L, y, LAMBDA, **params)
    assert np.allclose(white.mean, plain.mean, rtol=0, atol=1e-6 * np.abs(plain.mean).max())
    assert np.isclose(white.cost, plain.cost, rtol=1e-9)
    assert np.isclose(white.log_evidence, plain.log_evidence, rtol=1e-9)
    assert np.isclose(white.history["cost"][-1], plain.history["cost"][-1], rtol=1e-7)
    file = write_arrays(tmp_path / "a.npz", result_to_arrays(plain))
    back = result_from_arrays(read_arrays(file))
    assert back["n_components"] == plain["n_components"] > 0
    assert np.array_equal(back.std, plain.std)
