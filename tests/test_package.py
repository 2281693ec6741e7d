"The package as an installer sees it: sdist, the wheel built from it, and that wheel in an empty environment."

import email
import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import calibrain
from calibrain import viz
from calibrain._modidx import d

ROOT = Path(__file__).resolve().parent.parent
CFG = ConfigParser(delimiters=["="])
CFG.read(ROOT / "settings.ini", encoding="utf-8")
CFG = CFG["DEFAULT"]
MODULES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "calibrain").rglob("*.py"))

LOOK = """
import logging, pkgutil, importlib, random, sys, importlib.util
assert importlib.util.find_spec("nbdev") is None, "this environment must not have nbdev"
import calibrain
light = {"numpy", "scipy", "mne", "matplotlib"} & set(sys.modules)
assert not light, f"import calibrain alone loaded {light}"
import numpy as np
state, own, level = np.random.get_state()[1].tolist(), random.getstate(), logging.root.level
names = [m.name for m in pkgutil.walk_packages(calibrain.__path__, "calibrain.")]
for name in names:
    importlib.import_module(name)
    if name.split(".")[1] not in ("viz", "explorers"): assert "matplotlib.pyplot" not in sys.modules, name
assert (np.random.get_state()[1].tolist(), random.getstate()) == (state, own), "an import drew random numbers"
assert (logging.root.handlers, logging.root.level) == ([], level), "an import configured logging"
assert not [n for n in logging.root.manager.loggerDict if n.split(".")[0] == "calibrain" and logging.getLogger(n).handlers]
import fastcore
print(calibrain.__version__, fastcore.__version__, *sorted(names))
"""


def pip(python, *args):
    subprocess.run(
        [python, "-m", "pip", "-q", "--disable-pip-version-check", *args],
        check=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="session")
def dist(tmp_path_factory):
    "The folder with the sdist and its wheel: made just now, here or by tools/test.sh"
    if made := os.environ.get("CALIBRAIN_DIST"):
        return ROOT / made
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", out, ROOT],
        check=True,
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    return out


@pytest.fixture(scope="session")
def wheel(dist):
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="session")
def empty(wheel, tmp_path_factory):
    "The Python of a new environment that holds the wheel, and what it asks for, and nothing else"
    env = tmp_path_factory.mktemp("empty")
    subprocess.run([sys.executable, "-m", "venv", env], check=True)
    pip(env / "bin/python", "install", wheel)
    return env / "bin/python"


def metadata(wheel, name):
    with zipfile.ZipFile(wheel) as z:
        return z.read(next(n for n in z.namelist() if n.endswith(f".dist-info/{name}"))).decode()


def test_sdist(dist):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as t:
        names = {n.partition("/")[2] for n in t.getnames()}
    assert {"settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE", *MODULES} <= names
    assert not {n for n in names if n.startswith(("tests", "nbs", "tools", "_"))}


def test_wheel(wheel):
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
    assert {n.split("/")[0] for n in names} == {
        "calibrain",
        f"calibrain-{CFG['version']}.dist-info",
    }
    assert set(MODULES) <= set(names) and not [
        n for n in names if "__pycache__" in n or n.endswith((".pyc", ".ipynb"))
    ]
    assert "BSD 3-Clause" in metadata(wheel, "licenses/LICENSE")


def test_metadata(wheel):
    m = email.message_from_string(metadata(wheel, "METADATA"))
    assert (m["Name"], m["Version"], m["Author"], m["License-Expression"]) == (
        "calibrain",
        calibrain.__version__,
        CFG["author"],
        "BSD-3-Clause",
    )
    assert m["Requires-Python"] == ">=" + CFG["min_python"]
    needs = [r for r in m.get_all("Requires-Dist") if "extra ==" not in r]
    assert len(needs) == len(CFG["requirements"].split()) and not any("nbdev" in r for r in needs)
    assert "calibrain = calibrain.cli:main" in metadata(wheel, "entry_points.txt")


def test_no_invented_addresses(wheel):
    "Where settings.ini names no public home, nothing else does"
    if CFG["git_url"]:
        pytest.skip("settings.ini names a public home")
    m = email.message_from_string(metadata(wheel, "METADATA"))
    assert not {"Home-page", "Project-URL", "Author-email", "Maintainer", "Download-URL"} & set(
        m.keys()
    )
    index = importlib.util.module_from_spec(
        spec := importlib.util.spec_from_file_location("index", ROOT / "calibrain/_modidx.py")
    )
    spec.loader.exec_module(index)
    assert {k: index.d["settings"][k] for k in ("git_url", "doc_host")} == {
        "git_url": "",
        "doc_host": "",
    }


@pytest.mark.parametrize(
    "fastcore",
    ["fastcore>=2", "fastcore==" + CFG["requirements"].split("fastcore>=")[1].split()[0]],
    ids=["newest", "oldest"],
)
def test_import_without_nbdev(empty, fastcore, tmp_path):
    pip(empty, "install", fastcore)
    r = subprocess.run([empty, "-I", "-c", LOOK], cwd=tmp_path, text=True, capture_output=True)
    assert r.returncode == 0, r.stderr
    version, used, *names = r.stdout.split()
    assert version == CFG["version"] and used.split(".")[0] == ("2" if ">=" in fastcore else "1")
    assert set(names) >= {
        n.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for n in MODULES
    } - {"calibrain"}


def test_public_names():
    assert set(calibrain.__all__) <= set(dir(calibrain))
    assert not hasattr(calibrain, "__wrapped__")
    with pytest.raises(AttributeError, match="No calibrain attribute BNM"):
        calibrain.BNM
    with pytest.raises(ImportError, match="cannot import name 'BNM'"):
        from calibrain import BNM  # noqa: F401


@pytest.mark.parametrize("package", [calibrain, viz], ids=lambda p: p.__name__)
def test_public_names_are_those_of_their_modules(package):
    for name in package.__all__:
        value = getattr(package, name)
        if home := getattr(value, "__module__", None):
            own_name = getattr(value, "__name__", name)  # viz.spread is interpolate_on_cortex
            assert getattr(importlib.import_module(home), own_name) is value, name


def test_every_picture_is_in_viz():
    made = {
        name
        for module, names in d["syms"].items()
        if module.startswith("calibrain.viz.")
        for name in (full.removeprefix(module + ".") for full in names)
        if name.startswith("draw_")
    }
    assert made == {name for name in viz.__all__ if name.startswith("draw_")}


@pytest.mark.parametrize("name", [n for n in viz.__all__ if n.startswith("draw_")])
def test_a_picture_takes_axes_and_returns_them(name):
    "One panel: `ax` in, axes out. Several: a figure"
    s = inspect.signature(getattr(viz, name))
    assert s.return_annotation is (Axes if "ax" in s.parameters else Figure)


def test_readme_and_ci_agree():
    readme, ci = ((ROOT / f).read_text(encoding="utf-8") for f in ("README.md", ".ci/run"))
    assert (
        "```sh\npip install . && calibrain demo\n```" in readme
        and "```sh\nbash tools/test.sh\n```" in readme
    )
    assert ci.splitlines()[-1] == "bash tools/test.sh </dev/null"
