"""Data, forward solution and covariance that do not quite belong together."""

import warnings

import mne
import numpy as np
import pytest
import realdata
from mne.io.constants import FIFF
from test_evoked import head, problem, projection, solve

from calibrain.core.warnings import DisagreementWarning


@pytest.fixture(autouse=True)
def strict():
    "A warning that is not asked for is an error"
    with warnings.catch_warnings():
        warnings.simplefilter("error", DisagreementWarning)
        yield


def with_grade(e, grade, some=slice(None)):
    "Data with gradient compensation, as CTF systems write it"
    e = e.copy()
    for channel in e.info["chs"][some]:
        channel["coil_type"] = int(channel["coil_type"]) & 0xFFFF | grade << 16
    return e


def turned(e, degrees=0.0, mm=0.0):
    "Data measured after the head had moved"
    e = e.copy()
    angle = np.radians(degrees)
    moved = np.eye(4)
    moved[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    moved[2, 3] = 1e-3 * mm
    with e.info._unlock():
        trans = e.info["dev_head_t"]["trans"] @ moved
        e.info["dev_head_t"] = mne.transforms.Transform("meg", "head", trans)
    return e


def moved(e, name, mm):
    "Data with one electrode somewhere else"
    e = e.copy()
    e.info["chs"][e.ch_names.index(name)]["loc"][2] += 1e-3 * mm
    return e


def test_what_belongs_together_is_silent():
    for kind in ("eeg", "meg", "both"):
        solve(*problem(kind))


@realdata.needed
@pytest.mark.parametrize("kind", ["meg", "eeg"])
def test_a_real_recording_is_silent(kind):
    e = realdata.evoked("Right Auditory")
    solve(e, realdata.forward(kind), realdata.covariance(), tmin=0.08, tmax=0.09)


@pytest.mark.parametrize("grade", [1, 2, 3])
def test_compensated_data_with_another_forward_solution(grade):
    evoked, fwd, cov = problem("meg")
    with pytest.raises(ValueError, match=rf"compensation grade of evoked \({grade}\), got grade 0"):
        solve(with_grade(evoked, grade), fwd, cov)


def test_compensated_forward_solution_with_plain_data():
    evoked, fwd, cov = problem("meg")
    fwd = fwd.copy()
    for channel in fwd["info"]["chs"]:
        channel["coil_type"] = int(channel["coil_type"]) | 3 << 16
    with pytest.raises(ValueError, match=r"compensation grade of evoked \(0\), got grade 3"):
        solve(evoked, fwd, cov)
    solve(with_grade(evoked, 3), fwd, cov)


def test_compensation_of_the_second_condition_only():
    evoked, fwd, cov = problem("meg")
    with pytest.raises(ValueError, match="compensation grade"):
        solve([evoked, with_grade(evoked, 2)], fwd, cov)
    with pytest.raises(ValueError, match=r"\(0 and 2\), got grade 0"):
        solve(with_grade(evoked, 2, slice(3)), fwd, cov)


def test_compensation_does_not_matter_to_electrodes():
    evoked, fwd, cov = problem("both")
    meg = [i for i, kind in enumerate(evoked.get_channel_types()) if kind != "eeg"]
    e = with_grade(evoked, 3, slice(meg[0], meg[-1] + 1))
    solve(e, fwd, cov, picks="eeg")


@pytest.mark.parametrize("degrees, mm", [(0, 5), (2, 0), (1, 3)])
def test_another_run_whose_head_moved(degrees, mm):
    "Announced with millimetres and degrees, also in one condition of a list"
    evoked, fwd, cov = problem("meg")
    words = rf"head positions \(dev_head_t\) that differ by up to \d+\.\d mm and {degrees:.1f} deg"
    for e in (turned(evoked, degrees, mm), [evoked, turned(evoked, degrees, mm)]):
        with pytest.warns(DisagreementWarning, match=words):
            solve(e, fwd, cov)


def test_another_head():
    evoked, fwd, cov = problem("meg")
    with pytest.raises(ValueError, match=r"differ by up to 30\.0 mm and 0\.0 degrees"):
        solve(turned(evoked, mm=30), fwd, cov)


def test_a_movement_below_what_is_measured_is_silent():
    evoked, fwd, cov = problem("meg")
    solve(turned(evoked, 0.1, 0.3), fwd, cov)


def test_head_position_does_not_matter_to_electrodes():
    evoked, fwd, cov = problem("both")
    solve(turned(evoked, mm=30), fwd, cov, picks="eeg")


def test_a_montage_that_was_set_afterwards():
    evoked, fwd, cov = problem()
    with pytest.warns(DisagreementWarning, match=r"up to 8\.0 mm \(Cz\), by more than 1 mm at 1 "):
        solve(moved(evoked, "Cz", 8), fwd, cov)
    with pytest.raises(ValueError, match=r"sensor positions that differ by up to 80\.0 mm \(Cz\)"):
        solve(moved(evoked, "Cz", 80), fwd, cov)
    solve(moved(evoked, "Cz", 0.5), fwd, cov)


def test_electrodes_that_changed_places():
    "Two names exchanged"
    evoked, fwd, cov = problem()
    names = {"F3": "x", "F4": "F3"}
    e = evoked.copy().rename_channels(names).rename_channels({"x": "F4"})
    with pytest.raises(ValueError, match=r"sensor positions .* by more than 1 mm at 2 of 32"):
        solve(e, fwd, cov)


def test_electrodes_without_positions_are_not_compared():
    evoked, fwd, cov = problem()
    solve(evoked.copy().set_montage(None), fwd, cov)
    other = evoked.copy()
    for channel in other.info["chs"]:
        channel["loc"][:] = 0
    solve(other, fwd, cov)


def test_electrodes_in_another_frame():
    evoked, fwd, cov = problem()
    e = evoked.copy()
    for channel in e.info["chs"]:
        channel["coord_frame"] = FIFF.FIFFV_COORD_MRI
    with pytest.raises(ValueError, match=r"sensors in MRI \(surface RAS\) coordinates"):
        solve(e, fwd, cov)


def test_a_forward_solution_in_another_frame():
    evoked, fwd, cov = problem()
    fwd = fwd.copy()
    fwd["coord_frame"] = FIFF.FIFFV_COORD_MRI
    with pytest.raises(ValueError, match=r"in head coordinates, got MRI \(surface RAS\) coord"):
        solve(evoked, fwd, cov)


def test_channels_of_another_type():
    "A gradiometer that was declared to be a magnetometer is in T, and was T/m"
    evoked, fwd, cov = problem("meg")
    fwd = fwd.copy()
    mags = [i for i, kind in enumerate(fwd["info"].get_channel_types()) if kind == "mag"]
    for i in mags[:2]:
        fwd["info"]["chs"][i]["unit"] = FIFF.FIFF_UNIT_T_M
    name = fwd["info"]["ch_names"][mags[0]]
    with pytest.raises(ValueError, match=rf"got grad for {name}, which is mag .* 1 more"):
        solve(evoked, fwd, cov)


def test_names_that_are_spelled_differently():
    evoked, fwd, cov = problem()
    upper = evoked.copy().rename_channels(str.upper)
    with pytest.raises(ValueError, match=r"rename_channels\(\{'FP1': 'Fp1', 'AF3|'FP1': 'Fp1'"):
        solve(upper, fwd, cov)


def test_a_covariance_of_projected_data():
    "Data that were not projected have noise where the covariance says nothing of it"
    evoked, fwd, cov = problem()
    row = np.random.default_rng(0).normal(size=(1, 32))
    blink = projection(evoked.ch_names, row / np.linalg.norm(row), "blink")
    blink["active"] = True
    cov = mne.Covariance(cov["data"], cov["names"], [], [blink], 500)
    with pytest.warns(
        DisagreementWarning, match=r"projections that evoked does not have \(blink\)"
    ):
        solve(evoked, fwd, cov)
    blink = projection(evoked.ch_names, row / np.linalg.norm(row), "blink")
    solve(evoked.copy().add_proj([blink], verbose="ERROR"), fwd, cov)


def test_a_covariance_after_the_average_reference():
    evoked, fwd, cov = problem()
    reference = projection(evoked.ch_names, np.full((1, 32), 32**-0.5), "Average EEG reference")
    reference["active"] = True
    solve(evoked, fwd, mne.Covariance(cov["data"], cov["names"], [], [reference], 500))


def test_custom_reference_of_one_condition():
    evoked, fwd, cov = problem()
    cz = evoked.copy().set_eeg_reference(["Cz"], verbose="ERROR")
    with pytest.raises(ValueError, match="got a custom reference"):
        solve([evoked, cz], fwd, cov)


def test_nothing_is_changed():
    "The checks look, and change no argument"
    evoked, fwd, cov = problem("meg")
    before = head("meg")["sol"]["data"].copy()
    trans = evoked.info["dev_head_t"]["trans"].copy()
    solve(evoked, fwd, cov, orientation="loose")
    np.testing.assert_array_equal(head("meg")["sol"]["data"], before)
    np.testing.assert_array_equal(evoked.info["dev_head_t"]["trans"], trans)
