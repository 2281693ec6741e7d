"""Simulation-based calibration: tests of uniformity that are exact, and posteriors that are right.

Posteriors that are known in full pass; each way to be wrong is noticed.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from routine import number
from scipy import stats
from scipy.special import ndtr
from test_mixture import dense, make

from calibrain import BMN
from calibrain.calibration.sbc import SBC, combine_sbc, pit, ranks, sbc_of, sbc_run
from calibrain.calibration.uniform import (
    PLACES,
    chi2_test,
    ecdf_test,
    holm,
    moment_test,
    noticed_spread,
)
from calibrain.posterior.below import below
from calibrain.posterior.gaussian import Posterior, selection
from calibrain.posterior.mixture import Mixture, State
from calibrain.posterior.moments import Moments

N_RUNS = 500


# ——— tests of uniformity


def failed(test, z):
    "How often a test fails at 0.05; one sample to a row of normal numbers"
    if test is ecdf_test:
        return np.mean([outside(u) for u in ndtr(z)])
    return np.mean([test(u).p <= 0.05 for u in ndtr(z)])


BAND = ecdf_test(np.full(N_RUNS, 0.5))


def outside(u):
    "Whether a curve leaves the band of as many numbers"
    difference = np.searchsorted(np.sort(u), PLACES, side="right") / N_RUNS - PLACES
    tiny = 1e-12
    return (difference < BAND.lower - tiny).any() or (difference > BAND.upper + tiny).any()


@pytest.mark.parametrize("test", [chi2_test, ecdf_test, moment_test])
def test_size(test):
    "5 % ± 1 % over 2,000 repetitions"
    z = np.random.default_rng(0).normal(size=(number(2000, 20_000), N_RUNS))
    assert abs(failed(test, z) - 0.05) <= 0.01


# Error bars too narrow or too wide by 15 %, the least that is asked of each test. Shift and spread
# is the one that reaches 0.9; χ² of ten bins is the bluntest.
@pytest.mark.parametrize("test, least", [(moment_test, 0.95), (ecdf_test, 0.7), (chi2_test, 0.6)])
@pytest.mark.parametrize("factor", [1.15, 1 / 1.15])
def test_power(test, least, factor):
    z = factor * np.random.default_rng(1).normal(size=(number(400, 4000), N_RUNS))
    assert failed(test, z) > least


def verdict_of(z):
    "The verdict of three strata, one number of each run in each"
    strata = sbc_of({name: [0.5] for name in "abc"}, 0)
    return replace(strata, pit=ndtr(z)).verdict()


@pytest.mark.parametrize("factor", [1.15, 1 / 1.15])
def test_power_of_the_verdict(factor):
    "More than 0.9 after all corrections, with one stratum of three that is wrong"
    rng = np.random.default_rng(2)
    scale = [1, factor, 1]
    draws = [scale * rng.normal(size=(N_RUNS, 3)) for _ in range(number(60, 600))]
    assert np.mean([not verdict_of(z)["b"].passes for z in draws]) > 0.9


def test_the_verdict_raises_few_false_alarms():
    rng = np.random.default_rng(3)
    n = number(200, 2000)
    alarms = 0
    for _ in range(n):
        found = verdict_of(rng.normal(size=(60, 3)))
        alarms += not all(v.passes for v in found.values())
    assert stats.binom(n, 0.05).sf(alarms - 1) > 1e-3


def stays_by_transitions(n, low, high):
    "Probability to stay within, by the binomial steps of a count, as Säilynoja and others have it"
    chance = np.zeros(n + 1)
    chance[0] = 1
    last = 0.0
    for z, lo, hi in zip(PLACES, low, high):
        step = (z - last) / (1 - last)
        after = np.zeros(n + 1)
        for k in np.flatnonzero(chance):
            after[k:] += chance[k] * stats.binom(n - k, step).pmf(np.arange(n - k + 1))
        after[:lo] = after[hi + 1 :] = 0
        chance, last = after, z
    return chance.sum()


@pytest.mark.parametrize("n", [1, 2, 15])
@pytest.mark.parametrize("level", [0.55, 0.95])
def test_the_band_holds_as_often_as_it_says(n, level):
    "By another road; and no band that is any narrower does"
    found = ecdf_test(np.full(n, 0.5), level)
    low = np.rint((found.lower + PLACES) * n).astype(int)
    high = np.rint((found.upper + PLACES) * n).astype(int)
    held = stays_by_transitions(n, low, high)
    assert held >= level - 1e-9
    counts, at = np.arange(n + 1), PLACES[:, None]
    alone = 2 * np.minimum(stats.binom.cdf(counts, n, at), stats.binom.sf(counts - 1, n, at))
    inside = (counts >= low[:, None]) & (counts <= high[:, None])
    least = alone[inside].min()  # the counts to be lost next
    narrower = inside & (alone > least * (1 + 1e-6))
    first = narrower.argmax(1)
    after = n - narrower[:, ::-1].argmax(1)
    assert not narrower.any(1).all() or stays_by_transitions(n, first, after) < level


def test_a_curve_is_outside_if_p_is_small():
    rng = np.random.default_rng(4)
    n_outside = 0
    for _ in range(100):
        u = rng.beta(1, rng.uniform(0.7, 1.4), size=rng.choice([1, 9, 100]))
        found = ecdf_test(u, 0.79)
        tiny = 1e-12
        inside = (found.difference >= found.lower - tiny) & (found.difference <= found.upper + tiny)
        assert inside.all() == (found.p > 0.21)
        n_outside += not inside.all()
    assert 10 < n_outside < 90


def test_p_of_one_number():
    "As far outside as u or farther: a hundredth at each end for u in the first hundredth"
    assert np.isclose(ecdf_test([0.004]).p, 0.02)
    assert np.isclose(ecdf_test([0.996]).p, 0.02)
    assert np.isclose(ecdf_test([0.125]).p, 0.26)
    assert ecdf_test([0.495]).p == 1


def test_from_below_is_as_from_above():
    u = np.random.default_rng(5).beta(1, 1.3, size=77)
    for test in (ecdf_test, moment_test):
        assert np.isclose(test(u).p, test(1 - u).p, rtol=1e-6)
    assert np.isclose(moment_test(u).shift, -moment_test(1 - u).shift)


def test_shift_and_spread_are_exact_with_few_numbers():
    rng = np.random.default_rng(6)
    p = [moment_test(rng.uniform(size=3)).p for _ in range(2000)]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_what_was_excluded_is_enough(end):
    u = np.append(np.random.default_rng(7).uniform(size=300), end)
    assert moment_test(u)[1:] == (np.inf, 0.0)


def test_what_would_be_noticed():
    rng = np.random.default_rng(8)
    for n in (30, 300):
        f = noticed_spread(n, 0.01, 0.8)
        p = np.array([moment_test(ndtr(f * rng.normal(size=n))).p for _ in range(1000)])
        assert abs((p <= 0.01).mean() - 0.8) < 0.04


def test_holm_is_its_definition():
    "Reject while the next smallest p, times as many as are left, is at most the level"
    rng = np.random.default_rng(9)
    for _ in range(50):
        p = rng.beta(0.3, 1, size=rng.integers(1, 8))
        corrected = holm(p)
        for level in (0.01, 0.05, 0.2):
            rejected = np.zeros(len(p), bool)
            for i, j in enumerate(np.argsort(p)):
                if p[j] * (len(p) - i) > level:
                    break
                rejected[j] = True
            assert np.array_equal(corrected <= level, rejected)


# ——— where the truth lies


@pytest.mark.parametrize("patches", [False, True], ids=["sources", "patches"])
def test_below_is_the_share_of_the_dense_mixture(patches):
    for seed in range(9):
        m = make(seed, patches=patches)
        means, covs = dense(m)
        std = np.sqrt(np.maximum(np.einsum("sii->si", covs), 0))
        x = m.sample(1, seed)[0]
        x[::2] += 0.3
        z = (x.ravel() - means) / np.where(std > 1e-12, std, 1)
        point = std <= 1e-12
        same = np.abs(x.ravel() - means) < 1e-12
        less = m.weights @ np.where(point, (z > 0) & ~same, ndtr(z))
        found = below(x, m)
        assert np.allclose(found.less.ravel(), less, atol=1e-9)
        assert np.allclose(found.equal.ravel(), m.weights @ (point & same), atol=1e-9)


def test_ranks_count_and_break_ties_by_lot():
    draws = np.array([0.0, 0, 1, 2, 2, 2, 5])[:, None]
    found = np.array([ranks(np.array([2.0]), draws, seed)[0] for seed in range(4000)])
    assert set(found) == {3, 4, 5, 6}
    assert stats.chisquare(np.bincount(found)[3:]).pvalue > 1e-3
    assert ranks(np.array([-1.0]), draws, 0) == 0 and ranks(np.array([9.0]), draws, 0) == 7


def test_ranks_of_one_of_a_kind_are_uniform():
    "Any law that has ties, any number of draws"
    rng = np.random.default_rng(10)
    everything = rng.poisson(0.7, size=(8, 4000)).astype(float)
    found = ranks(everything[0], everything[1:], rng)
    assert stats.chisquare(np.bincount(found, minlength=8)).pvalue > 1e-3


def test_shapes_of_the_truth_are_one():
    m = make(2)  # three components
    x = m.sample(1, 0)[0]
    for draws in (0, 7, m.sample(5, 1)):
        flat = pit(x, m, 3, draws)
        assert flat.shape == (m.n_sources, 3, m.n_times)
        assert np.array_equal(flat, pit(x.reshape(flat.shape), m, 3, draws))


def test_draws_a_few_at_a_time_are_draws(monkeypatch):
    m = make(1)
    x = m.sample(1, 0)[0]
    monkeypatch.setattr("calibrain.calibration.sbc._AT_ONCE", 2 * x.size)
    found = np.array([pit(x, m, seed, 9) for seed in range(200)])
    exact = np.array([pit(x, m, seed, 0) for seed in range(200)])
    n_wide = (np.abs(found.mean(0) - (9 * exact.mean(0) + 0.5) / 10) > 0.1).sum()
    assert n_wide == 0 and np.all((found > 0) & (found < 1))


# ——— posteriors that are known in full


def gaussian_problem(k=1, n_sources=12, n_times=3, gamma=2.0):
    "Sources with one variance, seen by six sensors with noise of variance 1, and their posterior"
    L = np.random.default_rng(11).normal(size=(6, n_sources * k))
    R = np.linalg.cholesky(gamma * L @ L.T + np.eye(6)).T
    V = np.linalg.solve(R.T, gamma * L)
    S = selection(np.arange(n_sources * k), n_sources * k)

    def draw(rng, claim=1.0):
        x = np.sqrt(gamma) * rng.normal(size=(n_sources * k, n_times))
        y = L @ x + rng.normal(size=(6, n_times))
        mean = V.T @ np.linalg.solve(R.T, y)
        narrow = np.sqrt(claim)
        return x, Posterior(np.full(n_sources * k, gamma * claim), narrow * V, mean, S, k)

    return draw


def right(found):
    "Whether nothing speaks against a posterior, one unlucky seed in a thousand apart"
    return all(v.passes for v in found.verdict(1e-3).values())


def placed(draw, seed, n=N_RUNS, strata=None, draws="auto", **how):
    "Where the truth lies, in many runs"
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(n):
        x, posterior = draw(rng, **how)
        runs.append(sbc_run(x, posterior, rng, strata(x, posterior) if strata else None, draws))
    return combine_sbc(runs)


@pytest.mark.parametrize("k", [1, 3])
def test_a_gaussian_posterior_passes_and_a_narrow_one_does_not(k):
    draw = gaussian_problem(k)
    n = number(80, 1500)
    found = placed(draw, 12, n)
    by_source = found.curve.total[: found.strata.index("claims")]
    assert right(found) and by_source.sum() == n * 12 * k * 3
    narrow = placed(draw, 13, n, claim=0.6)
    spread = narrow.verdict()["unclear"].moments.spread
    assert not narrow.passes["unclear"] and abs(spread - 1 / np.sqrt(0.6)) < 0.2


def test_draws_of_a_gaussian_pass_as_well():
    draw = gaussian_problem()
    assert right(placed(draw, 14, 100, draws=19))
    assert not all(placed(draw, 15, 100, draws=19, claim=0.4).passes.values())


def test_a_shift_is_noticed():
    draw = gaussian_problem()

    def shifted(rng):
        x, posterior = draw(rng)
        return x + 0.25 * posterior.std[:, None], posterior

    found = placed(shifted, 16, 200).verdict()["unclear"]
    assert not found.passes and abs(found.moments.shift - 0.25) < 0.15


def spike_slab_problem(P=0.3, gamma=4.0, n_places=5, n_times=2):
    "Each place is on with one probability; every support is written down"
    L = np.random.default_rng(17).normal(size=(4, n_places))
    supports = []
    for n_on in range(n_places + 1):
        supports += itertools.combinations(range(n_places), n_on)

    def draw(rng, P_claimed=P, claim=1.0):
        x = np.sqrt(gamma) * rng.normal(size=(n_places, n_times))
        x *= rng.random((n_places, 1)) < P
        y = L @ x + rng.normal(size=(4, n_times))
        states, log_weights = [], []
        for support in supports:
            on = np.array(support, int)
            G = L[:, on]
            C = gamma * G @ G.T + np.eye(4)
            gain = gamma * np.linalg.solve(C, G).T
            states.append(State(on, gain @ y, claim * gamma * (np.eye(len(on)) - gain @ G)))
            fit = -n_times * np.linalg.slogdet(C)[1] / 2 - (y * np.linalg.solve(C, y)).sum() / 2
            odds = len(on) * np.log(P_claimed / (1 - P_claimed))
            log_weights.append(fit + odds)
        weights = np.exp(log_weights - np.max(log_weights))
        return x, Mixture(tuple(states), weights / weights.sum(), n_places, 1, n_times)

    return draw


@pytest.mark.parametrize("draws", [0, 19], ids=["distribution", "draws"])
def test_a_mixture_with_steps_passes(draws):
    found = placed(spike_slab_problem(), 18, number(80, 1500), draws=draws)
    assert set(found.passes) == {"P>.5", "P.05-.5", "P<.05", "claims"} and right(found)


def test_a_mixture_that_is_wrong_is_noticed():
    draw = spike_slab_problem()
    assert not all(placed(draw, 19, 100, draws=0, claim=0.3).passes.values())
    assert not all(placed(draw, 20, 100, draws=0, P_claimed=0.03).passes.values())


def test_strata_of_the_truth_make_a_right_posterior_fail():
    "Why they are refused by name"

    def by_truth(x, posterior):
        active = x.any(1)
        return dict(active=active, silent=~active)

    found = placed(spike_slab_problem(), 21, 100, by_truth, draws=0)
    assert not any(found.passes.values())


def test_what_is_pruned_is_excluded_or_says_nothing():
    def draw(rng, share=0.0):
        x = np.zeros((4, 2))
        x[0] = rng.random() < share
        return x, Moments(np.zeros((4, 2)), np.zeros(4))

    assert right(placed(draw, 22, 200))
    found = placed(draw, 23, 200, share=0.2).verdict()["elsewhere"]
    assert not found.passes and 0 < found.excluded < 40 and found.moments.p == 0


def test_bmn_passes_where_its_variance_is_known_well():
    "Thirty samples of forty sources of one variance: what it estimates is nearly what is true"
    L = np.random.default_rng(24).normal(size=(20, 40))

    def draw(rng):
        x = np.sqrt(rng.choice([1.0, 4.0])) * rng.normal(size=(40, 30))
        return x, BMN(L, L @ x + rng.normal(size=(20, 30)), 1.0)

    assert right(placed(draw, 25, 200))


# ——— records


def test_runs_are_joined_as_they_are():
    rng = np.random.default_rng(26)
    runs = [sbc_of(dict(a=rng.uniform(size=5), b=rng.uniform(size=i % 2)), i) for i in range(6)]
    runs += [sbc_of(dict(c=rng.uniform(size=3), a=[]), 7)]
    joined = combine_sbc(runs)
    assert joined.strata == ("a", "b", "c") and joined.n_runs == 7
    assert len(joined["a"]) == 6 and len(joined["b"]) == 3 and len(joined["c"]) == 1
    assert np.array_equal(joined["a"], np.concatenate([run["a"] for run in runs[:6]]))
    assert joined.curve.total.tolist() == [30, 3, 3]
    twice = combine_sbc([combine_sbc(runs[:3]), combine_sbc(runs[3:])])
    assert np.array_equal(twice.pit, joined.pit, equal_nan=True)
    assert "c" not in joined.verdict()  # one run is none


def test_one_point_of_each_run_is_chosen_without_preference():
    u = np.arange(1, 6) / 10
    chosen = [sbc_of(dict(a=u), seed)["a"][0] for seed in range(3000)]
    assert stats.chisquare(np.unique(chosen, return_counts=True)[1]).pvalue > 1e-3


def test_the_curve_counts_all_points():
    found = combine_sbc([sbc_of(dict(a=[0, 0.1, 0.995, 1]), 0)]).curve
    at = dict(zip(np.round(found.nominal, 2), found.counts[0, 0]))
    assert (at[0], at[0.09], at[0.1], at[0.99], at[1]) == (1, 1, 2, 2, 4)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x, m: sbc_run(x, m, 0, ["active"]), "strata must be a dict of name → mask"),
        (lambda x, m: sbc_run(x, m, 0, {}), "strata must be a dict"),
        (lambda x, m: sbc_run(x, m, 0, dict(a=np.ones(2, bool))), "strata['a'] must be True or"),
        (lambda x, m: sbc_run(x, m, 0, draws="all"), "draws must be one of 'auto'"),
        (lambda x, m: sbc_run(x, m, 0, draws=-1), "draws must be finite and >= 0"),
        (lambda x, m: sbc_run(x, m, 0, draws=3), "Moments are known by their distribution"),
        (lambda x, m: sbc_run(x, m, 0, draws=np.zeros((5, 2, 2))), "draws must be of shape"),
        (lambda x, m: sbc_run(x, m, -1), "seed must be finite and >= 0"),
        (lambda x, m: sbc_run(x, dict(mean=x), 0), "result must be a Result, a Posterior"),
        (lambda x, m: sbc_run(x[:, :1], m, 0), "x_true must be of shape (3, 1, 2)"),
        (lambda x, m: sbc_run(x * np.nan, m, 0), "x_true must be finite"),
        (lambda x, m: sbc_of(dict(a=[np.nan]), 0), "points['a'] must be finite"),
        (lambda x, m: sbc_of(dict(a=[1.5]), 0), "points['a'] must be within 0 and 1"),
        (lambda x, m: combine_sbc([]), "runs must be what sbc_run returned"),
        (lambda x, m: combine_sbc([sbc_of(dict(a=[0.5]), 0, k) for k in (1, 3)]), "n_orient=1"),
        (lambda x, m: sbc_run(x, m, 0).verdict(), "at least 2 with a point in a stratum"),
        (lambda x, m: sbc_run(x, m, 0)["active"], "stratum must be one of 'clear'"),
        (lambda x, m: sbc_run(x, m, 0).chi2("unclear"), "at least 50 numbers, got 1"),
        (lambda x, m: chi2_test(np.full(9, 0.5), 1), "n_bins must be finite and >= 2"),
        (lambda x, m: ecdf_test([0.5], 1.0), "level must be finite and > 0"),
        (lambda x, m: ecdf_test([]), "u must be non-empty"),
    ],
)
def test_what_is_refused(call, words):
    x, m = np.zeros((3, 2)), Moments(np.zeros((3, 2)), np.ones(3))
    with pytest.raises((ValueError, TypeError)) as error:
        call(x, m)
    assert words in str(error.value)


def test_tables_and_words():
    one = sbc_run(np.zeros((3, 2)), Moments(np.zeros((3, 2)), np.ones(3)), 0)
    assert (
        isinstance(one, SBC)
        and repr(one) == "<SBC: 1 run, strata clear, unclear, elsewhere, claims>"
    )
    found = placed(gaussian_problem(), 28, 40)
    assert "clear passes" in repr(found) and "would notice" in found._repr_html_()
