"""Which cases run every time, and which are left to `bash tools/test.sh --all`.

    @pytest.mark.parametrize("seed", some(range(200), every=20))     # 10 of 200
    for _ in range(number(routine=20, everything=400)):              # 20 of 400

Under `--all` (the environment variable CALIBRAIN_ALL_TESTS) every case runs. Otherwise the last
lines of a run say how many were left out, and where: nothing is skipped silently.
"""

import os
import signal
import sys
from pathlib import Path

ALL = bool(os.environ.get("CALIBRAIN_ALL_TESTS"))
LEFT = {}  # where → how many cases were left out; a test that runs again counts once


def some(
    cases,  # Any finite iterable, in an order of its own
    every,  # Of so many neighbours, one is taken: the first, the (every + 1)th, …
):
    "The cases of this run, as a list: all of them under `--all`"
    cases = list(cases)
    chosen = cases if ALL else cases[::every]
    _leave(len(cases) - len(chosen))
    return chosen


def number(
    routine,  # How many in everyday runs
    everything,  # How many under `--all`
):
    "The number of random problems in this run"
    _leave(0 if ALL else everything - routine)
    return everything if ALL else routine


def _leave(n):
    "Note cases left out, under the place in the test that asked, and the test that is running"
    frame = sys._getframe(2)
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
    place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
    LEFT[f"{place} {test}"] = n


def left_out(left):
    "One line for the end of a run, or nothing where everything ran"
    files = {}
    for place, n in sorted(left.items()):
        name = place.partition(":")[0]
        files[name] = files.get(name, 0) + n
    parts = [f"{n:,} in {name}" for name, n in files.items() if n]
    if not parts:
        return ""
    total = sum(files.values())
    return f"{total:,} cases left to `bash tools/test.sh --all`: {', '.join(parts)}"


def heeding_ctrl_c():
    "For `preexec_fn`: what a shell starts in the background ignores Ctrl-C, and so do its children"
    signal.signal(signal.SIGINT, signal.SIG_DFL)
