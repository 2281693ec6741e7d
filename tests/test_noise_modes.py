"""One vocabulary for the noise: every path takes every name, and answers the same."""

import numpy as np
import pytest
from test_nave import forward, recording
from test_together import cov

from calibrain import (
    Leadfield,
    Study,
    calibrate,
    estimate_evoked,
    leave_channels_out,
    recommend,
    sensitivity,
)
from calibrain.core.noise_modes import PLAIN, noise_mode, published_noise_mode
from calibrain.recording.bound import check_noise_is_known
from calibrain.simulation.sensors import noise_variance

OLD = [(old, new) for old, new in PLAIN.items() if old != new]
OF = dict(given="gamma_map", learn="gamma_lambda_map")


def test_three_words_and_their_synonyms():
    assert {noise_mode(name) for name in PLAIN} == {"given", "baseline", "learn"}
    assert published_noise_mode("adaptive") == "adaptive_joint_learning"
    with pytest.raises(ValueError, match="noise must be one of 'given', 'baseline', 'learn'"):
        noise_mode("true")


@pytest.mark.parametrize("old, new", OLD)
def test_recordings(old, new):
    said = dict(solver=OF[new], orientation="fixed", tmin=0.0)
    found = [
        estimate_evoked(recording(), forward(), cov(), noise=mode, progress=False, **said)
        for mode in (old, new)
    ]
    np.testing.assert_array_equal(found[0].posterior.mean, found[1].posterior.mean)
    assert found[0].settings == found[1].settings
    scores = [
        leave_channels_out(recording(), forward(), cov(), dict(noise=mode, **said))
        for mode in (old, new)
    ]
    np.testing.assert_array_equal(*scores)
    one = sensitivity(
        recording(), forward(), cov(), said | dict(noise=old), dict(same={}), progress=False
    )
    assert one.place_survives


@pytest.mark.parametrize("old, new", OLD)
def test_passports(old, new):
    lf = Leadfield.random(24, 60, seed=1)
    few = dict(n_train=20, n_test=4, scenario=dict(nnz=3), mismatch="none", progress=False)
    both = [calibrate(lf, 0.5, solver=OF[new], noise=mode, **few) for mode in (old, new)]
    assert [p.noise for p in both] == [new, new]
    counts = [p.runs[OF[new]]["test"].curve.counts for p in both]
    np.testing.assert_array_equal(*counts)


@pytest.mark.parametrize("old, new", OLD)
def test_simulations_and_studies(old, new):
    noise = np.random.default_rng(0).normal(size=(4, 50))
    assert noise_variance(old, noise=noise) == noise_variance(new, noise=noise)
    heads = dict(a=dict(template=dict(modality="eeg")))
    studies = [
        Study("s", heads, [dict(solver=OF[new], noise=mode)], n_train=0, n_test=1)
        for mode in (old, new)
    ]
    runs = [list(study.runs()) for study in studies]
    assert runs[0] == runs[1]
    assert runs[0][0].noise_mode == published_noise_mode(new)


def test_choices_and_refusals():
    with pytest.raises(ValueError, match="noise must be"):
        estimate_evoked(recording(), forward(), cov(), noise="true", progress=False)
    with pytest.raises(ValueError, match="noise must be"):
        recommend(recording(), forward(), cov(), dict(noise="true"), progress=False)
    with pytest.raises(ValueError, match="where the noise is given"):
        check_noise_is_known("oracle", None)
