"A real recording, where there is one: the project's test data beside the repository"

from functools import cache
from pathlib import Path

import mne
import pytest

BESIDE = Path(__file__).resolve().parent.parent.parent / "shared/realdata"
# Of this subject, as MNE-Python's documentation says; the small file does not
KNOWN_BAD = ["MEG 2443", "EEG 053"]
needed = pytest.mark.skipif(
    not BESIDE.exists(), reason="no real recording here (../shared/realdata)"
)


@cache
def forward(kind):
    "The forward solution for MEG (one shell) or EEG (three), made once a session"
    shells = "1280" if kind == "meg" else "320-320-320"
    src = mne.read_source_spaces(BESIDE / "sample-516-src.fif", verbose="ERROR")
    trans = mne.read_trans(BESIDE / "sample-trans.fif")
    bem = mne.read_bem_solution(BESIDE / f"sample-{shells}-bem-sol.fif", verbose="ERROR")
    return mne.make_forward_solution(
        evoked("Right Auditory").info,
        trans,
        src,
        bem,
        meg=kind == "meg",
        eeg=kind == "eeg",
        mindist=5,
        verbose="ERROR",
    )


def evoked(condition):
    said = dict(condition=condition, baseline=(None, 0), verbose="ERROR")
    e = mne.read_evokeds(BESIDE / "test-ave.fif.gz", **said)
    e.info["bads"] = KNOWN_BAD
    return e


@cache
def covariance():
    return mne.read_cov(BESIDE / "test-cov.fif", verbose="ERROR")


def explorer_files():
    "The recording of the brain explorer"
    from calibrain.explorers import RecordingFiles

    return RecordingFiles(
        evoked=BESIDE / "test-ave.fif.gz",
        cov=BESIDE / "test-cov.fif",
        trans=BESIDE / "sample-trans.fif",
        src=BESIDE / "sample-516-src.fif",
        bem=BESIDE / "sample-1280-bem-sol.fif",
        bads=tuple(KNOWN_BAD),
        whole=True,
    )
