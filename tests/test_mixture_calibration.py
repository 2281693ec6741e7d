"Credible sets and coverage of a mixture, whose variance changes with time"

import numpy as np
import pytest
from test_mixture import make, twin

from calibrain.calibration.coverage import coverage_curve
from calibrain.calibration.credible_sets import credible_interval, mahalanobis, membership
from calibrain.calibration.strata import strata_masks
from calibrain.posterior.moments import as_moments, as_posterior

kinds = pytest.mark.parametrize("patches", [False, True], ids=["sources", "patches"])


def truth(m, seed):
    "One draw of the mixture; sources that are in no state are silent"
    return m.sample(1, seed)[0].reshape(m.n_sources, m.n_orient, m.n_times)


def moments(m, mode):
    "Mean `(N, k, T)` and covariance `(N, T, k, k)` of the dense twin"
    N, k, T = m.n_sources, m.n_orient, m.n_times
    A = None if mode == "pointwise" else np.kron(np.eye(N * k), np.full(T, 1 / T))
    T = T if mode == "pointwise" else 1
    mean, cov = twin(m, A)
    blocks = np.einsum("natnbt->ntab", cov.reshape(N, k, T, N, k, T))
    return mean.reshape(N, k, T), blocks


@kinds
@pytest.mark.parametrize("mode", ["pointwise", "aggregated"])
def test_distances_are_those_of_the_moments(patches, mode):
    for seed in range(6):
        m = make(seed, patches=patches)
        x = truth(m, seed)
        mean, cov = moments(m, mode)
        error = (x if mode == "pointwise" else x.mean(2, keepdims=True)) - mean
        on = m.reached > 0
        marginal = mahalanobis(x, m, mode)
        var = np.einsum("ntaa->nat", cov)
        assert np.allclose(marginal.d2[on], error[on] ** 2 / var[on], rtol=1e-8)
        assert np.array_equal(marginal.pruned, ~on) and (marginal.d2[~on] == 0).all()
        joint = mahalanobis(x, m, mode, "ellipsoid")
        solved = np.linalg.solve(cov[on], np.moveaxis(error[on], 2, 1)[..., None])[..., 0]
        expected = np.einsum("nta,nat->nt", solved, error[on])
        well = np.linalg.cond(cov[on]) < 1e9
        assert np.allclose(joint.d2[on][:, 0][well], expected[well], rtol=1e-5)


@kinds
def test_a_source_that_is_in_no_state_is_a_point_at_zero(patches):
    m = make(0, patches=patches, n_states=3)
    x = np.zeros((7, 1, 6))
    out = np.flatnonzero(m.reached == 0)
    x[out[0], 0, 2] = 1e-3
    s = mahalanobis(x, m)
    assert s.d2[out[0], 0, 2] == np.inf and (np.delete(s.d2[out[0], 0], 2) == 0).all()
    assert (s.rank[out] == 0).all() and (s.rank[m.reached > 0] == 1).all()


def test_curves_and_intervals_count_the_same():
    for seed in range(6):
        m = make(seed)
        x = truth(m, seed)
        for mode in ("pointwise", "aggregated"):
            interval = credible_interval(m, 0.8, mode)
            shape = (7, m.n_orient, -1)
            at = x if mode == "pointwise" else x.mean(2, keepdims=True)
            lower, upper = (end.reshape(shape) for end in interval)
            inside = (lower <= at) & (at <= upper)
            held = membership(x, m, 0.8, mode).reshape(shape)
            on = m.reached > 0
            assert np.array_equal(inside[on], held[on])
            if not x.any():
                continue
            curve = coverage_curve(x, m, [0.8], mode)
            detected = curve["detected"]
            assert detected.total == on.sum() * at[0].size
            assert detected.counts[0] == held[on].sum()
        low, high = m.interval(0.8)
        pointwise = credible_interval(m, 0.8)
        assert np.allclose(np.reshape(pointwise.lower, low.shape), low)
        assert np.allclose(np.reshape(pointwise.upper, high.shape), high)


def test_strata():
    m = make(3)
    x = truth(m, 1)
    masks = strata_masks(x, m)
    assert np.array_equal(masks["pruned"], m.reached == 0)
    assert np.array_equal(masks["active"], x.any((1, 2)))


def test_what_needs_one_covariance_for_all_samples_says_so():
    m = make(1)
    words = "a mixture over supports, whose variance changes with time"
    for read in (as_moments, as_posterior):
        with pytest.raises(TypeError, match=words):
            read(m)
