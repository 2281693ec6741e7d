"""Calibration curves: exact counts, promises kept and broken promises caught, many runs.

Besides: the names of calibrain 1.0, and input that must be refused.
"""

import functools
import itertools
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from routine import number, some
from scipy import stats

from calibrain.calibration import counting
from calibrain.calibration.coverage import (
    DEFAULT_LEVELS,
    Stratum,
    calibration_error,
    check_levels,
    combine,
    count_coverage,
    coverage_curve,
)
from calibrain.calibration.credible_sets import mahalanobis
from calibrain.calibration.strata import STRATA, select_strata, strata_masks
from calibrain.posterior.gaussian import selection
from calibrain.posterior.moments import Moments, as_moments
from calibrain.published.uncertainty_estimator import METHODS, UncertaintyEstimator
from calibrain.solvers.evidence import posterior_at
from calibrain.viz import draw_coverage

ROOT = Path(__file__).resolve().parent.parent
ALL = [
    (mode, region) for mode in ("pointwise", "aggregated") for region in ("marginal", "ellipsoid")
]


def drawn(k, N=20, T=7, seed=0, stretch=1.0):
    "Truth and moments that fit it, or are `stretch` times too wide"
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(N, k, k)) + np.eye(k)
    mean = rng.normal(size=(N, k, T))
    x_true = mean + root @ rng.normal(size=(N, k, T))
    cov = stretch**2 * root @ root.transpose(0, 2, 1)
    return x_true, Moments(mean, cov)


def outside(counts, total, n=None, curves=1):
    """Levels at which a count leaves the 99.9 % binomial band of `n` trials.

    As many as were counted, unless some are dependent; the 0.1 % are shared among `curves`.
    """
    n = total if n is None else n
    levels = np.array(DEFAULT_LEVELS)
    tail = 0.0005 / curves
    low = stats.binom.ppf(tail, n, levels) / n
    high = stats.binom.ppf(1 - tail, n, levels) / n
    share = counts / total
    return levels[(share < low - 1e-12) | (share > high + 1e-12)]


# ——— counts


def some_pruned(k):
    "Forty sources, of which the first twenty are silent, and some of either are pruned"
    x, m = drawn(k, N=40)
    x[:20] = 0
    mean = m.mean.copy()
    cov = m.cov.copy()
    mean[10:25] = 0
    cov[10:25] = 0
    return x, Moments(mean, cov)


@pytest.mark.parametrize("mode, region", ALL)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_counts_are_those_of_the_levels(k, mode, region):
    "A loop over levels and strata, with some sources pruned and some silent"
    x, m = some_pruned(k)
    deep = np.arange(40) % 3 == 0
    curve = coverage_curve(x, m, mode=mode, region=region, strata={"deep": deep})
    s = mahalanobis(x, m, mode, region)
    masks = strata_masks(x, m) | {"deep": deep}
    for name, mask in masks.items():
        ok = s.informative | (name == "pruned")
        assert curve[name].total == ok[mask].sum()
        point = s.rank[:, :, None] == 0
        inside = [
            np.where(point, (s.d2 == 0) | (c == 1), (s.level <= c) & (c > 0))
            for c in DEFAULT_LEVELS
        ]
        assert curve[name].counts.tolist() == [(i & ok)[mask].sum() for i in inside]
    assert curve["pruned"].empirical[0] == pytest.approx(10 / 15)
    assert curve["silent"].total == 10 * s.d2[0].size
    assert (
        curve["all"].total == 30 * s.d2[0].size
    )  # the ten silent points left out, five misses kept


@pytest.mark.parametrize("mode, region", ALL)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_counts_in_parts_are_those_of_the_whole(k, mode, region, monkeypatch):
    "A part may hold pruned sources only, one stratum only, no point of a stratum of points"
    x, m = some_pruned(k)
    m.cov[30:33, 0] = m.cov[30:33, :, 0] = 0
    strata = {"deep": np.arange(40) % 3 == 0, "late": np.zeros((40, x.shape[2]), bool)}
    strata["late"][:7, -2:] = True
    if mode == "aggregated":
        del strata["late"]
    arguments = dict(mode=mode, region=region, strata=strata, every_point=k == 2)
    whole = count_coverage(
        mahalanobis(x, m, mode, region),
        select_strata(strata, x, mahalanobis(x, m, mode, region)),
        every_point=k == 2,
    )
    for at_once in (1, 30, 10**6):
        monkeypatch.setattr(counting, "_AT_ONCE", at_once)
        curve = coverage_curve(x, m, **arguments)
        assert curve.strata == whole.strata
        assert curve.counts.tolist() == whole.counts.tolist()
        assert curve.totals.tolist() == whole.totals.tolist()
        assert curve.left_out.tolist() == whole.left_out.tolist()


def test_a_curve_makes_no_array_of_all_distances():
    "The sources take 16 MB; what a curve needs beside them is less than half"
    x = np.zeros((4000, 1, 500))
    x[:5] = 1
    m = Moments(np.full_like(x, 0.1), np.ones(4000))
    coverage_curve(x, m)
    tracemalloc.start()
    coverage_curve(x, m)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6, f"{peak / 1e6:.0f} MB"


@pytest.mark.parametrize("mode, region", ALL)
def test_every_level_is_exact_at_the_ends(mode, region):
    curve = coverage_curve(*drawn(3), mode=mode, region=region)["all"]
    assert curve.empirical[0] == 0
    assert curve.empirical[-1] == 1
    assert (np.diff(curve.counts) >= 0).all()


def test_pruned_sources_are_no_evidence():
    "However many zeros are left out, the curve is that of the rest"
    x, m = drawn(1)
    more = Moments(
        np.concatenate([m.mean, np.zeros((5000, 1, 7))]),
        np.concatenate([m.cov, np.zeros((5000, 1, 1))]),
    )
    few = coverage_curve(x, m)
    many = coverage_curve(np.concatenate([x, np.zeros((5000, 1, 7))]), more)
    for name in ("all", "active", "silent", "detected"):
        assert many[name].counts.tolist() == few[name].counts.tolist()
        assert many[name].total == few[name].total
    assert many["pruned"].total == 35000
    assert many["pruned"].empirical.tolist() == [1] * 15


def test_missed_sources_are_missed():
    "An active source that was pruned is covered at no level below 1"
    x = np.ones((4, 3))
    m = Moments(np.zeros((4, 3)), np.zeros(4))
    curve = coverage_curve(x, m)
    assert curve["active"].total == 12
    assert curve["active"].empirical.tolist() == [0] * 14 + [1]


def test_levels():
    assert check_levels([0.9, 0.1, 0.9, 0]).tolist() == [0, 0.1, 0.9]
    assert (
        *(0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1),
    ) == DEFAULT_LEVELS
    for k, inner in ((1, [0.5]), (3, [0.2, 0.8])):
        x, m = drawn(k)
        whole = coverage_curve(x, m)["all"]
        part = coverage_curve(x, m, levels=inner)["all"]
        assert part.counts.tolist() == [whole.counts[DEFAULT_LEVELS.index(c)] for c in inner]


def test_one_sample_and_one_source():
    for mode, region in ALL:
        curve = coverage_curve(*drawn(2, N=1, T=1), mode=mode, region=region)
        assert curve["all"].total == (2 if region == "marginal" else 1)


# ——— the promise, kept and broken


def model(k, T, seed, n_runs=1, N=8):
    "Truth drawn from the prior, and its posterior at the true γ and λ; one run after another"
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(6, N * k))
    gamma = np.repeat(rng.lognormal(size=N), k)
    noise = rng.uniform(0.2, 1, 6)
    everything = selection(np.arange(N * k), N * k)
    for _ in range(n_runs):
        x = np.sqrt(gamma)[:, None] * rng.normal(size=(N * k, T))
        y = L @ x + np.sqrt(noise)[:, None] * rng.normal(size=(6, T))
        yield x, posterior_at(L, y, gamma, noise, everything, k)


@functools.cache
def independent_draws(k, mode):
    "Truth and moments of samples of one run, or of many runs whose averages are taken"
    runs = model(k, 3000, k) if mode == "pointwise" else model(k, 4, k, n_runs=700)
    return [(x, as_moments(posterior)) for x, posterior in runs]


def by_source(k, mode, region, stretch=1.0):
    "The curve of each source over independent draws"
    strata = {"source": np.arange(8)}
    curves = []
    for x, m in independent_draws(k, mode):
        claimed = Moments(m.mean, stretch**2 * m.cov)
        curves.append(coverage_curve(x, claimed, mode=mode, region=region, strata=strata))
    return combine(curves)


@pytest.mark.parametrize("mode, region", ALL)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_true_model_keeps_its_promise(k, mode, region):
    "Draws of one source are independent; k components count as one trial, which widens the band"
    curve = by_source(k, mode, region)
    each = k if region == "marginal" else 1
    for n in range(8):
        s = curve[f"source: {n}"]
        assert outside(s.counts, s.total, s.total // each, curves=8).size == 0


WRONG = [(k, *which, f) for k in (1, 2, 3) for which in ALL for f in (0.8, 1.2)]


@pytest.mark.parametrize("k, mode, region, stretch", some(WRONG, every=3))
def test_a_wrong_width_is_caught(k, mode, region, stretch):
    "In every source, though the band is the wide one"
    curve = by_source(k, mode, region, stretch)
    each = k if region == "marginal" else 1
    for n in range(8):
        s = curve[f"source: {n}"]
        assert outside(s.counts, s.total, s.total // each, curves=8).size > 0
        assert (calibration_error(s).mean_signed < 0) == (stretch < 1)


@pytest.mark.parametrize("mode, region", ALL)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_pooled_over_independent_sources(k, mode, region):
    "Sources drawn apart, components uncorrelated: every single test is a trial"
    rng = np.random.default_rng(k)
    var = rng.lognormal(size=(3000, k))
    mean = rng.normal(size=(3000, k, 20))
    x = mean + np.sqrt(var)[:, :, None] * rng.normal(size=mean.shape)
    blocks = var[:, :, None] * np.eye(k)
    good, bad = (
        coverage_curve(x, Moments(mean, f**2 * blocks), mode=mode, region=region)["all"]
        for f in (1, 0.8)
    )
    assert outside(good.counts, good.total).size == 0
    assert outside(bad.counts, bad.total).size > 0


def test_the_standard_sense():
    "Empirical below nominal is overconfidence: too little coverage"
    e = calibration_error(Stratum(np.array([0, 0.5, 0.9, 1]), np.array([0, 0.2, 0.95, 1]), None, 1))
    assert e == pytest.approx((0.0875, -0.0625, 0.3, 0.05))
    assert np.isnan(calibration_error(coverage_curve(*drawn(1)), "pruned")).all()


# ——— strata


def test_strata():
    x, m = drawn(2)
    x[:5] = 0
    x[:, :, :3] = 0  # silent throughout, and before a stimulus
    masks = strata_masks(x, Moments(m.mean, m.cov * (np.arange(20) > 2)[:, None, None]))
    assert tuple(masks) == STRATA
    assert [int(v.sum()) for v in masks.values()] == [20, 15, 5, 17, 3]
    flat = strata_masks(x.reshape(40, 7), m)
    assert all((flat[n] == strata_masks(x, m)[n]).all() for n in STRATA)


def test_on_stands_beside_active():
    "Samples before a stimulus flatter what is active, and not what is on"
    x, m = drawn(2)
    x[:, :, :5] = 0
    mean = m.mean.copy()
    mean[:, :, :5] = 0  # right before the stimulus
    curve = coverage_curve(x, Moments(mean, m.cov), [0.9])
    assert curve.strata[:3] == ("all", "active", "on")
    alone = coverage_curve(x, Moments(mean, m.cov), [0.9], strata=["on"])
    assert curve["on"].counts.tolist() == alone["on"].counts.tolist()
    assert curve["on"].total == x[:, :, 5:].size
    every = coverage_curve(x, Moments(mean, m.cov), [0.9], every_point=True)
    assert every["active"].empirical[0] > every["on"].empirical[0]


def test_labels_split_the_whole():
    x, m = drawn(1)
    curve = coverage_curve(
        x,
        m,
        strata={
            "depth": np.repeat(["deep", "mid", "shallow"], (5, 5, 10)),
            "snr": 3.0,
            "mine": np.arange(20) < 4,
        },
    )
    assert curve.strata == (
        *("all", "active", "on", "silent", "detected", "pruned"),
        "depth: deep",
        "depth: mid",
        "depth: shallow",
        "snr: 3.0",
        "mine",
    )
    assert (
        sum(curve[f"depth: {d}"].counts for d in ("deep", "mid", "shallow")).tolist()
        == curve["all"].counts.tolist()
        == curve["snr: 3.0"].counts.tolist()
    )
    assert coverage_curve(x, m, strata=("silent", "all")).strata == ("silent", "all")
    none = coverage_curve(x, m, strata={"nobody": np.zeros(20, bool)})["nobody"]
    assert none.total == 0
    assert np.isnan(none.empirical).all()
    assert none.counts.tolist() == [0] * 15


# ——— many runs


def test_joined_by_count():
    curves = [
        coverage_curve(*drawn(1, N=10 + seed, seed=seed), strata={"n": seed % 3})
        for seed in range(12)
    ]
    whole = combine(curves)
    assert whole.n_runs == 12
    assert whole["all"].counts.tolist() == sum(c["all"].counts for c in curves).tolist()
    assert whole["n: 1"].counts.tolist() == sum(c["all"].counts for c in curves[1::3]).tolist()
    shuffled = combine([combine(curves[8:]), *curves[:8]])
    assert all(shuffled[n].counts.tolist() == whole[n].counts.tolist() for n in whole.strata)


def test_a_thousand_runs():
    "1,284 sources each, joined within 2 s and 500 MB, of which a slow machine may use a good part"
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1284, 1))
    m = Moments(np.zeros((1284, 1)), np.ones(1284))
    curves = [coverage_curve(x, m, mode="aggregated") for _ in range(1000)]
    tracemalloc.start()
    start = time.process_time()  # of this process: what else the machine does is not counted
    whole = combine(curves)
    band = whole.band()
    took = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < 2 and peak < 500e6, (took, peak)
    assert whole["all"].total == 1284000
    assert (band.upper[0] - band.lower[0] < 1e-12).all()


def test_the_band_covers():
    "Runs that differ in how they err: the 90 % band of 40 of them holds the share of 4,000 in about 90 % of tries"
    rng = np.random.default_rng(0)

    def run():
        return coverage_curve(
            rng.normal(size=(30, 1)) * rng.lognormal(sigma=0.5),
            Moments(np.zeros((30, 1)), np.ones(30)),
            levels=[0.5, 0.9],
        )

    tries = number(routine=60, everything=150)
    truth = combine(run() for _ in range(4000)).empirical[0]
    bands = [combine(run() for _ in range(40)).band(0.9, n_boot=300) for _ in range(tries)]
    held = np.mean([(b.lower[0] <= truth) & (truth <= b.upper[0]) for b in bands], 0)
    assert ((held > 0.8) & (held < 0.97)).all(), held


def test_the_band_weighs_runs_by_their_size():
    "Against the bootstrap written out, with runs of very different sizes"
    curves = [coverage_curve(*drawn(1, N=n, T=1, seed=n), levels=[0.5]) for n in (3, 50, 200, 10)]
    n = np.array([c["all"].counts[0] for c in curves])
    total = np.array([c["all"].total for c in curves])
    rng = np.random.default_rng(0)
    shares = [n[i].sum() / total[i].sum() for i in rng.integers(0, 4, size=(4000, 4))]
    band = combine(curves).band(0.8, n_boot=4000)
    np.testing.assert_allclose(
        [band.lower[0, 0], band.upper[0, 0]], np.quantile(shares, [0.1, 0.9]), atol=0.01
    )


def test_the_benchmark_runs():
    from benchmarks.coverage import CURVES, HERE, run

    assert run(sys.executable, "-m", "benchmarks.coverage", "runs", 3, 10)["total"] == 30
    for name in CURVES:
        assert (
            len(
                run(sys.executable, HERE / "coverage.py", "ours", name, "aggregated", 12, 4)[
                    "counts"
                ]
            )
            == 15
        )


def test_table_and_picture():
    curve = combine(coverage_curve(*drawn(1, seed=s)) for s in range(3))
    html = curve._repr_html_()
    pruned = "<th scope='row' style='text-align:left'>pruned</th><td style='text-align:left'>0</td>"
    assert "3 runs" in html
    assert pruned in html
    assert "nan" not in html
    ax = draw_coverage(curve)
    assert len(ax.lines) == 5  # the diagonal, all, active, on, detected
    assert ax._repr_png_().startswith(b"\x89PNG")
    assert len(draw_coverage(coverage_curve(*drawn(1))).collections) == 0  # one run, no band


def test_frame():
    pytest.importorskip("pandas")
    curve = combine(coverage_curve(*drawn(1, seed=s)) for s in range(3))
    frame = curve.to_frame()
    columns = ["stratum", "nominal", "empirical", "count", "total", "left_out"]
    assert list(frame.columns) == columns
    assert len(frame) == 90


# ——— the old names


def test_no_name_is_missing():
    "The list that was asked for, spelt out"
    modes = ("pointwise", "aggregated")
    kinds = {
        "interval_membership": (1, "marginal"),
        "ellipsoid_membership_eeg_free": (3, "ellipsoid"),
        "ellipse_membership_meg_free": (2, "ellipsoid"),
        "componentwise_interval_membership_free": (None, "marginal"),
    }
    curves = {
        "intervals_{}": (1, "marginal"),
        "ellipsoid_eeg_free_{}": (3, "ellipsoid"),
        "ellipse_meg_free_{}": (2, "ellipsoid"),
        "componentwise_intervals_{}_free": (None, "marginal"),
        "componentwise_eeg_free_{}": (3, "marginal"),
        "componentwise_meg_free_{}": (2, "marginal"),
    }
    asked = {
        f"{mode}_{name}": (mode, region, k)
        for mode, (name, (k, region)) in itertools.product(modes, kinds.items())
    }
    asked |= {
        f"calibration_curve_{name.format(mode)}": (mode, region, k)
        for mode, (name, (k, region)) in itertools.product(modes, curves.items())
    }
    assert asked == METHODS
    assert all(
        callable(getattr(UncertaintyEstimator, name))
        for name in [*asked, "credible_intervals_normal", "posterior_variance_from_cov"]
    )


def call(name, x, m, *level):
    "A method by name, with what it wants"
    method = getattr(UncertaintyEstimator(), name)
    n_orient = METHODS[name][2]
    if n_orient == 1:
        return method(x[:, 0], m.mean[:, 0], m.cov[:, 0, 0], *level)
    if "ellipse" in name:
        random = np.random.default_rng(0).normal(size=(len(x), 3, 2))
        V = np.linalg.qr(random)[0]
        return method(V @ x, m.mean, m.cov, *level, V_tan=V)
    options = {} if n_orient else dict(n_orient=x.shape[1])
    return method(x, m.mean, m.cov, *level, **options)


@pytest.mark.parametrize("name", METHODS)
def test_each_name_is_the_function(name):
    mode, region, k = METHODS[name]
    x, m = drawn(k or 3)
    curve = coverage_curve(x, m, mode=mode, region=region)["all"]
    if name.startswith("calibration_curve"):
        found = call(name, x, m)
        assert {"nominal_coverages", "empirical_coverages", "ci_counts", "interval_type"} <= set(
            found
        )
        assert found["ci_counts"].tolist() == curve.counts.tolist()
        assert found["interval_type"] == ("marginal" if region == "marginal" else "full_cov")
        return
    for i, level in enumerate(DEFAULT_LEVELS):
        found = call(name, x, m, level)
        keys = {"within", "count_within", "total_count", "empirical_coverage", "n_times"} | (
            {"ci_lower", "ci_upper"} if region == "marginal" else {"q_values", "cov_blocks"}
        )
        if mode == "aggregated":
            keys |= {"x_true_agg", "x_hat_agg"} | (
                {"posterior_var_agg"} if region == "marginal" else set()
            )
        assert keys <= set(found)
        assert found["count_within"] == found["within"].sum() == curve.counts[i]
        assert found["total_count"] == curve.total
        assert found["n_times"] == 7


def test_whole_covariance_and_flat_means():
    "A (kN, kN) covariance is read by its diagonal blocks, flat arrays source-major"
    x, m = drawn(3)
    whole = np.zeros((20, 3, 20, 3))
    whole[np.arange(20), :, np.arange(20)] = m.cov
    whole = whole.reshape(60, 60) + 0.1 * (1 - np.kron(np.eye(20), np.ones((3, 3))))
    name = "calibration_curve_ellipsoid_eeg_free_aggregated"
    flat = getattr(UncertaintyEstimator(), name)(x.reshape(60, 7), m.mean.reshape(60, 7), whole)
    assert flat["ci_counts"].tolist() == call(name, x, m)["ci_counts"].tolist()


def test_floors_only_where_asked_for():
    ue = UncertaintyEstimator()
    x = np.full((2, 3, 1), 0.1)
    hat = np.zeros((2, 3, 1))
    cov = np.array([np.zeros((3, 3)), np.diag([1.0, 1.0, -1e-3])])
    with pytest.raises(ValueError, match="posterior_cov must be >= 0"):
        ue.pointwise_ellipsoid_membership_eeg_free(x, hat, cov, 0.5)
    assert ue.pointwise_ellipsoid_membership_eeg_free(
        x, hat, cov, 0.5, psd_repair_blocks=True, block_epsilon=1.0
    )["within"].tolist() == [[True], [True]]
    assert ue.pointwise_componentwise_interval_membership_free(
        x, hat, abs(cov), 0.5, n_orient=3, min_var=1.0
    )["within"].all()
    assert not ue.pointwise_componentwise_interval_membership_free(
        x, hat, 0 * cov, 0.5, n_orient=3
    )["within"].any()


def test_against_the_published_package(published_package):
    "Equal counts, and faster, on a small problem; python -m benchmarks.coverage measures the large one"
    from benchmarks.coverage import compare

    rows = list(compare(published_package, N=200, T=30, repeats=1))
    assert len(rows) == 8 and all(r["equal"] for r in rows), rows


# ——— bad input

BAD = {
    "shape": (lambda x, m: coverage_curve(x[:5], m), r"x_true must be of shape \(20, 2, 7\)"),
    "no active source": (
        lambda x, m: coverage_curve(0 * x, m),
        "x_true must be with at least one active source, got zeros throughout: for a run without any pass strata=",
    ),
    "NaN": (lambda x, m: coverage_curve(np.where(x > 1, np.nan, x), m), "x_true must be finite"),
    "negative variance": (
        lambda x, m: coverage_curve(x, Moments(m.mean, -m.cov)),
        "cov must be >= 0, got -.* at index",
    ),
    "level above 1": (
        lambda x, m: coverage_curve(x, m, levels=[0.5, 90]),
        "levels must be within 0 and 1, got 90",
    ),
    "level below 0": (
        lambda x, m: UncertaintyEstimator([-0.5]),
        "levels must be within 0 and 1, got -0.5",
    ),
    "NaN level": (lambda x, m: coverage_curve(x, m, levels=[np.nan]), "levels must be finite"),
    "no level": (lambda x, m: coverage_curve(x, m, levels=[]), "levels must be non-empty"),
    "mode": (lambda x, m: coverage_curve(x, m, mode="mean"), "mode must be one of"),
    "region": (lambda x, m: coverage_curve(x, m, region="mean"), "region must be one of"),
    "unknown stratum": (
        lambda x, m: coverage_curve(x, m, strata="deep"),
        "strata must be one of 'all'",
    ),
    "labels of other sources": (
        lambda x, m: coverage_curve(x, m, strata={"depth": np.arange(19)}),
        r"strata\['depth'\] must be one value for each of 20 sources",
    ),
    "a name that is taken": (
        lambda x, m: coverage_curve(x, m, strata={"active": np.ones(20, bool)}),
        "strata must be named differently",
    ),
    "measurements for labels": (
        lambda x, m: coverage_curve(*drawn(1, N=60), strata={"depth": np.linspace(0, 1, 60)}),
        "np.digitize",
    ),
    "stratum that is not there": (
        lambda x, m: coverage_curve(x, m)["deep"],
        "stratum must be one of",
    ),
    "band of one run": (lambda x, m: coverage_curve(x, m).band(), "n_runs must be at least 2"),
    "modes mixed": (
        lambda x, m: combine(
            [coverage_curve(x, m), coverage_curve(x, m, "aggregated" and (0.5,), "aggregated")]
        ),
        "curves must be",
    ),
    "no stratum": (
        lambda x, m: coverage_curve(x, m, strata=[]),
        "strata must be at least one, got none",
    ),
    "no truth in two components": (
        lambda x, m: UncertaintyEstimator().pointwise_ellipse_membership_meg_free(
            np.ones((20, 3, 7)), m.mean, m.cov, 0.5
        ),
        "V_tan must be given",
    ),
    "means of other sources": (
        lambda x, m: UncertaintyEstimator().pointwise_ellipse_membership_meg_free(
            x, m.mean[1:], m.cov, 0.5
        ),
        "x_hat_2d must be of shape",
    ),
    "covariance of other shape": (
        lambda x, m: UncertaintyEstimator().calibration_curve_ellipse_meg_free_pointwise(
            x, m.mean, np.ones((20, 3, 3))
        ),
        "posterior_cov_2d must be of shape",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_refused(what):
    make, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        make(*drawn(2))


def test_a_run_without_active_sources_if_said_so():
    x, m = drawn(1)
    curve = coverage_curve(0 * x, m, strata=("all", "silent"))
    assert curve["silent"].total == curve["all"].total == 140


def test_count_coverage_is_the_last_step():
    x, m = drawn(3)
    assert (
        count_coverage(mahalanobis(x, m), strata_masks(x, m))["all"].counts.tolist()
        == coverage_curve(x, m)["all"].counts.tolist()
    )
