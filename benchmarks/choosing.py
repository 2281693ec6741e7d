"""Which solver for which recording? All registered solvers on the same recordings, by every figure.

`python -m benchmarks.choosing`, from the root of the repository; `--add` for those that are not yet
in `benchmarks/choosing.json`. Simulated: EEG (biosemi64) on the average head, 1,284 fixed sources.
Three of them (`points`) or three Gaussian patches of 10, 20 or 30 mm (`patches`) respond with 10 to
40 nAm each, with white noise whose power is that of the signal times (1 − α)/α, α = .3, .5, .7 (the
share of the signal by standard deviation). Solvers that take the noise are told it. Figures are
means over runs; *on* is where a source exceeds a tenth of the largest amplitude.

Real: the tone of tutorial 08 where the recording is at hand, 306 coils, loose orientation.
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

OUT = Path(__file__).with_suffix(".json")
ALPHAS = (0.3, 0.5, 0.7)
KINDS = ("points", "patches")
WIDTHS = (0.01, 0.02, 0.03)  # m
N_TIMES = 60
LEVEL = 0.9
N_GROUPS = 4
MORE = {  # Parameters beside the defaults
    "gamma_map": dict(update_mode="fast"),
    "gamma_map_sflex": dict(update_mode="fast"),
    "gamma_lambda_map": dict(update_mode="fast"),
    "gamma_lambda_map_sflex": dict(update_mode="fast"),
    "spike_slab": dict(patches=[0.0, *WIDTHS]),
}


def solvers():
    "Every registered solver, and how it is told the noise"
    from calibrain.solvers.registry import SAMPLERS, SOLVERS

    return {**SOLVERS, **SAMPLERS}


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
    peaks = rng.uniform(20, 40, (3, 1))
    waves = np.exp(-(((np.arange(N_TIMES) - peaks) / 7) ** 2) / 2)
    sizes = rng.uniform(10, 40, (3, 1)) * rng.choice([-1, 1], (3, 1))
    return weights.T @ (sizes * waves)


def simulate(lf, run, kind, alpha):
    "True sources, the recording, and the variance of its noise"
    rng = np.random.default_rng([run, KINDS.index(kind), round(10 * alpha)])
    x = activity(lf, rng, kind)
    signal = lf.matrix() @ x
    noise_var = float(signal.var() * ((1 - alpha) / alpha) ** 2)
    return x, signal + np.sqrt(noise_var) * rng.normal(size=signal.shape), noise_var


def groups_of(n_sensors):
    "Every fourth sensor, in four ways"
    return [np.arange(first, n_sensors, N_GROUPS) for first in range(N_GROUPS)]


def coverage(x, result):
    "Share of truths within their 90 % interval where something is on, and where nothing is"
    from scipy.special import ndtri

    half = ndtri(0.5 + LEVEL / 2) * np.broadcast_to(
        result.std if result.std.ndim == 2 else result.std[:, None], x.shape
    )
    within = np.abs(x - result.mean) <= half * (1 + 1e-12)
    on = np.abs(x) > 0.1 * np.abs(x).max()
    silent = ~(x != 0).any(axis=1)
    left_zero = (np.abs(result.mean) > half) & (half > 0)
    return (
        on,
        dict(
            on=within[on].mean(),
            silent=within[silent].mean(),
            width_on=2 * half[on].mean(),
            claims=int(left_zero.any(axis=1).sum()),
        ),
        left_zero.any(axis=1),
    )


def claims_that_are_right(lf, x, claimed):
    "Share of the sources that are said to differ from zero with one that does within 10 mm"
    if not claimed.any():
        return np.nan
    active = (np.abs(x) > 0.1 * np.abs(x).max()).any(axis=1)
    far = cKDTree(lf.coords[active]).query(lf.coords[claimed])[0]
    return float((far <= 0.01).mean())


def judged(lf, x, result):
    "Figures of one answer"
    from calibrain.evaluation.evaluate import evaluate

    record = evaluate(x, result, lf, with_emd=True, with_energy=False)
    _, figures, claimed = coverage(x, result)
    names = ("localisation_error", "emd", "crps", "crps_active")
    out = {name: record[name] for name in names} | figures
    return out | dict(right=claims_that_are_right(lf, x, claimed))


def answer(name, lf, y, noise_var):
    "What a solver says, with its time and its scores of left-out sensors"
    from calibrain import SourceEstimator
    from calibrain.solvers.bind import bind
    from calibrain.solvers.left_out_sensors import sensor_group_scores

    solver = solvers()[name]
    told = None if solver.learns_noise and not solver.samples else noise_var
    start = time.perf_counter()
    estimator = SourceEstimator(name, MORE.get(name), noise_var=told)
    result = estimator.fit(lf, y).predict()
    seconds = time.perf_counter() - start
    bound = bind(name, MORE.get(name))
    scores = sensor_group_scores(bound, lf, y, told, groups_of(len(y)))
    return result, seconds, scores


def one_run(lf, run, kind, alpha, names):
    "Every solver on one recording"
    from calibrain import compare

    x, y, noise_var = simulate(lf, run, kind, alpha)
    answers = {name: answer(name, lf, y, noise_var) for name in names}
    results = {name: result for name, (result, _, _) in answers.items()}
    c = compare(results, {name: scores for name, (_, _, scores) in answers.items()})
    rows = []
    for row in c.rows:
        name = row["solver"]
        result, seconds, _ = answers[name]
        of_evidence = ("corrected", "difference", "probability", "score", "stacking weight")
        rows.append(
            dict(solver=name, kind=kind, alpha=alpha, run=run, seconds=seconds)
            | {column: row[column] for column in of_evidence}
            | judged(lf, x, result)
            | dict(noise=result.noise_var / noise_var)
        )
    return rows


def summary(rows):
    "Means over runs"
    keys = sorted({(r["kind"], r["alpha"], r["solver"]) for r in rows})
    out = []
    for kind, alpha, solver in keys:
        mine = [r for r in rows if (r["kind"], r["alpha"], r["solver"]) == (kind, alpha, solver)]
        line = dict(kind=kind, alpha=alpha, solver=solver, n_runs=len(mine))
        for column in mine[0]:
            if column not in (*line, "run"):
                values = np.array([r[column] for r in mine], float)
                known = values[np.isfinite(values)]
                line[column] = float(f"{known.mean():.4g}") if len(known) else None
        seconds = [r["seconds"] for r in mine]
        out.append(line | dict(seconds=float(f"{np.median(seconds):.3g}")))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--solvers", nargs="*", help="some of them, to try")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    lf = head()
    rows = []
    for kind in KINDS:
        for alpha in ALPHAS:
            for run in range(args.runs):
                rows += one_run(lf, run, kind, alpha, args.solvers or list(solvers()))
                print(kind, alpha, run, flush=True)
            args.out.write_text(json.dumps(dict(simulated=summary(rows)), indent=1) + "\n")


if __name__ == "__main__":
    main()
