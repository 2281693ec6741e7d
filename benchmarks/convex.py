"""One iteration of convex bounding, on the same path in both packages.

A call makes the basis before and the posterior after the iterations. To leave the iterations alone,
the clock is read each time the loop comes to the function that it calls once an iteration. With
free orientation we follow the published rule here, so that the paths agree.
"""

from functools import partial
from time import perf_counter
from unittest.mock import patch

from .work import basis, each, hyper

N_ITER = 100


def per_iteration(solve, module, name, scaled=False):
    "Seconds from one call of `module.name` to the next, and the result"
    seen = []
    call = getattr(module, name)

    def stamped(*args, **kwargs):
        seen.append(perf_counter())
        return call(*args, **kwargs)

    with patch.object(module, name, stamped):
        r = solve()
    seconds = (seen[-1] - seen[0]) / (len(seen) - 1)
    return dict(seconds=seconds, hyper=hyper(r, scaled=scaled), n_iter=N_ITER)


def ours(p):
    from calibrain.solvers import gamma_map, search

    rule = "calibrain-1.0" if p["k"] > 1 else None
    return per_iteration(
        partial(
            gamma_map.gamma_map_sflex,
            p["L"],
            p["y"],
            float(p["noise_var"]),
            max_iter=N_ITER,
            tol=0,
            update_mode="convex",
            rule=rule,
            **basis(p),
        ),
        search,
        "evidence_at",
    )


def peer(p):
    from calibrain import source_estimation as published

    return per_iteration(
        partial(
            published.gamma_map_sflex,
            p["L"],
            p["y"],
            float(p["noise_var"]),
            max_iter=N_ITER,
            tol=0,
            **basis(p),
        ),
        published.linalg,
        "svd",
        scaled=True,
    )


WORKS = each(
    "one iteration of convex bounding",
    ours,
    peer,
    ("64x1284", "306x1284", "64x1284x3"),
    ("4× (aim 8×)",) * 3,
)
