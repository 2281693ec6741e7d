"What the explorers say and show, against computations made here from the formulas"

import itertools
import re

import numpy as np
import pytest
from scipy.stats import chi2, norm

from calibrain import BMN, BMN_joint, gamma_map, gamma_map_sflex, spike_slab
from calibrain.explorers import (
    CalibrationExplorer,
    CoverageExplorer,
    EvidenceExplorer,
    Impossible,
    PosteriorExplorer,
    SflexExplorer,
    SparsePathExplorer,
    SupportsExplorer,
    brain,
    calibration,
    evidence_surface,
    sflex,
    sparse_path,
    supports,
)
from calibrain.explorers.bands import problem_at, solve_at, source_of
from calibrain.explorers.simulator import BANDS, simulate_trial, sphere_head
from calibrain.solvers.registry import describe

LEARNED = "adaptive joint learning"
TEMPORAL = sflex.PLACES["temporal lobe"]


def number_after(words, text):
    "The number that follows some words in a text"
    found = re.search(re.escape(words) + r" ?([−\-\d.e]+\d)", text).group(1)
    return float(found.replace("−", "-"))


# ---- simulator


@pytest.mark.parametrize("band", BANDS)
def test_sources_lie_in_their_band(band):
    low, high = BANDS[band]
    trial = simulate_trial(band, "fixed", 20, 10, 0)
    spectrum = np.abs(np.fft.rfft(trial.x[trial.active], 1000)).mean(0)
    peak = np.fft.rfftfreq(1000, 0.01)[spectrum.argmax()]
    blur = 1.25  # Hz; a Hann window of 0.8 s blurs an edge by 2.5 Hz at most
    assert low - blur <= peak <= high + blur


@pytest.mark.parametrize("snr", [-10, 0, 20])
def test_the_ratio_of_signal_to_noise(snr):
    trial = simulate_trial("4–8 Hz", "random", 10, 3, snr)
    noise = trial.y - trial.clean
    assert np.isclose(10 * np.log10((trial.clean**2).sum() / (noise**2).sum()), snr)
    assert np.allclose(trial.clean, sphere_head()[0].matrix() @ trial.x)


# ---- evidence surface and sparse path


@pytest.mark.filterwarnings(
    "ignore::calibrain.core.warnings.NoiseBoundaryWarning",
    "ignore::calibrain.core.warnings.ConvergenceWarning",
)
@pytest.mark.parametrize("snr, n_sources, n_times", [(0, 8, 20), (20, 24, 5), (-10, 64, 20)])
def test_the_surface_says_what_the_solver_says(snr, n_sources, n_times):
    fig = EvidenceExplorer().draw(snr, n_sources, n_times, "noise", "as recorded")
    text = fig.texts[0].get_text()
    recorded = evidence_surface.record(snr, n_sources, n_times)
    best = BMN_joint(recorded.G, recorded.y)
    old = BMN_joint(recorded.G, recorded.y, rule="calibrain-1.0")
    words = "ℒ falls to" if best.noise_at_boundary else "ℒ ="
    assert abs(number_after(words, text) - best.cost) < 0.006
    assert abs(number_after("with ℒ =", text) - old.cost) < 0.006
    assert ("cannot tell noise" in text) == best.noise_at_boundary
    assert ("need no sources" in text) == (best["gamma"] == 0)


@pytest.mark.filterwarnings("ignore::calibrain.core.warnings.ConvergenceWarning")
@pytest.mark.parametrize("rule, mode", [("MacKay", 1), ("convex bounding", 2), ("EM", 3)])
def test_the_path_says_what_the_solver_says(rule, mode):
    text = SparsePathExplorer().draw(30, rule, 10, 3).texts[0].get_text()
    G, _, y = sparse_path.record(10, 3)
    result = gamma_map(G, y, 1.0, max_iter=30, tol=0, update_mode=mode)
    assert abs(number_after("ℒ =", text) - result.cost) < 6e-4
    violation = number_after("largest violation", text)
    assert abs(violation / result.kkt_violation - 1) < 0.05
    assert f"{len(result['active_indices'])} of 40" in text


# ---- sFLEX


@pytest.fixture(scope="module")
def head():
    return sflex.left_head()[0].record


def panels(**change):
    "The panels of the sFLEX explorer by the label of their vertical axis"
    e = SflexExplorer()
    return {ax.get_ylabel() or "map": ax for ax in e.draw(**{**e.start, **change}).axes}


@pytest.mark.parametrize("normalize", ["none", "row", "sym"])
def test_weights(head, normalize):
    "The points of the panel, from the definition"
    away = np.linalg.norm(head.coords[:, None] - head.coords, axis=-1)
    plain = np.where(away <= 0.042, np.exp(-((away / 0.014) ** 2) / 2), 0)
    D = plain.sum(1)
    B = {
        "none": plain,
        "row": plain / D[:, None],
        "sym": plain / np.sqrt(np.outer(D, D)),
    }[normalize]
    x, y = panels(sigma=14, normalize=normalize)["weight"].lines[1].get_data()
    near = away[TEMPORAL] <= 0.06
    np.testing.assert_allclose(x, 1e3 * away[TEMPORAL, near])
    np.testing.assert_allclose(y, B[near, TEMPORAL], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("place", sflex.PLACES)
def test_costs(head, place):
    "The curve, from the formula of the type-II cost at the γ that was found"
    y, noise_var = sflex.patch_recording(place, 20, 12)
    lines = panels(place=place, true=20)["ℒ above its lowest"].lines
    curve = next(line for line in lines if line.get_label() == "cost")
    shown = dict(zip(*curve.get_data()))
    cost = {}
    for sigma in (14, 20):
        fit = gamma_map_sflex(
            head.matrix(),
            y,
            noise_var=noise_var,
            src_coords=head.coords,
            sigma=sigma / 1000,
            update_mode="fast",
        )
        G = head.matrix() @ fit["B_spatial"].toarray()
        Sigma_y = noise_var * np.eye(len(y)) + (G * fit["gammas_full"]) @ G.T
        power = np.trace(y.T @ np.linalg.solve(Sigma_y, y)) / y.shape[1]
        cost[sigma] = np.linalg.slogdet(Sigma_y)[1] + power
    assert shown[14] - shown[20] == pytest.approx(cost[14] - cost[20], abs=1e-4)


def test_the_recording(head):
    "A patch of the true width, with the noise that the SNR says"
    y, noise_var = sflex.patch_recording("temporal lobe", 10, 6)
    clear, _ = sflex.patch_recording("temporal lobe", 10, 12)
    away = np.linalg.norm(head.coords - head.coords[TEMPORAL], axis=1)
    field = head.matrix() @ np.where(away <= 0.03, np.exp(-((away / 0.01) ** 2) / 2), 0)
    main = np.linalg.svd(clear)[0][:, 0]
    assert abs(main @ field) > 0.99 * np.linalg.norm(field)
    snr = 10 * np.log10(((y**2).mean() - noise_var) / noise_var)
    assert snr == pytest.approx(6, abs=1)


@pytest.mark.parametrize("place", sflex.PLACES)
@pytest.mark.parametrize("normalisation", sflex.NORMALISATIONS)
def test_the_evidence_finds_the_width(place, normalisation):
    "As the page says: at 12 dB, within a step of the grid"
    for true in (10, 20):
        cost = sflex.costs_by_width(place, true, 12, normalisation)
        assert abs(cost.argmin() - sflex.WIDTHS.index(true)) <= 1


def test_little_signal_tells_no_width():
    "At −6 dB, 2 to 17 mm are as good"
    assert np.ptp(sflex.costs_by_width("temporal lobe", 10, -6, "sym")[:8]) < 1


def test_islands(head):
    "The bump of 10 mm comes in two parts on the temporal lobe, in one on the parietal lobe"
    _, cortex = sflex.left_head()
    inflated = cortex.rr[cortex.sources]

    def farthest(n):
        "Of the sources with more than half the weight, mm on the inflated cortex"
        half = np.linalg.norm(head.coords - head.coords[n], axis=1) < 0.01 * np.sqrt(2 * np.log(2))
        return 1e3 * np.linalg.norm(inflated[half] - inflated[n], axis=1).max()

    assert farthest(sflex.PLACES["temporal lobe"]) > 30
    assert farthest(sflex.PLACES["parietal lobe"]) < 20


# ---- bands and ellipsoids


PAIRS = list(
    itertools.product(
        PosteriorExplorer.controls["solver"].values, PosteriorExplorer.controls["mode"].values
    )
)


@pytest.mark.parametrize("solver, mode", PAIRS)
def test_solver_and_noise_mode(solver, mode):
    about = describe(solver)
    if about.samples or about.learns_noise == (mode == LEARNED):
        assert solve_at("fixed", solver, mode, 5).result.converged
    else:
        with pytest.raises(Impossible, match=solver):
            solve_at("fixed", solver, mode, 5)


def test_posterior_numbers():
    e = PosteriorExplorer()
    problem = problem_at("free", 5)
    result = solve_at("free", "gamma_map_sflex", "baseline", 5).result
    n = source_of(problem, "strongest active")
    assert n == int(np.square(problem.x).sum((1, 2)).argmax())

    own = slice(3 * n, 3 * n + 3)
    cov = result["posterior_cov"][own, own]
    error = problem.x[n] - result["posterior_mean"][own]
    distance = np.einsum("it,it->t", error, np.linalg.solve(cov, error))
    inside = distance <= chi2(3).ppf(0.95)
    axes = np.sqrt(chi2(3).ppf(0.95) * np.linalg.eigvalsh(cov))
    sizes = ", ".join(f"{a:.2g}" for a in axes)
    used = problem.y[:, :10].var(1).mean()
    assert [text.get_text() for text in e.draw(**e.start).texts] == [
        f"noise variance: {used:.2g} µV² used, {problem.noise.var():.2g} µV² true\n"
        f"95 % ellipsoid, half axes {sizes} nAm: holds the truth at {inside.sum()} of 90 samples"
    ]


# ---- coverage


def std_of(result):
    "`(32, 3, 1)`; of a mixture `(32, 3, 90)`, from the law of total variance, state by state"
    if describe(result.solver).samples:
        mixture = result.posterior
        second = np.zeros((96, 90))
        for weight, state in zip(mixture.weights, mixture.states):
            rows = (3 * state.atoms[:, None] + np.arange(3)).ravel()
            second[rows] += weight * (state.mean**2 + np.diag(state.cov)[:, None])
        return np.sqrt(np.maximum(second - mixture.mean**2, 0)).reshape(32, 3, 90)
    return np.sqrt(np.diag(result["posterior_cov"])).reshape(32, 3)[:, :, None]


@pytest.mark.parametrize(
    "solver, snr", [("gamma_map_sflex", -5), ("gamma_map_sflex", 20), ("spike_slab", -5)]
)
def test_coverage_numbers(solver, snr):
    held = []
    widths = []
    for seed in range(20):
        x = problem_at("free", snr, seed).x
        result = solve_at("free", solver, "oracle", snr, seed).result
        mean = result.posterior.mean.reshape(x.shape)
        std = std_of(result)
        half = norm.ppf(0.95) * std
        counted = x.any((1, 2))[:, None, None] & ((half > 0) | (x != mean))  # not right points
        held.append((abs(x - mean) <= half)[counted])
        widths.append(np.broadcast_to(2 * half, x.shape)[counted])
    held = np.concatenate(held)
    width = np.concatenate(widths).mean()

    e = CoverageExplorer()
    said = e.draw(**{**e.start, "solver": solver, "snr": snr}).texts[0].get_text()
    assert said.startswith(
        f"20 runs, {held.size:,} sets counted\nat level 0.9: {held.mean():.2f} hold the truth"
    )
    assert said.endswith(f"mean size {width:.2g} nAm")


# ---- brain


@pytest.mark.parametrize("n, time, size", [(578, 90, 8), (773, 140, -8)])
def test_the_two_patches(n, time, size):
    "Where and when the truth is largest, and that it is found there"
    e = brain.simulated_estimate()
    i = list(e.times).index(time)
    assert np.abs(e.truth[:, i]).argmax() == n
    assert np.abs(e.mean[:, 0, i]).argmax() == n
    assert e.truth[n, i] == pytest.approx(size, abs=1e-3)
    assert abs(e.mean[n, 0, i] - size) < 3 * e.std[n]


def test_half_of_the_sources_are_pruned():
    assert 0.5 < (brain.simulated_estimate().std == 0).mean() < 0.6


def test_probability():
    "Two tails of a Gaussian; the map that is drawn"
    e = brain.simulated_estimate()
    p, how = brain.map_values(e, "exceedance", 18, 2)
    seen = e.std > 0
    at = dict(loc=e.mean[seen, 0, 18], scale=e.std[seen])
    np.testing.assert_allclose(p[seen], norm.sf(2, **at) + norm.cdf(-2, **at), atol=1e-9)
    assert not p[~seen].any()
    assert how["limits"] == (0, 1)
    assert (p > 0.95).sum() == 7  # as the page says
    assert (np.abs(e.truth[p > 0.95, 18]) > 2).all()


def test_a_mixture_on_the_cortex():
    "Error and probability at a moment, counted in draws"
    e = brain.simulated_estimate("spike_slab")
    some = np.array([e.strongest, *np.argsort(-np.abs(e.mean[:, 0, 18]))[:6]])
    draws = e.posterior.sample(4000, seed=0, sources=some)[:, :, 18]
    np.testing.assert_allclose(draws.std(0), e.std_at(18)[some], rtol=0.08)
    share = (np.abs(draws) > 2).mean(0)
    np.testing.assert_allclose(e.exceedance_at(18, 2)[some], share, atol=0.04)
    mean, std = e.course
    assert mean.shape == std.shape == (41,)
    fig = brain.draw_posterior(e, "std", 90, 2)
    band = fig.axes[1].collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx((mean + 1.96 * std).max())


# ---- supports


@pytest.mark.filterwarnings("ignore::calibrain.core.warnings.ConvergenceWarning")
@pytest.mark.parametrize("n_chains, n_kept, snr, n_active", [(3, 30, -10, 5), (1, 8, 5, 2)])
def test_supports_are_those_of_the_solver(n_chains, n_kept, snr, n_active):
    "All that is drawn and said, from what the solver returns for as many sweeps"
    recording = supports.recording_at(snr, n_active, 2)
    head, _ = sflex.left_head()
    sweeps = dict(n_chains=n_chains, n_sweeps=n_chains * n_kept)
    result = spike_slab(head, recording.y, recording.noise_var, **sweeps)
    fig = SupportsExplorer().draw(n_kept, n_chains, snr, n_active, 2)
    *chains, inclusion, _, counts, _ = fig.axes

    def marks(ax):
        drawn = [line.get_xydata() for line in ax.lines if line.get_marker() in tuple("osx")]
        return np.concatenate(drawn)

    states = result.posterior.states
    for i, ax in enumerate(chains):
        sweep = marks(ax)[:, 0]
        on = [len(state.atoms) for state in states[i * n_kept : (i + 1) * n_kept]]
        after = np.arange(41, 41 + n_kept)
        np.testing.assert_array_equal((sweep[:, None] == after).sum(0), on)
        assert sweep.max() <= 40 + n_kept
    P = result["inclusion"]
    np.testing.assert_allclose(np.sort(marks(inclusion)[:, 0]), np.sort(P[P > 0]), atol=1e-12)
    feet = np.arange(n_active, 0, -1) + 0.14  # of the lanes, the loudest source on top
    for foot, p in zip(feet, P[recording.active]):
        drawn = marks(inclusion)
        at_foot = drawn[np.isclose(drawn[:, 1], foot), 0]
        np.testing.assert_allclose(at_foot, [p] if p else [])

    heights = [bar.get_height() for bar in counts.patches]
    expected = np.zeros(13)
    expected[: len(result["count_probability"])] = result["count_probability"][:13]
    np.testing.assert_allclose(heights, expected, atol=1e-12)
    said = fig.texts[0].get_text()
    assert number_after("(probability", said) == pytest.approx(max(heights), abs=0.006)
    if n_chains > 1:
        shown = number_after("largest |ΔP|", said)
        assert shown == pytest.approx(result["delta_inclusion"], abs=0.006)
        assert ("chains agree" in said) == result.converged


def test_many_sources_share_the_last_bar():
    "More than the axis holds"
    fig = supports.Picture()
    ax = fig.add_subplot()
    many = np.zeros(16)
    many[[3, 12, 15]] = 0.5, 0.3, 0.2
    supports._draw_counts(many, 3, ax)
    heights = [bar.get_height() for bar in ax.patches]
    assert heights[3] == 0.5 and heights[12] == 0.5 and sum(heights) == 1


def test_loudest_first():
    head, _ = sflex.left_head()
    recording = supports.recording_at(10, 5, 1)
    noise_free = [supports.recording_at(10, n, 1).active for n in (1, 5)]
    assert {*noise_free[0]} <= {*noise_free[1]}  # more sources come in addition
    parts = head.L[:, recording.active]
    x = np.linalg.lstsq(parts, recording.y, rcond=None)[0]
    loudness = np.linalg.norm(parts, axis=0) * np.linalg.norm(x, axis=1)
    assert (np.diff(loudness) < 0.05 * loudness[0]).all()


# ---- calibration


HEADS = [("gamma_map", 20, 20), ("BMN", 0, 20)]  # Solver, and errors of heads in training and tests


def errors_and_sigma(solver, degrees, seeds, floor):
    "By run: |x − m|, s and σ with a floor at every tenth sample, and the true sources there"
    head, _ = calibration.small_head()
    solve = {"gamma_map": lambda *a: gamma_map(*a, update_mode="fast"), "BMN": BMN}[solver]
    found = []
    for seed in seeds:
        x, y = calibration.recording_at(degrees, seed)
        posterior = solve(head, y, 0.5).posterior
        s = np.sqrt(posterior.var)[:, None]
        sigma = np.sqrt(s**2 + floor**2 * 0.5 / np.square(head.L).sum(0)[:, None])
        mean = posterior.mean[:, ::10]
        parts = abs(x[:, ::10] - mean), s, sigma, x[:, ::10], mean
        found.append(tuple(np.broadcast_to(part, mean.shape) for part in parts))
    return found


def points_of(stratum, s, x, mean):
    "Which points are counted, from the definitions"
    active = x.any(1, keepdims=True) & np.ones(x.shape, bool)
    sure = (s > 0) & (abs(mean) > norm.ppf(0.975) * s)
    return dict(on=x != 0, active=active, claims=sure, all=active | ~active)[stratum]


def quantile_over_runs(scores, level):
    "The smallest score that a share of at least `level` is within, each run with the same weight"
    share = np.repeat([1 / len(scores) / len(z) for z in scores], [len(z) for z in scores])
    scores = np.concatenate(scores)
    order = np.argsort(scores)
    reached = share[order].cumsum() >= level - 1e-9
    return scores[order][reached.argmax()] if reached.any() else np.inf


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("stratum", calibration.STRATA)
@pytest.mark.parametrize("solver, trained, tested", HEADS)
def test_calibration_numbers(solver, trained, tested, stratum):
    "The table, from errors and error bars"
    level, n_train, floor = 0.8, 10, 0.3
    scores = []
    for error, s, sigma, x, mean in errors_and_sigma(solver, trained, range(n_train), floor):
        here = points_of(stratum, s, x, mean)
        if here.any():
            scores.append((error / sigma)[here])
    n = len(scores)
    reach = {
        "own": norm.ppf((1 + level) / 2),
        "plain": quantile_over_runs(scores, level),
        "guaranteed": quantile_over_runs(scores, level * (n + 1) / n),
    }
    rows = []
    tests = errors_and_sigma(solver, tested, range(100, 140), floor)
    for kind, q in reach.items():
        held, wide, everywhere = [], [], []
        for error, s, sigma, x, mean in tests:
            here = points_of(stratum, s, x, mean)
            half = q * (s if kind == "own" else sigma)
            held.append((error <= half + 1e-12)[here])
            wide.append(2 * half[here])
            everywhere.append(2 * half)
        width = np.concatenate(wide).mean()
        rows.append((np.concatenate(held).mean(), width, np.mean(everywhere)))

    fig = CalibrationExplorer().draw(solver, stratum, n_train, level, floor, trained, tested)
    names, shares, widths, all_widths = (text.get_text().split("\n") for text in fig.texts)
    assert names == ["80 % intervals", "the solver's own", "calibrated", "with guarantee"]
    for row, *said in zip(rows, shares[1:], widths[1:], all_widths[1:]):
        share, width, everywhere = row
        assert said[0].startswith(f"{share:.2f}  (")
        shown = [f"{w:.2g} nAm" if np.isfinite(w) else "∞" for w in (width, everywhere)]
        assert said[1].startswith(shown[0]) and said[2] == shown[1]


def test_marks_of_calibration():
    "The curves go through what is said, the wanted level is marked, and infinity has a place"
    e = CalibrationExplorer()
    left, right = e.draw(**{**e.start, "n_train": 5}).axes
    _, own, plain, safe, mark = left.lines
    shares = dict(zip(own.get_xdata(), plain.get_ydata()))
    assert shares[0.9] == pytest.approx(0.79, abs=0.006)
    assert list(mark.get_xdata()) == [0.9, 0.9] == list(right.lines[-1].get_xdata())
    assert len(left.collections) == 3  # a band for each
    assert (safe.get_ydata()[-3:] == 1).all()  # what is infinite holds everything
    finite, beyond = right.lines[4:6]
    assert np.isnan(finite.get_ydata()).sum() == len(beyond.get_ydata()) == 3
    assert list(beyond.get_xdata()) == [0.9, 0.95, 0.99]
    ticks = dict(zip((t.get_text() for t in right.get_yticklabels()), right.get_yticks()))
    assert (beyond.get_ydata() == ticks["∞"]).all()


@pytest.mark.parametrize(
    "n_train, floor, said", [(5, 0.3, "needs 9 runs, has 5"), (50, 0, "σ = 0")]
)
def test_why_an_interval_is_infinite(n_train, floor, said):
    e = CalibrationExplorer()
    fig = e.draw(**{**e.start, "n_train": n_train, "floor": floor})
    last = fig.texts[2].get_text().split("\n")[-1]
    assert last.startswith("∞: ") and said in last


def test_pooled_calibration_is_a_trap():
    "On the promise over all points, and nowhere near where sources are on"
    e = CalibrationExplorer()
    left = e.draw(**{**e.start, "stratum": "all"}).axes[0]
    curves = {line.get_label().split("\n")[0]: line for line in left.lines}
    at_90 = calibration.LEVELS.index(0.9)
    assert curves["calibrated"].get_ydata()[at_90] == pytest.approx(0.9, abs=0.02)
    assert curves["calibrated on all, counted where on"].get_ydata()[at_90] < 0.1


def test_runs_that_teach_are_not_those_that_test():
    "Nor is a head wrong in the same way in two of them"
    teach = calibration.training_runs("gamma_map", 0, 50)
    test = calibration.held_out_runs("gamma_map", 0)
    assert not {*map(id, teach)} & {*map(id, test)}
    head, _ = calibration.small_head()
    first, second = (calibration.true_leadfield(20, seed) for seed in (0, 1))
    for L in (first, second):
        assert 5 < np.rad2deg(np.arccos(cosines(L, head.L))).mean() < 25
    assert cosines(first, second).mean() < 0.99


def cosines(A, B):
    "Between columns"
    return (A * B).sum(0) / np.linalg.norm(A, axis=0) / np.linalg.norm(B, axis=0)
