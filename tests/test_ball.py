"""How much of a Gaussian lies within a ball, and powers of a mixture: the quick ways against slow twins."""

import numpy as np
import pytest
from routine import number
from scipy import sparse
from scipy.special import ndtr

from calibrain.posterior.ball import within_ball
from calibrain.posterior.exceedance import exceedance
from calibrain.posterior.lengths import power_moments
from calibrain.posterior.mixture import Mixture, State


def axis_by_axis(mean, std, radius, n_nodes):
    "The nested integrals of before, with any number of points; axes narrowest first"
    m, s = mean[:, 0], std[:, 0]
    if mean.shape[1] == 1:
        return ndtr((radius - m) / s) - ndtr((-radius - m) / s)
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    t0 = np.arcsin(np.clip((m - 7.5 * s) / radius, -1, 1))
    span = np.arcsin(np.clip((m + 7.5 * s) / radius, -1, 1)) - t0
    t = t0[:, None] + span[:, None] * (nodes + 1) / 2
    x, rest = radius[:, None] * np.sin(t), radius[:, None] * np.cos(t)
    z = (x - m[:, None]) / s[:, None]
    density = np.exp(-(z**2) / 2) / (np.sqrt(2 * np.pi) * s[:, None])
    others = [np.repeat(a[:, 1:], n_nodes, axis=0) for a in (mean, std)]
    inner = axis_by_axis(*others, rest.ravel(), n_nodes).reshape(t.shape)
    return span / 2 * ((density * rest * inner) @ weights)


def slowly(mean, std, n_nodes):
    "In a ball of radius 1, a few hundred at a time"
    parts = np.array_split(np.arange(len(mean)), len(mean) // 300 + 1)
    ones = np.ones(len(mean))
    return np.concatenate([axis_by_axis(mean[p], std[p], ones[p], n_nodes) for p in parts])


SHAPES = {"narrow": (-2, -0.7), "mild": (-0.5, 0.5), "wide": (-2, 1), "thousands": (-3, 1)}
TRUSTED = {"narrow": 0.93, "mild": 0.999, "wide": 0.93, "thousands": 0.93}


def gaussians(shape, n, seed=0):
    "Means within two radii and standard deviations of some shape, narrowest first"
    rng = np.random.default_rng((seed, *map(ord, shape)))
    std = np.sort(10 ** rng.uniform(*SHAPES[shape], size=(n, 3)), axis=1)
    way = rng.normal(size=(n, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    return way * rng.uniform(0, 2, size=(n, 1)), std


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_trusted_is_right(shape):
    mean, std = gaussians(shape, number(1500, 20_000))
    quick, trusted = within_ball(mean, std, 1.0)
    slow, slower = (slowly(mean, std, n) for n in (64, 80))
    known = np.abs(slow - slower) < 1e-11
    assert known.mean() > 0.97 and trusted.mean() > TRUSTED[shape]
    np.testing.assert_allclose(quick[trusted & known], slower[trusted & known], atol=1e-10)


def test_exceedance_is_what_it_was():
    "Against the code of before, where that was right to ten digits"
    mean, std = gaussians("mild", 600)
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(600, 3, 3)))[0]
    cov = axes * std[:, None] ** 2 @ axes.transpose(0, 2, 1)
    out = exceedance((axes @ mean[:, :, None]), cov, 1.0)[:, 0]
    before, better = (np.clip(1 - slowly(mean, std, n), 0, 1) for n in (40, 64))
    np.testing.assert_allclose(before, better, atol=1e-11)
    np.testing.assert_allclose(out, before, atol=1e-10)


def test_what_is_far_is_left_out_rightly():
    "Means outside the ball, narrow towards it and wide along it: no integral, the same answer"
    rng = np.random.default_rng(2)
    std = np.sort(rng.uniform(0.02, 2, size=(400, 3)), axis=1)
    mean = np.stack([rng.uniform(1.0, 3, 400), *np.zeros((2, 400))], axis=1)
    cov = np.eye(3) * std[:, :, None] ** 2
    out = exceedance(mean[:, :, None], cov, 1.0)[:, 0]
    np.testing.assert_allclose(out, 1 - slowly(mean, std, 80), atol=1e-10)


def few(shape, share, rng):
    "Numbers above zero, a share of them"
    return rng.random(shape) * (rng.random(shape) < share)


def mixture(k, patches, seed=0, n_sources=30, n_states=25, n_times=6):
    "States of 0 to 4 atoms, some of the same support"
    rng = np.random.default_rng(seed)
    S = None
    if patches:
        S = sparse.csc_array(np.kron(few((n_sources, n_sources), 0.2, rng), np.eye(k)))
    supports = [np.sort(rng.choice(n_sources, n, replace=False)) for n in (0, 1, 2, 3, 4, 4)]
    states = []
    for _ in range(n_states):
        atoms = supports[rng.integers(len(supports))]
        c = len(atoms) * k
        root = rng.normal(size=(c, c)) * 0.4
        mean = rng.normal(size=(c, n_times))
        states.append(State(atoms, mean, root @ root.T))
    weights = rng.dirichlet(np.ones(n_states))
    return Mixture(tuple(states), weights, n_sources, k, n_times, S)


@pytest.mark.parametrize("patches", [False, True])
def test_exceedance_of_a_mixture_state_by_state(patches):
    m = mixture(3, patches)
    out = m.exceedance(0.8)
    expected = np.zeros_like(out)
    for part in m.parts():
        sources, mean, cov = part.by_source(3)
        expected[sources] += part.weight * exceedance(mean, cov, 0.8)
    np.testing.assert_allclose(out, expected, atol=1e-10)


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_powers_of_a_mixture_from_the_definition(k, patches):
    m = mixture(k, patches)
    rng = np.random.default_rng(3)
    n = 40
    A = sparse.csr_array(few((n, m.n_coeff), 0.1, rng))
    groups = few((5, n), 0.4, rng)  # that overlap
    groups[4] = 0
    mean = np.zeros((5, m.n_times))
    second = np.zeros((m.n_times, 5, 5))
    for weight, state in zip(m.weights, m.states):
        E = np.zeros((m.n_coeff, len(state.atoms) * k))
        rows = (state.atoms[:, None] * k + np.arange(k)).ravel()
        E[rows, np.arange(len(rows))] = 1
        B = A @ (E if m.S is None else m.S @ E)
        z, C = B @ state.mean, B @ state.cov @ B.T
        its = groups @ (z**2 + C.diagonal()[:, None])
        mean += weight * its
        for t in range(m.n_times):
            both = 2 * C**2 + 4 * np.outer(z[:, t], z[:, t]) * C
            second[t] += weight * (groups @ both @ groups.T + np.outer(its[:, t], its[:, t]))
    cov = second - mean.T[:, :, None] * mean.T[:, None]
    out = power_moments(m, A, groups)
    np.testing.assert_allclose(out.mean, mean, atol=1e-10 * np.abs(mean).max())
    np.testing.assert_allclose(out.cov, cov, atol=1e-10 * np.abs(cov).max())
