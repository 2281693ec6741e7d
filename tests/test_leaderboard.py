"Entries of a study: any function, judged as solvers are, and failing alone; what MNE-Python's methods imply"

import json
import time
from dataclasses import replace

import mne
import numpy as np
import pytest

from benchmarks import invertmeeg
from calibrain.calibration.coverage import combine, coverage_curve
from calibrain.head.leadfield import Leadfield
from calibrain.recording.leadfield import as_forward
from calibrain.solvers.gamma_map import gamma_map as our_gamma_map
from calibrain.study.mne_methods import (
    depth_prior,
    gamma_map,
    implied_variances,
    linear_posterior,
    minimum_norm,
)

pytest.importorskip("pyarrow")

from calibrain.study import worker
from calibrain.study.entries import entry_of
from calibrain.study.grid import Study
from calibrain.study.leaderboard import leaderboard
from calibrain.study.run import Simulated
from calibrain.study.store import open_store
from calibrain.study.study import read_study, run_study

PRIOR = 2.0  # nAm, of every source in `from_the_prior`
NOISE = 0.5  # µV²


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("entries")
    Leadfield.random(12, 40, seed=1).save(folder / "head.npz")
    Leadfield.random(12, 40, n_orient=3, seed=2).save(folder / "free.npz")
    return folder


def study_of(folder, solvers, head="head", **more):
    said = dict(name="board", heads=dict(cap=dict(file=folder / f"{head}.npz")), n_train=0)
    return Study(solvers=solvers, **(said | dict(n_test=3) | more))


# ---- a posterior that is known


def exact(leadfield, y, noise, shape="whole", factor=1.0):
    "The posterior of independent sources of size `PRIOR`, its covariance stated `factor` times"
    G = leadfield.matrix()
    precision = np.eye(G.shape[1]) / PRIOR**2 + G.T @ G / NOISE
    cov = np.linalg.inv(precision)
    mean = cov @ G.T @ y / NOISE
    n, k = leadfield.n_sources, leadfield.n_orient
    blocks = np.array([cov[k * i : k * (i + 1), k * i : k * (i + 1)] for i in range(n)])
    shapes = dict(whole=cov, blocks=blocks, variances=np.diag(cov))
    return mean.reshape(n, k, -1), factor * shapes[shape]


def from_the_prior(study, run, true):
    "What a run would be if sources were drawn from that prior"
    rng = np.random.default_rng(int(run.data[:8], 16))
    x = PRIOR * rng.normal(size=(true.n_sources, true.n_orient, 20))
    noise = NOISE**0.5 * rng.normal(size=(true.n_sensors, 20))
    y = true.matrix() @ x.reshape(-1, 20) + noise
    return Simulated(x, y, noise, 0.0)


@pytest.mark.parametrize("head", ["head", "free"])
def test_the_exact_posterior_keeps_its_promise_and_a_narrower_one_does_not(
    folder, tmp_path, monkeypatch, head
):
    monkeypatch.setattr(worker, "simulate_run", from_the_prior)
    entries = [
        dict(name=shape, call=exact, params=dict(shape=shape))
        for shape in ("whole", "blocks", "variances")
    ]
    entries.append(dict(name="narrow", call=exact, params=dict(factor=0.25)))
    orientation = "free" if head == "free" else "fixed"
    study = study_of(
        folder, entries, head, n_test=12, grid=dict(orientation=orientation), strata=["all"]
    )
    with pytest.raises(ValueError, match="no active"):
        leaderboard(run_study(study, tmp_path / "few"))
    study = replace(study, strata=["all", "active", "silent"])
    of = {row["solver"]: row for row in leaderboard(run_study(study, tmp_path / "out"))}
    for name in ("whole", "blocks", "variances"):
        assert of[name]["n_runs"] == 12
        assert of[name]["coverage_active"] == pytest.approx(0.9, abs=0.01)
        assert of[name]["low_active"] < 0.9 < of[name]["high_active"]
        assert of[name]["crps"] == pytest.approx(of["whole"]["crps"], rel=1e-10)
    half = 2 * 0.5  # the level that half of the width keeps: 2Φ(1.645/2) − 1
    assert of["narrow"]["coverage_active"] == pytest.approx(0.589 * half, abs=0.02)
    assert of["narrow"]["crps"] > of["whole"]["crps"]
    assert of["narrow"]["width_active"] == pytest.approx(of["whole"]["width_active"] / 2)


def test_ellipsoids_are_those_of_the_blocks(folder):
    study, lf = None, Leadfield.load(folder / "free.npz")
    curves: dict = dict(whole=[], variances=[])
    for number in range(10):
        run = type("R", (), dict(data=f"{number:032x}"[::-1]))
        data = from_the_prior(study, run, lf)
        for shape, found in curves.items():
            said = entry_of("call", exact).answer("exact", lf, data.y, NOISE, dict(shape=shape))
            found.append(coverage_curve(data.x, said, [0.5, 0.9], region="ellipsoid"))
    held = {shape: combine(found)["all"].empirical for shape, found in curves.items()}
    np.testing.assert_allclose(held["whole"], [0.5, 0.9], atol=0.02)
    assert not np.array_equal(held["whole"], held["variances"])


# ---- entries that misbehave


def raises(leadfield, y, noise):
    raise RuntimeError("no idea")


def hangs(leadfield, y, noise):
    time.sleep(1000)


def says_nan(leadfield, y, noise):
    return np.full((leadfield.n_sources, y.shape[1]), np.nan), np.ones(leadfield.n_sources)


def changes_the_data(leadfield, y, noise):
    y *= 0
    return np.zeros((leadfield.n_sources, y.shape[1])), np.ones(leadfield.n_sources)


def wrong_shape(leadfield, y, noise):
    return np.zeros((leadfield.n_sources, y.shape[1])), np.ones(y.shape)


def test_a_broken_entry_fails_alone(folder, tmp_path):
    alone = run_study(study_of(folder, [dict(solver="BMN")]), tmp_path / "alone")
    broken = [raises, hangs, says_nan, wrong_shape]
    entries = [dict(name=f.__name__, call=f) for f in (changes_the_data, *broken)]
    study = study_of(folder, [*entries, dict(solver="BMN")])
    store = run_study(study, tmp_path / "all", time_limit=0.3)
    now = store.status()
    assert (now.n_done, now.n_failed, now.n_left) == (6, 12, 0)
    reasons = " ".join(now.reasons)
    for words in (
        "RuntimeError: no idea",
        "longer than 0.3 s",
        "says_nan (test_leaderboard:says_nan): mean must be finite",
        "wrong_shape (test_leaderboard:wrong_shape): cov must be variances, of shape (40,)",
    ):
        assert words in reasons
    board = leaderboard(store)
    assert {row["solver"]: row["n_failed"] for row in board[2:]} == {f.__name__: 3 for f in broken}
    theirs = [row["crps"] for row in store.rows(solver="BMN")]
    assert theirs == [row["crps"] for row in alone.rows()], "data that an entry changed"


# ---- names, and where functions are


def test_the_name_of_an_entry_is_part_of_its_runs_and_no_other(folder):
    def ids(*solvers):
        return {run.id for run in study_of(folder, solvers).runs()}

    mine = dict(name="mine", call=exact)
    assert ids(mine) != ids(dict(mine, name="mine, mended"))
    assert ids(mine) != ids(dict(mine, call=raises))
    assert ids(mine) != ids(dict(mine, params=dict(factor=2.0)))
    assert ids(mine) == ids(dict(mine, call="test_leaderboard:exact"))
    assert ids(dict(solver="BMN")) == ids(dict(solver="BMN", name="another"))
    assert ids(mine, dict(solver="BMN")) == ids(mine) | ids(dict(solver="BMN"))


def test_an_entry_of_a_file(folder, tmp_path, monkeypatch):
    (tmp_path / "my_methods.py").write_text(
        "import numpy as np\n"
        "def mine(leadfield, y, noise, size=1.0, seed=None):\n"
        "    n = leadfield.n_sources\n"
        "    rng = np.random.default_rng(seed)\n"
        "    return rng.normal(size=(n, y.shape[1])), size * np.ones(n)\n"
    )
    text = f"""
        name = "file"
        n_train = 0
        n_test = 2
        heads.cap.file = "{folder}/head.npz"
        solvers = [{{ name = "mine", call = "my_methods:mine", params = {{ size = 2.0 }} }}]
        """
    (tmp_path / "study.toml").write_text(text)
    study = read_study(tmp_path / "study.toml")
    with pytest.raises(ValueError, match=r"solvers.mine.call must be a function that is there"):
        run_study(study, tmp_path / "out")
    assert open_store(tmp_path / "out").status().n_left == 2, "it can be seen without the module"
    monkeypatch.syspath_prepend(tmp_path)
    run_study(study, tmp_path / "out")
    first, second = open_store(tmp_path / "out").rows(["seconds_solve", "rmse", "sharpness"])
    assert first["rmse"] != second["rmse"], "each run has a seed of its own"
    assert first["sharpness"] == pytest.approx(2 * 1.6449 * 2**0.5, rel=1e-4)


def test_a_function_of_a_notebook_reaches_other_processes(folder, tmp_path):
    size = 3.0

    def local(leadfield, y, noise):
        return np.zeros((leadfield.n_sources, y.shape[1])), np.full(leadfield.n_sources, size)

    study = study_of(folder, [dict(name="local", call=local)])
    store = run_study(study, tmp_path / "out", n_jobs=2)
    assert store.status().n_done == 3
    said = json.loads((store.folder / "study.json").read_text())["solvers"][0]
    assert said["call"].endswith("<locals>.local") and "solver" not in said
    assert {run.id for run in open_store(store.folder).study.runs()} == {
        r["id"] for r in store.rows()
    }


@pytest.mark.parametrize(
    "entry, words",
    [
        (dict(name="a", call="numpy"), "or its path as 'module:function', got 'numpy'"),
        (dict(call="numpy:mean"), r"solvers\[0\].name must be given with a call"),
        (dict(name="a", call=exact, params=dict(fctor=1)), "unexpected keyword argument 'fctor'"),
        (dict(name="a", call=exact, solver="BMN"), "got both"),
        (dict(name="a", call=exact, noise="none"), "noise must be one of"),
    ],
)
def test_refused(folder, entry, words):
    with pytest.raises((ValueError, TypeError), match=words):
        study_of(folder, [entry])


# ---- what MNE-Python's methods imply


def uneven(lf):
    "The same with sources of which the sensors see more or less"
    sizes = np.random.default_rng(7).uniform(0.02, 2, size=(1, lf.n_sources, 1))
    return replace(lf, data=lf.data * sizes)


def as_mne(lf, y, noise):
    "Recording, forward solution and covariance as MNE-Python has them"
    info = mne.create_info(list(lf.ch_names), 100.0, "grad", verbose="ERROR")
    evoked = mne.EvokedArray(1e-13 * y, info, verbose="ERROR")
    variances = np.full(lf.n_sensors, 1e-26 * noise)
    cov = mne.Covariance(variances, lf.ch_names, [], [], nfree=1, verbose="ERROR")
    return evoked, as_forward(lf, [evoked])[0], cov


@pytest.fixture(scope="module")
def measured():
    "Planar gradiometers, as they need no reference"
    rng = np.random.default_rng(5)
    lf = uneven(Leadfield.random(20, 60, seed=4, unit="fT/cm/nAm"))
    x = np.zeros((60, 50))
    x[[7, 31]] = 4 * rng.normal(size=(2, 50))
    noise = 0.4
    y = lf.matrix() @ x + noise**0.5 * rng.normal(size=(20, 50))
    return lf, y, noise


def minimum_norm_of_mne(lf, y, noise, snr, depth):
    "What MNE-Python says of these arrays, nAm"
    evoked, forward, cov = as_mne(lf, y, noise)
    fixed = lf.n_orient == 1
    said = dict(loose=0.0 if fixed else 1.0, fixed=fixed, depth=depth or None, verbose="ERROR")
    operator = mne.minimum_norm.make_inverse_operator(evoked.info, forward, cov, **said)
    said = dict(lambda2=1 / snr**2, method="MNE", verbose="ERROR")
    if fixed:
        return 1e9 * mne.minimum_norm.apply_inverse(evoked, operator, **said).data
    vectors = mne.minimum_norm.apply_inverse(evoked, operator, pick_ori="vector", **said).data
    return 1e9 * vectors.reshape(-1, y.shape[1])


@pytest.mark.parametrize("snr, depth, k", [(3.0, 0.8, 3), (1.0, 0.4, 3), (2.0, 0.0, 1)])
def test_minimum_norm_is_that_of_mne(measured, snr, depth, k):
    lf, y, noise = measured
    lf = lf if k == 1 else uneven(Leadfield.random(20, 60, 3, seed=6, unit="fT/cm/nAm"))
    mean, cov = minimum_norm(lf, y, noise, snr, depth)
    theirs = minimum_norm_of_mne(lf, y, noise, snr, depth)
    np.testing.assert_allclose(mean, theirs, rtol=1e-5, atol=1e-6 * np.abs(theirs).max())
    assert (np.linalg.eigvalsh(cov) > 0).all()


@pytest.mark.parametrize("k", [1, 3])
def test_depth_is_that_of_mne(measured, k):
    lf = uneven(Leadfield.random(20, 60, k, seed=6, unit="fT/cm/nAm"))
    evoked, forward, _ = as_mne(lf, *measured[1:])
    theirs = mne.forward.compute_depth_prior(
        forward, evoked.info, exp=0.8, limit_depth_chs=True, verbose="ERROR"
    )
    np.testing.assert_allclose(np.repeat(depth_prior(lf, 0.8), k), theirs, rtol=1e-8)
    assert 1 < np.sum(theirs == 1) / k < 10, "some are beyond the limit"


def test_gamma_map_is_that_of_mne_and_its_posterior_that_of_our_solver(measured):
    lf, y, noise = measured
    evoked, forward, cov = as_mne(*measured)
    said = dict(alpha=1.0, loose=0.0, depth=0.0, verbose="ERROR")
    theirs = mne.inverse_sparse.gamma_map(evoked, forward, cov, **said)
    mean, cov = gamma_map(lf, y, noise, tol=1e-10)
    strong = theirs.vertices[0] if len(theirs.vertices) == 1 else np.concatenate(theirs.vertices)
    np.testing.assert_allclose(mean[strong], 1e9 * theirs.data, atol=1e-3 * np.abs(mean).max())
    ours = our_gamma_map(lf, y, noise, update_mode="fast")
    np.testing.assert_allclose(mean, ours.mean, atol=2e-3 * np.abs(mean).max())
    np.testing.assert_allclose(cov.ravel() ** 0.5, ours.std, atol=2e-2 * ours.std.max())


def test_variances_of_amplitudes_are_found_again(measured):
    lf, y, noise = measured
    ours = our_gamma_map(lf, y, noise, update_mode="fast")
    gamma = np.zeros(60)
    gamma[ours.active] = ours.posterior.gamma
    found = implied_variances(lf.matrix(), y, noise, np.array(ours.mean))
    np.testing.assert_allclose(found, gamma, rtol=1e-8, atol=1e-12 * gamma.max())


def test_gamma_map_that_did_not_converge_says_so(measured):
    lf, y, noise = measured
    with pytest.raises(ValueError, match="raise maxit, or lower tol"):
        gamma_map(lf, y, noise, maxit=3)


# ---- invertmeeg, without it


@pytest.fixture
def electrodes():
    lf = Leadfield.random(20, 60, seed=8)
    return replace(lf, data=lf.data - lf.data.mean(0))


def test_a_method_that_knows_variances_up_to_a_factor_gets_that_of_the_noise(
    electrodes, monkeypatch
):
    rng = np.random.default_rng(0)
    G, noise, alpha = electrodes.matrix(), 0.3, 7.0
    relative = rng.uniform(0, 1, size=60)

    def linear(solver, forward, evoked):
        Y = 1e6 * evoked.data
        assert np.abs(Y.mean(0)).max() < 1e-12
        kernel = relative[:, None] * G.T @ np.linalg.inv((G * relative) @ G.T + alpha * np.eye(20))
        return 1e-9 * kernel @ Y

    monkeypatch.setattr(invertmeeg, "ask", linear)
    y = rng.normal(size=(20, 30))
    mean, cov = invertmeeg.gamma_map(electrodes, y, noise)
    prior = relative * noise / alpha
    wanted, variances = linear_posterior(G, y - y.mean(0), noise, prior)
    np.testing.assert_allclose(mean, wanted, rtol=1e-8)
    np.testing.assert_allclose(cov, variances, rtol=1e-6)


def test_without_its_environment_it_says_how_to_make_one(electrodes, monkeypatch, tmp_path):
    monkeypatch.setattr(invertmeeg, "ENV", tmp_path / "none")
    with pytest.raises(RuntimeError, match=r"python -m benchmarks\.invertmeeg makes it"):
        invertmeeg.gamma_map(electrodes, np.ones((20, 3)), 1.0)
