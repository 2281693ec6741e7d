"Pictures: each function draws into `ax`, or into a new figure, and returns the axes"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "pictures": ["OKABE_ITO", "TRUTH", "small_multiples"],
    "signals": ["draw_sources", "draw_sensors", "draw_butterfly"],
    "estimates": ["draw_course", "draw_waveform", "draw_waveforms", "draw_variance", "draw_variances", "draw_norms", "draw_source_norms", "source_energy", "source_variance"],
    "convergence": ["draw_convergence", "draw_courses", "draw_evidence_surface", "draw_gamma", "draw_kkt"],
    "ellipsoids": ["draw_ellipse", "draw_ellipses", "draw_ellipsoid"],
    "calibration": ["draw_calibration", "draw_coverage", "draw_set_size", "mean_set_size"],
    "patches": ["draw_bump", "draw_widths"],
    "cortex": ["VIEWS", "Cortex", "cortex_from_src", "spread", "draw_cortex", "draw_topography", "draw_topographies"],
    "painted": ["draw_cortex_image"],
})
