"What is measured: a row of the table"

import sys
from collections.abc import Callable
from dataclasses import dataclass

SIGMA = 0.01  # width of a patch, m


@dataclass(frozen=True)
class Work:
    """The same work by us and by a peer on one problem.

    Each side takes the problem's arrays and does what a user would, start to end; that is timed. It
    returns `hyper`, a function that gives γ and the noise variance (and is not timed), and where it
    measured its parts itself, their `seconds`.
    """

    name: str
    problem: str
    ours: Callable
    peer: Callable = None
    rival: str = "calibrain"  # package of the peer
    sigma: float = SIGMA  # of the basis, or None
    threads: tuple = None  # BLAS threads, where the option is not to choose
    aim: str = ""  # what was asked for


def each(name, ours, peer, problems, aims=(), **more):
    "The same work on several problems"
    return [
        Work(f"{name}, {p}", p, ours, peer, aim=a, **more)
        for p, a in zip(problems, aims or [""] * len(problems))
    ]


def basis(p):
    "Arguments of the solvers with a basis"
    return dict(n_orient=int(p["k"]), src_coords=p["src_coords"], sigma=SIGMA)


def hyper(r, noise="noise_var", scaled=False):
    """γ and noise of a result when asked for.

    The published package returns γ `scaled`, in units of ‖YYᵀ‖/‖G‖² (Frobenius, largest row sum).
    """
    return lambda: dict(gamma=r["gammas_full"], noise=r[noise], scaled=scaled)


def resident(mark):
    "A figure of /proc/self/status in MB: VmRSS or VmHWM, the peak"
    return next(
        int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(mark)
    )


def peak():
    """Peak resident memory of this process, MB.

    Linux's own mark where there is one, for `getrusage` remembers the parent from before exec.
    """
    try:
        return resident("VmHWM")
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**20 if sys.platform == "darwin" else 1024
        )


def now():
    "Resident memory of this process, MB; its peak where the system does not say"
    try:
        return resident("VmRSS")
    except (OSError, StopIteration):
        return peak()
