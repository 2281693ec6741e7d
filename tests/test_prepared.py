"""A leadfield prepared once gives every solver the same answer, for many recordings.

And it is refused where it does not fit.
"""

from dataclasses import replace

import numpy as np
import pytest
from problems import EVERY_SOLVER, arguments, random_problem
from routine import some

from calibrain import BMN, SensorSimulator, SourceEstimator, gamma_map_sflex
from calibrain.head.leadfield import Leadfield
from calibrain.head.prepared import prepare
from calibrain.simulation.sensors import project

pytestmark = pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.ConvergenceWarning",
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
)
every_solver = pytest.mark.parametrize("solver", EVERY_SOLVER, ids=lambda s: s.name)


@every_solver
def test_the_same_answer_as_from_the_array(solver):
    for seed in range(8):
        L, y, noise_var, k, coords = random_problem(seed)
        prepared = prepare(L, k)
        params = arguments(solver, noise_var, coords, max_iter=10)
        for scale in (1, 2):  # the second time from what is kept
            a, b = (solver.function(x, scale * y, n_orient=k, **params) for x in (L, prepared))
            assert np.array_equal(a.mean, b.mean)
            assert a.cost == b.cost
        assert prepared._cache


def test_what_is_kept_is_made_once(monkeypatch):
    L, y, noise_var, k, coords = random_problem(2)
    prepared = prepare(L, k)
    gamma_map_sflex(prepared, y, noise_var, k, src_coords=coords, max_iter=3)
    BMN(prepared, y, noise_var, k)
    made = dict(prepared._cache)
    for s in (1, 2):
        gamma_map_sflex(prepared, s * y, noise_var, k, src_coords=coords, max_iter=3)
        BMN(prepared, s * y, noise_var, k)
    assert made.keys() == prepared._cache.keys()
    assert all(prepared._cache[key] is value for key, value in made.items())
    BMN(prepared, y, noise_var, k, normalization=True)
    gamma_map_sflex(prepared, y, noise_var, k, src_coords=coords, sigma=0.03, max_iter=3)
    assert len(prepared._cache) == len(made) + 2


@every_solver
def test_refused_where_it_does_not_fit(solver):
    L, y, noise_var, _, _ = random_problem(2)
    prepared = prepare(L, 1)
    params = arguments(solver, noise_var, np.zeros((L.shape[1], 3)))
    with pytest.raises(ValueError, match="n_orient must be 1, as L was prepared, got 3"):
        solver.function(prepared, y, n_orient=3, **params)
    with pytest.raises(ValueError, match=f"as L has {len(y)} sensors"):
        solver.function(prepared, y[1:], **params)


@pytest.mark.parametrize("mode", ["convex", "fast"])
def test_single_precision_storage_keeps_the_cost(mode):
    for seed in (2, 5, 9, 11):
        L, y, noise_var, k, coords = random_problem(seed)
        said = dict(n_orient=k, src_coords=coords, update_mode=mode, max_iter=100)
        a, b = (
            gamma_map_sflex(prepare(L, k, t), y, noise_var, **said) for t in ("float64", "float32")
        )
        assert abs(a.cost - b.cost) <= 1e-6 * (1 + abs(a.cost))
    assert prepare(L, k, "float32").columns().dtype == np.float32


def test_a_result_that_is_written_into_changes_no_other():
    L, y, noise_var, _, coords = random_problem(3)
    L = L[:, : len(coords)]
    prepared = prepare(L)
    said = dict(noise_var=noise_var, src_coords=coords, max_iter=5)
    first = gamma_map_sflex(prepared, y, **said)
    first["B_spatial"].data[:] = 0
    again = gamma_map_sflex(prepared, y, **said)
    assert np.array_equal(first.mean, again.mean)
    assert again["B_spatial"].nnz and again["B_spatial"].data.all()


def test_a_precision_is_not_changed_unnoticed():
    L = np.random.default_rng(0).normal(size=(4, 6))
    assert prepare(prepare(L, dtype="float32"), dtype="float32").dtype == "float32"
    with pytest.raises(ValueError, match="dtype must be 'float64', as L was prepared"):
        prepare(prepare(L), dtype="float32")


@every_solver
def test_many_recordings_at_once(solver):
    L, y, noise_var, k, coords = random_problem(2)
    params = arguments(solver, noise_var, coords, max_iter=10)
    noise = params.pop("noise_var", None)
    many = np.stack([y, 2 * y, y[:, ::-1]])
    results = SourceEstimator(solver.function, params, noise, k).fit(L, many).predict()
    assert len(results) == 3
    for one, r in zip(many, results):
        alone = SourceEstimator(solver.function, params, noise, k).fit(L, one).predict()
        assert np.array_equal(r.mean, alone.mean)


def record(L, k, coords, **more):
    return Leadfield(L.reshape(len(L), -1, k), coords, **more)


def same(a, b):
    "Results that agree to 1e-14 in all there is to read"
    assert sorted(a) == sorted(b)

    def facts(r):
        return [r.mean, r["posterior_cov"], r.gamma, r.cost, r.log_evidence]

    for x, y in zip(facts(a), facts(b)):
        assert np.shape(x) == np.shape(y)
        assert np.abs(np.asarray(x) - y).max() <= 1e-14 * np.abs(y).max()


@every_solver
def test_a_leadfield_brings_orientations_and_positions(solver):
    for seed in some(range(12), every=3):
        L, y, noise_var, k, coords = random_problem(seed)
        params = arguments(solver, noise_var, coords, max_iter=10)
        there = solver.function(L, y, n_orient=k, **params)
        bare = {name: v for name, v in params.items() if name != "src_coords"}
        free = {name: v for name, v in bare.items() if name != "noise_var"}
        lf = record(L, k, coords)
        for form in (lf, prepare(lf), prepare(lf, k)):
            same(solver.function(form, y, **bare), there)
            same(solver.function(form, y, n_orient=k, **params), there)
            e = SourceEstimator(solver.function, free, bare.get("noise_var")).fit(form, y)
            same(e.predict(y.copy()), there)


@every_solver
def test_a_leadfield_is_not_contradicted(solver):
    L, y, noise_var, _, _ = random_problem(2)
    L = L[:, : L.shape[1] // 6 * 6]
    params = arguments(solver, noise_var, None)
    lf = record(L, 3, np.zeros((L.shape[1] // 3, 3)))
    with pytest.raises(
        ValueError, match="n_orient must be 3, as the Leadfield has, got 2: leave it out"
    ):
        solver.function(lf, y, n_orient=2, **params)
    with pytest.raises(ValueError, match="n_orient must be 3, as L was prepared, got 2"):
        solver.function(prepare(lf), y, n_orient=2, **params)
    with pytest.raises(ValueError, match="n_orient must be one of 1, 2, 3, got 4"):
        solver.function(lf, y, n_orient=4, **params)
    with pytest.raises(ValueError, match=f"as L has {len(y)} sensors"):
        solver.function(lf, y[1:], **params)
    units = ["fT/nAm"] + ["fT/cm/nAm"] * (len(L) - 1)
    mixed = replace(lf, unit=units, modality=None)
    words = r"one unit.*got fT/cm/nAm and fT/nAm: give the covariance of the noise, SourceEstimator"
    with pytest.raises(ValueError, match=words):
        solver.function(mixed, y, **params)
    if "src_coords" in solver.takes():
        if "components" in solver.takes():
            params["components"] = "msp"  # what needs positions
        words = f"of shape .{lf.n_sources}, 3., in m, got a Leadfield without coords"
        with pytest.raises(TypeError, match=f"src_coords must be an array {words}"):
            solver.function(replace(lf, coords=None), y, **params)
        with pytest.raises(
            ValueError, match=f"src_coords must be of shape .{lf.n_sources}, 3., got shape"
        ):
            solver.function(lf, y, **params | dict(src_coords=np.zeros((lf.n_sources + 1, 3))))


def test_positions_that_are_passed_come_first():
    L, y, noise_var, k, coords = random_problem(2)
    lf = record(L, k, 3 * coords)
    same(
        gamma_map_sflex(lf, y, noise_var, src_coords=coords, max_iter=5),
        gamma_map_sflex(L, y, noise_var, k, src_coords=coords, max_iter=5),
    )
    params = dict(src_coords=coords, max_iter=5)
    there = SourceEstimator("gamma_map_sflex", params, noise_var).fit(lf, y).predict()
    same(there, gamma_map_sflex(L, y, noise_var, k, src_coords=coords, max_iter=5))
    assert np.array_equal(there.coords, coords)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_simulators_take_a_leadfield(k):
    lf = Leadfield.random(8, 20, k)
    x = np.random.default_rng(0).normal(size=(20, k, 15))
    for form in [x, x.reshape(20 * k, 15)] if k > 1 else [x, x[:, 0]]:
        array = lf.data if form.ndim == 3 else lf.matrix()
        assert np.array_equal(project(form, lf), project(form, array))
        ours = SensorSimulator().simulate(form, lf, 0.7, seed=3)
        theirs = SensorSimulator().simulate(form, lf.matrix(), 0.7, seed=3)
        for a, b in zip(ours, theirs):
            assert np.array_equal(a, b)
    with pytest.raises(ValueError, match="the same sources and orientations"):
        project(x[1:], lf)


def test_a_solver_of_ones_own_is_told_what_the_leadfield_knows():
    lf = Leadfield.random(8, 20, 3)
    y = np.random.default_rng(0).normal(size=(8, 5))
    seen = {}

    def mine(L, y, noise_var, n_orient, src_coords=None):
        seen.update(L=L, k=n_orient, r=src_coords)
        return BMN(L, y, noise_var, n_orient)

    SourceEstimator(mine, noise_var=1.0).fit(lf, y)
    assert np.array_equal(seen["L"], lf.matrix())
    assert np.array_equal(seen["r"], lf.coords)
    assert seen["k"] == 3
    with pytest.raises(ValueError, match=r"n_orient must be one of \(1,\) for plain, got 3"):

        def plain(L, y, noise_var):
            return BMN(L, y, noise_var)

        SourceEstimator(plain, noise_var=1.0).fit(lf, y)
