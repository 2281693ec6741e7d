"Time compression: closed forms, units, and noise that the singular values tell"

import numpy as np
import pytest
from routine import number
from scipy import linalg

from calibrain.solvers.compressed import compress, learn_noise, noise_edge, time_roots


def recording(seed, M=64, T=250, n=3, noise_var=1.0, strength=1.0):
    "A few waveforms with random topographies, in white noise"
    rng = np.random.default_rng(seed)
    signal = strength * rng.normal(size=(M, n)) @ rng.normal(size=(n, T))
    return signal + np.sqrt(noise_var) * rng.normal(size=(M, T))


def test_the_edge_in_closed_form():
    "4/√3 for a square, √2 for a single row; as many sensors as samples or the other way round"
    assert np.isclose(noise_edge(50, 50), 4 / np.sqrt(3) * np.sqrt(50))
    assert np.isclose(noise_edge(1, 10**9) / np.sqrt(10**9), np.sqrt(2), rtol=1e-6)
    assert noise_edge(64, 250) == noise_edge(250, 64)


def test_the_columns_are_the_recording_on_its_leading_vectors():
    y = recording(0)
    c = compress(y, 1.0)
    U, s, _ = linalg.svd(y, full_matrices=False)
    expected = (U[:, :3] * s[:3] ** 2) @ U[:, :3].T / 3
    assert c.n_components == c.weight == 3
    assert np.allclose(c.y @ c.y.T / c.weight, expected, rtol=1e-10)
    assert np.isclose(c.share, 3 / 250)
    assert c.white is y or np.array_equal(c.white, y)


def test_nothing_above_the_noise_is_one_sample_with_the_mean_of_all():
    y = recording(1, n=0)
    c = compress(y, 1.0)
    assert (c.n_components, c.weight) == (0, 1.0)
    assert np.allclose(c.y @ c.y.T, y @ y.T / 250, rtol=1e-10)


@pytest.mark.parametrize("shape", [(64, 250), (204, 250), (250, 64), (30, 1000)])
def test_noise_is_learned(shape):
    "Within one per cent in the mean, signal or none, many sensors or many samples"
    ratio = [
        learn_noise(linalg.svdvals(recording(seed, *shape, n=seed % 5, noise_var=2.5)), *shape)
        for seed in range(number(routine=10, everything=100))
    ]
    assert abs(np.mean([found.noise_var for found in ratio]) / 2.5 - 1) < 0.015
    assert [found.n_components for found in ratio] == [i % 5 for i in range(len(ratio))]


def test_a_strong_signal_does_not_hide_a_weak_one():
    rng = np.random.default_rng(2)
    strong = 1000 * rng.normal(size=(64, 1)) @ rng.normal(size=(1, 250))
    assert compress(recording(2) + strong).n_components == 4


def test_what_is_given_too_small_is_repaired_and_what_is_larger_is_kept():
    y = recording(3)
    assert compress(y, 0.5).noise_var == compress(y).noise_var == compress(y).learned
    assert compress(y, 0.5).n_components == 3
    assert compress(y, 1.7).noise_var == 1.7


def test_a_missing_dimension_is_not_counted_as_silence():
    "An average reference takes one of 16 sensors away: 6 % of the noise, if it were counted"
    found = []
    for seed in range(number(routine=20, everything=100)):
        y = recording(seed, M=16, n=2)
        found.append(compress(y - y.mean(0)).noise_var)
    assert abs(np.mean(found) - 1) < 0.02


def test_units_and_order_change_nothing():
    y = recording(4)
    rows = np.random.default_rng(0).permutation(64)
    a, b = compress(y, 0.9), compress(1e-3 * y[rows], 0.9e-6)
    assert a.n_components == b.n_components
    assert np.isclose(b.noise_var, 1e-6 * a.noise_var, rtol=1e-12)
    C = a.y @ a.y.T
    assert np.allclose(b.y @ b.y.T, 1e-6 * C[np.ix_(rows, rows)], rtol=1e-9, atol=1e-18)


def test_few_sensors_or_samples_need_a_noise_variance():
    for shape in [(1, 250), (64, 1), (7, 100), (1, 1)]:
        y = np.random.default_rng(0).normal(size=shape)
        assert np.isnan(compress(y, 1.0).learned) and compress(y, 1.0).noise_var == 1.0
        with pytest.raises(ValueError, match="noise_var must be given"):
            compress(y)


def test_noise_correlated_in_time_is_whitened():
    lag = np.abs(np.subtract.outer(np.arange(250), np.arange(250)))
    R = 0.95**lag
    y = recording(5, n=0) @ time_roots(R, 250)[0]
    c = compress(y, 1.0, time_cov=R)
    assert c.n_components == 0 < compress(y, 1.0).n_components
    assert np.allclose(c.white @ c.time_root, y, atol=1e-9)


@pytest.mark.parametrize(
    "said, words",
    [
        (dict(n_components=0), "n_components must be finite and >= 1"),
        (dict(n_components=65), "has 64"),
        (dict(n_components="few"), 'n_components must be "auto" or a number'),
        (dict(noise_var=0), "noise_var must be finite and > 0"),
        (dict(noise_var=np.nan), "noise_var must be finite"),
        (dict(time_cov=np.ones((250, 250))), "time_cov must be positive definite"),
        (dict(time_cov=np.eye(3)), "time_cov must be of shape"),
    ],
)
def test_what_is_refused(said, words):
    with pytest.raises((ValueError, TypeError), match=words):
        compress(recording(0), **said)
