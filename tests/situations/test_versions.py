"The oldest versions that are promised are the ones that are tested"

import re
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import lowest
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]


def test_every_dependency_has_a_lower_bound():
    found = lowest.lowest()
    assert {"numpy", "scipy", "mne", "fastcore", "POT", "nilearn"} <= set(found)
    for name, oldest in found.items():
        assert Version(oldest), name


def test_a_requirement_without_one_is_noticed(tmp_path):
    settings = tmp_path / "settings.ini"
    settings.write_text(
        "[DEFAULT]\nrequirements = numpy\nheads_requirements =\n"
        "frames_requirements =\narrays_requirements =\nlabels_requirements =\n"
        "volumes_requirements =\nmetrics_requirements =\n"
        "study_requirements =\ndask_requirements =\npublished_requirements =\n"
    )
    with pytest.raises(AttributeError):
        lowest.lowest(settings)


def test_the_package_asks_for_the_version_itself_where_an_extra_asks_for_more():
    "MEG templates need a newer MNE-Python; everything else runs with the older"
    settings = (ROOT / "settings.ini").read_text()
    assert f"mne>={lowest.lowest()['mne']} " in settings


def test_what_is_installed_is_allowed():
    for name, oldest in lowest.lowest().items():
        assert Requirement(f"{name}>={oldest}").specifier.contains(version(name), prereleases=True)


def test_torch_is_an_extra_of_its_own():
    "Too large for the environment of the oldest versions: the version that is tested is promised"
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    promised = Requirement(parser["DEFAULT"]["torch_requirements"])
    tested = re.search(r"torch==([\d.]+)", (ROOT / ".ci/run").read_text())[1]
    assert "torch" not in lowest.EXTRAS and str(promised.specifier) == f">={tested[:-2]}"
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    assert promised.specifier.contains(Version(torch.__version__).public, prereleases=True)


def test_the_whole_suite_is_that_of_the_package():
    files = lowest.tests(whole=True)
    assert set(lowest.CONTRACT) <= set(files)
    assert "tests/situations/test_versions.py" in files
    assert "tests/test_site.py" not in files
    for name in lowest.NOT_OF_THE_PACKAGE:
        assert (ROOT / f"tests/test_{name}.py").exists()


def test_they_are_listed_as_constraints():
    words = [sys.executable, "tools/lowest.py"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == lowest.constraints()


def test_nothing_newer_than_the_oldest_scipy_is_called():
    "`sparse.eye_array` came with 1.12; sparse arrays of other kinds would need a newer one"
    oldest = Version(lowest.lowest()["scipy"])
    code = "".join(f.read_text(encoding="utf-8") for f in (ROOT / "calibrain").rglob("*.py"))
    if "eye_array" in code:
        assert oldest >= Version("1.12")
