"""Do the error bars of statements hold: of regions, and of contrasts between two conditions?

`python -m benchmarks.statements`, from the root of the repository. EEG (biosemi64) on the average
head, 1,284 fixed sources. Three Gaussian patches of 10, 20 or 30 mm with 10 to 40 nAm each respond
in both conditions, in the second by .3 to 1.2 of the first (`same`), or three others respond in the
second (`other`). 200 and 150 epochs with 4 µV of noise each. Regions are 40 neighbouring sources:
two around patches, off by up to 10 mm, and two elsewhere. Counted at samples where something of a
region is on (a tenth of the largest region of the run), and apart from them where nothing is.
Every estimate goes the road of recordings, `estimate_evoked`. Prints a table.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import mne
import numpy as np

WIDTHS = (0.01, 0.02, 0.03)  # m
TIMES = np.arange(-40, 61) / 200  # s
NAVES = (200, 150)
LEVEL = 0.9
WAYS = {
    "spike_slab": dict(solver="spike_slab"),
    "spike_slab, shared": dict(solver="spike_slab", shared=True),
    "gamma_map_sflex": dict(solver="gamma_map_sflex"),
    "gamma_map_sflex, shared": dict(solver="gamma_map_sflex", shared=True),
    "BMN": dict(solver="BMN"),
    "BMN, shared": dict(solver="BMN", shared=True),
}


def head():
    "The average head"
    from calibrain import template_leadfield

    return template_leadfield("eeg", 1284, conductor="sphere", progress=False)


def nearest(coords, place, n):
    "The n sources that are nearest to a place, as a mask"
    order = np.argsort(np.linalg.norm(coords - place, axis=1))
    return np.isin(np.arange(len(coords)), order[:n])


def responses(lf, rng):
    "Weights of three patches, and their courses"
    weights = []
    centres = rng.choice(lf.n_sources, 3, replace=False)
    for centre, width in zip(centres, rng.choice(WIDTHS, 3)):
        d = np.linalg.norm(lf.coords - lf.coords[centre], axis=1)
        w = np.where(d < 3 * width, np.exp(-((d / width) ** 2) / 2), 0)
        weights.append(w / w.sum())
    sizes = rng.uniform(10, 40, 3) * rng.choice([-1, 1], 3)
    peaks = rng.uniform(0.08, 0.16, 3)
    waves = np.exp(-(((TIMES - peaks[:, None]) / 0.025) ** 2) / 2)
    return np.array(weights), sizes[:, None] * waves, centres


def simulate(lf, run, same):
    "True sources of both conditions, their recordings, and regions"
    rng = np.random.default_rng([run, 11])
    weights, waves, centres = responses(lf, rng)
    if same:
        second = weights.T @ (rng.uniform(0.3, 1.2, (3, 1)) * waves)
    else:
        others, their_waves, _ = responses(lf, rng)
        second = others.T @ their_waves
    x = np.array([weights.T @ waves, second])
    info = mne.create_info(list(lf.ch_names), 200.0, "eeg")
    evoked = []
    for one, nave, name in zip(x, NAVES, "AB"):
        noise = 4 / np.sqrt(nave) * rng.normal(size=(lf.n_sensors, len(TIMES)))
        data = 1e-6 * (lf.matrix() @ one + noise)
        evoked.append(mne.EvokedArray(data, info, TIMES[0], name, nave, verbose="ERROR"))
    places = [lf.coords[c] + rng.uniform(-0.006, 0.006, 3) for c in centres[:2]]
    places += [lf.coords[c] for c in rng.choice(lf.n_sources, 2)]
    regions = {f"region {i}": nearest(lf.coords, at, 40) for i, at in enumerate(places)}
    return x, evoked, regions


def judged(of, truth):
    "Share of truths within and mean error, where a region is on, and share within where it is not"
    low, high = of.interval(LEVEL)
    within = (low <= truth) & (truth <= high)
    error = np.abs(of.mean - truth)
    largest = np.abs(truth).max()
    on = np.abs(truth) > 0.1 * largest
    off = np.abs(truth) < 1e-3 * largest
    return dict(
        on=within[on].mean(),
        error=error[on].mean(),
        std=of.std[on].mean(),
        off=within[off].mean() if off.any() else np.nan,
    )


def one_run(lf, cov, run, same, ways):
    "Every way to estimate on one pair of recordings"
    from calibrain import estimate_evoked

    x, evoked, regions = simulate(lf, run, same)
    masks = np.array([*regions.values()], float)
    said = dict(tmin=0.05, tmax=0.2, orientation="fixed", progress=False)
    found = {}
    for name, way in ways.items():
        start = time.perf_counter()
        a, b = estimate_evoked(evoked, lf, cov, **said, **way)
        seconds = time.perf_counter() - start
        first = int(np.argmin(abs(TIMES - a.times[0])))
        window = slice(first, first + len(a.times))
        sums = np.einsum("rs,cst->crt", masks, x[:, :, window])
        parts = {"A": (a, sums[0]), "B": (b, sums[1]), "A − B": (a - b, sums[0] - sums[1])}
        for part, (e, truth) in parts.items():
            of = judged(e.regions(regions, mode="sum"), truth)
            found[name, part] = of | dict(seconds=seconds)
    return found


def summary(runs, places):
    "One record for each way and part: means over runs, and the standard error of the first"
    for way, part in runs[0]:
        of = {k: np.array([run[way, part][k] for run in runs]) for k in runs[0][way, part]}
        mean = {k: round(float(np.nanmean(v)), 3) for k, v in of.items()}
        chance = round(float(of["on"].std(ddof=1) / np.sqrt(len(runs))), 3)
        yield dict(places=places, way=way, of=part, runs=len(runs), chance=chance) | mean


def line(row):
    "A record as a line of a table"
    cells = [row["places"], row["way"], row["of"], f"{row['on']:.3f} ± {row['chance']:.3f}"]
    cells += [f"{row['error']:.2f}", f"{row['std']:.2f}", f"{row['off']:.3f}"]
    return f"| {' | '.join(cells)} | {row['seconds']:.1f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=[*WAYS])
    parser.add_argument("--out", type=Path, help="a file for the same as JSON")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lf = head()
    info = mne.create_info(list(lf.ch_names), 200.0, "eeg")
    cov = mne.make_ad_hoc_cov(info, std=dict(eeg=4e-6), verbose="ERROR")
    ways = {name: WAYS[name] for name in given.ways}
    found = []
    print("| places | way | of | within .9, on | error, nAm | std, nAm | within, off | s |")
    print("|---" * 8 + "|")
    for places in ("same", "other"):
        runs = [one_run(lf, cov, run, places == "same", ways) for run in range(given.runs)]
        found += summary(runs, places)
        print(*map(line, found[-3 * len(ways) :]), sep="\n", flush=True)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
