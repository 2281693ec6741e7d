"""Is the posterior the posterior?

Data are drawn from the model itself, with γ and λ known, 2,000 times. Then the marginal 50, 80 and
95 % sets must contain the truth in 50, 80 and 95 % of the draws, within four binomial standard
errors, source by source: with the right mean and the right variance and in no other case.
"""

import numpy as np
import pytest
from scipy import sparse, stats

from calibrain.head.basis import expand, sflex_basis, through_basis
from calibrain.posterior.gaussian import selection
from calibrain.solvers.evidence import posterior_at

N_DRAWS = 2000
LEVELS = (0.5, 0.8, 0.95)


def coverage(k, basis, scale=1.0):
    "Share of draws whose truth lies in the marginal set, by level and source coefficient"
    rng = np.random.default_rng(k)
    M = 10
    N = 12
    L = rng.normal(size=(M, N * k))
    coords = rng.normal(scale=0.015, size=(N, 3))
    B = sflex_basis(coords) if basis else sparse.eye_array(N, format="csr")
    S = expand(B, k)
    G = through_basis(L, sparse.csr_array(B), k)
    gamma = np.repeat(rng.lognormal(size=N), k)
    noise = rng.uniform(0.2, 1, M)
    # every column is a draw of its own
    c = np.sqrt(gamma)[:, None] * rng.normal(size=(N * k, N_DRAWS))
    y = G @ c + np.sqrt(noise)[:, None] * rng.normal(size=(M, N_DRAWS))
    seen = S if basis else selection(np.arange(N * k), N * k)
    p = posterior_at(G, y, gamma, noise, seen, k)
    z = np.abs(S @ c - p.mean) / (scale * p.std[:, None])
    within = [z <= stats.norm.ppf((1 + level) / 2) for level in LEVELS]
    return np.array([held.mean(1) for held in within])


def worst(found):
    "The largest deviation in binomial standard errors"
    level = np.array(LEVELS)[:, None]
    error = np.sqrt(level * (1 - level) / N_DRAWS)
    return np.abs((found - level) / error).max()


@pytest.mark.parametrize("basis", [False, True], ids=["sources", "sFLEX"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_marginal_sets_cover(k, basis):
    assert worst(coverage(k, basis)) < 4


@pytest.mark.parametrize("scale", [0.9, 1.1])
def test_a_wrong_width_would_be_caught(scale):
    assert worst(coverage(3, True, scale)) > 4


@pytest.mark.parametrize("k", [1, 2, 3])
def test_joint_sets_cover(k):
    "The k components of a source together: their Mahalanobis distance is χ²"
    rng = np.random.default_rng(10 + k)
    L = rng.normal(size=(10, 12 * k))
    gamma = np.repeat(rng.lognormal(size=12), k)
    noise = np.full(10, 0.4)
    x = np.sqrt(gamma)[:, None] * rng.normal(size=(12 * k, N_DRAWS))
    y = L @ x + np.sqrt(0.4) * rng.normal(size=(10, N_DRAWS))
    p = posterior_at(L, y, gamma, noise, selection(np.arange(12 * k), 12 * k), k)
    e = (x - p.mean).reshape(12, k, N_DRAWS)
    d2 = np.einsum("nat,nat->nt", e, np.linalg.solve(p.blocks, e))
    held = [(d2 <= stats.chi2.ppf(level, k)).mean(1) for level in LEVELS]
    assert worst(np.array(held)) < 4
