"""Simulation-based calibration: is the sampler right when the truth comes from its own prior?

`python -m benchmarks.sbc`, from the root of the repository; `--only`, `--runs` to measure a part.
Places, variances, directions, how many sources are on and the noise factor are drawn from the
sampler's prior, then a recording on three components, on a small random leadfield. If the chain
samples the posterior, then whatever it says has the truth at a rank that is uniform: the number of
sources, and the amplitude of a source, whether the source is likely or not. Two chains of other
seeds differ by no more than their effective sample sizes allow. Writes sbc.json beside this file
after each kind, and sbc.md from it.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from scipy import stats

from calibrain.posterior.mixture import Mixture
from calibrain.solvers.agreement import effective_number
from calibrain.solvers.compressed import Compressed
from calibrain.solvers.given_support import Amplitudes, gaussian_state
from calibrain.solvers.slot_weights import slot_weights, turned
from calibrain.solvers.slots import FACTORS, PRIOR_OFF, Chain, Dual

HERE = Path(__file__).resolve().parent
KINDS = {  # components of a source, orientation, runs
    "one component": (1, "both", 500),
    "two, isotropic or one direction": (2, "both", 400),
    "three, isotropic": (3, "isotropic", 150),
    "three, isotropic or one direction": (3, "both", 100),
}
STRATA = {"0.02 to 0.3": (0.02, 0.3), "0.3 to 0.9": (0.3, 0.9), "above 0.9": (0.9, 1.01)}
N_SENSORS, N_PLACES, N_COLUMNS, N_SLOTS = 10, 24, 3, 30
GAMMA = np.exp(np.arange(0, 8, 0.4))  # the grid of variances, scaled: weak to strong
BURN, DRAWS, THIN = 30, 60, 5


def leadfield(k):
    "The same in every run"
    return np.random.default_rng(99).normal(size=(N_SENSORS, N_PLACES * k))


def from_the_prior(seed, k, orientation):
    "Sources from the sampler's prior, how many are on, and what is recorded of them"
    rng = np.random.default_rng(seed)
    L = leadfield(k)
    unit = Dual(L, k, L[:, :1], 1, 1.0).scale.gamma
    directed = dict(isotropic=0.0, direction=1.0, both=0.5)[orientation]
    x = np.zeros((N_PLACES, k, N_COLUMNS))
    on = set()
    n_on = (rng.random(N_SLOTS) < rng.beta(1, PRIOR_OFF)).sum()
    for _ in range(n_on):
        place = int(rng.integers(N_PLACES))
        on.add(place)
        size = np.sqrt(rng.choice(GAMMA) * unit)
        if k > 1 and rng.random() < directed:
            v = turned(np.eye(k), rng)[0]
            x[place] += size * v[:, None] * rng.normal(size=(1, N_COLUMNS))
        else:
            x[place] += size * rng.normal(size=(k, N_COLUMNS))
    x = x.reshape(N_PLACES * k, N_COLUMNS)
    noise = np.sqrt(rng.choice(FACTORS)) * rng.normal(size=(N_SENSORS, N_COLUMNS))
    return x, len(on), L @ x + noise


def visits(dual, k, orientation, seed, n_draws):
    "What one chain visits"
    chain = Chain(dual, slot_weights(k, GAMMA, orientation), N_SLOTS, seed)
    for _ in range(BURN):
        chain.sweep()
    found = []
    for _ in range(n_draws):
        chain.sweep()
        found.append(chain.visited)
    return found


def mixture_of(found, k, y):
    "The posterior of the amplitudes, on the components themselves"
    recording = Compressed(y, N_COLUMNS, N_COLUMNS, 1.0, np.nan, y)
    of = Amplitudes(leadfield(k), k, recording)
    gaussians = tuple(gaussian_state(of, visited)[0] for visited in found)
    weights = np.full(len(found), 1 / len(found))
    return Mixture(gaussians, weights, N_PLACES, k, N_COLUMNS)


def level(mixture, row, truth, rng):
    "Level of the central interval that just holds the truth; at the point mass, randomised"
    below = 0.0
    on = 0.0
    for weight, state in zip(mixture.weights, mixture.states):
        rows = (state.atoms[:, None] * mixture.n_orient + np.arange(mixture.n_orient)).ravel()
        where = np.flatnonzero(rows == row)
        if len(where):
            i = where[0]
            std = max(np.sqrt(state.cov[i, i]), 1e-12)
            below += weight * stats.norm.cdf((truth - state.mean[i, 0]) / std)
            on += weight
    off = max(1 - on, 0)
    below += off * (rng.random() if truth == 0 else float(truth > 0))
    return float(abs(2 * below - 1))


def apart(a, b):
    "Difference of two chains' means in standard errors; `None` where both stand still"
    variances = [np.var(c) / effective_number(np.asarray(c, float)[None]) for c in (a, b)]
    spread = np.sqrt(sum(variances))
    return float((np.mean(a) - np.mean(b)) / spread) if spread > 0 else None


def one_run(seed, k, orientation, n_draws=DRAWS):
    "Rank of the number of sources, levels of amplitudes, and how far two chains are apart"
    x, n_on, y = from_the_prior(seed, k, orientation)
    rng = np.random.default_rng(seed + 10_000)
    dual = Dual(leadfield(k), k, y, N_COLUMNS, 1.0)
    chains = [visits(dual, k, orientation, 2 * seed + i, n_draws) for i in range(2)]
    counts = [np.array([len(np.unique(v.places)) for v in chain]) for chain in chains]
    thinned = counts[0][::THIN]
    alike = (thinned == n_on).sum() + 1  # with the truth itself
    rank = ((thinned < n_on).sum() + rng.random() * alike) / (len(thinned) + 1)

    mixture = mixture_of(chains[0], k, y)
    P = mixture.inclusion
    levels = {}
    for name, (low, high) in STRATA.items():
        inside = np.flatnonzero((low <= P) & (high > P))
        if len(inside):
            row = rng.choice(inside) * k + rng.integers(k)
            levels[name] = level(mixture, row, x[row, 0], rng)
    factors = [np.log([v.factor for v in chain]) for chain in chains]
    between = dict(count=apart(*counts), factor=apart(*factors))
    return dict(rank=float(rank), levels=levels, apart=between)


def rank_test(runs, bins=10):
    "p-value of a uniform rank, by χ²"
    counts = np.histogram([run["rank"] for run in runs], bins, range=(0, 1))[0]
    return float(stats.chisquare(counts).pvalue)


def held(runs, stratum, nominal=0.9):
    "Intervals that hold the truth, and all, in a stratum"
    levels = [run["levels"][stratum] for run in runs if stratum in run["levels"]]
    return int((np.array(levels) <= nominal).sum()), len(levels)


def document(results):
    "The figures as a page"
    lines = [
        "# Simulation-based calibration of the sampler",
        "",
        "Made by `python -m benchmarks.sbc`: truth from the sampler's own prior.",
        "",
        "| source | runs | mean rank of the number of sources | χ² of the ranks, p "
        "| coverage at 0.9 where P is " + " | ".join(STRATA) + " |",
        "|---" * (4 + len(STRATA)) + "|",
    ]
    for name, runs in results.items():
        n = len(runs)
        mean = np.mean([run["rank"] for run in runs])
        cells = [name, f"{n}", f"{mean:.3f} ± {np.sqrt(1 / 12 / n):.3f}", f"{rank_test(runs):.2f}"]
        for stratum in STRATA:
            hits, of = held(runs, stratum)
            error = np.sqrt(0.09 / max(of, 1))
            cells.append(f"{hits / max(of, 1):.3f} ± {error:.3f} ({of})")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "± is the standard error if the sampler is right, with the number of cases in brackets.",
        "",
        "Two chains of one recording, the difference of their means in standard errors from the "
        "effective sample size: its root mean square, 1 if these are right",
        "",
        "| source | number of sources | log noise factor |",
        "|---|---|---|",
    ]
    for name, runs in results.items():
        row = [name]
        for what in ("count", "factor"):
            z = [run["apart"][what] for run in runs if run["apart"][what] is not None]
            row.append(f"{np.sqrt(np.mean(np.square(z))):.2f}")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--runs", type=int, help="in place of the numbers in KINDS")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    given = parser.parse_args()
    file = given.out / "sbc.json"
    results = {}
    for name in given.only:
        k, orientation, n = KINDS[name]
        runs = [one_run(seed, k, orientation) for seed in range(given.runs or n)]
        if file.exists():
            results = json.loads(file.read_text(encoding="utf-8"))
        results[name] = runs
        results = {kind: results[kind] for kind in KINDS if kind in results}
        file.write_text(json.dumps(results), encoding="utf-8")
        (given.out / "sbc.md").write_text(document(results), encoding="utf-8")
        print(document({name: runs}), flush=True)


if __name__ == "__main__":
    main()
