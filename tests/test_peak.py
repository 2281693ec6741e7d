"""The strongest source in a sentence: its place, its amplitude along its own direction, its sign."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import realdata
from scipy import stats

from calibrain import EvokedPosterior, estimate_evoked
from calibrain.posterior.gaussian import Posterior, selection
from calibrain.posterior.mixture import Mixture, State
from calibrain.solvers.bmn import BMN

COORDS = np.array([[-0.05, 0, 0.03], [0.04, 0.01, 0.05], [0.0, -0.06, 0.04]])
NORMALS = np.array([[-1.0, 0, 0], [1, 0, 0], [0, -1, 0]])


def estimate(posterior, k, **other):
    result = BMN(np.eye(3 * k), np.ones((3 * k, 4)) * 5, 1.0, n_orient=k)
    said = dict(space="surface", vertices=[np.array([7]), np.array([3, 12])], coords=COORDS)
    said |= dict(basis=None, tmin=0.08, tstep=0.01, normals=NORMALS)
    return EvokedPosterior(replace(result, posterior=posterior), **(said | other))


def gaussian(mean, k, seed=0):
    "Full covariances of one source each, so that directions matter"
    n = 3 * k
    rng = np.random.default_rng(seed)
    V = rng.normal(size=(n, n)) / (2 * n)
    return Posterior(np.linspace(1, 2, n), V, mean, selection(np.arange(n), n), k)


def test_a_vector_along_its_own_direction():
    "Against draws: the share within the interval, and the mean along the direction"
    mean = np.zeros((9, 4))
    mean[3:6, 2] = [3.0, -4, 12]
    mean[6:9, 1] = [0, 0, 5]
    est = estimate(gaussian(mean, 3), 3)
    peak = est.peak(0.8)
    assert (peak.source, peak.part, peak.vertex) == (1, 1, 3)
    assert peak.time == pytest.approx(0.1)
    assert peak.amplitude == pytest.approx(13)
    np.testing.assert_allclose(peak.direction, np.array([3, -4, 12]) / 13)
    along = est.posterior.sample(8000, seed=1, sources=[1])[:, :, 2] @ peak.direction
    assert along.std() == pytest.approx(peak.std, rel=0.03)
    low, high = peak.interval
    assert np.mean((along > low) & (along < high)) == pytest.approx(0.8, abs=0.02)
    assert "out of the cortex" in str(peak)
    assert "13 nAm (" in str(peak) and "80 %, not calibrated) at (40, 10, 50) mm" in str(peak)
    assert "(40, 10, 50) mm, head coordinates, 100 ms" in str(peak)


@pytest.mark.parametrize("value, wall", [(6.0, 1), (-6.0, 1), (-6.0, -1)])
def test_the_sign_of_a_fixed_source(value, wall):
    "The amplitude keeps its sign, and + is said to be where the basis points"
    mean = np.zeros((3, 4))
    mean[2, 3] = value
    basis = wall * NORMALS[:, :, None]
    est = estimate(gaussian(mean, 1), 1, basis=basis)
    peak = est.peak()
    assert peak.amplitude == value and peak.interval[0] < value < peak.interval[1]
    assert peak.sign == ("+ is out of the cortex" if wall > 0 else "+ is into the cortex")
    assert estimate(gaussian(mean, 1), 1).peak().sign == "+ is the way the leadfield has it"
    in_space = estimate(gaussian(mean, 1), 1, basis=basis, normals=None).peak()
    assert in_space.sign.startswith("+ is along (")


def test_a_mixture_has_moments_and_places():
    "The interval has the spread between states, and the places that hold the source"
    on = State(np.array([1]), np.full((1, 4), 5.0), np.eye(1))
    off = State(np.array([0]), np.full((1, 4), 0.5), np.eye(1))
    est = estimate(Mixture((on, off), np.array([0.9, 0.1]), 3, 1, 4), 1)
    peak = est.peak(0.9)
    std = np.sqrt(0.9 * 26 - 4.5**2)
    reach = stats.norm.ppf(0.95) * std
    assert peak.amplitude == pytest.approx(4.5) and peak.std == pytest.approx(std)
    np.testing.assert_allclose(peak.interval, (4.5 - reach, 4.5 + reach))
    assert list(peak.localisation.places) == [1]
    assert "with 90 % at one place" in str(peak)


@pytest.mark.parametrize("reach", [3.0, np.full((1, 1), 3.0), np.full((3, 4), 3.0)])
def test_a_passport_is_heard(reach, monkeypatch):
    "A peak is a single source, of which its maps speak"
    mean = np.zeros((3, 4))
    mean[0, 0] = 9
    est = estimate(gaussian(mean, 1), 1)
    std = est.peak().std
    monkeypatch.setattr(EvokedPosterior, "_reach", lambda self, level: reach)
    peak = replace(est, calibration=SimpleNamespace(doubt="")).peak()
    np.testing.assert_allclose(peak.interval, (9 - 3 * std, 9 + 3 * std))


def sampled(**other):
    "A source that is on with probability .9, of a place that is sampled"
    on = State(np.array([1]), np.full((1, 4), 5.0), np.eye(1))
    off = State(np.array([0]), np.full((1, 4), 0.5), np.eye(1))
    return estimate(Mixture((on, off), np.array([0.9, 0.1]), 3, 1, 4), 1, **other)


def row(table, label):
    "A value of a short table"
    return table.split(f">{label}</th>")[1].split("</td>")[0].split(">")[1]


@pytest.mark.parametrize("est", [estimate(gaussian(np.eye(3, 4) * 9, 1), 1), sampled()])
def test_what_no_passport_knows_says_so_once_and_where_it_is_once(est):
    "In sentence, repr and table, the same words"
    peak = est.peak()
    for said in (str(peak), repr(peak), peak._repr_html_(), est.in_words):
        assert said.count("not calibrated") == said.count("head coordinates") == 1
    assert row(peak._repr_html_(), "95 % interval").endswith(" nAm, not calibrated")
    assert row(est._repr_html_(), "error bars") == "of the solver, not calibrated"
    if peak.localisation is not None:
        assert "mm, head coordinates, first 1" in repr(peak.localisation)


def test_a_passport_calibrates_the_interval_and_nothing_else(monkeypatch):
    monkeypatch.setattr(EvokedPosterior, "_reach", lambda self, level: 3.0)
    peak = sampled(calibration=SimpleNamespace(about="of 50 runs", doubt="")).peak()
    assert "95 %, calibrated) at (40, 10, 50) mm, head coordinates" in str(peak)
    assert str(peak).endswith("with 90 % at one place, not calibrated")
    table = peak._repr_html_()
    assert not row(table, "95 % interval").endswith("not calibrated")
    assert row(table, "amplitude").endswith("nAm, not calibrated")
    assert row(table, "places").endswith("mass 0.90, not calibrated")


def test_a_place_that_is_not_known_has_no_frame():
    est = estimate(gaussian(np.eye(3, 4), 1), 1, coords=None)
    assert "at vertex 7 of part 0, 80 ms" in str(est.peak())
    assert "head coordinates" not in str(est.peak())


def test_complex_amplitudes_are_told_in_phase():
    mean = np.zeros((3, 4), complex)
    mean[1, 1] = 3 - 4j
    peak = estimate(gaussian(mean, 1), 1).peak()
    assert peak.amplitude == pytest.approx(5) and peak.sign == "in phase with the mean"


def test_nothing_has_no_peak():
    silent = Posterior(np.zeros(0), np.zeros((3, 0)), np.zeros((0, 4)), selection([], 3))
    est = estimate(silent, 1)
    with pytest.raises(ValueError, match="of a source at least for a peak, got none"):
        est.peak()
    assert "nothing found" in str(est) and "nothing found" in est._repr_html_()
    with pytest.raises(ValueError, match=r"0\.95 for 95 %"):
        est.peak(95)


@realdata.needed
@pytest.mark.filterwarnings("ignore:noise_cov was estimated")
def test_the_card_of_a_real_recording():
    "Card and print say the same sentence, which has a sign and an interval"
    est = estimate_evoked(
        realdata.evoked("Right Auditory"),
        realdata.forward("meg"),
        realdata.covariance(),
        tmin=0.08,
        tmax=0.1,
        orientation="fixed",
        progress=False,
    )
    sentence = str(est.peak())
    assert sentence in str(est) and sentence in est._repr_html_()
    assert "out of the cortex" in sentence and "95 %" in sentence
    value = est.mean.data[est.peak().source] * 1e9
    assert np.isclose(value, est.peak().amplitude).any()
