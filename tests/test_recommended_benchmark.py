"The benchmark of `recommend`: every recording is there, and makes the same again"

import json
from collections import Counter

from benchmarks import recommended

STORED = json.loads(recommended.OUT.read_text(encoding="utf-8"))


def test_every_recording_is_there():
    found = Counter((told["kind"], told["size"]) for told in STORED)
    assert found == {(kind, size): n for kind, size, n in recommended.CASES}


def test_a_clear_case_is_made_again():
    told = recommended.one("bump", 4.0, 0)
    assert told["choice"] == "patches of 30 mm" and told in STORED
