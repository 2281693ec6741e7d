"Pictures with sliders: live in Jupyter, precomputed on a page"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "base": ["Control", "Explorer", "Impossible"],
    "bands": ["PosteriorExplorer"],
    "curves": ["CoverageExplorer"],
})
