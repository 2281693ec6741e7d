"""Groups of subjects: closed forms, brute force over mean and spread, dense likelihoods, coverage."""

import tracemalloc
from dataclasses import replace

import mne
import numpy as np
import pytest
from scipy import stats
from test_morph import made
from test_regions import LABELS, N, estimate

from calibrain import grand_average
from calibrain.core.warnings import NothingFoundWarning
from calibrain.posterior import hierarchical
from calibrain.posterior.gaussian import Posterior, selection
from calibrain.posterior.hierarchical import Hierarchy
from calibrain.recording.group import GroupPosterior
from calibrain.recording.regions import RegionPosterior


def alone(m, v, df=0.0):
    "One quantity"
    return Hierarchy(np.reshape(m, (-1, 1, 1)), 1 / np.reshape(v, (-1, 1, 1)), df)


def one(x):
    return float(np.ravel(x)[0])


# ---- closed forms

M = np.array([3.0, 9, 6, 12, 4])
V = np.array([1.0, 4, 2, 9, 0.5])


def test_without_a_spread_it_is_the_precision_weighted_mean():
    "A prior that leaves no room for a spread"
    close = M / 100  # of subjects that do not differ more than their errors
    found = alone(close, V, df=1e8)
    mean, std, tau = map(one, found.moments())
    w = 1 / V
    assert mean == pytest.approx((w * close).sum() / w.sum(), rel=1e-6)
    assert std == pytest.approx(w.sum() ** -0.5, rel=1e-6) and tau < 1e-3
    assert one(found.quantile(0.9)) == pytest.approx(mean + stats.norm.ppf(0.9) * std, rel=1e-6)


@pytest.mark.parametrize("df", [-1, 0, 1])
def test_with_equal_precision_it_is_the_average(df):
    "And, where precision is high, the t distribution of n - 1 + ν degrees of freedom"
    mean, std, _ = map(one, alone(M, np.full(5, 2.0), df).moments())
    assert mean == pytest.approx(M.mean(), rel=1e-12) and std > np.sqrt(2 / 5)
    exact = alone(M, np.full(5, 1e-12), df)
    free = 4 + df
    if df == 1:  # a half-Cauchy of a scale that is nothing: its tail alone, 1/τ²
        free = 5
    scale = np.sqrt(((M - M.mean()) ** 2).sum() / free / 5)
    for p in (0.05, 0.5, 0.8):
        want = M.mean() + scale * stats.t(free).ppf(p)
        assert one(exact.quantile(p)) == pytest.approx(want, rel=1e-6)


def test_a_known_spread():
    "Precise subjects who say what the spread is, so that one more is drawn towards them"
    rng = np.random.default_rng(0)
    z = rng.normal(size=400) * 3 + 10
    z = 10 + 3 * (z - z.mean()) / z.std()
    found = alone(np.r_[z, 30.0], np.r_[np.full(400, 1e-6), 9.0])
    assert one(found.spread(0.5)) == pytest.approx(3, rel=0.02)
    beyond = one(found.count(20.0, n=2000).expected) - (z > 20).sum()
    # z | m ~ N(10 + (30 - 10) / 2, 9 / 2)
    assert beyond == pytest.approx(stats.norm.sf((20 - 20) / np.sqrt(4.5)), abs=0.05)


# ---- brute force


def brute(m, v, df, n=1201):
    "Weights on a grid of mean and spread, from densities"
    middle, wide = np.average(m, weights=1 / v), np.std(m) + np.sqrt(v.max())
    mu = middle + wide * np.sinh(np.linspace(-6, 6, n)) / 4
    tau = np.sqrt(v.min()) * np.exp(np.linspace(-10, 9, n))
    log = -(df + 1) / 2 * np.log1p(tau**2 * np.mean(1 / v))[:, None] + np.zeros(n)
    for each, var in zip(m, v):
        log += stats.norm.logpdf(each, mu[None], np.sqrt(var + tau**2)[:, None])
    weight = np.exp(log - log.max()) * np.gradient(mu) * np.gradient(tau)[:, None]
    return mu, tau, weight / weight.sum()


@pytest.mark.parametrize("n_subjects", [3, 5, 12])
@pytest.mark.parametrize("df", [-1, 0, 1])
def test_against_integration_over_mean_and_spread(n_subjects, df):
    if n_subjects + df <= 2:
        df = 0
    rng = np.random.default_rng([n_subjects, df + 1])
    v = np.exp(rng.normal(size=n_subjects))
    m = 5 + rng.normal(size=n_subjects) * np.sqrt(v + 4)
    mu, tau, weight = brute(m, v, df)
    found = alone(m, v, df)
    for x in (3.0, 5.0, 7.0):
        steps = np.interp(x, mu, np.cumsum(weight.sum(0)) - weight.sum(0) / 2)
        assert one(found.below(x)) == pytest.approx(steps, abs=2e-4)
    p = np.cumsum(weight.sum(1)) - weight.sum(1) / 2
    for q in (0.1, 0.5, 0.9):
        assert one(found.spread(q)) == pytest.approx(np.interp(q, p, tau), rel=0.01, abs=0.01)
    if n_subjects >= 12:
        mean = (weight.sum(0) * mu).sum()
        var = (weight.sum(0) * (mu - mean) ** 2).sum()
        assert one(found.moments().mean) == pytest.approx(mean, abs=1e-4)
        assert one(found.moments().std) == pytest.approx(np.sqrt(var), rel=1e-3)


def test_counts_against_draws_of_the_grid():
    rng = np.random.default_rng(0)
    v = np.exp(rng.normal(size=6))
    m = -4 + rng.normal(size=6) * np.sqrt(v + 4)
    mu, tau, weight = brute(m, v, 0, n=601)
    pick = rng.choice(weight.size, 20000, p=weight.ravel())
    t, c = tau[pick // 601], mu[pick % 601]
    precision = 1 / v[:, None] + 1 / t**2
    mean = (m[:, None] / v[:, None] + c / t**2) / precision
    z = mean + rng.normal(size=mean.shape) / np.sqrt(precision)
    counted = (z < -3).sum(0)  # on the side of the group mean
    found = alone(m, v).count(3.0, 0.9, n=5000)
    assert one(found.expected) == pytest.approx(counted.mean(), abs=0.05)
    assert (one(found.low), one(found.high)) == tuple(np.quantile(counted, [0.05, 0.95]))


# ---- properties


def few(n_subjects=6, n=7, n_times=5, seed=0):
    rng = np.random.default_rng(seed)
    m = rng.normal(size=(n_subjects, n, n_times)) * 3 + 2
    return m, np.exp(rng.normal(size=(n_subjects, n, 1)))


def answers(of):
    low, high = of.interval(0.9)
    return np.stack([*of.moments(), low, high, of.spread(0.3), of.below(1.0), *of.count(1.0, n=50)])


def test_blocks_change_nothing(monkeypatch):
    whole = answers(Hierarchy(*few()))
    monkeypatch.setattr(hierarchical, "_AT_ONCE", 8)
    np.testing.assert_allclose(answers(Hierarchy(*few())), whole, rtol=1e-9, atol=1e-12)


def test_a_silent_subject_says_nothing():
    m, w = few()
    silent = np.concatenate([w, np.zeros((1, 7, 1))])
    with_one = Hierarchy(np.concatenate([m, np.full((1, 7, 5), 1e6)]), silent)
    np.testing.assert_allclose(answers(with_one)[:7], answers(Hierarchy(m, w))[:7], rtol=1e-9)
    assert with_one.speaking.max() == 6
    w[1:, 3] = 0
    alone_there = Hierarchy(m, w)
    assert np.isnan(answers(alone_there)[:, 3]).all()
    assert np.isfinite(answers(alone_there)[:, [0, 1, 2, 4, 5, 6]]).all()


def test_units_do_not_matter():
    m, w = few()
    before, after = (Hierarchy(m * c, w / c**2) for c in (1, 1e-3))
    for a, b in zip(before.moments(), after.moments()):
        np.testing.assert_allclose(a * 1e-3, b, rtol=1e-9)
    np.testing.assert_allclose(before.quantile(0.9) * 1e-3, after.quantile(0.9), rtol=1e-9)
    shifted = Hierarchy(m + 1e6, w)
    np.testing.assert_allclose(shifted.quantile(0.9) - 1e6, before.quantile(0.9), atol=1e-5)


def test_few_subjects_have_intervals_and_no_standard_deviation():
    for n_subjects in (2, 3, 4):
        found = alone(M[:n_subjects], V[:n_subjects])
        assert np.isinf(one(found.moments().std)) == (n_subjects < 4)
        low, high = map(one, found.interval(0.9))
        assert np.isfinite([low, high]).all() and low < M[:n_subjects].mean() < high
    assert np.isnan(one(alone(M[:2], V[:2], df=-1).quantile(0.5)))


@pytest.mark.parametrize("n_subjects, tau", [(8, 1.0), (20, 3.0)])
def test_intervals_hold(n_subjects, tau):
    "Of the group mean, of the spread, and of the number of subjects above a value"
    n = 1500
    rng = np.random.default_rng(n_subjects)
    v = np.exp(rng.normal(size=(n_subjects, n, 1)) / 2)
    z = 1 + tau * rng.normal(size=v.shape)
    of = Hierarchy(z + rng.normal(size=v.shape) * np.sqrt(v), 1 / v)
    low, high = of.interval(0.9)
    assert ((low < 1) & (high > 1)).mean() == pytest.approx(0.9, abs=0.03)
    held = (of.spread(0.05) < tau) & (of.spread(0.95) > tau)
    assert 0.87 < held.mean() < 0.96  # a spread like the errors is held more often
    side = np.where(of.moments().mean < 0, -1, 1)
    beyond = (side * z > 0.5).sum(0)
    found = of.count(0.5, 0.9, n=300)
    within = ((found.low <= beyond) & (found.high >= beyond)).mean()
    assert 0.88 < within < 0.99  # numbers are whole, so that more is within
    assert found.expected.mean() == pytest.approx(beyond.mean(), rel=0.03)


def test_a_whole_cortex_fits():
    rng = np.random.default_rng(0)
    m = rng.normal(size=(20, 20484, 1))
    tracemalloc.start()
    found = Hierarchy(m, np.ones((20, 20484, 1))).moments()
    assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    tracemalloc.stop()
    assert np.isfinite(found.std).all()


# ---- what a subject says without its prior


def solved(L, y, gamma, noise_var):
    "The Gaussian posterior of known variances, from the definition"
    C = (L * gamma) @ L.T + noise_var * np.eye(len(L))
    V = np.linalg.solve(np.linalg.cholesky(C), L * gamma)
    mean = gamma[:, None] * L.T @ np.linalg.solve(C, y)
    n = L.shape[1]
    return Posterior(gamma, V, mean, selection(np.arange(n), n))


@pytest.mark.parametrize("n_regions", [1, 3])
def test_the_prior_of_amplitudes_is_divided_out(n_regions):
    "Against the likelihood of the regions, all else given them drawn from the prior, dense"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(12, N))
    y = rng.normal(size=(12, 6)) * 20
    gamma = rng.uniform(0.5, 4, N)
    e = estimate("gaussian", 1)
    e = replace(e, result=replace(e.result, posterior=solved(L, y, gamma, 2.0)))
    regions = e.regions(LABELS[:n_regions])
    group = grand_average([regions, regions])
    A = np.zeros((n_regions, N))
    for row, its in zip(A, regions.sources):
        row[its] = 1 / len(its)
    P = A * gamma @ A.T
    along = L @ (gamma[:, None] * A.T) @ np.linalg.inv(P)
    rest = (L * gamma) @ L.T - along @ P @ along.T + 2.0 * np.eye(12)
    cov = np.linalg.inv(along.T @ np.linalg.solve(rest, along))
    measured = cov @ along.T @ np.linalg.solve(rest, y)
    np.testing.assert_allclose(group.measured[0], measured, rtol=1e-7)
    np.testing.assert_allclose(group.errors[0, :, 0] ** 2, np.diag(cov), rtol=1e-7)
    assert "divided out" in group.about
    kept = grand_average([regions, regions], keep_prior=True)
    np.testing.assert_allclose(kept.measured[0], regions.mean)
    np.testing.assert_allclose(kept.errors[0], regions.std)


def test_regions_that_cannot_be_told_apart_say_nothing():
    "Two sources that look the same; a third, which is known, is known as before"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(12, N))
    L[:, 1] = L[:, 0]
    e = estimate("gaussian", 1)
    posterior = solved(L, rng.normal(size=(12, 6)) * 20, np.full(N, 2.0), 2.0)
    e = replace(e, result=replace(e.result, posterior=posterior))
    at = np.eye(N)
    regions = e.regions({"a": at[0], "b": at[1], "c": at[7]})
    with pytest.warns(NothingFoundWarning, match="at 2 of 3 places"):
        group = grand_average([regions, regions])
    assert np.isinf(group.errors[:, :2]).all() and np.isnan(group.mean[:2]).all()
    assert np.isfinite(group.errors[:, 2]).all()


def test_one_region_by_two_names_is_that_region():
    e = estimate("gaussian", 1)
    mask, other = np.arange(N) < 40, np.arange(N) > 100
    regions = e.regions({"a": mask, "b": mask, "c": other})
    twice = grand_average([regions, regions])
    once = grand_average([e.regions({"a": mask, "c": other})] * 2)
    for mine, its in ((twice.errors, once.errors), (twice.measured, once.measured)):
        np.testing.assert_allclose(mine, its[:, [0, 0, 1]], rtol=1e-6)


def test_posteriors_as_measurements_are_pulled_to_zero():
    "Subjects with one amplitude each, estimated with a prior: with it divided out intervals hold"
    rng = np.random.default_rng(1)
    n, v, p = 400, 4.0, 4.0
    z = 6 + 2 * rng.normal(size=(10, n))
    y = z + np.sqrt(v) * rng.normal(size=z.shape)
    said = []
    for row in y:
        posterior = solved(np.eye(n), row[:, None], np.full(n, p), v)
        places = tuple(map(str, range(n)))
        said.append(RegionPosterior(places, [[i] for i in range(n)], posterior, np.zeros(1)))
    low, high = grand_average(said).interval(0.9)
    assert ((low < 6) & (high > 6)).mean() == pytest.approx(0.9, abs=0.03)
    low, high = grand_average(said, keep_prior=True).interval(0.9)
    assert ((low < 6) & (high > 6)).mean() < 0.1


@pytest.mark.parametrize("kind, mode", [("mixture", "mean"), ("gaussian", "power")])
def test_what_has_no_gaussian_prior_goes_in_as_it_is(kind, mode):
    regions = estimate(kind, 1).regions(LABELS, mode)
    group = grand_average({"a": regions, "b": regions})
    np.testing.assert_allclose(group.measured[1], regions.mean)
    np.testing.assert_allclose(group.errors[1], regions.std)
    assert "as they are" in group.about and group.unit == regions.unit


# ---- maps

FROM = [np.arange(0, N, 2), np.arange(1, N, 2)]


def maps(n_subjects=3):
    M = np.abs(np.random.default_rng(0).normal(size=(150, N))) * 0.01
    morph = made(M, dict(vertices_from=FROM))
    morphed = estimate("gaussian", 1).morph(morph)
    p = morphed.posterior
    for i in range(n_subjects):
        other = replace(p, coeff_mean=p.coeff_mean * (1 + i / 3))
        yield replace(morphed, result=replace(morphed.result, posterior=other))


def test_maps_of_a_group():
    "From a generator, which holds one subject at a time"
    group = grand_average(maps(5))
    first, *_ = maps(1)
    np.testing.assert_allclose(group.measured[0], 1e9 * first.mean.data)
    np.testing.assert_allclose(group.errors[0], 1e9 * first.std.data)
    assert group.mean.shape == (150, 6) and group.places[:2] == ("lh 0", "lh 2")
    stc = group.stc()
    assert isinstance(stc, mne.SourceEstimate) and stc.subject == "fsaverage"
    np.testing.assert_allclose(1e9 * stc.data, group.mean)
    np.testing.assert_allclose(1e9 * group.stc("tau").data, group.tau)
    chance = group.stc(group.exceedance(2.0)).data
    assert (chance >= 0).all() and (chance <= 1).all()
    by_hand = group.greater(2.0) + 1 - group.greater(-2.0)
    np.testing.assert_allclose(chance, by_hand, atol=1e-12)
    with pytest.raises(ValueError, match="'mean', 'std', 'tau' or an array"):
        group.stc("var")


def test_a_record_in_words():
    regions = {f"s{i}": (np.array([[8.0 + i, 2.0]]), np.array([[2.0, 2.0]])) for i in range(5)}
    group = grand_average(regions)
    text = group.sentence(threshold=4)
    for said in (text, str(group), group._repr_html_(), group.plot().get_title("left")):
        assert said.count("not calibrated") == 1
    assert text.startswith("place 0: 10") and "beyond 4 nAm in 5 of 5 subjects (5 to 5)" in text
    assert repr(group) == "<GroupPosterior: 5 subjects, 1 places, 2 samples>"
    assert "5 subjects: measurements as they were passed" in group._repr_html_()
    assert list(group.to_frame().subjects) == [5, 5]
    assert group.to_frame().attrs["units"]["tau"] == group.unit == "nAm"
    two = grand_average(dict(list(regions.items())[:2]))
    assert "±" not in two.sentence() and "95 %" in two.sentence()
    assert [t.get_text() for t in group.plot().get_yticklabels()] == [*regions, "group mean"]


# ---- bad input


def test_subjects_that_do_not_go_together():
    e = estimate("gaussian", 1)
    a, b = e.regions(LABELS[:2]), e.regions(LABELS[1:3])
    cases = [
        ([a], ValueError, "of two subjects at least, got 1: one subject's own posterior"),
        (
            [a, b],
            ValueError,
            r"estimates\['subject 2'\] must be of the regions that the first.*got 50-rh",
        ),
        ([a, e.regions(LABELS[1::-1])], ValueError, "fewer of them, or another order"),
        ([a, e.regions(LABELS[:2], "sum")], ValueError, "mean of normal, nAm, got sum of normal"),
        ([a, (1.0, 2.0)], TypeError, "must be regions, as the first subject's are, got arrays"),
        ([a, replace(a, times=a.times + 0.1)], ValueError, "in one window, 50 to 100 ms"),
        ([e, replace(e, subject="else")], ValueError, r"on one brain.*est.morph\(morph\) of each"),
        ([e, replace(e, vertices=e.vertices[::-1])], ValueError, "with the same vertices"),
        ([e, "b"], TypeError, "must be regions, a morphed estimate, or a pair"),
        ("ab", TypeError, "a dict of subject → estimate"),
        ([estimate("gaussian", 3)] * 2, ValueError, "components='normal'"),
        ([estimate("gaussian", 3).regions(LABELS)] * 2, ValueError, "of one value a region"),
        ([(1.0, 1.0), (np.nan, 1.0)], ValueError, "must be finite"),
        ([(1.0, 1.0), (2.0, 0.0)], ValueError, "0 ± 0 is no certainty"),
        ([(np.ones((3, 2)), np.ones(3))] * 2, ValueError, r"of shape \(3, 2\).*std\[:, None\]"),
        ([(np.ones(3), 1.0), (np.ones(4), 1.0)], ValueError, r"of shape \(3,\), got shape \(4,\)"),
    ]
    for estimates, error, words in cases:
        with pytest.raises(error, match=words):
            grand_average(estimates)
    with pytest.raises(ValueError, match="keep_prior must be one of True, False"):
        grand_average([a, a], keep_prior="yes")
    with pytest.raises(ValueError, match="df must be"):
        grand_average([a, a], df=-2)


def test_what_was_switched_off_is_no_zero():
    e = estimate("gaussian", 1)
    p = e.posterior
    gamma, V, mean = p.gamma.copy(), p.V.copy(), p.coeff_mean.copy()
    off = np.isin(np.arange(N), e.regions(LABELS[:1]).sources[0])
    gamma[off], V[:, off], mean[off] = 0, 0, 0
    pruned = replace(p, gamma=gamma, V=V, coeff_mean=mean)
    silent = replace(e, result=replace(e.result, posterior=pruned)).regions(LABELS[:2])
    whole = e.regions(LABELS[:2])
    with pytest.warns(NothingFoundWarning, match="at 1 of 2 places in subject 3, who say nothing"):
        group = grand_average([whole, whole, silent])
    assert np.isinf(group.errors[2, 0]).all() and group.hierarchy.speaking[:, 0].tolist() == [2, 3]
    pair = grand_average([whole, whole])
    np.testing.assert_allclose(group.mean[0], pair.mean[0], rtol=1e-6)
    assert "nothing known" in group.plot(0).get_yticklabels()[2].get_text()


def test_a_place_where_nobody_says_anything():
    h = Hierarchy(np.ones((3, 2, 1)), np.array([[1.0, 0], [1, 0], [1, 0]])[:, :, None])
    group = GroupPosterior(("a", "b", "c"), ("x", "y"), h)
    assert np.isnan(group.mean[1, 0]) and "x" in group.sentence()
    group._repr_html_()
    group.plot("y")
    assert "nothing to say" in group.sentence("y")
