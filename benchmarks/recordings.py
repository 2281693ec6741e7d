"""Which shapes the sampler should look for in recordings: a patient's seizures, and evoked responses.

`python -m benchmarks.recordings seizures` and `… responses`, from the root of the repository, with
the data in `../shared`. Seizures are compared with the region that was resected: whether the
strongest region lies in it, how well energy tells resected regions from others (AUC), and which
share of the energy is inside. Responses are compared with dSPM: distance of the peaks, share of
energy on the side and within 30 mm of its peak. Neither is the truth. Writes recordings-WHAT.json
beside this file, and recordings.md from both.
"""

import argparse
import json
import os
import warnings
from pathlib import Path
from time import process_time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared"
DISCS = [("disc", radius) for radius in (0.009, 0.012, 0.016, 0.021, 0.028)]
DICTIONARIES = {  # what the sampler may choose from
    "points": None,
    "10, 20, 30 mm": [0.01, 0.02, 0.03],
    "points, 10, 20, 30 mm": [0, 0.01, 0.02, 0.03],
    "5, 10, 20 mm and discs": [0.005, 0.01, 0.02, *DISCS],
}
GAMMA = ("gamma_map", "gamma_map_sflex")


def sampled(result):
    "What a sampler says of itself"
    if "inclusion" not in result:
        return {}
    return dict(
        factor=float(np.median(result["noise_factor"])),
        n_components=int(result["n_components"]),
        n_on=int(result["count_probability"].argmax()),
        largest=float(result["inclusion"].max()),
        delta=float(result["delta_inclusion"]),
        agreed=bool(result.converged),
    )


def strength(posterior):
    "Energy of the mean over time and components, by source"
    mean = posterior.mean.reshape(posterior.n_sources, posterior.n_orient, -1)
    return (mean**2).sum((1, 2)), np.linalg.norm(mean, axis=1).max(1)


# ---- seizures


def seizures(n_chains):
    "Every way on each of three segments"
    from scipy import linalg
    from sklearn.metrics import roc_auc_score

    from calibrain import BMN_joint, gamma_map, gamma_map_sflex, spike_slab

    data = np.load(SHARED / "clinical/patient.npz")
    coords = data["src_coords"]
    resected = np.isin(np.arange(len(coords)), data["resected"])
    to_average = linalg.null_space(np.ones((1, len(data["leadfield"])))).T
    L = to_average @ data["leadfield"]
    rows = []
    for segment, y in enumerate(data["segments"]):
        y = to_average @ y
        noise_var = BMN_joint(L, y).noise_var
        ways = {
            "gamma_map": lambda y, v: gamma_map(L, y, v, update_mode="fast"),
            "gamma_map_sflex": lambda y, v: gamma_map_sflex(L, y, v, src_coords=coords, sigma=0.01),
        }
        for name, patches in DICTIONARIES.items():
            ways[f"spike_slab, {name}"] = lambda y, v, patches=patches: spike_slab(
                L, y, v, patches=patches, src_coords=coords, n_chains=n_chains, n_sweeps=240
            )
        for name, solve in ways.items():
            start = process_time()
            result = solve(y, noise_var)
            energy, _ = strength(result.posterior)
            row = dict(
                segment=segment + 1,
                way=name,
                inside=bool(resected[energy.argmax()]),
                auc=float(roc_auc_score(resected, energy)),
                share=float(energy[resected].sum() / energy.sum()),
                log_evidence=float(result.log_evidence),
                seconds=process_time() - start,
            )
            rows.append(row | sampled(result) | dict(sets=sets(result, resected)))
            print(rows[-1], flush=True)
    return rows


def sets(result, resected):
    "Localisation sets of a sampler, and how far each is from the resection"
    from calibrain.solvers.spike_slab import localise

    if "inclusion" not in result:
        return []
    coords = result.coords
    found = []
    for one in localise(result):
        away = np.linalg.norm(coords[resected] - one.centre, axis=1).min()
        found.append(
            dict(
                mass=float(one.mass),
                n_places=len(one.places),
                radius=float(one.radius),
                share_resected=float(resected[one.places].mean()),
                mm=float(1e3 * away),
                strength=float((result.mean[one.places] ** 2).sum()),
            )
        )
    total = float((result.mean**2).sum())
    return [one | dict(strength=one["strength"] / total) for one in found]


def of_seizures(rows):
    "A table, one line a way"
    lines = [
        "| solver | peak inside | AUC | share of energy inside | log evidence | noise factor "
        "| largest \\|ΔP\\| of chains | seconds |",
        "|---" * 8 + "|",
    ]
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == way]

        def all_of(key, form, mine=mine):
            if key not in mine[0]:
                return ""
            return " ".join(format(row[key], form) for row in mine)

        cells = [
            f"{sum(row['inside'] for row in mine)} of {len(mine)}",
            all_of("auc", ".2f"),
            all_of("share", ".2f"),
            all_of("log_evidence", ".0f"),
            all_of("factor", ".0f"),
            all_of("delta", ".2f"),
            f"{np.mean([row['seconds'] for row in mine]):.1f}",
        ]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ---- evoked responses


def dspm_peak(evoked, forward, cov):
    "Where dSPM is largest in the window"
    from mne.minimum_norm import apply_inverse, make_inverse_operator

    said = dict(loose=1.0, depth=0.8, verbose="ERROR")
    inverse = make_inverse_operator(evoked.info, forward, cov, **said)
    stc = apply_inverse(evoked.copy().crop(0.05, 0.15), inverse, 1 / 9, "dSPM", verbose="ERROR")
    return forward["source_rr"][stc.data.max(1).argmax()]


def responses(n_chains):
    "Every way on three conditions, MEG and EEG"
    import sys

    sys.path.insert(0, str(HERE.parent / "tests"))
    import realdata

    from calibrain import estimate_evoked

    cov = realdata.covariance()
    rows = []
    for kind in ("meg", "eeg"):
        forward = realdata.forward(kind)
        for condition in ("Right Auditory", "Left visual", "Right visual"):
            evoked = realdata.evoked(condition)
            peak = dspm_peak(evoked, forward, cov)
            ways = {name: (name, None) for name in GAMMA}
            for name, patches in DICTIONARIES.items():
                params = dict(patches=patches, n_chains=n_chains, n_sweeps=240)
                ways[f"spike_slab, {name}"] = ("spike_slab", params)
            for name, (solver, params) in ways.items():
                start = process_time()
                est = estimate_evoked(
                    evoked,
                    forward,
                    cov,
                    solver,
                    tmin=0.05,
                    tmax=0.15,
                    noise="baseline",
                    solver_params=params,
                    progress=False,
                )
                energy, largest = strength(est.posterior)
                same_side = np.sign(est.coords[:, 0]) == np.sign(peak[0])
                distance = np.linalg.norm(est.coords - peak, axis=1)
                row = dict(
                    kind=kind,
                    condition=condition,
                    way=name,
                    mm=float(1e3 * distance[largest.argmax()]),
                    side=float(energy[same_side].sum() / energy.sum()),
                    near=float(energy[distance < 0.03].sum() / energy.sum()),
                    log_evidence=float(est.result.log_evidence),
                    base=est.power.get("baseline_factor"),
                    seconds=process_time() - start,
                )
                rows.append(row | sampled(est.result))
                print(rows[-1], flush=True)
    return rows


def of_responses(rows):
    "A table for each kind of sensor"
    parts = []
    for kind in ("meg", "eeg"):
        those = [row for row in rows if row["kind"] == kind]
        conditions = list(dict.fromkeys(row["condition"] for row in those))
        lines = [
            f"### {kind.upper()}: mm from dSPM's peak / energy on its side / within 30 mm; "
            "f (of the baseline), log evidence\n",
            "| solver | " + " | ".join(conditions) + " | seconds |",
            "|---" * (len(conditions) + 2) + "|",
        ]
        for way in dict.fromkeys(row["way"] for row in those):
            cells = []
            for row in (r for r in those if r["way"] == way):
                cell = f"{row['mm']:.0f} / {row['side']:.2f} / {row['near']:.2f}"
                if "factor" in row:
                    cell += f"; f {row['factor']:.1f} ({row['base']:.1f})"
                    cell += f", {row['log_evidence']:.0f}"
                cells.append(cell)
            seconds = np.mean([row["seconds"] for row in those if row["way"] == way])
            lines.append(f"| {way} | " + " | ".join(cells) + f" | {seconds:.1f} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def document(folder=HERE):
    "What was measured, as a page"
    parts = ["# The sampler on recordings\n\nMade by `python -m benchmarks.recordings`."]
    for what, title, table in (
        ("seizures", "A patient's seizures against the resected region", of_seizures),
        ("responses", "Evoked responses against dSPM", of_responses),
    ):
        file = folder / f"recordings-{what}.json"
        if file.exists():
            rows = json.loads(file.read_text(encoding="utf-8"))
            parts.append(f"## {title}\n\n{table(rows)}")
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("seizures", "responses"))
    parser.add_argument("--chains", type=int, default=8, help="chains of the sampler")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    measure = dict(seizures=seizures, responses=responses)[given.what]
    rows = measure(given.chains)
    file = HERE / f"recordings-{given.what}.json"
    file.write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")
    (HERE / "recordings.md").write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
