"""From MNE's objects to estimates with error bars.

Against dense textbook formulas from MNE's own whitener, under changes that must not matter, with
bad input, and in files.
"""

from functools import cache

import mne
import numpy as np
import pytest
import realdata

from calibrain import BMN, EvokedPosterior, estimate_evoked
from calibrain.core.warnings import ConvergenceWarning
from calibrain.head.average import place_sensors
from calibrain.head.basis import sflex_basis
from calibrain.recording.whitened import depth_weights, whitened_forward
from calibrain.solvers.registry import SOLVERS

TO_DATA_UNITS = dict(eeg=1e6, mag=1e15, grad=1e13)
TO_SI = 1e-9
NOISE = dict(eeg=3e-6, mag=8e-14, grad=3e-12)  # of one epoch, V, T, T/m
GIVEN = [name for name, s in SOLVERS.items() if not s.learns_noise]
LEARNED = [name for name, s in SOLVERS.items() if s.learns_noise]


def random_cov(info, rng):
    "A full covariance, the kinds of channels apart, as MNE's whitener takes them"
    kinds = np.array(info.get_channel_types())
    C = np.zeros((len(kinds), len(kinds)))
    for k in sorted(set(kinds)):
        n = sum(kinds == k)
        A = rng.normal(size=(n, n)) / np.sqrt(n) + np.eye(n)
        C[np.ix_(kinds == k, kinds == k)] = NOISE[k] ** 2 * A @ A.T / 2
    return mne.Covariance(C, info["ch_names"], [], [], 500)


@cache
def sensors(kind):
    "32 electrodes, 39 MEG sensors with two projections, or both"
    montage = mne.channels.make_standard_montage("biosemi32")
    eeg = mne.create_info(montage.ch_names, 100.0, "eeg").set_montage(montage)
    if kind == "eeg":
        return eeg
    place_sensors("neuromag")  # skipped where MNE-Python has no MEG sensors
    meg = mne.channels.read_meg_canonical_info("neuromag", verbose="ERROR")
    meg = mne.pick_info(meg, np.sort(np.r_[0:306:12, 2:306:24]).tolist())
    with meg._unlock():
        meg["sfreq"] = 100.0
    if kind == "meg":
        return meg
    with eeg._unlock():
        eeg["dev_head_t"] = meg["dev_head_t"]
    silent_meg, silent_eeg = (
        mne.EvokedArray(np.zeros((len(info["ch_names"]), 2)), info, verbose="ERROR")
        for info in (meg, eeg)
    )
    return silent_meg.add_channels([silent_eeg], force_update_info=True).info


@cache
def head(kind, n=25):
    "Dipoles in a sphere, some so deep that MEG hardly sees them, with directions"
    rng = np.random.default_rng(3)
    nn = rng.normal(size=(n, 3))
    nn[:, 2] = abs(nn[:, 2])
    nn /= np.linalg.norm(nn, axis=1, keepdims=True)
    dipoles = dict(rr=nn * rng.uniform(0.002, 0.07, (n, 1)), nn=nn[::-1].copy())
    src = mne.setup_volume_source_space(pos=dipoles, verbose="ERROR")
    sphere = mne.make_sphere_model((0, 0, 0), 0.095, verbose="ERROR")
    return mne.make_forward_solution(sensors(kind), None, src, sphere, verbose="ERROR")


def projection(names, rows, desc):
    "A projection of some directions, not yet applied"
    data = dict(nrow=len(rows), ncol=len(names), row_names=None, col_names=names, data=rows)
    return mne.Projection(active=False, data=data, desc=desc, kind=1, explained_var=None)


def projections(info, rng):
    "One SSP projection for each kind of MEG channel, not yet applied"
    kinds = info.get_channel_types()
    found = []
    for k in sorted(set(kinds) & {"mag", "grad"}):
        names = [n for n, kind in zip(info["ch_names"], kinds) if kind == k]
        direction = rng.normal(size=(1, len(names)))
        found.append(projection(names, direction / np.linalg.norm(direction), k))
    return found


@cache
def problem(kind="eeg", nave=6, seed=0):
    "Evoked, forward solution and covariance: one source responds in noise of that covariance"
    rng = np.random.default_rng(seed)
    fwd = head(kind)
    info = sensors(kind)
    cov = random_cov(info, rng)
    x = np.zeros((75, 60))
    x[12:15, 20:] = 40e-9 * rng.normal(size=(3, 1)) * np.sin(np.arange(40) / 6)  # after 0 s
    one_epoch = np.linalg.cholesky(cov["data"]) @ rng.normal(size=(len(info["ch_names"]), 60))
    data = fwd["sol"]["data"] @ x + one_epoch / np.sqrt(nave)
    said = dict(tmin=-0.2, nave=nave, comment="a tone", verbose="ERROR")
    evoked = mne.EvokedArray(data, info, **said)
    return evoked.add_proj(projections(info, rng), verbose="ERROR"), fwd, cov


def solve(evoked, fwd, cov, solver="BMN", **more):
    "The estimate from 0 to 0.3 s"
    window = dict(tmin=0.0, tmax=0.3, progress=False)
    return estimate_evoked(evoked, fwd, cov, solver, **window | more)


def how(solver):
    "How a solver knows the noise"
    return "learn" if solver in LEARNED else "given"


def few_steps(solver, n):
    "Parameters with which a solver stops early"
    return dict(max_iter=n) if "max_iter" in SOLVERS[solver].takes() else {}


def referenced(evoked):
    "The same with an average reference among its projections where there is EEG, as MNE wants it"
    e = evoked.copy()
    return e.set_eeg_reference("average", projection=True, verbose="ERROR") if "eeg" in e else e


def same(a, b, rtol=1e-6):
    "Two posteriors with the same mean, spread, evidence and powers"
    for what in ("mean", "std"):
        x = getattr(a, what).data
        y = getattr(b, what).data
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.abs(y).max())
    np.testing.assert_allclose(a.result.log_evidence, b.result.log_evidence, rtol=rtol)
    assert a.power == pytest.approx(b.power, rel=10 * rtol)


# The dense twin


def whitener(evoked, cov):
    "MNE's whitener of one epoch, symmetric where no direction is missing"
    W = mne.cov.compute_whitener(cov, evoked.info, pca=True, verbose="ERROR")[0]
    if len(W) < len(evoked.ch_names):
        return W
    return mne.cov.compute_whitener(cov, evoked.info, verbose="ERROR")[0]


def dense_gamma(est):
    "Prior variances of all coefficients, zeros included"
    r, p = est.result, est.posterior
    N, k = p.n_sources, est.n_orient
    active = np.asarray(r["active_indices"])
    if len(active) != len(p.gamma):
        active = np.flatnonzero(np.repeat(np.isin(np.arange(N), active), k))
    gamma = np.zeros(N * k)
    gamma[active] = p.gamma
    return gamma


def dense_prior(est, L, depth, coords):
    "Covariance of the sources before there are data, Am²"
    N = len(coords)
    k = est.n_orient
    w = np.ones(N)
    if depth is not None:
        size = np.linalg.norm(L.reshape(len(L), N, k), axis=(0, 2))
        w = np.maximum(size, size.max() / 10) ** -depth
        w /= np.median(w)
    B = np.eye(N)
    if "sflex" in est.result.solver:
        B = sflex_basis(coords).toarray()
    S = np.kron(w[:, None] * B, np.eye(k))
    if est.result.solver in ("eLORETA", "reml"):
        S = S @ est.result["B_operator"].toarray()
    return TO_SI**2 * (S * dense_gamma(est)) @ S.T


def dense_evidence(y, C, W, e):
    "Log evidence of the data in µV and fT, from the covariance of the whitened data"
    scaled = W / np.array([TO_DATA_UNITS[t] for t in e.get_channel_types()])
    log_det = np.linalg.slogdet(2 * np.pi * C)[1] - np.linalg.slogdet(scaled @ scaled.T)[1]
    fit = np.trace(y.T @ np.linalg.inv(C) @ y)
    return -0.5 * (fit + y.shape[1] * log_det)


def twin(est, evoked, fwd, cov, depth=None):
    """Mean (N, 3 or 1, T) and std in Am, and log evidence in µV and fT, from matrices alone.

    At the variances that were found.
    """
    e = referenced(evoked)
    rows = fwd["sol"]["row_names"]
    e.pick([n for n in e.ch_names if n in rows and n not in e.info["bads"]])
    W = whitener(e, cov)
    M = len(e.ch_names)
    k = est.n_orient
    r = est.result
    at = [rows.index(n) for n in e.ch_names]
    free = fwd["sol"]["data"][at].reshape(M, -1, 3)
    N = free.shape[1]
    Q = est.basis if k < 3 else np.tile(np.eye(3), (N, 1, 1))
    L = W @ np.einsum("mni,nik->mnk", free, Q).reshape(M, -1)
    prior = dense_prior(est, L, depth, fwd["source_rr"])
    noise = r["lambdas"] if "lambdas" in r else np.full(len(W), r.noise_var)
    C = np.diag(noise) + L @ prior @ L.T
    inside = (e.times > est.tmin - 1e-6) & (e.times < est.times[-1] + 1e-6)
    y = W @ e.data[:, inside]
    gain = prior @ L.T @ np.linalg.inv(C)
    mean = gain @ y
    posterior = prior - gain @ L @ prior
    lifted = Q if k > 1 else np.ones((N, 1, 1))
    blocks = np.array([posterior[n * k : n * k + k, n * k : n * k + k] for n in range(N)])
    variance = np.einsum("nik,nkl,nil->ni", lifted, blocks, lifted)
    std = np.sqrt(np.maximum(variance, 0))
    return lifted @ mean.reshape(N, k, -1), std, dense_evidence(y, C, W, e)


def agree(est, mean, std, evidence):
    "The estimate and the twin"
    shape = mean.shape  # with an axis for the components, also where there is only one
    everywhere = np.repeat(std[:, :, None], shape[2], axis=2)
    size = np.abs(mean).max()
    np.testing.assert_allclose(est.mean.data.reshape(shape), mean, atol=1e-6 * size)
    np.testing.assert_allclose(est.std.data.reshape(shape), everywhere, atol=1e-5 * std.max())
    np.testing.assert_allclose(est.result.log_evidence, evidence, rtol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "kind, orientation, depth, nave",
    [
        ("eeg", "free", None, 1),
        ("eeg", "fixed", 0.8, 6),
        ("meg", "meg2", None, 6),
        ("meg", "meg2", 0.8, 1),
        ("both", "free", 0.8, 6),
    ],
)
@pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.ConvergenceWarning",
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
)
def test_dense_twin(solver, kind, orientation, depth, nave):
    evoked, fwd, cov = problem(kind, nave)
    est = solve(
        evoked,
        fwd,
        cov,
        solver,
        orientation=orientation,
        depth=depth,
        noise=how(solver),
        solver_params=few_steps(solver, 15),
    )
    assert est.n_orient == dict(free=3, fixed=1, meg2=2)[orientation]
    if solver in GIVEN:  # learned noise of each sensor may explain all there is
        assert len(est.posterior.gamma)
        assert est.result.noise_var == pytest.approx(1 / nave)
    agree(est, *twin(est, evoked, fwd, cov, depth))


def test_auto_orientation():
    "All three components where electrodes see them, two for MEG alone"
    assert [solve(*problem(k)).n_orient for k in ("eeg", "meg", "both")] == [3, 2, 3]
    evoked, fwd, cov = problem()
    along = dict(surf_ori=True, force_fixed=True, verbose="ERROR")
    fixed = mne.convert_forward_solution(fwd, **along)
    assert solve(evoked, fixed, cov).n_orient == 1


@pytest.mark.parametrize("depth", [0, 0.5, 0.8, 1])
@pytest.mark.parametrize("kind", ["eeg", "meg"])
def test_depth_weights_are_mne_s(depth, kind):
    """MNE's depth prior of the whitened leadfield is a variance.

    Its limit counts before the exponent, and is one of the sources' own sizes there.
    """
    evoked, fwd, cov = problem(kind)
    h = whitened_forward([evoked], fwd, cov, None, "free", depth, None)
    size = np.linalg.norm(h.plain.L.reshape(len(h.plain.L), 25, 3), axis=(0, 2))
    white = fwd.copy()
    white["sol"]["data"] = h.plain.L
    like_ours = dict(limit=10, combine_xyz="fro", limit_depth_chs=False, verbose="ERROR")
    prior = np.ones(25)
    if depth:
        prior = mne.forward.compute_depth_prior(white, fwd["info"], exp=depth, **like_ours)[::3]
    clipped = size < size.max() / 10
    ours = h.weights / h.weights.min()
    theirs = np.sqrt(prior / prior.min())
    assert clipped.any() == (kind == "meg")
    np.testing.assert_allclose(ours[~clipped], theirs[~clipped], rtol=1e-6)
    np.testing.assert_allclose(ours[clipped], 10**depth, rtol=1e-6)
    np.testing.assert_allclose(theirs[clipped], 10**depth, rtol=0.3)
    np.testing.assert_allclose(np.median(depth_weights(h.plain, depth)), 1)


# What must not matter


def reversed_fwd(fwd):
    "The forward solution with its channels in another order"
    names = fwd["sol"]["row_names"][::-1]
    return mne.pick_channels_forward(fwd, names, ordered=True, verbose="ERROR")


@pytest.mark.parametrize("kind", ["eeg", "both"])
def test_order_of_channels(kind):
    evoked, fwd, cov = problem(kind)
    straight = solve(evoked, fwd, cov)
    names = list(np.random.default_rng(0).permutation(evoked.ch_names))
    mixed = evoked.copy().reorder_channels(names)
    backwards = mne.pick_channels_cov(cov, cov["names"][::-1], ordered=True, verbose="ERROR")
    same(solve(mixed, fwd, cov), straight)
    same(solve(evoked, reversed_fwd(fwd), cov), straight)
    same(solve(evoked, fwd, backwards), straight)
    for got in solve([evoked, mixed], fwd, cov):
        same(got, straight)


@pytest.mark.parametrize("solver", ["gamma_map_sflex", "BMN_joint"])
def test_nave_against_covariance(solver):
    "An average of four times as many epochs with four times the noise each is the same problem"
    evoked, fwd, cov = problem()
    more = changed(evoked, nave=4 * evoked.nave)
    four = changed(cov, data=4 * cov["data"])
    noise = how(solver)
    same(solve(more, fwd, four, solver, noise=noise), solve(evoked, fwd, cov, solver, noise=noise))


@pytest.mark.parametrize("kind, bads", [("eeg", ["Cz", "O1"]), ("both", ["Cz", "MEG0113"])])
def test_bads_are_dropped_channels(kind, bads):
    evoked, fwd, cov = problem(kind)
    bads = [evoked.ch_names[0] if b.startswith("MEG") else b for b in bads]
    marked = evoked.copy()
    marked.info["bads"] = bads
    nan = marked.copy()
    nan.data[[nan.ch_names.index(b) for b in bads]] = np.nan
    dropped = solve(evoked.copy().drop_channels(bads), fwd, cov)
    for e in (marked, nan):
        same(solve(e, fwd, cov), dropped)
    assert np.abs(dropped.mean.data - solve(evoked, fwd, cov).mean.data).max() > 1e-12


@pytest.mark.parametrize("kind", ["eeg", "meg", "both"])
@pytest.mark.parametrize("cov_too, noise", [(True, "given"), (False, "baseline")])
def test_projections_applied_or_not(kind, cov_too, noise):
    "Also where the noise comes from the baseline, before or after the average reference"
    evoked, fwd, cov = problem(kind)
    later = referenced(evoked)
    now = later.copy().apply_proj(verbose="ERROR")
    assert np.abs(now.data - later.data).max() > 0.01 * np.abs(later.data).max()
    cov = cov if cov_too else None
    same(solve(now, fwd, cov, noise=noise), solve(later, fwd, cov, noise=noise))
    same(solve(evoked, fwd, cov, noise=noise), solve(later, fwd, cov, noise=noise))


def test_potential_of_the_reference_does_not_matter():
    evoked, fwd, cov = problem()
    shifted = evoked.copy()
    shifted.data += 3e-5 * np.sin(np.arange(60))
    same(solve(shifted, fwd, cov), solve(evoked, fwd, cov))


def test_baseline_noise_recovers_its_variance():
    "Variance of each kind over the samples before zero, times nave, whatever the projections"
    evoked, fwd, _ = problem("both")
    e = evoked.copy()
    size = np.array([NOISE[k] for k in e.get_channel_types()])  # of one epoch
    rng = np.random.default_rng(1)
    e.data[:] = size[:, None] / np.sqrt(6) * rng.normal(size=e.data.shape)
    h = whitened_forward([e], fwd, None, None, "free", None, None)
    to_data_units = np.array([TO_DATA_UNITS[k] for k in e.get_channel_types()])
    white = h.whitener.W * to_data_units * size
    np.testing.assert_allclose(np.mean(white**2) * len(e.ch_names), 1, rtol=0.15)


def test_epochs_are_averaged():
    evoked, fwd, cov = problem()
    rng = np.random.default_rng(0)
    data = evoked.data + 3e-6 * rng.normal(size=(8, 32, 60))
    epochs = mne.EpochsArray(data, evoked.info, tmin=-0.2, verbose="ERROR")
    alone = solve(epochs.average(), fwd, cov)
    assert alone.nave == 8
    same(solve(epochs, fwd, cov), alone)
    same(solve([epochs, evoked], fwd, cov)[0], alone)


@pytest.mark.parametrize("solver", ["gamma_map_sflex", "BMN_joint"])
def test_list_equals_one_by_one(solver):
    evoked, fwd, cov = problem()
    noise = how(solver)
    other = changed(problem(seed=0)[0], nave=3, comment="a flash").crop(-0.1, 0.35)
    other.data[:] = other.data[::-1]
    both = solve((evoked, other), fwd, cov, solver, noise=noise)
    for got, e in zip(both, (evoked, other)):
        same(got, solve(e, fwd, cov, solver, noise=noise))
        assert (got.comment, got.nave) == (e.comment, e.nave)
    assert isinstance(solve([evoked], fwd, cov), list)


def test_other_channels_change_nothing():
    evoked, fwd, cov = problem()
    others = mne.create_info(["EOG 061", "STI 014"], 100.0, ["eog", "stim"])
    data = np.random.default_rng(0).normal(size=(2, 60))
    extra = mne.EvokedArray(data, others, tmin=-0.2, nave=6, verbose="ERROR")
    more = evoked.copy().add_channels([extra], force_update_info=True)
    C = np.pad(cov["data"], (0, 1))
    C[-1, -1] = 1.0
    wide = mne.Covariance(C, [*cov["names"], "EOG 061"], [], [], 500)
    same(solve(more, fwd, cov), solve(evoked, fwd, cov))
    same(solve(more, fwd, wide), solve(evoked, fwd, cov))


def test_picks_choose_channels():
    "A kind, or names in any order; covariance and forward solution may have more channels"
    evoked, fwd, cov = problem("both")
    eeg, fwd_eeg, _ = problem("eeg")
    names = [n for n in evoked.ch_names if n in eeg.ch_names]
    by_kind = solve(evoked, fwd, cov, picks="eeg")
    same(solve(evoked, fwd, cov, picks=names[::-1]), by_kind)
    same(solve(evoked.copy().pick("eeg"), fwd, cov), by_kind)
    same(solve(evoked, fwd_eeg, cov), by_kind, rtol=1e-5)


def test_a_solver_of_ones_own():
    "One that knows neither orientations nor positions"

    def mine(L, y, noise_var):
        return BMN(L, y, noise_var)

    same(solve(*problem(), mine, orientation="fixed"), solve(*problem(), orientation="fixed"))
    with pytest.raises(ValueError, match=r"orientation must be one of \(1,\) for mine, got 3"):
        solve(*problem(), mine)

    def other(L, y, noise_var):
        return L.T @ y

    with pytest.raises(
        TypeError, match="solver must be a function that returns a calibrain Result"
    ):
        solve(*problem(), other, orientation="fixed")


# Bad input


@pytest.fixture
def no_solver(monkeypatch):
    "No solver may run"

    def ran(*args, **more):
        raise AssertionError("a solver ran")

    for where in (
        "calibrain.recording.estimate.solve_recording",
        "calibrain.solvers.bmn._bmn",
        "calibrain.solvers.search.evidence_at",
        "calibrain.solvers.common.minimise",
        "calibrain.solvers.common.newton_search",
    ):
        monkeypatch.setattr(where, ran, raising=False)


def changed(x, **entries):
    "A copy with other attributes, or entries where it is a mapping"
    x = x.copy()
    for k, v in entries.items():
        setattr(x, k, v) if isinstance(x, mne.Evoked) else x.update({k: v})
    return x


def marked(e, *bads):
    e = e.copy()
    e.info["bads"] = list(bads)
    return e


def with_data(e, change):
    e = e.copy()
    change(e.data)
    return e


def flat(d):
    d[3] = 2e-6


def nan(d):
    d[3, 22] = np.nan


def millionfold(d):
    d *= 1e6


def femto(d):
    d *= 1e15


def out(info, n):
    "Projections of n directions; 31 leave nothing beside the average reference"
    rows = np.linalg.svd(np.eye(32) - 1 / 32)[2][:n]
    return [projection(info["ch_names"], rows, "some")]


def renamed(cov):
    return mne.Covariance(cov["data"], [f"X{n}" for n in cov["names"]], [], [], 500)


def parts(cov, data):
    return mne.Covariance(data, cov["names"], [], [], 500)


BAD = {  # what is wrong: what is passed instead, error, words
    "missing in forward": (
        lambda e, f, c: dict(
            forward=mne.pick_channels_forward(f, f["sol"]["row_names"][2:], verbose="ERROR")
        ),
        ValueError,
        "forward must be complete for the good channels of evoked, "
        "got none for Fp1, AF3: mark them as bad",
    ),
    "missing in covariance": (
        lambda e, f, c: dict(noise_cov=mne.pick_channels_cov(c, exclude=["Cz"], verbose="ERROR")),
        ValueError,
        "noise_cov must be complete for the good channels of evoked, got none for Cz",
    ),
    "no common channels": (
        lambda e, f, c: dict(evoked=e.copy().rename_channels({n: f"E{n}" for n in e.ch_names})),
        ValueError,
        "forward must be about channels of evoked, got none of them",
    ),
    "no common kind": (
        lambda e, f, c: dict(forward=problem("meg")[1]),
        ValueError,
        "evoked and forward must be of the same kind of channels, got eeg and grad, mag",
    ),
    "no sensors": (
        lambda e, f, c: dict(
            evoked=e.copy().set_channel_types(dict.fromkeys(e.ch_names, "misc"), verbose="ERROR")
        ),
        ValueError,
        "got neither EEG nor MEG and eeg",
    ),
    "bad in covariance": (
        lambda e, f, c: dict(noise_cov=changed(c, bads=["Cz"])),
        ValueError,
        "noise_cov must be good for the good channels of evoked, "
        "got Cz marked as bad: add them to evoked.info",
    ),
    "bad by name": (
        lambda e, f, c: dict(evoked=marked(e, "Cz"), picks=["Cz", "Pz"]),
        ValueError,
        "picks must be without bad channels, got Cz",
    ),
    "all bad": (
        lambda e, f, c: dict(evoked=marked(e, *e.ch_names)),
        ValueError,
        "picks must be at least one good channel",
    ),
    "unknown channel": (lambda e, f, c: dict(picks=["Cz", "Xz"]), ValueError, "got Xz"),
    "picks a number too high": (
        lambda e, f, c: dict(picks=[0, 32]),
        ValueError,
        "picks must be numbers of channels up to 31, got 32",
    ),
    "picks a mask": (
        lambda e, f, c: dict(picks=[True, False]),
        TypeError,
        "picks must be kinds, names or numbers of channels",
    ),
    "no picks": (
        lambda e, f, c: dict(picks=[]),
        ValueError,
        "picks must be at least one good channel",
    ),
    "covariance of other channels": (
        lambda e, f, c: dict(noise_cov=renamed(c)),
        ValueError,
        "noise_cov must be about channels of evoked, got none of them",
    ),
    "covariance of zeros": (
        lambda e, f, c: dict(noise_cov=parts(c, 0 * c["data"])),
        ValueError,
        "noise_cov must be different from zero somewhere, got all zeros for eeg",
    ),
    "covariance with NaN": (
        lambda e, f, c: dict(noise_cov=parts(c, c["data"] * np.nan)),
        ValueError,
        "noise_cov must be finite",
    ),
    "negative variance": (
        lambda e, f, c: dict(noise_cov=parts(c, -c["data"])),
        ValueError,
        "noise_cov must be without negative variances, got Fp1",
    ),
    "covariance in µV²": (
        lambda e, f, c: dict(noise_cov=parts(c, 1e12 * c["data"])),
        ValueError,
        "noise_cov must be the noise of one epoch, in V² and T².*: check its units",
    ),
    "covariance too small": (
        lambda e, f, c: dict(noise_cov=parts(c, 1e-9 * c["data"])),
        ValueError,
        "check its units, and evoked.nave",
    ),
    "covariance in µV², no baseline": (
        lambda e, f, c: dict(evoked=e.copy().crop(0, None), noise_cov=parts(c, 1e12 * c["data"])),
        ValueError,
        "of the data's variance where 1 or more is expected: check its units",
    ),
    "covariance too small for the second": (
        lambda e, f, c: dict(evoked=[e, changed(e, nave=e.nave * 10**6)]),
        ValueError,
        "check its units, and evoked.nave",
    ),
    "covariance an array": (
        lambda e, f, c: dict(noise_cov=c["data"]),
        TypeError,
        "noise_cov must be an mne.Covariance, got ndarray: "
        "compute it with mne.compute_covariance; arrays go to SourceEstimator",
    ),
    "no covariance": (
        lambda e, f, c: dict(noise_cov=None),
        ValueError,
        "noise_cov must be an mne.Covariance where the noise is given, "
        "got None: pass noise='baseline'",
    ),
    "rank zero": (
        lambda e, f, c: dict(evoked=e.copy().add_proj(out(e.info, 31), verbose="ERROR")),
        ValueError,
        "evoked must be left with something by its projections, got rank 0",
    ),
    "rank of none": (
        lambda e, f, c: dict(rank=dict(eeg=0)),
        ValueError,
        r"rank\['eeg'\] must be finite and >= 1, got 0",
    ),
    "rank a number": (
        lambda e, f, c: dict(rank=20),
        TypeError,
        "rank must be a dict, 'full', 'info' or None",
    ),
    "custom reference": (
        lambda e, f, c: dict(evoked=e.copy().set_eeg_reference(["Cz"], verbose="ERROR")),
        ValueError,
        "evoked must be EEG with average reference, got a custom reference: "
        "call evoked.set_eeg_reference",
    ),
    "window backwards": (
        lambda e, f, c: dict(tmin=0.2, tmax=0.1),
        ValueError,
        "tmin must be before tmax",
    ),
    "window in ms": (
        lambda e, f, c: dict(tmin=50, tmax=150),
        ValueError,
        "tmin must be within -0.2 and 0.39 s, got 50: times are in s",
    ),
    "window too late": (lambda e, f, c: dict(tmax=0.5), ValueError, "tmax must be within"),
    "window too early": (lambda e, f, c: dict(tmin=-0.3), ValueError, "tmin must be within"),
    "window of text": (lambda e, f, c: dict(tmin="0"), TypeError, "tmin must be a real number"),
    "window NaN": (lambda e, f, c: dict(tmax=np.nan), ValueError, "tmax must be finite"),
    "EEG in µV": (
        lambda e, f, c: dict(evoked=with_data(e, millionfold)),
        ValueError,
        "evoked.data must be in V, got eeg values up to .*: EEG in µV, perhaps: multiply by 1e-6",
    ),
    "NaN": (
        lambda e, f, c: dict(evoked=with_data(e, nan)),
        ValueError,
        "evoked.data must be finite, got 1 NaN or infinite values in F3, from 0.02 s on",
    ),
    "flat": (
        lambda e, f, c: dict(evoked=with_data(e, flat)),
        ValueError,
        "evoked must be without flat channels, got F3: mark them as bad",
    ),
    "standard error": (
        lambda e, f, c: dict(evoked=changed(e, kind="standard_error")),
        ValueError,
        "evoked must be an average, got standard error",
    ),
    "no epochs": (
        lambda e, f, c: dict(evoked=changed(e, nave=0)),
        ValueError,
        "evoked.nave must be finite and > 0",
    ),
    "evoked an array": (
        lambda e, f, c: dict(evoked=e.data),
        TypeError,
        "evoked must be an mne.Evoked, mne.Epochs, or a list of these, got ndarray",
    ),
    "evoked a name": (
        lambda e, f, c: dict(evoked="x-ave.fif"),
        TypeError,
        "got str: read it with mne.read_evokeds",
    ),
    "no conditions": (lambda e, f, c: dict(evoked=[]), TypeError, "got an empty list"),
    "a list of arrays": (lambda e, f, c: dict(evoked=[e, e.data]), TypeError, "got ndarray"),
    "conditions with other bads": (
        lambda e, f, c: dict(evoked=[e, marked(e, "Cz")]),
        ValueError,
        "evoked must be a list of conditions with the same good channels, "
        "got Cz in one of them only",
    ),
    "conditions with other projections": (
        lambda e, f, c: dict(evoked=[e, e.copy().add_proj(out(e.info, 1), verbose="ERROR")]),
        ValueError,
        "evoked must be a list of conditions with the same projections",
    ),
    "forward a name": (
        lambda e, f, c: dict(forward="x-fwd.fif"),
        TypeError,
        "forward must be an mne.Forward, got str",
    ),
    "solver": (
        lambda e, f, c: dict(solver="LCMV"),
        ValueError,
        "solver must be one of 'gamma_map', .*, got 'LCMV'",
    ),
    "solver a number": (
        lambda e, f, c: dict(solver=3),
        TypeError,
        "solver must be a function or one of",
    ),
    "orientation": (
        lambda e, f, c: dict(orientation="normal"),
        ValueError,
        "orientation must be one of 'auto', 'fixed', 'free', 'meg2', 'loose', got 'normal'",
    ),
    "orientation a list": (
        lambda e, f, c: dict(orientation=["fixed"]),
        ValueError,
        "orientation must be one of",
    ),
    "two components for EEG": (
        lambda e, f, c: dict(orientation="meg2"),
        ValueError,
        "EEG sees all three components",
    ),
    "noise": (
        lambda e, f, c: dict(noise="diagonal"),
        ValueError,
        "noise must be one of 'given', 'baseline', 'learn', 'oracle', 'adaptive', "
        "'adaptive_joint_learning', got 'diagonal'",
    ),
    "no baseline": (
        lambda e, f, c: dict(evoked=e.copy().crop(0, None), noise="baseline"),
        ValueError,
        "keep samples before 0 s",
    ),
    "no baseline, no covariance": (
        lambda e, f, c: dict(
            evoked=e.copy().crop(0, None), noise="learn", noise_cov=None, solver="BMN_joint"
        ),
        ValueError,
        "noise_cov must be given where there is no baseline",
    ),
    "unknown parameter": (
        lambda e, f, c: dict(solver_params=dict(sigmas=1)),
        TypeError,
        "gamma_map has no parameter sigmas to set here; it takes",
    ),
    "parameter of ours": (
        lambda e, f, c: dict(solver_params=dict(noise_var=1)),
        TypeError,
        "has no parameter noise_var to set here",
    ),
    "parameters a text": (
        lambda e, f, c: dict(solver_params="fast"),
        TypeError,
        "solver_params must be a dict or None, got 'fast'",
    ),
    "depth too large": (
        lambda e, f, c: dict(depth=1.5),
        ValueError,
        "depth must be finite and >= 0 and <= 1, got 1.5",
    ),
    "depth negative": (lambda e, f, c: dict(depth=-0.1), ValueError, "depth must be"),
    "depth a text": (lambda e, f, c: dict(depth="0.8"), TypeError, "depth must be a real number"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what, no_solver):
    make, error, words = BAD[what]
    e, f, c = problem()
    passed = dict(evoked=e, forward=f, noise_cov=c, solver="gamma_map", tmin=0.0, tmax=0.3) | make(
        e, f, c
    )
    with pytest.raises(error, match=words):
        estimate_evoked(**passed)


def test_the_guard_works(no_solver):
    "Good input would have reached the solver"
    with pytest.raises(AssertionError, match="a solver ran"):
        solve(*problem())


def test_bad_in_forward(no_solver):
    evoked, fwd, cov = problem()
    fwd = fwd.copy()
    fwd["info"]["bads"] = ["Cz"]
    words = r"forward must be good for .* evoked, got Cz marked as bad: add them to evoked\.info"
    with pytest.raises(ValueError, match=words):
        solve(evoked, fwd, cov)


@pytest.mark.parametrize("solver", GIVEN)
def test_cannot_learn(solver, no_solver):
    words = (
        f"noise must be 'given' or 'baseline' for {solver}, got 'learn': "
        f"solvers that learn the noise are {', '.join(LEARNED)}"
    )
    with pytest.raises(ValueError, match=words):
        solve(*problem(), solver, noise="learn")


@pytest.mark.parametrize("solver", LEARNED)
@pytest.mark.parametrize("noise", ["given", "baseline"])
def test_cannot_be_given(solver, noise, no_solver):
    words = (
        f"noise must be 'learn' for {solver}, got '{noise}': "
        f"solvers that take the noise as given are {', '.join(GIVEN)}"
    )
    with pytest.raises(ValueError, match=words):
        solve(*problem(), solver, noise=noise)


@pytest.mark.parametrize("step", [dict(lambda_damping=0.5), dict(update_mode_noise="em")])
@pytest.mark.parametrize("solver", ["gamma_lambda_map", "gamma_lambda_map_sflex"])
def test_a_noise_step_that_is_asked_for_is_taken(solver, step):
    "Only a fixed point has one, and three of its iterations are too few"
    said = dict(step, max_iter=3)
    with pytest.warns(ConvergenceWarning, match="Pass update_mode='fast'"):
        solve(*problem(), solver, noise="learn", solver_params=said)


def test_meg_in_ft(no_solver):
    evoked, fwd, cov = problem("meg")
    words = r"data must be in T, got mag values up to .*in fT, perhaps: multiply by 1e-15"
    with pytest.raises(ValueError, match=words):
        solve(with_data(evoked, femto), fwd, cov)


def test_one_kind_without_noise(no_solver):
    "Electrodes would be left out silently"
    evoked, fwd, cov = problem("both")
    C = cov["data"].copy()
    eeg = [n in sensors("eeg")["ch_names"] for n in cov["names"]]
    C[eeg] = C[:, eeg] = 0
    words = "noise_cov must be different from zero somewhere, got all zeros for eeg"
    with pytest.raises(ValueError, match=words):
        solve(evoked, fwd, parts(cov, C))


def test_a_reference_of_ones_own_can_be_put_right():
    """What the error says to do is enough, unless the electrode itself is left flat.

    It is bad then, and the message says so.
    """
    evoked, fwd, cov = problem()
    cured = evoked.copy().set_eeg_reference(["Cz", "Pz"], verbose="ERROR")
    cured.set_eeg_reference("average", projection=True, verbose="ERROR")
    same(solve(cured, fwd, cov), solve(evoked, fwd, cov))


# Source spaces


@cache
def noise():
    return realdata.evoked("Left visual").pick("eeg").crop(-0.1, 0.12)


def seen(fwd, solver="BMN", **more):
    "The electrodes of the recording, through some forward solution"
    return estimate_evoked(
        noise(), fwd, realdata.covariance(), solver, tmin=0.1, tmax=0.12, progress=False, **more
    )


@cache
def some_cortex(sides):
    "Every eighth source of both hemispheres, or of one that is alone in the source space"
    fwd = realdata.forward("eeg")
    few = [s["vertno"][::8] if i in sides else np.array([], int) for i, s in enumerate(fwd["src"])]
    fwd = mne.forward.restrict_forward_to_stc(
        fwd, mne.SourceEstimate(np.zeros((sum(map(len, few)), 1)), few, 0, 1)
    )
    fwd["src"] = mne.SourceSpaces([fwd["src"][i] for i in sides])
    return fwd


@cache
def in_sphere(kind):
    "A volume of a few sources, with the cortex before it where it is mixed"
    src = mne.setup_volume_source_space(pos=35.0, sphere=(0, 0, 0.01, 0.06), verbose="ERROR")
    cortex = mne.read_source_spaces(realdata.BESIDE / "sample-516-src.fif", verbose="ERROR")
    if kind == "mixed":
        for s in cortex:
            few = s["vertno"][::16]
            inuse = np.isin(np.arange(s["np"]), few).astype(int)
            s.update(vertno=few, nuse=len(few), inuse=inuse)
        src = cortex + src
    else:
        src[0]["subject_his_id"] = cortex[0]["subject_his_id"]
    sphere = mne.make_sphere_model((0, 0, 0.04), 0.095, verbose="ERROR")
    trans = mne.read_trans(realdata.BESIDE / "sample-trans.fif")
    return mne.make_forward_solution(noise().info, trans, src, sphere, meg=False, verbose="ERROR")


@realdata.needed
@pytest.mark.parametrize(
    "orientation, cls", [("fixed", mne.SourceEstimate), ("free", mne.VectorSourceEstimate)]
)
@pytest.mark.parametrize("sides", [(0, 1), (0,), (1,)])
def test_surface(orientation, cls, sides, tmp_path):
    "Both hemispheres or one, in Am, with vertices, times and subject, and again from a file"
    fwd = some_cortex(sides)
    est = seen(fwd, orientation=orientation)
    used = {i: s["vertno"] for i, s in zip(sides, fwd["src"])}
    for stc in (est.mean, est.std, *est.interval(0.9)):
        assert type(stc) is cls and stc.subject == "sample" and est.space == "surface"
        for i, got in enumerate(stc.vertices):
            np.testing.assert_array_equal(got, used.get(i, []))
        np.testing.assert_allclose(stc.times, est.times)
        np.testing.assert_allclose(stc.times, noise().crop(0.1, None).times, atol=1e-9)
        assert 1e-12 < np.abs(stc.data).max() < 1e-6
    assert type(est.exceedance(1e-9)) is mne.SourceEstimate
    est.exceedance(1e-9).save(tmp_path / "x", verbose="ERROR")
    again = mne.read_source_estimate(tmp_path / "x", subject="sample")
    np.testing.assert_allclose(again.data, est.exceedance(1e-9).data, rtol=1e-6)
    for a, b in zip(again.vertices, est.mean.vertices):
        np.testing.assert_array_equal(a, b)


@realdata.needed
@pytest.mark.parametrize(
    "kind, vector, scalar",
    [
        ("volume", mne.VolVectorSourceEstimate, mne.VolSourceEstimate),
        ("mixed", mne.MixedVectorSourceEstimate, mne.MixedSourceEstimate),
    ],
)
def test_volume_and_mixed(kind, vector, scalar, tmp_path):
    "Classes of their own; the exceedance of a vector is a scalar there too"
    fwd = in_sphere(kind)
    est = seen(fwd)
    for stc in (est.mean, est.std, *est.interval(0.9)):
        assert type(stc) is vector
        assert stc.subject == "sample"
        assert stc.shape[:2] == (fwd["nsource"], 3)
    assert type(est.exceedance(1e-9)) is scalar
    assert est.space == kind
    for got, s in zip(est.mean.vertices, fwd["src"], strict=True):
        np.testing.assert_array_equal(got, s["vertno"])
    if kind == "mixed":
        assert type(est.mean.surface()) is mne.VectorSourceEstimate
        assert type(est.mean.volume()) is mne.VolVectorSourceEstimate
    else:
        est.exceedance(1e-9).save(tmp_path / "x", ftype="stc", verbose="ERROR")
        again = mne.read_source_estimate(tmp_path / "x-vl.stc")
        np.testing.assert_allclose(again.data, est.exceedance(1e-9).data, rtol=1e-6)
        np.testing.assert_array_equal(again.vertices[0], est.mean.vertices[0])
    again = EvokedPosterior.load(est.save(tmp_path / "x.npz"))
    assert type(again.mean) is vector
    assert [len(v) for v in again.vertices] == [len(v) for v in est.vertices]


@realdata.needed
@pytest.mark.parametrize("cls", ["vector", "mixed"])
def test_vectors_in_files(cls, tmp_path):
    "MNE-Python writes them as HDF5"
    pytest.importorskip("h5io")
    fwd = some_cortex((0, 1)) if cls == "vector" else in_sphere("mixed")
    mean = seen(fwd, orientation="free").mean
    mean.save(tmp_path / "x", ftype="h5", verbose="ERROR")
    again = mne.read_source_estimate(next(tmp_path.iterdir()))
    assert type(again) is type(mean)
    np.testing.assert_array_equal(again.data, mean.data)


@realdata.needed
@pytest.mark.parametrize("kind", ["volume", "mixed"])
def test_volume_has_no_normals(kind, no_solver):
    words = (
        "orientation must be 'free' or 'meg2' for a volume source space, got 'fixed': "
        "a volume has no cortex"
    )
    with pytest.raises(ValueError, match=words):
        seen(in_sphere(kind), orientation="fixed")


# The posterior


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["eeg", "meg"])
@pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.ConvergenceWarning",
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
)
def test_round_trip(solver, kind, tmp_path):
    said = dict(noise=how(solver), depth=0.8, solver_params=few_steps(solver, 10))
    est = solve(*problem(kind), solver, **said)
    again = EvokedPosterior.load(est.save(tmp_path / "x.npz"))

    def estimates(e):
        return [e.mean, e.std, e.exceedance(5e-9), *e.interval(0.5)]

    for a, b in zip(estimates(again), estimates(est)):
        assert type(a) is type(b)
        np.testing.assert_array_equal(a.data, b.data)
        np.testing.assert_array_equal(a.times, b.times)
        np.testing.assert_array_equal(a.vertices[0], b.vertices[0])
    for k in ("space", "tmin", "tstep", "subject", "comment", "nave", "power"):
        assert getattr(again, k) == getattr(est, k), k
    assert again.result.log_evidence == est.result.log_evidence
    assert set(again.result) == set(est.result)
    assert repr(again) == repr(est)
    np.testing.assert_array_equal(again.coords, est.coords)
    np.testing.assert_array_equal(again.result.coords, est.coords)
    np.testing.assert_array_equal(again.result.times, est.result.times)


def test_files_that_are_refused(tmp_path):
    "With pickles, cut short, altered, or of something else; nothing is left of an attempt to write"
    est = solve(*problem())
    path = est.save(tmp_path / "x.npz")
    whole = path.read_bytes()
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        est.save(path)
    assert path.read_bytes() == whole
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut short, damaged or not an npz file"):
        EvokedPosterior.load(path)
    at = whole.find(b"NUMPY", whole.find(b"posterior/V.npy")) + 300
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(ValueError, match=r"damaged|altered"):
        EvokedPosterior.load(path)
    np.savez(path, kind=np.array([dict(a=1)], dtype=object))
    with pytest.raises(ValueError, match="holds pickled objects at 'kind', which can run code"):
        EvokedPosterior.load(path)
    np.savez(path, leadfield=np.eye(2))
    with pytest.raises(ValueError, match="path must be a file with an evoked posterior"):
        EvokedPosterior.load(path)
    with pytest.raises(FileNotFoundError):
        EvokedPosterior.load(tmp_path / "y.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("kind, orientation", [("eeg", "fixed"), ("meg", "meg2"), ("eeg", "free")])
def test_intervals_hold_what_they_promise(kind, orientation):
    "On data drawn from the model of minimum norm, at 50 and 90 %"
    evoked, fwd, cov = problem(kind)
    rng = np.random.default_rng(5)
    nave = 6
    T = 200
    info = sensors(kind)
    lf = whitened_forward([evoked], fwd, cov, None, orientation, None, None).leadfield
    x = 20 * rng.normal(size=(25, lf.n_orient, T))
    clean = (lf.matrix() @ x.reshape(-1, T)) / lf.from_si[:, None]
    one_epoch = np.linalg.cholesky(cov["data"]) @ rng.normal(size=clean.shape)
    data = clean + one_epoch / np.sqrt(nave)
    evoked = mne.EvokedArray(data, info, tmin=0.0, nave=nave, verbose="ERROR")
    est = estimate_evoked(evoked, fwd, cov, "BMN", orientation=orientation, progress=False)
    truth = TO_SI * (lf.lift(x) if orientation != "fixed" else x[:, 0])
    for level in (0.5, 0.9):
        low, high = est.interval(level)
        assert np.mean((low.data < truth) & (truth < high.data)) == pytest.approx(level, abs=0.02)
    told = est.exceedance(25e-9).data
    length = np.linalg.norm(x, axis=1)
    for low, high in ((0, 0.3), (0.3, 0.7), (0.7, 1)):
        some = (told >= low) & (told <= high)
        if some.sum() > 300:
            assert (length > 25)[some].mean() == pytest.approx(told[some].mean(), abs=0.05)


@pytest.mark.parametrize("kind, orientation", [("eeg", "fixed"), ("meg", "meg2"), ("eeg", "free")])
def test_exceedance_against_sampling(kind, orientation):
    "Vectors of one, two and three components"
    est = solve(*problem(kind), orientation=orientation)
    draws = est.posterior.sample(2000, seed=0).reshape(2000, 25, est.n_orient, -1)
    length = np.linalg.norm(draws, axis=2)
    error = 4.5 * 0.5 / np.sqrt(2000)
    for threshold in (5, 20):
        told = est.exceedance(threshold * TO_SI).data
        np.testing.assert_allclose(told, (length > threshold).mean(0), atol=error)


def test_level_and_threshold_are_checked():
    est = solve(*problem())
    for level in (0, 1, 95, "x"):
        with pytest.raises((ValueError, TypeError), match="level must be"):
            est.interval(level)
    for threshold in (0, -1, 10, np.nan):
        with pytest.raises(ValueError, match=r"threshold must be .*10 nAm are 10e-9"):
            est.exceedance(threshold)


def test_viewer_that_is_not_there(monkeypatch):
    monkeypatch.setattr("calibrain.recording.posterior.find_spec", lambda name: None)
    words = r"needs pyvista and pyvistaqt: pip install pyvista pyvistaqt, or draw maps with calib"
    with pytest.raises(ImportError, match=words):
        solve(*problem()).plot_3d(src=problem()[1]["src"])


@pytest.mark.parametrize("many", [False, True])
def test_progress(many, capsys, monkeypatch):
    "A bar for one long solve, or over conditions; silence where it is not wanted"
    evoked, fwd, cov = problem()
    e = [evoked, evoked] if many else evoked
    solve(e, fwd, cov, "gamma_map", progress=True)
    assert capsys.readouterr() == ("", ""), "nobody watches"
    monkeypatch.setattr("calibrain.core.progress.watched", lambda: True)
    solve(e, fwd, cov, "gamma_map", progress=True)
    assert ("2/2" if many else "step") in capsys.readouterr().err
    solve(e, fwd, cov, "gamma_map", progress=False)
    assert capsys.readouterr() == ("", "")


# A real recording


@realdata.needed
@pytest.mark.parametrize("kind", ["meg", "eeg"])
def test_recording(kind):
    """The twin again, with the recording's own projections and bads; and what is left is noise.

    The twin takes the covariance as it is, as if from a million samples; with the number that it
    has (2904, of a filtered recording) its eigenvalues are corrected.
    """
    evoked = realdata.evoked("Right Auditory")
    fwd = realdata.forward(kind)
    cov = realdata.covariance()
    exact = changed(cov, nfree=10**6)
    window = dict(tmin=0.08, tmax=0.1, progress=False)
    est = estimate_evoked(evoked, fwd, exact, "BMN", **window)
    agree(est, *twin(est, evoked.copy().pick(kind), fwd, exact))
    assert 0.9 < est.power["baseline"] < 1.3
    est = estimate_evoked(evoked, fwd, cov, "BMN", **window)
    assert (est.nave, est.comment) == (6, "Right Auditory")
    # The covariance is from these very baselines, which it whitens to 1 by construction. Corrected,
    # it is right for noise that it has not seen (1.00 for EEG in a simulation), and these
    # baselines come out lower by the mean correction, which is 0.88 for EEG and 0.87 for MEG.
    assert 0.85 < est.power["baseline"] < 1.3
    assert 0.7 < est.power["expected_residual"] / est.power["baseline"] < 1.3
    assert 0 < est.explained_variance < 0.8
