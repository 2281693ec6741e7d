"What names in backticks are linked to: what is meant, or nothing where that may be several things."

import re

import names
import pytest
from test_notebooks import API, cells, exports, source

import calibrain
from calibrain._modidx import d

MEANT = names.meant(d["syms"])
MISTAKEN = names.mistaken(d["syms"])


@pytest.mark.parametrize(
    ("name", "page"),
    [
        # what users import, whoever else defines a function or a method of that name
        ("gamma_map", "api/solvers/gamma_map.html#gamma_map"),
        ("calibrate", "api/passport/calibrate.html#calibrate"),
        ("draw_coverage", "api/viz/calibration.html#draw_coverage"),
        # one thing of one module, and a method with its class
        ("log_predictive", "api/solvers/left_out_sensors.html#log_predictive"),
        ("Result", "api/posterior/result.html#result"),
        ("EvokedPosterior.peak", "api/recording/posterior.html#evokedposterior.peak"),
        ("RegionPosterior.peak", "api/recording/regions.html#regionposterior.peak"),
        # a function somewhere, and a method, a parameter or a wing elsewhere
        ("peak", None),
        ("project", None),
        ("n_components", None),
        ("learn_noise", None),
        ("variance", None),
        ("published", None),
        # functions of two modules
        ("solve", None),
    ],
)
def test_what_a_name_means(name, page):
    assert MEANT[name] == page


def test_only_what_nbdev_takes_for_another_is_mended():
    assert {"peak", "published", "n_components", "draw_coverage"} <= MISTAKEN.keys()
    assert not {"gamma_map", "Result", "EvokedPosterior.peak"} & MISTAKEN.keys()


def test_what_users_import_is_never_in_doubt():
    defined = names.defined(d["syms"])
    assert [name for name in calibrain.__all__ if name in defined and not MEANT[name]] == []


BACKTICKS = re.compile(r"(?<!\[)`([^`\s]+?)(?:\(\))?`(?!\])")


@pytest.mark.parametrize("path", API, ids=str)
def test_a_method_is_not_taken_for_the_function_of_its_name(path):
    "On the page of its class, a name that users import as well has its class, or a link by hand"
    (module,) = exports(path)
    dotted = (name.split(".") for name in d["syms"][f"calibrain.{module}"])
    methods = {name[-1] for name in dotted if len(name) > 2 and name[-2][:1].isupper()}
    said = {name for c in cells(path, "markdown") for name in BACKTICKS.findall(source(c))}
    assert said & methods & names.imported().keys() == set()
