"A search that only looks at most groups, in single precision, against one that works with all"

import numpy as np
import pytest
from problems import close

from calibrain import gamma_lambda_map_sflex, gamma_map_sflex
from calibrain.head.basis import patch_basis
from calibrain.head.prepared import prepare
from calibrain.head.rounded import Rounding
from calibrain.solvers import common, newton
from calibrain.solvers.evidence import Problem, data_root, evidence_at, kkt_violation
from calibrain.solvers.newton import newton_search
from calibrain.solvers.screen import evidence_in_full, in_doubt
from calibrain.solvers.search import Rule

pytestmark = pytest.mark.filterwarnings("ignore::calibrain.core.warnings.ConvergenceWarning")


def head(seed, n_sensors=40, n_sources=700, k=3):
    "A recording of five sources in a ball"
    rng = np.random.default_rng(seed)
    coords = rng.uniform(-0.05, 0.05, size=(n_sources, 3))
    L = rng.normal(size=(n_sensors, n_sources * k))
    x = np.zeros((n_sources * k, 60))
    x[: 5 * k] = 2 * rng.normal(size=(5 * k, 60))
    return L, L @ x + 5 * rng.normal(size=(n_sensors, 60)), dict(n_orient=k, src_coords=coords)


@pytest.fixture
def both(monkeypatch):
    "A solver's answers where 700 patches are too many, with working sets of 60, and where not"

    def solves(*args, solver=gamma_map_sflex, **settings):
        monkeypatch.setattr(newton, "PARTS", 300)
        monkeypatch.setattr(newton, "WORKING", 60)
        monkeypatch.setattr(newton, "WORKING_OF_LEARNED", 60)
        monkeypatch.setattr(common, "MANY", 300)
        looked = solver(*args, **settings)
        monkeypatch.setattr(common, "MANY", 10**9)
        return looked, solver(*args, **settings)

    return solves


def the_same(looked, twin, what):
    "Active set, cost, γ and posterior to far more digits than single precision has"
    assert np.array_equal(looked["active_source_indices"], twin["active_source_indices"]), what
    close(looked.cost, twin.cost, 1e-10, f"ℒ, {what}")
    close(looked["gammas_full"], twin["gammas_full"], 1e-6, f"γ, {what}")
    close(looked.mean, twin.mean, 1e-6, f"mean, {what}")
    close(looked.posterior.std, twin.posterior.std, 1e-6, f"std, {what}")


def exact_violation(r, L, y, noise_var, settings):
    "The certificate from all columns in double precision"
    k = settings["n_orient"]
    G = patch_basis(settings["src_coords"], settings.get("sigma", 0.01)).leadfield(L, k)
    gamma = r["gammas_full"][::k]
    at = evidence_at(Problem(G, data_root(y), k), gamma, np.full(len(y), noise_var))
    close(r.cost, at.cost, 1e-11, "ℒ from all columns")
    return kkt_violation(at).max()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 3])
def test_the_same_optimum_and_certificate(both, seed, k):
    L, y, settings = head(seed, k=k)
    looked, twin = both(L, y, 25.0, **settings)
    the_same(looked, twin, f"seed {seed}")
    assert looked.converged and 0 < len(looked["active_source_indices"]) < 100
    assert exact_violation(looked, L, y, 25.0, settings) <= 1e-6


@pytest.mark.parametrize(
    "more",
    [dict(sigma=[0.01, 0.02]), dict(n_components=3), dict(init_gamma=1e-2), dict(normalize="row")],
    ids=str,
)
def test_the_same_with_other_settings(both, more):
    L, y, settings = head(7)
    the_same(*both(L, y, 25.0, **settings, **more), more)


@pytest.mark.parametrize("noise", [dict(), dict(noise_prior=(25.0, 100))], ids=str)
def test_the_same_with_learned_noise(both, noise):
    L, y, settings = head(4)
    looked, twin = both(L, y, solver=gamma_lambda_map_sflex, **settings, **noise)
    the_same(looked, twin, noise)
    close(looked["lambdas"], twin["lambdas"], 1e-6, f"λ, {noise}")
    assert looked.kkt_violation <= 1e-6


@pytest.mark.parametrize("scale", [1e-20, 1e-9, 1e6])
def test_the_same_in_any_unit(both, scale):
    L, y, settings = head(3)
    looked, twin = both(L / scale, scale * y, 25.0 * scale**2, **settings)
    the_same(looked, twin, f"{scale}")
    assert looked.converged and looked.kkt_violation <= 1e-6


def test_the_same_of_a_prepared_leadfield(both):
    "The second recording finds columns that the first one had made"
    L, y, settings = head(5)
    prepared = prepare(L, 3)
    both(prepared, y, 25.0, **settings)
    other = head(6)[1]
    the_same(*both(prepared, other, 25.0, **settings), "prepared")
    in_single = prepare(L, 3, "float32")
    looked, twin = both(in_single, y, 25.0, **settings)
    assert looked.cost == twin.cost, "who asks for single precision gets it, throughout"


@pytest.mark.parametrize("max_iter", [1, 12, 16])
def test_a_search_that_is_cut_short_says_by_how_much(both, max_iter):
    L, y, settings = head(2)
    looked, _ = both(L, y, 25.0, max_iter=max_iter, **settings)
    assert looked.n_iter == max_iter and not looked.converged
    close(looked.kkt_violation, exact_violation(looked, L, y, 25.0, settings), 1e-4, "violation")


def test_who_has_no_steps_left_makes_no_hessian_of_all_groups(monkeypatch):
    L, y, settings = head(2)
    monkeypatch.setattr(newton, "curvature_at", None)
    r = gamma_map_sflex(L, y, 25.0, max_iter=1, **settings)
    assert len(r["active_source_indices"]) > 500


@pytest.mark.parametrize(
    ("solver", "more"),
    [
        (gamma_map_sflex, dict(noise_var=25.0)),
        (gamma_map_sflex, dict(noise_var=25.0, n_components=3)),
        (gamma_map_sflex, dict(noise_var=25.0, n_components="auto")),
        (gamma_lambda_map_sflex, dict(noise_prior=(25.0, 1e4))),
    ],
)
def test_nothing_is_found_in_noise(both, solver, more):
    L, y, settings = head(1)
    looked, twin = both(L, 1e-3 * y, solver=solver, **settings, **more)
    assert not looked.mean.any() and looked.cost == pytest.approx(twin.cost, rel=1e-12)


# ---- what single precision hides


NOISE = np.ones(20)


def search(problem, noise):
    return newton_search(problem, np.full(problem.n_groups, 0.1), noise, Rule(gamma=None))


def ratio_of(column, Y, at):
    "q/d of one column more at a point"
    weighted = np.linalg.solve(at.R @ at.R.T, np.column_stack([column, Y]))
    return np.square(column @ weighted[:, 1:]).sum() / (column @ weighted[:, 0])


def mixed(good, bad, ratio, Y, at):
    "The mixture of two columns that has a given q/d"
    low, high = 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2
        column = (1 - share) * good + share * bad
        low, high = (share, high) if ratio_of(column, Y, at) > ratio else (low, share)
    return column


def near_the_boundary(ratios):
    "A problem with a column more for each q/d that is true, and what single precision shows of it"
    rng = np.random.default_rng(0)
    G = rng.normal(size=(20, 300))
    Y = data_root(3 * G[:, :4] @ rng.normal(size=(4, 50)) + rng.normal(size=(20, 50)))
    first = search(Problem(np.asfortranarray(G[:, 1:]), Y), NOISE).evidence
    bad = G[:, 1 + np.argmin(first.ratio)]
    true, seen = (
        np.column_stack([mixed(G[:, 0], bad, ratio, Y, first) for ratio in each])
        for each in zip(*ratios)
    )
    for column, (ratio, _) in zip(true.T, ratios):
        assert ratio_of(column, Y, first) == pytest.approx(ratio, abs=1e-9)
    exact = np.asfortranarray(np.column_stack([G[:, 1:], true]))
    shown = np.asfortranarray(np.column_stack([G[:, 1:], seen]), np.float32)
    short = np.linalg.norm(shown - exact, axis=0)
    return Problem(exact, Y), Problem(
        shown, Y, rounding=Rounding(short, lambda some: exact[:, some])
    )


def test_a_group_within_rounding_of_the_boundary_is_let_in(monkeypatch):
    """Its q/d is 1.0001, and 0.9999 as rounding shows it: it wants in, and seems not to.

    Who trusted single precision would return without it, and with a certificate that is not true.
    """
    monkeypatch.setattr(newton, "WORKING", 1)  # else it is looked at in full by its rank
    exact, rounded = near_the_boundary([(1.0001, 0.9999)])
    found = search(rounded, NOISE)
    at = evidence_at(exact, found.evidence.gamma, NOISE)
    assert found.converged and found.evidence.gamma[-1] > 0
    assert kkt_violation(at).max() <= 1e-6
    close(found.evidence.cost, search(exact, NOISE).evidence.cost, 1e-10, "ℒ")

    monkeypatch.setattr(newton, "in_doubt", lambda problem, at: np.zeros(300, bool))
    trusting = search(rounded, NOISE)
    at = evidence_at(exact, trusting.evidence.gamma, NOISE)
    assert trusting.violation <= 1e-6 < 5e-5 < kkt_violation(at).max()


def test_a_group_that_only_seems_to_want_in_does_not_end_the_search(monkeypatch):
    "It is looked at first, and ℒ does not fall; yet there is one who wants in and hides it"
    monkeypatch.setattr(newton, "WORKING", 1)
    exact, rounded = near_the_boundary([(0.999, 1.0005), (1.0001, 0.9999)])
    found = search(rounded, NOISE)
    at = evidence_at(exact, found.evidence.gamma, NOISE)
    assert found.converged and kkt_violation(at).max() <= 1e-6


def test_a_group_that_single_precision_can_hardly_hold_is_in_doubt():
    "Of entries of 1e-43 it has six bits, which no bound on rounding counts"
    rng = np.random.default_rng(0)
    exact = np.asfortranarray(rng.normal(size=(20, 300)))
    exact[:, 7] *= 1e-43
    short = 1e-5 * np.linalg.norm(exact, axis=0)
    shown = exact.astype(np.float32)
    assert np.linalg.norm(shown[:, 7] - exact[:, 7]) > 10 * short[7]
    Y = 0.1 * rng.normal(size=(20, 20))
    problem = Problem(shown, Y, rounding=Rounding(short, lambda some: exact[:, some]))
    at = evidence_in_full(problem, np.zeros(300), NOISE)
    assert at.ratio.max() < 0.5
    assert np.flatnonzero(in_doubt(problem, at)) == 7
