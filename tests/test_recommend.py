"""Which solver for a recording: the right one in clear cases, arguments that run, honest reasons."""

from dataclasses import replace
from functools import cache

import mne
import numpy as np
import pytest
import realdata
from scipy import stats

from calibrain import estimate_evoked, recommend
from calibrain.cli import main
from calibrain.head.leadfield import Leadfield
from calibrain.recording.candidates import NOISE_ALONE, NoSource, candidates_of
from calibrain.recording.reasons import of_comparison, places_are_open
from calibrain.recording.recommend import Recommendation, _moved, _Tried
from calibrain.recording.situation import look_at
from calibrain.recording.verdict import judge
from calibrain.solvers.compare import Comparison

NAVE = 100
BASE = dict(tmin=0.0, orientation="fixed")


@cache
def info():
    montage = mne.channels.make_standard_montage("biosemi64")
    return mne.create_info(montage.ch_names, 100.0, "eeg").set_montage(montage)


@cache
def places():
    "Some 9 mm apart, on the upper half of a shell"
    k = np.arange(400) + 0.5
    z, angle = 1 - k / 400, np.pi * (1 + 5**0.5) * k
    r = np.sqrt(1 - z**2)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1)


@cache
def forward(step=1):
    at = dict(rr=0.07 * places()[::step], nn=places()[::step])
    src = mne.setup_volume_source_space(pos=at, verbose="ERROR")
    sphere = mne.make_sphere_model((0, 0, 0), 0.095, verbose="ERROR")
    return mne.make_forward_solution(info(), None, src, sphere, verbose="ERROR")


def weights(kind, rng):
    "How strong each source is, `(n_sources, n)`: a point, a bump of 30 mm, or all of them"
    n = len(places())
    at = rng.integers(n // 2)  # not at the rim
    if kind == "noise":
        return np.zeros((n, 1))
    if kind == "point":
        return 1.0 * (np.arange(n) == at)[:, None]
    if kind == "bump":
        away = 0.07 * np.linalg.norm(places() - places()[at], axis=1)
        return np.exp(-0.5 * (away / 0.03) ** 2)[:, None]
    return rng.normal(size=(n, 30))


@cache
def recording(kind, size=4.0, seed=0, nave=NAVE, comment="a tone"):
    "Sources whose field has `size` times the noise at its largest, from 0 s on"
    rng = np.random.default_rng(seed)
    shape = weights(kind, rng)
    course = np.zeros((shape.shape[1], 60))
    wave = np.exp(-((np.arange(30) - 12) ** 2) / 30)
    course[:, 30:] = wave if shape.shape[1] == 1 else np.eye(30)
    field = Leadfield.from_forward(forward(), "fixed").data[:, :, 0] @ shape @ course
    field *= size * 1e-6 / max(np.abs(field).max(), 1e-300)
    data = field + 1e-6 * rng.normal(size=field.shape)
    e = mne.EvokedArray(data, info(), tmin=-0.3, nave=nave, comment=comment, verbose="ERROR")
    return e.set_eeg_reference(projection=True, verbose="ERROR")


def cov(nave=NAVE, factor=1.0):
    return mne.make_ad_hoc_cov(info(), dict(eeg=1e-6 * (nave * factor) ** 0.5), verbose="ERROR")


@cache
def asked(kind, **said):
    return recommend(recording(kind), forward(), cov(), BASE, progress=False, **said)


def reason(rec, about):
    (found,) = [one for one in rec.because if one.about == about]
    return found


def solved(kind):
    return reason(asked(kind), "solver").seen


# ---- the right one


def test_a_point_is_no_wide_patch():
    assert "patches of 30 mm" not in solved("point")["near"] and not asked("point").nothing
    assert "points" in solved("point")["near"] and "minimum norm" not in solved("point")["near"]


def test_a_wide_patch_is_found_wide():
    assert solved("bump")["choice"] == solved("bump")["by_evidence"] == "patches of 30 mm"


def test_sources_everywhere_are_a_minimum_norm():
    assert solved("all")["choice"] == "minimum norm" and asked("all").solver == "BMN"


def test_noise_alone_leaves_nothing_to_choose():
    rec = asked("noise")
    assert rec.nothing and "nothing to choose by" in rec.reasons[3] + repr(rec)
    assert asked("noise", quick=True).nothing and not rec.situation.above_noise
    score = dict(zip(rec.comparison.names, rec.comparison.score))
    best = max(value for name, value in score.items() if name != NOISE_ALONE)
    assert reason(rec, "solver").seen["gain"] == pytest.approx(best - score[NOISE_ALONE])


def test_weak_eeg_is_sampled_and_strong_eeg_of_many_epochs_is_not():
    weak = asked("point")
    assert weak.solver == "spike_slab" and "places will be uncertain" in "".join(weak.reasons)
    said = dict(quick=True, progress=False)
    strong = recommend(recording("point", 12.0), forward(), cov(), BASE, **said)
    assert strong.situation.response > 1 and strong.solver == "gamma_map_sflex"
    few = recommend(recording("point", 12.0, nave=20), forward(), cov(20), BASE, **said)
    assert few.solver == "spike_slab" and "20 epochs" in reason(few, "places").says


# ---- noise


@pytest.mark.parametrize(
    "factor, mode, words", [(1.0, "given", "which agrees"), (3.0, "baseline", "no chance")]
)
def test_noise_of_the_wrong_size_is_taken_from_the_baseline(factor, mode, words):
    covariance = cov(factor=factor)
    rec = recommend(recording("bump"), forward(), covariance, BASE, quick=True)
    assert rec.arguments["noise"] == mode and words in reason(rec, "noise").says
    e = recording("bump")
    before = e.data[:, e.times < -0.005]
    size = (
        before.var(axis=1, ddof=1).sum() * 64 / 63 / (64e-12 * factor)
    )  # of the average reference
    assert reason(rec, "noise").seen["before"] == pytest.approx(size, rel=0.03)


def test_noise_without_a_covariance_or_a_baseline():
    none = recommend(recording("bump"), forward(), None, BASE, quick=True)
    assert none.arguments["noise"] == "baseline" and "no covariance" in reason(none, "noise").says
    late = recording("bump").copy().crop(0.0)
    learn = recommend(late, forward(8), cov(), BASE, progress=False)
    assert learn.arguments["noise"] == "learn"
    assert learn.solver in ("spike_slab", "gamma_lambda_map", "gamma_lambda_map_sflex", "BMN_joint")
    told = recommend(late, forward(), cov(), BASE | dict(noise="given"), quick=True)
    assert told.arguments["noise"] == "given" and "as you say" in reason(told, "noise").says
    measured = cov()
    measured["nfree"] = 10_000
    taken = recommend(late, forward(), measured, BASE, quick=True)
    assert taken.arguments["noise"] == "given" and "no baseline" in reason(taken, "noise").says


def test_noise_alone_has_the_density_of_noise():
    rng = np.random.default_rng(0)
    L, y = rng.normal(size=(8, 20)), rng.normal(size=(8, 50))
    found = NoSource()(L, y, 2.0)
    assert found.log_evidence == pytest.approx(stats.norm.logpdf(y, scale=2**0.5).sum())
    learned = [NoSource(True)(L, y, v).log_evidence for v in (None, 0.8, 1.2)]
    assert max(learned) == learned[0]


# ---- arguments and reasons


@pytest.mark.parametrize("kind", ["point", "bump", "all", "noise"])
@pytest.mark.filterwarnings("ignore")
def test_arguments_can_be_passed_on_as_they_are(kind):
    rec = asked(kind)
    arguments = dict(rec.arguments)
    if rec.solver == "spike_slab":
        short = dict(n_sweeps=20, n_burn=8, n_chains=2)
        arguments["solver_params"] = arguments.get("solver_params", {}) | short
    est = estimate_evoked(recording(kind), forward(), cov(), progress=False, **arguments)
    assert est.result.solver == rec.solver and est.times[0] == 0
    assert eval(rec.call.replace("estimate_evoked(", "check(", 1), names(rec))


def names(rec):
    "What the line that is printed stands for"
    of = dict(evoked=None, forward=None, noise_cov=None)
    return of | dict(check=lambda e, f, n, **said: said == rec.arguments)


def test_reasons_say_what_was_seen():
    rec = asked("bump")
    s = look_at(recording("bump"), forward(), cov(), BASE)
    assert s == rec.situation and s.channels == dict(eeg=64) and s.rank == 63
    assert f"{s.response:.2g} times" in reason(rec, "response").says
    assert f"{s.before:.2g} times" in reason(rec, "noise").says
    tried = [n for n in rec.comparison.names if n != NOISE_ALONE]
    v = judge(rec.comparison, tried, s.n_independent)
    assert solved("bump") == dict(
        best=v.best, near=v.near, by_evidence=v.by_evidence, choice=v.choice
    )
    assert rec.calibration in rec.reasons[-1] and "None of this promises" in rec.reasons[-1]
    assert rec.calibration.startswith(f"calibrate(forward, noise_cov, evoked, '{rec.solver}'")
    page = rec._repr_html_()
    assert all(one in page for one in rec.reasons) and "Solvers compared" in page
    assert rec.call in str(rec) and all(one in str(rec) for one in rec.reasons)


def compared(score, evidence, error=0.1, n_times=20):
    "Candidates whose scores differ by so much, with so much scatter between five groups"
    names = ("patches of 10 mm", "points", "minimum norm")
    scatter = error * np.random.default_rng(0).normal(size=(3, 5, n_times))
    scores = np.array(score)[:, None, None] + scatter
    return Comparison(names, np.array(evidence), np.zeros(3), (1, 1, 1), scores, ("",) * 3)


def test_where_the_judges_disagree():
    v = judge(compared([-10.0, 0.0, -10.0], [100.0, 0.0, 0.0]))
    assert v.choice == v.best == "points" and v.by_evidence == "patches of 10 mm" and v.disagrees


def test_where_neither_tells():
    same = judge(compared([0.0, 0.0, -9.0], [0.0, 1.0, 99.0], error=1e-4))
    assert same.near == ("patches of 10 mm", "points") and same.choice == "patches of 10 mm"
    told = judge(compared([0.0, 0.0, -9.0], [0.0, 9.0, 99.0], error=1e-4))
    assert told.choice == "points"
    few = judge(compared([0.0, 0.0, -9.0], [0.0, 9.0, 99.0], error=1e-4), n_independent=5)
    slow = judge(compared([0.0, 0.0, -9.0], [0.0, 9.0, 99.0], 1e-4, 100), n_independent=25)
    assert slow.by_evidence == "minimum norm" and slow.choice == "patches of 10 mm"
    assert few.by_evidence is None and few.choice == "patches of 10 mm"


def test_solvers_without_an_evidence():
    v = judge(compared([-9.0, 0.0, -9.0], [0.0, np.nan, 0.0]))
    assert v.choice == v.best == "points"


@pytest.mark.filterwarnings("ignore")
def test_the_sampler_is_tried_where_it_is_asked_for():
    strong = recording("point", 12.0)
    rec = recommend(strong, forward(8), cov(), BASE, sampler=True, progress=False)
    rows = {row["solver"]: row for row in rec.comparison.rows}
    assert np.isnan(rows["spike_slab"]["log evidence"]) and rows["spike_slab"]["score"] > -30
    assert reason(rec, "solver").seen["choice"] == "points" and rec.solver == "gamma_map"


def test_who_is_tried():
    both = [candidates_of(mode, True) for mode in ("given", "learn")]
    assert [*both[0]] == [*both[1]] and "spike_slab" in both[0]
    assert "spike_slab" not in candidates_of("given")


# ---- orientation


def surface_head():
    "The same places as a piece of cortex, with free orientation"
    fwd = forward(8).copy()
    for s in fwd["src"]:
        s |= dict(type="surf", id=mne.io.constants.FIFF.FIFFV_MNE_SURF_LEFT_HEMI)
    return fwd


def test_orientation_is_compared_where_the_head_has_normals():
    base = dict(tmin=0.0)
    rec = recommend(recording("bump", 12.0), surface_head(), cov(), base, progress=False)
    tried = [name for name in rec.comparison.names if name.endswith((", fixed", ", loose"))]
    assert len(tried) == 2 and reason(rec, "orientation").seen["near"]
    volume = recommend(recording("bump"), forward(), cov(), base, quick=True)
    assert "no cortex" in reason(volume, "orientation").says
    assert "as you say" in reason(asked("bump"), "orientation").says
    fixed = Leadfield.from_forward(forward(), "fixed")
    none = recommend(recording("bump"), fixed, cov(), base, quick=True)
    assert "nothing to choose" in reason(none, "orientation").says


def test_a_quick_look_says_that_it_compared_no_orientations():
    "In lines, in the table and in one line"
    said = dict(quick=True, progress=False)
    rec = recommend(recording("bump", 12.0), surface_head(), cov(), dict(tmin=0.0), **said)
    says = reason(rec, "orientation").says
    assert "fixed, loose, free to choose" in says and "they were not compared" in says
    assert "Without quick=True" in says and says in str(rec) and ", nothing tried" in repr(rec)
    assert "not compared" in rec._repr_html_() and ", nothing tried<" in rec._repr_html_()
    tried = asked("bump")
    assert "nothing tried" not in repr(tried) + tried._repr_html_()


@pytest.mark.parametrize("seed, taken", [(0, "fixed"), (1, None)])
def test_a_weak_response_is_turned_by_the_score_alone(seed, taken):
    "The evidence prefers normals, which are right, both times, and the score once"
    weak = recording("point", seed=seed)
    rec = recommend(weak, surface_head(), cov(), dict(tmin=0.0), progress=False)
    assert rec.situation.response < 1 and not rec.nothing and rec.solver == "spike_slab"
    seen = reason(rec, "orientation").seen
    assert seen["by_evidence"].endswith("fixed") and rec.arguments.get("orientation") == taken
    assert ("'auto' is kept" in reason(rec, "orientation").says) == (taken is None)


def test_evidence_does_not_choose_where_places_are_open():
    "It is told; the score takes its best, or the usual one if that is near"
    c = compared([0.0, 0.0, -9.0], [0.0, 9.0, 99.0], error=1e-4)
    v = judge(c, score_alone=True)
    assert v.choice == "patches of 10 mm" and v.by_evidence == "minimum norm"
    two = judge(c, ["patches of 10 mm", "points"], score_alone=True)
    assert two.by_evidence == "points" and two.choice == "patches of 10 mm"
    weak = asked("point").situation
    assert "prefers points, and is not followed" in of_comparison(c, two, "solver", weak).says
    strong = replace(weak, power=9.0)
    assert "and not by enough" in of_comparison(c, two, "solver", strong).says


@pytest.mark.parametrize("kinds", [dict(eeg=64), dict(grad=204, mag=102)])
def test_places_are_open_for_every_kind_of_sensor(kinds):
    s = replace(asked("point").situation, channels=kinds)
    assert places_are_open(replace(s, power=1.9, nave=100))
    assert places_are_open(replace(s, power=9.0, nave=6))
    assert not places_are_open(replace(s, power=9.0, nave=100))


def test_places_that_hang_on_the_orientation_are_said_first():
    base = dict(solver="gamma_map", tmin=0.0, progress=False)
    one = estimate_evoked(recording("point", 12.0), surface_head(), cov(), **base)
    away = replace(one, coords=one.coords + np.array([0.03, 0, 0]))
    near = replace(one, coords=one.coords + np.array([0.01, 0, 0]))
    elsewhere = replace(one, coords=one.coords + np.array([0.2, 0, 0]))
    tried = {"points": one, "points, fixed": away, "points, loose": near, "norm": elsewhere}
    moved = _moved(_Tried(tried, {}), "points", ("points",))
    assert len(moved) == 2 and moved[0].endswith("'auto'") and moved[1].endswith("'fixed'")
    del tried["points, fixed"]
    assert not _moved(_Tried(tried, {}), "points", ("points",))
    tried["patches of 5 mm"] = elsewhere
    near = ("points", "patches of 5 mm", "minimum norm")
    moved = _moved(_Tried(tried, {}), "points", near)
    assert any(one.endswith("mm with patches of 5 mm") for one in moved)

    rec = Recommendation(dict(solver="BMN"), (), asked("point").situation, moved=moved)
    first, second = str(rec).splitlines()
    assert moved[0] in first and "sensitivity(evoked, forward, noise_cov" in first
    assert second == rec.call and "sensitivity(" in rec._repr_html_()
    assert str(replace(rec, moved=())) == rec.call


def calibration_of(rec):
    "Solver and arguments of the line that makes a passport"
    heard = {}
    names = dict(forward=None, noise_cov=None, evoked=None)
    check = dict(calibrate=lambda f, n, e, solver, **said: heard.update(said, solver=solver))
    eval(rec.calibration, names | check)
    return heard


@pytest.mark.parametrize("kind", ["point", "bump", "noise"])
def test_the_passport_is_of_the_solver_that_is_recommended(kind):
    rec = asked(kind)
    assert calibration_of(rec) == rec.arguments
    assert rec.calibration in reason(rec, "error bars").says


# ---- a real recording of few epochs

FEW = [
    ("meg", "Left visual", (12, -52, 75)),  # mm, where dSPM is largest
    ("meg", "Right visual", (-22, -46, 68)),
]


@realdata.needed
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind, condition, place", FEW)
def test_six_epochs_of_meg_are_sampled_and_in_the_right_hemisphere(kind, condition, place):
    given = realdata.evoked(condition), realdata.forward(kind), realdata.covariance()
    rec = recommend(*given, dict(tmin=0.05, tmax=0.15), progress=False)
    assert rec.solver == "spike_slab" and "orientation" not in rec.arguments
    assert calibration_of(rec) == rec.arguments
    peak = estimate_evoked(*given, progress=False, **rec.arguments).peak()
    assert np.linalg.norm(1e3 * peak.position - place) < 20 and peak.localisation is not None
    if condition == "Left visual":  # along the normals it is in the other hemisphere
        assert str(rec).startswith("The place hangs on what is assumed")


@realdata.needed
def test_noise_of_a_real_head_leaves_nothing_to_choose():
    e, cov = realdata.evoked("Left visual"), realdata.covariance()
    e.pick("meg", exclude="bads")
    C = cov.copy().pick_channels(e.ch_names, ordered=True).data
    w, U = np.linalg.eigh(C)
    draws = np.random.default_rng(0).normal(size=e.data.shape)
    e.data[:] = (U * np.sqrt(np.maximum(w, 0) / e.nave)) @ draws
    said = dict(tmin=0.05, tmax=0.15)
    rec = recommend(e, realdata.forward("meg"), cov, said, quick=True, progress=False)
    assert rec.nothing and rec.solver == "spike_slab" and not rec.moved


# ---- bad input, and the command


@pytest.mark.parametrize(
    "base, more, words",
    [
        (3, {}, "base must be a dict"),
        (dict(solver="BMN"), {}, "got solver"),
        (dict(tmin=9.0), {}, "tmin"),
        (dict(noise="true"), {}, "noise"),
        (BASE, dict(quick="yes"), "quick"),
        (BASE, dict(sampler="yes"), "sampler"),
    ],
)
def test_bad_input(base, more, words):
    with pytest.raises((TypeError, ValueError), match=words):
        recommend(recording("bump"), forward(), cov(), base, **more)
    with pytest.raises(TypeError, match="one condition"):
        recommend([recording("bump")] * 2, forward(), cov(), BASE)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "Two conditions, the head and the noise"
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / name for name in ("sub-ave.fif", "sub-fwd.fif", "sub-cov.fif")]
    silence = recording("noise", comment="silence")
    mne.write_evokeds(paths[0], [recording("bump"), silence], verbose="ERROR")
    mne.write_forward_solution(paths[1], forward(), verbose="ERROR")
    mne.write_cov(paths[2], cov(), verbose="ERROR")
    return [str(path) for path in paths]


def test_the_command(files, capsys):
    said = ["--tmin", "0", "--orientation", "fixed", "--quick"]
    assert main(["choose", *files, *said]) == 0
    out = capsys.readouterr().out
    assert out.startswith("a tone\n") and "\nsilence\n" in out
    assert "nothing to choose by" in out.split("\nsilence\n")[1]
    line = f"calibrain estimate {' '.join(files)} --condition 1 --solver spike_slab"
    assert line in out and "passport = calibrate(" in out


@pytest.mark.parametrize(
    "more, words",
    [
        (["--condition", "nobody"], "--condition must be one of a tone, silence"),
        (["--tmin", "9"], "tmin"),
    ],
)
def test_the_command_says_what_is_wrong(files, capsys, more, words):
    assert main(["choose", *files, "--quick", *more]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
