"""What else is asked of the sampler: learned noise, sources of one direction, a whole cortex.

`python -m benchmarks.sampler learned`, `… direction`, `… cortex`, from the root of the repository.
Template heads, five sources on, the default simulators, signal and noise alike (alpha 0.5), every
point counted as in `benchmarks.full_bayes`. Writes sampler-WHAT.json beside this file, and
sampler.md from all of them.
"""

import argparse
import json
import os
import resource
import warnings
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from .full_bayes import measured, simulated, table

HERE = Path(__file__).resolve().parent


def solved(methods, L, y, x, active, k):
    "Every method on one recording, judged"
    return {name: measured(partial(f, L, y), x, active, k) for name, f in methods.items()}


def learned(seed):
    "EEG: noise that is told, that is learned, and that is told half as large as it is"
    from calibrain import spike_slab, template_leadfield

    lf = template_leadfield("eeg", 1284, progress=False)
    x, active, y, noise_var = simulated(lf, 0.5, seed)
    methods = {
        "noise told": lambda L, y: spike_slab(L, y, noise_var),
        "noise learned": lambda L, y: spike_slab(L, y),
        "told half of it": lambda L, y: spike_slab(L, y, noise_var / 2),
    }
    return solved(methods, lf.matrix(), y, x, active, 1)


def direction(seed):
    "Gradiometers, two components: one waveform and direction for each source"
    from calibrain import SensorSimulator, spike_slab, template_leadfield
    from calibrain.simulation.activity import compose_sources, erp_waveforms, random_directions

    lf = template_leadfield("grad", 1284, "meg2", progress=False)
    active = np.random.default_rng(seed).choice(lf.n_sources, 5, replace=False)
    waves = erp_waveforms(5, seed=seed)
    where = np.eye(lf.n_sources)[active]
    x = compose_sources(where, waves, random_directions(5, 2, seed))
    _, y, noise, _ = SensorSimulator().simulate(x, lf, 0.5, seed=seed)
    noise_var = float(noise.var())
    methods = {
        orientation: lambda L, y, o=orientation: spike_slab(L, y, noise_var, 2, orientation=o)
        for orientation in ("isotropic", "both")
    }
    return solved(methods, lf.matrix(), y, x.reshape(-1, x.shape[-1]), active, 2)


def cortex(seed):
    "306 sensors, 20,484 sources, one and two components: seconds, memory, coverage"
    from calibrain import spike_slab, template_leadfield

    out = {}
    for orientation, k in (("fixed", 1), ("meg2", 2)):
        lf = template_leadfield("meg", 20484, orientation, progress=False)
        L, x, active, y = white_recording(lf, seed)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        methods = {f"306 × 20,484 × {k}": lambda L, y, k=k: spike_slab(L, y, 1.0, k)}
        found = solved(methods, L, y, x, active, k)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for row in found.values():
            row["gib_more"] = (after - before) / 2**20
        out |= found
    return out


def white_recording(lf, seed):
    "Magnetometers and gradiometers, each kind in multiples of its noise, as strong as the signal"
    from calibrain import SourceSimulator

    kind, coil = ("fixed", 1) if lf.n_orient == 1 else ("free", 3012)
    x, active = SourceSimulator().simulate(lf.n_sources, 5, kind, coil, seed)
    x = x.reshape(lf.n_sources * lf.n_orient, -1)
    L = lf.matrix().copy()
    units = np.array(lf.units)
    for unit in np.unique(units):
        these = units == unit
        L[these] /= np.sqrt(np.mean((L[these] @ x) ** 2))
    noise = np.random.default_rng(seed).normal(size=(len(L), x.shape[1]))
    return L, x, active, L @ x + noise


RUNS = dict(learned=(learned, 20), direction=(direction, 10), cortex=(cortex, 3))


def document(folder=HERE):
    "The tables of all that was measured, as a page"
    parts = ["# What else is asked of the sampler\n\nMade by `python -m benchmarks.sampler`."]
    for what, (measure, _) in RUNS.items():
        file = folder / f"sampler-{what}.json"
        if file.exists():
            runs = json.loads(file.read_text(encoding="utf-8"))
            parts.append(f"## {measure.__doc__}\n\n```\n{table(runs)}\n{memory(runs)}```")
    return "\n\n".join(parts) + "\n"


def memory(runs):
    "GiB that a method needed beside the leadfield, where it was measured"
    lines = ""
    for name, row in runs[0].items():
        if "gib_more" in row:
            lines += f"{name}: {max(run[name]['gib_more'] for run in runs):.2f} GiB more\n"
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=RUNS)
    parser.add_argument("--runs", type=int, default=None)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    measure, usual = RUNS[given.what]
    runs = []
    for seed in range(given.runs or usual):
        runs.append(measure(seed))
        said = [f"{n} {r['active'][9]:.2f} in {r['seconds']:.2f} s" for n, r in runs[-1].items()]
        print(seed, *said, flush=True)
        (HERE / f"sampler-{given.what}.json").write_text(json.dumps(runs), encoding="utf-8")
    (HERE / "sampler.md").write_text(document(), encoding="utf-8")
    print(document())


if __name__ == "__main__":
    main()
