"""Where it stops being right: full Bayes where the problem gets harder, or the model wrong.

`python -m benchmarks.limits`, from the root of the repository; `--only`, `--runs` for a part.
EEG (biosemi64), 1,284 fixed sources, five of them on, signal and noise alike (alpha 0.5), oracle
noise; each cell changes one thing. Pointwise intervals at 0.9, every point counted, bands by
bootstrap over runs. Beside `spike_slab` stand `gamma_map`, `gamma_map_sflex` and the oracle, which
is told which sources are on and how strong each is on average, and uses the same head model.
Writes limits.json beside this file after each cell, and limits.md from it.
"""

import argparse
import json
import os
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from time import process_time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from .full_bayes import LEVELS, band, judged

HERE = Path(__file__).resolve().parent
METHODS = ("spike_slab", "gamma_map", "gamma_map_sflex", "oracle")
DICTIONARY = [0.01, 0.02, 0.03]  # widths of Gaussian patches, m


@dataclass(frozen=True)
class Cell:
    "One thing that is not as in the reference"

    alpha: float = 0.5  # alpha_SNR
    nnz: int = 5  # Sources that are on
    ar: tuple = ()  # Noise that is autoregressive in time
    told: float = 1.0  # The noise variance that solvers are given, over the true one
    head: str = "as assumed"  # The head that the recording comes from
    patch: str = ""  # "gaussian" or "disc" along the cortex: sources are patches of 20 mm
    background: float = 0.0  # Share of the power that comes from 200 weak sources
    how: dict = field(default_factory=dict)  # Arguments of `spike_slab`
    whitened: bool = False  # Whether `spike_slab` is told the correlation in time
    more: int = 0  # Time components beyond those that `spike_slab` would choose


CELLS = {
    "reference": Cell(),
    "alpha 0.9": Cell(alpha=0.9),
    "alpha 0.7": Cell(alpha=0.7),
    "alpha 0.3": Cell(alpha=0.3),
    "alpha 0.1": Cell(alpha=0.1),
    "1 source": Cell(nnz=1),
    "10 sources": Cell(nnz=10),
    "20 sources": Cell(nnz=20),
    "noise AR(1) 0.5": Cell(ar=(0.5,)),
    "noise AR(1) 0.9": Cell(ar=(0.9,)),
    "the same, whitened in time": Cell(ar=(0.9,), whitened=True),
    "noise variance × 0.5": Cell(told=0.5),
    "noise variance × 2": Cell(told=2.0),
    "normals tilted 10°": Cell(head="tilted 10"),
    "normals tilted 20°": Cell(head="tilted 20"),
    "another conductor": Cell(head="sphere"),
    "electrodes 5 mm astray": Cell(head="electrodes astray"),
    "4 mm off the grid": Cell(head="off the grid"),
    "200 weak sources besides": Cell(background=0.2),
    "two time components too many": Cell(more=2),
    "all time components": Cell(how={"n_components": 64}),
    "patches, taken for points": Cell(nnz=3, patch="gaussian"),
    "patches of the dictionary": Cell(nnz=3, patch="gaussian", how={"patches": DICTIONARY}),
    "patches of another shape": Cell(nnz=3, patch="disc", how={"patches": DICTIONARY}),
}


# ---- the world, and what is assumed of it


@cache
def leadfield(head):
    "The leadfield of a head with 1,284 sources"
    from calibrain import template_leadfield
    from calibrain.simulation import forward_errors

    assumed = template_leadfield("eeg", 1284, progress=False)
    if head == "as assumed":
        return assumed
    if head == "sphere":
        changed = forward_errors.other_conductor(assumed, "sphere")
    elif head == "off the grid":
        changed = forward_errors.off_grid(assumed, 0.004)
    elif head == "electrodes astray":
        changed = forward_errors.moved_sensors(assumed, jitter=0.005)
    else:
        changed = forward_errors.rotated_normals(assumed, float(head.split()[1]))
    return changed.leadfield()


def shapes(lf, active, patch):
    "What each source is made of, `(K, nnz)`: a point, or a patch whose weights sum to one"
    from calibrain.head.template import template_cortex
    from calibrain.simulation.activity import patch_weights
    from calibrain.solvers.dictionary import dictionary

    if patch == "gaussian":  # as in the dictionary
        return dictionary(lf.matrix(), 1, [0.02], lf.coords).S[:, active].toarray()
    if patch == "disc":
        return patch_weights(template_cortex(lf.n_sources, "white"), active, 0.02).T
    return np.eye(lf.n_sources)[:, active]


def recorded(cell, seed):
    "Truth (K, T), shapes of its sources (K, nnz), recording, and what is known of the noise"
    from calibrain import SourceSimulator
    from calibrain.simulation.activity import background_sources
    from calibrain.simulation.noise import TimeModel, sensor_noise

    lf = leadfield(cell.head)
    x, active = SourceSimulator().simulate(lf.n_sources, cell.nnz, seed=seed)
    waves = x[active]
    S = shapes(lf, active, cell.patch)
    x = S @ waves
    clean = lf.matrix() @ x
    if cell.background:
        weak = background_sources(clean, lf, cell.background, exclude=active, seed=seed)
        x = x + weak
        clean = lf.matrix() @ x
    noise = sensor_noise(clean, cell.alpha, in_time=TimeModel(cell.ar), seed=seed)
    return x, S, waves, clean + noise.noise, noise


# ---- solvers


def oracle(L, y, noise_var, S, waves):
    "Mean and standard deviations of a solver that is told support and mean power"
    B = L @ S
    power = (waves**2).mean(1)
    cov = np.linalg.inv(B.T @ B / noise_var + np.diag(1 / power))
    std = np.sqrt(np.einsum("ni,ij,nj->n", S, cov, S))
    return S @ cov @ (B.T @ y) / noise_var, std


def one_run(cell, seed):
    "Every solver on one recording"
    from calibrain import gamma_map, gamma_map_sflex
    from calibrain.solvers.compressed import compress
    from calibrain.solvers.spike_slab import spike_slab

    x, S, waves, y, noise = recorded(cell, seed)
    assumed = leadfield("as assumed")
    noise_var = cell.told * noise.variance
    active = np.flatnonzero(S.any(1))
    how = dict(cell.how)
    if cell.whitened:
        how["time_cov"] = noise.toeplitz
    if cell.more:
        how["n_components"] = compress(y, noise_var).n_components + cell.more
    out = {}
    start = process_time()
    found = spike_slab(assumed, y, noise_var, **how)
    sure = found["inclusion"] >= 0.95
    out["spike_slab"] = judged(x, active, found.mean, found.std, 1) | dict(
        seconds=process_time() - start,
        sure=[int(sure[active].sum()), int(sure.sum())],
        converged=found.converged,
        n_components=found["n_components"],
        factor=float(np.median(found["noise_factor"])),
    )
    for name, solve in (("gamma_map", gamma_map), ("gamma_map_sflex", gamma_map_sflex)):
        found = solve(assumed, y, noise_var, update_mode="fast")
        out[name] = judged(x, active, found.mean, found.std, 1)
    told = oracle(assumed.matrix(), y, noise_var, S, waves)
    out["oracle"] = judged(x, active, *told, 1)
    return out


# ---- tables


def band_of_share(pairs, rng):
    "Hits of all runs by cases of all runs, with its band; words where there was no case"
    pairs = np.array(pairs)
    hits, of = pairs.sum(0)
    if not of:
        return "none"
    draws = [pairs[rng.integers(len(pairs), size=len(pairs))].sum(0) for _ in range(400)]
    low, high = np.percentile([h / n for h, n in draws if n], [2.5, 97.5])
    return f"{hits / of:.3f} [{low:.3f}, {high:.3f}]"


def figures(runs, name):
    "What one method reaches in one cell, as text by column"
    rng = np.random.default_rng(0)
    mine = [run[name] for run in runs]
    coverage = np.array([run["active"] for run in mine])
    found = {
        "active at 0.9": band(coverage[:, LEVELS == 0.9], rng),
        "MAD": f"{np.abs(coverage.mean(0) - LEVELS).mean():.3f}",
        "on at 0.9": band_of_share([run["on"] for run in mine], rng),
        "claims at silent": band_of_share([run["claims"] for run in mine], rng),
        "CRPS (nAm)": band([run["crps"] for run in mine], rng),
    }
    if "factor" in mine[0]:
        found["true where P ≥ 0.95"] = band_of_share([run["sure"] for run in mine], rng)
        found["f"] = f"{np.median([run['factor'] for run in mine]):.2f}"
        found["agree"] = f"{np.mean([run['converged'] for run in mine]):.2f}"
    return found


def document(results):
    "All cells as a page"
    columns = [
        "active at 0.9",
        "MAD",
        "on at 0.9",
        "claims at silent",
        "CRPS (nAm)",
        "true where P ≥ 0.95",
        "f",
        "agree",
    ]
    lines = [
        "# Where full Bayes stops being right",
        "",
        "Made by `python -m benchmarks.limits`. EEG, 1,284 fixed sources; coverage of 90 % "
        "intervals with bands by bootstrap over runs; *on* counts the samples at which a source is "
        "not zero, *claims at silent* the share of claims (|mean| > 1.96 std) that are at sources "
        "that are off, and where a source has P ≥ 0.95 it should be true. f is the median noise "
        "factor, *agree* the share of runs in which chains do.",
        "",
        "| | runs | method | " + " | ".join(columns) + " |",
        "|---" * (3 + len(columns)) + "|",
    ]
    for name, runs in results.items():
        for method in METHODS:
            found = figures(runs, method)
            cells = [found.get(column, "") for column in columns]
            lines.append(f"| {name} | {len(runs)} | {method} | " + " | ".join(cells) + " |")
            name = ""
    return "\n".join(lines) + "\n"


def rounded(value):
    "Figures with as many digits as are worth keeping"
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    file = given.out / "limits.json"
    for name in given.only:
        runs = [rounded(one_run(CELLS[name], seed)) for seed in range(given.runs)]
        results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        results[name] = runs
        results = {cell: results[cell] for cell in CELLS if cell in results}
        file.write_text(json.dumps(results), encoding="utf-8")
        (given.out / "limits.md").write_text(document(results), encoding="utf-8")
        for method in METHODS:
            print(name, method, *figures(runs, method).values(), sep="  ", flush=True)


if __name__ == "__main__":
    main()
