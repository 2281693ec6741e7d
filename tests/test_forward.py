"Leadfields from MNE's forward solutions: units, order, bad channels, reference and directions"

import mne
import numpy as np
import pytest
import realdata

from calibrain import Leadfield

pytestmark = realdata.needed
SCALE = dict(eeg=1e-3, mag=1e6, grad=1e4)


def sol(fwd, lf):
    "The numbers of a forward solution, sensors in the order of a leadfield"
    solution = fwd["sol"]
    rows = [solution["row_names"].index(name) for name in lf.ch_names]
    return solution["data"][rows].reshape(lf.n_sensors, fwd["nsource"], -1)


def good(fwd):
    fwd = fwd.copy()
    fwd["info"]["bads"] = []
    return fwd


@pytest.mark.parametrize("kind", ["mag", "grad", "eeg"])
def test_equals_the_solution_scaled(kind):
    fwd = good(realdata.forward("eeg" if kind == "eeg" else "meg"))
    lf = Leadfield.from_forward(fwd, "free", picks=kind)
    raw = SCALE[kind] * sol(fwd, lf)
    if kind == "eeg":
        raw = raw - raw.mean(0)
    np.testing.assert_allclose(lf.data, raw, rtol=1e-12, atol=1e-14)
    assert lf.modality == kind and lf.n_sensors == dict(mag=102, grad=204, eeg=60)[kind]
    np.testing.assert_array_equal(lf.coords, fwd["source_rr"])


@pytest.mark.parametrize("kind", ["meg", "eeg"])
@pytest.mark.parametrize(
    "use_cps, given", [(True, "free"), (True, "surf_ori"), (True, "fixed"), (False, "fixed")]
)
def test_fixed_equals_mne(kind, use_cps, given):
    "With cortical patch statistics, as is MNE's default; what is fixed already stays as it is"
    fwd = good(realdata.forward(kind))
    theirs = mne.convert_forward_solution(
        fwd, surf_ori=True, force_fixed=True, use_cps=use_cps, verbose="ERROR"
    )
    turned = mne.convert_forward_solution(fwd, surf_ori=True, verbose="ERROR")
    lf = Leadfield.from_forward(dict(free=fwd, fixed=theirs, surf_ori=turned)[given])
    kinds = dict(zip(fwd["info"]["ch_names"], fwd["info"].get_channel_types()))
    scale = np.array([SCALE[kinds[name]] for name in lf.ch_names])
    raw = sol(theirs, lf) * scale[:, None, None]
    if kind == "eeg":
        raw = raw - raw.mean(0)
    # MNE rotates in single precision
    np.testing.assert_allclose(lf.data, raw, atol=1e-6 * np.abs(raw).max())


def test_two_components_hold_nearly_all():
    fwd = good(realdata.forward("meg"))
    free = Leadfield.from_forward(fwd, "free", picks="mag")
    two = Leadfield.from_forward(fwd, "meg2", picks="mag")
    lost = 1 - (two.data**2).sum((0, 2)) / (free.data**2).sum((0, 2))
    assert np.median(lost) < 0.005 and two.n_orient == 2
    kept = np.einsum("nik,njk->nij", two.basis, two.basis)
    np.testing.assert_allclose(
        np.einsum("mnk,nik->mni", two.data, two.basis),
        np.einsum("mni,nij->mnj", free.data, kept),
        atol=1e-10,
    )


def test_bad_channels_are_left_out():
    fwd = realdata.forward("meg").copy()
    fwd["info"]["bads"] = ["MEG 2443"]
    lf = Leadfield.from_forward(fwd)
    assert lf.n_sensors == 305
    assert "MEG 2443" not in lf.ch_names
    assert lf.modality == "meg"
    assert set(lf.units) == {"fT/nAm", "fT/cm/nAm"}


def test_eeg_average_is_that_of_the_good_electrodes():
    fwd = realdata.forward("eeg").copy()
    fwd["info"]["bads"] = ["EEG 053"]
    assert np.abs(Leadfield.from_forward(fwd).data.mean(0)).max() < 1e-15


def test_after_writing_and_reading(tmp_path):
    fwd = good(realdata.forward("eeg"))
    mne.write_forward_solution(tmp_path / "x-fwd.fif", fwd, verbose="ERROR")
    again = Leadfield.from_forward(
        mne.read_forward_solution(tmp_path / "x-fwd.fif", verbose="ERROR")
    )
    np.testing.assert_allclose(
        again.data, Leadfield.from_forward(fwd).data, atol=1e-7 * np.abs(again.data).max()
    )


@pytest.mark.parametrize(
    "picks, orientation, words",
    [
        ("eeg", "fixed", "picks must be at least one good channel"),
        (["MEG 0111", "MEG 9999"], "fixed", "got MEG 9999"),
        (["MEG 2443"], "fixed", "picks must be without bad channels, got MEG 2443"),
        ([], "fixed", "picks must be at least one good channel"),
        (None, "loose", "orientation must be one of"),
    ],
)
def test_refused(picks, orientation, words):
    fwd = realdata.forward("meg").copy()
    fwd["info"]["bads"] = ["MEG 2443"]
    with pytest.raises(ValueError, match=words):
        Leadfield.from_forward(fwd, orientation, picks)
