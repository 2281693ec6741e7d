"""Credible sets: closed form, a dense twin that loops and inverts, properties, and input that must be refused."""

import numpy as np
import pytest
from scipy import sparse, stats

from calibrain import BMN
from calibrain.calibration.credible_sets import (
    credible_ellipsoid,
    credible_interval,
    half_width,
    mahalanobis,
    membership,
    reach,
)
from calibrain.head.leadfield import Leadfield
from calibrain.posterior.gaussian import Posterior, selection
from calibrain.posterior.moments import Moments, as_moments
from calibrain.solvers.evidence import posterior_at

ALL = [
    (mode, region) for mode in ("pointwise", "aggregated") for region in ("marginal", "ellipsoid")
]
LEVELS = (0, 0.01, 0.3, 0.5, 0.9, 0.99, 1)


def drawn(k, N=20, T=7, seed=0):
    "Truth and moments that fit it, components correlated"
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(N, k, k)) + np.eye(k)
    mean = rng.normal(size=(N, k, T))
    x_true = mean + root @ rng.normal(size=(N, k, T))
    return x_true, Moments(mean, root @ root.transpose(0, 2, 1))


def twin(x, m, level, mode, region):
    "Membership by the textbook: one set at a time"
    (N, k, T) = x.shape
    inside = []
    for n in range(N):
        samples = (
            [(x[n, :, t] - m.mean[n, :, t], m.cov[n]) for t in range(T)]
            if mode == "pointwise"
            else [((x[n] - m.mean[n]).mean(1), m.cov[n] / T)]
        )
        for e, S in samples:
            if region == "marginal":
                inside.append(
                    [
                        abs(e[j]) <= stats.norm.ppf((1 + level) / 2) * np.sqrt(S[j, j])
                        for j in range(k)
                    ]
                )
            else:
                inside.append([e @ np.linalg.inv(S) @ e <= stats.chi2.ppf(level, k)])
    return np.array(inside).reshape(N, -1, k if region == "marginal" else 1)


@pytest.mark.parametrize("mode, region", ALL)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_dense_twin(k, mode, region):
    x, m = drawn(k)
    for level in LEVELS[1:-1]:
        ours = membership(x, m, level, mode, region)
        np.testing.assert_array_equal(
            ours.reshape(20, -1, 1 if mode == "aggregated" else 7).transpose(0, 2, 1),
            twin(x, m, level, mode, region),
        )


def test_closed_form():
    "z = 1 is just covered at 68.27 %; d² = 2 in two dimensions at 1 − 1/e; in three by the χ² function"
    one = Moments(np.zeros((1, 1)), [4.0])
    assert mahalanobis([[2.0]], one).level[0, 0, 0] == pytest.approx(0.6826894921370859, abs=1e-14)
    pair = Moments(np.zeros((1, 2, 1)), np.eye(2)[None])
    assert mahalanobis([[[1.0], [1.0]]], pair, region="ellipsoid").level[0, 0, 0] == pytest.approx(
        1 - np.exp(-1), abs=1e-14
    )
    three = Moments(np.zeros((1, 3, 1)), np.diag([1.0, 4, 9])[None])
    assert mahalanobis([[[1.0], [2.0], [3.0]]], three, region="ellipsoid").level[
        0, 0, 0
    ] == pytest.approx(stats.chi2.cdf(3, 3), abs=1e-14)


@pytest.mark.parametrize("region", ["marginal", "ellipsoid"])
def test_average_of_equal_errors(region):
    "The same error at T samples is √T times as many standard deviations of their average"
    x = np.ones((3, 1, 25))
    m = Moments(np.zeros((3, 1, 25)), np.full(3, 4.0))
    np.testing.assert_allclose(mahalanobis(x, m, "aggregated", region).d2, 25 / 4)


@pytest.mark.parametrize("mode, region", ALL)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_ends_are_exact(k, mode, region):
    x, m = drawn(k)
    x[0] = m.mean[0]  # even where the truth is the mean
    assert membership(x, m, 1, mode, region).all()
    assert not membership(x, m, 0, mode, region).any()
    assert membership(x + 1e150, m, 1, mode, region).all()


@pytest.mark.parametrize("mode, region", ALL)
def test_one_sample(mode, region):
    x, m = drawn(3, T=1)
    np.testing.assert_allclose(
        mahalanobis(x, m, mode, region).d2, mahalanobis(x, m, "pointwise", region).d2
    )


@pytest.mark.parametrize("k", [1, 2, 3])
def test_shapes_of_truth(k):
    "Flat is source-major"
    x, m = drawn(k)
    for region in ("marginal", "ellipsoid"):
        np.testing.assert_array_equal(
            mahalanobis(x.reshape(20 * k, 7), m, region=region).d2,
            mahalanobis(x, m, region=region).d2,
        )


@pytest.mark.parametrize("mode, region", ALL)
def test_nested(mode, region):
    "What a smaller level covers a larger one covers"
    x, m = drawn(3)
    inside = np.array([membership(x, m, level, mode, region) for level in LEVELS])
    assert (inside[1:] >= inside[:-1]).all()


@pytest.mark.parametrize("scale", [1e-12, 1e9])
@pytest.mark.parametrize("mode, region", ALL)
def test_units_change_nothing(mode, region, scale):
    x, m = drawn(3)
    flat = Moments(
        m.mean, m.cov * np.array([1, 1, 0])[:, None] * np.array([1, 1, 0])
    )  # singular in one direction
    x[:10, 2] = m.mean[:10, 2]
    for of in (m, flat):
        a, b = (
            mahalanobis(s * x, Moments(s * of.mean, s**2 * of.cov), mode, region)
            for s in (1, scale)
        )
        np.testing.assert_array_equal(a.rank, b.rank)
        np.testing.assert_allclose(a.d2, b.d2, rtol=1e-6)


def test_rotation_changes_no_ellipsoid():
    x, m = drawn(3)
    Q = np.linalg.qr(np.random.default_rng(1).normal(size=(20, 3, 3)))[0]
    turned = Moments(Q @ m.mean, Q @ m.cov @ Q.transpose(0, 2, 1))
    np.testing.assert_allclose(
        mahalanobis(Q @ x, turned, region="ellipsoid").d2,
        mahalanobis(x, m, region="ellipsoid").d2,
        rtol=1e-8,
    )


@pytest.mark.parametrize("k, rank", [(2, 1), (3, 1), (3, 2)])
def test_singular_blocks(k, rank):
    "In the directions that a block has, the pseudo-inverse; a truth off them is covered at level 1 only"
    rng = np.random.default_rng(k)
    root = rng.normal(size=(30, k, rank))
    mean = rng.normal(size=(30, k, 5))
    cov = root @ root.transpose(0, 2, 1)
    x = mean + root @ rng.normal(size=(30, rank, 5))
    s = mahalanobis(x, Moments(mean, cov), region="ellipsoid")
    e = x - mean
    assert (s.rank == rank).all()
    np.testing.assert_allclose(
        s.d2[:, 0],
        np.einsum("nit,nij,njt->nt", e, np.linalg.pinv(cov, rcond=1e-9, hermitian=True), e),
        rtol=1e-6,
    )
    off = mahalanobis(x + np.linalg.eigh(cov)[1][:, :, :1], Moments(mean, cov), region="ellipsoid")
    assert np.isinf(off.d2).all()
    assert (off.level == 1).all()
    assert not membership(
        x + np.linalg.eigh(cov)[1][:, :, :1], Moments(mean, cov), 0.999, region="ellipsoid"
    ).any()


@pytest.mark.parametrize("region", ["marginal", "ellipsoid"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_points_say_nothing_or_are_wrong(k, region):
    x = np.zeros((2, k, 4))
    m = Moments(np.zeros((2, k, 4)), np.zeros((2, k, k)))
    x[1] = 3
    s = mahalanobis(x, m, region=region)
    assert (s.rank == 0).all()
    assert s.pruned.all()
    assert (s.level[0] == 0).all()
    assert (s.level[1] == 1).all()
    assert not s.informative[0].any()
    assert s.informative[1].all()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_posterior_and_its_result(k):
    "Result, Posterior and Moments say the same; the pruned source is a point"
    rng = np.random.default_rng(k)
    L = rng.normal(size=(10, 6 * k))
    gamma = np.repeat([1.0, 0, 2, 1, 1, 3], k)
    N = 6
    y = rng.normal(size=(10, 5))
    on = np.flatnonzero(gamma)
    p = posterior_at(L, y, gamma, np.full(10, 0.4), selection(on, N * k), k)
    x = rng.normal(size=(N, k, 5))
    dense = p.dense().reshape(N, k, N, k)[np.arange(N), :, np.arange(N)]
    for mode, region in ALL:
        s = mahalanobis(x, p, mode, region)
        assert s.pruned.tolist() == [False, True, False, False, False, False]
        np.testing.assert_allclose(
            s.d2, mahalanobis(x, Moments(p.mean, dense), mode, region).d2, rtol=1e-9
        )
    r = BMN(L, y, 0.4, n_orient=k)
    np.testing.assert_array_equal(mahalanobis(x, r).d2, mahalanobis(x, r.posterior).d2)


@pytest.mark.parametrize("mode", ["pointwise", "aggregated"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_intervals_and_membership_agree(k, mode):
    x, m = drawn(k)
    x = x[:, 0] if k == 1 else x
    at = x if mode == "pointwise" else x.mean(-1)
    for level in LEVELS[1:]:
        low, high = credible_interval(m, level, mode)
        np.testing.assert_array_equal((low <= at) & (at <= high), membership(x, m, level, mode))
    low, high = credible_interval(m, 0, mode)
    np.testing.assert_array_equal(low, high)


@pytest.mark.parametrize("sample", [None, 2])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_surface_is_just_covered(k, sample):
    _x, m = drawn(k)
    e = credible_ellipsoid(m, 3, 0.7, sample)
    for point in e.surface(9).reshape(-1, k)[::5]:
        truth = m.mean.copy()
        truth[3] += (point - e.centre)[:, None]
        s = mahalanobis(truth, m, "aggregated" if sample is None else "pointwise", "ellipsoid")
        np.testing.assert_allclose(s.level[3], 0.7, rtol=1e-9)


def test_lifted_through_the_basis():
    lf = Leadfield.random(16, 20, 3, unit="fT/nAm", seed=0).reduce_meg()
    x, m = drawn(2)
    flat = credible_ellipsoid(m, 5, 0.9, 1)
    space = credible_ellipsoid(m, 5, 0.9, 1, basis=lf.basis)
    np.testing.assert_allclose(space.surface(), flat.surface() @ lf.basis[5].T, atol=1e-12)
    np.testing.assert_array_equal(space.radii, flat.radii)
    np.testing.assert_allclose(
        mahalanobis(lf.project(lf.lift(x)), m, region="ellipsoid").d2,
        mahalanobis(x, m, region="ellipsoid").d2,
        rtol=1e-9,
    )


def test_reach_is_the_chi2_quantile():
    c = np.linspace(0.001, 0.999, 50)
    np.testing.assert_allclose(reach(c)[1:], [stats.chi2.ppf(c, r) for r in (1, 2, 3)], rtol=1e-12)
    np.testing.assert_allclose(half_width([1.0], 0.95), 1.959963984540054, rtol=1e-14)


BAD = {
    "too few sources": (
        lambda x, m: mahalanobis(x[1:], m),
        r"x_true must be of shape \(20, 2, 7\) or \(40, 7\) like the estimate, got shape \(19, 2, 7\)",
    ),
    "too few samples": (lambda x, m: mahalanobis(x[..., 1:], m), r"got shape \(20, 2, 6\)"),
    "MEG truth in space": (
        lambda x, m: mahalanobis(np.zeros((20, 3, 7)), m),
        r"leadfield.project\(x_true\)",
    ),
    "NaN": (
        lambda x, m: mahalanobis(np.where(x > 0, np.nan, x), m),
        "x_true must be finite, got .* NaN",
    ),
    "negative variance": (
        lambda x, m: Moments(m.mean, m.cov * np.where(np.arange(20) == 4, -1, 1)[:, None, None]),
        r"cov must be >= 0, got .* at index \(4, [01]\)",
    ),
    "negative eigenvalue": (
        lambda x, m: mahalanobis(
            x, Moments(m.mean, m.cov * 0 + [[1, 2], [2, 1]]), region="ellipsoid"
        ),
        "positive semi-definite, got an eigenvalue of -1 at source 0",
    ),
    "level above 1": (
        lambda x, m: membership(x, m, 1.5),
        "level must be finite and >= 0 and <= 1, got 1.5",
    ),
    "level below 0": (lambda x, m: credible_interval(m, -0.1), "level must be .*got -0.1"),
    "level of an ellipsoid": (lambda x, m: credible_ellipsoid(m, 0, 95), "level must be .*got 95"),
    "unknown mode": (
        lambda x, m: mahalanobis(x, m, "agregated"),
        "mode must be one of 'pointwise', 'aggregated', got 'agregated'",
    ),
    "unknown region": (lambda x, m: membership(x, m, 0.5, region="ball"), "region must be one of"),
    "source that is not there": (
        lambda x, m: credible_ellipsoid(m, 20, 0.5),
        "source must be .*<= 19, got 20",
    ),
    "sample that is not there": (
        lambda x, m: credible_ellipsoid(m, 0, 0.5, 7),
        "sample must be .*<= 6, got 7",
    ),
    "variances alone": (
        lambda x, m: mahalanobis(x, Moments(m.mean, np.ones((20, 2))), region="ellipsoid"),
        "whole covariances for an ellipsoid",
    ),
    "four components": (
        lambda x, m: Moments(np.zeros((2, 4, 1)), np.ones((2, 4))),
        "1, 2 or 3 components",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_refused(what):
    call, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        call(*drawn(2))


def test_not_a_result():
    with pytest.raises(
        TypeError, match="result must be a Result, a Posterior or Moments, got 'dict'"
    ):
        as_moments({})


def test_negative_prior_variance():
    "Where a Posterior was put together by hand"
    p = Posterior(
        np.array([1.0, -2.0]), np.zeros((1, 2)), np.zeros((2, 3)), sparse.csr_array(np.eye(2))
    )
    with pytest.raises(ValueError, match=r"posterior.gamma must be >= 0, got -2 at index \(1,\)"):
        mahalanobis(np.ones((2, 3)), p)


def test_covariance_below_zero():
    """A whitened part that belongs to other variances.

    `Posterior.var` alone would show zeros, which are read as pruned sources.
    """
    p = Posterior(np.ones(2), np.diag([0.5, 1.5]), np.zeros((2, 3)), sparse.csr_array(np.eye(2)))
    for region in ("marginal", "ellipsoid"):
        with pytest.raises(ValueError, match=r"cov must be >= 0, got -1.25 at index \(1, 0\)"):
            mahalanobis(np.ones((2, 3)), p, region=region)


def test_rounding_below_zero_is_forgiven():
    s = mahalanobis(np.zeros((2, 1)), Moments(np.zeros((2, 1)), [1.0, -1e-16]))
    assert s.rank.tolist() == [[1], [0]]
    assert np.isfinite(s.d2).all()
