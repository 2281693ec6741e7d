"""The sampler is exact, and each known trap makes a test here fail.

On small problems every state can be written down, and its probability with it: inclusion, means
and variances of the chain are held against the sum over all states.
"""

import itertools
import json
import math
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import routine
from routine import number
from scipy.special import betaln

from benchmarks import sbc
from calibrain import SourceEstimator
from calibrain.core.warnings import ConvergenceWarning
from calibrain.head.leadfield import Leadfield
from calibrain.head.prepared import prepare
from calibrain.posterior.mixture import Mixture
from calibrain.solvers import slot_model as slot_model_module
from calibrain.solvers import slots as slots_module
from calibrain.solvers.agreement import effective_number
from calibrain.solvers.compressed import Compressed, compress
from calibrain.solvers.given_support import Amplitudes, gaussian_state
from calibrain.solvers.slot_model import Dual, SlotModel, make_slot
from calibrain.solvers.slot_weights import half_sphere, log_bounds, slot_weights, turned
from calibrain.solvers.slots import (
    FACTORS,
    Chain,
    log_of_factors,
    variance_grid,
)
from calibrain.solvers.spike_slab import CHAINS, Plan, localise, run_chains, spike_slab

pytestmark = pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.ConvergenceWarning", "ignore:spike_slab. no time component"
)


# ---- small problems, in full


def small(k, seed=0, M=7, N=5, r=2, strength=0.8):
    "A few places, one of which is on"
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(M, N * k))
    L[:, :k] = 0.8 * L[:, k : 2 * k] + 0.6 * L[:, :k]  # two that are alike
    x = np.zeros((N * k, r))
    x[:k] = strength * rng.normal(size=(k, r))
    return L, L @ x + 0.7 * rng.normal(size=(M, r))


def as_it_is(y, noise_var=0.49):
    "A recording that is its own components"
    return Compressed(y, y.shape[1], y.shape[1], noise_var, np.nan, y)


FEW_OFF = 1.5  # π ~ Beta(1, 1.5): enough is on for small problems to be worth it


def every_state(dual, gamma, n_slots, kinds):
    "Slots of every state, the log prior included; `kinds` are (direction, log share) pairs"
    one = [(None, 0.0)]
    for n, g, (v, share) in itertools.product(range(dual.n_places), gamma, kinds):
        one.append((make_slot(dual, n, g, v), share - np.log(dual.n_places * len(gamma))))
    for some in itertools.combinations_with_replacement(range(len(one)), n_slots):
        repeats = [math.factorial(times) for times in Counter(some).values()]
        log_orders = np.log(math.factorial(n_slots) / math.prod(repeats))
        on = [one[i][0] for i in some if i]
        log_share = sum(one[i][1] for i in some)
        log_on = betaln(1 + len(on), FEW_OFF + n_slots - len(on))
        yield on, log_orders + log_share + log_on


def exactly(dual, gamma, n_slots, kinds):
    "Every state with its probabilities by noise factor, `(n_states, n_factors)`"
    states, logs = [], []
    for on, log_prior in every_state(dual, gamma, n_slots, kinds):
        states.append(on)
        logs.append(log_of_factors(SlotModel(dual, on)) + log_prior)
    logs = np.array(logs)
    p = np.exp(logs - logs.max())
    return states, p / p.sum()


def inclusion_of(states, p, n_places):
    out = np.zeros(n_places)
    for on, weight in zip(states, p.sum(1)):
        out[sorted({slot.place for slot in on})] += weight
    return out


def visits(chain, n, burn=100):
    found = []
    for i in range(burn + n):
        chain.sweep()
        if i >= burn:
            found.append(chain.visited)
    return found


def on_at(found, n_places):
    out = np.zeros((n_places, len(found)))
    for i, visited in enumerate(found):
        out[visited.places, i] = 1
    return out


def errors_of_inclusion(visited, exact):
    "Differences of the inclusion probabilities in their Monte-Carlo standard errors"
    found = on_at(visited, len(exact))
    ess = np.array([effective_number(row[None]) for row in found])
    spread = np.sqrt(np.maximum(exact * (1 - exact), 1e-4) / ess)
    return (found.mean(1) - exact) / spread


# ---- the target, whole


def fixed_problem(n_slots=2):
    L, y = small(1)
    dual = Dual(L, 1, y, y.shape[1], 0.49)
    gamma = variance_grid(dual)[::12]
    exact = exactly(dual, gamma, n_slots, [(None, 0.0)])
    return L, y, dual, slot_weights(1, gamma), exact


def test_inclusion_means_and_variances_are_those_of_all_supports():
    "Two slots, five places, four variances, forty noise factors: 9,240 Gaussians"
    L, y, dual, weights, (states, p) = fixed_problem()
    chain = Chain(dual, weights, 2, 0, FEW_OFF)
    found = visits(chain, 6000)
    of = Amplitudes(L, 1, as_it_is(y))
    gaussians = tuple(gaussian_state(of, visited)[0] for visited in found)
    mixture = Mixture(gaussians, np.full(len(found), 1 / len(found)), 5, 1, y.shape[1])

    mean = np.zeros((5, 2))
    second = np.zeros((5, 2))
    for on, of_factors in zip(states, p):
        prior = np.zeros(5)
        for slot in on:
            prior[slot.place] += slot.gamma * dual.scale.gamma
        for f, weight in zip(FACTORS, of_factors):
            if weight < 1e-9:
                continue
            gain = (prior[:, None] * L.T) @ np.linalg.inv(
                0.49 * f * np.eye(len(L)) + (L * prior) @ L.T
            )
            m = gain @ y
            var = prior - np.einsum("km,mk->k", gain, L * prior)
            mean += weight * m
            second += weight * (m**2 + var[:, None])
    exact_inclusion = inclusion_of(states, p, 5)
    assert (exact_inclusion > 0.1).all() and exact_inclusion.max() > 0.2, "a problem worth it"
    assert np.abs(mixture.inclusion - exact_inclusion).max() < 0.03
    scale = np.sqrt(second.max())
    assert np.abs(mixture.mean - mean).max() < 0.04 * scale
    assert np.abs(mixture.var - (second - mean**2)).max() < 0.05 * scale**2
    factor = np.mean([visited.factor for visited in found])
    assert abs(factor - p.sum(0) @ FACTORS) < 0.1 * factor


def test_inclusion_within_its_monte_carlo_error():
    *_, dual, weights, (states, p) = fixed_problem()
    exact = inclusion_of(states, p, 5)
    found = visits(Chain(dual, weights, 2, 1, FEW_OFF), 6000)
    assert np.abs(errors_of_inclusion(found, exact)).max() < 4


# ---- the scan


def competing(n_slots=3):
    "One signal and three places that look alike: each explains away the others"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(12, 1)) + 0.2 * rng.normal(size=(12, 3))
    y = 0.45 * L[:, :1] @ rng.normal(size=(1, 4)) + 0.7 * rng.normal(size=(12, 4))
    dual = Dual(L, 1, y, 4, 0.49)
    gamma = np.array([20.0])
    states, p = exactly(dual, gamma, n_slots, [(None, 0.0)])
    exact = np.bincount([len(on) for on in states], p.sum(1))
    return dual, slot_weights(1, gamma), exact


def errors_of_count(chain, exact, n=3000):
    "Differences of the probabilities of so many slots to be on, in their standard errors"
    counts = np.array([len(visited.places) for visited in visits(chain, n)])
    on = np.array([counts == i for i in range(len(exact))], float)
    ess = np.array([effective_number(row[None]) for row in on])
    return (on.mean(1) - exact) / np.sqrt(exact * (1 - exact) / ess)


class OnFirst(Chain):
    "The trap: a scan that visits first what is on"

    def order(self):
        return sorted(super().order(), key=lambda j: self.slots[j] is None)


@pytest.mark.parametrize("times_the_noise, kept_in", [(1, np.float32), (100, np.float64)])
def test_a_strong_recording_is_not_rounded(times_the_noise, kept_in):
    "Single precision times its power would be as much as the noise"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(6, 5001))
    y = times_the_noise * rng.normal(size=(6, 20))
    assert Dual(L, 1, y, 20, 1.0).L.dtype == kept_in


def test_the_scan_must_not_depend_on_the_state():
    "Right to within three standard errors with an order at random, wrong by seven with the trap"
    dual, weights, exact = competing()
    assert np.abs(errors_of_count(Chain(dual, weights, 3, 1, FEW_OFF), exact)).max() < 4
    assert np.abs(errors_of_count(OnFirst(dual, weights, 3, 1, FEW_OFF), exact)).max() > 6


# ---- two and three components


def on_circle(n):
    angle = np.pi * np.arange(n) / n
    return np.column_stack([np.cos(angle), np.sin(angle)])


def kinds_of(k, orientation, n=16):
    "Kinds of a source with their prior shares: isotropic, and directions close enough for a sum"
    isotropic = [(None, 0.0)]
    if k == 2:
        sphere = on_circle(n)
    else:
        rng = np.random.default_rng(0)
        sphere = np.concatenate([turned(half_sphere(3), rng) for _ in range(n // 8)])
    directions = [(v, -np.log(len(sphere))) for v in sphere]
    if orientation == "isotropic":
        return isotropic
    if orientation == "direction":
        return directions
    return [(v, share - np.log(2)) for v, share in isotropic + directions]


@pytest.mark.parametrize(
    "k, orientation, n_slots",
    routine.some(
        [
            *[(2, "isotropic", 2), (2, "direction", 1), (2, "both", 2)],
            *[(3, "isotropic", 2), (3, "both", 1)],
        ],
        every=2,
    ),
)
def test_every_kind_of_source_is_exact(k, orientation, n_slots):
    L, y = small(k, N=3, seed=2, strength=0.5)
    dual = Dual(L, k, y, y.shape[1], 0.49)
    gamma = variance_grid(dual, orientation != "isotropic")[10::25]
    states, p = exactly(dual, gamma, n_slots, kinds_of(k, orientation))
    exact = inclusion_of(states, p, 3)
    assert exact.max() > 0.1
    chain = Chain(dual, slot_weights(k, gamma, orientation), n_slots, 0, FEW_OFF)
    found = visits(chain, 3000)
    assert np.abs(errors_of_inclusion(found, exact)).max() < 4
    if orientation == "both":  # also which kind
        of_kind = [weight * all(s.direction is None for s in on) for on, weight in zip(states, p)]
        isotropic = sum(np.sum(w) for w, on in zip(of_kind, states) if on)
        counted = [len(v.places) > 0 and all(d is None for d in v.directions) for v in found]
        ess = effective_number(np.array(counted, float)[None])
        assert abs(np.mean(counted) - isotropic) < 4 * np.sqrt(0.25 / ess)


def test_each_slot_has_a_turn_of_its_own(monkeypatch):
    "A grid that another slot has drawn from, or declined, is no random one any more"
    L, y = small(2, N=3, seed=2)
    dual = Dual(L, 2, y, y.shape[1], 0.49)
    chain = Chain(dual, slot_weights(2, variance_grid(dual, True)[::8]), 6, 0, FEW_OFF)
    grids = []
    turn = slots_module._Choice.turn
    monkeypatch.setattr(
        slots_module._Choice, "turn", lambda self, to: grids.append(to.directions) or turn(self, to)
    )
    for _ in range(5):
        chain.sweep()
    assert len({grid.tobytes() for grid in grids}) == len(grids) == 5 * 6


# ---- invariances


def rotated(L, k, seed=0):
    "The same places with other axes"
    rng = np.random.default_rng(seed)
    by_source = L.reshape(len(L), -1, k)
    turns = np.linalg.qr(rng.normal(size=(by_source.shape[1], k, k)))[0]
    return np.einsum("mni,nij->mnj", by_source, turns).reshape(L.shape)


@pytest.mark.parametrize("k", [2, 3])
def test_axes_do_not_matter(k):
    "The bounds are the same to rounding, the chains within their Monte-Carlo error"
    L, y = small(k, N=4)
    duals = [Dual(matrix, k, y, 2, 0.49) for matrix in (L, rotated(L, k))]
    weights = slot_weights(k, variance_grid(duals[0], True)[::8], "both")
    a, b = (
        log_bounds(weights, dual.LL, dual.Z.reshape(2, k, -1), 1.0, 3.0)  # no slot is on yet
        for dual in duals
    )
    assert np.allclose(a, b, rtol=1e-9)
    n = number(routine=400, everything=2500)
    found = [on_at(visits(Chain(dual, weights, 3, 0, FEW_OFF), n), 4) for dual in duals]
    ess = [np.array([effective_number(row[None]) for row in one]) for one in found]
    P = [one.mean(1) for one in found]
    spread = np.sqrt(0.25 / ess[0] + 0.25 / ess[1])
    assert (np.abs(P[0] - P[1]) < 4 * spread).all()


def in_model(dual, slots):
    "D and z, built at once"
    model = SlotModel(dual, [make_slot(dual, *one) for one in slots])
    model.refresh(1.3)
    return model


@pytest.mark.parametrize("k", [1, 2, 3])
def test_slots_that_come_and_go_leave_no_trace(k):
    L, y = small(k, M=12, N=9)
    dual = Dual(L, k, y, 2, 0.49)
    rng = np.random.default_rng(k)
    model = SlotModel(dual)
    model.refresh(1.3)
    for _ in range(40):
        direction = None if rng.random() < 0.5 else turned(half_sphere(k), rng)[0]
        model.put(make_slot(dual, int(rng.integers(9)), float(rng.random()) + 0.1, direction))
        if rng.random() < 0.7:
            model.take(model.owners[rng.integers(len(model.owners))])
    fresh = SlotModel(dual, [*{id(slot): slot for slot in model.owners}.values()])
    fresh.refresh(1.3)
    assert np.abs(model.D - fresh.D).max() < 1e-9 * np.abs(dual.LL).max()
    assert np.abs(model.z - fresh.z).max() < 1e-9 * np.abs(dual.Z).max()


def test_inner_products_are_kept_while_they_are_used(monkeypatch):
    "Three places at a time: the one asked for last stays, and none keeps others in memory"
    L, y = small(2, M=12, N=9)
    dual = Dual(L, 2, y, 2, 0.49)
    expected = dual.L.T @ dual.L
    monkeypatch.setattr(slot_model_module, "_CACHE", 3 * 2 * 18 * 8)
    dual.learn([4, 1, 7])
    dual.gram(4)
    dual.learn([2])
    assert [n for n in range(9) if dual.knows(n)] == [2, 4, 7]
    assert all(rows.base is None for rows in dual._gram.values())
    dual.learn(range(9))  # more than there is room for
    for place in (8, 3, 3, 0):
        assert np.allclose(dual.gram(place), expected[[place, place + 9]], atol=1e-12)
    assert len(dual._gram) == 3


@pytest.mark.parametrize("k, n_chains", [(1, 2), (2, 3), (3, 4)])
def test_chains_side_by_side_are_what_each_is_alone(k, n_chains):
    L, y = small(k, M=12, N=9)
    plan = Plan(n_slots=4, n_burn=5, n_chains=n_chains, n_kept=10, seed=3)
    together = run_chains(plan, Dual(L, k, y, 2, 0.49))
    dual = Dual(L, k, y, 2, 0.49)
    weights = slot_weights(k, variance_grid(dual, True))
    for seed, course in zip(np.random.default_rng(3).integers(2**63, size=n_chains), together):
        chain = Chain(dual, weights, 4, int(seed))
        assert len(course) == 15
        for sweep, visited in enumerate(course):
            chain.sweep(plan.power(sweep))
            alone = chain.visited
            assert np.array_equal(visited.places, alone.places)
            assert np.array_equal(visited.gamma, alone.gamma)
            assert visited.factor == alone.factor
        assert any(len(visited.places) for visited in course)


def problem(seed=0, k=1, M=20, N=50, T=80, noise=1.0):
    "Two sources among fifty, in noise"
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(M, N * k))
    x = np.zeros((N * k, T))
    wave = np.sin(np.arange(T) / np.linspace(3, 9, 2 * k)[:, None])
    rows = np.r_[7 * k : 8 * k, 31 * k : 32 * k]
    x[rows] = 2 * wave
    return L, L @ x + np.sqrt(noise) * rng.normal(size=(M, T)), x


def test_units_do_not_matter():
    "Powers of two change no digit"
    L, y, _ = problem()
    a = spike_slab(L, y, 1.0)
    b = spike_slab(2.0**7 * L, 2.0**-10 * y, 2.0**-20)
    assert np.array_equal(a["inclusion"], b["inclusion"])
    assert np.allclose(b.mean, 2.0**-17 * a.mean, rtol=1e-9)
    assert np.allclose(b.std, 2.0**-17 * a.std, rtol=1e-9)
    assert np.isclose(b.log_evidence, a.log_evidence + y.size * 10 * np.log(2), rtol=1e-9)


def test_single_precision_is_enough():
    "5,001 columns and more are kept in single precision"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(30, 5100))
    y = rng.normal(size=(30, 3)) + 3 * L[:, [70, 4000]] @ rng.normal(size=(2, 3))
    dual = Dual(L, 1, y, 3, 1.0)
    assert dual.L.dtype == np.float32
    slots = [(70, 9.0), (4000, 5.0), (12, 0.1)]
    model = in_model(dual, slots)
    dual.L = dual.L.astype(float)
    dual._gram.clear()
    exact = in_model(dual, slots)
    assert np.abs(model.D - exact.D).max() < 1e-5 * exact.D.max()
    assert np.abs(model.z - exact.z).max() < 1e-4 * np.abs(exact.z).max()


# ---- simulation-based calibration


@pytest.mark.parametrize("name", sbc.KINDS)
def test_simulation_based_calibration(name):
    "A short one of benchmarks/sbc.py: ranks are uniform, of the number and of amplitudes"
    k, orientation, _ = sbc.KINDS[name]
    n = number(routine={1: 20, 2: 8, 3: 5}[k], everything=100)
    runs = [sbc.one_run(seed + 1000, k, orientation, n_draws=30) for seed in range(n)]
    for stratum, verdict in sbc.joined(runs).verdict(1e-3).items():
        assert verdict.passes, stratum
    for what in ("count", "factor"):
        z = np.array([run["apart"][what] for run in runs if run["apart"][what] is not None])
        assert np.sqrt(np.mean(z**2)) < 2, what


def test_the_page_of_calibration_is_made_from_its_figures():
    folder = Path(sbc.__file__).parent
    results = json.loads((folder / "sbc.json").read_text(encoding="utf-8"))
    assert (folder / "sbc.md").read_text(encoding="utf-8") == sbc.document(results)
    for name, runs in results["sampler"].items():
        for stratum, verdict in sbc.joined(runs).verdict(1e-3).items():
            assert verdict.passes, (name, stratum)


# ---- the solver, and the other traps


def test_it_finds_what_is_there_and_says_how_sure_it_is():
    L, y, x = problem()
    r = spike_slab(L, y, 1.0)
    assert set(np.argsort(-r["inclusion"])[:2]) == {7, 31} and r["inclusion"][[7, 31]].min() > 0.9
    inside = np.abs(r.mean - x) <= 1.645 * r.std
    assert inside[[7, 31]].mean() > 0.8
    assert r.std.shape == (50, 80), "the variance changes with time"
    assert r.converged and np.argmax(r["count_probability"]) == 2
    assert np.isclose(r["count_probability"].sum(), 1)


def test_amplitudes_are_not_in_the_span_of_the_components():
    "The trap: zero for certain in all other dimensions of time"
    L, y, x = problem()
    r = spike_slab(L, y, 1.0)
    Phi = np.linalg.svd(y)[2][: r["n_components"]]
    outside = r.mean[7] - r.mean[7] @ Phi.T @ Phi
    error_outside = (x[7] - x[7] @ Phi.T @ Phi) - outside
    assert np.abs(outside).max() > 0.2 * r.std[7].mean()
    assert np.sqrt((error_outside**2).mean()) < 2 * r.std[7].mean()


def test_half_the_noise_is_repaired():
    "The trap: a noise variance given too small invents sources"
    L, y, _ = problem()
    right, half = spike_slab(L, y, 1.0), spike_slab(L, y, 0.5)
    assert half.noise_var == half["noise_var_learned"] > 0.85
    assert half["n_components"] == right["n_components"]


def test_as_many_components_as_there_are_waveforms():
    "The trap: two components too many"
    for seed in range(6):
        _, y, _ = problem(seed)
        assert compress(y, 1.0).n_components == 2


def test_one_chain_is_never_enough():
    "The trap: a single chain looks converged"
    L, y, _ = problem()
    with pytest.warns(ConvergenceWarning, match="one chain has nothing"):
        assert not spike_slab(L, y, 1.0, n_chains=1).converged
    assert CHAINS[1] >= 2 and CHAINS[2] >= 2 and CHAINS[3] >= 4


def test_chains_that_disagree_say_how_far():
    "Neighbours that look alike, and chains too short to tell"
    rng = np.random.default_rng(1)
    places = np.linspace(0, 1, 200)
    L = np.exp(-((np.linspace(0, 1, 20)[:, None] - places) ** 2) / 0.1)
    x = np.zeros((200, 60))
    x[[40, 90, 150]] = np.sin(np.arange(60) / np.array([[3.0], [5], [8]]))
    y = L @ x + 0.3 * rng.normal(size=(20, 60))
    with pytest.warns(ConvergenceWarning, match=r"ΔP\| between chains 0\.\d\d, above 0.3") as heard:
        r = spike_slab(L, y, 0.09, n_sweeps=16, n_burn=0)
    said = str(heard[0].message)
    assert "longer chains may move the answer, even the strongest source: sample longer" in said
    assert "n_sweeps=80, n_burn=0 (of a recording in solver_params)" in said
    assert not r.converged and r["delta_inclusion"] > 0.3


def test_noise_alone_is_an_answer_with_a_warning():
    rng = np.random.default_rng(0)
    L, y = rng.normal(size=(16, 40)), rng.normal(size=(16, 60))
    with pytest.warns(UserWarning, match="no time component stands above the noise variance"):
        r = spike_slab(L, y, 1.0)
    low, high = r.posterior.interval(0.9)
    assert r["n_components"] == 0 and (low <= 0).all() and (high >= 0).all()
    assert r["inclusion"].max() < 0.5
    with pytest.warns(UserWarning, match="no time component"):
        assert spike_slab(*problem()[:2], noise_var=1e6)["n_components"] == 0


def test_a_wrong_model_raises_the_noise_factor():
    "Noise that is correlated between sensors: the alarm"
    L, y, _ = problem(noise=0.0)
    rng = np.random.default_rng(0)
    white = rng.normal(size=y.shape)
    common = 3 * rng.normal(size=(20, 6)) @ rng.normal(size=(6, 80))
    right = spike_slab(L, y + white, 1.0, seed=1)
    wrong = spike_slab(L, y + white + common, 1.0, seed=1)
    assert np.median(right["noise_factor"]) < 2
    assert np.median(wrong["noise_factor"]) > 3


@pytest.mark.parametrize("k", [2, 3])
def test_one_direction_is_found(k):
    "Where the truth has one, a model that may have one is sharper than one that may not"
    rng = np.random.default_rng(0)
    L = rng.normal(size=(24, 30 * k))
    v = np.eye(k)[0] * 0.6 + np.eye(k)[1] * 0.8
    x = np.zeros((30, k, 80))
    x[11] = 2 * v[:, None] * np.sin(np.arange(80) / 5)
    y = L @ x.reshape(30 * k, 80) + rng.normal(size=(24, 80))
    width = {}
    for orientation in ("isotropic", "direction", "both"):
        r = spike_slab(L, y, 1.0, k, orientation=orientation)
        assert np.argmax(r["inclusion"]) == 11 and r["inclusion"][11] > 0.9
        error = r["posterior_mean_reshaped"][11] - x[11]
        width[orientation] = r.std.reshape(30, k, 80)[11].mean()
        assert np.sqrt((error**2).mean()) < 2 * width[orientation]
    assert width["direction"] < 0.9 * width["isotropic"]
    assert width["direction"] * 0.95 < width["both"] < width["isotropic"] * 1.02


def test_patches():
    "A patch of a shape that is in the dictionary"
    rng = np.random.default_rng(0)
    coords = rng.normal(scale=0.03, size=(80, 3))
    L = rng.normal(size=(24, 80))
    near = np.linalg.norm(coords - coords[5], axis=1)
    bump = np.exp(-(near**2) / 2 / 0.02**2) * (near <= 0.06)
    x = 6 * np.outer(bump / bump.sum(), np.sin(np.arange(60) / 5))
    y = L @ x + 0.3 * rng.normal(size=(24, 60))
    r = spike_slab(L, y, 0.09, patches=[0, 0.02, ("disc", 0.03)], src_coords=coords)
    assert r.mean.shape == (80, 60)
    assert np.corrcoef(r.mean[:, 8], x[:, 8])[0, 1] > 0.9
    total = r.posterior.read_out(np.ones((1, 80)))
    z = (total.mean[0] - x.sum(0)) / np.sqrt(total.cov[:, 0, 0])
    assert np.abs(z).mean() < 2
    assert localise(r)[0].radius < 40


def test_noise_that_is_correlated_in_time():
    "Whitened first: nothing is found where nothing is, and means come back in their own time"
    lag = np.abs(np.subtract.outer(np.arange(80), np.arange(80)))
    R = 0.9**lag
    w, U = np.linalg.eigh(R)
    L, y, x = problem(noise=0.0)
    coloured = np.random.default_rng(0).normal(size=y.shape) @ (U * np.sqrt(w)) @ U.T
    assert spike_slab(L, coloured, 1.0, time_cov=R)["n_components"] == 0
    assert spike_slab(L, coloured, 1.0)["n_components"] > 0
    r = spike_slab(L, y + coloured, 1.0, time_cov=R)
    assert set(np.argsort(-r["inclusion"])[:2]) == {7, 31}
    assert (np.abs(r.mean - x) <= 1.645 * r.std)[[7, 31]].mean() > 0.75
    Sigma_time = np.linalg.slogdet(R)[1]
    white = spike_slab(L, (y + coloured) @ (U / np.sqrt(w)) @ U.T, 1.0)
    assert np.isclose(r.log_evidence, white.log_evidence - len(L) / 2 * Sigma_time, rtol=1e-6)


def test_sets_of_places():
    L, y, _ = problem()
    coords = np.random.default_rng(0).normal(scale=0.04, size=(50, 3))
    sets = localise(spike_slab(L, y, 1.0, src_coords=coords))
    assert {7, 31} <= {n for one in sets for n in one.places}
    assert all(one.mass >= 0.9 and one.radius <= 60 for one in sets)
    with pytest.raises(ValueError, match="pass src_coords"):
        localise(spike_slab(L, y, 1.0))


# ---- on the road, and what is refused


def test_the_estimator_takes_it():
    "Oracle or baseline, learned, and whitened; a Leadfield brings its positions"
    lf = Leadfield.random(24, 40, seed=0)
    rng = np.random.default_rng(0)
    x = np.zeros((40, 60))
    x[9] = 9 * np.sin(np.arange(60) / 5)
    y = lf.matrix() @ x + 0.5 * rng.normal(size=(24, 60))
    for said in (dict(noise_var=0.25), dict(), dict(noise_cov=0.25 * np.eye(24))):
        r = SourceEstimator(spike_slab, dict(n_sweeps=32), **said).fit(lf, y).predict()
        assert np.argmax(r["inclusion"]) == 9 and r.solver == "spike_slab"
        assert np.array_equal(r.coords, lf.coords)
    few = SourceEstimator(spike_slab, dict(n_sweeps=32), noise_cov=0.25 * np.eye(24)).fit(
        lf, y[:, :5]
    )
    assert few.predict().noise_var == 1.0  # whitening says it, where five samples could not
    prepared = prepare(lf)
    assert np.array_equal(spike_slab(prepared, y, 0.25).mean, spike_slab(lf, y, 0.25).mean)


def test_small_problems_and_whole_numbers():
    rng = np.random.default_rng(0)
    for M, T in ((1, 1), (1, 30), (6, 1), (30, 5)):
        L, y = rng.normal(size=(M, 8)), rng.normal(size=(M, T))
        r = spike_slab(L, y[:, 0] if T == 1 else y, 0.1)
        assert r.mean.shape == (8, T) and np.isfinite(r.mean).all() and np.isfinite(r.std).all()
        assert np.isfinite(r.cost)
    L = rng.integers(-100, 100, size=(9, 12)).astype(np.int8)
    y = rng.integers(-100, 100, size=(9, 20)).astype(np.int8)
    whole = spike_slab(L, y, 400)
    assert np.array_equal(whole.mean, spike_slab(L.astype(float), y.astype(float), 400.0).mean)
    silent = rng.normal(size=(12, 8))
    silent[:, 3] = 0  # a place that is not seen
    assert np.isfinite(spike_slab(silent, rng.normal(size=(12, 30)), 0.5).std).all()
    assert np.isfinite(
        spike_slab(np.c_[silent, silent], rng.normal(size=(12, 9)), 0.5, 2).std
    ).all()


def test_nothing_is_changed_or_shared():
    L, y, _ = problem()
    before = L.copy(), y.copy()
    state = np.random.get_state()[1].copy()
    a, b = spike_slab(L, y, 1.0), spike_slab(L, y, 1.0)
    assert np.array_equal(L, before[0]) and np.array_equal(y, before[1])
    assert np.array_equal(state, np.random.get_state()[1])
    assert np.array_equal(a.mean, b.mean) and not np.array_equal(
        a.mean, spike_slab(L, y, 1.0, seed=1).mean
    )


L0, Y0, _ = problem()
COORDS = np.random.default_rng(0).normal(scale=0.04, size=(50, 3))


@pytest.mark.parametrize(
    "said, words",
    [
        (dict(n_components=0), "n_components must be finite and >= 1"),
        (dict(n_components=21), "a recording of this size has 20"),
        (dict(n_slots=0), "n_slots must be"),
        (dict(n_sweeps=0), "n_sweeps must be"),
        (dict(n_sweeps=15), "n_sweeps must be >= 16, got 15: 8 states of each of 2 chains"),
        (dict(n_sweeps=31, n_chains=4), "n_sweeps must be >= 32"),
        (dict(n_burn=-1), "n_burn must be"),
        (dict(n_chains=0), "n_chains must be"),
        (dict(n_chains="some"), "n_chains must be one of 'auto'"),
        (dict(orientation="loose"), "orientation must be one of"),
        (dict(patches=[0.01]), "src_coords must be an array"),
        (dict(patches=0.01, src_coords=COORDS), "patches must be a list"),
        (dict(patches=[-1], src_coords=COORDS), "the width of a patch must be"),
        (dict(patches=[10.0], src_coords=COORDS), "the width of a patch must be"),
        (dict(src_coords=COORDS[:9]), "src_coords must be of shape"),
        (dict(src_coords=1e3 * COORDS, patches=[0.01]), "src_coords must be in m"),
        (dict(seed=np.nan), "seed must be a whole number"),
        (dict(seed=-1), "seed must be"),
        (dict(noise_var=0), "noise_var must be finite and > 0"),
        (dict(noise_var=np.nan), "noise_var must be finite"),
        (dict(time_cov=np.eye(3)), "time_cov must be of shape"),
        (dict(y=np.zeros((20, 80))), "y must be different from zero somewhere"),
        (dict(y=Y0[:5]), "y must be of shape"),
        (dict(y=Y0[:, :3], noise_var=None), "noise_var must be given"),
        (dict(n_orient=3), "L must be of n_sources"),
        (dict(logger="me"), "logger must be"),
    ],
)
def test_named_error_before_any_work(said, words, monkeypatch):
    def work(*_):
        raise AssertionError("work was done before the argument was checked")

    monkeypatch.setattr(Chain, "sweep", work)
    with pytest.raises((ValueError, TypeError), match=words):
        spike_slab(**dict(L=L0, y=Y0, noise_var=1.0) | said)


def test_an_interrupted_run_leaves_nothing(monkeypatch):
    steps = Chain.steps
    begun = []

    def interrupted(self, power):
        if len(begun) == 30:
            raise KeyboardInterrupt
        begun.append(power)
        return steps(self, power)

    monkeypatch.setattr(Chain, "steps", interrupted)
    e = SourceEstimator(spike_slab, noise_var=1.0)
    with pytest.raises(KeyboardInterrupt):
        e.fit(L0, Y0)
    assert not hasattr(e, "result_")


def test_a_quiet_run_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spike_slab(L0, Y0, 1.0, n_sweeps=240)


# ---- as the other solvers


def test_it_is_found_by_its_name():
    import calibrain
    from calibrain.solvers.registry import SAMPLERS, SOLVERS, describe, solver_table

    assert calibrain.spike_slab is spike_slab and "spike_slab" in SAMPLERS
    assert describe("spike_slab") is describe(spike_slab) is SAMPLERS["spike_slab"]
    assert "spike_slab" not in SOLVERS and "| `spike_slab` |" in solver_table()
    lf = Leadfield.random(20, 30, seed=0)
    y = lf.matrix()[:, :1] @ np.ones((1, 20)) + 0.1 * np.random.default_rng(0).normal(size=(20, 20))
    by_name = SourceEstimator("spike_slab", dict(n_sweeps=16, n_burn=5), 0.01).fit(lf, y)
    direct = spike_slab(lf, y, 0.01, n_sweeps=16, n_burn=5)
    assert np.array_equal(by_name.predict().mean, direct.mean)


@pytest.mark.parametrize("patches", [None, [0, 0.02]])
def test_a_result_is_stored_and_sent(patches, tmp_path):
    import pickle

    from calibrain.posterior.result import result_from_arrays, result_to_arrays

    coords = np.random.default_rng(0).normal(scale=0.04, size=(50, 3))
    lag = np.abs(np.subtract.outer(np.arange(80), np.arange(80)))
    r = spike_slab(L0, Y0, 1.0, patches=patches, src_coords=coords, time_cov=0.3**lag, n_sweeps=16)
    np.savez(tmp_path / "x.npz", **result_to_arrays(r))
    with np.load(tmp_path / "x.npz", allow_pickle=False) as stored:
        again = result_from_arrays(dict(stored))
    for other in (again, pickle.loads(pickle.dumps(r))):
        assert repr(other) == repr(r) and set(other) == set(r)
        assert other._repr_html_() == r._repr_html_()
        assert np.array_equal(other.std, r.std)
        assert np.array_equal(other.posterior.sample(2, 0), r.posterior.sample(2, 0))
        for key in r:
            assert np.array_equal(other[key], r[key]), key
    assert "on" in r._repr_html_() and "KKT" not in r._repr_html_()
