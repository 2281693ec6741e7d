"The same numbers in other units: mm for m, V for µV, SI leadfields, amplitudes that no brain makes"

import warnings

import numpy as np
import pytest

from calibrain import (
    Leadfield,
    SourceEstimator,
    gamma_lambda_map_sflex,
    gamma_map,
    gamma_map_sflex,
)
from calibrain.core.warnings import NoiseSizeWarning, PlausibilityWarning
from calibrain.head.basis import sflex_basis
from calibrain.head.prepared import prepare
from calibrain.solvers.registry import SOLVERS

rng = np.random.default_rng(0)
COORDS = rng.normal(scale=0.03, size=(60, 3))
L = rng.normal(size=(20, 60))
X = np.zeros((60, 30))
X[3] = 5 * np.sin(np.arange(30) / 5)
Y = L @ (sflex_basis(COORDS, 0.02) @ X) + 0.3 * rng.normal(size=(20, 30))
LF = Leadfield(L, coords=COORDS, unit="µV/nAm")
NAMES = list(LF.ch_names)


def cov(variance):
    "As MNE keeps them: names, and V²"
    return dict(names=NAMES, data=np.full(20, variance), bads=[], projs=[], nfree=100)


# Positions


@pytest.mark.parametrize("factor, unit", [(1e3, "mm"), (1e2, "cm")])
def test_positions_in_other_units_are_refused_on_every_path(factor, unit):
    there = factor * COORDS
    said = dict(src_coords=there, sigma=0.02)
    for call in (
        lambda: gamma_map_sflex(L, Y, 0.09, **said),
        lambda: gamma_lambda_map_sflex(L, Y, **said),
        lambda: SourceEstimator("gamma_map_sflex", said, noise_var=0.09).fit(L, Y),
        lambda: sflex_basis(there),
        lambda: prepare(L).patches(there),
    ):
        with pytest.raises(ValueError, match=r"src_coords must be in m, got sources .* apart"):
            call()
    with pytest.raises(ValueError, match="coords must be in m"):
        Leadfield(L, coords=there)


@pytest.mark.parametrize("sigma, words", [(20, "divide millimetres"), (2e-5, "no source has")])
def test_a_width_that_makes_no_patches_is_said(sigma, words):
    "20 mm as 20, and divided by 1000 twice"
    with pytest.warns(PlausibilityWarning, match=words):
        gamma_map_sflex(L, Y, 0.09, src_coords=COORDS, sigma=sigma, max_iter=2)


def test_patches_of_a_head_are_not_talked_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sflex_basis(COORDS, 0.01)
        sflex_basis(COORDS[:1], 0.01)


# Data and noise


def test_volts_beside_a_covariance_of_mne_are_refused():
    estimator = SourceEstimator("gamma_map", noise_cov=cov(0.09e-12))
    with pytest.raises(ValueError, match=r"y must be as strong as the noise .* check the units"):
        estimator.fit(LF, 1e-6 * Y)
    assert estimator.fit(LF, Y).predict().std.max() > 0


def test_a_covariance_in_volts_beside_an_array_in_microvolts():
    "The other way round: noise that is far too weak makes amplitudes, and no 0 ± 0"
    right = SourceEstimator("BMN", noise_cov=0.09 * np.eye(20)).fit(LF, Y).predict()
    assert np.abs(right.mean).max() > 0.1
    with pytest.raises(ValueError, match="as strong as the noise"):
        SourceEstimator("BMN", noise_cov=0.09 * np.eye(20)).fit(LF, 1e-6 * Y)


def test_femtotesla_that_stayed_tesla():
    meg = Leadfield(L, coords=COORDS, unit="fT/nAm")
    noise = dict(cov(0.09e-30))
    with pytest.raises(ValueError, match="as strong as the noise"):
        SourceEstimator("BMN", noise_cov=noise).fit(meg, 1e-15 * Y)


def test_a_single_variance_is_compared_as_well():
    with pytest.raises(ValueError, match="as strong as the noise"):
        SourceEstimator("gamma_map", noise_var=0.09).fit(L, 1e-6 * Y)


def test_one_recording_of_many_is_refused_before_any_work():
    solved = []

    def solver(L, y, noise_var):
        solved.append(y)

    many = np.stack([Y, Y, 1e-6 * Y])
    with pytest.raises(ValueError, match="as strong as the noise"):
        SourceEstimator(solver, noise_var=0.09).fit(L, many)
    assert solved == []


def test_an_average_of_a_thousand_epochs_beside_the_noise_of_one_is_announced_only():
    with pytest.warns(NoiseSizeWarning, match="average came with the noise of a single epoch"):
        SourceEstimator("BMN", noise_var=0.09).fit(LF, Y / np.sqrt(1e4))


def test_a_solver_that_learns_the_noise_is_told_of_units_only():
    learning = SourceEstimator("BMN_joint", noise_cov=0.09 * np.eye(20))
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoiseSizeWarning)
        learning.fit(LF, Y / np.sqrt(1e4))
    with pytest.raises(ValueError, match="as strong as the noise"):
        learning.fit(LF, 1e-6 * Y)


# Amplitudes


@pytest.mark.parametrize("factor", [1e6, 1e-7])
@pytest.mark.parametrize("with_cov", [False, True])
def test_amplitudes_that_no_brain_makes_are_announced(factor, with_cov):
    "Data and noise in the same wrong units: the estimate is off by a million, and that is said"
    noise = 0.09 * factor**2
    said = dict(noise_cov=noise * np.eye(20)) if with_cov else dict(noise_var=noise)
    with pytest.warns(PlausibilityWarning, match="where a brain makes 1 to 1000 nAm"):
        SourceEstimator("BMN", **said).fit(LF, factor * Y)


@pytest.mark.parametrize("solver", SOLVERS)
def test_amplitudes_are_announced_by_each_solver_itself(solver):
    "Called with a Leadfield, and once only where an estimator calls it"
    how = SOLVERS[solver]
    noise = {} if how.learns_noise else dict(noise_var=0.09e12)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        how.function(LF, 1e6 * Y, **noise)
        SourceEstimator(solver, **noise).fit(LF, 1e6 * Y)
    assert [w.category for w in said].count(PlausibilityWarning) == 2


def test_bare_arrays_have_units_of_their_own():
    "Without a Leadfield nobody knows what the numbers are"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SourceEstimator("BMN", noise_var=0.09e12).fit(L, 1e6 * Y)
        gamma_map(L, 1e6 * Y, 0.09e12, max_iter=20_000)
