"""The command `calibrain estimate`: files in, files out, nothing lost and nothing overwritten."""

import csv
import json

import mne
import numpy as np
import pytest
import realdata
import test_nave

from calibrain import EvokedPosterior
from calibrain.cli import main
from calibrain.passport import estimate_command

NAMES = ["high.stc", "low.stc", "mean.stc", "posterior.json", "posterior.npz", "report.html"]


@pytest.fixture
def no_pages(monkeypatch):
    "Without the pages, which take longest"
    monkeypatch.setattr(EvokedPosterior, "report", lambda *args, **said: None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "A response of two conditions, a head in the volume and a covariance"
    folder = tmp_path_factory.mktemp("files")
    tone, other = test_nave.recording().copy(), test_nave.recording().copy()
    other.comment = "a louder / tone"
    paths = [folder / name for name in ("sub-01-ave.fif", "sub-01-fwd.fif", "sub-01-cov.fif")]
    mne.write_evokeds(paths[0], [tone, other], verbose="ERROR")
    mne.write_forward_solution(paths[1], test_nave.forward(), verbose="ERROR")
    mne.write_cov(paths[2], mne.make_ad_hoc_cov(test_nave.info(), dict(eeg=5e-6), verbose="ERROR"))
    return [str(path) for path in paths]


def estimate(files, out, *more):
    said = ["--tmin", "0", "--tmax", "0.29", "--solver", "BMN", "--orientation", "fixed"]
    return main(["estimate", *files, *said, "--out", str(out), *more])


@pytest.fixture(scope="module")
def done(files, tmp_path_factory):
    "What the command made of it"
    out = tmp_path_factory.mktemp("out") / "sources"
    assert estimate(files, out) == 0
    return out


def test_what_is_written(done, files):
    assert sorted(p.name for p in done.iterdir()) == [
        "ALouderTone",
        "ATone",
        "dataset_description.json",
    ]
    start = "sub-01_desc-ATone_"
    found = sorted(p.name.removeprefix(start) for p in (done / "ATone").iterdir())
    assert [name.replace("-vl", "") for name in found] == sorted([*NAMES, "std.stc"])
    here = EvokedPosterior.load(done / "ATone" / f"{start}posterior.npz")
    low, high = here.interval(0.95)
    for name, of in dict(mean=here.mean, std=here.std, low=low, high=high).items():
        again = mne.read_source_estimate(done / "ATone" / f"{start}{name}-vl.stc")
        np.testing.assert_allclose(again.data, of.data, rtol=1e-6)
        np.testing.assert_allclose(again.times, of.times, atol=1e-6)
    said = json.loads((done / "ATone" / f"{start}posterior.json").read_text(encoding="utf-8"))
    assert said["Sources"] == ["sub-01-ave.fif", "sub-01-fwd.fif", "sub-01-cov.fif"]
    assert said["NumberOfEpochs"] == test_nave.NAVE and said["Arguments"]["solver"] == "BMN"
    assert "not calibrated" in said["Calibration"] and said["PredictiveCheck"]["Verdict"] == "fits"
    told = json.loads((done / "dataset_description.json").read_text())
    assert told["DatasetType"] == "derivative" and told["GeneratedBy"][0]["Name"] == "CaliBrain"


def test_the_same_again_does_nothing(done, files, monkeypatch, capsys):
    def no_work(*args, **said):
        raise AssertionError("work was done")

    monkeypatch.setattr(estimate_command, "estimate_evoked", no_work)
    assert estimate(files, done) == 0
    assert capsys.readouterr().out.count("there already") == 2


@pytest.mark.usefixtures("no_pages")
def test_other_settings_do_not_replace_what_is_there(done, files, capsys):
    kept = done / "ATone" / "sub-01_desc-ATone_posterior.npz"
    before = kept.read_bytes()
    assert estimate(files, done, "--depth", "0.8") == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert kept.read_bytes() == before
    assert estimate(files, done, "--depth", "0.8", "--overwrite", "--condition", "a tone") == 0
    assert kept.read_bytes() != before
    assert estimate(files, done, "--overwrite", "--condition", "a tone") == 0


@pytest.mark.usefixtures("no_pages")
def test_it_goes_on_where_it_was(files, tmp_path, monkeypatch, capsys):
    real, calls = estimate_command.estimate_evoked, []

    def interrupted(e, *args, **said):
        calls.append(e.comment)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(e, *args, **said)

    monkeypatch.setattr(estimate_command, "estimate_evoked", interrupted)
    assert estimate(files, tmp_path / "out") == 130
    assert "the same command goes on" in capsys.readouterr().err
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["ATone", "dataset_description.json"]  # nothing half done
    assert estimate(files, tmp_path / "out") == 0
    assert calls == ["a tone", "a louder / tone", "a louder / tone"]


@pytest.mark.parametrize(
    "more, said",
    [
        (["--condition", "silence"], "--condition must be one of a tone"),
        (["--labels", "no.label"], "no.label"),
        (["--calibration", "no.npz"], "no.npz"),
        (["--tmin", "9"], "tmin"),
        (["--level", "3"], "level must be"),
        (["--solver", "gama_map"], "gamma_map"),
    ],
)
def test_one_line_for_a_mistake(files, tmp_path, capsys, more, said):
    assert estimate(files, tmp_path / "out", *more) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    left = [p.name for p in (tmp_path / "out").glob("*")] if (tmp_path / "out").exists() else []
    assert set(left) <= {"dataset_description.json"}


@realdata.needed
@pytest.mark.usefixtures("no_pages")
@pytest.mark.filterwarnings("ignore")
def test_a_real_recording(tmp_path):
    "Vectors on a cortex, with regions from labels"
    pytest.importorskip("h5io")
    fwd = realdata.forward("meg")
    e = realdata.evoked("Right Auditory").pick("meg")
    paths = [tmp_path / name for name in ("tone-ave.fif", "tone-fwd.fif", "tone-cov.fif")]
    mne.write_evokeds(paths[0], e, verbose="ERROR")
    mne.write_forward_solution(paths[1], fwd, verbose="ERROR")
    mne.write_cov(paths[2], realdata.covariance(), verbose="ERROR")
    vertices = fwd["src"][0]["vertno"][:40]
    mne.Label(vertices, hemi="lh", name="front", subject="sample").save(tmp_path / "front-lh.label")
    said = ["--tmin", ".05", "--tmax", ".15", "--labels", str(tmp_path)]
    assert main(["estimate", *map(str, paths), *said, "--out", str(tmp_path / "out")]) == 0
    (folder,) = [p for p in (tmp_path / "out").iterdir() if p.is_dir()]
    mean = mne.read_source_estimate(next(folder.glob("*_mean-stc.h5")))
    assert isinstance(mean, mne.VectorSourceEstimate) and mean.shape[1:] == (3, 61)
    rows = list(csv.DictReader(next(folder.glob("*_regions.csv")).open()))
    assert len(rows) == 61 and {"region", "time (s)", "mean (nAm)"} <= rows[0].keys()
