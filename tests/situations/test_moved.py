"""Scripts that import modules by their paths of before the wings."""

import subprocess
import sys
import warnings
from importlib import import_module

import pytest

import calibrain
from calibrain.core import moved
from calibrain.core.moved import MOVED, RENAMED, names_of

# Some of what each old module was asked for
ASKED = {
    "archive": ["write_arrays", "read_arrays"],
    "basis": ["sflex_basis", "through_basis", "expand", "normalisation"],
    "calibration_dataset": ["load_posterior_summary"],
    "core": ["flatten_sources", "check_array", "generator", "ConvergenceWarning", "warn"],
    "coverage": ["coverage_curve", "STRATA", "strata_masks", "combine", "calibration_error"],
    "data_generation": ["DataGenerator"],
    "errors": ["mse", "emd", "localisation_error", "auc"],
    "evoked": ["estimate_evoked", "WhitenedHead"],
    "evoked_input": [],
    "evoked_posterior": ["EvokedPosterior"],
    "exceedance": ["exceedance"],
    "heads": ["Leadfield"],
    "leadfield": ["Leadfield"],
    "metric_names": ["MetricEvaluator", "calibration_metrics_4"],
    "metrics": ["source_variances", "mean_posterior_std", "sharpness", "Record", "evaluate"],
    "names": ["METHODS", "UncertaintyEstimator", "posterior_variance_from_cov"],
    "posterior": ["Posterior", "Gaussian", "selection"],
    "prepared": ["Prepared", "record_of", "prepare", "Eigenbasis"],
    "regions": ["Moments", "moments", "scores", "membership", "half_width", "credible_interval"],
    "result": ["Result", "with_posterior", "active_cov"],
    "run_manifest": ["ManifestRow", "load_manifest_csv"],
    "scores": ["crps", "log_score", "energy_score"],
    "sensors": ["SensorSimulator", "project", "noise_variance"],
    "sources": ["SourceSimulator", "ErpConfig", "band_pass"],
    "templates": ["template_leadfield", "template_cortex"],
    "whitening": ["Whitener", "whitener", "sensor_covariance", "noise_whitener"],
}


@pytest.fixture(autouse=True)
def untold(monkeypatch):
    "As in a new session: nothing was imported and said before"
    monkeypatch.setattr(moved, "_TOLD", set())
    for old in MOVED:
        if old not in ("core", "posterior"):
            monkeypatch.delitem(sys.modules, f"calibrain.{old}", raising=False)
            monkeypatch.delattr(calibrain, old, raising=False)


def test_every_old_module_is_looked_at():
    assert ASKED.keys() == MOVED.keys()


@pytest.mark.parametrize("old", MOVED)
def test_its_names_are_there_and_are_those_of_the_new_place(old):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = import_module(f"calibrain.{old}")
        for name in ASKED[old]:
            new = RENAMED.get(old, {}).get(name, name)
            places = [import_module(f"calibrain.{place}") for place in MOVED[old]]
            assert any(getattr(place, new, None) is getattr(module, name) for place in places)
    told = [w for w in caught if w.category is FutureWarning]
    assert len(told) == 1
    assert all(f"calibrain.{place}" in str(told[0].message) for place in MOVED[old])


def test_the_warning_is_at_the_line_that_asks():
    with pytest.warns(FutureWarning, match=r"calibrain\.head\.basis now") as caught:
        from calibrain.basis import sflex_basis  # noqa: F401 (the import is what is tested)
    assert caught[0].filename == __file__
    with pytest.warns(FutureWarning, match=r"calibrain\.posterior\.gaussian now") as caught:
        from calibrain.posterior import Posterior  # noqa: F401
    assert caught[0].filename == __file__


def test_all_of_it_at_once():
    names = {}
    with pytest.warns(FutureWarning):
        exec("from calibrain.errors import *", names)
    assert set(names_of("errors")) <= set(names)


@pytest.mark.parametrize("unknown", ["calibrain.nothing", "calibrain.basis.more"])
def test_what_never_was_is_not_found(unknown):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        with pytest.raises(ModuleNotFoundError):
            import_module(unknown)


@pytest.mark.parametrize("wing", ["core", "posterior"])
def test_a_wing_has_its_modules_and_no_more(wing):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = import_module(f"calibrain.{wing}")
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            _ = module.nothing
        from calibrain.core import warnings as ours
    assert ours.__name__ == "calibrain.core.warnings"


def test_nothing_is_said_or_imported_where_nobody_asks():
    code = """
import sys, warnings
warnings.filterwarnings("error", module="calibrain|__main__")  # others may say what they like
import lazy_loader, collections.abc, contextlib, functools, gc, importlib.machinery
before = set(sys.modules)
import calibrain
print(*sorted(set(sys.modules) - before))
import calibrain.recording.estimate, calibrain.viz.calibration, calibrain.explorers
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    core = [f"calibrain.core.{name}" for name in ("loading", "moved")]
    assert done.stdout.split() == ["calibrain", "calibrain.core", *core]
