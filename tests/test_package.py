"The package as an installer sees it: sdist, the wheel built from it, and that wheel by itself."

import email
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from configparser import ConfigParser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from packaging.requirements import Requirement

import calibrain
from calibrain import viz
from calibrain._modidx import d

ROOT = Path(__file__).resolve().parent.parent
CFG = ConfigParser(delimiters=["="])
CFG.read(ROOT / "settings.ini", encoding="utf-8")
CFG = CFG["DEFAULT"]
MODULES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "calibrain").rglob("*.py"))
NOT_IN_SDIST = ("tests", "nbs", "tools", "benchmarks", "_")
OLDEST_FASTCORE = re.search(r"fastcore>=(\S+)", CFG["requirements"])[1]

LOOK = """
import sys
sys.path[:0] = {before}
import logging, pkgutil, importlib, random, importlib.util
assert importlib.util.find_spec("nbdev") is None, "this environment must not have nbdev"
import calibrain
light = {{"numpy", "scipy", "mne", "matplotlib"}} & set(sys.modules)
assert not light, f"import calibrain alone loaded {{light}}"
import numpy as np
state, own, level = np.random.get_state()[1].tolist(), random.getstate(), logging.root.level
names = [m.name for m in pkgutil.walk_packages(calibrain.__path__, "calibrain.")]
for name in names:
    importlib.import_module(name)
    if name.split(".")[1] not in ("viz", "explorers"):
        assert "matplotlib.pyplot" not in sys.modules, name
assert (np.random.get_state()[1].tolist(), random.getstate()) == (state, own), "random numbers"
assert (logging.root.handlers, logging.root.level) == ([], level), "an import configured logging"
for name in logging.root.manager.loggerDict:
    assert name.split(".")[0] != "calibrain" or not logging.getLogger(name).handlers
import fastcore
print(calibrain.__file__, calibrain.__version__, fastcore.__version__, *sorted(names))
"""


# ---- the wheel, and an environment for it


def command(*words, **more):
    strings = [str(word) for word in words]
    return subprocess.run(strings, check=True, stdin=subprocess.DEVNULL, **more)


def pip(*words):
    # without the repository on the path: else the package counts as installed
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command(sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *words, env=env)


@pytest.fixture(scope="session")
def dist(tmp_path_factory):
    "The folder with the sdist and its wheel: made just now, here or by tools/test.sh"
    if made := os.environ.get("CALIBRAIN_DIST"):
        return ROOT / made
    out = tmp_path_factory.mktemp("dist")
    command(sys.executable, "-m", "build", "--outdir", out, ROOT, stdout=subprocess.DEVNULL)
    return out


@pytest.fixture(scope="session")
def wheel(dist):
    return next(dist.glob("*.whl"))


def metadata(wheel, name):
    with zipfile.ZipFile(wheel) as z:
        file = next(n for n in z.namelist() if n.endswith(f".dist-info/{name}"))
        return z.read(file).decode()


def required(requirements):
    "The distributions that these ask for, and those ask for, as they are installed here"
    found = {}
    todo = [Requirement(r) for r in requirements]
    while todo:
        asked = todo.pop()
        if asked.name in found:
            continue
        found[asked.name] = distribution(asked.name)
        assert asked.specifier.contains(found[asked.name].version, prereleases=True), asked
        for line in found[asked.name].requires or []:
            r = Requirement(line)
            extras = asked.extras or {""}
            if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras):
                todo.append(r)
    return found


def share(distributions, folder):
    "A folder in which these distributions are found, and no other: links to their files"
    for dist in distributions:
        tops = {f.parts[0] for f in dist.files} - {"..", "__pycache__"}
        for top in tops:
            link = folder / top
            if not link.exists():
                link.symlink_to(dist.locate_file(top))


@pytest.fixture(scope="session")
def lean(wheel, tmp_path_factory):
    """The Python of an environment that holds the wheel, and what it asks for, and nothing else

    What it asks for is shared with the environment of this run: nothing is fetched twice.
    """
    env = tmp_path_factory.mktemp("lean")
    venv.create(env, with_pip=False)
    asked = email.message_from_string(metadata(wheel, "METADATA")).get_all("Requires-Dist")
    needs = [r for r in asked if "extra ==" not in r]
    packages = next(env.glob("lib/python*/site-packages"))
    share(required(needs).values(), packages)
    pip("--python", env / "bin/python", "install", "--no-deps", "--no-index", wheel)
    return env / "bin/python"


def test_sdist(dist):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as t:
        names = {n.partition("/")[2] for n in t.getnames()}
    assert {"settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE", *MODULES} <= names
    assert not {n for n in names if n.startswith(NOT_IN_SDIST)}


def test_wheel(wheel):
    "The modules as they lie in the repository, the marker that they are typed, and nothing else"
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
    info = f"calibrain-{CFG['version']}.dist-info/"
    held = sorted(n for n in names if not n.startswith(info))
    assert held == sorted([*MODULES, "calibrain/py.typed"])
    assert "BSD 3-Clause" in metadata(wheel, "licenses/LICENSE")


def test_wings(wheel):
    "A folder for every wing of notebooks but those that are one module or two"
    with zipfile.ZipFile(wheel) as z:
        parts = [Path(n).parts for n in z.namelist() if n.startswith("calibrain/")]
    folders = {p[1] for p in parts if len(p) == 3}
    wings = {p.name for p in (ROOT / "nbs/api").iterdir() if p.is_dir()}
    assert folders == wings - {"commands", "estimator"}
    assert all((ROOT / "calibrain" / f / "__init__.py").exists() for f in folders)


def test_metadata(wheel):
    m = email.message_from_string(metadata(wheel, "METADATA"))
    told = (m["Name"], m["Version"], m["Author"], m["License-Expression"])
    assert told == ("calibrain", calibrain.__version__, CFG["author"], "BSD-3-Clause")
    assert m["Requires-Python"] == ">=" + CFG["min_python"]
    needs = [r for r in m.get_all("Requires-Dist") if "extra ==" not in r]
    assert len(needs) == len(CFG["requirements"].split()) and not any("nbdev" in r for r in needs)
    assert "calibrain = calibrain.cli:main" in metadata(wheel, "entry_points.txt")


ADDRESSES = {"Home-page", "Project-URL", "Author-email", "Maintainer", "Download-URL"}


def test_no_invented_addresses(wheel):
    "Where settings.ini names no public home, nothing else does"
    if CFG["git_url"]:
        pytest.skip("settings.ini names a public home")
    m = email.message_from_string(metadata(wheel, "METADATA"))
    assert not ADDRESSES & set(m.keys())
    spec = importlib.util.spec_from_file_location("index", ROOT / "calibrain/_modidx.py")
    index = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(index)
    settings = index.d["settings"]
    assert {k: settings[k] for k in ("git_url", "doc_host")} == {"git_url": "", "doc_host": ""}


@pytest.mark.parametrize(
    "fastcore, major",
    [("fastcore>=2", "2"), (f"fastcore=={OLDEST_FASTCORE}", "1")],
    ids=["newest", "oldest"],
)
def test_import_without_nbdev(lean, fastcore, major, tmp_path):
    "Every module of the wheel, with the newest and the oldest version of what most may change"
    pip("install", "--no-deps", "--target", tmp_path / "fastcore", fastcore)
    look = LOOK.format(before=[str(tmp_path / "fastcore")])
    r = subprocess.run([lean, "-I", "-c", look], cwd=tmp_path, text=True, capture_output=True)
    assert r.returncode == 0, r.stderr
    where, version, used, *names = r.stdout.split()
    assert Path(where).is_relative_to(lean.parent.parent), "the wheel, not the repository"
    assert version == CFG["version"] and used.split(".")[0] == major
    dotted = {n.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for n in MODULES}
    assert set(names) >= dotted - {"calibrain"}


def test_the_command(lean, tmp_path):
    "`calibrain` is there once the wheel is installed"
    done = command(lean.parent / "calibrain", "--version", text=True, capture_output=True)
    assert done.stdout.strip() == f"calibrain {CFG['version']}"


# ---- its names


def test_public_names():
    assert set(calibrain.__all__) <= set(dir(calibrain))
    assert not hasattr(calibrain, "__wrapped__")
    with pytest.raises(AttributeError, match="No calibrain attribute BNM"):
        _ = calibrain.BNM
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
    made = set()
    for module, names in d["syms"].items():
        if module.startswith("calibrain.viz."):
            made |= {full.removeprefix(module + ".") for full in names}
    drawn = {name for name in made if name.startswith("draw_")}
    assert drawn == {name for name in viz.__all__ if name.startswith("draw_")}


@pytest.mark.parametrize("name", [n for n in viz.__all__ if n.startswith("draw_")])
def test_a_picture_takes_axes_and_returns_them(name):
    "One panel: `ax` in, axes out. Several: a figure"
    s = inspect.signature(getattr(viz, name))
    assert s.return_annotation is (Axes if "ax" in s.parameters else Figure)


# ---- the commands that README and CONTRIBUTING give


def told(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_readme_and_ci_agree():
    readme = told("README.md")
    assert "```sh\npip install . && calibrain demo\n```" in readme
    assert "```sh\nbash tools/test.sh\n```" in readme
    ran = told(".ci/run").splitlines()
    assert "bash tools/test.sh </dev/null" in ran
    assert ran[-1] == '"${VIRTUAL_ENV:-.venv}/bin/python" tools/lowest.py --test </dev/null'


IN_REPOSITORY = re.compile(
    r"(?<![\w/.])((?:nbs|tests|tools|calibrain|benchmarks|\.ci)/[\w./*-]*[\w*]"
    r"|[\w-]+\.(?:md|cff|toml))"
)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "README.md", "CHANGELOG.md"])
def test_paths_that_are_named_exist(name):
    "In prose, in links and in commands"
    found = set(IN_REPOSITORY.findall(told(name)))
    assert [path for path in sorted(found) if not list(ROOT.glob(path))] == []


def test_the_test_finds_paths():
    text = (
        "run `nbs/api/33_bmn.ipynb`, [this](nbs/a.ipynb#part), tools/x.py. `calibrain/*.py`, A.md."
    )
    found = ["nbs/api/33_bmn.ipynb", "nbs/a.ipynb", "tools/x.py", "calibrain/*.py", "A.md"]
    assert IN_REPOSITORY.findall(text) == found


@pytest.fixture
def fresh(tmp_path):
    "tools/test.sh in a folder without an environment, where a Python of another version is found"
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/test.sh").write_text(told("tools/test.sh"))

    def run(says, *words):
        other = tmp_path / "python3"
        other.write_text(f"#!/bin/sh\n{says}\n")
        other.chmod(0o755)
        path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
        env = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHON")}
        command = ["bash", tmp_path / "tools/test.sh", *words]
        return subprocess.run(command, env=env | {"PATH": path}, text=True, capture_output=True)

    return run


@pytest.mark.parametrize(
    "says, found",
    [("echo 3.10 0", "is 3.10"), ("exit 1", "does not run")],
)
def test_an_old_python_is_told_in_one_line(fresh, says, found):
    done = fresh(says)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and found in done.stderr
    assert "needs Python 3.11 or later" in done.stderr


def test_unknown_words_for_the_test_command(fresh):
    done = fresh("exit 0", "--everything")
    assert done.returncode == 2 and "[--all | --lowest]" in done.stderr
