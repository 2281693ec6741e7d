"Maps on the cortex: which way round it lies, what spreads and is coloured where, what is refused"

import io
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.spatial import ConvexHull

from calibrain.core.warnings import PlausibilityWarning
from calibrain.head.cortex import (
    Cortex,
    cortex_from_src,
    interpolate_on_cortex,
    vertex_normals,
)
from calibrain.viz import (
    VIEWS,
    draw_cortex,
    draw_cortex_image,
    draw_glass,
    draw_sources,
    draw_topographies,
    draw_topography,
)
from calibrain.viz import cortex as module

REAL = Path(__file__).resolve().parent.parent.parent / "shared/realdata"
N = 600  # Vertices of a hemisphere


def sphere(n=N):
    "Vertices and outward triangles of a sphere"
    i = np.arange(n)
    height = 1 - (2 * i + 1) / n
    turn = np.pi * (1 + 5**0.5) * i
    radius = np.sqrt(1 - height**2)
    u = np.c_[radius * np.cos(turn), radius * np.sin(turn), height]
    return u, outward(u)


def outward(u):
    "The triangles between points of a sphere, seen from outside"
    tris = ConvexHull(u).simplices
    faces_out = np.linalg.det(u[tris]) > 0
    return np.where(faces_out[:, None], tris, tris[:, ::-1])


U, TRIS = sphere()
EGG = U * [0.03, 0.08, 0.05]
BOTH = Cortex(
    np.concatenate([EGG - [0.035, 0, 0], EGG + np.array([0.035, 0, 0])]),
    np.concatenate([TRIS, N + TRIS]),
    np.arange(2 * N) < N,
    np.arange(0, 2 * N, 6),
)
AT = BOTH.rr[BOTH.sources]
VALUES = np.random.default_rng(0).gamma(2, size=len(AT))


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    "Pictures without the finest cells: quicker, and no different for what is asked here"
    monkeypatch.setattr(module.refine, "__defaults__", (2_000,))


def pixels(fig):
    "What a figure looks like, `(rows, columns, 3)`"
    buffer = io.BytesIO()
    fig.savefig(buffer, format="raw", dpi=100)
    width, height = fig.canvas.get_width_height()
    raw = np.frombuffer(buffer.getvalue(), np.uint8)
    return raw.reshape(height, width, 4)[..., :3].astype(int)


def has_colour(cells):
    "Which cells are not grey"
    return np.ptp(cells.get_facecolor()[:, :3], axis=1) > 1e-6


def coloured(fig):
    "Where each panel has colour: middles of its coloured cells, from the middle of the panel, mm"
    out = {}
    titles = [t for t in fig.axes[0].texts if len(t.get_text()) > 1]
    for title, cells in zip(titles, fig.axes[0].collections):
        corners = np.array([p.vertices[:4] for p in cells.get_paths()])
        middle = (corners.min((0, 1)) + corners.max((0, 1))) / 2
        of_cells = corners.mean(1)
        out[title.get_text()] = of_cells[has_colour(cells)] - middle
    return out


def one_source(*at):
    "Ten at the source nearest to a place (mm), zero elsewhere"
    return 10.0 * (np.arange(len(AT)) == np.linalg.norm(AT - np.array(at) / 1e3, axis=1).argmin())


@pytest.mark.parametrize(
    "place, seen",
    [  # A place in mm; in which views, and on which side and at what height of the panel
        ((-65, 60, 20), {"left lateral": (-1, 0), "dorsal": (-1, 1), "frontal": (1, 0)}),
        ((65, 60, 20), {"right lateral": (1, 0), "dorsal": (1, 1), "frontal": (-1, 0)}),
        ((-65, 60, -20), {"left lateral": (-1, 0), "ventral": (1, 1)}),
        ((65, -60, -20), {"right lateral": (-1, 0), "ventral": (-1, -1)}),
        ((-5, 60, 0), {"left medial": (1, 0)}),
        ((5, 60, 0), {"right medial": (-1, 0)}),
        ((-65, -60, 0), {"left lateral": (1, 0), "occipital": (-1, 0)}),
        ((65, -60, 0), {"right lateral": (-1, 0), "occipital": (1, 0)}),
        ((-65, 30, 40), {"left lateral": (0, 1), "frontal": (1, 1)}),
        ((65, -30, -40), {"right lateral": (0, -1), "occipital": (1, -1)}),
    ],
)
def test_which_way_round(place, seen):
    found = coloured(draw_cortex(one_source(*place), BOTH, views=tuple(VIEWS), threshold=5).figure)
    for panel, (side, height) in seen.items():
        assert len(found[panel]), f"nothing in {panel}"
        x, y = found[panel].mean(0)
        if side:
            assert np.sign(x) == side and abs(x) > 10, panel
        if height:
            assert np.sign(y) == height and abs(y) > 10, panel


def test_marks_of_left_and_right():
    marks = {}
    ax = draw_cortex(VALUES, BOTH, views=("dorsal", "ventral", "frontal", "occipital"))
    for title, *ends in zip(ax.texts[::3], ax.texts[1::3], ax.texts[2::3]):
        marks[title.get_text()] = "".join(
            t.get_text() for t in sorted(ends, key=lambda t: t.get_position()[0])
        )
    assert marks == dict(dorsal="LR", ventral="RL", frontal="RL", occipital="LR")


def test_frames_are_right_handed_and_of_unit_length():
    for view in VIEWS:
        for side in ("left", "right"):
            frame = module.frame_of_view(view, side)
            np.testing.assert_allclose(frame @ frame.T, np.eye(3))
            assert np.linalg.det(frame) == pytest.approx(1)


def test_only_what_faces_the_viewer_from_back_to_front():
    fig = draw_cortex(
        one_source(-65, 0, 0) + one_source(65, 0, 0), BOTH, views=("lateral", "medial"), threshold=5
    ).figure
    found = coloured(fig)
    assert (
        len(found["left lateral"])
        and len(found["right lateral"])
        and not len(found["left medial"])
        and not len(found["right medial"])
    )
    x = module._paint(BOTH.rr, BOTH.tris, module.frame_of_view("frontal", None))[1].reshape(-1, 3)
    assert (np.diff(BOTH.rr[x, 1].mean(1)) >= -1e-12).all()


def test_spread_is_exact_bounded_and_keeps_a_constant():
    x = interpolate_on_cortex(VALUES, BOTH)
    np.testing.assert_array_equal(x[BOTH.sources], VALUES)
    assert VALUES.min() <= x.min() and x.max() <= VALUES.max() and np.isfinite(x).all()
    np.testing.assert_allclose(interpolate_on_cortex(np.full(len(AT), -3.0), BOTH), -3, rtol=1e-12)
    np.testing.assert_allclose(interpolate_on_cortex(2 * VALUES, BOTH), 2 * x, rtol=1e-9)
    assert len(np.unique(x.round(9))) > 1.5 * len(AT), (
        "between the sources there are values between theirs"
    )


def test_spread_stays_in_its_hemisphere():
    in_left = BOTH.left[BOTH.sources]
    x = interpolate_on_cortex(in_left.astype(float), BOTH)
    np.testing.assert_allclose(x, BOTH.left, atol=1e-12)
    lonely = replace(BOTH, sources=BOTH.sources[in_left])
    ones = np.ones(len(lonely.sources))
    x = interpolate_on_cortex(ones, lonely)
    np.testing.assert_allclose(x[BOTH.left], 1, rtol=1e-12)
    assert np.isnan(x[~BOTH.left]).all()
    found = coloured(draw_cortex(ones, lonely, views="lateral").figure)
    assert len(found["left lateral"]) and not len(found["right lateral"]), "no value, no colour"


def strip(line, width):
    "Vertices and triangles of a strip of a mesh along a line of the plane"
    n = len(line)
    edges = [np.c_[line, np.full(n, height)] for height in (0, width)]
    i = np.arange(n - 1)[:, None]
    lower = i + np.array([0, 1, n])
    upper = i + np.array([1, n + 1, n])
    return np.concatenate(edges), np.concatenate([lower, upper])


@pytest.mark.parametrize("gap", [0.0005, 0.02])
def test_spread_follows_the_mesh(gap):
    "The two banks of a hairpin, however near, are far apart"
    n = 21
    step = 0.002
    along = np.arange(n) * step
    there = np.c_[np.zeros(n), along]
    back = np.c_[np.full(n, gap), along[::-1]]
    rr, tris = strip(np.r_[there, back], step)
    hairpin = Cortex(rr, tris, left=np.zeros(len(rr), bool), sources=[0, n])
    x = interpolate_on_cortex([1, 0], hairpin)
    assert x[0] == 1
    assert (x[n : 2 * n] == 0).all()
    assert 0 < x[n // 2] < 1


def test_spread_goes_by_length_not_by_steps():
    "Halfway in length, which is ten steps from one source and two from the other, it is half"
    along = np.r_[np.arange(10) * 0.001, 0.01, 0.015, 0.02]
    m = len(along)
    rr, tris = strip(np.c_[along, np.zeros(m)], 0.001)
    straight = Cortex(rr, tris, left=np.zeros(len(rr), bool), sources=[0, m - 1])
    assert 0.4 < interpolate_on_cortex([0, 1], straight)[10] < 0.6


def test_every_vertex_a_source():
    every = replace(BOTH, sources=np.arange(2 * N))
    values = np.random.default_rng(1).normal(size=2 * N)
    np.testing.assert_array_equal(interpolate_on_cortex(values, every), values)


def test_threshold_colours_the_cells_of_the_vertices_that_reach_it(monkeypatch):
    monkeypatch.setattr(module, "refine", lambda known, tris: (known, tris, ()))
    values = VALUES * np.where(np.arange(len(AT)) % 2, 1, -1)
    x = interpolate_on_cortex(values, BOTH)
    right = BOTH.tris[~BOTH.left[BOTH.tris[:, 0]]]
    for threshold in (0, 1, 2.5, 1e6):
        panel = draw_cortex(
            values, BOTH, views="lateral", threshold=threshold, limits=(-1e-3, 1e-3)
        ).collections[1]
        vertex = module._paint(BOTH.rr, right, module.frame_of_view("lateral", "right"))[1]
        np.testing.assert_array_equal(has_colour(panel), np.abs(x[vertex]) >= threshold)


def test_a_plateau_reaches_itself():
    "Rounding on the way from the sources does not push it below the threshold"
    plateau = np.where(BOTH.left[BOTH.sources], 1, VALUES)
    left = draw_cortex(plateau, BOTH, views="lateral", threshold=1).collections[0]
    assert VALUES.min() < 1 < VALUES.max()
    assert has_colour(left).all()


def test_a_single_source_keeps_its_colour():
    "Among silent ones, where a mean over triangles would dim it"
    every = replace(BOTH, sources=np.arange(2 * N))
    values = np.zeros(2 * N)
    values[np.argmax(BOTH.rr[:, 0])] = 7
    panel = draw_cortex(values, every, views="lateral").collections[1]
    colours = panel.get_facecolor()[:, :3]
    top = np.array(module.colormaps["YlOrBr"](1.0)[:3])
    away = np.abs(colours - top).max(1)
    assert (away < 0.2 * top.max()).any()


def test_scale():
    def bar(values, **how):
        return draw_cortex(values, BOTH, views="lateral", **how).figure.axes[1]

    most = VALUES.max()
    assert bar(VALUES).get_ylim() == (0, most)
    assert bar(VALUES).get_ylabel() == "amplitude (nAm)"
    assert bar(-VALUES).get_ylim() == (-most, most)
    assert bar(VALUES, diverging=True).get_ylim() == (-most, most)
    assert bar(VALUES, limits=(1, 2), unit="", label="probability").get_ylabel() == "probability"
    assert bar(0 * VALUES).get_ylim() == (0, 1)
    assert bar(-VALUES, diverging=False).get_ylim() == (-most, 0)
    assert module.colour_scale(VALUES, (0, 1))[2] == "max"
    assert module.colour_scale(VALUES - 1, (-0.1, 0.1))[2] == "both"


def test_the_picture():
    "Red where the source is, grey where it is not, nothing cut off at the edges"
    fig = draw_cortex(
        one_source(-65, 50, 20) - one_source(65, 50, 20), BOTH, views="lateral", threshold=2
    ).figure
    rgb = pixels(fig)
    brain = rgb[:, : int(rgb.shape[1] * 0.84)]
    red = brain[..., 0] - brain[..., 2] > 60
    blue = brain[..., 2] - brain[..., 0] > 60
    width = brain.shape[1]
    red_columns = np.nonzero(red)[1]
    blue_columns = np.nonzero(blue)[1]
    assert len(red_columns) > 50
    assert red_columns.max() < width * 0.25, "to the left of the left hemisphere"
    assert len(blue_columns) > 50
    assert blue_columns.min() > width * 0.75, "to the right of the right one"
    grey = (np.ptp(brain, axis=2) == 0) & (brain[..., 0] < 250)
    assert 0.2 < grey.mean() < 0.9
    assert (rgb[[0, -1]] == 255).all() and (rgb[:, [0, -1]] == 255).all()


@pytest.mark.parametrize(
    "views", [("lateral", "medial"), ("dorsal",), ("frontal", "dorsal", "lateral"), tuple(VIEWS)]
)
def test_panels_do_not_overlap(views):
    boxes = [
        c.get_datalim(c.axes.transData) for c in draw_cortex(VALUES, BOTH, views=views).collections
    ]
    assert len(boxes) == sum(2 if v in ("lateral", "medial") else 1 for v in views)
    for i, a in enumerate(boxes):
        assert not any(a.overlaps(b) for b in boxes[:i])
    sizes = {round(max(b.width, b.height)) for b in boxes}
    assert len(boxes) == 1 or len(sizes) <= 3, "one scale"


def test_overlapping_hemispheres_are_drawn_apart():
    inflated = replace(BOTH, rr=np.concatenate([EGG, EGG]))
    fig = draw_cortex(BOTH.left[BOTH.sources] * 1.0, inflated, views="dorsal", threshold=0.5).figure
    x = coloured(fig)["dorsal"][:, 0]
    assert x.max() < 0, "the left one lies left of the middle"


def test_draws_where_it_is_told():
    fig = Figure(figsize=(8, 3), layout="constrained")
    one, two = fig.subplots(1, 2)
    assert draw_cortex(VALUES, BOTH, ax=one) is one and not two.collections
    assert not one.axison and one.get_aspect() == 1


def test_winding_does_not_matter():
    for tris in (
        BOTH.tris[:, ::-1],
        np.concatenate([BOTH.tris[: len(TRIS), ::-1], BOTH.tris[len(TRIS) :]]),
    ):
        np.testing.assert_array_equal(
            np.unique(np.sort(replace(BOTH, tris=tris).tris), axis=0),
            np.unique(np.sort(BOTH.tris), axis=0),
        )
        turned = replace(BOTH, tris=tris)
        np.testing.assert_allclose(
            vertex_normals(turned.rr, turned.tris), vertex_normals(BOTH.rr, BOTH.tris), atol=1e-12
        )


def test_one_hemisphere():
    some = np.arange(0, N, 7)
    right = Cortex(EGG, TRIS, left=np.zeros(N, bool), sources=some, shade=np.full(N, 0.5))
    ax = draw_cortex(np.ones(len(some)), right)
    titles = [text.get_text() for text in ax.texts]
    assert titles == ["right lateral", "right medial"]


def surface(side, **more):
    x = -0.035 if side == "left" else 0.035
    return (
        dict(
            type="surf",
            id=101 if side == "left" else 102,
            rr=EGG + np.array([x, 0, 0]),
            tris=TRIS,
            use_tris=None,
            vertno=np.arange(0, N, 6),
            coord_frame=5,
        )
        | more
    )


def test_source_space():
    cortex = cortex_from_src([surface("left"), surface("right")])
    np.testing.assert_array_equal(cortex.sources, BOTH.sources)
    np.testing.assert_array_equal(cortex.rr, BOTH.rr)
    np.testing.assert_array_equal(cortex.left, BOTH.left)
    assert (
        repr(cortex)
        == "Cortex(1,200 vertices, 2,392 triangles, 200 sources: 100 left and 100 right)"
    )


def test_source_space_without_its_mesh():
    "Vertices that are neither a source nor in a triangle go; the sources stay where they are"
    used = np.arange(0, N, 6)
    coarse = used[outward(U[::6])]
    for tris, whole in ((np.zeros((0, 3), int), True), (None, True), (TRIS, False)):
        src = [surface(side, tris=tris, use_tris=coarse) for side in ("left", "right")]
        cortex = cortex_from_src(src, whole=whole)
        assert len(cortex.rr) == 200
        np.testing.assert_array_equal(cortex.rr[cortex.sources], AT)


@pytest.mark.parametrize(
    "src, error, message",
    [
        ([dict(type="vol")], ValueError, "got 'vol': a volume has no cortex"),
        ([surface("left"), dict(type="vol")], ValueError, "got 'surf' and 'vol'"),
        ([surface("left")], ValueError, "src must be the surfaces of two hemispheres"),
        ([], ValueError, "got nothing"),
        ([surface("right"), surface("left")], ValueError, "the right one first"),
        (
            [surface("left", tris=[]), surface("right")],
            ValueError,
            "src must be a mesh, got no triangles",
        ),
        (None, TypeError, "got 'NoneType'"),
        ("a.fif", TypeError, "mne.setup_source_space"),
        (
            [surface("left", rr=1e3 * EGG), surface("right")],
            ValueError,
            "divide millimetres by 1000",
        ),
    ],
)
def test_refused_source_spaces(src, error, message):
    with pytest.raises(error, match=message):
        cortex_from_src(src)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(rr=BOTH.rr[:, :2]), r"rr must be of shape \(any, 3\)"),
        (dict(rr=np.where(BOTH.rr > 0.06, np.nan, BOTH.rr)), "rr must be finite"),
        (dict(rr=BOTH.rr / 1e3), "rr must be in m, got vertices 0.000159 apart: multiply"),
        (
            dict(tris=BOTH.tris + 1),
            "tris must be indices of vertices, whole numbers from 0 to 1199, got int64 from 1 to "
            "1200",
        ),
        (dict(tris=BOTH.tris.astype(float)), "got float64"),
        (
            dict(tris=np.r_[BOTH.tris, [[0, 1, N]]]),
            "tris must be within one hemisphere each, got 1",
        ),
        (
            dict(tris=np.r_[BOTH.tris, BOTH.tris[:1]]),
            "tris must be turned alike, .* got 3 that do not",
        ),
        (
            dict(left=BOTH.left.astype(int)),
            "left must be True or False for each of 1200 vertices, got int64",
        ),
        (dict(left=BOTH.left[1:]), "left must be"),
        (dict(sources=[0, -1]), "sources must be indices"),
        (dict(sources=[0, 1200]), "from 0 to 1200"),
        (dict(sources=[N, 0]), "those of the left hemisphere first"),
        (dict(sources=[3, 3]), "a vertex of their own"),
        (dict(sources=np.zeros(0, int)), "sources must be non-empty"),
        (dict(shade=np.full(2 * N, 1.1)), "shade must be from 0 to 1"),
        (dict(shade=np.zeros(3)), r"shade must be of shape \(1200\)"),
    ],
)
def test_refused_meshes(change, message):
    with pytest.raises(ValueError, match=message):
        replace(BOTH, **change)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(values=VALUES[1:]), ValueError, r"values must be of shape \(200\)"),
        (dict(values=np.where(VALUES > 3, np.inf, VALUES)), ValueError, "values must be finite"),
        (dict(values=VALUES + 1j), TypeError, "values must be real"),
        (dict(cortex=EGG), TypeError, "cortex must be a Cortex, got 'ndarray'"),
        (
            dict(views="front"),
            ValueError,
            "views must be one of 'lateral', 'medial', 'dorsal', 'ventral', 'frontal', "
            "'occipital', got 'front'",
        ),
        (dict(views=()), ValueError, "views must be one view at least"),
        (dict(threshold=-1), ValueError, "threshold must be finite and >= 0"),
        (dict(threshold="5"), TypeError, "threshold must be a real number"),
        (dict(limits=(2, 1)), ValueError, "limits must be ascending, got 2, 1"),
        (dict(limits=(1, 1)), ValueError, "limits must be ascending"),
        (dict(limits=3), ValueError, "limits must be of shape"),
        (dict(limits=(-1, 2), diverging=True), ValueError, "limits must be symmetric about 0"),
        (dict(limits=(0, np.nan)), ValueError, "limits must be finite"),
        (dict(diverging="yes"), ValueError, "diverging must be one of"),
        (dict(ax="here"), TypeError, "ax must be matplotlib Axes, got 'str'"),
    ],
)
def test_refused_before_drawing(change, error, message):
    ax = Figure().add_subplot()
    with pytest.raises(error, match=message):
        draw_cortex(**dict(values=VALUES, cortex=BOTH, ax=ax) | change)
    assert not ax.collections and not ax.texts and len(ax.figure.axes) == 1


def sensors(kind="eeg", n=32):
    mne = pytest.importorskip("mne")
    names = [f"{kind} {i}" for i in range(n)]
    info = mne.create_info(names, 100, kind)
    up = U[:n]
    for c, at in zip(
        info["chs"], 0.09 * up if kind != "grad" else 0.09 * np.repeat(U[: n // 2], 2, axis=0)
    ):
        c["loc"][:3] = at
    return info


def test_topography():
    info = sensors()
    at = np.array([c["loc"][0] for c in info["chs"]])
    fig = draw_topography(at, info, unit="µV", label="potential").figure
    assert fig.axes[1].get_ylabel() == "potential (µV)" and fig.axes[1].get_ylim() == pytest.approx(
        (-np.abs(at).max(), np.abs(at).max())
    )
    rgb = pixels(fig)[:, :260]
    columns = np.arange(rgb.shape[1])

    def middle(pixels):
        return (pixels.sum(0) * columns).sum() / pixels.sum()

    red = rgb[..., 0] - rgb[..., 2] > 60
    blue = rgb[..., 2] - rgb[..., 0] > 60
    assert middle(red) > middle(blue) + 50, "red on the right"
    positive = draw_topography(at**2, info, unit="µV²", label="variance")
    assert positive.figure.axes[1].get_ylim()[0] == 0


def test_topographies_share_a_scale():
    info = sensors()
    at = np.array([c["loc"][0] for c in info["chs"]])
    fig = draw_topographies({"one": at, "double": 2 * at}, info, unit="µV", label="potential")
    one, double, _ = fig.axes
    assert one.get_title() == "one"
    assert double.get_title() == "double"
    most = 2 * np.abs(at).max()
    for ax in (one, double):
        assert ax.images[0].get_clim() == (-most, most)


@pytest.mark.parametrize(
    "maps, info, error, message",
    [
        (dict(a=np.zeros(31)), sensors, ValueError, r"maps\['a'\] must be of shape \(32\)"),
        (dict(a=np.full(32, np.nan)), sensors, ValueError, r"maps\['a'\] must be finite"),
        ({}, sensors, TypeError, "maps must be a dict of title"),
        (np.zeros(32), sensors, TypeError, "got 'ndarray'"),
        (dict(a=np.zeros(32)), lambda: 3, TypeError, "info must be an mne.Info, got 'int'"),
    ],
)
def test_refused_topographies(maps, info, error, message):
    with pytest.raises(error, match=message):
        draw_topographies(maps, info(), unit="µV", label="")


def test_real_source_space():
    mne = pytest.importorskip("mne")
    if not (path := REAL / "sample-516-src.fif").exists():
        pytest.skip("the sample subject's source space is not beside the repository")
    src = mne.read_source_spaces(path, verbose=False)
    cortex = cortex_from_src(src)
    coarse = cortex_from_src(src, whole=False)
    assert (len(cortex.rr), len(cortex.tris), len(coarse.rr), len(coarse.tris)) == (
        2052,
        4096,
        516,
        1024,
    )
    at = np.concatenate([s["rr"][s["vertno"]] for s in src])
    np.testing.assert_allclose(cortex.rr[cortex.sources], at)
    np.testing.assert_allclose(coarse.rr[coarse.sources], at)
    ours = vertex_normals(cortex.rr, cortex.tris)[cortex.sources]
    theirs = np.concatenate([s["nn"][s["vertno"]] for s in src])
    agree = (ours * theirs).sum(1)
    assert np.median(agree) > 0.9, "the triangles face outward, as the source space's normals do"
    draw_cortex(np.hypot(*at.T[:2]), cortex)


@pytest.mark.parametrize("kind, factor", [("mag", 1e15), ("grad", 1e13)])
def test_real_recording(kind, factor):
    mne = pytest.importorskip("mne")
    if not (path := REAL / "test-ave.fif.gz").exists():
        pytest.skip("the sample subject's recording is not beside the repository")
    evoked = mne.read_evokeds(path, condition="Left visual", verbose=False)
    with pytest.raises(
        ValueError, match=r"info must be about channels of one type, got .*grad, mag"
    ):
        draw_topography(evoked.data[:, 0], evoked.info, unit="fT", label="field")
    evoked.pick(kind)
    maps = {
        f"{1e3 * t:.0f} ms": factor * evoked.data[:, evoked.time_as_index(t)[0]]
        for t in (0.1, 0.13)
    }
    fig = draw_topographies(
        maps, evoked.info, unit="fT" if kind == "mag" else "fT/cm", label="field"
    )
    shown = [
        m if kind == "mag" else np.sqrt((m.reshape(-1, 2) ** 2).mean(1)) for m in maps.values()
    ]
    assert fig.axes[-1].get_ylim()[1] == pytest.approx(np.abs(shown).max()) and (
        kind == "mag" or fig.axes[-1].get_ylim()[0] == 0
    )
    if kind == "grad":
        alone = evoked.copy().pick(evoked.ch_names[1:])
        with pytest.raises(ValueError, match="both gradiometers of each pair, got 1 alone"):
            draw_topography(alone.data[:, 0], alone.info, unit="fT/cm", label="field")


def test_light_on_imports():
    "Reading a source space and drawing a cortex need neither MNE nor pyplot"
    code = """
import sys
import warnings
import numpy as np
from calibrain.viz import *

rr = np.r_[np.eye(3), -np.eye(3)] * 0.05
upper = [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2]]
lower = [[1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
octahedron = dict(type="surf", rr=rr, tris=np.array(upper + lower), vertno=[0, 1])
draw_cortex([1, 2, 3, 4], cortex_from_src([octahedron] * 2))
print([m for m in ("mne", "matplotlib.pyplot") if m in sys.modules])
"""
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert re.fullmatch(r"\[\]\n", out.stdout)


# ---- amplitudes under the right unit


def drawn_amplitudes():
    "Every picture of amplitudes by source, as a function of them"
    return {
        "cortex": lambda x, **more: draw_cortex(x, BOTH, **more),
        "image": lambda x, **more: draw_cortex_image(x, BOTH, **more),
        "glass": lambda x, **more: draw_glass(x, AT, **more),
        "sources": lambda x: draw_sources(np.outer(x, [0.5, 1]), [0, 0.1]),
    }


@pytest.mark.parametrize("picture", drawn_amplitudes())
def test_am_under_a_label_of_nam_are_announced(picture):
    draw = drawn_amplitudes()[picture]
    with pytest.warns(PlausibilityWarning, match=r"in Am.* Pass 1e9 \* stc"):
        draw(1e-9 * VALUES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(VALUES)
        if picture != "sources":
            draw(0 * VALUES)
            draw(1e-9 * VALUES, unit="Am")
