"""`calibrain estimate` for many subjects: found by patterns, stopped anywhere, one failure not all."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import mne
import numpy as np
import pytest
import realdata
import test_nave
from routine import heeding_ctrl_c

from calibrain import EvokedPosterior
from calibrain.cli import main
from calibrain.passport import estimate_command

SAID = ["--tmin", "0", "--tmax", "0.29", "--solver", "BMN", "--orientation", "fixed"]


@pytest.fixture
def no_pages(monkeypatch):
    "Without the pages, which take longest"
    monkeypatch.setattr(EvokedPosterior, "report", lambda *args, **said: None)


def write_subject(folder, name, comments=("tone/high", "tone/low", "silence")):
    "A subject's response, and a head"
    (folder / name / "meg").mkdir(parents=True)
    responses = [test_nave.recording().copy() for _ in comments]
    for response, comment in zip(responses, comments):
        response.comment = comment
    mne.write_evokeds(folder / name / "meg" / f"{name}_task-x-ave.fif", responses, verbose="ERROR")
    fwd = folder / name / "head-fwd.fif"
    mne.write_forward_solution(fwd, test_nave.forward(), verbose="ERROR")


@pytest.fixture
def study(tmp_path):
    "Three subjects and one covariance"
    for name in ("sub-01", "sub-02", "sub-03"):
        write_subject(tmp_path, name)
    cov = mne.make_ad_hoc_cov(test_nave.info(), dict(eeg=5e-6), verbose="ERROR")
    mne.write_cov(tmp_path / "noise-cov.fif", cov)
    return tmp_path


def words(study, *more, out="out"):
    "The command"
    ave, fwd = study / "sub-{subject}" / "meg" / "*-ave.fif", study / "sub-{subject}" / "*-fwd.fif"
    given = [str(ave), str(fwd), str(study / "*-cov.fif")]
    return ["estimate", *given, *SAID, "--out", str(study / out), *more]


def folders(out):
    "Every folder of a condition that stands in its place"
    return sorted(p for p in out.glob("sub-*/*") if p.is_dir() and not p.name.startswith("."))


def is_complete(folder):
    "Whether all files are there, the sidecar too, and can be read"
    ends = [path.name.rpartition("_")[2] for path in folder.iterdir()]
    (kept,) = folder.glob("*_posterior.npz")
    (said,) = folder.glob("*_posterior.json")
    EvokedPosterior.load(kept)
    json.loads(said.read_text(encoding="utf-8"))
    return {"mean-vl.stc", "std-vl.stc", "low-vl.stc", "high-vl.stc"} <= {*ends}


@pytest.mark.usefixtures("no_pages")
def test_subjects_and_conditions_by_patterns(study, capsys, monkeypatch):
    assert main(words(study, "--condition", "tone/*")) == 0
    names = [str(p.relative_to(study / "out")) for p in folders(study / "out")]
    assert names == [f"sub-0{i}/Tone{of}" for i in (1, 2, 3) for of in ("High", "Low")]
    assert all(map(is_complete, folders(study / "out")))
    first = study / "out" / "sub-02" / "ToneLow" / "sub-02_task-x_desc-ToneLow_posterior.npz"
    before = first.stat().st_mtime_ns

    # one more condition: the others are left as they are, and said to be there
    capsys.readouterr()
    assert main(words(study, "--condition", "tone/*", "--condition", "silence")) == 0
    out = capsys.readouterr().out
    assert out.count("ToneHigh, ToneLow there already") == 3 and out.count("Silence:") == 3
    assert first.stat().st_mtime_ns == before

    # the same again does no work
    monkeypatch.setattr(estimate_command, "estimate_evoked", None)
    assert main(words(study)) == 0
    assert "Silence:" not in capsys.readouterr().out


@pytest.mark.usefixtures("no_pages")
def test_other_settings_refuse_before_anything_is_done(study, capsys):
    assert main(words(study, "--condition", "silence")) == 0
    capsys.readouterr()
    assert main(words(study, "--depth", "0.8")) == 2  # tones are new, silence is not
    err = capsys.readouterr().err
    assert "sub-01/Silence" in err and "pass --overwrite" in err and err.count("\n") == 1
    assert len(folders(study / "out")) == 3
    assert main(words(study, "--depth", "0.8", "--overwrite", "--condition", "silence")) == 0


@pytest.mark.usefixtures("no_pages")
def test_who_is_incomplete_is_named_before_any_work(study, capsys):
    (study / "sub-02" / "head-fwd.fif").unlink()
    (study / "sub-03" / "another-fwd.fif").write_bytes(b"")
    write_subject(study, "sub-04", comments=["noise"])
    said = words(study, "--condition", "tone/*")
    assert main(said) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "sub-01" not in err.replace("sub-01_", "")
    for part in ("sub-02: no FWD", "sub-03: 2 files for FWD", "sub-04: --condition must be one of"):
        assert part in err
    assert not (study / "out").exists()
    assert main([*said, "--skip-incomplete"]) == 0
    assert [p.parent.name for p in folders(study / "out")] == ["sub-01", "sub-01"]
    assert capsys.readouterr().err.count("left out") == 3


@pytest.mark.usefixtures("no_pages")
@pytest.mark.parametrize("fault", ["file", "numbers"])
def test_one_failure_does_not_stop_the_others(study, capsys, fault):
    if fault == "file":  # a forward solution that is cut off
        path = study / "sub-02" / "head-fwd.fif"
        path.write_bytes(path.read_bytes()[:2000])
        why = "cannot be read as a forward solution"
    else:  # a response without numbers
        path = study / "sub-02" / "meg" / "sub-02_task-x-ave.fif"
        response = test_nave.recording().copy()
        response.data[3, 40] = np.nan
        mne.write_evokeds(path, response, overwrite=True, verbose="ERROR")
        why = "NaN"
    assert main(words(study)) == 1
    said = capsys.readouterr()
    last = said.err.splitlines()[-1]
    assert last.startswith("calibrain: sub-02 failed: ") and why in last
    assert {p.parent.name for p in folders(study / "out")} == {"sub-01", "sub-03"}
    assert main(words(study)) == 1  # and again, without doing the others again
    assert capsys.readouterr().out.count("there already") == 2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_anywhere_it_goes_on(study, how):
    "What stands in its place is complete, and is not done again"
    run = [sys.executable, "-m", "calibrain.cli", *words(study, "--condition", "tone/*")]
    quiet = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heeding_ctrl_c)
    process = subprocess.Popen(run, **quiet, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    end = time.monotonic() + 120
    while len(folders(study / "out")) < 2:
        assert process.poll() is None and time.monotonic() < end, "it never came"
        time.sleep(0.05)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    there = folders(study / "out")
    assert 2 <= len(there) < 6 and all(map(is_complete, there))
    if how == signal.SIGINT:
        assert process.returncode == 130 and b"the same command goes on" in err
        assert not list((study / "out").glob("*/.calibrain-*"))
    else:
        assert process.returncode == -signal.SIGKILL
    before = {p: p.stat().st_mtime_ns for p in there}
    again = subprocess.run(run, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    assert len(folders(study / "out")) == 6 and all(map(is_complete, folders(study / "out")))
    assert {p: p.stat().st_mtime_ns for p in there} == before


@pytest.mark.parametrize(
    "ave, said",
    [
        ("sub-{subject}*-ave.fif", "a star beside {subject}"),
        ("sub-{sub}-ave.fif", "without fields but {subject}"),
        ("nobody-{subject}-ave.fif", "of one subject at least"),
        ("sub-0?/meg/*-ave.fif", "3 files for AVE"),
    ],
)
def test_one_line_for_a_wrong_pattern(study, capsys, ave, said):
    given = words(study)
    given[1] = str(study / ave)
    given[2] = str(study / "sub-01" / "head-fwd.fif")
    assert main(given) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def freesurfer(top, fwd):
    "Surfaces of a forward solution's subject, and a parcellation in front, back and nothing"
    import nibabel

    home = top / "sample"
    for folder in ("surf", "label"):
        (home / folder).mkdir(parents=True)
    colours = np.array([[200, 0, 0, 0, 1], [0, 200, 0, 0, 2], [0, 0, 200, 0, 3]])
    for hemi, src in zip(("lh", "rh"), fwd["src"]):
        tris = src["tris"] if len(src["tris"]) else np.zeros((1, 3), int)
        nibabel.freesurfer.write_geometry(home / "surf" / f"{hemi}.white", src["rr"] * 1e3, tris)
        region = (src["rr"][:, 1] > 0).astype(int)
        off = np.setdiff1d(np.arange(len(region)), src["vertno"])[:5]
        region[off] = 2
        path = home / "label" / f"{hemi}.halves.annot"
        names = ["back", "front", "wall"]
        nibabel.freesurfer.write_annot(path, region, colours, names, fill_ctab=True)
    return home


@realdata.needed
@pytest.mark.usefixtures("no_pages")
@pytest.mark.filterwarnings("ignore")
def test_regions_of_all_subjects_from_annotations(tmp_path, capsys):
    pytest.importorskip("nibabel", reason="annotations are read with nibabel")
    fwd = realdata.forward("meg")
    home = freesurfer(tmp_path / "subjects", fwd)
    for name in ("anna", "bert"):
        (tmp_path / name).mkdir()
        e = realdata.evoked("Right Auditory").pick("meg")
        mne.write_evokeds(tmp_path / name / "tone-ave.fif", e, verbose="ERROR")
        mne.write_forward_solution(tmp_path / name / "tone-fwd.fif", fwd, verbose="ERROR")
        mne.write_cov(tmp_path / name / "tone-cov.fif", realdata.covariance(), verbose="ERROR")
    who = [str(tmp_path / "{subject}" / f"tone-{kind}.fif") for kind in ("ave", "fwd", "cov")]
    said = ["--tmin", ".09", "--tmax", ".1", "--solver", "BMN", "--orientation", "fixed"]
    given = ["estimate", *who, *said, "--out", str(tmp_path / "out")]

    assert main([*given, "--labels", "aparc", "--subjects-dir", str(home.parent)]) == 2
    assert "halves, got aparc" in capsys.readouterr().err
    assert main([*given, "--labels", "halves"]) == 2
    assert "--subjects-dir" in capsys.readouterr().err

    assert main([*given, "--labels", "halves", "--subjects-dir", str(home.parent)]) == 0
    assert "left out: wall-lh, wall-rh" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / "regions.csv").open()))
    assert {row["subject"] for row in rows} == {"sub-anna", "sub-bert"}
    regions = ("back-lh", "back-rh", "front-lh", "front-rh")
    assert {row["region"] for row in rows} == {*regions}
    (table,) = (tmp_path / "out" / "sub-bert").glob("*/*_regions.csv")
    own = list(csv.DictReader(table.open()))
    mine = [row for row in rows if row["subject"] == "sub-bert"]
    assert [{k: row[k] for k in own[0]} for row in mine] == own

    # a table of before there was one dialect, and the same command again
    whole = (tmp_path / "out" / "regions.csv").read_bytes()
    older = table.read_bytes().replace(b"\n", b"\r\n")
    for name in (b"time (s)", *(b"%s (nAm)" % n for n in (b"mean", b"std", b"low", b"high"))):
        assert name in older
        older = older.replace(name, name.replace(b" (", b"_").replace(b")", b""))
    table.write_bytes(older)
    assert main([*given, "--labels", "halves", "--subjects-dir", str(home.parent)]) == 0
    assert (tmp_path / "out" / "regions.csv").read_bytes() == whole

    # one hemisphere as a file, which says whose it is; and another brain's
    left = home / "label" / "lh.halves.annot"
    out = ["--out", str(tmp_path / "left")]
    assert main(["estimate", *who, *said, *out, "--labels", str(left)]) == 0
    rows = list(csv.DictReader((tmp_path / "left" / "regions.csv").open()))
    assert {row["region"] for row in rows} == {"back-lh", "front-lh"}
    os.rename(home, home.with_name("carla"))
    left = home.with_name("carla") / "label" / "lh.halves.annot"
    assert main(["estimate", *who, *said, *out, "--labels", str(left)]) == 2
    assert "of subject carla" in capsys.readouterr().err


@realdata.needed
@pytest.mark.usefixtures("no_pages")
@pytest.mark.filterwarnings("ignore")
def test_a_label_that_changed_is_another_setting(tmp_path, capsys):
    "Several label files, by folder and by pattern; what a file holds counts, not its name"
    fwd = realdata.forward("meg")
    files = [str(tmp_path / f"tone-{kind}.fif") for kind in ("ave", "fwd", "cov")]
    mne.write_evokeds(files[0], realdata.evoked("Right Auditory").pick("meg"), verbose="ERROR")
    mne.write_forward_solution(files[1], fwd, verbose="ERROR")
    mne.write_cov(files[2], realdata.covariance(), verbose="ERROR")
    for folder, side in (("a", 0), ("b", 1)):
        (tmp_path / folder).mkdir()
        part = dict(hemi=("lh", "rh")[side], name="here", subject="sample")
        label = mne.Label(fwd["src"][side]["vertno"][:20], **part)
        label.save(tmp_path / folder / f"here-{part['hemi']}.label")
    said = ["--tmin", ".09", "--tmax", ".1", "--solver", "BMN", "--orientation", "fixed"]
    given = ["estimate", *files, *said, "--out", str(tmp_path / "out")]
    both = ["--labels", str(tmp_path / "a"), "--labels", str(tmp_path / "b" / "*.label")]
    assert main([*given, *both]) == 0
    other = fwd["src"][0]["vertno"][20:40]
    mne.Label(other, hemi="lh", name="here", subject="sample").save(
        tmp_path / "a" / "here-lh.label"
    )
    capsys.readouterr()
    assert main([*given, *both]) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "out" / "regions.csv").open()))
    assert {row["region"] for row in rows} == {"here-lh", "here-rh"}
    assert {row["subject"] for row in rows} == {"tone"}
