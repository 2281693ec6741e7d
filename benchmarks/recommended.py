"""What `recommend` takes where it is known what is there: nothing, a point, a wide bump, or everything.

`python -m benchmarks.recommended`, from the root of the repository. The head and the recordings of
tests/test_recommend.py: 64 electrodes over 400 places some 9 mm apart, an average of 100 epochs.
Writes recommended.json beside this file, a line for each recording.
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parent
OUT = HERE / "recommended.json"
CASES = (  # What is there, its field over the noise, and how many recordings of it
    ("noise", 0.0, 60),
    ("point", 4.0, 20),
    ("point", 2.0, 20),
    ("bump", 4.0, 20),
    ("all", 4.0, 20),
)


def one(kind, size, seed):
    "What is taken for one recording, and what was not told apart from the best"
    from test_recommend import BASE, cov, forward, reason, recording

    from calibrain import recommend

    rec = recommend(recording(kind, size, seed), forward(), cov(), BASE, progress=False)
    told = dict(kind=kind, size=size, seed=seed)
    if rec.nothing:
        return told | dict(choice="nothing", near=[])
    seen = reason(rec, "solver").seen
    return told | dict(choice=seen["choice"], near=list(seen["near"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, help="recordings of each kind, to try")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "tests"))
    warnings.simplefilter("ignore")
    lines = []
    for kind, size, n_runs in CASES:
        for seed in range(min(n_runs, args.runs or n_runs)):
            lines.append(json.dumps(one(kind, size, seed)))
        print(f"{kind}, {size:g}", flush=True)
    args.out.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
