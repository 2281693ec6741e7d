"""Error bars that are expected of more epochs: against dense twins, another road, and both limits."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import mne
import numpy as np
import pytest
from scipy import linalg, sparse

from calibrain import EvokedPosterior, contrast, estimate_evoked
from calibrain.core.warnings import NothingFoundWarning
from calibrain.head.leadfield import Leadfield
from calibrain.head.prepared import prepare
from calibrain.posterior.gaussian import Posterior
from calibrain.recording.fit import fit_of
from calibrain.recording.nave import quieter_state
from calibrain.solvers.compressed import Compressed
from calibrain.solvers.given_support import Amplitudes, gaussian_state
from calibrain.solvers.slots import Visited
from calibrain.solvers.solve import MatchedRecording
from calibrain.solvers.spike_slab import spike_slab

NAVE = 20


@cache
def info():
    montage = mne.channels.make_standard_montage("biosemi32")
    return mne.create_info(montage.ch_names, 100.0, "eeg").set_montage(montage)


@cache
def forward():
    n = np.random.default_rng(3).normal(size=(80, 3))
    n[:, 2] = abs(n[:, 2])
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    src = mne.setup_volume_source_space(pos=dict(rr=0.07 * n, nn=n), verbose="ERROR")
    sphere = mne.make_sphere_model((0, 0, 0), 0.095, verbose="ERROR")
    return mne.make_forward_solution(info(), None, src, sphere, verbose="ERROR")


@cache
def recording(size=50.0):
    rng = np.random.default_rng(0)
    L = Leadfield.from_forward(forward(), "fixed").data[:, :, 0] * 1e-6
    wave = np.where(np.arange(60) < 30, 0, size * np.sin(np.arange(60) / 5))
    data = L[:, [7]] * wave + 5e-6 / np.sqrt(NAVE) * rng.normal(size=(32, 60))
    e = mne.EvokedArray(data, info(), tmin=-0.3, nave=NAVE, comment="a tone", verbose="ERROR")
    return e.set_eeg_reference(projection=True, verbose="ERROR")


QUICK = dict(n_sweeps=20, n_burn=8, n_chains=2)


@cache
def estimate(solver="BMN", size=50.0, **other):
    cov = mne.make_ad_hoc_cov(info(), dict(eeg=5e-6), verbose="ERROR")
    params = dict(solver_params=QUICK) if solver == "spike_slab" else {}
    said = dict(tmin=0.0, tmax=0.29, progress=False)
    return estimate_evoked(recording(size), forward(), cov, solver, **said, **params, **other)


def dense(est, c):
    "Covariance of all sources at noise of a c-th of the variance, from the definition"
    p = est.posterior
    L = Leadfield.from_forward(forward(), "free" if est.n_orient == 3 else "fixed").matrix()
    G = est.fit.W @ L @ p.S.toarray()
    noise = np.diag(est.fit.noise / c)
    prior = np.diag(p.gamma)
    cross = prior @ G.T
    cov = prior - cross @ linalg.solve(noise + G @ cross, cross.T, assume_a="pos")
    return p.S.toarray() @ cov @ p.S.toarray().T


WAYS = {
    "BMN, three components": dict(orientation="free"),
    "BMN, depth": dict(orientation="fixed", depth=0.8),
    "points": dict(solver="gamma_map", orientation="free"),
    "patches": dict(solver="gamma_map_sflex", orientation="free"),
    "noise by sensor": dict(solver="gamma_lambda_map", orientation="fixed", noise="learn"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore")
def test_it_is_what_the_definition_says(way):
    est = estimate(**WAYS[way])
    now = dense(est, 1)
    np.testing.assert_allclose(est.posterior.dense(), now, atol=1e-8 * np.abs(now).max())
    for n in (5, 20, 80, 2000):
        then = est.with_nave(n).then
        cov = dense(est, n / NAVE)
        np.testing.assert_allclose(then.posterior.dense(), cov, atol=1e-8 * np.abs(now).max())
        assert then.nave == pytest.approx(n)


@pytest.mark.parametrize("way", ["BMN, three components", "patches"])
def test_the_two_limits(way):
    "The same number changes nothing; the error falls with every epoch, to what sensors do not see"
    est = estimate(**WAYS[way])
    np.testing.assert_allclose(est.with_nave(NAVE).std.data, est.std.data, rtol=1e-9, atol=1e-18)
    stds = [est.with_nave(n).std.data for n in (2, 20, 200, 1e5)]
    for fewer, more in pairwise(stds):
        assert (more <= fewer * (1 + 1e-9)).all() and more.sum() < fewer.sum()
    limit = est.with_nave(NAVE).limit
    assert (limit.std.data <= stds[-1] * (1 + 1e-9) + 1e-15).all()
    L = Leadfield.from_forward(forward(), "free").matrix()
    G = est.fit.W @ L @ est.posterior.S.toarray()
    assert np.abs(G @ limit.posterior.V.T @ limit.posterior.V - G * est.posterior.gamma).max() < (
        1e-6 * np.abs(G * est.posterior.gamma).max()
    )  # the field is known for certain
    share = est.with_nave(NAVE).ambiguity.data
    assert share.min() >= 0 and share.max() <= 1 + 1e-9


def test_no_epochs_leave_the_prior():
    est = estimate(orientation="free")
    prior = np.sqrt(est.posterior.S.power(2) @ est.posterior.gamma)
    found = est.with_nave(1e-9).then.posterior.std
    np.testing.assert_allclose(found, prior, rtol=1e-4)


def test_it_is_what_the_same_noise_with_more_epochs_says():
    "Another road: the solver's own posterior, told the prior variance, on data of more epochs"
    est = estimate(orientation="fixed")
    other = estimate_evoked(
        replaced(recording(), nave=4 * NAVE),
        forward(),
        mne.make_ad_hoc_cov(info(), dict(eeg=5e-6), verbose="ERROR"),
        held(est),
        tmin=0.0,
        tmax=0.29,
        orientation="fixed",
        noise="baseline",
        progress=False,
    )
    factor = other.power["baseline"]  # noise that was said a quarter of what it is
    expected = est.with_nave(4 * NAVE / factor).std.data
    np.testing.assert_allclose(other.std.data, expected, rtol=1e-9)


def replaced(e, nave):
    e = e.copy()
    e.nave = nave
    return e


def held(est):
    "A solver with the prior of an estimate, that counts on the noise it is told"
    gamma = est.posterior.gamma

    def solver(L, y, noise_var, n_orient=1):
        G = L * gamma
        R = linalg.cholesky(noise_var * np.eye(len(L)) + G @ L.T, lower=True)
        V = linalg.solve_triangular(R, G, lower=True)
        mean = V.T @ linalg.solve_triangular(R, y, lower=True)
        S = sparse.eye_array(len(gamma), format="csr")
        p = Posterior(gamma, V, mean, S)
        return replace(est.result, posterior=p)

    return solver


# ---- supports that were sampled


@pytest.mark.parametrize("k", [1, 3])
def test_states_are_those_of_less_noise(k):
    "Against the solver's own amplitudes at another noise; one place has a direction only"
    rng = np.random.default_rng(k)
    G = rng.normal(size=(12, 9 * k))
    y = rng.normal(size=(12, 15)) * 3
    directions = (None, rng.normal(size=k), None)
    visited = Visited(np.array([2, 5, 6]), np.array([3.0, 0.5, 2.0]), directions, 1.7)
    states = {}
    for c in (0.5, 1, 6):
        compressed = Compressed(y, 4.0, 4, 1 / c, np.nan, y)
        states[c] = gaussian_state(Amplitudes(G, k, compressed), visited)[0]
    noise = 1 + 0.7 * 4 / 15
    columns = (states[1].atoms[:, None] * k + np.arange(k)).ravel()
    information = G[:, columns].T @ G[:, columns] / noise
    for c, state in states.items():
        found = quieter_state(states[1], information, c).cov
        np.testing.assert_allclose(found, state.cov, atol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_a_mixture_holds_its_supports(tmp_path):
    est = estimate("spike_slab", orientation="free")
    more = est.with_nave(4 * NAVE)
    np.testing.assert_allclose(est.with_nave(NAVE).std.data, est.std.data, atol=1e-18, rtol=1e-7)
    assert (more.std.data <= est.std.data * (1 + 1e-7) + 1e-18).all()
    assert more.std.data.sum() < est.std.data.sum()
    np.testing.assert_array_equal(more.then.mean.data, est.mean.data)
    assert "supports" in more.held
    with pytest.raises(ValueError, match="the estimate must be Gaussian for a limit"):
        _ = more.limit
    assert np.isnan(more.least)
    again = EvokedPosterior.load(est.save(tmp_path / "tone.npz")).with_nave(4 * NAVE)
    np.testing.assert_allclose(again.std.data, more.std.data)


@pytest.mark.filterwarnings("ignore")
def test_what_data_say_is_never_more_than_the_posterior_knows():
    est = estimate("spike_slab", orientation="free")
    for state, H in zip(est.posterior.states, est.fit.information):
        if len(state.atoms):
            w, U = linalg.eigh(state.cov)
            R = U * np.sqrt(np.maximum(w, 0))
            shares = linalg.eigvalsh(R.T @ H @ R)
            assert shares.min() > -1e-9 and shares.max() < 1 + 1e-9


def test_the_noise_of_a_state_is_that_of_its_amplitudes():
    "Each state has a noise factor of its own, on the components that were sampled on"
    rng = np.random.default_rng(0)
    G = rng.normal(size=(12, 20))
    y = 4 * G[:, [3]] * np.sin(np.arange(15) / 3) + rng.normal(size=(12, 15))
    result = spike_slab(G, y, 1.0, **QUICK)
    factors = rng.uniform(1, 30, len(result.posterior.states))
    result = replace(result, entries=result.entries | dict(noise_factor=factors, n_components=4))
    names = [f"EEG {i:03d}" for i in range(12)]
    recorded = MatchedRecording(prepare(G), y)
    fit = fit_of(result, recorded, G, y[:, :0], mne.create_info(names, 100.0, "eeg"))
    of = Amplitudes(G, 1, Compressed(y, 4.0, 4, result.noise_var, np.nan, y))
    for state, factor, H in zip(result.posterior.states, factors, fit.information):
        columns = G[:, state.atoms]
        np.testing.assert_allclose(H, columns.T @ columns / of.noise(factor), rtol=1e-12)
    mean = np.mean([of.noise(factor) for factor in factors])
    np.testing.assert_allclose(fit.noise, np.full(12, mean), rtol=1e-12)


# ---- how many epochs


@pytest.mark.parametrize("solver", ["BMN", "gamma_map_sflex", "spike_slab"])
@pytest.mark.filterwarnings("ignore")
def test_the_curve_is_that_of_the_estimates(solver):
    est = estimate(solver, orientation="free")
    naves, std = est.with_nave(NAVE).curve([10, 20, 300])
    for n, one in zip(naves, std):
        then = est.with_nave(n).then
        assert then.peak().std == pytest.approx(one, rel=1e-7)
    assert list(std) == sorted(std, reverse=True)


def test_how_many_are_needed():
    more = estimate("gamma_map", orientation="free").with_nave(NAVE)
    now = more.curve([NAVE])[1][0]
    wanted = (more.least + now) / 2
    needed = more.needed(wanted)
    assert more.curve([needed])[1][0] == pytest.approx(wanted, rel=1e-4)
    assert more.needed(now) == pytest.approx(NAVE, rel=1e-4)
    spread = estimate(orientation="free").with_nave(NAVE)
    assert spread.needed(0.9 * spread.least) == np.inf
    assert spread.curve([1e9])[1][0] == pytest.approx(spread.least, rel=1e-2)


def test_regions_and_contrasts_have_it_too():
    est = estimate(orientation="fixed")
    half = np.arange(80) < 40
    now, then = (e.regions({"half": half}) for e in (est, est.with_nave(80).then))
    w = half / half.sum()
    assert then.std[0, 0] == pytest.approx(np.sqrt(w @ dense(est, 4) @ w), rel=1e-6)
    assert then.std[0, 0] < now.std[0, 0]
    both = contrast({"A": 1, "B": -1}, {"A": est, "B": est})
    more = both.with_nave(4 * both.nave)
    np.testing.assert_allclose(more.std.data, np.sqrt(2) * est.with_nave(80).std.data, rtol=1e-9)


# ---- bad input


@pytest.mark.filterwarnings("ignore:.*nothing was found, the estimate is")
def test_what_is_refused_or_said():
    est = estimate(orientation="fixed")
    for n in (0, -3, np.nan, np.inf):
        with pytest.raises(ValueError, match="n must be finite and > 0"):
            est.with_nave(n)
    with pytest.raises(TypeError, match="n must be a real number"):
        est.with_nave("many")
    with pytest.raises(ValueError, match="naves must be finite"):
        est.with_nave(3).curve([1, -1])
    nothing = estimate(size=0.0, orientation="fixed")
    with pytest.warns(NothingFoundWarning, match="does not shrink"):
        more = nothing.with_nave(50)
    more._repr_html_()
    with pytest.raises(ValueError, match="the estimate must be of a source"):
        more.needed(3.0)
