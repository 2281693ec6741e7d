"The explorer of the brain: what it shows against computations of its own, with and without a real recording."

import itertools
import random
import warnings

import numpy as np
import pytest
import realdata
from scipy.stats import norm

from calibrain.explorers import BrainExplorer, Impossible
from calibrain.explorers import brain as module
from calibrain.explorers.base import png

EXPLORER = BrainExplorer()
CHOICES = [
    dict(zip(EXPLORER.controls, v))
    for v in itertools.product(*(c.static for c in EXPLORER.controls.values()))
]
SIMULATED = [c for c in CHOICES if c["recording"] == "simulated"]


def draws(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert png(EXPLORER.draw(**values)).startswith(b"\x89PNG")


@pytest.mark.parametrize("values", random.Random(0).sample(SIMULATED, 10), ids=str)
def test_draws(values):
    draws(values)


@realdata.needed
@pytest.mark.parametrize(
    "values",
    random.Random(1).sample(
        [c for c in CHOICES if c["recording"] == "real" and c["quantity"] != "truth"], 5
    ),
    ids=str,
)
def test_draws_a_real_recording(values):
    draws(values)


def test_few_enough():
    assert len(CHOICES) <= 120


def test_the_truth_of_a_recording_is_unknown(monkeypatch):
    monkeypatch.setattr(module, "_real", lambda: module._Estimate(None, None, None, {}))
    with pytest.raises(Impossible, match="Nobody knows the true sources of a real recording."):
        EXPLORER.draw("real", "truth", 90, 2)


def test_without_a_recording(monkeypatch, tmp_path):
    "A sentence, and no download"
    monkeypatch.setattr(module, "_BESIDE", tmp_path / "none")
    monkeypatch.setattr(
        module.mne.datasets.sample,
        "data_path",
        lambda download, verbose: "." if not download else pytest.fail("a download"),
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Impossible, match="not on this machine"):
        module._real.__wrapped__()


def test_the_sample_data_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_BESIDE", tmp_path / "none")
    monkeypatch.setattr(module.mne.datasets.sample, "data_path", lambda download, verbose: tmp_path)
    (tmp_path / "MEG/sample").mkdir(parents=True)
    assert all(str(p).startswith(str(tmp_path)) for p in module._files().values())


def test_the_two_patches():
    "Where and when the truth is largest, and that it is found there"
    e = module._simulated()
    for n, t, size in ((619, 90, 8), (1086, 140, -8)):
        i = list(e.times).index(t)
        assert np.abs(e.truth[:, i]).argmax() == n == np.abs(e.mean[:, 0, i]).argmax()
        assert (
            e.truth[n, i] == pytest.approx(size, abs=1e-3)
            and abs(e.mean[n, 0, i] - size) < 2 * e.std[n]
        )
    assert 0.5 < (e.std == 0).mean() < 0.6  # pruned


def test_probability():
    "Two tails of a Gaussian; the map that is drawn"
    e = module._simulated()
    p, how = module._values(e, "exceedance", 18, 2)
    seen = e.std > 0
    at = dict(loc=e.mean[seen, 0, 18], scale=e.std[seen])
    np.testing.assert_allclose(p[seen], norm.sf(2, **at) + norm.cdf(-2, **at), atol=1e-9)
    assert not p[~seen].any() and how["limits"] == (0, 1)
    assert (np.abs(e.truth[p > 0.95, 18]) > 2).all() and (p > 0.95).sum() == 6  # as the page says


@pytest.mark.parametrize("quantity", EXPLORER.controls["quantity"].values)
def test_colours_do_not_change_with_time(quantity):
    e = module._simulated()
    first, last = (module._values(e, quantity, i, 2) for i in (0, 40))
    assert {k: v for k, v in first[1].items()} == {k: v for k, v in last[1].items()}
    assert (quantity == "std") == np.array_equal(first[0], last[0])


@realdata.needed
def test_a_real_recording():
    "Lengths of vectors, and the deep source whose probability says only that little is known"
    e = module._real()
    i = np.abs(e.times - 90).argmin()
    np.testing.assert_allclose(
        module._values(e, "mean", i, 2)[0],
        np.linalg.norm(e.posterior.mean.reshape(-1, 3, len(e.times))[..., i], axis=1),
    )
    cov = e.posterior.blocks[e.strongest]
    assert e.std[e.strongest] ** 2 == pytest.approx(np.trace(cov))
    draws = np.random.default_rng(0).multivariate_normal(e.mean[e.strongest, :, i], cov, 20_000)
    assert module._values(e, "exceedance", i, 5)[0][e.strongest] == pytest.approx(
        (np.linalg.norm(draws, axis=1) > 5).mean(), abs=0.015
    )
    deep = e.std.argmax()
    assert (
        np.linalg.norm(e.mean[deep, :, 0]) < e.std[deep] / 2
        and module._values(e, "exceedance", 0, 5)[0][deep] > 0.9
    )
