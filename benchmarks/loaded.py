"""Beside busy neighbours: `python -m benchmarks.loaded`, from the root of the repository.

Every work is measured in three ways that take turns: alone with one thread of BLAS, beside two
processes that never rest, and beside them with no number of threads set by anybody, which is how
most people run it. Writes loaded.json and loaded.md.
"""

import argparse
import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from .__main__ import HERE, SIZES, machine, number, once

FAMILIES = ("bmn", "gamma_map", "gamma_lambda_map", "reads")
WAYS = dict(  # Threads of BLAS, and busy neighbours
    alone=(1, 0), beside=(1, 2), unset=(None, 2)
)
LIMIT = 1.3  # Times as long as with one thread, at most
HEAD = "| work | alone, one thread | beside two, one thread | beside two, unset | ratio |\n"


BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # none outlives us


@contextlib.contextmanager
def neighbours(n):
    "Processes that keep a processor busy each"
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(n)]
    try:
        yield busy
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(family, work, repeats, folder, size):
    "Seconds of each way, in turn"
    seconds = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, (threads, n) in WAYS.items():
            with neighbours(n):
                run = once(sys.executable, family, work, "ours", threads, folder, size)
            if "failed" in run:
                sys.exit(f"{work.name}: {run['failed']}")
            seconds[way].append(run["seconds"])
    return seconds


def row(name, seconds):
    "Medians, and what it costs to set no number of threads"
    middle = {way: median(times) for way, times in seconds.items()}
    ratio = middle["unset"] / middle["beside"]
    return dict(name=name, ratio=ratio, within=ratio <= LIMIT, median=middle, seconds=seconds)


def markdown(rows):
    "The table"
    lines = [HEAD, "|---|---|---|---|---|\n"]
    for r in rows:
        times = " | ".join(f"{1e3 * r['median'][way]:.3g} ms" for way in WAYS)
        lines.append(f"| {r['name']} | {times} | {r['ratio']:.2f} |\n")
    return "".join(lines)


def main(args=None):
    o = argparse.ArgumentParser(
        prog="python -m benchmarks.loaded", description=__doc__.split("\n\n")[0]
    )
    o.add_argument("--only", nargs="+", choices=FAMILIES, default=FAMILIES, metavar="NAME")
    o.add_argument("--match", default="", help="only works whose name has this in it")
    o.add_argument("--repeats", type=number(int, 1), default=5, help="processes for each way (5)")
    o.add_argument("--quick", action="store_true", help="tiny problems: whether it all works")
    o.add_argument("--out", type=Path, default=HERE / ".latest", metavar="DIR")
    o = o.parse_args(args)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for family in o.only:
            for work in importlib.import_module(f"benchmarks.{family}").WORKS:
                if o.match in work.name:
                    size = ("tiny", None) if o.quick else (work.problem, SIZES[work.problem])
                    rows.append(row(work.name, measure(family, work, o.repeats, folder, size)))
                    print(markdown(rows[-1:]).splitlines()[-1], flush=True)
    o.out.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    about = dict(machine=machine(), load=load, limit=LIMIT, works=rows)
    (o.out / "loaded.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    (o.out / "loaded.md").write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
