"""A batch over one head against the loop that it stands for.

`python -m benchmarks.batch`, from the root of the repository. 64 sensors, 1,284 sources, 250
samples, five sources on, one thread. The two take turns, so that what else the machine does meets
both alike; a turn is some of the recordings. Writes batch.json and batch.md beside this file.
"""

import argparse
import json
import os
import warnings
from pathlib import Path
from time import perf_counter, process_time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

HERE = Path(__file__).resolve().parent
COLUMNS = ("alone", "batch", "ratio", "busy", "behind", "violation")
SOLVERS = {"gamma_map": dict(update_mode="fast"), "BMN": {}}


def recordings(n, M=64, N=1284, T=250):
    "Leadfield, recordings `(n, M, T)` of new sources each, and their noise variances"
    from calibrain import SensorSimulator, SourceSimulator

    from .problems import geometry

    L, _, out = geometry(M, N)
    L = np.einsum("mnk,nk->mn", L, out)
    erp = dict(sfreq=T, erp_min_length=round(0.328 * T))
    ys, noise_var = np.empty((n, M, T)), np.empty(n)
    for seed in range(n):
        x, _ = SourceSimulator(erp).simulate(n_sources=N, nnz=5, seed=seed)
        _, ys[seed], noise, _ = SensorSimulator().simulate(x, L, alpha_SNR=0.5, seed=seed)
        noise_var[seed] = np.var(noise)
    return L, ys, noise_var


def timed(f):
    "What a call returns; seconds that passed, and seconds of the processor"
    wall, busy = perf_counter(), process_time()
    out = f()
    return out, np.array([perf_counter() - wall, process_time() - busy])


def compared(solver, L, ys, noise_var, device, at_once, read):
    "Both ways through some recordings, in turns"
    import calibrain
    from calibrain.head.prepared import prepare

    prepared = prepare(L)
    function = getattr(calibrain, solver)

    def loop(rows):
        results = [function(prepared, ys[i], noise_var[i], **SOLVERS[solver]) for i in rows]
        return np.array([r.cost for r in results]), read and [(r.mean, r.std) for r in results]

    def batch(rows):
        found = calibrain.solve_batch(
            solver, prepared, ys[rows], noise_var[rows], device=device, progress=False
        )
        return found, read and [(r.mean, r.std) for r in found]

    seconds = dict(alone=np.zeros(2), batch=np.zeros(2))
    behind, worst = [], 0.0
    for first in range(0, len(ys), at_once):
        rows = np.arange(first, min(first + at_once, len(ys)))
        (found, _), took = timed(lambda rows=rows: batch(rows))
        seconds["batch"] += took
        (cost, _), took = timed(lambda rows=rows: loop(rows))
        seconds["alone"] += took
        behind += [*((found.cost - cost) / abs(cost))]
        worst = max(worst, found.kkt_violation.max())
    wall, busy = seconds["alone"] / seconds["batch"]
    return dict(
        alone=1e3 * seconds["alone"][0] / len(ys),
        batch=1e3 * seconds["batch"][0] / len(ys),
        ratio=wall,
        busy=busy,
        behind=max(behind),
        violation=worst,
    )


def table(rows):
    "The measurements as Markdown"
    heads = (
        "solver, device, recordings",
        "one by one, ms",
        "batch, ms",
        "ratio",
        "ratio of processor time",
        "cost above the loop's, relative",
        "largest violation",
    )
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for name, row in rows.items():
        shown = [f"{row[c]:.3g}" for c in COLUMNS]
        lines.append(" | ".join([name, *shown]))
    return "\n".join(f"| {line} |" for line in lines)


def main():
    from calibrain.solvers.device import devices

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    L, ys, noise_var = recordings(max(given.n))
    rows = {}
    for device in devices():
        for solver in SOLVERS:
            for read in (False, True):
                for n in given.n:
                    if read and n < max(given.n):
                        continue
                    name = f"{solver}, {device}, {n:,}" + ", means and errors read" * read
                    at_once = min(n, 64)
                    said = compared(solver, L, ys[:n], noise_var[:n], device, at_once, read)
                    rows[name] = said
                    print(name, {k: float(f"{v:.3g}") for k, v in said.items()}, flush=True)
    (given.out / "batch.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    head = "# A batch over one head, and the loop\n\nMade by `python -m benchmarks.batch`: "
    head += "64 sensors, 1,284 sources, 250 samples, one thread; milliseconds a recording.\n\n"
    (given.out / "batch.md").write_text(head + table(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
