"""Error bars before and after calibration, on a template head.

`python -m benchmarks.calibration`, from the root of the repository. Simulated EEG, 1,284 fixed
sources of which five are active, the default simulators, oracle noise. Runs of their own choose
floor and smear, others train, others test. Writes calibration.json and calibration.md beside this
file.
"""

import argparse
import json
import os
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from .full_bayes import LEVELS, band, simulated

HERE = Path(__file__).resolve().parent
AT = 0.9
METHODS = ("before", "one factor", "whole levels", "conformal", "guaranteed")


def strata(x, result):
    "Strata of the truth and of what a posterior shows, by name"
    from calibrain.calibration.observable import observable_strata
    from calibrain.calibration.strata import point_masks

    return point_masks(x, result) | observable_strata(result)


class Trained:
    "Calibrators of one solver, and what test runs say of them"

    def __init__(self, L, solve):
        self.L, self.solve = L, solve
        self.curves, self.tuning, self.runs = [], [], []

    def kept(self, x, result, noise_var):
        "What the conformal calibrators keep of a run"
        from calibrain.calibration.conformal import conformal_run

        run = conformal_run(x, result, self.L, noise_var, strata(x, result))
        for name in ("all", "silent", "detected", "pruned"):
            del run.points[name]
        return run

    def curve(self, x, result):
        "Coverage of a run at fine levels"
        from calibrain.calibration.coverage import coverage_curve
        from calibrain.calibration.level_map import FINE_LEVELS

        return coverage_curve(x, result, FINE_LEVELS, strata=strata(x, result), every_point=True)

    def tune(self, *run):
        self.tuning.append(self.kept(*run))

    def train(self, x, result, noise_var):
        self.curves.append(self.curve(x, result))
        self.runs.append(self.kept(x, result, noise_var))

    def fit(self):
        "All calibrators, on the same runs"
        from calibrain.calibration.conformal import ConformalCalibrator
        from calibrain.calibration.coverage import combine
        from calibrain.calibration.recalibrate import IsotonicRecalibrator, ScaleRecalibrator

        curve = combine(self.curves)
        kept = {name for run in self.runs for name in run.points}
        counted = [name for name, n in zip(curve.strata, curve.total) if n and name in kept]
        self.maps, self.factors = {}, {}
        for name in counted:
            self.maps[name] = IsotonicRecalibrator().fit(curve, name)
            if self.maps[name].reaches[name][1] >= AT:
                self.factors[name] = ScaleRecalibrator(AT).fit(curve, name)
        self.plain = ConformalCalibrator().fit(self.runs, self.tuning, AT)
        guaranteed = ConformalCalibrator(True).fit(self.runs, self.tuning, AT)
        self.reach = {
            method: {
                name: np.array([calibrator.quantile(level, name).value for level in LEVELS])
                for name in counted
            }
            for method, calibrator in zip(METHODS[3:], (self.plain, guaranteed))
        }

    def levels(self, method, name):
        "The levels that a map asks for, 1 where none is enough"
        if method == "before":
            return LEVELS
        fitted = (self.maps if method == "whole levels" else self.factors).get(name)
        return np.ones_like(LEVELS) if fitted is None else fitted.levels(LEVELS, name)

    def test(self, x, result, noise_var):
        "Of each stratum and method: shares at all levels, points, mean widths at 0.9"
        from scipy.special import erfinv

        from calibrain.calibration.spread import spread

        run = self.kept(x, result, noise_var)
        std = float(spread(result).sigma(0, 0).mean())
        out = {}
        for name, points in run.points.items():
            if name not in self.maps or not len(points.error):
                continue
            z = points.scores(0, 0)
            own = float(np.sqrt(points.variance).mean())
            here = {}
            for method in METHODS[:3]:
                reach = np.sqrt(2) * erfinv(self.levels(method, name))
                wide = 2 * reach[LEVELS == AT][0]
                width = [wide * own, wide * std] if np.isfinite(wide) else [None, None]
                here[method] = [[float((z <= r).mean()) for r in reach], *width]
            f, h2 = self.plain.chosen[name]
            sigma = float(points.sigma(f, h2).mean())
            everywhere = float(run.widths[self.place(f, h2)])
            z = points.scores(f, h2)
            for method in METHODS[3:]:
                reach = self.reach[method][name]
                wide = 2 * reach[LEVELS == AT][0]
                finite = np.isfinite(wide)
                width = [wide * sigma, wide * everywhere] if finite else [None, None]
                here[method] = [[float((z <= r).mean()) for r in reach], *width]
            out[name] = dict(points=len(points.error), **here)
        return out

    def place(self, floor, smear):
        "Where a pair stands in the table of widths"
        from calibrain.calibration.conformal import FLOORS, SMEARS

        return FLOORS.index(floor), SMEARS.index(smear)


def measured(trained, tests):
    "The figures of one solver"
    names = [n for n in trained.plain.chosen if any(n in test for test in tests)]
    chosen = {name: trained.plain.chosen[name] for name in names}
    reaches = {name: trained.maps[name].reaches[name][1] for name in names if name in trained.maps}
    return dict(strata=names, chosen=chosen, reaches=reaches, tests=tests)


def line(name, method, tests):
    "A row: coverage at 0.9 with its band, mean deviation over levels, widths"
    rows = [test[name] for test in tests if name in test]
    curve = np.mean([row[method][0] for row in rows], axis=0)
    at = [row[method][0][int(np.flatnonzero(LEVELS == AT)[0])] for row in rows]
    deviation = np.abs(curve - LEVELS).mean()
    widths = [[row[method][i] for row in rows] for i in (1, 2)]
    told = ["infinite" if None in w else f"{np.mean(w):.3g}" for w in widths]
    kept = band(at, np.random.default_rng(0))
    return f"| {name} | {method} | {kept} | {deviation:.3f} | {told[0]} | {told[1]} |"


def document(found):
    "The figures as a page"
    n = found["runs"]
    parts = [
        "# Error bars before and after calibration\n\n"
        f"Made by `python -m benchmarks.calibration`. Template head, EEG, alpha {found['alpha']}: "
        f"{n[0]} runs choose floor and smear, {n[1]} train, {n[2]} test. Coverage at 0.9 with its "
        "95 % bootstrap band over test runs, mean absolute deviation over 12 levels, mean widths "
        "at 0.9 in nAm on the points of the stratum and over all sources. Every point counts and "
        "every run weighs the same."
    ]
    head = (
        "| stratum | method | at 0.9 | deviation | width | width, all |\n|---|---|---|---|---|---|"
    )
    for solver, of in found["solvers"].items():
        lines = [line(name, m, of["tests"]) for name in of["strata"] for m in METHODS]
        told = "; ".join(f"{n} {f:g}, {h:g}" for n, (f, h) in of["chosen"].items())
        parts.append(f"## {solver}\n\nChosen f and h²: {told}.\n\n{head}\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs=3, default=(15, 25, 25))
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--solvers", nargs="+", default=["gamma_map", "spike_slab"])
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args(args)
    warnings.simplefilter("ignore")
    from calibrain import gamma_map, spike_slab, template_leadfield

    lf = template_leadfield("eeg", 1284, "fixed", progress=False)
    L = lf.matrix()
    solvers = {
        "gamma_map": lambda y, v: gamma_map(L, y, v, update_mode="fast"),
        "spike_slab": lambda y, v: spike_slab(L, y, v),
    }
    trained = {name: Trained(L, solvers[name]) for name in given.solvers}
    tests = {name: [] for name in trained}
    until_train = given.runs[0]
    until_test = until_train + given.runs[1]
    for seed in range(sum(given.runs)):
        if seed == until_test:
            for of in trained.values():
                of.fit()
        x, _, y, noise_var = simulated(lf, given.alpha, seed)
        for name, of in trained.items():
            run = (x, of.solve(y, noise_var), noise_var)
            if seed < until_train:
                of.tune(*run)
            elif seed < until_test:
                of.train(*run)
            else:
                tests[name].append(of.test(*run))
        print(seed, flush=True)
    found = dict(
        runs=list(given.runs),
        alpha=given.alpha,
        solvers={name: measured(of, tests[name]) for name, of in trained.items()},
    )
    (given.out / "calibration.json").write_text(json.dumps(found))
    page = document(json.loads((given.out / "calibration.json").read_text(encoding="utf-8")))
    (given.out / "calibration.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
