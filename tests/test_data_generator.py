"Data generation of calibrain 1.0: its tutorial's sequence of calls, and what the release printed for it"

import importlib
import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from mne.io.constants import FIFF
from test_reference import ERP

import calibrain
from calibrain import (
    DataGenerator,
    LeadfieldBuilder,
    SensorSimulator,
    SourceSimulator,
    gamma_map_sflex,
)
from calibrain.published.data_workflow import run_data_generation
from calibrain.published.posterior_summaries import (
    concatenate_summaries,
    discover_posterior_summaries,
    load_posterior_summary,
    summaries_from_manifest,
)

pd = pytest.importorskip("pandas")
h5py = pytest.importorskip("h5py")

SEED = 83
# What the release printed: seed, oracle or baseline, share of the signal, noise variance
PRINTED = [
    (11, 1, 1103988818, "oracle", 0.5, 0.9682882070410033),
    (12, 2, 2429480471, "oracle", 0.5, 0.9710408812109492),
    (13, 1, 2936845288, "baseline", 0.5, 0.7395789410132025),
    (14, 2, 3583766311, "baseline", 0.5, 0.8918054431238395),
    (15, 1, 2850319616, "oracle", 0.8, 0.04684878803525365),
    (16, 2, 3894906112, "oracle", 0.8, 0.039623967221664426),
    (17, 1, 3337749800, "baseline", 0.8, 0.06282703743893472),
    (18, 2, 1175674627, "baseline", 0.8, 0.042974509920290276),
]
COLUMNS = [
    *("run_id", "global_run_id", "seed", "solver", "noise_type", "max_iter", "sigma", "tol"),
    *("alpha_SNR", "nnz", "orientation_type", "sensor_white_noise_std", "subject"),
    *("sensor_kind", "coil_type", "n_sources", "n_times", "gamma", "noise_var"),
    "active_indices_size",
]


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    "A folder with the tutorial's head, and a free one"
    folder = tmp_path_factory.mktemp("heads")
    rng = np.random.default_rng(SEED)
    coords = rng.normal(scale=0.04, size=(32, 3))
    L = rng.normal(scale=0.03, size=(16, 32))
    L = 0.6 * L / np.linalg.norm(L, axis=0, keepdims=True)
    eeg = dict(
        sensor_kind=FIFF.FIFFV_EEG_CH,
        sensor_units=FIFF.FIFF_UNIT_V,
        sensor_unitmult=FIFF.FIFF_UNITM_MU,
        coil_type=FIFF.FIFFV_COIL_EEG,
        src_coords=coords,
    )
    empty = np.zeros((32, 3, 0))
    np.savez(folder / "demo_subject_fixed_leadfield.npz", leadfield=L, Q_basis=empty, **eeg)
    free = 0.6 * rng.normal(size=(16, 32, 3))
    np.savez(folder / "demo_subject_free_leadfield.npz", leadfield=free, Q_basis=empty, **eeg)
    return folder


def generator(heads, noise=("oracle",), orientation="fixed", solver=gamma_map_sflex, **more):
    grid = dict(subject=["demo_subject"], nnz=[4], orientation_type=[orientation])
    said = dict(
        solver=solver,
        solver_param_grid=dict(sigma=[0.01], max_iter=[150], tol=[1e-7]),
        data_param_grid=grid | dict(alpha_SNR=[0.5, 0.8], sensor_white_noise_std=[0.2]),
        noise_param_grid=dict(noise_type=list(noise)),
        ERP_config=ERP,
        source_simulator=SourceSimulator(ERP_config=ERP),
        leadfield_builder=LeadfieldBuilder(leadfield_dir=str(heads)),
        sensor_simulator=SensorSimulator(),
        random_state=SEED,
    )
    return DataGenerator(**(said | more))


def test_the_calls_of_the_tutorial(heads, tmp_path):
    "As it is called there: no files, one run of each, then two columns are drawn"
    results = generator(heads, save_posterior_stats=False).run(
        nruns=1, fig_path=str(tmp_path), n_jobs=1
    )
    assert list(results.columns) == COLUMNS
    shown = results[["global_run_id", "solver", "noise_type", "alpha_SNR", "nnz"]]
    assert shown.values.tolist() == [
        [1, "gamma_map_sflex", "oracle", 0.5, 4],
        [2, "gamma_map_sflex", "oracle", 0.8, 4],
    ]
    assert results["alpha_SNR"].astype(str).tolist() == ["0.5", "0.8"]
    assert results["seed"].tolist() == [seed for _, _, seed, *_ in PRINTED[:2]]
    assert results["noise_var"][0] == pytest.approx(PRINTED[0][-1], rel=1e-9)
    assert results["active_indices_size"].between(1, 32).all()
    assert not [*tmp_path.rglob("*.h5")]


@pytest.fixture(scope="module")
def made(heads, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    wanted = generator(heads, ["oracle", "baseline"], posterior_dir=folder / "post")
    return folder, wanted.run(2, folder / "figures", 1, run_offset=10, global_total_runs=99)


def test_runs_seeds_and_noise_are_those_that_the_release_printed(made):
    _, table = made
    columns = ["global_run_id", "run_id", "seed", "noise_type", "alpha_SNR"]
    assert table[columns].values.tolist() == [list(row[:-1]) for row in PRINTED]
    np.testing.assert_allclose(table["noise_var"], [row[-1] for row in PRINTED], rtol=1e-9)
    assert list(table.columns) == [*COLUMNS, "posterior_summary"]


def test_folders_and_files_are_where_the_release_has_them(made):
    folder, table = made
    below = (
        "orientation_type=fixed/solver=gamma_map_sflex/noise_type=oracle/nnz=4/"
        "subject=demo_subject/alpha_SNR=0.5/seed=1103988818/max_iter=150/"
        "sensor_white_noise_std=0.2/sigma=0.01/tol=1e-07"
    )
    assert (folder / "figures" / below).is_dir()
    path = folder / "post/posterior_summary_run00000011_seed1103988818.h5"
    assert table["posterior_summary"][0] == path.as_posix()
    with h5py.File(path) as file:
        assert sorted(file) == ["Q_basis", "posterior_cov", "x_hat", "x_true"]
        assert file["posterior_cov"].shape == (32, 32)
        assert file["x_hat"].compression == "gzip"
        said = json.loads(file.attrs["metadata_json"])
    assert said["experiment_dir"].endswith(below) and said["nruns"] == 2
    wanted = dict(global_run_id=11, run_id=1, nnz=4, alpha_SNR=0.5, coil_type=1, sensor_kind=2)
    wanted |= dict(sensor_units=107, sensor_unitmult=-6, n_sources=32, n_times=90)
    assert {name: said[name] for name in wanted} == wanted


def test_files_hold_the_truth_and_the_posterior_of_the_run(heads, made):
    folder, _ = made
    first = next(discover_posterior_summaries(folder / "post"))
    found = load_posterior_summary(first)
    x, _ = SourceSimulator(ERP).simulate(32, 4, seed=PRINTED[0][2])
    np.testing.assert_array_equal(found["x_true"], x)
    L = LeadfieldBuilder(leadfield_dir=heads).get_leadfield("demo_subject")
    seed = PRINTED[0][2] * 26544 % 2**32
    _, y, noise, _ = SensorSimulator().simulate(x, L, 0.5, 0.2, seed=seed)
    coords = np.load(heads / "demo_subject_fixed_leadfield.npz")["src_coords"]
    said = dict(src_coords=coords, sigma=0.01, update_mode="convex", max_iter=150, tol=1e-7)
    result = gamma_map_sflex(L, y, noise.var(), **said)
    np.testing.assert_allclose(found["x_hat"], result.mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found["posterior_cov"], result["posterior_cov"], atol=1e-12)


def test_a_manifest_leads_to_the_files_and_these_to_calibration(made, tmp_path):
    _, table = made
    table.to_csv(tmp_path / "run_manifest.csv", index=False)
    summaries = summaries_from_manifest(tmp_path / "run_manifest.csv")
    assert [s.metadata["seed"] for s in summaries] == [row[2] for row in PRINTED]
    whole = concatenate_summaries(summaries[:2])
    assert whole["x_true"].shape == (64, 90) and whole["posterior_cov"].shape == (64, 64)
    assert whole["orientation_type"] == "fixed" and whole["coil_type"] == FIFF.FIFFV_COIL_EEG
    ue = calibrain.UncertaintyEstimator(nominal_coverages=np.linspace(0, 1, 11))
    curve = ue.calibration_curve_intervals_aggregated(
        x_true=whole["x_true"],
        x_hat=whole["x_hat"],
        posterior_var=np.diag(whole["posterior_cov"]),
    )
    assert curve["empirical_coverages"][-1] == pytest.approx(1, abs=0.1)


def test_the_workflow_of_the_release(heads, tmp_path, monkeypatch):
    "One run of one estimator, with the columns and the manifest that the release wrote"
    monkeypatch.chdir(tmp_path)
    grid = dict(subject=["demo_subject"], nnz=[4], orientation_type=["fixed"], alpha_SNR=[0.5])
    estimator = dict(
        solver="gamma_map_sflex",
        solver_params=dict(sigma=[0.01], max_iter=[50]),
        data_param_grid=grid | dict(sensor_white_noise_std=[0.2]),
        noise_param_grid=dict(noise_type=["oracle"]),
    )
    config = dict(
        nruns=1,
        random_state=SEED,
        log_dir="logs",
        ERP_config=ERP,
        leadfield_dir=str(heads),
        posterior_dir="post",
        estimators=[estimator],
    )
    table = run_data_generation(config)
    first = ["global_run_id", "run_id", "subject", "orientation_type", "nnz", "solver"]
    then = ["noise_type", "alpha_SNR", "gamma", "nruns", "seed", "max_iter", "sigma"]
    last = ["sensor_white_noise_std", "sensor_kind", "coil_type", "n_sources", "n_times"]
    last += ["noise_var", "active_indices_size", "posterior_summary"]
    assert list(table.columns) == first + then + last
    manifest = pd.read_csv("results/run_manifest.csv")
    assert manifest["noise_var"].tolist() == pytest.approx([PRINTED[0][-1]], rel=1e-9)
    (summary,) = summaries_from_manifest("results/run_manifest.csv")
    assert summary.path.as_posix() == "post/posterior_summary_run00000001_seed1103988818.h5"
    Path("config.py").write_text(f"CONFIG = {config!r}")
    again = run_data_generation("config.py")
    assert len(again) == len(pd.read_csv("results/run_manifest.csv")) == 1


def test_free_orientation_and_learned_noise(heads, tmp_path):
    wanted = generator(
        heads,
        ["adaptive_joint_learning"],
        "free",
        solver=calibrain.BMN_joint,
        solver_param_grid={},
        posterior_dir=tmp_path / "post",
    )
    table = wanted.run(nruns=1, fig_path=tmp_path / "figures")
    assert "error_message" not in table
    found = load_posterior_summary(next(discover_posterior_summaries(tmp_path / "post")))
    assert found["x_hat"].shape == found["x_true"].shape == (32, 3, 90)
    assert found["posterior_cov"].shape == (96, 96)


def test_another_process_would_give_the_same(heads, made, tmp_path):
    _, table = made
    sent = pickle.dumps(generator(heads, ["oracle", "baseline"], save_posterior_stats=False))
    again = pickle.loads(sent).run(2, tmp_path, run_offset=10)
    pd.testing.assert_frame_equal(again, table.drop(columns="posterior_summary"))


def test_a_run_that_fails_keeps_its_row_and_is_told(heads, tmp_path, caplog):
    grid = dict(sigma=[0.01, -1.0], max_iter=[20])
    wanted = generator(heads, solver_param_grid=grid, save_posterior_stats=False)
    with (
        pytest.warns(RuntimeWarning, match="2 of 4 runs failed, see the column error_message"),
        caplog.at_level(logging.CRITICAL),
    ):
        table = wanted.run(nruns=1, fig_path=tmp_path)
    assert table["error_message"].notna().tolist() == [False, False, True, True]
    assert "sigma" in table["error_message"][2] and table["gamma"].notna().sum() == 2


@pytest.mark.parametrize(
    "more, words",
    [
        (dict(noise_param_grid={}), "noise_param_grid must be a grid with noise_type"),
        (dict(data_param_grid=dict(nnz=[4])), "data_param_grid must be a grid with subject"),
    ],
)
def test_refused(heads, tmp_path, more, words):
    with pytest.raises(ValueError, match=words):
        generator(heads, **more).run(fig_path=tmp_path)


@pytest.mark.parametrize("old", ["run_manifest", "calibration_dataset", "data_generation"])
def test_scripts_find_names_by_their_old_paths(old):
    with pytest.warns(FutureWarning, match=f"names of calibrain.{old} are in calibrain.published"):
        calibrain.core.moved._TOLD.discard(old)
        names = importlib.reload(importlib.import_module(f"calibrain.{old}")).__all__
    wanted = dict(
        run_manifest={"ManifestRow", "load_manifest_csv", "summaries_from_manifest"},
        calibration_dataset={"PosteriorSummary", "load_posterior_summary"},
        data_generation={"DataGenerator"},
    )
    assert wanted[old] <= {*names}


def test_nothing_is_written_beside_the_package():
    assert not (Path(calibrain.__file__).parent / "data").exists()
