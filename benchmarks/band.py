"""What a known band of the sources is worth at low signal-to-noise, and what a wrong one costs.

`python -m benchmarks.band`, from the root of the repository. EEG (biosemi64), 1,284 fixed sources,
five of them on, the default simulators (responses of 1 to 5 Hz at 250 Hz, 250 samples), white
noise. `spike_slab` with the true noise variance and with half of it; without a band, with one that
holds the responses, and with twice, half and a quarter of that. Every point counts. Prints a table.
"""

import argparse
import os
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from .full_bayes import LEVELS, share
from .limits import Cell, judged, leadfield, recorded

SFREQ = 250.0  # Hz, of the default simulators
BANDS = {
    "none": None,
    "20 Hz": 20 / SFREQ,
    "10 Hz": 10 / SFREQ,
    "5 Hz": 5 / SFREQ,
    "2.5 Hz": 2.5 / SFREQ,
}
TOLD = {"true": 1.0, "half": 0.5}


def energy(bands, runs):
    "Mean and smallest share of a response's energy below each frequency, in Hz"
    from calibrain.solvers.compressed import low_functions

    shares = []
    for seed in range(runs):
        waves = recorded(Cell(), seed)[2]
        low = [(waves @ low_functions(f / SFREQ, waves.shape[1])) ** 2 for f in bands]
        shares += list(np.transpose([part.sum(1) / (waves**2).sum(1) for part in low]))
    return np.mean(shares, axis=0), np.min(shares, axis=0)


def one_run(alpha, told, bands, seed):
    "The sampler with each band on one recording"
    from calibrain.solvers.spike_slab import spike_slab

    x, S, _, y, noise = recorded(Cell(alpha=alpha), seed)
    active = np.flatnonzero(S.any(1))
    out = {}
    for name, band in bands.items():
        r = spike_slab(leadfield("as assumed"), y, told * noise.variance, band=band)
        counts = judged(x, active, r.mean, r.std, 1)
        likely = r["inclusion"] > 0.5
        out[name] = counts | dict(
            n_components=r["n_components"],
            noise=r.noise_var / noise.variance,
            found=int(likely[active].sum()),
            false=int(likely.sum() - likely[active].sum()),
        )
    return out


def rows(alpha, told, runs):
    "One row for each band"
    for name in runs[0]:
        mine = [run[name] for run in runs]
        coverage = np.array([run["active"] for run in mine])[:, LEVELS == 0.9].mean()
        means = {key: np.mean([run[key] for run in mine]) for key in ("n_components", "crps")}
        cells = [
            f"{alpha}",
            told,
            name,
            f"{means['n_components']:.1f}",
            f"{np.mean([run['noise'] for run in mine]):.3f}",
            f"{np.mean([run['found'] for run in mine]):.1f}",
            f"{np.mean([run['false'] for run in mine]):.1f}",
            f"{coverage:.3f}",
            f"{share(np.array([run['on'] for run in mine])):.3f}",
            f"{means['crps']:.2f}",
        ]
        yield f"| {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.1, 0.3, 0.5])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    frequencies = [2.5, 5.0, 6.0, 8.0, 10.0, 12.0]
    for f, mean, least in zip(frequencies, *energy(frequencies, given.runs)):
        print(f"below {f:4.1f} Hz: {mean:.4f} of a response's energy, at least {least:.4f}")
    print(
        "| alpha | noise variance | band | components | λ / true | found (P > .5) | false "
        "| active at .9 | on at .9 | CRPS active, nAm |"
    )
    print("|---" * 10 + "|")
    for alpha in given.alpha:
        for said, told in TOLD.items():
            runs = [one_run(alpha, told, BANDS, seed) for seed in range(given.runs)]
            print(*rows(alpha, said, runs), sep="\n", flush=True)


if __name__ == "__main__":
    main()
