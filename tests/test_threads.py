"Whoever sets no variable gets one thread of BLAS within calls, and what they had after them"

import json
import os
import subprocess
import sys

import pytest

LOOK = """
import json
from dataclasses import replace
import numpy as np
from calibrain import BMN, blas_threads, coverage_curve, gamma_map, spike_slab
from calibrain.core.threads import _controller
from calibrain.evaluation.evaluate import evaluate
from calibrain.head.prepared import prepare

seen = {}

class Probe:
    "An array that looks how many threads BLAS has when it is read"
    def __init__(self, name, array):
        self.name, self.array = name, array
    def __array__(self, dtype=None, copy=None):
        seen.setdefault(self.name, []).append(in_use())
        return np.asarray(self.array, dtype)

def in_use():
    return max(library["num_threads"] for library in _controller().info())

rng = np.random.default_rng(0)
L, x = rng.normal(size=(12, 40)), np.zeros((40, 30))
x[3] = 10
y = L @ x + rng.normal(size=(12, 30))
before = in_use()
for solver in (gamma_map, BMN, spike_slab):
    result = solver(Probe(solver.__name__, L), y, noise_var=1.0)
prepare(Probe("prepare", L))
posterior = gamma_map(L, y, noise_var=1.0).posterior
replace(posterior, coeff_mean=Probe("read_out", posterior.coeff_mean)).read_out(np.eye(40))
evaluate(Probe("evaluate", x), posterior)
coverage_curve(Probe("coverage_curve", x), posterior)
with blas_threads(2):
    prepare(Probe("asked for two", L))
print(json.dumps(dict(before=before, after=in_use(), seen=seen)))
"""


@pytest.fixture(scope="module")
def looked():
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env = {name: value for name, value in os.environ.items() if name not in limits}
    said = [sys.executable, "-c", LOOK]
    done = subprocess.run(said, capture_output=True, text=True, env=env, timeout=120)
    assert not done.returncode, done.stderr
    looked = json.loads(done.stdout.splitlines()[-1])
    if looked["before"] < 2:
        pytest.skip("BLAS has one thread here anyway")
    return looked


@pytest.mark.parametrize(
    "call", ["gamma_map", "BMN", "spike_slab", "prepare", "read_out", "evaluate", "coverage_curve"]
)
def test_one_thread_within_a_call(looked, call):
    assert set(looked["seen"][call]) == {1}


def test_two_where_they_are_asked_for(looked):
    assert set(looked["seen"]["asked for two"]) == {2}


def test_afterwards_all_is_as_it_was(looked):
    assert looked["after"] == looked["before"]
