"""Measure: `python -m benchmarks`, from the root of the repository. `--help` lists the options.

Every measurement is a fresh process with a given number of BLAS threads; ours and the peer's take
turns. Writes results.json and results.md.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

import calibrain

from . import growth, problems
from .peers import Absent, install, last_line, python
from .report import markdown, summary

HERE = Path(__file__).resolve().parent
FAMILIES = (
    "bmn",
    "gamma_map",
    "gamma_lambda_map",
    "convex",
    "mne_gamma_map",
    "curves",
    "growth",
    "reads",
    "whole_cortex",
)
SIZES = problems.SIZES | {growth.name(s): s for s in growth.SIZES}


def number(kind, least):
    "A type of option: a number that is not below `least`"

    def parse(text):
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


def options(args):
    o = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n\n")[0])
    o.add_argument(
        "--only",
        nargs="+",
        choices=FAMILIES,
        default=FAMILIES,
        metavar="NAME",
        help=f"what to measure, of {', '.join(FAMILIES)}; the rest of OUT's results.json stays",
    )
    o.add_argument(
        "--repeats", type=number(int, 1), default=5, help="processes for each side of a work (5)"
    )
    o.add_argument(
        "--patience",
        type=number(float, 0),
        default=np.inf,
        metavar="S",
        help="repeat no side whose processes have already taken this many seconds together",
    )
    o.add_argument(
        "--threads",
        type=number(int, 1),
        nargs="+",
        default=[1, 2],
        help="numbers of BLAS threads (1 2)",
    )
    o.add_argument(
        "--out",
        type=Path,
        default=HERE / ".latest",
        metavar="DIR",
        help="where to write (benchmarks/.latest); benchmarks for the documentation's figures",
    )
    o.add_argument(
        "--peer",
        type=Path,
        default=HERE / ".peer",
        metavar="DIR",
        help="environment of the published packages, made where it is missing (benchmarks/.peer)",
    )
    o.add_argument("--no-peer", action="store_true", help="measure ours alone")
    o.add_argument(
        "--quick",
        action="store_true",
        help="tiny problems, two works of each name, once, with one thread: whether it all works",
    )
    return o.parse_args(args)


def processor():
    "The name of the processor"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor()


def machine():
    "What the figures were measured on"
    return dict(
        cpu=processor(),
        cores=os.cpu_count(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def once(python, family, work, which, threads, folder, size):
    "One measurement; the error's last line where it failed"
    problem = problems.store(size[0], folder, size[1])
    out = Path(folder) / "out.npz"
    blas = [f"{n}_NUM_THREADS" for n in ("OMP", "OPENBLAS", "MKL")]
    env = {name: value for name, value in os.environ.items() if name not in blas}
    env |= dict(PYTHONPATH="")
    if threads is not None:  # otherwise as nobody sets them
        env |= dict.fromkeys(blas, str(threads))
    start = perf_counter()
    r = subprocess.run(
        [python, HERE / "child.py", family, work.name, which, problem, out],
        env=env,
        capture_output=True,
        text=True,
        cwd=folder,
    )
    if r.returncode:
        return dict(failed=last_line(r.stderr))
    wall = perf_counter() - start
    found = problems.load(out)
    info = json.loads(str(found.pop("info")))
    cost = costs(problems.load(problem), work.sigma, **found)
    return info | dict(wall=wall, cost=cost)


def costs(p, sigma, gamma, noise, scaled=False):
    "ℒ by our formula, at one or several γ: the same judge for both sides"
    from calibrain.head.basis import sflex_basis, through_basis
    from calibrain.solvers.common import start_scale
    from calibrain.solvers.evidence import data_root, factor, solve_lower

    G = p["L"]
    if sigma:
        G = through_basis(G, sflex_basis(p["src_coords"], sigma), int(p["k"]))
    Y = data_root(p["y"])
    if scaled:
        gamma = gamma * start_scale(G, p["y"])[0]

    def cost(g):
        R = factor(G, g, np.broadcast_to(noise, len(Y)))
        return round(float(2 * np.log(R.diagonal()).sum() + (solve_lower(R, Y) ** 2).sum()), 6)

    return cost(gamma) if gamma.ndim == 1 else [cost(g) for g in gamma]


def row(o, family, work, threads, peer, folder):
    "All runs of one work, in turn"
    size = (work.problem, SIZES[work.problem])
    if o.quick:
        size = ("tiny x3" if size[1][2] == 3 else "tiny", None)
    sides = dict(ours=sys.executable)
    if peer and work.peer:
        sides["peer"] = python(o.peer)
    runs = {which: [] for which in sides}
    for _ in range(o.repeats):
        for which, interpreter in sides.items():
            if sum(r.get("wall", np.inf) for r in runs[which]) < o.patience:
                runs[which].append(once(interpreter, family, work, which, threads, folder, size))
    about = dict(
        name=work.name,
        family=family,
        problem=size[0],
        size=size[1] or SIZES[size[0]],
        threads=threads,
        rival=work.rival if work.peer else None,
        aim=work.aim,
        date=str(datetime.date.today()),
    )
    return about | {which: failure(rs) or summary(rs) for which, rs in runs.items()}


def failure(runs):
    "The first run that failed, if one did"
    return next((r for r in runs if "failed" in r), None)


def kept(file, without):
    "Rows of an earlier run that are not measured anew"
    if not file.exists():
        return []
    rows = json.loads(file.read_text(encoding="utf-8"))["works"]
    return [r for r in rows if r["family"] not in without]


def works(o):
    "What is to be measured: family, work, and number of threads"
    for family in o.only:
        every = importlib.import_module(f"benchmarks.{family}").WORKS
        for work in every[:2] if o.quick else every:
            for threads in o.threads if o.quick else work.threads or o.threads:
                yield family, work, threads


def main(args=None):
    o = options(args)
    if o.quick:
        o.repeats = 1
        o.threads = [1]
    try:
        peer = None if o.no_peer else json.loads(install(o.peer))
    except Absent as e:
        peer = None
        print(f"no peer: {' '.join(str(e).split())} — measuring ours alone", flush=True)
    o.out.mkdir(parents=True, exist_ok=True)
    before = kept(o.out / "results.json", without=o.only)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for family, work, threads in works(o):
            rows.append(row(o, family, work, threads, peer, folder))
            if "failed" in rows[-1]["ours"]:
                sys.exit(f"{work.name}: {rows[-1]['ours']['failed']}")
            print(markdown(dict(works=rows[-1:]), FAMILIES).splitlines()[-1], flush=True)
            write(o, peer, sorted(before + rows, key=lambda r: FAMILIES.index(r["family"])))
    print(f"\n{(o.out / 'results.md').read_text(encoding='utf-8')}\nwritten to {o.out}")


def write(o, peer, works):
    "The results so far: figures and table"
    ours = {n: importlib.metadata.version(n) for n in ("numpy", "scipy")}
    ours["calibrain"] = calibrain.__version__
    about = dict(
        machine=machine(),
        versions=dict(ours=ours, peer=peer),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )
    # one work a line, so that a change can be read
    lines = ",\n".join(json.dumps(w, ensure_ascii=False) for w in works)
    (o.out / "results.json").write_text(
        f'{json.dumps(about, ensure_ascii=False)[:-1]}, "works": [\n{lines}\n]}}\n',
        encoding="utf-8",
    )
    (o.out / "results.md").write_text(markdown(dict(works=works)), encoding="utf-8")


if __name__ == "__main__":
    main()
