"""306 sensors, 20,484 sources of three orientations, patches of 10 mm.

Solve, and read all that one asks of a posterior.

The published package makes matrices of 61,452 × 61,452 numbers there (30 GB each), so we run alone.
"""

from time import perf_counter

import numpy as np

from .work import Work, basis, hyper


def ours(p):
    import calibrain

    t = perf_counter()
    r = calibrain.gamma_map_sflex(
        p["L"], p["y"], float(p["noise_var"]), update_mode="fast", **basis(p)
    )
    parts = dict(solve=perf_counter() - t)
    near = np.argsort(((p["src_coords"] - p["src_coords"][p["active"][0]]) ** 2).sum(1))[:100]
    for name, read in dict(
        std=lambda: r.posterior.std,
        blocks=lambda: r.posterior.blocks,
        samples=lambda: r.posterior.sample(100, seed=0, sources=near),
    ).items():
        t = perf_counter()
        read()
        parts[name] = perf_counter() - t
    return dict(hyper=hyper(r), n_iter=r.n_iter, violation=r.kkt_violation, parts=parts)


WORKS = [Work("whole cortex, 306x20484x3", "306x20484x3", ours, aim="8 s, 0.8 GiB")]
