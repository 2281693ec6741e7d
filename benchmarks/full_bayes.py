"""Error bars of full Bayes and of evidence maximisation on the same simulated recordings.

`python -m benchmarks.full_bayes eeg --runs 60`, from the root of the repository; the settings are
those of SETTINGS. Template heads, 1,284 sources, five of them on, the default simulators, oracle
noise. Every point counts: pointwise intervals at 0.9, bands by bootstrap over runs. Writes
full_bayes-SETTING.json beside this file after each run, and full_bayes.md from all of these.
"""

import argparse
import json
import os
import warnings
from functools import partial
from pathlib import Path
from time import process_time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from scipy.special import erf, ndtri

HERE = Path(__file__).resolve().parent
LEVELS = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
SETTINGS = {  # sensors, orientation, alpha_SNR
    "eeg": ("eeg", "fixed", 0.5),
    "grad": ("grad", "fixed", 0.5),
    "grad2": ("grad", "meg2", 0.5),
    "eeg3": ("eeg", "free", 0.75),
    "eeg3-half": ("eeg", "free", 0.5),
}


def simulated(lf, alpha, seed):
    "Truth (K, T), active sources, recording, and the variance of its noise"
    from calibrain import SensorSimulator, SourceSimulator

    kind = "fixed" if lf.n_orient == 1 else "free"
    coil = {1: 1, 2: 3012, 3: 1}[lf.n_orient]  # EEG, or a planar gradiometer of VectorView
    x, active = SourceSimulator().simulate(lf.n_sources, 5, kind, coil, seed)
    _, y, noise, _ = SensorSimulator().simulate(x, lf, alpha, seed=seed)
    return x.reshape(lf.n_sources * lf.n_orient, -1), active, y, float(noise.var())


def crps(error, std):
    "Continuous ranked probability score of Gaussians"
    safe = np.where(std > 0, std, 1)
    z = np.where(std > 0, np.abs(error) / safe, 0)
    gaussian = std * (z * erf(z / np.sqrt(2)) + np.sqrt(2 / np.pi) * np.exp(-z * z / 2))
    return np.where(std > 0, gaussian - std / np.sqrt(np.pi), np.abs(error))


def judged(x, active, mean, std, k):
    "Counts of one run"
    rows = (np.sort(active)[:, None] * k + np.arange(k)).ravel()
    std = np.broadcast_to(std if std.ndim == 2 else std[:, None], mean.shape)
    error = np.abs(x - mean)
    within = error[rows] <= ndtri((1 + LEVELS) / 2)[:, None, None] * std[rows]
    on = x[rows] != 0
    claims = np.abs(mean) > 1.96 * std
    silent = np.ones(len(x), bool)
    silent[rows] = False
    score = crps(error[rows], std[rows])
    return dict(
        active=within.mean((1, 2)).tolist(),
        on=[int((within[9] & on).sum()), int(on.sum())],
        claims=[int(claims[silent].sum()), int(claims.sum())],
        claims_held=[int((claims & (error <= ndtri(0.95) * std)).sum()), int(claims.sum())],
        crps=float(score.mean()),
        width=float(2 * ndtri(0.95) * std[rows].mean()),
    )


def measured(solve, x, active, k):
    "What a solver, called without arguments, says of a truth, and how long it takes"
    start = process_time()
    result = solve()
    mean, std = result.posterior.mean, result.posterior.std
    seconds = process_time() - start
    out = judged(x, active, mean, std, k) | dict(seconds=seconds)
    if "inclusion" in result:
        P = result["inclusion"]
        sure = np.repeat(P > 0.5, k)
        held = np.abs(x - mean)[sure] <= ndtri(0.95) * std[sure]
        out |= dict(
            sure=[int(held.sum()), held.size],
            converged=bool(result.converged),
            delta=float(result["delta_inclusion"]),
            reduction=float(result["reduction_count"]),
            found=[int((P[active] > 0.5).sum()), len(active)],
            n_components=int(result["n_components"]),
            factor=float(np.mean(result["noise_factor"])),
        )
    return out


def one_run(lf, alpha, seed, solvers):
    "Every solver on one recording"
    x, active, y, noise_var = simulated(lf, alpha, seed)
    L, k = lf.matrix(), lf.n_orient
    given = (L, y, noise_var, k)
    return {name: measured(partial(f, *given), x, active, k) for name, f in solvers.items()}


def band(values, rng, of=np.mean):
    "A figure over runs, with its bootstrap band"
    values = np.asarray(values, float)
    draws = [of(values[rng.integers(len(values), size=len(values))]) for _ in range(400)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{of(values):.3f} [{low:.3f}, {high:.3f}]"


def share(pairs):
    "Hits of all runs by cases of all runs"
    return pairs[:, 0].sum() / max(pairs[:, 1].sum(), 1)


def table(runs):
    "What is to be read, as text"
    lines = []
    for name in runs[0]:
        rng = np.random.default_rng(0)
        mine = [run[name] for run in runs]

        def column(key, mine=mine):
            return [run[key] for run in mine]

        coverage = np.array(column("active"))
        mad = np.abs(coverage.mean(0) - LEVELS).mean()
        lines += [
            f"{name}, {len(runs)} runs",
            f"  active .9           {band(coverage[:, 9], rng)}   MAD {mad:.3f}",
            f"  on .9               {band(column('on'), rng, share)}",
            f"  claims at silent    {band(column('claims'), rng, share)}",
            f"  coverage of claims  {band(column('claims_held'), rng, share)}",
            f"  CRPS active         {band(column('crps'), rng)}",
            f"  width .9 active     {band(column('width'), rng)}",
            f"  seconds (CPU)       {band(column('seconds'), rng)}",
        ]
        if "delta" in mine[0]:
            delta = np.array(column("delta"))
            lines += [
                f"  converged           {np.mean(column('converged')):.2f}",
                f"  |ΔP| median {np.median(delta):.3f}, above .3 in {(delta > 0.3).mean():.2f}",
                f"  found (P > .5)      {share(np.array(column('found'))):.3f}",
                f"  noise factor        {band(column('factor'), rng)}",
            ]
        if "sure" in mine[0]:  # files of before it was counted lack it
            lines.append(f"  sources with P > .5 {band(column('sure'), rng, share)}")
    if len(runs[0]) > 1:
        names = [*runs[0]]
        ratio = [run[names[-1]]["crps"] / run[names[0]]["crps"] for run in runs]
        of_means = np.mean([run[names[-1]]["crps"] for run in runs]) / np.mean(
            [run[names[0]]["crps"] for run in runs]
        )
        lines.append(f"CRPS ratio {of_means:.3f} (mean of ratios {np.mean(ratio):.3f})")
    return "\n".join(lines)


def document(folder=HERE):
    "The tables of all settings that were measured, as a page"
    parts = [
        "# Full Bayes against evidence maximisation\n\nMade by `python -m benchmarks.full_bayes`."
    ]
    for setting in SETTINGS:
        file = folder / f"full_bayes-{setting}.json"
        if file.exists():
            runs = json.loads(file.read_text(encoding="utf-8"))
            parts.append(f"## {setting}\n\n```\n{table(runs)}\n```")
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    from calibrain import gamma_map, template_leadfield
    from calibrain.solvers.spike_slab import spike_slab

    sensors, orientation, alpha = SETTINGS[given.setting]
    lf = template_leadfield(sensors, 1284, orientation, progress=False)
    solvers = {
        "gamma_map": lambda L, y, v, k: gamma_map(L, y, v, k, update_mode="fast"),
        "spike_slab": spike_slab,
    }
    out = given.out or HERE / f"full_bayes-{given.setting}.json"
    runs = []
    for seed in range(given.first, given.first + given.runs):
        runs.append(one_run(lf, alpha, seed, solvers))
        out.write_text(json.dumps(runs))
        said = [f"{n} {r['active'][9]:.2f} in {r['seconds']:.2f} s" for n, r in runs[-1].items()]
        print(seed, *said, flush=True)
    if given.out is None:
        (HERE / "full_bayes.md").write_text(document(), encoding="utf-8")
    print(table(runs))


if __name__ == "__main__":
    main()
