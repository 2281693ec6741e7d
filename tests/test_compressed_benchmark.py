"The benchmark of compressed time: its page is made from its figures"

import json
from pathlib import Path

import pytest
import realdata

from benchmarks import compressed

FOLDER = Path(compressed.__file__).parent


def test_the_page_is_made_from_the_figures():
    assert (FOLDER / "compressed.md").read_text(encoding="utf-8") == compressed.document()
    for what in (*compressed.HEADS, "recording"):
        assert (FOLDER / f"compressed-{what}.json").exists()


@realdata.needed
@pytest.mark.filterwarnings("ignore")
def test_figures_of_the_recording_are_those_of_the_solvers():
    "One row, made again"
    stored = json.loads((FOLDER / "compressed-recording.json").read_text(encoding="utf-8"))
    given = realdata.evoked("Left visual"), realdata.forward("meg"), realdata.covariance()
    peak = compressed.dspm_peak(*given)
    again = compressed.one_estimate(*given, "BMN", "auto", peak)
    kept = stored["Left visual"]["BMN, auto"]
    for name in ("residual", "strongest", "within", "width", "n_components"):
        assert again[name] == pytest.approx(kept[name], rel=1e-2), name
