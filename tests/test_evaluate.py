"""Scores, errors and the record of all, against other routes.

These are `scoringrules`, numerical integration, sampling, scikit-learn, MNE-Python and a linear program.
A measure that is wrong looks like a measure that is right, so nothing here is compared with itself.
"""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import scoringrules
from scipy import integrate, optimize, sparse, stats
from scipy.spatial.distance import cdist
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from calibrain import (
    BMN,
    MetricEvaluator,
    UncertaintyEstimator,
    coverage_curve,
    gamma_map,
    gamma_map_sflex,
)
from calibrain.evaluation import errors, scores
from calibrain.evaluation import evaluate as metrics
from calibrain.evaluation.transport import transport_cost
from calibrain.head.leadfield import Leadfield
from calibrain.posterior.gaussian import Posterior, selection

rng = np.random.default_rng(0)
X = rng.normal(size=(50, 7))
MEAN = rng.normal(size=(50, 7))
VAR = rng.lognormal(sigma=2, size=(50, 7))


def problem(k, seed=0, N=40, T=15, noise=1.0):
    "Leadfield, truth, sparse and dense answer"
    r = np.random.default_rng(seed)
    lf = Leadfield.random(16, N, k, seed=seed)
    x = np.zeros((N, k, T))
    x[r.choice(N, 4, replace=False)] = 10 * r.normal(size=(4, k, T))
    y = lf.matrix() @ x.reshape(N * k, T) + np.sqrt(noise) * r.normal(size=(16, T))
    return (
        lf,
        x,
        gamma_map(lf, y, noise_var=noise, n_orient=k, update_mode="fast"),
        BMN(lf, y, noise_var=noise, n_orient=k),
    )


def posterior_of(mean, blocks):
    "A posterior of given means `(N, k, T)` and blocks `(N, k, k)`"
    N, k, T = mean.shape
    S = sparse.block_diag([np.linalg.cholesky(b) for b in blocks], format="csr")
    return Posterior(
        np.ones(N * k),
        np.zeros((1, N * k)),
        sparse.linalg.spsolve(S.tocsc(), mean.reshape(N * k, T)).reshape(N * k, T),
        sparse.csr_array(S),
        k,
    )


# Scores: scoringrules and integration


def test_crps_is_that_of_scoringrules():
    np.testing.assert_allclose(
        scores.crps(X, MEAN, VAR),
        scoringrules.crps_normal(X, MEAN, np.sqrt(VAR)),
        rtol=1e-8,
        atol=1e-12,
    )


def test_interval_score_is_that_of_scoringrules():
    for level in (0.5, 0.9, 0.99):
        half = stats.norm.ppf((1 + level) / 2) * np.sqrt(VAR)
        np.testing.assert_allclose(
            scores.interval_score(X, MEAN, VAR, level),
            scoringrules.interval_score(X, MEAN - half, MEAN + half, 1 - level),
            rtol=1e-10,
        )


def test_log_score_is_that_of_scoringrules():
    near = np.abs(X - MEAN) < 30 * np.sqrt(VAR)  # beyond 38 standard deviations its density is 0
    np.testing.assert_allclose(
        scores.log_score(X, MEAN, VAR)[near],
        scoringrules.logs_normal(X, MEAN, np.sqrt(VAR))[near],
        rtol=1e-10,
        atol=1e-12,
    )
    np.testing.assert_allclose(
        scores.log_score(X, MEAN, 1e-8 * VAR),
        -stats.norm.logpdf(X, MEAN, 1e-4 * np.sqrt(VAR)),
        rtol=1e-12,
    )


@pytest.mark.parametrize("z", [0, 0.01, 1, 5, 30, 1e4])
def test_crps_by_integration(z):
    "∫(F(u) − 1[u ≥ x])² du in standard units"
    below = integrate.quad(
        lambda u: stats.norm.cdf(u) ** 2, -12, min(z, 12), epsabs=1e-13, limit=200
    )[0] + max(z - 12, 0)
    above = integrate.quad(
        lambda u: stats.norm.sf(u) ** 2, min(z, 12), 12, epsabs=1e-13, limit=200
    )[0]
    assert scores.crps(3 + 2 * z, 3.0, 4.0) == pytest.approx(2 * (below + above), rel=1e-9)


def test_point_masses():
    "The limit of a variance that goes to zero, and no division by it"
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(scores.crps([0.0, -3.0], 0.0, 0.0), [0, 3])
        np.testing.assert_allclose(scores.interval_score([0.0, -3.0], 0.0, 0.0, 0.8), [0, 30])
        np.testing.assert_array_equal(scores.log_score([0.0, -3.0], 0.0, 0.0), [np.nan, np.inf])
        np.testing.assert_array_equal(
            scores.energy_score(np.full((1, 2, 1), 3.0), np.zeros((1, 2, 1)), np.zeros((1, 2, 2))),
            [[np.sqrt(18)]],
        )
    np.testing.assert_allclose(scores.crps(3.0, 0.0, 1e-24), 3, rtol=1e-9)
    assert scores.crps(1.0, 0.0, 5e-324) == 1


def mean_norm_in_polar_coordinates(m, lam, n=20_000):
    """E‖Z‖ = ∫ dθ ∫ r² p(r cos θ, r sin θ) dr

    The inner integral has a closed form, the outer one is over a period.
    """
    m = np.array(m)
    lam = np.array(lam)
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    u = np.stack([np.cos(t), np.sin(t)])
    A = (u**2 / lam[:, None]).sum(0)
    B = (u * (m / lam)[:, None]).sum(0)
    C = (m**2 / lam).sum()
    b = B / A
    within = stats.norm.cdf(b * np.sqrt(A)) * np.sqrt(2 * np.pi / A)
    inner = np.exp((B * b - C) / 2) * (b**2 + 1 / A) * within
    inner += b / A * np.exp(-C / 2)
    integral = 2 * np.pi / n * inner.sum()
    return integral / (2 * np.pi * np.sqrt(lam.prod()))


@pytest.mark.parametrize(
    "m, lam", [((1.0, 2.0), (0.5, 3.0)), ((6.0, 0.0), (1.0, 1e-2)), ((0.5, -3.0), (2.0, 2.0))]
)
def test_mean_norm_in_two_dimensions(m, lam):
    assert scores.mean_norm(np.square(m), np.array(lam)) == pytest.approx(
        mean_norm_in_polar_coordinates(m, lam), rel=1e-9
    )


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("distance", [0.0, 0.3, 2.0, 40.0])
def test_mean_norm_is_the_mean_of_a_noncentral_chi(k, distance):
    "Where all variances are equal the length has a known distribution"
    from scipy.special import hyp1f1, poch

    want = (
        np.sqrt(2)
        * poch(k / 2, 0.5)
        * (hyp1f1(-0.5, k / 2, -(distance**2) / 2) if distance < 30 else 0)
    )
    if distance >= 30:
        want = distance * (1 + (k - 1) / (2 * distance**2) - (k - 1) * (k - 3) / (8 * distance**4))
    m2 = np.zeros(k)
    m2[-1] = distance**2
    assert 3 * scores.mean_norm(m2, np.ones(k)) == pytest.approx(
        scores.mean_norm(9 * m2, 9 * np.ones(k)), rel=1e-13
    )
    assert scores.mean_norm(m2, np.ones(k)) == pytest.approx(
        want, rel=1e-8 if distance < 30 else 1e-9
    )


@pytest.mark.parametrize("small", [1e-2, 1e-6, 1e-12, 0.0])
def test_mean_norm_of_flat_ellipsoids(small):
    "From a flat ellipsoid to a needle, whose E‖Z‖ is √(2/π): five times as many nodes on a wider range agree"
    lam = np.array([1.0, small, small / 3])
    got = scores.mean_norm(np.zeros(3), lam)
    nodes = scores._nodes(200, 3.8)
    fine = sum(
        -w * np.expm1(-np.log1p(2 * s * lam / lam.sum()).sum() / 2) for s, w in zip(*nodes)
    ) * np.sqrt(lam.sum())
    assert got == pytest.approx(fine, rel=1e-9)
    if small == 0:
        assert got == pytest.approx(np.sqrt(2 / np.pi), rel=1e-9)


def test_energy_score_of_one_component_is_the_crps():
    _N, _T = X.shape
    got = scores.energy_score(X[:, None], MEAN[:, None], VAR[:, :1, None])
    np.testing.assert_allclose(got, scores.crps(X, MEAN, VAR[:, :1]), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("k", [2, 3])
def test_energy_score_is_that_of_samples(k):
    r = np.random.default_rng(k)
    root = r.normal(size=(k, k))
    x = r.normal(size=k)
    m = r.normal(size=k)
    n = 500
    draws = [m + r.normal(size=(n, k)) @ root.T for _ in range(40)]
    found = np.array(
        [
            scoringrules.es_ensemble(x, d, m_axis=0, v_axis=1, backend="numpy", estimator="nrg")
            for d in draws
        ]
    )
    bias = (
        np.mean([cdist(d[:250], d[250:]).mean() for d in draws]) / 2 / n
    )  # the ensemble's own pairs count a draw with itself
    want = scores.energy_score(x[None, :, None], m[None, :, None], (root @ root.T)[None])[0, 0]
    assert abs(found.mean() - bias - want) < 5 * found.std() / np.sqrt(40)


def test_scores_scale_and_rotate():
    np.testing.assert_allclose(
        scores.crps(3 * X, 3 * MEAN, 9 * VAR), 3 * scores.crps(X, MEAN, VAR), rtol=1e-12
    )
    np.testing.assert_allclose(
        scores.interval_score(3 * X, 3 * MEAN, 9 * VAR),
        3 * scores.interval_score(X, MEAN, VAR),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        scores.log_score(3 * X, 3 * MEAN, 9 * VAR),
        scores.log_score(X, MEAN, VAR) + np.log(3),
        rtol=1e-12,
    )
    r = np.random.default_rng(3)
    x = r.normal(size=(5, 3, 4))
    m = r.normal(size=(5, 3, 4))
    root = r.normal(size=(5, 3, 3))
    Q = np.linalg.qr(r.normal(size=(3, 3)))[0]
    cov = root @ root.transpose(0, 2, 1)
    np.testing.assert_allclose(
        scores.energy_score(2 * Q @ x, 2 * Q @ m, 4 * Q @ cov @ Q.T),
        2 * scores.energy_score(x, m, cov),
        rtol=1e-9,
    )


@pytest.mark.parametrize("wrong", [dict(shift=0.5), dict(scale=0.6), dict(scale=1.7)])
@pytest.mark.parametrize("score", ["crps", "interval_score", "log_score", "energy_score"])
def test_nobody_does_better_than_the_truth(score, wrong):
    "Expected score over 20,000 draws: the truth beats every other, by far more than chance"
    r = np.random.default_rng(4)
    n = 20_000
    shift = wrong.get("shift", 0)
    scale = wrong.get("scale", 1)
    if score == "energy_score":
        root = np.array([[1, 0, 0], [0.5, 1, 0], [0, 0.3, 0.2]])
        x = (root @ r.normal(size=(3, n)))[None]
        var = (root @ root.T)[None]
    else:
        x = r.normal(size=n)
        var = 1.0
    of = getattr(scores, score)
    announced = of(x, np.full_like(x, shift), scale**2 * var)
    gap = announced - of(x, np.zeros_like(x), var)
    assert gap.mean() > 4 * gap.std() / np.sqrt(n)


def test_energy_score_sees_a_wrong_correlation():
    "which no score of the components can"
    r = np.random.default_rng(5)
    cov = np.array([[1, 0.9], [0.9, 1]])
    x = (np.linalg.cholesky(cov) @ r.normal(size=(2, 20_000)))[None]
    without_correlation = scores.energy_score(x, 0 * x, np.eye(2)[None])
    gap = without_correlation - scores.energy_score(x, 0 * x, cov[None])
    assert gap.mean() > 4 * gap.std() / np.sqrt(gap.size)


# Errors


def test_plain_errors():
    x = X[:, None]
    h = MEAN[:, None]
    e = (x - h).ravel()
    assert [
        errors.mse(x, h),
        errors.mae(x, h),
        errors.rmse(x, h),
        errors.rmae(x, h),
    ] == pytest.approx(
        [e @ e / e.size, np.abs(e).mean(), np.sqrt(e @ e / e.size), np.sqrt(np.abs(e).mean())]
    )
    assert errors.relative_error(x, h) == pytest.approx(np.linalg.norm(e) / np.linalg.norm(x))


def test_amplitude_error_and_bias():
    "Half as large again and half as large: errors of 50 % that cancel in the bias"
    x = np.zeros((3, 2, 4))
    x[0] = 3
    x[1] = -1
    h = x * np.array([1.5, 0.5, 1])[:, None, None] + np.array([0, 0, 7])[:, None, None]
    assert (
        errors.amplitude_error(x, h),
        errors.amplitude_error(x, h, signed=True),
    ) == pytest.approx((0.5, 0))


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("which", [0, 1], ids=["sparse", "dense"])
def test_detection_is_that_of_scikit_learn(k, which):
    _lf, x, *answers = problem(k, seed=k)
    r = answers[which]
    true = x.any((1, 2))
    strength = np.linalg.norm(r["posterior_mean"].reshape(x.shape), axis=(1, 2))
    assert errors.auc(x, r) == pytest.approx(roc_auc_score(true, strength), rel=1e-12)
    for rule in ("auto", "rank", "evidence"):
        got = errors.detection(x, r, rule)
        found = (
            errors.support(r) if got["rule"] == "evidence" else strength >= np.sort(strength)[-4]
        )
        assert [got["precision"], got["recall"], got["f1"]] == pytest.approx(
            precision_recall_fscore_support(true, found, average="binary")[:3]
        )
    assert errors.detection(x, r)["rule"] == ("evidence", "rank")[which]


def test_support_is_where_gamma_is_positive():
    _lf, _x, r, _ = problem(3)
    assert np.flatnonzero(errors.support(r)).tolist() == r["active_source_indices"].tolist()
    assert (errors.support(r) == errors.support(r.posterior)).all()


def test_support_with_a_basis_is_the_middle_of_each_patch():
    lf, x, *_ = problem(1, N=80)
    y = lf.matrix() @ x[:, 0] + np.random.default_rng(1).normal(size=(16, 15))
    r = gamma_map_sflex(
        lf.matrix(), y, noise_var=1.0, src_coords=lf.coords, sigma=0.01, update_mode="fast"
    )
    assert np.flatnonzero(errors.support(r)).tolist() == r["active_source_indices"].tolist()
    assert (
        errors.support(r.posterior).sum() > errors.support(r).sum()
    )  # a bare posterior knows the patches only


def test_sources_may_come_in_any_order():
    lf, x, r, _ = problem(3)
    h = r["posterior_mean"].reshape(x.shape)
    order = np.random.default_rng(6).permutation(40)
    for f in (
        errors.mse,
        errors.mae,
        errors.relative_error,
        errors.amplitude_error,
        errors.orientation_error,
        errors.auc,
    ):
        assert f(x[order], h[order]) == pytest.approx(f(x, h), rel=1e-12)
    for f in (errors.localisation_error, errors.emd):
        assert f(x[order], h[order], lf.coords[order]) == pytest.approx(f(x, h, lf), rel=1e-9)


def test_a_change_of_unit_changes_only_what_has_one():
    lf, x, r, _ = problem(3)
    h = r["posterior_mean"].reshape(x.shape)
    x_pam, h_pam = 1e3 * x, 1e3 * h
    for f in (errors.relative_error, errors.amplitude_error, errors.orientation_error, errors.auc):
        assert f(x_pam, h_pam) == pytest.approx(f(x, h), rel=1e-9)
    for f in (errors.localisation_error, errors.emd, errors.explained_variance):
        assert f(x_pam, h_pam, lf) == pytest.approx(f(x, h, lf), rel=1e-9)
    assert errors.mse(x_pam, h_pam) == pytest.approx(1e6 * errors.mse(x, h))


def test_orientation_error_by_the_textbook():
    _lf, x, r, _ = problem(3)
    h = r["posterior_mean"].reshape(x.shape)
    on = x.any((1, 2))
    a = x[on].transpose(0, 2, 1).reshape(-1, 3)
    b = h[on].transpose(0, 2, 1).reshape(-1, 3)
    lengths = np.linalg.norm(a, axis=1)
    angle = np.degrees(np.arccos((a * b).sum(1) / lengths / np.linalg.norm(b, axis=1)))
    assert errors.orientation_error(x, h) == pytest.approx(
        (angle * lengths).sum() / lengths.sum(), rel=1e-9
    )
    assert math.isnan(errors.orientation_error(x, 0 * x))


def test_small_angles_are_exact():
    x = np.zeros((1, 2, 1))
    x[0, 0] = 1
    h = np.array([1, 1e-9]).reshape(1, 2, 1)
    assert errors.orientation_error(x, h) == pytest.approx(np.degrees(1e-9), rel=1e-6)


def test_localisation_error_is_that_of_mne():
    "MNE's region localisation error at a threshold that leaves the same sources in both"
    import mne
    from mne.simulation.metrics import region_localization_error

    r = np.random.default_rng(7)
    coords = r.normal(scale=0.05, size=(30, 3))
    src = mne.SourceSpaces(
        [
            dict(
                rr=coords[:15],
                vertno=np.arange(15),
                nn=coords[:15],
                inuse=np.ones(15),
                nuse=15,
                np=15,
                type="surf",
                id=101,
                coord_frame=5,
            ),
            dict(
                rr=coords[15:],
                vertno=np.arange(15),
                nn=coords[15:],
                inuse=np.ones(15),
                nuse=15,
                np=15,
                type="surf",
                id=102,
                coord_frame=5,
            ),
        ]
    )
    x, h = np.zeros((2, 30, 1))
    x[[3, 8, 20], 0] = 1
    h[[4, 8, 27], 0] = 1
    stc = [mne.SourceEstimate(a, [np.arange(15)] * 2, 0, 1) for a in (x, h)]
    want = region_localization_error(*stc, src, threshold=0.0, per_sample=False)
    assert errors.localisation_error(x, h, coords) == pytest.approx(
        1e3 * float(np.squeeze(want)), rel=1e-9
    )


def test_only_as_many_places_as_there_are_sources():
    coords = np.array([[0, 0, 0], [0, 0, 0.01], [0, 0, 0.05], [0, 0, 0.09]])
    x, h = np.zeros((2, 4, 1))
    x[0] = 1
    h[:, 0] = [0.1, 3, 2, 1]
    assert errors.localisation_error(x, h, coords) == pytest.approx(10)
    x[3] = 1
    h[:, 0] = [2, 0, 0, 0]  # one of two: 0 and 90 mm to the nearest; nothing invented
    assert errors.localisation_error(x, h, coords) == pytest.approx((45 + 0) / 2)
    assert math.isnan(errors.localisation_error(x, 0 * h, coords))


def transport_by_linprog(a, b, D):
    "The linear program in full"
    n, m = D.shape
    rows = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return optimize.linprog(
        D.ravel(), A_eq=rows, b_eq=np.concatenate([a / a.sum(), b / b.sum()]), method="highs"
    ).fun


@pytest.mark.parametrize("seed", range(4))
def test_transport_is_the_linear_program(seed):
    r = np.random.default_rng(seed)
    a = r.random(9) * (r.random(9) < 0.6) + 1e-3
    b = r.random(9)
    b[: 2 * seed] = 0  # of the two masses either may be in more places
    coords = r.normal(size=(9, 3))
    D = cdist(coords, coords)
    assert transport_cost(a, b, coords) == pytest.approx(transport_by_linprog(a, b, D), rel=1e-9)
    assert transport_cost(b, a, coords) == pytest.approx(transport_by_linprog(b, a, D), rel=1e-9)


def test_transport_on_a_line_is_the_area_between_the_distributions():
    r = np.random.default_rng(8)
    a = r.random(30)
    b = r.random(30)
    at = np.sort(r.normal(size=30))
    assert transport_cost(a, b, at[:, None]) == pytest.approx(
        stats.wasserstein_distance(at, at, a, b), rel=1e-9
    )


def test_emd_without_pot(monkeypatch):
    lf, x, r, _ = problem(1)
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"pip install 'calibrain\[metrics\]'"):
        metrics.evaluate(x, r, lf, with_emd=True)
    assert "localisation_error" in metrics.evaluate(x, r, lf, with_emd=False)


def test_explained_variance_of_two_kinds_of_sensors():
    "Each kind counts the same, in whatever unit it measures"
    lf, x, r, _ = problem(1)
    h = r["posterior_mean"][:, None]
    L = lf.data
    both = Leadfield(L, unit=["fT/nAm"] * 6 + ["fT/cm/nAm"] * 10)
    one = [
        1 - np.sum((L[i, :, 0] @ (x - h)[:, 0]) ** 2) / np.sum((L[i, :, 0] @ x[:, 0]) ** 2)
        for i in (slice(6), slice(6, None))
    ]
    assert errors.explained_variance(x, r, both) == pytest.approx(np.mean(one))
    louder = Leadfield(L * np.repeat([1e3, 1], [6, 10])[:, None, None], unit=both.unit)
    assert errors.explained_variance(x, r, louder) == pytest.approx(np.mean(one))


# The record


@pytest.mark.parametrize("k", [1, 2, 3])
def test_record_is_what_the_parts_say(k):
    lf, x, r, dense = problem(k, seed=10 + k)
    for answer in (r, dense):
        got = metrics.evaluate(x, answer, lf)
        mean = answer["posterior_mean"].reshape(x.shape)
        var = answer.posterior.var.reshape(len(x), k)
        on = x.any((1, 2))
        there = var.any(1)
        crps = scoringrules.crps_normal(x[there], mean[there], np.sqrt(var[there])[:, :, None])
        assert got["crps_detected"] == pytest.approx(crps.mean(), rel=1e-8)
        assert got["log_score_detected"] == pytest.approx(
            scoringrules.logs_normal(x[there], mean[there], np.sqrt(var[there])[:, :, None]).mean(),
            rel=1e-8,
        )
        assert got["mse_active"] == pytest.approx(np.square(x - mean)[on].mean())
        assert got["n_active"] == 4
        assert got["n_active"] + got["n_silent"] == got["n_detected"] + got["n_pruned"] == 40
        assert got["n_pruned_active"] == (on & ~there).sum()
        assert ("energy_score" in got, "orientation_error" in got) == (k > 1, k > 1)
        assert got["emd"] == errors.emd(x, answer, lf)
        if got["n_pruned"] > got["n_pruned_active"]:
            assert math.isnan(got["log_score_silent"])
            assert not math.isfinite(got["log_score"])  # undefined, not left out
        flat = metrics.evaluate(x.reshape(40 * k, -1), answer, lf)
        assert dict(flat) == pytest.approx(dict(got), nan_ok=True)
        assert all(v is None or isinstance(v, (int, float, str)) for v in got.values())
        assert "energy_score" in got._repr_html_() or k == 1


@pytest.mark.parametrize("k", [1, 2, 3])
def test_record_leaves_everything_as_it_was(k):
    "Scores are made in place, of arrays of their own"
    lf, x, _, dense = problem(k, seed=20 + k)
    before = [x.copy(), dense.posterior.coeff_mean.copy()]
    assert dict(metrics.evaluate(x, dense, lf)) == dict(metrics.evaluate(x, dense, lf))
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(dense.posterior.coeff_mean, before[1])


def test_record_in_parts(monkeypatch):
    "However many sources are scored together, and with pruned ones between them"
    lf, x, sparse_answer, dense = problem(3, seed=30)
    for answer in (sparse_answer, dense):
        found = []
        for at_once in (1, 3 * x.shape[2] * 7, 10**7):
            monkeypatch.setattr(metrics, "_AT_ONCE", at_once)
            found.append(dict(metrics.evaluate(x, answer, lf)))
            del found[-1]["found_by"]
        for other in found[1:]:
            assert other == pytest.approx(found[0], rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_one_sample_one_source(k):
    r = np.random.default_rng(k)
    root = r.normal(size=(1, k, k))
    p = posterior_of(r.normal(size=(1, k, 1)), root @ root.transpose(0, 2, 1) + np.eye(k))
    got = metrics.evaluate(
        r.normal(size=(1, k, 1)), p, Leadfield(r.normal(size=(3, 1, k)), coords=np.zeros((1, 3)))
    )
    assert got["n_times"] == got["n_sources"] == 1
    assert got["emd"] == got["localisation_error"] == 0
    assert math.isnan(got["auc"])
    assert math.isfinite(got["crps"])
    assert math.isnan(got["crps_silent"])


def test_the_right_posterior_has_the_best_scores():
    "Truth drawn from the posterior: announced 30 % too narrow or too wide, every score of the record is worse"
    r = np.random.default_rng(11)
    root = r.normal(size=(300, 3, 3))
    blocks = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(3)
    mean = r.normal(size=(300, 3, 20))
    x = mean + np.linalg.cholesky(blocks) @ r.normal(size=mean.shape)
    right, narrow, wide = (
        metrics.evaluate(x, posterior_of(mean, s**2 * blocks)) for s in (1, 0.7, 1.3)
    )
    for name in ("crps", "interval_score", "log_score", "energy_score"):
        assert right[name] < min(narrow[name], wide[name])
    assert narrow["sharpness"] == pytest.approx(0.7 * right["sharpness"])
    assert wide["mse"] == pytest.approx(right["mse"])
    assert right["mse"] == pytest.approx(np.trace(blocks, axis1=1, axis2=2).mean() / 3, rel=0.05)


def test_pruned_sources_are_never_dropped():
    mean = np.zeros((4, 2, 3))
    blocks = np.tile(np.eye(2), (4, 1, 1))
    p = posterior_of(mean, blocks)
    p = replace(
        p,
        gamma=p.gamma[:4],
        V=p.V[:, :4],
        coeff_mean=p.coeff_mean[:4],
        S=selection(np.arange(4), 8),
    )  # sources 2 and 3 pruned
    x = np.zeros((4, 2, 3))
    x[0] = 1
    x[3, 1, 2] = 5  # source 3 active at one sample, in one component
    got = metrics.evaluate(x, p)
    assert (got["n_pruned"], got["n_pruned_active"]) == (2, 1)
    assert got["log_score_active"] == got["log_score_pruned"] == got["log_score"] == math.inf
    assert got["crps_pruned"] == pytest.approx(5 / 12)
    assert got["energy_score_pruned"] == pytest.approx(5 / 6)
    assert got["interval_score_pruned"] == pytest.approx(20 * 5 / 12)
    assert got["mean_posterior_std"] == 0.5
    x[3] = 0
    assert math.isnan(metrics.evaluate(x, p)["log_score_pruned"])
    assert metrics.evaluate(x, p)["crps_pruned"] == 0


def test_three_samples_are_no_three_components():
    "A truth of three samples with one component has the shape of sources in space"
    lf, x, sparse_answer, _ = problem(1, T=3)
    x = x.reshape(len(x), 3)
    record = metrics.evaluate(x, sparse_answer, lf, with_emd=False)
    assert record["explained_variance"] == errors.explained_variance(x, sparse_answer, lf)


def test_truth_in_space_with_a_leadfield_that_does_not_know_it():
    lf, x, answer, _ = problem(2)
    with pytest.raises(ValueError, match=r"reduce it with leadfield.project\(x_true\)"):
        metrics.evaluate(np.zeros((len(x), 3, x.shape[-1])), answer, lf.matrix())


def test_truth_in_space_for_two_components():
    meg = Leadfield.random(16, 40, 3, unit="fT/nAm").reduce_meg()
    _, x, *_ = problem(3)
    r = BMN(meg, meg.matrix() @ meg.project(x).reshape(80, -1), noise_var=0.1, n_orient=2)
    assert dict(metrics.evaluate(x, r, meg)) == pytest.approx(
        dict(metrics.evaluate(meg.project(x), r, meg)), nan_ok=True
    )
    with pytest.raises(
        ValueError, match=r"x_true must be of shape \(40, 2, 15\).*project\(x_true\)"
    ):
        metrics.evaluate(x, r)


# Bad input

LF, TRUE, SPARSE, DENSE = problem(3)
SILENT = np.zeros_like(TRUE)


@pytest.mark.parametrize(
    "call, error, says",
    [
        (
            lambda: metrics.evaluate(TRUE[1:], SPARSE),
            ValueError,
            r"x_true must be of shape \(40, 3, 15\) or \(120, 15\) like the estimate, got shape \(39, 3, 15\)",
        ),
        (lambda: metrics.evaluate(TRUE[:, :, 0], SPARSE), ValueError, "x_true must be of shape"),
        (
            lambda: metrics.evaluate(np.where(TRUE > 1, np.nan, TRUE), SPARSE),
            ValueError,
            "x_true must be finite, got [0-9]+ NaN",
        ),
        (
            lambda: metrics.evaluate(TRUE, TRUE),
            TypeError,
            "result must be a Result or a Posterior, got 'ndarray'",
        ),
        (
            lambda: metrics.evaluate(TRUE, SPARSE, level=0),
            ValueError,
            "level must be > 0 and < 1, got 0",
        ),
        (
            lambda: metrics.evaluate(TRUE, SPARSE, Leadfield.random(16, 39, 3)),
            ValueError,
            "leadfield must be of 40 sources",
        ),
        (
            lambda: metrics.evaluate(TRUE, replace(SPARSE.posterior, V=3 * SPARSE.posterior.V)),
            ValueError,
            r"cov must be >= 0, got -.* at index \([0-9]+, [0-2]\)",
        ),
        (
            lambda: metrics.evaluate(
                TRUE, replace(SPARSE.posterior, gamma=-SPARSE.posterior.gamma)
            ),
            ValueError,
            r"posterior.gamma must be >= 0, got -.* at index \([0-9]+,\)",
        ),
        (
            lambda: scores.crps(1.0, 0.0, [1.0, -2.0]),
            ValueError,
            r"var must be >= 0, got -2 at index \(1,\)",
        ),
        (
            lambda: scores.crps([1.0, 2.0, 3.0], 0.0, [1.0, 2.0]),
            ValueError,
            r"x and mean and var must be numbers, or of the same axes.*x \(3,\), mean \(\), var \(2,\)",
        ),
        (lambda: scores.energy_score(X, X, X), ValueError, r"x must be of shape \(any, any, any\)"),
        (
            lambda: errors.relative_error(SILENT, SPARSE),
            ValueError,
            "x_true must be active somewhere",
        ),
        (
            lambda: errors.amplitude_error(SILENT, SPARSE),
            ValueError,
            "x_true must be active somewhere",
        ),
        (
            lambda: errors.orientation_error(SILENT, SPARSE),
            ValueError,
            "x_true must be active somewhere",
        ),
        (lambda: errors.auc(SILENT, SPARSE), ValueError, "x_true must be active somewhere"),
        (lambda: errors.detection(SILENT, SPARSE), ValueError, "x_true must be active somewhere"),
        (
            lambda: errors.localisation_error(SILENT, SPARSE, LF),
            ValueError,
            "x_true must be active somewhere",
        ),
        (lambda: errors.emd(SILENT, SPARSE, LF), ValueError, "x_true must be active somewhere"),
        (
            lambda: errors.emd(TRUE, SPARSE, Leadfield(LF.data)),
            ValueError,
            "leadfield must be one with positions",
        ),
        (
            lambda: transport_cost([1.0, -1.0], [1.0, 1.0], np.zeros((2, 3))),
            ValueError,
            "a and b must be masses >= 0, got -1",
        ),
        (
            lambda: errors.explained_variance(SILENT, SPARSE, LF),
            ValueError,
            "x_true must be seen by the sensors",
        ),
        (lambda: errors.mse(TRUE[0, 0, 0], TRUE[0, 0, 0]), ValueError, "estimate must be of shape"),
    ],
)
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_truth_without_sources_still_has_a_record():
    got = metrics.evaluate(SILENT, SPARSE, LF)
    undefined = {n for n, v in got.items() if isinstance(v, float) and math.isnan(v)}
    assert undefined >= {
        "relative_error",
        "amplitude_error",
        "orientation_error",
        "auc",
        "f1",
        "emd",
        "localisation_error",
        "explained_variance",
        "crps_active",
        "energy_score_active",
    }
    assert math.isfinite(got["mse"])
    assert math.isfinite(got["crps"])
    assert got["n_found"] == errors.support(SPARSE).sum()


def test_an_estimate_of_zero_has_one_too():
    p = Posterior(np.ones(0), np.zeros((2, 0)), np.zeros((0, 15)), selection(np.arange(0), 120), 3)
    got = metrics.evaluate(TRUE, p, LF)
    assert (
        got["relative_error"],
        got["recall"],
        got["f1"],
        got["auc"],
        got["explained_variance"],
    ) == (1, 0, 0, 0.5, 0)
    assert all(
        math.isnan(got[n])
        for n in ("precision", "emd", "localisation_error", "orientation_error", "crps_detected")
    )


# The published names


@pytest.mark.parametrize("setting, k", [("fixed", 1), ("meg_free", 2), ("eeg_free", 3)])
def test_published_names(setting, k):
    lf, x, r, _ = problem(k)
    h = r["posterior_mean"]
    ue = UncertaintyEstimator([0.9, 0.5])
    me = MetricEvaluator(ue)
    flat = dict(x_true=x.reshape(40 * k, -1), x_hat=h, setting=setting)
    a, b = (
        np.linalg.norm(v.reshape(x.shape), axis=1) if k > 1 else v.reshape(40, -1) for v in (x, h)
    )
    assert [me.mse(**flat), me.mae(**flat), me.rmse(**flat), me.rmae(**flat)] == pytest.approx(
        [
            np.mean((a - b) ** 2),
            np.abs(a - b).mean(),
            np.sqrt(np.mean((a - b) ** 2)),
            np.sqrt(np.abs(a - b).mean()),
        ]
    )
    assert me.emd(**flat, coords=1e3 * lf.coords) == pytest.approx(errors.emd(x, r, lf), rel=1e-9)
    assert me.mean_posterior_std(
        posterior_uncert=r["posterior_cov"], setting=setting
    ) == pytest.approx(metrics.mean_posterior_std(r), rel=1e-9)
    assert me.mean_posterior_std(
        posterior_uncert=r["posterior_cov"], setting=setting, mode="aggregated", n_times=15
    ) == pytest.approx(metrics.mean_posterior_std(r, aggregated=True), rel=1e-9)
    for mode in ("pointwise", "aggregated"):
        for free in ("marginal", "full_cov"):
            got = me.evaluate_all(
                **flat,
                posterior_uncert=r["posterior_cov"],
                mode=mode,
                free_interval_type=free,
                V_tan=Leadfield.random(9, 40, 2).basis,
            )
            assert list(got) == [
                "mse",
                "mae",
                "rmse",
                "rmae",
                "mean_posterior_std",
                "calibration",
            ]
            assert sorted(got["calibration"]) == ["empirical", "metrics_4", "nominal"]
            want = coverage_curve(
                x, r, [0.5, 0.9], mode, "marginal" if free == "marginal" or k == 1 else "ellipsoid"
            )["all"]
            assert got["calibration"]["nominal"].tolist() == [0.5, 0.9]
            assert got["calibration"]["empirical"] == pytest.approx(want.empirical)
