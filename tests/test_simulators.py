"The two simulators: reference figures, properties, and every wrong argument refused by name."

import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mne.io.constants import FIFF
from problems import FILTERED

from calibrain.demo import ERP
from calibrain.simulation.sensors import (
    SensorSimulator,
    alpha_from_db,
    noise_variance,
    project,
    scaled_noise,
    snr_db,
    unit_name,
)
from calibrain.simulation.sources import (
    ErpConfig,
    SourceSimulator,
    band_pass,
    draw_active,
    erp_waveform,
    n_components,
)

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT.parent / "shared" / "reference"
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "simulators.npz").exists(),
    reason="the reference figures (../shared/reference) are not here",
)
EEG = FIFF.FIFFV_COIL_EEG
MAG = FIFF.FIFFV_COIL_VV_MAG_T1
GRAD = FIFF.FIFFV_COIL_VV_PLANAR_T1


def close(a, b, **kw):
    np.testing.assert_allclose(a, b, rtol=kw.pop("rtol", 0), atol=kw.pop("atol", 1e-12), **kw)


def of_another_python(code, **environment):
    "What a program prints, as bytes"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | environment | dict(PYTHONPATH=path)
    program = [sys.executable, "-c", code]
    return subprocess.run(program, env=env, capture_output=True, check=True).stdout


# ---------------------------------------------------------------- reference figures


@needs_reference
@pytest.mark.parametrize("seed", [0, 7, 41])
@pytest.mark.parametrize("orientation, coil", [("fixed", 1), ("free", 1), ("free", 3022)])
@pytest.mark.parametrize("name, config", [("default", None), ("tutorial", ERP)])
def test_sources_reference(name, config, orientation, coil, seed):
    ref = np.load(REFERENCE / "simulators.npz")
    key = f"{name}__{orientation}__coil{coil}__seed{seed}__"
    x, active = SourceSimulator(config).simulate(
        n_sources=12, nnz=3, orientation_type=orientation, coil_type=coil, seed=seed
    )
    np.testing.assert_array_equal(active, ref[key + "active"])
    assert x.shape == ref[key + "x"].shape
    close(x, ref[key + "x"], atol=FILTERED if config else 1e-12)


@needs_reference
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_sensors_reference(alpha):
    ref = np.load(REFERENCE / "simulators.npz")
    _, y, noise, eta = SensorSimulator().simulate(
        ref["tutorial__fixed__coil1__seed0__x"], ref["sensor__leadfield"], alpha, 0.5, seed=0
    )
    assert eta == pytest.approx(float(ref[f"sensor__alpha{alpha}__eta"]), rel=1e-14, abs=0)
    close(y, ref[f"sensor__alpha{alpha}__y_noisy"])
    close(noise, ref[f"sensor__alpha{alpha}__noise"])


@needs_reference
@pytest.mark.parametrize(
    "kind, seed, std, oracle, baseline",
    [
        ("fixed", 41, 0.2, 0.1397447217185092, 0.11194502692152937),
        ("free", 42, 0.05, 0.1779559447265109, 0.1256751978489976),
    ],
)
def test_tutorial_reference(kind, seed, std, oracle, baseline):
    ref = np.load(REFERENCE / "tutorial_problem.npz")
    x, active = SourceSimulator(ERP).simulate(n_sources=32, nnz=4, orientation_type=kind, seed=seed)
    _, y, noise, eta = SensorSimulator().simulate(
        x, ref[f"leadfield_{kind}"], alpha_SNR=0.7, sensor_white_noise_std=std, seed=seed
    )
    np.testing.assert_array_equal(active, ref[f"active_{kind}"])
    close(x, ref[f"x_{kind}"], atol=FILTERED)
    close(y, ref[f"y_{kind}"], atol=FILTERED)
    close(noise, ref[f"noise_{kind}"], atol=FILTERED)
    assert eta == pytest.approx(float(ref[f"eta_{kind}"]), rel=FILTERED)
    timing = {k: ERP[k] for k in ("tmin", "stim_onset", "sfreq")}
    near = functools.partial(pytest.approx, rel=FILTERED)
    assert noise_variance("oracle", noise=noise, y=y, **timing) == near(oracle)
    assert noise_variance("baseline", noise=noise, y=y, **timing) == near(baseline)
    assert noise_variance("adaptive_joint_learning", noise=noise, y=y, **timing) is None


def test_same_digits_on_another_processor():
    "A library that picks other instructions (as on an older processor) must not change the draws."
    code = """
import sys
from calibrain.simulation.sources import erp_waveform
sys.stdout.buffer.write(erp_waveform(seed=3).tobytes())
"""
    out = of_another_python(code, OPENBLAS_CORETYPE="Prescott")
    close(np.frombuffer(out), erp_waveform(seed=3))


# ---------------------------------------------------------------- properties


@pytest.mark.parametrize(
    "orientation, coil, shape",
    [
        ("fixed", EEG, (40,)),
        ("fixed", MAG, (40,)),
        ("free", EEG, (40, 3)),
        ("free", MAG, (40, 2)),
        ("free", GRAD, (40, 2)),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_source_properties(orientation, coil, shape, seed):
    sim = SourceSimulator()
    x, active = sim.simulate(40, 7, orientation, coil, seed)
    assert x.shape == (*shape, 250)
    assert x.dtype == np.float64
    assert len(set(active.tolist())) == 7
    has_signal = x.reshape(40, -1).any(1)
    np.testing.assert_array_equal(np.flatnonzero(has_signal), np.sort(active))
    peaks = np.abs(x[active]).max(-1)
    assert peaks.min() >= 2.5 - 1e-9
    assert peaks.max() <= 50 + 1e-9
    assert not x[..., sim.times < 0].any()


def test_free_starts_with_fixed():
    sim = SourceSimulator()
    fixed, _ = sim.simulate(9, 2, "fixed", seed=5)
    free, _ = sim.simulate(9, 2, "free", seed=5)
    np.testing.assert_array_equal(free[:, 0], fixed)


def test_seeds_and_global_stream():
    sim = SourceSimulator()
    L = np.random.RandomState(0).randn(6, 20)
    np.random.seed(12)
    before = np.random.get_state()
    first = sim.simulate(20, 3, seed=8)
    data = SensorSimulator().simulate(first[0], L, seed=8)
    after = np.random.get_state()
    assert before[0] == after[0] and before[2:] == after[2:]
    np.testing.assert_array_equal(before[1], after[1])
    np.random.seed(99)
    again = sim.simulate(20, 3, seed=8) + SensorSimulator().simulate(first[0], L, seed=8)
    for a, b in zip(first + data, again):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(sim.simulate(20, 3, seed=9)[0], first[0])


@pytest.mark.parametrize("alpha", [1e-6, 0.01, 0.3, 0.5, 0.7, 0.99, 1 - 1e-6])
@pytest.mark.parametrize("std", [1e-3, 1, 250.0])
def test_snr(alpha, std):
    x, _ = SourceSimulator().simulate(20, 3, seed=8)
    L = np.random.RandomState(0).randn(6, 20)
    sim = SensorSimulator()
    y_clean, y, noise, eta = sim.simulate(x, L, alpha, std)
    measured = 20 * np.log10(np.linalg.norm(y_clean) / np.linalg.norm(noise))
    expected = 20 * np.log10(alpha / (1 - alpha))
    assert measured == pytest.approx(expected, abs=1e-12)
    assert snr_db(alpha) == pytest.approx(expected, abs=1e-12)
    assert alpha_from_db(snr_db(alpha)) == pytest.approx(alpha, rel=1e-12)
    _, _, _, eta_of_one = sim.simulate(x, L, alpha, 1)
    assert eta * std == pytest.approx(eta_of_one, rel=1e-12)
    np.testing.assert_array_equal(y, y_clean + noise)


def test_alpha_ends():
    x = np.ones((3, 5))
    L = np.ones((2, 3))
    y_clean, y, noise, eta = SensorSimulator().simulate(x, L, 1)
    assert eta == 0 and not noise.any() and y is not y_clean
    np.testing.assert_array_equal(y, y_clean)
    y_clean, y, noise, eta = SensorSimulator().simulate(x, L, 0, 2.0)
    assert np.linalg.norm(noise) == pytest.approx(np.linalg.norm(y_clean), rel=1e-14)
    assert eta > 0
    assert y is not noise
    np.testing.assert_array_equal(y, noise)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_projection_layouts(k):
    rng = np.random.default_rng(k)
    x = rng.normal(size=(7, k, 11))
    L = rng.normal(size=(4, 7, k))
    want = np.einsum("mnk,nkt->mt", L, x)
    for xs in (x, x.reshape(-1, 11)):
        for Ls in (L, L.reshape(4, -1)):
            close(project(xs, Ls), want)


@pytest.mark.parametrize(
    "config",
    [
        dict(sfreq=1000),
        dict(sfreq=2000),
        dict(sfreq=5000, fmin=0.5, fmax=3),
        dict(tmax=10.0, fmin=0.1, fmax=1, erp_min_length=2000),
    ],
)
def test_bands_low_for_the_sampling_frequency(config):
    "Where the polynomial form of the filter is useless, the waveform is still in its band."
    c = ErpConfig(config)
    for seed in range(5):
        w = erp_waveform(c, seed)
        assert np.isfinite(w).all() and 2.5 <= np.abs(w).max() <= 50
        power = np.abs(np.fft.rfft(w, 1 << 17)) ** 2
        f = np.fft.rfftfreq(1 << 17, 1 / c["sfreq"])
        # twice the half-width of the shortest Hann window's spectrum
        blur = 4 * c["sfreq"] / (c["erp_min_length"] or 82)
        assert power[f < 2 * c["fmax"] + blur].sum() > 0.999 * power.sum()


@pytest.mark.parametrize("sfreq", [100, 250, 500, 1000, 2000, 5000])
@pytest.mark.parametrize("fmin, fmax", [(1, 5), (2, 8), (8, 12), (0.5, 40)])
def test_filter_equals_second_order_sections(fmin, fmax, sfreq):
    "Two routes to one filter: whatever form is used, it is within 1 % of the well-conditioned one."
    from scipy.signal import butter, sosfiltfilt

    c = ErpConfig(dict(sfreq=sfreq, fmin=fmin, fmax=fmax, erp_min_length=28))
    x = np.random.RandomState(3).randn(len(c.times))
    sections = butter(4, [fmin, fmax], btype="band", fs=sfreq, output="sos")
    want = sosfiltfilt(sections, x, padlen=27)
    close(band_pass(x, c), want, atol=0.01 * np.abs(want).max())


def test_config_is_read_only_and_travels():
    given = dict(sfreq=500, amplitude_distribution=dict(median=10))
    sim = SourceSimulator(given)
    given["sfreq"] = 1
    given["amplitude_distribution"]["median"] = 1
    assert sim.config["sfreq"] == 500
    assert sim.config["amplitude_distribution"]["median"] == 10
    assert len(sim.times) == 500
    with pytest.raises(TypeError):
        sim.config["sfreq"] = 3
    with pytest.raises(TypeError):
        sim.config["amplitude_distribution"]["median"] = 3
    copy = pickle.loads(pickle.dumps(sim))
    np.testing.assert_array_equal(copy.simulate(9, 2)[0], sim.simulate(9, 2)[0])
    assert "500" in sim._repr_markdown_() and "ErpConfig" in repr(sim.config)


def test_sensor_metadata():
    sim = SensorSimulator()
    assert sim.kind == FIFF.FIFFV_MEG_CH
    assert sim.units == FIFF.FIFF_UNIT_T
    assert sim.unitmult == FIFF.FIFF_UNITM_F
    assert sim.coil_type is None
    assert sim.unit == "fT"
    sim.set_sensor_metadata(
        kind=FIFF.FIFFV_EEG_CH, units=FIFF.FIFF_UNIT_V, unitmult=FIFF.FIFF_UNITM_MU, coil_type=EEG
    )
    assert sim.kind == FIFF.FIFFV_EEG_CH
    assert sim.coil_type == EEG
    assert sim.unit == "µV"
    assert "µV" in sim._repr_markdown_()
    assert unit_name(FIFF.FIFF_UNIT_T_M, 0) == "T/m"


def test_import_is_light():
    "Neither scipy.signal (a second) nor any reader or plot of mne is loaded before it is needed."
    heavy = ("scipy.signal", "matplotlib", "mne.forward", "mne.io.base", "mne.viz", "nbdev")
    code = (
        "import sys, calibrain.simulation.sources, calibrain.simulation.sensors\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert of_another_python(code).strip() == b"[]"


def test_importing_estimator_and_solvers_is_light():
    "What only some calls need (trees, minimisers, progress bars, MNE) is not loaded before them"
    heavy = ("scipy.spatial", "scipy.optimize", "scipy.stats", "tqdm", "mne", "pandas", "sklearn")
    code = (
        "import sys\nfrom calibrain import BMN, SourceEstimator, gamma_map, spike_slab\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert of_another_python(code).strip() == b"[]"


# ---- bad input: argument, value, error, words of the message

NAN = float("nan")
INF = float("inf")
CONFIG = [
    ("sfrq", 100, TypeError, ["unknown keys 'sfrq'", "sfreq"]),
    ("tmin", "0", TypeError, ["'tmin'", "real number", "'0'"]),
    ("tmin", NAN, ValueError, ["'tmin'", "nan"]),
    ("tmin", None, TypeError, ["'tmin'", "None"]),
    ("tmin", 0.5, ValueError, ["'tmax'", "> 0.5"]),
    ("tmax", -1, ValueError, ["'tmax'", "-1", "end after tmin"]),
    ("tmax", INF, ValueError, ["'tmax'", "inf"]),
    ("stim_onset", 0.6, ValueError, ["'stim_onset'", "0.6", "within [tmin, tmax]"]),
    ("stim_onset", -0.6, ValueError, ["'stim_onset'", "-0.6", "within [tmin, tmax]"]),
    (
        "stim_onset",
        0.5,
        ValueError,
        ["leaves 0 samples", "stim_onset = 0.5", "raise sfreq or tmax"],
    ),
    ("stim_onset", 0.45, ValueError, ["leaves 12 samples", "28"]),
    ("stim_onset", True, TypeError, ["'stim_onset'", "True"]),
    ("sfreq", 0, ValueError, ["'sfreq'", "> 0"]),
    ("sfreq", -250, ValueError, ["'sfreq'", "-250"]),
    ("sfreq", 1e300, ValueError, ["'sfreq'", "lower sfreq"]),
    ("sfreq", 100, ValueError, ["82 samples", "only 50", "set it to 50 or less"]),
    ("sfreq", 1j, TypeError, ["'sfreq'", "1j"]),
    ("fmin", 0, ValueError, ["'fmin'", "(0, 125) Hz"]),
    ("fmin", -1, ValueError, ["'fmin'", "-1"]),
    ("fmin", 5, ValueError, ["'fmax'", "above fmin = 5"]),
    ("fmin", [1], TypeError, ["'fmin'", "[1]"]),
    ("fmax", 0.5, ValueError, ["'fmax'", "0.5", "above fmin"]),
    ("fmax", 125, ValueError, ["'fmax'", "125", "lower fmax or raise sfreq"]),
    ("fmax", NAN, ValueError, ["'fmax'", "nan"]),
    ("random_erp_timing", 1, TypeError, ["'random_erp_timing'", "True or False", "got 1"]),
    ("random_erp_timing", "no", TypeError, ["'random_erp_timing'", "'no'"]),
    ("random_erp_timing", None, TypeError, ["'random_erp_timing'", "None"]),
    (
        "erp_min_length",
        126,
        ValueError,
        ["'erp_min_length'", "126", "only 125", "raise sfreq or tmax"],
    ),
    (
        "erp_min_length",
        27,
        ValueError,
        ["'erp_min_length'", "at least 28", "got 27", "random_erp_timing=False"],
    ),
    ("erp_min_length", 0, ValueError, ["'erp_min_length'", "got 0"]),
    ("erp_min_length", 50.0, TypeError, ["'erp_min_length'", "whole number", "50.0"]),
    ("amplitude_distribution", 20, TypeError, ["'amplitude_distribution'", "mapping", "20"]),
    ("amplitude_distribution", None, TypeError, ["'amplitude_distribution'", "None"]),
    ("amplitude_distribution", dict(mean=3), TypeError, ["unknown keys 'mean'", "median"]),
    ("amplitude_distribution", dict(median=0), ValueError, ["['median']", "> 0"]),
    ("amplitude_distribution", dict(median=60), ValueError, ["['median']", "60", "widen clip"]),
    ("amplitude_distribution", dict(median="x"), TypeError, ["['median']", "'x'"]),
    ("amplitude_distribution", dict(sigma=-1), ValueError, ["['sigma']", "-1"]),
    ("amplitude_distribution", dict(sigma=NAN), ValueError, ["['sigma']", "nan"]),
    (
        "amplitude_distribution",
        dict(clip=(50, 2.5)),
        ValueError,
        ["['clip'][1]", "> 50", "2.5", "(lowest, highest)"],
    ),
    ("amplitude_distribution", dict(clip=(-1, 50)), ValueError, ["['clip'][0]", "-1"]),
    ("amplitude_distribution", dict(clip=5), TypeError, ["['clip']", "two numbers", "5"]),
    ("amplitude_distribution", dict(clip=(1, 2, 3)), TypeError, ["['clip']", "(1, 2, 3)"]),
    ("amplitude_distribution", dict(clip=None), TypeError, ["['clip']", "None"]),
    ("amplitude_distribution", dict(clip=(2.5, INF)), ValueError, ["['clip'][1]", "inf"]),
]


def refused(call, error, words):
    with pytest.raises(error) as e:
        call()
    assert type(e.value) is error
    for word in words:
        assert word in str(e.value), f"{word!r} is not in: {e.value}"


@pytest.mark.parametrize("key, value, error, words", CONFIG)
def test_bad_config(key, value, error, words):
    refused(lambda: SourceSimulator({key: value}), error, words)


SOURCES = [
    ("n_sources", 0, ValueError, ["n_sources", "got 0"]),
    ("n_sources", 2.5, TypeError, ["n_sources", "2.5"]),
    ("n_sources", None, TypeError, ["n_sources"]),
    ("nnz", 0, ValueError, ["nnz", "got 0", "between 1 and n_sources"]),
    ("nnz", 1285, ValueError, ["nnz", "1285", "n_sources = 1284"]),
    ("nnz", True, TypeError, ["nnz", "True"]),
    ("nnz", "5", TypeError, ["nnz", "'5'"]),
    ("orientation_type", "loose", ValueError, ["orientation_type", "'fixed', 'free'", "'loose'"]),
    ("orientation_type", None, ValueError, ["orientation_type", "None"]),
    ("orientation_type", ["free"], ValueError, ["orientation_type", "['free']"]),
    ("coil_type", 5001, ValueError, ["coil_type", "5001", "FIFFV_COIL_EEG"]),
    ("coil_type", "eeg", TypeError, ["coil_type", "'eeg'", "FIFF.FIFFV_COIL_EEG"]),
    ("coil_type", True, TypeError, ["coil_type", "True"]),
    ("seed", -1, ValueError, ["seed", "-1"]),
    ("seed", 2**32, ValueError, ["seed", str(2**32), "2**32 - 1"]),
    ("seed", None, TypeError, ["seed", "None"]),
    ("seed", 1.5, TypeError, ["seed", "1.5"]),
]


@pytest.mark.parametrize("name, value, error, words", SOURCES)
def test_bad_source_argument(name, value, error, words):
    refused(lambda: SourceSimulator().simulate(**{name: value}), error, words)


X = np.ones((4, 6))
L = np.ones((3, 4))
BAD_NUMBER = np.where(np.arange(24).reshape(4, 6) == 5, NAN, 1.0)
SENSORS = [
    (
        "x",
        np.zeros((4, 6)),
        ValueError,
        ["x must give a signal", "all zeros", "at least one is active"],
    ),
    (
        "x",
        np.array([1, -1, 0, 0])[:, None] * X,
        ValueError,
        ["x must give a signal", "does not see"],
    ),
    ("x", BAD_NUMBER, ValueError, ["x must be finite", "1 NaN"]),
    ("x", X * 1j, TypeError, ["x must be real", "complex128"]),
    ("x", "abc", TypeError, ["x must be real"]),
    ("x", np.ones(4), ValueError, ["x must have 2 or 3 dimensions", "(4,)"]),
    ("x", np.ones((4, 1, 1, 6)), ValueError, ["x must have 2 or 3 dimensions"]),
    ("x", np.ones((5, 6)), ValueError, ["x and L", "(5, 6)", "(3, 4)"]),
    ("x", np.ones((4, 3, 6)), ValueError, ["x and L", "(4, 3, 6)", "(3, 4)"]),
    ("x", np.ones((4, 0)), ValueError, ["x must be non-empty"]),
    ("L", np.zeros((3, 4)), ValueError, ["L must be different from zero"]),
    ("L", np.full((3, 4), INF), ValueError, ["L must be finite", "12"]),
    ("L", np.ones(4), ValueError, ["L must have 2 or 3 dimensions", "(4,)"]),
    ("L", np.ones((3, 4, 3)), ValueError, ["x and L", "(3, 4, 3)"]),
    ("L", None, TypeError, ["L must be real numbers"]),
    ("alpha_SNR", -0.1, ValueError, ["alpha_SNR", "-0.1"]),
    ("alpha_SNR", 1.1, ValueError, ["alpha_SNR", "1.1"]),
    ("alpha_SNR", NAN, ValueError, ["alpha_SNR", "nan"]),
    ("alpha_SNR", "0.5", TypeError, ["alpha_SNR", "'0.5'"]),
    ("alpha_SNR", None, TypeError, ["alpha_SNR", "None"]),
    ("alpha_SNR", 1e-320, ValueError, ["alpha_SNR=", "eta", "inf"]),
    ("sensor_white_noise_std", 0, ValueError, ["sensor_white_noise_std", "got 0"]),
    ("sensor_white_noise_std", -1, ValueError, ["sensor_white_noise_std", "-1"]),
    ("sensor_white_noise_std", NAN, ValueError, ["sensor_white_noise_std", "nan"]),
    ("sensor_white_noise_std", [1], TypeError, ["sensor_white_noise_std", "[1]"]),
    ("seed", -1, ValueError, ["seed", "-1"]),
    ("seed", None, TypeError, ["seed", "None"]),
    ("seed", "a", TypeError, ["seed", "'a'"]),
]


@pytest.mark.parametrize(
    "name, value, error, words", SENSORS, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(SENSORS)]
)
def test_bad_sensor_argument(name, value, error, words):
    refused(lambda: SensorSimulator().simulate(**{"x": X, "L": L, name: value}), error, words)


@pytest.mark.parametrize(
    "name, value, error",
    [
        ("kind", 4711, ValueError),
        ("kind", "meg", TypeError),
        ("units", 999, ValueError),
        ("units", "T", TypeError),
        ("unitmult", 5, ValueError),
        ("unitmult", 1e-15, TypeError),
        ("coil_type", -7, ValueError),
        ("coil_type", "EEG", TypeError),
    ],
)
def test_bad_metadata(name, value, error):
    sim = SensorSimulator()
    before = dict(vars(sim))
    refused(
        lambda: sim.set_sensor_metadata(**{name: value}), error, [name, str(value), "FIFF.FIFF"]
    )
    assert vars(sim) == before


TIMING = dict(tmin=-0.2, stim_onset=0.0, sfreq=10.0)
NOISE = [
    (
        dict(mode="guess"),
        ValueError,
        ["mode", "'given', 'baseline', 'learn'", "'guess'"],
    ),
    (dict(mode=None), ValueError, ["mode", "None"]),
    (dict(mode="oracle"), ValueError, ["noise must be given", "'oracle'", "pass the noise"]),
    (dict(mode="oracle", noise=BAD_NUMBER), ValueError, ["noise must be finite"]),
    (
        dict(mode="oracle", noise=np.zeros((2, 3))),
        ValueError,
        ["must be > 0, got 0", "alpha_SNR < 1"],
    ),
    (dict(mode="baseline", **TIMING), ValueError, ["y must be given", "'baseline'"]),
    (dict(mode="baseline", y=np.ones(9), **TIMING), ValueError, ["y must be of shape", "(9,)"]),
    (dict(mode="baseline", y=X), ValueError, ["tmin, stim_onset, sfreq must be given"]),
    (dict(mode="baseline", y=X, **{**TIMING, "sfreq": None}), ValueError, ["sfreq must be given"]),
    (
        dict(mode="baseline", y=X, **{**TIMING, "tmin": 0.0}),
        ValueError,
        ["at least 2 samples before the stimulus", "tmin=0", "start the recording earlier"],
    ),
    (
        dict(mode="baseline", y=X, **{**TIMING, "stim_onset": -0.1}),
        ValueError,
        ["at least 2 samples", "-0.1"],
    ),
    (
        dict(mode="baseline", y=X, **{**TIMING, "sfreq": 1000.0}),
        ValueError,
        ["6 samples of which 200", "check tmin, stim_onset and sfreq"],
    ),
    (dict(mode="baseline", y=X, **{**TIMING, "sfreq": -1}), ValueError, ["sfreq", "-1"]),
    (dict(mode="baseline", y=X, **{**TIMING, "tmin": "a"}), TypeError, ["tmin", "'a'"]),
    (dict(mode="baseline", y=X, **TIMING), ValueError, ["must be > 0, got 0", "'baseline'"]),
]


@pytest.mark.parametrize("kw, error, words", NOISE, ids=range(len(NOISE)))
def test_bad_noise_variance(kw, error, words):
    refused(lambda: noise_variance(**kw), error, words)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: SourceSimulator([1]), TypeError, ["ERP_config", "mapping", "[1]"]),
        (lambda: SourceSimulator(logger="log"), TypeError, ["logger", "'log'"]),
        (lambda: SensorSimulator(logger=3), TypeError, ["logger", "3"]),
        (lambda: SourceSimulator().simulate(n_source=3), TypeError, ["n_source"]),
        (
            lambda: SourceSimulator(dict(fmin=1e-9)).simulate(),
            ValueError,
            ["'fmin'", "1e-09", "raise fmin"],
        ),
        (lambda: erp_waveform(seed="1"), TypeError, ["seed", "'1'"]),
        (lambda: erp_waveform(dict(sfreq=100)), ValueError, ["82 samples"]),
        (lambda: band_pass(np.ones(27)), ValueError, ["x must have at least 28 samples, got 27"]),
        (lambda: band_pass(np.ones((2, 50))), ValueError, ["x must be of shape", "(2, 50)"]),
        (lambda: draw_active(3, 4, 0), ValueError, ["nnz", "4"]),
        (lambda: n_components("free", 0), ValueError, ["coil_type", "got 0"]),
        (lambda: snr_db(2), ValueError, ["alpha_SNR", "2"]),
        (lambda: alpha_from_db(NAN), ValueError, ["snr", "nan"]),
        (lambda: scaled_noise(np.zeros((2, 3))), ValueError, ["y_clean", "all zeros"]),
        (lambda: unit_name("T", 0), TypeError, ["units", "'T'"]),
    ],
    ids=range(15),
)
def test_bad_call(call, error, words):
    refused(call, error, words)
