"""Conditions with one support: against one recording, dense twins, and estimates made apart."""

from dataclasses import replace

import mne
import numpy as np
import pytest
from scipy import stats
from test_nave import QUICK, forward, info

from calibrain import EvokedPosterior, contrast, estimate_evoked
from calibrain.head.leadfield import Leadfield
from calibrain.head.prepared import prepare
from calibrain.recording.epochs import EpochPosteriors
from calibrain.recording.together import join_conditions
from calibrain.solvers.bind import bind
from calibrain.solvers.solve import MatchedRecording, solve_recording

NAVES = (12, 40)
SIZES = (50.0, 30.0)  # nAm
WINDOW = dict(tmin=0.0, tmax=0.29, progress=False)
TIGHT = dict(rtol=1e-9, atol=1e-12)


def response(size, nave, name, seed, more=1.0):
    "A response of one source, and noise"
    rng = np.random.default_rng(seed)
    L = Leadfield.from_forward(forward(), "fixed").data[:, :, 0] * 1e-6
    wave = np.where(np.arange(60) < 30, 0, size * np.sin(np.arange(60) / 5))
    data = more * (L[:, [7]] * wave + 5e-6 / np.sqrt(nave) * rng.normal(size=(32, 60)))
    e = mne.EvokedArray(data, info(), tmin=-0.3, nave=nave, comment=name, verbose="ERROR")
    return e.set_eeg_reference(projection=True, verbose="ERROR")


def responses():
    return [response(s, n, name, n) for s, n, name in zip(SIZES, NAVES, ("tone", "click"))]


def cov():
    return mne.make_ad_hoc_cov(info(), dict(eeg=5e-6), verbose="ERROR")


def estimates(solver, of=None, **other):
    if solver == "spike_slab":
        other = dict(solver_params=QUICK) | other
    said = WINDOW | dict(shared=True) | other
    return estimate_evoked(of or responses(), forward(), cov(), solver, **said)


# ---- one recording


def sources(n_times, seed, size):
    "Two of thirty are on"
    x = np.zeros((30, n_times))
    x[[3, 17]] = size * np.random.default_rng([seed, 1]).normal(size=(2, n_times))
    return x


def problem(naves, n_times=(9, 9), seed=0, size=6.0):
    "Whitened conditions of different length and noise, with one leadfield"
    rng = np.random.default_rng(seed)
    L = prepare(rng.normal(size=(12, 30)))
    x = sources(max(n_times), seed, size)
    made = []
    for nave, n in zip(naves, n_times):
        y = L.L @ x[:, :n] + rng.normal(size=(12, n)) / np.sqrt(nave)
        made.append(MatchedRecording(L, y, noise_var=1 / nave, times=np.arange(n) / 100))
    return made


def solved(name, recording, **params):
    bound = bind(name, params).told()
    if recording.noise_var is not None:
        bound = bound.with_noise(recording.noise_var)
    return solve_recording(bound, recording)


def test_with_as_many_epochs_it_is_the_conditions_one_after_the_other():
    parts = problem((7, 7))
    together = join_conditions(parts, (7, 7))
    np.testing.assert_array_equal(together.recording.data, np.hstack([p.data for p in parts]))
    assert together.recording.noise_var == pytest.approx(1 / 7, rel=1e-15)
    whole = solved("gamma_map", together.recording, update_mode="fast")
    for found, window in zip(together.split(whole), (slice(0, 9), slice(9, 18))):
        np.testing.assert_array_equal(found.mean, whole.mean[:, window])
        np.testing.assert_allclose(found.std, whole.std, rtol=1e-15)
        assert found.log_evidence == pytest.approx(whole.log_evidence, rel=1e-14)


@pytest.mark.parametrize("name", ["gamma_map", "BMN"])
@pytest.mark.parametrize("n_times", [(9, 9), (5, 14)])
def test_a_gaussian_is_the_model_solved_densely(name, n_times):
    "Prior γ λ_c / λ̄ and noise λ_c of each condition; evidence as the density of all data"
    naves = (3, 30)
    parts = problem(naves, n_times)
    together = join_conditions(parts, naves)
    params = dict(update_mode="fast") if name == "gamma_map" else {}
    found = together.split(solved(name, together.recording, **params))
    mean_noise = 1 / np.mean(naves)
    log_density = 0.0
    for nave, part, e in zip(naves, parts, found):
        noise = 1 / nave
        G = part.leadfield.L
        prior = np.zeros(30)
        prior[e.active] = e.posterior.gamma
        C = G * prior @ G.T + noise * np.eye(12)
        gain = prior[:, None] * G.T @ np.linalg.inv(C)
        np.testing.assert_allclose(e.mean, gain @ part.data, **TIGHT)
        covariance = np.diag(prior) - gain @ G * prior
        np.testing.assert_allclose(e.posterior.dense(), covariance, rtol=1e-9, atol=1e-9)
        log_density += stats.multivariate_normal(np.zeros(12), C).logpdf(part.data.T).sum()
        assert e.noise_var == pytest.approx(noise, rel=1e-12)
        np.testing.assert_array_equal(e.times, part.times)
    first, second = found
    np.testing.assert_allclose(
        first.posterior.gamma * naves[0], second.posterior.gamma * naves[1], rtol=1e-12
    )
    assert first.noise_var == pytest.approx(mean_noise * together.scales[0] ** 2)
    for e in found:
        assert e.log_evidence == pytest.approx(log_density, rel=1e-10)
        n_samples = sum(n_times)
        constant = 12 * np.log(2 * np.pi)
        assert e.cost == pytest.approx(-2 * log_density / n_samples - constant, rel=1e-9)


def test_learned_noise_keeps_its_ratio():
    naves = (4, 16)
    parts = [replace(p, noise_var=None) for p in problem(naves, (60, 60))]
    together = join_conditions(parts, naves)
    assert together.recording.noise_var is None
    a, b = together.split(solved("gamma_lambda_map", together.recording, update_mode="fast"))
    assert a.noise_var == pytest.approx(4 * b.noise_var, rel=1e-12)
    np.testing.assert_allclose(a["lambdas"], 4 * b["lambdas"], rtol=1e-12)
    assert 0.5 < naves[0] * a.noise_var < 1.5


def test_noise_in_time_stays_within_a_condition():
    lags = np.arange(9)
    R = 0.6 ** abs(lags[:, None] - lags)
    parts = [replace(p, time_cov=R) for p in problem((5, 20))]
    together = join_conditions(parts, (5, 20))
    whole = together.recording.time_cov
    np.testing.assert_array_equal(whole[:9, :9], R)
    np.testing.assert_array_equal(whole[9:, 9:], R)
    assert not whole[:9, 9:].any()
    bound = bind("spike_slab", QUICK).told().with_noise(together.recording.noise_var)
    for e in together.split(solve_recording(bound.with_time_cov(whole), together.recording)):
        root = e.posterior.time_root
        np.testing.assert_allclose(root @ root, R, atol=1e-12)


def test_a_rare_condition_gains_from_a_frequent_one():
    "Of few epochs: the places come from the other condition"
    naves = (1, 8)
    error = dict(apart=0.0, together=0.0)
    for seed in range(20):
        parts = problem(naves, seed=seed, size=1.2)
        truth = sources(9, seed, 1.2)
        together = join_conditions(parts, naves)
        fast = dict(update_mode="fast")
        found = dict(
            apart=solved("gamma_map", parts[0], **fast),
            together=together.split(solved("gamma_map", together.recording, **fast))[0],
        )
        for how, e in found.items():
            error[how] += np.abs(e.mean - truth).sum()
    assert error["together"] < 0.95 * error["apart"]


# ---- recordings


@pytest.mark.parametrize(
    "solver, other",
    [
        ("gamma_map", dict(orientation="fixed")),
        ("gamma_map", dict(orientation="free", depth=0.8)),
        ("gamma_map_sflex", dict(orientation="free")),
        ("BMN", dict(orientation="free", depth=0.8)),
        ("gamma_lambda_map", dict(orientation="fixed", noise="learn")),
        ("spike_slab", dict(orientation="fixed")),
        ("spike_slab", dict(orientation="free")),
        ("gamma_map", dict(orientation="fixed", noise="baseline")),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_conditions_keep_their_place_and_units(solver, other, tmp_path):
    "One support; names, epochs and what is left of the data are each condition's own"
    found = estimates(solver, **other)
    assert [(e.comment, e.nave) for e in found] == [("tone", 12), ("click", 40)]
    assert len({e.together for e in found}) == 1 and found[0].together
    a, b = found
    np.testing.assert_array_equal(a.result.active, b.result.active)
    assert "one for tone and click" in a._repr_html_()
    for e in found:
        assert 0.3 < e.power["residual"] < 3
        again = EvokedPosterior.load(e.save(tmp_path / f"{e.comment}.npz"))
        assert again.together == e.together and again.settings == e.settings
        np.testing.assert_array_equal(again.posterior.mean, e.posterior.mean)


@pytest.mark.filterwarnings("ignore")
def test_a_contrast_has_the_gain_that_both_have():
    "μ_A − μ_B = K(Y_A − Y_B)"
    a, b = estimates("gamma_map", orientation="fixed")
    found = a - b
    assert "estimated together, with one support" in found._repr_html_()
    p = a.posterior
    G = a.fit.W @ Leadfield.from_forward(forward(), "fixed").matrix() @ p.S.toarray()
    C = G * p.gamma @ G.T + np.eye(len(G)) / a.nave
    K = p.S.toarray() @ (p.gamma[:, None] * G.T) @ np.linalg.inv(C)
    expected = K @ (a.fit.data - b.fit.data)
    np.testing.assert_allclose(found.posterior.mean, expected, rtol=1e-7, atol=1e-9)
    assert found.result.log_evidence == a.result.log_evidence


def by_states(estimates_, weights):
    "Mean and covariances of a weighted sum, state by state and dense"
    posteriors = [e.posterior for e in estimates_]
    first = posteriors[0]
    n, n_times = first.n_coeff, first.n_times
    k = first.n_orient
    S = np.eye(n) if first.S is None else first.S.toarray()
    mean = np.zeros((n, n_times))
    second = np.zeros((n_times, n, n))
    for number, probability in enumerate(first.weights):
        m = np.zeros((n, n_times))
        within = np.zeros((n, n))
        for w, p in zip(weights, posteriors):
            state = p.states[number]
            columns = (state.atoms[:, None] * k + np.arange(k)).ravel()
            m += w * S[:, columns] @ state.mean
            within += w**2 * S[:, columns] @ state.cov @ S[:, columns].T
        mean += probability * m
        second += probability * (within + np.einsum("it,jt->tij", m, m))
    return mean, second - np.einsum("it,jt->tij", mean, mean)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("orientation", ["fixed", "free"])
def test_a_contrast_of_mixtures_goes_state_by_state(orientation, tmp_path):
    found = estimates("spike_slab", orientation=orientation)
    mean, cov_ = by_states(found, (1, -1))
    difference = found[0] - found[1]
    assert len(difference.posterior.states) == len(found[0].posterior.states)
    size = np.abs(mean).max()
    np.testing.assert_allclose(difference.posterior.mean, mean, atol=1e-10 * size)
    A = np.random.default_rng(0).normal(size=(4, len(mean)))
    expected = A @ cov_ @ A.T
    mine = difference.posterior.read_out(A).cov
    np.testing.assert_allclose(mine, expected, atol=1e-10 * np.abs(expected).max())
    loaded = [EvokedPosterior.load(e.save(tmp_path / f"{e.comment}.npz")) for e in found]
    again = loaded[0] - loaded[1]
    np.testing.assert_array_equal(again.posterior.var, difference.posterior.var)
    greater = difference.greater().data if orientation == "fixed" else None
    if greater is not None:
        assert greater.min() >= 0 and greater.max() <= 1


@pytest.mark.filterwarnings("ignore")
def test_some_together_and_one_apart():
    "States of the two go together; every one of them with every state of the third"
    white = dict(orientation="fixed", solver_params=QUICK | dict(time_cov=None))
    a, b = estimates("spike_slab", **white)
    alone = white | dict(shared=False)
    c = estimates("spike_slab", [response(20.0, 20, "light", 3)], **alone)[0]
    weights = {"tone": 1.0, "click": 0.5, "light": -1.0}
    found = contrast(weights, [a, b, c])
    mean, covs = by_states([a, b], (1, 0.5))
    of_c = by_states([c], (-1,))
    size = np.abs(mean).max()
    np.testing.assert_allclose(found.posterior.mean, mean + of_c[0], atol=1e-10 * size)
    A = np.random.default_rng(1).normal(size=(3, len(mean)))
    expected = A @ (covs + of_c[1]) @ A.T
    np.testing.assert_allclose(
        found.posterior.read_out(A).cov, expected, atol=1e-10 * np.abs(expected).max()
    )
    assert "tone and click estimated together, the others apart" in found._repr_html_()


# ---- what cannot be


def test_what_cannot_have_one_support():
    one = responses()[0]
    for evoked in (one, [one]):
        with pytest.raises(ValueError, match="shared must be False for a single condition"):
            estimates("gamma_map", evoked)
    epochs = mne.EpochsArray(np.stack([one.data] * 2), one.info, tmin=-0.3, verbose="ERROR")
    with pytest.raises(ValueError, match="single condition or for single epochs, got True"):
        estimates("gamma_map", epochs, average=False)
    with pytest.raises(ValueError, match="band must be left out with shared=True"):
        estimates("spike_slab", solver_params=QUICK | dict(band=0.1))
    with pytest.raises(ValueError, match="time_cov must be left out with shared=True"):
        estimates("spike_slab", solver_params=QUICK | dict(time_cov=np.eye(30)))
    with pytest.raises(ValueError, match="calibration must be None with shared=True"):
        estimates("gamma_map", calibration="a passport")
    with pytest.raises(ValueError, match=r"shared must be .*got 'yes'"):
        estimates("gamma_map", shared="yes")
    turning = one.copy()
    turning.data = turning.data.astype(complex)
    with pytest.raises(ValueError, match="all real or all complex"):
        estimates("gamma_map", [one, turning])
    assert EpochPosteriors.__module__ == "calibrain.recording.epochs"


def test_a_learned_noise_covariance_is_in_the_units_of_each_condition():
    tone, click = estimates(
        "champagne", noise="learn", solver_params=dict(learn_noise="full", max_iter=20)
    )
    for one in (tone, click):
        np.testing.assert_allclose(
            one.result["noise_cov"].trace() / len(one.result["noise_cov"]), one.result.noise_var
        )
