"""The contract of every registered solver, and of the one that the documentation adds, on 200 random problems.

Shapes from 2 to 40 sensors, 2 to 80 sources, 1 to 3 orientations and 1 to 100 samples; rank-deficient leadfields and average-referenced data
are among them (see problems.py).
"""

import itertools

import numpy as np
import pytest
from problems import EVERY_SOLVER, EXAMPLE, N_PROBLEMS, arguments, random_problem

from calibrain import BMN, BMN_joint, SourceEstimator, gamma_lambda_map, gamma_map
from calibrain.core.warnings import NoiseBoundaryWarning
from calibrain.head.basis import normalisation, sflex_basis, through_basis
from calibrain.head.prepared import prepare
from calibrain.solvers.bmn import NOISE_FLOOR, Spectrum, best_gamma, best_gamma_noise
from calibrain.solvers.evidence import Problem, data_root, evaluate, violation
from calibrain.solvers.gamma_lambda_map import boundary
from calibrain.solvers.registry import SOLVERS, Solver, register, solver_table, unregister
from calibrain.solvers.search import (
    Rule,
    convex,
    em,
    mackay,
    noise_convex,
    noise_em,
    precision,
    published,
    step,
    whitened,
)

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
    solver = (
        request.node.callspec.params.get("solver") if hasattr(request.node, "callspec") else None
    )
    outside = isinstance(solver, Solver) and solver.name not in SOLVERS
    if outside:
        register(solver)
    yield
    if outside:
        unregister(solver.name)


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
        r = solver.function(
            L, y, n_orient=k, **arguments(solver, noise_var, coords, update_mode=mode, max_iter=25)
        )
        cost = r.history["cost"]
        assert len(cost) == r.n_iter + 1
        assert np.diff(cost).max() <= 1e-10 * (1 + np.abs(cost).max()), (
            f"problem {seed}: ℒ rose by {np.diff(cost).max():.2e}"
        )


@iterative
@pytest.mark.parametrize("noise_mode", ["convex", "em"])
def test_cost_never_rises_with_other_noise_updates(solver, noise_mode):
    if not solver.learns_noise:
        assert "update_mode_noise" not in solver.takes()
        return
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, coords = random_problem(seed)
        r = solver.function(
            L,
            y,
            n_orient=k,
            **arguments(
                solver,
                noise_var,
                coords,
                update_mode_noise=noise_mode,
                lambda_damping=0.6,
                max_iter=25,
            ),
        )
        cost = r.history["cost"]
        assert np.diff(cost).max() <= 1e-10 * (1 + np.abs(cost).max()), (
            f"problem {seed}: ℒ rose by {np.diff(cost).max():.2e}"
        )


@every_solver
def test_cost_and_evidence_are_those_of_the_returned_hyperparameters(solver):
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, coords = random_problem(seed)
        r = solver.function(L, y, n_orient=k, **arguments(solver, noise_var, coords, max_iter=10))
        if r.noise_at_boundary:
            continue  # Σ_y is singular to rounding there; no second route is accurate
        G = (
            L @ r["B_spatial"].toarray()
            if "B_spatial" in r and k == 1
            else L @ np.kron(r["B_spatial"].toarray(), np.eye(k))
            if "B_spatial" in r
            else L @ r["B_operator"]
            if "B_operator" in r
            else L
        )
        gamma = r["gammas_full"] if "gammas_full" in r else np.full(L.shape[1], r["gamma"])
        C = (G * gamma) @ G.T + np.diag(np.broadcast_to(r.get("lambdas", r.noise_var), len(y)))
        cost = np.linalg.slogdet(C)[1] + np.mean(np.einsum("mt,mt->t", y, np.linalg.solve(C, y)))
        close(r.cost, cost, 1e-7, f"problem {seed}", 1 + abs(cost))
        close(
            r.log_evidence,
            -y.shape[1] / 2 * (cost + len(y) * np.log(2 * np.pi)),
            1e-7,
            f"problem {seed}",
            y.shape[1] * (abs(cost) + 2 * len(y)),
        )


@every_solver
@pytest.mark.parametrize("max_iter", [1, 20])
def test_posterior_covariance_is_a_covariance(solver, max_iter):
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, coords = random_problem(seed)
        r = solver.function(
            L, y, n_orient=k, **arguments(solver, noise_var, coords, max_iter=max_iter)
        )
        C = r["posterior_cov"]
        top = max(np.abs(C).max(), np.finfo(float).tiny)
        assert np.abs(C - C.T).max() <= 1e-14 * top
        prior = r["gamma"] if np.isscalar(r["gamma"]) else np.max(r["gamma"])
        assert np.linalg.eigvalsh(C).min() >= -1e-11 * max(
            top, r.posterior.gamma.max(initial=prior)
        ), f"problem {seed}"
        assert np.all(
            np.diag(C) <= (r.posterior.S.power(2) @ r.posterior.gamma) * (1 + 1e-9) + 1e-300
        ), "data never add variance"


@every_solver
def test_scaling_the_recording(solver):
    "γ and λ scale by s², the log evidence shifts by −TM log s"
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, coords = random_problem(seed)
        s = float(np.random.default_rng(seed).choice([1e-6, 0.3, 1e3]))
        a, b = (
            solver.function(
                L, c * y, n_orient=k, **arguments(solver, noise_var, coords, c, max_iter=15)
            )
            for c in (1, s)
        )
        close(b["gamma"], s**2 * a["gamma"], 1e-6, f"γ, problem {seed}")
        close(b.noise_var, s**2 * a.noise_var, 1e-6, f"λ, problem {seed}")
        close(b["posterior_mean"], s * a["posterior_mean"], 1e-6, f"mean, problem {seed}")
        M, T = y.shape
        close(
            b.log_evidence - a.log_evidence,
            -T * M * np.log(s),
            1e-6,
            f"evidence, problem {seed}",
            T * M,
        )


@every_solver
def test_scaling_the_leadfield(solver):
    "γ scales by 1/s², nothing else changes"
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, coords = random_problem(seed)
        s = float(np.random.default_rng(seed).choice([1e-6, 0.3, 1e3]))
        a, b = (
            solver.function(
                c * L, y, n_orient=k, **arguments(solver, noise_var, coords, max_iter=15)
            )
            for c in (1, s)
        )
        close(s**2 * b["gamma"], a["gamma"], 1e-6, f"γ, problem {seed}")
        close(b.noise_var, a.noise_var, 1e-6, f"λ, problem {seed}")
        condition = (
            (L**2).sum() * np.max(a["gamma"]) / np.min(a.get("lambdas", a.noise_var))
        )  # of Σ_y, an upper bound: ℒ is not known better
        close(
            b.cost,
            a.cost,
            max(1e-7, np.finfo(float).eps * condition),
            f"ℒ, problem {seed}",
            1 + abs(a.cost),
        )


@every_solver
def test_permuting_sensors_and_sources(solver):
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, coords = random_problem(seed)
        rng = np.random.default_rng(seed)
        rows, sources = rng.permutation(len(y)), rng.permutation(len(coords))
        columns = (sources[:, None] * k + np.arange(k)).ravel()
        a = solver.function(L, y, n_orient=k, **arguments(solver, noise_var, coords, max_iter=15))
        b = solver.function(
            L[rows][:, columns],
            y[rows],
            n_orient=k,
            **arguments(solver, noise_var, coords[sources], max_iter=15),
        )
        close(
            b["posterior_mean"],
            a["posterior_mean"][columns],
            1e-6,
            f"mean, problem {seed}",
            np.abs(a["posterior_mean"]).max() + 1e-12 * np.sqrt(a["gamma"]),
        )
        close(
            b.posterior.var,
            a.posterior.var[columns],
            1e-6,
            f"variance, problem {seed}",
            a.posterior.var.max() + 1e-12 * a["gamma"],
        )
        if "lambdas" in a:
            close(b["lambdas"], a["lambdas"][rows], 1e-6, f"λ, problem {seed}")


def test_gradient_equals_finite_differences():
    for seed in range(N_PROBLEMS):
        L, y, noise_var, k, _ = random_problem(seed)
        rng = np.random.default_rng(seed)
        p, noise = Problem(L, data_root(y), k), rng.uniform(0.5, 2, len(y)) * noise_var
        gamma = rng.lognormal(size=L.shape[1] // k)
        g = int(rng.integers(len(gamma)))
        h = 1e-4 * gamma[g] * (np.arange(len(gamma)) == g)
        slope = (evaluate(p, gamma + h, noise).cost - evaluate(p, gamma - h, noise).cost) / (
            2 * h[g]
        )
        ev = evaluate(p, gamma, noise)
        close(ev.gradient[g], slope, 1e-5, f"problem {seed}", ev.q[g] + ev.d[g])


@every_solver
def test_one_sensor_and_one_sample(solver):
    rng = np.random.default_rng(0)
    for M, T in ((1, 1), (1, 30), (6, 1)):
        L, y = rng.normal(size=(M, 8)), rng.normal(size=(M, T))
        r = solver.function(
            L,
            y[:, 0] if T == 1 else y,
            **arguments(solver, 0.1, rng.normal(scale=0.02, size=(8, 3))),
        )
        assert (
            r["posterior_mean"].shape == (8, T)
            and np.isfinite(r["posterior_mean"]).all()
            and np.isfinite(r.cost)
        )


@every_solver
def test_whole_numbers_are_converted(solver):
    "int8 would overflow in the first product"
    rng = np.random.default_rng(0)
    L, y = (
        rng.integers(-100, 100, size=(5, 9)).astype(np.int8),
        rng.integers(-100, 100, size=(5, 20)).astype(np.int8),
    )
    coords = rng.normal(scale=0.02, size=(9, 3))
    a, b = (
        solver.function(L.astype(t), y.astype(t), **arguments(solver, 9, coords, max_iter=10))
        for t in (np.int8, float)
    )
    assert np.array_equal(a["posterior_mean"], b["posterior_mean"])


@every_solver
def test_nothing_is_changed_or_shared(solver):
    "Solvers are pure functions of their arguments"
    L, y, noise_var, k, coords = random_problem(5)
    before = [a.copy() for a in (L, y, coords)]
    state = np.random.get_state()[1].copy()
    a, b = (
        solver.function(L, y, n_orient=k, **arguments(solver, noise_var, coords, max_iter=5))
        for _ in range(2)
    )
    assert all(np.array_equal(x, z) for x, z in zip(before, (L, y, coords))) and np.array_equal(
        state, np.random.get_state()[1]
    )
    assert np.array_equal(a["posterior_mean"], b["posterior_mean"]) and not np.shares_memory(
        a["posterior_mean"], L
    )
    with pytest.raises(TypeError):
        a["posterior_mean"] = 0


@every_solver
def test_a_dense_covariance_is_made_only_when_read(solver):
    L, y, noise_var, k, coords = random_problem(5)
    r = solver.function(L, y, n_orient=k, **arguments(solver, noise_var, coords, max_iter=5))
    dense = [key for key in r if key.startswith("posterior_cov")]
    assert dense and all(callable(r.entries[key]) for key in dense) and not r._made


def test_every_update_is_its_formula_with_full_matrices():
    for seed in range(60):
        L, y, noise_var, k, coords = random_problem(seed)
        rng, N = np.random.default_rng(seed), len(coords)
        gamma, noise = rng.lognormal(size=N), rng.uniform(0.5, 2, len(y)) * noise_var
        p = Problem(L, data_root(y), k)
        ev, prior = evaluate(p, gamma, noise), np.repeat(gamma, k)
        P = np.linalg.inv((L * prior) @ L.T + np.diag(noise))
        mean, cov = (
            prior[:, None] * (L.T @ P @ y),
            np.diag(prior) - prior[:, None] * (L.T @ P @ L) * prior,
        )
        power, d = (mean**2).mean(1).reshape(N, k), np.diag(L.T @ P @ L).reshape(N, k)
        r2 = ((y - L @ mean) ** 2).mean(1)
        residual = noise[:, None] * whitened(p, ev)
        close(em(ev), (power + np.diag(cov).reshape(N, k)).mean(1), 1e-9, f"EM, problem {seed}")
        close(mackay(ev), power.sum(1) / gamma / d.sum(1), 1e-9, f"MacKay, problem {seed}")
        close(
            convex(ev), np.sqrt(power.sum(1) / d.sum(1)), 1e-9, f"convex bounding, problem {seed}"
        )
        close(
            noise_em(residual, ev),
            r2 + np.diag(L @ cov @ L.T),
            1e-7,
            f"EM for the noise, problem {seed}",
        )
        close(
            noise_convex(residual, ev),
            np.sqrt(r2 / np.diag(P)),
            1e-9,
            f"convex bounding for the noise, problem {seed}",
        )
        m = int(rng.integers(len(y)))
        h = 1e-4 * noise[m] * (np.arange(len(y)) == m)
        slope = (evaluate(p, gamma, noise + h).cost - evaluate(p, gamma, noise - h).cost) / (
            2 * h[m]
        )
        close(
            precision(ev)[m] - (whitened(p, ev) ** 2).sum(1)[m],
            slope,
            1e-5,
            f"slope over the noise, problem {seed}",
            precision(ev)[m],
        )


def test_the_certificate():
    "More to explain than is taken up; less; less, but the group is almost gone; a dropped group that wants to come back, and one that does not"
    value, q, d = (
        np.array([2.0, 2.0, 1e-6, 0.0, 0.0]),
        np.array([3.0, 0.5, 0.5, 4.0, 0.5]),
        np.ones(5),
    )
    assert np.allclose(violation(value, q, d), [2, 0.5, 1e-6, 3, 0], rtol=1e-12)
    assert np.allclose(violation(value / 2, 2 * q, 2 * d, 2), [2, 0.5, 0.5e-6, 3, 0], rtol=1e-12)


def well_posed(seed, k=1, M=30, N=8, T=60):
    "More sensors than coefficients: every way down ends at one optimum"
    rng = np.random.default_rng(seed)
    L, x = (
        rng.normal(size=(M, N * k)),
        rng.normal(size=(N * k, T)) * np.repeat(rng.random(N) < 0.5, k)[:, None],
    )
    return L, L @ x + 0.5 * rng.normal(size=(M, T))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_update_ends_at_the_same_optimum(k):
    L, y = well_posed(k, k)
    starts = (
        dict(update_mode=1),
        dict(),
        dict(init_gamma=np.eye(8)[3]),
        dict(init_gamma=np.eye(8)[5] * 1e3, update_mode=1),
    )  # the last two shut out all but one
    runs = [gamma_map(L, y, 0.25, k, max_iter=5000, tol=1e-10, **start) for start in starts]
    for r in runs:
        close(r.cost, runs[0].cost, 1e-7, f"ℒ, k = {k}")
        close(r["gammas_full"], runs[0]["gammas_full"], 1e-5, f"γ, k = {k}")
        assert r.converged and r.kkt_violation < 1e-4
    close(
        gamma_map(L, y, 0.25, k, update_mode=3, max_iter=2000, tol=1e-10).cost,
        runs[0].cost,
        1e-4,
        f"ℒ, EM, k = {k}",
    )  # zeros come slowly there
    learned = [
        gamma_lambda_map(L, y, k, update_mode=m, update_mode_noise=n, max_iter=3000, tol=1e-10)
        for m, n in ((1, 2), (2, 2), (2, 1))
    ]
    learned += [
        gamma_lambda_map(L, y, k, init_lambda=0.01, max_iter=3000, tol=1e-10),
        gamma_lambda_map(L, y, k, lambda_damping=0.5, max_iter=3000, tol=1e-10),
    ]
    for r in learned:
        close(r.cost, learned[0].cost, 1e-4, f"ℒ, learned noise, k = {k}")
        close(r["lambdas"], learned[0]["lambdas"], 3e-2, f"λ, k = {k}")


def test_a_weak_source_shut_out_at_the_start_comes_back():
    "Also where it explains only a little more than it costs"
    weak = 0
    for seed in range(20):
        L, y = well_posed(seed)
        for n in range(8):
            others = np.delete(L, n, 1)
            gamma = np.insert(
                gamma_map(others, y, 0.25, update_mode=1, max_iter=3000, tol=1e-9)["gammas_full"],
                n,
                0,
            )
            ev = evaluate(Problem(L, data_root(y)), gamma, np.full(30, 0.25))
            if 1.05 < ev.ratio[n] < 1.9:
                weak += 1
                r = gamma_map(L, y, 0.25, update_mode=1, init_gamma=gamma, max_iter=3000, tol=1e-9)
                assert r["gammas_full"][n] > 0 and r.cost < ev.cost and r.kkt_violation < 1e-3
        if weak > 3:
            return
    assert weak


def test_given_and_learned_noise_are_the_same_solver_otherwise():
    L, y = well_posed(1)
    a, b = gamma_map(L, y, 0.3), gamma_lambda_map(L, y, init_lambda=0.3, learn_lambda=False)
    assert (
        np.array_equal(a["gammas_full"], b["gammas_full"])
        and set(b["lambdas"]) == {0.3}
        and not b.noise_at_boundary
    )
    by_sensor = np.linspace(0.2, 0.4, 30)
    assert np.array_equal(
        gamma_lambda_map(L, y, init_lambda=by_sensor, learn_lambda=False)["lambdas"], by_sensor
    )


def test_damping_takes_a_share_of_the_step():
    L, y = well_posed(2)
    start, whole, part = (
        0.25,
        *(
            gamma_lambda_map(L, y, init_lambda=0.25, init_gamma=1.0, lambda_damping=d, max_iter=1)[
                "lambdas"
            ]
            for d in (1, 0.3)
        ),
    )
    close(part - start, 0.3 * (whole - start), 1e-9, "damped step")


def test_the_certificate_covers_the_noise():
    "With γ at the optimum for a noise that is wrong, the noise shows"
    L, y = well_posed(3)
    at = gamma_map(L, y, 1.0, max_iter=5000, tol=1e-9)
    r = gamma_lambda_map(
        L, y, init_gamma=at["gammas_full"], init_lambda=1.0, lambda_damping=1e-4, max_iter=1
    )
    p = Problem(L, data_root(y))
    ev = evaluate(p, r["gammas_full"], r["lambdas"])
    noise, sources = (
        violation(r["lambdas"], (whitened(p, ev) ** 2).sum(1), precision(ev)).max(),
        violation(ev.gamma, ev.q, ev.d).max(),
    )
    assert sources < 0.05 < 0.5 < noise and np.isclose(r.kkt_violation, noise, rtol=1e-9)


def test_history():
    L, y = well_posed(4, 2)
    r = gamma_lambda_map(L, y, 2, max_iter=7)
    points = [gamma_lambda_map(L, y, 2, max_iter=n) for n in range(1, 8)]
    assert np.allclose(r.history["cost"][1:], [p.cost for p in points], rtol=1e-12) and np.allclose(
        r["lambda_mean_hist"], [p["lambdas"].mean() for p in points], rtol=1e-12
    )
    assert r["n_active_hist"] == [len(p["active_indices"]) for p in points]
    gammas = [p["gammas_full"] for p in points]
    assert np.allclose(
        r["err_gamma_hist"][1:],
        [np.abs(b - a).sum() / a.sum() for a, b in itertools.pairwise(gammas)],
        rtol=1e-9,
    )
    assert not gamma_lambda_map(L, y, 2, max_iter=7, track_history=False).history


def test_a_sensor_at_the_boundary_is_found_by_its_own_power():
    y = np.array([[10.0], [1.0], [1.0]]) * np.ones((3, 5))
    assert list(boundary(np.array([0.9e-4, 1.1e-6, 0.9e-6]), y)) == [0, 2]


@pytest.mark.parametrize("normalize", ["sym", "row", None])
def test_leadfield_of_the_patches(normalize):
    "By the definition, also where the basis is not symmetric"
    rng = np.random.default_rng(0)
    L, coords = rng.normal(size=(5, 60)), rng.normal(scale=0.01, size=(20, 3))
    distance = np.linalg.norm(coords[:, None] - coords, axis=-1)
    B = np.exp(-(distance**2) / (2 * 0.01**2)) * (distance <= 0.02)
    D = B.sum(1)
    B = {"sym": B / np.sqrt(np.outer(D, D)), "row": B / D[:, None], None: B}[normalize]
    close(sflex_basis(coords, 0.01, 2, normalize).toarray(), B, 1e-14, "basis")
    close(
        through_basis(L, sflex_basis(coords, 0.01, 2, normalize), 3),
        L @ np.kron(B, np.eye(3)),
        1e-13,
        "G",
    )


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize(
    "solver", [lambda *a, **kw: BMN(*a, 0.3, **kw), BMN_joint], ids=["BMN", "BMN_joint"]
)
def test_normalised_minimum_norm(solver, k):
    "Mean and covariance by the formula with W; W from matrix roots; units change nothing"
    rng = np.random.default_rng(k)
    L, y = rng.normal(size=(12, 6 * k)), rng.normal(size=(12, 9))
    C = np.linalg.inv(L @ L.T + 1e-6 * np.trace(L @ L.T) / 12 * np.eye(12))
    W = np.zeros((6 * k, 6 * k))
    for i in range(0, 6 * k, k):
        w, U = np.linalg.eigh(L[:, i : i + k].T @ C @ L[:, i : i + k])
        W[i : i + k, i : i + k] = (U / np.sqrt(w)) @ U.T
    close(normalisation(L, k).toarray(), W, 1e-9, "W")
    r = solver(L, 2 * y, n_orient=k, normalization=True)
    gamma, G = r["gamma"], L @ W
    gain = gamma * W @ G.T @ np.linalg.inv(gamma * G @ G.T + r.noise_var * np.eye(12))
    close(r["posterior_mean"], gain @ (2 * y), 1e-8, "mean")
    close(r["posterior_cov"], gamma * W @ W.T - gain @ G * gamma @ W.T, 1e-8, "covariance")
    close(
        solver(1e-6 * L, 2 * y, n_orient=k, normalization=True)["posterior_mean"] * 1e-6,
        r["posterior_mean"],
        1e-8,
        "mean in V",
    )


def test_a_direction_that_no_sensor_sees_has_no_weight():
    "A dead source, and a source seen in two of its three orientations (MEG)"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(12, 18))
    L[:, 3:6] = 0
    blind = np.array([1.0, 2.0, 2.0]) / 3
    L[:, 6:9] -= np.outer(L[:, 6:9] @ blind, blind)
    W = normalisation(L, 3).toarray()
    assert (
        not W[3:6, 3:6].any()
        and np.allclose(W[6:9, 6:9] @ blind, 0, atol=1e-9 * W.max())
        and np.linalg.matrix_rank(W[6:9, 6:9], tol=1e-6 * W.max()) == 2
    )
    r = BMN(L, rng.normal(size=(12, 5)), 0.3, 3, normalization=True)
    assert (
        np.isfinite(r["posterior_mean"]).all()
        and not r["posterior_mean"][3:6].any()
        and not r.posterior.var[3:6].any()
    )


def random_spectrum(seed):
    "Eigenvalues from equal to spread over thirteen decades, with and without a null space; data from the model or from anywhere"
    rng = np.random.default_rng(seed)
    M = int(rng.integers(1, 30))
    d = np.exp(rng.choice([0.01, 0.3, 3, 15]) * rng.normal(size=M))
    d[d < 1e-14 * d.max()] = 0
    if rng.random() < 0.3:
        d[np.argsort(d)[: rng.integers(0, M)]] = 0
    s = np.exp(rng.choice([0.3, 3, 10]) * rng.normal(size=M)) * (rng.random(M) < 0.9)
    if rng.random() < 0.3:
        s = d * s + rng.exponential(size=M)
    s[rng.integers(M)] += 1
    s[d == 0] = np.maximum(s[d == 0], 1e-3 * s.mean())
    return Spectrum(d, s, np.eye(M)), s.mean() * np.exp(3 * rng.normal())


def grid_search(cost, low, high):
    "The lowest of 20,000 points between two values"
    return min(
        cost(t).min()
        for t in np.array_split(np.exp(np.linspace(np.log(low), np.log(high), 20_000)), 10)
    )


def test_minimum_norm_finds_the_lowest_minimum():
    "No point of a grid forty times as fine, and reaching further, is lower"
    several = 0
    for seed in range(N_PROBLEMS):
        e, noise = random_spectrum(seed)
        of_gamma = lambda t: (
            np.log(t[:, None] * e.d + noise) + e.s / (t[:, None] * e.d + noise)
        ).sum(1)
        gamma = best_gamma(e, noise)[0][-1, 0]
        assert gamma >= 0
        top = 1e3 * ((e.s + noise)[e.d > 0] / e.d[e.d > 0]).max()
        lowest = min(
            grid_search(of_gamma, 1e-12 * noise / e.d.max(), top), of_gamma(np.zeros(1))[0]
        )
        close(max(e.cost(gamma, noise) - lowest, 0), 0, 1e-9, f"γ, problem {seed}", 1 + abs(lowest))
        slope = np.diff(
            of_gamma(np.exp(np.linspace(np.log(1e-8 * noise / e.d.max()), np.log(top), 2000)))
        )
        several += ((slope[:-1] < -1e-9) & (slope[1:] > 1e-9)).sum() > 1
    assert several >= N_PROBLEMS // 50, "problems with more than one minimum are among them"


def test_minimum_norm_with_learned_noise_finds_the_lowest_minimum():
    for seed in range(N_PROBLEMS):
        e, _ = random_spectrum(seed)
        d, s = e.d, e.s

        def profile(t):
            u = t[:, None] * d
            return len(d) * np.log((s / (u + 1)).mean(1)) + np.log1p(u).sum(1) + len(d)

        gamma, noise = best_gamma_noise(e)[0][-1]
        high = max((s[d > 0] / d[d > 0]).sum() / (NOISE_FLOOR * s.sum()), 1e-6 / d.max())
        lowest = min(grid_search(profile, 1e-12 / d.max(), high), profile(np.zeros(1))[0])
        cost = (np.log(gamma * d + noise) + s / (gamma * d + noise)).sum()
        close(max(cost - lowest, 0), 0, 1e-9, f"γ and λ, problem {seed}", 1 + abs(lowest))


@pytest.mark.parametrize("n_sources", [6, 18, 19])
def test_average_reference_says_nothing_about_noise(n_sources):
    "A direction without leadfield and without data is left out of learning: the other M − 1 give the noise that a recording without reference gives"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(20, n_sources))
    y = L @ rng.normal(size=(n_sources, 400)) + 0.5 * rng.normal(size=(20, 400))
    Q = np.linalg.qr(np.eye(20)[:, :19] - 1 / 20)[0]  # a basis of what average reference keeps
    a, b = BMN_joint(L - L.mean(0), y - y.mean(0)), BMN_joint(Q.T @ L, Q.T @ y)
    close(a["lambda"], b["lambda"], 1e-9, "λ")
    close(a["gamma"], b["gamma"], 1e-9, "γ")
    assert not a.noise_at_boundary
    if n_sources > 6:
        return
    assert abs(a["lambda"] - 0.25) < 0.02
    r = gamma_lambda_map(L - L.mean(0), y - y.mean(0), max_iter=2000)
    assert abs(r["lambdas"].mean() - 0.25) < 0.05 and not r.noise_at_boundary
    few = rng.normal(size=(6, 40))
    with pytest.warns(NoiseBoundaryWarning, match="ran to zero"):
        assert gamma_lambda_map(
            few - few.mean(0), (y - y.mean(0))[:6] - (y - y.mean(0))[:6].mean(0), max_iter=2000
        ).noise_at_boundary


@pytest.mark.parametrize("apart", [1e-2, 1e-4, 1e-6, 1e-9, 0])
def test_nearly_equal_eigenvalues(apart):
    "The cost falls so gently towards λ = 0 that its slope there is below rounding"
    r = BMN_joint(np.diag([1, 1 + apart]), np.array([1.0, 1.1]))
    assert r.noise_at_boundary == (apart > 0) and abs(r.cost - 2.19969) < 2e-3


def test_several_minima_and_none_inside():
    "One direction that the data fill and one that they do not: between nothing and everything there is a hill"
    e = Spectrum(np.array([1.0, 1e4]), np.array([1e3, 0.0]), np.eye(2))
    for noise in (0.5, 60.0):
        gamma = best_gamma(e, noise)[0][-1, 0]
        assert (gamma == 0) == (
            e.cost(0, noise) < min(e.cost(g, noise) for g in np.logspace(-6, 6, 5000))
        )
    close(
        best_gamma(Spectrum(np.ones(1), np.full(1, 1.001), np.eye(1)), 1.0)[0][-1, 0],
        1e-3,
        1e-6,
        "a signal that barely shows",
    )
    near = Spectrum(
        np.array([82.92045179, 560.29718678, 28752.90439483]),
        np.array([0.45881941, 7.20318824, 1.56270777]),
        np.eye(3),
    )
    gamma = best_gamma(near, 1.0)[0][-1, 0]
    assert near.cost(gamma, 1.0) <= min(near.cost(g, 1.0) for g in np.logspace(-6, 2, 5000)) + 1e-12
    L, y = np.eye(6)[:, :3], np.r_[np.zeros((3, 4)), np.arange(1.0, 13).reshape(3, 4)]
    for silent in (BMN(L, y, 0.3), BMN_joint(L, y)):
        assert (
            silent["gamma"] == 0
            and len(silent["active_indices"]) == 0
            and not silent["posterior_mean"].any()
            and not silent.posterior.var.any()
        )


def test_the_published_fixed_point_rule_divides_by_the_orientations():
    p = Problem(*well_posed(0, 3, T=30), 3)
    ev = evaluate(p, np.linspace(0.5, 2, 8), np.ones(30))
    assert np.allclose(published(mackay)(ev), mackay(ev) / 3, rtol=1e-14) and np.array_equal(
        published(em)(ev), em(ev)
    )


@every_solver
def test_which_coefficients_are_active(solver):
    L, y = well_posed(1, 2)
    r = solver.function(
        L,
        y,
        n_orient=2,
        **arguments(
            solver, 0.25, np.arange(24.0).reshape(8, 3), update_mode=1, max_iter=3000, tol=1e-10
        ),
    )
    on = np.flatnonzero(r["gammas_full"]) if "gammas_full" in r else np.arange(16)
    assert np.array_equal(r["active_indices"], on) and len(r.posterior.gamma) == len(on)
    if solver.sparse:  # positions are metres apart: every patch is a point, and G = L
        assert 0 < len(on) < 16
        ev = evaluate(
            Problem(L, data_root(y), 2),
            r["gammas_full"][::2],
            np.broadcast_to(r.get("lambdas", r.noise_var), 30),
        )
        assert r.kkt_violation >= violation(ev.gamma, ev.q, ev.d, 2).max() * (1 - 1e-6) - 1e-12


@every_solver
def test_found_by_name_and_given_what_is_prepared(solver):
    L, y, noise_var, k, coords = random_problem(5)
    params = arguments(solver, noise_var, coords, max_iter=5)
    noise, prepared = params.pop("noise_var", None), prepare(L, k)
    r = SourceEstimator(solver.name, params, noise, k).fit(prepared, y).predict()
    assert np.array_equal(
        r["posterior_mean"],
        SourceEstimator(solver.function, params, noise, k).fit(L, y).predict()["posterior_mean"],
    )
    assert (
        r.solver == solver.name
        and prepared._made
        and solver.takes_prepared
        and f"| `{solver.name}` |" in solver_table()
    )


@pytest.mark.filterwarnings("ignore::calibrain.core.warnings.ConvergenceWarning")
def test_one_region_is_minimum_norm():
    "The documentation's example where it must agree with a solver that takes another way"
    same = 0
    for seed in range(20):
        L, y, noise_var, k, coords = random_problem(seed)
        a = EXAMPLE.function(
            L, y, noise_var, k, regions=np.zeros(len(coords)), max_iter=20_000, tol=1e-12
        )
        b = BMN(L, y, noise_var, k)
        assert a.cost >= b.cost - 1e-8 * (1 + abs(b.cost)), f"problem {seed}: lower than the lowest"
        if a.cost > b.cost + 1e-8 * (1 + abs(b.cost)):
            continue  # another minimum than the lowest
        close(a.posterior.var, b.posterior.var, 1e-4, f"variances, problem {seed}")
        few = EXAMPLE.function(L, y, noise_var, k, regions=np.zeros(len(coords)), max_iter=1)
        ev = evaluate(
            Problem(L, data_root(y), k), few["gammas_full"][::k], np.full(len(y), noise_var)
        )
        ratio = ev.q.sum() / ev.d.sum()
        assert np.isclose(
            few.kkt_violation,
            ratio - 1 if ratio > 1 else min(1 - ratio, few["gamma"] * ev.d.sum() / L.shape[1]),
            rtol=1e-6,
        )
        same += 1
    assert same >= 15


def test_the_registry_is_as_it_was():
    assert EXAMPLE.name not in SOLVERS


def test_units_do_not_change_the_number_of_iterations():
    "Not even those in which ℒ itself is zero at the end, where a tolerance relative to ℒ would be none"
    rng = np.random.default_rng(0)
    L, x = rng.normal(size=(8, 20)), np.zeros((20, 15))
    x[:2] = 2 * rng.normal(size=(2, 15))
    y = L @ x + 0.5 * rng.normal(size=(8, 15))
    a = gamma_map(L, y, 0.3, max_iter=5000, tol=1e-12)
    s = np.exp(-a.cost / 16)
    b = gamma_map(L, s * y, 0.3 * s**2, max_iter=5000, tol=1e-12)
    assert abs(b.cost) < 1e-9 and abs(b.n_iter - a.n_iter) <= 3 and b.kkt_violation < 1e-8


def test_learned_noise_without_sources():
    "Where the data need no source the noise is their power; a slow noise update does not turn that into the answer to everything"
    rng = np.random.default_rng(1)
    L = rng.normal(size=(12, 5))
    y = np.linalg.svd(L)[0][:, 5:] @ rng.normal(size=(7, 9))
    r = gamma_lambda_map(L, y)
    close(r["lambdas"], (y**2).mean(1), 1e-9, "λ")
    assert r.converged and not r["gammas_full"].any() and r.kkt_violation < 1e-9
    L, y = well_posed(0)
    whole, slow = (gamma_lambda_map(L, y, lambda_damping=d, max_iter=3000) for d in (1, 0.02))
    close(slow.cost, whole.cost, 1e-3, "ℒ")


def test_a_step_that_rounding_forbids_is_no_convergence():
    "From a start so large that nothing else is left in Σ_y: refused by name, or not called converged"
    rng = np.random.default_rng(0)
    L, y = rng.normal(size=(8, 20)), rng.normal(size=(8, 15))
    for start in (1e14, 1e20, 1e100):
        try:
            r = gamma_map(L, y, 0.3, init_gamma=start, max_iter=3000)
        except ValueError as e:
            assert "init_gamma" in str(e)
        else:
            assert r.kkt_violation < 0.01 or not r.converged


def test_a_silent_sensor_is_at_the_boundary():
    L, y = well_posed(0)
    L[3] = y[3] = 0
    with pytest.warns(NoiseBoundaryWarning):
        assert gamma_lambda_map(L, y).noise_at_boundary


def test_learned_noise_stays_above_its_floor():
    rng = np.random.default_rng(0)
    lowest = []
    for M in (2, 3, 4, 6, 8):
        L, y = rng.normal(size=(M, 40)), 1e-6 * rng.normal(size=(M, 2))
        lowest.append(gamma_lambda_map(L, y, max_iter=2000)["lambdas"].min() / (y**2).mean())
    assert (1 - 1e-9) * NOISE_FLOOR <= min(lowest) < 2 * NOISE_FLOOR


def test_where_the_quick_move_rises_the_safe_one_falls():
    "It is taken, and not merely no step at all"
    rose, rule = 0, Rule(convex, noise_convex)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        p = Problem(rng.normal(size=(4, 40)), rng.normal(size=(4, 1)))
        at = evaluate(p, np.ones(40), np.ones(4))
        for _ in range(20):
            gamma = convex(at)
            quick = evaluate(
                p, gamma, noise_convex(p.Y - p.G @ (gamma[:, None] * (p.G.T @ whitened(p, at))), at)
            )
            new = step(p, at, rule)
            if quick.cost > at.cost + 1e-6:
                safe = evaluate(p, gamma, noise_convex(at.noise[:, None] * whitened(p, at), at))
                assert new.cost < at.cost and np.isclose(new.cost, safe.cost, rtol=1e-9)
                rose += 1
            at = new
    assert rose > 20


@pytest.mark.filterwarnings("ignore::calibrain.core.warnings.ConvergenceWarning")
def test_covariances_of_the_active():
    L, y, noise_var, k, coords = random_problem(5)
    r = SOLVERS["gamma_lambda_map_sflex"].function(
        L, y, n_orient=k, src_coords=coords, update_mode=1, max_iter=300
    )
    on = r["active_indices"]
    rows = np.ix_(on, on)
    assert 0 < len(on) < L.shape[1]
    close(r["posterior_cov_active"], r["posterior_cov"][rows], 1e-10, "sources")
    close(r["posterior_cov_active_coeff"], r["posterior_cov_coeff"][rows], 1e-10, "coefficients")
    close(
        r["B_operator"] @ r["posterior_cov_coeff"] @ r["B_operator"].T,
        r["posterior_cov"],
        1e-10,
        "through the basis",
    )


def test_the_published_minimum_norm_starts_where_it_is_told():
    L, y = well_posed(0)
    first = lambda s=1, **start: BMN_joint(
        L, s * y, rule="calibrain-1.0", max_iter=1, **{k: s**2 * v for k, v in start.items()}
    )
    a, b, c, d = (
        first(),
        first(init_gamma=0.01),
        first(init_lambda=0.01),
        first(s=10, init_gamma=0.01, init_lambda=0.02),
    )
    assert len({a["gamma"], b["gamma"], c["gamma"]}) == 3
    close(d["gamma"], 100 * first(init_gamma=0.01, init_lambda=0.02)["gamma"], 1e-9, "γ")


@every_solver
def test_a_dense_covariance_is_made_once(solver):
    L, y, noise_var, k, coords = random_problem(5)
    r = solver.function(L, y, n_orient=k, **arguments(solver, noise_var, coords, max_iter=5))
    assert r["posterior_cov"] is r["posterior_cov"]


def test_minimum_norm_with_too_few_steps_says_so():
    L, y = well_posed(0)
    assert not BMN(L, y, 0.25, max_iter=1).converged and BMN(L, y, 0.25).converged
