"Pictures: each function draws into `ax`, or into a new figure, and returns the axes"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "pictures": ["OKABE_ITO", "TRUTH", "small_multiples"],
    "estimates": ["draw_waveform", "draw_waveforms", "draw_variance", "draw_variances", "draw_norms", "draw_source_norms", "source_energy", "source_variance"],
    "calibration": ["draw_calibration", "draw_set_size", "mean_set_size"],
    "ellipsoids": ["draw_ellipse", "draw_ellipses", "draw_ellipsoid"],
    "cortex": ["VIEWS", "Cortex", "cortex_from_src", "spread", "draw_cortex", "draw_topography", "draw_topographies"],
})
