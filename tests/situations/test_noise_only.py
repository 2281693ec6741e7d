"""Recordings that hold nothing but noise: hardly any has a silent claim.

A smaller version of `python -m benchmarks.noise_only`, which counts 200 draws of each situation.
"""

import pytest
from routine import number

from benchmarks.noise_only import SITUATIONS, count
from calibrain.head.average import place_sensors

SLOW = [name for name in SITUATIONS if "SSS" in name or "MEG" in name]
QUICK = [name for name in SITUATIONS if name not in SLOW]
NEVER = ("ad hoc, MNE's size", "covariance of the average")  # refused: no estimate at all


@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.filterwarnings("ignore")
def test_silent_claims(name):
    if name in SLOW:
        place_sensors("neuromag")  # skipped where MNE-Python has no MEG sensors
    draws = number(routine=4 if name in SLOW else 8, everything=20)
    row = count(name, draws)
    assert row["silent_claims"] * draws <= max(1, 0.1 * draws), row
    if name in NEVER:
        assert row["words"] == {"refused": draws}
