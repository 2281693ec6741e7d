"What a run leaves out is a choice that can be repeated, and it says so."

import os
import re
import subprocess
import sys

import pytest
import routine
from routine import left_out, number, some

TEST = """
import pytest
from routine import number, some

@pytest.mark.parametrize("seed", some(range(40), every=10))
def test_of_four(seed):
    assert number(routine=2, everything=5) in (2, 5)
"""


@pytest.fixture(autouse=True)
def apart(monkeypatch):
    "What is tried here is not counted"
    monkeypatch.setattr(routine, "LEFT", {})


def test_everything_under_the_flag(monkeypatch):
    monkeypatch.setattr(routine, "ALL", True)
    assert some(range(5), every=2) == [0, 1, 2, 3, 4]
    assert number(routine=2, everything=9) == 9
    assert left_out(routine.LEFT) == ""


def test_a_part_without_it(monkeypatch):
    monkeypatch.setattr(routine, "ALL", False)
    assert some(iter("abcde"), every=2) == ["a", "c", "e"]
    assert number(routine=2, everything=9) == 2
    line = left_out(routine.LEFT)
    assert line == "9 cases left to `bash tools/test.sh --all`: 9 in test_routine.py"


def run(folder, monkeypatch, *options):
    "What pytest says of the tests in a folder, with the project's conftest.py"
    here = routine.Path(__file__).parent
    (folder / "conftest.py").write_text((here / "conftest.py").read_text(encoding="utf-8"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent / "tools")]))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, folder]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True).stdout


@pytest.mark.parametrize("flag", ["", "1"])
@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "two workers"])
def test_a_run_says_what_it_left(tmp_path, monkeypatch, flag, workers):
    "36 seeds, and three problems in each of the four that ran"
    if workers:
        pytest.importorskip("xdist")
    (tmp_path / "test_it.py").write_text(TEST)
    monkeypatch.setenv("CALIBRAIN_ALL_TESTS", flag)
    said = run(tmp_path, monkeypatch, "-q", *workers)
    assert f"{40 if flag else 4} passed" in said
    assert ("48 cases left to" in said) == (not flag)


@pytest.mark.parametrize("workers", [[], ["-n1", "--dist=loadgroup"]], ids=["alone", "a worker"])
def test_what_takes_longest_begins_first(tmp_path, monkeypatch, workers):
    "Although other files have more tests, and names that come before"
    if workers:
        pytest.importorskip("xdist")
    several = "import pytest\n@pytest.mark.parametrize('i', range(9))\ndef test_one(i): pass\n"
    (tmp_path / "test_a.py").write_text(several)
    (tmp_path / "test_evoked.py").write_text("def test_one(): pass\n")
    said = run(tmp_path, monkeypatch, "-v", *workers)
    passed = [line for line in said.splitlines() if "PASSED" in line]
    order = [re.search(r"test_\w+\.py", line)[0] for line in passed]
    assert order == ["test_evoked.py"] + ["test_a.py"] * 9, said
