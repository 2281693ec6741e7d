"The simulator explorer: every static choice draws, without a warning, and shows what was simulated."

import itertools
import random
import warnings

import numpy as np
import pytest

from calibrain.explorers import SimulatorExplorer
from calibrain.explorers.base import png
from calibrain.explorers.simulator import BANDS, simulate_trial, sphere_head

CONTROLS = SimulatorExplorer.controls
STATIC = [
    dict(zip(CONTROLS, values))
    for values in itertools.product(*(c.static for c in CONTROLS.values()))
]


def test_the_page_is_small():
    assert len(STATIC) <= 100


@pytest.mark.parametrize(
    "values", random.Random(1).sample(STATIC, 12), ids=lambda v: " ".join(map(str, v.values()))
)
def test_draws(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = png(SimulatorExplorer().draw(**values))
    assert picture.startswith(b"\x89PNG") and len(picture) < 45_000


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_changes_the_picture(name):
    e = SimulatorExplorer()
    shown = [png(e.draw(**e.start | {name: value})) for value in CONTROLS[name].values]
    assert len(set(shown)) == len(shown)


def test_sources_lie_in_their_band():
    for band, (low, high) in BANDS.items():
        t = simulate_trial(band, "fixed", 20, 10, 0)
        spectrum = np.abs(np.fft.rfft(t.x[t.active], 1000)).mean(0)
        f = np.fft.rfftfreq(1000, 0.01)
        assert (
            low - 1.25 <= f[spectrum.argmax()] <= high + 1.25
        )  # a Hann window of 0.8 s blurs an edge by 2.5 Hz at most


@pytest.mark.parametrize("snr", (-10, 0, 20))
def test_the_ratio_of_signal_to_noise(snr):
    t = simulate_trial("4–8 Hz", "random", 10, 3, snr)
    assert np.isclose(10 * np.log10((t.clean**2).sum() / ((t.y - t.clean) ** 2).sum()), snr)
    assert np.allclose(t.clean, sphere_head()[0].matrix() @ t.x)
