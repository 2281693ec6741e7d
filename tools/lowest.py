"""The oldest versions that `settings.ini` allows, and the tests with them.

python tools/lowest.py            lists them, one a line, as pip's constraints
python tools/lowest.py --test     the demo and the contract of the solvers, in an environment of these
python tools/lowest.py --suite    all tests of the package

The environment is kept in `.venv-lowest` and made again when the versions change. nbdev, which
makes the documentation, needs newer packages; what tests it is not run here.
"""

import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv-lowest"
EXTRAS = (
    "frames",
    "arrays",
    "labels",
    "volumes",
    "metrics",
    "heads",
    "study",
    "dask",
    "published",
)  # "torch" is not among them: but for a processor's build it takes several gigabytes
TESTERS = ("pytest", "pytest-xdist", "packaging", "scoringrules>=0.7")

CONTRACT = ["tests/test_solvers.py", "tests/test_road.py"]
# About the notebooks, the site and the tools, which are made with the newest versions
NOT_OF_THE_PACKAGE = (
    "apart",
    "benchmarks",
    "mend",
    "notebooks",
    "package",
    "routine",
    "running",
    "site",
)


def lowest(settings=ROOT / "settings.ini"):
    "Distribution → its oldest allowed version; of an extra only what the package itself lacks"
    parser = ConfigParser(delimiters=["="])
    parser.read(settings, encoding="utf-8")
    lines = [parser["DEFAULT"]["requirements"]]
    lines += [parser["DEFAULT"][f"{extra}_requirements"] for extra in EXTRAS]
    found = {}
    for requirement in " ".join(lines).split():
        name, version = re.match(r"([\w-]+)>=([\w.]+)", requirement).groups()
        found.setdefault(name, version)
    return found


def constraints():
    return "".join(f"{name}=={version}\n" for name, version in lowest().items())


def environment():
    "The interpreter of an environment with the oldest versions, made now if it was not"
    python = HOME / "bin/python"
    wanted = constraints() + "\n".join(TESTERS)
    said = HOME / "versions.txt"
    if said.exists() and said.read_text() == wanted:
        return python
    shutil.rmtree(HOME, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", HOME], check=True)
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, "--prefer-binary", *constraints().split(), *TESTERS], check=True)
    said.write_text(wanted)
    return python


def tests(whole):
    "The test files to run"
    if not whole:
        return CONTRACT
    left_out = {f"test_{name}.py" for name in NOT_OF_THE_PACKAGE}
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(f.relative_to(ROOT)) for f in files if f.name not in left_out]


def check(whole):
    "Exit status of the tests, and of the demo beside them"
    python = environment()
    one_thread = {f"{n}_NUM_THREADS": "1" for n in ("OMP", "OPENBLAS", "MKL")}  # as tools/test.sh
    env = os.environ | one_thread | dict(PYTHONPATH=str(ROOT))
    env.pop("VIRTUAL_ENV", None)
    out = HOME / "demo"
    demo = [python, "-m", "calibrain.cli", "demo", "--out", out]
    share = "loadfile" if whole else "load"  # the tests of the contract share nothing costly
    run = [python, "-m", "pytest", "-q", "-n", "2", "--dist", share, "-p", "no:cacheprovider"]
    failed = 0
    for command in (demo, [*run, *tests(whole)]):
        failed |= subprocess.run(command, cwd=ROOT, env=env).returncode
    return failed


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(constraints(), end="")
    elif sys.argv[1:] in (["--test"], ["--suite"]):
        sys.exit(check(sys.argv[1] == "--suite"))
    else:
        sys.exit(__doc__)
