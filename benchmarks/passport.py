"""Passports of template heads: every solver before and after calibration, and where it ends.

`python -m benchmarks.passport eeg`, from the root of the repository; the settings are those of
SETTINGS. 1,284 fixed sources, five of them on at alpha 0.5, noise as given, 50 training and 50
test runs without an error of the head. `--transfer` applies passports of right and of
wrong heads to runs of other kinds, and counts the alarms of the shift check. Writes
passport-SETTING.json beside this file, and passport.md from all of these.
"""

import argparse
import json
import os
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

HERE = Path(__file__).resolve().parent
LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SOLVERS = (
    *("spike_slab", "gamma_map", "gamma_map_sflex"),
    *("gamma_lambda_map", "gamma_lambda_map_sflex", "BMN", "BMN_joint"),
)
SETTINGS = dict(eeg=("eeg", "fixed"), grad=("grad", "fixed"), eeg3=("eeg", "free"))
USUAL = dict(nnz=5, alpha_SNR=0.5, patches=0)
WRONG = ("none", "moderate", "large")  # Heads that passports are made with
FAST = {name: dict(update_mode="fast") for name in SOLVERS if name.startswith("gamma")}


def leadfield(setting):
    "The template's leadfield of a setting"
    from calibrain import template_leadfield

    kind, orientation = SETTINGS[setting]
    return template_leadfield(kind, 1284, orientation, progress=False)


def matched(setting, solvers, runs, jobs):
    "The tables of all solvers, and what else is found"
    from calibrain import calibrate

    passport = calibrate(
        leadfield(setting),
        1.0,
        solver=list(solvers),
        n_train=runs[0],
        n_test=runs[1],
        scenario=USUAL,
        mismatch="none",
        levels=LEVELS,
        n_jobs=jobs,
        solver_params={name: FAST[name] for name in solvers if name in FAST},
    )
    found = {}
    for name in solvers:
        reach = {s: m.highest for s, m in passport.maps[name].items()}
        rows = passport.rows_of(name)
        said = [passport.forecasts(name, calibrated) for calibrated in (False, True)]
        found[name] = dict(rows=rows, reach=reach, summary=passport.summary(name), forecasts=said)
    return dict(runs=list(passport.n_runs), recommended=passport.recommended, solvers=found)


def heads(lf):
    "Heads that data are simulated with, by name: their leadfields"
    from calibrain import other_conductor, rotated_normals

    conductor = "sphere" if "bem" in lf.origin else "bem"
    return {
        "matched": None,
        "normals turned by 10°": rotated_normals(lf, 10, 5).leadfield().matrix(),
        "normals turned by 20°": rotated_normals(lf, 20, 5).leadfield().matrix(),
        "other conductor": other_conductor(lf, conductor).leadfield().matrix(),
    }


def known_heads(lf):
    "Other heads, which the solver knows as such: is what was learned on one true on another?"
    from calibrain import Leadfield, moved_sensors

    moved = moved_sensors(lf, turn=(5, 5, 0), shift=(0, 0.005, 0.005))
    yield "sensors moved by 7 mm and 7°", moved.leadfield()
    half = slice(None, None, 2)
    yield "every second sensor", Leadfield(lf.data[half], lf.coords, lf.normals, lf.unit)
    half = slice(0, None, 2)
    yield (
        "every second source",
        Leadfield(lf.data[:, half], lf.coords[half], lf.normals[half], lf.unit),
    )


def others(lf):
    "Test runs of other kinds: a name, what is drawn, the solver's head, and the true leadfield"
    for name, L in heads(lf).items():
        yield name, USUAL, lf, L
    for name, other in known_heads(lf):
        yield name, USUAL, other, None
    for alpha in (0.1, 0.3, 0.75):
        yield f"alpha {alpha:g}", USUAL | dict(alpha_SNR=alpha), lf, None
    for nnz in (1, 2, 10, 20):
        yield f"{nnz} active", USUAL | dict(nnz=nnz), lf, None


def transferred(setting, runs, n_test, jobs):
    "Coverage of runs of other kinds, by passports of right and of moderately wrong heads"
    from joblib import Parallel, delayed

    from calibrain import calibrate

    lf = leadfield(setting)
    said = dict(n_train=runs, n_test=25, scenario=USUAL, levels=(0.9,), n_jobs=jobs)
    passports = {m: calibrate(lf, 1.0, mismatch=m, **said) for m in WRONG}
    found = {}
    for name, drawn, head, L in others(lf):
        pool = Parallel(n_jobs=jobs)
        each = pool(delayed(_one)(head, drawn, L, seed, passports) for seed in range(n_test))
        found[name] = each
        print(name, flush=True)
    return found


def _one(lf, drawn, L, seed, passports):
    "One test run: coverage before and after, and whether the shift check says something"
    warnings.simplefilter("ignore")
    from calibrain.passport.runs import one_run
    from calibrain.passport.scenario import Scenario
    from calibrain.passport.scene import array_scene
    from calibrain.solvers.bind import bind

    scene = array_scene(lf, 1.0)
    truth = Scenario(**drawn).draw(scene, (17, seed), L)
    bound = {"spike_slab": bind("spike_slab").told(1, lf.coords)}
    judged = one_run(truth, scene, bound, "given", (0.9,))["spike_slab"]
    curve = judged.curve
    out = {}
    for mismatch, passport in passports.items():
        held = {}
        for stratum in ("active", "on", "claims"):
            i = curve.strata.index(stratum)
            asked = passport.maps["spike_slab"][stratum].levels(np.array([0.9, 0.9]))[0]
            counts = [np.interp(a, curve.nominal, curve.counts[0, i]) for a in (0.9, asked)]
            held[stratum] = [*map(float, counts), int(curve.totals[0, i])]
        held["other"] = bool(passport.shift(judged.features).is_other)
        out[mismatch] = held
    return out


def mad(rows, stratum, when):
    "Mean absolute deviation over levels that finite intervals reach"
    mine = [r for r in rows if r["stratum"] == stratum and np.isfinite(r["width_after"])]
    return float(np.mean([abs(r[when] - r["level"]) for r in mine])) if mine else float("nan")


def matched_table(found):
    "A row for each solver and stratum"
    head = (
        "| solver | stratum | reach | at 0.9 before | after | deviation before | after "
        "| width before | after | oracle |\n" + "|---" * 10 + "|"
    )
    lines = []
    for solver, of in found["solvers"].items():
        for row in of["rows"]:
            if row["level"] != 0.9:
                continue
            s = row["stratum"]
            after = f"{row['after']:.3f} [{row['after_low']:.3f}, {row['after_high']:.3f}]"
            if not np.isfinite(row["width_after"]):
                after = "infinite"
            widths = [row[f"width_{w}"] for w in ("before", "after", "oracle")]
            told = ["–" if np.isnan(w) else f"{w:.3g}" for w in widths]
            off = [f"{mad(of['rows'], s, when):.3f}" for when in ("before", "after")]
            lines.append(
                f"| {solver} | {s} | {of['reach'][s]:.3f} | {row['before']:.3f} | {after} "
                f"| {off[0]} | {off[1]} | {' | '.join(told)} |"
            )
    return head + "\n" + "\n".join(lines)


def forecast_table(found):
    "A row for each solver and class of probabilities to exceed a value"
    head = (
        "| solver | class | before: points | said | came true "
        "| after: points | said | came true |\n" + "|---" * 8 + "|"
    )
    lines = []
    for solver, of in found["solvers"].items():
        for before, after in zip(*of["forecasts"]):
            figures = []
            for row in (before, after):
                shares = (row["forecast"], row["share"])
                said = ["–" if np.isnan(share) else f"{share:.3f}" for share in shares]
                figures += [f"{row['points']:,}", *said]
            ends = f"{before['low']:g} to {before['high']:g}"
            lines.append(f"| {solver} | {ends} | {' | '.join(figures)} |")
    return head + "\n" + "\n".join(lines)


def transfer_table(found):
    "A row for each kind of test runs"
    head = (
        "| test runs | passport of | active before | after | on | claims before | after "
        "| alarms | alarms where active < .8 |\n" + "|---" * 9 + "|"
    )
    lines = []
    for name, each in found.items():
        for mismatch in each[0]:
            mine = [one[mismatch] for one in each]

            def share(stratum, when, mine=mine):
                held = sum(one[stratum][when] for one in mine)
                return held / max(sum(one[stratum][2] for one in mine), 1)

            poor = [one["other"] for one in mine if one["active"][1] < 0.8 * one["active"][2]]
            lines.append(
                f"| {name} | {mismatch} | {share('active', 0):.3f} | {share('active', 1):.3f} "
                f"| {share('on', 1):.3f} | {share('claims', 0):.3f} | {share('claims', 1):.3f} "
                f"| {np.mean([one['other'] for one in mine]):.2f} "
                f"| {sum(poor)} of {len(poor)} |"
            )
    return head + "\n" + "\n".join(lines)


def document():
    "All that was measured, as a page"
    parts = [
        "# Passports of template heads\n\nMade by `python -m benchmarks.passport SETTING`. 1,284 "
        "sources, five of them active at alpha 0.5, noise as given. Every point counts. Reach is "
        "the highest coverage of finite training sets; where 0.9 is beyond it the calibrated "
        "interval is infinite. Deviations are means over the levels .05 to .95 that can be "
        "reached, widths are in nAm."
    ]
    for path in sorted(HERE.glob("passport-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        name = path.stem.removeprefix("passport-")
        if name.startswith("transfer"):
            parts.append(f"## {name}\n\n{transfer_table(found)}")
        else:
            train, test = found["runs"]
            said = f"{train} training and {test} test runs; recommended: {found['recommended']}."
            parts.append(f"## {name}\n\n{said}\n\n{matched_table(found)}")
            told = "Probabilities to exceed a value, before and after calibration, by class:"
            parts.append(f"{told}\n\n{forecast_table(found)}")
    return "\n\n".join(parts) + "\n"


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("setting", choices=[*SETTINGS, "table"])
    parser.add_argument("--transfer", action="store_true")
    parser.add_argument("--runs", type=int, nargs=2, default=(50, 50))
    parser.add_argument("--solvers", nargs="+", default=SOLVERS)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args(args)
    warnings.simplefilter("ignore")
    if given.setting != "table":
        if given.transfer:
            name = f"passport-transfer-{given.setting}.json"
            found = transferred(given.setting, *given.runs, given.jobs)
        else:
            name = f"passport-{given.setting}.json"
            found = matched(given.setting, given.solvers, given.runs, given.jobs)
        (HERE / name).write_text(json.dumps(found))
    (HERE / "passport.md").write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
