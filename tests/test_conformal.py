"""Conformal intervals: coverage under known laws as the theorems say it, and what must be refused"""

from math import ceil

import numpy as np
import pytest
from routine import number
from scipy.special import erf

from calibrain.calibration.conformal import (
    FLOORS,
    SMEARS,
    ConformalCalibrator,
    conformal_run,
)
from calibrain.calibration.observable import observable_strata
from calibrain.calibration.run_quantile import run_quantile, runs_needed
from calibrain.calibration.spread import spread
from calibrain.core.warnings import InfiniteSetWarning
from calibrain.posterior.mixture import Mixture, State
from calibrain.posterior.moments import Moments

REPETITIONS = 10_000


def mean_and_error(coverage):
    "Mean over repetitions and four standard errors"
    return np.mean(coverage), 4 * np.std(coverage) / np.sqrt(len(coverage))


# ——— the theorems


@pytest.mark.parametrize("R", [4, 9, 10, 25])
def test_one_score_a_run(R):
    "Uniform scores: coverage is the quantile itself, ⌈ℓ(R + 1)⌉/(R + 1) on average"
    rng = np.random.default_rng(R)
    z = rng.uniform(size=(REPETITIONS, R, 1))
    q = [min(run_quantile(runs, 0.9, guaranteed=True).value, 1) for runs in z]
    mean, error = mean_and_error(q)
    assert 0.9 - error <= mean <= 0.9 + 1 / (R + 1) + error
    assert abs(mean - ceil(0.9 * (R + 1) - 1e-9) / (R + 1)) <= error


NODES, MASSES = np.polynomial.hermite_e.hermegauss(40)
SPREAD = 0.5  # Runs differ by a factor that is lognormal


def share_within(q):
    "Of a new run's scores u|N(0, 1)|, log u ~ N(0, SPREAD²), by quadrature"
    inside = erf(q / np.exp(SPREAD * NODES) / np.sqrt(2))
    return MASSES @ inside / MASSES.sum()


def drawn_runs(rng, R):
    "Scores of runs; those that are worse have more points"
    u = np.exp(SPREAD * rng.normal(size=R))
    return [scale * np.abs(rng.normal(size=1 + int(6 * scale**2))) for scale in u]


def test_many_scores_a_run():
    "Runs that differ, with a number of points that says how bad they are"
    rng = np.random.default_rng(0)
    R, level = 12, 0.8
    kept = dict(guaranteed=[], plain=[], pooled=[])
    for _ in range(REPETITIONS):
        runs = drawn_runs(rng, R)
        kept["guaranteed"].append(run_quantile(runs, level, guaranteed=True).value)
        kept["plain"].append(run_quantile(runs, level).value)
        kept["pooled"].append(np.quantile(np.concatenate(runs), level))
    grid = np.linspace(0, max(map(max, kept.values())), 4000)
    law = np.array([share_within(q) for q in grid])
    found = {name: mean_and_error(np.interp(q, grid, law)) for name, q in kept.items()}
    mean, error = found["guaranteed"]
    assert level - error <= mean <= level + 1 / (R + 1) + error
    mean, error = found["plain"]
    assert level * R / (R + 1) - error <= mean <= level + (2 - level) / (R + 1) + error
    pooled, error = found["pooled"]  # points as the unit: the worst runs speak loudest
    assert pooled > mean + 0.05 + error


def test_a_known_shift():
    "Hard runs are rare in training and common afterwards; weights say by how much"
    rng = np.random.default_rng(1)
    R, level = 30, 0.8
    scales = np.array([1.0, 3.0])
    before, after = np.array([0.8, 0.2]), np.array([0.2, 0.8])
    ratio = after / before
    kept = dict(weighted=[], ignored=[])
    for _ in range(number(routine=2_000, everything=REPETITIONS)):
        kind = rng.choice(2, R, p=before)
        z = scales[kind] * np.abs(rng.normal(size=R))
        new = rng.choice(2, p=after)
        q = run_quantile(z[:, None], level, True, ratio[kind], ratio[new]).value
        kept["weighted"].append(erf(q / scales[new] / np.sqrt(2)))
        q = run_quantile(z[:, None], level, True).value
        kept["ignored"].append(erf(q / scales[new] / np.sqrt(2)))
    mean, error = mean_and_error(kept["weighted"])
    assert (
        level - error <= mean <= level + 4 / (R + 1) + error
    )  # weights are up to 4 times the mean
    mean, error = mean_and_error(kept["ignored"])
    assert mean < level - 0.1


def test_choosing_on_other_runs_keeps_the_promise():
    "Floor chosen on 10 runs, quantile of 15, all of one law: a guaranteed 0.8"
    rng = np.random.default_rng(2)
    kept = []
    for _ in range(number(routine=30, everything=300)):
        runs = [a_run(rng) for _ in range(26)]
        calibrator = ConformalCalibrator(guaranteed=True).fit(runs[10:25], runs[:10], 0.8)
        kept.append(calibrator.coverage(runs[25], 0.8))
    mean, error = mean_and_error(kept)
    assert mean >= 0.8 - error


L = np.random.default_rng(5).normal(size=(8, 12))


def a_run(rng, with_floor=True):
    "A posterior that prunes one active source of three"
    x = np.zeros((12, 6))
    x[:3] = rng.normal(size=(3, 6))
    mean = np.zeros((12, 6))
    mean[:2] = x[:2] + 0.3 * np.exp(0.3 * rng.normal()) * rng.normal(size=(2, 6))
    variance = np.where(np.arange(12) < 2, 0.05, 0.0)
    floor = (L, 1.0) if with_floor else ()
    return conformal_run(x, Moments(mean, variance), *floor)


# ——— the quantile


def test_the_quantile_is_the_smallest_that_does():
    "Against a search over all scores"
    rng = np.random.default_rng(3)
    for _ in range(50):
        runs = [rng.normal(size=rng.integers(1, 6)) for _ in range(rng.integers(2, 8))]
        level = rng.uniform(0.05, 1)
        guaranteed = bool(rng.integers(2))
        weights = rng.uniform(1, 2, len(runs)) if rng.integers(2) else None
        new = None if weights is None else 1.5
        v = np.ones(len(runs)) if weights is None else weights
        total = v.sum() + guaranteed * (new or 1.0)
        enough = [
            z
            for z in np.sort(np.concatenate(runs))
            if sum(w * np.mean(r <= z) for w, r in zip(v, runs)) >= level * total - 1e-9
        ]
        found = run_quantile(runs, level, guaranteed, weights, new)
        assert found.value == (enough[0] if enough else np.inf)
        assert (found.n_runs >= found.needed) == np.isfinite(found.value) or level > 0.999


def test_infinite_with_the_number_that_is_needed():
    "One run fewer is infinite, for every level"
    for level in (0.5, 0.8, 0.9, 0.95, 0.99):
        R = runs_needed(level)
        runs = [np.array([1.0])] * R
        assert run_quantile(runs, level, guaranteed=True).value == 1
        if R > 1:
            assert run_quantile(runs[1:], level, guaranteed=True) == (np.inf, R - 1, R)
    tenth = [np.append(np.ones(19), np.inf)] * 17  # 5 % infinite: 0.9 needs 18 runs
    assert run_quantile(tenth, 0.9, guaranteed=True) == (np.inf, 17, 18)
    assert run_quantile([*tenth, tenth[0]], 0.9, guaranteed=True).value == 1


# ——— what errors are measured in


def test_floor_and_smear_by_loops():
    "Free orientation, against the formula"
    rng = np.random.default_rng(4)
    N, k, M, T = 4, 3, 9, 5
    L = rng.normal(size=(M, N * k))
    mean = rng.normal(size=(N, k, T)) * np.array([9.0, 0.1, 9, 0.1])[:, None, None]
    root = 0.5 * rng.normal(size=(N, k, k))
    m = Moments(mean, root @ root.transpose(0, 2, 1))
    std = np.sqrt(np.einsum("nii->ni", m.cov))
    found = (abs(mean) > 3 * std[..., None]).any((1, 2))
    assert 0 < found.sum() < N
    s = spread(m, L, 0.7)
    columns = L.T.reshape(N, k, M)
    for n in range(N):
        for a in range(k):
            own = columns[n, a]
            assert s.floor[n, a, 0] == pytest.approx(0.7 / (own @ own))
            smear = np.zeros(T)
            for j in np.flatnonzero(found):
                for b in range(k):
                    other = columns[j, b]
                    rho2 = (own @ other) ** 2 / (own @ own) / (other @ other)
                    square = mean[j, b] ** 2 + std[j, b] ** 2
                    smear += (j != n) * rho2**4 * (other @ other) / (own @ own) * square
            np.testing.assert_allclose(s.smear[n, a], smear, atol=1e-12)
    both = s.variance + 0.09 * s.floor + 0.2 * s.smear
    np.testing.assert_allclose(s.sigma(0.3, 0.2), np.sqrt(both))


def test_a_mixture_smears_what_is_probably_on():
    states = [State(np.array([n]), np.full((1, 3), 2.0), np.eye(1)) for n in (0, 1)]
    mixture = Mixture(tuple(states), np.array([0.8, 0.2]), 12, 1, 3)
    s = spread(mixture, L, 1.0)
    square = (mixture.mean**2 + mixture.var)[0]
    rho = L[:, 0] @ L[:, 5] / np.linalg.norm(L[:, 0]) / np.linalg.norm(L[:, 5])
    ratio = (L[:, 0] @ L[:, 0]) / (L[:, 5] @ L[:, 5])
    np.testing.assert_allclose(s.smear[5, 0], rho**8 * ratio * square)
    assert (s.smear[0] == 0).all()


def test_units_cancel():
    "In other units of sources, or of sensors, q is the same and intervals follow"
    x = np.zeros((12, 6))
    x[:3] = np.random.default_rng(0).normal(size=(3, 6))
    m = Moments(0.8 * x, np.where(np.arange(12) < 2, 0.05, 0.0))
    there = conformal_run(x, m, L, 1.0).points["active"].scores(0.1, 0.3)
    other = Moments(1000 * m.mean, 1e6 * m.cov)
    for run in (
        conformal_run(1000 * x, other, L / 1000, 1.0),
        conformal_run(x, m, 50 * L, 2500.0),
    ):
        np.testing.assert_allclose(run.points["active"].scores(0.1, 0.3), there)


# ——— the calibrator


def test_one_group_equals_no_group():
    rng = np.random.default_rng(6)
    truths = [np.abs(rng.normal(size=(12, 6))) for _ in range(12)]
    results = [Moments(x + rng.normal(size=x.shape), np.ones(12)) for x in truths]
    everyone = np.ones(12, bool)
    runs = [conformal_run(x, r, strata={"mine": everyone}) for x, r in zip(truths, results)]
    calibrator = ConformalCalibrator().fit(runs)
    for level in (0.3, 0.9):
        assert calibrator.quantile(level, "mine") == calibrator.quantile(level, "all")
        grouped = calibrator.interval(results[0], level, {"mine": everyone})
        np.testing.assert_array_equal(
            grouped.lower, calibrator.interval(results[0], level, "all").lower
        )


def test_groups_have_quantiles_of_their_own():
    "What can be seen decides: a mixture's bands, each covered as promised"
    rng = np.random.default_rng(7)

    def run():
        means = rng.normal(size=(3, 5))
        states = [State(np.arange(n), means[:n], np.eye(n)) for n in (1, 2, 3)]
        mixture = Mixture(tuple(states), np.array([0.3, 0.66, 0.04]), 6, 1, 5)
        x = np.zeros((6, 5))
        x[:3] = 2 * mixture.std[:3] * rng.normal(size=(3, 5)) + mixture.mean[:3]
        return x, mixture

    pairs = [run() for _ in range(160)]
    strata = [observable_strata(m) for _, m in pairs]
    runs = [conformal_run(x, m, strata=s) for (x, m), s in zip(pairs, strata)]
    calibrator = ConformalCalibrator().fit(runs[:80])
    kept = [calibrator.coverage(run, 0.7, "P>.5") for run in runs[80:]]
    mean, error = mean_and_error(kept)
    assert abs(mean - 0.7) < np.sqrt(2) * error  # of the quantile, and of the test
    kept = [calibrator.coverage(run, 0.7, "P<.05") for run in runs[80:]]
    assert np.mean(kept) >= 0.7  # three of four are zero for certain, which is true
    assert calibrator.quantile(0.7, "P>.5").value == pytest.approx(2 * 1.036, rel=0.1)
    x, m = pairs[-1]
    lower, upper = calibrator.interval(m, 0.7, strata[-1])
    within = (lower <= x) & (x <= upper)
    mask = strata[-1]["P>.5"]
    assert within[mask].mean() == pytest.approx(calibrator.coverage(runs[-1], 0.7, "P>.5"))


def test_the_narrowest_pair_is_chosen():
    "By trying all of them, on the tuning runs"
    rng = np.random.default_rng(8)
    runs = [a_run(rng) for _ in range(20)]
    tuning = runs[:10]
    width = {}
    for i, f in enumerate(FLOORS):
        for j, h2 in enumerate(SMEARS):
            own = ConformalCalibrator(floor=f, smear=h2).fit(tuning)
            mean = np.mean([run.widths[i, j] for run in tuning])
            width[f, h2] = own.quantile(0.9).value * mean
    chosen = ConformalCalibrator().fit(runs[10:], tuning).chosen["active"]
    assert chosen == min(width, key=width.get)


def test_large_strata_are_thinned():
    x = np.ones((300, 100))
    m = Moments(x + np.random.default_rng(0).normal(size=x.shape), np.ones(300))
    points = conformal_run(x, m).points["active"]
    assert len(points.error) == 20_000
    assert np.mean(points.scores(0, 0) <= 1.645) == pytest.approx(0.9, abs=0.01)


def test_infinite_intervals_are_said():
    rng = np.random.default_rng(9)
    runs = [a_run(rng, with_floor=False) for _ in range(20)]
    calibrator = ConformalCalibrator().fit(runs)
    m = Moments(np.zeros((12, 6)), np.ones(12))
    with pytest.warns(InfiniteSetWarning, match="missed for certain: no number of runs helps"):
        lower, upper = calibrator.interval(m, 0.9)
    assert np.isneginf(lower).all() and np.isposinf(upper).all()
    assert "no number of runs helps" in calibrator.statement(0.9)
    few = ConformalCalibrator(True, 0.1, 0).fit([a_run(rng) for _ in range(5)])
    with pytest.warns(InfiniteSetWarning, match="5 runs are too few: 9 are needed"):
        assert np.isinf(few.interval(m, 0.9, L=L, noise_var=1.0).upper).all()


# ——— bad input


def test_bad_input():
    rng = np.random.default_rng(10)
    runs = [a_run(rng) for _ in range(6)]
    m = Moments(np.zeros((12, 6)), np.ones(12))
    free = Moments(np.zeros((12, 3, 6)), np.ones((12, 3)))
    for use in (
        lambda c: c.quantile(0.9),
        lambda c: c.interval(m, 0.9),
        lambda c: c.interval(m, 0.9, {"active": np.ones(12, bool)}),
        lambda c: c.coverage(runs[0], 0.9),
        lambda c: c.statement(0.9),
    ):
        with pytest.raises(ValueError, match="ConformalCalibrator must be fitted first"):
            use(ConformalCalibrator())

    fitted = ConformalCalibrator().fit(runs[3:], runs[:3])
    three = conformal_run(np.ones((12, 3, 6)), free, np.ones((8, 36)), 1.0)
    refused = {
        "tuning must be other runs": lambda: ConformalCalibrator().fit(runs),
        "tuning must be of other runs, got 1": lambda: ConformalCalibrator().fit(runs, runs[:1]),
        "what conformal_run returned": lambda: ConformalCalibrator().fit([m]),
        "n_orient=1, like the first, got 3": lambda: ConformalCalibrator().fit([runs[0], three]),
        "both given, or neither": lambda: ConformalCalibrator(floor=0.1),
        "with a leadfield, for a floor": lambda: ConformalCalibrator(floor=0.1, smear=0).fit(
            [a_run(rng, False)] * 2
        ),
        "runs must be at least 2": lambda: (
            ConformalCalibrator(floor=0.1, smear=0).fit(runs[:1]).quantile(0.9)
        ),
        "weights must be > 0": lambda: ConformalCalibrator(floor=0.1, smear=0).fit(
            runs, weights=[1, 1, 1, 1, 1, 0]
        ),
        "as the runs were, got 3": lambda: fitted.interval(
            free, 0.9, L=np.ones((8, 36)), noise_var=1
        ),
        "L must be given": lambda: fitted.interval(m, 0.9),
        "stratum must be one of 'active', got 'on'": lambda: fitted.quantile(0.9, "on"),
        "level must be finite and >= 0 and <= 1": lambda: fitted.quantile(90),
        "noise_var must be a real number": lambda: conformal_run(np.ones((12, 6)), m, L),
    }
    for message, use in refused.items():
        with pytest.raises((ValueError, TypeError), match=message):
            use()


def test_a_stratum_that_was_seldom_seen():
    "Enough runs for some strata, too few for others: only these are refused"
    rng = np.random.default_rng(11)
    x = np.abs(rng.normal(size=(12, 6))) + 1
    rare = {"rare": np.arange(12) == 0}
    never = {"rare": np.zeros(12, bool)}
    m = Moments(x + rng.normal(size=x.shape), np.ones(12))
    runs = [conformal_run(x, m, L, 1.0, rare if r < 1 else never) for r in range(8)]
    calibrator = ConformalCalibrator().fit(runs[4:], runs[:4])
    assert np.isfinite(calibrator.quantile(0.9, "active").value)
    with pytest.raises(ValueError, match="tuning must be at least 2 runs with points in 'rare'"):
        calibrator.quantile(0.9, "rare")
