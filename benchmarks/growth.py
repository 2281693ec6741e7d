"How time and memory grow with sources, sensors and samples: one evaluation of the cost, and a whole fast solve"
from time import perf_counter

import numpy as np

from .work import Work, hyper, peak

SIZES = [(128, n, 1, 250) for n in (1284, 2568, 5124, 10248, 20484)] + [(m, 5124, 1, 250) for m in (64, 96, 192, 256, 306)] + [(64, 1284, 1, t) for t in (500, 1000, 2000, 4000)]


def name(size): return "x".join(map(str, size[:3 if size[2] > 1 else 2])) + f", T={size[3]}"


def best(f, n=5):
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


def ours(p):
    "One evaluation, and the whole solve; the basis is taken apart, for its size depends on how densely the sources lie"
    from calibrain.basis import sflex_basis, through_basis
    from calibrain.solvers.evidence import Problem, data_root, evaluate
    from calibrain.solvers.gamma_map import gamma_map, start_scale
    k, sensors = int(p["k"]), np.full(len(p["y"]), p["noise_var"])
    t = perf_counter()
    G = through_basis(p["L"], sflex_basis(p["src_coords"]), k)
    parts = dict(basis=perf_counter() - t)
    P = Problem(G, data_root(p["y"]), k)
    gamma = np.full(P.n_groups, start_scale(G, p["y"])[0])
    parts |= dict(evaluate=best(lambda: evaluate(P, gamma, sensors)), root=best(lambda: data_root(p["y"])))
    t = perf_counter()
    r = gamma_map(G, p["y"], float(p["noise_var"]), k, update_mode="fast")
    r.posterior.var
    parts |= dict(solve=perf_counter() - t, peak_mb=peak())
    return dict(hyper=hyper(r), n_iter=r.n_iter, violation=r.kkt_violation, parts=parts | dict(rate=matrix_rate()))


WORKS = [Work(f"growth, {name(s)}", name(s), ours, threads=(1, 2) if s[0] == 306 else (1,)) for s in SIZES]
