"""Estimates and regions as xarray datasets: axes, coordinates, and to a file and back."""

import sys

import numpy as np
import pytest
import test_regions

from calibrain.recording import arrays  # noqa: F401 (methods of estimates and regions)

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
