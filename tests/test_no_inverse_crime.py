"Simulations that are no inverse crime: coloured noise, activity that is not points, another head."

from dataclasses import replace

import numpy as np
import pytest
from routine import some
from scipy import linalg
from scipy.sparse import csgraph

import calibrain
from calibrain.head import average
from calibrain.head.cortex import Cortex
from calibrain.head.leadfield import Leadfield
from calibrain.head.template import template_leadfield, template_sensors, template_vertices
from calibrain.simulation import forward_errors
from calibrain.simulation.activity import (
    background_sources,
    compose_sources,
    correlated_waveform,
    distances_along,
    erp_waveforms,
    patch_weights,
    random_directions,
)
from calibrain.simulation.forward_errors import (
    moved_sensors,
    off_grid,
    other_conductor,
    rotated_normals,
    simulated_head,
    tilted,
)
from calibrain.simulation.noise import PINK, WHITE, TimeModel, sensor_noise
from calibrain.simulation.sensors import noise_variance, project, scaled_noise, snr_db
from calibrain.simulation.sources import as_erp_config, erp_waveform

COLOURS = {
    "white": WHITE,
    "AR(1)": TimeModel([0.95]),
    "AR(1), alternating": TimeModel([-0.7]),
    "AR(2)": TimeModel([1.5, -0.8]),
    "AR(3)": TimeModel([0.5, 0.1, -0.3]),
    "AR(20)": TimeModel([0] * 19 + [0.9]),
    "1/f": PINK,
    "1/f²": TimeModel(exponent=2),
    "1/√f": TimeModel(exponent=0.5),
}


def close(a, b, **kw):
    np.testing.assert_allclose(a, b, rtol=kw.pop("rtol", 0), atol=kw.pop("atol", 1e-12), **kw)


def refused(call, error, words):
    with pytest.raises(error) as e:
        call()
    for word in words:
        assert word in str(e.value), str(e.value)


# ---------------------------------------------------------------- noise in time


@pytest.mark.parametrize("name", [name for name in COLOURS if "AR" in name])
def test_autocorrelation_of_ar_from_its_impulse_response(name):
    "Yule-Walker, and sums over the response to a single innovation, agree"
    model = COLOURS[name]
    p = len(model.ar)
    response = np.zeros(4000)
    for t in range(4000):
        past = response[max(t - p, 0) : t][::-1]
        response[t] = (t == 0) + np.dot(model.ar[: len(past)], past)
    r = [response[: 4000 - h] @ response[h:] for h in range(60)]
    close(model.correlation(60), np.array(r) / r[0], atol=1e-9)


@pytest.mark.parametrize("exponent", [0.5, 1, 2])
def test_power_of_one_over_f(exponent):
    "The logarithm of the power falls by the exponent, over two decades"
    drawn = TimeModel(exponent=exponent).draw(400, 2000, seed=3)
    tapered = drawn * np.hanning(2000)  # else the ends of the recording leak into high frequencies
    power = (np.abs(np.fft.rfft(tapered)) ** 2).mean(axis=0)
    k = np.arange(5, 500)
    slope = np.polyfit(np.log(k), np.log(power[k]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.05)


class UnitVectors(np.random.Generator):
    "White noise that is one at one place: what is made of it says what the draw is, exactly"

    def __init__(self):
        super().__init__(np.random.PCG64(0))

    def standard_normal(self, size):
        return np.eye(*size)


@pytest.mark.parametrize("n_times", [1, 2, 15, 40])
@pytest.mark.parametrize("name", COLOURS)
def test_stationary_from_the_first_sample(name, n_times):
    "JJᵀ, the covariance of a draw by its linear map J, is the Toeplitz matrix of r: no transient"
    model = COLOURS[name]
    n_white = 5 * n_times + 20  # at least as many as are drawn, for any model
    response = model.draw(n_white, n_times, UnitVectors())
    r = model.correlation(n_times)
    assert r[0] == pytest.approx(1, abs=1e-12)
    close(response.T @ response, linalg.toeplitz(r), atol=1e-10)


def test_noise_that_is_not_stationary():
    for ar in ([1.0], [-1.0], [0.5, 0.5], [2.0, -0.5], [0, 0, 1.1]):
        refused(lambda ar=ar: TimeModel(ar), ValueError, ["ar must be", "stationary", "root"])


# ---------------------------------------------------------------- noise across sensors


def spread(n_sensors, rank=None, seed=0):
    "A covariance without structure"
    A = np.random.default_rng(seed).normal(size=(n_sensors, rank or n_sensors))
    return A @ A.T


Y = np.outer(np.arange(1.0, 7), np.sin(np.arange(300) / 20) * (np.arange(300) >= 100))


@pytest.mark.parametrize("since", [0, 100])
@pytest.mark.parametrize("said", [dict(alpha_SNR=0.3), dict(alpha_SNR=0.9), dict(snr=-7.0)])
@pytest.mark.parametrize("name", ["white", "AR(2)", "1/f"])
def test_ratio_is_exact(name, said, since):
    how = dict(covariance=spread(6), in_time=COLOURS[name], since=since, seed=4)
    drawn = sensor_noise(Y, **said, **how)
    size = np.linalg.norm(Y[:, since:]) / np.linalg.norm(drawn.noise[:, since:])
    wanted = said["snr"] if "snr" in said else snr_db(said["alpha_SNR"])
    assert 20 * np.log10(size) == pytest.approx(wanted, abs=1e-10)
    close(drawn.covariance, drawn.eta**2 * spread(6), rtol=1e-12)
    assert drawn.variance == pytest.approx(np.trace(drawn.covariance) / 6)
    close(drawn.toeplitz[0], drawn.correlation)


@pytest.mark.parametrize("name", ["white", "AR(1), alternating"])
@pytest.mark.parametrize("rank", [6, 4])
def test_covariance_is_that_of_the_noise(rank, name):
    C = spread(6, rank)
    n = 40_000
    E = sensor_noise(np.ones((6, n)), covariance=C, in_time=COLOURS[name], seed=1).noise
    worth = n / (1 + 2 * (COLOURS[name].correlation(50)[1:] ** 2).sum())  # independent samples
    std = np.sqrt(C.diagonal())
    off = np.abs(E @ E.T / n - C) / np.outer(std, std)
    assert off.max() < 6 * np.sqrt(2 / worth)
    _, U = linalg.eigh(C)
    assert np.abs(U[:, : 6 - rank].T @ E).max(initial=0) < 1e-6 * np.abs(E).max()


def test_sensors_of_very_different_size():
    "The small ones keep their digits, and variances stand for a diagonal matrix"
    size = np.array([1e-6, 1e-6, 1e6, 1e6])
    C = spread(4)
    plain = sensor_noise(np.ones((4, 50)), covariance=C, seed=2)
    scaled = sensor_noise(np.ones((4, 50)), covariance=C * np.outer(size, size), seed=2)
    close(scaled.noise / size[:, None], plain.noise, atol=1e-9)
    by_variance = sensor_noise(np.ones((4, 50)), covariance=size**2, seed=2)
    by_matrix = sensor_noise(np.ones((4, 50)), covariance=np.diag(size**2), seed=2)
    np.testing.assert_array_equal(by_variance.noise, by_matrix.noise)


def test_seeds_of_noise():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    rng = np.random.default_rng(5)
    one, two = (sensor_noise(Y, 0.5, seed=rng).noise for _ in range(2))
    assert (one != two).all()  # a generator goes on
    np.testing.assert_array_equal(sensor_noise(Y, 0.5, seed=5).noise, one)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_ends_of_the_scale():
    assert not sensor_noise(Y, 1.0).noise.any()
    alone = sensor_noise(Y, 0.0).noise
    assert np.linalg.norm(alone) == pytest.approx(np.linalg.norm(Y))
    noise, eta = scaled_noise(Y, 1.0)
    assert eta == 0 and not np.signbit(noise).any()


@pytest.mark.parametrize(
    "how, error, words",
    [
        (dict(), ValueError, ["alpha_SNR must be given", "None", "snr in dB"]),
        (dict(alpha_SNR=0.5, snr=1.0), ValueError, ["snr must be left out", "1.0"]),
        (dict(alpha_SNR=1.5), ValueError, ["alpha_SNR", "1.5"]),
        (dict(snr=np.nan), ValueError, ["snr", "nan"]),
        (dict(snr=0.0, covariance=np.eye(5)), ValueError, ["covariance", "(6, 6)", "(5, 5)"]),
        (dict(snr=0.0, covariance=np.ones(5)), ValueError, ["covariance", "(6)", "(5,)"]),
        (dict(snr=0.0, covariance=-np.ones(6)), ValueError, ["covariance", "negative variances"]),
        (dict(snr=0.0, covariance=np.zeros(6)), ValueError, ["covariance", "all zeros"]),
        (dict(snr=0.0, covariance=np.triu(spread(6))), ValueError, ["covariance", "symmetric"]),
        (dict(snr=0.0, in_time=0.9), TypeError, ["in_time", "0.9", "TimeModel(ar=[0.9])"]),
        (dict(snr=0.0, since=300), ValueError, ["since", "300 samples"]),
        (dict(snr=0.0, since=1.5), TypeError, ["since", "1.5"]),
        (dict(snr=0.0, seed="a"), TypeError, ["seed", "'a'"]),
    ],
    ids=range(13),
)
def test_bad_noise(how, error, words):
    refused(lambda: sensor_noise(Y, **how), error, words)


def test_signal_before_the_window_only():
    refused(lambda: sensor_noise(Y[:, ::-1], 0.5, since=200), ValueError, ["y_clean", "all zeros"])


@pytest.mark.parametrize(
    "tmin, sfreq, n",
    [
        (-0.1, 600.0, 60),
        (-0.29, 100.0, 29),
        (-0.15, 250.0, 37),
        (-0.5, 250.0, 125),
        (-0.7, 10.0, 7),
    ],
)
def test_samples_before_the_stimulus(tmin, sfreq, n):
    "As many as were meant, whatever floating point makes of the product"
    y = np.zeros((1, n + 5))
    y[0, n:] = 1e6  # the response, which must stay out
    y[0, n - 1] = 1.0  # the last sample before it, which must be in
    variance = noise_variance("baseline", y=y, tmin=tmin, stim_onset=0.0, sfreq=sfreq)
    assert variance == pytest.approx(np.var(y[0, :n]), rel=1e-12)


# ---------------------------------------------------------------- activity


def test_waveforms_are_those_of_the_simulators():
    settings = dict(fmin=2, fmax=8, random_erp_timing=False)
    seeds = np.random.default_rng(9).integers(0, 2**31 - 1, size=3)
    for waveform, seed in zip(erp_waveforms(3, settings, seed=9), seeds):
        np.testing.assert_array_equal(waveform, erp_waveform(settings, int(seed)))


@pytest.mark.parametrize("rho", [-1, -0.5, 0, 0.3, 0.99, 1])
def test_correlation_is_exact(rho):
    for seed in range(20):
        first, second = erp_waveforms(2, seed=seed)
        pair = correlated_waveform(first, second, rho)
        assert np.corrcoef(first, pair)[0, 1] == pytest.approx(rho, abs=1e-10)
        assert np.abs(pair).max() == pytest.approx(np.abs(second).max())
        silent = ~(first.astype(bool) | second.astype(bool))
        assert silent[:125].all() and not pair[silent].any()


def strip(n=41, step=0.002, fold=None):
    "A strip of cortex three vertices wide; folded, its second half lies 1 mm above the first"
    along, across = np.meshgrid(np.arange(n), np.arange(3), indexing="ij")
    x = step * along.astype(float)
    z = np.zeros_like(x)
    if fold is not None:
        z[fold:] = 0.001
        x[fold:] = 2 * x[fold - 1] - x[fold:] + step
    rr = np.stack([x, step * across, z], axis=-1).reshape(-1, 3)
    corner = (3 * np.arange(n - 1)[:, None] + np.arange(2)).ravel()
    tris = np.concatenate(
        [
            np.stack([corner, corner + 3, corner + 1], 1),
            np.stack([corner + 3, corner + 4, corner + 1], 1),
        ]
    )
    middle = 3 * np.arange(n) + 1  # sources along the middle row
    return Cortex(rr, tris, np.ones(len(rr), bool), middle)


def test_distances_along_a_flat_and_a_folded_strip():
    apart = distances_along(strip(), [0, 20])
    close(apart[0], 0.002 * np.arange(41))
    close(apart[1], 0.002 * np.abs(np.arange(41) - 20))
    folded = strip(fold=20)
    rr = folded.rr[folded.sources]
    over = np.linalg.norm(rr[10] - rr[29])  # from bank to bank, through the fluid
    along = distances_along(folded, [10])[0, 29]
    assert over == pytest.approx(0.001) and along > 0.03
    disc = patch_weights(folded, [10], 0.005)[0]
    np.testing.assert_array_equal(np.flatnonzero(disc), [8, 9, 10, 11, 12])


@pytest.mark.parametrize("radius", [0, 0.003, 0.0079, 0.0081, 0.031])
def test_profiles_of_patches(radius):
    d = 0.002 * np.abs(np.arange(41) - 20)
    inside = d <= radius
    close(patch_weights(strip(), [20], radius)[0], inside / inside.sum())
    bump = np.exp(-((d / max(radius, 1e-9)) ** 2) / 2) * (d <= 3 * radius)
    close(patch_weights(strip(), [20], radius, "gaussian")[0], bump / bump.sum())


@pytest.mark.parametrize("k", [2, 3])
def test_one_direction_or_components_of_their_own(k):
    rng = np.random.default_rng(k)
    weights, waveforms = rng.random((4, 12)), rng.normal(size=(4, 30))
    d = random_directions(4, k, seed=1)
    close(np.linalg.norm(d, axis=1), np.ones(4))
    x = compose_sources(weights, waveforms, d)
    expected = np.zeros((12, k, 30))
    for i in range(4):
        for n in range(12):
            expected[n] += weights[i, n] * np.outer(d[i], waveforms[i])
    close(x, expected)
    own = rng.normal(size=(4, k, 30))
    x = compose_sources(np.eye(12)[[1, 3, 5, 7]], own)
    np.testing.assert_array_equal(x[[1, 3, 5, 7]], own)
    assert np.count_nonzero(x.any(axis=(1, 2))) == 4


def test_directions_are_drawn_evenly():
    "Each axis has a third of the power, and no side is preferred"
    d = random_directions(30_000, 3, seed=0)
    close(d.T @ d / 30_000, np.eye(3) / 3, atol=0.01)
    close(d.mean(axis=0), np.zeros(3), atol=0.02)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_share_of_the_background(k):
    lf = Leadfield.random(20, 60, k, seed=1)
    x = compose_sources(np.eye(60)[[4, 40]], erp_waveforms(2, seed=1), random_directions(2, k))
    y_clean = project(x, lf)
    for share in (0.01, 0.5, 0.95):
        how = dict(share=share, n_active=58, exclude=[4, 40], seed=2)
        background = background_sources(y_clean, lf, **how)
        power = np.linalg.norm(project(background, lf)) ** 2
        assert power / (power + np.linalg.norm(y_clean) ** 2) == pytest.approx(share, rel=1e-10)
        per_source = background.reshape(60, -1)
        assert np.count_nonzero(per_source.any(axis=1)) == 58
        assert not per_source[[4, 40]].any()
        np.testing.assert_array_equal(background_sources(y_clean, lf, **how), background)


def test_background_is_noise_of_a_known_covariance():
    lf = Leadfield.random(8, 12, seed=3)
    y_clean = np.ones((8, 30_000))
    how = dict(n_active=10, exclude=[0, 5], in_time=WHITE, seed=1)
    x = background_sources(y_clean, lf, 0.5, **how)
    seen = project(x, lf)
    L = np.delete(lf.data[:, :, 0], [0, 5], axis=1)
    C = x[1].var() * L @ L.T
    std = np.sqrt(C.diagonal())
    assert np.abs((seen @ seen.T / 30_000 - C) / np.outer(std, std)).max() < 0.05


# ---------------------------------------------------------------- errors of the forward model

pytest.importorskip("nilearn", reason="template heads need nilearn: pip install 'calibrain[heads]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module")
def head(folder):
    def make(modality="eeg", orientation="fixed"):
        montage = "biosemi16" if modality == "eeg" else None
        how = dict(conductor="sphere", montage=montage, cache_dir=folder, progress=False)
        return template_leadfield(modality, orientation=orientation, **how)

    return make


@pytest.mark.parametrize(
    "modality, orientation",
    some(
        [("eeg", "fixed"), ("eeg", "free"), ("meg", "meg2"), ("grad", "free"), ("mag", "fixed")],
        every=2,
    ),
)
def test_without_an_error_it_is_the_same_head(head, folder, modality, orientation):
    lf = head(modality, orientation)
    for same in (simulated_head(lf), moved_sensors(lf), other_conductor(lf, "sphere")):
        again = same.leadfield(folder)
        close(again.data, lf.data, atol=1e-12 * np.abs(lf.data).max())
        assert (again.ch_names, again.units, again.origin) == (lf.ch_names, lf.units, lf.origin)
    some = lf.select(sensors=[3, 1], sources=[9, 2, 1000])
    part = simulated_head(some).leadfield(folder)
    close(part.data, some.data, atol=1e-10 * np.abs(lf.data).max())


def test_another_conductor_is_that_of_the_template(folder):
    how = dict(montage="biosemi16", cache_dir=folder, progress=False)
    sphere = template_leadfield("eeg", conductor="sphere", **how)
    shells = replace(sphere, origin="fsaverage, biosemi16, bem")
    close(other_conductor(shells, "sphere").leadfield(folder).data, sphere.data)


def test_potentials_go_with_the_inverse_of_all_conductivities(head, folder, monkeypatch):
    monkeypatch.setattr(average, "_CORNERS", dict(eeg=120, meg=120))
    few = head().select(sources=np.arange(0, 1284, 60))
    usual = other_conductor(few, "bem").leadfield(folder)
    twice = dict(brain=0.6, skull=0.012, scalp=0.6)
    halved = other_conductor(few, "bem", twice).leadfield(folder)
    close(2 * halved.data, usual.data, atol=1e-6 * np.abs(usual.data).max())


def test_turned_and_shifted_sensors():
    rr, _ = average.shipped_surface("head")
    middle = rr[rr[:, 2] > 0.04].mean(0)

    def coils(**moved):
        info = average.place_sensors("neuromag", **moved)
        return average.mne.transforms.apply_trans(info["dev_head_t"], average.sensor_places(info))

    usual = coils() - middle
    turned = coils(turn=(2, 0, 0)) - middle  # about the axis to the right: backwards
    c, s = np.cos(np.deg2rad(2)), np.sin(np.deg2rad(2))
    close(turned[:, 1], c * usual[:, 1] - s * usual[:, 2], atol=1e-9)
    close(turned[:, 2], s * usual[:, 1] + c * usual[:, 2], atol=1e-9)
    close(coils(shift=(0.001, 0.002, 0.003)) - middle - usual, [[0.001, 0.002, 0.003]] * 306)


def test_astray_electrodes():
    usual = average.sensor_places(average.place_sensors("biosemi256"))
    off = [
        average.sensor_places(average.place_sensors("biosemi256", jitter=0.004, seed=seed)) - usual
        for seed in (1, 2)
    ]
    for way in off:  # some slope of the scalp against the ray makes ways a little longer
        assert np.sqrt((way**2).sum(1).mean()) == pytest.approx(0.004, rel=0.15)
    assert not np.allclose(*off)


@pytest.mark.parametrize("degrees", [0, 5, 20, 90, 180])
def test_tilted_normals(degrees):
    n = random_directions(5000, 3, seed=1)
    turned = tilted(n, degrees, seed=2)
    close((turned * n).sum(1), np.full(5000, np.cos(np.deg2rad(degrees))))
    close(np.linalg.norm(turned, axis=1), np.ones(5000))
    aside = turned - (turned * n).sum(1, keepdims=True) * n
    assert np.linalg.norm(aside.mean(0)) < 0.05 * np.sin(np.deg2rad(degrees)) + 1e-9


def test_rotated_normals_at_the_sensors(head, folder):
    "Fixed and free leadfield agree on what a source along another direction looks like"
    lf, free = head(), head(orientation="free")
    truth = rotated_normals(lf, 30, seed=3).leadfield(folder)
    expected = np.einsum("mnk,nk->mn", free.data, truth.normals)
    close(truth.data[:, :, 0], expected)
    x = np.zeros((1284, 2))
    x[7] = 5
    close(project(x, truth), project(x[:, None] * truth.normals[:, :, None], free))
    assert template_sensors(truth) is None and template_vertices(lf) is not None


@pytest.mark.parametrize("distance", some([0.002, 1e-4, 0.006, 0.02], every=2))
def test_off_the_grid_is_as_far_as_asked_for(head, distance):
    "The shortest way along the edges, with the new places joined to the mesh, has that length"
    few = head().select(sources=np.arange(0, 1284, 100))
    moved = off_grid(few, distance, seed=1)
    rr, tris = forward_errors._whole_cortex()
    lengths = forward_errors.edge_lengths(rr, tris)
    for start, end in zip(few.coords, moved.coords):
        source = np.linalg.norm(rr - start, axis=1).argmin()
        d = csgraph.dijkstra(lengths, indices=source, limit=0.05)
        gap = np.linalg.norm(rr - end, axis=1)
        near = np.argsort(gap)[:60]
        u, v = np.array([(a, b) for a in near for b in near if a < b and lengths[a, b] > 0]).T
        through = np.abs(gap[u] + gap[v] - np.linalg.norm(rr[u] - rr[v], axis=1))
        edge = through.argmin()
        assert through[edge] < 1e-9, "it lies on an edge"
        way = min(d[u[edge]] + gap[u[edge]], d[v[edge]] + gap[v[edge]])
        assert way == pytest.approx(distance, abs=1e-9)


def test_off_the_grid_at_the_sensors(head, folder):
    lf = head().select(sources=np.arange(0, 1284, 20))
    size = np.linalg.norm(lf.data)
    errors = []
    for distance in (1e-6, 0.001, 0.004):
        truth = off_grid(lf, distance, seed=4, turn=False).leadfield(folder)
        errors.append(np.linalg.norm(truth.data - lf.data) / size)
    assert errors[0] < 1e-4 and errors[0] < errors[1] < errors[2] < 0.5
    turned = off_grid(lf, 0.004, seed=4).leadfield(folder)
    assert np.linalg.norm(turned.data - lf.data) / size > errors[2]
    close(np.linalg.norm(turned.normals, axis=1), np.ones(65))
    two = head("meg", "meg2").select(sources=[5, 6])
    moved = off_grid(two, 0.004)
    np.testing.assert_array_equal(moved.basis, two.basis)  # what x means stays


def test_errors_add_up_and_are_kept(head, folder, monkeypatch):
    lf = head().select(sources=[5, 700])
    away = off_grid(moved_sensors(lf, turn=(0, 0, 3)), 0.004, seed=1)
    both = rotated_normals(other_conductor(away, conductivity=dict(skull=0.01)), 10)
    assert both.changes == (
        "sensors turned by 0 0 3°",
        "4 mm off the grid",
        "skull 0.01 S/m",
        "normals turned by 10°",
    )
    first = both.leadfield(folder)
    assert first.origin == f"fsaverage, biosemi16, sphere, {', '.join(both.changes)}"
    back = other_conductor(moved_sensors(both), conductivity=dict(skull=0.02))
    assert back.moved is None and back.conductivity == dict(skull=0.02)

    def fail(*_):
        raise AssertionError("it was kept")

    monkeypatch.setattr(forward_errors, "average_leadfield", fail)
    np.testing.assert_array_equal(both.leadfield(folder).data, first.data)
    other_tilt = rotated_normals(away, 5)
    with pytest.raises(AssertionError, match="it was kept"):
        other_tilt.leadfield(folder)  # another skull is another head
    refused(lambda: rotated_normals(first, 3), ValueError, ["head", "before its leadfield()"])


def test_heads_that_do_not_say_what_they_are():
    lf = Leadfield.random()
    calls = [
        lambda: other_conductor(lf, "bem"),
        lambda: moved_sensors(lf, jitter=0.001),
        lambda: rotated_normals(lf, 3),
        lambda: off_grid(lf, 0.004),
    ]
    for call in calls:
        refused(call, ValueError, ["head must be", "'random'", "Leadfield.from_forward"])


def test_bad_errors(head):
    lf, meg = head(), head("mag")
    for call, error, words in [
        (lambda: other_conductor(lf), ValueError, ["conductor", "None"]),
        (lambda: other_conductor(lf, "egg"), ValueError, ["conductor", "'egg'"]),
        (lambda: other_conductor(lf, None, dict(skul=1)), ValueError, ["conductivity", "'skul'"]),
        (lambda: other_conductor(lf, None, dict(skull=-1)), ValueError, ["['skull']", "-1"]),
        (lambda: other_conductor(meg, None, dict(skull=1)), ValueError, ["None for MEG"]),
        (lambda: moved_sensors(meg, jitter=0.01), ValueError, ["jitter", "0 for MEG"]),
        (lambda: moved_sensors(meg, shift=(0, 0, -0.05)), ValueError, ["outside the head"]),
        (lambda: moved_sensors(lf, shift=(0, 4, 0)), ValueError, ["shift", "millimetres"]),
        (lambda: moved_sensors(lf, turn=[1]), ValueError, ["turn", "(3)"]),
        (lambda: rotated_normals(lf, np.nan), ValueError, ["degrees", "nan"]),
        (lambda: rotated_normals(head("mag", "meg2"), 3), ValueError, ["fixed orientation"]),
        (lambda: off_grid(lf, 0), ValueError, ["distance", "got 0"]),
        (lambda: off_grid(off_grid(lf, 0.003), 0.003), ValueError, ["vertices of the average"]),
        (lambda: off_grid("head", 0.003), TypeError, ["head", "str"]),
    ]:
        refused(call, error, words)


def test_names_at_the_top():
    for name in ("sensor_noise", "TimeModel", "patch_weights", "off_grid", "rotated_normals"):
        assert getattr(calibrain, name) is not None
    assert as_erp_config(None)["sfreq"] == 250
