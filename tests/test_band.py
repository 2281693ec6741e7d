"""A known band of the sources: by explicit cosines, in noise of known size, and in what is refused.

The second route knows nothing of `low_functions`: cosines by their formula, a Gram-Schmidt of what
whitening makes of them, and singular vectors and plain solvers of its own.
"""

import warnings

import numpy as np
import pytest
from routine import number
from scipy import linalg
from test_components import LAMBDA, M, N, T, every_solver, recording, solved, with_noise
from test_recording_sampler import SFREQ, SHORT, solve, whitened
from test_recording_sampler import recording as a_tone

from calibrain import SourceEstimator, estimate_evoked, gamma_map, spike_slab
from calibrain.recording.bound import PATCHES
from calibrain.recording.time import baseline_factor, time_correlation
from calibrain.solvers.compressed import compress, count_low, low_functions, noise_edge, time_roots
from calibrain.solvers.registry import SOLVERS

pytestmark = [
    pytest.mark.filterwarnings("ignore::calibrain.core.warnings.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:spike_slab. the chains do not agree"),
]
FEW = dict(n_sweeps=16, n_burn=10, n_chains=2)
no_number = [float("nan"), float("inf"), "10 Hz", True, [0.1], 0.1j]


def cosines(n_times, n_functions):
    "The DCT-II, by its formula, each column of length one"
    t = np.arange(n_times)[:, None] + 0.5
    D = np.cos(np.pi * t * np.arange(n_functions) / n_times)
    return D / np.linalg.norm(D, axis=0)


def white(seed, n_sensors, n_times):
    return np.random.default_rng(seed).normal(size=(n_sensors, n_times))


def slow(seed, n_sensors, D, n=3, strength=1.0):
    "Waveforms within the span of D, each of the given length, with random topographies"
    rng = np.random.default_rng(1000 + seed)
    topographies = linalg.qr(rng.normal(size=(n_sensors, n)), mode="economic")[0]
    courses = linalg.qr(rng.normal(size=(D.shape[1], n)), mode="economic")[0]
    return strength * topographies @ courses.T @ D.T


# ---- the functions


@pytest.mark.parametrize("n_times", [1, 2, 7, 250])
def test_how_many_functions(n_times):
    "Every one whose frequency j/2T is not above the band, at least the constant, at most all"
    for band in [1e-9, 0.01, 0.1, 0.15, 0.3, 1 / 3, 0.5]:
        expected = sum(j / (2 * n_times) <= band + 1e-12 for j in range(n_times))
        assert count_low(band, n_times) == expected >= 1
    assert count_low(0.5, n_times) == n_times
    assert count_low(0.29, 50) == 30  # 2·50·0.29 is 28.999… in floating point


def test_they_are_cosines():
    assert np.allclose(low_functions(0.1, 50), cosines(50, 11), atol=1e-12)


def test_a_wave_below_the_band_lies_within():
    "Nearly all of it; and hardly anything of one above. In cycles per sample, whatever the length"
    for n_times in (100, 400):
        window = np.hanning(n_times) * np.sin(2 * np.pi * 0.04 * np.arange(n_times) + 0.3)
        kept = [
            ((window @ low_functions(band, n_times)) ** 2).sum() / (window**2).sum()
            for band in (0.02, 0.07)
        ]
        assert kept[0] < 0.1 and kept[1] > 0.99


# ---- the recording on its components


def test_by_explicit_cosines():
    D = cosines(120, 1 + 2 * 12)
    y = white(0, 24, 120) + slow(0, 24, D, strength=30)
    c = compress(y, 1.0, band=0.1)
    U, s, _ = linalg.svd(y @ D @ D.T)  # in the space of samples
    edge = noise_edge(24, 25)
    assert c.n_components == (s > edge * np.sqrt(c.noise_var)).sum() == 3
    assert np.allclose(c.y @ c.y.T, (U[:, :3] * s[:3] ** 2) @ U[:, :3].T, rtol=1e-9, atol=1e-9)
    assert np.array_equal(c.white, y) and np.isclose(c.share, 3 / 120)


def test_nothing_in_the_band_is_the_mean_of_what_it_holds():
    D = cosines(120, 25)
    y = white(1, 24, 120)
    c = compress(y, 1.5, band=0.1)
    assert (c.n_components, c.weight) == (0, 1.0)
    assert np.allclose(c.y @ c.y.T, y @ D @ D.T @ y.T / 25, rtol=1e-9, atol=1e-12)


def test_whitened_in_time_the_functions_are_too():
    "Gram-Schmidt of R^−½D; D itself would keep a part of the signal only"
    lag = np.abs(np.subtract.outer(np.arange(120), np.arange(120)))
    louder = np.where(np.arange(120) < 60, 1, 4)
    R = louder[:, None] * 0.95**lag * louder
    root, whitener = time_roots(R, 120)
    D = cosines(120, 8)
    image = whitener @ D
    Q = np.zeros_like(image)
    for j, column in enumerate(image.T):
        for _twice in range(2):
            column = column - Q @ (Q.T @ column)
        Q[:, j] = column / np.linalg.norm(column)
    signal = slow(2, 24, D, strength=20)
    y = signal + white(2, 24, 120) @ root
    c = compress(y, 1.0, 3, time_cov=R, band=0.03)
    U, s, _ = linalg.svd(y @ whitener @ Q @ Q.T)
    assert np.allclose(c.y @ c.y.T, (U[:, :3] * s[:3] ** 2) @ U[:, :3].T, rtol=1e-8, atol=1e-8)
    assert np.allclose(signal @ whitener @ Q @ Q.T, signal @ whitener, atol=1e-8)
    lost = signal @ whitener - signal @ whitener @ D @ D.T
    assert (lost**2).sum() > 0.05 * ((signal @ whitener) ** 2).sum()
    assert np.allclose(c.white @ c.time_root, y, atol=1e-9)


def test_the_whole_band_is_none():
    "Up to rounding: components, posterior of a search, and of the sampler"
    L, _, y = recording(0)
    one, other = compress(y, LAMBDA), compress(y, LAMBDA, band=0.5)
    assert one.n_components == other.n_components
    assert np.isclose(one.noise_var, other.noise_var, rtol=1e-12)
    C = one.y @ one.y.T
    assert np.allclose(other.y @ other.y.T, C, rtol=0, atol=1e-10 * np.abs(C).max())
    said = dict(update_mode="fast", n_components=3)
    plain, whole = (gamma_map(L, y, LAMBDA, band=band, **said) for band in (None, 0.5))
    size = np.abs(plain.mean).max()
    assert np.allclose(whole.mean, plain.mean, rtol=0, atol=1e-8 * size)
    assert np.allclose(whole.std, plain.std, rtol=1e-8, atol=1e-8 * plain.std.max())
    plain, whole = (spike_slab(L, y, band=band, **FEW) for band in (None, 0.5))
    assert np.allclose(whole.mean, plain.mean, rtol=0, atol=1e-8 * np.abs(plain.mean).max())
    assert np.allclose(whole["inclusion"], plain["inclusion"], atol=1e-12)


# ---- every solver


@pytest.mark.parametrize("k", [1, 3])
@every_solver
def test_by_a_second_route(name, k):
    "The plain solver on YDV finds γ; amplitudes are those of all samples with γ r/T"
    L, _, y = recording(k, k)
    band = 0.04
    found = solved(name, L, y, k, n_components="auto", band=band)
    noise = found["lambdas"] if "lambdas" in found else np.full(M, found.noise_var)
    D = cosines(T, 10)
    V = linalg.svd(y @ D / np.sqrt(noise)[:, None], full_matrices=False)[2]
    Phi = D @ V[: found["n_components"]].T
    plain = with_noise(name, L, y @ Phi, k, noise)
    gamma = plain.posterior.gamma * Phi.shape[1] / T
    assert found["n_components"] > 0
    assert np.allclose(found.posterior.gamma, gamma, rtol=1e-4)
    S = found.posterior.S.toarray()
    prior = S * found.posterior.gamma @ S.T
    gain = prior @ L.T @ np.linalg.inv(L @ prior @ L.T + np.diag(noise))
    assert np.allclose(found.mean, gain @ y, rtol=0, atol=1e-8 * np.abs(found.mean).max())


def test_amplitudes_are_of_all_samples():
    "What lies outside the band is not said to be zero"
    L, _, y = recording(2)
    for found in (
        gamma_map(L, y, LAMBDA, update_mode="fast", n_components="auto", band=0.04),
        spike_slab(L, y, LAMBDA, band=0.04, **FEW),
    ):
        D = cosines(T, 10)
        outside = found.mean - found.mean @ D @ D.T
        assert (outside**2).sum() > 0.01 * (found.std**2).sum()


# ---- how large the noise is

SHAPES = [(64, 250, 0.04), (204, 60, 0.15), (16, 250, 0.05), (64, 250, 0.2), (64, 250, 0.004)]


@pytest.mark.parametrize("referenced", [False, True])
@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize("n_sensors, n_times, band", SHAPES)
def test_noise_is_learned(n_sensors, n_times, band, n, referenced):
    "Within two per cent in the mean, signal or none, also where the band has but three functions"
    D = low_functions(band, n_times)
    n = min(n, D.shape[1])
    ratio = []
    for seed in range(number(routine=12, everything=100)):
        y = np.sqrt(2.5) * white(seed, n_sensors, n_times)
        if n:
            y += slow(seed, n_sensors, D, n, strength=60)
        if referenced:
            y = y - y.mean(0)
        ratio.append(compress(y, band=band).noise_var / 2.5)
    assert abs(np.mean(ratio) - 1) < 0.02


def test_signals_too_weak_to_be_seen_do_not_hide_the_noise():
    "They count as noise where they cannot be seen: up, and by little"
    D = low_functions(0.04, 250)
    ratio = [
        compress(white(seed, 64, 250) + slow(seed, 64, D, strength=6), band=0.04).noise_var
        for seed in range(12)
    ]
    assert -0.01 < np.mean(ratio) - 1 < 0.03


def test_a_low_pass_does_not_make_the_noise_small():
    "Hardly any power outside the band; all samples would say a fraction of it"
    low = low_functions(0.1, 250)
    D = low_functions(0.04, 250)
    for seed in range(number(routine=4, everything=40)):
        noise = white(seed, 64, 250)
        y = noise @ low @ low.T + 0.01 * noise + slow(seed, 64, D, strength=60)
        assert compress(y, band=0.04).noise_var > 0.9
        assert compress(y).noise_var < 0.1


@pytest.mark.parametrize("n_times, band", [(40, 0.15), (26, 0.28)])
def test_a_missing_dimension_is_not_counted(n_times, band):
    "A reference takes 6 % of the noise of 16 sensors, also where neither part alone shows it"
    found = []
    for seed in range(number(routine=60, everything=400)):
        y = white(seed, 16, n_times)
        found.append(compress(y - y.mean(0), band=band).noise_var)
    assert abs(np.mean(found) - 1) < 0.02


def test_means_that_were_taken_away_are_not_counted():
    "The constant is missing within the band, 2 % of the noise"
    found = []
    for seed in range(number(routine=60, everything=400)):
        y = white(seed, 24, 40)
        found.append(compress(y - y.mean(1, keepdims=True), band=0.15).noise_var)
    assert abs(np.mean(found) - 1) < 0.015


def test_what_is_given_too_small_is_repaired():
    D = low_functions(0.04, 250)
    y = white(3, 64, 250) + slow(3, 64, D, strength=60)
    learned = compress(y, band=0.04).noise_var
    assert compress(y, 0.5, band=0.04).noise_var == learned == compress(y, band=0.04).learned
    assert compress(y, 1.7, band=0.04).noise_var == 1.7


# ---- what it is for


def test_weak_sources_are_seen_sooner():
    "Never fewer components than without, where there are three to be found, and many more in all"
    counts = []
    D = low_functions(0.04, 250)
    for seed in range(number(routine=12, everything=60)):
        y = white(seed, 64, 250) + slow(seed, 64, D, strength=13)
        counts.append([compress(y, 1.0, band=band).n_components for band in (None, 0.04)])
    plain, banded = np.transpose(counts)
    assert (banded >= plain).all() and banded.max() == 3
    assert banded.mean() > 2.5 and plain.mean() < 1.5


@pytest.mark.parametrize("told", [1.0, 0.5])
def test_intervals_of_weak_sources_hold_the_truth_at_least_as_often(told):
    "The sampler, at strengths where time alone hardly shows that there is anything"
    held = []
    for seed in range(number(routine=5, everything=30)):
        L, x, y = recording(300 + seed, strength=0.7)
        on = np.abs(x) > 0.1
        shares = []
        for band in (None, 0.04):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                r = spike_slab(L, y, told * LAMBDA, band=band)
            inside = np.abs(r.mean - x) <= 1.645 * r.std
            shares.append(inside[on].mean())
        held.append(shares)
    plain, banded = np.mean(held, axis=0)
    assert banded > plain + 0.05


# ---- on the roads of a recording


def test_on_the_road_of_arrays():
    L, _, y = recording(9)
    params = dict(n_components="auto", update_mode="fast", band=0.04)
    through = SourceEstimator("gamma_map", params, noise_cov=LAMBDA * np.eye(M)).fit(L, y).predict()
    plain = gamma_map(L, y, LAMBDA, **params)
    assert through["n_components"] == plain["n_components"]
    assert np.allclose(through.mean, plain.mean, rtol=0, atol=1e-6 * np.abs(plain.mean).max())


def test_on_the_road_of_evoked_responses():
    "Whitened in time as ever; the baseline, too, is looked at in the band"
    e, _ = a_tone(memory=0.8)
    params = SHORT | dict(band=15 / e.info["sfreq"])
    est = solve(e, params=params)
    h, before, window = whitened(e, "fixed")
    R = time_correlation([before], window.shape[1])
    by_hand = spike_slab(
        h.weighted.L,
        window,
        1 / e.nave,
        patches=PATCHES,
        src_coords=h.leadfield.coords,
        time_cov=R,
        band=15 / SFREQ,
        **SHORT,
    )
    assert np.allclose(est.posterior.mean, by_hand.mean)
    assert np.allclose(est.result["inclusion"], by_hand["inclusion"])
    r, noise_var = by_hand["n_components"], by_hand.noise_var
    expected = baseline_factor(before, r, noise_var, R, band=15 / SFREQ)
    assert np.isclose(est.power["baseline_factor"], expected)


def test_the_baseline_in_the_band_by_explicit_cosines():
    noise = white(5, 20, 80)
    centred = noise - noise.mean(1, keepdims=True)
    power = linalg.svdvals(centred @ cosines(80, 9))[:2] ** 2
    assert np.isclose(baseline_factor(noise, 2, 0.5, band=0.05), power.sum() / (0.5 * 20 * 2))


# ---- what is refused, and what is small


def asked(name, **params):
    "A solver, the sampler too, on a small recording"
    rng = np.random.default_rng(0)
    L, y = rng.normal(size=(M, N)), rng.normal(size=(M, 30))
    if name == "spike_slab":
        return spike_slab(L, y, LAMBDA, **FEW | params)
    return solved(name, L, y, **params)


@pytest.mark.parametrize("name", [*SOLVERS, "spike_slab"])
def test_what_is_no_band(name):
    for band in (0, -0.1, 0.51, 40):
        with pytest.raises(ValueError, match=f"band must be .*got {band}: in cycles per sample"):
            asked(name, n_components="auto", band=band)
    for band in no_number:
        with pytest.raises((TypeError, ValueError), match=r"^band must be"):
            asked(name, n_components="auto", band=band)
    words = "<= 4, got 5: a recording of this size has 4 within band=0.05"
    with pytest.raises(ValueError, match=f"n_components must be .*{words}"):
        asked(name, n_components=5, band=0.05)


@every_solver
def test_a_band_needs_components(name):
    with pytest.raises(
        ValueError, match=r"band must be None where all samples.*n_components='auto'"
    ):
        asked(name, band=0.1)
    for value in (0, "10 Hz"):
        with pytest.raises((TypeError, ValueError), match=r"^band must be"):
            asked(name, band=value)
    if "rule" not in SOLVERS[name].takes():
        return  # a solver that calibrain 1.0 did not have
    with pytest.raises(ValueError, match=r"band must be None with rule='calibrain-1.0'"):
        asked(name, band=0.1, rule="calibrain-1.0", **of_published(name))


def of_published(name):
    "What the published rule asks for"
    return dict(update_mode=2) if "update_mode" in SOLVERS[name].takes() else {}


@every_solver
def test_complex_samples_have_no_band(name):
    L, _, y = recording(4)
    z = y[:, :60] + 1j * y[:, 60:]
    with pytest.raises(ValueError, match=r"band must be None where y is complex"):
        solved(name, L, z, n_components="auto", band=0.1)


def test_refused_on_the_road_of_evoked_responses():
    from test_recording_sampler import cov, head

    e, _ = a_tone()
    said = dict(tmin=0.0, tmax=0.39, orientation="fixed", progress=False)
    with pytest.raises(ValueError, match=r"band must be .* got 15: in cycles per sample"):
        solve(e, params=dict(band=15))
    with pytest.raises(ValueError, match="n_components='auto'"):
        estimate_evoked(
            e, head()[0], cov(), "gamma_map", solver_params=dict(band=15 / SFREQ), **said
        )


@pytest.mark.parametrize("shape", [(1, 30), (12, 1), (1, 1), (2, 3)])
@pytest.mark.parametrize("name", [*SOLVERS, "spike_slab"])
def test_one_sensor_or_one_sample(name, shape):
    rng = np.random.default_rng(8)
    L, y = rng.normal(size=(shape[0], N)), 9 * rng.normal(size=shape)
    for band in (1e-6, 0.2, 0.5):
        for n_components in ("auto", 1):
            params = dict(n_components=n_components, band=band)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if name == "spike_slab":
                    found = spike_slab(L, y, LAMBDA, **params, **FEW)
                else:
                    found = solved(name, L, y, **params)
            assert found.mean.shape == (N, shape[1])
            assert np.isfinite(found.cost) and np.isfinite(found.mean).all()


def test_nothing_in_the_band_is_an_answer():
    "A source that is all above the band: no component, and noise that is not too small"
    t = np.arange(T)
    rng = np.random.default_rng(0)
    y = 20 * np.outer(rng.normal(size=M), np.cos(np.pi * 90 * (t + 0.5) / T))
    c = compress(y + rng.normal(size=(M, T)), 1.0, band=0.1)
    assert c.n_components == 0 and c.noise_var > 1
