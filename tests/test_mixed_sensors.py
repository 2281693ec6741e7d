"""Magnetometers, gradiometers and electrodes of one simulated recording: the share of each kind, and
the road of a passport, which whitens them."""

import numpy as np
import pytest

from calibrain import (
    Leadfield,
    SensorSimulator,
    SourceEstimator,
    SourceSimulator,
    TimeModel,
    calibrate,
    sensor_noise,
)
from calibrain.passport.runs import solve
from calibrain.passport.scene import array_scene
from calibrain.simulation.sensors import noise_variance, snr_db
from calibrain.solvers.bind import bind

UNITS = ["fT/nAm"] * 10 + ["fT/cm/nAm"] * 12 + ["µV/nAm"] * 8
SIZES = np.repeat([30.0, 400.0, 0.2], [10, 12, 8])
KINDS = {unit: np.array([u == unit for u in UNITS]) for unit in dict.fromkeys(UNITS)}


def head():
    L = np.random.default_rng(0).standard_normal((30, 40))
    return Leadfield(SIZES[:, None] * L, unit=UNITS)


def sources():
    return SourceSimulator().simulate(n_sources=40, nnz=2, seed=3)[0]


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_each_kind_has_its_share(alpha):
    clean, y, noise, eta = SensorSimulator().simulate(sources(), head(), alpha_SNR=alpha, seed=1)
    np.testing.assert_allclose(y, clean + noise)
    for of in KINDS.values():
        ratio = np.linalg.norm(clean[of]) / np.linalg.norm(noise[of])
        assert 20 * np.log10(ratio) == pytest.approx(snr_db(alpha), abs=1e-9)
        assert np.ptp(eta[of]) == 0
    assert len(np.unique(eta)) == 3
    factor = np.array([7.0, 0.5, 3.0])[[list(KINDS).index(u) for u in UNITS]]
    other = Leadfield(factor[:, None] * head().data[:, :, 0], unit=UNITS)  # in other units
    again = SensorSimulator().simulate(sources(), other, alpha_SNR=alpha, seed=1)
    np.testing.assert_allclose(again[1], factor[:, None] * y)
    np.testing.assert_allclose(again[3], factor * eta)


def test_no_noise_and_noise_alone():
    clean, y, noise, eta = SensorSimulator().simulate(sources(), head(), alpha_SNR=1)
    assert not noise.any() and not np.any(eta) and np.array_equal(y, clean)
    _, y, noise, _ = SensorSimulator().simulate(sources(), head(), alpha_SNR=0)
    assert np.array_equal(y, noise) and noise.any(axis=1).all()


def test_one_kind_is_as_before():
    L = head().data[:10, :, 0]
    plain = SensorSimulator().simulate(sources(), L, seed=5)
    named = SensorSimulator().simulate(sources(), Leadfield(L, unit="fT/nAm"), seed=5)
    for a, b in zip(plain, named):
        np.testing.assert_array_equal(a, b)
    assert isinstance(named[3], float)


def test_the_road_of_a_passport_is_the_same():
    "Whitened by what was added, each kind counts as much as the scene of `calibrate` lets it"
    clean, y, noise, eta = SensorSimulator().simulate(sources(), head(), alpha_SNR=0.6, seed=2)
    variance = noise_variance("oracle", noise=noise, units=UNITS)
    np.testing.assert_allclose(np.sqrt(variance), eta, rtol=0.1)
    scene = array_scene(head(), np.diag(variance))
    W = scene.whitener.W
    ratio = np.linalg.norm(W @ clean) / np.linalg.norm(W @ noise)
    assert ratio == pytest.approx(0.6 / 0.4, rel=1e-9)
    by_scene = solve(bind("BMN", {}).told(1), W @ y, scene, scene.noise_var)
    by_hand = SourceEstimator("BMN", noise_cov=np.diag(variance)).fit(head(), y).predict()
    np.testing.assert_allclose(by_hand.mean, by_scene.mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(by_hand.std, by_scene.std, rtol=1e-6)
    passport = calibrate(
        head(),
        np.diag(variance),
        solver="BMN",
        n_train=20,
        n_test=4,
        scenario=dict(nnz=2),
        progress=False,
    )
    assert passport.apply(by_hand).calibration is not None


def test_the_baseline_of_each_kind():
    clock = SourceSimulator()
    _, y, noise, _ = SensorSimulator().simulate(sources(), head(), alpha_SNR=0.6, seed=2)
    said = {name: clock.config[name] for name in ("tmin", "stim_onset", "sfreq")}
    by_unit = noise_variance("baseline", y=y, units=UNITS, **said)
    for of in KINDS.values():
        alone = noise_variance("baseline", y=y[of], **said)
        np.testing.assert_allclose(by_unit[of], alone)
        assert alone == pytest.approx(noise[of].var(), rel=0.1)
    assert noise_variance("adaptive_joint_learning", units=UNITS) is None
    with pytest.raises(ValueError, match="30 texts"):
        noise_variance("oracle", noise=noise, units=UNITS[:4])


def test_coloured_noise_of_each_kind():
    clean = head().data[:, :, 0] @ sources()
    drawn = sensor_noise(clean, snr=3.0, in_time=TimeModel([0.9]), units=UNITS, seed=1)
    for of in KINDS.values():
        ratio = np.linalg.norm(clean[of]) / np.linalg.norm(drawn.noise[of])
        assert 20 * np.log10(ratio) == pytest.approx(3.0, abs=1e-9)
    np.testing.assert_allclose(drawn.covariance, np.diag(drawn.eta**2))
    with pytest.raises(ValueError, match="variance must be asked of sensors of one unit"):
        drawn.variance  # noqa: B018 (µV² and fT² have no mean)


def test_a_kind_that_sees_nothing_is_named():
    L = head().data[:, :, 0].copy()
    L[22:] = 0
    with pytest.raises(ValueError, match="y_clean must be different from zero"):
        SensorSimulator().simulate(sources(), Leadfield(L, unit=UNITS))
