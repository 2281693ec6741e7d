"""The page of an estimate: what it holds, that it needs nothing else, and what it refuses."""

import re
from dataclasses import replace

import mne
import numpy as np
import pytest
import test_nave
import test_predictive
from scipy import stats

from calibrain import EvokedPosterior
from calibrain.calibration.calibration import Calibration
from calibrain.core import archive
from calibrain.recording import report
from calibrain.recording.methods import methods_paragraph

SECTIONS = [
    "Result",
    "Data and noise",
    "Does the model fit?",
    "Maps",
    "Strongest sources",
    "Calibration",
    "Methods",
]


def titles(page):
    return re.findall(r"<h2>(.*?)</h2>", page.read_text(encoding="utf-8"))


def test_the_page_needs_nothing_else(tmp_path):
    est = test_nave.estimate("gamma_map_sflex", orientation="free")
    page = est.report(tmp_path / "tone.html")
    text = page.read_text(encoding="utf-8")
    assert titles(page) == SECTIONS
    assert not re.search(r"(src|href)=.(?!data:)", text)
    assert len(re.findall(r"<img [^>]*alt=\"[^\"]+\"", text)) == 5
    assert str(est.peak()) in text and est.predictive_check().in_words in text
    for said in ("20 epochs", "32 EEG electrodes", "sigma=", "The CaliBrain developers", "nAm"):
        assert said in text
    assert list(tmp_path.iterdir()) == [page]  # nothing is left beside it


@pytest.mark.filterwarnings("ignore")
def test_a_report_of_mne(tmp_path):
    "Regions of a sampler from a file, and noise alone, which has no maps"
    found = mne.Report(title="session", verbose="ERROR")
    est = test_nave.estimate("spike_slab", orientation="free")
    again = EvokedPosterior.load(est.save(tmp_path / "tone.npz"))
    assert again.settings == est.settings
    half = np.arange(80) < 40
    again.add_to_report(found, section="sampled", labels={"one half": half, "the other": ~half})
    test_nave.estimate(size=0.0, orientation="fixed").add_to_report(found)
    path = tmp_path / "session.html"
    found.save(path, open_browser=False, verbose="ERROR")
    text = path.read_text(encoding="utf-8")
    assert (
        "sampled" in text
        and "one half" in text
        and "Sources: a tone" in text
        and "nothing found" in text
    )


def test_a_passport_is_told():
    est = test_nave.estimate(orientation="fixed")
    assert "not calibrated" in methods_paragraph(est)
    maps = Calibration.__new__(Calibration)
    object.__setattr__(maps, "about", "by a passport of 50 runs")
    calibrated = replace(est, calibration=maps)
    assert "by a passport of 50 runs" in methods_paragraph(calibrated)
    assert "by a passport of 50 runs" in report._claim(calibrated).body
    for e in (est, calibrated):
        assert report._claim(e).body.count("of the solver, not calibrated") == 1
        assert "of the solver, not calibrated" in report._maps(e, None).body


@pytest.mark.parametrize("k", [1, 3])
def test_opacity_is_the_certainty_of_the_sign(k):
    est = test_nave.estimate(orientation="free" if k == 3 else "fixed")
    at = report.certain_at(est, 10)
    source = int(np.abs(at.mean).argmax())
    mean = est.posterior.mean[source * k : (source + 1) * k, 10]
    drawn = est.posterior.sample(20_000, seed=0, sources=[source])[:, :, 10] @ mean
    share = np.mean(drawn > 0)
    assert at.opacity[source] == pytest.approx(2 * share - 1, abs=0.01)
    assert at.std[source] == pytest.approx(np.std(drawn) / np.linalg.norm(mean), rel=0.02)
    assert at.opacity[source] == pytest.approx(
        2 * stats.norm.cdf(np.abs(at.mean / at.std)[source]) - 1
    )


def test_strongest_sources_are_apart():
    est = test_nave.estimate(orientation="free")
    shown = report.strongest_waveforms(est)
    places = est.coords[[of[0] for of in shown.sources]]
    gaps = np.linalg.norm(places[:, None] - places, axis=2)[np.triu_indices(len(places), 1)]
    assert gaps.min() > 0.03
    assert shown.mean[0].max() == pytest.approx(est.peak().amplitude)
    for said in (shown.sentence(), shown._repr_html_(), shown.plot().get_title("left")):
        assert said.count("head coordinates") == said.count("not calibrated") == 1
    at = shown.mean[0].argmax()
    assert shown.std[0, at] == pytest.approx(est.peak().std)


def test_what_cannot_be_written_is_refused_before_work(tmp_path, monkeypatch):
    est = test_nave.estimate(orientation="fixed")
    there = tmp_path / "there.html"
    there.write_text("mine")
    (tmp_path / "folder.html").mkdir()

    def no_work(*args):
        raise AssertionError("work was done")

    monkeypatch.setattr(report, "_sections", no_work)
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        est.report(there)
    with pytest.raises(FileNotFoundError, match="make the folder first"):
        est.report(tmp_path / "none" / "tone.html")
    with pytest.raises(IsADirectoryError):
        est.report(tmp_path / "folder.html")
    with pytest.raises(ValueError, match=r"end it in \.html"):
        est.report(tmp_path / "tone.pdf")
    with pytest.raises(TypeError, match="path must be a path"):
        est.report(3)
    monkeypatch.setattr(archive.os, "access", lambda *args: False)
    with pytest.raises(PermissionError, match="can be written to"):
        est.report(tmp_path / "new.html")
    assert there.read_text() == "mine"


def test_other_bad_input(tmp_path):
    est = test_nave.estimate(orientation="fixed")
    with pytest.raises(TypeError, match="cortex must be"):
        est.report(tmp_path / "a.html", cortex="fsaverage")
    with pytest.raises(TypeError, match=r"report must be an mne\.Report"):
        est.add_to_report("session.html")
    rng = np.random.default_rng(0)
    e = test_predictive.recording(test_predictive.one_source(20), test_predictive.white(rng))
    both = mne.EvokedArray(e.data * (1 + 1j), e.info, tmin=e.tmin, nave=25, verbose="ERROR")
    with pytest.raises(TypeError, match="complex ones"):
        test_predictive.estimate(both).report(tmp_path / "a.html")
    assert not list(tmp_path.iterdir())
