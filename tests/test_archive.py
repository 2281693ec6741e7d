"Files that are whole or not there, know when they were changed, and cannot run code"

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from calibrain.core.archive import new_path, read_arrays, write_arrays

ARRAYS = dict(
    x=np.arange(2000.0).reshape(40, 50),
    n=3,
    name="µV",
    empty=np.zeros((0, 3)),
    fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
)


def test_round_trip(tmp_path):
    back = read_arrays(write_arrays(tmp_path / "a.npz", ARRAYS))
    assert sorted(back) == sorted(ARRAYS)
    for k, v in ARRAYS.items():
        np.testing.assert_array_equal(back[k], v)
        assert back[k].shape == np.shape(v)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.7, 0.99, 0.999])
def test_cut_short(tmp_path, share):
    f = write_arrays(tmp_path / "a.npz", ARRAYS)
    f.write_bytes(f.read_bytes()[: int(share * f.stat().st_size)])
    with pytest.raises(ValueError, match="save it again"):
        read_arrays(f)


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path):
    "A byte of a header may not matter to the arrays; no byte may change them unnoticed"
    f = write_arrays(tmp_path / "a.npz", dict(x=np.arange(20.0)))
    whole = f.read_bytes()
    for i in range(0, len(whole), 7):
        f.write_bytes(whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :])
        try:
            back = read_arrays(f)
        except ValueError:
            continue
        np.testing.assert_array_equal(back["x"], np.arange(20.0))


def test_a_pickle_is_not_opened(tmp_path):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    np.savez(tmp_path / "a.npz", x=np.array([Runs()], dtype=object))
    with pytest.raises(ValueError, match="holds pickled objects at 'x'"):
        read_arrays(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


def test_killed_while_writing(tmp_path):
    "What was there before stays whole"
    f = write_arrays(tmp_path / "a.npz", dict(x=np.zeros(3)))
    code = f"""
import numpy as np
from calibrain.core.archive import write_arrays

while True:
    write_arrays({str(f)!r}, dict(x=np.random.default_rng().normal(size=300_000)))
"""
    for wait in (0.05, 0.13, 0.29):
        p = subprocess.Popen([sys.executable, "-c", code])
        before = f.stat().st_mtime_ns
        deadline = time.monotonic() + 60
        while f.stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(wait)
        p.send_signal(signal.SIGKILL)
        p.wait()
        read_arrays(f)


def test_no_space_leaves_what_was_there(tmp_path, monkeypatch):
    f = write_arrays(tmp_path / "a.npz", dict(x=np.zeros(3)))

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        write_arrays(f, dict(x=np.ones(3)))
    monkeypatch.undo()
    np.testing.assert_array_equal(read_arrays(f)["x"], np.zeros(3))
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


# ---- what is there stays there


def test_a_file_that_is_there_is_replaced_only_when_told(tmp_path):
    f = tmp_path / "a.npz"
    assert new_path(f, (".npz",), overwrite=False) == f
    write_arrays(f, dict(x=np.zeros(3)))
    assert new_path(f, (".npz",), overwrite=True) == f
    with pytest.raises(FileExistsError, match=r"a\.npz: pass overwrite=True to replace it"):
        new_path(f, (".npz",), overwrite=False)
    with pytest.raises(ValueError, match="overwrite must be one of True, False, got 'yes'"):
        new_path(f, (".npz",), overwrite="yes")
    with pytest.raises(ValueError, match=r"the name of an \.npz file"):
        new_path(tmp_path / "a.fif", (".npz",), overwrite=True)
