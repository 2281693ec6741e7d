"""invertmeeg's gamma-MAP as an entry of the leaderboard, from an environment of its own.

    python -m benchmarks.invertmeeg --out board --n-jobs 2

adds it to the runs of studies/leaderboard.toml, does those that are left, and prints the board.
The environment, `benchmarks/.invertmeeg` or what CALIBRAIN_INVERTMEEG says, is made where it is missing.

invertmeeg scales its variances to a largest of one and chooses a regularisation by itself, so that
only their ratio counts. With the noise that the study tells, that ratio is a posterior: its mean is
what invertmeeg returns.
"""

import argparse
import atexit
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from .peers import Absent, python, run

ROOT = Path(__file__).resolve().parent.parent
ENV = Path(os.environ.get("CALIBRAIN_INVERTMEEG", ROOT / "benchmarks/.invertmeeg"))
WANTED = "invertmeeg==1.1.0"
CHILD = Path(__file__).with_name("invertmeeg_child.py")
NAME = "invertmeeg gamma-MAP"
_children = []  # The child of this process, once there is one


def install(env=ENV):
    "Make the environment unless it is there and works"
    if not python(env).exists():
        run(sys.executable, "-m", "venv", str(env))
    try:
        run(str(python(env)), "-c", "import invert")
    except Absent:
        print(f"installing {WANTED} into {env} …", flush=True)
        run(str(python(env)), "-m", "pip", "install", "--quiet", WANTED)
        run(str(python(env)), "-c", "import invert")


def child():
    "A process that has invertmeeg, one for this process"
    if not _children:
        if not python(ENV).exists():
            raise RuntimeError(f"no invertmeeg in {ENV}: python -m benchmarks.invertmeeg makes it")
        said = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        kept = dict(os.environ, PYTHONPATH="", MPLBACKEND="agg")
        _children.append(subprocess.Popen([str(python(ENV)), str(CHILD)], env=kept, **said))
    return _children[0]


@atexit.register
def forget():
    "End the child"
    for process in _children:
        process.kill()
        process.wait()
    _children.clear()


def ask(*question):
    "What the child says; after anything went wrong the next question goes to a new one"
    process = child()
    try:
        pickle.dump(question, process.stdin, protocol=4)
        process.stdin.flush()
        answer = pickle.load(process.stdout)
    except BaseException:
        forget()
        raise
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer


def gamma_map(leadfield, y, noise, solver="gamma-map"):
    "Mean and covariance by source, of fixed sources and electrodes"
    import mne

    from calibrain.recording.leadfield import as_forward
    from calibrain.study.mne_methods import implied_variances, linear_posterior

    if leadfield.n_orient > 1 or leadfield.modality != "eeg":
        raise ValueError("leadfield must be of EEG and fixed sources here")
    info = mne.create_info(list(leadfield.ch_names), 250.0, "eeg", verbose="ERROR")
    y = y - y.mean(0)  # as invertmeeg does, to what the leadfield is of
    evoked = mne.EvokedArray(1e-6 * y, info, verbose="ERROR")
    forward, _ = as_forward(leadfield, [evoked])
    mean = 1e9 * ask(solver, dict(forward), evoked)
    G = leadfield.matrix()
    variances = implied_variances(G, y, noise, mean)
    again, cov = linear_posterior(G, y, noise, variances)
    off = np.abs(again - mean).max() / np.abs(mean).max()
    if off > 0.01:
        raise ValueError(f"amplitudes are {off:.2g} away from those of their variances")
    return mean, cov


def main(arguments=None):
    from calibrain import leaderboard, read_study, run_study

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="folder of the store")
    parser.add_argument("--n-jobs", type=int, default=1, help="processes")
    parser.add_argument("--limit", type=int, help="at most so many runs now")
    said = parser.parse_args(arguments)
    try:
        install()
    except Absent as e:
        print(f"invertmeeg cannot be installed here, and is left out: {e}")
        return
    study = read_study(ROOT / "studies/leaderboard.toml")
    entry = dict(name=NAME, call="benchmarks.invertmeeg:gamma_map")
    study = replace(study, solvers=(*study.solvers, entry))
    store = run_study(study, said.out, said.n_jobs, limit=said.limit)
    for row in leaderboard(store, ["alpha_SNR"]):
        figures = [f"{row[name]:8.3g}" for name in ("coverage_on", "crps", "seconds")]
        print(f"{row['alpha_SNR']} {row['solver']:28}", *figures, row["n_failed"])


if __name__ == "__main__":
    main()
