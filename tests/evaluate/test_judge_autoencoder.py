"""A round trip tells a faithful autoencoder from one that smooths texture away."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from factory.errors import DataError
from factory.evaluate.judge_autoencoder import (
    LabelledImages,
    judge_autoencoder,
    kept_energy,
    round_trip,
    take_balanced,
    to_markdown,
)
from factory.real.sources import open_dataset


class Through:
    """An 'autoencoder' whose latents are its images; `decoder` is what it makes of them."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder

    def encode(self, images: torch.Tensor) -> Any:
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: images))

    def decode(self, latents: torch.Tensor) -> Any:
        return SimpleNamespace(sample=self.decoder(latents))


FAITHFUL = Through(lambda images: images)
SMOOTH = Through(lambda images: F.avg_pool2d(images, 3, stride=1, padding=1))


class Grain:
    """Sees how coarse and how bright an image is; stands for the frozen network."""

    name, digest = "grain", "grain"

    def extract(self, images: np.ndarray) -> np.ndarray:
        grey = images.astype(np.float32).mean(-1)
        step = np.abs(np.diff(grey, axis=2)).mean((1, 2))
        return np.stack([step, grey.mean((1, 2)) / 100, np.ones_like(step)], axis=1)


def cells(seed: int, *, count: int = 12) -> LabelledImages:
    """Smooth and grainy images of equal brightness."""
    rng = np.random.default_rng(seed)
    grain = (
        rng.integers(-60, 60, (2 * count, 16, 16, 1))
        * np.repeat([0, 1], count)[:, None, None, None]
    )
    images = np.broadcast_to(128 + grain, (2 * count, 16, 16, 3)).astype(np.uint8)
    return LabelledImages(images=images.copy(), labels=["a"] * count + ["b"] * count)


def test_a_faithful_autoencoder_costs_nothing() -> None:
    report = judge_autoencoder(FAITHFUL, cells(0), cells(1), Grain())
    assert {way: found.value for way, found in report.named.items()} == {
        "real -> real": 1.0,
        "real -> returned": 1.0,
        "returned -> real": 1.0,
        "returned -> returned": 1.0,
    }
    assert report.psnr_db > 100
    assert all(share == pytest.approx(1) for share in report.kept_energy.values())
    assert report.kid.value == pytest.approx(report.kid_floor.value)


def test_smoothed_texture_shows_in_energy_and_distance() -> None:
    report = judge_autoencoder(SMOOTH, cells(0), cells(1), Grain())
    energies = list(report.kept_energy.values())
    assert energies[0] > 0.6 > 0.1 > energies[-1]
    assert report.psnr_db < 100
    assert report.kid.value > report.kid_floor.value
    assert "| head names the class, returned -> real |" in to_markdown(report)


def test_energy_is_compared_band_by_band() -> None:
    stripes = np.zeros((1, 16, 16, 3), np.uint8)
    stripes[:, :, ::2] = 200  # 0.5 cycles per pixel
    flat = np.full_like(stripes, 100)
    assert kept_energy(flat, stripes)["0.375 to 0.5"] < 0.01


def test_images_come_back_as_pixels() -> None:
    images = cells(2).images
    assert np.array_equal(round_trip(FAITHFUL, images), images)


def test_classes_are_taken_alike_or_refused(tmp_path: Path) -> None:
    whole = cells(3, count=4)
    for number, (label, image) in enumerate(zip(whole.labels, whole.images, strict=True)):
        (tmp_path / label).mkdir(exist_ok=True)
        Image.fromarray(image + number).save(tmp_path / label / f"{number}.png")
    dataset = open_dataset(str(tmp_path))
    taken = take_balanced(dataset, dataset.ids, 3, size_px=16)
    assert (taken.labels, taken.images.shape) == (["a"] * 3 + ["b"] * 3, (6, 16, 16, 3))
    assert take_balanced(dataset, dataset.ids[::-1], 3, size_px=16).digest == taken.digest
    with pytest.raises(DataError, match="class 'a' has 4 images here, 5 were asked"):
        take_balanced(dataset, dataset.ids, 5, size_px=16)
