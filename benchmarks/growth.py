"""How time and memory grow with sources, sensors and samples.

Of one evaluation of the cost, and of a whole fast solve.
"""

from time import perf_counter

import numpy as np

from .work import Work, hyper, peak

SIZES = (
    [(128, n, 1, 250) for n in (1284, 2568, 5124, 10248, 20484)]
    + [(m, 5124, 1, 250) for m in (64, 96, 192, 256, 306)]
    + [(306, 20484, 1, 250)]
    + [(64, 1284, 1, t) for t in (250, 500, 1000, 2000, 4000)]
    + [(64, 1284, 3, 250)]
)


def name(size):
    return "x".join(map(str, size[: 3 if size[2] > 1 else 2])) + f", T={size[3]}"


def best(f, n=7):
    "Seconds of the fastest of a few calls: growth is about the machine at its best"
    times = []
    for _ in range(n):
        t = perf_counter()
        f()
        times.append(perf_counter() - t)
    return min(times)


def matrix_rate():
    "Operations a second in a product of two large matrices"
    a = np.random.default_rng(0).random((1500, 1500))
    return 2 * 1500**3 / best(lambda: a @ a)


RECORDINGS = (1, 4, 16)


def recordings(head, y, noise_var, k, n):
    "Seconds that it takes to solve several recordings of one head"
    from calibrain.solvers.gamma_map import gamma_map

    start = perf_counter()
    for i in range(n):
        gamma_map(head, np.roll(y, i, axis=1), noise_var, k, update_mode="fast")
    return perf_counter() - start


def ours(p):
    """One evaluation, and the whole solve.

    Without a basis, for the weights of patches of a given width grow with the square of N.
    """
    from calibrain.head.prepared import prepare
    from calibrain.solvers.common import start_scale
    from calibrain.solvers.evidence import Problem, data_root, evidence_at
    from calibrain.solvers.gamma_map import gamma_map

    L = p["L"]
    y = p["y"]
    k = int(p["k"])
    noise_var = float(p["noise_var"])

    def solve():
        r = gamma_map(L, y, noise_var, k, update_mode="fast")
        _ = r.posterior.var  # made when read
        return r

    r = solve()
    parts = dict(peak_mb=peak(), solve=best(solve, 2), root=best(lambda: data_root(y)))
    problem = Problem(np.asfortranarray(L), data_root(y), k)
    gamma = np.full(problem.n_groups, start_scale(L, y)[0])
    noise = np.full(len(y), noise_var)
    parts["evaluate"] = best(lambda: evidence_at(problem, gamma, noise))
    parts["rate"] = matrix_rate()
    parts["limit"] = 4 * len(y) ** 2 * L.shape[1] / parts["rate"]  # of its two products
    parts["share"] = parts["limit"] / parts["evaluate"]
    head = prepare(L, n_orient=k)
    for n in RECORDINGS:
        parts[f"recordings_{n}"] = recordings(head, y, noise_var, k, n)
    return dict(hyper=hyper(r), n_iter=r.n_iter, violation=r.kkt_violation, parts=parts)


WORKS = [Work(f"growth, {name(s)}", name(s), ours, sigma=None, threads=(1,)) for s in SIZES]
