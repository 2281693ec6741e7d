"""The contract of every registered solver, and of the one that the documentation adds.

On random problems (see problems.py): from 2 to 40 sensors, 2 to 80 sources, 1 to 3 orientations and
1 to 100 samples; rank-deficient leadfields and average-referenced data are among them.
"""

import numpy as np
import pytest
from problems import (
    EPS,
    EVERY_SOLVER,
    EXAMPLE,
    arguments,
    close,
    model_covariance,
    problems,
    random_problem,
    rounding,
    solved,
    well_posed,
)

from calibrain import BMN, SourceEstimator
from calibrain.head.prepared import prepare
from calibrain.solvers.evidence import Problem, data_root, evidence_at, violation
from calibrain.solvers.registry import SOLVERS, Solver, register, solver_table, unregister

pytestmark = pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.ConvergenceWarning",
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
)
every_solver = pytest.mark.parametrize("solver", EVERY_SOLVER, ids=lambda s: s.name)
iterative = pytest.mark.parametrize(
    "solver", [s for s in EVERY_SOLVER if s.cost_falls], ids=lambda s: s.name
)


@pytest.fixture(autouse=True)
def registered(request):
    "A solver from outside is registered for as long as its test runs"
    call = getattr(request.node, "callspec", None)
    solver = call.params.get("solver") if call else None
    outside = isinstance(solver, Solver) and solver.name not in SOLVERS
    if outside:
        register(solver)
    yield
    if outside:
        unregister(solver.name)


def test_the_registry_is_as_it_was():
    assert EXAMPLE.name not in SOLVERS


def test_the_random_problems_are_of_every_kind():
    "Also the few of a routine run"
    kinds = set()
    orientations = set()
    shapes = set()
    for seed, (L, y, _, k, _) in problems():
        kinds.add(seed % 12)
        orientations.add(k)
        shapes.add("more samples" if y.shape[1] >= len(L) else "more sensors")
        if seed % 4 == 0:
            assert np.linalg.matrix_rank(L) < min(L.shape) or min(L.shape) == 1
        if seed % 3 == 0:
            assert np.allclose(L.sum(0), 0, atol=1e-9) and np.allclose(y.sum(0), 0, atol=1e-9)
    assert kinds == {*range(12)}
    assert orientations == {1, 2, 3}
    assert shapes == {"more sensors", "more samples"}


# ---- the cost


def never_rises(cost, what):
    rise = np.diff(cost).max()
    assert rise <= 1e-10 * (1 + np.abs(cost).max()), f"{what}: ℒ rose by {rise:.2e}"


@iterative
@pytest.mark.parametrize("mode", ["convex", "em", "mackay", "fast"])
def test_cost_never_rises(solver, mode):
    for seed, problem in problems():
        r = solved(solver, problem, update_mode=mode, max_iter=25)
        assert len(r.history["cost"]) == r.n_iter + 1
        never_rises(r.history["cost"], f"problem {seed}")


@iterative
@pytest.mark.parametrize("noise_mode", ["convex", "em"])
def test_cost_never_rises_with_other_noise_updates(solver, noise_mode):
    if not solver.learns_noise:
        assert "update_mode_noise" not in solver.takes()
        return
    options = dict(update_mode_noise=noise_mode, lambda_damping=0.6, max_iter=25)
    for seed, problem in problems():
        r = solved(solver, problem, **options)
        never_rises(r.history["cost"], f"problem {seed}")


@every_solver
def test_cost_and_evidence_are_those_of_the_returned_hyperparameters(solver):
    for seed, problem in problems():
        L, y, _, k, _ = problem
        M, T = y.shape
        r = solved(solver, problem, max_iter=10)
        if r.noise_at_boundary:
            continue  # Σ_y is singular to rounding there; no second route is accurate
        C, _ = model_covariance(r, L, k)
        data_term = np.mean(np.einsum("mt,mt->t", y, np.linalg.solve(C, y)))
        log_det = np.linalg.slogdet(C)[1]
        cost = log_det + data_term
        scale = M + abs(log_det) + data_term
        tolerance = rounding(np.linalg.cond(C))
        close(r.cost, cost, tolerance, f"problem {seed}", scale)
        evidence = -T / 2 * (cost + M * np.log(2 * np.pi))
        close(r.log_evidence, evidence, tolerance, f"problem {seed}", T * (scale + M))


# ---- the posterior


@every_solver
@pytest.mark.parametrize("max_iter", [1, 20])
def test_posterior_covariance_is_a_covariance(solver, max_iter):
    for seed, problem in problems():
        r = solved(solver, problem, max_iter=max_iter)
        C = r["posterior_cov"]
        top = max(np.abs(C).max(), np.finfo(float).tiny)
        assert np.abs(C - C.T).max() <= 1e-14 * top
        prior = np.max(r["gamma"])
        scale = max(top, r.posterior.gamma.max(initial=prior))
        assert np.linalg.eigvalsh(C).min() >= -1e-11 * scale, f"problem {seed}"
        prior_var = r.posterior.S.power(2) @ r.posterior.gamma
        assert (np.diag(C) <= prior_var * (1 + 1e-9) + 1e-300).all(), "data never add variance"


@every_solver
def test_a_dense_covariance_is_made_when_read_and_once(solver):
    r = solved(solver, random_problem(5), max_iter=5)
    dense = [key for key in r if key.startswith("posterior_cov")]
    assert dense and all(callable(r.entries[key]) for key in dense) and not r._cache
    assert r["posterior_cov"] is r["posterior_cov"]


def test_covariances_of_the_active():
    solver = SOLVERS["gamma_lambda_map_sflex"]
    problem = random_problem(5)
    r = solved(solver, problem, update_mode=1, max_iter=300)
    on = r["active_indices"]
    rows = np.ix_(on, on)
    assert 0 < len(on) < problem[0].shape[1]
    close(r["posterior_cov_active"], r["posterior_cov"][rows], 1e-10, "sources")
    close(r["posterior_cov_active_coeff"], r["posterior_cov_coeff"][rows], 1e-10, "coefficients")
    B = r["B_operator"]
    close(B @ r["posterior_cov_coeff"] @ B.T, r["posterior_cov"], 1e-10, "through the basis")


# ---- units and order


def scales():
    "The random problems, each with a factor"
    for seed, problem in problems():
        factor = float(np.random.default_rng(seed).choice([1e-6, 0.3, 1e3]))
        yield f"problem {seed}", problem, factor


@every_solver
def test_scaling_the_recording(solver):
    "γ and λ scale by s², the log evidence shifts by −TM log s"
    for what, (L, y, noise_var, k, coords), s in scales():
        a = solved(solver, (L, y, noise_var, k, coords), max_iter=15)
        b = solved(solver, (L, s * y, s**2 * noise_var, k, coords), max_iter=15)
        close(b["gamma"], s**2 * a["gamma"], 1e-6, f"γ, {what}")
        close(b.noise_var, s**2 * a.noise_var, 1e-6, f"λ, {what}")
        close(b["posterior_mean"], s * a["posterior_mean"], 1e-6, f"mean, {what}")
        shift = b.log_evidence - a.log_evidence
        close(shift, -y.size * np.log(s), 1e-6, f"evidence, {what}", y.size)


@every_solver
def test_scaling_the_leadfield(solver):
    "γ scales by 1/s², nothing else changes"
    for what, (L, *rest), s in scales():
        a = solved(solver, (L, *rest), max_iter=15)
        b = solved(solver, (s * L, *rest), max_iter=15)
        close(s**2 * b["gamma"], a["gamma"], 1e-6, f"γ, {what}")
        close(b.noise_var, a.noise_var, 1e-6, f"λ, {what}")
        # of Σ_y, an upper bound: ℒ is not known better
        condition = (L**2).sum() * np.max(a["gamma"]) / np.min(a.get("lambdas", a.noise_var))
        close(b.cost, a.cost, max(1e-7, EPS * condition), f"ℒ, {what}", 1 + abs(a.cost))


@every_solver
def test_permuting_sensors_and_sources(solver):
    for seed, (L, y, noise_var, k, coords) in problems():
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(y))
        sources = rng.permutation(len(coords))
        columns = (sources[:, None] * k + np.arange(k)).ravel()
        shuffled = (L[rows][:, columns], y[rows], noise_var, k, coords[sources])
        a = solved(solver, (L, y, noise_var, k, coords), max_iter=15)
        b = solved(solver, shuffled, max_iter=15)

        mean = a["posterior_mean"][columns]
        least = 1e-12 * np.sqrt(a["gamma"])
        scale = np.abs(mean).max() + least
        close(b["posterior_mean"], mean, 1e-6, f"mean, problem {seed}", scale)
        var = a.posterior.var[columns]
        scale = var.max() + 1e-12 * a["gamma"]
        close(b.posterior.var, var, 1e-6, f"variance, problem {seed}", scale)
        if "lambdas" in a:
            close(b["lambdas"], a["lambdas"][rows], 1e-6, f"λ, problem {seed}")


@every_solver
@pytest.mark.parametrize("k", [2, 3])
def test_turning_the_axes_of_orientation(solver, k):
    "Sources have no x, y and z of their own: turned axes give turned amplitudes, at the optimum"
    to_the_end = dict(update_mode="fast", max_iter=2000, tol=1e-9)
    L, y = well_posed(2, k)
    n_sources = L.shape[1] // k
    coords = np.random.default_rng(k).normal(scale=0.02, size=(n_sources, 3))
    turn = np.kron(np.eye(n_sources), np.linalg.qr(np.random.default_rng(0).normal(size=(k, k)))[0])
    a = solved(solver, (L, y, 0.25, k, coords), **to_the_end)
    b = solved(solver, (L @ turn, y, 0.25, k, coords), **to_the_end)
    close(turn @ b["posterior_mean"], a["posterior_mean"], 1e-6, "mean")
    close(turn @ b["posterior_cov"] @ turn.T, a["posterior_cov"], 1e-6, "covariance")
    close(b.cost, a.cost, 1e-8, "ℒ")


@every_solver
def test_draws_have_the_mean_and_the_covariance(solver):
    problem = random_problem(5)
    r = solved(solver, problem, max_iter=5)
    draws = r.posterior.sample(3000, seed=1)[:, :, 0]
    largest = r.std.max()
    close(draws.mean(0), r["posterior_mean"][:, 0], 1.0, "mean", 0.1 * largest)
    close(np.cov(draws.T), r["posterior_cov"], 1.0, "covariance", 0.12 * largest**2)


@every_solver
def test_intervals_hold_what_is_drawn_from_the_prior(solver):
    "Of solvers with one variance for all sources: the prior that they learn can be drawn from"
    if solver.sparse or solver.own_depth:
        return
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(10):
        L = rng.normal(size=(20, 40))
        x = 3 * rng.normal(size=(40, 50))
        y = L @ x + 2 * rng.normal(size=(20, 50))
        r = solved(solver, (L, y, 4.0, 1, np.zeros((40, 3))))
        inside.append(np.abs(x - r["posterior_mean"]) <= 1.645 * r.std[:, None])
    assert abs(np.mean(inside) - 0.9) < 0.01


# ---- small problems, whole numbers, pure functions


@every_solver
def test_one_sensor_and_one_sample(solver):
    rng = np.random.default_rng(0)
    for M, T in ((1, 1), (1, 30), (6, 1)):
        L = rng.normal(size=(M, 8))
        y = rng.normal(size=(M, T))
        given = arguments(solver, 0.1, rng.normal(scale=0.02, size=(8, 3)))
        r = solver.function(L, y[:, 0] if T == 1 else y, **given)
        assert r["posterior_mean"].shape == (8, T)
        assert np.isfinite(r["posterior_mean"]).all() and np.isfinite(r.cost)


@every_solver
def test_whole_numbers_are_converted(solver):
    "int8 would overflow in the first product"
    rng = np.random.default_rng(0)
    L = rng.integers(-100, 100, size=(5, 9)).astype(np.int8)
    y = rng.integers(-100, 100, size=(5, 20)).astype(np.int8)
    given = arguments(solver, 9, rng.normal(scale=0.02, size=(9, 3)), max_iter=10)
    whole = solver.function(L, y, **given)
    real = solver.function(L.astype(float), y.astype(float), **given)
    assert np.array_equal(whole["posterior_mean"], real["posterior_mean"])


@every_solver
def test_nothing_is_changed_or_shared(solver):
    "Solvers are pure functions of their arguments"
    problem = random_problem(5)
    L, y, _, _, coords = problem
    before = [array.copy() for array in (L, y, coords)]
    state = np.random.get_state()[1].copy()
    a = solved(solver, problem, max_iter=5)
    b = solved(solver, problem, max_iter=5)
    for old, now in zip(before, (L, y, coords)):
        assert np.array_equal(old, now)
    assert np.array_equal(state, np.random.get_state()[1])
    assert np.array_equal(a["posterior_mean"], b["posterior_mean"])
    assert not np.shares_memory(a["posterior_mean"], L)
    with pytest.raises(TypeError):
        a["posterior_mean"] = 0


# ---- which are active, and how a solver is found


@every_solver
def test_which_coefficients_are_active(solver):
    L, y = well_posed(1, 2)
    apart = 0.04 * np.arange(24.0).reshape(8, 3)  # m: every patch is a point, and G = L
    r = solved(solver, (L, y, 0.25, 2, apart), update_mode=1, max_iter=3000, tol=1e-10)
    on = np.flatnonzero(r["gammas_full"]) if "gammas_full" in r else np.arange(16)
    assert np.array_equal(r["active_indices"], on) and len(r.posterior.gamma) == len(on)
    if not solver.sparse:
        return
    assert 0 < len(on) < 16
    noise = np.broadcast_to(r.get("lambdas", r.noise_var), 30)
    ev = evidence_at(Problem(L, data_root(y), 2), r["gammas_full"][::2], noise)
    of_gamma = violation(ev.gamma, ev.q, ev.d, 2).max()
    assert r.kkt_violation >= of_gamma * (1 - 1e-6) - 1e-12


@every_solver
def test_found_by_name_and_given_what_is_prepared(solver):
    L, y, noise_var, k, coords = random_problem(5)
    params = arguments(solver, noise_var, coords, max_iter=5)
    noise = params.pop("noise_var", None)
    prepared = prepare(L, k)
    r = SourceEstimator(solver.name, params, noise, k).fit(prepared, y).predict()
    same = SourceEstimator(solver.function, params, noise, k).fit(L, y).predict()
    assert np.array_equal(r["posterior_mean"], same["posterior_mean"])
    assert r.solver == solver.name and solver.takes_prepared and prepared._cache
    assert f"| `{solver.name}` |" in solver_table()


# ---- the example of the documentation


def test_one_region_is_minimum_norm():
    "The documentation's example where it must agree with a solver that takes another way"
    same = 0
    for seed in range(20):
        L, y, noise_var, k, coords = random_problem(seed)
        one_region = dict(noise_var=noise_var, n_orient=k, regions=np.zeros(len(coords)))
        a = EXAMPLE.function(L, y, **one_region, max_iter=20_000, tol=1e-12)
        b = BMN(L, y, noise_var, k)
        rounding_of_cost = 1e-8 * (1 + abs(b.cost))
        assert a.cost >= b.cost - rounding_of_cost, f"problem {seed}: lower than the lowest"
        if a.cost > b.cost + rounding_of_cost:
            continue  # another minimum than the lowest
        same += 1
        close(a.posterior.var, b.posterior.var, 1e-4, f"variances, problem {seed}")

        few = EXAMPLE.function(L, y, **one_region, max_iter=1)
        noise = np.full(len(y), noise_var)
        ev = evidence_at(Problem(L, data_root(y), k), few["gammas_full"][::k], noise)
        ratio = ev.q.sum() / ev.d.sum()
        too_large = min(1 - ratio, few["gamma"] * ev.d.sum() / L.shape[1])
        expected = ratio - 1 if ratio > 1 else too_large
        assert np.isclose(few.kkt_violation, expected, rtol=1e-6)
    assert same >= 15
