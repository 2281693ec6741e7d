"""Inverse problems of every size, the same on every machine.

Sensors lie on a sphere of 0.09 m, sources at random depths within it (0.042 to 0.07 m). The
leadfield falls with 1/r², is average-referenced and has columns of norm 1 in the mean; with fixed
orientations each source points outwards. Five sources are active, and alpha_SNR is 0.5.
"""

from pathlib import Path

import numpy as np

SIZES = {  # sensors, sources, orientations, samples
    "tiny": (16, 40, 1, 130),
    "tiny x3": (16, 40, 3, 130),
    "64x1284": (64, 1284, 1, 250),
    "64x1284x3": (64, 1284, 3, 250),
    "306x1284": (306, 1284, 1, 250),
    "306x5124": (306, 5124, 1, 250),
    "306x20484x3": (306, 20484, 3, 250),
}


def geometry(M, N, seed=0):
    "Leadfield (M, N, 3), positions (N, 3) in m, and directions outwards (N, 3)"
    rng = np.random.default_rng(seed)
    out = rng.normal(size=(N, 3))
    out /= np.linalg.norm(out, axis=1)[:, None]
    r = out * rng.uniform(0.042, 0.07, N)[:, None]
    sensors = rng.normal(size=(M, 3))
    sensors *= 0.09 / np.linalg.norm(sensors, axis=1)[:, None]
    L = sensors[:, None] - r
    L /= np.linalg.norm(L, axis=2)[..., None] ** 3
    L -= L.mean(0)
    return L / np.linalg.norm(L, axis=0).mean(), r, out


def make(M, N, k, T=250, seed=0):
    "The arrays that a solver is given; T samples in one second"
    from calibrain import SensorSimulator, SourceSimulator

    L, r, out = geometry(M, N, seed)
    if k == 1:
        L = np.einsum("mnk,nk->mn", L, out)
    erp = dict(sfreq=T, erp_min_length=round(0.328 * T))
    x, active = SourceSimulator(erp).simulate(
        n_sources=N, nnz=5, orientation_type="fixed" if k == 1 else "free", seed=seed
    )
    _, y, noise, _ = SensorSimulator().simulate(x, L, alpha_SNR=0.5, seed=seed)
    return dict(L=L.reshape(M, -1), y=y, noise_var=np.var(noise), src_coords=r, k=k, active=active)


def store(name, folder, size=None):
    "Write a problem as .npz, once"
    path = Path(folder) / f"{name}.npz"
    if not path.exists():
        np.savez(path, **make(*(size or SIZES[name])))
    return path


def load(path):
    "The arrays of a stored problem"
    with np.load(path) as z:
        return {key: z[key][()] for key in z.files}


def first_sources(p, n):
    "The same problem with only its first sources, for warming up"
    return p | dict(
        L=p["L"][:16, : n * p["k"]],
        y=p["y"][:16],
        src_coords=p["src_coords"][:n],
        active=p["active"] % n,
    )
