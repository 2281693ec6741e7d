"Situations of people who bring scripts and files from calibrain 1.0.3."

import importlib
import subprocess
import sys

import numpy as np
import pytest
from mne.io.constants import FIFF

import calibrain
from calibrain import (
    BMN,
    Leadfield,
    LeadfieldBuilder,
    MetricEvaluator,
    SensorSimulator,
    SourceEstimator,
    SourceSimulator,
    UncertaintyEstimator,
    gamma_map_sflex,
)
from calibrain.published.leadfield_builder import LeadfieldData

N_SENSORS, N_SOURCES = 9, 12
LEVELS = np.linspace(0, 1, 11)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# ---- Files that its extract_leadfield writes: per Am, with a pickled info and basis

SENSORS = {  # kind, unit, coil, size of V/Am or T/Am, unit here, and what one of theirs is in it
    "eeg": (FIFF.FIFFV_EEG_CH, FIFF.FIFF_UNIT_V, FIFF.FIFFV_COIL_EEG, "µV/nAm", 1e-3),
    "mag": (FIFF.FIFFV_MEG_CH, FIFF.FIFF_UNIT_T, FIFF.FIFFV_COIL_VV_MAG_T1, "fT/nAm", 1e6),
    "grad": (FIFF.FIFFV_MEG_CH, FIFF.FIFF_UNIT_T_M, 3012, "fT/cm/nAm", 1e4),
}


def an_object(value):
    "What numpy stores as a pickle"
    box = np.empty((), dtype=object)
    box[()] = value
    return box


def extracted(sensor, orientation, **changed):
    "The members of such a file"
    kind, unit, coil, _, _ = SENSORS[sensor]
    k = {"fixed": 1, "free": 3 if sensor == "eeg" else 2}[orientation]
    L = 1e-6 * drawn(N_SENSORS, N_SOURCES, k)
    Q = np.tile(np.eye(3)[:, :k], (N_SOURCES, 1, 1))
    return (
        dict(
            subject="S1",
            leadfield=L[..., 0] if k == 1 else L,
            source_ori=1 if k == 1 else 2,
            src_coords=0.05 * drawn(N_SOURCES, 3, seed=1),
            info=an_object(dict(chs=[], working_dir="/data")),
            orientation_type=orientation,
            coil_type=coil,
            sensor_kind=kind,
            sensor_units=unit,
            sensor_unitmult=FIFF.FIFF_UNITM_NONE,
            Q_basis=an_object(None) if k == 1 else Q,
        )
        | changed
    )


def written(folder, members, name="S1_fixed_leadfield.npz"):
    np.savez(folder / name, **members)
    return folder / name


@pytest.mark.parametrize("orientation", ["fixed", "free"])
@pytest.mark.parametrize("sensor", SENSORS)
def test_a_file_that_extract_leadfield_wrote(tmp_path, sensor, orientation):
    members = extracted(sensor, orientation)
    lf = Leadfield.load(written(tmp_path, members))
    *_, unit, factor = SENSORS[sensor]
    L = np.asarray(members["leadfield"])
    assert lf.unit == unit
    assert np.allclose(lf.data, factor * L.reshape(N_SENSORS, N_SOURCES, -1), rtol=1e-12)
    assert np.array_equal(lf.coords, members["src_coords"])
    if orientation == "free":
        assert np.array_equal(lf.basis, members["Q_basis"])
    else:
        assert lf.basis is None


@pytest.mark.parametrize(
    "Q",
    [np.eye(3), np.zeros((N_SOURCES, 3, 0)), an_object(None)],
    ids=["identity of three", "empty", "None"],
)
def test_a_basis_that_says_nothing(tmp_path, Q):
    lf = Leadfield.load(written(tmp_path, extracted("eeg", "free", Q_basis=Q)))
    assert lf.basis is None and lf.n_orient == 3
    assert np.array_equal(lf.lift(drawn(N_SOURCES, 3, 2)), drawn(N_SOURCES, 3, 2))  # x, y, z


@pytest.mark.parametrize("Q", [np.eye(N_SOURCES), np.zeros((N_SOURCES, 3, 0))])
def test_a_basis_that_says_nothing_of_fixed_sources(tmp_path, Q):
    lf = Leadfield.load(written(tmp_path, extracted("mag", "fixed", Q_basis=Q)))
    assert lf.basis is None and lf.n_orient == 1


def test_a_wrong_basis_is_refused(tmp_path):
    path = written(tmp_path, extracted("mag", "free", Q_basis=np.ones((N_SOURCES, 3, 2))))
    with pytest.raises(ValueError, match="basis must be orthonormal"):
        Leadfield.load(path)


def test_free_columns_that_were_laid_flat(tmp_path):
    members = extracted("eeg", "free")
    flat = members | dict(leadfield=members["leadfield"].reshape(N_SENSORS, -1))
    whole = Leadfield.load(written(tmp_path, members, "whole.npz"))
    assert np.array_equal(Leadfield.load(written(tmp_path, flat, "flat.npz")).data, whole.data)


def test_constants_that_are_none(tmp_path):
    members = extracted("mag", "fixed", sensor_unitmult=an_object(None))
    lf = Leadfield.load(written(tmp_path, members | dict(sensor_units=an_object(None))))
    assert lf.unit == "fT/nAm"  # by the kind of the sensor


class Trap:
    "Touches a file when it is unpickled"

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_ever_unpickled(tmp_path):
    trap = tmp_path / "sprung"
    path = written(tmp_path, extracted("eeg", "fixed", info=an_object(Trap(trap))))
    Leadfield.load(path)
    LeadfieldBuilder(leadfield_dir=tmp_path).get_leadfield("S1")
    assert not trap.exists()
    np.load(path, allow_pickle=True)["info"].item().close()
    assert trap.exists()  # the trap works


def test_a_pickled_leadfield_is_refused_by_name(tmp_path):
    path = written(tmp_path, extracted("eeg", "fixed", leadfield=an_object([1, 2])))
    with pytest.raises(ValueError, match="pickled objects at 'leadfield'"):
        Leadfield.load(path)


def test_our_own_file_may_hold_no_object(tmp_path):
    path = Leadfield.random(4, 5).save(tmp_path / "ours.npz")
    with np.load(path) as arrays:
        np.savez(path, **dict(arrays), extra=an_object({}))
    assert Leadfield.load(path).n_sources == 5  # the object is left out, the checksum still holds
    with np.load(path) as arrays:
        kept = {k: arrays[k] for k in arrays.files if k != "extra"}
    np.savez(path, **kept | dict(data=kept["data"] + 1))
    with pytest.raises(ValueError, match="was altered"):
        Leadfield.load(path)


# ---- LeadfieldBuilder and the folder of the data


def test_the_builders_random_numbers_are_the_published_ones():
    L = LeadfieldBuilder(leadfield_dir="unused").get_leadfield(
        orientation_type="fixed", retrieve_mode="random", n_sensors=12, n_sources=24
    )
    assert np.array_equal(L, np.random.RandomState(64).standard_normal((12, 24)))


@pytest.mark.parametrize("sensor, power", [("eeg", -6), ("mag", -15), ("grad", -15)])
def test_the_builder_loads_with_constants(tmp_path, sensor, power):
    members = extracted(sensor, "free")
    written(tmp_path, members, "S1_free_leadfield.npz")
    builder = LeadfieldBuilder(leadfield_dir=tmp_path)
    found = builder.get_leadfield("S1", "free", return_metadata=True)
    kind, unit, coil, *_ = SENSORS[sensor]
    assert isinstance(found, LeadfieldData)
    assert (found.sensor_kind, found.sensor_units, found.coil_type) == (kind, unit, coil)
    assert found.sensor_unitmult == builder.sensor_unitmult == power
    per_nam = 10.0 ** (-power - 9)  # from V or T or T/m per Am
    assert np.allclose(found.leadfield, per_nam * members["leadfield"], rtol=1e-12)
    assert np.array_equal(found.Q_basis, members["Q_basis"])


def test_the_builder_refuses_another_orientation(tmp_path):
    written(tmp_path, extracted("eeg", "fixed"), "S1_free_leadfield.npz")
    with pytest.raises(ValueError, match="leadfield must be of 3 dimensions for 'free'"):
        LeadfieldBuilder(leadfield_dir=tmp_path).get_leadfield("S1", "free")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"S9_fixed_leadfield\.npz"):
        LeadfieldBuilder(leadfield_dir=tmp_path).get_leadfield("S9")


def test_the_folder_of_the_data(tmp_path, monkeypatch):
    utils = importlib.import_module("calibrain.utils")
    monkeypatch.setenv("CALIBRAIN_DATA", str(tmp_path / "mine"))
    assert utils.get_data_path() == tmp_path / "mine" and (tmp_path / "mine").is_dir()
    assert utils.get_data_path(tmp_path / "other") == tmp_path / "other"


def test_old_names_at_the_top_level_cost_nothing():
    names = ["LeadfieldBuilder", "UncertaintyEstimator", "MetricEvaluator"]
    assert {*names} <= {*calibrain.__all__}
    code = "import sys, calibrain, calibrain.utils; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- Simulators


def test_metadata_that_are_not_passed_stay():
    sensors = SensorSimulator().set_sensor_metadata(
        kind=FIFF.FIFFV_EEG_CH,
        units=FIFF.FIFF_UNIT_V,
        unitmult=FIFF.FIFF_UNITM_MU,
        coil_type=FIFF.FIFFV_COIL_EEG,
    )
    sensors.set_sensor_metadata(unitmult=FIFF.FIFF_UNITM_NONE)
    assert (sensors.kind, sensors.units) == (FIFF.FIFFV_EEG_CH, FIFF.FIFF_UNIT_V)
    assert (sensors.unitmult, sensors.coil_type) == (FIFF.FIFF_UNITM_NONE, FIFF.FIFFV_COIL_EEG)
    sensors.set_sensor_metadata(coil_type=None)
    assert sensors.coil_type == FIFF.FIFFV_COIL_EEG


def test_metadata_are_set_together_or_not_at_all():
    sensors = SensorSimulator()
    with pytest.raises(ValueError, match="units must be a known constant"):
        sensors.set_sensor_metadata(kind=FIFF.FIFFV_EEG_CH, units=4711)
    assert sensors.kind == FIFF.FIFFV_MEG_CH


def test_constants_as_a_file_holds_them():
    sensors = SensorSimulator().set_sensor_metadata(
        kind=np.array(2), units=np.array(107), unitmult=np.array(-6), coil_type=np.array(1)
    )
    assert sensors.unit == "µV" and sensors.kind == FIFF.FIFFV_EEG_CH
    erp = dict(tmin=-0.1, tmax=0.4, sfreq=100, random_erp_timing=False, erp_min_length=20)
    free = dict(n_sources=6, nnz=np.array(2), orientation_type="free", seed=np.array(3))
    x, _ = SourceSimulator(erp).simulate(coil_type=np.array(3022), **free)
    assert x.shape[:2] == (6, 2)


def test_fixed_sources_need_no_coil():
    simulator = SourceSimulator()
    said, _ = simulator.simulate(8, 2, "fixed", seed=1)
    unsaid, _ = simulator.simulate(8, 2, "fixed", coil_type=None, seed=1)
    assert np.array_equal(said, unsaid)
    with pytest.raises(TypeError, match="coil_type must be a whole number, got None"):
        simulator.simulate(8, 2, "free", coil_type=None)


def test_sources_say_their_unit():
    simulator = SourceSimulator()
    assert simulator.units == FIFF.FIFF_UNIT_AM
    assert simulator.unitmult == FIFF.FIFF_UNITM_N
    assert simulator.kind == FIFF.FIFFV_DIPOLE_WAVE


# ---- SourceEstimator


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("noise", [dict(noise_var=1.0), dict(noise_cov=np.diag([1.0] * 8 + [2]))])
def test_three_dimensions_say_the_orientations(k, noise):
    L, y = drawn(N_SENSORS, N_SOURCES, k), drawn(N_SENSORS, 20, seed=2)
    unsaid = SourceEstimator(BMN, **noise).fit(L, y).predict()
    said = SourceEstimator(BMN, n_orient=k, **noise).fit(L, y).predict()
    assert np.array_equal(unsaid.mean, said.mean) and unsaid.posterior.n_orient == k


def test_an_estimator_that_serves_two_leadfields():
    e = SourceEstimator(BMN, noise_var=1.0)
    y = drawn(N_SENSORS, 20)
    assert e.fit(drawn(N_SENSORS, N_SOURCES, 3), y).predict().posterior.n_orient == 3
    assert e.fit(drawn(N_SENSORS, N_SOURCES), y).predict().posterior.n_orient == 1
    assert e.n_orient is None  # fitting does not change parameters


def test_two_dimensions_are_one_orientation():
    e = SourceEstimator(BMN, noise_var=1.0)
    assert e.fit(drawn(N_SENSORS, 36), drawn(N_SENSORS, 5)).predict().posterior.n_orient == 1


def test_what_was_said_is_not_overruled():
    e = SourceEstimator(BMN, noise_var=1.0, n_orient=1)
    with pytest.raises(ValueError, match="set n_orient"):
        e.fit(drawn(N_SENSORS, N_SOURCES, 3), drawn(N_SENSORS, 5))


# ---- Parameters of solvers


@pytest.mark.parametrize(
    "params, words",
    [
        (dict(src_coords=0), "BMN has no parameter src_coords"),
        (dict(max_itr=9), "did you mean max_iter?"),
        (dict(eps=1e-15, tol=1e-7), "no parameter eps"),
        (dict(n_orient=3), "no parameter n_orient to set here"),
    ],
)
def test_unknown_parameters_are_named(params, words):
    e = SourceEstimator(BMN, params, noise_var=1.0)
    with pytest.raises(TypeError, match=words.replace("?", r"\?")):
        e.fit(drawn(N_SENSORS, N_SOURCES), drawn(N_SENSORS, 5))


def test_a_solver_of_ones_own_takes_anything():
    seen = {}

    def mine(L, y, **kwargs):
        seen.update(kwargs)
        return BMN(L, y, kwargs["noise_var"], n_orient=kwargs["n_orient"])

    L, y = drawn(N_SENSORS, N_SOURCES, 3), drawn(N_SENSORS, 5)
    mean = SourceEstimator(mine, dict(depth=0.8), noise_var=2.0).fit(L, y).predict().mean
    want = SourceEstimator(BMN, noise_var=2.0).fit(L, y).predict().mean
    assert np.array_equal(mean, want)
    assert seen.keys() == {"depth", "noise_var", "n_orient", "logger"}


def test_a_solver_of_ones_own_without_kwargs_does_not():
    def mine(L, y, noise_var, depth=1.0):
        return BMN(L, y, noise_var)

    e = SourceEstimator(mine, dict(dpth=0.8), noise_var=2.0)
    with pytest.raises(TypeError, match=r"mine has no parameter dpth.*did you mean depth\?"):
        e.fit(drawn(N_SENSORS, N_SOURCES), drawn(N_SENSORS, 5))


# ---- Records of UncertaintyEstimator

COUNTS = {"count_within", "total_count", "empirical_coverage", "within", "n_times"}
AVERAGES = {"x_true_agg", "x_hat_agg"}
ENDS = {"ci_lower", "ci_upper", "z_score"}
POOLED = {"posterior_var", "aggregation_axes", "n_sources", "n_orient"}
SETS = {"q_values", "threshold", "cov_blocks"}
MEG = SETS | {"projected_true", "projected_mean", "projected_cov_blocks", "V_tan"}
RECORDS = {
    ("interval_membership", 1): (
        ENDS | {"posterior_var"},
        ENDS | AVERAGES | {"posterior_var_agg"},
    ),
    ("ellipsoid_membership_eeg_free", 3): (SETS, SETS | AVERAGES),
    ("ellipse_membership_meg_free", 2): (MEG, MEG | {"x_true_agg_2d", "x_hat_agg_2d"}),
    ("componentwise_interval_membership_free", 3): (
        ENDS | POOLED | {"posterior_var_full"},
        ENDS | POOLED | AVERAGES | {"posterior_var_agg"},
    ),
}
T = 7


def problem(k):
    "Truth, mean and covariances of well-behaved sources"
    root = 0.3 * drawn(N_SOURCES, k, k, seed=4) + np.eye(k)
    hat = drawn(N_SOURCES, k, T, seed=5)
    x = hat + root @ drawn(N_SOURCES, k, T, seed=6)
    return x, hat, root @ root.transpose(0, 2, 1)


def record(name, k, mode, level):
    "A membership record, by its old name"
    x, hat, cov = problem(k)
    method = getattr(UncertaintyEstimator(LEVELS), f"{mode}_{name}")
    if k == 1:
        return method(x[:, 0], hat[:, 0], cov[:, 0, 0], level)
    if k == 2:
        Q = np.tile(np.eye(3)[:, :2], (N_SOURCES, 1, 1))
        return method(Q @ x, hat, cov, level, V_tan=Q)
    more = dict(n_orient=k) if "componentwise" in name else {}
    return method(x, hat, cov, level, **more)


@pytest.mark.parametrize("name, k", RECORDS)
@pytest.mark.parametrize("mode", ["pointwise", "aggregated"])
def test_records_have_the_documented_keys(name, k, mode):
    wanted = COUNTS | RECORDS[name, k][mode == "aggregated"]
    assert wanted <= record(name, k, mode, 0.9).keys()


@pytest.mark.parametrize("name, k", RECORDS)
@pytest.mark.parametrize("mode", ["pointwise", "aggregated"])
def test_records_at_both_ends(name, k, mode):
    key = "threshold" if "ellips" in name else "z_score"
    nothing, all_of_it = (record(name, k, mode, level) for level in (0, 1))
    assert (nothing[key], all_of_it[key]) == (0, np.inf)
    assert (nothing["count_within"], all_of_it["empirical_coverage"]) == (0, 1)


def test_values_of_the_records():
    x, hat, cov = problem(1)
    one = record("interval_membership", 1, "pointwise", 0.95)
    assert one["z_score"] == pytest.approx(1.959963984540054, rel=1e-12)
    assert np.array_equal(one["posterior_var"], np.tile(cov[:, 0], (1, T)))
    half = one["z_score"] * np.sqrt(one["posterior_var"])
    assert np.allclose(one["ci_upper"] - hat[:, 0], half, rtol=1e-12)

    x, hat, cov = problem(3)
    variances = np.diagonal(cov, axis1=1, axis2=2)
    pooled = record("componentwise_interval_membership_free", 3, "pointwise", 0.9)
    assert np.array_equal(pooled["posterior_var"], variances)
    assert pooled["posterior_var_full"].shape == x.shape
    assert (pooled["n_sources"], pooled["n_orient"]) == (N_SOURCES, 3)
    mean = record("componentwise_interval_membership_free", 3, "aggregated", 0.9)
    assert np.allclose(mean["posterior_var_agg"], variances / T, rtol=1e-12)

    x, hat, cov = problem(2)
    ellipse = record("ellipse_membership_meg_free", 2, "aggregated", 0.9)
    assert ellipse["threshold"] == pytest.approx(4.605170185988092, rel=1e-12)  # 2 log 10
    assert np.allclose(ellipse["projected_cov_blocks"], cov / T, rtol=1e-12)
    assert np.allclose(ellipse["x_true_agg_2d"], x.mean(2), rtol=1e-12)


@pytest.mark.parametrize("mode", ["pointwise", "aggregated"])
def test_curves_of_pooled_components_say_so(mode):
    x, hat, cov = problem(3)
    ue = UncertaintyEstimator(LEVELS)
    curve = getattr(ue, f"calibration_curve_componentwise_eeg_free_{mode}")(x, hat, cov)
    total = 3 * N_SOURCES * (T if mode == "pointwise" else 1)
    assert (curve["n_orient"], curve["mode"], curve["interval_type"]) == (3, mode, "marginal")
    assert np.array_equal(curve["total_counts"], np.full(len(LEVELS), total))
    assert np.allclose(curve["empirical_coverages"] * total, curve["ci_counts"])
    assert curve["direction_aggregation"] == "pooled_over_all_components"


# ---- The whole way, as its tutorials go it


def test_from_sources_to_a_curve():
    x, _ = SourceSimulator().simulate(n_sources=64, nnz=4, seed=0)
    L = LeadfieldBuilder(leadfield_dir="unused").get_leadfield(
        retrieve_mode="random", orientation_type="fixed", n_sensors=20, n_sources=len(x)
    )
    _, y, noise, _ = SensorSimulator().simulate(x, L, seed=0)
    coords = 0.04 * drawn(64, 3)
    patches = dict(sigma=0.01, src_coords=coords, update_mode="fast")
    for solver, params in ((BMN, None), (gamma_map_sflex, patches)):
        estimator = SourceEstimator(solver=solver, solver_params=params, noise_var=noise.var())
        result = estimator.fit(L, y).predict()
        ue = UncertaintyEstimator(nominal_coverages=LEVELS)
        variances = ue.posterior_variance_from_cov(result["posterior_cov"])
        curve = ue.calibration_curve_intervals_aggregated(
            x_true=x, x_hat=result["posterior_mean"], posterior_var=variances
        )
        metrics = MetricEvaluator(ue).calibration_metrics_4(
            curve["nominal_coverages"], curve["empirical_coverages"]
        )
        assert len(metrics) == 4 and curve["empirical_coverages"][-1] == 1
