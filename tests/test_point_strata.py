"""Strata of points, and counts of every point, by loops over sources, components and samples.

The loops know levels and variances, nothing of histograms, masks and ranks.
"""

import numpy as np
import pytest
from scipy import stats
from test_coverage import ALL, drawn
from test_mixture import make

from calibrain.calibration.coverage import combine, count_coverage, coverage_curve
from calibrain.calibration.credible_sets import mahalanobis
from calibrain.calibration.strata import point_masks
from calibrain.posterior.moments import Moments

LEVELS = (0.0, 0.3, 0.9, 1.0)
every_way = pytest.mark.parametrize("mode, region", ALL)


def gaussian(k, seed=0):
    "Moments, some of them points; mean and covariance at every sample; truth with a baseline"
    x, m = drawn(k, N=12, T=5, seed=seed)
    mean, cov = m.mean.copy(), m.cov.copy()
    mean[:6] = 0
    cov[:6] = 0
    x[:4] = 0
    x[9:] = 0
    x[:, :, :2] = 0
    mean[2] = 3.0  # a point that is certain of something wrong
    return x, Moments(mean, cov), mean, np.repeat(cov[:, None], 5, axis=1)


def mixture(k, mode, seed):
    "A mixture, its moments at every sample, and a truth with a baseline"
    m = make(3 * seed + k - 1)  # of k components
    x = m.sample(1, seed)[0].reshape(m.n_sources, k, m.n_times)
    x[:, :, :2] = 0
    x[0, :, -1] = 4.0
    of = m.average() if mode == "aggregated" else m
    return x, m, of.mean.reshape(m.n_sources, k, -1), np.moveaxis(of.blocks, 3, 1)


def counted_by_loops(x, mean, cov, region, every_point):
    "Stratum → number covered at each level, and number counted"
    n, k, n_samples = x.shape
    active = [bool(x[i].any()) for i in range(n)]
    counts = {name: np.zeros(len(LEVELS) + 1, int) for name in ("active", "silent", "on", "claims")}
    parts = [[a] for a in range(k)] if region == "marginal" else [list(range(k))]
    edge, claim_edge = (stats.chi2.ppf(level, len(parts[0])) for level in (LEVELS, 0.95))
    for i in range(n):
        for t in range(n_samples):
            for part in parts:
                C = cov[i, t][np.ix_(part, part)]
                error, at = x[i, part, t] - mean[i, part, t], mean[i, part, t]
                point = not C.any()
                if point:
                    covered = [not error.any() or level == 1 for level in LEVELS]
                    claim = at.any()
                else:
                    inside = error @ np.linalg.solve(C, error) <= edge
                    covered = [c and level > 0 for c, level in zip(inside, LEVELS)]
                    claim = at @ np.linalg.solve(C, at) > claim_edge
                if point and not error.any() and not every_point:
                    continue
                row = np.array([*covered, True], int)
                counts["active" if active[i] else "silent"] += row
                if x[i, :, t].any():
                    counts["on"] += row
                if claim:
                    counts["claims"] += row
    return counts


def agree(x, m, mean, cov, mode, region):
    "The curve and the loops"
    for every_point in (False, True):
        strata = ("active", "silent", "on", "claims")
        curve = coverage_curve(x, m, LEVELS, mode, region, strata, every_point)
        at = x.mean(2, keepdims=True) if mode == "aggregated" else x
        said = counted_by_loops(at, mean, cov, region, every_point)
        for name in strata:
            assert curve[name].counts.tolist() == said[name][:-1].tolist(), name
            assert curve[name].total == said[name][-1], name


@every_way
@pytest.mark.parametrize("k", [1, 2, 3])
def test_of_gaussians(k, mode, region):
    for seed in range(3):
        x, m, mean, cov = gaussian(k, seed)
        if mode == "aggregated":
            mean, cov = mean.mean(2, keepdims=True), cov[:, :1] / 5
        agree(x, m, mean, cov, mode, region)


@every_way
@pytest.mark.parametrize("k", [1, 2, 3])
def test_of_mixtures(k, mode, region):
    for seed in range(3):
        x, m, mean, cov = mixture(k, mode, seed)
        agree(x, m, mean, cov, mode, region)


def test_every_solver_is_asked_the_same():
    "Totals do not depend on the posterior where nothing is left out"
    x, m = drawn(2)
    x[:8, :, :3] = 0
    x[10:] = 0
    pruned = m.cov.copy()
    pruned[3:15] = 0
    other = Moments(m.mean * (np.arange(20) < 3)[:, None, None], pruned)
    for strata in ("all", "active", "silent", "on"):
        totals = [
            coverage_curve(x, each, strata=strata, every_point=True).total for each in (m, other)
        ]
        assert totals[0] == totals[1] > 0
        left = [coverage_curve(x, each, strata=strata).total for each in (m, other)]
        assert left[1] < left[0] or strata == "on"
    x_on = coverage_curve(x, m, strata="on", every_point=True)
    assert x_on.total == 2 * (8 * 4 + 2 * 7)


def test_what_is_left_out_and_what_is_counted_add_up():
    x, m, _, _ = gaussian(2)
    few, every = coverage_curve(x, m), coverage_curve(x, m, every_point=True)
    assert np.array_equal(few.totals + few.left_out, every.totals)
    assert np.array_equal(few.counts + few.left_out[..., None], every.counts)
    assert not every.left_out.any() and few.left_out.any()
    assert "every point counted" in repr(every)
    with pytest.raises(ValueError, match="with every_point=False, like the first"):
        combine([few, every])
    assert combine([every, every]).every_point


def test_masks_and_labels_by_point():
    "By sample, by component and sample, and labels of points; a split adds up"
    x, m, _, _ = gaussian(2)
    late = np.tile(np.arange(5) >= 2, (12, 1))
    own = dict(late=late, part=np.arange(120).reshape(12, 2, 5) % 3, mine=np.arange(12) < 7)
    curve = coverage_curve(x, m, strata=own)
    s = mahalanobis(x, m)
    assert curve["late"].total == s.informative[:, :, 2:].sum()
    parts = [curve[f"part: {i}"].total for i in range(3)]
    assert sum(parts) == curve["all"].total
    by_source = count_coverage(s, {"mine": own["mine"]})["mine"].counts
    by_point = count_coverage(s, {"mine": np.tile(own["mine"], (5, 1)).T})["mine"].counts
    assert np.array_equal(by_source, by_point)
    with pytest.raises(ValueError, match="for each of its 5 samples, or for all, got shape"):
        coverage_curve(x, m, strata=dict(late=late[:, :4]))


def test_what_is_refused():
    x, m = drawn(1)
    with pytest.raises(ValueError, match="every_point must be one of True, False"):
        coverage_curve(x, m, every_point="yes")
    with pytest.raises(ValueError, match="x_true must be with at least one active source"):
        coverage_curve(0 * x, m, strata=("on",))
    assert coverage_curve(0 * x, m, strata=("claims",)).total > 0
    assert not point_masks(0 * x, m)["on"].any()
