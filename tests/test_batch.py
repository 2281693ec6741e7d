"""A batch over one head says what each recording says alone: on NumPy, and on PyTorch."""

import importlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import batch as benchmark
from calibrain import BMN, gamma_map, gamma_map_sflex, solve_batch, spike_slab
from calibrain.core.warnings import ConvergenceWarning, NothingFoundWarning
from calibrain.head.prepared import prepare
from calibrain.solvers import batch as module
from calibrain.solvers import device as devices
from calibrain.solvers.device import check_at_once, find_device

sampler = importlib.import_module("calibrain.solvers.spike_slab")  # the module, not the function
NO_TORCH = "PyTorch is not installed (pip install 'calibrain[torch]')"
DEVICES = [
    "cpu",
    pytest.param(
        "torch", marks=pytest.mark.skipif("torch" not in devices.devices(), reason=NO_TORCH)
    ),
    pytest.param(
        "cuda", marks=pytest.mark.skipif("cuda:0" not in devices.devices(), reason="no GPU here")
    ),
]


def recordings(n, k=1, seed=0, n_sensors=20, n_sources=150, n_times=30):
    "Leadfield, and recordings of three sources each in noise of variance 1"
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(n_sensors, n_sources * k))
    x = np.zeros((n, n_sources, k, n_times))
    for one in x:
        on = rng.choice(n_sources, 3, replace=False)
        one[on] = 3 * rng.normal(size=(3, k, n_times))
    ys = L @ x.reshape(n, -1, n_times) + rng.normal(size=(n, n_sensors, n_times))
    return L, ys


def same(of_batch, alone):
    "Whether two results say the same, or the first has the lower cost"
    slack = 1e-9 * abs(alone.cost)
    assert of_batch.cost <= alone.cost + slack
    assert of_batch.kkt_violation < 1e-6 and of_batch.converged
    if of_batch.cost < alone.cost - slack:
        return
    size = np.abs(alone.mean).max()
    np.testing.assert_allclose(of_batch.mean, alone.mean, atol=1e-4 * size)
    np.testing.assert_allclose(of_batch.std, alone.std, atol=1e-4 * alone.std.max())
    np.testing.assert_allclose(of_batch.log_evidence, alone.log_evidence, rtol=1e-9)
    assert sorted(of_batch) == sorted(alone) and of_batch.data == alone.data


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_gamma_map(device, k):
    L, ys = recordings(7, k)
    noise = np.linspace(0.5, 2, 7)
    batch = solve_batch(gamma_map, L, ys, noise, k, device=device, n_at_once=3, progress=False)
    assert len(batch) == 7
    for i, y in enumerate(ys):
        alone = gamma_map(L, y, noise[i], k, update_mode="fast")
        same(batch[i], alone)
        assert batch.cost[i] == batch[i].cost
        assert batch.kkt_violation[i] == batch[i].kkt_violation
    np.testing.assert_array_equal(batch[-1].mean, batch[6].mean)
    assert [r.cost for r in batch[2:4]] == [*batch.cost[2:4]]


@pytest.mark.parametrize("device", DEVICES)
def test_patches(device):
    L, ys = recordings(3)
    coords = np.random.default_rng(1).normal(scale=0.04, size=(150, 3))
    params = dict(src_coords=coords, sigma=0.015)
    batch = solve_batch("gamma_map_sflex", L, ys, 1.0, solver_params=params, device=device)
    for of_batch, y in zip(batch, ys):
        same(of_batch, gamma_map_sflex(L, y, 1.0, update_mode="fast", **params))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("normalization", [False, True])
def test_minimum_norm(device, normalization):
    "With average reference, too, where an eigenvalue is zero"
    L, ys = recordings(5)
    L -= L.mean(0)
    ys -= ys.mean(1, keepdims=True)
    params = dict(normalization=normalization)
    batch = solve_batch("BMN", L, ys, 1.0, solver_params=params, device=device, n_at_once=2)
    for i, y in enumerate(ys):
        alone = BMN(L, y, 1.0, **params)
        same(batch[i], alone)
        np.testing.assert_allclose(batch.cost[i], batch[i].cost, rtol=1e-12)
        np.testing.assert_allclose(batch[i].gamma, alone.gamma, rtol=1e-8)
        np.testing.assert_allclose(batch.kkt_violation[i], batch[i].kkt_violation, atol=1e-9)


def test_sampled_supports_are_those_of_the_loop():
    L, ys = recordings(3)
    params = dict(n_sweeps=20, n_burn=5)
    batch = solve_batch("spike_slab", L, ys, [1.0, 1.5, 2.0], solver_params=params)
    for one, y, noise in zip(batch, ys, (1.0, 1.5, 2.0)):
        np.testing.assert_array_equal(one.mean, spike_slab(L, y, noise, **params).mean)
    assert np.isnan(batch.kkt_violation).all()
    assert np.isnan(solve_batch("spike_slab", L, ys[:1], solver_params=params).kkt_violation[0])


def test_a_dictionary_of_patches_is_made_once(monkeypatch):
    L, ys = recordings(3)
    coords = np.random.default_rng(1).normal(scale=0.04, size=(150, 3))
    params = dict(n_sweeps=20, n_burn=2, patches=[0.01, 0.02], src_coords=coords)
    made = []
    make = sampler.dictionary

    def counted(*args):
        made.append(args)
        return make(*args)

    monkeypatch.setattr(sampler, "dictionary", counted)
    batch = solve_batch("spike_slab", L, ys, 1.0, solver_params=params)
    assert len(batch) == 3 and len(made) == 1
    other = params | dict(patches=[0.01, 0.03])
    head = prepare(L)
    found = [spike_slab(head, ys[0], 1.0, **p).mean for p in (params, other)]
    np.testing.assert_array_equal(found[0], batch[0].mean)
    assert np.abs(found[1] - found[0]).max() > 0


@pytest.mark.parametrize("device", DEVICES)
def test_strong_and_weak_together(device):
    "Recordings of very different strength, and one in which there is nothing"
    L, ys = recordings(4)
    ys = ys * np.array([1e-3, 1, 1e2, 1e4])[:, None, None]
    noise = np.array([1.0, 1.0, 1e4, 1.0])
    with pytest.warns(NothingFoundWarning, match=r"in 1 of 4 recordings \(0\)"):
        batch = solve_batch(gamma_map, L, ys, noise, device=device)
    assert batch[0].nothing_found and batch.converged.all()
    for i in (1, 2, 3):
        alone = gamma_map(L, ys[i], noise[i], update_mode="fast")
        assert batch.cost[i] <= alone.cost + 1e-9 * abs(alone.cost)
        assert batch.kkt_violation[i] < 1e-6


def test_the_order_of_recordings_and_their_number_at_once_do_not_matter():
    L, ys = recordings(6)
    all_at_once = solve_batch(gamma_map, L, ys, 1.0)
    turned = solve_batch(gamma_map, L, ys[::-1], 1.0, n_at_once=2)
    np.testing.assert_allclose(turned.cost[::-1], all_at_once.cost, rtol=1e-10)


def test_scale():
    "Other units change amplitudes, and the evidence by the units of the data"
    L, ys = recordings(3)
    batch = solve_batch(gamma_map, L, ys, 1.0)
    other = solve_batch(gamma_map, 1e-3 * L, 1e3 * ys, 1e6)
    np.testing.assert_allclose(other.mean, 1e6 * batch.mean, rtol=1e-4, atol=1e-3)
    shift = ys[0].size * np.log(1e3)
    np.testing.assert_allclose(other.log_evidence, batch.log_evidence - shift, rtol=1e-9)


def test_a_prepared_leadfield():
    L, ys = recordings(2)
    np.testing.assert_array_equal(
        solve_batch(BMN, prepare(L), ys, 1.0).mean, solve_batch(BMN, L, ys, 1.0).mean
    )


def test_not_converged_is_said():
    L, ys = recordings(3)
    with pytest.warns(ConvergenceWarning, match="3 of 3 recordings did not converge"):
        batch = solve_batch(gamma_map, L, ys, 1.0, solver_params=dict(max_iter=2))
    assert not batch.converged.any() and (batch.n_iter == 2).all()
    assert batch.kkt_violation.min() > 1e-6


def test_what_missed_its_certificate_is_searched_alone(monkeypatch):
    L, ys = recordings(3)
    whole = module.search_all

    def stops_early(head, problem, C, start, noise, max_iter, tol):
        return whole(head, problem, C, start, noise, 5, tol)

    monkeypatch.setattr(module, "search_all", stops_early)
    batch = solve_batch(gamma_map, L, ys, 1.0)
    assert batch.converged.all() and (batch.n_iter > 5).all()


# ---- bad input


def refused(match, error=ValueError, solver="BMN", ys=None, noise=1.0, **more):
    L, good = recordings(3)
    with pytest.raises(error, match=match):
        solve_batch(solver, L, good if ys is None else ys, noise, **more)


def test_unequal_shapes():
    _, ys = recordings(3)
    refused(
        r"ys must be recordings of equal .* \(20, 12\) for recording 1", ys=[*ys[:1], ys[1, :, :12]]
    )
    refused(r"ys must be of shape \(any, 20, any\)", ys=ys[:, :19])
    refused("ys must be", ys=ys[0])


def test_numbers_that_are_none():
    _, ys = recordings(3)
    bad = ys.copy()
    bad[1, 0, 0] = np.nan
    refused("ys must be finite", ys=bad)
    bad[1] = 0
    refused("ys must be different from zero somewhere, got all zeros in recording 1", ys=bad)
    refused("ys must be real", TypeError, ys=1j * ys)
    refused("noise_var must be > 0", noise=[1.0, 0.0, 1.0])
    refused("noise_var must be given", noise=None)


def test_results_do_not_change_with_the_array_that_was_passed():
    L, ys = recordings(3)
    passed = ys.copy()
    batch = solve_batch("gamma_map", L, passed, 1.0, progress=False)
    passed *= 100
    alone = gamma_map(L, ys[1], 1.0, update_mode="fast")
    same(batch[1], alone)


@pytest.mark.parametrize("solver", ["gamma_map", "BMN", "spike_slab"])
def test_a_batch_goes_to_another_process(solver):
    L, ys = recordings(3)
    params = dict(n_sweeps=16, n_burn=2) if solver == "spike_slab" else {}
    batch = solve_batch(solver, L, ys, 1.0, solver_params=params, progress=False)
    there = pickle.loads(pickle.dumps(batch))
    assert repr(there) == repr(batch) and len(there) == 3
    np.testing.assert_array_equal(there.cost, batch.cost)
    np.testing.assert_array_equal(there.mean, batch.mean)
    assert there[-1].data == batch[-1].data


def test_a_recording_has_a_whole_number():
    L, ys = recordings(3)
    batch = solve_batch("BMN", L, ys, 1.0, progress=False)
    assert batch[np.int64(-1)].cost == batch.cost[2]
    with pytest.raises(TypeError):
        batch[1.5]
    with pytest.raises(IndexError, match="recording 3 of 3"):
        batch[3]


def test_another_function_of_the_same_name():
    def gamma_map(L, y, noise_var, n_orient=1):
        raise AssertionError("not called")

    L, ys = recordings(3)
    with pytest.raises(ValueError, match=r"solver must be one of gamma_map.* of this package"):
        solve_batch(gamma_map, L, ys, 1.0)


def test_solvers_and_parameters_that_do_not_go_in_a_batch():
    refused("solver must be one of gamma_map, .* in a batch, got champagne", solver="champagne")
    refused("update_mode must be 'fast'", solver=gamma_map, solver_params=dict(update_mode=2))
    refused("solver_params must be of max_iter", solver=gamma_map, solver_params=dict(rule=None))
    refused("has no parameter", TypeError, solver_params=dict(alpha=1))
    several = dict(sigma=[0.01, 0.02], src_coords=np.zeros((150, 3)))
    refused("sigma must be one width", solver=gamma_map_sflex, solver_params=several)


def test_an_unknown_device():
    refused("device must be one of cpu.*'abacus'", device="abacus")


def test_without_torch(monkeypatch):
    "NumPy does the same; another device says what it needs, and what is lost"
    monkeypatch.setattr(devices, "_torch", lambda: None)
    refused(
        r"device must be one of cpu, got 'cuda': other devices need PyTorch, "
        r"pip install 'calibrain\[torch\]'; without it nothing is lost but their speed",
        device="cuda",
    )
    L, ys = recordings(2)
    assert solve_batch("BMN", L, ys, 1.0).converged.all()


@pytest.mark.parametrize("solver", ["gamma_map", "BMN"])
def test_memory_is_looked_at_before(monkeypatch, solver):
    monkeypatch.setattr(devices, "free_memory", lambda: 2**19)
    refused("n_at_once must be few enough .* needed", solver=solver, n_at_once=3)


def test_memory_of_mixtures_and_of_means(monkeypatch):
    L, ys = recordings(3)
    batch = solve_batch("BMN", L, ys, 1.0)
    monkeypatch.setattr(module, "free_memory", lambda: 2**16)
    with pytest.raises(MemoryError, match="the mean of 3 recordings takes"):
        _ = batch.mean
    refused("ys must be few enough for their mixtures", solver="spike_slab")


def test_as_many_as_fit():
    class Small(devices.Device):
        def free_bytes(self):
            return 1000

    assert check_at_once(None, 50, 100, 40, Small()) == 10
    with pytest.raises(ValueError, match="10 fit"):
        check_at_once(30, 50, 100, 40, Small())
    assert find_device("cpu").free_bytes() > 2**20


def test_the_benchmark_runs():
    "How fast anything is, is not tested"
    L, ys, noise_var = benchmark.recordings(3, 16, 40, 130)
    for solver in benchmark.SOLVERS:
        row = benchmark.compared(solver, L, ys, noise_var, "cpu", 2, read=True)
        assert row["ratio"] > 0 and row["behind"] < 1e-9 and row["violation"] < 1e-6
        assert solver in benchmark.table({solver: row})


def test_importing_loads_no_torch():
    look = "import sys, calibrain; calibrain.solve_batch; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", look], check=True)


def test_threads_of_torch_are_given_back():
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    before = torch.get_num_threads()
    with find_device("torch").at_work():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
