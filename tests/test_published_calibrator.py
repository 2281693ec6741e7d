"Recalibration by the names of calibrain 1.0: what its tutorials call, and what they read"

import contextlib
import io
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from mne.io.constants import FIFF
from scipy.stats import norm

import calibrain
from calibrain import (
    LeadfieldBuilder,
    MetricEvaluator,
    SensorSimulator,
    SourceEstimator,
    SourceSimulator,
    UncertaintyCalibrator,
    UncertaintyEstimator,
    gamma_map_sflex,
)
from calibrain.core.warnings import InfiniteSetWarning

LEVELS = np.linspace(0, 1, 11)
N, T = 40, 7
COILS = {1: None, 2: FIFF.FIFFV_COIL_VV_MAG_T1, 3: FIFF.FIFFV_COIL_EEG}
SETTINGS = {1: "fixed", 2: "meg_free", 3: "eeg_free"}
KINDS = ("full_cov", "marginal")


def calibrator(levels=LEVELS):
    "A new one"
    ue = UncertaintyEstimator(nominal_coverages=levels)
    return UncertaintyCalibrator(ue, MetricEvaluator(ue))


def dataset(k=1, seed=0, n=N, claim=0.6):
    "Sources with `k` components, and a posterior that claims `claim` times their std"
    rng = np.random.default_rng(seed)
    root = 0.3 * rng.normal(size=(n, k, k)) + np.eye(k)
    x_hat = rng.normal(size=(n, k, T))
    x_true = x_hat + root @ rng.normal(size=(n, k, T))
    cov = claim**2 * root @ root.transpose(0, 2, 1)
    told = dict(coil_type=COILS[k], n_sources=n, n_times=T)
    if k == 1:
        arrays = dict(x_true=x_true[:, 0], x_hat=x_hat[:, 0], posterior_var=cov[:, 0, 0])
        return dict(orientation_type="fixed", **arrays, **told)
    arrays = dict(x_true=x_true, x_hat=x_hat, posterior_cov_blocks=cov)
    return dict(orientation_type="free", **arrays, **told)


def exact(claim, n=4000):
    "Fixed sources whose errors lie at the quantiles of a standard normal: no chance in it"
    error = norm.ppf((np.arange(n) + 0.5) / n)[:, None]
    return dict(x_true=error, x_hat=np.zeros((n, 1)), posterior_std=np.full(n, claim))


# ---- What comes back

BLOCK = {
    "nominal_coverages",
    "empirical_coverages",
    "calibration_metrics",
    "interval_type",
    "split_metadata",
}
PRE = BLOCK | {"ci_lowers", "ci_uppers", "ci_counts"}
POST = BLOCK | {"recalibrated_nominal_coverages"}
RESULT = {
    "pre_calibration",
    "post_calibration",
    "train_empirical_coverages",
    "calibration_metric_names",
}
METADATA = {
    "train_n_sources",
    "train_n_times",
    "eval_n_sources",
    "eval_n_times",
    "uses_separate_eval_split",
    "orientation_type",
    "coil_type",
    "setting",
    "interval_type",
    "fit",
}


@pytest.mark.parametrize("k, kind", [*product(SETTINGS, KINDS)])
@pytest.mark.parametrize("fit", [True, False])
def test_blocks_have_the_documented_keys(k, kind, fit):
    train, test = dataset(k, 1), dataset(k, 2)
    c = calibrator()
    found = c.calibrate(train_data=train, test_data=test, fit=fit, free_interval_type=kind)
    assert found.keys() == RESULT
    pre, post = found["pre_calibration"], found["post_calibration"]
    assert pre.keys() >= PRE and post.keys() >= POST
    for block in (pre, post):
        told = block["split_metadata"]
        assert told.keys() == METADATA
        assert (told["setting"], told["fit"]) == (SETTINGS[k], fit)
        assert (told["eval_n_sources"], told["eval_n_times"]) == (N, T)
        assert told["uses_separate_eval_split"] is True
        assert block["interval_type"] == (
            "full_cov" if k > 1 and kind == "full_cov" else "marginal"
        )
        assert len(block["calibration_metrics"]) == 4
        assert block["empirical_coverages"].shape == LEVELS.shape
    assert set(found["calibration_metric_names"]) == pre["calibration_metrics"].keys()
    assert post["recalibrated_nominal_coverages"].shape == LEVELS.shape
    assert (found["train_empirical_coverages"] is None) == (not fit)
    assert c.is_calibrated == fit


def test_looking_changes_nothing():
    found = calibrator().calibrate(test_data=dataset(), fit=False)
    pre, post = found["pre_calibration"], found["post_calibration"]
    assert np.array_equal(pre["empirical_coverages"], post["empirical_coverages"])
    assert np.array_equal(post["recalibrated_nominal_coverages"], LEVELS)
    assert pre["split_metadata"]["train_n_sources"] is None  # nothing was trained on


@pytest.mark.parametrize("kind", KINDS)
def test_two_steps_are_the_one(kind):
    train, test = dataset(3, 1), dataset(3, 2)
    one = calibrator().calibrate(train_data=train, test_data=test, free_interval_type=kind)
    c = calibrator()
    learned = c.fit_mapping(train_data=train, free_interval_type=kind)
    two = c.evaluate_with_mapping(test_data=test, free_interval_type=kind)
    asked = one["post_calibration"]["recalibrated_nominal_coverages"]
    assert np.array_equal(learned["recalibrated_nominal_coverages"], asked)
    assert np.array_equal(c.apply_calibration(LEVELS), asked)
    for name in ("pre_calibration", "post_calibration"):
        assert np.array_equal(two[name]["empirical_coverages"], one[name]["empirical_coverages"])
    curve = learned["train_curve"]["empirical_coverages"]
    assert np.array_equal(curve, one["train_empirical_coverages"])
    assert two["train_empirical_coverages"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_after_is_what_sets_of_the_levels_hold(kind):
    "By the membership of each level, one at a time"
    ue = UncertaintyEstimator(nominal_coverages=LEVELS)
    test = dataset(3, 2)
    c = UncertaintyCalibrator(ue, MetricEvaluator(ue))
    c.fit_mapping(train_data=dataset(3, 1), free_interval_type=kind)
    post = c.evaluate_with_mapping(test_data=test, free_interval_type=kind)["post_calibration"]
    arrays = (test["x_true"], test["x_hat"], test["posterior_cov_blocks"])
    for level, share in zip(c.apply_calibration(LEVELS), post["empirical_coverages"]):
        if kind == "full_cov":
            one = ue.aggregated_ellipsoid_membership_eeg_free(*arrays, level)
        else:
            method = ue.aggregated_componentwise_interval_membership_free
            one = method(*arrays, nominal_coverage=level, n_orient=3)
        assert one["empirical_coverage"] == share


# ---- The map


@pytest.mark.parametrize("claim", [0.4, 0.7, 1.0, 1.6])
def test_the_map_undoes_a_wrong_width(claim):
    "σ claimed as `claim` σ: ask for 2 Φ(z / claim) − 1"
    c = calibrator()
    found = c.calibrate(train_data=exact(claim), test_data=exact(claim, n=3000))
    wanted = norm.ppf((1 + LEVELS[:-1]) / 2)
    asked = norm.ppf((1 + c.apply_calibration(LEVELS[:-1])) / 2)
    # half a step of 0.1 claimed std, and what one source of 4,000 is at the level
    assert np.allclose(asked * claim, wanted, atol=0.05 * claim + 0.01)
    # the map is straight between levels 0.1 claimed std apart; two of the 3,000 sources
    after = found["post_calibration"]["empirical_coverages"]
    assert np.allclose(after, LEVELS, atol=0.01 * claim**2 / 8 + 2 / 3000)


def test_levels_rise_and_end_where_they_should():
    asked = calibrator().fit_mapping(train_data=dataset())["recalibrated_nominal_coverages"]
    assert (np.diff(asked) >= 0).all() and (asked[0], asked[-1]) == (0, 1)


def test_the_estimators_levels_do_not_matter_to_the_map():
    few, many = calibrator([0.5, 0.9]), calibrator(np.linspace(0, 1, 41))
    for c in (few, many):
        c.fit_mapping(train_data=exact(0.5))
    level = np.array([0.2, 0.5, 0.9, 0.97])
    assert np.allclose(few.apply_calibration(level), many.apply_calibration(level), atol=0.005)


def test_what_no_finite_set_keeps_is_said():
    data = exact(0.7, n=1000)
    data["posterior_std"][::5] = 0  # a fifth pruned by mistake
    c = calibrator()
    with pytest.warns(InfiniteSetWarning, match=r"no finite set keeps a promise of 0\.9"):
        found = c.calibrate(train_data=data, test_data=data)
    post = found["post_calibration"]
    asked = dict(zip(LEVELS.round(1), post["recalibrated_nominal_coverages"]))
    assert asked[0.7] < 1 and asked[0.9] == 1
    assert post["empirical_coverages"][LEVELS.round(1) == 0.9] == 1


# ---- How data may be written down


def test_uncertainties_of_fixed_sources():
    data = dataset()
    var = data.pop("posterior_var")
    want = calibrator().fit_mapping(train_data=data | dict(posterior_var=var))
    same = dict(posterior_std=np.sqrt(var)[:, None]), dict(posterior_cov=np.diag(var))
    for other in same:
        found = calibrator().fit_mapping(train_data=data | other)
        for key in ("nominal_coverages", "ci_counts"):
            assert np.array_equal(found["train_curve"][key], want["train_curve"][key])


@pytest.mark.parametrize("k", [2, 3])
def test_flat_arrays_are_source_major(k):
    data = dataset(k)
    want = calibrator().calibrate(test_data=data, fit=False)["pre_calibration"]
    whole = np.zeros((N, k, N, k))
    whole[np.arange(N), :, np.arange(N)] = data.pop("posterior_cov_blocks")
    data |= dict(posterior_cov=whole.reshape(k * N, k * N), x_hat=data["x_hat"].reshape(k * N, T))
    flat = calibrator().calibrate(test_data=data, fit=False)["pre_calibration"]
    assert np.array_equal(flat["empirical_coverages"], want["empirical_coverages"])


def test_components_say_the_orientation():
    for k in (2, 3):
        data = dataset(k) | dict(coil_type=None)
        found = calibrator().calibrate(test_data=data, fit=False)["pre_calibration"]
        assert found["split_metadata"]["setting"] == SETTINGS[k]
    bare = {key: v for key, v in dataset().items() if key in ("x_true", "x_hat", "posterior_var")}
    told = calibrator().calibrate(test_data=bare, fit=False)["pre_calibration"]["split_metadata"]
    assert (told["setting"], told["eval_n_sources"], told["eval_n_times"]) == ("fixed", N, T)


@pytest.mark.parametrize("n_directions", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_truth_in_space_along_the_directions(n_directions, kind):
    data = dataset(2)
    Q = np.linalg.qr(np.random.default_rng(5).normal(size=(N, 3, 3)))[0]
    space = data | dict(x_true=Q[:, :, :2] @ data["x_true"], Q_basis=Q[:, :, :n_directions])
    found = [
        calibrator().calibrate(test_data=d, fit=False, free_interval_type=kind)["pre_calibration"]
        for d in (data, space)
    ]
    assert np.array_equal(found[0]["ci_counts"], found[1]["ci_counts"])


def test_arrays_as_they_are():
    data = dataset()
    arrays = (data["x_true"], data["x_hat"], np.sqrt(data["posterior_var"]))
    found = calibrator().calibrate(*arrays)
    pre = found["pre_calibration"]
    assert np.array_equal(pre["empirical_coverages"], found["train_empirical_coverages"])
    assert pre["split_metadata"]["uses_separate_eval_split"] is False
    looked = calibrator().calibrate(*arrays, fit=False)["pre_calibration"]
    assert np.array_equal(looked["empirical_coverages"], pre["empirical_coverages"])


def test_it_says_what_it_has(capsys):
    calibrator().calibrate(train_data=dataset(), test_data=dataset(n=9), verbose=True)
    assert "train_n_sources 40" in (said := capsys.readouterr().out) and "eval_n_sources 9" in said


# ---- Bad input


@pytest.mark.parametrize(
    "use",
    [
        lambda c: c.apply_calibration([0.5]),
        lambda c: c.evaluate_with_mapping(test_data=dataset()),
    ],
)
def test_unfitted(use):
    with pytest.raises(ValueError, match="Calibrator must be fitted first"):
        use(calibrator())


def test_looking_is_not_fitting():
    c = calibrator()
    c.calibrate(train_data=dataset(1, 1), test_data=dataset(), fit=False)
    with pytest.raises(ValueError, match="must be fitted first"):
        c.apply_calibration(0.9)


@pytest.mark.parametrize("k, other", [(1, 3), (3, 2), (2, 1)])
def test_another_orientation_than_in_training(k, other):
    words = f"test_data must be of '{SETTINGS[k]}' sources, as in training, got '{SETTINGS[other]}'"
    c = calibrator()
    with pytest.raises(ValueError, match=words):
        c.calibrate(train_data=dataset(k), test_data=dataset(other))
    assert not c.is_calibrated  # refused before any work
    c.fit_mapping(train_data=dataset(k))
    with pytest.raises(ValueError, match=words):
        c.evaluate_with_mapping(test_data=dataset(other))


def test_another_kind_of_set_than_in_training():
    c = calibrator()
    c.fit_mapping(train_data=dataset(3))
    with pytest.raises(ValueError, match="free_interval_type must be 'full_cov', as in training"):
        c.evaluate_with_mapping(test_data=dataset(3), free_interval_type="marginal")


def test_levels_on_another_grid():
    ue = UncertaintyEstimator([0.5, 0.9])
    with pytest.raises(ValueError, match="metric_evaluator must be at the levels of uncertainty"):
        UncertaintyCalibrator(ue, MetricEvaluator(UncertaintyEstimator([0.5, 0.8])))
    c = UncertaintyCalibrator(ue, MetricEvaluator(ue))
    ue.nominal_coverages = np.array([0.1])  # too late to matter
    found = c.calibrate(train_data=dataset(), test_data=dataset())
    assert np.array_equal(found["post_calibration"]["nominal_coverages"], [0.5, 0.9])


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(x_true=None), "train_data must be with 'x_true'"),
        (dict(x_hat=None), "train_data must be with 'x_hat'"),
        (dict(x_hat=np.zeros((N, T + 1))), "x_true must be of shape"),
        (dict(posterior_var=None), "with one of posterior_var, posterior_std, posterior_cov for"),
        (dict(posterior_var=-np.ones(N)), "posterior_uncert must be >= 0"),
        (dict(posterior_var=None, posterior_std=-np.ones(N)), r"\['posterior_std'\] must be >= 0"),
        (dict(posterior_var=np.ones(N + 1)), "x_hat must be"),
        (dict(posterior_var=np.full(N, np.nan)), "must be finite"),
        (dict(orientation_type="loose"), r"\['orientation_type'\] must be one of 'fixed', 'free'"),
        (dict(orientation_type="free"), r"\['coil_type'\] must be given for free sources"),
        (dict(orientation_type="free", coil_type=4711), "coil_type must be one of"),
    ],
)
def test_a_dataset_that_is_not_one(change, words):
    with pytest.raises(ValueError, match=words):
        calibrator().fit_mapping(train_data=dataset() | change)


def test_nothing_to_count():
    silent = dict(x_true=np.zeros((3, 4)), x_hat=np.zeros((3, 4)), posterior_var=np.zeros(3))
    c = calibrator()
    with pytest.raises(ValueError, match="train_data must be with a set that says something"):
        c.fit_mapping(train_data=silent)
    assert not c.is_calibrated


def test_other_bad_calls():
    c = calibrator()
    ue = UncertaintyEstimator(LEVELS)
    with pytest.raises(TypeError, match="train_data must be a dict"):
        c.fit_mapping(train_data=np.zeros(3))
    with pytest.raises(ValueError, match="train_data must be given"):
        c.calibrate(test_data=dataset())
    with pytest.raises(ValueError, match="free_interval_type must be one of"):
        c.calibrate(test_data=dataset(3), fit=False, free_interval_type="both")
    with pytest.raises(TypeError, match="metric_evaluator must be of class MetricEvaluator"):
        UncertaintyCalibrator(ue, ue)
    c.fit_mapping(train_data=dataset())
    with pytest.raises(ValueError, match="levels must be within 0 and 1"):
        c.apply_calibration([50])
    with pytest.raises(ValueError, match=r"test_data\['Q_basis'\] must be of shape"):
        c.calibrate(test_data=dataset(2) | dict(Q_basis=np.eye(3)), fit=False)


# ---- As the tutorials go


def test_the_calls_of_the_calibration_and_the_end_to_end_tutorial():
    "Their chain of calls, and what their pictures read, with a few sources of our own"
    erp = dict(tmin=-0.1, tmax=0.4, sfreq=100, random_erp_timing=False, erp_min_length=20)
    sources, sensors = SourceSimulator(ERP_config=erp), SensorSimulator()
    builder = LeadfieldBuilder(leadfield_dir="unused")
    lf = builder.get_leadfield(
        subject="demo",
        orientation_type="fixed",
        retrieve_mode="random",
        n_sensors=12,
        n_sources=24,
        return_metadata=True,
    )
    patches = dict(sigma=0.01, src_coords=0.04 * np.random.default_rng(0).normal(size=(24, 3)))
    ue = UncertaintyEstimator(nominal_coverages=LEVELS)
    me = MetricEvaluator(ue)

    def estimated(seed):
        x, active = sources.simulate(n_sources=24, nnz=3, orientation_type="fixed", seed=seed)
        _, y, noise, _ = sensors.simulate(
            x=x, L=lf.leadfield, alpha_SNR=0.7, sensor_white_noise_std=0.2, seed=seed
        )
        parameters = dict(max_iter=150, tol=1e-4, update_mode="fast", **patches)
        estimator = SourceEstimator(
            solver=gamma_map_sflex, solver_params=parameters, noise_var=noise.var(), n_orient=1
        )
        estimator.fit(lf.leadfield, y)
        result = estimator.predict()
        cov = result["posterior_cov"]
        return dict(
            orientation_type="fixed",
            coil_type=None,
            x_true=x,
            x_hat=result["posterior_mean"],
            posterior_cov=cov,
            posterior_var=ue.posterior_variance_from_cov(cov),
            n_sources=x.shape[0],
            n_times=x.shape[1],
            seed=seed,
            solver="gamma_map_sflex",
            active_sources=active,
        )

    train, test = estimated(7), estimated(8)
    precal = calibrain.UncertaintyCalibrator(ue, me).calibrate(test_data=test, fit=False)
    with pytest.warns(InfiniteSetWarning):  # a source was pruned by mistake
        oracle = calibrain.UncertaintyCalibrator(ue, me).calibrate(
            train_data=train, test_data=test, fit=True
        )
    curve = ue.calibration_curve_intervals_aggregated(
        x_true=test["x_true"], x_hat=test["x_hat"], posterior_var=test["posterior_var"]
    )
    for found in (precal, oracle):
        pre = found["pre_calibration"]
        assert np.array_equal(pre["nominal_coverages"], curve["nominal_coverages"])
        assert np.array_equal(pre["empirical_coverages"], curve["empirical_coverages"])
        assert pre["calibration_metrics"] == me.calibration_metrics_4(
            LEVELS, curve["empirical_coverages"]
        )
    post = oracle["post_calibration"]
    drawn = (
        oracle["train_empirical_coverages"],
        post["nominal_coverages"],
        post["empirical_coverages"],
        post["recalibrated_nominal_coverages"],
    )
    assert all(np.shape(values) == (11,) and np.isfinite(values).all() for values in drawn)
    assert len(post["calibration_metrics"]) == 4


# ---- Against the release itself, where it is installed

ROOT = Path(__file__).resolve().parents[1]
BOTH = """
import json
import numpy as np
from calibrain import MetricEvaluator, UncertaintyCalibrator, UncertaintyEstimator

ue = UncertaintyEstimator(nominal_coverages=np.linspace(0, 1, 11))

def dataset(k, seed, N=60, T=12):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(N, k, k)) + 2 * np.eye(k)
    hat = 3 * rng.normal(size=(N, k, T))
    x = hat + root @ rng.normal(size=(N, k, T))
    cov = 0.5 * root @ root.transpose(0, 2, 1)
    told = dict(n_sources=N, n_times=T, coil_type={1: None, 2: 3022, 3: 1}[k])
    if k == 1:
        arrays = dict(x_true=x[:, 0], x_hat=hat[:, 0], posterior_std=np.sqrt(cov[:, 0, 0]))
        return dict(orientation_type="fixed", **arrays, **told)
    Q = np.tile(np.eye(3)[:, :2], (N, 1, 1))
    arrays = dict(x_true=x, x_hat=hat, posterior_cov_blocks=cov, Q_basis=Q)
    return dict(orientation_type="free", **arrays, **told)

def plain(value):
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return np.asarray(value).tolist() if isinstance(value, np.ndarray | np.generic) else value

found = {}
for k in (1, 2, 3):
    for kind in ("full_cov", "marginal"):
        both = dict(train_data=dataset(k, 1), test_data=dataset(k, 2))
        calibrator = UncertaintyCalibrator(ue, MetricEvaluator(ue))
        one = calibrator.calibrate(**both, free_interval_type=kind)
        fit = calibrator.fit_mapping(train_data=both["train_data"], free_interval_type=kind)
        two = calibrator.evaluate_with_mapping(
            test_data=both["test_data"], free_interval_type=kind
        )
        found[f"{k} {kind}"] = plain(dict(one=one, fit=fit, two=two))
print(json.dumps(found))
"""


def differences(theirs, ours, path=()):
    "Paths at which ours lacks a key, or has another shape or another value"
    if isinstance(theirs, dict):
        for key, value in theirs.items():
            if key not in ours:
                yield *path, key, "missing"
            else:
                yield from differences(value, ours[key], (*path, key))
    elif np.shape(theirs) != np.shape(ours):
        yield *path, "shape"
    elif theirs != ours:
        yield path


def test_against_the_published_package(published_package):
    "The same keys, shapes and values; only what comes after the map may differ"
    from benchmarks.peers import run

    theirs = json.loads(run(str(published_package), "-c", BOTH))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(BOTH, {})
    ours = json.loads(out.getvalue())
    after = {"post_calibration", "recalibrated_nominal_coverages"}
    different = [path for path in differences(theirs, ours) if not after & {*path}]
    assert not different
    shapes = [path for path in differences(theirs, ours) if path[-1] in ("missing", "shape")]
    assert not shapes
