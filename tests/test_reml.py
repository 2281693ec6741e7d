"""Covariance components: against dense formulas, minimum norm, gamma-MAP and a Fisher scoring.

The second routes know nothing of factors: they take the covariances themselves, in full.
"""

import tracemalloc

import numpy as np
import pytest
from problems import problems
from routine import number
from scipy import linalg, sparse

from calibrain import BMN, BMN_joint, SourceEstimator, estimate_evoked, gamma_map, reml
from calibrain.core.archive import read_arrays, write_arrays
from calibrain.core.warnings import NothingFoundWarning
from calibrain.evaluation.errors import support
from calibrain.head.basis import sflex_basis
from calibrain.head.leadfield import Leadfield
from calibrain.head.prepared import prepare
from calibrain.posterior.result import result_from_arrays, result_to_arrays
from calibrain.solvers.source_components import evenly_spread, source_components

pytestmark = pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
    "ignore::calibrain.core.warnings.NothingFoundWarning",
    "ignore::calibrain.core.warnings.PlausibilityWarning",
)
M, N, T = 24, 30, 200
COORDS = np.random.default_rng(7).normal(scale=0.03, size=(N, 3))


def covariances(seed, k=1):
    "A smooth one, a diagonal one, one of rank 2, and all of them for each coefficient in full"
    rng = np.random.default_rng(seed)
    B = sflex_basis(COORDS, 0.015).toarray()
    of_sources = [B @ B.T, np.diag(rng.uniform(0.2, 2, N))]
    A = rng.normal(size=(N, 2))
    of_sources.append(A @ A.T)
    return of_sources, [np.kron(C, np.eye(k)) for C in of_sources]


def recording(seed, k=1, h=(2.0, 0.0, 0.5), noise=1.0, n_times=T):
    "Sources with a sum of covariances, in noise"
    rng = np.random.default_rng(seed)
    _, full = covariances(seed, k)
    L = rng.normal(size=(M, N * k))
    prior = sum(scale * C for scale, C in zip(h, full)) + 1e-12 * np.eye(N * k)
    x = linalg.cholesky(prior, lower=True) @ rng.normal(size=(N * k, n_times))
    return L, L @ x + np.sqrt(noise) * rng.normal(size=(M, n_times))


def dense(L, y, prior, noise):
    "Mean, covariance and cost by the textbook"
    Sigma = L @ prior @ L.T + noise * np.eye(len(L))
    gain = np.linalg.solve(Sigma, L @ prior).T
    data_term = np.trace(np.linalg.solve(Sigma, y @ y.T)) / y.shape[1]
    return gain @ y, prior - gain @ L @ prior, np.linalg.slogdet(Sigma)[1] + data_term


def close(a, b, rtol):
    size = np.abs(b).max()
    np.testing.assert_allclose(a, b, rtol=0, atol=rtol * size)


# ---- the known answers


@pytest.mark.parametrize("learned", [False, True])
def test_the_identity_is_minimum_norm(learned):
    "Mean, std and evidence to 1e-8, on problems of every kind, average reference among them"
    same = 0
    for seed, (L, y, noise_var, k, _) in problems(60, every=5):
        if learned:
            found, norm = reml(L, y, n_orient=k, tol=1e-8), BMN_joint(L, y, n_orient=k)
        else:
            found = reml(L, y, noise_var, k, learn_noise=False, tol=1e-8)
            norm = BMN(L, y, noise_var, k)
        if norm.noise_at_boundary or norm.nothing_found:
            assert found.noise_at_boundary == norm.noise_at_boundary, f"problem {seed}"
            continue
        same += 1
        close(found.mean, norm.mean, 1e-8)
        close(found.std, norm.std, 1e-8)
        assert found.log_evidence == pytest.approx(norm.log_evidence, rel=1e-8)
        assert found["component_scales"][0] == pytest.approx(norm.gamma, rel=1e-8)
        assert found.noise_var == pytest.approx(norm.noise_var, rel=1e-8)
    assert same >= 5


@pytest.mark.parametrize("k", [1, 2])
def test_one_component_a_source_is_gamma_map(k):
    rng = np.random.default_rng(k)
    for seed in range(4):
        L = rng.normal(size=(M, 15 * k))
        x = np.zeros((15, k, 60))
        x[[3, 9]] = 2 * rng.normal(size=(2, k, 60))
        y = L @ x.reshape(15 * k, 60) + rng.normal(size=(M, 60))
        each = list(np.eye(15)[:, :, None])  # a factor of one column for each source
        found = reml(L, y, 1.0, k, components=each, learn_noise=False, tol=1e-9)
        other = gamma_map(L, y, 1.0, k, update_mode="fast", tol=1e-9)
        assert found.cost == pytest.approx(other.cost, rel=1e-9), f"seed {seed}"
        close(found["component_scales"], other["gammas_full"][::k], 1e-6)
        close(found.mean, other.mean, 1e-6)
        np.testing.assert_array_equal(
            found["active_source_indices"], other["active_source_indices"]
        )


def fisher_scoring(L, y, full, steps=400):
    "ReML as SPM does it: log scales, expected curvature, covariances in full; noise is the last"
    parts = [L @ C @ L.T for C in full] + [np.eye(len(L))]
    power = np.trace(y @ y.T) / y.size
    logs = np.log([power * len(L) / np.trace(Q) / len(parts) for Q in parts])
    S = y @ y.T / y.shape[1]

    def cost(logs):
        Sigma = sum(np.exp(t) * Q for t, Q in zip(logs, parts))
        return np.linalg.slogdet(Sigma)[1] + np.trace(np.linalg.solve(Sigma, S))

    for _ in range(steps):
        h = np.exp(logs)
        P = np.linalg.inv(sum(scale * Q for scale, Q in zip(h, parts)))
        PQ = [scale * P @ Q for scale, Q in zip(h, parts)]
        gradient = np.array([np.trace(A) - np.trace(A @ P @ S) for A in PQ])
        curvature = np.array([[np.trace(A @ B) for B in PQ] for A in PQ])
        step = -np.linalg.solve(curvature + 1e-9 * np.eye(len(h)), gradient)
        step = np.clip(step, -2, 2)
        while cost(logs + step) > cost(logs) and np.abs(step).max() > 1e-14:
            step /= 2
        logs = np.maximum(logs + step, -40)
    return np.exp(logs), cost(logs)


@pytest.mark.parametrize("seed", range(3))
def test_against_a_dense_fisher_scoring(seed):
    L, y = recording(seed)
    of_sources, full = covariances(seed)
    found = reml(L, y, components=of_sources, tol=1e-9)
    h, cost = fisher_scoring(L, y, full)
    assert found.cost == pytest.approx(cost, rel=1e-8)
    np.testing.assert_allclose(found["component_scales"], h[:3], rtol=1e-4, atol=1e-6)
    assert found.noise_var == pytest.approx(h[3], rel=1e-4)
    np.testing.assert_allclose(found["component_scales"][[0, 2]], [2.0, 0.5], rtol=0.6)


# ---- a covariance of one's own


def forms(C):
    "The same covariance as an array, a sparse one, a factor, and a factor that is square"
    root = linalg.cholesky(C + 1e-13 * np.eye(len(C)), lower=True)
    wide = np.hstack([root / np.sqrt(2)] * 2)
    return dict(
        array=C, sparse=sparse.csc_matrix(C), factor=sparse.csr_array(wide), square=("factor", root)
    )


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("form", ["array", "sparse", "factor", "square"])
def test_a_known_covariance_is_bayes_rule(k, form):
    L, y = recording(3, k, n_times=20)
    (C, *_), (full, *_) = covariances(3, k)
    found = reml(L, y, 0.7, k, components=forms(C)[form], learn_noise=False, learn_scale=False)
    mean, cov, cost = dense(L, y, full, 0.7)
    close(found.mean, mean, 1e-8)
    close(found["posterior_cov"], cov, 1e-8)
    close(found.std**2, np.diag(cov), 1e-8)
    assert found.cost == pytest.approx(cost, rel=1e-10)
    assert found.log_evidence == pytest.approx(-10 * (cost + M * np.log(2 * np.pi)), rel=1e-10)
    assert found.n_iter == 0 and np.isnan(found.kkt_violation) and found.converged


def test_variances_by_source_and_by_coefficient():
    L, y = recording(1, 2, n_times=20)
    v = np.random.default_rng(0).uniform(size=N)
    v[4] = 0
    said = dict(noise_var=1.0, n_orient=2, learn_noise=False, learn_scale=False)
    by_source = reml(L, y, components=v, **said)
    mean, _, _ = dense(L, y, np.diag(np.repeat(v, 2)), 1.0)
    close(by_source.mean, mean, 1e-10)
    close(reml(L, y, components=np.repeat(v, 2), **said).mean, mean, 1e-10)
    assert not by_source.std[8:10].any()
    np.testing.assert_array_equal(by_source["active_source_indices"], np.delete(np.arange(N), 4))
    np.testing.assert_array_equal(np.flatnonzero(support(by_source)), np.delete(np.arange(N), 4))


def test_the_scale_or_the_noise_alone():
    "With one of the two given, the other is where its own cost is lowest"
    L, y = recording(2)
    (C, *_), _ = covariances(2)
    scale = reml(L, y, 1.0, components=C, learn_noise=False)
    noise = reml(L, y, components=C, learn_scale=False)
    for factor in (0.999, 1.001):
        h = scale["component_scales"][0] * factor
        assert dense(L, y, h * C, 1.0)[2] > scale.cost
        assert dense(L, y, C, noise.noise_var * factor)[2] > noise.cost
    assert noise["component_scales"][0] == 1 and noise.kkt_violation < 1e-6


def test_the_size_of_a_component_is_its_scale():
    "C a and h / a, in any unit of the leadfield and the recording"
    L, y = recording(4)
    of_sources, _ = covariances(4)
    plain = reml(L, y, components=of_sources)
    sizes = np.array([1e-6, 1.0, 1e4])
    other = reml(L / 100, 100 * y, components=[a * C for a, C in zip(sizes, of_sources)])
    close(other["component_scales"] * sizes / 1e8, plain["component_scales"], 1e-6)
    close(other.mean, 1e4 * plain.mean, 1e-6)


# ---- the search


def test_the_certificate_and_the_course():
    for seed, (L, y, noise_var, k, coords) in problems(60, every=7):
        n = len(coords)
        rng = np.random.default_rng(seed)
        C = [rng.uniform(size=n), rng.normal(size=(n, 3)), "identity", rng.normal(size=(n, 1))]
        r = reml(L, y, noise_var, k, components=C, learn_noise=False)
        assert r.converged and r.kkt_violation <= 1e-6
        cost = r.history["cost"]
        assert len(cost) == r.n_iter + 1 and (np.diff(cost) <= 1e-9 * (1 + np.abs(cost[1:]))).all()
        F = r["B_operator"].toarray()
        G = L @ F
        P = np.linalg.inv((G * r["gammas_full"]) @ G.T + noise_var * np.eye(len(y)))
        S = y @ y.T / y.shape[1]
        for i, h in enumerate(r["component_scales"]):
            Q = G[:, r["component_of"] == i] @ G[:, r["component_of"] == i].T
            d, q = np.trace(P @ Q), np.trace(P @ S @ P @ Q)
            assert q <= d * (1 + 1e-4), f"problem {seed}, component {i}"
            if h * d > 1e-3:
                assert q == pytest.approx(d, rel=1e-4), f"problem {seed}, component {i}"


def test_a_component_more_never_costs_evidence():
    for seed in range(number(routine=6, everything=30)):
        L, y = recording(seed, n_times=12)
        of_sources, _ = covariances(seed)
        for learned in (True, False):
            said = dict(learn_noise=learned) | ({} if learned else dict(noise_var=1.0))
            alone = [reml(L, y, components=C, **said).log_evidence for C in of_sources]
            both = reml(L, y, components=of_sources[:2], **said).log_evidence
            everything = reml(L, y, components=of_sources, **said).log_evidence
            assert both >= max(alone[:2]) - 1e-6 and everything >= max(alone) - 1e-6


def test_nor_where_equal_shares_lead_elsewhere():
    "From equal shares this search ends 2.05 above what one of the components does alone"
    rng = np.random.default_rng(95)
    n_sensors, n, n_times = (
        int(rng.integers(4, 12)),
        int(rng.integers(2, 8)),
        int(rng.integers(1, 4)),
    )
    L = rng.normal(size=(n_sensors, 20))
    factors = [rng.normal(size=(20, int(rng.integers(1, 6)))) for _ in range(n)]
    y = 2 * L @ factors[0] @ rng.normal(size=(factors[0].shape[1], n_times))
    y += rng.normal(size=(n_sensors, n_times))
    said = dict(noise_var=1.0, learn_noise=False)
    alone = min(reml(L, y, components=F, **said).cost for F in factors)
    assert reml(L, y, components=factors, **said).cost <= alone + 1e-7


def test_the_wrong_prior_has_less_evidence():
    "Sources that are smooth: the smooth prior has the most evidence, in 6 of 6"
    for seed in range(6):
        L, y = recording(seed, h=(2.0, 0.0, 0.0), n_times=50)
        of_sources, _ = covariances(seed)
        evidence = [reml(L, y, components=C).log_evidence for C in of_sources]
        assert np.argmax(evidence) == 0, f"seed {seed}"


# ---- patches, and large problems


def test_patches_of_msp():
    c = source_components("msp", N, 2, COORDS, 10, 0.02)
    centres = evenly_spread(COORDS, 10)
    B = sflex_basis(COORDS, 0.02)
    assert len(c.names) == len(centres) == 10 and (c.sizes == 2).all()
    for i, n in enumerate(centres):
        expected = np.kron(B[:, [n]].toarray(), np.eye(2))
        np.testing.assert_array_equal(c.F[:, c.component_of == i].toarray(), expected)
    nearest = np.linalg.norm(COORDS[:, None] - COORDS[centres], axis=-1).min(1)
    between = np.linalg.norm(COORDS[centres][:, None] - COORDS[centres], axis=-1)
    assert nearest.max() <= between[between > 0].min() + 1e-12


def test_never_all_sources_squared():
    "20,000 sources, smooth and in patches: less than a tenth of their covariance in memory"
    rng = np.random.default_rng(0)
    n = 20_000
    coords = 0.07 * rng.normal(size=(n, 3))
    coords *= 0.07 / np.linalg.norm(coords, axis=1, keepdims=True)
    L, y = rng.normal(size=(16, n)), 50 * rng.normal(size=(16, 30))
    tracemalloc.start()
    r = reml(L, y, components=["smooth", "msp"], n_patches=30, sigma=0.003, src_coords=coords)
    std = r.std
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert std.shape == (n,) and peak < 0.1 * 8 * n**2, f"{peak / 1e6:.0f} MB"


def test_factors_are_made_once():
    L, y = recording(0)
    prepared = prepare(L)
    C = covariances(0)[0][0]
    one = reml(prepared, y, components=C)
    kept = dict(prepared._cache)
    assert len(kept) == 1
    again = reml(prepared, 2 * y, components=C.copy())
    assert prepared._cache.keys() == kept.keys()
    close(again.mean, 2 * one.mean, 1e-8)
    reml(prepared, y, components=2 * C)
    assert len(prepared._cache) == 2


# ---- the roads


def test_leadfield_estimator_and_archive(tmp_path):
    L, y = recording(5)
    lf = Leadfield(L, COORDS)
    params = dict(components=["identity", "msp"], n_patches=8)
    found = SourceEstimator("reml", params).fit(lf, y).predict()
    direct = reml(L, y, src_coords=COORDS, **params)
    np.testing.assert_allclose(found.mean, direct.mean, atol=1e-12)
    assert found["component_names"].tolist() == ["identity", *(f"msp {i}" for i in range(8))]
    cov = np.diag(np.linspace(0.5, 2, M))
    learned = SourceEstimator("reml", params, noise_cov=cov).fit(lf, y).predict()
    given = SourceEstimator("reml", params | dict(learn_noise=False), noise_cov=cov)
    given = given.fit(lf, y).predict()
    assert given.noise_var == 1 and learned.log_evidence >= given.log_evidence - 1e-6

    write_arrays(tmp_path / "r.npz", result_to_arrays(found))
    again = result_from_arrays(read_arrays(tmp_path / "r.npz"))
    np.testing.assert_allclose(again["component_scales"], found["component_scales"])
    np.testing.assert_allclose(again["posterior_cov"], found["posterior_cov"], atol=1e-10)
    assert again["component_names"].tolist() == found["component_names"].tolist()


def test_two_conditions_with_one_support():
    "estimate_evoked: patches by the positions of the head; scales go with the noise of a condition"
    from test_recording_sampler import cov, head
    from test_recording_sampler import recording as tone

    conditions = [tone(nave=9)[0], tone(nave=36, seed=1)[0]]
    said = dict(orientation="fixed", progress=False)
    msp = dict(components="msp", n_patches=20)
    for noise, more in (("learn", {}), ("given", dict(learn_noise=False))):
        said = said | dict(noise=noise, solver_params=msp | more)
        alone = estimate_evoked(conditions[0], head()[0], cov(), "reml", **said)
        assert len(alone.result["component_scales"]) == 20
        pair = estimate_evoked(conditions, head()[0], cov(), "reml", shared=True, **said)
        h = [e.result["component_scales"] for e in pair]
        on = h[1] > 0
        assert on.any()
        np.testing.assert_allclose(
            h[0][on] / h[1][on], pair[0].result.noise_var / pair[1].result.noise_var
        )


# ---- what is refused

BAD = {
    "not positive": (np.eye(N) - 0.2, "positive semi-definite, got a smallest eigenvalue of -5"),
    "not positive, sparse": (
        sparse.diags_array([np.ones(N - 1), np.ones(N), np.ones(N - 1)], offsets=[-1, 0, 1]),
        "positive semi-definite, got a smallest eigenvalue of -0.99",
    ),
    "negative": (np.linspace(-1, 1, N), "a smallest eigenvalue of -1 "),
    "not symmetric": (
        np.triu(np.ones((N, N))),
        "components must be symmetric, got entries .* by 1",
    ),
    "zero": (np.zeros((N, N)), "components must be different from zero somewhere"),
    "shape": (np.eye(N + 1), r"components must be of 30 rows.*got shape \(31, 31\)"),
    "axes": (np.ones((N, 2, 2)), "one number for each source, or a matrix"),
    "NaN": (np.full(N, np.nan), "components must be finite"),
    "name": ("loreta", "components must be one of 'identity', 'smooth', 'msp'"),
    "in a list": (["identity", np.zeros(N)], r"components\[1\] must be different from zero"),
    "none": ([], "one covariance component at least"),
    "complex": (np.ones(N, complex), "components must be real numbers"),
    "no positions": ("smooth", "src_coords must be an array of shape"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_component(what):
    components, words = BAD[what]
    L, y = recording(0, n_times=5)
    with pytest.raises((TypeError, ValueError), match=words):
        reml(L, y, components=components)


def test_a_component_that_no_sensor_sees():
    L, y = recording(0, n_times=5)
    L[:, 3] = 0
    lonely = np.eye(N)[3]
    with pytest.raises(
        ValueError, match="seen by some sensor, got 1 without a field, the first '1'"
    ):
        reml(L, y, components=["identity", lonely])


def test_a_covariance_that_is_singular_by_rounding_is_one():
    "A kernel whose smallest eigenvalues are negative in the last digit"
    d = np.linalg.norm(COORDS[:, None] - COORDS, axis=-1)
    kernel = np.exp(-(d**2) / (2 * 0.5**2))
    assert np.linalg.eigvalsh(kernel).min() < 1e-12
    L, y = recording(0, n_times=20)
    mean, _, _ = dense(L, y, kernel, 1.0)
    found = reml(L, y, 1.0, components=kernel, learn_noise=False, learn_scale=False)
    close(found.mean, mean, 1e-7)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_noise_far_too_large_leaves_nothing():
    rng = np.random.default_rng(0)
    L, y = rng.normal(size=(8, 20)), rng.normal(size=(8, 12))
    with pytest.warns(NothingFoundWarning):
        r = reml(L, y, 1e9, learn_noise=False, components=[np.eye(20), np.ones(20)])
    assert r.nothing_found and r.fitted == 0 and r.converged
