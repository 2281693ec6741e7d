"A study that is killed, interrupted, crowded out or locked: nothing is lost, nothing is done twice."

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from routine import heeding_ctrl_c, number
from test_study import same

from calibrain.head.leadfield import Leadfield

pytest.importorskip("pyarrow")

from calibrain.study.files import keep_batch, read_table
from calibrain.study.lock import LOCK, owner_of
from calibrain.study.store import open_store
from calibrain.study.study import _CtrlC, read_study, run_study

TEXT = """
name = "to be killed"
n_train = 0
n_test = {n}
[heads.random]
file = "head.npz"
[grid]
nnz = [1, 3]
[[solvers]]
solver = "gamma_map"
params = {{ update_mode = "fast" }}
[[solvers]]
solver = "BMN"
noise = ["oracle", "baseline"]
"""
RUN = """
import sys
from calibrain.study.study import run_study
if __name__ == "__main__":
    run_study(sys.argv[1], sys.argv[2], int(sys.argv[3]), batch_seconds=float(sys.argv[4]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    Leadfield.random(16, 60, seed=1).save(folder / "head.npz")
    (folder / "study.toml").write_text(TEXT.format(n=25))
    (folder / "long.toml").write_text(TEXT.format(n=2000))
    (folder / "run.py").write_text(RUN)
    return folder


def start(folder, out, n_jobs=1, seconds=0.1, study="study.toml", **more):
    "A study in a process group of its own"
    words = [sys.executable, folder / "run.py", folder / study, folder / out, n_jobs, seconds]
    return subprocess.Popen([*map(str, words)], start_new_session=True, **more)


def once(store):
    "Every finished run of the store stands in one file"
    names = read_table(store.files(), ["status"])["id"].to_pylist()
    assert len(names) == len(set(names))
    return names


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def wait_for_another(process, out, before):
    "Until a process has written a file, or has ended"
    wait_for(lambda: n_files(out) > before or process.poll() is not None)


def n_files(out):
    return len([*(out / "runs").glob("*.parquet")]) if (out / "runs").exists() else 0


def test_killed_at_random_moments_and_resumed(folder):
    "The whole process group, with SIGKILL: every run is there once, equal to an uninterrupted study"
    study = read_study(folder / "study.toml")
    rng = np.random.default_rng(15)
    n_killed = 0
    for _ in range(number(routine=6, everything=20)):
        n_jobs = int(rng.choice([1, 2]))
        before = n_files(folder / "killed")
        process = start(folder, "killed", n_jobs, seconds=0.05)
        if rng.random() < 0.7:  # at work; else while it begins
            wait_for_another(process, folder / "killed", before)
        time.sleep(rng.uniform(0, 0.3))
        n_killed += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if (folder / "killed" / "study.json").exists():
            assert open_store(folder / "killed").status().problems == {}
    assert n_killed >= 3
    said = []
    resumed = run_study(study, folder / "killed", say=said.append)
    assert said == []
    assert sorted(once(resumed)) == sorted(run.id for run in study.runs())
    assert not [*resumed.runs_folder.glob(".*")]
    same(resumed, run_study(study, folder / "whole"))


def test_a_file_has_its_name_only_when_it_is_on_the_disk(tmp_path, monkeypatch):
    called = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*args, name=name, real=real):
            called.append((name, [*tmp_path.glob("*.parquet")]))
            return real(*args)

        monkeypatch.setattr(os, name, noted)
    path = keep_batch(tmp_path, b"content")
    assert [name for name, _ in called] == ["fsync", "replace", "fsync"]  # the folder last
    assert [there for _, there in called] == [[], [], [path]]
    assert [*tmp_path.iterdir()] == [path]


def test_ctrl_c_leaves_a_valid_store(folder):
    python = [sys.executable, "-X", "faulthandler"]
    command = [*python, "-m", "calibrain.cli", "study", "run", "long.toml", "--out", "left"]
    process = subprocess.Popen(
        [*command, "--n-jobs", "2"],
        cwd=folder,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeding_ctrl_c,
    )
    wait_for(lambda: n_files(folder / "left") > 0)
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, said = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # it says where it hangs
        time.sleep(1)
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(process.communicate()[1])
    assert process.returncode == 130
    assert "the same command goes on" in said and "Traceback" not in said
    store = open_store(folder / "left")
    now = store.status()
    assert now.owner is None and not (folder / "left" / LOCK).exists()
    assert now.problems == {} and 0 < now.n_done == len(once(store))


def test_status_is_told_while_it_runs_and_a_second_process_is_refused(folder):
    process = start(folder, "busy", study="long.toml", seconds=0.5)
    try:
        wait_for(lambda: n_files(folder / "busy") > 1)
        now = open_store(folder / "busy").status()
        assert now.owner["pid"] == process.pid and 0 < now.n_done < now.n_runs
        assert now.rate > 0 and "minutes to go" in now.in_words()
        with pytest.raises(RuntimeError, match=f"in use by process {process.pid} on"):
            run_study(folder / "long.toml", folder / "busy")
    finally:
        process.kill()
        process.wait()
    assert owner_of(folder / "busy") is None  # it left a lock, and is gone
    store = run_study(folder / "long.toml", folder / "busy", limit=1)
    assert len(once(store)) == store.status().n_done


def test_locks_of_others(folder):
    study = read_study(folder / "study.toml")
    store = run_study(study, folder / "locks", limit=1)
    mine = dict(host=socket.gethostname(), pid=os.getpid(), began="1")
    (store.folder / LOCK).write_text(json.dumps(mine))  # the number of a process that was before
    run_study(study, store.folder, limit=1)
    (store.folder / LOCK).write_text(json.dumps(dict(mine, host="elsewhere")))
    with pytest.raises(RuntimeError, match=r"on elsewhere since .* remove"):
        run_study(study, store.folder, limit=1)


def test_a_full_disk(folder, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        with pytest.raises(OSError, match="No space left"):
            run_study(folder / "study.toml", disk / "out", batch_seconds=0.2)
        now = open_store(disk / "out").status()
        assert now.problems == {} and now.owner is None and now.n_left > 0
        there = sorted(p.name for p in Path(disk / "out" / "runs").iterdir())
        assert len(there) == n_files(disk / "out")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# ---- Ctrl-C, heeded between two steps


@pytest.fixture
def python_handles_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("python_handles_ctrl_c")
def test_the_first_ctrl_c_waits_for_the_step_to_end_and_the_second_does_not():
    with _CtrlC(at_once=False) as ctrl_c:
        ctrl_c.heed()
        press()  # nothing is interrupted
        with pytest.raises(KeyboardInterrupt):
            ctrl_c.heed()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("python_handles_ctrl_c")
def test_ctrl_c_strikes_at_once_where_this_process_does_the_work():
    with _CtrlC(at_once=True), pytest.raises(KeyboardInterrupt):
        press()


@pytest.mark.usefixtures("python_handles_ctrl_c")
def test_who_has_a_handler_of_their_own_keeps_it():
    heard = []
    signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    with _CtrlC(at_once=False):
        press()
    assert heard == [1]
