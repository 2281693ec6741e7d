"What each module may import. The table is the design's: who knows whom, and which packages from outside."
import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in sorted((ROOT / "calibrain").rglob("*.py")) if p.name not in ("__init__.py", "_modidx.py")}

LINEAR = {"prepared", "core", "posterior", "leadfield", "basis"}
SIMULATORS = {"sources", "sensors"}
ESTIMATION = LINEAR | {"whitening", "result", "solvers", "estimator"}
SETS = {"core", "posterior", "regions", "coverage"}
CALIBRATION = SETS | {"scores", "errors", "metrics", "recalibrate", "conformal", "sbc"}
ANY = LINEAR | SIMULATORS | ESTIMATION | CALIBRATION | {"names", "metric_names", "archive", "heads", "templates", "exceedance", "evoked_posterior", "evoked_input", "evoked", "study", "store", "demo", "cli", "viz", "explorers"}
MAY_IMPORT = {  # a module, or a package for all modules in it: the modules of ours it may know
    "core": set(), "archive": {"core"}, "posterior": {"core"}, "leadfield": {"core", "archive"}, "basis": {"core"}, "result": {"core", "posterior"},
    "prepared": {"core", "leadfield", "basis"}, "whitening": {"core", "leadfield"},
    "heads": {"core", "leadfield"}, "sources": LINEAR | SIMULATORS, "sensors": LINEAR | SIMULATORS,
    "solvers": LINEAR | {"result", "solvers"}, "estimator": ESTIMATION, "exceedance": {"core"},
    "templates": {"core", "leadfield", "heads", "viz.cortex"}, "evoked_posterior": {"core", "archive", "exceedance", "result"}, "evoked_input": {"core", "heads"}, "evoked": ESTIMATION | {"heads", "evoked_posterior", "evoked_input"},
    "regions": SETS, "coverage": SETS, "names": SETS | {"leadfield"}, "scores": {"core"}, "errors": {"core", "posterior", "regions"}, "metrics": CALIBRATION, "metric_names": CALIBRATION | {"leadfield", "names"}, "recalibrate": CALIBRATION, "conformal": CALIBRATION, "sbc": CALIBRATION,
    "study": ANY - {"evoked", "evoked_input", "cli", "viz", "explorers"}, "store": CALIBRATION | {"study"},
    "demo": ANY - {"evoked", "evoked_input", "study", "store", "cli", "viz", "explorers"}, "cli": ANY - {"explorers"}, "viz": LINEAR | CALIBRATION | {"heads", "result", "viz"}, "explorers": ANY - {"cli"} | {"explorers"},
}
EVERYONE = {"numpy", "scipy", "fastcore", "tqdm"}
MAY_USE = {"heads": {"mne"}, "templates": {"mne", "platformdirs"}, "evoked_posterior": {"mne"}, "evoked_input": {"mne"}, "evoked": {"mne"}, "viz": {"matplotlib", "mpl_toolkits"}, "explorers": {"matplotlib", "ipywidgets", "PIL", "mne"}}
MAY_USE_LATE = {"templates": {"nilearn", "nibabel"}, "viz": {"mne"}, "cli": {"matplotlib"}, "coverage": {"matplotlib", "pandas"}, "errors": {"ot"}}  # imported inside a function only
CONSTANTS = ("mne.io.constants", "mne._fiff.constants")


def imports(name, code):
    "Every import of a module: the dotted name, and whether it stands inside a function"
    tree, found = ast.parse(code), []
    late = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) for n in ast.walk(f)}
    for n in ast.walk(tree):
        if isinstance(n, ast.Import): found += [(a.name, id(n) in late) for a in n.names]
        if isinstance(n, ast.ImportFrom):
            base = ".".join(([] if not n.level else name.split(".")[:-n.level]) + ([n.module] if n.module else []))
            subs = [f"{base}.{a.name}" for a in n.names]
            found += [(s if s in FILES or any(f.startswith(s + ".") for f in FILES) else base, id(n) in late) for s in subs]
    return found


def rule(table, name):
    "The entry of a table for a module: its own, or its package's"
    short = name.removeprefix("calibrain.")
    return table.get(short, table.get(short.split(".")[0]))


def refused(name, code):
    "The imports of a module that the tables do not allow"
    ours, use, late_use = (rule(t, name) or set() for t in (MAY_IMPORT, MAY_USE, MAY_USE_LATE))
    assert rule(MAY_IMPORT, name) is not None, f"{name} is not in the table: say there what it may import"
    bad = []
    for target, late in imports(name, code):
        top, _, rest = target.partition(".")
        if top == "calibrain": ok = bool(rest) and (rest in ours or rest.split(".")[0] in ours)
        else: ok = top in sys.stdlib_module_names | EVERYONE | use | (late_use if late else set()) or target in CONSTANTS
        if not ok: bad.append(target)
    return bad


@pytest.mark.parametrize("name", FILES)
def test_imports(name): assert refused(name, FILES[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name, code", [
    ("calibrain.solvers.bmn", "from ..sources import SourceSimulator"), ("calibrain.solvers.bmn", "from calibrain.viz import draw"),
    ("calibrain.solvers.bmn", "def f():\n    import pandas"), ("calibrain.solvers.bmn", "import matplotlib.pyplot as plt"),
    ("calibrain.sources", "from .solvers.bmn import BMN"), ("calibrain.sources", "import mne"), ("calibrain.whitening", "import mne"), ("calibrain.solvers.bmn", "from ..whitening import whitener"), ("calibrain.viz.cortex", "import mne"),
    ("calibrain.core", "import logging.handlers, calibrain"), ("calibrain.core", "from . import __version__"), ("calibrain.core", "from .posterior import x"),
    ("calibrain.regions", "from .estimator import SourceEstimator"), ("calibrain.coverage", "import matplotlib"), ("calibrain.coverage", "def f():\n    from .viz import OKABE_ITO"), ("calibrain.store", "from .solvers.registry import SOLVERS"),
])
def test_the_check_refuses(name, code): assert refused(name, code)


@pytest.mark.parametrize("name, code", [
    ("calibrain.solvers.bmn", "from ..core import check_array\nfrom .evidence import step"), ("calibrain.sensors", "from mne.io.constants import FIFF"),
    ("calibrain.viz.cortex", "def f():\n    import mne"), ("calibrain.heads", "import mne"),
])
def test_the_check_allows(name, code): assert refused(name, code) == []


def test_no_cycles():
    graph = {n: {t for t, _ in imports(n, p.read_text(encoding="utf-8")) if t in FILES} for n, p in FILES.items()}
    while leaves := [n for n, to in graph.items() if not to & graph.keys()]:
        for n in leaves: del graph[n]
    assert graph == {}, "these import each other"


@pytest.mark.parametrize("name", FILES)
def test_size(name):
    lines = [l for l in FILES[name].read_text(encoding="utf-8").splitlines() if l.strip() and not l.startswith("# %%")]
    assert len(lines) <= 250, "split it by idea"


@pytest.mark.parametrize("name", FILES)
def test_no_logging_set_up(name):
    calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))) if isinstance(n, ast.Call)}
    assert not {c for c in calls if c.split(".")[-1] in ("basicConfig", "addHandler", "dictConfig", "fileConfig", "set_log_level")}
