"Studies: names that nothing else can change, results that any route gives, and files that know when they were altered."

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pytest

from calibrain.calibration.coverage import coverage_curve
from calibrain.estimator import SourceEstimator
from calibrain.evaluation.evaluate import evaluate
from calibrain.head.leadfield import Leadfield
from calibrain.simulation.sensors import SensorSimulator
from calibrain.simulation.sources import SourceSimulator
from calibrain.solvers.registry import Solver, register, unregister

pytest.importorskip("pyarrow")

from calibrain.study.engine import Cluster
from calibrain.study.files import wrong_with
from calibrain.study.grid import Study, seeds_of
from calibrain.study.run import counted_levels, curve_of, read_posterior
from calibrain.study.store import open_store
from calibrain.study.study import left_to_do, merge_stores, read_study, run_study

ROOT = Path(__file__).resolve().parent.parent
FAST = dict(update_mode="fast")
TEXT = """
name = "small"
n_train = 2
n_test = 3
[heads.random]
file = "head.npz"
[grid]
nnz = [1, 3]
alpha_SNR = [0.5, 0.7]
[[solvers]]
solver = "gamma_map_sflex"
params = { update_mode = "fast" }
noise = ["oracle", "baseline"]
[[solvers]]
solver = "BMN_joint"
noise = "adaptive"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    Leadfield.random(16, 60, seed=1).save(folder / "head.npz")
    Leadfield.random(16, 60, n_orient=3, seed=2).save(folder / "free.npz")
    (folder / "small.toml").write_text(TEXT)
    return folder


@pytest.fixture(scope="module")
def small(folder):
    return read_study(folder / "small.toml")


@pytest.fixture(scope="module")
def whole(folder, small):
    return run_study(small, folder / "whole")


def figures(store):
    "Every number and every array of a store, but for times, by the names of runs"
    out = {}
    names = [n for n in store.rows()[0] if not n.startswith(("seconds", "attempts"))]
    lists = ["counts_pointwise_marginal", "totals_pointwise_marginal", "scores", "score_std"]
    for row in store.rows([*names, *lists]):
        out[row["id"]] = {k: v for k, v in row.items() if k != "id"}
    return out


def same(a, b):
    a, b = figures(a), figures(b)
    assert a.keys() == b.keys()
    for name in a:
        for key, value in a[name].items():
            other = b[name][key]
            if isinstance(value, str | None):
                assert value == other, key
            else:
                np.testing.assert_allclose(value, other, rtol=1e-12, atol=0, err_msg=key)


# ---- names


def ids(study):
    return [run.id for run in study.runs()]


def test_there_are_as_many_runs_as_combinations(small):
    assert len(set(ids(small))) == 2 * 2 * 3 * 5
    assert len({run.data for run in small.runs()}) == 2 * 2 * 5


def test_what_is_added_changes_no_other_run(small):
    more = replace(
        small,
        grid=[dict(nnz=[7, 3, 1], alpha_SNR=[0.9, 0.7, 0.5]), dict(nnz=[2])],
        n_test=5,
        solvers=(dict(solver="BMN"), *small.solvers),
        sensor_noise=dict(pink=dict(exponent=1), white={}),
    )
    kept = {run.id: run for run in more.runs()}
    for run in small.runs():
        assert kept[run.id] == run


def test_a_name_is_of_parameters_alone(small, folder):
    turned = replace(small, solvers=small.solvers[::-1], name="another")
    assert set(ids(turned)) == set(ids(small))
    renamed = Study(**{**small.as_dict(), "heads": {"new": small.as_dict()["heads"]["random"]}})
    assert ids(renamed) == ids(small)
    text = "# a comment\n" + TEXT.replace("[grid]", "[grid]\n# another\n")
    (folder / "comment.toml").write_text(text)
    assert ids(read_study(folder / "comment.toml")) == ids(small)


@pytest.mark.parametrize(
    "change",
    [
        dict(seed=1),
        dict(levels=[0.5, 0.9]),
        dict(strata=["active"]),
        dict(sources=dict(erp=dict(fmax=6))),
        dict(solvers=[dict(solver="gamma_map_sflex", params=dict(sigma=0.02, **FAST))]),
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_parameter_makes_another_name(small, change):
    assert not set(ids(replace(small, **change))) & set(ids(small))


def test_solvers_see_the_same_data_unless_they_should_not(small):
    for run in small.runs():
        first = next(r for r in small.runs() if r.data == run.data)
        assert seeds_of(first.data) == seeds_of(run.data)
    apart = replace(small, paired=False)
    assert len({run.data for run in apart.runs()}) == len(apart.runs())


# ---- one run, by hand


def test_a_run_is_what_the_published_simulators_and_the_estimator_give(small, folder, whole):
    run = next(r for r in small.runs() if (r.noise_mode, r.nnz, r.part) == ("oracle", 3, "test"))
    of_sources, of_noise = seeds_of(run.data)
    lf = Leadfield.load(folder / "head.npz")
    x, _ = SourceSimulator().simulate(60, 3, seed=of_sources)
    _, y, noise, _ = SensorSimulator().simulate(x, lf, run.alpha_SNR, seed=of_noise)
    result = SourceEstimator("gamma_map_sflex", FAST, noise.var()).fit(lf, y).predict()

    row = next(r for r in whole.rows() if r["id"] == run.id)
    for name, value in evaluate(x, result, lf, with_emd=False).items():
        if name in row:
            np.testing.assert_equal(row[name], value)
    assert row["log_evidence"] == result.log_evidence
    arrays = ["counts_pointwise_marginal", "totals_pointwise_marginal"]
    arrays += ["left_out_pointwise_marginal"]
    kept = next(r for r in whole.rows(arrays) if r["id"] == run.id)
    curve = curve_of(kept, small, "pointwise", "marginal", 1)
    by_hand = coverage_curve(x, result, counted_levels(small), strata=small.strata)
    np.testing.assert_array_equal(curve.counts, by_hand.counts)
    np.testing.assert_array_equal(curve.totals, by_hand.totals)


def test_free_orientation_and_a_whole_posterior(folder):
    study = Study(
        name="free",
        heads=dict(free=dict(file=folder / "free.npz")),
        grid=dict(orientation=["free", "fixed"]),
        solvers=[dict(solver="BMN")],
        n_train=0,
        n_test=1,
        posteriors=[dict(orientation="free")],
    )
    store = run_study(study, folder / "free")
    kept = {row["orientation"]: row for row in store.rows(["posterior", "scores"])}
    x, result = read_posterior(kept["free"]["posterior"])
    assert x.shape == (60, 3, 250) and result.mean.size == x.size
    assert len(kept["free"]["scores"]) == 180 and len(kept["fixed"]["scores"]) == 60
    assert kept["fixed"].get("posterior") is None
    assert "energy_score" not in store.rows(orientation="free")[0]
    energetic = run_study(replace(study, energy=True), folder / "energy")
    row = energetic.rows(["energy_score"], orientation="free")[0]
    assert row["energy_score"] == evaluate(x, result)["energy_score"] > 0


# ---- the same by every route


def test_two_processes_give_the_same(small, folder, whole):
    same(run_study(small, folder / "two", n_jobs=2, batch_seconds=0.2), whole)


def test_shards_merged_give_the_same(small, folder, whole):
    parts = [folder / f"part {i}" for i in (1, 2, 3)]
    for i, part in enumerate(parts):
        run_study(small, part, shard=(i + 1, 3))
    sizes = [open_store(part).status().n_done for part in parts]
    assert sum(sizes) == len(small.runs()) and min(sizes) > 0
    same(merge_stores(parts, folder / "merged"), whole)
    same(merge_stores([parts[0], *parts], folder / "merged"), whole)


def test_a_real_cluster_of_which_a_worker_is_killed(small, folder, whole, monkeypatch):
    pytest.importorskip("distributed")
    submit = Cluster.submit
    killed = []

    def submit_and_kill(self, runs):
        if not killed:  # on a busy machine the second worker may be late
            self.client.wait_for_workers(2, timeout=60)
        future = submit(self, runs)
        if not killed:
            killed.extend(self.client.run(os.getpid).values())
            os.kill(killed[0], 9)
        return future

    monkeypatch.setattr(Cluster, "submit", submit_and_kill)
    store = run_study(small, folder / "dask", 2, "dask", batch_seconds=0.2)
    assert killed
    same(store, whole)


def test_a_scheduler_that_does_not_answer(small, folder, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("calibrain.study.engine._PATIENCE", 1)
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"scheduler that answers within 1 s, got tcp://127"):
        run_study(small, folder / "x", engine="dask", scheduler="tcp://127.0.0.1:9")
    assert time.monotonic() - start < 10


# ---- files


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "copy")
    return open_store(tmp_path / "copy")


def test_a_flipped_bit_anywhere_is_noticed(copy):
    path = copy.files()[0]
    content = path.read_bytes()
    for at in np.random.default_rng(0).integers(8 * len(content), size=50):
        altered = bytearray(content)
        altered[at // 8] ^= 1 << (at % 8)
        path.write_bytes(altered)
        assert "altered" in wrong_with(path)
    path.write_bytes(content)
    assert not wrong_with(path)


def test_damaged_and_foreign_files_are_set_aside_and_their_runs_done_again(copy, small, whole):
    damaged, *_ = copy.files()
    damaged.write_bytes(damaged.read_bytes()[:-100])
    (copy.runs_folder / "notes.txt").write_text("mine")
    (copy.runs_folder / ".unfinished-12345678").write_bytes(b"PAR1")
    assert {*copy.status().problems} == {damaged.name, "notes.txt"}
    assert copy.status().n_done < len(small.runs())
    said = []
    run_study(small, copy.folder, say=said.append)
    assert len(said) == 2 and "cut short or altered" in " ".join(said)
    assert {p.name for p in (copy.folder / "aside").iterdir()} == {damaged.name, "notes.txt"}
    assert not [*copy.runs_folder.glob(".*")]
    same(copy, whole)


def test_a_study_that_was_changed_says_what_is_new(copy, small):
    said = []
    changed = replace(small, grid=dict(nnz=[3, 5], alpha_SNR=[0.5, 0.7]))
    store = run_study(changed, copy.folder, limit=1, say=said.append)
    assert "30 runs are new, and 30 finished ones" in said[0]
    now = store.status()
    assert (now.n_done, now.n_left, now.n_orphans) == (31, 29, 30)
    said.clear()
    store = run_study(small, copy.folder, say=said.append)
    assert store.status().n_left == 0 and store.status().n_orphans == 1


def test_a_head_from_a_forward_solution(tmp_path):
    "As a file of MNE-Python: what it sees is what a run solves, fixed and free"
    cap = mne.channels.make_standard_montage("biosemi16")
    info = mne.create_info(cap.ch_names, 100.0, "eeg", verbose="ERROR").set_montage(cap)
    directions = np.random.default_rng(0).normal(size=(30, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    pos = dict(rr=0.05 * directions, nn=directions)
    sphere = mne.make_sphere_model((0.0, 0.0, 0.0), 0.095, verbose="ERROR")
    src = mne.setup_volume_source_space(pos=pos, sphere=sphere, verbose="ERROR")
    forward = mne.make_forward_solution(info, None, src, sphere, meg=False, verbose="ERROR")
    mne.write_forward_solution(tmp_path / "my-fwd.fif", forward, verbose="ERROR")
    (tmp_path / "small.toml").write_text(
        TEXT.replace('"head.npz"', '"my-fwd.fif"\nsensors = "eeg"').replace(
            "[grid]", '[grid]\norientation = ["fixed", "free"]'
        )
    )
    study = replace(read_study(tmp_path / "small.toml"), n_train=0, n_test=1)
    store = run_study(study, tmp_path / "out")
    assert store.status().n_done == len(study.runs()) == 24
    theirs = forward["sol"]["data"]
    for name, k in (("fixed", 1), ("free", 3)):
        lf = study.heads["random"].pair(name).solved
        assert (lf.n_sensors, lf.n_orient, lf.unit) == (16, k, "µV/nAm")
        found = lf.data if k == 3 else lf.data[..., 0]
        along = theirs.reshape(16, -1, 3)
        along = along if k == 3 else np.einsum("msk,sk->ms", along, directions)
        average_referenced = along - along.mean(0)
        np.testing.assert_allclose(
            found, 1e-3 * average_referenced, atol=1e-6 * np.abs(found).max()
        )


def test_a_head_that_was_changed_makes_new_runs(folder, tmp_path):
    Leadfield.random(16, 60, seed=1).save(tmp_path / "head.npz")
    (tmp_path / "small.toml").write_text(TEXT)
    before = read_study(tmp_path / "small.toml")
    Leadfield.random(16, 60, seed=5).save(tmp_path / "head.npz", overwrite=True)
    assert not set(ids(read_study(tmp_path / "small.toml"))) & set(ids(before))
    with pytest.raises(ValueError, match=r"as it was when the study began"):
        run_study(before, tmp_path / "out")


def test_the_folder_of_another_study(copy, small):
    with pytest.raises(ValueError, match=r"of the study 'other', got .*, of the study 'small'"):
        run_study(replace(small, name="other"), copy.folder)
    with pytest.raises(ValueError, match="which holds something else"):
        run_study(small, copy.folder.parent)
    with pytest.raises(ValueError, match="of the same study as"):
        other = run_study(replace(small, seed=9), copy.folder.parent / "other", limit=1)
        merge_stores([copy.folder, other.folder], copy.folder.parent / "both")


def test_what_made_a_file_stands_in_it(whole):
    about, *others = whole.origins()
    assert not others, (about, others)
    assert about["versions"]["numpy"] == np.__version__
    assert [*about["heads"]] == ["random, fixed"] and about["study"] == "small"
    json.dumps(about)


def test_a_run_is_small(whole):
    size = sum(path.stat().st_size for path in whole.files())
    assert size / whole.status().n_done < 50e3


# ---- solvers that misbehave


def raises(L, y, noise_var, n_orient=1, logger=None):
    raise RuntimeError("no idea")


def sometimes(L, y, noise_var, n_orient=1, logger=None):
    from calibrain.solvers.bmn import BMN

    if not tries:
        tries.append(1)
        raise RuntimeError("not now")
    return BMN(L, y, noise_var, n_orient)


def hangs(L, y, noise_var, n_orient=1, logger=None):
    time.sleep(1000)


def says_nan(L, y, noise_var, n_orient=1, logger=None):
    from calibrain.solvers.bmn import BMN

    result = BMN(L, y, noise_var, n_orient)
    mean = np.nan * result.posterior.coeff_mean
    return replace(result, posterior=replace(result.posterior, coeff_mean=mean))


def dies(L, y, noise_var, n_orient=1, logger=None):
    os._exit(7)


tries: list = []


def with_solvers(small, *functions):
    solvers = [dict(solver="BMN"), *(dict(solver=f.__name__) for f in functions)]
    return replace(small, solvers=solvers, grid={}, n_train=0, n_test=2)


@pytest.fixture
def registered():
    functions = (raises, sometimes, hangs, says_nan, dies)
    for function in functions:
        register(Solver(function, learns_noise=False))
    yield
    for function in functions:
        unregister(function.__name__)


def test_failures_are_kept_told_and_never_counted_as_done(small, tmp_path, registered):
    study = with_solvers(small, raises, hangs)
    store = run_study(study, tmp_path / "out", time_limit=0.2)
    now = store.status()
    assert (now.n_done, now.n_failed, now.n_left) == (2, 4, 0)
    assert {row["solver"] for row in store.rows()} == {"BMN"}
    assert now.reasons["RuntimeError: no idea"] == 2
    assert "longer than 0.2 s" in " ".join(now.reasons)
    failed = store.failures()[0]
    assert failed["attempts"] == 2 and "Traceback" in failed["error"]
    assert left_to_do(store) == []
    assert len(left_to_do(store, retry=True)) == 4


def test_a_run_is_tried_twice(small, tmp_path, registered):
    tries.clear()
    store = run_study(with_solvers(small, sometimes), tmp_path / "out")
    assert store.status().n_failed == 0
    assert sorted(row["attempts"] for row in store.rows()) == [1, 1, 1, 2]


def test_an_answer_of_nan_has_failed(small, tmp_path, registered):
    store = run_study(with_solvers(small, says_nan), tmp_path / "out")
    assert store.status().n_failed == 2
    assert "NaN" in " ".join(store.status().reasons)


def test_a_solver_that_takes_its_process_with_it(small, tmp_path, registered):
    study = replace(with_solvers(small, dies), n_test=1)
    store = run_study(study, tmp_path / "out", n_jobs=2)
    now = store.status()
    assert (now.n_done, now.n_failed) == (1, 1)
    assert "its process died" in store.failures()[0]["error"]


# ---- what is refused


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("nnz = [1, 3]", "nnz = [1, 3", r"small.toml is no TOML: .* \(at line"),
        ("nnz = [1, 3]", "nnz = []", r"grid\[0\].nnz must be one value at least"),
        ("nnz = [1, 3]", "nnz = [1, 1]", "of different values"),
        ("nnz = [1, 3]", "nnz = [0]", r"grid\[0\].nnz must be"),
        ("nnz = [1, 3]", "snr = [1]", r"grid\[0\] must be made of .* 'snr'"),
        ("0.7]", "1.0]", r"grid\[0\].alpha_SNR must be"),
        ("n_test", "n_tests", "did you mean n_test"),
        ('name = "small"\n', "", "no name"),
        ("BMN_joint", "BMN_together", "one of 'gamma_map', 'gamma_map_sflex'"),
        ('"BMN_joint"\n', '"BMN"\n', r"solvers\[1\] \(BMN with noise 'adaptive_joint_learning'\)"),
        (
            'noise = "adaptive"',
            'noise = "oracle"',
            "BMN_joint learns the noise",
        ),
        ('noise = "adaptive"', 'noise = "known"', "one of 'given', 'baseline', 'learn'"),
        ("update_mode", "update_mod", "did you mean update_mode"),
        ('file = "head.npz"', 'file = "none-fwd.fif"', "which is not there"),
        ('file = "head.npz"', "template = { radius = 1 }", "'radius'"),
        ('file = "head.npz"', 'files = "head.npz"', "did you mean file"),
    ],
)
def test_a_file_that_is_wrong(folder, old, new, says):
    assert old in TEXT
    (folder / "wrong").mkdir(exist_ok=True)
    shutil.copy(folder / "head.npz", folder / "wrong")
    path = folder / "wrong" / "small.toml"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises((ValueError, TypeError, OSError), match=says):
        read_study(path)


def test_what_a_head_cannot_have(small, folder, tmp_path):
    with pytest.raises(ValueError, match=r"at most 60, the sources of heads\.random"):
        run_study(replace(small, grid=dict(nnz=[61])), tmp_path / "a")
    nowhere = replace(Leadfield.load(folder / "head.npz"), coords=None)
    nowhere.save(tmp_path / "nowhere.npz")
    study = replace(small, heads=dict(nowhere=dict(file=tmp_path / "nowhere.npz")))
    with pytest.raises(ValueError, match="a head with positions for gamma_map_sflex"):
        run_study(study, tmp_path / "b")
    with pytest.raises(ValueError, match="of free orientation"):
        run_study(replace(small, grid=dict(orientation=["free"])), tmp_path / "c")


def test_studies_that_ship():
    sizes = {path.stem: len(read_study(path).runs()) for path in (ROOT / "studies").glob("*.toml")}
    assert sizes["published"] == 4 * 5 * 5 * 6 * 35
    assert {"quick", "published", "full_bayes"} <= {*sizes}
