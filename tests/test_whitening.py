"""Noise of any covariance.

Against dense formulas on an explicit basis, SciPy's singular Gaussian, and MNE's own whitener.
"""

import html
import pickle

import mne
import numpy as np
import pytest
from problems import arguments
from scipy import linalg
from scipy.stats import multivariate_normal
from sklearn.base import clone

from calibrain import BMN, BMN_joint, SourceEstimator
from calibrain.head.leadfield import Leadfield
from calibrain.head.prepared import prepare
from calibrain.head.whitening import Whitener, noise_whitener, sensor_covariance, whitener
from calibrain.solvers.registry import SOLVERS

pytestmark = pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.ConvergenceWarning",
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
)
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=lambda s: s.name)
orientations = pytest.mark.parametrize("k", [1, 2, 3])
M, N, T = 12, 20, 30


def problem(k, seed=0):
    "Leadfield, recording with correlated noise, the noise's covariance, positions"
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(M, N * k))
    A = rng.normal(size=(M, M))
    C = 0.3 * A @ A.T / M + 0.2 * np.eye(M)
    x = np.zeros((N, k, T))
    x[[3, 11]] = 2 * rng.normal(size=(2, k, T))
    noise = linalg.cholesky(C, lower=True) @ rng.normal(size=(M, T))
    return L, L @ x.reshape(N * k, T) + noise, C, rng.normal(scale=0.02, size=(N, 3))


def estimator(solver, coords, k, noise_var=None, noise_cov=None, **more):
    "An estimator with what its solver wants; solvers that can do with given noise are told it"
    params = arguments(solver, 1.0, coords, max_iter=60, learn_noise=False, **more)
    params.pop("noise_var", None)
    return SourceEstimator(solver.function, params, noise_var, k, noise_cov=noise_cov)


def close(a, b, rtol=1e-10):
    a = np.asarray(a)
    b = np.asarray(b)
    assert a.shape == b.shape
    off = np.abs(a - b).max()
    size = np.abs(b).max()
    assert off <= rtol * size, f"differs by {off / size:.2e}"


def model(r, L, k, C):
    "Covariance of the data and prior of the sources at a result's hyperparameters, in full"
    S = np.eye(L.shape[1])
    if "B_spatial" in r:
        S = np.kron(r["B_spatial"].toarray(), np.eye(k))
    if "B_operator" in r:
        S = r["B_operator"].toarray()
    gamma = r.get("gammas_full", np.full(L.shape[1], r["gamma"]))
    prior = (S * gamma) @ S.T
    return C + L @ prior @ L.T, prior


def dense(r, L, y, k, C):
    "Mean and covariance by the textbook formula"
    Sigma, prior = model(r, L, k, C)
    gain = np.linalg.solve(Sigma, L @ prior).T
    return gain @ y, prior - gain @ L @ prior


def test_what_a_whitener_is():
    _, _, C, _ = problem(1)
    P = np.eye(M) - 1 / M
    cases = [(C, M), (P @ C @ P, M - 1), (P, M - 1), (np.diag([0.0, 1, 2, 3]), 3)]
    for cov, rank in cases:
        w = whitener(cov)
        assert (w.rank, w.n_sensors) == (rank, len(cov))
        close(w.W @ cov @ w.W.T, np.eye(rank), 1e-11)
        close(w.W.T @ w.W, np.linalg.pinv(cov, rcond=1e-10, hermitian=True), 1e-10)
        log_det = np.log(np.linalg.eigvalsh(cov)[-rank:]).sum()
        assert abs(w.log_det + log_det / 2) < 1e-12


def test_the_rows_stay_near_the_sensors():
    "The symmetric root where nothing is missing, and the largest axes where a rank is said"
    C = problem(1)[2]
    close(whitener(C).W, linalg.inv(linalg.sqrtm(C)).real)
    white = whitener(0.7**2 * np.eye(M)).W
    assert np.abs(white - np.eye(M) / 0.7).max() < 1e-15
    d, U = np.linalg.eigh(C)
    along = whitener(C, rank=4).W @ U[:, -4:]
    close(np.abs(along), np.diag(d[-4:] ** -0.5))


def test_single_precision_covariances_keep_their_rank():
    P = np.eye(M) - 1 / M
    cov = (P @ problem(1)[2] @ P).astype(np.float32)
    assert whitener(cov).rank == M - 1 and whitener((cov + cov.T) / 2).rank == M - 1


@every_solver
@orientations
@pytest.mark.parametrize("mode", ["convex", "fast"])
def test_white_noise_is_the_noise_variance(solver, k, mode):
    "On mean, variance, γ, cost and evidence; learned noise comes out in units of the covariance"
    L, y, _, coords = problem(k)
    v = 0.37
    told = {} if solver.learns_noise and "noise_var" not in solver.takes() else dict(noise_var=v)
    a = estimator(solver, coords, k, noise_cov=v * np.eye(M), update_mode=mode).fit(L, y).predict()
    b = estimator(solver, coords, k, update_mode=mode, **told).fit(L, y).predict()
    close(a["posterior_mean"], b["posterior_mean"])
    close(a.posterior.var, b.posterior.var)
    close(a["gamma"], b["gamma"])
    close(a.cost, b.cost)
    close(a.log_evidence, b.log_evidence)
    close(v * a.noise_var, b.noise_var)
    if "gammas_full" in b:
        close(a["gammas_full"], b["gammas_full"])
    if solver.cost_falls:
        close(a.history["cost"], b.history["cost"])
    if "lambdas" in b:
        close(v * a["lambdas"], b["lambdas"])


@orientations
def test_bmn_with_normalisation(k):
    L, y, _, _ = problem(k)
    a, b = (
        SourceEstimator(BMN, dict(normalization=True), n_orient=k, **noise).fit(L, y).predict()
        for noise in (dict(noise_cov=0.37 * np.eye(M)), dict(noise_var=0.37))
    )
    close(a["posterior_mean"], b["posterior_mean"])
    close(a.posterior.var, b.posterior.var)
    close(a["gamma"], b["gamma"])
    close(a.cost, b.cost)


@every_solver
@orientations
def test_a_full_covariance_is_the_textbook_formula(solver, k):
    L, y, C, coords = problem(k)
    e = estimator(solver, coords, k, noise_cov=C, update_mode="convex").fit(L, y)
    r = e.predict()
    if "lambdas" in r:  # learned: diagonal in the whitened space
        back = np.linalg.inv(e.whitener_.W)
        C = (back * r["lambdas"]) @ back.T
    mean, cov = dense(r, L, y, k, C)
    close(r["posterior_mean"], mean, 1e-9)
    close(r["posterior_cov"], cov, 1e-9)
    close(r.log_evidence, multivariate_normal(np.zeros(M), model(r, L, k, C)[0]).logpdf(y.T).sum())
    close(r.log_evidence, -T / 2 * (r.cost + M * np.log(2 * np.pi)), 1e-12)
    if "cost" in r.history:
        close(r.history["cost"][-1], r.cost, 1e-12)


@every_solver
@orientations
@pytest.mark.parametrize("correlated", [False, True])
def test_after_an_average_reference(solver, k, correlated):
    """The dense computation on the kept subspace, in a basis made without any eigenvector.

    And SciPy's pseudo-determinant.
    """
    L, y, C, coords = problem(k)
    if not correlated:
        C = 0.37 * np.eye(M)
    P = np.eye(M) - 1 / M
    Q = linalg.helmert(M).T
    L, y, C = P @ L, P @ y, P @ C @ P
    e = estimator(solver, coords, k, noise_cov=C, update_mode="convex").fit(L, y)
    r = e.predict()
    assert e.whitener_.rank == M - 1
    Lambda = Q.T @ C @ Q
    if "lambdas" in r:
        back = np.linalg.inv(e.whitener_.W @ Q)
        Lambda = (back * r["lambdas"]) @ back.T
    mean, cov = dense(r, Q.T @ L, Q.T @ y, k, Lambda)
    close(r["posterior_mean"], mean, 1e-9)
    close(r["posterior_cov"], cov, 1e-9)
    Sigma = model(r, L, k, Q @ Lambda @ Q.T)[0]
    density = multivariate_normal(np.zeros(M), (Sigma + Sigma.T) / 2, allow_singular=True)
    close(r.log_evidence, density.logpdf(y.T).sum())
    close(r.cost, -2 / T * r.log_evidence - (M - 1) * np.log(2 * np.pi))


@orientations
def test_the_optimum_does_not_depend_on_the_basis_of_the_kept_subspace(k):
    L, y, _, _ = problem(k)
    P = np.eye(M) - 1 / M
    Q = linalg.helmert(M)
    r = SourceEstimator(BMN, n_orient=k, noise_cov=0.37 * P).fit(P @ L, P @ y).predict()
    there = BMN(Q @ L, Q @ y, 0.37, n_orient=k)
    close(r["gamma"], there["gamma"], 1e-9)
    close(r.log_evidence, there.log_evidence)
    close(r["posterior_mean"], there["posterior_mean"], 1e-9)


@every_solver
@pytest.mark.parametrize("rank", [M, M - 1])
@pytest.mark.parametrize("scale", [1e-6, 40.0])
def test_other_units(solver, rank, scale):
    L, y, C, coords = problem(2)
    P = np.eye(M) - (1 / M if rank < M else 0)
    L, y, C = P @ L, P @ y, P @ C @ P
    a = estimator(solver, coords, 2, noise_cov=C).fit(L, y).predict()
    scaled = estimator(solver, coords, 2, noise_cov=scale**2 * C)
    b = scaled.fit(scale * L, scale * y).predict()
    close(b["posterior_mean"], a["posterior_mean"], 1e-9)
    close(b.posterior.var, a.posterior.var, 1e-9)
    shift = -T * rank * np.log(scale)
    assert abs(b.log_evidence - a.log_evidence - shift) <= 1e-10 * abs(shift)


def test_differences_of_log_evidence_have_no_units():
    L, y, C, _ = problem(1)

    def difference(scale):
        joint, given = (
            SourceEstimator(solver, noise_cov=scale**2 * C).fit(scale * L, scale * y).predict()
            for solver in ("BMN_joint", "BMN")
        )
        return joint.log_evidence - given.log_evidence

    assert difference(1) >= 0
    assert abs(difference(1e-6) - difference(1)) < 1e-8


def sensors(k=1, n_eeg=5, n_mag=4, n_grad=3):
    "A leadfield of three kinds of sensors, of the sizes that heads have, and their info"
    kinds = ["eeg"] * n_eeg + ["mag"] * n_mag + ["grad"] * n_grad
    unit = [dict(eeg="µV/nAm", mag="fT/nAm", grad="fT/cm/nAm")[t] for t in kinds]
    size = np.array([dict(eeg=0.3, mag=30, grad=8)[t] for t in kinds])
    info = mne.create_info([f"{t} {i}" for i, t in enumerate(kinds)], 100.0, kinds)
    lf = Leadfield.random(len(kinds), N, k)
    data = lf.data * size[:, None, None]
    return Leadfield(data, lf.coords, unit=unit, ch_names=info.ch_names), info


SI = {"µV/nAm": 1e6, "fT/nAm": 1e15, "fT/cm/nAm": 1e13}


def test_mne_covariances_find_their_place():
    lf, info = sensors()
    ad_hoc = mne.make_ad_hoc_cov(info)  # diagonal
    assert ad_hoc["diag"] and np.ndim(ad_hoc["data"]) == 1
    C = sensor_covariance(ad_hoc, lf)
    mne_s = [0.2] * 5 + [20] * 4 + [5] * 3  # µV, fT and fT/cm
    close(C.diagonal(), np.square(mne_s), 1e-12)
    assert np.count_nonzero(C) == len(C)
    rng = np.random.default_rng(3)
    order = rng.permutation(12)
    A = rng.normal(size=(12, 12))
    scale = 1 / np.array([SI[u] for u in lf.units])
    in_si = (A @ A.T) * scale[:, None] * scale
    names = [info.ch_names[i] for i in order]
    full = mne.Covariance(in_si[np.ix_(order, order)], names, [], [], 50)
    close(sensor_covariance(full, lf), A @ A.T, 1e-12)
    some = lf.select(["grad 10", "eeg 2", "mag 6"])
    close(sensor_covariance(full, some), (A @ A.T)[np.ix_([10, 2, 6], [10, 2, 6])], 1e-12)
    bad = mne.Covariance(full.data, full.ch_names, ["mag 6"], [], 50)
    words = r"good for all channels of the leadfield, got mag 6 marked as bad: leave them out with"
    with pytest.raises(ValueError, match=words):
        sensor_covariance(bad, some)
    assert sensor_covariance(bad, lf.select(["eeg 2"])).shape == (1, 1)


@pytest.mark.parametrize("reference", [False, True])
def test_mne_whitens_alike(reference):
    "Any two whiteners of one covariance differ by a rotation: WᵀW is the same"
    lf, _ = sensors(n_mag=0, n_grad=0, n_eeg=12)
    info = mne.create_info(list(lf.ch_names), 100.0, "eeg")
    P = np.eye(12) - reference / 12
    C = P @ problem(1)[2] @ P
    raw = mne.io.RawArray(np.zeros((12, 2)), info, verbose=False)
    if reference:
        raw.set_eeg_reference(projection=True, verbose=False)
    many = 10**6  # samples: with few, eigenvalues are put right, which MNE-Python does not do
    cov = mne.Covariance(C * 1e-12, info.ch_names, [], raw.info["projs"], many)
    said = dict(rank=dict(eeg=12 - reference), picks="all", verbose=False)
    theirs, _ = mne.cov.compute_whitener(cov, raw.info, **said)
    w = noise_whitener(cov, 12, lf)
    assert w.rank == 12 - reference
    close(w.W.T @ w.W, theirs.T @ theirs * 1e-12, 1e-8)


@every_solver
@orientations
def test_sensors_of_several_units(solver, k):
    "With an mne.Covariance; the same as with every sensor divided by hand"
    lf, info = sensors(k)
    rng = np.random.default_rng(1)
    sd = np.sqrt(sensor_covariance(mne.make_ad_hoc_cov(info), lf).diagonal())
    y = lf.matrix() @ rng.normal(scale=2, size=(N * k, T)) + sd[:, None] * rng.normal(size=(12, T))
    e = estimator(solver, None, 1, noise_cov=mne.make_ad_hoc_cov(info))
    r = e.fit(lf, y).predict()
    params = {name: v for name, v in e.solver_params.items() if v is not None}
    if "src_coords" in solver.takes():
        params["src_coords"] = lf.coords
    if "noise_var" in solver.takes():
        params["noise_var"] = 1.0
    scaled = lf.matrix() / sd[:, None]
    by_hand = solver.function(scaled, y / sd[:, None], n_orient=k, **params)
    close(r["posterior_mean"], by_hand["posterior_mean"], 1e-9)
    close(r.posterior.var, by_hand.posterior.var, 1e-9)
    close(r.log_evidence, by_hand.log_evidence - T * np.log(sd).sum(), 1e-10)
    words = r"L must be of one unit.*got fT/cm/nAm and fT/nAm and µV/nAm.*noise_cov"
    with pytest.raises(ValueError, match=words):
        solver.function(lf, y, **params)


def two_units(together, n=8, m=6):
    "Covariance of electrodes with a reference and magnetometers, leadfield, data, kept subspace"
    rng = np.random.default_rng(2)
    R = linalg.block_diag(np.eye(n) - 1 / n, np.eye(m))
    F = rng.normal(size=(n + m, n + m))
    C = R @ (F @ F.T / 10 + np.eye(n + m)) @ R
    if not together:
        C[:n, n:] = C[n:, :n] = 0
    L = R @ rng.normal(size=(n + m, 20))
    y = R @ rng.normal(size=(n + m, T))
    Q = linalg.block_diag(linalg.helmert(n), np.eye(m))
    return C, L, y, Q, ["a"] * n + ["b"] * m


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("together", [False, True])
def test_rank_of_several_units(together, size):
    "Electrodes with a reference are not taken for rounding beside magnetometers"
    C, L, y, Q, units = two_units(together)
    D = np.diag(np.repeat([1, size], [8, 6]))
    w = whitener(D @ C @ D, units=units)
    assert w.rank == 13
    close(w.W @ D @ C @ D @ w.W.T, np.eye(13), 1e-9)
    r = SourceEstimator(BMN, noise_cov=w).fit(D @ L, D @ y).predict()
    kept = Q @ C @ Q.T
    close(r.mean, dense(r, Q @ L, Q @ y, 1, kept)[0], 1e-8)
    density = multivariate_normal(np.zeros(13), model(r, Q @ L, 1, kept)[0])
    there = density.logpdf((Q @ y).T).sum()
    close(r.log_evidence, there - T * 6 * np.log(size), 1e-9)
    if size == 1e6:
        assert whitener(D @ C @ D).rank < 13, "without units they do hide each other"


def test_fewer_samples_than_sensors():
    "What is silent mixes the units"
    rng = np.random.default_rng(2)
    size = np.repeat([1, 1e3], [8, 6])
    F = size[:, None] * rng.normal(size=(14, 10))
    C = F @ F.T
    w = whitener(C, units=["a"] * 8 + ["b"] * 6)
    assert w.rank == 10
    close(w.W @ C @ w.W.T, np.eye(10), 1e-8)
    close(w.W.T @ w.W, np.linalg.pinv(C, rcond=1e-10, hermitian=True), 1e-5)
    assert abs(w.log_det + np.log(linalg.svdvals(F)).sum()) < 1e-8


def test_units_that_do_not_go_together_keep_their_rows():
    reference = np.eye(8) - 1 / 8
    C = linalg.block_diag(reference, 9 * np.eye(6))
    w = whitener(C, units=["a"] * 8 + ["b"] * 6)
    close(w.W[-6:], np.eye(14)[8:] / 3, 1e-14)


def test_many_recordings_share_the_whitened_leadfield():
    L, y, C, coords = problem(1)
    both = np.stack([y, 2 * y])
    params = dict(src_coords=coords, max_iter=20)
    e = SourceEstimator("gamma_map_sflex", params, noise_cov=C).fit(L, both)
    made = dict(e.leadfield_._cache)
    assert made
    assert len(e.predict()) == 2
    assert isinstance(e.whitener_, Whitener)
    for one in (y[:, :7], 3 * y, y[:, 0]):
        r = e.predict(one)
        alone = SourceEstimator("gamma_map_sflex", params, noise_cov=C).fit(L, one).predict()
        close(r.mean, alone.mean, 1e-13)
        close([r.cost, r.log_evidence], [alone.cost, alone.log_evidence], 1e-13)
    assert e.predict(both.copy()) is e.predict()
    assert made.keys() == e.leadfield_._cache.keys()
    assert all(made[key] is e.leadfield_._cache[key] for key in made)


def test_whitening_leaves_a_prepared_leadfield_as_it_was():
    L, y, C, coords = problem(1)
    prepared = prepare(L)
    SourceEstimator("BMN", noise_cov=C).fit(prepared, y)
    assert prepared.L is L
    assert not prepared._cache
    from_record = SourceEstimator("gamma_map_sflex", dict(max_iter=20), noise_cov=C)
    from_record.fit(prepare(Leadfield(L, coords)), y)
    params = dict(max_iter=20, src_coords=coords)
    by_hand = SourceEstimator("gamma_map_sflex", params, noise_cov=C).fit(L, y)
    close(from_record.predict().cost, by_hand.predict().cost, 1e-13)


@pytest.mark.parametrize("form", ["array", "covariance of MNE", "whitener"])
def test_the_estimator_knows_its_covariance(form):
    lf, info = sensors()
    _, y, C, _ = problem(1)
    given, words = {
        "array": (C, "noise_cov=<array 12 × 12>"),
        "covariance of MNE": (mne.make_ad_hoc_cov(info), "noise_cov=<covariance of 12 channels>"),
        "whitener": (whitener(C), "noise_cov=<Whitener: rank 12 of 12 sensors>"),
    }[form]
    e = SourceEstimator("BMN", noise_cov=given)
    assert e.noise_cov is given
    assert e.get_params()["noise_cov"] is given
    assert list(e.get_params())[-1] == "noise_cov"
    assert words in repr(e)
    assert html.escape(words.split("=")[1]) in e._repr_html_()
    twin = clone(e)
    assert np.array_equal(twin.fit(lf, y).predict().mean, e.fit(lf, y).predict().mean)
    assert "table" in e.fit(lf, y)._repr_html_()
    assert SourceEstimator("BMN").set_params(noise_cov=given).noise_cov is given


def test_a_result_travels_and_a_whitener_shows_itself():
    L, y, C, _ = problem(1)
    r = SourceEstimator("BMN", noise_cov=C).fit(L, y).predict()
    assert pickle.loads(pickle.dumps(r)).cost == r.cost
    assert "rank" in whitener(C)._repr_html_()


def test_a_covariance_changed_after_fit():
    "What was fitted does not follow"
    L, y, C, _ = problem(1)
    mine = C.copy()
    e = SourceEstimator("BMN", noise_cov=mine).fit(L, y)
    mine *= 9
    other = SourceEstimator("BMN", noise_cov=C).fit(L, 2 * y)
    close(e.predict(2 * y).cost, other.predict().cost, 1e-13)


def test_learned_noise_is_in_units_of_the_covariance():
    rng = np.random.default_rng(5)
    L = rng.normal(size=(40, 20))
    A = rng.normal(size=(40, 40))
    C = A @ A.T / 40 + np.eye(40)
    signal = L @ rng.normal(size=(20, 400))
    noise = linalg.cholesky(C, lower=True) @ rng.normal(size=(40, 400))
    y = signal + 1.5 * noise
    learned = SourceEstimator(BMN_joint, noise_cov=C).fit(L, y).predict()
    given = SourceEstimator(BMN, noise_cov=C).fit(L, y).predict()
    assert abs(learned.noise_var / 1.5**2 - 1) < 0.05
    assert learned.log_evidence > given.log_evidence


def test_a_solver_of_ones_own_is_given_white_data():
    L, y, C, coords = problem(2)
    seen = {}

    def mine(L, y, noise_var, n_orient, src_coords):
        seen.update(L=L, y=y, noise_var=noise_var, k=n_orient, r=src_coords)
        return BMN(L, y, noise_var, n_orient)

    def bare(L, y):
        return dict(mean=y)

    e = SourceEstimator(mine, noise_cov=C).fit(Leadfield(L.reshape(M, N, 2), coords), y)
    W = e.whitener_.W
    assert np.array_equal(seen["L"], W @ L)
    assert np.array_equal(seen["y"], W @ y)
    assert np.array_equal(seen["r"], coords)
    assert (seen["noise_var"], seen["k"]) == (1.0, 2)
    registered = SourceEstimator(BMN, n_orient=2, noise_cov=C).fit(L, y).predict()
    close(e.predict().cost, registered.cost, 1e-13)
    assert np.array_equal(SourceEstimator(bare, noise_cov=C).fit(L, y).predict()["mean"], W @ y)
