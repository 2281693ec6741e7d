"A prior on learned noise: it is a baseline, and nothing else."

import numpy as np
import pytest
from problems import close, well_posed
from scipy import optimize

from calibrain import (
    BMN,
    BMN_joint,
    NoisePrior,
    SourceSimulator,
    baseline_prior,
    gamma_lambda_map,
    gamma_lambda_map_sflex,
    gamma_map,
    template_leadfield,
)
from calibrain.core.warnings import NoiseBoundaryWarning
from calibrain.simulation.noise import TimeModel

LEARNING = (BMN_joint, gamma_lambda_map, gamma_lambda_map_sflex)
TO_THE_END = dict(update_mode="fast", tol=1e-9)


def coords(n=8):
    return np.random.default_rng(0).normal(scale=0.03, size=(n, 3))


def more(solver):
    "What a solver needs beside data"
    out = {} if solver is BMN_joint else dict(TO_THE_END)
    return out | (dict(src_coords=coords()) if solver is gamma_lambda_map_sflex else {})


def dense_cost(G, y, gamma, noise, s2, weight):
    "−2/T times the log density of data and prior, but for a constant"
    S = (G * gamma) @ G.T + np.diag(noise)
    data = np.linalg.slogdet(S)[1] + np.trace(np.linalg.solve(S, y @ y.T)) / y.shape[1]
    return data + weight * (np.log(noise) + s2 / noise).sum()


def dense_optimum(cost, n):
    "The lowest point by a general optimiser, from several starts"
    rng = np.random.default_rng(0)
    options = dict(maxiter=5000, maxfun=10**6, ftol=1e-15, gtol=1e-9)
    how = dict(method="L-BFGS-B", bounds=n * [(-25, 25)], options=options)
    runs = [optimize.minimize(cost, rng.normal(size=n), **how) for _ in range(4)]
    return min(runs, key=lambda run: run.fun)


@pytest.mark.parametrize("by_sensor", [False, True])
def test_sparse_optimum_is_that_of_a_dense_search(by_sensor):
    L, y = well_posed(3, M=10, N=4, T=40)
    rng = np.random.default_rng(1)
    s2 = rng.uniform(0.1, 0.4, 10) if by_sensor else 0.2
    dof = 25.0
    s2_all = np.broadcast_to(s2, 10)

    def cost(log):
        v = np.exp(log)
        return dense_cost(L, y, v[:4], v[4:], s2_all, dof / y.shape[1])

    best = dense_optimum(cost, 14)
    for how in (TO_THE_END, dict(update_mode=2, max_iter=5000, tol=1e-12)):
        r = gamma_lambda_map(L, y, noise_prior=(s2, dof), **how)
        found = cost(np.log(np.maximum(np.append(r["gammas_full"], r["lambdas"]), 1e-30)))
        assert found <= best.fun + 1e-6
        close(r["lambdas"], np.exp(best.x[4:]), 1e-3, "noise")


def test_minimum_norm_optimum_is_that_of_a_dense_search():
    L, y = well_posed(5, M=10, N=6, T=40)
    s2 = np.linspace(0.1, 0.3, 10)

    def cost(log):
        gamma, noise = np.exp(log)
        one = np.ones(10)
        return dense_cost(L, y, np.full(6, gamma), noise * one, s2, 60 / 40)

    best = dense_optimum(cost, 2)
    r = BMN_joint(L, y, noise_prior=NoisePrior(s2, 60))
    close([r["gamma"], r["lambda"]], np.exp(best.x), 1e-4, "γ and λ")


@pytest.mark.parametrize("solver", LEARNING)
def test_no_samples_are_no_prior(solver):
    L, y = well_posed(0)
    without = solver(L, y, **more(solver))
    for prior in ((0.3, 0), NoisePrior(0.3, 0), None):
        same = solver(L, y, noise_prior=prior, **more(solver))
        assert (same.mean == without.mean).all() and same.log_evidence == without.log_evidence
    nearly = solver(L, y, noise_prior=(0.3, 1e-9), **more(solver))
    close(nearly["noise_var"], without["noise_var"], 1e-6, "noise")
    close(nearly.mean, without.mean, 1e-5, "mean")


@pytest.mark.parametrize("solver", LEARNING)
def test_countless_samples_are_given_noise(solver):
    L, y = well_posed(1)
    held = solver(L, y, noise_prior=(0.4, 1e9), **more(solver))
    told = dict(init_lambda=0.4, learn_lambda=False) | more(solver)
    given = BMN(L, y, 0.4) if solver is BMN_joint else solver(L, y, **told)
    close(held["noise_var"], 0.4, 1e-6, "noise")
    close(held.mean, given.mean, 1e-5, "mean")
    close(held.log_evidence, given.log_evidence, 1e-6, "evidence of the data alone")


@pytest.mark.parametrize("solver", LEARNING)
def test_the_prior_is_a_baseline(solver):
    """Samples without sources say the same as the prior that they amount to.

    A solver that is told which samples have no sources has the cost of both, so its optimum is
    where the gradients of the two add to zero.
    """
    L, y = well_posed(2)
    rng = np.random.default_rng(3)
    before = 0.6 * rng.normal(size=(len(y), 50))
    s2 = (before**2).mean(1)
    r = solver(L, y, noise_prior=(s2, 50), **more(solver))
    noise = np.broadcast_to(r.get("lambdas", r["noise_var"]), len(y)).astype(float)
    G = L if solver is not gamma_lambda_map_sflex else L @ r["B_operator"].toarray()
    gamma = np.broadcast_to(r.get("gammas_full", r["gamma"]), G.shape[1])

    def log_likelihood(log_noise):
        v = np.exp(log_noise)
        S = (G * gamma) @ G.T + np.diag(v)
        of_data = np.linalg.slogdet(S)[1] * y.shape[1] + (y * np.linalg.solve(S, y)).sum()
        return of_data + (50 * np.log(v) + (before**2).sum(1) / v).sum()

    at = np.log(noise)
    steps = np.ones((1, len(y))) if solver is BMN_joint else np.eye(len(y))
    slopes = [(log_likelihood(at + 1e-5 * h) - log_likelihood(at - 1e-5 * h)) / 2e-5 for h in steps]
    close(slopes, np.zeros(len(steps)), 1e-4, "slope", scale=y.shape[1])


@pytest.mark.parametrize("solver", LEARNING[1:])
@pytest.mark.parametrize("noise_rule", ["em", "convex"])
@pytest.mark.parametrize("update_mode", [1, 2, 3, "fast"])
@pytest.mark.filterwarnings("ignore::calibrain.core.warnings.ConvergenceWarning")
def test_the_cost_with_the_prior_never_rises(solver, noise_rule, update_mode):
    rng = np.random.default_rng(7)
    L, y = rng.normal(size=(12, 16)), rng.normal(size=(12, 9))
    r = solver(
        L,
        y,
        noise_prior=(0.5, 6),
        update_mode=update_mode,
        update_mode_noise=noise_rule,
        max_iter=60,
        **(dict(src_coords=coords(16)) if solver is gamma_lambda_map_sflex else {}),
    )
    cost = r.history["cost"]
    assert (np.diff(cost) <= 1e-10 * np.abs(cost[:-1]).max()).all()
    pull = NoisePrior(0.5, 6).pull(*y.shape)
    close(cost[-1], r.cost + pull.cost(r["lambdas"]), 1e-9, "cost of data and prior")


@pytest.mark.parametrize("solver", LEARNING)
def test_noise_does_not_collapse(solver):
    "More sources than sensors, and fewer samples: without a prior noise runs to zero"
    rng = np.random.default_rng(11)
    L = rng.normal(size=(10, 60))
    y = L @ rng.normal(size=(60, 4)) + rng.normal(size=(10, 4))
    args = more(solver) | (dict(src_coords=coords(60)) if solver is gamma_lambda_map_sflex else {})
    with pytest.warns(NoiseBoundaryWarning, match="noise_prior"):
        free = solver(L, y, **args)
    held = solver(L, y, noise_prior=(1.0, 20), **args)
    assert free.noise_at_boundary and not held.noise_at_boundary
    lowest = np.min(held.get("lambdas", held["noise_var"]))
    assert lowest > 20 / 24 - 1e-9  # ws²/(1 + w), where the data have no power to add


@pytest.mark.parametrize("solver", LEARNING)
def test_units(solver):
    "Data and prior in other units: the same amplitudes"
    L, y = well_posed(4)
    one = solver(L, y, noise_prior=(0.3, 30), **more(solver))
    other = solver(1e3 * L, 1e3 * y, noise_prior=(0.3e6, 30), **more(solver))
    close(other.mean, one.mean, 1e-5, "mean")
    close(other["noise_var"], 1e6 * one["noise_var"], 1e-6, "noise")


def test_complex_samples_count_twice():
    L, y = well_posed(6)
    z = y[:, :30] + 1j * y[:, 30:]
    of_parts = gamma_lambda_map(L, y, noise_prior=(0.3, 40), **TO_THE_END)
    of_complex = gamma_lambda_map(L, z, noise_prior=(0.3, 40), **TO_THE_END)
    close(of_complex["lambdas"], of_parts["lambdas"], 1e-9, "noise")
    assert baseline_prior(z).dof > 1.5 * baseline_prior(z.real).dof


@pytest.mark.parametrize("solver", LEARNING)
def test_noise_of_components_has_the_prior_of_all_samples(solver):
    L, y = well_posed(8)
    args = more(solver)
    on_few = solver(L, y, noise_prior=(0.3, 30), n_components=3, **args)
    on_all = solver(L, y, noise_prior=(0.3, 30), **args)
    close(on_few["noise_var"], on_all["noise_var"], 1e-6, "noise")


@pytest.mark.parametrize(
    "prior, error, says",
    [
        ((0.0, 5), ValueError, "one number > 0, or one for each sensor"),
        ((1.0, -1), ValueError, "dof of the noise prior must be finite and >= 0"),
        ((1.0, np.inf), ValueError, "give the noise variance itself"),
        ((np.ones(3), 5), ValueError, "a number, or 30 of them, got 3"),
        (np.ones((2, 2)), TypeError, "a pair"),
        ("baseline", TypeError, "a pair"),
        (1.0, TypeError, "a pair"),
    ],
)
@pytest.mark.parametrize("solver", LEARNING)
def test_refused(solver, prior, error, says):
    L, y = well_posed(0)
    with pytest.raises(error, match=says.replace("(", r"\(")):
        solver(L, y, noise_prior=prior, **more(solver))


def test_goes_with_learned_noise_of_today():
    L, y = well_posed(0)
    with pytest.raises(ValueError, match="None where the noise is given"):
        BMN_joint(L, y, noise_var=1.0, learn_noise=False, noise_prior=(1, 5))
    with pytest.raises(ValueError, match=r"calibrain-1\.0"):
        gamma_lambda_map(L, y, rule="calibrain-1.0", noise_prior=(1, 5))
    with pytest.raises(TypeError):
        gamma_map(L, y, 1.0, noise_prior=(1, 5))


@pytest.mark.parametrize("phi", [0.0, 0.8])
def test_independent_samples_of_a_baseline(phi):
    "The variance of a baseline scatters as that of so many independent samples"
    rng = np.random.default_rng(5)
    n, n_sensors = 200, 40
    noise = rng.normal(size=(300, n_sensors, n + 100))
    for t in range(1, n + 100):
        noise[..., t] = phi * noise[..., t - 1] + np.sqrt(1 - phi**2) * noise[..., t]
    priors = [baseline_prior(one[:, 100:]) for one in noise]
    power = np.array([p.variance for p in priors])
    scatter = 2 / (n_sensors * power.var())  # 2σ⁴/n of each sensor
    dof = np.mean([p.dof for p in priors])
    assert 0.75 < dof / scatter < 1.35


def test_a_strong_source_is_not_taken_for_noise():
    "One source, 40 dB above the noise, and a baseline of 50 samples, on a spherical head"
    L = template_leadfield("eeg", conductor="sphere", progress=False).matrix()
    x = SourceSimulator().simulate(1284, 1, "fixed", 1, seed=3)[0]
    clean = L @ x
    noise_var = 1e-4 * (clean**2).mean()
    rng = np.random.default_rng(3)
    y = clean + np.sqrt(noise_var) * rng.normal(size=clean.shape)
    before = np.sqrt(noise_var) * rng.normal(size=(len(y), 50))
    free = BMN_joint(L, y)["lambda"] / noise_var
    held = BMN_joint(L, y, noise_prior=baseline_prior(before))["lambda"] / noise_var
    assert free > 4 and 0.9 < held < 1.15


@pytest.mark.parametrize("phi, n, least", [(0.0, 40, 0.99), (0.5, 60, 0.97), (0.9, 200, 0.95)])
def test_power_that_went_with_the_mean_is_put_back(phi, n, least):
    draws = [TimeModel([phi] if phi else []).draw(40, n, seed) for seed in range(60)]
    put_back = np.mean([baseline_prior(one).variance for one in draws])
    about_the_mean = np.mean([one.var(axis=1, ddof=1).mean() for one in draws])
    assert least < put_back < 1.02 and about_the_mean <= put_back
    white = np.random.default_rng(0).normal(size=(40, n))
    prior = baseline_prior(white)
    close(prior.variance, white.var(axis=1, ddof=1).mean(), 1e-9, "as of white noise")
    assert 0.95 * (n - 1) < prior.dof <= n - 1 + 1e-9
