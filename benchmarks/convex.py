"""One iteration of convex bounding, on the same path in both packages.

A call makes the basis before and the posterior after the iterations; the difference between a long and a short call leaves the iterations alone. With free
orientation we follow the published rule here, so that the paths agree.
"""
from time import perf_counter

from .work import basis, each, hyper

SHORT, LONG = 10, 110


def per_iteration(solve, scaled=False):
    "Seconds of one iteration, and the result of the long call"
    t = perf_counter()
    solve(SHORT)
    s = perf_counter()
    r = solve(LONG)
    return dict(seconds=(perf_counter() - s - (s - t)) / (LONG - SHORT), hyper=hyper(r, scaled=scaled), n_iter=LONG)


def ours(p):
    import calibrain
    rule = "calibrain-1.0" if p["k"] > 1 else None
    return per_iteration(lambda n: calibrain.gamma_map_sflex(p["L"], p["y"], float(p["noise_var"]), max_iter=n, tol=0, rule=rule, **basis(p)))


def peer(p):
    from calibrain import source_estimation as published
    return per_iteration(lambda n: published.gamma_map_sflex(p["L"], p["y"], float(p["noise_var"]), max_iter=n, tol=0, **basis(p)), scaled=True)


WORKS = each("one iteration of convex bounding", ours, peer, ("64x1284", "306x1284", "64x1284x3"), ("4× (aim 8×)",) * 3)
