"Predictions of sensors that were left out, and the noise that is chosen by them."

import numpy as np
import pytest
from problems import close
from scipy import sparse
from scipy.stats import multivariate_normal

from calibrain import BMN, sensor_group_scores
from calibrain.posterior.result import Result
from calibrain.solvers.bind import bind
from calibrain.solvers.evidence import posterior_at
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
