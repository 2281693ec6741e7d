"Heads of shells: the numbers of MNE-Python's own road, which is longer"

import mne
import mne.bem
import numpy as np
import pytest
from routine import some
from scipy.spatial import ConvexHull

from calibrain.head import average, shells
from calibrain.head.boundary import solid_angles
from calibrain.head.shells import conductor_of, mne_leadfield, tissue_shell

pytest.importorskip("nilearn", reason="template heads need nilearn: pip install 'calibrain[heads]'")


def potato(rng, n, size=0.08):
    "A closed surface of random corners, not symmetric in any way"
    u = average._even_directions(n) + 0.1 * rng.normal(size=(n, 3))
    rr = size * u / np.linalg.norm(u, axis=1, keepdims=True) * [1.0, 1.2, 0.9]
    tris = ConvexHull(rr).simplices
    a, b, c = (rr[tris[:, k]] for k in range(3))
    inward = np.einsum("ti,ti->t", np.cross(b - a, c - a), a) < 0
    return rr, np.where(inward[:, None], tris[:, ::-1], tris)


def nested(rng, n, skull):
    "Three shells in one another, the outermost first"
    rr, tris = potato(rng, n)
    sigmas = dict(scalp=0.3, skull=skull, brain=0.3)
    sizes = dict(scalp=1.2, skull=1.1, brain=1.0)
    return [tissue_shell(t, sigmas[t], sizes[t] * rr, tris) for t in sigmas]


@pytest.mark.parametrize("n_shells", [1, 3])
@pytest.mark.parametrize("skull", [0.006, 0.029, 0.031, 0.6])  # 0.03 is where MNE-Python turns
def test_potentials_are_those_of_mne(n_shells, skull):
    rng = np.random.default_rng(int(1000 * skull))
    shells = nested(rng, 60, skull)[-n_shells:]
    ours = conductor_of(shells)
    theirs = mne.make_bem_solution(shells, verbose="ERROR")
    for key in set(ours) - {"surfs", "solution"}:
        assert np.array_equal(ours[key], theirs[key]), key
    scale = np.abs(theirs["solution"]).max()
    outer = theirs["solution"][:60]
    np.testing.assert_allclose(ours["solution"], outer, rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize("seed", some(range(20), every=5))
def test_solid_angles_are_integrals(seed):
    "By their closed form, and by very many small pieces of each triangle"
    rng = np.random.default_rng(seed)
    rr, tris = potato(rng, 30)
    points = np.concatenate([0.3 * rr[:3], 2 * rr[3:6]])
    m = 60
    weights = np.array([(i, j, m - 1 - i - j) for i in range(m) for j in range(m - i)]) + 1 / 3
    weights /= weights.sum(1, keepdims=True)  # upright pieces; the others hang below
    hanging = np.array([(i, j, m - 2 - i - j) for i in range(m - 1) for j in range(m - 1 - i)])
    hanging = (hanging + 2 / 3) / (hanging + 2 / 3).sum(1, keepdims=True)
    weights = np.concatenate([weights, hanging])
    expected = np.zeros((len(points), len(rr)))
    for tri in tris:
        corners = rr[tri]
        area = np.cross(corners[1] - corners[0], corners[2] - corners[0]) / 2 / m**2
        away = weights @ corners - points[:, None]
        angle = (away @ area) / np.linalg.norm(away, axis=-1) ** 3
        expected[:, tri] += angle @ weights
    np.testing.assert_allclose(solid_angles(points, rr, tris), expected, atol=2e-3)
    inside = np.r_[np.full(3, 4 * np.pi), np.zeros(3)]
    np.testing.assert_allclose(solid_angles(points, rr, tris).sum(1), inside, atol=1e-4)


def test_points_in_the_plane_of_a_triangle():
    "On an edge drawn further, where a logarithm has no value, the surface is seen edge-on"
    rr = np.vstack([np.eye(3), -np.eye(3)])
    tris = ConvexHull(rr).simplices
    centre = rr[tris].mean(1)
    normal = np.cross(rr[tris[:, 1]] - rr[tris[:, 0]], rr[tris[:, 2]] - rr[tris[:, 0]])
    inward = (normal * centre).sum(1) < 0
    tris = np.where(inward[:, None], tris[:, ::-1], tris)
    beyond = np.array([[2.0, -1, 0], [0.5, 0.5, 1], [-3, 0, 4]])
    seen = solid_angles(beyond, rr, tris)
    assert np.isfinite(seen).all()
    np.testing.assert_allclose(seen.sum(1), 0, atol=1e-9)


def whole_road(eeg, n, conductivity=None):
    "A leadfield of the template with nothing but MNE-Python"
    info = average.place_sensors("biosemi64" if eeg else "neuromag")
    sigmas = average.check_conductivity(conductivity, "bem").values()
    shells = average._bem(eeg, n, *sigmas)["surfs"]
    model = mne.make_bem_solution(shells, verbose="ERROR")
    places, normals = average.average_sources(1284)
    return mne_leadfield(info, model, places, normals)


SMALLER = [("eeg", 300, None), ("meg", 500, None), ("eeg", 300, 0.05)]
AS_USERS_GET_THEM = some([None, ("eeg", 1000, None), ("meg", 2000, None)], every=3)[1:]


@pytest.mark.parametrize("kind, n, skull", SMALLER + AS_USERS_GET_THEM)
def test_template_leadfields_are_those_of_mne(kind, n, skull, monkeypatch):
    conductivity = None if skull is None else dict(skull=skull)
    monkeypatch.setattr(average, "_CORNERS", {kind: n})
    montage = dict(eeg="biosemi64", meg="neuromag")[kind]
    sources = average.average_sources(1284)
    ours = average.average_leadfield(*sources, montage, conductivity=conductivity)
    theirs = whole_road(kind == "eeg", n, conductivity)
    for name in ("coords", "normals"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-12)
    assert ours.ch_names == theirs.ch_names and ours.unit == theirs.unit
    for unit in set(ours.units):
        rows = np.array(ours.units) == unit
        size = np.linalg.norm(theirs.data[rows], axis=(0, 2))
        apart = np.linalg.norm(ours.data[rows] - theirs.data[rows], axis=(0, 2))
        assert (apart / size).max() < 1e-10


def test_sources_outside_the_head_are_not_lost_in_silence():
    places, normals = average.average_sources(1284)
    places[7] *= 2
    for montage in ("neuromag", "biosemi64"):
        with pytest.raises(RuntimeError, match="1 of 1284 sources"):
            average.average_leadfield(places, normals, montage)


@pytest.mark.parametrize("unit", [1e-3, 1, 2, 100])
def test_solid_angles_have_no_unit(unit):
    "Also at the corners, where the logarithm of an edge has a zero in it"
    octahedron = np.vstack([np.eye(3), -np.eye(3)])
    upper = np.array([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2]])
    tris = np.vstack([upper, np.where(upper == 2, 5, upper)[:, ::-1]])
    seen = solid_angles(unit * octahedron, unit * octahedron, tris)
    np.testing.assert_allclose(seen, solid_angles(octahedron, octahedron, tris), atol=1e-12)


def test_a_source_may_be_at_the_centre_of_a_shell():
    octahedron = np.vstack([np.eye(3), -np.eye(3)])
    upper = np.array([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2]])
    tris = np.vstack([upper, np.where(upper == 2, 5, upper)[:, ::-1]])
    shell = dict(rr=octahedron, tris=tris)
    shells._check_within(np.zeros((1, 3)), shell)
    with pytest.raises(RuntimeError, match="1 of 1 sources are outside"):
        shells._check_within(np.array([[2.0, 0, 0]]), shell)
