"""What an estimate can be asked because it knows what it was made from."""

import copy
import pickle

import mne
import numpy as np
import pytest
from routine import some
from test_nave import forward, info, recording
from test_together import cov, responses

from calibrain import EvokedPosterior, calibrate, estimate_evoked, template_leadfield
from calibrain.head.leadfield import Leadfield
from calibrain.recording.bound import bind_to_recording

FEW = dict(n_train=20, n_test=6, scenario=dict(nnz=2, from_recording=0), progress=False)
SOME = recording().ch_names[:20]


def counts(passport):
    (parts,) = passport.runs.values()
    return [parts[part].curve.counts for part in ("train", "test")]


@pytest.mark.filterwarnings("ignore:the recording is unlike")
@pytest.mark.parametrize(
    "said",
    some(
        [
            dict(solver="BMN", orientation="free", noise="baseline", tmin=0.05, tmax=0.25),
            dict(solver="gamma_map", orientation="fixed", tmin=0.0),
            dict(solver="gamma_map_sflex", solver_params=dict(sigma=0.02), picks=SOME),
            dict(solver="BMN_joint", noise="learn", depth=0.5),
        ],
        every=2,
    ),
    ids=lambda said: said["solver"],
)
def test_it_is_the_road_of_calibrate(said):
    est = estimate_evoked(recording(), forward(), cov(), progress=False, **said)
    passport = est.calibrate(**FEW)
    by_hand = calibrate(forward(), cov(), recording(), **said, **FEW)
    for a, b in zip(counts(passport), counts(by_hand)):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(passport.times, est.times, atol=1e-12)
    assert passport.params == by_hand.params and passport.noise == said.get("noise", "given")
    passport.apply(est)  # the passport of this head, these channels, this solver
    again = estimate_evoked(
        recording(), forward(), cov(), progress=False, calibration=passport, **said
    )
    assert again.calibration is not None
    assert passport.apply(est).calibration.about == again.calibration.about


def test_what_becomes_of_the_recording_and_of_parameters_afterwards_is_of_no_account():
    evoked, params = recording().copy(), dict(sigma=0.02)
    said = dict(solver_params=params, tmin=0.0, progress=False)
    est = estimate_evoked(evoked, forward(), cov(), "gamma_map_sflex", **said)
    evoked.crop(0.0, 0.1)
    evoked.data *= 3
    params["sigma"] = 0.5
    np.testing.assert_array_equal(est.made.evoked.data, recording().data)
    assert est.made.arguments["solver_params"] == dict(sigma=0.02)


def test_each_condition_and_each_epoch_has_its_own():
    both = estimate_evoked(responses(), forward(), cov(), "BMN", tmin=0.0, progress=False)
    assert [e.made.evoked.comment for e in both] == ["tone", "click"]
    passport = both[1].calibrate(**FEW)
    alone = estimate_evoked(responses()[1], forward(), cov(), "BMN", tmin=0.0, progress=False)
    for a, b in zip(counts(passport), counts(alone.calibrate(**FEW))):
        np.testing.assert_array_equal(a, b)
    data = np.stack([e.data for e in responses()])
    epochs = mne.EpochsArray(data, info(), tmin=-0.3, verbose="ERROR")
    epochs = epochs.set_eeg_reference(projection=True, verbose="ERROR")
    each = estimate_evoked(epochs, forward(), cov(), "BMN", tmin=0.0, average=False, progress=False)
    assert each[1].made.evoked.nave == 1
    np.testing.assert_allclose(each[1].made.evoked.data, data[1])


def test_without_a_covariance():
    said = dict(solver="BMN", noise="baseline", tmin=0.0, progress=False)
    est = estimate_evoked(recording(), forward(), None, **said)
    assert est.calibrate(**FEW).noise == "baseline"


def test_a_leadfield_instead_of_a_forward():
    lf = Leadfield.from_forward(forward(), "fixed")
    est = estimate_evoked(recording(), lf, cov(), "BMN", tmin=0.0, progress=False)
    passport = est.calibrate(**FEW)
    assert passport.apply(est).calibration is not None


def test_it_does_not_travel(tmp_path):
    est = estimate_evoked(recording(), forward(), cov(), "BMN", tmin=0.0, progress=False)
    assert est.made.evoked is not None and est.made.forward is forward()
    sent = pickle.loads(pickle.dumps(est))
    assert len(pickle.dumps(est)) < 1e6 and str(sent.peak()) == str(est.peak())
    for other in (sent, EvokedPosterior.load(est.save(tmp_path / "e.npz")), est - est):
        with pytest.raises(ValueError, match=r"call calibrain.calibrate with evoked"):
            other.calibrate()
        with pytest.raises(ValueError, match=r"call calibrain.sensitivity with evoked"):
            other.sensitivity()
    together = estimate_evoked(
        responses(), forward(), cov(), "BMN", tmin=0.0, tmax=0.29, shared=True, progress=False
    )
    with pytest.raises(ValueError, match=r"without shared=True"):
        together[0].calibrate()
    with pytest.raises(TypeError, match=r"n_train.*got tmin"):
        est.calibrate(tmin=0.1)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_in_memory_keeps_it(copied):
    est = estimate_evoked(recording(), forward(), cov(), "BMN", tmin=0.0, progress=False)
    other = copied(est)
    assert type(other) is EvokedPosterior and other.made is est.made  # shared: a head is large
    assert (other.result is est.result) == (copied is copy.copy)
    assert (other.settings is est.settings) == (copied is copy.copy)
    np.testing.assert_array_equal(other.mean.data, est.mean.data)
    found = other.sensitivity(dict(same={}), progress=False)
    assert str(found.peaks["as asked"]) == str(est.peak())
    assert copied(est - est).how == (est - est).how  # other kinds of estimates, too


def test_sensitivity_of_its_own():
    est = estimate_evoked(
        recording(), forward(), cov(), "gamma_map", orientation="fixed", tmin=0.0, progress=False
    )
    found = est.sensitivity(dict(same={}), progress=False)
    assert str(found.peaks["as asked"]) == str(est.peak()) == str(found.peaks["same"])


def test_patches_along_the_cortex():
    "Of a template, whose surface the solver is told again in every run"
    lf = template_leadfield("eeg", 1284, conductor="sphere", progress=False)
    names = list(lf.ch_names)
    cap = mne.create_info(names, 100.0, "eeg").set_montage("biosemi64")
    noise = 1e-6 * np.random.default_rng(0).normal(size=(64, 60))
    data = lf.data.reshape(64, -1)[:, [700]] * 50e-6 * np.sin(np.arange(60) / 5)
    data[:, :30] = 0
    e = mne.EvokedArray(data + noise, cap, tmin=-0.3, nave=20, verbose="ERROR")
    e = e.set_eeg_reference(projection=True, verbose="ERROR")
    loud = mne.make_ad_hoc_cov(cap, dict(eeg=20**0.5 * 1e-6), verbose="ERROR")
    est = estimate_evoked(
        e, lf, loud, tmin=0.0, solver_params=dict(distance="geodesic"), progress=False
    )
    passport = est.calibrate(**FEW | dict(n_test=2))
    assert "distance=geodesic" in passport.params["gamma_map_sflex"].replace("'", "")
    passport.check_use(bind_to_recording("gamma_map_sflex", dict(distance="geodesic")), "given")
