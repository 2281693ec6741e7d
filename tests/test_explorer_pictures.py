"""Pictures of every explorer: each combination has a picture or a sentence, without a warning.

What stands in the pictures is checked in test_explorer_numbers.py, how the controls feel in a
browser in test_explorers.py.
"""

import itertools
import random
import re
import warnings

import mne
import numpy as np
import pytest
import realdata
from routine import number, some

from calibrain import explorers
from calibrain.core.warnings import NoiseSamplesWarning
from calibrain.explorers import (
    BrainExplorer,
    CalibrationExplorer,
    CoverageExplorer,
    EvidenceExplorer,
    Impossible,
    PosteriorExplorer,
    RegionExplorer,
    SflexExplorer,
    SimulatorExplorer,
    SparsePathExplorer,
    SupportsExplorer,
    brain,
)
from calibrain.explorers.curves import SETS, runs_at
from calibrain.explorers.rendered import png

LEARNED = "adaptive joint learning"
MOST = {  # Combinations that a page may have
    BrainExplorer: 120,
    CalibrationExplorer: 200,
    CoverageExplorer: 250,
    EvidenceExplorer: 250,
    PosteriorExplorer: 270,
    RegionExplorer: 150,
    SflexExplorer: 120,
    SimulatorExplorer: 100,
    SparsePathExplorer: 250,
    SupportsExplorer: 80,
}
every_kind = pytest.mark.parametrize("kind", MOST, ids=lambda kind: kind.__name__)


def choices(e):
    "All combinations that a page without a kernel offers"
    static = [control.static for control in e.controls.values()]
    return [dict(zip(e.controls, values)) for values in itertools.product(*static)]


def drawn(e, values):
    "A picture of an explorer; a warning is an error"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # What the real recording's covariance was estimated from is few, and it is said so
        warnings.simplefilter("ignore", NoiseSamplesWarning)
        return e.draw(**values)


def test_every_explorer_is_here():
    kinds = {getattr(explorers, name) for name in explorers.__all__ if name.endswith("Explorer")}
    assert kinds - {explorers.Explorer} == set(MOST)


@every_kind
def test_a_page_is_small(kind):
    assert len(choices(kind())) <= MOST[kind]


@every_kind
def test_every_combination_has_a_picture_or_a_sentence(kind):
    "A random sample: a small picture, the same when drawn again, or a sentence"
    e = kind()
    possible = [c for c in choices(e) if c.get("recording") != "real"]
    sample = random.Random(0).sample(possible, number(routine=2, everything=16))
    sizes = []
    for values in sample:
        try:
            fig = drawn(e, values)
        except Impossible as reason:
            assert re.fullmatch(r"[A-Z].+\.|(?:gamma|BMN|spike_slab).+\.", str(reason))
            continue
        picture = png(fig)
        assert picture.startswith(b"\x89PNG")
        width, height = fig.get_size_inches()
        assert width <= 8 and height <= 4.5
        sizes.append(len(picture))
        last = values
    assert sizes and png(drawn(e, last)) == picture
    if kind is SimulatorExplorer:
        assert max(sizes) < 45_000
    if kind in (EvidenceExplorer, SparsePathExplorer):
        assert np.mean(sizes) * len(possible) * 4 / 3 < 3.5e6  # bytes of a page


@pytest.mark.parametrize("kind", [EvidenceExplorer, SparsePathExplorer])
def test_combinations_look_different(kind):
    e = kind()
    sample = random.Random(2).sample(choices(e), number(routine=4, everything=12))
    assert len({png(drawn(e, values)) for values in sample}) == len(sample)


@pytest.mark.parametrize("kind", [EvidenceExplorer, SparsePathExplorer])
def test_the_ends_of_the_live_controls(kind):
    e = kind()
    for end in (0, -1):
        values = {name: control.values[end] for name, control in e.controls.items()}
        assert drawn(e, values).texts


@pytest.mark.parametrize(
    "kind, name",
    [(kind, name) for kind in (SimulatorExplorer, CalibrationExplorer) for name in kind.controls],
)
def test_every_control_changes_the_picture(kind, name):
    e = kind()
    values = some(e.controls[name].values, every=2)
    shown = {png(e.draw(**{**e.start, name: value})) for value in values}
    assert len(shown) == len(values)


# ---- nothing is cut off


@pytest.mark.parametrize("orientation", ["fixed", "free"])
def test_no_band_is_cut_off(orientation):
    "The axes are the same for all settings, and long enough for the widest bands"
    e = PosteriorExplorer()
    pairs = (
        ("gamma_map_sflex", "baseline"),
        ("gamma_lambda_map_sflex", LEARNED),
        ("BMN", "oracle"),
        ("spike_slab", "oracle"),
    )
    for (solver, mode), role in itertools.product(pairs, ("strongest active", "third")):
        for ax in e.draw(solver, mode, -5, orientation, role).axes:
            low, high = ax.get_ylim()
            bands = [band.get_paths()[0].vertices[:, 1] for band in ax.collections]
            ellipses = [patch.get_xy()[:, 1] for patch in ax.patches]
            shown = np.concatenate(bands + ellipses)
            assert low < shown.min() and shown.max() < high


def test_sizes_are_on_the_axis():
    e = CoverageExplorer()
    for solver, sets in itertools.product(
        ("gamma_map_sflex", "gamma_lambda_map_sflex", "spike_slab"), SETS
    ):
        ax = e.draw(solver, "active", sets, -5).axes[1]
        assert ax.lines[0].get_ydata().max() < ax.get_ylim()[1]


@pytest.mark.parametrize("quantity", BrainExplorer.controls["quantity"].values)
def test_colours_do_not_change_with_time(quantity):
    e = brain.simulated_estimate()
    first, how_first = brain.map_values(e, quantity, 0, 2)
    last, how_last = brain.map_values(e, quantity, 40, 2)
    assert how_first == how_last
    assert np.array_equal(first, last) == (quantity == "std")


def test_the_error_of_a_mixture_changes_with_time():
    e = brain.simulated_estimate("spike_slab")
    first, how_first = brain.map_values(e, "std", 0, 2)
    peak, how_peak = brain.map_values(e, "std", 18, 2)
    assert how_first == how_peak
    assert not np.allclose(first, peak)


@pytest.mark.parametrize("name", SupportsExplorer.controls)
def test_every_control_of_supports_changes_the_picture(name):
    e = SupportsExplorer()
    values = e.controls[name].static
    shown = {png(e.draw(**{**e.start, name: value})) for value in values}
    assert len(shown) == len(values)


@pytest.mark.parametrize("stratum", CalibrationExplorer.controls["stratum"].values)
@pytest.mark.parametrize("solver", CalibrationExplorer.controls["solver"].values)
def test_widths_are_on_the_axis(solver, stratum):
    "With few runs and many, without a floor and with the largest, whatever is zero or infinite"
    e = CalibrationExplorer()
    for n_train, floor, trained in itertools.product((5, 50), (0, 1), (0, 20)):
        _, ax = e.draw(solver, stratum, n_train, 0.9, floor, trained, 0).axes
        curves = [line.get_ydata() for line in ax.lines if len(line.get_ydata()) > 2]
        shown = np.concatenate(curves)
        low, high = ax.get_ylim()
        assert low < np.nanmin(shown) and np.nanmax(shown) < high


# ---- what has no picture


def test_nothing_pruned_is_a_sentence():
    with pytest.raises(Impossible, match="BMN prunes no source here"):
        CoverageExplorer().draw("BMN", "pruned", "interval, each sample", 5)


def test_the_sampler_on_the_real_recording_is_a_sentence():
    "With or without one"
    with pytest.raises(Impossible, match="spike_slab takes half a minute"):
        BrainExplorer().draw("real", "spike_slab", "mean", 90, 2)


def test_runs_are_kept():
    assert runs_at("BMN", 5) is runs_at("BMN", 5)


def test_the_truth_of_a_recording_is_unknown():
    unknown = brain.CortexEstimate(None, np.array([90]), None, {})
    with pytest.raises(Impossible, match=r"Nobody knows the true sources of a real recording\."):
        brain.draw_posterior(unknown, "truth", 90, 2)


def test_without_a_recording(monkeypatch, tmp_path):
    "A sentence, and no download"

    def data_path(download, verbose):
        assert not download
        return tmp_path

    monkeypatch.setattr(mne.datasets.sample, "data_path", data_path)
    with pytest.raises(Impossible, match="not on this machine"):
        BrainExplorer().draw("real", "gamma_map_sflex", "mean", 90, 2)


def test_the_sample_data_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr(mne.datasets.sample, "data_path", lambda download, verbose: tmp_path)
    (tmp_path / "MEG/sample").mkdir(parents=True)
    files = brain.sample_files()
    for path in (files.evoked, files.cov, files.trans, files.src, files.bem):
        assert path.is_relative_to(tmp_path)


# ---- a real recording


@pytest.fixture(scope="module")
def real():
    return BrainExplorer(realdata.explorer_files())


@realdata.needed
def test_draws_a_real_recording(real):
    wanted = dict(recording="real", solver="gamma_map_sflex")
    possible = [c for c in choices(real) if c | wanted == c and c["quantity"] != "truth"]
    for values in random.Random(1).sample(possible, 5):
        assert png(drawn(real, values)).startswith(b"\x89PNG")
    with pytest.raises(Impossible, match="Nobody knows"):
        real.draw("real", "gamma_map_sflex", "truth", 90, 2)


@realdata.needed
def test_a_real_recording(real):
    "Lengths of vectors, and the deep source whose probability says only that little is known"
    e = real.real_estimate()
    i = np.abs(e.times - 90).argmin()
    vectors = e.posterior.mean.reshape(-1, 3, len(e.times))[..., i]
    lengths, _ = brain.map_values(e, "mean", i, 2)
    np.testing.assert_allclose(lengths, np.linalg.norm(vectors, axis=1))

    n = e.strongest
    cov = e.posterior.blocks[n]
    assert e.std[n] ** 2 == pytest.approx(np.trace(cov))
    samples = np.random.default_rng(0).multivariate_normal(e.mean[n, :, i], cov, 20_000)
    share = (np.linalg.norm(samples, axis=1) > 5).mean()
    probability, _ = brain.map_values(e, "exceedance", i, 5)
    assert probability[n] == pytest.approx(share, abs=0.015)

    deep = e.std.argmax()
    assert np.linalg.norm(e.mean[deep, :, 0]) < e.std[deep] / 2
    probability, _ = brain.map_values(e, "exceedance", 0, 5)
    assert probability[deep] > 0.9
