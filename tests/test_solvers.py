"""The contract of every registered solver, on 200 random problems.

Shapes from 2 to 40 sensors, 2 to 80 sources, 1 to 3 orientations and 1 to 100 samples; rank-deficient leadfields and average-referenced data
are among them (see problems.py).
"""
import numpy as np
import pytest
from problems import N_PROBLEMS, arguments, random_problem

from calibrain.solvers.evidence import Problem, data_root, evaluate
from calibrain.solvers.registry import SOLVERS

pytestmark = pytest.mark.filterwarnings("ignore::calibrain.core.ConvergenceWarning", "ignore::calibrain.core.NoiseBoundaryWarning")
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=lambda s: s.name)
iterative = pytest.mark.parametrize("solver", [s for s in SOLVERS.values() if s.cost_falls], ids=lambda s: s.name)


def close(a, b, rtol, what, scale=None):
    "Equal relative to the largest"
    a, b = np.asarray(a, float), np.asarray(b, float)
    top = np.abs(b).max() if scale is None else scale
    error = np.abs(a - b).max()
    assert error <= rtol * top, f"{what}: differs by {error:.2e} where the largest is {top:.2e}"


@iterative
@pytest.mark.parametrize("mode", ["convex", "em", "mackay", "fast"])
def test_cost_never_rises(solver, mode):
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, coords = random_problem(seed)
        r = solver.function(L, y, n_orient=k, **arguments(solver, noise_var, coords, update_mode=mode, max_iter=25))
        cost = r.history["cost"]
        assert len(cost) == r.n_iter + 1
        assert np.diff(cost).max() <= 1e-10 * (1 + np.abs(cost).max()), f"problem {seed}: ℒ rose by {np.diff(cost).max():.2e}"


@iterative
@pytest.mark.parametrize("noise_mode", ["convex", "em"])
def test_cost_never_rises_with_other_noise_updates(solver, noise_mode):
    if not solver.learns_noise:
        assert "update_mode_noise" not in solver.takes()
        return
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, coords = random_problem(seed)
        r = solver.function(L, y, n_orient=k, **arguments(solver, noise_var, coords, update_mode_noise=noise_mode, lambda_damping=0.6, max_iter=25))
        cost = r.history["cost"]
        assert np.diff(cost).max() <= 1e-10 * (1 + np.abs(cost).max()), f"problem {seed}: ℒ rose by {np.diff(cost).max():.2e}"


@every_solver
def test_cost_and_evidence_are_those_of_the_returned_hyperparameters(solver):
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, coords = random_problem(seed)
        r = solver.function(L, y, n_orient=k, **arguments(solver, noise_var, coords, max_iter=10))
        if r.noise_at_boundary: continue          # Σ_y is singular to rounding there; no second route is accurate
        G = L @ r["B_spatial"].toarray() if "B_spatial" in r and k == 1 else L @ np.kron(r["B_spatial"].toarray(), np.eye(k)) if "B_spatial" in r else L @ r["B_operator"] if "B_operator" in r else L
        gamma = r["gammas_full"] if "gammas_full" in r else np.full(L.shape[1], r["gamma"])
        C = (G * gamma) @ G.T + np.diag(np.broadcast_to(r.get("lambdas", r.noise_var), len(y)))
        cost = np.linalg.slogdet(C)[1] + np.mean(np.einsum("mt,mt->t", y, np.linalg.solve(C, y)))
        close(r.cost, cost, 1e-7, f"problem {seed}", 1 + abs(cost))
        close(r.log_evidence, -y.shape[1] / 2 * (cost + len(y) * np.log(2 * np.pi)), 1e-7, f"problem {seed}", y.shape[1] * (abs(cost) + 2 * len(y)))


@every_solver
@pytest.mark.parametrize("max_iter", [1, 20])
def test_posterior_covariance_is_a_covariance(solver, max_iter):
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, coords = random_problem(seed)
        r = solver.function(L, y, n_orient=k, **arguments(solver, noise_var, coords, max_iter=max_iter))
        C = r["posterior_cov"]
        top = max(np.abs(C).max(), np.finfo(float).tiny)
        assert np.abs(C - C.T).max() <= 1e-14 * top
        prior = r["gamma"] if np.isscalar(r["gamma"]) else np.max(r["gamma"])
        assert np.linalg.eigvalsh(C).min() >= -1e-11 * max(top, r.posterior.gamma.max(initial=prior)), f"problem {seed}"
        assert np.all(np.diag(C) <= (r.posterior.S.power(2) @ r.posterior.gamma) * (1 + 1e-9) + 1e-300), "data never add variance"


@every_solver
def test_scaling_the_recording(solver):
    "γ and λ scale by s², the log evidence shifts by −TM log s"
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, coords = random_problem(seed)
        s = float(np.random.default_rng(seed).choice([1e-6, 0.3, 1e3]))
        a, b = (solver.function(L, c * y, n_orient=k, **arguments(solver, noise_var, coords, c, max_iter=15)) for c in (1, s))
        close(b["gamma"], s**2 * a["gamma"], 1e-6, f"γ, problem {seed}")
        close(b.noise_var, s**2 * a.noise_var, 1e-6, f"λ, problem {seed}")
        close(b["posterior_mean"], s * a["posterior_mean"], 1e-6, f"mean, problem {seed}")
        M, T = y.shape
        close(b.log_evidence - a.log_evidence, -T * M * np.log(s), 1e-6, f"evidence, problem {seed}", T * M)


@every_solver
def test_scaling_the_leadfield(solver):
    "γ scales by 1/s², nothing else changes"
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, coords = random_problem(seed)
        s = float(np.random.default_rng(seed).choice([1e-6, 0.3, 1e3]))
        a, b = (solver.function(c * L, y, n_orient=k, **arguments(solver, noise_var, coords, max_iter=15)) for c in (1, s))
        close(s**2 * b["gamma"], a["gamma"], 1e-6, f"γ, problem {seed}")
        close(b.noise_var, a.noise_var, 1e-6, f"λ, problem {seed}")
        close(b.cost, a.cost, 1e-7, f"ℒ, problem {seed}", 1 + abs(a.cost))


@every_solver
def test_permuting_sensors_and_sources(solver):
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, coords = random_problem(seed)
        rng = np.random.default_rng(seed)
        rows, sources = rng.permutation(len(y)), rng.permutation(len(coords))
        columns = (sources[:, None] * k + np.arange(k)).ravel()
        a = solver.function(L, y, n_orient=k, **arguments(solver, noise_var, coords, max_iter=15))
        b = solver.function(L[rows][:, columns], y[rows], n_orient=k, **arguments(solver, noise_var, coords[sources], max_iter=15))
        close(b["posterior_mean"], a["posterior_mean"][columns], 1e-6, f"mean, problem {seed}", np.abs(a["posterior_mean"]).max() + 1e-12 * np.sqrt(a["gamma"]))
        close(b.posterior.var, a.posterior.var[columns], 1e-6, f"variance, problem {seed}", a.posterior.var.max() + 1e-12 * a["gamma"])
        if "lambdas" in a: close(b["lambdas"], a["lambdas"][rows], 1e-6, f"λ, problem {seed}")


def test_gradient_equals_finite_differences():
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, _ = random_problem(seed)
        rng = np.random.default_rng(seed)
        p, noise = Problem(L, data_root(y), k), rng.uniform(0.5, 2, len(y)) * noise_var
        gamma = rng.lognormal(size=L.shape[1] // k)
        g = int(rng.integers(len(gamma)))
        h = 1e-4 * gamma[g] * (np.arange(len(gamma)) == g)
        slope = (evaluate(p, gamma + h, noise).cost - evaluate(p, gamma - h, noise).cost) / (2 * h[g])
        ev = evaluate(p, gamma, noise)
        close(ev.gradient[g], slope, 1e-5, f"problem {seed}", ev.q[g] + ev.d[g])


@every_solver
def test_one_sensor_and_one_sample(solver):
    rng = np.random.default_rng(0)
    for M, T in ((1, 1), (1, 30), (6, 1)):
        L, y = rng.normal(size=(M, 8)), rng.normal(size=(M, T))
        r = solver.function(L, y[:, 0] if T == 1 else y, **arguments(solver, 0.1, rng.normal(scale=0.02, size=(8, 3))))
        assert r["posterior_mean"].shape == (8, T) and np.isfinite(r["posterior_mean"]).all() and np.isfinite(r.cost)


@every_solver
def test_whole_numbers_are_converted(solver):
    "int8 would overflow in the first product"
    rng = np.random.default_rng(0)
    L, y = rng.integers(-100, 100, size=(5, 9)).astype(np.int8), rng.integers(-100, 100, size=(5, 20)).astype(np.int8)
    coords = rng.normal(scale=0.02, size=(9, 3))
    a, b = (solver.function(L.astype(t), y.astype(t), **arguments(solver, 9, coords, max_iter=10)) for t in (np.int8, float))
    assert np.array_equal(a["posterior_mean"], b["posterior_mean"])


@every_solver
def test_nothing_is_changed_or_shared(solver):
    "Solvers are pure functions of their arguments"
    L, y, noise_var, k, coords = random_problem(5)
    before = [a.copy() for a in (L, y, coords)]
    state = np.random.get_state()[1].copy()
    a, b = (solver.function(L, y, n_orient=k, **arguments(solver, noise_var, coords, max_iter=5)) for _ in range(2))
    assert all(np.array_equal(x, z) for x, z in zip(before, (L, y, coords))) and np.array_equal(state, np.random.get_state()[1])
    assert np.array_equal(a["posterior_mean"], b["posterior_mean"]) and not np.shares_memory(a["posterior_mean"], L)
    with pytest.raises(TypeError): a["posterior_mean"] = 0


@every_solver
def test_a_dense_covariance_is_made_only_when_read(solver):
    L, y, noise_var, k, coords = random_problem(5)
    r = solver.function(L, y, n_orient=k, **arguments(solver, noise_var, coords, max_iter=5))
    dense = [key for key in r if key.startswith("posterior_cov")]
    assert dense and all(callable(r.entries[key]) for key in dense) and not r._made
