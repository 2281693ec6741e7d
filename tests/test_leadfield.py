"The Leadfield record: what it refuses, its linear maps, and its files"

from dataclasses import replace

import numpy as np
import pytest

from calibrain.core.archive import write_arrays
from calibrain.head.leadfield import Leadfield

LF = Leadfield.random(12, 20, 3, seed=1)
MEG = Leadfield.random(12, 20, 3, seed=1, unit="fT/nAm")
MIXED = replace(MEG, unit=["fT/nAm"] * 4 + ["fT/cm/nAm"] * 8, modality=None)


def same(a, b):
    for k in ("data", "coords", "normals", "basis"):
        if getattr(a, k) is None:
            assert getattr(b, k) is None, k
        else:
            np.testing.assert_array_equal(getattr(a, k), getattr(b, k))
    assert (a.unit, a.modality, a.ch_names, a.origin) == (b.unit, b.modality, b.ch_names, b.origin)


@pytest.mark.parametrize(
    "lf",
    [LF, MEG.reduce_meg(), LF.fixed(), MIXED, Leadfield(LF.data[:, :, 0])],
    ids=["free", "meg2", "fixed", "mixed", "bare"],
)
def test_round_trip(lf, tmp_path):
    same(lf, Leadfield.load(lf.save(tmp_path / "lf.npz")))


def test_another_file_is_kept(tmp_path):
    path = LF.save(tmp_path / "lf.npz")
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        MEG.save(path)
    same(LF, Leadfield.load(path))
    same(MEG, Leadfield.load(MEG.save(path, overwrite=True)))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(data=LF.data[0]), "coords must be of shape"),
        (dict(data=np.zeros((2, 3, 4))), "data must be of shape"),
        (dict(data=LF.data * np.nan), "data must be finite"),
        (dict(coords=LF.coords[:5]), r"coords must be of shape \(20, 3\)"),
        (dict(coords=LF.coords * 1000), "coords must be in m"),
        (dict(normals=2 * LF.normals), "normals must be orthonormal"),
        (dict(unit="µV"), "unit must be one of"),
        (dict(unit=["µV/nAm"] * 3), "unit must be one text, or one for each of 12 sensors, got 3"),
        (dict(modality="mag"), "modality must be 'eeg', as the unit says, got 'mag'"),
        (dict(ch_names=["a"] * 12), "ch_names must be 12 different names"),
        (dict(ch_names=["a"]), "ch_names must be 12"),
        (dict(basis=np.zeros((20, 3, 3))), "basis must be orthonormal"),
        (dict(basis=np.zeros((20, 3, 2))), "basis must be of shape"),
    ],
)
def test_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(LF, **change)


def test_random_with_normals_first():
    "One component is along the normal, two are across it"
    one = Leadfield.random(8, 30, 1)
    two = Leadfield.random(8, 30, 2)
    along = np.abs(np.einsum("nik,ni->nk", one.basis, one.normals))
    np.testing.assert_allclose(along, 1, atol=1e-12)
    across = np.einsum("nik,ni->nk", two.basis, two.normals)
    np.testing.assert_allclose(across, 0, atol=1e-12)


def test_reduction_is_the_best_of_rank_two():
    two = MEG.reduce_meg()
    for n in range(20):
        U, s, Vt = np.linalg.svd(MEG.data[:, n], full_matrices=False)
        np.testing.assert_allclose(
            two.data[:, n] @ two.basis[n].T, (U[:, :2] * s[:2]) @ Vt[:2], atol=1e-10
        )
    signs = np.take_along_axis(two.basis, np.abs(two.basis).argmax(1)[:, None], axis=1)
    assert (signs > 0).all()


@pytest.mark.parametrize("c", [1e-6, 1e3])
def test_reduction_does_not_know_units(c):
    "Other units for magnetometers alone leave the two components where they were"
    by_sensor = np.r_[np.full(4, c), np.ones(8)]
    scaled = replace(MIXED, data=MIXED.data * by_sensor[:, None, None])
    before = MIXED.reduce_meg().basis
    np.testing.assert_allclose(scaled.reduce_meg().basis, before, atol=1e-8)


def test_fixed_after_reduction_is_the_normal_seen_through_it():
    two = MEG.reduce_meg()
    normals = np.einsum("nik,ni->nk", two.basis, MEG.normals)
    along = np.einsum("mnk,nk->mn", two.data, normals)
    np.testing.assert_allclose(two.fixed().data[:, :, 0], along, atol=1e-12)


def test_what_cannot_be_reduced_or_lifted():
    for call, words in (
        (LF.reduce_meg, "EEG sees all three"),
        (MEG.reduce_meg().reduce_meg, "n_orient must be 3"),
        (lambda: Leadfield(LF.data[:, :, :2]).lift(np.zeros((20, 2, 1))), "basis must be known"),
        (
            lambda: MEG.reduce_meg().lift(np.zeros((20, 3, 1))),
            r"x must be of shape \(20, 2, n_times\)",
        ),
        (lambda: replace(LF, normals=None).fixed(), "normals must be known"),
        (replace(LF, data=LF.data[:, :, :2]).fixed, "basis must be known to turn"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize(
    "sensors", [["S003", "S001"], [2, 0], np.array([True, False, True] + [False] * 9)]
)
def test_select(sensors):
    part = MIXED.select(sensors, sources=[4, 2])
    rows = [2, 0] if not isinstance(sensors, np.ndarray) else [0, 2]
    np.testing.assert_array_equal(part.data, MIXED.data[rows][:, [4, 2]])
    assert (
        part.ch_names == tuple(MIXED.ch_names[r] for r in rows)
        and part.unit == "fT/nAm"
        and part.modality == "mag"
    )
    np.testing.assert_array_equal(part.coords, MIXED.coords[[4, 2]])


@pytest.mark.parametrize(
    "keys, unit, scale",
    [
        (dict(sensor_kind=2, sensor_units=107, sensor_unitmult=0), "µV/nAm", 1e-3),
        (dict(sensor_kind=2, sensor_units=107), "µV/nAm", 1e-3),
        (dict(sensor_units=107, sensor_unitmult=-6), "µV/nAm", 1),
        (dict(sensor_kind=1, sensor_units=112, sensor_unitmult=0), "fT/nAm", 1e6),
        (dict(sensor_units=112, sensor_unitmult=-15), "fT/nAm", 1),
        (dict(sensor_kind=2), "µV/nAm", 1e-3),
        (dict(sensor_units=201, sensor_unitmult=0), "fT/cm/nAm", 1e4),
        (dict(sensor_units=201, sensor_unitmult=-15), "fT/cm/nAm", 1e-2),
    ],
)
def test_published_files(tmp_path, keys, unit, scale):
    "Scaled once: what was loaded and saved again is not scaled again"
    f = tmp_path / "fsaverage_free_leadfield.npz"
    np.savez(f, leadfield=LF.data, src_coords=LF.coords, **keys)
    lf = Leadfield.load(f)
    np.testing.assert_allclose(lf.data, LF.data * scale, rtol=1e-14)
    assert lf.unit == unit and f"× {scale:g}" in lf.origin and f.name in lf.origin
    same(lf, Leadfield.load(lf.save(tmp_path / "again.npz")))


def test_published_file_with_two_components(tmp_path):
    two = MEG.reduce_meg()
    np.savez(
        tmp_path / "s_free_leadfield.npz",
        leadfield=two.data,
        Q_basis=two.basis,
        src_coords=two.coords,
        sensor_kind=1,
        sensor_units=112,
        sensor_unitmult=-15,
        coil_type=3024,
    )
    lf = Leadfield.load(tmp_path / "s_free_leadfield.npz")
    np.testing.assert_array_equal(lf.basis, two.basis)


def test_other_files(tmp_path):
    write_arrays(tmp_path / "a.npz", dict(x=1))
    with pytest.raises(ValueError, match="a file with a leadfield"):
        Leadfield.load(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", leadfield=LF.data)
    with pytest.raises(ValueError, match="does not say what it measures"):
        Leadfield.load(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", leadfield=np.array([{}], dtype=object), sensor_kind=2)
    with pytest.raises(ValueError, match="holds pickled objects at 'leadfield'"):
        Leadfield.load(tmp_path / "c.npz")
