"""Points and patches: what is simulated, what is assumed, and the word where they differ."""

import warnings

import numpy as np
import pytest

from calibrain import (
    BMN,
    SensorSimulator,
    SourceEstimator,
    SourceSimulator,
    as_patches,
    coverage_curve,
    gamma_map,
    gamma_map_sflex,
    spike_slab,
)
from calibrain.core.warnings import PlausibilityWarning
from calibrain.evaluation.evaluate import evaluate
from calibrain.head.basis import sflex_basis
from calibrain.head.leadfield import Leadfield

RNG = np.random.default_rng(0)
COORDS = RNG.uniform(-0.04, 0.04, (300, 3))
HEAD = Leadfield(0.1 * RNG.standard_normal((40, 300)), coords=COORDS)


def points(seed=1, n=3):
    return SourceSimulator().simulate(n_sources=300, nnz=n, seed=seed)[0]


def solved(x, solver, **params):
    _, y, noise, _ = SensorSimulator().simulate(x, HEAD, alpha_SNR=0.7, seed=4)
    return solver(HEAD, y, noise.var(), **params)


def estimated(x, solver, **params):
    "The same by an estimator, whose results know positions"
    _, y, noise, _ = SensorSimulator().simulate(x, HEAD, alpha_SNR=0.7, seed=4)
    return SourceEstimator(solver, params, noise.var()).fit(HEAD, y).predict()


def said(x, result):
    "What is warned of, by both functions"
    texts = []
    for judge in (coverage_curve, evaluate):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            judge(x, result)
        texts.append([str(w.message) for w in seen if w.category is PlausibilityWarning])
    assert texts[0] == texts[1]
    return " ".join(texts[0])


FAST = dict(update_mode="fast")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("solve", [solved, estimated])
def test_points_for_patches(solve, seed):
    x = points(seed)
    text = said(x, solve(x, gamma_map_sflex, **FAST))
    assert "sources are points" in text and "as_patches" in text and "gamma_map" in text


@pytest.mark.parametrize("seed", range(4))
def test_patches_for_points(seed):
    x = as_patches(points(seed), HEAD)
    text = said(x, estimated(x, gamma_map, **FAST))
    assert "sources are patches" in text and "gamma_map_sflex" in text


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("solve", [solved, estimated])
def test_what_agrees_says_nothing(solve, seed):
    x = points(seed)
    assert said(x, solve(x, gamma_map, **FAST)) == ""
    assert said(x, solve(x, gamma_map_sflex, sigma=0.002, **FAST)) == ""
    x = as_patches(x, HEAD)
    assert said(x, solve(x, gamma_map_sflex, **FAST)) == ""
    assert said(x, solve(x, BMN)) == ""  # assumes neither


def test_a_dictionary_of_points_and_patches_has_either():
    x = points()
    quick = dict(n_sweeps=20, n_burn=8, n_chains=2, patches=(0.0, 0.01), src_coords=COORDS)
    assert said(x, solved(x, spike_slab, **quick)) == ""


def test_free_orientation():
    x3 = np.stack([points(), -0.5 * points(), points()], axis=1)
    L = Leadfield(0.1 * np.random.default_rng(2).standard_normal((40, 300, 3)), coords=COORDS)
    for x, expected in ((x3, "points"), (as_patches(x3, L), "")):
        _, y, noise, _ = SensorSimulator().simulate(x, L, alpha_SNR=0.8, seed=4)
        result = gamma_map_sflex(L, y, noise.var(), **FAST)
        assert (expected in said(x, result)) and bool(expected) == bool(said(x, result))


def test_patches_are_the_columns_of_the_solvers_basis():
    x = points(n=1)
    centre = int(np.flatnonzero(x.any(1))[0])
    B = sflex_basis(COORDS, 0.01).toarray()[:, centre]
    np.testing.assert_allclose(as_patches(x, HEAD), np.outer(B / B.max(), x[centre]))
    np.testing.assert_allclose(as_patches(x, COORDS)[centre].max(), x[centre].max(), rtol=0.2)
    two = as_patches(points(n=2), HEAD)
    parts = [np.where((np.arange(300) == i)[:, None], points(n=2), 0) for i in range(300)]
    total = sum(as_patches(p, HEAD) for p in parts if p.any())
    np.testing.assert_allclose(two, total)


def test_what_cannot_be_a_patch():
    with pytest.raises(ValueError, match="positions"):
        as_patches(points(), Leadfield(HEAD.data))
    with pytest.raises(ValueError, match="src_coords"):
        as_patches(points(), COORDS[:5])
    with pytest.warns(PlausibilityWarning, match="no source has a neighbour"):
        np.testing.assert_allclose(as_patches(points(), HEAD, sigma=1e-6), points())


def test_coverage_where_a_source_is_on():
    "The reason for all of this"
    on = {}
    for truth in ("points", "patches"):
        counts = totals = 0
        for seed in range(6):
            x = points(seed) if truth == "points" else as_patches(points(seed), HEAD)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                curve = coverage_curve(x, solved(x, gamma_map_sflex, **FAST), [0.9], strata=["on"])
            counts, totals = counts + curve["on"].counts[0], totals + curve["on"].total
        on[truth] = counts / totals
    assert on["points"] < 0.5 and on["patches"] > 0.75
