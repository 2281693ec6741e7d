"Evidence surface and Sparse path: every static combination draws, nothing warns, and what they say agrees with solves made here"

import itertools
import re
import warnings

import numpy as np
import pytest

from calibrain import BMN_joint, gamma_map
from calibrain.explorers import EvidenceExplorer, SparsePathExplorer, evidence_surface, sparse_path
from calibrain.explorers.base import png


def number(text, after):
    return float(re.search(re.escape(after) + r" ?([−\-\d.e]+\d)", text).group(1).replace("−", "-"))


@pytest.mark.parametrize("kind", [EvidenceExplorer, SparsePathExplorer])
def test_static_combinations(kind):
    "A random sample draws without a warning, within the size of a page"
    e = kind()
    choices = list(itertools.product(*(c.static for c in e.controls.values())))
    assert len(choices) <= 250
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = [
            png(e.draw(**dict(zip(e.controls, choices[i]))))
            for i in np.random.default_rng(0).choice(len(choices), 12, replace=False)
        ]
    assert len(set(shown)) == 12 and np.mean([len(s) for s in shown]) * len(choices) * 4 / 3 < 3.5e6


@pytest.mark.parametrize("kind", [EvidenceExplorer, SparsePathExplorer])
def test_the_ends_of_the_live_controls(kind):
    e = kind()
    for end in (0, -1):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert e.draw(**{name: c.values[end] for name, c in e.controls.items()}).texts


@pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
    "ignore::calibrain.core.warnings.ConvergenceWarning",
)
@pytest.mark.parametrize("snr, n_sources, n_times", [(0, 8, 20), (20, 24, 5), (-10, 64, 20)])
def test_the_surface_says_what_the_solver_says(snr, n_sources, n_times):
    text = (
        EvidenceExplorer().draw(snr, n_sources, n_times, "noise", "as recorded").texts[0].get_text()
    )
    r = evidence_surface.record(snr, n_sources, n_times)
    best, old = BMN_joint(r.G, r.y), BMN_joint(r.G, r.y, rule="calibrain-1.0")
    assert abs(number(text, "ℒ falls to" if best.noise_at_boundary else "ℒ =") - best.cost) < 0.006
    assert abs(number(text, "with ℒ =") - old.cost) < 0.006
    assert ("cannot tell noise" in text, "need no sources" in text) == (
        best.noise_at_boundary,
        best["gamma"] == 0,
    )


@pytest.mark.filterwarnings("ignore::calibrain.core.warnings.ConvergenceWarning")
@pytest.mark.parametrize("rule, mode", [("MacKay", 1), ("convex bounding", 2), ("EM", 3)])
def test_the_path_says_what_the_solver_says(rule, mode):
    text = SparsePathExplorer().draw(30, rule, 10, 3).texts[0].get_text()
    G, _, y = sparse_path.record(10, 3)
    r = gamma_map(G, y, 1.0, max_iter=30, tol=0, update_mode=mode)
    assert abs(number(text, "ℒ =") - r.cost) < 6e-4
    assert abs(number(text, "largest violation") / r.kkt_violation - 1) < 0.05
    assert f"{len(r['active_indices'])} of 40" in text
