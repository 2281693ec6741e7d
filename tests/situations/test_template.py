"A recording without an MRI: a template head, or any Leadfield, in place of a forward solution"

import warnings

import mne
import numpy as np
import pytest

from calibrain import Leadfield, SourceEstimator, estimate_evoked, template_leadfield
from calibrain.core.warnings import PlausibilityWarning
from calibrain.head.template import template_sensors, template_vertices
from calibrain.posterior.result import Result

pytest.importorskip("nilearn", reason="template heads need nilearn: pip install 'calibrain[heads]'")

NAVE = 20
NOISE = 3e-6  # of one epoch, V
SOURCE = 200


@pytest.fixture(scope="module")
def lf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    said = dict(conductor="sphere", montage="biosemi32", cache_dir=folder, progress=False)
    return template_leadfield("eeg", **said)


def recording(lf, names=None, positions=None):
    "One source of the template responds; what a file without an MRI holds"
    rng = np.random.default_rng(0)
    x = np.zeros((lf.n_sources, 80))
    x[SOURCE, 40:] = 100 * np.sin(np.arange(40) / 6)
    noise = NOISE / np.sqrt(NAVE) * rng.normal(size=(lf.n_sensors, 80))
    names = list(lf.ch_names) if names is None else names
    info = mne.create_info(names, 100.0, "eeg", verbose="ERROR")
    if positions is not None:
        montage = mne.channels.make_dig_montage(positions, coord_frame="head")
        info.set_montage(montage, verbose="ERROR")
    data = 1e-6 * lf.matrix() @ x + noise
    evoked = mne.EvokedArray(data, info, tmin=-0.4, nave=NAVE, verbose="ERROR")
    cov = mne.Covariance(np.full(len(names), NOISE**2), names, [], [], 1000)
    return evoked, cov


def solve(evoked, lf, cov, solver="BMN", **more):
    return estimate_evoked(evoked, lf, cov, solver, tmin=0.0, progress=False, **more)


def test_it_is_the_estimate_of_the_arrays(lf):
    "The same noise and leadfield, handed to the estimator by hand"
    evoked, cov = recording(lf)
    est = solve(evoked, lf, cov)
    y = 1e6 * evoked.data[:, 40:]
    reference = np.eye(32) - 1 / 32
    C = (1e6 * NOISE) ** 2 / NAVE * reference
    by_hand = SourceEstimator("BMN", noise_cov=C).fit(lf, reference @ y).predict()
    assert isinstance(by_hand, Result)
    scale = np.abs(by_hand.mean).max()
    np.testing.assert_allclose(1e9 * est.mean.data, by_hand.mean, atol=1e-6 * scale)
    np.testing.assert_allclose(1e9 * est.std.data[:, 0], by_hand.std, rtol=1e-5)


def test_estimates_are_those_of_fsaverage(lf):
    evoked, cov = recording(lf)
    est = solve(evoked, lf, cov, "gamma_map", solver_params=dict(max_iter=5000))
    stc = est.mean
    assert isinstance(stc, mne.SourceEstimate) and stc.subject == "fsaverage"
    assert [len(v) for v in stc.vertices] == [642, 642]
    for got, vertices in zip(stc.vertices, template_vertices(lf)):
        np.testing.assert_array_equal(got, vertices)
    np.testing.assert_array_equal(est.coords, lf.coords)
    peak = np.abs(stc.data).max(1).argmax()
    assert np.linalg.norm(lf.coords[peak] - lf.coords[SOURCE]) < 0.015


def test_channels_go_by_name_in_any_order_and_spelling(lf):
    "EDF files say `FP1`, `EEG Fp1` or `Fp1.`; the order is the file's"
    evoked, cov = recording(lf)
    want = solve(evoked, lf, cov).mean.data
    for spell in (str.upper, "EEG {}".format, "{}.".format):
        names = [spell(name) for name in lf.ch_names]
        e, c = recording(lf, names)
        e.reorder_channels(names[::-1])
        np.testing.assert_allclose(solve(e, lf, c).mean.data, want, atol=1e-6 * want.max())


def test_a_channel_that_the_template_lacks_is_named(lf):
    evoked, cov = recording(lf)
    renamed = {"Cz": "E129"}
    evoked.rename_channels(renamed)
    cov = mne.Covariance(cov["data"], evoked.ch_names, [], [], 1000)
    with pytest.raises(ValueError, match=r"forward must be complete .* none for E129"):
        solve(evoked, lf, cov)


def test_a_bad_channel_is_left_out_and_the_reference_is_that_of_the_others(lf):
    evoked, cov = recording(lf)
    evoked.info["bads"] = ["Cz"]
    est = solve(evoked, lf, cov)
    kept = [name for name in lf.ch_names if name != "Cz"]
    few, _ = recording(lf)
    few.pick(kept)
    again = solve(few, lf.select(kept), cov)
    np.testing.assert_allclose(est.mean.data, again.mean.data, atol=1e-15)


def test_a_custom_reference_is_refused_as_ever(lf):
    evoked, cov = recording(lf)
    evoked.set_eeg_reference(["Cz"], verbose="ERROR")
    with pytest.raises(ValueError, match="average reference"):
        solve(evoked, lf, cov)


def test_electrodes_that_are_elsewhere_are_said(lf):
    "4 cm forward: another frame, or a cap that slipped; a few mm are what heads differ by"
    cap = template_sensors(lf)
    moved = {name: place + np.array([0, 0.04, 0]) for name, place in cap.items()}
    with pytest.warns(PlausibilityWarning, match="electrodes lie 40 mm from those"):
        solve(*with_positions(lf, moved))
    close = {name: place + np.array([0, 0.004, 0]) for name, place in cap.items()}
    evoked, head, cov = with_positions(lf, close)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlausibilityWarning)
        solve(evoked, head, cov)


def with_positions(lf, positions):
    evoked, cov = recording(lf, positions=positions)
    return evoked, lf, cov


def test_a_leadfield_of_points_gives_a_volume(lf):
    "No template: sources are points, and the estimate is that of a volume"
    points = Leadfield.random(32, 50, 3)
    evoked, cov = recording(lf, list(points.ch_names))
    est = solve(evoked, points, cov)
    assert isinstance(est.mean, mne.VolVectorSourceEstimate)
    np.testing.assert_array_equal(est.coords, points.coords)


def test_a_part_of_a_template(lf):
    "Some of its sources: still vertices of fsaverage"
    half = lf.select(sources=np.arange(642))
    evoked, cov = recording(lf)
    stc = solve(evoked, half, cov).mean
    assert [len(v) for v in stc.vertices] == [642, 0]


def test_meg_sensors_beside_an_eeg_template(lf):
    info = mne.create_info(["MEG 0111"], 100.0, "mag", verbose="ERROR")
    evoked = mne.EvokedArray(1e-13 * np.ones((1, 10)), info, verbose="ERROR")
    cov = mne.Covariance(np.array([1e-26]), ["MEG 0111"], [], [], 100)
    with pytest.raises(ValueError, match="of the same kind of channels"):
        solve(evoked, lf, cov)
