"""The published study, run in full: what its page is made from.

`python -m benchmarks.study STORE …`, from the root of the repository; one store for each
orientation, as `calibrain study run studies/published.toml --out STORE` makes it.

Writes study.json beside this file, and study.md from it.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from calibrain import open_store, pooled_outcomes, run_experiments, summary_rows
from calibrain.study.experiments import CALIBRATORS, DEFAULT, at_levels, sweep_rows
from calibrain.study.files import about_file

HERE = Path(__file__).resolve().parent
EVERYTHING = ("nnz", "alpha_SNR", "head")  # conditions that are put together
EXPERIMENTS = ("precal", "post_oracle", "post_pooled", "post_pooled_mismatch", "post_fixed")
COUNTINGS = {  # what is counted → mode, every point, strata
    "as published": ("pointwise", True, ("all",)),
    "by stratum": ("pointwise", False, ("all", "active", "silent", "detected", "on")),
}
COARSE = "isotonic, 11 levels"
FEW = np.arange(11) / 10
DRAWN = ("none", "isotonic")  # calibrators whose curves are kept
# Read off the committed figures of calibrain 1.0.3: before, same condition, pooled, other heads
PUBLISHED = {
    "fixed, BMN, oracle": (0.391, 0.066, 0.073, 0.073),
    "fixed, BMN, adaptive": (0.391, 0.132, 0.135, 0.135),
    "fixed, gamma_map_sflex, oracle": (0.099, 0.052, 0.046, 0.046),
    "free, BMN, oracle": (0.413, 0.386, 0.387, 0.387),
    "free, gamma_map_sflex, oracle": (0.267, 0.182, 0.177, 0.177),
}
ADAPTIVE = {"BMN": "BMN_joint"}  # what they call BMN with adaptive noise is BMN_joint here


def at_few_levels(curve, stratum):
    "The isotonic map of one who counts at eleven levels only"
    return CALIBRATORS["isotonic"](at_levels(curve, FEW), stratum)


CALIBRATORS[COARSE] = at_few_levels


def line_of(row):
    "Orientation, solver and noise mode"
    noise = row["noise_mode"].removesuffix("_joint_learning")
    return f"{row['orientation']}, {row['solver']}, {noise}"


def deviations(store):
    "Rows of how far coverage is off, of all conditions together"
    out = []
    for counting, (mode, every_point, strata) in COUNTINGS.items():
        learned = ("isotonic", COARSE) if every_point else ("isotonic", "scale", "conformal")
        outcomes = run_experiments(store, EXPERIMENTS, learned, mode, every_point=every_point)
        pooled = pooled_outcomes(outcomes, EVERYTHING)
        curves = {}
        for o in pooled:
            for i, stratum in enumerate(o.curve.strata):
                key = line_of(o.condition._asdict()), o.experiment, o.calibrator, stratum
                curves[key] = o.curve.empirical[i]
        for row in summary_rows(pooled, strata):
            line, stratum = line_of(row), row["stratum"]
            kept = (
                "experiment",
                "calibrator",
                "mean_absolute",
                "mean_signed",
                "coverage",
                "infinite",
            )
            new = dict(line=line, counting=counting, stratum=stratum)
            new |= {name: row[name] for name in (*kept, "low", "high", "n_test")}
            if row["calibrator"] in DRAWN:
                curve = curves[line, row["experiment"], row["calibrator"], stratum]
                new["curve"] = [float(c) for c in curve]
            out.append(new)
    return out


def sweeps(store):
    "Coverage of active sources at 0.9 before calibration, along each axis from the default"
    outcomes = run_experiments(store, ("precal",))
    out = []
    for axis in DEFAULT:
        for row in sweep_rows(outcomes, axis):
            new = dict(line=line_of(row), axis=axis, value=row[axis])
            out.append(new | {name: row[name] for name in ("coverage", "low", "high")})
    return out


def seconds(store):
    "What a run takes of one process, by solver and noise mode, s"
    parts = ("simulate", "solve", "judge")
    table = store.results()
    groups = table.groupby(["orientation", "solver", "noise_mode"])
    means = groups[[f"seconds_{part}" for part in parts]].mean()
    return [
        dict(line=line_of(dict(zip(means.index.names, key))), **dict(zip(parts, map(float, row))))
        for key, row in zip(means.index, means.to_numpy())
    ]


def facts(store):
    "What the store is like as a whole"
    status = store.status()
    size = sum(path.stat().st_size for path in store.files())
    workers = [about_file(path)["worker"] for path in store.files()]
    return dict(
        done=status.n_done,
        failed=status.n_failed,
        asked=len(store.study.runs()),
        mebibytes=size / 2**20,
        kibibytes_a_run=size / 2**10 / max(1, status.n_done),
        peak_mib=max(worker["peak_mib"] for worker in workers),
        process_hours=sum(worker["seconds"] for worker in workers) / 3600,
    )


def measured(folders):
    "Figures of all stores"
    out = dict(facts={}, deviations=[], sweeps=[], seconds=[], levels=None)
    for folder in folders:
        store = open_store(folder)
        orientation = ", ".join(dict.fromkeys(run.orientation for run in store.study.runs()))
        out["facts"][orientation] = facts(store)
        out["levels"] = list(store.study.levels)
        for name, of in (("deviations", deviations), ("sweeps", sweeps), ("seconds", seconds)):
            out[name] += of(store)
    return out


def _rounded(value):
    "Five digits of every number"
    if isinstance(value, dict):
        return {name: _rounded(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) and np.isfinite(value) else value


# ---- the page


def against_published(figures):
    "Rows: line, then ours, ours with few levels, and theirs, of each experiment"
    ours = {}
    for row in figures["deviations"]:
        if row["counting"] == "as published":
            of = ours.setdefault((row["line"], row["experiment"]), {})
            of[row["calibrator"]] = row["mean_absolute"]
    out = []
    for line, theirs in PUBLISHED.items():
        orientation, solver, noise = line.split(", ")
        if noise == "adaptive":
            solver = ADAPTIVE.get(solver, solver)
        here = f"{orientation}, {solver}, {noise}"
        if (here, "precal") in ours:
            found = [ours[here, experiment] for experiment in EXPERIMENTS[:4]]
            fine = [of.get("none", of.get("isotonic")) for of in found]
            coarse = [of.get("none", of.get(COARSE)) for of in found]
            out.append((line, fine, coarse, theirs))
    return out


def document():
    "The page, from the figures"
    figures = json.loads((HERE / "study.json").read_text(encoding="utf-8"))
    lines = [
        "# The published study",
        "",
        "Made by `python -m benchmarks.study STORE …` from stores of `studies/published.toml`.",
        "",
        "| orientation | runs done | failed | MiB | KiB a run | peak of a process, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in figures["facts"].items():
        done = f"{of['done']:,} of {of['asked']:,}"
        rest = f"{of['mebibytes']:.0f} | {of['kibibytes_a_run']:.1f} | {of['peak_mib']:.0f}"
        lines.append(f"| {name} | {done} | {of['failed']} | {rest} |")
    lines += [
        "",
        "Mean absolute deviation from nominal coverage, counted as calibrain 1.0 counts "
        "(all sources, every point), isotonic: ours / ours with a map of eleven levels / theirs.",
        "",
        "| | before | same condition | pooled | other heads |",
        "|---|---|---|---|---|",
    ]
    for line, *three in against_published(figures):
        cells = " | ".join(" / ".join(f"{value:.3f}" for value in of) for of in zip(*three))
        lines.append(f"| {line} | {cells} |")
    lines += [
        "",
        "By stratum, at every sample: coverage at 0.9 before and after (pooled, isotonic), and "
        "mean absolute deviation.",
        "",
        "| | stratum | before | after | runs with infinite sets | deviation before | after |",
        "|---|---|---|---|---|---|---|",
    ]
    by = {}
    for row in figures["deviations"]:
        wanted = (row["experiment"], row["calibrator"])
        if row["counting"] == "by stratum":
            by.setdefault((row["line"], row["stratum"]), {})[wanted] = row
    for (line, stratum), of in by.items():
        before = of["precal", "none"]
        after = of["post_pooled", "isotonic"]
        cells = [before["coverage"], after["coverage"], after["infinite"]]
        cells += [before["mean_absolute"], after["mean_absolute"]]
        shown = " | ".join(f"{c:.3f}" for c in cells)
        lines.append(f"| {line} | {stratum} | {shown} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stores", nargs="+")
    figures = _rounded(measured(parser.parse_args().stores))
    (HERE / "study.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (HERE / "study.md").write_text(document(), encoding="utf-8")
