"Shapes that fit by accident: as many samples as sources, a row for a column, a mask of numbers"

import numpy as np
import pytest

from calibrain import UncertaintyEstimator
from calibrain.calibration.coverage import Stratum, calibration_error
from calibrain.calibration.credible_sets import credible_interval, membership
from calibrain.evaluation.evaluate import mean_posterior_std, sharpness
from calibrain.evaluation.scores import crps, interval_score, log_score
from calibrain.posterior.gaussian import Posterior, selection
from calibrain.posterior.moments import Moments

VAR = np.array([1.0, 4.0, 9.0])  # one for each source
SQUARE = np.zeros((3, 3))  # three sources, three samples
SCORES = [crps, interval_score, log_score]


def posterior(n_times=3):
    return Posterior(VAR, np.zeros((1, 3)), np.zeros((3, n_times)), selection(np.arange(3), 3), 1)


# One variance for each source, means by source and sample


@pytest.mark.parametrize("n_times", [3, 4])
def test_intervals_are_refused_whatever_the_number_of_samples(n_times):
    intervals = UncertaintyEstimator().credible_intervals_normal
    with pytest.raises(ValueError, match=r"needs an axis for time"):
        intervals(np.zeros((3, n_times)), VAR, 0.95)


def test_with_an_axis_for_time_they_are_those_of_the_sources():
    lower, upper = UncertaintyEstimator().credible_intervals_normal(SQUARE, VAR[:, None], 0.95)
    right = credible_interval(Moments(SQUARE, VAR), 0.95)
    np.testing.assert_allclose(lower, right.lower)
    np.testing.assert_allclose(upper, right.upper)
    np.testing.assert_allclose(upper[:, 0], 1.959964 * np.sqrt(VAR), rtol=1e-6)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("n_times", [3, 4])
def test_scores_are_refused_alike(score, n_times):
    x = np.ones((3, n_times))
    with pytest.raises(ValueError, match=r"needs an axis for time"):
        score(x, 0 * x, VAR)
    of_each = score(x, 0 * x, VAR[:, None])
    assert of_each.shape == x.shape
    np.testing.assert_array_equal(of_each, score(x, 0 * x, np.tile(VAR[:, None], n_times)))


@pytest.mark.parametrize("score", SCORES)
def test_a_row_and_a_column_make_no_table(score):
    "Truth of three samples, means of three sources"
    with pytest.raises(ValueError, match=r"x \(1, 3\), mean \(3, 1\)"):
        score(np.ones((1, 3)), np.zeros((3, 1)), 1.0)


@pytest.mark.parametrize("score", SCORES)
def test_truth_without_the_axis_of_components(score):
    "`(n_sources, n_times)` beside means `(n_sources, 1, n_times)` would be all pairs of sources"
    with pytest.raises(ValueError, match="of the same axes"):
        score(np.ones((3, 4)), np.zeros((3, 1, 4)), np.ones((3, 1, 1)))


@pytest.mark.parametrize("score", SCORES)
def test_numbers_go_with_everything(score):
    x = np.linspace(-1, 1, 12).reshape(3, 4)
    assert score(x, 0.0, 2.0).shape == (3, 4)
    assert score(0.5, x, 2.0).shape == (3, 4)
    assert np.ndim(score(0.5, 0.0, 2.0)) == 0


# Membership


@pytest.mark.parametrize(
    "truth",
    [np.zeros(3), np.zeros((3, 1)), np.zeros((1, 3)), np.zeros((4, 3)), np.zeros((3, 3, 3))],
    ids=str,
)
def test_membership_wants_the_shape_of_the_estimate(truth):
    with pytest.raises(ValueError, match="like the estimate"):
        membership(truth, Moments(SQUARE, VAR), 0.9)


def test_moments_of_other_sources():
    with pytest.raises(ValueError, match="as cov has 3 sources"):
        Moments(np.zeros((4, 3)), VAR)


# Curves and masks


def test_a_curve_of_several_strata_beside_one_of_levels():
    nominal = np.array([0.5, 0.9])
    with pytest.raises(ValueError, match="one share for each level"):
        calibration_error(Stratum(nominal, np.array([[0.5, 0.9], [0.4, 0.8]]), None, 0))


@pytest.mark.parametrize("measure", [sharpness, mean_posterior_std])
def test_a_mask_of_numbers_is_no_mask(measure):
    "0.0 and 1.0, or a column: refused; a mask and indices: the same"
    wanted = measure(posterior(), where=np.array([False, True, True]))
    assert measure(posterior(), where=[1, 2]) == wanted
    for wrong in (np.array([0.0, 1.0, 1.0]), np.array([[False], [True], [True]]), [True, False]):
        with pytest.raises(ValueError, match="where must be a mask of shape"):
            measure(posterior(), where=wrong)
    with pytest.raises(ValueError, match="where must be indices below 3, got 7"):
        measure(posterior(), where=[7])
