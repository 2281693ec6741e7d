"""Calibration curves by us and by the published package, on the same arrays in the same run.

`python -m benchmarks.coverage`, from the root of the repository. Both have the same methods with
the same arguments, so both sides run the same lines, in turn, each in a fresh process. The counts
must be equal: all variances are positive, where the published counts are right. Then what only we
have: a thousand runs counted and joined. Writes coverage.json beside results.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

HERE = Path(__file__).resolve().parent
CURVES = {  # name → method for each mode, what its arguments are called, components of a source
    "intervals": ("calibration_curve_intervals_{}", "x_true x_hat posterior_var", 1),
    "ellipses": ("calibration_curve_ellipse_meg_free_{}", "x_true_3d x_hat_2d posterior_cov_2d", 2),
    "ellipsoids": ("calibration_curve_ellipsoid_eeg_free_{}", "x_true x_hat posterior_cov", 3),
    "components": (
        "calibration_curve_componentwise_eeg_free_{}",
        "x_true x_hat posterior_uncert",
        3,
    ),
}
AIMS = {("ellipsoids", "aggregated"): 20, ("ellipsoids", "pointwise"): 10}


def problem(N, k, T, seed=0):
    "Truth drawn from a posterior with correlated components, the posterior's mean, and its blocks"
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(N, k, k)) + np.eye(k)
    hat = rng.normal(size=(N, k, T))
    return hat + root @ rng.normal(size=(N, k, T)), hat, root @ root.transpose(0, 2, 1)


def arguments(name, N, T):
    "The method of a curve, and its arguments"
    method, names, k = CURVES[name]
    x, hat, cov = problem(N, k, T)
    more = {}
    if k == 1:
        x = x[:, 0]
        hat = hat[:, 0]
        cov = cov[:, 0, 0]
    if k == 2:
        more["V_tan"] = np.linalg.qr(np.random.default_rng(1).normal(size=(N, 3, 2)))[0]
        x = more["V_tan"] @ x
    return method, dict(zip(names.split(), (x, hat, cov))) | more


def child(which, name, mode, N, T):
    "One side, in its own interpreter: seconds and counts"
    sys.path[:] = [p for p in sys.path if p not in ("", str(HERE))]
    if which == "ours":
        sys.path.insert(0, str(HERE.parent))
    if which == "ours":
        from calibrain.published.uncertainty_estimator import UncertaintyEstimator
    else:
        from calibrain.uncertainty_estimation import UncertaintyEstimator
    method, a = arguments(name, N, T)
    curve = getattr(UncertaintyEstimator(), method.format(mode))
    times = []
    curve(**{key: v[:8] for key, v in a.items()})  # warm up
    while sum(times) < 0.5 and len(times) < 7:
        start = perf_counter()
        found = curve(**a)
        times.append(perf_counter() - start)
    median = sorted(times)[len(times) // 2]
    print(json.dumps(dict(seconds=median, counts=found["ci_counts"].tolist())))


def runs(n, N):
    "Seconds to count and to join `n` runs of `N` sources, and the peak memory of the process"
    from calibrain.calibration.coverage import combine, coverage_curve
    from calibrain.posterior.moments import Moments

    from .work import peak

    curves = []
    start = perf_counter()
    for seed in range(n):
        x = np.random.default_rng(seed).normal(size=(N, 1))
        posterior = Moments(np.zeros((N, 1)), np.ones(N))
        curves.append(coverage_curve(x, posterior, mode="aggregated"))
    counted = perf_counter()
    total = combine(curves)["all"].total
    joined = perf_counter()
    found = dict(count=counted - start, join=joined - counted, peak_mb=peak(), total=total)
    print(json.dumps(found))


def run(python, *args):
    "What a process prints, as JSON; one BLAS thread"
    one_thread = {f"{n}_NUM_THREADS": "1" for n in ("OMP", "OPENBLAS", "MKL")}
    env = os.environ | one_thread | dict(PYTHONPATH="")
    with tempfile.TemporaryDirectory() as folder:
        r = subprocess.run(
            [python, *map(str, args)],
            env=env,
            capture_output=True,
            text=True,
            cwd=HERE.parent if "-m" in args else folder,
        )
    if r.returncode:
        sys.exit(r.stderr)
    return json.loads(r.stdout.splitlines()[-1])


def median_seconds(runs):
    return sorted(r["seconds"] for r in runs)[len(runs) // 2]


def compare(peer, N=1284, T=250, repeats=3):
    "Rows of ours and the peer's: median seconds, ratio, and whether the counts agree"
    for name in CURVES:
        for mode in ("aggregated", "pointwise"):
            sides = {which: [] for which in ("ours", "peer")}
            for _ in range(repeats):
                for which, python in (("ours", sys.executable), ("peer", peer)):
                    sides[which].append(run(python, HERE / "coverage.py", which, name, mode, N, T))
            ours = median_seconds(sides["ours"])
            theirs = median_seconds(sides["peer"])
            yield dict(
                name=name,
                mode=mode,
                n_orient=CURVES[name][2],
                ours=ours,
                peer=theirs,
                ratio=theirs / ours,
                aim=AIMS.get((name, mode)),
                equal=sides["ours"][0]["counts"] == sides["peer"][0]["counts"],
            )


def line(row):
    "A row of the table"
    asked = f"{row['aim']}×" if row["aim"] else ""
    same = "equal" if row["equal"] else "DIFFERENT"
    work = "{name} x {n_orient}, {mode}".format(**row)
    figures = "{ours:.4f} s | {peer:.3f} s | {ratio:.0f}×".format(**row)
    return f"| {work} | {figures} | {asked} | {same} |"


def main(args=None):
    from .peers import Absent, install, python

    o = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage", description=__doc__.split("\n\n")[0]
    )
    o.add_argument("--repeats", type=int, default=3, help="processes for each side (3)")
    o.add_argument(
        "--out",
        type=Path,
        default=HERE / ".latest",
        metavar="DIR",
        help="where to write (benchmarks/.latest)",
    )
    o.add_argument(
        "--peer",
        type=Path,
        default=HERE / ".peer",
        metavar="DIR",
        help="environment of the published package, made where it is missing (benchmarks/.peer)",
    )
    o = o.parse_args(args)
    out = dict(runs=run(sys.executable, "-m", "benchmarks.coverage", "runs", 1000, 1284), curves=[])
    thousand = (
        "1,000 runs of 1,284 sources: "
        "counted in {count:.2f} s, joined in {join:.3f} s, peak {peak_mb:.0f} MB"
    )
    print(thousand.format(**out["runs"]))
    try:
        install(o.peer)
    except Absent as e:
        print(f"no peer: {e}")
    else:
        work = "curve, 1,284 sources, 250 samples, 15 levels"
        print(f"| {work} | ours | peer | ratio | asked for | counts |")
        print("|---|---|---|---|---|---|")
        for row in compare(python(o.peer), repeats=o.repeats):
            out["curves"].append(row)
            print(line(row), flush=True)
    o.out.mkdir(parents=True, exist_ok=True)
    (o.out / "coverage.json").write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("ours", "peer"):
        child(*sys.argv[1:4], *map(int, sys.argv[4:]))
    elif sys.argv[1:2] == ["runs"]:
        runs(*map(int, sys.argv[2:]))
    else:
        main()
