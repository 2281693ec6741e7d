"The benchmark of calibration: its page is made from its figures, and it judges a known law"

import json
from pathlib import Path

import numpy as np

from benchmarks import calibration
from calibrain.posterior.moments import Moments

FOLDER = Path(calibration.__file__).parent


def test_the_page_is_made_from_the_figures():
    found = json.loads((FOLDER / "calibration.json").read_text(encoding="utf-8"))
    assert (FOLDER / "calibration.md").read_text(encoding="utf-8") == calibration.document(found)


def test_all_methods_on_a_known_law():
    "Half as wide: 0.59 before, 0.9 after, and twice the width"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(6, 40))
    trained = calibration.Trained(L, None)

    def run():
        x = np.abs(rng.normal(size=(40, 25))) + 0.1
        return x, Moments(x + rng.normal(size=x.shape), np.full(40, 0.25)), 1.0

    for _ in range(6):
        trained.tune(*run())
    for _ in range(20):
        trained.train(*run())
    trained.fit()
    tests = [trained.test(*run()) for _ in range(20)]
    at = int(np.flatnonzero(calibration.LEVELS == calibration.AT)[0])
    for method in calibration.METHODS:
        kept = np.mean([test["on"][method][0][at] for test in tests])
        width = np.mean([test["on"][method][1] for test in tests])
        if method == "before":
            assert abs(kept - 0.589) < 0.02 and abs(width - 1.645) < 1e-3
        else:
            assert 0.88 < kept < 0.96 and abs(width / 3.29 - 1) < 0.2
