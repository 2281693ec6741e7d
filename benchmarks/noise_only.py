"""Recordings that hold nothing but noise: how often does an estimate claim a source, silently?

`python -m benchmarks.noise_only [--draws 200] [--only NAME …]`, from the root of the repository.
A silent claim is a recording in which some source, at some time, is more than three posterior
standard deviations from zero, and no warning was heard. Each row of the table is a way in which
people come by their noise covariance. Prints the table; `--out FILE` writes it as JSON as well.
"""

import argparse
import json
import warnings
from collections import Counter
from functools import cache
from pathlib import Path

import mne
import numpy as np

from calibrain import estimate_evoked

NAVE = 50
SFREQ = 100.0
N_BEFORE = 60  # samples before the stimulus
N_AFTER = 60
LARGE = 3  # posterior standard deviations
SIZE = dict(eeg=8e-6, mag=8e-14, grad=2e-12)  # noise of one epoch, V, T, T/m


# ---- heads


@cache
def sensors(kind):
    "64 electrodes, or the 306 sensors of a MEG device"
    if kind == "eeg":
        montage = mne.channels.make_standard_montage("biosemi64")
        return mne.create_info(montage.ch_names, SFREQ, "eeg").set_montage(montage)
    info = mne.channels.read_meg_canonical_info("neuromag", verbose="ERROR")
    meg = mne.pick_info(info, mne.pick_types(info, meg=True))
    with meg._unlock():
        meg["sfreq"] = SFREQ
    return meg


@cache
def forward(kind, n_sources=150):
    "Dipoles on a shell in a sphere"
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(n_sources, 3))
    directions[:, 2] = abs(directions[:, 2])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    tilted = np.cross(directions, rng.normal(size=(n_sources, 3)))
    tilted /= np.linalg.norm(tilted, axis=1, keepdims=True)
    along = directions if kind == "eeg" else tilted
    src = mne.setup_volume_source_space(pos=dict(rr=0.07 * directions, nn=along), verbose="ERROR")
    sphere = mne.make_sphere_model((0, 0, 0), 0.095, verbose="ERROR")
    return mne.make_forward_solution(sensors(kind), None, src, sphere, verbose="ERROR")


@cache
def colour(kind):
    "Root of the covariance of one epoch: brain noise from everywhere, and a tenth from sensors"
    info = sensors(kind)
    size = np.array([SIZE[k] for k in info.get_channel_types()])
    fields = forward(kind)["sol"]["data"] / size[:, None]
    brain = fields @ fields.T
    brain *= len(size) / np.trace(brain)
    return size[:, None] * np.linalg.cholesky(0.9 * brain + 0.1 * np.eye(len(size)))


@cache
def white(kind):
    "Root of the covariance of independent noise"
    return np.diag([SIZE[k] for k in sensors(kind).get_channel_types()])


@cache
def maxwell(kind):
    "What Maxwell filtering does to a recording, as a matrix, and the info it leaves"
    info = sensors(kind)
    unit = mne.io.RawArray(white(kind), info, verbose="ERROR")
    said = dict(origin=(0.0, 0.0, 0.0), coord_frame="head", verbose="ERROR")
    filtered = mne.preprocessing.maxwell_filter(unit, **said)
    return filtered.get_data() / white(kind).diagonal(), filtered.info


# ---- recordings


def recording(rng, root, info, nave=NAVE):
    "An average of nothing but noise"
    one_epoch = root @ rng.normal(size=(root.shape[1], N_BEFORE + N_AFTER))
    data = one_epoch / np.sqrt(NAVE)
    tmin = -N_BEFORE / SFREQ
    return mne.EvokedArray(data, info, tmin=tmin, nave=nave, verbose="ERROR")


def covariance(C, info, nfree=100000):
    return mne.Covariance(C, info["ch_names"], [], [], nfree)


def estimated(rng, root, info, n, **how):
    "The covariance as it is computed from so many samples before stimuli"
    samples = root @ rng.normal(size=(root.shape[1], n))
    raw = mne.io.RawArray(samples, info, verbose="ERROR")
    return mne.compute_raw_covariance(raw, verbose="ERROR", **how)


def exact(kind, root, nave=NAVE, times=1.0):
    "The covariance of one epoch, or a multiple of it"

    def draw(rng):
        info = sensors(kind)
        R = root(kind)
        C = covariance(times * R @ R.T, info)
        return recording(rng, R, info, nave), forward(kind), C, {}

    return draw


def average_reference(rng):
    "Data and covariance with the average reference applied"
    info = sensors("eeg")
    R = colour("eeg")
    R = R - R.mean(0)
    e = recording(rng, R, info).set_eeg_reference("average", projection=True, verbose="ERROR")
    return e.apply_proj(verbose="ERROR"), forward("eeg"), covariance(R @ R.T, info), {}


def from_samples(n, root=colour, **how):
    "A covariance estimated from n samples"

    def draw(rng):
        info = sensors("eeg")
        R = root("eeg")
        C = estimated(rng, R, info, n, **how)
        return recording(rng, R, info), forward("eeg"), C, {}

    return draw


def ad_hoc(root, right_size=False):
    "A covariance that nobody measured"

    def draw(rng):
        info = sensors("eeg")
        std = dict(eeg=SIZE["eeg"]) if right_size else None
        C = mne.make_ad_hoc_cov(info, std, verbose="ERROR")
        return recording(rng, root("eeg"), info), forward("eeg"), C, {}

    return draw


def baseline(root):
    "No covariance: the variance before the stimulus"

    def draw(rng):
        e = recording(rng, root("eeg"), sensors("eeg"))
        return e, forward("eeg"), None, dict(noise="baseline")

    return draw


def filtered(cov):
    "Maxwell-filtered data with the covariance of filtered or of raw data, or with none"

    def draw(rng):
        S, info = maxwell("meg")
        R = S @ white("meg")
        e = recording(rng, R, info)
        if cov == "baseline":
            return e, forward("meg"), None, dict(noise="baseline")
        root = white("meg") if cov == "raw" else R
        C = covariance(root @ root.T, info)
        if cov == "regularised":
            C = mne.cov.regularize(C, info, rank="full", verbose="ERROR")
        return e, forward("meg"), C, {}

    return draw


SITUATIONS = {
    "white": exact("eeg", white),
    "coloured": exact("eeg", colour),
    "coloured, MEG": exact("meg", colour),
    "average reference": average_reference,
    "SSS, covariance of filtered data": filtered("filtered"),
    "SSS, the same regularised to full rank": filtered("regularised"),
    "SSS, covariance of raw data": filtered("raw"),
    "SSS, baseline": filtered("baseline"),
    "estimated, 5000 samples": from_samples(5000),
    "estimated, 1000 samples": from_samples(1000),
    "estimated, 600 samples": from_samples(600),
    "estimated, 350 samples": from_samples(350),
    "estimated, 300 samples": from_samples(300),
    "estimated, 120 samples": from_samples(120),
    "estimated, 300 samples, white": from_samples(300, white),
    "estimated, 300 samples, shrunk": from_samples(300, method="ledoit_wolf"),
    "ad hoc, white, right size": ad_hoc(white, True),
    "ad hoc, coloured, right size": ad_hoc(colour, True),
    "ad hoc, MNE's size": ad_hoc(white),
    "baseline, white": baseline(white),
    "baseline, coloured": baseline(colour),
    "covariance of the average": exact("eeg", colour, times=1 / NAVE),
    "nave 10 times too large": exact("eeg", colour, nave=10 * NAVE),
    "nave 10 times too small": exact("eeg", colour, nave=NAVE // 10),
}


# ---- counting


def outcome(draw, seed, **more):
    "One recording: largest ratio of mean to standard deviation, and what was said"
    evoked, fwd, cov, said = draw(np.random.default_rng(seed))
    said = dict(tmin=0.0, orientation="fixed", progress=False) | said | more
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            posterior = estimate_evoked(evoked, fwd, cov, **said).posterior
        except ValueError as error:
            return 0.0, [f"refused: {error}"]
    std = posterior.std[:, None]
    ratio = np.abs(posterior.mean) / np.where(std > 0, std, np.inf)
    return float(ratio.max()), [w.category.__name__ for w in heard]


def count(name, draws, **more):
    "The row of one situation"
    found = [outcome(SITUATIONS[name], seed, **more) for seed in range(draws)]
    large = [ratio > LARGE for ratio, _ in found]
    silent = [not said for _, said in found]
    words = Counter(word.split(":")[0] for _, said in found for word in set(said))
    return dict(
        situation=name,
        claims=float(np.mean(large)),
        silent_claims=float(np.mean(np.logical_and(large, silent))),
        warned=1 - float(np.mean(silent)),
        median_ratio=float(np.median([ratio for ratio, _ in found])),
        words=dict(words),
    )


def line(row):
    words = ", ".join(f"{word} {n}" for word, n in row["words"].items())
    shares = " | ".join(f"{row[k]:.3f}" for k in ("claims", "silent_claims", "warned"))
    return f"| {row['situation']} | {shares} | {row['median_ratio']:.2f} | {words} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--solver", default="gamma_map_sflex")
    parser.add_argument("--only", nargs="*", default=list(SITUATIONS))
    parser.add_argument("--out", type=Path)
    said = parser.parse_args()
    print("| situation | claims | silent claims | warned | median ratio | said |")
    print("| --- | --- | --- | --- | --- | --- |")
    rows = []
    for name in said.only:
        rows.append(count(name, said.draws, solver=said.solver))
        print(line(rows[-1]), flush=True)
    if said.out:
        said.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
