"Template heads: no source is lost, sources are found where they are, and what is kept is checked"

import errno
import multiprocessing
import os
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from scipy import linalg

from calibrain import BMN, template_leadfield
from calibrain.core.archive import read_arrays, write_arrays
from calibrain.head import template
from calibrain.head.basis import normalisation

pytest.importorskip("nilearn", reason="template heads need nilearn: pip install 'calibrain[heads]'")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("heads")


def head(folder, modality="meg", **more):
    return template_leadfield(modality, cache_dir=folder, progress=False, **more)


@pytest.mark.parametrize(
    "modality, sensors, units",
    [
        ("meg", 306, {"fT/nAm", "fT/cm/nAm"}),
        ("mag", 102, {"fT/nAm"}),
        ("grad", 204, {"fT/cm/nAm"}),
        ("eeg", 64, {"µV/nAm"}),
    ],
)
def test_shapes(folder, modality, sensors, units):
    for orientation, k in (("fixed", 1), ("free", 3)) + (
        (("meg2", 2),) if modality != "eeg" else ()
    ):
        lf = head(folder, modality, orientation=orientation)
        assert (
            lf.data.shape == (sensors, 1284, k)
            and set(lf.units) == units
            and lf.coords.shape == lf.normals.shape == (1284, 3)
        )


@pytest.mark.parametrize(
    "modality, typical", [("mag", (1, 100)), ("grad", (0.1, 30)), ("eeg", (0.02, 2))]
)
def test_sizes_are_those_of_a_head(folder, modality, typical):
    "The strongest sensor of a source: some fT to some tens of fT, tenths of a µV"
    strongest = np.abs(head(folder, modality).data).max((0, 2))
    assert typical[0] < np.quantile(strongest, 0.95) < typical[1]


def test_head_coordinates(folder):
    "Left hemisphere first, in a head that is some 17 cm long, 13 wide"
    lf = head(folder)
    assert (lf.coords[:642, 0] < 0.01).all() and (lf.coords[642:, 0] > -0.01).all()
    np.testing.assert_allclose(np.ptp(lf.coords, axis=0), [0.13, 0.165, 0.12], atol=0.012)


def test_source_spaces_share_their_vertices(folder):
    "A vertex is the same source in every space that has it: nine in ten of the smaller one"
    few, many = (head(folder, "eeg", conductor="sphere", n_sources=n) for n in (1284, 5124))
    shared = 0
    for half, vertices in enumerate(template.template_vertices(few)):
        finer = template.template_vertices(many)[half]
        both, here, there = np.intersect1d(vertices, finer, return_indices=True)
        a, b = few.data[:, 642 * half + here], many.data[:, 2562 * half + there]
        np.testing.assert_allclose(a, b, atol=1e-9)
        shared += len(both)
    assert shared > 0.9 * 1284


def test_no_source_where_there_is_no_cortex(folder):
    "As many sources as were asked for, each a vertex of its own, and none on the medial wall"
    for n in (1284, 5124):
        lf = head(folder, "eeg", conductor="sphere", n_sources=n)
        vertices = template.template_vertices(lf)
        assert [len(np.unique(v)) for v in vertices] == [n // 2, n // 2] and lf.n_sources == n
        cortex = template.template_cortex(n)
        on_surface = np.r_[vertices[0], cortex.left.sum() + vertices[1]]
        np.testing.assert_array_equal(cortex.sources, on_surface)
        middle = np.abs(lf.coords[:, 0]) < 0.006
        near_callosum = np.linalg.norm(lf.coords[:, 1:] - [0.005, 0.045], axis=1) < 0.012
        assert not (middle & near_callosum).any()


@pytest.mark.parametrize(
    "modality, montage, n",
    [
        ("meg", None, 5124),
        ("eeg", "GSN-HydroCel-64_1.0", 1284),
        ("eeg", "GSN-HydroCel-128", 20484),
        ("eeg", "easycap-M1", 5124),
    ],
)
def test_no_source_is_lost_in_a_sphere(folder, modality, montage, n):
    assert head(folder, modality, montage=montage, conductor="sphere", n_sources=n).n_sources == n


def test_sphere_and_shells_tell_the_same_story(folder):
    for modality, alike in (("mag", 0.9), ("eeg", 0.8)):
        a, b = (head(folder, modality, conductor=c).data[:, :, 0] for c in ("bem", "sphere"))
        r = (a * b).sum(0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0)
        assert np.median(r) > alike, modality


@pytest.mark.parametrize(
    "modality, orientation",
    [("mag", "fixed"), ("mag", "meg2"), ("grad", "meg2"), ("eeg", "fixed"), ("eeg", "free")],
)
def test_noise_free_sources_are_found_where_they_are(folder, modality, orientation):
    "sLORETA's property: without noise its map peaks at the source, for every one of 1,284 sources and a random direction"
    lf = head(folder, modality, orientation=orientation)
    G, k = lf.matrix(), lf.n_orient
    W = normalisation(G, k, beta=1e-10)
    R = linalg.cholesky(G @ G.T + 1e-10 * np.vdot(G, G) / len(G) * np.eye(len(G)), lower=True)
    direction = np.random.default_rng(0).normal(size=(1284, k))
    Y = np.einsum("mnk,nk->mn", lf.data, direction)
    power = ((W.T @ (G.T @ linalg.cho_solve((R, True), Y))).reshape(1284, k, 1284) ** 2).sum(1)
    peak = power.argmax(0)
    apart = np.linalg.norm(lf.coords[peak] - lf.coords, axis=1)
    assert (peak == np.arange(1284)).mean() > 0.99 and apart.max() < 0.02


@pytest.mark.parametrize("modality, orientation", [("mag", "meg2"), ("eeg", "free")])
def test_sampled_std_agrees_with_the_analytic_one(folder, modality, orientation):
    lf = head(folder, modality, orientation=orientation)
    rng = np.random.default_rng(1)
    y = lf.matrix()[:, :5] @ rng.normal(size=(5, 1)) * 20 + rng.normal(size=(lf.n_sensors, 1))
    p = BMN(lf, y, 1.0).posterior
    some = rng.choice(1284, 40, replace=False)
    draws = p.sample(4000, seed=2)[:, :, 0].reshape(4000, 1284, -1)[:, some]
    np.testing.assert_allclose(
        draws.std(0) / p.std.reshape(1284, -1)[some], 1, atol=5 / np.sqrt(2 * 4000)
    )


# ---- the cache


def test_once_computed_kept(tmp_path):
    args = dict(modality="eeg", conductor="sphere", montage="biosemi32")
    start = time.perf_counter()
    first = head(tmp_path, **args)
    made = time.perf_counter() - start
    start = time.perf_counter()
    second = head(tmp_path, **args)
    assert time.perf_counter() - start < made / 3
    np.testing.assert_array_equal(first.data, second.data)
    assert len(list(tmp_path.iterdir())) == 1
    head(tmp_path, **args | dict(montage="biosemi16"))
    assert len(list(tmp_path.iterdir())) == 2  # other parameters, another file


@pytest.mark.parametrize("harm", ["cut", "altered", "pickled", "other"])
def test_a_damaged_file_is_made_again_with_a_warning(tmp_path, harm):
    args = dict(modality="eeg", conductor="sphere", montage="biosemi16")
    whole = head(tmp_path, **args)
    f = next(tmp_path.iterdir())
    if harm == "cut":
        f.write_bytes(f.read_bytes()[:10_000])
    if harm == "pickled":
        np.savez(f, data=np.array([{}], dtype=object))
    if harm == "other":
        np.savez(f, x=1)
    if harm == "altered":
        with np.load(f) as a:
            np.savez(f, **dict(a) | dict(data=2 * a["data"]))
    with pytest.warns(UserWarning, match="the kept leadfield cannot be used and is made again"):
        again = head(tmp_path, **args)
    np.testing.assert_array_equal(again.data, whole.data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head(tmp_path, **args)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="could not be kept"):
        lf = head(tmp_path / "file" / "below", "eeg", conductor="sphere", montage="biosemi16")
    assert lf.n_sensors == 16


def test_users_cache_folder(tmp_path):
    env = os.environ | dict(XDG_CACHE_HOME=str(tmp_path))
    subprocess.run(
        [
            sys.executable,
            "-c",
            "from calibrain import template_leadfield as t; t('eeg', conductor='sphere', montage='biosemi16')",
        ],
        env=env,
        check=True,
        capture_output=True,
    )
    if sys.platform == "linux":
        assert [p.suffix for p in (tmp_path / "calibrain").iterdir()] == [".npz"]


def _at_once(folder):
    return head(folder, "eeg", conductor="sphere", montage="biosemi16").data.sum()


def test_two_processes_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        a, b = pool.map(_at_once, [tmp_path] * 2)
    assert a == b and len(list(tmp_path.iterdir())) == 1


def test_progress(tmp_path):
    "Where somebody watches, and nothing in a log"
    code = f"""
from calibrain.core import progress
from calibrain import template_leadfield as t
t("eeg", conductor="sphere", montage="biosemi16", cache_dir={str(tmp_path / "a")!r})
print("nobody watches", flush=True)
progress.watched = lambda: True
t("eeg", conductor="sphere", montage="biosemi16", cache_dir={str(tmp_path / "b")!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("nobody watches\n")
    assert "forward solution: 100%" in done.stdout


def test_memory(tmp_path):
    "306 × 20484 × 3, computed and read again, in less than 1.5 GiB"
    code = f"""
import resource
from calibrain import template_leadfield
lf = template_leadfield("meg", 20484, "free", cache_dir={str(tmp_path)!r}, progress=False)
assert lf.data.shape == (306, 20484, 3)
template_leadfield("meg", 20484, "free", cache_dir={str(tmp_path)!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if __import__("sys").platform == "darwin" else 1024))
"""
    peak = int(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )
    assert peak < 1.5 * 2**30, f"{peak / 2**30:.2f} GiB"


def test_without_nilearn(tmp_path):
    code = f"""
import sys
sys.modules["nilearn"] = sys.modules["nilearn.datasets"] = None
from calibrain import template_leadfield
try: template_leadfield("eeg", cache_dir={str(tmp_path)!r}, progress=False)
except ImportError as e: print(e)
"""
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "template heads need the cortex that nilearn ships: pip install 'calibrain[heads]'\n"
    )


def test_nothing_is_downloaded(tmp_path):
    "No socket is opened"
    code = f"""
import socket
def refuse(*_, **__): raise RuntimeError("a connection was tried")
socket.socket.connect = socket.create_connection = refuse
from calibrain import template_leadfield
template_leadfield("meg", conductor="sphere", cache_dir={str(tmp_path)!r}, progress=False)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# ---- a head of another recipe, and a folder that cannot keep one

SMALL = dict(modality="eeg", conductor="sphere", montage="biosemi16")
CONTENT = {
    3: [6.5411581, 3.0002336, 115.3788286]
}  # of a small head by RECIPE: norm of the leadfield, of places, of the sum along normals


def content(lf):
    return [float(np.linalg.norm(a)) for a in (lf.data, lf.coords, lf.data[:, :, 0] @ lf.normals)]


def test_the_recipe_number_stands_for_the_content(folder):
    "Fails where the heads changed and `RECIPE` was not counted up"
    made = content(head(folder, orientation="fixed", **SMALL))
    np.testing.assert_allclose(made, CONTENT[template.RECIPE], rtol=1e-5)


def test_a_head_of_an_older_recipe_is_not_used(tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(template, "RECIPE", 1)
        head(tmp_path, **SMALL)
    (old,) = tmp_path.iterdir()
    new = head(tmp_path, **SMALL)
    assert len(list(tmp_path.iterdir())) == 2, "beside the old one"
    planted = next(f for f in tmp_path.iterdir() if f != old)
    arrays = read_arrays(old)
    write_arrays(planted, arrays | dict(data=2 * arrays["data"]))
    with pytest.warns(UserWarning, match="made by another recipe") as said:
        again = head(tmp_path, **SMALL)
    assert len(said) == 1 and str(tmp_path) in str(said[0].message)
    np.testing.assert_array_equal(again.data, new.data)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_folder_costs_one_warning(tmp_path, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("calibrain.core.archive.os.replace", fail)
    with pytest.warns(UserWarning, match="pass cache_dir to keep it elsewhere") as said:
        assert head(tmp_path, **SMALL).n_sensors == 16
    assert len(said) == 1 and str(tmp_path) in str(said[0].message)
    assert list(tmp_path.iterdir()) == [], "nothing half written stays"
