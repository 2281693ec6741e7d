"The benchmark of full Bayes: its page is made from its figures, and it judges as the package does"

from pathlib import Path

import numpy as np
from scipy.integrate import quad
from scipy.stats import norm

from benchmarks import full_bayes

FOLDER = Path(full_bayes.__file__).parent


def test_the_page_is_made_from_the_figures():
    assert (FOLDER / "full_bayes.md").read_text(encoding="utf-8") == full_bayes.document()


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
