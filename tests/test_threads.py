"""Whoever sets no variable gets one thread of BLAS within calls, and what they had after them.

That a call limits BLAS is asked of BLAS itself, in a process in which nobody else limits it. That
no call is forgotten is seen line by line: where a line of the package multiplies, the limit is there.
"""

import ast
import functools
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

import calibrain
from calibrain.core.threads import _limit, few_threads

PACKAGE = Path(calibrain.__file__).parent
LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run(code):
    "A process in which nothing limits BLAS"
    env = {name: value for name, value in os.environ.items() if name not in LIMITS}
    said = [sys.executable, "-c", code]
    done = subprocess.run(said, capture_output=True, text=True, env=env, timeout=120)
    assert not done.returncode, done.stderr
    return done


# ---- what BLAS says

LOOK = """
import json
from dataclasses import replace
import numpy as np
from calibrain import BMN, blas_threads, coverage_curve, gamma_map, spike_slab
from calibrain.core.threads import _controller
from calibrain.evaluation.evaluate import evaluate
from calibrain.evaluation.scores import crps
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
crps(Probe("crps", x), x, np.ones_like(x))
with blas_threads(2):
    prepare(Probe("asked for two", L))
print(json.dumps(dict(before=before, after=in_use(), seen=seen)))
"""


@pytest.fixture(scope="module")
def looked():
    looked = json.loads(run(LOOK).stdout.splitlines()[-1])
    if looked["before"] < 2:
        pytest.skip("BLAS has one thread here anyway")
    return looked


ASKED = (
    "gamma_map",
    "BMN",
    "spike_slab",
    "prepare",
    "read_out",
    "evaluate",
    "coverage_curve",
    "crps",
)


@pytest.mark.parametrize("call", ASKED)
def test_one_thread_within_a_call(looked, call):
    assert set(looked["seen"][call]) == {1}


def test_two_where_they_are_asked_for(looked):
    assert set(looked["seen"]["asked for two"]) == {2}


def test_afterwards_all_is_as_it_was(looked):
    assert looked["after"] == looked["before"]


ABSENT = """
import sys, warnings
sys.modules["threadpoolctl"] = None
import numpy as np
from calibrain import BMN
from calibrain.core.warnings import MissingPackageWarning
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        result = BMN(np.eye(3), np.ones((3, 4)), noise_var=1.0)
        result.posterior.std
told = [str(w.message) for w in caught if w.category is MissingPackageWarning]
print(len(told), result.posterior.mean.shape, told[0])
"""


def test_without_threadpoolctl_it_is_said_once_what_is_lost():
    said = run(ABSENT).stdout
    assert said.startswith("1 (3, 4) threads of BLAS are not limited")
    assert "pip install threadpoolctl" in said


# ---- what is limited


def modules():
    "Every module of the package that is limited"
    for found in pkgutil.walk_packages([str(PACKAGE)], "calibrain."):
        if not found.ispkg and not found.name.startswith(("calibrain.core.", "calibrain._modidx")):
            yield import_module(found.name)


def test_every_public_function_is_limited():
    "Of solvers those that users call: their steps are values of tables, compared by identity"
    left = []
    for module in modules():
        entered = set(getattr(module, "__all__", ()))
        if module.__name__.startswith("calibrain.solvers."):
            entered &= set(calibrain.__all__)
        for name in entered:
            value = getattr(module, name)
            returns = inspect.isfunction(value) and not inspect.isgeneratorfunction(value)
            if returns and not hasattr(value, "keeps_few_threads"):
                left.append(f"{module.__name__}.{name}")
    assert not left


def test_a_limited_function_is_found_where_it_was_and_can_be_sent_elsewhere():
    import pickle

    from calibrain.solvers.gamma_map import gamma_map

    assert calibrain.gamma_map is gamma_map
    assert pickle.loads(pickle.dumps(gamma_map)) is gamma_map
    assert "noise_var" in inspect.signature(gamma_map).parameters


# ---- lines that multiply

OF_LINALG = {
    "einsum",
    "dot",
    "tensordot",
    "eigh",
    "eigvalsh",
    "svd",
    "cholesky",
    "solve",
    "qr",
    "lstsq",
}
OF_LINALG |= {"solve_triangular", "cho_solve", "inv", "pinv", "slogdet", "matmul"}


def multiplies(node):
    "Whether a piece of syntax multiplies matrices, or takes one apart"
    if isinstance(node, ast.BinOp | ast.AugAssign):
        return isinstance(node.op, ast.MatMult)
    called = node.func if isinstance(node, ast.Call) else None
    if not isinstance(called, ast.Attribute) or called.attr not in OF_LINALG:
        return False
    return ast.unparse(called.value) in ("np", "np.linalg", "linalg", "scipy.linalg")


@functools.cache
def lines_of(file):
    "The lines of a module that multiply"
    nodes = filter(multiplies, ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))))
    return {line for n in nodes for line in range(n.lineno, n.end_lineno + 1)}


@functools.cache
def lines_within(code):
    "Those of them that belong to a function"
    return {line for *_, line in code.co_lines() if line in lines_of(code.co_filename)}


class Watch:
    "Looks at every line of the package that multiplies whether it is limited"

    def __init__(self):
        self.n_seen = 0
        self.unlimited = set()

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.at_call)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def at_call(self, frame, event, arg):
        code = frame.f_code
        if not code.co_filename.startswith(f"{PACKAGE}{os.sep}") or not lines_within(code):
            return None
        return self.at_line

    def at_line(self, frame, event, arg):
        code = frame.f_code
        if event == "line" and frame.f_lineno in lines_within(code):
            self.n_seen += 1
            if not _limit.here.is_limited:
                self.unlimited.add(f"{code.co_filename}:{frame.f_lineno}")
        return self.at_line


@pytest.fixture(scope="module")
def problem():
    "A head with a direction at each source, sources, and what the sensors see of them"
    lf = calibrain.Leadfield.random(12, 40, seed=0)
    sources = calibrain.SourceSimulator(dict(sfreq=100, erp_min_length=33))
    x, _ = sources.simulate(n_sources=40, nnz=3, orientation_type="fixed", seed=0)
    y = calibrain.SensorSimulator().simulate(x, lf, alpha_SNR=0.9, seed=0)[1]
    return lf, x, y, float(np.var(y) / 10)


def reads(of):
    "Everything that can be read of an object without an argument"
    for name in dir(type(of)):
        if name.startswith("_"):
            continue
        value = getattr(of, name)
        if inspect.ismethod(value):
            needed = [
                p for p in inspect.signature(value).parameters.values() if p.default is p.empty
            ]
            if not needed and name not in ("save", "plot"):
                value()


SOLVERS = [*calibrain.list_solvers().names]


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_line_of_a_solver_and_its_posterior_is_forgotten(problem, solver):
    lf, _x, y, noise_var = problem
    entry = calibrain.solvers.registry.describe(solver)
    given = (
        dict(noise_var=noise_var) if not entry.learns_noise and "noise_var" in entry.takes() else {}
    )
    with Watch() as watch:
        result = entry.function(lf, y, **given)
        reads(result)
        reads(result.posterior)
        if entry.posterior:
            result.posterior.sample(2, seed=0)
            result.posterior.sample(2, seed=0, sources=[1, 2])
            result.posterior.read_out(np.ones((1, 40)))
            result.posterior.region([1, 2])
    assert watch.n_seen
    assert not watch.unlimited


def measures():
    "Calls around solvers: what is made before them, and what is asked after them"
    from calibrain.calibration import credible_sets, sbc
    from calibrain.evaluation import errors, evaluate, scores
    from calibrain.head import ar, basis, prepared, whitening

    cov = np.eye(12) + 0.1
    return dict(
        evaluate=lambda lf, x, y, r: evaluate.evaluate(x, r, lf),
        errors=lambda lf, x, y, r: [
            f(x, r) for f in (errors.mse, errors.relative_error, errors.auc, errors.amplitude_error)
        ],
        explained_variance=lambda lf, x, y, r: errors.explained_variance(x, r, lf),
        energy=lambda lf, x, y, r: scores.energy_score(
            x[:20, None].repeat(2, 1), x[:20, None].repeat(2, 1), np.eye(2)[None].repeat(20, 0)
        ),
        sharpness=lambda lf, x, y, r: evaluate.sharpness(r),
        coverage=lambda lf, x, y, r: calibrain.coverage_curve(x, r, region="ellipsoid"),
        distances=lambda lf, x, y, r: credible_sets.mahalanobis(x, r),
        interval=lambda lf, x, y, r: credible_sets.credible_interval(r, 0.9),
        ranks=lambda lf, x, y, r: sbc.pit(x, r, 0),
        leadfield=lambda lf, x, y, r: calibrain.Leadfield.random(12, 40, 3, seed=1).fixed(),
        simulate=lambda lf, x, y, r: calibrain.SensorSimulator().simulate(x, lf, seed=1),
        noise=lambda lf, x, y, r: calibrain.TimeModel(ar=[0.5]).correlation(50),
        ar=lambda lf, x, y, r: reads(ar.fit_ar(y)),
        prepare=lambda lf, x, y, r: prepared.prepare(lf).eigenbasis(),
        through_basis=lambda lf, x, y, r: basis.through_basis(
            np.asarray(lf), sparse.eye_array(40, format="csr"), 1
        ),
        whitener=lambda lf, x, y, r: reads(whitening.whitener(cov)),
        estimator=lambda lf, x, y, r: calibrain.SourceEstimator("BMN", noise_cov=cov).fit(lf, y),
        compare=lambda lf, x, y, r: reads(calibrain.compare(dict(a=r, b=r))),
        cross_validate=lambda lf, x, y, r: calibrain.cross_validate_noise("BMN", lf, y),
    )


@pytest.mark.parametrize("call", measures())
def test_no_line_of_other_calls_is_forgotten(problem, call):
    lf, x, y, noise_var = problem
    result = calibrain.gamma_map(lf, y, noise_var=noise_var, update_mode="fast")
    with Watch() as watch:
        measures()[call](lf, x, y, result)
    assert watch.n_seen
    assert not watch.unlimited


def test_a_line_that_is_forgotten_is_seen(problem):
    "The watch can fail: what is called behind the limit's back is named"
    lf, x, *_ = problem
    forgotten = few_threads(lambda: None)  # the limit of another call does not last
    with Watch() as watch:
        forgotten()
        calibrain.simulation.sensors.project.__wrapped__(x, lf)
    assert watch.unlimited
