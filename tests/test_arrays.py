"""Estimates and regions as xarray datasets: axes, coordinates, and to a file and back."""

import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import test_regions

from calibrain.recording import arrays

xr = pytest.importorskip("xarray")


def there_and_back(dataset, path):
    dataset.to_netcdf(path, engine="scipy")
    with xr.open_dataset(path, engine="scipy") as again:
        return again.load()


@pytest.mark.parametrize("kind", ["gaussian", "patches"])
@pytest.mark.parametrize("k", [1, 3])
def test_an_estimate_keeps_its_numbers_and_names(kind, k, tmp_path):
    est = test_regions.estimate(kind, k)
    named = est.to_xarray(0.8)
    low, high = est.interval(0.8)
    for name, of in dict(mean=est.mean, std=est.std, low=low, high=high).items():
        np.testing.assert_array_equal(named[name].values, 1e9 * of.data)
        assert named[name].attrs["units"] == "nAm"
    assert named["mean"].dims == (("source", "component", "time") if k == 3 else ("source", "time"))
    np.testing.assert_array_equal(named["time"].values, est.times)
    np.testing.assert_array_equal(named["vertex"].values, np.concatenate(est.vertices))
    place = np.stack([named[f"position_{axis}"].values for axis in "xyz"], axis=1)
    np.testing.assert_array_equal(place, est.coords)
    again = there_and_back(named, tmp_path / "tone.nc")
    xr.testing.assert_allclose(again, named, rtol=1e-12)
    assert again.attrs["condition"] == "a tone" and again.attrs["level"] == 0.8
    assert again["std"].attrs["long_name"] == "posterior standard deviation"


@pytest.mark.parametrize("components", ["normal", "vector", "norm"])
def test_regions_keep_theirs(components, tmp_path):
    est = test_regions.estimate("gaussian", 3)
    regions = est.regions(test_regions.LABELS, components=components)
    named = regions.to_xarray(draws=20)
    np.testing.assert_array_equal(named["mean"].values, regions.mean)
    np.testing.assert_array_equal(named["draws"].values[0], regions.draws(20))
    assert ("component" in named.dims) == (components == "vector")
    assert list(named["region"].values) == list(regions.names)
    again = there_and_back(named, tmp_path / "regions.nc")
    xr.testing.assert_allclose(again, named, rtol=1e-12)
    power = est.regions(test_regions.LABELS, mode="power").to_xarray()
    assert power["mean"].attrs["units"] == "nAm²"


def test_what_is_missing_or_wrong_is_said(monkeypatch):
    est = test_regions.estimate("gaussian", 1)
    with pytest.raises(ValueError, match="level must be"):
        est.to_xarray(1.5)
    with pytest.raises(ValueError, match="draws must be"):
        est.regions(test_regions.LABELS).to_xarray(draws=-3)
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r"pip install 'calibrain\[arrays\]'"):
        est.to_xarray()


@pytest.fixture
def arviz():
    "ArviZ, which reads draws"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its next version
        return pytest.importorskip("arviz", reason="ArviZ is not installed: pip install 'arviz<1'")


@pytest.mark.parametrize("kind", ["gaussian", "patches"])
@pytest.mark.parametrize("k", [1, 3])
def test_draws_have_the_moments_of_the_posterior(kind, k):
    "Mean and joint covariance of neighbours, and the same seed the same draws"
    est = test_regions.estimate(kind, k)
    if k == 3:  # components that are not those of space
        random = np.random.default_rng(0).normal(size=(len(est.coords), 3, 3))
        est = replace(est, basis=np.linalg.qr(random)[0])
    named = est.to_xarray(draws=4000, seed=3)
    drawn = named["draws"]
    axes = ("source", "component", "time") if k == 3 else ("source", "time")
    assert drawn.dims == ("chain", "draw", *axes) and drawn.sizes["chain"] == 1
    x = drawn.values[0].reshape(4000, -1)
    mean, std = named["mean"].values.ravel(), named["std"].values.ravel()
    error = np.maximum(std, 1e-3 * std.max()) / np.sqrt(4000)
    assert (np.abs(x.mean(0) - mean) < 6 * error).mean() > 0.999
    at = dict(source=[4, 5, 90], time=2)
    few = drawn.isel(at).values[0].reshape(4000, -1)
    weights = np.zeros((few.shape[1], est.posterior.n_sources * k))
    c = few.shape[1] // 3
    for i, source in enumerate(at["source"]):
        block = est.basis[source] if k == 3 else np.eye(1)
        weights[i * c : (i + 1) * c, source * k : (source + 1) * k] = block
    said = est.posterior.read_out(weights)
    cov = said.cov[2] if said.cov.ndim == 3 else said.cov
    scale = np.sqrt(np.outer(cov.diagonal(), cov.diagonal())).max()
    np.testing.assert_allclose(np.cov(few.T), cov, atol=0.2 * scale)
    xr.testing.assert_identical(est.to_xarray(draws=4000, seed=3), named)
    what = "a Gaussian" if kind == "gaussian" else "the mixture of states"
    assert what in drawn.attrs["chain"]


def test_arviz_reads_draws(arviz, tmp_path):
    est = test_regions.estimate("patches", 3)
    for i, named in enumerate(
        (
            est.to_xarray(draws=200),
            est.regions(test_regions.LABELS, components="norm").to_xarray(draws=200),
        )
    ):
        data = arviz.convert_to_inference_data(named[["draws"]])
        assert data.groups() == ["posterior"]
        assert data.posterior.sizes["chain"] == 1 and data.posterior.sizes["draw"] == 200
        summary = arviz.summary(data.isel(time=[2]), kind="stats", round_to="none")
        drawn = named["draws"].isel(time=2).mean(("chain", "draw")).values.ravel()
        np.testing.assert_allclose(summary["mean"].to_numpy(float), drawn, atol=1e-12)
        path = str(tmp_path / f"{i}.nc")
        data.to_netcdf(path)
        again = arviz.from_netcdf(path)
        np.testing.assert_array_equal(again.posterior["draws"].values, named["draws"].values)


def test_draws_too_large_for_memory_are_refused_with_their_size(monkeypatch):
    est = test_regions.estimate("gaussian", 3)
    monkeypatch.setattr(type(est.posterior), "sample", None)  # nothing is drawn
    n = 2 * arrays._MOST_BYTES // (8 * est.mean.data.size)
    with pytest.raises(ValueError, match=r"take 8\.0 GiB .*est\.regions\(labels\)"):
        est.to_xarray(draws=n)
    with pytest.raises(ValueError, match=r"GiB .*fewer regions"):
        est.regions(test_regions.LABELS).to_xarray(draws=10**9)
