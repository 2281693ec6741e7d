"Sparse patches with learned noise: our fast search beside the published package's 1000 iterations"

import numpy as np

from .work import basis, each, hyper


def ours(p):
    import calibrain

    r = calibrain.gamma_lambda_map_sflex(
        p["L"], p["y"], update_mode="fast", max_iter=1000, **basis(p)
    )
    r["posterior_mean"], r.posterior.var
    return dict(hyper=hyper(r, "lambdas"), n_iter=r.n_iter, violation=r.kkt_violation)


def peer(p):
    from calibrain import source_estimation as published

    r = published.gamma_lambda_map_sflex(p["L"], p["y"], max_iter=1000, **basis(p))
    r["posterior_mean"], np.diag(r["posterior_cov"])
    return dict(hyper=hyper(r, "lambdas", scaled=True), n_iter=len(r["err_gamma_hist"]))


WORKS = each(
    "gamma_lambda_map_sflex, fast",
    ours,
    peer,
    ("64x1284", "306x1284", "64x1284x3"),
    ("30× (aim 100×)", "100×", "100×"),
)
