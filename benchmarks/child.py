"""One side of one work, in a process of its own: python child.py FAMILY NAME ours|peer PROBLEM.npz OUT.npz

Runs under the peer's interpreter too, where this repository comes last on the path, so that
`import calibrain` finds the published package. Interpreter start, imports and a warm-up on a few
sources are not timed. A call shorter than 0.2 s is made five times, and the median counts.
"""

import importlib
import json
import os
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter

ROOT = str(Path(__file__).resolve().parent.parent)


def measure(side, p):
    "What the side returned, and the seconds that it took"
    times = []
    while not times or (times[-1] < 0.2 and len(times) < 5):
        t = perf_counter()
        found = side(p)
        times.append(perf_counter() - t)
        if "seconds" in found:
            return found, found["seconds"]
    return found, sorted(times)[len(times) // 2]


def threads_of(which):
    "Ours keeps to one thread of BLAS unless it is told how many; the peer takes what there is"
    if which == "peer":
        return nullcontext()
    from calibrain import blas_threads

    return blas_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))


def main(family, name, which, problem, out):
    sys.path[0:1] = [ROOT] if which == "ours" else []
    if which == "peer":
        sys.path.append(ROOT)
    import numpy as np

    from benchmarks.problems import first_sources, load
    from benchmarks.work import now, peak

    work = next(w for w in importlib.import_module(f"benchmarks.{family}").WORKS if w.name == name)
    warnings.simplefilter("ignore")
    p = load(problem)
    side = getattr(work, which)
    module = work.rival if which == "peer" else "calibrain"
    found_at = importlib.import_module(module).__file__
    if found_at.startswith(ROOT + "/calibrain") == (which == "peer"):
        sys.exit(f"{which} would measure {found_at}")
    with threads_of(which):
        side(first_sources(p, 32))
        before = now()
        found, seconds = measure(side, p)
    info = {key: found[key] for key in ("n_iter", "violation", "parts", "path") if key in found}
    info |= dict(seconds=seconds, peak_mb=peak(), before_mb=before)
    np.savez(out, **found["hyper"](), info=json.dumps(info, default=float))


if __name__ == "__main__":
    main(*sys.argv[1:])
