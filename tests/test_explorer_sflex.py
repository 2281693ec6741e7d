"The explorer of sFLEX: what it shows against computations of its own, and a sample of its pictures."

import itertools
import random
import warnings

import numpy as np
import pytest

from calibrain import gamma_map_sflex
from calibrain.explorers import SflexExplorer
from calibrain.explorers import sflex as module
from calibrain.explorers.base import png

EXPLORER = SflexExplorer()
CHOICES = [
    dict(zip(EXPLORER.controls, v))
    for v in itertools.product(*(c.static for c in EXPLORER.controls.values()))
]


@pytest.fixture(scope="module")
def head():
    return module._head()[0].record


def panels(**change):
    return {ax.get_ylabel() or "map": ax for ax in EXPLORER.draw(**EXPLORER.start | change).axes}


@pytest.mark.parametrize("values", random.Random(0).sample(CHOICES, 12), ids=str)
def test_draws(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert png(EXPLORER.draw(**values)).startswith(b"\x89PNG")


def test_few_enough():
    assert len(CHOICES) <= 120


@pytest.mark.parametrize("normalize", ["none", "row", "sym"])
def test_weights(head, normalize):
    "The points of the panel, from the definition"
    away = np.linalg.norm(head.coords[:, None] - head.coords, axis=-1)
    plain = np.where(away <= 0.042, np.exp(-((away / 0.014) ** 2) / 2), 0)
    D = plain.sum(1)
    B = dict(none=plain, row=plain / D[:, None], sym=plain / np.sqrt(np.outer(D, D)))[normalize]
    x, y = panels(sigma=14, normalize=normalize)["weight"].lines[1].get_data()
    near = away[330] <= 0.06
    np.testing.assert_allclose(x, 1e3 * away[330, near])
    np.testing.assert_allclose(y, B[near, 330], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("place, n", [("temporal lobe", 330), ("parietal lobe", 298)])
def test_costs(head, place, n):
    "The curve, from the formula of the type-II cost at the γ that was found"
    y, noise_var = module._recording(place, 20, 12)
    line = next(
        l
        for l in panels(place=place, true=20)["ℒ above its lowest"].lines
        if l.get_label() == "cost"
    )
    cost = []
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
        S = noise_var * np.eye(len(y)) + (G * fit["gammas_full"]) @ G.T
        cost.append(np.linalg.slogdet(S)[1] + np.trace(y.T @ np.linalg.solve(S, y)) / y.shape[1])
    shown = dict(zip(*line.get_data()))
    assert shown[14] - shown[20] == pytest.approx(cost[0] - cost[1], abs=1e-4)


def test_the_recording(head):
    "A patch of the true width, with the noise that the SNR says"
    y, noise_var = module._recording("temporal lobe", 10, 6)
    clean = module._recording("temporal lobe", 10, 12)[0]
    away = np.linalg.norm(head.coords - head.coords[330], axis=1)
    field = head.matrix() @ np.where(away <= 0.03, np.exp(-((away / 0.01) ** 2) / 2), 0)
    assert abs(np.linalg.svd(clean)[0][:, 0] @ field) > 0.99 * np.linalg.norm(field)
    assert 10 * np.log10(((y**2).mean() - noise_var) / noise_var) == pytest.approx(6, abs=1)


def test_the_evidence_finds_the_width():
    "As the page says: at 12 dB, within a step of the grid"
    step = lambda s: np.abs(np.array(module._WIDTHS) - s).argmin()
    for place in EXPLORER.controls["place"].values:
        for true in (10, 20):
            for normalize in EXPLORER.controls["normalize"].values:
                assert abs(module._costs(place, true, 12, normalize).argmin() - step(true)) <= 1
    assert (
        np.ptp(module._costs("temporal lobe", 10, -6, "sym")[:8]) < 1
    )  # at −6 dB, 2 to 17 mm are as good


def test_islands(head):
    "The bump of 10 mm comes in two parts on the temporal lobe, in one on the parietal lobe"
    brain = module._head()[1]
    far = {}
    for n in (330, 298):
        half = np.linalg.norm(head.coords - head.coords[n], axis=1) < 0.01 * np.sqrt(2 * np.log(2))
        far[n] = (
            1e3
            * np.linalg.norm(
                brain.rr[brain.sources[half]] - brain.rr[brain.sources[n]], axis=1
            ).max()
        )
    assert far[330] > 30 and far[298] < 16
