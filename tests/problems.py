"""Random inverse problems of every shape that the solvers must handle, and the solvers.

The solvers are the registered ones and that of the documentation.
"""

import json
from pathlib import Path

import numpy as np
from routine import some

from calibrain.solvers.registry import SOLVERS

N_PROBLEMS = 200
EPS = np.finfo(float).eps
# The band-pass of the tutorials (2 to 8 Hz at 100 Hz, of order 8, as polynomials) makes 1e-8 nAm of
# the last digits of its coefficients, which differ between processors with NumPy 1.26
FILTERED = 1e-6


def random_problem(seed):
    """Leadfield, recording, noise variance, orientations and coordinates.

    Every second recording has at least as many samples as sensors, the others have at most as many;
    every fourth leadfield is rank deficient; every third problem is average-referenced.
    """
    rng = np.random.default_rng(seed)
    M, N, k = int(rng.integers(2, 41)), int(rng.integers(2, 81)), int(rng.integers(1, 4))
    T = int(rng.integers(1, M + 1)) if seed % 2 else int(rng.integers(M, 101))
    L = rng.normal(size=(M, N * k)) * rng.lognormal(size=N * k, sigma=0.5)
    if seed % 4 == 0:
        rank = max(1, min(M, N * k) // 2)
        L = L[:, :rank] @ rng.normal(size=(rank, N * k))
    noise_var = float(rng.lognormal(-1, 1))
    x = rng.normal(size=(N * k, T)) * np.repeat(rng.random(N) < 0.2, k)[:, None] * 2
    y = L @ x + np.sqrt(noise_var) * rng.normal(size=(M, T))
    if seed % 3 == 0:
        L = L - L.mean(0)
        y = y - y.mean(0)
    return L, y, noise_var, k, rng.normal(scale=0.02, size=(N, 3))


def problems(n=N_PROBLEMS, every=13):
    """The random problems of this run: seed, and what belongs to it.

    In steps that 2, 3 and 4 do not divide, so that a dozen of them are of every kind.
    """
    for seed in some(range(n), every):
        yield seed, random_problem(seed)


def well_posed(seed, k=1, M=30, N=8, T=60):
    "More sensors than coefficients: every way down ends at one optimum"
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(M, N * k))
    x = rng.normal(size=(N * k, T)) * np.repeat(rng.random(N) < 0.5, k)[:, None]
    return L, L @ x + 0.5 * rng.normal(size=(M, T))


def close(a, b, rtol, what, scale=None):
    "Equal relative to the largest, or to a scale that is given"
    a = np.asarray(a, float)
    b = np.asarray(b, float)
    top = np.abs(b).max() if scale is None else scale
    error = np.abs(a - b).max()
    assert error <= rtol * top, f"{what}: differs by {error:.2e} where the largest is {top:.2e}"


def rounding(condition):
    """What rounding may do, relative, to what is solved with a matrix of that condition number.

    Over all random problems the largest error is 1.6 of these units, and of 1 on average: 100
    leaves room for other processors and orders of summation, and nothing for a wrong formula.
    """
    return 100 * EPS * condition


def arguments(solver, noise_var, coords, scale=1.0, **more):
    "What a registered solver wants beyond L, y and n_orient"
    takes = solver.takes()
    out = {}
    if "noise_var" in takes and not solver.learns_noise:
        out["noise_var"] = noise_var * scale**2
    if "src_coords" in takes:
        out["src_coords"] = coords
    return out | {name: value for name, value in more.items() if name in takes}


def solved(solver, problem, **more):
    "A solver's answer to a random problem"
    L, y, noise_var, k, coords = problem
    return solver.function(L, y, n_orient=k, **arguments(solver, noise_var, coords, **more))


def seen_through(r, L, k):
    "The leadfield of a result's coefficients: through the basis, where it has one"
    if "B_operator" in r:
        return L @ r["B_operator"].toarray()
    if "B_spatial" in r:
        return L @ np.kron(r["B_spatial"].toarray(), np.eye(k))
    return L


def model_covariance(r, L, k):
    "Σ of a result, as a full matrix, and its leadfield"
    G = seen_through(r, L, k)
    gamma = r["gammas_full"] if "gammas_full" in r else np.full(L.shape[1], r["gamma"])
    noise = np.broadcast_to(r.get("lambdas", r.noise_var), len(L))
    return (G * gamma) @ G.T + np.diag(noise), G


EXAMPLE_PAGE = Path(__file__).resolve().parents[1] / "nbs/explanations/add_a_solver.ipynb"


def documented_example(path=EXAMPLE_PAGE):
    "The solver that the documentation writes: its page is run until there is an `example`"
    names = dict(__name__="add_a_solver")
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        exec("".join(line for line in cell["source"] if not line.startswith("%")), names)
        if "example" in names:
            return names["example"]


EXAMPLE = documented_example()
EVERY_SOLVER = (*SOLVERS.values(), EXAMPLE)
