"""Whatever reads a posterior takes both kinds, and averages no variance over time.

A mixture of one state is a Gaussian, so every number must be that of the Gaussian; of several
states, every number must be that of its moments sample by sample, by loops.
"""

import numpy as np
import pytest
from test_mixture import make

from calibrain import gamma_map
from calibrain.calibration.coverage import coverage_curve
from calibrain.calibration.credible_sets import credible_ellipsoid, membership
from calibrain.calibration.strata import point_masks
from calibrain.evaluation.errors import detection, support
from calibrain.evaluation.evaluate import evaluate, mean_posterior_std, sharpness
from calibrain.evaluation.scores import crps, energy_score, interval_score, log_score
from calibrain.head.leadfield import Leadfield
from calibrain.posterior.gaussian import Posterior, selection
from calibrain.posterior.mixture import Mixture, State
from calibrain.posterior.moments import as_moments, as_posterior
from calibrain.solvers.spike_slab import spike_slab
from calibrain.viz import (
    draw_convergence,
    draw_ellipse,
    draw_ellipses,
    draw_ellipsoid,
    draw_norms,
    draw_source_norms,
    draw_variance,
    draw_waveform,
    mean_set_size,
)
from calibrain.viz.estimates import draw_course, source_variance

orientations = pytest.mark.parametrize("k", [1, 2, 3])


def both(k, seed=0, N=9, T=6):
    "One Gaussian as a `Posterior` and as a `Mixture`, and a truth"
    rng = np.random.default_rng(seed)
    on = np.array([1, 4, 6])
    rows = (on[:, None] * k + np.arange(k)).ravel()
    gamma = rng.uniform(4, 9, len(rows))
    V = 0.4 * rng.normal(size=(2, len(rows)))
    mean = 5 * rng.normal(size=(len(rows), T))
    gaussian = Posterior(gamma, V, mean, selection(rows, N * k), k)
    state = State(on, mean, np.diag(gamma) - V.T @ V)
    x = np.zeros((N, k, T))
    x[[1, 4, 7]] = 5 * rng.normal(size=(3, k, T))
    x[:, :, 0] = 0
    return gaussian, Mixture((state,), np.ones(1), N, k, T), x


@orientations
def test_a_mixture_of_one_state_is_a_gaussian(k):
    gaussian, mixture, x = both(k)
    one, other = evaluate(x, gaussian), evaluate(x, mixture)
    assert list(one) == list(other)
    for name, value in one.items():
        if isinstance(value, float):
            assert other[name] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), name
        else:
            assert other[name] == value, name
    strata = ("all", "active", "silent", "detected", "pruned", "on", "claims")
    for mode in ("pointwise", "aggregated"):
        assert mean_posterior_std(mixture, mode == "aggregated") == pytest.approx(
            mean_posterior_std(gaussian, mode == "aggregated")
        )
        for region in ("marginal", "ellipsoid"):
            curves = [
                coverage_curve(x, p, mode=mode, region=region, strata=strata)
                for p in (gaussian, mixture)
            ]
            assert np.array_equal(curves[0].counts, curves[1].counts)
            for stratum in strata:
                sizes = [
                    mean_set_size([(x, p)], [0.5, 0.9], mode, region, stratum)
                    for p in (gaussian, mixture)
                ]
                assert sizes[1] == pytest.approx(sizes[0], rel=1e-9, nan_ok=True)
    for sample in (None, 2):
        sets = [credible_ellipsoid(p, 4, 0.8, sample) for p in (gaussian, mixture)]
        assert np.allclose(sets[0].radii, sets[1].radii)
        assert np.allclose(sets[0].centre, sets[1].centre)


@orientations
def test_scores_of_a_mixture_are_those_of_its_moments_at_each_sample(k):
    for seed in range(3):
        m = make(3 * seed + k - 1)
        x = m.sample(1, seed)[0].reshape(m.n_sources, k, m.n_times)
        x[0, :, 1] = 2.0
        mean, var = m.mean.reshape(x.shape), m.var.reshape(x.shape)
        record = evaluate(x, m)
        by_loops = dict(crps=[], interval_score=[], sharpness=[], std=[], energy=[], log=[])
        for n in range(m.n_sources):
            for t in range(m.n_times):
                at = x[n, :, t], mean[n, :, t], var[n, :, t]
                by_loops["crps"].append(crps(*at).mean())
                by_loops["log"].append(log_score(*at).mean())
                by_loops["interval_score"].append(interval_score(*at, 0.9).mean())
                by_loops["sharpness"].append(2 * 1.6448536269514722 * np.sqrt(at[2]).mean())
                by_loops["std"].append(np.sqrt(at[2].mean()))
                cov = m.blocks[n : n + 1, :, :, t]
                one = [a[n : n + 1, :, t : t + 1] for a in (x, mean)]
                by_loops["energy"].append(energy_score(*one, cov).item())
        expected = {name: np.mean(values) for name, values in by_loops.items()}
        for name in ("crps", "interval_score", "sharpness"):
            assert record[name] == pytest.approx(expected[name], rel=1e-9)
        log = np.inf if np.isposinf(by_loops["log"]).any() else expected["log"]
        assert record["log_score"] == pytest.approx(log, rel=1e-9, nan_ok=True)
        assert record["mean_posterior_std"] == pytest.approx(expected["std"], rel=1e-9)
        assert mean_posterior_std(m) == pytest.approx(expected["std"], rel=1e-9)
        assert sharpness(m) == pytest.approx(expected["sharpness"], rel=1e-9)
        if k > 1:
            assert record["energy_score"] == pytest.approx(expected["energy"], rel=1e-6)
        flat = np.repeat(var.mean(2, keepdims=True), m.n_times, 2)
        assert abs(crps(x, mean, flat).mean() - record["crps"]) > 1e-6  # what it must not be
        assert np.array_equal(support(m), m.inclusion > 0.5)
        assert detection(x, m, "rank")["n_found"] <= x.any((1, 2)).sum()


@orientations
def test_sizes_and_ellipsoids_follow_time(k):
    m = make(3 + k - 1)
    x = m.sample(1, 1)[0].reshape(m.n_sources, k, m.n_times)
    n = int(m.inclusion.argmax())
    radii = [credible_ellipsoid(m, n, 0.9, t).radii for t in range(m.n_times)]
    assert np.ptp(radii, axis=0).max() > 1e-3
    cov = m.blocks[n]
    for t in range(m.n_times):
        e = credible_ellipsoid(m, n, 0.9, t)
        on_the_rim = e.centre + e.axes[:, -1] * e.radii[-1]
        truth = x.copy()
        for inside, stretch in ((True, 0.999), (False, 1.001)):
            truth[n, :, t] = e.centre + stretch * (on_the_rim - e.centre)
            assert membership(truth, m, 0.9, region="ellipsoid")[n, t] == inside
        assert (e.radii**2).prod() == pytest.approx(
            np.linalg.det(cov[..., t])
            * (e.radii[-1] ** 2 / np.linalg.eigvalsh(cov[..., t])[-1]) ** k,
            rel=1e-6,
        )
    x[n, :, 0] = 1.0
    size = mean_set_size([(x, m)], [0.9], stratum="on").item()
    here = point_masks(x, m)["on"] & (m.inclusion > 0)[:, None, None]
    missed = (point_masks(x, m)["on"] & (m.inclusion == 0)[:, None, None]).sum()
    widths = 2 * 1.6448536269514722 * np.sqrt(m.var).reshape(x.shape)
    assert size == pytest.approx(widths[here].sum() / (here.sum() + missed), rel=1e-9)


@pytest.fixture(scope="module")
def sampled():
    "A result of `spike_slab` with two components, the truth, and the times"
    lf = Leadfield.random(16, 30, 2, seed=1)
    rng = np.random.default_rng(0)
    t = np.linspace(0, 1, 50)
    x = np.zeros((30, 2, 50))
    waves = np.stack([np.sin(2 * np.pi * (t + phase)) for phase in (0, 0.2)])
    x[[5, 17]] = 8 * np.array([1.0, -0.5])[:, None] * waves[:, None]
    L = lf.matrix()
    y = L @ x.reshape(60, 50)
    y += 0.1 * y.std() * rng.normal(size=y.shape)
    result = spike_slab(L, y, n_orient=2, n_sweeps=40, n_burn=10)
    return lf, x, t, result


def test_every_picture_of_a_sampled_result(sampled):
    _, x, t, result = sampled
    ax = draw_waveform(result, x, t, 5, level=0.95)
    rim = ax.collections[0].get_paths()[0].vertices[:, 1]
    upper = result.mean[10] + 1.959963984540054 * result.std[10]
    assert rim.max() == pytest.approx(upper.max(), rel=1e-9)
    assert source_variance(result).shape == (30, 50)
    draw_variance(result, x)
    draw_norms({"sampled": result}, x, t, 5)
    draw_source_norms({"sampled": result}, x)
    for sample in (None, 20):
        draw_ellipse(result, x, 5, sample)
        draw_ellipse(result.posterior, x, 5, sample)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(30, 3, 2)))[0]
    draw_ellipses(result, x, 5, 20, basis=basis)
    draw_ellipsoid(result, x, 5, 20, basis=basis)
    ax = draw_course(1e3 * t, result.mean[10], result.std[10])
    rim = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert rim.max() == pytest.approx((result.mean[10] + 1.96 * result.std[10]).max(), rel=1e-9)


def test_what_makes_no_sense_is_refused_by_name(sampled):
    _, _, t, result = sampled
    with pytest.raises(ValueError, match="it was sampled: its entries"):
        draw_convergence(result)
    words = "a mixture over supports, whose variance changes with time"
    for read in (as_moments, as_posterior):
        with pytest.raises(TypeError, match=words):
            read(result)
    with pytest.raises(ValueError, match="std must be of shape"):
        draw_course(t, result.mean[10], result.std[10][:-1])
    with pytest.raises(ValueError, match="std must be >= 0"):
        draw_course(t, result.mean[10], -1.0)


def test_a_record_of_a_sampled_result(sampled):
    lf, x, _, result = sampled
    record = evaluate(x, result, lf, with_emd=False)
    assert record["recall"] == 1 and record["n_found"] == len(result.active) // 2
    assert record["explained_variance"] > 0.9 and not result.nothing_found
    nobody = State(np.zeros(0, int), np.zeros((0, 50)), np.zeros((0, 0)))
    empty = Mixture((nobody,), np.ones(1), 30, 2, 50)
    assert evaluate(x, empty, lf, with_emd=False)["n_found"] == 0
    assert gamma_map(lf, lf.matrix() @ x.reshape(60, 50), 1.0, 2).nothing_found is False
