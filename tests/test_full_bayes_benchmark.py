"The benchmark of full Bayes: its page is made from its figures, and it judges as the package does"

import json
from pathlib import Path

import numpy as np
from scipy.integrate import quad
from scipy.stats import norm

from benchmarks import full_bayes, limits, recordings, sampler, study

FOLDER = Path(full_bayes.__file__).parent


def test_the_page_is_made_from_the_figures():
    for benchmark in (full_bayes, recordings, sampler, study):
        page = Path(benchmark.__file__).with_suffix(".md")
        assert page.read_text(encoding="utf-8") == benchmark.document()


def test_chosen_figures_are_what_the_tutorial_says():
    "Patches without points are the default for recordings since seizures are found with them"
    rows = json.loads((FOLDER / "recordings-seizures.json").read_text(encoding="utf-8"))
    inside = {}
    for row in rows:
        inside.setdefault(row["way"], []).append(row["inside"])
    assert sum(inside["spike_slab, 10, 20, 30 mm"]) == 3 and sum(inside["gamma_map"]) == 1
    assert sum(inside["spike_slab, points, 10, 20, 30 mm"]) == 1


def test_the_score_is_an_integral():
    "∫ (F(y) − [y ≥ x])² dy"
    for error, std in ((0.7, 1.3), (-2.0, 0.4), (0.0, 1.0)):
        below = quad(lambda y, s=std: norm.cdf(y / s) ** 2, -20, error)[0]
        above = quad(lambda y, s=std: norm.sf(y / s) ** 2, error, 20)[0]
        found = full_bayes.crps(np.array(error), np.array(std))
        assert abs(found - below - above) < 1e-6
    assert full_bayes.crps(np.array(-2.0), np.array(0.0)) == 2


def test_counts_of_one_run():
    "One active source of three, four samples, two of them on; one false claim"
    x = np.zeros((3, 4))
    x[1, 2:] = 5
    mean = np.array([[0.0, 0, 0, 3], [0, 0, 5, 0], [0, 0, 0, 0]])
    std = np.ones((3, 4))
    r = full_bayes.judged(x, np.array([1]), mean, std, 1)
    assert r["active"][9] == 0.75 and r["on"] == [1, 2]
    assert r["claims"] == [1, 2] and r["claims_held"] == [1, 2]
    constant = full_bayes.judged(x, np.array([1]), mean, np.ones(3), 1)
    assert constant == r


# ---- where it stops being right


def test_the_page_of_limits_is_made_from_its_figures():
    results = json.loads((FOLDER / "limits.json").read_text(encoding="utf-8"))
    assert (FOLDER / "limits.md").read_text(encoding="utf-8") == limits.document(results)
    assert [*results] == [*limits.CELLS] and min(map(len, results.values())) >= 10


def test_the_oracle_is_the_posterior_of_its_prior():
    "Against the general formula, with a patch and a point"
    rng = np.random.default_rng(0)
    L, y, waves = rng.normal(size=(9, 6)), rng.normal(size=(9, 20)), rng.normal(size=(2, 20))
    S = np.zeros((6, 2))
    S[[0, 1, 2], 0] = 0.2, 0.3, 0.5
    S[4, 1] = 1
    mean, std = limits.oracle(L, y, 0.7, S, waves)
    prior = S * (waves**2).mean(1) @ S.T
    gain = prior @ L.T @ np.linalg.inv(0.7 * np.eye(9) + L @ prior @ L.T)
    assert np.allclose(mean, gain @ y)
    assert np.allclose(std**2, np.diag(prior - gain @ L @ prior))
