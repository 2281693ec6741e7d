"The fast search: as low as convex bounding from the same start, and its certificate is honest"

import tracemalloc

import numpy as np
import pytest
from problems import arguments, random_problem

from calibrain.solvers.gamma_lambda_map import gamma_lambda_map, gamma_lambda_map_sflex
from calibrain.solvers.gamma_map import gamma_map, gamma_map_sflex
from calibrain.solvers.registry import SOLVERS

pytestmark = pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
    "ignore::calibrain.core.warnings.ConvergenceWarning",
    "error::RuntimeWarning",
)
iterative = pytest.mark.parametrize(
    "solver", [s for s in SOLVERS.values() if s.cost_falls], ids=lambda s: s.name
)


def dense_violation(r, L, y, k):
    "The optimality conditions of γ and λ, from full matrices"
    G = (
        L @ r["B_operator"].toarray()
        if "B_operator" in r
        else L @ np.kron(r["B_spatial"].toarray(), np.eye(k))
        if "B_spatial" in r
        else L
    )
    gamma, noise = r["gammas_full"], np.broadcast_to(r.get("lambdas", r.noise_var), len(y))
    P = np.linalg.inv((G * gamma) @ G.T + np.diag(noise))
    group = lambda x: x.reshape(-1, k).sum(1)
    d, q, g = (
        group(np.einsum("mj,mn,nj->j", G, P, G)),
        group(((G.T @ P @ y) ** 2).mean(1)),
        gamma[::k],
    )
    if "lambdas" in r:
        d, q, g, k = (
            np.append(d, np.diag(P)),
            np.append(q, ((P @ y) ** 2).mean(1)),
            np.append(g, noise),
            np.append(np.full(len(g), k), np.ones(len(y))),
        )
    return np.where(q > d, q / d - 1, np.minimum(1 - q / d, g * d / k)).max()


@iterative
def test_the_certificate_is_honest(solver):
    for seed in range(60):
        L, y, noise_var, k, coords = random_problem(seed)
        r = solver.function(
            L,
            y,
            n_orient=k,
            **arguments(solver, noise_var, coords, update_mode="fast", max_iter=1000),
        )
        if r.noise_at_boundary:
            continue  # Σ_y is nearly singular there, and a dense inverse is no second opinion
        assert r.converged == (r.kkt_violation <= 1e-6)
        assert abs(dense_violation(r, L, y, k) - r.kkt_violation) < 1e-7 + 1e-3 * r.kkt_violation, (
            f"problem {seed}"
        )


def test_as_low_as_convex_bounding_from_the_same_start():
    """ℒ has many local minima, and two good searches may end in different ones where there is little data.

    Of these 100 problems one (21 sensors, 106 sources of two orientations, a single sample) ends higher, at another certified minimum; MacKay's
    rule ends higher still there.
    """
    higher, lower = [], []
    for seed in range(100):
        L, y, noise_var, k, coords = random_problem(seed)
        fast = gamma_map(L, y, noise_var, k, update_mode="fast")
        assert fast.converged and fast.kkt_violation <= 1e-6, f"problem {seed}"
        slow = gamma_map(L, y, noise_var, k, max_iter=3000, tol=1e-8)
        difference = (fast.cost - slow.cost) / (1 + abs(slow.cost))
        if difference > 1e-6:
            higher.append((seed, round(difference, 6)))
        if difference < -1e-6:
            lower.append((seed, round(difference, 6)))
    print(f"lower in {lower}, higher in {higher}")
    assert len(higher) <= 1 and max((d for _, d in higher), default=0) < 5e-3


def test_a_group_that_was_dropped_too_early_returns():
    "Started without its two active sources, the search must find them again"
    rng = np.random.default_rng(0)
    L, x = rng.normal(size=(30, 400)), np.zeros((400, 60))
    x[[7, 300]] = rng.normal(size=(2, 60))
    y = L @ x + 0.1 * rng.normal(size=(30, 60))
    start = np.ones(400)
    start[[7, 300]] = 0
    for mode in ("fast", "convex", "mackay"):
        r = gamma_map(L, y, 0.01, init_gamma=start, update_mode=mode, max_iter=3000)
        assert set(np.argsort(r["gammas_full"])[-2:]) == {7, 300}
        if mode == "fast":
            best = r.cost
        assert best <= r.cost + 1e-6


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6])
def test_fast_is_the_same_in_any_unit(scale):
    L, y, noise_var, k, coords = random_problem(11)
    a = gamma_map_sflex(L, y, noise_var, k, src_coords=coords, update_mode="fast")
    b = gamma_map_sflex(
        L / scale, scale * y, scale**2 * noise_var, k, src_coords=coords, update_mode="fast"
    )
    assert np.allclose(
        b["posterior_mean"],
        scale**2 * a["posterior_mean"],
        rtol=1e-6,
        atol=1e-9 * scale**2 * np.abs(a["posterior_mean"]).max(),
    )


def test_noise_alone_is_explained_by_noise():
    "Every source is pruned, with the noise given and learned, and the answer is zero without a complaint"
    rng = np.random.default_rng(0)
    L, y = rng.normal(size=(20, 50)), 0.1 * rng.normal(size=(20, 4000))
    r = gamma_map(L, y, 1.0, update_mode="fast")
    assert r.converged and not r["posterior_mean"].any() and len(r.posterior.gamma) == 0
    r = gamma_lambda_map(L, y, update_mode="fast", max_iter=1000)
    assert r.converged and np.allclose(r["lambdas"], 0.01, rtol=0.2)


def test_max_iter_is_kept():
    L, y, noise_var, k, coords = random_problem(11)
    for n in (1, 3, 12):
        r = gamma_lambda_map_sflex(L, y, k, src_coords=coords, update_mode="fast", max_iter=n)
        assert r.n_iter == n == len(r.history["cost"]) - 1 and not r.converged


def test_the_published_rule_is_no_fast_search():
    L, y, noise_var, k, coords = random_problem(11)
    with pytest.raises(ValueError, match="update_mode must be a fixed point"):
        gamma_map(L, y, 1.0, k, update_mode="fast", rule="calibrain-1.0")


def test_memory_of_a_large_solve():
    "306 × 5124 × 3 with all variances and blocks: 400 MB above what the problem itself takes"
    rng = np.random.default_rng(0)
    coords = rng.normal(size=(5124, 3))
    coords *= 0.06 / np.linalg.norm(coords, axis=1)[:, None]
    L = rng.normal(size=(306, 5124 * 3))
    y = L[:, [30, 31, 900]] @ rng.normal(size=(3, 250)) * 5 + rng.normal(size=(306, 250))
    tracemalloc.start()
    r = gamma_map_sflex(L, y, 1.0, 3, src_coords=coords, update_mode="fast")
    assert r.posterior.var.shape == (15372,) and r.posterior.blocks.shape == (5124, 3, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"peak {peak / 1e6:.0f} MB")
    assert peak < 400e6
