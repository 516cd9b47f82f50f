"""Measures of what an inversion has lost, on images whose spectrum is known."""

import numpy as np
import pytest
import torch

from factory.errors import ConfigError
from factory.methods.bridge.depths import (
    MEASURES,
    centre_row_band,
    expert_distance,
    radial_high_frequency,
)
from factory.methods.bridge.inversion import Inverted
from factory.models.config import ExpertSpec
from factory.models.experts import build_expert


def wave(cycles: int, size: int = 32, *, axis: int = -1) -> torch.Tensor:
    """A cosine of so many cycles along one axis, (1, 3, size, size)."""
    line = torch.cos(2 * torch.pi * cycles * torch.arange(size) / size)
    plane = line.expand(size, size) if axis == -1 else line[:, None].expand(size, size)
    return plane.expand(1, 3, size, size).contiguous()


def test_the_centre_row_is_the_lowest_horizontal_frequencies():
    """Offsets -10..-2 and +1..+9: a wave of 5 cycles fills one place of 9 on either side."""
    assert float(centre_row_band(wave(5))) == pytest.approx(2 * 32 * 32 / 2 / 18, rel=1e-4)
    assert float(centre_row_band(wave(1))) == pytest.approx(32 * 32 / 2 / 18, rel=1e-4)
    assert float(centre_row_band(wave(12))) < 1e-2
    assert float(centre_row_band(wave(5, axis=-2))) < 1e-2


def test_a_narrow_image_has_fewer_places_and_a_narrower_one_none():
    assert float(centre_row_band(wave(3, 16))) == pytest.approx(16 * 16 / 14, rel=1e-4)
    with pytest.raises(ConfigError, match="width 3"):
        centre_row_band(torch.zeros(1, 1, 3, 3))


def test_the_radial_ratio_is_the_energy_above_the_cutoff():
    low, high = wave(2), wave(12)
    assert float(radial_high_frequency(low)) < 1e-5
    assert float(radial_high_frequency(high)) > 1 - 1e-5
    assert float(radial_high_frequency(3 + low + 2 * high)) == pytest.approx(0.8, abs=1e-4)
    turned = wave(12, axis=-2)
    assert float(radial_high_frequency(turned)) == pytest.approx(1, abs=1e-5)
    assert float(radial_high_frequency(torch.zeros(1, 4, 8, 8))) == 0


def test_white_noise_has_the_share_of_frequencies_that_are_high():
    noise = torch.randn((8, 4, 64, 64), generator=torch.Generator().manual_seed(0))
    axis = np.fft.fftfreq(64)
    expected = (np.hypot(axis[:, None], axis) > 0.25).mean()
    assert radial_high_frequency(noise).numpy() == pytest.approx([expected] * 8, abs=0.03)


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_every_image_is_measured_alone(name: str):
    images = torch.cat([wave(2), wave(5), wave(12)])
    at = Inverted(level=1, state=images, clean=torch.zeros_like(images))
    alone = [
        MEASURES[name](Inverted(level=1, state=images[i : i + 1], clean=images[i : i + 1]))
        for i in range(3)
    ]
    torch.testing.assert_close(MEASURES[name](at), torch.cat(alone))


def test_an_expert_measures_how_far_the_clean_estimate_left_its_source():
    expert = build_expert(
        ExpertSpec(backbone="resnet10t", class_names=("a", "b"), size_px=32), seed=3
    ).freeze()
    sources = torch.cat([wave(2), wave(5)])
    measure = expert_distance(expert, sources, decode=lambda latents: -latents)
    start = measure(Inverted(level=0, state=sources, clean=sources))
    same = measure(Inverted(level=1, state=sources * 9, clean=-sources))
    other = measure(Inverted(level=1, state=sources, clean=-wave(9).expand(2, -1, -1, -1)))
    assert start.abs().max() < 1e-5
    assert same.abs().max() < 1e-5
    assert (other > 1e-4).all()
