"""Patches along the cortex: on shapes whose distances are known, and on every road to a solver."""

import mne
import numpy as np
import pytest
import realdata
from scipy.spatial import ConvexHull

from calibrain import (
    SourceEstimator,
    estimate_evoked,
    gamma_lambda_map_sflex,
    gamma_map_sflex,
    leave_channels_out,
    reml,
    template_leadfield,
)
from calibrain.head.basis import sflex_basis
from calibrain.head.cortex import cortex_from_src
from calibrain.head.geodesic import mesh_of, pairs_along
from calibrain.head.leadfield import Leadfield
from calibrain.head.prepared import prepare
from calibrain.head.template import template_cortex, template_mesh

pytestmark = pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.PlausibilityWarning",
    "ignore::calibrain.core.warnings.ConvergenceWarning",
    "ignore::calibrain.core.warnings.NoiseWarning",
)
WORST = 1 / np.cos(np.pi / 8)  # A way of steps in eight directions, by the straight line


def sheet(n_along, n_across, step):
    "A rectangular mesh in units of its own, and its triangles"
    x, y = np.meshgrid(np.arange(n_along), np.arange(n_across), indexing="ij")
    corner = (np.arange(n_along - 1)[:, None] * n_across + np.arange(n_across - 1)).ravel()
    lower = np.column_stack([corner, corner + n_across, corner + 1])
    upper = np.column_stack([corner + n_across, corner + n_across + 1, corner + 1])
    return step * np.column_stack([x.ravel(), y.ravel()]), np.concatenate([lower, upper])


def two_leaves():
    "Two sheets of 40 mm by 20 mm, 5 mm apart, joined at one edge; where along the sheet each is"
    flat, tris = sheet(41, 11, 0.002)
    on_second = flat[:, 0] > 0.04
    x = np.where(on_second, 0.08 - flat[:, 0], flat[:, 0])
    return np.column_stack([x, flat[:, 1], 0.005 * on_second]), tris, flat, on_second


def dense(pairs, n):
    "Distances of pairs as a matrix, infinite beyond their reach"
    D = np.full((n, n), np.inf)
    D[pairs.first, pairs.second] = D[pairs.second, pairs.first] = pairs.distance
    np.fill_diagonal(D, 0)
    return D


# ---- shapes


def test_on_a_plane_both_agree_within_the_error_of_the_graph():
    flat, tris = sheet(17, 17, 0.003)
    coords = np.column_stack([flat, np.zeros(len(flat))])
    D = dense(pairs_along((coords, tris), coords, 0.03), len(coords))
    air = np.linalg.norm(coords[:, None] - coords, axis=-1)
    near = D <= 0.03
    assert (D[near] >= air[near] - 1e-12).all() and (D[near] <= WORST * air[near] + 1e-12).all()
    assert near[air <= 0.03 / WORST].all()
    along = sflex_basis(coords, 0.01, normalize=None, distance="geodesic", surface=(coords, tris))
    plain = sflex_basis(coords, 0.01, normalize=None)
    bound = np.where(air <= 0.03, np.exp(-((WORST * air) ** 2) / 2e-4), 0)
    assert (along.toarray() <= plain.toarray() + 1e-12).all()
    assert (along.toarray()[near] >= bound[near] - 1e-12).all()


def test_on_a_sphere_ways_are_great_circles():
    "8 % too long at most, in the middle 1 %"
    i = np.arange(1500)
    height = 1 - (2 * i + 1) / 1500
    turn = np.pi * (1 + 5**0.5) * i
    radius = np.sqrt(1 - height**2)
    u = np.c_[radius * np.cos(turn), radius * np.sin(turn), height]
    tris = ConvexHull(u).simplices
    some = u[::5]
    pairs = pairs_along((0.08 * u, tris), 0.08 * some, 0.1)
    inner = (some[pairs.first] * some[pairs.second]).sum(1)
    ratio = pairs.distance / (0.08 * np.arccos(np.clip(inner, -1, 1)))
    assert ratio.min() > 0.99 and ratio.max() < WORST and np.median(ratio) < 1.02


def test_no_patch_reaches_the_other_leaf():
    "But around the fold, for sources that are near it"
    rr, tris, flat, on_second = two_leaves()
    along = sflex_basis(rr, 0.005, distance="geodesic", surface=(rr, tris)).toarray()
    plain = sflex_basis(rr, 0.005).toarray()
    from_fold = np.abs(flat[:, 0] - 0.041)
    away = from_fold > 0.015 + 0.002
    across = on_second[:, None] != on_second
    assert not along[:, away][across[:, away]].any()
    assert (plain[:, away] * across[:, away]).sum(0).min() > 0.2 * plain[:, away].sum(0).min()
    assert (along >= 0).all() and np.abs(along - along.T).max() < 1e-15
    near_fold = np.argmin(from_fold + np.abs(flat[:, 1] - 0.01))
    assert (along[:, near_fold] * across[:, near_fold]).sum() > 0.1 * along[:, near_fold].sum()


# ---- what a surface is


def test_every_form_of_a_surface():
    lf = template_leadfield("eeg", conductor="sphere", progress=False)
    mesh = template_mesh(lf)
    cortex = template_cortex(1284, "white")  # its hemispheres are 6 mm farther apart
    want = pairs_along(mesh, lf.coords, 0.02)
    half = len(mesh.rr) // 2
    left = mesh.tris[:, 0] < half
    src = mne.SourceSpaces(
        [
            dict(type="surf", rr=mesh.rr[:half], tris=mesh.tris[left]),
            dict(type="surf", rr=mesh.rr[half:], use_tris=mesh.tris[~left] - half),
            dict(type="vol", rr=np.zeros((1, 3))),
        ]
    )
    for surface in (cortex, (mesh.rr, mesh.tris), src):
        found = pairs_along(surface, lf.coords, 0.02)
        for one, other in zip(found, want):
            np.testing.assert_allclose(one, other, atol=1e-9)
    shuffled = np.random.default_rng(0).permutation(1284)
    D, moved = (dense(pairs_along(mesh, c, 0.02), 1284) for c in (lf.coords, lf.coords[shuffled]))
    np.testing.assert_allclose(moved, D[np.ix_(shuffled, shuffled)], atol=1e-12)


RR, TRIS, _, _ = two_leaves()
BAD = {
    "none": (None, "surface must be given where distance='geodesic', got None: pass surface="),
    "nonsense": ("white", "surface must be given where distance='geodesic', got str"),
    "elsewhere": ((RR + 0.01, TRIS), r"a mesh that holds the sources, got 451 of 451 sources away"),
    "other triangles": ((RR, TRIS + 1000), "with triangles of vertices 0 to 450"),
    "a volume": (mne.SourceSpaces([dict(type="vol")]), "a surface source space, got a volume"),
    "no triangles": (
        mne.SourceSpaces([dict(type="surf", rr=RR, tris=None)]),
        "with triangles, got a source space without",
    ),
    "NaN": ((np.full_like(RR, np.nan), TRIS), "surface must be finite"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_surface(what):
    surface, words = BAD[what]
    L, y = np.random.default_rng(0).normal(size=(2, 6, len(RR)))
    for solver in (gamma_map_sflex, gamma_lambda_map_sflex):
        noise = dict(noise_var=1.0) if solver is gamma_map_sflex else {}
        with pytest.raises((TypeError, ValueError), match=words):
            solver(L, y, src_coords=RR, distance="geodesic", surface=surface, **noise)


def test_two_sources_at_one_vertex_and_a_surface_for_nothing():
    twice = np.concatenate([RR, RR[:1]])
    with pytest.raises(ValueError, match="a vertex for each source, got several at one"):
        pairs_along((RR, TRIS), twice, 0.01)
    with pytest.raises(ValueError, match="surface must be None where distance='euclidean'"):
        sflex_basis(RR, surface=(RR, TRIS))
    with pytest.raises(ValueError, match="distance must be one of 'euclidean', 'geodesic'"):
        sflex_basis(RR, distance="along")


# ---- the roads


def test_arrays_a_leadfield_and_what_is_prepared():
    lf = template_leadfield("eeg", conductor="sphere", progress=False)
    mesh = template_mesh(lf)
    L = lf.matrix()
    y = L[:, [300, 301, 900]] @ np.random.default_rng(0).normal(scale=10, size=(3, 20))
    y += np.random.default_rng(1).normal(size=y.shape)
    params = dict(sigma=[0.008, 0.016], update_mode="fast", distance="geodesic")
    direct = gamma_map_sflex(L, y, 1.0, src_coords=lf.coords, surface=mesh, **params)
    B = sflex_basis(lf.coords, [0.008, 0.016], distance="geodesic", surface=mesh)
    np.testing.assert_array_equal(direct["B_spatial"].toarray(), B.toarray())
    by_head = gamma_map_sflex(lf, y, 1.0, **params)
    prepared = prepare(lf)
    fitted = SourceEstimator("gamma_map_sflex", params, noise_var=1.0).fit(prepared, y).predict()
    for found in (by_head, fitted):
        np.testing.assert_allclose(found.mean, direct.mean, atol=1e-10)
    n_kept = len(prepared._cache)
    SourceEstimator("gamma_map_sflex", params, noise_var=1.0).fit(prepared, 2 * y)
    assert len(prepared._cache) == n_kept
    nowhere = Leadfield(L, lf.coords)
    with pytest.raises(TypeError, match="surface must be given where distance='geodesic'"):
        gamma_map_sflex(nowhere, y, 1.0, **params)

    said = dict(components="msp", n_patches=20, distance="geodesic")
    along, air = reml(lf, y, **said), reml(lf, y, **said | dict(distance="euclidean"))
    assert along.cost != air.cost
    smooth = reml(lf, y, components="smooth", distance="geodesic")["B_operator"]
    assert (smooth != sflex_basis(lf.coords, distance="geodesic", surface=mesh)).nnz == 0


@realdata.needed
def test_a_forward_solution_brings_its_surface():
    "Along the mesh of the source space, whose order the estimates need not have"
    fwd = realdata.forward("eeg")
    evoked = realdata.evoked("Left visual").pick("eeg").crop(-0.1, 0.12)
    said = dict(tmin=0.1, tmax=0.12, orientation="fixed", progress=False)
    said["solver_params"] = dict(distance="geodesic", sigma=0.015)
    cov = realdata.covariance()
    est = estimate_evoked(evoked, fwd, cov, "gamma_map_sflex", **said)
    said["solver_params"] = said["solver_params"] | dict(surface=cortex_from_src(fwd["src"]))
    again = estimate_evoked(evoked, fwd, cov, "gamma_map_sflex", **said)
    np.testing.assert_allclose(est.result.mean, again.result.mean, atol=1e-9)
    B = sflex_basis(fwd["source_rr"], 0.015, distance="geodesic", surface=mesh_of(fwd["src"]))
    assert (est.result["B_spatial"] != B).nnz == 0
    assert "distance='geodesic'" in est.settings["parameters"]
    assert "surface" not in est.settings["parameters"]


def test_a_template_in_place_of_a_forward_solution():
    lf = template_leadfield("eeg", montage="biosemi32", conductor="sphere", progress=False)
    info = mne.create_info(list(lf.ch_names), 100.0, "eeg").set_montage("biosemi32")
    rng = np.random.default_rng(0)
    x = np.zeros((1284, 30))
    x[300] = 200 * np.hanning(30)
    data = 1e-6 * (lf.matrix() @ x + rng.normal(size=(32, 30)))
    evoked = mne.EvokedArray(data, info, tmin=-0.1, nave=1, verbose="ERROR")
    evoked.set_eeg_reference(projection=True, verbose="ERROR")
    cov = mne.make_ad_hoc_cov(info, dict(eeg=1e-6), verbose="ERROR")
    said = dict(tmin=0.0, tmax=0.15, orientation="fixed", progress=False)
    for solver in ("gamma_map_sflex", "gamma_lambda_map_sflex"):
        noise = "given" if solver == "gamma_map_sflex" else "learn"
        est = estimate_evoked(
            evoked, lf, cov, solver, noise=noise, solver_params=dict(distance="geodesic"), **said
        )
        B = sflex_basis(lf.coords, distance="geodesic", surface=template_mesh(lf))
        kept = est.result["B_spatial"] if "B_spatial" in est.result else est.result["B_operator"]
        assert abs(kept - B).max() < 1e-12
    base = dict(tmin=0.0, tmax=0.05, orientation="fixed")
    scores = [
        leave_channels_out(evoked, lf, cov, base | dict(solver_params=params), n_groups=2)
        for params in (dict(distance="geodesic"), dict(distance="euclidean"))
    ]
    assert np.isfinite(scores).all() and not np.array_equal(*scores)
