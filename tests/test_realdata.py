"""A real recording: what physics and physiology say of the estimates.

With 3 to 6 epochs averaged, little can be explained, and nothing is certain.
"""

from functools import cache

import numpy as np
import pytest
import realdata
from mne.minimum_norm import apply_inverse, make_inverse_operator

from calibrain import estimate_evoked

pytestmark = [
    realdata.needed,
    pytest.mark.filterwarnings("ignore:.*learned noise variance ran to zero"),
]
LEARNS = dict(gamma_map_sflex=False, gamma_lambda_map_sflex=True, BMN=False, BMN_joint=True)
SOLVERS = pytest.mark.parametrize("solver", LEARNS)
CASES = pytest.mark.parametrize(
    "kind, condition", [(k, c) for k in ("meg", "eeg") for c in ("Right Auditory", "Left visual")]
)
UNEXPLAINED = ("eeg", "Left visual")  # see the last test


@cache
def estimate(kind, condition, solver, depth=None, sigma=0.01):
    "50 to 150 ms, free orientation"
    params = dict(sigma=sigma) if "sflex" in solver else {}
    return estimate_evoked(
        realdata.evoked(condition),
        realdata.forward(kind),
        realdata.covariance(),
        solver,
        tmin=0.05,
        tmax=0.15,
        orientation="free",
        depth=depth,
        noise="learn" if LEARNS[solver] else "given",
        solver_params=params,
        progress=False,
    )


@cache
def dspm_peak(kind, condition):
    "Where MNE's dSPM is largest in the window, m"
    fwd = realdata.forward(kind)
    evoked = realdata.evoked(condition).pick(kind, exclude="bads")
    free = dict(loose=1.0, depth=0.8, verbose="ERROR")
    inverse = make_inverse_operator(evoked.info, fwd, realdata.covariance(), **free)
    stc = apply_inverse(evoked.crop(0.05, 0.15), inverse, 1 / 9, "dSPM", verbose="ERROR")
    return fwd["source_rr"][stc.data.max(1).argmax()]


def amplitude(est):
    return np.linalg.norm(est.mean.data, axis=1)


def spread(est):
    return np.sqrt(np.trace(est.posterior.blocks, axis1=1, axis2=2))


@SOLVERS
@CASES
def test_residual_is_the_noise(kind, condition, solver):
    """Within 15 % of the baseline's whitened variance.

    And what the posterior expects to be left is not less than the baseline.
    """
    if (kind, condition) == UNEXPLAINED:
        pytest.skip("EEG, left visual: not explained to 15 %, see test_where_the_model_falls_short")
    p = estimate(kind, condition, solver).power
    assert 0.85 < p["residual"] / p["baseline"] < 1.15
    assert p["expected_residual"] > p["baseline"]
    assert p["data"] > 1.6


@SOLVERS
@CASES
def test_near_the_peak_of_dspm(kind, condition, solver):
    "One of the ten strongest sources lies within 25 mm"
    est = estimate(kind, condition, solver)
    strongest = amplitude(est).max(1).argsort()[-10:]
    assert np.linalg.norm(est.coords[strongest] - dspm_peak(kind, condition), axis=1).min() < 0.025


@SOLVERS
@CASES
def test_opposite_the_stimulus(kind, condition, solver):
    "More energy on the left after a tone to the right ear, on the right after a left pattern"
    if (kind, condition, solver) == ("meg", "Right Auditory", "gamma_lambda_map_sflex"):
        pytest.skip(
            "29 % of its energy is left: the learned noise takes part of the response, "
            "and a deep source near the midline is its strongest"
        )
    est = estimate(kind, condition, solver)
    energy = (amplitude(est) ** 2).sum(1)
    left = energy[: len(est.vertices[0])].sum() / energy.sum()
    assert left > 0.5 if condition == "Right Auditory" else left < 0.5


@CASES
@pytest.mark.parametrize("solver", ["gamma_lambda_map_sflex", "BMN_joint"])
def test_learned_noise_is_that_of_the_covariance(kind, condition, solver):
    if (kind, condition) == UNEXPLAINED:
        pytest.skip(
            "EEG, left visual: learned noise takes what is not explained, "
            "see test_where_the_model_falls_short"
        )
    est = estimate(kind, condition, solver)
    assert 1 / 1.5 < est.nave * est.result.noise_var < 1.5


@CASES
@pytest.mark.parametrize("depth, factor", [(None, 1), (0.8, 1.5)])
def test_deep_sources_are_less_certain(kind, condition, depth, factor):
    "With minimum norm; sparse solvers are certain that a pruned source is zero, however deep"
    est = estimate(kind, condition, "BMN", depth)
    height = np.linalg.norm(est.coords - [0, 0, 0.04], axis=1)
    low, high = np.quantile(height, [0.3, 0.7])
    deep = spread(est)[height < low]
    shallow = spread(est)[height > high]
    assert deep.mean() > factor * shallow.mean()


@CASES
def test_few_averages_wide_error_bars(kind, condition):
    "Minimum norm is sure of no source: none is five standard deviations from zero, most within two"
    est = estimate(kind, condition, "BMN")
    z = np.abs(est.posterior.mean / est.posterior.std[:, None]).max(1)
    assert z.max() < 5 and np.median(z) < 2


def test_average_of_more_epochs_is_more_certain():
    "The same data said to be an average of four times as many epochs"

    def shrunk(nave):
        "Posterior standard deviation in multiples of the prior's"
        evoked = realdata.evoked("Left visual")
        evoked.nave *= nave
        said = dict(solver="BMN", tmin=0.05, tmax=0.15, progress=False)
        est = estimate_evoked(evoked, realdata.forward("meg"), realdata.covariance(), **said)
        return np.median(est.result.std / np.sqrt(est.posterior.gamma))

    assert shrunk(4) < shrunk(1)


def test_where_the_model_falls_short():
    """EEG, left visual: a steep field at three occipital electrodes.

    Patches of 10 mm and minimum norm cannot make it with this head (320 triangles a shell).
    Patches of 5 mm can, and have the higher evidence; learned noise takes the rest at a few
    components, while its median stays that of the covariance.
    """

    def ratio(est):
        return est.power["residual"] / est.power["baseline"]

    wide = estimate(*UNEXPLAINED, "gamma_map_sflex", sigma=0.01)
    narrow = estimate(*UNEXPLAINED, "gamma_map_sflex", sigma=0.005)
    assert ratio(wide) > 1.15
    assert 0.85 < ratio(narrow) < 1.15
    assert narrow.result.log_evidence > wide.result.log_evidence
    assert ratio(estimate(*UNEXPLAINED, "BMN")) > 1.15
    learned = estimate(*UNEXPLAINED, "gamma_lambda_map_sflex")
    assert learned.nave * learned.result.noise_var > 1.5
    assert 1 / 1.5 < np.median(learned.nave * learned.result["lambdas"]) < 1.5
