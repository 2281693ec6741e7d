"What is asked of an answer, and other calls around a solver: each alone, the solver not timed"

from time import perf_counter

import numpy as np

from .work import Work, hyper


def true_sources(p):
    "Sources that are active where the problem says so, 10 nAm at most"
    x = np.zeros((p["L"].shape[1], p["y"].shape[1]))
    wave = 10 * np.sin(np.linspace(0, 6, x.shape[1]))
    x[p["active"] * int(p["k"])] = wave
    return x


def evaluate(p, result):
    "With the earth mover's distance, for which sources have places"
    from calibrain import Leadfield
    from calibrain.evaluation.evaluate import evaluate

    head = Leadfield(p["L"], coords=p["src_coords"])
    evaluate(true_sources(p), result, head, with_emd=True)


def coverage(p, result):
    from calibrain import coverage_curve

    coverage_curve(true_sources(p), result)
    coverage_curve(true_sources(p), result, mode="aggregated")


def posterior(p, result):
    return result.posterior.mean, result.posterior.std, result.posterior.blocks


def sample(p, result):
    result.posterior.sample(20, seed=0)


def simulate(p, result):
    from calibrain import SensorSimulator

    SensorSimulator().simulate(true_sources(p), p["L"], alpha_SNR=0.5, seed=0)


def spike_slab(p, result):
    from calibrain import spike_slab

    found = spike_slab(p["L"], p["y"], float(p["noise_var"]), n_orient=int(p["k"]), n_chains=2)
    return found.posterior.std, found.posterior.inclusion


def sloreta(p, result):
    from calibrain import sLORETA

    sLORETA(p["L"], p["y"], float(p["noise_var"]), n_orient=int(p["k"]))


def after(ask):
    "A side that solves, and then is timed"

    def ours(p):
        from calibrain import BMN

        result = BMN(p["L"], p["y"], float(p["noise_var"]), n_orient=int(p["k"]))
        times = []
        for _ in range(5):
            start = perf_counter()
            ask(p, result)
            times.append(perf_counter() - start)
        gamma = np.full(p["L"].shape[1], result["gamma"])
        found = dict(gammas_full=gamma, noise_var=p["noise_var"])
        return dict(hyper=hyper(found), seconds=sorted(times)[2])

    return ours


CALLS = dict(
    posterior=posterior,
    sample=sample,
    evaluate=evaluate,
    coverage=coverage,
    simulate=simulate,
    sLORETA=sloreta,
    spike_slab=spike_slab,
)
WORKS = [
    Work(f"{name}, 64x1284", "64x1284", after(ask), sigma=None, threads=(1,))
    for name, ask in CALLS.items()
]
