"""The updates and the loop: what the gamma solvers do step by step, against full matrices."""

import io
import itertools

import numpy as np
import pytest
from problems import close, problems, rounding, well_posed
from routine import some

from calibrain import NoisePrior, gamma_lambda_map, gamma_map
from calibrain.core.warnings import NoiseBoundaryWarning
from calibrain.head.basis import sflex_basis, through_basis
from calibrain.solvers.evidence import Problem, data_root, evidence_at, violation
from calibrain.solvers.learned_noise import boundary
from calibrain.solvers.search import (
    NOISE_FLOOR,
    Rule,
    convex,
    em,
    mackay,
    noise_convex,
    noise_em,
    precision_diagonal,
    published,
    step,
    weighted_data,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.ConvergenceWarning",
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
)


# ---- derivatives and updates


def point_of(seed, problem):
    "A problem at random hyperparameters, and the generator for what else is drawn"
    L, y, noise_var, k, coords = problem
    rng = np.random.default_rng(seed)
    gamma = rng.lognormal(size=len(coords))
    noise = rng.uniform(0.5, 2, len(y)) * noise_var
    p = Problem(L, data_root(y), k)
    return p, evidence_at(p, gamma, noise), rng


def numeric_slope(p, gamma, noise, of_gamma=None, of_noise=None):
    "Central difference of ℒ over one γ, or over the noise of one sensor"
    by_gamma = np.zeros(len(gamma))
    by_noise = np.zeros(len(noise))
    if of_gamma is not None:
        h = by_gamma[of_gamma] = 1e-4 * gamma[of_gamma]
    else:
        h = by_noise[of_noise] = 1e-4 * noise[of_noise]
    above = evidence_at(p, gamma + by_gamma, noise + by_noise).cost
    below = evidence_at(p, gamma - by_gamma, noise - by_noise).cost
    return (above - below) / (2 * h)


def test_gradient_equals_finite_differences():
    for seed, problem in problems():
        p, ev, rng = point_of(seed, problem)
        group = int(rng.integers(len(ev.gamma)))
        numeric = numeric_slope(p, ev.gamma, ev.noise, of_gamma=group)
        scale = ev.q[group] + ev.d[group]
        close(ev.gradient[group], numeric, 1e-5, f"problem {seed}", scale)

        sensor = int(rng.integers(len(ev.noise)))
        numeric = numeric_slope(p, ev.gamma, ev.noise, of_noise=sensor)
        d = precision_diagonal(ev)[sensor]
        q = (weighted_data(p, ev) ** 2).sum(1)[sensor]
        close(d - q, numeric, 1e-5, f"problem {seed}, over the noise", d + q)


class Dense:
    "Posterior and statistics at a point, from full matrices"

    def __init__(self, L, y, k, gamma, noise):
        prior = np.repeat(gamma, k)
        self.sources = (L * prior) @ L.T
        self.Sigma = self.sources + np.diag(noise)
        self.P = np.linalg.inv(self.Sigma)
        gain = prior[:, None] * (L.T @ self.P)
        mean = gain @ y
        cov = np.diag(prior) - gain @ L * prior
        shape = (len(gamma), k)
        self.power = (mean**2).mean(1).reshape(shape)
        self.var = np.diag(cov).reshape(shape)
        self.d = np.diag(L.T @ self.P @ L).reshape(shape)
        self.residual_power = ((y - L @ mean) ** 2).mean(1)
        self.sensor_var = np.diag(L @ cov @ L.T)


def test_every_update_is_its_formula_with_full_matrices():
    "To rounding: relative to the terms that cancel, and by the condition of Σ"
    for seed, problem in problems(every=5):
        L, y, _, k, _ = problem
        p, ev, _ = point_of(seed, problem)
        dense = Dense(L, y, k, ev.gamma, ev.noise)
        tolerance = rounding(np.linalg.cond(dense.Sigma))
        power = dense.power.sum(1)
        d = dense.d.sum(1)

        expected = (dense.power + dense.var).mean(1)
        scale = ev.gamma.max() + expected.max()
        close(em(ev), expected, tolerance, f"EM, problem {seed}", scale)
        expected = power / ev.gamma / d
        close(mackay(ev), expected, tolerance, f"MacKay, problem {seed}")
        expected = np.sqrt(power / d)
        close(convex(ev), expected, tolerance, f"convex bounding, problem {seed}")

        residual = ev.noise[:, None] * weighted_data(p, ev)
        expected = dense.residual_power + dense.sensor_var
        scale = expected.max() + dense.sources.diagonal().max()
        close(noise_em(residual, ev), expected, tolerance, f"EM, noise, problem {seed}", scale)
        precision = np.diag(dense.P)
        expected = np.sqrt(dense.residual_power / precision)
        scale = expected.max() + np.sqrt((y**2).mean(1).max() / precision.min())
        close(noise_convex(residual, ev), expected, tolerance, f"convex, noise, {seed}", scale)


def test_the_published_fixed_point_rule_divides_by_the_orientations():
    p = Problem(*well_posed(0, 3, T=30), 3)
    ev = evidence_at(p, np.linspace(0.5, 2, 8), np.ones(30))
    assert np.allclose(published(mackay)(ev), mackay(ev) / 3, rtol=1e-14)
    assert np.array_equal(published(em)(ev), em(ev))


def test_the_certificate():
    value, q, d, expected = np.array(
        [
            [2.0, 3.0, 1.0, 2.0],  # more to explain than is taken up
            [2.0, 0.5, 1.0, 0.5],  # less
            [1e-6, 0.5, 1.0, 1e-6],  # less, but the group is almost gone
            [0.0, 4.0, 1.0, 3.0],  # a dropped group that wants to come back
            [0.0, 0.5, 1.0, 0.0],  # … and one that does not
        ]
    ).T
    assert np.allclose(violation(value, q, d), expected, rtol=1e-12)
    of_pairs = expected.copy()
    of_pairs[2] = 0.5e-6
    assert np.allclose(violation(value / 2, 2 * q, 2 * d, 2), of_pairs, rtol=1e-12)


# ---- where the loop ends


@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_update_ends_at_the_same_optimum(k):
    L, y = well_posed(k, k)
    one = np.eye(8)
    starts = (
        dict(update_mode=1),
        dict(),
        dict(init_gamma=one[3]),  # this and the next shut out all but one
        dict(init_gamma=one[5] * 1e3, update_mode=1),
    )
    runs = [gamma_map(L, y, 0.25, k, max_iter=5000, tol=1e-10, **start) for start in starts]
    for r in runs:
        close(r.cost, runs[0].cost, 1e-7, f"ℒ, k = {k}")
        close(r["gammas_full"], runs[0]["gammas_full"], 1e-5, f"γ, k = {k}")
        assert r.converged and r.kkt_violation < 1e-4
    slow = gamma_map(L, y, 0.25, k, update_mode=3, max_iter=2000, tol=1e-10)
    close(slow.cost, runs[0].cost, 1e-4, f"ℒ, EM, k = {k}")  # zeros come slowly there


@pytest.mark.parametrize("k", some([1, 2, 3], every=2))
def test_every_update_of_the_noise_ends_at_the_same_optimum(k):
    L, y = well_posed(k, k)
    ways = (
        dict(update_mode=1),
        dict(),
        dict(update_mode_noise=1),
        dict(init_lambda=0.01),
        dict(lambda_damping=0.5),
    )
    runs = [gamma_lambda_map(L, y, k, max_iter=3000, tol=1e-10, **way) for way in ways]
    for r in runs:
        close(r.cost, runs[0].cost, 1e-4, f"ℒ, k = {k}")
        close(r["lambdas"], runs[0]["lambdas"], 3e-2, f"λ, k = {k}")


def test_a_weak_source_shut_out_at_the_start_comes_back():
    "Also where it explains only a little more than it costs"
    options = dict(update_mode=1, max_iter=3000, tol=1e-9)
    weak = 0
    for seed in range(20):
        L, y = well_posed(seed)
        p = Problem(L, data_root(y))
        for n in range(8):
            others = gamma_map(np.delete(L, n, 1), y, 0.25, **options)["gammas_full"]
            gamma = np.insert(others, n, 0)
            ev = evidence_at(p, gamma, np.full(30, 0.25))
            if 1.05 < ev.ratio[n] < 1.9:
                weak += 1
                r = gamma_map(L, y, 0.25, init_gamma=gamma, **options)
                assert r["gammas_full"][n] > 0 and r.cost < ev.cost and r.kkt_violation < 1e-3
        if weak > 3:
            return
    assert weak


def test_units_do_not_change_the_number_of_iterations():
    "Not even those in which ℒ is zero at the end, where a tolerance relative to ℒ would be none"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(8, 20))
    x = np.zeros((20, 15))
    x[:2] = 2 * rng.normal(size=(2, 15))
    y = L @ x + 0.5 * rng.normal(size=(8, 15))
    a = gamma_map(L, y, 0.3, max_iter=5000, tol=1e-12)
    s = np.exp(-a.cost / 16)
    b = gamma_map(L, s * y, 0.3 * s**2, max_iter=5000, tol=1e-12)
    assert abs(b.cost) < 1e-9 and abs(b.n_iter - a.n_iter) <= 3 and b.kkt_violation < 1e-8


def test_a_step_that_rounding_forbids_is_no_convergence():
    "From a start so large that nothing else is left in Σ_y: refused, or not called converged"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(8, 20))
    y = rng.normal(size=(8, 15))
    for start in (1e14, 1e20, 1e100):
        try:
            r = gamma_map(L, y, 0.3, init_gamma=start, max_iter=3000)
        except ValueError as e:
            assert "init_gamma" in str(e)
        else:
            assert r.kkt_violation < 0.01 or not r.converged


def test_where_the_quick_move_rises_the_safe_one_falls():
    "It is taken, and not merely no step at all"
    rose = 0
    rule = Rule(convex, noise_convex)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        p = Problem(rng.normal(size=(4, 40)), rng.normal(size=(4, 1)))
        at = evidence_at(p, np.ones(40), np.ones(4))
        for _ in range(20):
            gamma = convex(at)
            weighted = weighted_data(p, at)
            mean = gamma[:, None] * (p.G.T @ weighted)
            quick = evidence_at(p, gamma, noise_convex(p.Y - p.G @ mean, at))
            new = step(p, at, rule)
            if quick.cost > at.cost + 1e-6:
                rose += 1
                safe = evidence_at(p, gamma, noise_convex(at.noise[:, None] * weighted, at))
                assert new.cost < at.cost and np.isclose(new.cost, safe.cost, rtol=1e-9)
            at = new
    assert rose > 20


def test_history():
    L, y = well_posed(4, 2)
    r = gamma_lambda_map(L, y, 2, max_iter=7)
    points = [gamma_lambda_map(L, y, 2, max_iter=n) for n in range(1, 8)]
    assert np.allclose(r.history["cost"][1:], [p.cost for p in points], rtol=1e-12)
    noise = [p["lambdas"].mean() for p in points]
    assert np.allclose(r["lambda_mean_hist"], noise, rtol=1e-12)
    assert r["n_active_hist"] == [len(p["active_indices"]) for p in points]
    gammas = [p["gammas_full"] for p in points]
    changes = [np.abs(b - a).sum() / a.sum() for a, b in itertools.pairwise(gammas)]
    assert np.allclose(r["err_gamma_hist"][1:], changes, rtol=1e-9)
    assert not gamma_lambda_map(L, y, 2, max_iter=7, track_history=False).history


# ---- learned noise


def test_given_and_learned_noise_are_the_same_solver_otherwise():
    L, y = well_posed(1)
    a = gamma_map(L, y, 0.3)
    b = gamma_lambda_map(L, y, init_lambda=0.3, learn_lambda=False)
    assert np.array_equal(a["gammas_full"], b["gammas_full"])
    assert set(b["lambdas"]) == {0.3} and not b.noise_at_boundary
    by_sensor = np.linspace(0.2, 0.4, 30)
    c = gamma_lambda_map(L, y, init_lambda=by_sensor, learn_lambda=False)
    assert np.array_equal(c["lambdas"], by_sensor)


def test_damping_takes_a_share_of_the_step():
    L, y = well_posed(2)
    one_step = dict(init_lambda=0.25, init_gamma=1.0, max_iter=1, update_mode="convex")
    whole = gamma_lambda_map(L, y, lambda_damping=1, **one_step)["lambdas"]
    part = gamma_lambda_map(L, y, lambda_damping=0.3, **one_step)["lambdas"]
    close(part - 0.25, 0.3 * (whole - 0.25), 1e-9, "damped step")


def test_the_certificate_covers_the_noise():
    "With γ at the optimum for a noise that is wrong, the noise shows"
    L, y = well_posed(3)
    gamma = gamma_map(L, y, 1.0, max_iter=5000, tol=1e-9)["gammas_full"]
    hardly = dict(lambda_damping=1e-4, max_iter=1)
    r = gamma_lambda_map(L, y, init_gamma=gamma, init_lambda=1.0, **hardly)
    p = Problem(L, data_root(y))
    ev = evidence_at(p, r["gammas_full"], r["lambdas"])
    q = (weighted_data(p, ev) ** 2).sum(1)
    of_noise = violation(r["lambdas"], q, precision_diagonal(ev)).max()
    of_sources = violation(ev.gamma, ev.q, ev.d).max()
    assert of_sources < 0.05 < 0.5 < of_noise
    assert np.isclose(r.kkt_violation, of_noise, rtol=1e-9)


def test_learned_noise_without_sources():
    "Where the data need no source the noise is their power"
    rng = np.random.default_rng(1)
    L = rng.normal(size=(12, 5))
    y = np.linalg.svd(L)[0][:, 5:] @ rng.normal(size=(7, 9))
    r = gamma_lambda_map(L, y)
    close(r["lambdas"], (y**2).mean(1), 1e-9, "λ")
    assert r.converged and not r["gammas_full"].any() and r.kkt_violation < 1e-9


def test_a_slow_update_of_the_noise_ends_where_a_quick_one_does():
    "It does not make “noise alone” the answer to everything"
    L, y = well_posed(0)
    whole = gamma_lambda_map(L, y, max_iter=3000)
    slow = gamma_lambda_map(L, y, lambda_damping=0.02, max_iter=3000)
    close(slow.cost, whole.cost, 1e-3, "ℒ")


def test_a_sensor_at_the_boundary_is_found_by_its_own_power():
    y = np.array([[10.0], [1.0], [1.0]]) * np.ones((3, 5))
    assert list(boundary(np.array([0.9e-4, 1.1e-6, 0.9e-6]), y)) == [0, 2]


def test_a_silent_sensor_is_at_the_boundary():
    L, y = well_posed(0)
    L[3] = y[3] = 0
    with pytest.warns(NoiseBoundaryWarning):
        assert gamma_lambda_map(L, y).noise_at_boundary


def test_learned_noise_stays_above_its_floor():
    rng = np.random.default_rng(0)
    lowest = []
    for M in (2, 3, 4, 6, 8):
        L = rng.normal(size=(M, 40))
        y = 1e-6 * rng.normal(size=(M, 2))
        noise = gamma_lambda_map(L, y, max_iter=2000)["lambdas"]
        lowest.append(noise.min() / (y**2).mean())
    assert (1 - 1e-9) * NOISE_FLOOR <= min(lowest) < 2 * NOISE_FLOOR


# ---- patches


@pytest.mark.parametrize("normalize", ["sym", "row", None])
def test_leadfield_of_the_patches(normalize):
    "By the definition, also where the basis is not symmetric"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(5, 60))
    coords = rng.normal(scale=0.01, size=(20, 3))
    distance = np.linalg.norm(coords[:, None] - coords, axis=-1)
    bumps = np.exp(-(distance**2) / (2 * 0.01**2)) * (distance <= 0.02)
    total = bumps.sum(1)
    B = bumps
    if normalize == "sym":
        B = bumps / np.sqrt(np.outer(total, total))
    if normalize == "row":
        B = bumps / total[:, None]
    found = sflex_basis(coords, 0.01, 2, normalize)
    close(found.toarray(), B, 1e-14, "basis")
    close(through_basis(L, found, 3), L @ np.kron(B, np.eye(3)), 1e-13, "G")


# ---- the cost that is searched, and the one that is returned


class Terminal(io.StringIO):
    "Where a progress bar is drawn"

    def isatty(self):
        return True


def three_sources(n_times=60):
    rng = np.random.default_rng(0)
    L = rng.normal(size=(30, 8))
    x = 3 * np.sin(np.outer([1, 2, 3], np.linspace(0, 6, n_times)))
    return L, L[:, :3] @ x + rng.normal(size=(30, n_times))


@pytest.mark.parametrize("mode", ["fast", "convex"])
@pytest.mark.parametrize(
    "solver, settings, said",
    [
        (gamma_map, dict(), "evidence:"),
        (gamma_map, dict(n_components=2), "evidence of components:"),
        (gamma_lambda_map, dict(noise_prior=(2.0, 50.0)), "evidence and prior:"),
    ],
)
def test_the_bar_says_what_its_cost_is_of(solver, settings, said, mode, monkeypatch):
    L, y = three_sources()
    seen = Terminal()
    monkeypatch.setattr("sys.stderr", seen)
    noise = () if solver is gamma_lambda_map else (1.0,)
    r = solver(L, y, *noise, update_mode=mode, verbose=True, **settings)
    assert said in seen.getvalue()
    searched = r.history["cost"][-1]
    if said == "evidence:":
        assert np.isclose(searched, r.cost, rtol=1e-6)
    elif said == "evidence and prior:":
        pull = NoisePrior(2.0, 50.0).pull(*y.shape)
        assert np.isclose(searched, r.cost + pull.cost(r["lambdas"]), rtol=1e-6)
    else:
        assert abs(searched - r.cost) > 1
