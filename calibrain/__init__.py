"Brain sources from EEG and MEG, with calibrated error bars"
__version__ = "0.1.0"

# Public names and the modules that hold them. Each is imported when it is first asked for, so `import calibrain` does no work.
_homes = {
    "SourceSimulator": "sources",
    "SensorSimulator": "sensors",
    "MetricEvaluator": "metric_names",
    "gamma_map": "solvers.gamma_map",
    "gamma_map_sflex": "solvers.gamma_map",
    "gamma_lambda_map": "solvers.gamma_lambda_map",
    "gamma_lambda_map_sflex": "solvers.gamma_lambda_map",
    "BMN": "solvers.bmn",
    "BMN_joint": "solvers.bmn",
    "SourceEstimator": "estimator",
    "Leadfield": "heads",  # there it gets from_forward
    "template_leadfield": "templates",
    "estimate_evoked": "evoked",
    "EvokedPosterior": "evoked_posterior",
    "coverage_curve": "coverage",
    "UncertaintyEstimator": "names",
}
__all__ = ["__version__", *_homes]


def __getattr__(name):
    from importlib import import_module

    if name not in _homes: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_homes[name]}"), name)
    return value


def __dir__(): return sorted({*globals(), *__all__})
