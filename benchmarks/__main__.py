"""Measure: `python -m benchmarks`, from the root of the repository. `--help` lists the options.

Every measurement is a fresh process with a given number of BLAS threads; ours and the peer's take turns. Writes results.json and results.md.
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
        "--repeats", type=number(int, 1), default=3, help="processes for each side of a work (3)"
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


def machine():
    "What the figures were measured on"
    cpu = (
        next(
            (
                line.split(":")[1].strip()
                for line in open("/proc/cpuinfo")
                if line.startswith("model name")
            ),
            "",
        )
        if Path("/proc/cpuinfo").exists()
        else ""
    )
    return dict(
        cpu=cpu or platform.processor(),
        cores=os.cpu_count(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def once(python, family, work, which, threads, folder, size):
    "One measurement; the error's last line where it failed"
    problem, out, start = (
        problems.store(size[0], folder, size[1]),
        Path(folder) / "out.npz",
        perf_counter(),
    )
    env = (
        os.environ
        | {f"{n}_NUM_THREADS": str(threads) for n in ("OMP", "OPENBLAS", "MKL")}
        | dict(PYTHONPATH="")
    )
    r = subprocess.run(
        [python, HERE / "child.py", family, work.name, which, problem, out],
        env=env,
        capture_output=True,
        text=True,
        cwd=folder,
    )
    if r.returncode:
        return dict(failed=last_line(r.stderr))
    found, wall = problems.load(out), perf_counter() - start
    return (
        json.loads(str(found["info"]))
        | dict(wall=wall)
        | dict(
            cost=costs(
                problems.load(problem),
                work.sigma,
                **{k: v for k, v in found.items() if k != "info"},
            )
        )
    )


def costs(p, sigma, gamma, noise, scaled=False):
    "ℒ by our formula, at one or several γ: the same judge for both sides"
    from calibrain.head.basis import sflex_basis, through_basis
    from calibrain.solvers.evidence import data_root, factor, solve_lower
    from calibrain.solvers.gamma_map import start_scale

    G, Y = (
        through_basis(p["L"], sflex_basis(p["src_coords"], sigma), int(p["k"]))
        if sigma
        else p["L"],
        data_root(p["y"]),
    )
    if scaled:
        gamma = gamma * start_scale(G, p["y"])[0]

    def cost(g):
        R = factor(G, g, np.broadcast_to(noise, len(Y)))
        return round(float(2 * np.log(R.diagonal()).sum() + (solve_lower(R, Y) ** 2).sum()), 6)

    return cost(gamma) if gamma.ndim == 1 else [cost(g) for g in gamma]


def row(o, family, work, threads, peer, folder):
    "All runs of one work, in turn"
    size = (
        (("tiny x3", None) if SIZES[work.problem][2] == 3 else ("tiny", None))
        if o.quick
        else (work.problem, SIZES[work.problem])
    )
    sides = dict(ours=sys.executable) | (dict(peer=python(o.peer)) if peer and work.peer else {})
    runs = {which: [] for which in sides}
    for _ in range(o.repeats):
        for which, interpreter in sides.items():
            if sum(r.get("wall", np.inf) for r in runs[which]) < o.patience:
                runs[which].append(once(interpreter, family, work, which, threads, folder, size))
    done = {
        which: next((r for r in rs if "failed" in r), None) or summary(rs)
        for which, rs in runs.items()
    }
    return (
        dict(
            name=work.name,
            family=family,
            problem=size[0],
            size=size[1] or SIZES[size[0]],
            threads=threads,
            rival=work.rival if work.peer else None,
            aim=work.aim,
            date=str(datetime.date.today()),
        )
        | done
    )


def main(args=None):
    o = options(args)
    if o.quick:
        o.repeats, o.threads = 1, [1]
    try:
        peer = None if o.no_peer else json.loads(install(o.peer))
    except Absent as e:
        peer = None
        print(f"no peer: {' '.join(str(e).split())} — measuring ours alone", flush=True)
    o.out.mkdir(parents=True, exist_ok=True)
    file, rows = o.out / "results.json", []
    before = (
        []
        if not file.exists()
        else [
            r
            for r in json.loads(file.read_text(encoding="utf-8"))["works"]
            if r["family"] not in o.only
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        for family in o.only:
            for work in importlib.import_module(f"benchmarks.{family}").WORKS[
                : 2 if o.quick else None
            ]:
                for threads in o.threads if o.quick else work.threads or o.threads:
                    rows.append(row(o, family, work, threads, peer, folder))
                    if "failed" in rows[-1]["ours"]:
                        sys.exit(f"{work.name}: {rows[-1]['ours']['failed']}")
                    print(markdown(dict(works=rows[-1:]), FAMILIES).splitlines()[-1], flush=True)
                    write(o, peer, sorted(before + rows, key=lambda r: FAMILIES.index(r["family"])))
    print(f"\n{(o.out / 'results.md').read_text(encoding='utf-8')}\nwritten to {o.out}")


def write(o, peer, works):
    "The results so far: figures and table"
    ours = {n: importlib.metadata.version(n) for n in ("numpy", "scipy")} | dict(
        calibrain=calibrain.__version__
    )
    about = dict(
        machine=machine(),
        versions=dict(ours=ours, peer=peer),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )
    lines = ",\n".join(
        json.dumps(w, ensure_ascii=False) for w in works
    )  # one work a line, so that a change can be read
    (o.out / "results.json").write_text(
        f'{json.dumps(about, ensure_ascii=False)[:-1]}, "works": [\n{lines}\n]}}\n',
        encoding="utf-8",
    )
    (o.out / "results.md").write_text(markdown(dict(works=works)), encoding="utf-8")


if __name__ == "__main__":
    main()
