"Experiments of a study: calibration tried on counts is calibration tried on posteriors, and a page that tells of it."

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import erf

from calibrain.calibration.coverage import calibration_error, combine, coverage_curve
from calibrain.calibration.credible_sets import mahalanobis
from calibrain.calibration.recalibrate import IsotonicRecalibrator
from calibrain.calibration.run_quantile import run_quantile
from calibrain.core.frames import read_csv
from calibrain.estimator import SourceEstimator
from calibrain.head.leadfield import Leadfield
from calibrain.head.prepared import prepare

pytest.importorskip("pyarrow")

from calibrain.study.experiments import (
    EXPERIMENTS,
    condition_curves,
    learn_maps,
    pooled_outcomes,
    run_experiments,
    summary_rows,
)
from calibrain.study.export import export_results
from calibrain.study.grid import Study
from calibrain.study.heads import Pair
from calibrain.study.report import study_report
from calibrain.study.run import counted_levels, simulate_run, told_variance
from calibrain.study.study import run_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    for i in (1, 2):
        Leadfield.random(16, 60, seed=i).save(folder / f"{i}.npz")
    return Study(
        name="<small>",
        heads={f"head {i}": dict(file=folder / f"{i}.npz") for i in (1, 2)},
        grid=dict(nnz=[2, 5], alpha_SNR=[0.5, 0.9]),
        solvers=[
            dict(solver="BMN"),
            dict(solver="gamma_map", params=dict(update_mode="fast"), noise="baseline"),
        ],
        n_train=6,
        n_test=6,
    )


@pytest.fixture(scope="module")
def store(study, tmp_path_factory):
    return run_study(study, tmp_path_factory.mktemp("studies") / "out")


@pytest.fixture(scope="module")
def solved(study):
    "Part → condition → runs, with truth and result, solved once more"
    pairs = {name: Pair(*[Leadfield.load(head.file)] * 2) for name, head in study.heads.items()}
    leadfields = {name: prepare(pair.solved) for name, pair in pairs.items()}
    out = {"train": {}, "test": {}}
    for run in study.runs():
        way = study.way(run)
        data = simulate_run(study, run, pairs[run.head].true)
        told = told_variance(study, run, data)
        result = SourceEstimator(way.solver, dict(way.params), told)
        result = result.fit(leadfields[run.head], data.y).predict()
        key = run.head, run.nnz, run.alpha_SNR, run.solver
        out[run.part].setdefault(key, []).append((data.x, result))
    return out


def key_of(condition):
    return condition.head, condition.nnz, condition.alpha_SNR, condition.solver


def fitted(runs, levels):
    curves = [coverage_curve(x, result, levels, strata=["active"]) for x, result in runs]
    return IsotonicRecalibrator().fit(combine(curves), "active")


def tried(of, runs, levels):
    return combine([of.curve(x, result, levels) for x, result in runs])


@pytest.mark.filterwarnings("ignore:no finite set")
@pytest.mark.parametrize("experiment", EXPERIMENTS[1:])
def test_counts_say_what_posteriors_say(study, store, solved, experiment):
    "Maps are learned and tried on posteriors by the recalibrator itself"
    teachers = dict(
        post_oracle=lambda test, train: train == test,
        post_pooled=lambda test, train: (train[0], train[3]) == (test[0], test[3]),
        post_pooled_mismatch=lambda test, train: train[0] != test[0] and train[3] == test[3],
        post_fixed=lambda test, train: train == (test[0], 5, 0.5, test[3]),
    )[experiment]
    outcomes = run_experiments(store, [experiment], ["isotonic"])
    assert len(outcomes) == (12 if experiment == "post_fixed" else 16)
    for o in outcomes[::5]:
        key = key_of(o.condition)
        runs = [run for k, some in solved["train"].items() if teachers(key, k) for run in some]
        assert o.n_train == len(runs)
        of = fitted(runs, counted_levels(study))
        by_hand = tried(of, solved["test"][key], study.levels)["active"].empirical
        np.testing.assert_allclose(o.curve["active"].empirical, by_hand, atol=0.02)


def test_before_calibration_is_what_was_counted(study, store, solved):
    for o in run_experiments(store, ["precal"], every_point=True)[::5]:
        strata = [*study.strata]
        curves = [
            coverage_curve(x, result, study.levels, strata=strata, every_point=True)
            for x, result in solved["test"][key_of(o.condition)]
        ]
        by_hand = combine(curves)
        np.testing.assert_array_equal(o.curve.counts, by_hand.counts)
        np.testing.assert_array_equal(o.curve.totals, by_hand.totals)


def test_calibration_helps_where_it_was_learned(store):
    rows = summary_rows(pooled_outcomes(run_experiments(store), ["nnz", "alpha_SNR", "head"]))
    off = {(r["experiment"], r["calibrator"], r["solver"], r["stratum"]): r for r in rows}
    before = off["precal", "none", "BMN", "all"]
    after = off["post_oracle", "isotonic", "BMN", "all"]
    assert after["mean_absolute"] < before["mean_absolute"] / 3
    assert after["low"] <= after["coverage"] <= after["high"]
    assert after["n_test"] == 48 and after["n_train"] == 6


@pytest.mark.parametrize("level", [0.3, 0.5, 0.7])
def test_a_conformal_map_is_the_quantile_of_scores_with_the_run_as_its_unit(store, solved, level):
    condition, curve = next(iter(condition_curves(store)["train"].items()))
    scores = []
    for x, result in solved["train"][key_of(condition)]:
        active = x.any(axis=(1, 2))
        scores.append(np.sqrt(mahalanobis(x, result).d2[active]).ravel())
    q = run_quantile(scores, level, guaranteed=True).value
    asked = learn_maps(curve, "conformal")["active"].levels(np.array([level]))
    reached = np.searchsorted(curve.nominal, erf(q / np.sqrt(2)))
    assert curve.nominal[reached - 1] <= asked <= curve.nominal[reached]


def test_part_of_a_study_can_be_looked_at(study, tmp_path):
    part = run_study(study, tmp_path / "part", limit=5)
    curves = condition_curves(part)
    assert sum(c.n_runs for c in curves["train"].values()) == 5 and not curves["test"]
    assert run_experiments(part) == []
    assert "5 of 192 runs done" in study_report(part).read_text()


def test_ellipsoids_are_there_where_sources_have_components(store):
    with pytest.raises(ValueError, match="what was counted"):
        condition_curves(store, region="ellipsoid")


def test_the_report_is_one_page(store, tmp_path):
    path = study_report(store, tmp_path / "page.html", pictures=False)
    with pytest.raises(FileExistsError, match="overwrite"):
        study_report(store, path, pictures=False)
    assert study_report(store, path, pictures=False, overwrite=True) == path
    page = path.read_text()
    assert "Study &lt;small&gt;" in page and "<small>" not in page
    assert page.count("data:image/png;base64,") == 4
    assert 'src="http' not in page and not (tmp_path / "page").exists()
    assert "gamma_map, baseline" in page and "No run failed" in page


def test_exports_hold_every_run(store, tmp_path):
    pd = pytest.importorskip("pandas")
    table = pd.read_csv(export_results(store, "csv", tmp_path / "a.csv"))
    named = {"crps_active (nAm)", "seconds_solve (s)", "noise_used"}
    assert len(table) == 192 and named <= {*table}
    figures = store.results()
    columns, units = read_csv(tmp_path / "a.csv")
    assert list(columns) == list(figures) and units == figures.attrs["units"]
    np.testing.assert_array_equal(table["crps_active (nAm)"], figures.crps_active)
    with pytest.raises(FileExistsError, match="overwrite"):
        export_results(store, "csv", tmp_path / "a.csv")
    assert export_results(store, "csv", tmp_path / "a.csv", overwrite=True).is_file()
    assert export_results(store) == export_results(store)  # its own place, each time anew
    again = pd.read_parquet(export_results(store, "parquet", tmp_path / "a.parquet"))
    np.testing.assert_array_equal(again.crps, store.results(["crps"]).crps)
    only = store.results(["crps"], solver="BMN", nnz=[2, 7], part="test")
    assert len(only) == 2 * 2 * 6 and set(only.nnz) == {2}


def test_netcdf_has_named_axes(store, tmp_path):
    xr = pytest.importorskip("xarray")
    path = export_results(store, "netcdf", tmp_path / "a.nc")
    with xr.open_dataset(path, engine="scipy") as out:
        counts = out.counts_pointwise_marginal.sel(stratum="active")
        totals = out.totals_pointwise_marginal.sel(stratum="active")
        assert counts.dims == ("run", "level")
        np.testing.assert_array_equal(counts[:, -1], totals)
        assert out.crps_active.units == "nAm" and out.seconds_solve.units == "s"
        assert "units" not in out.explained_variance.attrs


def test_what_a_curve_is_off_by(store):
    o = run_experiments(store, ["precal"])[0]
    row = next(r for r in summary_rows([o], ["active"]))
    assert row["mean_absolute"] == calibration_error(o.curve, "active").mean_absolute
    narrow = replace(o.curve, counts=o.curve.counts[:1], totals=o.curve.totals[:1])
    one = replace(narrow, left_out=o.curve.left_out[:1])
    assert np.isnan(summary_rows([o._replace(curve=one)], ["active"])[0]["low"])
