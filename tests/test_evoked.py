"From MNE's objects to estimates with error bars: against dense textbook formulas from MNE's own whitener, under changes that must not matter, with bad input, and in files"

from functools import cache

import mne
import numpy as np
import pytest
import realdata

from calibrain import BMN, EvokedPosterior, estimate_evoked
from calibrain.head.basis import sflex_basis
from calibrain.recording.estimate import _depth_weights, _head
from calibrain.solvers.registry import SOLVERS

TO_DATA_UNITS, TO_SI = dict(eeg=1e6, mag=1e15, grad=1e13), 1e-9
NOISE = dict(eeg=3e-6, mag=8e-14, grad=3e-12)  # of one epoch, V, T, T/m
GIVEN, LEARNED = (
    [s for s in SOLVERS if not SOLVERS[s].learns_noise],
    [s for s in SOLVERS if SOLVERS[s].learns_noise],
)


def random_cov(info, rng):
    "A full covariance, the kinds of channels apart, as MNE's whitener takes them"
    C, kinds = np.zeros((len(info["ch_names"]),) * 2), np.array(info.get_channel_types())
    for k in set(kinds):
        A = rng.normal(size=(sum(kinds == k),) * 2) / np.sqrt(sum(kinds == k)) + np.eye(
            sum(kinds == k)
        )
        C[np.ix_(kinds == k, kinds == k)] = NOISE[k] ** 2 * A @ A.T / 2
    return mne.Covariance(C, info["ch_names"], [], [], 500)


@cache
def sensors(kind):
    "32 electrodes, 39 MEG sensors with two projections, or both"
    montage = mne.channels.make_standard_montage("biosemi32")
    eeg = mne.create_info(montage.ch_names, 100.0, "eeg").set_montage(montage)
    if kind == "eeg":
        return eeg
    if not hasattr(mne.channels, "read_meg_canonical_info"):
        pytest.skip("MNE-Python 1.12 knows no canonical MEG sensors")
    meg = mne.channels.read_meg_canonical_info("neuromag", verbose="ERROR")
    meg = mne.pick_info(meg, np.sort(np.r_[0:306:12, 2:306:24]).tolist())
    with meg._unlock():
        meg["sfreq"] = 100.0
    if kind == "meg":
        return meg
    of = lambda info: mne.EvokedArray(np.zeros((len(info["ch_names"]), 2)), info, verbose="ERROR")
    with eeg._unlock():
        eeg["dev_head_t"] = meg["dev_head_t"]
    return of(meg).add_channels([of(eeg)], force_update_info=True).info


@cache
def head(kind, n=25):
    "Dipoles in a sphere, some so deep that MEG hardly sees them, with directions"
    rng = np.random.default_rng(3)
    nn = rng.normal(size=(n, 3))
    nn[:, 2] = abs(nn[:, 2])
    nn /= np.linalg.norm(nn, axis=1, keepdims=True)
    src = mne.setup_volume_source_space(
        pos=dict(rr=nn * rng.uniform(0.002, 0.07, (n, 1)), nn=nn[::-1].copy()), verbose="ERROR"
    )
    return mne.make_forward_solution(
        sensors(kind),
        None,
        src,
        mne.make_sphere_model((0, 0, 0), 0.095, verbose="ERROR"),
        verbose="ERROR",
    )


def projections(info, rng):
    "One SSP projection for each kind of MEG channel, not yet applied"
    out, kinds = [], np.array(info.get_channel_types())
    for k in sorted(set(kinds) & {"mag", "grad"}):
        names, v = (
            [n for n, kk in zip(info["ch_names"], kinds) if kk == k],
            rng.normal(size=(1, sum(kinds == k))),
        )
        out.append(
            mne.Projection(
                active=False,
                data=dict(
                    nrow=1,
                    ncol=len(names),
                    row_names=None,
                    col_names=names,
                    data=v / np.linalg.norm(v),
                ),
                desc=k,
                kind=1,
                explained_var=None,
            )
        )
    return out


@cache
def problem(kind="eeg", nave=6, seed=0):
    "Evoked, forward solution and covariance: one source responds after 0 s in noise of that covariance"
    rng, fwd, info = np.random.default_rng(seed), head(kind), sensors(kind)
    cov, x = random_cov(info, rng), np.zeros((75, 60))
    x[12:15, 20:] = 40e-9 * rng.normal(size=(3, 1)) * np.sin(np.arange(40) / 6)
    noise = (
        np.linalg.cholesky(cov["data"])
        @ rng.normal(size=(len(info["ch_names"]), 60))
        / np.sqrt(nave)
    )
    evoked = mne.EvokedArray(
        fwd["sol"]["data"] @ x + noise,
        info,
        tmin=-0.2,
        nave=nave,
        comment="a tone",
        verbose="ERROR",
    ).add_proj(projections(info, rng), verbose="ERROR")
    return evoked, fwd, cov


def solve(evoked, fwd, cov, solver="BMN", **more):
    "The estimate from 0 to 0.3 s"
    return estimate_evoked(
        evoked, fwd, cov, solver, **dict(dict(tmin=0.0, tmax=0.3, progress=False) | more)
    )


def referenced(evoked):
    "The same with an average reference among its projections where there is EEG, as MNE wants it"
    e = evoked.copy()
    return e.set_eeg_reference("average", projection=True, verbose="ERROR") if "eeg" in e else e


def same(a, b, rtol=1e-6):
    "Two posteriors with the same mean, spread, evidence and powers"
    for x, y in ((a.mean.data, b.mean.data), (a.std.data, b.std.data)):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.abs(y).max())
    np.testing.assert_allclose(a.result.log_evidence, b.result.log_evidence, rtol=rtol)
    assert a.power == pytest.approx(b.power, rel=10 * rtol)


# The dense twin


def twin(est, evoked, fwd, cov, depth=None, sflex=False):
    "Mean (N, 3 or 1, T) and std in Am, and log evidence in µV and fT, from matrices alone, at the variances that were found"
    e = referenced(evoked)
    e.pick([n for n in e.ch_names if n in fwd["sol"]["row_names"] and n not in e.info["bads"]])
    W = mne.cov.compute_whitener(cov, e.info, pca=True, verbose="ERROR")[0]
    if len(W) == len(e.ch_names):
        W = mne.cov.compute_whitener(cov, e.info, verbose="ERROR")[0]
    free = fwd["sol"]["data"][[fwd["sol"]["row_names"].index(n) for n in e.ch_names]].reshape(
        len(e.ch_names), -1, 3
    )
    N, k, r = free.shape[1], est.n_orient, est.result
    Q = {1: est.basis, 2: est.basis, 3: np.tile(np.eye(3), (N, 1, 1))}[k]
    L = W @ np.einsum("mni,nik->mnk", free, Q).reshape(len(e.ch_names), -1)
    size = np.linalg.norm(L.reshape(len(W), N, k), axis=(0, 2))
    w = np.ones(N) if depth is None else np.maximum(size, size.max() / 10) ** -depth
    B = sflex_basis(fwd["source_rr"]).toarray() if sflex else np.eye(N)
    S = np.kron(w[:, None] / np.median(w) * B, np.eye(k))
    gamma = np.zeros(N * k)
    active = (
        np.asarray(r["active_indices"])
        if len(r["active_indices"]) == len(r.posterior.gamma)
        else np.flatnonzero(np.repeat(np.isin(np.arange(N), r["active_indices"]), k))
    )
    gamma[active] = r.posterior.gamma
    prior = TO_SI**2 * S @ np.diag(gamma) @ S.T
    noise = r["lambdas"] if "lambdas" in r else np.full(len(W), r.noise_var)
    C = np.diag(noise) + L @ prior @ L.T
    y, gain = (
        W @ e.data[:, (e.times > est.tmin - 1e-6) & (e.times < est.times[-1] + 1e-6)],
        prior @ L.T @ np.linalg.inv(C),
    )
    mean, post = gain @ y, prior - gain @ L @ prior
    scaled = W / np.array([TO_DATA_UNITS[t] for t in e.get_channel_types()])
    evidence = -0.5 * (
        np.trace(y.T @ np.linalg.inv(C) @ y)
        + y.shape[1]
        * (np.linalg.slogdet(2 * np.pi * C)[1] - np.linalg.slogdet(scaled @ scaled.T)[1])
    )
    lifted = Q if k > 1 else np.ones((N, 1, 1))
    blocks = np.array([post[n * k : n * k + k, n * k : n * k + k] for n in range(N)])
    return (
        lifted @ mean.reshape(N, k, -1),
        np.sqrt(np.maximum(np.einsum("nik,nkl,nil->ni", lifted, blocks, lifted), 0)),
        evidence,
    )


def agree(est, mean, std, evidence):
    "The estimate and the twin"
    theirs = [x if x.ndim == 3 else x[:, None] for x in (est.mean.data, est.std.data)]
    np.testing.assert_allclose(theirs[0], mean, atol=1e-6 * np.abs(mean).max())
    np.testing.assert_allclose(
        theirs[1], np.repeat(std[:, :, None], mean.shape[2], axis=2), atol=1e-5 * std.max()
    )
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
    few = dict(max_iter=15) if "max_iter" in SOLVERS[solver].takes() else {}
    est = solve(
        evoked,
        fwd,
        cov,
        solver,
        orientation=orientation,
        depth=depth,
        noise="learn" if solver in LEARNED else "given",
        solver_params=few,
    )
    assert est.n_orient == dict(free=3, fixed=1, meg2=2)[orientation]
    assert (
        len(est.result.posterior.gamma) or solver in LEARNED
    )  # noise of each sensor may explain all there is
    if solver in GIVEN:
        assert est.result.noise_var == pytest.approx(1 / nave)
    agree(est, *twin(est, evoked, fwd, cov, depth, "sflex" in solver))


def test_auto_orientation():
    "All three components where electrodes see them, two for MEG alone"
    assert [solve(*problem(k)).n_orient for k in ("eeg", "meg", "both")] == [3, 2, 3]
    evoked, fwd, cov = problem()
    assert (
        solve(
            evoked,
            mne.convert_forward_solution(fwd, surf_ori=True, force_fixed=True, verbose="ERROR"),
            cov,
        ).n_orient
        == 1
    )


@pytest.mark.parametrize("depth", [0, 0.5, 0.8, 1])
@pytest.mark.parametrize("kind", ["eeg", "meg"])
def test_depth_weights_are_mne_s(depth, kind):
    "MNE's depth prior of the whitened leadfield, a variance; its limit counts before the exponent, and is one of the sources' own sizes there"
    evoked, fwd, cov = problem(kind)
    h = _head([evoked], fwd, cov, None, "free", depth, None)
    size = np.linalg.norm(h.plain.L.reshape(len(h.plain.L), 25, 3), axis=(0, 2))
    white = fwd.copy()
    white["sol"]["data"] = h.plain.L
    prior = (
        mne.forward.compute_depth_prior(
            white,
            fwd["info"],
            exp=depth,
            limit=10,
            combine_xyz="fro",
            limit_depth_chs=False,
            verbose="ERROR",
        )[::3]
        if depth
        else np.ones(25)
    )
    clipped, ours, theirs = (
        size < size.max() / 10,
        h.weights / h.weights.min(),
        np.sqrt(prior / prior.min()),
    )
    assert clipped.any() == (kind == "meg")
    np.testing.assert_allclose(ours[~clipped], theirs[~clipped], rtol=1e-6)
    np.testing.assert_allclose(ours[clipped], 10**depth, rtol=1e-6)
    np.testing.assert_allclose(theirs[clipped], 10**depth, rtol=0.3)
    np.testing.assert_allclose(np.median(_depth_weights(h.plain, depth)), 1)


# What must not matter


def reversed_fwd(fwd):
    "The forward solution with its channels in another order"
    names = fwd["sol"]["row_names"][::-1]
    return mne.pick_channels_forward(fwd, names, ordered=True, verbose="ERROR")


@pytest.mark.parametrize("kind", ["eeg", "both"])
def test_order_of_channels(kind):
    evoked, fwd, cov = problem(kind)
    straight, mixed = (
        solve(evoked, fwd, cov),
        evoked.copy().reorder_channels(list(np.random.default_rng(0).permutation(evoked.ch_names))),
    )
    same(solve(mixed, fwd, cov), straight)
    same(solve(evoked, reversed_fwd(fwd), cov), straight)
    same(
        solve(
            evoked,
            fwd,
            mne.pick_channels_cov(cov, cov["names"][::-1], ordered=True, verbose="ERROR"),
        ),
        straight,
    )
    for got in solve([evoked, mixed], fwd, cov):
        same(got, straight)


@pytest.mark.parametrize("solver", ["gamma_map_sflex", "BMN_joint"])
def test_nave_against_covariance(solver):
    "An average of four times as many epochs with four times the noise each is the same problem"
    evoked, fwd, cov = problem()
    more, four, noise = evoked.copy(), cov.copy(), "learn" if solver in LEARNED else "given"
    more.nave, four["data"] = 4 * evoked.nave, 4 * cov["data"]
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
    rng, e = np.random.default_rng(1), evoked.copy()
    e.data[:] = (
        np.array([NOISE[k] for k in e.get_channel_types()])[:, None]
        / np.sqrt(6)
        * rng.normal(size=e.data.shape)
    )
    white = _head([e], fwd, None, None, "free", None, None).whitener.W * [
        TO_DATA_UNITS[k] for k in e.get_channel_types()
    ]
    np.testing.assert_allclose(
        np.mean(
            (white @ np.diag([NOISE[k] for k in e.get_channel_types()])) ** 2 * len(e.ch_names)
        ),
        1,
        rtol=0.15,
    )


def test_epochs_are_averaged():
    evoked, fwd, cov = problem()
    rng = np.random.default_rng(0)
    epochs = mne.EpochsArray(
        evoked.data + 3e-6 * rng.normal(size=(8, 32, 60)), evoked.info, tmin=-0.2, verbose="ERROR"
    )
    alone = solve(epochs.average(), fwd, cov)
    assert alone.nave == 8
    same(solve(epochs, fwd, cov), alone)
    same(solve([epochs, evoked], fwd, cov)[0], alone)


@pytest.mark.parametrize("solver", ["gamma_map_sflex", "BMN_joint"])
def test_list_equals_one_by_one(solver):
    evoked, fwd, cov = problem()
    other, noise = (
        problem(seed=0)[0].copy().crop(-0.1, 0.35),
        "learn" if solver in LEARNED else "given",
    )
    other.data[:] = other.data[::-1]
    other.nave, other.comment = 3, "a flash"
    both = solve((evoked, other), fwd, cov, solver, noise=noise)
    for got, e in zip(both, (evoked, other)):
        same(got, solve(e, fwd, cov, solver, noise=noise))
        assert (got.comment, got.nave) == (e.comment, e.nave)
    assert isinstance(solve([evoked], fwd, cov), list)


def test_other_channels_change_nothing():
    evoked, fwd, cov = problem()
    extra = mne.EvokedArray(
        np.random.default_rng(0).normal(size=(2, 60)),
        mne.create_info(["EOG 061", "STI 014"], 100.0, ["eog", "stim"]),
        tmin=-0.2,
        nave=6,
        verbose="ERROR",
    )
    more = evoked.copy().add_channels([extra], force_update_info=True)
    wide = mne.Covariance(
        np.diag(np.r_[cov["data"].diagonal(), 1.0])
        + np.pad(cov["data"] - np.diag(cov["data"].diagonal()), (0, 1)),
        cov["names"] + ["EOG 061"],
        [],
        [],
        500,
    )
    same(solve(more, fwd, cov), solve(evoked, fwd, cov))
    same(solve(more, fwd, wide), solve(evoked, fwd, cov))


def test_picks_choose_channels():
    "A kind, or names in any order; a covariance and a forward solution of more channels serve as they are"
    evoked, fwd, cov = problem("both")
    eeg, fwd_eeg, _ = problem("eeg")
    names = [n for n in evoked.ch_names if n in eeg.ch_names]
    same(solve(evoked, fwd, cov, picks=names[::-1]), solve(evoked, fwd, cov, picks="eeg"))
    same(solve(evoked.copy().pick("eeg"), fwd, cov), solve(evoked, fwd, cov, picks="eeg"))
    same(solve(evoked, fwd_eeg, cov), solve(evoked, fwd, cov, picks="eeg"), rtol=1e-5)


def test_a_solver_of_ones_own():
    "One that knows neither orientations nor positions"

    def mine(L, y, noise_var):
        return BMN(L, y, noise_var)

    same(solve(*problem(), mine, orientation="fixed"), solve(*problem(), orientation="fixed"))
    with pytest.raises(ValueError, match="orientation must be one of .* for mine"):
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
        "calibrain.recording.estimate._solve",
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
    d[3, 5] = np.nan


def millionfold(d):
    d *= 1e6


def femto(d):
    d *= 1e15


def out(info, n):
    "Projections of n directions; 31 leave nothing beside the average reference"
    rows = np.linalg.svd(np.eye(32) - 1 / 32)[2][:n]
    return [
        mne.Projection(
            active=False,
            data=dict(nrow=n, ncol=32, row_names=None, col_names=info["ch_names"], data=rows),
            desc="some",
            kind=1,
            explained_var=None,
        )
    ]


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
        "forward must be complete for the good channels of evoked, got none for Fp1, AF3: mark them as bad",
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
        "noise_cov must be good for the good channels of evoked, got Cz marked as bad: add them to evoked.info",
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
    "picks a number": (
        lambda e, f, c: dict(picks=5),
        TypeError,
        "picks must be kinds or names of channels, got 5",
    ),
    "picks numbers": (
        lambda e, f, c: dict(picks=[0, 1]),
        TypeError,
        "picks must be kinds or names of channels",
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
        "noise_cov must be an mne.Covariance, got ndarray: compute it with mne.compute_covariance; arrays go to SourceEstimator",
    ),
    "no covariance": (
        lambda e, f, c: dict(noise_cov=None),
        ValueError,
        "noise_cov must be an mne.Covariance where the noise is given, got None: pass noise='baseline'",
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
        "evoked must be EEG with average reference, got a custom reference: call evoked.set_eeg_reference",
    ),
    "window of nothing": (
        lambda e, f, c: dict(tmin=0.1, tmax=0.1),
        ValueError,
        "tmin must be before tmax=0.1 s, got 0.1",
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
    "window between samples": (
        lambda e, f, c: dict(tmin=0.101, tmax=0.108),
        ValueError,
        "tmin, tmax must be at least one sample apart",
    ),
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
        "evoked.data must be finite, got 1 NaN",
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
        "evoked must be a list of conditions with the same good channels, got Cz in one of them only",
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
        lambda e, f, c: dict(solver="dSPM"),
        ValueError,
        "solver must be one of 'gamma_map', .*, got 'dSPM'",
    ),
    "solver a number": (
        lambda e, f, c: dict(solver=3),
        TypeError,
        "solver must be a function or one of",
    ),
    "orientation": (
        lambda e, f, c: dict(orientation="loose"),
        ValueError,
        "orientation must be one of 'auto', 'fixed', 'free', 'meg2', got 'loose'",
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
        "noise must be one of 'given', 'baseline', 'learn', got 'diagonal'",
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
    with pytest.raises(
        ValueError,
        match="forward must be good for the good channels of evoked, got Cz marked as bad: add them to evoked.info",
    ):
        solve(evoked, fwd, cov)


@pytest.mark.parametrize("solver", GIVEN)
def test_cannot_learn(solver, no_solver):
    with pytest.raises(
        ValueError,
        match=f"noise must be 'given' or 'baseline' for {solver}, got 'learn': solvers that learn the noise are {', '.join(LEARNED)}",
    ):
        solve(*problem(), solver, noise="learn")


@pytest.mark.parametrize("solver", LEARNED)
@pytest.mark.parametrize("noise", ["given", "baseline"])
def test_cannot_be_given(solver, noise, no_solver):
    with pytest.raises(
        ValueError,
        match=f"noise must be 'learn' for {solver}, got '{noise}': solvers that take the noise as given are {', '.join(GIVEN)}",
    ):
        solve(*problem(), solver, noise=noise)


def test_meg_in_ft(no_solver):
    evoked, fwd, cov = problem("meg")
    with pytest.raises(
        ValueError,
        match="evoked.data must be in T, got mag values up to .*in fT, perhaps: multiply by 1e-15",
    ):
        solve(with_data(evoked, femto), fwd, cov)


def test_one_kind_without_noise(no_solver):
    "Electrodes would be left out silently"
    evoked, fwd, cov = problem("both")
    C, eeg = cov["data"].copy(), [n in sensors("eeg")["ch_names"] for n in cov["names"]]
    C[eeg] = C[:, eeg] = 0
    with pytest.raises(
        ValueError, match="noise_cov must be different from zero somewhere, got all zeros for eeg"
    ):
        solve(evoked, fwd, parts(cov, C))


def test_a_reference_of_ones_own_can_be_put_right():
    "What the error says to do is enough, unless the electrode itself is left flat: it is bad then, and the message says so"
    evoked, fwd, cov = problem()
    cured = (
        evoked.copy()
        .set_eeg_reference(["Cz", "Pz"], verbose="ERROR")
        .set_eeg_reference("average", projection=True, verbose="ERROR")
    )
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
            s.update(
                vertno=s["vertno"][::16],
                nuse=len(s["vertno"][::16]),
                inuse=np.isin(np.arange(s["np"]), s["vertno"][::16]).astype(int),
            )
        src = cortex + src
    else:
        src[0]["subject_his_id"] = cortex[0]["subject_his_id"]
    sphere = mne.make_sphere_model((0, 0, 0.04), 0.095, verbose="ERROR")
    return mne.make_forward_solution(
        noise().info,
        mne.read_trans(realdata.BESIDE / "sample-trans.fif"),
        src,
        sphere,
        meg=False,
        verbose="ERROR",
    )


@realdata.needed
@pytest.mark.parametrize(
    "orientation, cls", [("fixed", mne.SourceEstimate), ("free", mne.VectorSourceEstimate)]
)
@pytest.mark.parametrize("sides", [(0, 1), (0,), (1,)])
def test_surface(orientation, cls, sides, tmp_path):
    "Both hemispheres or one, in Am, with vertices, times and subject, and again from a file"
    fwd = some_cortex(sides)
    est, used = (
        seen(fwd, orientation=orientation),
        {i: s["vertno"] for i, s in zip(sides, fwd["src"])},
    )
    for stc in (est.mean, est.std, *est.interval(0.9)):
        assert type(stc) is cls and stc.subject == "sample" and est.space == "surface"
        for i, got in enumerate(stc.vertices):
            np.testing.assert_array_equal(got, used.get(i, []))
        np.testing.assert_allclose(stc.times, est.times)
        np.testing.assert_allclose(stc.times, noise().times[noise().times >= 0.1], atol=1e-9)
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
        assert (
            type(stc) is vector and stc.subject == "sample" and stc.shape[:2] == (fwd["nsource"], 3)
        )
    assert type(est.exceedance(1e-9)) is scalar and est.space == kind
    for got, s in zip(est.mean.vertices, fwd["src"], strict=True):
        np.testing.assert_array_equal(got, s["vertno"])
    if kind == "mixed":
        assert (
            type(est.mean.surface()) is mne.VectorSourceEstimate
            and type(est.mean.volume()) is mne.VolVectorSourceEstimate
        )
    else:
        est.exceedance(1e-9).save(tmp_path / "x", ftype="stc", verbose="ERROR")
        again = mne.read_source_estimate(tmp_path / "x-vl.stc")
        np.testing.assert_allclose(again.data, est.exceedance(1e-9).data, rtol=1e-6)
        np.testing.assert_array_equal(again.vertices[0], est.mean.vertices[0])
    again = EvokedPosterior.load(est.save(tmp_path / "x.npz"))
    assert type(again.mean) is vector and [len(v) for v in again.vertices] == [
        len(v) for v in est.vertices
    ]


@realdata.needed
@pytest.mark.parametrize("cls", ["vector", "mixed"])
def test_vectors_in_files(cls, tmp_path):
    "MNE-Python writes them as HDF5"
    pytest.importorskip("h5io")
    mean = seen(
        some_cortex((0, 1)) if cls == "vector" else in_sphere("mixed"), orientation="free"
    ).mean
    mean.save(tmp_path / "x", ftype="h5", verbose="ERROR")
    again = mne.read_source_estimate(next(tmp_path.iterdir()))
    assert type(again) is type(mean)
    np.testing.assert_array_equal(again.data, mean.data)


@realdata.needed
@pytest.mark.parametrize("kind", ["volume", "mixed"])
def test_volume_has_no_normals(kind, no_solver):
    with pytest.raises(
        ValueError,
        match="orientation must be 'free' or 'meg2' for a volume source space, got 'fixed': a volume has no cortex",
    ):
        seen(in_sphere(kind), orientation="fixed")


# The posterior


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["eeg", "meg"])
@pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.ConvergenceWarning",
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
)
def test_round_trip(solver, kind, tmp_path):
    few = dict(max_iter=10) if "max_iter" in SOLVERS[solver].takes() else {}
    est = solve(
        *problem(kind),
        solver,
        noise="learn" if solver in LEARNED else "given",
        depth=0.8,
        solver_params=few,
    )
    again = EvokedPosterior.load(est.save(tmp_path / "x.npz"))
    for a, b in (
        (again.mean, est.mean),
        (again.std, est.std),
        (again.exceedance(5e-9), est.exceedance(5e-9)),
        *zip(again.interval(0.5), est.interval(0.5)),
    ):
        assert type(a) is type(b)
        np.testing.assert_array_equal(a.data, b.data)
        np.testing.assert_array_equal(a.times, b.times)
        np.testing.assert_array_equal(a.vertices[0], b.vertices[0])
    for k in ("space", "tmin", "tstep", "subject", "comment", "nave", "power"):
        assert getattr(again, k) == getattr(est, k), k
    assert (
        again.result.log_evidence == est.result.log_evidence
        and set(again.result) == set(est.result)
        and repr(again) == repr(est)
    )
    np.testing.assert_array_equal(again.coords, est.coords)


def test_files_that_are_refused(tmp_path):
    "With pickles, cut short, altered, or of something else; nothing is left of an attempt to write"
    path = solve(*problem()).save(tmp_path / "x.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut short, damaged or not an npz file"):
        EvokedPosterior.load(path)
    at = whole.find(b"NUMPY", whole.find(b"posterior/V.npy")) + 300
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(ValueError, match="damaged|altered"):
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
    (_, fwd, cov), rng, nave = problem(kind), np.random.default_rng(5), 6
    info, T = sensors(kind), 200
    h = _head([problem(kind)[0]], fwd, cov, None, orientation, None, None)
    x = 20 * rng.normal(size=(25, h.leadfield.n_orient, T))
    clean = (h.leadfield.matrix() @ x.reshape(-1, T)) / h.leadfield.from_si[:, None]
    noise = (
        np.linalg.cholesky(cov["data"])
        @ rng.normal(size=(len(info["ch_names"]), T))
        / np.sqrt(nave)
    )
    evoked = mne.EvokedArray(clean + noise, info, tmin=0.0, nave=nave, verbose="ERROR")
    est = estimate_evoked(evoked, fwd, cov, "BMN", orientation=orientation, progress=False)
    truth = TO_SI * (h.leadfield.lift(x) if orientation != "fixed" else x[:, 0])
    for level in (0.5, 0.9):
        low, high = est.interval(level)
        assert np.mean((low.data < truth) & (truth < high.data)) == pytest.approx(level, abs=0.02)
    told, length = est.exceedance(25e-9).data, np.linalg.norm(x, axis=1)
    for low, high in ((0, 0.3), (0.3, 0.7), (0.7, 1)):
        some = (told >= low) & (told <= high)
        if some.sum() > 300:
            assert (length > 25)[some].mean() == pytest.approx(told[some].mean(), abs=0.05)


@pytest.mark.parametrize("kind, orientation", [("eeg", "fixed"), ("meg", "meg2"), ("eeg", "free")])
def test_exceedance_against_sampling(kind, orientation):
    "Vectors of one, two and three components"
    est = solve(*problem(kind), orientation=orientation)
    draws = np.linalg.norm(
        est.posterior.sample(2000, seed=0).reshape(2000, 25, est.n_orient, -1), axis=2
    )
    for threshold in (5, 20):
        np.testing.assert_allclose(
            est.exceedance(threshold * TO_SI).data,
            (draws > threshold).mean(0),
            atol=4.5 * 0.5 / np.sqrt(2000),
        )


def test_level_and_threshold_are_checked():
    est = solve(*problem())
    for level in (0, 1, 95, "x"):
        with pytest.raises((ValueError, TypeError), match="level must be"):
            est.interval(level)
    for threshold in (0, -1, 10, np.nan):
        with pytest.raises(ValueError, match="threshold must be .*10 nAm are 10e-9"):
            est.exceedance(threshold)


def test_viewer_that_is_not_there(monkeypatch):
    monkeypatch.setattr("calibrain.recording.posterior.find_spec", lambda name: None)
    with pytest.raises(
        ImportError,
        match="needs pyvista and pyvistaqt: pip install pyvista pyvistaqt, or draw maps with calibrain.viz",
    ):
        solve(*problem()).plot_3d()


@pytest.mark.parametrize("many", [False, True])
def test_progress(many, capsys):
    "A bar for one long solve, or over conditions; silence where it is not wanted"
    evoked, fwd, cov = problem()
    e = [evoked, evoked] if many else evoked
    solve(e, fwd, cov, "gamma_map", progress=True)
    assert ("2/2" if many else "step") in capsys.readouterr().err
    solve(e, fwd, cov, "gamma_map", progress=False)
    assert capsys.readouterr() == ("", "")


# A real recording


@realdata.needed
@pytest.mark.parametrize("kind", ["meg", "eeg"])
def test_recording(kind):
    "The twin again, with the recording's own projections and bad channels; and what is left is noise"
    evoked, fwd, cov = (
        realdata.evoked("Right Auditory"),
        realdata.forward(kind),
        realdata.covariance(),
    )
    est = estimate_evoked(evoked, fwd, cov, "BMN", tmin=0.08, tmax=0.1, progress=False)
    agree(est, *twin(est, evoked.copy().pick(kind), fwd, cov))
    assert est.nave == 6 and est.comment == "Right Auditory" and 0.9 < est.power["baseline"] < 1.3
    assert (
        0.7 < est.power["expected_residual"] / est.power["baseline"] < 1.3
        and 0 < est.explained_variance < 0.8
    )
