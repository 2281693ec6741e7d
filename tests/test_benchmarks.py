"""The command that measures: it works on tiny problems, without a peer, and with a broken one.

How fast anything is, is not tested.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from benchmarks import problems
from benchmarks.__main__ import FAMILIES, costs
from benchmarks.peers import python
from benchmarks.report import markdown
from calibrain import gamma_map_sflex

ROOT = Path(__file__).resolve().parent.parent


def command(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, args)],
        cwd=ROOT,
        env=os.environ | env,
        text=True,
        capture_output=True,
    )


def works(folder):
    "What a run measured"
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["works"]


def test_everything_runs_without_a_peer(tmp_path):
    r = command("--quick", "--no-peer", "--out", tmp_path)
    assert r.returncode == 0, r.stderr
    assert {w["family"] for w in works(tmp_path)} == set(FAMILIES)
    for work in works(tmp_path):
        ours = work["ours"]
        assert ours["median"] > 0 and ours["peak_mb"] > 20 and "peer" not in work
        assert ours.get("violation", 0) <= 1e-6
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| whole cortex, 306x20484x3 | 1 |" in table


def broken(tmp_path):
    "An environment that is nothing but an interpreter"
    venv.create(tmp_path / "peer", with_pip=False)
    return tmp_path / "peer"


def test_a_peer_that_cannot_be_installed(tmp_path):
    "No pip in it, and nowhere to fetch anything from: one line, and ours is measured"
    r = command("--quick", "--only", "bmn", "--peer", broken(tmp_path), "--out", tmp_path / "out")
    assert r.returncode == 0 and r.stderr == "", r.stderr
    lines = [line for line in r.stdout.splitlines() if line.startswith("no peer: ")]
    assert len(lines) == 1 and lines[0].endswith("No module named pip — measuring ours alone")
    assert (tmp_path / "out/results.json").exists()


NOWHERE = dict(PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0", PIP_NO_INDEX="")
NOT_FOUND = "no peer: ERROR: No matching distribution found for calibrain==1.0.3"


def test_an_index_that_does_not_answer(tmp_path):
    peer = tmp_path / "peer"
    venv.create(peer, with_pip=True)
    words = ("--quick", "--only", "bmn", "--peer", peer, "--out", tmp_path / "out")
    r = command(*words, **NOWHERE)
    assert r.returncode == 0 and r.stderr == "", r.stderr
    assert f"{NOT_FOUND} — measuring ours alone" in r.stdout


def test_a_peer_that_is_no_program(tmp_path):
    where = python(tmp_path)
    where.parent.mkdir()
    where.write_text("not a program")
    r = command("--quick", "--only", "bmn", "--peer", tmp_path, "--out", tmp_path / "out")
    assert r.returncode == 0 and r.stderr == "" and "no peer: " in r.stdout, r.stderr


def test_unknown_names(tmp_path):
    r = command("--only", "bnm", "--out", tmp_path)
    assert r.returncode == 2 and "Traceback" not in r.stderr
    assert all(name in r.stderr for name in ("invalid choice: 'bnm'", *FAMILIES))


@pytest.mark.parametrize("args", [("--repeats", "0"), ("--threads", "0"), ("--patience", "-1")])
def test_senseless_numbers(args):
    r = command("--no-peer", *args)
    assert r.returncode == 2 and args[0] in r.stderr and "Traceback" not in r.stderr


def test_only_leaves_the_rest(tmp_path):
    for name in ("bmn", "convex"):
        assert command("--quick", "--no-peer", "--only", name, "--out", tmp_path).returncode == 0
    assert {w["family"] for w in works(tmp_path)} == {"bmn", "convex"}


def test_the_judge_agrees_with_the_solver():
    "The cost put into the table is the cost that a solver reports"
    p = problems.make(*problems.SIZES["tiny x3"])
    r = gamma_map_sflex(
        p["L"], p["y"], p["noise_var"], p["k"], src_coords=p["src_coords"], update_mode="fast"
    )
    assert abs(costs(p, 0.01, r["gammas_full"], r.noise_var) - r.cost) < 1e-5


@pytest.mark.parametrize("name", ["64x1284x1", "64x1284x3", "306x1284x1"])
def test_the_recipe_of_the_reference_problems(name):
    file = ROOT.parent / f"shared/reference/bench_{name}.npz"
    if not file.exists():
        pytest.skip(f"no reference figures at {file}")
    p = problems.make(*problems.SIZES[name.removesuffix("x1")])
    reference = np.load(file)
    theirs = {name: reference[name] for name in ("y", "noise_var", "src_coords")}
    theirs["L"] = reference["leadfield"].reshape(len(p["L"]), -1)
    for name, value in theirs.items():
        np.testing.assert_allclose(p[name], value, rtol=1e-10, atol=1e-12)
    assert set(p["active"]) == set(reference["active"])


def test_the_table_is_made_from_the_figures():
    folder = ROOT / "benchmarks"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert markdown(results) == (folder / "results.md").read_text(encoding="utf-8")


def test_beside_busy_neighbours_every_way_takes_its_turn(tmp_path):
    from benchmarks import loaded

    args = ["--quick", "--only", "bmn", "--match", "BMN, 64x1284x3", "--repeats", "1"]
    loaded.main([*args, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "loaded.json").read_text(encoding="utf-8"))["works"]
    assert [w["name"] for w in found] == ["BMN, 64x1284x3"]
    assert {way: len(times) for way, times in found[0]["seconds"].items()} == dict.fromkeys(
        loaded.WAYS, 1
    )


def test_what_takes_too_long_beside_neighbours_is_told():
    from benchmarks import loaded

    slow = loaded.row("slow", dict(alone=[1.0], beside=[2.0, 4.0, 3.0], unset=[5.0, 6.0, 4.0]))
    assert (slow["median"], slow["within"]) == (dict(alone=1.0, beside=3.0, unset=5.0), False)
    assert loaded.markdown([slow]).endswith("| slow | 1e+03 ms | 3e+03 ms | 5e+03 ms | 1.67 |\n")


def test_neighbours_leave():
    from benchmarks import loaded

    with loaded.neighbours(2) as busy:
        assert [p.poll() for p in busy] == [None, None]
    assert all(p.poll() is not None for p in busy)
