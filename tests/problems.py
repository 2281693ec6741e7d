"Random inverse problems of every shape that the solvers must handle, and the solvers: the registered ones and that of the documentation"

import json
from pathlib import Path

import numpy as np

from calibrain.solvers.registry import SOLVERS

N_PROBLEMS = 200


def random_problem(seed):
    "Leadfield, recording, noise variance, orientations and coordinates; every fourth problem is rank deficient, every third average-referenced"
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
        L, y = L - L.mean(0), y - y.mean(0)
    return L, y, noise_var, k, rng.normal(scale=0.02, size=(N, 3))


def arguments(solver, noise_var, coords, scale=1.0, **more):
    "What a registered solver wants beyond L, y and n_orient"
    takes = solver.takes()
    out = (
        dict(noise_var=noise_var * scale**2)
        if "noise_var" in takes and not solver.learns_noise
        else {}
    )
    if "src_coords" in takes:
        out["src_coords"] = coords
    return out | {name: value for name, value in more.items() if name in takes}


def documented_example(
    path=Path(__file__).resolve().parents[1] / "nbs/explanations/add_a_solver.ipynb",
):
    "The solver that the documentation writes: the cells of its page are run until there is an `example`"
    names = dict(__name__="add_a_solver")
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        exec("".join(line for line in cell["source"] if not line.startswith("%")), names)
        if "example" in names:
            return names["example"]


EXAMPLE = documented_example()
EVERY_SOLVER = (*SOLVERS.values(), EXAMPLE)
