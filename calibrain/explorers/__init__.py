"Pictures with sliders: live in Jupyter, precomputed on a page"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "base": ["Control", "Explorer", "Impossible"],
    "simulator": ["SimulatorExplorer"],
    "evidence_surface": ["EvidenceExplorer"],
    "sparse_path": ["SparsePathExplorer"],
    "sflex": ["SflexExplorer"],
    "bands": ["PosteriorExplorer"],
    "curves": ["CoverageExplorer"],
    "brain": ["BrainExplorer", "RecordingFiles"],
    "supports": ["SupportsExplorer"],
    "calibration": ["CalibrationExplorer"],
    "region": ["RegionExplorer"],
    "own": ["explore_brain", "explore_regions"],
})
