"""The error that other numbers of epochs have in simulated runs: closed forms, twins and refusals."""

import re
from functools import cache

import numpy as np
import pytest
import test_passport
from scipy import linalg
from test_evoked import problem

from calibrain import Leadfield, Passport, calibrate, estimate_evoked
from calibrain.core.warnings import NotCalibratedWarning
from calibrain.passport.calibrate import bound_solvers
from calibrain.passport.expected_error import _mean, _with_chance
from calibrain.passport.runs import PARTS, one_run
from calibrain.passport.scenario import turned
from calibrain.passport.scene import array_scene

TALL = Leadfield.random(60, 20, seed=2)  # more sensors than sources: nothing is ambiguous
QUIET = dict(progress=False)


@cache
def tall(mismatch="none", solver="BMN"):
    said = dict(scenario=dict(nnz=3, alpha_SNR=0.5), n_train=20, n_test=2, **QUIET)
    return calibrate(TALL, 0.5, solver=solver, mismatch=mismatch, **said)


def test_without_ambiguity_errors_fall_as_the_root():
    "Many epochs: the estimate is least squares, whose error is known"
    out = tall().expected_error(TALL, 0.5, nave=[100, 10_000], n_runs=30, **QUIET)
    error, chance = out.error
    L = TALL.matrix()
    known = np.sqrt(0.5 / out.naves * linalg.inv(L.T @ L).diagonal().mean())
    many = out.naves >= 100
    assert (np.abs(error - known)[many] < 4 * chance[many] + 0.05 * known[many]).all()
    assert error[2] / error[1] == pytest.approx(0.1, rel=0.05)
    np.testing.assert_allclose(out.claimed[0][many], known[many], rtol=0.1)
    held, of_held = out.held("before")
    assert (np.abs(held - 0.9) < 4 * of_held + 0.01)[many].all()


def test_with_a_wrong_head_only_the_claim_falls():
    out = tall("large").expected_error(TALL, 0.5, nave=[100, 10_000], n_runs=20, **QUIET)
    error, claimed = out.error[0], out.claimed[0]
    assert error[2] > 0.8 * error[1] and claimed[2] < 0.2 * claimed[1]
    before, chance = out.held("before")
    assert before[2] < before[1] < before[0] and before[2] < 0.9 - 4 * chance[2]


@pytest.mark.parametrize("solver", ["BMN", "gamma_map"])
def test_at_now_a_run_is_a_run_of_the_passport(solver):
    "The same truth through the passport's own judgement"
    passport = test_passport.small(solver)
    params = test_passport.FAST if solver == "gamma_map" else None
    lf = test_passport.LF
    out = passport.expected_error(lf, 0.5, nave=2, n_runs=4, solver_params=params, seed=5, **QUIET)
    scene = array_scene(lf, 0.5)
    bound = bound_solvers(solver, params, "given", scene)
    for number in range(4):
        rng = np.random.default_rng((5, len(PARTS), number))
        L = turned(scene, passport.degrees, rng)
        truth = passport.scenario.draw(scene, rng, L)
        curve = one_run(truth, scene, bound, "given", (0.9,))[solver].curve
        level = np.flatnonzero(np.isclose(curve.nominal, 0.9))[0]
        active = curve.strata.index("active")
        share = curve.counts[0, active, level] / curve.totals[0, active]
        assert out.figures["before"][number, out.at_now] == pytest.approx(share)
        assert out.weights[number] == 3


def test_fewer_epochs_are_worse_and_chance_is_that_of_runs():
    out = test_passport.small("BMN").expected_error(
        test_passport.LF, 0.5, nave=[0.25, 4], n_runs=12, **QUIET
    )
    assert list(out.naves) == [0.25, 1, 4] and out.at_now == 1
    error = out.error[0]
    assert error[0] > error[1] > error[2]
    ratio, chance = out.ratio
    assert ratio[1] == 1 and chance[1] == 0
    values = np.random.default_rng(0).normal(size=(30, 2))
    mean, se = _with_chance(_mean, values, np.ones(30))
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose(se, values.std(0, ddof=1) / np.sqrt(30))
    table = out.table()
    np.testing.assert_array_equal(table["error"], error)
    assert {"ratio_chance", "before", "after", "width_after_chance"} <= {*table.columns}


def test_the_chance_that_is_told_is_that_of_other_seeds():
    "Standard errors of figures against how much they differ between seeds"
    passport, lf = test_passport.small("BMN"), test_passport.LF
    out = [
        passport.expected_error(lf, 0.5, nave=4, n_runs=10, seed=seed, **QUIET)
        for seed in range(20)
    ]
    for name in ("error", "ratio"):
        value, chance = (np.array([getattr(o, name)[i][-1] for o in out]) for i in (0, 1))
        assert 0.5 < np.sqrt((chance**2).mean()) / value.std(ddof=1) < 1.8


def test_processes_and_files_change_nothing(tmp_path):
    evoked, fwd, cov = problem("eeg")
    passport = test_passport.recorded()
    said = dict(nave=[evoked.nave * 4], n_runs=3, orientation="free", **QUIET)
    one = passport.expected_error(fwd, cov, evoked, **said)
    passport.save(tmp_path / "passport.npz")
    kept = Passport.load(tmp_path / "passport.npz")
    two = kept.expected_error(fwd, cov, evoked, n_jobs=2, **said)
    assert one.now == evoked.nave and list(one.naves) == [evoked.nave, 4 * evoked.nave]
    for name, values in one.figures.items():
        np.testing.assert_allclose(two.figures[name], values, rtol=1e-6, equal_nan=True)


def test_what_it_is_not_for_is_refused():
    passport, lf = test_passport.small(), test_passport.LF
    evoked, fwd, cov = problem("eeg")
    quick = dict(nave=4, n_runs=2, solver_params=test_passport.FAST, **QUIET)
    for words, given, more in [
        ("another head", (Leadfield.random(24, 60, seed=9), 0.5), {}),
        ("got 2 times that variance", (lf, 1.0), {}),
        ("of gamma_map with tol=0.001", (lf, 0.5), dict(solver_params=dict(tol=1e-3))),
        ("nave must be numbers of epochs above 0", (lf, 0.5), dict(nave=[4, 0])),
        ("result must be of gamma_map", (lf, 0.5), dict(solver="BMN")),
        ("n_runs must be finite and >= 2", (lf, 0.5), dict(n_runs=1)),
        ("samples from", (lf, 0.5), dict(sfreq=100.0)),
        ("tmin must be within", (fwd, cov, evoked), dict(orientation="free")),
    ]:
        with pytest.raises(ValueError, match=re.escape(words)):
            passport.expected_error(*given, **quick | more)


def test_a_default_that_is_left_out_is_no_other_use():
    "The runs of the passport name it"
    given = dict(nave=4, n_runs=2, **QUIET)
    said, unsaid = (
        test_passport.small().expected_error(test_passport.LF, 0.5, solver_params=params, **given)
        for params in (test_passport.FAST, None)
    )
    np.testing.assert_array_equal(said.figures["error2"], unsaid.figures["error2"])


def test_with_nave_of_a_calibrated_estimate_names_it():
    evoked, fwd, cov = problem("eeg")
    passport = test_passport.recorded()
    est = estimate_evoked(
        evoked, fwd, cov, "BMN", calibration=passport, progress=False, **test_passport.FIXED
    )
    with pytest.warns(NotCalibratedWarning, match=r"passport\.expected_error"):
        more = est.with_nave(4 * evoked.nave)
    assert "passport.expected_error" in more._repr_html_()


def test_a_head_without_a_recording():
    _, fwd, cov = problem("eeg")
    said = dict(solver="BMN", n_train=20, n_test=2, orientation="free", **QUIET)
    passport = calibrate(fwd, cov, **said)
    out = passport.expected_error(fwd, cov, nave=4, n_runs=2, orientation="free", **QUIET)
    assert out.now == 1 and (out.error[0][1] < out.error[0][0]).all()
