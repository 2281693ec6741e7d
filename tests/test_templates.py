"Template heads: no source is lost, sources are found where they are, and what is kept is checked"

import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import mne
import numpy as np
import pytest
from packaging.version import Version
from routine import some
from scipy import linalg

from calibrain import BMN, template_leadfield
from calibrain.core.archive import read_arrays, write_arrays
from calibrain.head import average, fsaverage, template
from calibrain.head.basis import normalisation

pytest.importorskip("nilearn", reason="template heads need nilearn: pip install 'calibrain[heads]'")


# The shells cost most: the routine run makes them of a third as many corners
COARSER = some([3, 1], every=2)[-1]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    "Heads that several tests look at"
    corners = dict(eeg=1000 // COARSER, meg=2000 // COARSER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(average, "_CORNERS", corners)
        yield tmp_path_factory.mktemp("heads")


def head(folder, modality="meg", **more):
    return template_leadfield(modality, cache_dir=folder, progress=False, **more)


def of_another_python(code, **environment):
    "A program of its own; refuses one that fails"
    program = [sys.executable, "-c", code]
    env = os.environ | environment
    return subprocess.run(program, env=env, capture_output=True, text=True, check=True)


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
    components = dict(fixed=1, free=3)
    if modality != "eeg":
        components["meg2"] = 2
    for orientation, k in components.items():
        lf = head(folder, modality, orientation=orientation)
        assert lf.data.shape == (sensors, 1284, k)
        assert lf.coords.shape == lf.normals.shape == (1284, 3)
        assert set(lf.units) == units


@pytest.mark.parametrize(
    "modality, typical", [("mag", (1, 100)), ("grad", (0.1, 30)), ("eeg", (0.02, 2))]
)
def test_sizes_are_those_of_a_head(folder, modality, typical):
    "The strongest sensor of a source: some fT to some tens of fT, tenths of a µV"
    lf = head(folder, modality)
    strongest = np.abs(lf.data).max((0, 2))
    least, most = typical
    assert least < np.quantile(strongest, 0.95) < most


def test_head_coordinates(folder):
    "Left hemisphere first, in a head that is some 17 cm long, 13 wide"
    lf = head(folder)
    to_the_right = lf.coords[:, 0]
    assert (to_the_right[:642] < 0.01).all()
    assert (to_the_right[642:] > -0.01).all()
    extent = np.ptp(lf.coords, axis=0)
    np.testing.assert_allclose(extent, [0.13, 0.165, 0.12], atol=0.012)


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
    some(
        [
            ("eeg", "GSN-HydroCel-64_1.0", 1284),
            ("eeg", "GSN-HydroCel-128", 20484),
            ("eeg", "easycap-M1", 5124),
            ("meg", None, 5124),  # which the test of memory has in the routine run
        ],
        every=4,
    ),
)
def test_no_source_is_lost_in_a_sphere(folder, modality, montage, n):
    assert head(folder, modality, montage=montage, conductor="sphere", n_sources=n).n_sources == n


def test_sphere_and_shells_tell_the_same_story(folder):
    for modality, alike in (("mag", 0.9), ("eeg", 0.8)):
        shells = head(folder, modality, conductor="bem").data[:, :, 0]
        sphere = head(folder, modality, conductor="sphere").data[:, :, 0]
        sizes = np.linalg.norm(shells, axis=0) * np.linalg.norm(sphere, axis=0)
        correlation = (shells * sphere).sum(0) / sizes
        assert np.median(correlation) > alike, modality


@pytest.mark.parametrize(
    "modality, orientation",
    [("mag", "fixed"), ("mag", "meg2"), ("grad", "meg2"), ("eeg", "fixed"), ("eeg", "free")],
)
def test_noise_free_sources_are_found_where_they_are(folder, modality, orientation):
    "sLORETA's property: without noise the map of each source, in any direction, peaks there"
    lf = head(folder, modality, orientation=orientation)
    G = lf.matrix()
    k = lf.n_orient
    W = normalisation(G, k, beta=1e-10)
    ridge = 1e-10 * np.vdot(G, G) / len(G)
    R = linalg.cholesky(G @ G.T + ridge * np.eye(len(G)), lower=True)
    direction = np.random.default_rng(0).normal(size=(1284, k))
    Y = np.einsum("mnk,nk->mn", lf.data, direction)  # a recording for each source
    estimates = W.T @ (G.T @ linalg.cho_solve((R, True), Y))
    power = (estimates.reshape(1284, k, 1284) ** 2).sum(1)
    peak = power.argmax(0)
    assert (peak == np.arange(1284)).mean() > 0.99
    apart = np.linalg.norm(lf.coords[peak] - lf.coords, axis=1)
    assert apart.max() < 0.02


@pytest.mark.parametrize("modality, orientation", some([("mag", "meg2"), ("eeg", "free")], every=2))
def test_sampled_std_agrees_with_the_analytic_one(folder, modality, orientation):
    lf = head(folder, modality, orientation=orientation)
    n_draws = 4000
    rng = np.random.default_rng(1)
    signal = lf.matrix()[:, :5] @ rng.normal(size=(5, 1)) * 20
    y = signal + rng.normal(size=(lf.n_sensors, 1))
    posterior = BMN(lf, y, 1.0).posterior
    few = rng.choice(1284, 40, replace=False)
    draws = posterior.sample(n_draws, seed=2)[:, :, 0].reshape(n_draws, 1284, -1)
    sampled = draws[:, few].std(0)
    analytic = posterior.std.reshape(1284, -1)[few]
    np.testing.assert_allclose(sampled / analytic, 1, atol=5 / np.sqrt(2 * n_draws))


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


SMALL = dict(modality="eeg", conductor="sphere", montage="biosemi16")


def small_head(folder, tmp_path):
    "A small head, and the file that keeps it in a folder of one's own"
    lf = head(folder, **SMALL)
    (file,) = folder.glob("eeg-biosemi16-sphere-1284*")
    return lf, Path(shutil.copy(file, tmp_path))


@pytest.mark.parametrize("harm", some(["altered", "cut", "pickled", "other"], every=2))
def test_a_damaged_file_is_made_again_with_a_warning(folder, tmp_path, harm):
    whole, file = small_head(folder, tmp_path)
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:10_000])
    if harm == "pickled":
        np.savez(file, data=np.array([{}], dtype=object))
    if harm == "other":
        np.savez(file, x=1)
    if harm == "altered":
        with np.load(file) as arrays:
            changed = dict(arrays) | dict(data=2 * arrays["data"])
        np.savez(file, **changed)
    with pytest.warns(UserWarning, match="the kept leadfield cannot be used and is made again"):
        again = head(tmp_path, **SMALL)
    np.testing.assert_array_equal(again.data, whole.data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head(tmp_path, **SMALL)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    "Below a file there is no folder, for any user"
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="could not be kept") as said:
        lf = head(tmp_path / "file" / "below", **SMALL)
    assert lf.n_sensors == 16
    assert len(said) == 1


def test_a_read_only_folder(folder, tmp_path):
    "It is read from, and nothing is written"
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("the modes of a folder do not bind root (nor Windows)")
    whole, file = small_head(folder, tmp_path)
    tmp_path.chmod(0o555)
    try:
        np.testing.assert_array_equal(head(tmp_path, **SMALL).data, whole.data)
        with pytest.warns(UserWarning, match="could not be kept") as said:
            head(tmp_path, **SMALL | dict(montage="biosemi32"))
        assert len(said) == 1
        assert list(tmp_path.iterdir()) == [file]
    finally:
        tmp_path.chmod(0o755)


def test_in_a_program_of_its_own(tmp_path):
    "It says how far it is where somebody watches, keeps heads in the user's cache, opens no socket"
    average.place_sensors("neuromag")  # skipped where MNE-Python has no MEG sensors
    code = """
import socket
import sys

def refuse(*_, **__):
    raise RuntimeError("a connection was tried")

socket.socket.connect = socket.create_connection = refuse
from calibrain import template_leadfield
from calibrain.core import progress

template_leadfield("eeg", conductor="sphere", montage="biosemi16")
print("nobody watched", file=sys.stderr)
progress.watched = lambda: True
template_leadfield("meg", conductor="sphere")
"""
    done = of_another_python(code, XDG_CACHE_HOME=str(tmp_path))
    assert done.stderr.startswith("nobody watched\n")
    assert "forward solution: 100%" in done.stderr
    assert done.stdout == ""
    if sys.platform == "linux":
        assert [file.suffix for file in (tmp_path / "calibrain").iterdir()] == [".npz"] * 2


def _at_once(folder):
    return head(folder, **SMALL).data.sum()


def test_two_processes_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        one, other = pool.map(_at_once, [tmp_path] * 2)
    assert one == other
    kept = list(tmp_path.iterdir())
    assert len(kept) == 1


@pytest.mark.parametrize(
    "n, conductor, most", some([(5124, "sphere", 0.8), (20484, "bem", 1.5)], every=2)
)
def test_memory(tmp_path, n, conductor, most):
    "306 × 20484 × 3, computed and read again, in less than 1.5 GiB"
    average.place_sensors("neuromag")  # skipped where MNE-Python has no MEG sensors
    code = f"""
import resource
import sys
from pathlib import Path
from calibrain import template_leadfield

how = dict(orientation="free", conductor={conductor!r})
how |= dict(cache_dir={str(tmp_path)!r}, progress=False)
lf = template_leadfield("meg", {n}, **how)
assert lf.data.shape == (306, {n}, 3)
template_leadfield("meg", {n}, **how)
if sys.platform == "linux":  # where ru_maxrss begins with the peak of whoever started it
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
    print(1024 * int(status["VmHWM"].split()[0]))
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peak = int(of_another_python(code).stdout) / 2**30
    assert peak < most, f"{peak:.2f} GiB"


def test_the_datasets_of_nilearn_are_not_imported():
    "They import scikit-learn and pandas, three seconds for every program"
    code = """
import sys
from calibrain.head import template
template.template_cortex()
template._recipe()
print([name for name in ("nilearn.datasets", "sklearn", "pandas") if name in sys.modules])
"""
    assert of_another_python(code).stdout == "[]\n"


def test_nilearn_is_asked_where_its_files_are_no_more(monkeypatch, tmp_path):
    import nilearn

    parts = ("white_left", "flat_right")
    found = [fsaverage.from_nilearn(part) for part in parts]
    asked = []
    monkeypatch.setattr(nilearn, "__file__", str(tmp_path / "__init__.py"))
    import nilearn.datasets

    whole = nilearn.datasets.fetch_surf_fsaverage
    monkeypatch.setattr(
        nilearn.datasets, "fetch_surf_fsaverage", lambda mesh: asked.append(mesh) or whole(mesh)
    )
    for part, (rr, tris) in zip(parts, found):
        there = fsaverage.from_nilearn(part)
        assert np.array_equal(there[0], rr) and np.array_equal(there[1], tris)
    assert asked == ["fsaverage5"] * 2


def test_without_nilearn(tmp_path):
    code = f"""
import sys
sys.modules["nilearn"] = sys.modules["nilearn.datasets"] = None
from calibrain import template_leadfield
try:
    template_leadfield("eeg", cache_dir={str(tmp_path)!r}, progress=False)
except ImportError as e:
    print(e)
"""
    words = "template heads need the cortex that nilearn ships: pip install 'calibrain[heads]'\n"
    assert of_another_python(code).stdout == words


def test_sensors_that_an_older_version_lacks(monkeypatch):
    "conftest.py skips by these words what needs the helmet; caps need no newer version"
    older = SimpleNamespace(channels=SimpleNamespace(), __version__="1.6.0")
    monkeypatch.setattr(average, "mne", older)
    with pytest.raises(ImportError, match=r"^template MEG heads need MNE-Python 1.12 .*1\.6\.0"):
        average.place_sensors("neuromag")


# ---- a head of another recipe, and a folder that cannot keep one

# By RECIPE, for some heads: norms of the leadfield, of the places, of the sum along normals
CONTENT = {
    3: {
        "eeg, sphere": [6.5411581, 3.0002336, 115.3788286],
        "eeg, shells / 1": [13.350024, 3.00023359, 229.960825],
        "mag, shells / 1": [931.667985, 3.00023359, 3177.37283],
        "grad, shells / 1": [287.886311, 3.00023359, 722.926189],
        "eeg, shells / 3": [12.1369993, 3.00023359, 214.721033],
        "mag, shells / 3": [933.853267, 3.00023359, 3181.24139],
        "grad, shells / 3": [288.549913, 3.00023359, 723.936675],
    },
}
HEADS = {
    "eeg, sphere": SMALL,
    f"eeg, shells / {COARSER}": dict(modality="eeg"),
    f"mag, shells / {COARSER}": dict(modality="mag"),
    f"grad, shells / {COARSER}": dict(modality="grad"),
}


def content(lf):
    "A few numbers that change when a head does, and hardly with the processor"
    along_normals = lf.data[:, :, 0] @ lf.normals
    parts = (lf.data, lf.coords, along_normals)
    return [float(np.linalg.norm(part)) for part in parts]


def known_to(name):
    "How sharply the content of a head is known"
    # MNE-Python fits three dipoles to a sphere, which leaves 4e-5 of its power, 0.6 % in size.
    # Before 1.13 the fit ended elsewhere: leadfields differ by 5e-4
    older_fit = "sphere" in name and Version(mne.__version__) < Version("1.13")
    return 1e-3 if older_fit else 1e-5


@pytest.mark.parametrize("name", HEADS)
def test_the_recipe_number_stands_for_the_content(folder, name):
    "Fails where the heads changed and `RECIPE` was not counted up"
    lf = head(folder, **HEADS[name])
    expected = CONTENT[template.RECIPE][name]
    np.testing.assert_allclose(content(lf), expected, rtol=known_to(name))


def test_a_head_of_an_older_recipe_is_not_used(tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(template, "RECIPE", 1)
        head(tmp_path, **SMALL)
    (old,) = tmp_path.iterdir()
    new = head(tmp_path, **SMALL)
    assert len(list(tmp_path.iterdir())) == 2, "beside the old one"
    (planted,) = set(tmp_path.iterdir()) - {old}
    arrays = read_arrays(old)
    write_arrays(planted, arrays | dict(data=2 * arrays["data"]))
    with pytest.warns(UserWarning, match="made by another recipe") as said:
        again = head(tmp_path, **SMALL)
    assert len(said) == 1
    assert str(tmp_path) in str(said[0].message)
    np.testing.assert_array_equal(again.data, new.data)


@pytest.mark.parametrize("code", some([errno.ENOSPC, errno.EROFS, errno.EACCES], every=2))
def test_a_full_or_read_only_folder_costs_one_warning(tmp_path, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("calibrain.core.archive.os.replace", fail)
    with pytest.warns(UserWarning, match="pass cache_dir to keep it elsewhere") as said:
        assert head(tmp_path, **SMALL).n_sensors == 16
    assert len(said) == 1 and str(tmp_path) in str(said[0].message)
    assert list(tmp_path.iterdir()) == [], "nothing half written stays"
