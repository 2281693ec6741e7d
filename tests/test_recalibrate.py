"""Recalibration: exact inverses, levels of known laws, and what must be refused"""

import numpy as np
import pytest
from scipy.special import erfinv
from scipy.stats import t as student

from calibrain.calibration.coverage import DEFAULT_LEVELS, combine, coverage_curve
from calibrain.calibration.credible_sets import credible_interval
from calibrain.calibration.level_map import FINE_LEVELS, isotonic_map
from calibrain.calibration.observable import observable_strata
from calibrain.calibration.recalibrate import IsotonicRecalibrator, ScaleRecalibrator
from calibrain.core.warnings import InfiniteSetWarning
from calibrain.posterior.mixture import Mixture, State
from calibrain.posterior.moments import Moments


def drawn(seed, claimed=1.0, N=200, k=1, T=10, degrees=np.inf):
    "Truth, and a posterior that claims `claimed` times the size of its errors"
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(N, k, T))
    shape = (N, k, T)
    heavy = np.isfinite(degrees)
    errors = rng.standard_t(degrees, size=shape) if heavy else rng.normal(size=shape)
    return mean + errors, Moments(mean, np.tile(claimed**2 * np.eye(k), (N, 1, 1)))


def trained(runs=10, **law):
    return [coverage_curve(*drawn(seed, **law), FINE_LEVELS) for seed in range(runs)]


# ——— the inverse


@pytest.mark.parametrize("seed", range(20))
def test_there_and_back(seed):
    "Exact, and no smaller level would do, over plateaus too"
    rng = np.random.default_rng(seed)
    asked = np.unique(np.append(0, rng.uniform(0, 1, 12)))
    kept = np.sort(rng.choice([0, 0.2, 0.3, 0.55, 0.8], len(asked)))
    kept[0] = 0
    of = isotonic_map(asked, kept)
    p = np.unique(np.append(np.linspace(0, of.highest, 50), kept))
    levels = of.levels(p)
    np.testing.assert_allclose(of.coverage(levels), p, atol=1e-12)
    assert (np.diff(levels) >= 0).all()
    smaller = np.maximum(levels - 1e-6, 0)
    assert (of.coverage(smaller) < p)[levels > 0].all()
    assert of.levels(np.array(of.highest + 1e-9)) == 1


@pytest.mark.parametrize("seed", range(10))
def test_the_closest_rising_curve(seed):
    "By the formula of maxima of minima of means"
    rng = np.random.default_rng(seed)
    asked = np.linspace(0, 0.9, 9)
    share = np.clip(asked + 0.3 * rng.normal(size=9), 0, 1)
    means = [
        max(min(share[a : b + 1].mean() for b in range(i, 9)) for a in range(i + 1))
        for i in range(9)
    ]
    np.testing.assert_allclose(isotonic_map(asked, share).kept, means, atol=1e-12)


def test_curves_that_rise_are_left_as_they_are():
    curve = combine(trained(3))
    below_one = curve.nominal < 1
    of = IsotonicRecalibrator().fit(curve, "active").maps["active"]
    np.testing.assert_allclose(of.kept, curve["active"].empirical[below_one], atol=1e-12)


def test_a_promise_that_is_kept_anyway():
    "Points that are the truth are covered at every level: the smallest one is asked for"
    of = isotonic_map([0, 0.5, 1], [0.4, 0.6, 1])
    assert of.levels(np.array([0.1, 0.4])).tolist() == [0, 0]
    assert (of.lowest, of.highest) == (0.4, 0.6)


# ——— laws that are known


@pytest.mark.parametrize("claimed", [0.4, 0.7, 1.0, 2.0])
def test_the_factor_is_found(claimed):
    "20,000 errors: the end of the interval at 0.9 is known to 4 standard errors"
    r = IsotonicRecalibrator().fit(trained(claimed=claimed))
    s = ScaleRecalibrator().fit(trained(claimed=claimed))
    density = np.exp(-(1.6449**2) / 2) * np.sqrt(2 / np.pi)
    error = 4 * np.sqrt(0.09 / 20_000) / density / claimed
    end = np.sqrt(2) * erfinv(r.levels(0.9, "active"))
    assert abs(end - 1.6449 / claimed) < error + 0.005 / claimed  # linear between tenths
    assert s.levels(0.9, "active") == pytest.approx(r.levels(0.9, "active"), abs=1e-12)


def test_whole_levels_where_tails_are_heavy():
    law = dict(degrees=3)
    whole = IsotonicRecalibrator().fit(trained(30, **law), "active")
    factor = ScaleRecalibrator().fit(trained(30, **law), "active")
    wanted = np.array(DEFAULT_LEVELS[2:-1])
    shares = {}
    for name, of in dict(whole=whole, factor=factor).items():
        end = np.sqrt(2) * erfinv(of.levels(wanted))
        shares[name] = abs(1 - 2 * student.sf(end, 3) - wanted)
    assert shares["whole"].max() < 0.01 < 0.05 < shares["factor"].max()


def test_other_runs_agree():
    r = IsotonicRecalibrator().fit(trained(claimed=0.5))
    after = combine(r.curve(*drawn(seed, 0.5)) for seed in range(100, 110))
    assert abs(after["active"].empirical - after.nominal).max() < 0.02
    assert after.strata == ("active", "on", "detected")


def test_the_curve_counts_its_intervals():
    "Membership in intervals, level by level"
    r = IsotonicRecalibrator().fit(trained(claimed=0.5), "active")
    x, m = drawn(77, 0.5)
    after = r.curve(x, m, [0.3, 0.9, 1])["active"]
    for level, count in zip(after.nominal, after.counts):
        lower, upper = r.interval(m, level)
        assert count == ((lower <= x[:, 0]) & (x[:, 0] <= upper)).sum()


# ——— intervals


def test_a_factor_stretches_every_interval():
    s = ScaleRecalibrator().fit(trained(claimed=0.5), "active")
    m = drawn(77, 0.5)[1]
    for level in (0.1, 0.5, 0.9):
        before, after = credible_interval(m, level), s.interval(m, level)
        wider = (after.upper - after.lower) / (before.upper - before.lower)
        np.testing.assert_allclose(wider, s.maps["active"].factor, rtol=1e-9)


def test_of_a_mixture():
    "Its variance changes with time, and its intervals are those of the mapped level"
    rng = np.random.default_rng(0)
    states = [State(np.array([0, n]), rng.normal(size=(2, 10)), np.eye(2)) for n in (1, 2)]
    mixture = Mixture(tuple(states), np.array([0.9, 0.1]), 4, 1, 10)
    r = IsotonicRecalibrator().fit(trained(claimed=0.5), "active")
    asked = float(r.levels(0.8))
    for own, given in zip(r.interval(mixture, 0.8), credible_interval(mixture, asked)):
        np.testing.assert_array_equal(own, given)
    bands = observable_strata(mixture)
    known = {name: bands[name] for name in bands}
    x = np.ones((4, 10))
    x[3] = 0
    curve = coverage_curve(x, mixture, FINE_LEVELS, strata=known, every_point=True)
    own = IsotonicRecalibrator().fit([curve, curve])
    together = own.interval(mixture, 0.5, known)
    for name, mask in known.items():
        single = own.interval(mixture, 0.5, name)
        np.testing.assert_array_equal(together.lower[mask], single.lower[mask])


def test_averages_over_time():
    runs = [coverage_curve(*drawn(s, 0.5), FINE_LEVELS, mode="aggregated") for s in range(4)]
    r = IsotonicRecalibrator().fit(runs, "active")
    assert r.interval(drawn(9)[1], 0.9).lower.shape == (200,)


def test_saturation_is_said():
    x, m = drawn(0)
    missed = Moments(m.mean, np.where(np.arange(200) < 100, 1.0, 0.0))
    r = IsotonicRecalibrator().fit([coverage_curve(x, missed, FINE_LEVELS)] * 2, "active")
    assert r.reaches["active"] == pytest.approx((0, 0.5), abs=1e-9)
    with pytest.warns(
        InfiniteSetWarning, match=r"promise of 0.6, 0.9 in stratum 'active'.* 0\.500 of"
    ):
        asked = r.levels([0.4, 0.6, 0.9, 1], "active")
    assert asked[0] < 1 and asked[1:].tolist() == [1, 1, 1]
    with pytest.warns(InfiniteSetWarning):
        assert np.isinf(r.interval(missed, 0.9, "active").upper[:100]).all()
    with pytest.raises(ValueError, match=r"at must be 0\.500 at the most"):
        ScaleRecalibrator().fit([coverage_curve(x, missed, FINE_LEVELS)] * 2, "active")


# ——— bad input


@pytest.mark.parametrize("kind", [IsotonicRecalibrator, ScaleRecalibrator])
def test_unfitted(kind):
    x, m = drawn(0)
    for use in (
        lambda r: r.levels(0.9),
        lambda r: r.interval(m, 0.9),
        lambda r: r.interval(m, 0.9, {"active": np.ones(200, bool)}),
        lambda r: r.curve(x, m),
        lambda r: r.reaches,
    ):
        with pytest.raises(ValueError, match=f"{kind.__name__} must be fitted first"):
            use(kind())


def test_identity_on_purpose():
    x, m = drawn(0, 0.5)
    r = IsotonicRecalibrator.identity()
    assert r.levels([0.2, 0.9]).tolist() == [0.2, 0.9]
    np.testing.assert_array_equal(r.interval(m, 0.9).lower, credible_interval(m, 0.9).lower)
    plain = coverage_curve(x, m)
    np.testing.assert_array_equal(r.curve(x, m).counts, plain.counts)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: trained(1), "at least 2 runs, got 1: simulate more"),
        (lambda: [], "one CoverageCurve at least"),
        (lambda: [*trained(1), coverage_curve(*drawn(1))], "at the same levels"),
        (lambda: [*trained(1), *trained(1, k=3)], "n_orient=1, like the first, got 3"),
        (
            lambda: [coverage_curve(*drawn(s), strata=("all",)) for s in range(2)],
            "write strata='all'",
        ),
    ],
)
def test_curves_that_are_refused(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        IsotonicRecalibrator().fit(wrong())


def test_what_was_trained_is_what_can_be_promised():
    r = IsotonicRecalibrator().fit(trained(2))
    with pytest.raises(ValueError, match="n_orient=1, as in training, got 3"):
        r.interval(drawn(0, k=3)[1], 0.9, "active")
    with pytest.raises(ValueError, match="n_orient=1, as in training, got 3"):
        r.curve(*drawn(0, k=3))
    with pytest.raises(ValueError, match="write strata='all'"):
        r.levels(0.9, "all")
    with pytest.raises(ValueError, match="stratum must be one of 'active', 'on', 'detected'"):
        r.levels(0.9)
    with pytest.raises(ValueError, match="within 0 and 1, got 90"):
        r.levels(90, "active")
    with pytest.raises(ValueError, match="hold each point once, got 1000 points in none"):
        r.interval(drawn(0)[1], 0.9, {"active": np.arange(200) < 100})
    whole = [coverage_curve(*drawn(s, k=3), region="ellipsoid") for s in range(2)]
    ellipsoids = IsotonicRecalibrator().fit(whole, "active")
    assert 0 < ellipsoids.levels(0.5) < 1  # to be asked of credible_ellipsoid
    with pytest.raises(ValueError, match="of intervals, got of region='ellipsoid'"):
        ellipsoids.interval(drawn(0, k=3)[1], 0.9)
    with pytest.raises(ValueError, match="of intervals"):
        ScaleRecalibrator().fit(whole, "active")
