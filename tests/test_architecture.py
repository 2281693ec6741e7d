"What each wing may import: who knows whom, and which packages from outside."

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def modules():
    "Dotted name without the package's own → file, for every module that a notebook made"
    found = {}
    for path in sorted((ROOT / "calibrain").rglob("*.py")):
        if path.name in ("__init__.py", "_modidx.py"):
            continue
        found[".".join(path.relative_to(ROOT / "calibrain").with_suffix("").parts)] = path
    return found


FILES = modules()

# A wing, or one module of it: the wings that it may know besides its own
MAY_IMPORT = {
    "core": set(),
    "posterior": {"core"},
    "head": {"core"},
    "simulation": {"core", "head"},
    "solvers": {"core", "posterior", "head"},
    "estimator": {"core", "posterior", "head", "solvers"},
    "recording": {"core", "posterior", "head", "solvers", "estimator", "calibration"},
    "calibration": {"core", "posterior"},
    "evaluation": {"core", "posterior", "calibration"},
    "published": {
        *("core", "posterior", "head", "simulation", "solvers", "estimator"),
        *("calibration", "evaluation", "utils"),
    },
    "viz": {"core", "posterior", "head", "calibration", "evaluation"},
    "passport": {
        *("core", "posterior", "head", "simulation", "solvers", "recording", "calibration", "viz"),
    },
    "study": {
        *("core", "posterior", "head", "simulation", "solvers", "estimator"),
        *("calibration", "evaluation", "viz"),
    },
    "arguments": {"core"},
    "utils": {"core"},  # the one module of calibrain 1.0 that its scripts import by its path
}
for record in ("regions", "predictive", "nave", "report", "group"):  # records that draw themselves
    MAY_IMPORT[f"recording.{record}"] = MAY_IMPORT["recording"] | {"viz"}
MAY_IMPORT["recording.made"] = MAY_IMPORT["recording"] | {"passport"}  # one of its own
MAY_IMPORT["demo"] = {*MAY_IMPORT} - {"recording", "published", "utils"}
MAY_IMPORT["cli"] = {*MAY_IMPORT} - {"published", "utils"}
MAY_IMPORT["explorers"] = {*MAY_IMPORT} - {"cli", "published", "utils"}

SOLVER_FAMILIES = {
    "solvers.gamma_map",
    "solvers.gamma_lambda_map",
    "solvers.champagne",
    "solvers.bmn",
    "solvers.spike_slab",
}

EVERYONE = {"numpy", "scipy", "fastcore"}
MAY_USE = {
    "head.forward": {"mne"},
    "core.cache": {"platformdirs"},
    "core.progress": {"tqdm"},  # one rule for every bar
    "head.fsaverage": {"mne"},
    "utils": {"platformdirs"},
    "head.average": {"mne"},
    "head.shells": {"mne"},
    "head.template": {"mne"},
    "recording": {"mne"},
    "passport": {"mne"},
    "viz": {"matplotlib", "mpl_toolkits"},
    "explorers": {"matplotlib", "ipywidgets", "PIL"},
}
MAY_USE_LATE = {  # imported inside a function only
    "core.frames": {"pandas"},
    "head.leadfield": {"mne"},
    "head.fsaverage": {"nilearn", "nibabel"},
    "head.cortex": {"mne"},
    "head.parcellation": {"mne", "nibabel"},
    "head.atlas": {"mne", "nibabel"},
    "viz": {"mne", "nilearn"},
    "cli": {"matplotlib"},
    "calibration.exceedance_map": {"sklearn"},
    "calibration.level_map": {"sklearn"},
    "published.data_generator": {"joblib", "pandas", "sklearn"},
    "published.data_workflow": {"pandas"},
    "published.posterior_summaries": {"h5py"},
    "recording.arrays": {"xarray"},
    "passport.shift": {"sklearn"},
    "passport.runs": {"joblib"},
    "passport.expected_error": {"joblib"},
    "study.heads": {"mne"},
    "study.files": {"pyarrow"},
    "study.export": {"xarray"},
    "core.threads": {"threadpoolctl"},
    "solvers.device": {"torch"},
    "study.worker": {"joblib"},
    "study.engine": {"joblib", "distributed"},
    "study.entries": {"joblib"},
    "study.mne_methods": {"mne"},
    "evaluation.transport": {"ot"},
    "explorers": {"mne"},
}
CONSTANTS = ("mne.io.constants", "mne._fiff.constants")


def late_nodes(tree):
    "What stands inside a function, and is run when it is called"
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    return {id(n) for f in ast.walk(tree) if isinstance(f, functions) for n in ast.walk(f)}


def imports(name, code):
    "Every import of a module: dotted name, imported names, and whether it stands inside a function"
    tree = ast.parse(code)
    late = late_nodes(tree)
    here = ["calibrain", *name.split(".")]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(a.name, a.name.split(".")[-1], id(node) in late) for a in node.names]
        if isinstance(node, ast.ImportFrom):
            above = here[: -node.level] if node.level else []
            base = ".".join(above + ([node.module] if node.module else []))
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix("calibrain.")
                is_module = any(f == inner or f.startswith(inner + ".") for f in FILES)
                target = f"calibrain.{inner}" if is_module else base
                found.append((target, alias.name, id(node) in late))
    return found


def entry(table, name):
    "The entry of a table for a module: its own, or its wing's"
    return table.get(name, table.get(name.split(".")[0], set()))


def allowed(name, target, late):
    "Whether a module may import another"
    top, _, rest = target.partition(".")
    wing = name.split(".")[0]
    if top == "calibrain":
        if {name, rest} <= SOLVER_FAMILIES and name != rest:
            return False
        return rest.split(".")[0] in entry(MAY_IMPORT, name) | {wing} and bool(rest)
    outside = EVERYONE | entry(MAY_USE, name) | (entry(MAY_USE_LATE, name) if late else set())
    return top in sys.stdlib_module_names | outside or target in CONSTANTS


def refused(name, code):
    "The imports of a module that the tables do not allow, and the underscore names of others"
    assert entry(MAY_IMPORT, name) or name.startswith("core."), f"{name} is not in the table"
    bad = [t for t, _, late in imports(name, code) if not allowed(name, t, late)]
    private = [
        f"{t}.{alias}"
        for t, alias, _ in imports(name, code)
        if t.startswith("calibrain") and alias.startswith("_")
    ]
    return bad + private


@pytest.mark.parametrize("name", FILES)
def test_imports(name):
    assert refused(name, FILES[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "name, code",
    [
        ("solvers.bmn", "from ..simulation.sources import SourceSimulator"),
        ("solvers.bmn", "from .gamma_lambda_map import boundary"),
        ("solvers.bmn", "from calibrain.viz import draw"),
        ("solvers.bmn", "from .evidence import _evidence"),
        ("solvers.bmn", "def f():\n    import pandas"),
        ("solvers.bmn", "import matplotlib.pyplot as plt"),
        ("solvers.bmn", "from tqdm.auto import tqdm"),
        ("simulation.sources", "from ..solvers.bmn import BMN"),
        ("simulation.sources", "import mne"),
        ("head.whitening", "import mne"),
        ("head.leadfield", "import mne"),
        ("head.template", "from ..viz.cortex import Cortex"),
        ("viz.cortex", "import mne"),
        ("core.checks", "import logging.handlers, calibrain"),
        ("core.checks", "from .. import __version__"),
        ("core.checks", "from ..posterior.gaussian import x"),
        ("calibration.credible_sets", "from ..estimator import SourceEstimator"),
        ("calibration.coverage", "import matplotlib"),
        ("calibration.coverage", "def f():\n    from ..viz import OKABE_ITO"),
        ("evaluation.scores", "from ..solvers.registry import SOLVERS"),
        ("cli", "from .utils import get_data_path"),
    ],
)
def test_the_check_refuses(name, code):
    assert refused(name, code)


@pytest.mark.parametrize(
    "name, code",
    [
        ("solvers.bmn", "from ..core.checks import check_array\nfrom .evidence import step"),
        ("simulation.sensors", "from mne.io.constants import FIFF"),
        ("viz.cortex", "def f():\n    import mne"),
        ("head.forward", "import mne"),
    ],
)
def test_the_check_allows(name, code):
    assert refused(name, code) == []


def test_no_cycles():
    graph = {}
    for name, path in FILES.items():
        targets = imports(name, path.read_text(encoding="utf-8"))
        graph[name] = {t.removeprefix("calibrain.") for t, _, late in targets if not late} & {
            *FILES
        }
    while leaves := [name for name, knows in graph.items() if not knows & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert graph == {}, "these import each other"


@pytest.mark.parametrize("name", FILES)
def test_one_idea_for_a_module(name):
    code = FILES[name].read_text(encoding="utf-8")
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("# %%")]
    assert len("\n".join(lines)) <= 16_000, "split it by idea"


@pytest.mark.parametrize("name", FILES)
def test_no_logging_set_up(name):
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    calls = {ast.unparse(n.func).split(".")[-1] for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert not calls & {"basicConfig", "addHandler", "dictConfig", "fileConfig", "set_log_level"}
