"""Two orders of one thing: sources, channels, conditions.

Whatever the order in which forward solution, data and covariance list them, the same vertex has
the same amplitude.
"""

import mne
import numpy as np
import pytest
from mne.io.constants import FIFF
from test_evoked import how, problem, projection, sensors, solve

from calibrain import Leadfield
from calibrain.head.forward import source_order
from calibrain.recording.whitened import whitened_forward

SIDES = [FIFF.FIFFV_MNE_SURF_LEFT_HEMI, FIFF.FIFFV_MNE_SURF_RIGHT_HEMI]
PARTS = ["left", "right", "volume"]


def part(name, n=8):
    "A part of a source space in head coordinates: its vertices are every third of a surface"
    rng = np.random.default_rng(PARTS.index(name))
    nn = rng.normal(size=(3 * n, 3))
    nn[:, 2] = abs(nn[:, 2])
    nn /= np.linalg.norm(nn, axis=1, keepdims=True)
    rr = 0.06 * nn * rng.uniform(0.5, 1, (3 * n, 1))
    pos = dict(rr=rr, nn=nn)
    space = mne.setup_volume_source_space(pos=pos, verbose="ERROR")[0]
    vertno = np.arange(0, 3 * n, 3)
    inuse = np.isin(np.arange(3 * n), vertno).astype(int)
    space.update(vertno=vertno, nuse=n, inuse=inuse)
    if name != "volume":
        space.update(type="surf", id=SIDES[PARTS.index(name)])
        space.update(ntri=0, tris=np.zeros((0, 3), int), nuse_tri=0, use_tris=np.zeros((0, 3), int))
        space.update(nearest=None, nearest_dist=None, pinfo=None, patch_inds=None, dist=None)
        space.update(dist_limit=None)
    return space


def forward(names, kind="eeg"):
    "The forward solution of parts in an order"
    src = mne.SourceSpaces([part(name) for name in names])
    sphere = mne.make_sphere_model((0, 0, 0), 0.095, verbose="ERROR")
    return mne.make_forward_solution(sensors(kind), None, src, sphere, verbose="ERROR")


def by_vertex(est, names):
    "Part and vertex → mean and standard deviation"
    sides = [n for n in ("left", "right") if n in names]
    filed = ["left", "right"] if sides else []
    filed += [n for n in names if n == "volume"]
    keys = [(name, v) for name, vertices in zip(filed, est.vertices) for v in vertices]
    data = est.mean.data if est.n_orient == 1 else np.linalg.norm(est.mean.data, axis=1)
    assert len(keys) == len(data)
    return dict(zip(keys, zip(data, est.std.data, est.coords)))


def agree(a, b):
    "The same by vertex, wherever it is filed"
    assert a.keys() == b.keys()
    size = max(np.abs(mean).max() for mean, _, _ in a.values())
    for key in a:
        for one, other in zip(a[key], b[key]):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7 * size)


@pytest.mark.parametrize("solver", ["BMN", "gamma_map", "gamma_map_sflex", "gamma_lambda_map"])
@pytest.mark.parametrize("orientation", ["fixed", "free", "loose"])
@pytest.mark.filterwarnings("ignore::calibrain.core.warnings.NoiseBoundaryWarning")
def test_hemispheres_in_either_order(solver, orientation):
    evoked, _, cov = problem()
    said = dict(solver=solver, orientation=orientation, depth=0.8, noise=how(solver))
    straight = solve(evoked, forward(["left", "right"]), cov, **said)
    turned = solve(evoked, forward(["right", "left"]), cov, **said)
    agree(by_vertex(straight, ["left", "right"]), by_vertex(turned, ["right", "left"]))


@pytest.mark.parametrize("orientation", ["free", "loose"])
def test_a_mixed_source_space(orientation):
    "Its volumes come last, as MNE-Python has them"
    evoked, _, cov = problem()
    usual = ["left", "right", "volume"]
    names = ["right", "left", "volume"]
    straight = solve(evoked, forward(usual), cov, orientation=orientation)
    turned = solve(evoked, forward(names), cov, orientation=orientation)
    agree(by_vertex(straight, usual), by_vertex(turned, names))
    assert turned.space == "mixed"


def test_only_a_right_hemisphere():
    evoked, _, cov = problem()
    est = solve(evoked, forward(["right"]), cov, orientation="fixed")
    assert [len(v) for v in est.vertices] == [0, 8]


def test_two_left_hemispheres_are_refused():
    evoked, _, cov = problem()
    with pytest.raises(ValueError, match=r"forward\['src'\] must be .*, got two left ones"):
        solve(evoked, forward(["left", "left"]), cov)


def test_a_leadfield_keeps_the_order_of_the_forward_solution():
    "from_forward is about the forward solution, estimates are about vertices"
    fwd = forward(["right", "left"])
    lf = Leadfield.from_forward(fwd, "free")
    np.testing.assert_array_equal(lf.coords, fwd["source_rr"])
    np.testing.assert_array_equal(source_order(fwd["src"]).order, [*range(8, 16), *range(8)])


@pytest.mark.parametrize("kind", ["eeg", "both"])
@pytest.mark.parametrize("turned", ["evoked", "forward", "covariance", "projections"])
def test_channels_in_any_order(kind, turned):
    evoked, fwd, cov = problem(kind)
    names = list(np.random.default_rng(1).permutation(evoked.ch_names))
    usual = solve(evoked, fwd, cov)
    if turned == "evoked":
        evoked = evoked.copy().reorder_channels(names)
    elif turned == "forward":
        fwd = mne.pick_channels_forward(fwd, names, ordered=True, verbose="ERROR")
    elif turned == "covariance":
        cov = mne.pick_channels_cov(cov, names, ordered=True, verbose="ERROR")
    else:
        evoked = evoked.copy()
        for p in evoked.info["projs"]:
            data = p["data"]
            data["data"] = data["data"][:, ::-1]
            data["col_names"] = data["col_names"][::-1]
    got = solve(evoked, fwd, cov)
    size = np.abs(usual.mean.data).max()
    np.testing.assert_allclose(got.mean.data, usual.mean.data, atol=1e-6 * size)
    np.testing.assert_allclose(got.result.log_evidence, usual.result.log_evidence, rtol=1e-8)


@pytest.mark.parametrize("kind", ["eeg", "both"])
def test_conditions_with_their_channels_in_other_orders(kind):
    "With projections of their own, which are the same"
    evoked, fwd, cov = problem(kind)
    row = np.random.default_rng(2).normal(size=(1, len(evoked.ch_names)))
    more = projection(evoked.ch_names, row / np.linalg.norm(row), "one more")
    one = evoked.copy().add_proj([more], verbose="ERROR")
    other = one.copy().reorder_channels(one.ch_names[::-1])
    a, b = solve([one, other], fwd, cov)
    np.testing.assert_allclose(a.mean.data, b.mean.data, atol=1e-9 * np.abs(a.mean.data).max())


def test_integer_picks_count_in_the_first_condition():
    evoked, fwd, cov = problem()
    other = evoked.copy().reorder_channels(evoked.ch_names[::-1])
    picks = list(range(20))
    a, b = solve([evoked, other], fwd, cov, picks=picks)
    np.testing.assert_allclose(a.mean.data, b.mean.data, atol=1e-9 * np.abs(a.mean.data).max())


def test_conditions_in_either_order():
    evoked, fwd, cov = problem()
    other = evoked.copy()
    other.data[:] = other.data[::-1]
    a, b = solve([evoked, other], fwd, cov, "gamma_map")
    c, d = solve([other, evoked], fwd, cov, "gamma_map")
    for one, same in ((a, d), (b, c)):
        np.testing.assert_array_equal(one.mean.data, same.mean.data)


def test_depth_weights_follow_their_sources():
    evoked, _, cov = problem()
    weights = []
    for names in (["left", "right"], ["right", "left"]):
        h = whitened_forward([evoked], forward(names), cov, None, "free", 0.8)
        weights.append(h.weights)
        assert h.leadfield.n_sources == 16
    np.testing.assert_allclose(*weights)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["eeg", "meg"])
def test_bytes_of_a_diagonal_covariance_in_either_order(kind, tmp_path):
    "One that was written and read again, as MNE-Python reads it: big-endian"
    evoked, fwd, _ = problem(kind)
    cov = mne.make_ad_hoc_cov(evoked.info, dict(eeg=5e-6), verbose="ERROR")
    mne.write_cov(tmp_path / "a-cov.fif", cov, verbose="ERROR")
    again = mne.read_cov(tmp_path / "a-cov.fif", verbose="ERROR")
    assert not again["data"].dtype.isnative
    first, second = (solve(evoked, fwd, c, noise="baseline") for c in (cov, again))
    largest = np.abs(first.mean.data).max()
    np.testing.assert_allclose(second.mean.data, first.mean.data, atol=1e-6 * largest)
