"""Which solver for which recording? All registered solvers on the same recordings, by every figure.

`python -m benchmarks.choosing`, from the root of the repository. Simulated: EEG (biosemi64) on the
average head, 1,284 fixed sources. Three of them (`points`) or three Gaussian patches of 10, 20 or
30 mm (`patches`) respond with 10 to 40 nAm each, with white noise whose power is that of the signal
times ((1 − α)/α)², α = .3, .5, .7. Solvers that take the noise are told it. Figures are means over
runs; *on* is where a source exceeds a tenth of the largest amplitude. A source is claimed where its
90 % interval leaves zero at some sample, and rightly so where a source within 10 mm exceeds a
hundredth of the largest amplitude.

Real: the tone of tutorial 08 where the recording is at hand, its MEG, with free orientation.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import ndtri

OUT = Path(__file__).with_suffix(".json")
ALPHAS = (0.3, 0.5, 0.7)
KINDS = ("points", "patches")
WIDTHS = (0.01, 0.02, 0.03)  # m
N_TIMES = 200
LEVEL = 0.9
N_GROUPS = 4
FAST = dict(update_mode="fast")
WAYS = {  # Name → solver, its parameters
    "spike_slab": ("spike_slab", dict(patches=[0.0, *WIDTHS])),
    "gamma_map": ("gamma_map", FAST),
    "gamma_map_sflex": ("gamma_map_sflex", FAST),
    "gamma_map_sflex, 3 widths": ("gamma_map_sflex", FAST | dict(sigma=WIDTHS)),
    "gamma_lambda_map": ("gamma_lambda_map", FAST),
    "gamma_lambda_map_sflex": ("gamma_lambda_map_sflex", FAST),
    "champagne, full noise": ("champagne", FAST | dict(learn_noise="full")),
    "BMN": ("BMN", {}),
    "BMN_joint": ("BMN_joint", {}),
    "MNE, λ² = 1/9": ("MNE", dict(lambda2=1 / 9)),
    "dSPM": ("dSPM", {}),
    "sLORETA": ("sLORETA", {}),
    "eLORETA": ("eLORETA", {}),
    "reml, msp": ("reml", dict(components="msp")),
    "reml, smooth": ("reml", dict(components="smooth")),
    "mxne": ("mxne", {}),
    "lcmv": ("lcmv", {}),
}


def head():
    from calibrain import template_leadfield

    return template_leadfield("eeg", 1284, conductor="sphere", progress=False)


def activity(lf, rng, kind):
    "Amplitudes of three responses, nAm"
    centres = rng.choice(lf.n_sources, 3, replace=False)
    weights = np.zeros((3, lf.n_sources))
    for i, (centre, width) in enumerate(zip(centres, rng.choice(WIDTHS, 3))):
        if kind == "points":
            weights[i, centre] = 1
            continue
        d = np.linalg.norm(lf.coords - lf.coords[centre], axis=1)
        bump = np.where(d < 3 * width, np.exp(-((d / width) ** 2) / 2), 0)
        weights[i] = bump / bump.sum()
    peaks = rng.uniform(60, 140, (3, 1))
    waves = np.exp(-(((np.arange(N_TIMES) - peaks) / 20) ** 2) / 2)
    sizes = rng.uniform(10, 40, (3, 1)) * rng.choice([-1, 1], (3, 1))
    return weights.T @ (sizes * waves)


def simulate(lf, run, kind, alpha):
    "True sources, the recording, and the variance of its noise"
    rng = np.random.default_rng([run, KINDS.index(kind), round(10 * alpha)])
    x = activity(lf, rng, kind)
    signal = lf.matrix() @ x
    noise_var = float(signal.var() * ((1 - alpha) / alpha) ** 2)
    return x, signal + np.sqrt(noise_var) * rng.normal(size=signal.shape), noise_var


def of_intervals(lf, x, result):
    "Figures of the 90 % intervals: what they hold, how wide they are, and what they claim"
    std = result.std if result.std.ndim == 2 else result.std[:, None]
    half = ndtri(0.5 + LEVEL / 2) * np.broadcast_to(std, x.shape)
    within = np.abs(x - result.mean) <= half * (1 + 1e-12)
    on = np.abs(x) > 0.1 * np.abs(x).max()
    silent = ~(x != 0).any(axis=1)
    claimed = ((np.abs(result.mean) > half) & (half > 0)).any(axis=1)
    right = np.nan
    if claimed.any():
        there = (np.abs(x) > 0.01 * np.abs(x).max()).any(axis=1)
        far = cKDTree(lf.coords[there]).query(lf.coords[claimed])[0]
        right = float((far <= 0.01).mean())
    return dict(
        on=within[on].mean(),
        silent=within[silent].mean(),
        width_on=2 * half[on].mean(),
        claims=int(claimed.sum()),
        right=right,
    )


def peak_error(lf, x, result):
    "From the strongest source of the map to the nearest that is on, mm"
    a = result.get("standardised_mean", result.mean)
    peak = np.abs(a).max(axis=1).argmax()
    on = (np.abs(x) > 0.1 * np.abs(x).max()).any(axis=1)
    return 1e3 * float(np.linalg.norm(lf.coords[on] - lf.coords[peak], axis=1).min())


def judged(lf, x, result):
    "Figures of one answer"
    from calibrain.evaluation.evaluate import evaluate

    record = evaluate(x, result, lf, with_emd=True, with_energy=False)
    out = dict(peak_error=peak_error(lf, x, result))
    for name in ("localisation_error", "emd", "crps", "crps_active"):
        out[name] = record.get(name, np.nan)
    if np.isfinite(result.std).all():
        out |= of_intervals(lf, x, result)
    return out


def answer(name, lf, y, noise_var):
    "What a solver says, with its time and its scores of left-out sensors"
    from calibrain import SourceEstimator
    from calibrain.solvers.registry import describe

    function, params = WAYS[name]
    solver = describe(function)
    told = None if solver.learns_noise and not solver.samples else noise_var
    estimator = SourceEstimator(function, params, noise_var=told)
    start = time.perf_counter()
    result = estimator.fit(lf, y).predict()
    seconds = time.perf_counter() - start
    scores = estimator.leave_sensors_out(lf, y, N_GROUPS) if solver.posterior else None
    return result, seconds, scores


def one_run(lf, run, kind, alpha, names):
    "Every solver on one recording"
    from calibrain import compare

    x, y, noise_var = simulate(lf, run, kind, alpha)
    answers = {name: answer(name, lf, y, noise_var) for name in names}
    scores = {name: s for name, (_, _, s) in answers.items() if s is not None}
    c = compare({name: answers[name][0] for name in scores}, scores)
    of_choice = {row["solver"]: row for row in c.rows}
    rows = []
    for name, (result, seconds, _) in answers.items():
        told = dict(solver=name, kind=kind, alpha=alpha, run=run, seconds=seconds)
        for column in ("difference", "probability", "score, difference", "stacking weight"):
            told[column] = of_choice.get(name, {}).get(column, np.nan)
        rows.append(told | judged(lf, x, result) | dict(noise=result.noise_var / noise_var))
    return rows


# ---- the recording of tutorial 08


def real_recording():
    "The tone, its head and its noise; `None` where the recording is not beside the project"
    import mne

    here = Path(__file__).resolve().parents[2] / "shared/realdata"
    if not here.exists():
        return None
    ave = here / "test-ave.fif.gz"
    tone = mne.read_evokeds(ave, condition="Right Auditory", baseline=(None, 0), verbose="ERROR")
    tone.info["bads"] = ["MEG 2443", "EEG 053"]
    forward = mne.make_forward_solution(
        tone.info,
        mne.read_trans(here / "sample-trans.fif"),
        mne.read_source_spaces(here / "sample-516-src.fif", verbose="ERROR"),
        here / "sample-1280-bem-sol.fif",
        eeg=False,
        mindist=5,
        verbose="ERROR",
    )
    return tone, forward, mne.read_cov(here / "test-cov.fif", verbose="ERROR")


def left_and_right(e):
    "Share of the energy on the left"
    energy = (e.mean.data**2).reshape(len(e.coords), -1).sum(axis=1)
    return float(energy[: len(e.vertices[0])].sum() / energy.sum())


def on_the_recording(names):
    "Every solver on the real recording"
    from calibrain import compare, estimate_evoked, leave_channels_out
    from calibrain.solvers.registry import describe

    found = real_recording()
    if found is None:
        return []
    estimates, scores, seconds = {}, {}, {}
    for name in names:
        function, params = WAYS[name]
        solver = describe(function)
        if not solver.posterior or name == "champagne, full noise":
            continue  # no error bars; fewer samples than sensors
        params = {k: v for k, v in params.items() if k != "patches"}
        learns = solver.learns_noise and not solver.samples
        said = dict(solver=function, solver_params=params, orientation="free")
        said |= dict(tmin=0.05, tmax=0.15, noise="learn" if learns else "baseline")
        start = time.perf_counter()
        estimates[name] = estimate_evoked(*found, progress=False, **said)
        seconds[name] = time.perf_counter() - start
        scores[name] = leave_channels_out(*found, said, N_GROUPS)
        print(name, f"{seconds[name]:.1f} s", flush=True)
    c = compare(estimates, scores)
    rows = []
    for row in c.rows:
        name = row["solver"]
        peak = estimates[name].peak(LEVEL)
        line = dict(solver=name, seconds=float(f"{seconds[name]:.3g}"))
        for column in ("difference", "probability", "score, difference", "stacking weight"):
            value = float(row[column])
            line[column] = float(f"{value:.4g}") if np.isfinite(value) else None
        place = [round(1e3 * float(v)) for v in peak.position]
        line |= dict(place=place, time=round(1e3 * peak.time), amplitude=round(peak.amplitude, 1))
        line |= dict(low=round(peak.interval[0], 1), high=round(peak.interval[1], 1))
        rows.append(line | dict(left=round(left_and_right(estimates[name]), 2)))
    return rows


def summary(rows):
    "Means over runs"
    keys = sorted({(r["kind"], r["alpha"], r["solver"]) for r in rows})
    out = []
    for kind, alpha, solver in keys:
        mine = [r for r in rows if (r["kind"], r["alpha"], r["solver"]) == (kind, alpha, solver)]
        line = dict(kind=kind, alpha=alpha, solver=solver, n_runs=len(mine))
        for column in {name: 0 for r in mine for name in r}:
            if column not in (*line, "run"):
                values = np.array([r.get(column, np.nan) for r in mine], float)
                known = values[np.isfinite(values)]
                line[column] = float(f"{known.mean():.4g}") if len(known) else None
        seconds = [r["seconds"] for r in mine]
        out.append(line | dict(seconds=float(f"{np.median(seconds):.3g}")))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--solvers", nargs="*", help="some of them, to try")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    names = args.solvers or list(WAYS)
    real = on_the_recording(names)
    lf = head()
    rows = []
    for kind in KINDS:
        for alpha in ALPHAS:
            for run in range(args.runs):
                rows += one_run(lf, run, kind, alpha, names)
                print(kind, alpha, run, flush=True)
            stored = dict(simulated=summary(rows), real=real)
            args.out.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
