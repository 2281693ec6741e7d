"""MNE, dSPM, sLORETA and eLORETA: against MNE-Python, against matrices, and against themselves."""

import mne
import numpy as np
import pytest
from problems import close, random_problem, well_posed
from routine import some
from scipy import linalg, optimize
from scipy.linalg import helmert
from test_evoked import problem, referenced, solve

from calibrain import BMN, SourceEstimator
from calibrain.core.warnings import ConvergenceWarning, NothingFoundWarning, PlausibilityWarning
from calibrain.posterior.result import result_from_arrays, result_to_arrays
from calibrain.recording.whitened import whitened_forward
from calibrain.solvers.minimum_norm import MNE, dSPM, eLORETA, sLORETA
from calibrain.solvers.registry import SOLVERS

METHODS = dict(MNE=MNE, dSPM=dSPM, sLORETA=sLORETA, eLORETA=eLORETA)
every_method = pytest.mark.parametrize("method", METHODS)
every_orientation = pytest.mark.parametrize("k", [1, 2, 3])


def head(seed, k, M=14, N=24):
    "A leadfield whose sources are of many strengths, as those of a head are"
    rng = np.random.default_rng(seed)
    return rng.normal(size=(M, N * k)) * np.repeat(rng.uniform(0.03, 1, N), k)


# ---- MNE-Python


def by_mne(evoked, fwd, cov, method, orientation, depth, lambda2, pick_ori):
    """The estimate of MNE-Python, in Am or without a unit.

    Its default takes depth weights from one kind of channel, in units of SI; the weights here are
    those of whitened channels, which it offers, and without its limit.
    """
    e = referenced(evoked)
    weights = dict(exp=depth or 0.0, limit=None, limit_depth_chs="whiten", combine_xyz="fro")
    weights["allow_fixed_depth"] = True
    how = dict(fixed=dict(fixed=True, loose=0.0), loose=dict(loose=0.2), free=dict(loose=1.0))[
        orientation
    ]
    inv = mne.minimum_norm.make_inverse_operator(
        e.info, fwd, cov, depth=weights, verbose="ERROR", **how
    )
    params = dict(eps=1e-10, max_iter=200) if method == "eLORETA" else None
    stc = mne.minimum_norm.apply_inverse(
        e, inv, lambda2, method, pick_ori=pick_ori, method_params=params, verbose="ERROR"
    )
    return stc.data


def by_us(evoked, fwd, cov, method, orientation, depth, lambda2):
    params = dict(lambda2=lambda2)
    if method == "eLORETA":
        params |= dict(tol=1e-10, max_iter=200)
    said = dict(orientation=orientation, depth=depth, solver_params=params, tmin=None, tmax=None)
    return solve(evoked, fwd, cov, method, **said)


@pytest.mark.parametrize("kind, nave", [("eeg", 6), ("meg", 1), ("both", 6)])
@pytest.mark.parametrize("orientation", ["fixed", "loose", "free"])
@pytest.mark.parametrize("depth", [None, 0.4])
@pytest.mark.parametrize("method", ["MNE", "dSPM", "sLORETA"])
def test_the_estimates_of_mne_python(method, depth, orientation, kind, nave):
    evoked, fwd, cov = shallow(kind, nave)
    est = by_us(evoked, fwd, cov, method, orientation, depth, 1 / 9)
    plain = by_mne(
        evoked,
        fwd,
        cov,
        "MNE",
        orientation,
        depth,
        1 / 9,
        None if orientation == "fixed" else "vector",
    )
    close(est.mean.data, plain, 1e-6, "in Am")
    if method == "MNE":
        assert "standardised_mean" not in est.result
        return
    theirs = by_mne(evoked, fwd, cov, method, orientation, depth, 1 / 9, None)
    close(est.result["standardised_mean"], theirs, 1e-6, "the map")


def shallow(kind, nave):
    "A recording of sources of similar strength, as weights in depth have a limit; none is radial"
    evoked, fwd, cov = problem(kind, nave)
    radius = np.linalg.norm(fwd["source_rr"], axis=1)
    normals = fwd["src"][0]["nn"][fwd["src"][0]["vertno"]]
    along = np.abs((fwd["source_rr"] * normals).sum(1)) / radius
    far = np.flatnonzero((radius > 0.02) & (radius < 0.065) & (along < 0.999))
    return evoked, restricted(fwd, far), cov


def restricted(fwd, keep):
    "A forward solution with some of its sources"
    fwd = fwd.copy()
    src = fwd["src"][0]
    vertices = src["vertno"][keep]
    src["inuse"] = np.isin(np.arange(src["np"]), vertices).astype(int)
    src["vertno"] = vertices
    src["nuse"] = fwd["nsource"] = len(keep)
    columns = (3 * keep[:, None] + np.arange(3)).ravel()
    for name in ("sol", "_orig_sol"):
        if name == "sol":
            fwd[name]["data"] = fwd[name]["data"][:, columns]
            fwd[name]["ncol"] = len(columns)
        else:
            fwd[name] = fwd[name][:, columns]
    fwd["source_rr"] = fwd["source_rr"][keep]
    fwd["source_nn"] = fwd["source_nn"][columns]
    return fwd


@pytest.mark.parametrize("kind, nave", [("eeg", 6), ("meg", 1), ("both", 6)])
@pytest.mark.parametrize("orientation", ["fixed", "free"])
@pytest.mark.parametrize("lambda2", [1 / 9, 1.0])
def test_eloreta_of_mne_python(lambda2, orientation, kind, nave):
    evoked, fwd, cov = shallow(kind, nave)
    est = by_us(evoked, fwd, cov, "eLORETA", orientation, None, lambda2)
    pick = None if orientation == "fixed" else "vector"
    theirs = by_mne(evoked, fwd, cov, "eLORETA", orientation, None, lambda2, pick)
    close(est.mean.data, theirs, 1e-6, "in Am")


def power(A, p):
    "A power of each of several symmetric matrices"
    w, U = np.linalg.eigh(A)
    return (U * w[:, None] ** p) @ U.transpose(0, 2, 1)


def block_diagonal(blocks):
    return linalg.block_diag(*blocks)


def iterated(L, lambda2, prior_std, times):
    "The kernel of eLORETA, its prior of orientations applied once or twice in each iteration"
    M = len(L)
    G = L * prior_std
    by_source = prior_std.reshape(-1, 3, 1) * prior_std.reshape(-1, 1, 3)
    again = by_source if times == 2 else np.ones_like(by_source)
    R = np.eye(3) * again
    for _ in range(100):
        C = G @ block_diagonal(R) @ G.T
        N = np.linalg.inv(C / (np.trace(C) / M) + lambda2 * np.eye(M))
        columns = G.T.reshape(-1, 3, M)
        R = power(columns @ N @ columns.transpose(0, 2, 1), -0.5) * again
    prior = block_diagonal(R if times == 2 else R * by_source)
    C = L @ prior @ L.T
    size = np.trace(C) / M
    return prior / size @ L.T @ np.linalg.inv(C / size + lambda2 * np.eye(M))


def test_loose_eloreta_differs_from_mne_python_by_a_prior_applied_twice():
    evoked, fwd, cov = shallow("eeg", 6)
    est = by_us(evoked, fwd, cov, "eLORETA", "loose", None, 1 / 9)
    theirs = by_mne(evoked, fwd, cov, "eLORETA", "loose", None, 1 / 9, "vector")
    seen = whitened_forward([evoked], fwd, cov, None, "loose")
    estimates = []
    for times in (1, 2):
        x = iterated(seen.plain.L, 1 / 9, seen.prior_std, times) @ seen.whiten(evoked)
        x = x.reshape(-1, 3, x.shape[1])
        estimates.append(1e-9 * seen.leadfield.basis @ x)
    close(est.mean.data, estimates[0], 1e-6, "once")
    close(theirs, estimates[1], 1e-6, "twice")
    assert np.abs(theirs - est.mean.data).max() > 0.01 * np.abs(theirs).max()


def test_depth_weights_for_eloreta_are_announced():
    evoked, fwd, cov = shallow("eeg", 6)
    with pytest.warns(
        PlausibilityWarning, match="eLORETA makes up for depth by itself.*depth=None"
    ):
        solve(evoked, fwd, cov, "eLORETA", depth=0.8)


# ---- matrices


def dense(L, gamma, noise, R):
    "Kernel, Σ and posterior covariance from full matrices"
    prior = gamma * R
    Sigma = L @ prior @ L.T + noise * np.eye(len(L))
    K = prior @ L.T @ np.linalg.inv(Sigma)
    return K, Sigma, prior - K @ L @ prior


@every_orientation
@every_method
@pytest.mark.parametrize("lambda2", [1 / 9, "evidence", "gcv"])
def test_dense_twin(method, k, lambda2):
    L = head(1, k)
    rng = np.random.default_rng(2)
    y = L @ rng.normal(scale=3.0, size=(L.shape[1], 30)) + rng.normal(size=(len(L), 30))
    r = METHODS[method](L, y, 1.0, k, lambda2=lambda2)
    R = np.eye(L.shape[1])
    if method == "eLORETA":
        R = (r["B_operator"] @ r["B_operator"].T).toarray()
        assert np.trace(R) == pytest.approx(len(R))
    K, Sigma, cov = dense(L, r.gamma, 1.0, R)
    close(r.mean, K @ y, 1e-10, "mean")
    close(r["posterior_cov"], cov, 1e-10, "covariance")
    assert r["lambda2"] == pytest.approx(len(L) / (r.gamma * np.trace(L @ R @ L.T)), rel=1e-10)
    if lambda2 == 1 / 9:
        assert r["lambda2"] == pytest.approx(1 / 9, rel=1e-10)
    of = dict(dSPM=K @ K.T, sLORETA=K @ Sigma @ K.T).get(method)
    if of is None:
        return
    size = np.sqrt(np.diag(of).reshape(-1, k).sum(1))
    close(r["standardisation"], size, 1e-10, "what the map is divided by")
    lengths = np.linalg.norm((K @ y).reshape(-1, k, 30), axis=1) if k > 1 else K @ y
    close(r["standardised_mean"], lengths / size[:, None], 1e-10, "map")


@every_orientation
def test_sloreta_by_block(k):
    L = head(3, k)
    y = np.random.default_rng(3).normal(size=(len(L), 5))
    r = sLORETA(L, y, 1.0, k, lambda2=0.5, by_block=True)
    K, Sigma, _ = dense(L, r.gamma, 1.0, np.eye(L.shape[1]))
    of = K @ Sigma @ K.T
    for n in range(L.shape[1] // k):
        its = slice(n * k, n * k + k)
        x = (K @ y)[its]
        squared = np.einsum("it,ij,jt->t", x, np.linalg.inv(of[its, its]), x)
        close(r["standardised_mean"][n] ** 2, squared, 1e-9, f"source {n}")
        root = r["standardisation"][n]
        close(root @ root, of[its, its], 1e-9, f"block {n}")


# ---- the regularisation


@every_orientation
@pytest.mark.parametrize("method", ["MNE", "dSPM", "sLORETA"])
def test_by_evidence_it_is_bmn(method, k):
    for seed in some(range(60), every=7):
        L, y, noise, k_of_problem, _ = random_problem(seed)
        if k_of_problem != k:
            continue
        a = METHODS[method](L, y, noise, k)
        b = BMN(L, y, noise, k)
        assert a.gamma == pytest.approx(b.gamma, rel=1e-8)
        assert a.log_evidence == pytest.approx(b.log_evidence, rel=1e-10)
        assert a.kkt_violation == pytest.approx(b.kkt_violation, abs=1e-12)


@every_orientation
def test_eloreta_is_at_the_top_of_the_evidence_of_its_prior(k):
    L = head(4, k)
    rng = np.random.default_rng(4)
    y = L @ rng.normal(scale=3.0, size=(L.shape[1], 40)) + rng.normal(size=(len(L), 40))
    r = eLORETA(L, y, 1.0, k)
    R = (r["B_operator"] @ r["B_operator"].T).toarray()

    def cost(log_gamma):
        Sigma = dense(L, np.exp(log_gamma), 1.0, R)[1]
        return np.linalg.slogdet(Sigma)[1] + np.trace(np.linalg.solve(Sigma, y @ y.T)) / 40

    around = np.log(r.gamma) + np.array([-1, 1])
    best = optimize.minimize_scalar(cost, bounds=around, method="bounded", options=dict(xatol=1e-9))
    assert np.log(r.gamma) == pytest.approx(best.x, abs=1e-5)
    assert r.cost == pytest.approx(best.fun, rel=1e-10) and r.kkt_violation < 1e-8


@every_method
def test_cross_validation_leaves_sensors_out(method):
    "Of a leadfield that all sensors see alike, it is leaving one sensor out"
    M = 12
    rng = np.random.default_rng(5)
    shape = rng.normal(size=M)
    L = np.stack([np.roll(shape, i) for i in range(M)])
    y = L @ rng.normal(scale=0.7, size=(M, 50)) + rng.normal(size=(M, 50))
    r = METHODS[method](L, y, 1.0, lambda2="gcv")

    def error(log_gamma):
        G = np.exp(log_gamma / 2) * L
        lost = 0.0
        for m in range(M):
            rest = np.delete(np.arange(M), m)
            C = G[rest] @ G[rest].T + np.eye(M - 1)
            lost += ((y[m] - G[m] @ G[rest].T @ np.linalg.solve(C, y[rest])) ** 2).sum()
        return lost

    best = optimize.minimize_scalar(error, bounds=(-6, 4), method="bounded").x
    assert np.log(r.gamma) == pytest.approx(best, abs=1e-3)
    assert np.isnan(r.kkt_violation) and r.converged


def test_cross_validation_after_an_average_reference():
    "A direction that nobody measured is not predicted well: it is not there"
    L = head(6, 1, M=16, N=10)
    rng = np.random.default_rng(6)
    y = L @ rng.normal(scale=3.0, size=(10, 80)) + rng.normal(size=(16, 80))
    P = helmert(16)
    few = MNE(P @ L, P @ y, 1.0, lambda2="gcv")
    full = MNE(P.T @ P @ L, P.T @ P @ y, 1.0, lambda2="gcv")
    assert full.gamma == pytest.approx(few.gamma, rel=1e-6)


def test_cross_validation_without_noise_says_that_it_has_no_end():
    L = head(7, 1, M=8, N=40)
    y = L @ np.random.default_rng(7).normal(size=(40, 400))
    with pytest.warns(ConvergenceWarning, match="without any regularisation.*lambda2="):
        r = MNE(L, y, 1e-9, lambda2="gcv")
    assert not r.converged


@every_method
def test_nothing_above_the_noise(method):
    rng = np.random.default_rng(8)
    L = head(8, 2)
    with pytest.warns(NothingFoundWarning):
        r = METHODS[method](L, 0.1 * rng.normal(size=(14, 50)), 1.0, 2)
    assert r.nothing_found and r["lambda2"] == np.inf and not r.std.any()
    if "standardised_mean" in r:
        assert r["standardised_mean"].shape == (24, 50) and not r["standardised_mean"].any()


# ---- where a single dipole is found


def displaced(method, L, k, lambda2, **more):
    "How many dipoles, one at a time, without noise, have the top of their map at another source"
    N = L.shape[1] // k
    rng = np.random.default_rng(9)
    moments = np.eye(k) if k == 1 else rng.normal(size=(6, k))
    wrong = 0
    for q in moments:
        y = L.reshape(len(L), N, k) @ q
        r = METHODS[method](L, y, 1.0, k, lambda2=lambda2, **more)
        of_source = r.mean.reshape(N, k, -1)
        at = (
            r["standardised_mean"]
            if "standardised_mean" in r
            else np.linalg.norm(of_source, axis=1)
        )
        wrong += (np.abs(at).argmax(0) != np.arange(N)).sum()
    return wrong


@every_orientation
@pytest.mark.parametrize("lambda2", [1e-3, 1 / 9, 3.0])
def test_sloreta_and_eloreta_find_every_dipole(k, lambda2):
    for seed in (10, 11):
        L = head(seed, k)
        assert displaced("eLORETA", L, k, lambda2, tol=1e-10, max_iter=500) == 0
        assert displaced("sLORETA", L, k, lambda2, by_block=True) == 0
        assert displaced("MNE", L, k, lambda2) > 0
        if k == 1:
            assert displaced("sLORETA", L, k, lambda2) == 0


# ---- maps follow what surrounds a solver


@pytest.mark.parametrize("method", ["dSPM", "sLORETA"])
def test_complex_maps(method):
    rng = np.random.default_rng(12)
    for k in (1, 3):
        L = head(12, k)
        z = rng.normal(size=(14, 6)) + 1j * rng.normal(size=(14, 6))
        r = METHODS[method](L, z, 1.0, k, lambda2=1.0)
        parts = METHODS[method](L, np.hstack([z.real, z.imag]), 1.0, k, lambda2=1.0)
        both = parts["standardised_mean"]
        if k == 1:
            close(r["standardised_mean"].imag, both[:, 6:], 1e-12, "imaginary parts")
        else:
            close(r["standardised_mean"], np.hypot(both[:, :6], both[:, 6:]), 1e-12, "lengths")


def test_maps_are_kept_in_a_file():
    L = head(13, 2)
    r = sLORETA(L, np.random.default_rng(13).normal(size=(14, 6)), 1.0, 2, lambda2=1.0)
    again = result_from_arrays(result_to_arrays(r))
    assert np.array_equal(again["standardised_mean"], r["standardised_mean"])
    assert np.isnan(again.kkt_violation) and set(again) == set(r)


@pytest.mark.parametrize("method", ["dSPM", "sLORETA"])
def test_maps_of_conditions_that_are_solved_together(method):
    "The same noise, in multiples of each condition's, is the same map"
    evoked, fwd, cov = shallow("eeg", 6)
    other = evoked.copy()
    other.nave = 5
    said = dict(orientation="free", solver_params=dict(lambda2=1 / 9))
    for one, e in zip(
        solve([evoked, other], fwd, cov, method, shared=True, **said), (evoked, other)
    ):
        alone = solve(e, fwd, cov, method, **said)
        for name in ("standardised_mean", "standardisation"):
            close(one.result[name], alone.result[name], 1e-10, name)


@pytest.mark.parametrize("method", ["dSPM", "sLORETA"])
def test_more_data_has_no_map(method):
    "A map is of the noise that there was: it is left out, not shown with another's error"
    est = solve(*shallow("eeg", 6), method)
    then = est.with_nave(60).then
    assert "standardised_mean" in est.result and "standardised_mean" not in then.result
    assert (then.std.data < est.std.data).all()


# ---- what is asked for


@every_method
def test_bad_input(method):
    solver = METHODS[method]
    L, y = well_posed(0)
    for value in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"lambda2 must be finite and > 0.*1 / 9"):
            solver(L, y, 1.0, lambda2=value)
    with pytest.raises(ValueError, match="lambda2 must be one of 'evidence', 'gcv', got 'lcurve'"):
        solver(L, y, 1.0, lambda2="lcurve")
    with pytest.raises(TypeError, match="lambda2 must be a real number, got None"):
        solver(L, y, 1.0, lambda2=None)
    with pytest.raises(ValueError, match="n_components must be None where lambda2 is a number"):
        solver(L, y, 1.0, lambda2=1.0, n_components="auto")
    for noise in (None, 0, -1):
        with pytest.raises((TypeError, ValueError), match=r"noise_var must be .*pass the variance"):
            solver(L, y, noise)
    with pytest.raises(ValueError, match="noise_var must be given, as"):
        SourceEstimator(method).fit(L, y)


@every_method
def test_a_source_without_a_field(method):
    L = head(14, 3)
    L[:, 12:15] = 0
    y = np.random.default_rng(14).normal(size=(14, 6))
    if method == "MNE":
        r = MNE(L, y, 1.0, 3, lambda2=1.0)
        assert np.allclose(r.std[12:15] ** 2, r.gamma)
        return
    with pytest.raises(ValueError, match="zeros for source 4: leave it out"):
        METHODS[method](L, y, 1.0, 3)


def test_weights_that_are_not_there_yet():
    L = head(15, 3)
    y = np.random.default_rng(15).normal(size=(14, 6))
    with pytest.warns(ConvergenceWarning, match=r"max_iter=2 iterations: its weights.*Raise max_"):
        r = eLORETA(L, y, 1.0, 3, max_iter=2, lambda2=1.0)
    assert not r.converged and r.n_iter == 2
    assert np.linalg.eigvalsh(r["posterior_cov"]).min() > -1e-12 * r.gamma


def test_a_direction_that_no_sensor_sees():
    L = head(17, 3)
    L[:, 8] = 0.3 * L[:, 7] - L[:, 6]
    y = np.random.default_rng(17).normal(size=(14, 6))
    with pytest.warns(PlausibilityWarning, match="1 of 24 sources have a direction that no sensor"):
        r = eLORETA(L, y, 1.0, 3, lambda2=1.0)
    unseen = np.array([1, -0.3, 1]) / np.sqrt(2.09)
    block = r.posterior.blocks[2]
    assert unseen @ block @ unseen < 1e-12 * np.trace(block)


def test_equal_weights():
    L = head(16, 3)
    y = np.random.default_rng(16).normal(size=(14, 6))
    r = eLORETA(L, y, 1.0, 3, force_equal=True, lambda2=1.0)
    prior_std = r["B_operator"].toarray()
    assert np.array_equal(prior_std, np.diag(np.diag(prior_std)))
    assert np.ptp(np.diag(prior_std).reshape(-1, 3), axis=1).max() == 0
    assert not np.allclose(r.mean, eLORETA(L, y, 1.0, 3, lambda2=1.0).mean)


def test_registered():
    for name, function in METHODS.items():
        assert SOLVERS[name].function is function and not SOLVERS[name].learns_noise
