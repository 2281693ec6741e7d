"What is loaded with the names that most people start from, and what rests meanwhile"

import json
import subprocess
import sys

import pytest

from calibrain.solvers.registry import REFERENCE, SAMPLERS, SOLVERS

START = "from calibrain import SourceEstimator, gamma_map_sflex"
LATE = {  # Each takes longer to load than most modules of the package
    "scipy.special",
    "scipy.fft",
    "scipy.sparse.csgraph",
    "scipy.sparse.linalg",
    "scipy.spatial",
    "scipy.optimize",
    "scipy.stats",
    "mne",
    "matplotlib",
    "pandas",
    "sklearn",
    "tqdm",
    "IPython",
}
OTHERS = {  # Solvers that nobody has asked for
    f"calibrain.solvers.{name}"
    for name in ("champagne", "blocks", "reml", "spike_slab", "slots", "reference", "minimum_norm")
}


def run(code):
    "What a new process says, from JSON"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def loaded(code):
    "What is loaded after some lines"
    return {*run(f"{code}\nimport json, sys\nprint(json.dumps([*sys.modules]))")}


def test_an_estimator_loads_what_it_needs():
    there = loaded(START)
    assert "calibrain.solvers.gamma_map" in there
    assert there & (LATE | OTHERS) == set()


@pytest.mark.parametrize("name", [*SOLVERS, *SAMPLERS, *REFERENCE])
def test_a_name_is_enough_for_a_solver(name):
    "The table knows it before its module is there, and then has the function itself"
    code = f"""
import sys, json
from calibrain import list_solvers
from calibrain.solvers.registry import REFERENCE, SAMPLERS, SOLVERS, describe
names = [*SOLVERS, *SAMPLERS, *REFERENCE]
before = [m for m in sys.modules if m in {sorted(OTHERS)!r}]
s = describe({name!r})
import calibrain
same = s.function is getattr(calibrain, {name!r}) and s is describe(s.function)
print(json.dumps([names, before, same, s.name, s.takes_prepared, list(list_solvers().names)]))
"""
    names, before, same, itself, takes_prepared, listed = run(code)
    assert (before, same, itself, takes_prepared) == ([], True, name, True)
    assert name in names and names == listed


GARBAGE = """
import gc, json, sys
import calibrain
{before}
found = []
gc.callbacks.append(lambda phase, info: found.append(phase))
from calibrain import SourceEstimator, gamma_map_sflex
n_found = len(found)
print(json.dumps([n_found, gc.isenabled(), gc.get_freeze_count()]))
"""


def test_no_garbage_is_looked_for_meanwhile():
    n_found, enabled, frozen = run(GARBAGE.format(before=""))
    assert n_found < 10, "it is looked for only between the two names"
    assert enabled and not frozen


def test_a_collector_stays_as_it_was_set():
    assert run(GARBAGE.format(before="gc.disable()")) == [0, False, 0]
    _, enabled, frozen = run(GARBAGE.format(before="gc.collect(); gc.freeze()"))
    assert enabled and frozen > 1000


def test_a_module_that_fails_leaves_the_collector_on():
    code = """
import gc, json, sys
import calibrain
sys.modules["calibrain.solvers.common"] = None
try:
    from calibrain import gamma_map
except ImportError:
    print(json.dumps(gc.isenabled()))
"""
    assert run(code) is True
