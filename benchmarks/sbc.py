"""Simulation-based calibration: which posteriors are what they say?

`python -m benchmarks.sbc`, from the root of the repository; `--only`, `--runs` to measure a part.

The sampler: places, variances, directions, how many sources are on and the noise factor are drawn
from its own prior, then a recording on three components, on a small random leadfield. If the chain
samples the posterior, then whatever it says has the truth at a rank that is uniform: the number of
sources, and the amplitude of a source, whether the source is likely or not. One chain says which
sources are likely, another one gives the draws. The two differ by no more than their effective
sample sizes allow.

Every registered solver, on a template head: truth of the kind that it is made for, and the default
simulators. Solvers that estimate their prior from the recording have none to draw from.

Writes sbc.json beside this file after each part, and sbc.md from it.
"""

import argparse
import json
import os
import warnings
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from calibrain.calibration.observable import observable_strata
from calibrain.calibration.sbc import (
    combine_sbc,
    sbc_of,
    sbc_run,
    seen_strata,
    show_moments,
    show_p,
)
from calibrain.posterior.mixture import Mixture
from calibrain.posterior.moments import as_mixture
from calibrain.solvers.agreement import effective_number
from calibrain.solvers.compressed import Compressed
from calibrain.solvers.given_support import Amplitudes, gaussian_state
from calibrain.solvers.registry import SAMPLERS, SOLVERS, describe
from calibrain.solvers.slot_model import Dual
from calibrain.solvers.slot_weights import slot_weights, turned
from calibrain.solvers.slots import FACTORS, PRIOR_OFF, Chain

from .full_bayes import simulated

HERE = Path(__file__).resolve().parent
KINDS = {  # components of a source, orientation, runs
    "one component": (1, "both", 500),
    "two, isotropic or one direction": (2, "both", 500),
    "three, isotropic": (3, "isotropic", 500),
    "three, isotropic or one direction": (3, "both", 500),
}
N_SENSORS, N_PLACES, N_COLUMNS, N_SLOTS = 10, 24, 3, 30
GAMMA = np.exp(np.arange(0, 8, 0.4))  # the grid of variances, scaled: weak to strong
BURN, DRAWS = 30, 60
THIN = {"count": 5, "amplitudes": 2}  # of so many states one is kept
COUNT = "number of sources"


# ---- the sampler


def leadfield(k):
    "The same in every run"
    return np.random.default_rng(99).normal(size=(N_SENSORS, N_PLACES * k))


def from_the_prior(seed, k, orientation):
    "Sources from the sampler's prior, how many are on, and what is recorded of them"
    rng = np.random.default_rng(seed)
    L = leadfield(k)
    unit = Dual(L, k, L[:, :1], 1, 1.0).scale.gamma
    directed = dict(isotropic=0.0, direction=1.0, both=0.5)[orientation]
    x = np.zeros((N_PLACES, k, N_COLUMNS))
    on = set()
    n_on = (rng.random(N_SLOTS) < rng.beta(1, PRIOR_OFF)).sum()
    for _ in range(n_on):
        place = int(rng.integers(N_PLACES))
        on.add(place)
        size = np.sqrt(rng.choice(GAMMA) * unit)
        if k > 1 and rng.random() < directed:
            v = turned(np.eye(k), rng)[0]
            x[place] += size * v[:, None] * rng.normal(size=(1, N_COLUMNS))
        else:
            x[place] += size * rng.normal(size=(k, N_COLUMNS))
    x = x.reshape(N_PLACES * k, N_COLUMNS)
    noise = np.sqrt(rng.choice(FACTORS)) * rng.normal(size=(N_SENSORS, N_COLUMNS))
    return x, len(on), L @ x + noise


def visits(dual, k, orientation, seed, n_draws):
    "What one chain visits"
    chain = Chain(dual, slot_weights(k, GAMMA, orientation), N_SLOTS, seed)
    for _ in range(BURN):
        chain.sweep()
    found = []
    for _ in range(n_draws):
        chain.sweep()
        found.append(chain.visited)
    return found


def mixture_of(found, k, y):
    "The posterior of the amplitudes, on the components themselves"
    recording = Compressed(y, N_COLUMNS, N_COLUMNS, 1.0, np.nan, y)
    of = Amplitudes(leadfield(k), k, recording)
    return with_states([gaussian_state(of, visited)[0] for visited in found], N_PLACES, k)


def with_states(states, n_sources, k):
    "A mixture in which all states weigh the same"
    weights = np.full(len(states), 1 / len(states))
    n_times = states[0].mean.shape[1]
    return Mixture(tuple(states), weights, n_sources, k, n_times)


def draws_of(mixture, rng):
    "One draw from each state that is kept, of which no two are neighbours in the chain"
    states = mixture.states[:: THIN["amplitudes"]]
    kept = [replace(mixture, states=(state,), weights=np.ones(1)) for state in states]
    return np.concatenate([state.sample(1, rng) for state in kept])


def apart(a, b):
    "Difference of two chains' means in standard errors; `None` where both stand still"
    variances = [np.var(c) / effective_number(np.asarray(c, float)[None]) for c in (a, b)]
    spread = np.sqrt(sum(variances))
    return float((np.mean(a) - np.mean(b)) / spread) if spread > 0 else None


def one_run(seed, k, orientation, n_draws=DRAWS):
    "Where the truth lies in what two chains say, and how far these are apart"
    x, n_on, y = from_the_prior(seed, k, orientation)
    rng = np.random.default_rng(seed + 10_000)
    dual = Dual(leadfield(k), k, y, N_COLUMNS, 1.0)
    chains = [visits(dual, k, orientation, 2 * seed + i, n_draws) for i in range(2)]
    counts = [np.array([len(np.unique(v.places)) for v in chain]) for chain in chains]
    thinned = counts[0][:: THIN["count"]]
    tied = rng.integers((thinned == n_on).sum() + 1)
    rank = (thinned < n_on).sum() + tied
    of_count = sbc_of({COUNT: [(rank + rng.random()) / (len(thinned) + 1)]}, rng)

    one, other = (mixture_of(chain, k, y) for chain in chains)
    draws = draws_of(other, rng)
    of_amplitudes = sbc_run(x, other, rng, observable_strata(one), draws)
    factors = [np.log([v.factor for v in chain]) for chain in chains]
    between = dict(count=apart(*counts), factor=apart(*factors))
    return dict(u=points(of_count) | points(of_amplitudes), apart=between)


def points(run):
    "One number of each stratum that has any"
    return {name: float(run[name][0]) for name in run.strata if len(run[name])}


IN_ORDER = (COUNT, "P>.5", "P.05-.5", "P<.05", "clear", "unclear", "near", "far", "claims")


def joined(runs):
    "The record of many runs"
    found = []
    for seed, run in enumerate(runs):
        u = {name: [run["u"][name]] if name in run["u"] else [] for name in IN_ORDER}
        found.append(sbc_of(u, seed))
    return combine_sbc(found)


# ---- every registered solver

N_TIMES, N_ON = 25, 5
TRUTHS = {  # what each solver is made for
    "gamma_map": "sparse",
    "gamma_lambda_map": "sparse",
    "gamma_map_sflex": "patches",
    "gamma_lambda_map_sflex": "patches",
    "BMN": "everywhere",
    "BMN_joint": "everywhere",
    "spike_slab": "sparse, from none to many",
}
ITS_OWN, COMMON = "truth of its own kind", "default simulators"
RUNS = {  # of those that iterate, that find one variance, that sample
    ITS_OWN: {"sparse": 150, "one variance": 2000, "samples": 250},
    COMMON: {"sparse": 100, "one variance": 200, "samples": 80},
}
PASSING, FAILING = "passes", "fails"


@cache
def head():
    "The average head"
    from calibrain import template_leadfield

    return template_leadfield("eeg", 1284, "fixed", progress=False)


def of_its_own_kind(truth, seed):
    "Sources of one kind, all of them Gaussian, what is recorded of them, and its noise variance"
    from calibrain.head.basis import sflex_basis

    rng = np.random.default_rng(seed)
    lf = head()
    L = lf.matrix()
    N = lf.n_sources
    per_source = np.square(L).sum(0)
    if truth == "everywhere":
        power = 10 ** rng.uniform(-0.5, 1.5) * len(L) / per_source.sum()
        x = np.sqrt(power) * rng.normal(size=(N, N_TIMES))
    else:
        n_on = N_ON if truth != TRUTHS["spike_slab"] else from_none_to_many(rng)
        c = np.zeros((N, N_TIMES))
        on = rng.choice(N, n_on, replace=False)
        shape = sflex_basis(lf.coords) if truth == "patches" else None
        seen = L if shape is None else L @ shape
        power = 10 ** rng.uniform(0.5, 2.5, n_on) / np.median(np.square(seen).sum(0))
        c[on] = np.sqrt(power)[:, None] * rng.normal(size=(n_on, N_TIMES))
        x = c if shape is None else shape @ c
    return x, L @ x + rng.normal(size=(len(L), N_TIMES)), 1.0


def from_none_to_many(rng):
    "How many are on in the sampler's prior"
    return (rng.random(N_SLOTS) < rng.beta(1, PRIOR_OFF)).sum()


def by_the_simulators(seed):
    "What the other benchmarks are measured on"
    x, _, y, noise_var = simulated(head(), 0.5, seed)
    return x, y, noise_var


def solved(name, y, noise_var):
    "What a solver says, as it comes"
    solver = describe(name)
    takes = solver.takes()
    given = {}
    if not solver.learns_noise or solver.samples:
        given["noise_var"] = noise_var
    if "update_mode" in takes:
        given["update_mode"] = "fast"  # the same optimum
    if "src_coords" in takes and not solver.samples:
        given["src_coords"] = head().coords
    return solver.function(head().matrix(), y, **given)


def placed(name, x, result, seed):
    "Where the truth lies, by what can be seen"
    rng = np.random.default_rng(seed + 20_000)
    mixture = as_mixture(result)
    if mixture is None:
        return points(sbc_run(x, result, rng, seen_strata(result, head().coords)))
    half = len(mixture.states) // 2
    one = with_states(mixture.states[:half], mixture.n_sources, mixture.n_orient)
    other = with_states(mixture.states[half:], mixture.n_sources, mixture.n_orient)
    return points(sbc_run(x, other, rng, seen_strata(one), draws_of(other, rng)))


def how_many(name, kind):
    "Runs of a solver: many of one that is quick"
    solver = describe(name)
    if solver.samples:
        return RUNS[kind]["samples"]
    return RUNS[kind]["sparse" if solver.sparse else "one variance"]


def solver_run(name, kind, seed):
    "One recording, one solver"
    drawn = by_the_simulators if kind == COMMON else partial(of_its_own_kind, TRUTHS[name])
    x, y, noise_var = drawn(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = solved(name, y, noise_var)
    return dict(u=placed(name, x, result, seed))


# ---- the page

HEAD = (
    "| stratum | runs | excluded | shift | spread | p, corrected | passes | would notice |\n"
    "|---|---|---|---|---|---|---|---|"
)


def table(name, runs):
    "A row for each stratum"
    lines = []
    for stratum, v in joined(runs).verdict().items():
        cells = [f"{name}: {stratum}", v.n, v.excluded]
        cells += [*show_moments(v.moments), show_p(v.p)]
        cells += ["yes" if v.passes else "no", f"{v.noticed - 1:.0%}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def verdicts(kind, solvers):
    "Who passes, in a sentence"
    found = {PASSING: [], FAILING: []}
    for name, runs in solvers.items():
        failed = [s for s, ok in joined(runs).passes.items() if not ok]
        told = f"`{name}`" + (f" ({', '.join(failed)})" if failed else "")
        found[FAILING if failed else PASSING].append(told)
    told = [f"{word}: {', '.join(names) or 'none'}" for word, names in found.items()]
    return f"**On {kind}.** " + "; ".join(told) + "."


def document(results):
    "The figures as a page"
    lines = [
        "# Simulation-based calibration",
        "",
        "Made by `python -m benchmarks.sbc`. Each run gives one point of each stratum of what can "
        "be seen. A stratum passes if neither the curve of these points nor their shift and "
        "spread speak against a right posterior, at 0.05 over all strata of a row's source or "
        "solver. *Excluded*: truths that the posterior gave no probability at all. *Spread*: "
        "errors over error bars. *Would notice*: an excess of it that would have been found nine "
        "times in ten. Mixtures are asked by 30 draws, one chain saying which sources are likely "
        "and another one giving the draws (12 of the number of sources); so few of them blur, and "
        "what would be noticed is more than the table says by about a third.",
        "",
        "## The sampler, with truth from its own prior",
        "",
        HEAD,
    ]
    sampler = results.get("sampler", {})
    for name, runs in sampler.items():
        lines += table(name, runs)
    lines += [
        "",
        "Two chains of one recording, the difference of their means in standard errors from the "
        "effective sample size: its root mean square, 1 if these are right",
        "",
        "| source | number of sources | log noise factor |",
        "|---|---|---|",
    ]
    for name, runs in sampler.items():
        row = [name]
        for what in ("count", "factor"):
            z = [run["apart"][what] for run in runs if run["apart"][what] is not None]
            row.append(f"{np.sqrt(np.mean(np.square(z))):.2f}")
        lines.append("| " + " | ".join(row) + " |")
    for kind, solvers in results.get("solvers", {}).items():
        lines += ["", f"## Every registered solver, {kind}", "", verdicts(kind, solvers), ""]
        lines.append(HEAD)
        for name, runs in solvers.items():
            lines += table(f"`{name}`", runs)
    return "\n".join(lines) + "\n"


def store(folder, group, found):
    "Put what was found beside what is there, and make the page"
    file = folder / "sbc.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    results[group] = results.get(group, {}) | found
    order = {"sampler": KINDS, "solvers": RUNS}
    for name, names in order.items():
        if name in results:
            results[name] = {n: results[name][n] for n in names if n in results[name]}
    file.write_text(json.dumps(results), encoding="utf-8")
    (folder / "sbc.md").write_text(document(results), encoding="utf-8")


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parts = [*KINDS, *RUNS]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--runs", type=int, help="in place of the numbers in KINDS and RUNS")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    given = parser.parse_args(args)
    for name in given.only:
        if name in KINDS:
            k, orientation, n = KINDS[name]
            runs = [one_run(seed, k, orientation) for seed in range(given.runs or n)]
            store(given.out, "sampler", {name: runs})
            continue
        found = {}
        for solver in (*SOLVERS, *SAMPLERS):
            n = given.runs or how_many(solver, name)
            found[solver] = [solver_run(solver, name, seed) for seed in range(n)]
        store(given.out, "solvers", {name: found})
    print((given.out / "sbc.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
