"""Agreement, the expert's view, and what an autoencoder keeps."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from factory.errors import DataError
from factory.finetune.latents import to_signed
from factory.judge.autoencoder import autoencoder_figures, kept_energy, round_trip
from factory.judge.figures import agreement, probabilities
from factory.measure.intervals import proportion
from factory.models.config import ExpertSpec
from factory.models.experts import build_expert


def test_shares_confusions_and_intervals() -> None:
    wanted = ["a"] * 4 + ["b"] * 2
    found = agreement(["a", "a", "b", "c", "b", "a"], wanted)
    assert found.overall == proportion(3, 6)
    assert found.by_class == {"a": proportion(2, 4), "b": proportion(1, 2)}
    assert found.called == {"a": {"a": 2, "b": 1, "c": 1}, "b": {"b": 1, "a": 1}}


@pytest.mark.parametrize("found", [[], ["a"]])
def test_a_class_is_needed_for_every_image(found: list[str]) -> None:
    with pytest.raises(DataError, match="classes were seen in 2 images"):
        agreement(found, ["a", "b"])


@pytest.mark.parametrize("grey", [False, True])
def test_the_expert_says_what_it_sees(grey: bool) -> None:
    spec = ExpertSpec(backbone="test_resnet", class_names=("x", "y", "z"), size_px=16, grey=grey)
    expert = build_expert(spec, seed=3).freeze()
    images = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3)).astype(np.uint8)
    with torch.no_grad():
        known = expert(to_signed(torch.from_numpy(images))).softmax(1).numpy()
    assert np.allclose(probabilities(expert, images), known, atol=1e-5)


class Through:
    """An 'autoencoder' whose latents are its images; `decoder` is what it makes of them."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder

    def encode(self, images: torch.Tensor) -> Any:
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: images))

    def decode(self, latents: torch.Tensor) -> Any:
        return SimpleNamespace(sample=self.decoder(latents))


def grainy(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(68, 188, (count, 16, 16, 3)).astype(np.uint8)


def test_a_faithful_autoencoder_costs_nothing_and_one_that_smooths_texture() -> None:
    images = grainy(6)
    back = round_trip(Through(lambda x: x), images)
    assert np.array_equal(back, images)
    found = autoencoder_figures(back, images)
    assert found.psnr_db > 100
    assert all(share == pytest.approx(1) for share in found.kept_energy.values())
    smooth = Through(lambda x: F.avg_pool2d(x, 3, stride=1, padding=1))
    energies = list(autoencoder_figures(round_trip(smooth, images), images).kept_energy.values())
    assert energies[0] > 0.5 > 0.1 > energies[-1]


def test_energy_is_compared_band_by_band() -> None:
    stripes = np.zeros((1, 16, 16, 3), np.uint8)
    stripes[:, :, ::2] = 200  # 0.5 cycles per pixel
    flat = np.full_like(stripes, 100)
    assert kept_energy(flat, stripes)["0.375 to 0.5"] < 0.01
