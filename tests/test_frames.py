"""Tables for other programs: units in frames and files, and one dialect of CSV for whoever writes one."""

import csv
import datetime
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_passport import small
from test_regions import LABELS, estimate

from calibrain import grand_average
from calibrain.core.frames import data_frame, read_csv, write_csv
from calibrain.passport.command import write_passport

SOURCE = Path(__file__).resolve().parent.parent / "calibrain"


def lines(path):
    "A file of the dialect, without its line ends"
    content = path.read_bytes()
    assert content.endswith(b"\n") and b"\r" not in content
    assert not content.startswith("\ufeff".encode())
    return content.decode("utf-8")[:-1].split("\n")


def test_what_is_written_is_read_again(tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        "region": ["a, b", 'say "c"', "ä"],
        "mean": rng.normal(size=3),
        "n": np.array([1, -2, 3]),
        "on": [True, np.bool_(False), None],
        "day": [datetime.date(2026, 3, 1), np.datetime64("2026-03-02"), None],
        "end": [np.inf, -np.inf, np.nan],
    }
    path = write_csv(tmp_path / "a.csv", columns, dict(mean="nAm²", end="s"))
    first, *rows = lines(path)
    assert first == "region,mean (nAm²),n,on,day,end (s)" and len(rows) == 3
    found, units = read_csv(path)
    assert units == dict(mean="nAm²", end="s")
    assert found["region"] == columns["region"]
    assert [float(x) for x in found["mean"]] == columns["mean"].tolist()
    assert found["on"] == ["True", "False", ""] and found["day"][:2] == ["2026-03-01", "2026-03-02"]
    assert found["end"] == ["inf", "-inf", ""]
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_csv(path, columns, {})
    with pytest.raises(ValueError, match=r"argument 2 is (longer|shorter)"):
        write_csv(path, dict(a=[1], b=[1, 2]), {}, overwrite=True)
    assert lines(path)[0] == first  # whole, or not there


def test_pandas_reads_it_without_being_told_anything(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = data_frame(dict(x=[1.5, np.nan], on=[True, False], who=["a", "b"]), dict(x="nAm"), "me")
    assert frame.attrs["units"] == dict(x="nAm")
    again = pd.read_csv(write_csv(tmp_path / "a.csv", frame))
    assert list(again) == ["x (nAm)", "on", "who"] and again.dtypes.tolist()[1] is np.dtype(bool)
    np.testing.assert_array_equal(again["x (nAm)"], frame.x)


def regions(folder):
    return estimate("gaussian", 1).regions(LABELS).to_csv(folder / "r.csv")


def vectors(folder):
    return estimate("gaussian", 3).regions(LABELS).to_csv(folder / "v.csv")


def group(folder):
    subjects = {f"s{i}": (np.array([[8.0 + i, 2.0]]), np.array([[2.0, 2.0]])) for i in range(5)}
    return grand_average(subjects).to_csv(folder / "g.csv")


def passport(folder):
    write_passport(small(), folder)
    return folder / "table.csv"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "write, units",
    [
        (regions, dict(time="s", mean="nAm", std="nAm", low="nAm", high="nAm")),
        (vectors, dict(time="s", mean="nAm", std="nAm", low="nAm", high="nAm")),
        (group, dict.fromkeys(("mean", "std", "low", "high", "tau"), "nAm")),
        (passport, dict.fromkeys(("width_before", "width_after", "width_oracle"), "nAm")),
    ],
)
def test_every_table_of_amplitudes_is_of_the_dialect(write, units, tmp_path):
    path = write(tmp_path)
    head = next(csv.reader(lines(path)))
    assert read_csv(path)[1] == units
    assert {f"{name} ({unit})" for name, unit in units.items()} <= {*head}


@pytest.mark.filterwarnings("ignore")
def test_a_file_has_the_numbers_of_the_frame(tmp_path):
    pytest.importorskip("pandas")
    found = estimate("gaussian", 3).regions(LABELS)
    columns, units = read_csv(found.to_csv(tmp_path / "v.csv", level=0.8))
    frame = found.to_frame(level=0.8)
    assert list(columns) == list(frame) and units == frame.attrs["units"]
    for name in ("time", "mean", "std", "low", "high"):
        np.testing.assert_allclose(np.array(columns[name], float), frame[name], rtol=1e-5)
    assert columns["component"] == list(frame.component)


def test_nobody_writes_another_dialect():
    "One function writes; what calibrain 1.0 wrote is left as it was"
    writers = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if any(word in path.read_text("utf-8") for word in ("csv.writer", "DictWriter", ".to_csv("))
    ]
    assert {*writers} - {"published/data_workflow.py"} == {"core/frames.py", "recording/files.py"}


def test_a_table_needs_no_pandas(tmp_path):
    code = """if True:
        import sys
        sys.modules["pandas"] = None
        from calibrain.core.frames import data_frame, write_csv
        write_csv("a.csv", dict(a=[1.5]), dict(a="nAm"))
        try:
            data_frame(dict(a=[1.5]), {}, "to_frame")
        except ImportError as e:
            print(e)
    """
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "to_frame needs pandas: pip install 'calibrain[frames]'" in run.stdout
    assert lines(tmp_path / "a.csv") == ["a (nAm)", "1.5"]
