"Brain sources from EEG and MEG, with calibrated error bars"
__version__ = "0.1.0"

import lazy_loader

# Public names and the modules that hold them. Each is imported when it is first asked for, so `import calibrain` does no work.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "sources": ["SourceSimulator"],
    "sensors": ["SensorSimulator"],
    "solvers.gamma_map": ["gamma_map", "gamma_map_sflex"],
    "solvers.gamma_lambda_map": ["gamma_lambda_map", "gamma_lambda_map_sflex"],
    "solvers.bmn": ["BMN", "BMN_joint"],
    "estimator": ["SourceEstimator"],
    "heads": ["Leadfield"],  # there it gets from_forward
    "templates": ["template_leadfield"],
    "evoked": ["estimate_evoked"],
    "evoked_posterior": ["EvokedPosterior"],
    "coverage": ["coverage_curve"],
    "names": ["UncertaintyEstimator"],
    "metric_names": ["MetricEvaluator"],
})
