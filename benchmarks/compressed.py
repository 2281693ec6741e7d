"""Variances from a few time components against variances from all samples, for six solvers.

`python -m benchmarks.compressed eeg --runs 24`, from the root of the repository; the settings are
those of HEADS. A template head with 1,284 sources, five of them on, the default simulators. Noise
is the oracle's where a solver takes it as given. Every point counts. `python -m benchmarks.compressed
recording` runs the recording of the project's tests, where it lies beside the repository. Writes
compressed-WHAT.json beside this file, and compressed.md from all of these.
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from time import process_time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from .full_bayes import LEVELS, band, judged, share, simulated

HERE = Path(__file__).resolve().parent
HEADS = {  # sensors, and alpha_SNR
    "eeg": ("eeg", 0.5),
    "eeg-weak": ("eeg", 0.25),
    "grad": ("grad", 0.5),
}
NAMES = (
    "gamma_map",
    "gamma_map_sflex",
    "gamma_lambda_map",
    "gamma_lambda_map_sflex",
    "BMN",
    "BMN_joint",
)
WAYS = {"all samples": None, "auto": "auto"}
WAYS_OF_RECORDING = WAYS | {"two": 2}  # as many as are left of it where time is whitened
CONDITIONS = ("Right Auditory", "Left visual", "Right visual")
WINDOW = (0.05, 0.15)  # s


def said(name, noise_var, coords):
    "Arguments of a solver"
    from calibrain.solvers.registry import SOLVERS

    takes = SOLVERS[name].takes()
    params = {} if SOLVERS[name].learns_noise else dict(noise_var=noise_var)
    if "update_mode" in takes:
        params["update_mode"] = "fast"
    if "src_coords" in takes:
        params["src_coords"] = coords
    return params


def one_run(lf, prepared, alpha, seed):
    "Every solver both ways on one recording"
    from calibrain.solvers.registry import SOLVERS

    x, active, y, noise_var = simulated(lf, alpha, seed)
    out = {}
    for name in NAMES:
        for way, n_components in WAYS.items():
            start = process_time()
            params = said(name, noise_var, lf.coords)
            result = SOLVERS[name].function(prepared, y, n_components=n_components, **params)
            counts = judged(x, active, result.mean, result.std, 1)
            counts["seconds"] = process_time() - start
            counts["noise"] = result.noise_var / noise_var
            counts["n_components"] = result["n_components"] if n_components else y.shape[1]
            out[f"{name}, {way}"] = counts
    return out


def table(runs):
    "One row for each solver and way"
    head = (
        "| solver | MAD | active at .9 | on at .9 | CRPS active, nAm | width at .9, nAm "
        "| claims at silent sources | noise / true | s (CPU) |"
    )
    rows = [head, "|---" * 9 + "|"]
    for name in runs[0]:
        rng = np.random.default_rng(0)
        mine = [run[name] for run in runs]
        coverage = np.array([run["active"] for run in mine])
        mad = np.abs(coverage.mean(0) - LEVELS).mean()
        claims = np.array([run["claims"] for run in mine])
        cells = [
            f"{mad:.3f}",
            band(coverage[:, 9], rng),
            band([run["on"] for run in mine], rng, share),
            band([run["crps"] for run in mine], rng),
            f"{np.mean([run['width'] for run in mine]):.2f}",
            f"{share(claims):.2f} of {claims[:, 1].sum() / len(runs):.0f} a run",
            f"{np.mean([run['noise'] for run in mine]):.3f}",
            f"{np.mean([run['seconds'] for run in mine]):.2f}",
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    counts = [run["gamma_map, auto"]["n_components"] for run in runs]
    rows.append(f"\n{len(runs)} runs; components on the mean {np.mean(counts):.1f}.")
    return "\n".join(rows)


# ---- the recording


def strength(rows):
    "Length of each source at each sample"
    return np.sqrt((rows.reshape(-1, 3, rows.shape[1]) ** 2).sum(1))


def dspm_peak(evoked, fwd, cov):
    "Where MNE's dSPM is largest, m"
    from mne.minimum_norm import apply_inverse, make_inverse_operator

    evoked = evoked.copy().pick("meg", exclude="bads")
    inverse = make_inverse_operator(evoked.info, fwd, cov, loose=1.0, depth=0.8, verbose="ERROR")
    found = apply_inverse(evoked.crop(*WINDOW), inverse, 1 / 9, "dSPM", verbose="ERROR")
    return fwd["source_rr"][found.data.max(1).argmax()]


def one_estimate(evoked, fwd, cov, name, n_components, peak):
    "Fit, and how far from the yardstick"
    from calibrain import estimate_evoked
    from calibrain.solvers.registry import SOLVERS

    start = process_time()
    est = estimate_evoked(
        evoked,
        fwd,
        cov,
        name,
        noise="learn" if SOLVERS[name].learns_noise else "given",
        tmin=WINDOW[0],
        tmax=WINDOW[1],
        picks="meg",
        orientation="free",
        solver_params=dict(n_components=n_components),
        progress=False,
    )
    seconds = process_time() - start
    p = est.result.posterior
    a = strength(p.mean)
    top = a.max(1).argsort()[::-1][:10]
    away = np.linalg.norm(est.coords - peak, axis=1)
    energy = (a**2).sum(1) / (a**2).sum()
    right = energy[est.coords[:, 0] > 0].sum()
    figures = dict(
        residual=est.power["residual"],
        expected=est.power["expected_residual"],
        noise=est.nave * est.result.noise_var,
        strongest=1e3 * away[top[0]],
        nearest=1e3 * away[top].min(),
        within=energy[away < 0.03].sum(),
        right=right,
        width=np.median(strength(p.std[:, None])[top, 0]),
        n_components=est.result["n_components"] if n_components else 0,
        seconds=seconds,
    )
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def recording(conditions=CONDITIONS):
    "Every solver every way on some conditions"
    sys.path.insert(0, str(HERE.parent / "tests"))
    from realdata import covariance, evoked, forward

    fwd, cov = forward("meg"), covariance()
    out = {}
    for condition in conditions:
        peak = dspm_peak(evoked(condition), fwd, cov)
        out[condition] = {
            f"{name}, {way}": one_estimate(evoked(condition), fwd, cov, name, n, peak)
            for name in NAMES
            for way, n in WAYS_OF_RECORDING.items()
        }
        print(condition, flush=True)
    return out


def table_of_recording(found):
    "One table for each condition"
    parts = []
    for condition, rows in found.items():
        lines = [
            f"### {condition}",
            "",
            "| solver | residual | expected | noise | strongest source to dSPM's peak, mm "
            "| nearest of ten, mm | energy within 30 mm | energy on the right | std of the ten, nAm "
            "| components | s (CPU) |",
            "|---" * 11 + "|",
        ]
        for name, r in rows.items():
            lines.append(
                f"| {name} | {r['residual']:.2f} | {r['expected']:.2f} | {r['noise']:.2f} "
                f"| {r['strongest']:.0f} | {r['nearest']:.0f} | {r['within']:.2f} "
                f"| {r['right']:.2f} | {r['width']:.1f} | {int(r['n_components']) or 'all'} "
                f"| {r['seconds']:.1f} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def document(folder=HERE):
    "All that was measured, as a page"
    parts = [
        "# Variances from a few time components\n\nMade by `python -m benchmarks.compressed`; "
        '`n_components=None` (all samples) against `n_components="auto"`.'
    ]
    for head in HEADS:
        file = folder / f"compressed-{head}.json"
        if file.exists():
            runs = json.loads(file.read_text(encoding="utf-8"))
            parts.append(f"## {head}, alpha {HEADS[head][1]}\n\n{table(runs)}")
    file = folder / "compressed-recording.json"
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        intro = (
            "MEG, free orientation, 50 to 150 ms; residuals and noise in multiples of the noise of "
            "one epoch; the strongest sources are those of largest amplitude in the window."
        )
        parts.append(f"## A recording\n\n{intro}\n\n{table_of_recording(found)}")
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=(*HEADS, "recording"))
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--first", type=int, default=1000, help="first seed")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    file = given.out / f"compressed-{given.what}.json"
    if given.what == "recording":
        file.write_text(json.dumps(recording(), indent=1) + "\n", encoding="utf-8")
    else:
        from calibrain import template_leadfield
        from calibrain.head.prepared import prepare

        sensors, alpha = HEADS[given.what]
        lf = template_leadfield(sensors, 1284, "fixed", progress=False)
        prepared = prepare(lf)
        runs = []
        for seed in range(given.first, given.first + given.runs):
            runs.append(one_run(lf, prepared, alpha, seed))
            file.write_text(json.dumps(runs), encoding="utf-8")
            print(seed, flush=True)
    (given.out / "compressed.md").write_text(document(given.out), encoding="utf-8")


if __name__ == "__main__":
    main()
