"A leadfield prepared once gives every solver the same answer, for many recordings, and is refused where it does not fit"
import numpy as np
import pytest
from problems import arguments, random_problem

from calibrain import BMN, SourceEstimator, gamma_map_sflex
from calibrain.prepared import prepare
from calibrain.solvers.registry import SOLVERS

pytestmark = pytest.mark.filterwarnings("ignore::calibrain.core.ConvergenceWarning", "ignore::calibrain.core.NoiseBoundaryWarning")
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=lambda s: s.name)


@every_solver
def test_the_same_answer_as_from_the_array(solver):
    for seed in range(8):
        L, y, noise_var, k, coords = random_problem(seed)
        prepared, params = prepare(L, k), arguments(solver, noise_var, coords, max_iter=10)
        for scale in (1, 2):      # the second time from what is kept
            a, b = (solver.function(x, scale * y, n_orient=k, **params) for x in (L, prepared))
            assert np.array_equal(a["posterior_mean"], b["posterior_mean"]) and a.cost == b.cost
        assert prepared._made


def test_what_is_kept_is_made_once(monkeypatch):
    L, y, noise_var, k, coords = random_problem(2)
    prepared = prepare(L, k)
    gamma_map_sflex(prepared, y, noise_var, k, src_coords=coords, max_iter=3)
    BMN(prepared, y, noise_var, k)
    made = dict(prepared._made)
    for s in (1, 2): gamma_map_sflex(prepared, s * y, noise_var, k, src_coords=coords, max_iter=3), BMN(prepared, s * y, noise_var, k)
    assert made == prepared._made and all(prepared._made[key] is value for key, value in made.items())
    BMN(prepared, y, noise_var, k, normalization=True)
    gamma_map_sflex(prepared, y, noise_var, k, src_coords=coords, sigma=0.03, max_iter=3)
    assert len(prepared._made) == len(made) + 2


@every_solver
def test_refused_where_it_does_not_fit(solver):
    L, y, noise_var, _, coords = random_problem(2)
    prepared, params = prepare(L, 1), arguments(solver, noise_var, np.zeros((L.shape[1], 3)))
    with pytest.raises(ValueError, match="n_orient must be 1, as L was prepared, got 3"): solver.function(prepared, y, n_orient=3, **params)
    with pytest.raises(ValueError, match=f"as L has {len(y)} sensors"): solver.function(prepared, y[1:], **params)


@pytest.mark.parametrize("mode", ["convex", "fast"])
def test_single_precision_storage_keeps_the_cost(mode):
    for seed in (2, 5, 9, 11):
        L, y, noise_var, k, coords = random_problem(seed)
        a, b = (gamma_map_sflex(prepare(L, k, t), y, noise_var, k, src_coords=coords, update_mode=mode, max_iter=100) for t in ("float64", "float32"))
        assert abs(a.cost - b.cost) <= 1e-6 * (1 + abs(a.cost))
    assert prepare(L, k, "float32").columns().dtype == np.float32


@every_solver
def test_many_recordings_at_once(solver):
    L, y, noise_var, k, coords = random_problem(2)
    params = arguments(solver, noise_var, coords, max_iter=10)
    noise = params.pop("noise_var", None)
    many = np.stack([y, 2 * y, y[:, ::-1]])
    results = SourceEstimator(solver.function, params, noise, k).fit(L, many).predict()
    assert len(results) == 3
    for one, r in zip(many, results):
        assert np.array_equal(r["posterior_mean"], SourceEstimator(solver.function, params, noise, k).fit(L, one).predict()["posterior_mean"])
