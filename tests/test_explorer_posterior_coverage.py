"The explorers of posterior and coverage as objects: every combination has a picture or a sentence, nothing is cut off, and the numbers shown are right."

import itertools
import random
import re
import warnings

import numpy as np
import pytest
from scipy.stats import chi2, norm

from calibrain.explorers import CoverageExplorer, Impossible, PosteriorExplorer
from calibrain.explorers.bands import problem_at, solve_at, source_of
from calibrain.explorers.base import png
from calibrain.explorers.curves import SETS, runs_at
from calibrain.solvers.registry import SOLVERS

LEARNED = "adaptive joint learning"


def sample(e, n=12, seed=0):
    "Some of the static combinations"
    every = list(itertools.product(*(c.static for c in e.controls.values())))
    assert len(every) <= 250
    return [dict(zip(e.controls, values)) for values in random.Random(seed).sample(every, n)]


@pytest.mark.parametrize("kind", [PosteriorExplorer, CoverageExplorer])
def test_every_combination_has_a_picture_or_a_sentence(kind):
    e = kind()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for values in sample(e):
            try:
                fig = e.draw(**values)
            except Impossible as reason:
                assert re.fullmatch(r"[A-Z].+\.|(?:gamma|BMN).+\.", str(reason))
                continue
            assert png(fig) == png(e.draw(**values)) and tuple(fig.get_size_inches()) <= (8, 4.5)


def test_solver_and_noise_mode():
    for solver, mode in itertools.product(
        PosteriorExplorer.controls["solver"].values, PosteriorExplorer.controls["mode"].values
    ):
        if SOLVERS[solver].learns_noise == (mode == LEARNED):
            assert solve_at("fixed", solver, mode, 5).result.converged
        else:
            with pytest.raises(Impossible, match=solver):
                solve_at("fixed", solver, mode, 5)


@pytest.mark.parametrize("orientation", ["fixed", "free"])
def test_no_band_is_cut_off(orientation):
    "The axes are the same for all settings, and long enough for the widest bands"
    e = PosteriorExplorer()
    for solver, mode in (
        ("gamma_map_sflex", "baseline"),
        ("gamma_lambda_map_sflex", LEARNED),
        ("BMN", "oracle"),
    ):
        for role in ("strongest active", "third"):
            for ax in e.draw(solver, mode, -5, orientation, role).axes:
                low, high = ax.get_ylim()
                drawn = np.concatenate(
                    [a.get_paths()[0].vertices[:, 1] for a in ax.collections]
                    + [p.get_xy()[:, 1] for p in ax.patches]
                )
                assert low < drawn.min() and drawn.max() < high


def test_posterior_numbers():
    e, p = PosteriorExplorer(), problem_at("free", 5)
    result, n = (
        solve_at("free", "gamma_map_sflex", "baseline", 5).result,
        source_of(p, "strongest active"),
    )
    assert n == int(np.square(p.x).sum((1, 2)).argmax())
    cov = result["posterior_cov"][3 * n : 3 * n + 3, 3 * n : 3 * n + 3]
    error = p.x[n] - result["posterior_mean"][3 * n : 3 * n + 3]
    inside = np.einsum("it,it->t", error, np.linalg.solve(cov, error)) <= chi2(3).ppf(0.95)
    axes = ", ".join(f"{a:.2g}" for a in np.sqrt(chi2(3).ppf(0.95) * np.linalg.eigvalsh(cov)))
    said = [t.get_text() for t in e.draw(**e.start).texts]
    assert said == [
        f"noise variance: {p.y[:, :10].var(1).mean():.2g} µV² used, {p.noise.var():.2g} µV² true\n95 % ellipsoid, half axes {axes} nAm: holds the truth at {inside.sum()} of 90 samples"
    ]


@pytest.mark.parametrize("snr", [-5, 20])
def test_coverage_numbers(snr):
    e = CoverageExplorer()
    held, width = [], []
    for seed in range(20):
        p, r = (
            problem_at("free", snr, seed),
            solve_at("free", "gamma_map_sflex", "oracle", snr, seed).result,
        )
        half = norm.ppf(0.95) * np.sqrt(np.diag(r["posterior_cov"])).reshape(32, 3)[:, :, None]
        on = p.x.any((1, 2))
        counted = (half > 0) | (p.x != r["posterior_mean"].reshape(p.x.shape))
        held.append((abs(p.x - r["posterior_mean"].reshape(p.x.shape)) <= half)[on][counted[on]])
        width.append(np.broadcast_to(2 * half, p.x.shape)[on][counted[on]])
    held, width = np.concatenate(held), np.concatenate(width)
    said = e.draw(**e.start | dict(snr=snr)).texts[0].get_text()
    assert said.startswith(
        f"20 runs, {held.size:,} sets counted\nat level 0.9: {held.mean():.2f} hold the truth"
    ) and said.endswith(f"mean size {width.mean():.2g} nAm")


def test_sizes_are_on_the_axis():
    e = CoverageExplorer()
    for solver, sets in itertools.product(("gamma_map_sflex", "gamma_lambda_map_sflex"), SETS):
        ax = e.draw(solver, "active", sets, -5).axes[1]
        assert ax.lines[0].get_ydata().max() < ax.get_ylim()[1]


def test_nothing_pruned_is_a_sentence():
    with pytest.raises(Impossible, match="BMN prunes no source here"):
        CoverageExplorer().draw("BMN", "pruned", "interval, each sample", 5)


def test_runs_are_kept():
    assert runs_at("BMN", 5) is runs_at("BMN", 5)
