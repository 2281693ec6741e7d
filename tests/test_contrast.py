"""Contrasts of estimates made apart: dense twins, when the difference of the data says the same."""

from dataclasses import replace

import mne
import numpy as np
import pytest
import realdata
from scipy import stats
from test_regions import LABELS, TIMES, dense, estimate

from calibrain import EvokedPosterior, contrast, estimate_evoked
from calibrain.core.warnings import NotCalibratedWarning, NothingFoundWarning
from calibrain.posterior.gaussian import Posterior, selection
from calibrain.recording import contrast as contrasts
from calibrain.recording.contrast import MOST_STATES

TIGHT = dict(rtol=1e-10, atol=1e-10)
WEIGHTS = {"A": 1.5, "B": -0.5}


def pair(kind, k):
    "Two estimates with posteriors that differ"
    b = estimate(kind, k)
    p = b.posterior
    if isinstance(p, Posterior):
        p = replace(p, coeff_mean=p.coeff_mean[:, ::-1] * 0.7, V=p.V * 0.9)
    else:
        p = replace(p, weights=p.weights[::-1].copy())
    b = replace(b, result=replace(b.result, posterior=p), comment="B", nave=4)
    return {"A": replace(estimate(kind, k), nave=2), "B": b}


def joint(p):
    "Mean, and covariances at every sample, from the posterior's own dense answers"
    if isinstance(p, Posterior):
        return p.mean, np.tile(p.dense(), (TIMES, 1, 1))
    of = p.read_out(np.eye(p.n_coeff))
    return of.mean, of.cov


@pytest.mark.parametrize("kind", ["gaussian", "depth", "mixture", "patches"])
@pytest.mark.parametrize("k", [1, 3])
def test_means_and_variances_add(kind, k):
    of = pair(kind, k)
    found = contrast(WEIGHTS, of)
    (ma, Ca), (mb, Cb) = dense(kind, k), joint(of["B"].posterior)
    np.testing.assert_allclose(found.posterior.mean, 1.5 * ma - 0.5 * mb, **TIGHT)
    assert found.comment == "1.5 A − 0.5 B"
    assert found.nave == pytest.approx(1 / (2.25 / 2 + 0.25 / 4))
    A = np.random.default_rng(0).normal(size=(5, len(ma)))
    mine = found.posterior.read_out(A).cov
    cov = A @ (2.25 * Ca + 0.25 * Cb) @ A.T
    size = np.abs(cov).max()
    np.testing.assert_allclose(np.broadcast_to(mine, cov.shape), cov, atol=1e-10 * size)
    regions = found.regions(LABELS)
    each = [e.regions(LABELS) for e in of.values()]
    np.testing.assert_allclose(regions.mean, 1.5 * each[0].mean - 0.5 * each[1].mean, **TIGHT)
    variance = 2.25 * each[0].std ** 2 + 0.25 * each[1].std ** 2
    np.testing.assert_allclose(regions.std**2, variance, **TIGHT)


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_which_is_larger(kind):
    "P(A > B) of sources and regions, counted among draws of both"
    of = pair(kind, 1)
    found = contrast({"A": 1, "B": -1}, of)
    n = 6000
    a, b = (e.posterior.sample(n, seed) for seed, e in enumerate(of.values()))
    counted = (a > b).mean(0)
    np.testing.assert_allclose(found.greater().data, counted, atol=0.035)
    where = np.flatnonzero(np.isin(of["A"].vertices[0], LABELS[0].vertices))
    larger = (a[:, where].mean(1) > b[:, where].mean(1)).mean(0)
    np.testing.assert_allclose(found.regions(LABELS[0]).greater()[0], larger, atol=0.03)
    assert found.greater(1e-4).data.max() < 1e-6


def test_minus_is_a_contrast():
    of = pair("gaussian", 1)
    found = of["A"] - of["B"]
    assert found.weights == {"a tone": 1, "B": -1}
    same = of["A"] - of["A"]
    assert same.comment == "A − B"
    np.testing.assert_allclose(same.std.data, np.sqrt(2) * of["A"].std.data)
    with pytest.raises(TypeError):
        of["A"] - 3
    assert repr(found).startswith("<Contrast") and "estimated apart" in found._repr_html_()


def test_contrasts_that_share_an_estimate_are_refused():
    "(a − b) + (a − c) has 4 var a, and would be given 2"
    of = pair("gaussian", 1)
    a, b = of["A"], of["B"]
    c = replace(b, comment="C", result=replace(b.result, data="another"))
    for shared in ({"d": a - b, "e": a - c}, {"d": a - b, "a": a}, {"a": a, "d": a - b}):
        with pytest.raises(ValueError, match=r"twice, also in .*weigh the estimates themselves"):
            contrast(dict.fromkeys(shared, 1), shared)
    contrast({"d": 1, "c": 1}, {"d": a - b, "c": c})


# ---- when the difference of the data says the same


def solved(L, y, gamma, noise_var):
    "The Gaussian posterior of known variances, from the definition"
    C = gamma * L @ L.T + noise_var * np.eye(len(L))
    V = np.linalg.solve(np.linalg.cholesky(C), gamma * L)
    mean = gamma * L.T @ np.linalg.solve(C, y)
    n = L.shape[1]
    return Posterior(np.full(n, gamma), V, mean, selection(np.arange(n), n))


def as_estimate(posterior, nave, name):
    e = estimate("gaussian", 1)
    n = posterior.n_sources
    entries = e.result.entries | dict(coefficient_indices=np.arange(n))
    result = replace(e.result, posterior=posterior, entries=entries)
    where = dict(vertices=[np.arange(n), np.array([], int)], coords=e.coords[:n], basis=None)
    return replace(e, result=result, nave=nave, comment=name, **where)


def both(gammas, naves):
    "Estimated apart, and from the difference: two posteriors"
    rng = np.random.default_rng(3)
    L = rng.normal(size=(8, 15))
    ya, yb = rng.normal(size=(2, 8, 4))
    noise = [2.0 / n for n in naves]
    a, b = (solved(L, y, float(g), v) for y, g, v in zip((ya, yb), gammas, noise))
    apart = as_estimate(a, naves[0], "A") - as_estimate(b, naves[1], "B")
    return apart.posterior, solved(L, ya - yb, float(sum(gammas)), sum(noise))


@pytest.mark.parametrize("gammas, naves", [((3, 3), (10, 10)), ((1, 4), (20, 5))])
def test_they_agree_where_gains_do(gammas, naves):
    "nΓ the same in both, and Γ of the difference their sum: equal means and covariances"
    apart, together = both(gammas, naves)
    np.testing.assert_allclose(apart.mean, together.mean, **TIGHT)
    np.testing.assert_allclose(apart.dense(), together.dense(), **TIGHT)


def test_elsewhere_the_difference_has_lost_something():
    "Σ of the difference less Σ_A + Σ_B is positive semidefinite, and not zero"
    apart, together = both((3, 3), (30, 5))
    lost = np.linalg.eigvalsh(together.dense() - apart.dense())
    assert lost[0] > -1e-10 and lost[-1] > 1e-3


def test_the_difference_is_the_joint_posterior_of_what_is_shared_and_what_differs():
    "Dense, over shared sources and differences at once; as many epochs in both"
    rng = np.random.default_rng(4)
    L = rng.normal(size=(8, 15))
    ya, yb = rng.normal(size=(2, 8, 4))
    shared, differs, noise = 9.0, 0.5, 0.2
    M = np.block([[L, L / 2], [L, -L / 2]])  # of (c, δ)
    prior = np.diag(np.r_[np.full(15, shared), np.full(15, differs)])
    gain = prior @ M.T @ np.linalg.inv(M @ prior @ M.T + noise * np.eye(16))
    mean = (gain @ np.concatenate([ya, yb]))[15:]
    cov = (prior - gain @ M @ prior)[15:, 15:]
    together = solved(L, ya - yb, differs, 2 * noise)
    np.testing.assert_allclose(together.mean, mean, atol=1e-9)
    np.testing.assert_allclose(together.dense(), cov, atol=1e-9)


# ---- bad input


@pytest.mark.parametrize(
    "weights, error, words",
    [
        ({}, TypeError, "weights must be a dict of name → weight"),
        ([1, -1], TypeError, r'pass {"A": 1, "B": -1}'),
        ({"A": 1, "C": -1}, ValueError, "of names of estimates, which are 'A', 'B', got 'C'"),
        ({"A": 0, "B": 0}, ValueError, "zeros alone"),
        ({"A": np.nan}, ValueError, r"weights\['A'\] must be finite"),
    ],
)
def test_bad_weights(weights, error, words):
    with pytest.raises(error, match=words):
        contrast(weights, pair("gaussian", 1))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda e: dict(coords=e.coords + 0.001), "on one head.*another in 'B'"),
        (lambda e: dict(subject="sample"), "on one head"),
        (lambda e: dict(vertices=e.vertices[::-1]), "on one head"),
        (lambda e: dict(tmin=0.1), "in one window, 50 to 100 ms, 6 samples, got 100 to 150 ms"),
        (lambda e: dict(tstep=0.02), "pass the same tmin and tmax"),
    ],
)
def test_estimates_that_do_not_fit(change, words):
    of = pair("gaussian", 1)
    of["B"] = replace(of["B"], **change(of["B"]))
    with pytest.raises(ValueError, match=words):
        contrast(WEIGHTS, of)


def test_other_estimates_that_do_not_fit():
    a, b = pair("gaussian", 1)["A"], pair("mixture", 1)["B"]
    with pytest.raises(TypeError, match=r"of one kind.*use one solver"):
        a - b
    with pytest.raises(ValueError, match="on one head"):
        a - estimate("gaussian", 3)
    with pytest.raises(ValueError, match="the same more than once"):
        contrast(WEIGHTS, [a, a])
    with pytest.raises(TypeError, match=r"estimates\['B'\] must be what estimate_evoked returned"):
        contrast(WEIGHTS, {"A": a, "B": a.mean})
    with pytest.raises(TypeError, match="got a str"):
        contrast(WEIGHTS, "AB")
    vectors = estimate("gaussian", 3)
    with pytest.raises(ValueError, match="components='normal'"):
        (vectors - vectors).greater()
    with pytest.raises(ValueError, match="10 nAm are 10e-9"):
        (a - a).greater(10)


def chain(e, n, seed):
    "The same estimate with a posterior of many states, one like the one before"
    rng = np.random.default_rng(seed)
    p = e.posterior
    filled = [state for state in p.states if len(state.atoms)]
    states = []
    for kind in rng.integers(0, len(filled), n // 20).repeat(20):
        state = filled[kind]
        spread = np.sqrt(state.cov.diagonal())[:, None]
        moved = state.mean + spread * rng.normal(size=state.mean.shape)
        states.append(state._replace(mean=moved))
    weights = rng.uniform(0.5, 1.5, n)
    longer = replace(p, states=tuple(states), weights=weights / weights.sum())
    return replace(e, result=replace(e.result, posterior=longer))


def test_of_long_chains_an_even_part_of_the_pairs_says_what_all_say(monkeypatch):
    "Means and variances add, and who is larger is as probable as among all pairs"
    a, b = (chain(estimate("mixture", 1), 120, seed) for seed in (0, 1))
    found = a - b
    assert len(found.posterior.states) <= MOST_STATES < 120**2
    std = np.sqrt(a.posterior.var + b.posterior.var)
    apart = a.posterior.mean - b.posterior.mean
    np.testing.assert_allclose(found.posterior.mean, apart, atol=0.01 * std.max())
    np.testing.assert_allclose(found.posterior.std, std, rtol=0.01, atol=0.01 * std.max())
    monkeypatch.setattr(contrasts, "MOST_STATES", 120**2)
    of_all = a - b
    assert len(of_all.posterior.states) == 120**2
    np.testing.assert_allclose(found.greater().data, of_all.greater().data, atol=0.01)
    some = [e.regions(LABELS, mode="power") for e in (found, of_all)]
    np.testing.assert_allclose(some[0].std, some[1].std, rtol=0.03)


def test_states_that_come_often_are_held_once():
    a, b = (chain(estimate("mixture", 1), 100, seed) for seed in (0, 1))
    heavy = np.full(100, 0.05 / 99)
    heavy[7] = 0.95
    a = replace(a, result=replace(a.result, posterior=replace(a.posterior, weights=heavy)))
    found = (a - b).posterior
    assert len(found.states) < MOST_STATES / 4
    assert found.weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.mean, a.posterior.mean - b.posterior.mean, atol=0.02)


def test_mixtures_that_do_not_fit():
    b = estimate("mixture", 1)
    p = b.posterior
    coloured = replace(b, result=replace(b.result, posterior=replace(p, time_root=np.eye(TIMES))))
    with pytest.raises(ValueError, match="the same noise in time"):
        b - coloured


def test_what_is_said_of_error_bars():
    of = pair("mixture", 1)
    p = of["B"].posterior
    empty = replace(p, states=p.states[:1], weights=np.ones(1))
    of["B"] = replace(of["B"], result=replace(of["B"].result, posterior=empty))
    with pytest.warns(NothingFoundWarning, match="nothing was found in B"):
        found = contrast({"A": 1, "B": -1}, of)
    np.testing.assert_allclose(found.std.data, of["A"].std.data, atol=1e-20)
    of = pair("gaussian", 1)
    with pytest.warns(NotCalibratedWarning, match="do not hold for their differences"):
        found = replace(of["A"], calibration=object()) - of["B"]
    assert found.calibration is None


def test_a_file_keeps_the_contrast(tmp_path):
    found = contrast(WEIGHTS, pair("gaussian", 1))
    again = EvokedPosterior.load(found.save(tmp_path / "c.npz"))
    np.testing.assert_array_equal(again.mean.data, found.mean.data)
    np.testing.assert_array_equal(again.std.data, found.std.data)


@realdata.needed
@pytest.mark.filterwarnings("ignore:noise_cov was estimated")
def test_a_real_recording():
    "Two conditions of one call; MNE-Python's own difference of the evoked responses"
    evoked = [realdata.evoked(name) for name in ("Left Auditory", "Right Auditory")]
    said = dict(tmin=0.08, tmax=0.09, orientation="fixed", depth=0.8, progress=False)
    head = (realdata.forward("meg"), realdata.covariance(), "BMN")
    a, b = estimate_evoked(evoked, *head, **said)
    found = contrast({"Left Auditory": 1, "Right Auditory": -1}, [a, b])
    np.testing.assert_allclose(found.std.data**2, a.std.data**2 + b.std.data**2, rtol=1e-8)
    z = found.mean.data / found.std.data
    np.testing.assert_allclose(found.greater().data, stats.norm.cdf(z), atol=1e-9)
    difference = mne.combine_evoked(evoked, weights=[1, -1])
    together = estimate_evoked(difference, *head, **said)
    assert together.nave == pytest.approx(found.nave)
