"""Patches of several widths at once: what they are, that no width is favoured, what reads them.

A line of sources through smooth fields, and random leadfields with several orientations.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from problems import random_problem

from calibrain import SourceEstimator, gamma_lambda_map_sflex, gamma_map_sflex
from calibrain.core.archive import read_arrays, write_arrays
from calibrain.evaluation.errors import support
from calibrain.head.basis import expand, sflex_basis
from calibrain.head.leadfield import Leadfield
from calibrain.posterior.result import result_from_arrays, result_to_arrays
from calibrain.solvers.common import setup, solve, start_scale
from calibrain.solvers.told import Noise, check_search
from calibrain.solvers.widths import Patches

pytestmark = pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.ConvergenceWarning",
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
    "ignore::calibrain.core.warnings.PlausibilityWarning",
)
WIDTHS = (0.004, 0.02)
LINE = np.column_stack([0.004 * np.arange(60), np.zeros(60), np.zeros(60)])
SENSORS = np.linspace(0, 0.236, 24)
FIELD = np.exp(-((SENSORS[:, None] - LINE[:, 0]) ** 2) / (2 * 0.012**2))
FAST = dict(src_coords=LINE, update_mode="fast")


def recording(seed, *patches):
    "Patches (centre, width, nAm) that are on, seen by the sensors in noise of variance 1"
    rng = np.random.default_rng(seed)
    x = np.zeros((60, 80))
    for centre, width, size in patches:
        weight = sflex_basis(LINE, width, normalize=None)[:, [centre]].toarray()
        x += size * weight * rng.normal(size=80)
    return FIELD @ x + rng.normal(size=(24, 80))


# ---- what the basis is


def test_one_width_in_a_list_is_one_width():
    L, y, noise_var, k, coords = random_problem(5)
    one = gamma_map_sflex(L, y, noise_var, k, src_coords=coords, sigma=0.01)
    listed = gamma_map_sflex(L, y, noise_var, k, src_coords=coords, sigma=[0.01])
    np.testing.assert_array_equal(one.mean, listed.mean)
    assert one.cost == listed.cost and (one["patch_width"] == 0.01).all()
    np.testing.assert_array_equal(one["patch_centre"], np.arange(len(coords)))


def test_columns_are_patches_about_their_centres():
    B = sflex_basis(LINE, WIDTHS)
    assert B.shape == (60, 120)
    y = recording(0, (20, 0.02, 6))
    r = gamma_map_sflex(FIELD, y, 1.0, sigma=WIDTHS, **FAST)
    for j in (0, 17, 60, 77, 119):
        alone = sflex_basis(LINE, r["patch_width"][j])[:, [r["patch_centre"][j]]]
        np.testing.assert_array_equal(B[:, [j]].toarray(), alone.toarray())
    np.testing.assert_array_equal(r["B_spatial"].toarray(), B.toarray())


@pytest.mark.parametrize(
    "sigma, words",
    [
        ([], "one width or several different ones"),
        ([0.01, 0.01], "one width or several different ones"),
        ([0.01, -0.02], "sigma must be finite and > 0, got -0.02"),
        ("wide", "sigma must be a real number"),
        ([[0.01, 0.02]], "sigma must be a real number"),
    ],
)
def test_what_is_no_width(sigma, words):
    with pytest.raises((TypeError, ValueError), match=words):
        gamma_map_sflex(FIELD, recording(0, (20, 0.02, 6)), 1.0, src_coords=LINE, sigma=sigma)


# ---- the posterior


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("learned", [False, True])
def test_source_space_by_dense_matrices(k, learned):
    "Mean, covariance and evidence from BΓBᵀ alone, at the γ that were found"
    rng = np.random.default_rng(k)
    L = rng.normal(size=(20, 15 * k))
    coords = rng.normal(scale=0.02, size=(15, 3))
    y = L[:, :k] @ rng.normal(size=(k, 40)) * 3 + rng.normal(size=(20, 40))
    said = dict(n_orient=k, src_coords=coords, sigma=[0.005, 0.01, 0.03], update_mode="fast")
    if learned:
        r = gamma_lambda_map_sflex(L, y, **said)
        noise = r["lambdas"]
        B = r["B_operator"].toarray()
    else:
        r = gamma_map_sflex(L, y, 1.0, **said)
        noise = np.ones(20)
        B = expand(r["B_spatial"], k).toarray()
    assert B.shape == (15 * k, 45 * k)
    prior = (B * r["gammas_full"]) @ B.T
    Sigma = L @ prior @ L.T + np.diag(noise)
    gain = np.linalg.solve(Sigma, L @ prior).T
    size = np.abs(r.mean).max()
    np.testing.assert_allclose(r.mean, gain @ y, atol=1e-8 * size)
    np.testing.assert_allclose(r["posterior_cov"], prior - gain @ L @ prior, atol=1e-8 * size**2)
    cost = np.linalg.slogdet(Sigma)[1] + np.trace(np.linalg.solve(Sigma, y @ y.T)) / 40
    assert r.cost == pytest.approx(cost, rel=1e-9)


# ---- no width is favoured, and several are not worse than one


@pytest.mark.parametrize("mode", ["fast", "convex", "mackay"])
def test_scaling_the_patches_of_a_width_changes_nothing(mode):
    """ℒ is the same for columns a b and γ / a², and so is the way down: the start scales as well.

    The fixed points call a γ zero below the rounding of the largest start, which is another one.
    """
    y = recording(3, (20, 0.02, 6), (45, 0.004, 12))
    s = setup(FIELD, y, 1, Patches(LINE, sigma=WIDTHS))
    a = np.repeat([1.0, 1000.0], 60)
    G = s.problem.G * a
    gamma = np.repeat([start_scale(G[:, :60], y)[0], start_scale(G[:, 60:], y)[0]], 60)
    B = s.basis.matrix().multiply(a).tocsr()
    columns = SimpleNamespace(columns=lambda some: B[:, some], coords=LINE)
    scaled = replace(s, basis=columns, gamma=gamma, problem=replace(s.problem, G=G))
    search = check_search(40, 0.0, None, mode, None, False)
    plain, other = (solve(one, Noise(np.ones(24)), search) for one in (s, scaled))
    assert other.at.cost == pytest.approx(plain.at.cost, rel=1e-9 if mode == "fast" else 1e-7)
    size = plain.posterior.std.max()
    np.testing.assert_allclose(other.posterior.std, plain.posterior.std, atol=1e-4 * size)
    live = plain.at.gamma > 1e-6 * plain.at.gamma.max()
    np.testing.assert_allclose((a**2 * other.at.gamma)[live], plain.at.gamma[live], rtol=1e-4)


@pytest.mark.parametrize("mode", ["fast", "convex"])
@pytest.mark.parametrize("patch", [(20, 0.02, 6), (45, 0.004, 12)])
def test_never_above_the_best_single_width(patch, mode):
    for seed in range(3):
        y = recording(seed, patch)
        said = FAST | dict(update_mode=mode, max_iter=100)
        both = gamma_map_sflex(FIELD, y, 1.0, sigma=WIDTHS, **said)
        alone = [gamma_map_sflex(FIELD, y, 1.0, sigma=one, **said).cost for one in WIDTHS]
        assert both.cost <= min(alone) + 1e-9 * abs(both.cost), f"seed {seed}"
        learned = gamma_lambda_map_sflex(FIELD, y, sigma=WIDTHS, **said)
        alone = [gamma_lambda_map_sflex(FIELD, y, sigma=one, **said).cost for one in WIDTHS]
        assert learned.cost <= min(alone) + 1e-9 * abs(learned.cost), f"seed {seed}, learned"
        cost = both.history["cost"]
        assert len(cost) == both.n_iter + 1 and (np.diff(cost) <= 1e-9 * np.abs(cost[1:])).all()


def test_two_widths_are_found():
    "The strongest patch of each width is within 4 mm of its place, in 10 of 10"
    for seed in range(10):
        r = gamma_map_sflex(
            FIELD, recording(seed, (20, 0.02, 6), (45, 0.004, 12)), 1.0, sigma=WIDTHS, **FAST
        )
        power = r["gammas_full"] * r["B_spatial"].power(2).sum(0)
        narrow, wide = power[:60], power[60:]
        assert abs(wide.argmax() - 20) <= 1 and abs(narrow.argmax() - 45) <= 1, f"seed {seed}"
        others = np.sort(power)[:-2].max()
        assert others < 0.01 * min(narrow.max(), wide.max()), f"seed {seed}"


# ---- what reads it


def test_active_sources_are_centres(tmp_path):
    y = recording(1, (20, 0.02, 6), (45, 0.004, 12))
    r = gamma_lambda_map_sflex(FIELD, y, sigma=WIDTHS, **FAST)
    centres = np.unique(r["patch_centre"][r["active_indices"]])
    np.testing.assert_array_equal(r["active_source_indices"], centres)
    np.testing.assert_array_equal(np.flatnonzero(support(r)), centres)
    assert r["active_indices"].max() >= 60
    rows = np.ix_(centres, centres)
    np.testing.assert_allclose(r["posterior_cov_active"], r["posterior_cov"][rows], atol=1e-9)
    assert r["posterior_cov_coeff"].shape == (120, 120)

    write_arrays(tmp_path / "r.npz", result_to_arrays(r))
    again = result_from_arrays(read_arrays(tmp_path / "r.npz"))
    for name in r:
        value, kept = r[name], again[name]
        if hasattr(value, "toarray"):
            value, kept = value.toarray(), kept.toarray()
        np.testing.assert_allclose(kept, value, atol=1e-12, err_msg=name)


def test_complex_and_few_components_and_the_record():
    "Every road: complex samples, time components, a Leadfield with positions of its own"
    y = recording(2, (20, 0.02, 6), (45, 0.004, 12))
    z = y[:, :40] + 1j * y[:, 40:]
    plain = gamma_map_sflex(FIELD, y, 1.0, sigma=WIDTHS, **FAST)
    of_complex = gamma_map_sflex(FIELD, z, 1.0, sigma=WIDTHS, **FAST)
    np.testing.assert_allclose(
        of_complex["posterior_mean_coeff"].real, plain["posterior_mean_coeff"][:, :40], atol=1e-9
    )
    few = gamma_map_sflex(FIELD, y, 1.0, sigma=WIDTHS, n_components="auto", **FAST)
    assert few["n_components"] == 2 and few.mean.shape == (60, 80)
    lf = Leadfield(FIELD, LINE)
    params = dict(sigma=list(WIDTHS), update_mode="fast")
    found = SourceEstimator("gamma_map_sflex", params, noise_var=1.0).fit(lf, y).predict()
    np.testing.assert_allclose(found.mean, plain.mean, atol=1e-12)
    np.testing.assert_array_equal(found.coords, LINE)


def test_a_start_that_is_given_is_the_only_one():
    "By patch, in the order of the columns"
    y = recording(2, (20, 0.02, 6))
    only_wide = np.repeat([0.0, 1.0], 60)
    r = gamma_map_sflex(
        FIELD, y, 1.0, sigma=WIDTHS, init_gamma=only_wide, max_iter=3, src_coords=LINE
    )
    assert r["active_indices"].min() >= 60
    with pytest.raises(ValueError, match="init_gamma must be a number or of length 120"):
        gamma_map_sflex(FIELD, y, 1.0, sigma=WIDTHS, init_gamma=np.ones(60), src_coords=LINE)
