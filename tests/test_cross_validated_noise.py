"Predictions of sensors that were left out, and the noise that is chosen by them."

import numpy as np
import pytest
from problems import close
from scipy import sparse
from scipy.stats import multivariate_normal

from calibrain import BMN, cross_validate_noise, sensor_group_scores
from calibrain.core.warnings import ConvergenceWarning, NoiseBoundaryWarning
from calibrain.posterior.mixture import Mixture, State
from calibrain.posterior.result import Result
from calibrain.solvers.bind import bind
from calibrain.solvers.cross_validated_noise import sensor_folds
from calibrain.solvers.evidence import posterior_at
from calibrain.solvers.left_out_sensors import log_predictive
from calibrain.solvers.registry import SAMPLERS, SOLVERS

M, N, T = 8, 20, 6


def told_gamma(L, y, noise_var, n_orient=1, logger=None):
    "Sources of variance 2: hyperparameters that do not follow the data"
    G = L if isinstance(L, np.ndarray) else L.L
    n = G.shape[1]
    S = sparse.eye_array(n, format="csr")
    posterior = posterior_at(G, y, np.full(n, 2.0), np.full(len(G), noise_var), S, n_orient)
    return Result("told_gamma", posterior, {}, 0.0, 0.0, noise_var, 0, True, np.nan)


def problem(seed=0, n_orient=1):
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(M, N * n_orient))
    F = rng.normal(size=(M, M))
    C = F @ F.T + np.diag(rng.uniform(0.1, 2, M))
    y = L @ rng.normal(size=(N * n_orient, T)) + np.linalg.cholesky(C) @ rng.normal(size=(M, T))
    return L, y, C


def conditional(S, y, group):
    "Log density of some rows given the others, under N(0, S), by the joint and the marginal"
    rest = np.setdiff1d(np.arange(len(S)), group)
    joint = multivariate_normal(np.zeros(len(S)), S).logpdf(y.T)
    return joint - multivariate_normal(np.zeros(len(rest)), S[np.ix_(rest, rest)]).logpdf(y[rest].T)


@pytest.mark.parametrize("kind", ["covariance", "by sensor", "number"])
@pytest.mark.parametrize("n_orient", [1, 3])
def test_scores_are_those_of_the_joint_gaussian(kind, n_orient):
    L, y, C = problem(3, n_orient)
    noise = {"covariance": C, "by sensor": C.diagonal(), "number": 0.7}[kind]
    full = C if kind == "covariance" else np.diag(np.broadcast_to(noise, M))
    groups = [[0], [1, 5], [7, 2, 3]]
    scores = sensor_group_scores(bind(told_gamma).told(n_orient), L, y, noise, groups)
    S = 2 * L @ L.T + full
    close(scores, [conditional(S, y, g) for g in groups], 1e-9, "density")


def test_predictions_one_after_the_other_are_the_evidence():
    L, y, C = problem(4)
    total = multivariate_normal(np.zeros(1), 2 * L[:1] @ L[:1].T + C[:1, :1]).logpdf(y[:1].T).sum()
    for end in range(2, M + 1):
        one = slice(0, end)
        total += sensor_group_scores(
            bind(told_gamma), L[one], y[one], C[one, one], [[end - 1]]
        ).sum()
    evidence = multivariate_normal(np.zeros(M), 2 * L @ L.T + C).logpdf(y.T).sum()
    close(total, evidence, 1e-9, "evidence")


def test_an_average_reference_is_no_prediction():
    "In the directions that the rest does not fix: those of any other reference"
    L, y, C = problem(5)
    P = np.eye(M) - 1 / M
    group = [2, 6, 7]
    scores = sensor_group_scores(bind(told_gamma), P @ L, P @ y, P @ C @ P, [group])
    lower = np.delete(np.arange(M), 7)  # all but one sensor say as much
    S = (P @ (2 * L @ L.T + C) @ P)[np.ix_(lower, lower)]
    other = conditional(S, (P @ y)[lower], np.array([2, 6]))
    close(np.diff(scores[0]), np.diff(other), 1e-8, "but for a constant")
    with pytest.raises(ValueError, match="groups of two sensors"):
        sensor_group_scores(bind(told_gamma), P @ L, P @ y, P @ C @ P, [[3]])


@pytest.mark.parametrize("name", [*SOLVERS, *SAMPLERS])
@pytest.mark.filterwarnings("ignore")
def test_every_solver_is_scored(name):
    L, y, C = problem(6)
    rng = np.random.default_rng(0)
    params = {}
    takes = bind(name).solver.takes()
    if "src_coords" in takes:
        params["src_coords"] = rng.normal(scale=0.03, size=(N, 3))
    if "seed" in takes:
        params |= dict(n_sweeps=16, n_burn=2) if "n_sweeps" in takes else {}
    scores = sensor_group_scores(bind(name, params), L, y, C, [[0, 3], [5]])
    assert scores.shape == (2, T) and np.isfinite(scores).all()


def test_units_change_the_density_by_their_logarithm():
    L, y, C = problem(7)
    one = sensor_group_scores(bind(BMN), L, y, C, [[1, 4]])
    other = sensor_group_scores(bind(BMN), 10 * L, 10 * y, 100 * C, [[1, 4]])
    close(one - other, np.full((1, T), 2 * np.log(10)), 1e-6, "log 10 a sensor")


def test_a_mixture_predicts_a_mixture():
    rng = np.random.default_rng(8)
    H, y = rng.normal(size=(3, 4)), rng.normal(size=(3, 5))
    root = rng.normal(size=(2, 2))
    states = (
        State(np.array([0, 3]), rng.normal(size=(2, 5)), root @ root.T),
        State(np.empty(0, int), np.empty((0, 5)), np.empty((0, 0))),
    )
    posterior = Mixture(states, np.array([0.3, 0.7]), n_sources=4, n_orient=1, n_times=5)
    on = H[:, [0, 3]]
    said = []
    for t in range(5):
        first = multivariate_normal(
            on @ states[0].mean[:, t], on @ states[0].cov @ on.T + np.eye(3)
        )
        off = multivariate_normal(np.zeros(3), np.eye(3))
        said.append(np.log(0.3 * first.pdf(y[:, t]) + 0.7 * off.pdf(y[:, t])))
    close(log_predictive(posterior, H, y), said, 1e-9, "density")


# ---- the choice of a noise variance


@pytest.mark.parametrize("with_cov", [False, True])
def test_each_score_is_a_conditional_density(with_cov):
    L, y, C = problem(9)
    grid = np.array([0.3, 1.0, 4.0])
    shape = C if with_cov else np.eye(M)
    found = cross_validate_noise(
        told_gamma, L, y, grid, 3, noise_cov=C if with_cov else None, progress=False
    )
    for i, noise_var in enumerate(grid):
        S = 2 * L @ L.T + noise_var * shape
        for j, fold in enumerate(found.folds):
            close(found.scores[i, j], conditional(S, y, fold).mean() / len(fold), 1e-8, "score")
    sizes = np.array([len(fold) for fold in found.folds])
    close(found.mean, found.scores @ sizes / M, 1e-12, "mean over all values left out")
    assert found.noise_var == grid[found.mean.argmax()] and found.below.min() == 0


@pytest.mark.parametrize("seed", [None, 0])
def test_every_sensor_is_left_out_once(seed):
    L = np.random.default_rng(0).normal(size=(11, 30))
    folds = sensor_folds(L, 4, seed)
    assert sorted(np.concatenate(folds).tolist()) == list(range(11))
    assert {len(fold) for fold in folds} == {2, 3}
    assert all((a == b).all() for a, b in zip(folds, sensor_folds(L, 4, seed)))


def test_folds_are_spread_over_the_head():
    "Sensors on a sphere: each has its nearest neighbour in another fold, by far more than by chance"
    rng = np.random.default_rng(1)
    at = rng.normal(size=(64, 3))
    at /= np.linalg.norm(at, axis=1, keepdims=True)
    sources = 0.6 * rng.normal(size=(200, 3)) / np.sqrt(3)
    L = 1 / np.linalg.norm(at[:, None] - sources, axis=2) ** 2
    distance = np.linalg.norm(at[:, None] - at, axis=2) + 9 * np.eye(64)
    nearest = distance.argmin(axis=1)

    def together(folds):
        fold_of = np.empty(64, int)
        for i, fold in enumerate(folds):
            fold_of[fold] = i
        return (fold_of == fold_of[nearest]).mean()

    by_chance = np.mean([together(sensor_folds(L, 5, seed)) for seed in range(20)])
    assert together(sensor_folds(L, 5)) < 0.6 * by_chance


@pytest.mark.parametrize("name", ["BMN", "gamma_map", "MNE"])
@pytest.mark.filterwarnings("ignore::calibrain.core.warnings.ConvergenceWarning")
def test_the_true_noise_is_found(name):
    rng = np.random.default_rng(2)
    L = rng.normal(size=(24, 50)) * np.geomspace(1, 0.05, 50)
    x = np.zeros((50, 60))
    x[[2, 9, 14]] = 3 * rng.normal(size=(3, 60))
    y = L @ x + rng.normal(size=(24, 60))
    params = dict(update_mode="fast") if name == "gamma_map" else {}
    grid = np.geomspace(0.1, 10, 9)
    found = cross_validate_noise(name, L, y, grid, 4, solver_params=params, progress=False)
    assert 0.5 < found.noise_var < 2
    in_other_units = cross_validate_noise(
        name, 10 * L, 10 * y, 100 * grid, 4, solver_params=params, progress=False
    )
    close(in_other_units.mean, found.mean - np.log(10), 1e-5, "log 10 a value")


def test_a_reference_of_data_and_leadfield_is_seen():
    L, y, _ = problem(10)
    P = np.eye(M) - 1 / M
    said = dict(noise_vars=[0.5, 1, 2], n_folds=3, progress=False)
    of_itself = cross_validate_noise(told_gamma, P @ L, P @ y, **said)
    told = cross_validate_noise(told_gamma, P @ L, P @ y, noise_cov=P, **said)
    close(of_itself.scores, told.scores, 1e-12, "score")
    assert of_itself.unit == "squared data units" and told.unit == "of noise_cov"


@pytest.mark.parametrize("lost", ["projections", "a flat channel"])
def test_projections_of_data_and_leadfield_are_seen(lost):
    "Else the noise seems to be as small as the smallest that was tried"
    rng = np.random.default_rng(3)
    L, y = rng.normal(size=(20, 40)), 0.5 * rng.normal(size=(20, 60))
    y += L[:, [3]] @ rng.normal(size=(1, 60))
    U = np.eye(20)[:, [4]]
    if lost == "projections":
        U = np.linalg.qr(rng.normal(size=(20, 4)))[0]
    P = np.eye(20) - U @ U.T
    said = dict(n_folds=3, progress=False)
    of_itself = cross_validate_noise("BMN", P @ L, P @ y, **said)
    assert 0.1 < of_itself.noise_var < 0.6
    told = cross_validate_noise("BMN", P @ L, P @ y, of_itself.noise_vars, noise_cov=P, **said)
    close(of_itself.scores, told.scores, 1e-6, "score")
    if lost == "projections":
        with pytest.raises(ValueError, match="of more sensors than the directions"):
            cross_validate_noise("BMN", P @ L, P @ y, n_folds=10, progress=False)


def test_warnings_of_many_runs_are_said_once():
    L, y, _ = problem(11)
    with pytest.warns(ConvergenceWarning, match=r"in \d+ of 9 runs: gamma_map") as caught:
        cross_validate_noise(
            *("gamma_map", L, y, [0.5, 1, 2], 3), solver_params=dict(max_iter=2), progress=False
        )
    assert sum(w.category is ConvergenceWarning for w in caught) == 1


@pytest.mark.parametrize(
    "change, error, says",
    [
        (dict(noise_vars=[]), ValueError, "noise_vars must be"),
        (dict(noise_vars=[0.0, 1.0]), ValueError, "noise_vars must be > 0"),
        (dict(noise_vars=[2.0, 2.0]), ValueError, "two values at least"),
        (dict(n_folds=M + 1), ValueError, "n_folds must be"),
        (dict(n_folds=1), ValueError, "n_folds must be"),
        (dict(solver="BMN_joint"), ValueError, "which learns it"),
        (dict(solver="gamma_lambda_map"), ValueError, "which learns it"),
        (dict(solver="champagne"), ValueError, "pass learn_noise=False in solver_params"),
        (dict(solver="mxne"), ValueError, "one with a posterior for scores of left-out"),
        (dict(noise_cov=np.eye(3)), ValueError, "noise_cov must be"),
        (dict(noise_cov=dict(names=["a"], data=[1.0])), TypeError, "L must be a Leadfield"),
    ],
)
def test_refused(change, error, says):
    L, y, _ = problem(0)
    with pytest.raises(error, match=says):
        cross_validate_noise(**dict(solver="BMN", L=L, y=y) | change)


def test_the_end_of_the_grid_is_said():
    L, y, _ = problem(12)
    for grid, side in (([50.0, 100.0], "smaller"), ([1e-6, 1e-5], "larger")):
        with pytest.warns(NoiseBoundaryWarning, match=f"Pass noise_vars with {side} values"):
            found = cross_validate_noise("BMN", L, y, grid, progress=False)
        assert found.at_boundary and "at the end" in found._repr_html_()
