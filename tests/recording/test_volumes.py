"""Volumes and mixed source spaces, walked from the recording to the statement.

A head that is turned and shifted against a made-up MRI, so that no two frames can be taken for each
other; grids, labelled parts of one, points, and a cortex with parts below it. Dense twins, and
MNE-Python's own answers.
"""

import csv
import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import mne
import numpy as np
import pytest
from routine import some
from scipy.spatial import ConvexHull
from test_evoked import sensors

from calibrain import EvokedPosterior, contrast, estimate_evoked, grand_average
from calibrain.core.warnings import NothingFoundWarning, PlausibilityWarning
from calibrain.posterior.gaussian import Posterior
from calibrain.recording.files import write_files

nib = pytest.importorskip("nibabel")
TIGHT = dict(rtol=1e-10, atol=1e-10)
SUBJECT = "somebody"
SIZE, VOXEL = 96, 2.5  # Voxels along an axis, and mm of each
# As FreeSurfer has it, x to the left, and its middle anywhere
AFFINE = np.array([[-VOXEL, 0, 0, 131.0], [0, 0, VOXEL, -112], [0, -VOXEL, 0, 126], [0, 0, 0, 1]])
MIDDLE = (AFFINE @ [SIZE / 2, SIZE / 2, SIZE / 2, 1])[:3]
BALLS = {"Left-Amygdala": (18, [-24.3, 4, -9]), "Right-Amygdala": (54, [24.3, 4, -9])}  # mm, MRI
RADIUS = 16.0
NAMES = [*BALLS]


def voxel_places():
    "Voxels in MRI coordinates, mm"
    number = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), axis=-1)
    return number @ AFFINE[:3, :3].T + AFFINE[:3, 3] - MIDDLE


@cache
def segmented():
    "Two balls in two halves of a larger one"
    at = voxel_places()
    values = np.zeros(at.shape[:3], np.int32)
    inside = np.linalg.norm(at, axis=-1) < 85
    values[inside] = np.where(at[inside, 0] < 0, 2, 41)
    for value, centre in BALLS.values():
        values[np.linalg.norm(at - centre, axis=-1) < RADIUS] = value
    return values


@cache
def subjects():
    "A folder with one subject: MRI, segmentation and cortex"
    folder = Path(mkdtemp(prefix="subjects-"))
    (folder / SUBJECT / "mri").mkdir(parents=True)
    (folder / SUBJECT / "surf").mkdir()
    image = nib.MGHImage(segmented(), AFFINE)
    for name in ("aseg.mgz", "T1.mgz"):
        nib.save(image, folder / SUBJECT / "mri" / name)
    n = 600
    z = 1 - (2 * np.arange(n) + 1) / n
    turn = np.arange(n) * np.pi * (3 - np.sqrt(5))
    rr = np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], 1)
    tris = ConvexHull(rr).simplices
    corners = rr[tris]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inwards = (normal * corners.mean(1)).sum(1) < 0
    tris[inwards] = tris[inwards][:, ::-1]
    for half, x in (("lh", -28), ("rh", 28)):
        surf = folder / SUBJECT / "surf"
        mne.write_surface(surf / f"{half}.sphere", 100 * rr, tris, verbose="ERROR")
        mne.write_surface(surf / f"{half}.white", 26 * rr + [x, 0, 30], tris, verbose="ERROR")
    return folder


def aseg():
    return subjects() / SUBJECT / "mri/aseg.mgz"


@cache
def trans():
    "The coregistration"
    turned = mne.transforms.rotation(0.15, -0.1, 0.25)
    turned[:3, 3] = 0.004, -0.006, 0.038
    return mne.Transform("mri", "head", turned)


def grid(**said):
    ball = (0.0, 0.0, 0.002, 0.06)
    where = dict(subjects_dir=subjects(), subject=SUBJECT)
    return mne.setup_volume_source_space(sphere=ball, verbose="ERROR", **where, **said)


def source_space(space):
    if space == "volume":
        return grid(pos=14.0)
    if space == "parts":
        return grid(pos=9.0, volume_label=NAMES)
    if space == "points":
        rng = np.random.default_rng(2)
        nn = rng.normal(size=(60, 3))
        nn /= np.linalg.norm(nn, axis=1, keepdims=True)
        dipoles = dict(rr=0.055 * nn * rng.uniform(0.2, 1, (60, 1)), nn=nn[::-1].copy())
        return mne.setup_volume_source_space(SUBJECT, pos=dipoles, verbose="ERROR")
    said = dict(subjects_dir=subjects(), surface="white", add_dist=False, verbose="ERROR")
    cortex = mne.setup_source_space(SUBJECT, spacing="oct3", **said)
    return cortex + grid(pos=9.0, volume_label=NAMES)


@cache
def forward(space, kind="eeg"):
    middle, radius = ((0.001, 0, 0.041), 0.095) if kind == "eeg" else ((0.001, 0, 0.03), 0.072)
    sphere = mne.make_sphere_model(middle, radius, verbose="ERROR")
    return mne.make_forward_solution(
        sensors(kind), trans(), source_space(space), sphere, verbose="ERROR"
    )


@cache
def recording(space, kind="eeg", seed=0):
    "Two sources and noise, with a baseline"
    fwd = forward(space, kind)
    rng = np.random.default_rng(seed)
    n = fwd["nsource"]
    times = np.arange(-20, 16) / 100
    course = np.exp(-((times - 0.08) ** 2) / (2 * 0.03**2))
    info = fwd["info"]
    unit = {"eeg": 1e-6, "mag": 1e-13, "grad": 5e-12}
    std = np.array([unit[k] for k in info.get_channel_types()]) / np.sqrt(50)
    data = std[:, None] * rng.normal(size=(len(std), len(times)))
    for source in (n // 3, 4 * n // 5):
        data += 60e-9 * fwd["sol"]["data"][:, 3 * source + 2, None] * course
    info = mne.create_info(info["ch_names"], 100.0, info.get_channel_types())
    for channel, known in zip(info["chs"], fwd["info"]["chs"]):
        channel.update(loc=known["loc"].copy())
        with info._unlock():
            channel["coil_type"] = known["coil_type"]
    with info._unlock():
        info["dev_head_t"] = fwd["info"]["dev_head_t"]
    evoked = mne.EvokedArray(data, info, -0.2, "tone", 50, verbose="ERROR")
    if kind == "eeg":
        evoked.set_eeg_reference("average", projection=True, verbose="ERROR")
    cov = mne.Covariance(50 * std**2, info["ch_names"], [], [], 1000)
    return evoked, cov


def solved(space, k, solver, seed=0):
    kind = "meg" if k == 2 else "eeg"
    orientation = {1: "fixed", 2: "meg2", 3: "free"}[k]
    few = dict(n_sweeps=20, n_burn=8, n_chains=2) if solver == "spike_slab" else {}
    evoked, cov = recording(space, kind, seed)
    said = dict(tmin=0.06, tmax=0.1, orientation=orientation, progress=False)
    return estimate_evoked(evoked, forward(space, kind), cov, solver, solver_params=few, **said)


estimate = cache(solved)
SOLVERS = ("gamma_map", "gamma_map_sflex", "BMN", "spike_slab")
CASES = [("points", 1, solver) for solver in SOLVERS]
CASES += [(space, k, s) for space in ("volume", "mixed") for k in (2, 3) for s in SOLVERS]
CASES += [("parts", 3, "BMN"), ("parts", 3, "gamma_map")]
CASES = some(CASES, every=3)  # every space and every solver
every = pytest.mark.parametrize("space, k, solver", CASES)
quiet = pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.ConvergenceWarning",
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
    "ignore::calibrain.core.warnings.PlausibilityWarning",
    "ignore::calibrain.core.warnings.NoiseWarning",
    "ignore::calibrain.core.warnings.NothingFoundWarning",
)
pytestmark = quiet


def places(space, kind="eeg"):
    "Of all sources in MRI coordinates, mm, out of the head and back"
    back = np.linalg.inv(trans()["trans"])
    return 1e3 * (forward(space, kind)["source_rr"] @ back[:3, :3].T + back[:3, 3])


def in_ball(space, name, kind="eeg"):
    "Which sources are in a region, from the definition of its ball and voxels"
    fwd = forward(space, kind)
    volumes = np.concatenate([np.full(s["nuse"], s["type"] != "surf") for s in fwd["src"]])
    voxel = (places(space, kind) + MIDDLE - AFFINE[:3, 3]) @ np.linalg.inv(AFFINE[:3, :3]).T
    centre = np.rint(voxel) @ AFFINE[:3, :3].T + AFFINE[:3, 3] - MIDDLE
    return volumes & (np.linalg.norm(centre - BALLS[name][1], axis=1) < RADIUS)


@cache
def moments(space, k, solver):
    "Mean `(n, n_times)` and covariance `(n_times, n, n)` of all coefficients, dense"
    p = estimate(space, k, solver).posterior
    if isinstance(p, Posterior):
        S = p.S.toarray()
        cov = S @ (np.diag(p.gamma) - p.V.T @ p.V) @ S.T
        return S @ p.coeff_mean, np.tile(cov, (p.n_times, 1, 1))
    S = np.eye(p.n_coeff) if p.S is None else p.S.toarray()
    means, seconds = [], []
    for state in p.states:
        rows = (state.atoms[:, None] * p.n_orient + np.arange(p.n_orient)).ravel()
        E = np.zeros((S.shape[1], len(rows)))
        E[rows, np.arange(len(rows))] = 1
        m = S @ E @ state.mean
        C = S @ E @ state.cov @ E.T @ S.T
        per_time = np.ones(p.n_times) if p.time_root is None else (p.time_root**2).sum(1)
        means.append(m)
        seconds.append(per_time[:, None, None] * C + m.T[:, :, None] * m.T[:, None])
    mean = sum(w * m for w, m in zip(p.weights, means))
    return mean, sum(w * s for w, s in zip(p.weights, seconds)) - mean.T[:, :, None] * mean.T[
        :, None
    ]


# ---- places


@pytest.mark.parametrize("space", ["volume", "parts", "points", "mixed"])
def test_sources_are_found_in_the_mri(space):
    est = estimate(space, 1 if space == "points" else 3, "BMN")
    n = len(est.volumes)
    within = sum(len(v) for v in est.vertices[-n:])
    found = est.volumes.in_mri(est.vertices[-n:], est.coords[-within:])
    np.testing.assert_allclose(1e3 * found, places(space)[-within:], atol=1e-4)
    assert est.volumes.names == (tuple(NAMES) if space in ("parts", "mixed") else ("volume",))


def test_a_source_at_the_centre_of_the_sphere():
    "Where MNE-Python divides by zero"
    src = mne.setup_volume_source_space(pos=20.0, sphere=(0, 0, 0.04, 0.07), verbose="ERROR")
    sphere = mne.make_sphere_model((0, 0, 0.04), 0.095, verbose="ERROR")
    with np.errstate(all="ignore"):
        fwd = mne.make_forward_solution(sensors("eeg"), None, src, sphere, verbose="ERROR")
    if np.isfinite(fwd["sol"]["data"]).all():
        fwd["sol"]["data"][:, 30:33] = np.nan  # a version that does not
    evoked, cov = recording("volume")
    with pytest.raises(ValueError, match=r"finite field, got NaN at 1 of them.*sphere by 1 mm"):
        estimate_evoked(evoked, fwd, cov, "BMN", tmin=0.06, tmax=0.1)


# ---- regions


@every
def test_a_region_is_the_mean_of_its_sources(space, k, solver):
    "Of a segmentation: against membership from geometry, and the dense posterior"
    kind = "meg" if k == 2 else "eeg"
    est = estimate(space, k, solver)
    names = [name for name in NAMES if in_ball(space, name, kind).any()]
    assert names
    found = est.regions((aseg(), names), "mean")
    mean, cov = moments(space, k, solver)
    rows = []
    for name, sources in zip(names, found.sources):
        inside = np.flatnonzero(in_ball(space, name, kind))
        np.testing.assert_array_equal(sources, inside)
        A = np.zeros((1 if k == 1 else 3, est.posterior.n_sources, k))
        for i in inside:
            A[:, i] = (np.eye(k) if est.basis is None or k == 1 else est.basis[i]) / len(inside)
        rows.append(A.reshape(len(A), -1))
    A = np.concatenate(rows)
    np.testing.assert_allclose(found.mean.reshape(len(A), -1), A @ mean, **TIGHT)
    joint = np.broadcast_to(found.cov, (found.posterior.n_times, len(A), len(A)))
    dense = A @ cov @ A.T
    np.testing.assert_allclose(joint, dense, atol=1e-10 * max(1, np.abs(dense).max()))


@pytest.mark.parametrize("space", ["volume", "parts"])
def test_the_values_are_those_of_mne(space):
    est = estimate(space, 3, "BMN")
    fwd = forward(space)
    src = fwd["src"] if space == "volume" else fwd["src"][:1]
    stc = est.mean
    if space == "parts":
        stc = mne.VolVectorSourceEstimate(stc.data[: src[0]["nuse"]], stc.vertices[:1], 0, 1)
    names = NAMES if space == "volume" else NAMES[:1]
    said = dict(mode="mean", mri_resolution=False, verbose="ERROR")
    theirs = mne.extract_label_time_course(stc, (str(aseg()), names), src, **said)
    np.testing.assert_allclose(est.regions((aseg(), names)).mean, 1e9 * theirs, **TIGHT)


def test_the_default_of_mne_is_weights():
    "Blurred over voxels first, which is linear: their weights give their values"
    est = estimate("volume", 3, "BMN")
    src = forward("volume")["src"]
    said = dict(mode="mean", verbose="ERROR")
    theirs = mne.extract_label_time_course(est.mean, (str(aseg()), NAMES), src, **said)
    voxels = segmented().ravel(order="F")
    blur = src[0]["interpolator"][:, src[0]["vertno"]]
    weights = {name: np.asarray(blur[voxels == BALLS[name][0]].mean(axis=0)) for name in NAMES}
    found = est.regions({name: w.ravel() for name, w in weights.items()}, "sum")
    np.testing.assert_allclose(found.mean, 1e9 * theirs, **TIGHT)


@pytest.mark.parametrize("space", ["parts", "mixed"])
def test_parts_are_regions_by_their_names(space):
    est = estimate(space, 3, "gamma_map")
    both = est.regions(NAMES)
    for name, sources, vertices in zip(NAMES, both.sources, est.vertices[-2:]):
        assert len(sources) == len(vertices)
        # The part was cut from the same segmentation
        np.testing.assert_array_equal(sources, est.regions((aseg(), name)).sources[0])
    renamed = est.regions(dict(mine="Left-Amygdala"))
    assert renamed.names == ("mine",)
    np.testing.assert_array_equal(renamed.mean[0], both.mean[0])


def test_labels_of_the_cortex_beside_parts():
    "As MNE-Python does: labels first, parts after them"
    est = estimate("mixed", 3, "BMN")
    src = forward("mixed")["src"]
    labels = [
        mne.Label(src[i]["vertno"][::2], hemi=h, name=f"some-{h}", subject=SUBJECT)
        for i, h in enumerate(("lh", "rh"))
    ]
    found = est.regions([*labels, *NAMES], "mean")
    said = dict(mode="mean", verbose="ERROR")
    theirs = mne.extract_label_time_course(est.mean, labels, src, **said)
    np.testing.assert_allclose(found.mean, 1e9 * theirs, **TIGHT)
    n_cortex = src[0]["nuse"] + src[1]["nuse"]
    assert all(s.min() >= n_cortex for s in est.regions(aseg()).sources)


def test_any_image_of_the_scanner_serves():
    "Path, image, NIfTI, and other voxels in the same frame"
    est = estimate("volume", 3, "BMN")
    expected = est.regions((aseg(), NAMES)).mean
    image = nib.Nifti1Image(segmented().astype(np.int16), AFFINE)
    for one in (str(aseg()), nib.load(aseg()), image):
        np.testing.assert_array_equal(est.regions((one, NAMES)).mean, expected)
    turned = nib.as_closest_canonical(image)
    assert not np.allclose(turned.affine, AFFINE)
    np.testing.assert_array_equal(est.regions((turned, NAMES)).mean, expected)
    by_value = est.regions((image, dict(here=18, there=54)))
    np.testing.assert_array_equal(by_value.mean, expected)
    shifted = AFFINE.copy()
    shifted[:3, 3] += [0, 30, 0]
    elsewhere = est.regions((nib.Nifti1Image(segmented().astype(np.int16), shifted), NAMES))
    assert not np.array_equal(elsewhere.sources[0], est.regions((aseg(), NAMES)).sources[0])


def test_points_are_found_by_the_format_of_freesurfer():
    "No MRI is known of them; the file says where its MRI coordinates are"
    est = estimate("points", 1, "BMN")
    assert est.volumes.scanner is None
    found = est.regions(aseg())
    inside = np.flatnonzero(in_ball("points", "Left-Amygdala"))
    np.testing.assert_array_equal(found.sources[found.names.index("Left-Amygdala")], inside)
    image = nib.Nifti1Image(segmented().astype(np.int16), AFFINE)
    with pytest.raises(ValueError, match=r"in FreeSurfer's format .* made without an MRI"):
        est.regions(image)


def test_regions_without_sources():
    "Left out and said of a whole segmentation, refused where they were asked for"
    values = segmented().copy()
    values[0, 0, 0] = 17
    image = nib.Nifti1Image(values.astype(np.int16), AFFINE)
    est = estimate("volume", 3, "BMN")
    with pytest.warns(PlausibilityWarning, match=r"1 regions .* left out.*Left-Hippocampus"):
        found = est.regions(image)
    assert "Left-Hippocampus" not in found.names and len(found) == 4
    with pytest.raises(ValueError, match=r"none in Left-Hippocampus: leave these out"):
        est.regions((image, ["Left-Hippocampus", "Left-Amygdala"]))
    with pytest.raises(ValueError, match=r"none in mine"):
        est.regions((image, dict(mine=17)))


def bad_images():
    cut = np.eye(4)
    cut[:3, 3] = 500
    whole = segmented().astype(np.int16)
    return dict(
        elsewhere=nib.Nifti1Image(whole, cut),
        four=nib.Nifti1Image(np.stack([whole] * 2, -1), AFFINE),
        blurred=nib.Nifti1Image((whole + 0.5).astype(np.float32), AFFINE),
        other=nib.Nifti1Image(np.where(whole == 18, 30_111, whole).astype(np.int32), AFFINE),
        fine=nib.Nifti1Image(whole, AFFINE),
    )


@pytest.mark.parametrize(
    "labels, error, words",
    [
        ("elsewhere", ValueError, "around the sources, got .* 96 × 96 × 96 voxels elsewhere"),
        ("four", ValueError, "of three axes, got the segmentation of shape"),
        ("blurred", ValueError, "of whole numbers, got the segmentation with values between"),
        ("other", ValueError, r"no names are given, got 30111 in .*pass \(atlas, {name: value}\)"),
        (
            ("fine", "left-amigdala"),
            ValueError,
            "got 'left-amigdala': did you mean 'Left-Amygdala'",
        ),
        (("fine", ["Left-Hippocampus"]), ValueError, "regions that the segmentation has"),
        (("fine", dict(mine=7)), ValueError, r"labels\[1\]\['mine'\] must be a value that"),
        (("fine", dict(mine="18")), TypeError, "a whole number, got '18'"),
        ("nowhere.mgz", FileNotFoundError, "a segmentation that is there, got nowhere.mgz"),
        ("volum", ValueError, "names of parts .* got 'volum': did you mean 'volume'"),
        (mne.Label([0, 1], hemi="lh", name="a"), TypeError, "no mne.Label, which is of the cortex"),
    ],
)
def test_what_is_no_region(labels, error, words):
    images = bad_images()
    if isinstance(labels, tuple):
        labels = (images[labels[0]], labels[1])
    elif isinstance(labels, str):
        labels = images.get(labels, labels)
    with pytest.raises(error, match=words):
        estimate("volume", 3, "BMN").regions(labels)


def test_a_damaged_segmentation(tmp_path):
    path = tmp_path / "aseg.nii"
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot be read as an image"):
        estimate("volume", 3, "BMN").regions(path)


@pytest.mark.filterwarnings("default::calibrain.core.warnings.PlausibilityWarning")
def test_what_is_doubtful_is_announced():
    est = estimate("volume", 3, "BMN")
    fine = nib.Nifti1Image(segmented().astype(np.int16), AFFINE)
    flipped = nib.Nifti1Image(segmented()[::-1].astype(np.int16), AFFINE)
    with pytest.warns(PlausibilityWarning, match=r"what it calls left .* to the right"):
        est.regions(flipped)
    cut = nib.Nifti1Image(segmented()[:50].astype(np.int16), AFFINE)
    with pytest.warns(PlausibilityWarning, match=r"sources in the volume are outside"):
        est.regions((cut, dict(there=54)))
    unregistered = replace(est.volumes, mri_head=np.eye(4))
    with pytest.warns(PlausibilityWarning, match=r"without a coregistration"):
        replace(est, volumes=unregistered).regions(fine)


# ---- images


@pytest.mark.parametrize("space", ["volume", "parts", "mixed"])
@pytest.mark.parametrize("what", ["mean", "std", "certainty"])
def test_an_image_holds_the_estimate_where_the_sources_are(space, what, tmp_path):
    est = estimate(space, 3, "BMN")
    path = tmp_path / "x.nii.gz"
    est.to_nifti(path, what)
    image = nib.load(path)
    data = image.get_fdata()
    known = np.argwhere(np.isfinite(data[..., 0]))
    at = known @ image.affine[:3, :3].T + image.affine[:3, 3] - MIDDLE
    n = len(known)
    theirs = places(space)[-n:]
    apart = np.linalg.norm(at[:, None] - theirs[None], axis=-1)
    nearest = apart.argmin(axis=1)
    assert apart.min(axis=1).max() < 0.01 and len(set(nearest)) == n  # mm; a step is 9 or 14
    mean = 1e9 * est.mean.data[-n:]
    length = np.linalg.norm(mean, axis=1)
    u = mean / length[:, None]
    cov = est.posterior.blocks[-n:]
    expected = dict(mean=length, std=np.sqrt(np.einsum("nit,nij,njt->nt", u, cov, u)))
    values = data[tuple(known.T)]
    if what != "certainty":
        np.testing.assert_allclose(values, expected[what][nearest], rtol=1e-5)
    else:
        from scipy.special import ndtr

        z = (length / expected["std"])[nearest]
        np.testing.assert_allclose(values, ndtr(z) - ndtr(-z), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(image.header.get_zooms()[3], 10)
    np.testing.assert_allclose(image.header["toffset"], 60)


@pytest.mark.parametrize("space", ["volume", "parts", "mixed"])
def test_the_image_is_that_of_mne(space):
    est = estimate(space, 3, "gamma_map")
    src = forward(space)["src"]
    stc = est.mean.volume() if space == "mixed" else est.mean
    theirs = stc.as_volume(src if space != "mixed" else mne.SourceSpaces(src[2:]))
    mine = est.to_nifti(outside=0.0)
    np.testing.assert_allclose(mine.affine, theirs.affine, atol=1e-6)
    np.testing.assert_allclose(mine.get_fdata(), 1e9 * theirs.get_fdata(), rtol=1e-5, atol=1e-6)


def test_one_component_has_intervals_as_images():
    "A grid seen along one direction of each source"
    est = estimate("volume", 3, "BMN")
    n = est.posterior.n_sources
    k1 = replace(est.posterior, S=est.posterior.S[2::3], n_orient=1)
    one = replace(est, result=replace(est.result, posterior=k1), basis=None)
    low, high = one.interval(0.8)
    for what, end in (("low", low), ("high", high), ("mean", one.mean), ("std", one.std)):
        image = one.to_nifti(what=what, level=0.8, time=0.08)
        values = image.get_fdata().ravel(order="F")[one.vertices[0]]
        np.testing.assert_allclose(values, 1e9 * end.data[:, 2], rtol=1e-5, atol=1e-6)
    own = np.arange(float(n))
    image = one.to_nifti(what=own, time=0.08)
    np.testing.assert_array_equal(image.get_fdata().ravel(order="F")[one.vertices[0]], own)


def test_complex_amplitudes_need_a_number_of_their_own():
    est = estimate("volume", 3, "BMN")
    turned = replace(est.posterior, coeff_mean=est.posterior.coeff_mean * (1 + 1j))
    spectral = replace(est, result=replace(est.result, posterior=turned))
    with pytest.raises(TypeError, match=r"of real amplitudes .*what=np.abs"):
        spectral.to_nifti()
    size = np.linalg.norm(np.abs(1e9 * spectral.mean.data), axis=1)
    assert np.nanmax(spectral.to_nifti(what=size).get_fdata()) == pytest.approx(
        size.max(), rel=1e-6
    )


def test_images_of_several_grids_and_of_none():
    est = estimate("parts", 3, "BMN")
    grids = est.volumes.grids.copy()
    grids[1, 0, 3] += 0.004
    apart = replace(est, volumes=replace(est.volumes, grids=grids))
    with pytest.raises(ValueError, match=r"on one grid .*part='Left-Amygdala'"):
        apart.to_nifti()
    one = apart.to_nifti(part="Right-Amygdala")
    assert np.isfinite(one.get_fdata()[..., 0]).sum() == len(est.vertices[1])
    with pytest.raises(ValueError, match=r"on a grid for an image, got volume.*pos=5.0"):
        estimate("points", 1, "BMN").to_nifti()


def test_files_that_are_there_and_estimates_that_are_no_volume(tmp_path):
    est = estimate("volume", 3, "BMN")
    path = tmp_path / "x.nii"
    est.to_nifti(path, time=0.08)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"pass overwrite=True to replace it"):
        est.to_nifti(path)
    assert path.read_bytes() == before
    est.to_nifti(path, "std", time=0.08, overwrite=True)
    assert path.read_bytes() != before and [p.name for p in tmp_path.iterdir()] == ["x.nii"]
    surface = replace(est, space="surface", volumes=None)
    with pytest.raises(TypeError, match=r"with sources in a volume.*got one on the cortex"):
        surface.to_nifti()
    with pytest.raises(ValueError, match=r"positions in the head alone"):
        replace(est, volumes=None).to_nifti()


@pytest.mark.filterwarnings("default::calibrain.core.warnings.PlausibilityWarning")
def test_an_image_without_an_mri_says_so():
    est = estimate("volume", 3, "BMN")
    bare = replace(est, volumes=replace(est.volumes, scanner=None))
    with pytest.warns(PlausibilityWarning, match=r"surface RAS"):
        image = bare.to_nifti()
    np.testing.assert_allclose(
        image.affine[:3, 3] + MIDDLE, est.to_nifti().affine[:3, 3], atol=1e-4
    )


# ---- slices


def test_slices(tmp_path):
    pytest.importorskip("nilearn")
    from calibrain.viz import draw_slices

    est = estimate("mixed", 3, "gamma_map_sflex")
    fig = draw_slices(est, certain=0.8)
    assert any("sign is certain to 80 %, not calibrated" in t.get_text() for t in fig.texts)
    assert fig.axes[-1].get_ylabel() == "length of the posterior mean (nAm)"
    fig.savefig(tmp_path / "x.png")
    at = est.to_nifti(time=0.08)
    largest = at.affine @ [*np.unravel_index(np.nanargmax(at.get_fdata()), at.shape), 1]
    assert f"x={largest[0]:.0f}" in {t.get_text() for ax in fig.axes for t in ax.texts}
    doubtful = replace(est, result=quieter(est, 1e-6))
    fig = draw_slices(doubtful, mri=aseg())
    assert any("nowhere is its sign certain" in t.get_text() for t in fig.texts)
    own = np.linspace(-1, 1, est.posterior.n_sources)
    fig = draw_slices(est, own, 0.08, unit="", label="mine", place=[0, 0, 0])
    assert fig.axes[-1].get_ylabel() == "mine"
    assert draw_slices(est, "certainty").axes[-1].get_ylabel() == "certainty of the sign"
    with pytest.warns(PlausibilityWarning, match="in Am"):
        draw_slices(est, 1e-9 * own, 0.08, unit="nAm")
    assert (
        draw_slices(est, "std", 0.0815).texts[0].get_text()
        == "posterior standard deviation at 80 ms, not calibrated"
    )
    frame = draw_slices(est, "std", 0.0815).texts[1].get_text()
    assert frame.endswith("x, y, z in mm, frame of the scanner")
    with pytest.raises(TypeError, match="got one on the cortex"):
        draw_slices(replace(est, space="surface"))
    with pytest.raises(ValueError, match="place must be of shape"):
        draw_slices(est, place=[0, 0])


def quieter(est, share):
    "A result whose mean is a share of what it was"
    p = est.posterior
    return replace(est.result, posterior=replace(p, coeff_mean=share * p.coeff_mean))


@pytest.mark.filterwarnings("default::calibrain.core.warnings.NothingFoundWarning")
def test_an_image_of_nothing_says_so():
    est = estimate("volume", 3, "BMN")
    p = est.posterior
    none = replace(p, gamma=0 * p.gamma, V=0 * p.V, coeff_mean=0 * p.coeff_mean)
    entries = dict(
        est.result.entries, active_indices=np.arange(0), coefficient_indices=np.arange(0)
    )
    silent = replace(est, result=replace(est.result, posterior=none, entries=entries))
    assert silent.nothing_found
    with pytest.warns(NothingFoundWarning, match="which is no certainty"):
        silent.to_nifti()


@pytest.mark.parametrize("space", ["volume", "mixed"])
def test_the_viewer_asks_for_the_source_space(space):
    "Which MNE-Python needs to know where voxels are; `plot` of a volume is no 3-D viewer"
    with pytest.raises(ValueError, match=r"src must be passed .*src=forward\['src'\]"):
        estimate(space, 3, "BMN").plot_3d()


def test_what_is_not_installed_is_said(monkeypatch):
    from calibrain.viz import draw_slices

    est = estimate("volume", 3, "BMN")
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(ImportError, match=r"pip install 'calibrain\[volumes\]'"):
        draw_slices(est)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    for asked in (est.to_nifti, lambda: est.regions("aseg.mgz")):
        with pytest.raises(ImportError, match=r"needs nibabel: pip install 'calibrain\[volumes\]'"):
            asked()


# ---- everything else that leads to a statement


@every
def test_peak_and_words(space, k, solver):
    est = estimate(space, k, solver)
    peak = est.peak()
    p = est.posterior
    size = np.linalg.norm(p.mean.reshape(p.n_sources, k, -1), axis=1)
    assert peak.source == np.unravel_index(size.argmax(), size.shape)[0]
    assert est.vertices[peak.part][peak.source - sum(map(len, est.vertices[: peak.part]))] == (
        peak.vertex
    )
    np.testing.assert_allclose(peak.position, est.coords[peak.source])
    assert str(peak) in str(est) and "nAm" in est._repr_html_()
    n_cortex = len(est.vertices) - len(est.volumes)
    named = space in ("parts", "mixed") and peak.part >= n_cortex
    assert peak.within == (NAMES[peak.part - n_cortex] if named else None)
    assert named == (f"mm, head coordinates, in {peak.within}" in str(peak))


@every
def test_again_from_a_file(space, k, solver, tmp_path):
    est = estimate(space, k, solver)
    again = EvokedPosterior.load(est.save(tmp_path / "x.npz"))
    np.testing.assert_array_equal(again.std.data, est.std.data)
    labels = (aseg(), [n for n in NAMES if in_ball(space, n, "meg" if k == 2 else "eeg").any()])
    np.testing.assert_array_equal(again.regions(labels).mean, est.regions(labels).mean)
    assert again.volumes.names == est.volumes.names
    if space != "points":
        np.testing.assert_array_equal(again.to_nifti().affine, est.to_nifti().affine)


PAGES = [("points", 1, "BMN"), ("volume", 3, "gamma_map"), ("volume", 2, "spike_slab")]
PAGES += [("mixed", 2, "gamma_map_sflex"), ("mixed", 3, "spike_slab"), ("parts", 3, "BMN")]
PAGES = some(PAGES, every=2)


@pytest.mark.parametrize("space, k, solver", PAGES)
def test_report(space, k, solver, tmp_path):
    est = estimate(space, k, solver)
    labels = (aseg(), [n for n in NAMES if in_ball(space, n, "meg" if k == 2 else "eeg").any()])
    page = est.report(tmp_path / "a.html", labels=labels).read_text()
    assert "Left-Amygdala" in page and page.count("<img") >= 4


def test_a_report_on_the_cortex_and_below_it(tmp_path):
    "Colours mean the same in both; a volume has no cortex"
    est = estimate("mixed", 3, "gamma_map")
    src = forward("mixed")["src"]
    page = est.report(tmp_path / "a.html", cortex=src).read_text()
    assert page.count("<img") == est.report(tmp_path / "b.html").read_text().count("<img") + 2
    with pytest.raises(ValueError, match=r"two hemispheres, got 'vol'.*draw_glass"):
        estimate("volume", 3, "BMN").report(tmp_path / "c.html", cortex=forward("volume")["src"])
    cortex = mne.SourceSpaces(src[:2])
    with pytest.raises(ValueError, match=r"with \d+ sources, got one with"):
        estimate("volume", 3, "BMN").report(tmp_path / "c.html", cortex=cortex)
    assert not (tmp_path / "c.html").exists()


@pytest.mark.parametrize("space", ["volume", "mixed"])
def test_in_a_report_of_mne(space):
    report = mne.Report(verbose="ERROR")
    estimate(space, 3, "gamma_map").add_to_report(report)
    assert "Strongest sources" in "".join(e for s in report.html for e in [s])


@every
def test_predictive_check_and_more_data(space, k, solver):
    est = estimate(space, k, solver)
    assert est.predictive_check().standardised.shape[1] == len(est.times)
    more = est.with_nave(200)
    naves, std = more.curve()
    assert (np.diff(std) < 1e-9).all() and len(naves) == len(std)
    assert type(more.std) is type(est.std) and len(more.std.data) == len(est.std.data)
    if solver != "spike_slab":
        assert (more.limit.std.data <= more.std.data + 1e-15).all()


@pytest.mark.parametrize("space, k, solver", [c for c in CASES if c[2] != "spike_slab"])
def test_contrasts(space, k, solver):
    a, b = estimate(space, k, solver), estimate(space, k, solver, 1)
    b = replace(b, comment="other")
    difference = a - b
    np.testing.assert_allclose(difference.mean.data, a.mean.data - b.mean.data, atol=1e-18)
    np.testing.assert_allclose(difference.std.data**2, a.std.data**2 + b.std.data**2, atol=1e-24)
    labels = (aseg(), [n for n in NAMES if in_ball(space, n, "meg" if k == 2 else "eeg").any()])
    mine = difference.regions(labels).mean
    np.testing.assert_allclose(mine, a.regions(labels).mean - b.regions(labels).mean, atol=1e-10)
    if space != "points":
        assert difference.to_nifti().shape == a.to_nifti().shape
    again = contrast({"tone": 1, "other": -1}, [a, b])
    np.testing.assert_allclose(again.mean.data, difference.mean.data, atol=1e-20)


def test_contrasts_of_samplers(space="mixed"):
    "Estimated in one call, as their noise in time is to be the same"
    (a, cov), (b, _) = recording(space), recording(space, seed=1)
    b = b.copy()
    b.comment = "other"
    few = dict(n_sweeps=20, n_burn=8, n_chains=2)
    said = dict(tmin=0.08, tmax=0.09, progress=False, solver_params=few)
    both = estimate_evoked([a, b], forward(space), cov, "spike_slab", **said)
    one, other = (e.regions((aseg(), NAMES)) for e in both)
    difference = (both[0] - both[1]).regions((aseg(), NAMES))
    np.testing.assert_allclose(difference.mean, one.mean - other.mean, atol=1e-10)
    np.testing.assert_allclose(difference.std**2, one.std**2 + other.std**2, atol=1e-10)


@every
def test_arrays_and_tables(space, k, solver):
    pytest.importorskip("xarray")
    pytest.importorskip("pandas")
    est = estimate(space, k, solver)
    data = est.to_xarray()
    np.testing.assert_allclose(data["mean"].values, 1e9 * est.mean.data)
    np.testing.assert_allclose(data["position_z"].values, est.coords[:, 2])
    labels = (aseg(), [n for n in NAMES if in_ball(space, n, "meg" if k == 2 else "eeg").any()])
    regions = est.regions(labels, components="normal" if k == 1 else "norm")
    assert len(regions.to_frame()) == len(regions) * len(est.times)
    assert list(regions.to_xarray()["region"].values) == labels[1]


@every
def test_grand_average_of_regions(space, k, solver):
    a, b = estimate(space, k, solver), estimate(space, k, solver, 1)
    labels = (aseg(), [n for n in NAMES if in_ball(space, n, "meg" if k == 2 else "eeg").any()])
    components = "normal" if k == 1 else "norm"
    group = grand_average([e.regions(labels, components=components) for e in (a, b)])
    assert group.mean.shape == (len(labels[1]), len(a.times))


def test_grand_average_of_maps_of_a_volume():
    a, b = estimate("points", 1, "BMN"), estimate("points", 1, "BMN", 1)
    group = grand_average([a, b])
    assert type(group.stc()) is mne.VolSourceEstimate
    assert group.places[1] == "volume 1"


@pytest.mark.parametrize("space", ["parts", "mixed"])
def test_places_of_a_group_are_those_of_the_source_space(space):
    "Two volumes are no two hemispheres"
    one = []
    for seed in (0, 1):
        e = estimate(space, 3, "BMN", seed)
        upwards = replace(e.posterior, S=e.posterior.S[2::3], n_orient=1)
        one.append(replace(e, result=replace(e.result, posterior=upwards), basis=None))
    places = grand_average(one).places
    assert places[-1] == f"Right-Amygdala {e.vertices[-1][-1]}"
    assert places[0] == f"{'lh' if space == 'mixed' else 'Left-Amygdala'} {e.vertices[0][0]}"


@pytest.mark.parametrize("space, k, solver", PAGES)
def test_files(space, k, solver, tmp_path):
    pytest.importorskip("h5io")
    est = estimate(space, k, solver)
    names = [n for n in NAMES if in_ball(space, n, "meg" if k == 2 else "eeg").any()]
    written = write_files(est, tmp_path, "sub", labels=(aseg(), names))
    assert len(written) >= 8
    with open(tmp_path / "sub_regions.csv", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert {row["region"] for row in rows} == set(names)
    mean = next(p for p in written if p.name.startswith("sub_mean"))
    np.testing.assert_allclose(
        mne.read_source_estimate(mean).data, est.mean.data, rtol=1e-6, atol=1e-16
    )
    assert json.loads((tmp_path / "sub_posterior.json").read_text())["Units"]


def dense_morph(kind, fwd, rng):
    "A morph that MNE-Python could have computed, with matrices at random"
    from scipy import sparse

    src = fwd["src"]
    vol = [s for s in src if s["type"] != "surf"]
    surf = [s for s in src if s["type"] == "surf"]
    n_from = sum(s["nuse"] for s in vol)
    shape, n_to = (5, 6, 7), 40
    to = np.sort(rng.choice(5 * 6 * 7, n_to, replace=False))
    affine = np.diag([6.0, 6, 6, 1])
    affine[:3, 3] = -12, -20, 3
    M = sparse.csr_array(rng.random((n_to, n_from)) * (rng.random((n_to, n_from)) < 0.2))
    data = dict(inuse=[s["inuse"] for s in vol], to_vox_map=(shape, affine))
    vertices, surface = [to], None
    if surf:
        data["vertices_from"] = [s["vertno"] for s in surf]
        m = sum(s["nuse"] for s in surf)
        surface = sparse.csr_array(rng.random((30, m)) * (rng.random((30, m)) < 0.2))
        vertices = [np.arange(10), np.arange(20), to]
    none = dict.fromkeys(("zooms", "niter_affine", "niter_sdr", "spacing", "smooth"))
    return mne.SourceMorph(
        SUBJECT,
        "fsaverage",
        kind,
        **none,
        xhemi=False,
        morph_mat=surface,
        vertices_to=vertices,
        shape=shape,
        affine=affine,
        pre_affine=None,
        sdr_morph=None,
        src_data=data,
        vol_morph_mat=M,
        verbose="ERROR",
    )


@pytest.mark.parametrize("space", ["volume", "parts", "mixed"])
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("solver", ["BMN", "spike_slab"])
def test_morphs(space, k, solver, tmp_path):
    if (space, k, solver) not in CASES:
        return
    from scipy import linalg

    est = estimate(space, k, solver)
    fwd = forward(space, "meg" if k == 2 else "eeg")
    kind = "mixed" if space == "mixed" else "volume"
    morph = dense_morph(kind, fwd, np.random.default_rng(0))
    found = est.morph(morph)
    M = morph.vol_morph_mat.toarray()
    if kind == "mixed":
        M = linalg.block_diag(morph.morph_mat.toarray(), M)
    n = est.posterior.n_sources
    Q = np.tile(np.eye(3), (n, 1, 1)) if est.basis is None else est.basis
    A = np.kron(M, np.eye(3)) @ linalg.block_diag(*Q)
    mean, cov = moments(space, k, solver)
    np.testing.assert_allclose(1e9 * found.mean.data.reshape(len(A), -1), A @ mean, **TIGHT)
    variance = np.diagonal(A @ cov @ A.T, axis1=1, axis2=2).T
    np.testing.assert_allclose(
        1e18 * found.std.data.reshape(len(A), -1) ** 2, variance, atol=1e-9 * variance.max()
    )
    theirs = morph.apply(est.mean)
    assert type(theirs) is type(found.mean)
    np.testing.assert_allclose(found.mean.data, theirs.data, rtol=1e-8, atol=1e-18)
    image = found.to_nifti(time=0.08)
    np.testing.assert_allclose(image.affine, morph.src_data["to_vox_map"][1], atol=1e-6)
    flat = image.get_fdata().ravel(order="F")
    length = np.linalg.norm(1e9 * found.mean.data[:, :, 2], axis=1)[-40:]
    np.testing.assert_allclose(flat[morph.vertices_to[-1]], length, rtol=1e-5)
    again = EvokedPosterior.load(found.save(tmp_path / "x.npz"))
    np.testing.assert_array_equal(again.to_nifti().affine, image.affine)
    assert "part" in str(found)
    with pytest.raises(ValueError, match="a morphed one: report the estimate before"):
        found.report(tmp_path / "x.html")
    assert "position_x" not in found.to_xarray()


@pytest.mark.parametrize("space", ["volume", "mixed"])
def test_the_command(space, tmp_path, capsys):
    pytest.importorskip("h5io")
    from calibrain.cli import main

    evoked, cov = recording(space)
    paths = [tmp_path / name for name in ("tone-ave.fif", "tone-fwd.fif", "tone-cov.fif")]
    mne.write_evokeds(paths[0], evoked, verbose="ERROR")
    mne.write_forward_solution(paths[1], forward(space), verbose="ERROR")
    mne.write_cov(paths[2], cov, verbose="ERROR")
    said = ["--tmin", ".06", "--tmax", ".1", "--solver", "BMN"]
    labels = ["--labels", str(aseg())]
    run = ["estimate", *map(str, paths), *said, "--out", str(tmp_path / "out")]
    assert main([*run, *labels]) == 0
    (folder,) = [p for p in (tmp_path / "out").iterdir() if p.is_dir()]
    mean = mne.read_source_estimate(next(folder.glob("*_mean-*.h5")))
    kinds = dict(volume=mne.VolVectorSourceEstimate, mixed=mne.MixedVectorSourceEstimate)
    assert type(mean) is kinds[space]
    rows = list(csv.DictReader(next(folder.glob("*_regions.csv")).open(encoding="utf-8")))
    assert {row["region"] for row in rows} >= set(NAMES)
    again = EvokedPosterior.load(next(folder.glob("*_posterior.npz")))
    np.testing.assert_allclose(
        again.to_nifti().affine[:3, :3],
        np.diag([9.0, 9, 9] if space == "mixed" else [14.0, 14, 14]),
        atol=1e-5,
    )
    capsys.readouterr()
    assert main([*run, *labels, "--labels", "Left-Amygdala", "--overwrite"]) == 2
    assert "one segmentation alone" in capsys.readouterr().err
    assert main([*run, "--labels", "left-amygdala", "--overwrite"]) == 2
    err = capsys.readouterr().err
    assert ("did you mean 'Left-Amygdala'" if space == "mixed" else "there are 'volume'") in err
    if space == "mixed":
        assert main([*run, "--labels", "Left-Amygdala", "--overwrite"]) == 0
