"Bayesian minimum norm: solve, then read mean and marginal variances"

from functools import partial

import numpy as np

from .work import each


def arguments(p, joint):
    return (p["y"],) if joint else (p["y"], float(p["noise_var"]))


def head_of(p):
    """The prepared leadfield, made once, with the eigenvectors that BMN finds in it.

    The first of five calls makes them, and the median counts: this is about the next recording.
    """
    from calibrain.head.prepared import prepare

    if "head" not in p:
        p["head"] = prepare(p["L"], int(p["k"]))
    return p["head"]


def ours(p, joint, prepared=False):
    "The optimum, and the variances without an N × N matrix"
    import calibrain

    L = head_of(p) if prepared else p["L"]
    solver = calibrain.BMN_joint if joint else calibrain.BMN
    r = solver(L, *arguments(p, joint), n_orient=int(p["k"]))
    r["posterior_mean"], r.posterior.var
    return dict(
        hyper=lambda: dict(gamma=np.full(p["L"].shape[1], r["gamma"]), noise=r["noise_var"])
    )


def peer(p, joint):
    """It returns γ in units of its own, ‖Y‖²/‖L‖² (of which whitening keeps the ratio).

    The cost needs nAm².
    """
    from calibrain import source_estimation as published

    r = (published.BMN_joint if joint else published.BMN)(
        p["L"], *arguments(p, joint), n_orient=int(p["k"])
    )
    r["posterior_mean"], np.diag(r["posterior_cov"])

    def hyper():
        unit = (np.linalg.norm(p["y"]) / np.linalg.norm(p["L"], 2)) ** 2
        return dict(gamma=np.full(p["L"].shape[1], r["gamma"] * unit), noise=r["noise_var"])

    return dict(hyper=hyper)


WORKS = [
    w
    for joint, name in ((False, "BMN"), (True, "BMN_joint"))
    for w in each(
        name,
        partial(ours, joint=joint),
        partial(peer, joint=joint),
        ("64x1284", "306x1284", "64x1284x3"),
        ("20× (aim 50×)", "30×", "100× (aim 300×)"),
        sigma=None,
    )
]
WORKS += each(
    "BMN, head prepared",
    partial(ours, joint=False, prepared=True),
    partial(peer, joint=False),
    ("306x1284",),
    ("30×",),
    sigma=None,
)
