"Every method of the mixture against a dense twin; nothing dense on the way"

import copy
import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from routine import some
from scipy import sparse, stats

from calibrain.posterior.mixture import Mixture, State

SEEDS = some(range(24), every=3)


def make(seed, n_states=8, n_times=6, patches=False, coloured=False):
    "A few random states, with an empty one, singular covariances and repeated supports among them"
    rng = np.random.default_rng(seed)
    k = 1 + seed % 3
    n_sources = 7
    n_atoms = 9 if patches else n_sources
    states = []
    for i in range(n_states):
        atoms = np.sort(rng.choice(n_atoms, i % 4, replace=False))
        n = k * len(atoms)
        root = rng.normal(size=(n, max(1, n - (i % 2))))  # every second one without full rank
        states.append(State(atoms, rng.normal(size=(n, n_times)), root @ root.T))
    S = None
    if patches:
        B = rng.normal(size=(n_sources, n_atoms)) * (rng.random((n_sources, n_atoms)) < 0.4)
        S = sparse.csc_array(np.kron(B, np.eye(k)))
    root = None
    if coloured:
        lag = np.abs(np.subtract.outer(np.arange(n_times), np.arange(n_times)))
        w, U = np.linalg.eigh(0.6**lag)
        root = (U * np.sqrt(w)) @ U.T
    weights = rng.dirichlet(np.ones(n_states))
    return Mixture(tuple(states), weights, n_sources, k, n_times, S, root)


def dense(m):
    "Weights, and mean and covariance of all sources at all samples (K T), of each state"
    k, T = m.n_orient, m.n_times
    S = np.eye(m.n_coeff) if m.S is None else m.S.toarray()
    R = np.eye(T) if m.time_root is None else m.time_root @ m.time_root
    means, covs = [], []
    for atoms, mean, cov in m.states:
        columns = (atoms[:, None] * k + np.arange(k)).ravel()
        B = S[:, columns]
        means.append((B @ mean).ravel())
        covs.append(np.kron(B @ cov @ B.T, R))
    return np.array(means), np.array(covs)


def twin(m, A=None):
    "Mean and covariance of A x over (K T), by the law of total covariance"
    means, covs = dense(m)
    if A is not None:
        means = means @ A.T
        covs = A @ covs @ A.T
    mean = m.weights @ means
    apart = means - mean
    return mean, np.einsum("s,sij->ij", m.weights, covs) + (apart.T * m.weights) @ apart


def close(a, b):
    "Equal to 1e-10 of the largest"
    assert np.shape(a) == np.shape(b)
    assert np.abs(a - b).max() <= 1e-10 * max(np.abs(b).max(), 1e-300)


kinds = pytest.mark.parametrize("patches", [False, True], ids=["sources", "patches"])
noises = pytest.mark.parametrize("coloured", [False, True], ids=["white", "coloured"])


@kinds
@noises
def test_every_moment_equals_its_dense_twin(patches, coloured):
    for seed in SEEDS:
        m = make(seed, patches=patches, coloured=coloured)
        K, T, k = m.n_coeff, m.n_times, m.n_orient
        mean, cov = twin(m)
        mean = mean.reshape(K, T)
        at_each_sample = np.einsum("itjt->tij", cov.reshape(K, T, K, T))
        close(m.mean, mean)
        close(m.var, np.einsum("tii->it", at_each_sample))
        close(m.std**2, m.var)
        by_source = at_each_sample.reshape(T, K // k, k, K // k, k)
        close(m.blocks, np.einsum("tnanb->nabt", by_source))

        A = np.random.default_rng(seed).normal(size=(3, K))
        for weights in (A, sparse.csr_array(A)):
            close(m.read_out(weights).mean, A @ mean)
            close(m.read_out(weights).cov, A @ at_each_sample @ A.T)
        rows = np.r_[4 * k : 5 * k, k : 2 * k]
        close(m.region([4, 1]).mean, mean[rows])
        close(m.region([4, 1]).cov, at_each_sample[:, rows][:, :, rows])


@kinds
@noises
def test_an_average_over_time_equals_its_dense_twin(patches, coloured):
    "Also the covariance between sources, and with weights that are not all alike"
    for seed in SEEDS:
        m = make(seed, patches=patches, coloured=coloured)
        rng = np.random.default_rng(seed)
        for weights in (None, rng.normal(size=m.n_times)):
            a = np.full(m.n_times, 1 / m.n_times) if weights is None else weights
            A = np.kron(np.eye(m.n_coeff), a)
            mean, cov = twin(m, A)
            over_time = m.average(weights)
            close(over_time.mean[:, 0], mean)
            close(over_time.region(np.arange(m.n_sources)).cov[0], cov)


def test_the_variance_of_an_average_is_not_that_of_a_sample_by_their_number():
    "The trap cov/T: which sources are on is one question for all samples"
    one_or_none = (
        State(np.array([0]), np.full((1, 100), 10.0), np.ones((1, 1))),
        State(np.array([], int), np.zeros((0, 100)), np.zeros((0, 0))),
    )
    m = Mixture(one_or_none, np.array([0.5, 0.5]), 1, 1, 100)
    assert np.allclose(m.var, 0.5 + 25)
    assert np.isclose(m.average().var[0, 0], 0.5 / 100 + 25)


def on_in(m, state):
    "Which sources a state has on: points, or what has half of a patch's largest weight"
    on = np.zeros(m.n_sources, bool)
    for atom in state.atoms:
        if m.S is None:
            on[atom] = True
        else:
            patch = np.abs(m.S.toarray()[:: m.n_orient, atom * m.n_orient])
            on |= (patch >= patch.max() / 2) & (patch > 0)
    return on


@kinds
def test_inclusion_and_counts(patches):
    for seed in SEEDS:
        m = make(seed, patches=patches)
        means, _ = dense(m)
        shape = (len(m.states), m.n_sources, m.n_orient * m.n_times)
        reached = np.any(means.reshape(shape) != 0, axis=2)
        close(m.reached, m.weights @ reached)
        close(m.inclusion, m.weights @ [on_in(m, state) for state in m.states])
        counts = [len(s.atoms) for s in m.states]
        close(m.count_probability, [m.weights[np.equal(counts, i)].sum() for i in range(4)])


@kinds
def test_exact_quantiles_are_those_of_the_distribution_function(patches):
    for seed in SEEDS:
        m = make(seed, patches=patches)
        means, covs = dense(m)
        std = np.sqrt(np.maximum(np.einsum("sii->si", covs), 0))
        point = 1e-9 * np.abs(means).max()
        for p in (0.03, 0.4, 0.5, 0.8, 0.99):
            x = m.quantile(p, exact=True).ravel()
            below, above = np.zeros((2, len(x)))
            for w, mean, s in zip(m.weights, means, std):
                s = np.maximum(s, point / 10)  # a point, blurred
                below += w * stats.norm.cdf((x - point - mean) / s)
                above += w * stats.norm.cdf((x + point - mean) / s)
            assert (below <= p + 1e-6).all() and (above >= p - 1e-6).all()
        low, high = m.interval(0.8, exact=True)
        assert np.array_equal(low, m.quantile(0.09999999999999998, exact=True))
        assert np.array_equal(high[[1]], m.interval(0.8, exact=True)[1][[1]])


def test_quantiles_by_moments():
    m = make(4)
    assert np.allclose(m.quantile(0.95), m.mean + stats.norm.ppf(0.95) * m.std)
    some_sources = m.quantile(0.2, sources=[3, 0], exact=True)
    rows = np.r_[6:8, 0:2]
    assert m.n_orient == 2
    assert np.array_equal(some_sources, m.quantile(0.2, exact=True)[rows])


@noises
def test_draws_have_the_moments(coloured):
    for seed in (0, 1, 2):
        m = make(seed, n_states=5, n_times=3, coloured=coloured, patches=seed == 1)
        draws = m.sample(60_000, seed)
        mean, cov = twin(m)
        flat = draws.reshape(len(draws), -1)
        scale = np.sqrt(cov.diagonal().max())
        assert np.abs(flat.mean(0) - mean).max() < 0.03 * scale
        assert np.abs(np.cov(flat.T) - cov).max() < 0.05 * scale**2
        assert np.array_equal(m.sample(5, 7), m.sample(5, 7))
        some_sources = m.sample(60_000, 1, sources=[2, 0]).reshape(60_000, 2, -1)
        of_all = draws.reshape(60_000, m.n_sources, -1)[:, [2, 0]]
        assert np.abs(some_sources.std(0) - of_all.std(0)).max() < 0.05 * scale


def test_exceedance_is_what_draws_count():
    for seed in (0, 1, 2):
        m = make(seed, patches=seed == 2)
        draws = m.sample(40_000, 0).reshape(40_000, m.n_sources, m.n_orient, -1)
        share = (np.linalg.norm(draws, axis=2) > 1.1).mean(0)
        assert np.abs(m.exceedance(1.1) - share).max() < 5 * np.sqrt(0.25 / 40_000)


# ---- what is kept


MOMENTS = ("mean", "var", "reached", "inclusion")


@kinds
def test_a_moment_is_made_once_and_is_the_same_in_any_order(patches):
    "Whatever was asked for before, of this mixture or of others made from it"
    for seed in SEEDS:
        m = make(seed, patches=patches)
        m.average(), m.std, m.blocks, m.read_out_var(np.eye(m.n_coeff)), m.interval()
        for name in MOMENTS:
            assert np.array_equal(getattr(m, name), getattr(make(seed, patches=patches), name))
            assert getattr(m, name) is getattr(m, name)


def test_what_is_kept_cannot_be_written_into():
    m = make(4)
    for name in MOMENTS:
        before = getattr(m, name).copy()
        for array in (getattr(m, name), getattr(m, name)[:2], getattr(m, name).T):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 7.0
        assert np.array_equal(getattr(m, name), before)
    own = m.std, m.blocks, m.quantile(0.9), m.region([1]).mean, m.count_probability
    assert all(array.flags.writeable for array in own)
    before = m.var.copy()
    for array in own:
        array[...] = 7.0
    assert np.array_equal(m.var, before)


def test_a_mixture_made_from_another_has_moments_of_its_own():
    m = make(5, patches=True)
    before = {name: getattr(m, name) for name in MOMENTS}
    first = replace(m, weights=np.eye(len(m.states))[-1])
    for name in MOMENTS:
        assert not np.array_equal(getattr(first, name), before[name])
        assert getattr(m, name) is before[name]
    assert m.average().mean.shape[1] == 1


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_copy_cannot_be_written_into_either(again):
    "An array that was copied or read from a file may be written into: it is made anew"
    m = make(4)
    before = {name: getattr(m, name) for name in MOMENTS}
    other = again(m)
    for name in MOMENTS:
        assert np.array_equal(getattr(other, name), before[name])
        assert not getattr(other, name).flags.writeable
        assert getattr(m, name) is before[name]


def test_nothing_dense_is_made():
    "20,000 sources, 200 states, 100 samples: 16 MB for a mean; N x N or states x N x T would not fit"
    rng = np.random.default_rng(0)
    states = []
    for _ in range(200):
        atoms = np.sort(rng.choice(20_000, 6, replace=False))
        states.append(State(atoms, rng.normal(size=(6, 100)), np.eye(6)))
    m = Mixture(tuple(states), np.full(200, 1 / 200), 20_000, 1, 100)
    tracemalloc.start()
    m.var, m.region([3, 4]), m.average().std, m.inclusion, m.exceedance(0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m: m.region([7]), "within 0 and 6"),
        (lambda m: m.region([0.5]), "sources must be whole numbers"),
        (lambda m: m.read_out(np.ones((2, 3))), "one column for each source coefficient"),
        (lambda m: m.quantile(1.0), "p must be"),
        (lambda m: m.interval(0), "level must be"),
        (lambda m: m.exceedance(-1), "threshold must be"),
        (lambda m: m.average(np.ones(3)), "one weight for each sample"),
        (lambda m: m.sample(0, 0), "n must be"),
        (lambda m: Mixture(m.states, m.weights / 2, 7, 1, 6), "probabilities that sum to 1"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call(make(0))
