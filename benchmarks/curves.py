"""Cost against iterations and seconds: the same call with more and more iterations allowed.

Each is made from the start.

So a point's time is what a user waits who stops there, with the basis before and the posterior after.
"""

from functools import partial
from time import perf_counter

import numpy as np

from .work import basis, each

UPTO = dict(
    fast=(1, 2, 3, 5, 7, 10, 12, 14, 16, 18, 20, 25, 30, 40, 60),
    convex=(1, 3, 10, 30, 100, 300, 1000),
)


def points(solve, upto, scaled=False):
    "Hyperparameters, iterations and seconds of calls that may take more and more iterations"
    gammas = []
    n_iter = []
    seconds = []
    for n in upto:
        t = perf_counter()
        r = solve(n)
        seconds.append(perf_counter() - t)
        gammas.append(r["gammas_full"])
        n_iter.append(int(r.n_iter if hasattr(r, "n_iter") else r["n_iter"]))
        if n_iter[-1] < n:
            break
    return dict(
        hyper=lambda: dict(gamma=np.array(gammas), noise=r["noise_var"], scaled=scaled),
        path=dict(n_iter=n_iter, seconds=seconds),
    )


def ours(p, mode):
    import calibrain

    return points(
        lambda n: calibrain.gamma_map_sflex(
            p["L"], p["y"], float(p["noise_var"]), max_iter=n, update_mode=mode, **basis(p)
        ),
        UPTO[mode],
    )


def peer(p):
    from calibrain import source_estimation as published

    return points(
        lambda n: published.gamma_map_sflex(
            p["L"], p["y"], float(p["noise_var"]), max_iter=n, **basis(p)
        ),
        UPTO["convex"],
        scaled=True,
    )


WORKS = [
    w
    for mode, other in (("fast", peer), ("convex", None))
    for w in each(
        f"curve, {mode}", partial(ours, mode=mode), other, ("64x1284", "64x1284x3"), threads=(1,)
    )
]
