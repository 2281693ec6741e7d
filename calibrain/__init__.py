"Brain sources from EEG and MEG, with calibrated error bars"
__version__ = "0.1.0"

import lazy_loader

from .core.loading import (
    collecting_nothing,
    completing_docs,
    limiting_threads,
    while_loading,
)
from .core.moved import find_moved

find_moved()  # `calibrain.basis`, of before the package had wings, is `calibrain.head.basis`
# what is public keeps to one thread of BLAS, and its help says what its comments say
while_loading(collecting_nothing, limiting_threads, completing_docs)

# Public names and the modules that hold them. Each is imported when it is first asked for, so
# `import calibrain` does no work.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "simulation.sources": ["SourceSimulator"],
    "simulation.sensors": ["SensorSimulator"],
    "simulation.noise": ["TimeModel", "sensor_noise"],
    "simulation.patches": ["as_patches"],
    "simulation.activity": [
        "background_sources", "compose_sources", "correlated_waveform", "erp_waveforms",
        "patch_weights",
    ],
    "simulation.forward_errors": [
        "moved_sensors", "off_grid", "other_conductor", "rotated_normals",
    ],
    "solvers.gamma_map": ["gamma_map", "gamma_map_sflex"],
    "solvers.gamma_lambda_map": ["gamma_lambda_map", "gamma_lambda_map_sflex"],
    "solvers.champagne": ["champagne"],
    "solvers.bmn": ["BMN", "BMN_joint"],
    "solvers.minimum_norm": ["MNE", "dSPM", "sLORETA", "eLORETA"],
    "solvers.compare": ["compare"],
    "solvers.average": ["model_average"],
    "solvers.reml": ["reml"],
    "solvers.reference": ["lcmv", "mxne"],
    "solvers.spike_slab": ["spike_slab"],
    "solvers.registry": ["list_solvers"],
    "solvers.batch": ["solve_batch"],
    "solvers.noise_prior": ["NoisePrior", "baseline_prior"],
    "solvers.cross_validated_noise": ["cross_validate_noise"],
    "solvers.left_out_sensors": ["sensor_group_scores"],
    "estimator": ["SourceEstimator"],
    "core.threads": ["blas_threads"],
    "head.leadfield": ["Leadfield"],
    "head.ar": ["fit_ar"],
    "head.template": ["template_leadfield"],
    "head.parcellation": ["template_labels"],
    "recording.estimate": ["EvokedPosterior", "estimate_evoked"],
    "recording.contrast": ["contrast"],
    "recording.sensitivity": ["sensitivity"],
    "recording.left_out": ["leave_channels_out"],
    "recording.recommend": ["recommend"],
    "recording.grand_average": ["grand_average"],
    "calibration.coverage": ["coverage_curve"],
    "calibration.recalibrate": ["IsotonicRecalibrator"],
    "calibration.conformal": ["ConformalCalibrator"],
    "passport.calibrate": ["calibrate", "Passport"],
    "study.grid": ["Study"],
    "study.study": ["merge_stores", "read_study", "run_study"],
    "study.store": ["open_store"],
    "study.report": ["study_report"],
    "study.experiments": ["pooled_outcomes", "run_experiments", "summary_rows"],
    "study.leaderboard": ["leaderboard"],
    "published.uncertainty_estimator": ["UncertaintyEstimator"],
    "published.metric_evaluator": ["MetricEvaluator"],
    "published.uncertainty_calibrator": ["UncertaintyCalibrator"],
    "published.leadfield_builder": ["LeadfieldBuilder"],
    "published.data_generator": ["DataGenerator"],
})
