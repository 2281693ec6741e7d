"Every wrong argument is a named error, before any work and with nothing lost"

import functools
import logging
from fractions import Fraction

import mne
import numpy as np
import pytest
from sklearn.base import clone

from calibrain import (
    BMN,
    BMN_joint,
    SourceEstimator,
    gamma_lambda_map_sflex,
    gamma_map,
    gamma_map_sflex,
)
from calibrain.core.checks import generator
from calibrain.core.warnings import ConvergenceWarning
from calibrain.head.leadfield import Leadfield
from calibrain.head.prepared import prepare
from calibrain.head.whitening import whitener
from calibrain.solvers import search
from calibrain.solvers.registry import SOLVERS

L = np.random.default_rng(0).normal(size=(6, 12))
Y = np.random.default_rng(1).normal(size=(6, 20))
COORDS = np.random.default_rng(2).normal(scale=0.03, size=(12, 3))


def call(solver, L=L, y=Y, **kwargs):
    takes = solver.takes()
    base = dict(noise_var=0.5) if "noise_var" in takes and not solver.learns_noise else {}
    if "src_coords" in takes:
        base["src_coords"] = COORDS
    return solver.function(L, y, **base | kwargs)


def nan(a):
    a = a.copy()
    a[0, 0] = np.nan
    return a


def inf(a):
    a = a.copy()
    a[1, 2] = -np.inf
    return a


COMMON = [
    (dict(L=nan(L)), ValueError, "L must be finite, got 1 NaN"),
    (dict(L=inf(L)), ValueError, "L must be finite"),
    (dict(y=nan(Y)), ValueError, "y must be finite, got 1 NaN"),
    (dict(y=inf(Y)), ValueError, "y must be finite"),
    (dict(L=L[:5]), ValueError, "y must be of shape \\(5, n_times\\)"),
    (dict(y=Y[:5]), ValueError, "as L has 6 sensors, got shape \\(5, 20\\)"),
    (dict(L=L[0]), ValueError, "L must be"),
    (dict(L=L[None, None]), ValueError, "L must be"),
    (dict(y=Y[None]), ValueError, "y must be"),
    (dict(y=Y[:, :0]), ValueError, "y must be non-empty"),
    (dict(L=L[:, :0]), ValueError, "L must be non-empty"),
    (dict(L=L[:, :11], n_orient=3), ValueError, "L must be of n_sources \\* 3 columns, got 11"),
    (dict(n_orient=4), ValueError, "n_orient must be one of 1, 2, 3, got 4"),
    (dict(n_orient=0), ValueError, "n_orient"),
    (dict(n_orient="free"), ValueError, "n_orient"),
    (dict(n_orient=None), ValueError, "n_orient"),
    (dict(y=0 * Y), ValueError, "y must be different from zero somewhere"),
    (dict(L=0 * L), ValueError, "L must be different from zero somewhere"),
    (dict(L=L.astype(complex)), TypeError, "L must be real numbers"),
    (dict(L=L.astype(str)), TypeError, "L must be real numbers"),
    (dict(y=Y.astype(object)), TypeError, "y must be real numbers"),
    (dict(y=None), TypeError, "y must be real numbers"),
    (dict(y=[[1, 2], [3]]), ValueError, "y must be an array, got rows of different lengths"),
    (dict(max_iter=0), ValueError, "max_iter must be"),
    (dict(max_iter=2.5), TypeError, "max_iter must be a whole number"),
    (dict(max_iter=True), TypeError, "max_iter"),
    (dict(tol=-1), ValueError, "tol must be"),
    (dict(tol=np.nan), ValueError, "tol must be finite"),
    (dict(logger=print), TypeError, "logger must be a logging.Logger"),
    (dict(n_components=0), ValueError, "n_components must be finite and >= 1 and <= 6, got 0"),
    (dict(n_components=7), ValueError, "a recording of this size has 6"),
    (dict(n_components=2.5), TypeError, "n_components must be a whole number"),
    (dict(n_components=True), TypeError, "n_components"),
    (dict(n_components=np.nan), (TypeError, ValueError), "n_components"),
    (dict(n_components="all"), ValueError, 'n_components must be "auto" or a number'),
    (dict(n_components=[3]), TypeError, "n_components"),
    (dict(n_components="auto", y=0 * Y), ValueError, "y must be different from zero somewhere"),
    (dict(lambda_=1), TypeError, "lambda_"),
]
SOME = [
    (dict(init_gamma=-1), ValueError, "init_gamma must be .*got -1"),
    (dict(init_gamma=0), ValueError, "init_gamma must be"),
    (dict(rule="1.0"), ValueError, "rule must be one of None, 'calibrain-1.0'"),
    (
        dict(n_components="auto", rule="calibrain-1.0"),
        ValueError,
        "n_components must be None with rule",
    ),
    (dict(noise_var=0), ValueError, "noise_var must be finite and > 0, got 0"),
    (dict(noise_var=-1e-3), ValueError, "noise_var"),
    (dict(noise_var=np.nan), ValueError, "noise_var must be finite"),
    (dict(noise_var="1"), TypeError, "noise_var must be a real number"),
    (dict(noise_var=np.ones(6)), TypeError, "noise_var must be a real number"),
    (dict(noise_var=1j), TypeError, "noise_var"),
    (dict(update_mode=0), ValueError, "update_mode must be one of 1, 2, 3"),
    (dict(update_mode="fastest"), ValueError, "update_mode"),
    (dict(update_mode_noise=3), ValueError, "update_mode_noise must be one of"),
    (dict(lambda_damping=0), ValueError, "lambda_damping"),
    (dict(lambda_damping=1.5), ValueError, "lambda_damping must be"),
    (dict(learn_lambda="yes"), ValueError, "learn_lambda"),
    (dict(init_lambda=-1), ValueError, "init_lambda must be"),
    (dict(learn_noise=2), ValueError, "learn_noise"),
    (dict(normalization=None), ValueError, "normalization"),
    (
        dict(src_coords=None),
        TypeError,
        "src_coords must be an array of shape \\(12, 3\\), in m, got None",
    ),
    (
        dict(src_coords=COORDS[:11]),
        ValueError,
        "src_coords must be of shape \\(12, 3\\), got shape \\(11, 3\\)",
    ),
    (dict(src_coords=COORDS[:, :2]), ValueError, "src_coords"),
    (dict(src_coords=nan(COORDS)), ValueError, "src_coords must be finite"),
    (dict(sigma=0), ValueError, "sigma must be finite and > 0, got 0"),
    (dict(sigma=-0.01), ValueError, "sigma"),
    (dict(sigma=np.inf), ValueError, "sigma"),
    (dict(threshold_factor=0), ValueError, "threshold_factor"),
    (dict(normalize="none"), ValueError, "normalize must be one of 'sym', 'row', None"),
]


def cases():
    for s in SOLVERS.values():
        for kwargs, error, words in COMMON + [c for c in SOME if set(c[0]) <= set(s.takes())]:
            if s.learns_noise and "noise_var" in kwargs:
                kwargs = kwargs | dict(learn_noise=False)
            if "components" in s.takes() and {"src_coords", "sigma"} & set(kwargs):
                kwargs = kwargs | dict(components="msp")  # what positions and widths are for
            yield pytest.param(
                s, kwargs, error, words, id=f"{s.name}-{'-'.join(kwargs)}-{words[:24]}"
            )


@pytest.mark.parametrize("solver, kwargs, error, words", list(cases()))
def test_named_error_before_any_work(solver, kwargs, error, words, monkeypatch):
    def work(*_):
        raise AssertionError("work was done before the argument was checked")

    monkeypatch.setattr(search, "evidence_at", work)
    with pytest.raises(error, match=words):
        call(solver, **kwargs)


def test_gamma_start_of_the_wrong_length():
    for n in (11, 13, 24):
        with pytest.raises(ValueError, match="init_gamma must be a number or of length 12"):
            gamma_map_sflex(L, Y, 0.5, init_gamma=np.ones(n), src_coords=COORDS)
    with pytest.raises(ValueError, match="init_gamma must be a number or of length 4 or 12"):
        gamma_map_sflex(L, Y, 0.5, 3, init_gamma=np.ones(5), src_coords=COORDS[:4])
    for start in (2.0, np.full(4, 2.0), np.full(12, 2.0), [2] * 4):
        r = gamma_map_sflex(L, Y, 0.5, 3, init_gamma=start, src_coords=COORDS[:4])
        assert np.array_equal(
            r["gammas_full"],
            gamma_map_sflex(L, Y, 0.5, 3, init_gamma=2.0, src_coords=COORDS[:4])["gammas_full"],
        )


def test_noise_variance_below_rounding_is_named():
    with pytest.raises(ValueError, match=r"noise_var=1e-300 .*check the units"):
        gamma_map_sflex(L[:3], Y[:3], 1e-300, src_coords=np.zeros((12, 3)))


def test_bmn_joint_wants_one_kind_of_noise():
    with pytest.raises(ValueError, match="noise_var must be None where the noise is learned"):
        BMN_joint(L, Y, noise_var=1.0)
    with pytest.raises(TypeError, match="noise_var must be a real number, got None"):
        BMN_joint(L, Y, learn_noise=False)
    assert BMN_joint(L, Y, noise_var=0.5, learn_noise=False)["gamma"] == BMN(L, Y, 0.5)["gamma"]


class TestEstimator:
    "It stores what it is given, clones, and refuses what its solver cannot take"

    def test_clones(self):
        params = dict(src_coords=COORDS, max_iter=2000)
        e = SourceEstimator(gamma_map_sflex, params, noise_var=0.5, logger=logging.getLogger("x"))
        twin = clone(e)
        assert twin.get_params()["noise_var"] == 0.5
        assert twin.solver is gamma_map_sflex
        assert twin is not e
        assert e.solver_params is params, "constructor arguments stay untouched"
        assert np.array_equal(
            twin.fit(L, Y).predict()["posterior_mean"], e.fit(L, Y).predict(Y)["posterior_mean"]
        )
        assert list(params) == ["src_coords", "max_iter"]
        assert twin.set_params(noise_var=2).noise_var == 2

    @pytest.mark.parametrize(
        "make, error, words",
        [
            (
                lambda: SourceEstimator(BMN),
                ValueError,
                "noise_var must be given, as BMN does not learn the noise",
            ),
            (
                lambda: SourceEstimator(
                    gamma_lambda_map_sflex, dict(src_coords=COORDS), noise_var=1
                ),
                ValueError,
                "noise_var must be None, as gamma_lambda_map_sflex learns",
            ),
            (
                lambda: SourceEstimator(BMN, dict(sigma=1), 1),
                TypeError,
                "BMN has no parameter sigma",
            ),
            (
                lambda: SourceEstimator(BMN, dict(noise_var=1), 1),
                TypeError,
                "no parameter noise_var to set here",
            ),
            (lambda: SourceEstimator("bmn", None, 1), ValueError, "solver must be one of"),
            (lambda: SourceEstimator(None, None, 1), TypeError, "solver must be a function"),
            (
                lambda: SourceEstimator(BMN, None, 1, n_orient=5),
                ValueError,
                "n_orient must be one of",
            ),
            (
                lambda: SourceEstimator(BMN, None, -1),
                ValueError,
                "noise_var must be finite and > 0",
            ),
            (lambda: SourceEstimator(BMN, None, 1, 3), ValueError, "n_sources \\* 3"),
            (lambda: SourceEstimator(BMN, None, 1, logger=3), TypeError, "logger"),
            (lambda: SourceEstimator(BMN, [1], 1), TypeError, "solver_params must be a dict"),
        ],
    )
    def test_bad_arguments(self, make, error, words):
        e = make()
        with pytest.raises(error, match=words):
            e.fit(L[:, :11], Y)
        assert not hasattr(e, "result_")

    def test_predict_before_fit(self):
        with pytest.raises(RuntimeError, match="call fit"):
            SourceEstimator(BMN, None, 1).predict(Y)

    def test_a_function_of_ones_own(self):
        "What it takes is read off its signature"

        def mine(L, y, noise_var, n_orient=1):
            return BMN(L, y, noise_var, n_orient)

        def learns(L, y, n_orient=1):
            return BMN_joint(L, y, n_orient=n_orient)

        assert (
            SourceEstimator(mine, noise_var=0.5).fit(L, Y).predict()["gamma"]
            == BMN(L, Y, 0.5)["gamma"]
        )
        assert SourceEstimator(learns).fit(L, Y).predict()["gamma"] == BMN_joint(L, Y)["gamma"]
        with pytest.raises(ValueError, match="noise_var must be given"):
            SourceEstimator(mine).fit(L, Y)

    def test_an_error_while_solving_is_the_solvers_own(self):
        "Nothing is caught and retried"

        def breaks(L, y, noise_var=None):
            raise TypeError("from inside the solver")

        with pytest.raises(TypeError, match="from inside the solver"):
            SourceEstimator(breaks).fit(L, Y)

    def test_another_recording_is_solved_anew(self):
        e = SourceEstimator(BMN, noise_var=0.5).fit(L, Y)
        assert e.predict() is e.predict(Y.copy())
        assert e.predict(2 * Y[:, :3])["gamma"] == BMN(L, 2 * Y[:, :3], 0.5)["gamma"]

    def test_a_solver_may_say_that_it_learns_the_noise(self):
        def mine(L, y, noise_var):
            return BMN(L, y, noise_var)

        mine.learns_noise = True
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'noise_var'"):
            SourceEstimator(mine).fit(L, Y)

    def test_arrays_changed_after_fit(self):
        "What was fitted does not follow"
        L0 = L.copy()
        y0 = Y.copy()
        e = SourceEstimator(BMN, noise_var=0.5).fit(L0, y0)
        L0 *= 3
        y0 *= 2
        assert np.array_equal(e.predict(y0)["posterior_mean"], BMN(L, 2 * Y, 0.5)["posterior_mean"])

    def test_a_fit_that_fails_leaves_what_was_fitted(self):
        e = SourceEstimator(BMN, noise_var=0.5).fit(L, Y)
        with pytest.raises(ValueError, match="y must be finite"):
            e.fit(L[:5], nan(Y)[:5])
        assert np.array_equal(
            e.predict(2 * Y)["posterior_mean"], BMN(L, 2 * Y, 0.5)["posterior_mean"]
        )

    def test_partial_functions_and_callable_objects(self):
        e = SourceEstimator(functools.partial(BMN, max_iter=50), noise_var=0.5)
        assert "partial" in repr(e)
        assert e.fit(L, Y).predict()["gamma"] == BMN(L, Y, 0.5)["gamma"]
        with pytest.raises(TypeError, match="has no parameter sigma"):
            SourceEstimator(functools.partial(BMN), dict(sigma=1), 0.5).fit(L, Y)
        with pytest.raises(ValueError, match="n_orient"):
            SourceEstimator(
                lambda L, y, noise_var: BMN(L, y, noise_var), noise_var=0.5, n_orient=3
            ).fit(L, Y)


@pytest.mark.parametrize("sigma", [1e-200, 1e200])
def test_extreme_widths_are_points_and_a_constant(sigma):
    r = gamma_map_sflex(L, Y, 0.5, src_coords=COORDS, sigma=sigma, max_iter=2000)
    assert np.isfinite(r.cost)
    assert np.allclose(r["B_spatial"].toarray(), np.eye(12) if sigma < 1 else 1 / 12)


@pytest.mark.parametrize(
    "value", [Fraction(1, 2), np.float32(0.5), np.array(0.5), np.longdouble(0.5)]
)
def test_numbers_of_any_real_kind(value):
    assert BMN(L, Y, value)["gamma"] == BMN(L, Y, 0.5)["gamma"]


def test_a_number_that_does_not_fit_a_float():
    with pytest.raises(ValueError, match="noise_var must be finite"):
        BMN(L, Y, 10**400)


def test_whole_numbers_keep_their_digits():
    "A seed may have more bits than a float holds"
    seeds = (2**60, 2**60 + 1)
    one, other = (generator(seed).random() for seed in seeds)
    assert one != other
    assert other == np.random.default_rng(seeds[1]).random()


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("size", [1e-80, 1e80])
def test_sizes_that_cannot_be_computed_with(solver, size):
    "γ would run out of the range of a float: zero, unnoticed, or infinite"
    for unit in (dict(y=size * Y), dict(L=size * L)):
        with pytest.raises(ValueError, match="must be between 1e-35 and 1e35 in size"):
            call(solver, **unit)


@pytest.mark.filterwarnings("ignore::calibrain.core.warnings.ConvergenceWarning")
@pytest.mark.parametrize("size", [1e-34, 1e34])
@pytest.mark.parametrize("mode", ["mackay", "convex", "em", "fast"])
def test_sizes_that_can_be_computed_with(mode, size):
    a = gamma_map(L, Y, 0.5, update_mode=mode)
    b = gamma_map(L / size, size * Y, 0.5 * size**2, update_mode=mode)
    assert np.allclose(b.mean / size**2, a.mean, rtol=1e-6, atol=1e-9)
    assert abs(b.kkt_violation - a.kkt_violation) < 1e-6


def test_no_recordings():
    with pytest.raises(ValueError, match="y must be one recording at least, got none"):
        SourceEstimator("gamma_map", noise_var=0.5).fit(L, np.empty((0, 6, 20)))


def test_steps_are_those_asked_for():
    "The warning of the minimum norm names the limit that was set"
    with pytest.warns(ConvergenceWarning, match="max_iter=1 "):
        BMN(L, Y, 0.5, max_iter=1)


COV = np.cov(np.random.default_rng(3).normal(size=(6, 40)))
LF = Leadfield(L, COORDS, ch_names=list("abcdef"))
MNE = mne.Covariance(1e-12 * COV, list("abcdef"), [], [], 30)


@pytest.mark.parametrize(
    "cov, error, words",
    [
        (COV[:5], ValueError, r"must be of shape \(6, 6\), got shape \(5, 6\)"),
        (
            COV[:5, :5],
            ValueError,
            r"must be of shape \(6, 6\), got shape \(5, 5\): pass the covariance of the noise",
        ),
        (COV.diagonal(), ValueError, r"must be of shape \(6, 6\), got shape \(6,\)"),
        (2.0, ValueError, r"must be of shape \(6, 6\), got shape \(\)"),
        (
            COV + np.triu(np.ones((6, 6)), 1),
            ValueError,
            "must be symmetric, got entries that differ by",
        ),
        (nan(COV), ValueError, "must be finite, got 1 NaN"),
        (
            COV - 0.9 * np.eye(6),
            ValueError,
            "must be without negative (eigenvalues|variances), got -",
        ),
        (-COV, ValueError, "must be without negative variances, got -"),
        (COV * (1 + 1e-6 * np.triu(np.ones((6, 6)), 1)), ValueError, "must be symmetric"),
        (0 * COV, ValueError, "must be different from zero somewhere, got all zeros"),
        (COV + 0j, TypeError, "must be real numbers, got dtype complex"),
        ("oas", TypeError, "must be real numbers"),
        ([[1, 2], [3]], ValueError, "must be an array, got rows of different lengths"),
        (whitener(COV[:5, :5]), ValueError, "must be for 6 sensors, as L has, got a whitener of 5"),
        (
            dict(sigma=1),
            TypeError,
            "must be a mapping with names and data, as an mne.Covariance is, got one with sigma",
        ),
        (
            mne.pick_channels_cov(MNE, ["a", "b", "c"]),
            ValueError,
            "must be for all 6 channels of the leadfield, got none for d, e, f: leave them out",
        ),
        (
            mne.Covariance(COV, ["MEG 1", "MEG 2", "x", "y", "z", "w"], [], [], 30),
            ValueError,
            "must be a covariance of the leadfield's channels, got MEG 1, MEG 2, x, y, z and 1 more "
            "where the leadfield has a, b, c, d, e and 1 more",
        ),
        (
            MNE | dict(bads=["c", "q"]),
            ValueError,
            "must be good for all channels of the leadfield, got c marked as bad",
        ),
        (MNE | dict(data=COV[:5]), ValueError, r"must be of shape \(6, 6\), got shape \(5, 6\)"),
    ],
)
def test_bad_covariances(cov, error, words):
    e = SourceEstimator(BMN, noise_cov=cov)
    with pytest.raises(error, match=f"noise_cov {words}"):
        e.fit(LF, Y)
    assert not hasattr(e, "result_")


def test_covariances_with_something_else():
    with pytest.raises(ValueError, match="noise_var must be None where noise_cov is given, got 2"):
        SourceEstimator(BMN, None, 2, noise_cov=COV).fit(L, Y)
    for array in (L, prepare(L), L[:, :, None]):
        with pytest.raises(
            TypeError,
            match=r"L must be a Leadfield where noise_cov knows channels by name.*"
            "pass a Leadfield, or noise_cov as an array in squared data units",
        ):
            SourceEstimator(BMN, noise_cov=MNE).fit(array, Y)
    with pytest.raises(ValueError, match="L must be finite, got 1 NaN"):
        SourceEstimator(BMN, noise_cov=COV).fit(nan(L), Y)
    with pytest.raises(TypeError, match="L must be real numbers"):
        SourceEstimator(BMN, noise_cov=COV).fit(None, Y)
    with pytest.raises(ValueError, match=r"L must be of n_sources .* 3 columns"):
        SourceEstimator(BMN, noise_cov=COV, n_orient=3).fit(L[:, :11], Y)
    e = SourceEstimator(BMN, noise_cov=COV).fit(L, Y)
    with pytest.raises(ValueError, match=r"y must be of shape \(6, n_times\), as L has 6 sensors"):
        e.predict(Y[:5])
    with pytest.raises(ValueError, match="as L has 6 sensors"):
        SourceEstimator(BMN, noise_cov=COV).fit(L, Y[:5])
    with pytest.raises(TypeError, match="BMN has no parameter noise_cov"):
        SourceEstimator(BMN, dict(noise_cov=COV), 1).fit(L, Y)


@pytest.mark.parametrize(
    "kwargs, error, words",
    [
        (dict(rank=0), ValueError, "rank must be finite and >= 1 and <= 6, got 0"),
        (dict(rank=7), ValueError, "rank must be .*got 7: cov has 6 directions with noise"),
        (dict(rank=2.5), TypeError, "rank must be a whole number"),
        (dict(units=["µV"] * 5), ValueError, "units must be 6 texts, one for each sensor, got 5"),
        (
            dict(cov=np.diag([1.0, 1, 1, 0, 0, 0]), units=["µV"] * 3 + ["fT"] * 3),
            ValueError,
            "cov must be different from zero somewhere in each unit, got all zeros for fT: leave those sensors out",
        ),
        (dict(cov=COV[:3]), ValueError, r"cov must be square, got shape \(3, 6\)"),
        (
            dict(cov=np.array([[1.0, 2], [2, 1]])),
            ValueError,
            "cov must be without negative eigenvalues, got -0.333 of the largest",
        ),
    ],
)
def test_bad_arguments_of_a_whitener(kwargs, error, words):
    with pytest.raises(error, match=words):
        whitener(**dict(cov=COV) | kwargs)


def test_a_covariance_as_a_list():
    assert np.array_equal(whitener(COV.tolist()).W, whitener(COV).W)


def test_rounding_in_a_covariance_is_no_error():
    uneven = COV * (1 + 1e-10 * np.triu(np.ones((6, 6)), 1))
    assert np.abs(whitener(uneven).W - whitener(COV).W).max() < 1e-8
    assert whitener(np.diag([1.0, 1, -1e-13])).rank == 2
