"""What a solver warned of goes wherever the numbers of an estimate go, and is not heard once only."""

import warnings
from dataclasses import replace

import pytest
from test_evoked import problem, solve

from calibrain import EvokedPosterior
from calibrain.recording.doubts import doubts
from calibrain.recording.files import sidecar
from calibrain.recording.methods import methods_paragraph

SHORT = dict(
    gamma_map=(dict(max_iter=1), "the search did not converge"),
    spike_slab=(dict(n_sweeps=16, n_burn=0, n_chains=2, seed=1), "the chains do not agree"),
)


def estimate(solver, **params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return solve(*problem(), solver, solver_params=params)


@pytest.mark.parametrize("solver", SHORT)
def test_an_estimate_that_did_not_get_there_says_so(solver, tmp_path):
    params, words = SHORT[solver]
    est = estimate(solver, **params)
    est = replace(
        est, result=replace(est.result, converged=False)
    )  # so short chains agree by chance
    back = EvokedPosterior.load(est.save(tmp_path / "est.npz"))
    for one in (est, back):
        for said in (str(one.peak()), one.peak()._repr_html_(), one._repr_html_(), str(one)):
            assert words in said
        assert words[4:] in methods_paragraph(one)
        assert sidecar(one, 0.95, {})["Doubts"] == list(doubts(one))


def test_one_that_did_says_nothing():
    est = estimate("gamma_map")
    assert est.result.converged and doubts(est) == ()
    assert "; but" not in str(est.peak()) and "converge" not in methods_paragraph(est)
