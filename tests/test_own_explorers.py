"Explorers of an estimate of one's own, against what the estimate itself answers"

import itertools
import warnings
from dataclasses import replace

import mne
import numpy as np
import pytest
import realdata

from calibrain import contrast, estimate_evoked, template_leadfield
from calibrain.core.warnings import NoiseSamplesWarning
from calibrain.explorers import Impossible, explore_brain, explore_regions
from calibrain.explorers.brain import map_values
from calibrain.explorers.rendered import png
from calibrain.head.template import template_cortex
from calibrain.viz import cortex_from_src

TIMES = np.arange(-10, 31) / 200  # s
QUICK = dict(tmin=0.05, tmax=0.15, progress=False, solver_params=dict(update_mode="fast"))


@pytest.fixture(scope="module")
def head():
    return template_leadfield("eeg", conductor="sphere", progress=False)


def recording(head, size=10.0):
    "One source at 100 ms under electrodes, with the covariance of its noise"
    source = np.linalg.norm(head.coords - [-0.055, -0.005, 0.055], axis=1).argmin()
    clean = size * np.outer(head.matrix()[:, source], np.exp(-(((TIMES - 0.1) / 0.02) ** 2) / 2))
    noise = 0.3 * np.random.default_rng(1).normal(size=clean.shape)
    info = mne.create_info(list(head.ch_names), 200.0, "eeg")
    evoked = mne.EvokedArray(1e-6 * (clean + noise), info, TIMES[0], "tone", 1, verbose="ERROR")
    return evoked, mne.make_ad_hoc_cov(info, dict(eeg=0.3e-6), verbose="ERROR")


@pytest.fixture(scope="module")
def est(head):
    evoked, cov = recording(head)
    return estimate_evoked(evoked, head, cov, solver="gamma_map", **QUICK)


@pytest.fixture(scope="module")
def masks(head):
    return {"left": head.coords[:, 0] < -0.03, "right": head.coords[:, 0] > 0.03}


def moved(explorer):
    "A picture where each control has another value than at the start, or the sentence there"
    for name, control in explorer.controls.items():
        other = next(value for value in control.values if value != control.start)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                yield name, png(explorer.draw(**explorer.start | {name: other}))
            except Impossible as reason:
                yield name, str(reason)


def test_maps_are_what_the_estimate_says(est):
    explorer = explore_brain(est)
    shown = explorer.estimate
    sample = list(1e3 * est.times).index(explorer.start["time"])
    mean, how = map_values(shown, "mean", sample, 1)
    assert np.allclose(mean, 1e9 * est.mean.data[:, sample])
    largest = np.abs(1e9 * est.mean.data).max()
    assert how["limits"] == pytest.approx((-largest, largest))
    assert np.allclose(map_values(shown, "std", sample, 1)[0], 1e9 * est.std.data[:, sample])
    exceedance, _ = map_values(shown, "exceedance", sample, 2)
    assert np.allclose(exceedance, est.exceedance(2e-9).data[:, sample])
    assert shown.truth is None and "truth" not in explorer.controls["quantity"].values
    assert explorer.start["time"] == pytest.approx(1e3 * est.peak().time)


def test_sliders_have_the_times_and_the_unit_of_the_estimate(est, masks):
    largest = 1e9 * np.abs(est.mean.data).max()
    for explorer in (explore_brain(est), explore_regions(est, masks)):
        time, threshold = explorer.controls["time"], explorer.controls["threshold"]
        assert np.allclose(time.values, 1e3 * est.times) and time.unit == "ms"
        assert max(threshold.values) <= largest and threshold.unit == "nAm"
        assert explorer.widget().children[0].options  # live
        assert len(list(itertools.product(*(c.static for c in explorer.controls.values())))) == 1


def test_every_control_changes_the_picture(est, masks):
    for explorer in (explore_brain(est), explore_regions(est, masks)):
        before = png(explorer.draw(**explorer.start))
        assert all(after != before for _, after in moved(explorer))


def test_regions_are_what_the_estimate_says(est, masks):
    explorer = explore_regions(est, masks)
    fig = explorer.draw(**explorer.start)
    own = est.regions(masks)
    row = own.names.index(explorer.start["region"])
    assert explorer.start["region"] == "left"
    upper, lower = fig.axes
    assert np.allclose(upper.lines[1].get_ydata(), own.mean[row])
    assert "truth" not in [line.get_label() for line in upper.lines]
    above = next(line for line in lower.lines if len(line.get_ydata()) == len(own.times))
    assert np.allclose(above.get_ydata(), own.greater(0)[row])


def test_a_contrast_goes_with_a_mesh(est, head, masks):
    evoked, cov = recording(head, size=5)
    other = estimate_evoked(evoked, head, cov, solver="gamma_map", **QUICK)
    differs = contrast({"loud": 1, "soft": -1}, {"loud": est, "soft": other})
    with pytest.raises(ValueError, match="template_cortex"):
        explore_brain(differs)
    explorer = explore_brain(differs, template_cortex())
    assert explorer.title.endswith("Error bars are of the solver, not calibrated.")
    explorer.draw(**explorer.start)
    regions = explore_regions(differs, masks)
    assert "loud" in regions.title
    regions.draw(**regions.start)


def test_a_sampled_estimate(head, masks):
    evoked, cov = recording(head)
    how = dict(tmin=0.08, tmax=0.12, progress=False, orientation="fixed")
    few = dict(patches=[0.01], n_sweeps=16, n_burn=10, time_cov=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # chains are as short as can be
        sampled = estimate_evoked(evoked, head, cov, solver="spike_slab", solver_params=few, **how)
    for explorer in (explore_brain(sampled), explore_regions(sampled, masks)):
        assert len(explorer.frames()[0]) == 1
        assert explorer.frames()[0][0][0]  # a picture, no sentence


def test_what_cannot_be_explored_is_refused_with_a_cure(est, head, masks):
    evoked, cov = recording(head)
    cases = {
        "pass one": (TypeError, [est, est]),
        "estimate_evoked": (TypeError, est.result),
        "draw_slices": (ValueError, replace(est, space="volume")),
        "cortex_from_src": (ValueError, replace(est, made=None)),
    }
    for cure, (kind, what) in cases.items():
        with pytest.raises(kind, match=cure):
            explore_brain(what)
    with pytest.raises(ValueError, match="1284 sources"):
        explore_brain(est, template_cortex(5124))
    one = estimate_evoked(evoked, head, cov, solver="gamma_map", **QUICK | dict(tmin=0.1, tmax=0.1))
    for explore in (explore_brain, lambda e: explore_regions(e, masks)):
        with pytest.raises(ValueError, match="several samples"):
            explore(one)


@realdata.needed
def test_a_real_recording_with_vectors():
    evoked, forward = realdata.evoked("Right Auditory"), realdata.forward("meg")
    how = QUICK | dict(orientation="free")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseSamplesWarning)
        est = estimate_evoked(evoked, forward, realdata.covariance(), **how)
    explorer = explore_brain(est)
    assert explorer.estimate.limits["mean"][0] == 0
    ends = np.cumsum([len(v) for v in est.vertices])
    left = np.arange(ends[-1]) < ends[0]
    regions = explore_regions(est, {"left": left, "right": ~left})
    for each in (explorer, regions):
        before = png(each.draw(**each.start))
        assert all(isinstance(after, bytes) and after != before for _, after in moved(each))
    mesh = cortex_from_src(forward["src"])
    assert len(explore_brain(replace(est, made=None), mesh).estimate.cortex.rr) >= len(mesh.sources)
