"Pictures: each function draws into `ax`, or into a new figure, and returns the axes"
import importlib

import lazy_loader

_drawing, _, _drawn = lazy_loader.attach(__name__, submod_attrs={
    "pictures": ["OKABE_ITO", "TRUTH", "small_multiples"],
    "signals": ["draw_sources", "draw_sensors", "draw_butterfly"],
    "estimates": ["draw_course", "draw_waveform", "draw_waveforms", "draw_variance", "draw_variances", "draw_norms",
                  "draw_source_norms", "source_energy", "source_variance"],
    "convergence": ["draw_convergence", "draw_courses", "draw_evidence_surface", "draw_gamma", "draw_kkt"],
    "ellipsoids": ["draw_ellipse", "draw_ellipses", "draw_ellipsoid"],
    "calibration": ["draw_calibration", "draw_coverage", "draw_sbc", "draw_set_size", "mean_set_size"],
    "passport": ["draw_passport"],
    "regions": ["draw_regions"],
    "predictive": ["draw_predictive", "draw_residual", "draw_residual_power"],
    "nave": ["draw_expected_error", "draw_nave"],
    "noise_scores": ["draw_noise_scores"],
    "glass": ["draw_glass"],
    "slices": ["draw_slices"],
    "recorded": ["draw_recorded"],
    "group": ["draw_group"],
    "recalibration": ["draw_before_after", "draw_calibration_error", "draw_calibration_grid", "draw_level_map"],
    "sweep": ["draw_sweep"],
    "leaderboard": ["draw_leaderboard"],
    "patches": ["draw_bump", "draw_widths"],
    "cortex": ["VIEWS", "draw_cortex"],
    "topographies": ["draw_topography", "draw_topographies"],
    "painted": ["draw_cortex_image", "seen_at"],
})

# The surface that maps are drawn on is a matter of the head; whoever draws finds it here as well.
_OF_HEAD = {"Cortex": "Cortex", "cortex_from_src": "cortex_from_src", "spread": "interpolate_on_cortex"}
__all__ = sorted([*_drawn, *_OF_HEAD])


def __getattr__(name):
    if name in _OF_HEAD:
        return getattr(importlib.import_module("calibrain.head.cortex"), _OF_HEAD[name])
    return _drawing(name)


def __dir__():
    return __all__
