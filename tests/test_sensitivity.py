"""One recording under other choices: what is varied, and what the verdict says of it."""

from dataclasses import replace

import mne
import numpy as np
import pytest
from test_nave import QUICK, forward, recording
from test_together import cov

from calibrain import estimate_evoked, sensitivity
from calibrain.core.warnings import NothingFoundWarning
from calibrain.head.leadfield import Leadfield
from calibrain.recording.sensitivity import usual_variations

BASE = dict(solver="gamma_map", orientation="fixed", tmin=0.0)


def asked(variations=None, base=None, **more):
    return sensitivity(
        recording(), forward(), cov(), base or BASE, variations, progress=False, **more
    )


def test_a_choice_that_changes_nothing():
    found = asked(dict(same={}))
    assert found.place_survives and found.amplitude_survives
    assert found.distances == {"as asked": 0.0, "same": 0.0}
    alone = estimate_evoked(recording(), forward(), cov(), progress=False, **BASE)
    assert str(found.peaks["same"]) == str(alone.peak())
    np.testing.assert_allclose(found.evidence.difference, 0)


def test_what_moves_is_told():
    "Only sensors far from the source: another place, and data that evidence cannot compare"
    names = recording().ch_names[::4]
    found = asked(dict(few=dict(picks=names), nothing=dict(solver="BMN")), within=0.001)
    assert list(found.evidence.names) == ["as asked", "nothing"]
    row = {r["choice"]: r for r in found.rows}
    assert np.isnan(row["few"]["evidence, difference"])
    far = max(found.distances, key=found.distances.get)
    assert not found.place_survives and far in found.verdict
    assert "does not survive" in found._repr_html_()


def test_an_amplitude_that_is_not_known_is_not_tested():
    "Every interval meets one that reaches from below zero to above it"
    found = asked(dict(same={}))
    wide = replace(found.peaks["as asked"], interval=(-40.0, 87.0))
    found = replace(found, peaks=found.peaks | {"as asked": wide})
    assert not found.amplitude_is_known and not found.amplitude_survives
    assert "not known to begin with: -40 to 87 nAm" in found.verdict


def test_columns_have_units_and_intervals_are_not_calibrated():
    found = asked(dict(same={}))
    (first, _), peak = found.rows, found.peaks["as asked"]
    assert first["place (head coordinates)"] in str(peak)
    assert (first["low (nAm)"], first["high (nAm)"]) == peak.interval
    assert first["amplitude (nAm)"] == peak.amplitude and first["time (ms)"] == 1e3 * peak.time
    for said in (repr(found), found._repr_html_()):
        assert said.count("Intervals are not calibrated.") == 1
        assert said.count("head coordinates") == ("place (" in said)
    known = replace(peak, claim="calibrated")
    some = replace(found, peaks=found.peaks | {"same": known})
    assert "Intervals are not calibrated, but for same." in some.verdict
    assert "calibrated" not in replace(some, peaks=dict.fromkeys(found.peaks, known)).verdict


def test_nothing_found_survives_nothing():
    loud = mne.make_ad_hoc_cov(recording().info, dict(eeg=7e-6), verbose="ERROR")
    with pytest.warns(NothingFoundWarning):
        found = sensitivity(recording(0.0), forward(), loud, BASE, dict(same={}), progress=False)
    assert found.peaks["as asked"] is None and "Nothing was found by the estimate" in found.verdict
    assert not found.place_survives and not found.amplitude_survives


def test_the_usual_choices_can_all_be_made():
    base = dict(tmin=0.0, solver="gamma_map_sflex")
    usual = usual_variations(recording(), forward(), base)
    assert {"orientation free", "gamma_map", "BMN", "spike_slab"} <= {*usual}
    assert {"patches of 5 mm", "patches of 20 mm"} <= {*usual}
    usual["spike_slab"]["solver_params"] = QUICK
    found = asked(usual, base)
    assert {*found.peaks} == {"as asked", *usual}
    assert np.isnan(dict(zip(found.evidence.names, found.evidence.probability))["spike_slab"])
    assert found._repr_html_().count("<tr>") == len(usual) + 2


def test_a_head_of_fixed_orientation_leaves_none_to_choose():
    lf = Leadfield.from_forward(forward(), "fixed")
    assert not [name for name in usual_variations(recording(), lf) if "orientation" in name]


@pytest.mark.parametrize(
    "base, variations, error, words",
    [
        (3, None, TypeError, "base must be a dict"),
        (dict(progress=True), None, ValueError, "got 'progress'"),
        (BASE, {}, TypeError, "one at least"),
        (BASE, dict(a=3), TypeError, r"variations\['a'\]"),
        (BASE, dict(a=dict(orientation="up")), ValueError, "orientation"),
        (
            BASE,
            dict(a={}, b=dict(sigma=0.01)),
            ValueError,
            r"variations\['b'\] must be of .* got 'sigma'",
        ),
        (BASE, dict(a={}, b=dict(solver="gamma")), ValueError, "solver"),
        (BASE, dict(a={}, b=dict(solver_params=dict(sigmas=1))), TypeError, "no parameter sigmas"),
    ],
)
def test_bad_choices(base, variations, error, words):
    with pytest.raises(error, match=words):
        sensitivity(recording(), forward(), cov(), base, variations, progress=False)
    with pytest.raises(ValueError, match="within"):
        asked(dict(same={}), within=-1)


def test_names_are_text():
    found = asked({"<b>few</b> & far": dict(picks=recording().ch_names[::4])}, within=0.001)
    assert "<b>" not in found._repr_html_() and "<b>" in found.verdict


def test_the_usual_choices_learn_the_noise_where_it_is_learned():
    base = dict(tmin=0.0, solver="champagne", noise="learn", orientation="fixed")
    usual = usual_variations(recording(), forward(), base)
    assert {"gamma_lambda_map_sflex", "BMN_joint", "spike_slab"} <= {*usual}
    usual["spike_slab"]["solver_params"] = QUICK
    few = {name: said for name, said in usual.items() if "solver" in said}
    assert {*asked(few, base).peaks} == {"as asked", *few}
