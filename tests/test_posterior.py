"Every method of the structured posterior against a dense twin; nothing dense on the way"

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from problems import random_problem
from routine import some
from scipy import sparse

from calibrain.head.basis import expand, normalisation, sflex_basis, through_basis
from calibrain.posterior.gaussian import Posterior, mean_to_read, selection
from calibrain.posterior.result import with_posterior
from calibrain.solvers.evidence import posterior_at
from calibrain.solvers.gamma_lambda_map import gamma_lambda_map

SEEDS = some(range(40), every=4)  # sources with 1, 2 and 3 components among them


def twins(seed, kind):
    "A structured posterior, and mean and covariance from the formula with full matrices"
    L, y, noise_var, k, coords = random_problem(seed)
    rng = np.random.default_rng(seed)
    N = len(coords)
    S = {
        "none": np.eye(N * k),
        "sflex": expand(sflex_basis(coords, 0.02), k).toarray(),
        "normalised": normalisation(L, k).toarray(),
    }[kind]
    G = through_basis(L, sflex_basis(coords, 0.02), k) if kind == "sflex" else L @ S
    gamma = np.repeat(rng.lognormal(size=N) * (rng.random(N) < 0.7), k)
    if not gamma.any():
        gamma[:k] = 1
    noise = rng.uniform(0.5, 2, len(y)) * noise_var
    on = np.flatnonzero(gamma)
    p = posterior_at(
        G,
        y,
        gamma,
        noise,
        selection(on, N * k) if kind == "none" else sparse.csr_array(S[:, on]),
        k,
    )
    Gd = L @ S
    P = np.linalg.inv((L @ S * gamma) @ (L @ S).T + np.diag(noise))
    gain = gamma[:, None] * Gd.T @ P
    return p, S @ gain @ y, S @ (np.diag(gamma) - gain @ Gd * gamma) @ S.T


def close(a, b, scale=0):
    "Equal to 1e-10 of the largest; covariances may be judged by the prior, which both routes subtract from"
    assert np.shape(a) == np.shape(b)
    assert np.abs(a - b).max() <= 1e-10 * max(np.abs(b).max(), scale)


@pytest.mark.parametrize("kind", ["none", "sflex", "normalised"])
def test_every_method_equals_its_dense_twin(kind):
    seen = set()
    for seed in SEEDS:
        p, mean, cov = twins(seed, kind)
        k = p.n_orient
        rng = np.random.default_rng(seed)
        seen.add(k)
        close(p.mean, mean)
        prior = (p.S.power(2) @ p.gamma).max()
        close(p.dense(), cov, prior)
        close(p.var, np.diag(cov), prior)
        close(p.std**2, p.var)
        close(p.blocks, np.array([cov[i : i + k, i : i + k] for i in range(0, len(cov), k)]), prior)
        sources = rng.permutation(p.n_sources)[:3]
        rows = (sources[:, None] * k + np.arange(k)).ravel()
        region = p.region(sources)
        assert np.abs(region.mean - mean[rows]).max() <= 1e-10 * np.abs(mean).max()
        close(region.cov, cov[np.ix_(rows, rows)], prior)
        A = rng.normal(size=(4, len(mean)))
        close(p.read_out(A).mean, A @ mean)
        close(p.read_out(A).cov, A @ cov @ A.T, prior)
    assert seen == {1, 2, 3}


@pytest.mark.parametrize("kind", ["none", "sflex", "normalised"])
@pytest.mark.parametrize("part", ["all", "region"])
def test_samples_have_the_posterior_mean_and_covariance(kind, part):
    p, mean, cov = twins(7, kind)
    k = p.n_orient
    sources = None if part == "all" else np.array([1, 0])
    rows = np.arange(len(mean)) if part == "all" else (sources[:, None] * k + np.arange(k)).ravel()
    n = 4000
    x = p.sample(n, seed=0, sources=sources)
    assert np.array_equal(x, p.sample(n, seed=0, sources=sources))
    mean = mean[rows]
    cov = cov[np.ix_(rows, rows)]
    sd = np.sqrt(np.diag(cov))
    seen = sd > 1e-6 * sd.max()
    z = (x - mean)[:, seen] / sd[seen][:, None]
    T = z.shape[2]
    assert np.abs(z.mean(0)).max() < 5 / np.sqrt(n)
    assert np.abs(z.var(axis=(0, 2)) - 1).max() < 5 * np.sqrt(2 / (n * T))
    sample_cov = np.einsum("nit,njt->ij", z, z) / (n * T)
    assert np.abs(
        sample_cov - cov[np.ix_(seen, seen)] / np.outer(sd, sd)[np.ix_(seen, seen)]
    ).max() < 6 / np.sqrt(n * T)


def test_nothing_quadratic_in_the_sources_is_formed():
    "4,000 × 3 coefficients: a dense covariance would take 1.15 GB"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(32, 12_000))
    y = rng.normal(size=(32, 5))
    tracemalloc.start()
    p = posterior_at(L, y, np.ones(12_000), np.ones(32), selection(np.arange(12_000), 12_000), 3)
    (
        p.mean,
        p.var,
        p.std,
        p.blocks,
        p.region([3, 5]),
        p.read_out(np.ones((1, 12_000))),
        p.sample(2, 0),
        p.sample(50, 0, sources=[7]),
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6, f"{peak / 1e6:.0f} MB"


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("kind", ["identity", "selection", "turned", "basis"])
def test_variances_are_those_of_the_dense_covariance(kind, k):
    "Whatever the map, and where nearly all sources are reached by no coefficient"
    rng = np.random.default_rng(k)
    n = 30 * k
    S = sparse.eye_array(n, format="csr")
    if kind == "selection":
        S = S[:, [3 * k, 7 * k + k - 1]]
    if kind == "turned":
        S = S[:, ::-1]
    if kind == "basis":
        S = sparse.csr_array(rng.normal(size=(n, 5)) * (rng.random((n, 5)) < 0.3))
    gamma = rng.uniform(1, 2, S.shape[1])
    V = rng.normal(size=(4, S.shape[1])) / 9
    p = Posterior(gamma, V, rng.normal(size=(S.shape[1], 6)), S, k)
    cov = S @ (np.diag(gamma) - V.T @ V) @ S.T
    close(p.var, np.diag(cov))
    close(p.blocks, [cov[i : i + k, i : i + k] for i in range(0, n, k)])
    close(p.blocks, p.blocks.transpose(0, 2, 1))
    close(mean_to_read(p), S @ p.coeff_mean)
    assert np.shares_memory(mean_to_read(p), p.coeff_mean) == (kind == "identity")
    p.mean[:] = 0  # an array of its own, which may be written to
    assert p.coeff_mean.all()
    with pytest.raises(ValueError, match="read-only"):
        mean_to_read(replace(p, S=sparse.eye_array(S.shape[1], format="csr")))[:] = 0


def test_a_long_source_space_goes_in_slices():
    "6,000 rows of 4,096 numbers are three slices; at once they would take 197 MB"
    rng = np.random.default_rng(0)
    gamma = rng.uniform(1, 2, 3)
    V = rng.normal(size=(4096, 3)) / 70
    S = rng.normal(size=(6000, 3)) * (rng.random((6000, 3)) < 0.5)
    p = Posterior(gamma, V, np.zeros((3, 1)), sparse.csr_array(S), 3)
    assert len(list(p._slices())) == 3
    tracemalloc.start()
    var = p.var
    blocks = p.blocks
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    cov = np.einsum(
        "nac,cd,nbd->nab", S.reshape(-1, 3, 3), np.diag(gamma) - V.T @ V, S.reshape(-1, 3, 3)
    )
    close(blocks, cov)
    close(var, np.einsum("naa->na", cov).ravel())
    assert peak < 150e6, f"{peak / 1e6:.0f} MB"


@pytest.mark.parametrize("k", [1, 3])
def test_every_covariance_follows_another_map(k):
    "What a result holds of its sources is that of the posterior it was given"
    L, y, _, _, _ = random_problem(3)
    y = y - y.mean(0)
    n = L.shape[1] // k * k
    r = gamma_lambda_map(L[:, :n], y, n_orient=k, update_mode="fast")
    weights = np.repeat(np.arange(1.0, n // k + 1), k)
    p = r.posterior
    new = with_posterior(r, replace(p, S=p.S.multiply(weights[:, None]).tocsr()))
    on = new["active_indices"]
    assert len(on) > 0
    close(new["posterior_cov_active"], new["posterior_cov"][np.ix_(on, on)])


def test_a_variance_below_rounding_is_zero():
    "and its root is no NaN"
    p = Posterior(
        np.ones(1),
        np.full((1, 1), np.nextafter(1, 2)),
        np.ones((1, 1)),
        sparse.csr_array(np.ones((1, 1))),
    )
    assert p.var == 0
    assert p.std == 0
    assert np.allclose(p.sample(3, 0), 1, rtol=1e-14)


def test_nothing_active():
    "A posterior in which every source was pruned is zero for certain, and still answers"
    L, y, _, k, _coords = random_problem(1)
    K = L.shape[1]
    p = posterior_at(L, y, np.zeros(K), np.ones(len(y)), selection(np.arange(0), K), k)
    assert not p.mean.any()
    assert not p.var.any()
    assert not p.blocks.any()
    assert not p.dense().any()
    assert not p.sample(2, 0).any()
    assert not p.region([0]).cov.any()
    assert not p.sample(2, 0, sources=[0]).any()
    assert "0 (the others" in p._repr_html_()


@pytest.mark.parametrize(
    "sources, words",
    [
        ([0.5], "whole numbers"),
        ([], "whole numbers"),
        ([-1], "within 0 and"),
        ([10**6], "within 0 and"),
        ([[0, 1]], "whole numbers"),
    ],
)
def test_bad_regions(sources, words):
    p = twins(7, "none")[0]
    with pytest.raises((TypeError, ValueError), match=words):
        p.region(sources)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64])
def test_small_whole_numbers_as_sources(dtype):
    "Three times 99 does not fit into eight bits"
    p = Posterior(
        np.ones(1),
        np.zeros((1, 1)),
        np.ones((1, 1)),
        sparse.csr_array(np.arange(300.0)[:, None]),
        3,
    )
    assert list(p.region(np.array([99], dtype)).mean.ravel()) == [297, 298, 299]
