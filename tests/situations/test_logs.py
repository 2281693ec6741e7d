"What is left in a log where nobody watches, and what is lost without an optional package"

import os
import subprocess
import sys
import warnings
from contextlib import suppress

import numpy as np
import pytest

from calibrain import Leadfield, SourceEstimator, gamma_map
from calibrain.core import progress
from calibrain.evaluation.errors import emd
from calibrain.evaluation.evaluate import evaluate

SOLVE = """
import sys, numpy as np
from calibrain import Leadfield, SourceEstimator, gamma_map
lf = Leadfield.random(8, 20)
y = np.random.default_rng(0).normal(size=(3, 8, 5))
gamma_map(lf, y[0], 1.0, verbose=True, max_iter=20_000)
SourceEstimator("gamma_map", dict(verbose=True, max_iter=20_000), noise_var=1.0).fit(lf, y)
"""


def run(code, **more):
    return subprocess.run([sys.executable, "-c", code], check=True, timeout=120, **more)


def written_to_a_terminal(code, **more):
    "What a program writes to one of 100 columns, read while it runs: a terminal holds little"
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    seen = b""
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs, **more) as program:
        os.close(theirs)
        with suppress(OSError):  # the end, on Linux
            while part := os.read(ours, 100_000):
                seen += part
    os.close(ours)
    assert program.returncode == 0
    return seen


def problem():
    "One active source of twenty, its recording, and what a solver says of it"
    lf = Leadfield.random(8, 20)
    x = np.zeros((20, 30))
    x[3] = 1
    y = lf.matrix() @ x + 0.1 * np.random.default_rng(0).normal(size=(8, 30))
    return lf, x, y, SourceEstimator("gamma_map", noise_var=0.01).fit(lf, y).predict()


# Progress bars


def test_a_batch_job_writes_no_bars(tmp_path):
    "stderr goes to a file, as on a cluster"
    with open(tmp_path / "log", "w+") as log:
        run(SOLVE, stderr=log, stdout=log)
        log.seek(0)
        assert log.read() == ""


def test_a_pipe_gets_no_bars():
    done = run(SOLVE, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_terminal_shows_them():
    seen = written_to_a_terminal(SOLVE)
    assert b"evidence" in seen and b"3/3" in seen


def test_whoever_wants_none_sets_the_variable_of_tqdm():
    code = SOLVE + "print('end', file=sys.stderr)"
    seen = written_to_a_terminal(code, env=os.environ | {"TQDM_DISABLE": "1"})
    assert seen.strip() == b"end"


def test_no_stderr_at_all(monkeypatch):
    "As under pythonw, or a service: nothing to write to, and nothing fails"
    monkeypatch.setattr(sys, "stderr", None)
    assert not progress.watched()
    lf, _, y, _ = problem()
    gamma_map(lf, y, 0.01, verbose=True)


def test_a_notebook_has_a_kernel_and_no_terminal(monkeypatch):
    class Shell:
        kernel = object()

    class IPython:
        get_ipython = staticmethod(Shell)

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    assert progress.watched()


# Optional packages


@pytest.fixture
def without_pot(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)


def test_all_but_the_distance_without_pot(without_pot):
    lf, x, _, result = problem()
    with pytest.warns(UserWarning, match=r"emd.*calibrain\[metrics\]"):
        record = evaluate(x, result, lf)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked = evaluate(x, result, lf, with_emd=False)
    assert record.keys() == asked.keys()
    assert "emd" not in record and record["localisation_error"] == 0


def test_it_is_left_out_with_a_silent_truth_too(without_pot):
    "The names of a record do not depend on the truth"
    lf, x, _, result = problem()
    with pytest.warns(UserWarning, match="emd"):
        assert "emd" not in evaluate(0 * x, result, lf)


def test_no_word_where_it_would_not_be_computed(without_pot):
    "Without positions there is no distance to leave out"
    _, x, _, result = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(x, result)


def test_whoever_asks_for_it_alone_is_told_what_to_install(without_pot):
    lf, x, _, result = problem()
    with pytest.raises(ImportError, match=r"pip install 'calibrain\[metrics\]'"):
        emd(x, result, lf)


def test_whoever_insists_is_refused(without_pot):
    '`with_emd=True` is a wish; `None`, the default, is "where it can be"'
    lf, x, _, result = problem()
    with pytest.raises(ImportError, match=r"pip install 'calibrain\[metrics\]'"):
        evaluate(x, result, lf, with_emd=True)
