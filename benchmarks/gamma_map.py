"Sparse patches with given noise: our fast search beside the published package's 1000 iterations"

import numpy as np

from .work import basis, each, hyper


def ours(p):
    import calibrain

    r = calibrain.gamma_map_sflex(
        p["L"], p["y"], float(p["noise_var"]), update_mode="fast", **basis(p)
    )
    r["posterior_mean"], r.posterior.var
    return dict(hyper=hyper(r), n_iter=r.n_iter, violation=r.kkt_violation)


def peer(p):
    from calibrain import source_estimation as published

    r = published.gamma_map_sflex(p["L"], p["y"], float(p["noise_var"]), max_iter=1000, **basis(p))
    r["posterior_mean"], np.diag(r["posterior_cov"])
    return dict(hyper=hyper(r, scaled=True), n_iter=r["n_iter"])


WORKS = each(
    "gamma_map_sflex, fast",
    ours,
    peer,
    ("64x1284", "306x1284", "64x1284x3"),
    ("100×", "100×", "100×"),
)
WORKS += each("gamma_map_sflex, fast", ours, None, ("306x5124",))
