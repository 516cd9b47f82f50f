"""Diversity by SSIM: its ends, its pairs, its interval, its refusal."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from factory.arrays import Images
from factory.errors import DataError
from factory.measure import diversity as measure
from factory.measure.diversity import (
    diversity_by_class,
    mean_diversity,
    most_of,
    ssim_diversity,
    unlike_by_ms_ssim,
    unlike_by_ssim,
)
from factory.measure.intervals import Z95


def noise(count: int, *, seed: int = 0) -> Images:
    values = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3))
    return values.astype(np.uint8)


def test_copies_have_no_diversity_and_noise_has_nearly_all() -> None:
    copies = ssim_diversity(np.repeat(noise(1), 4, axis=0))
    assert copies.value == copies.low == copies.high == pytest.approx(0, abs=1e-6)
    assert 0.9 < ssim_diversity(noise(5)).value < 1.1


def test_the_value_is_the_mean_of_torchmetrics_over_all_pairs() -> None:
    images = np.concatenate([noise(3), noise(2)])  # the first two come twice
    shown = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in images]
    scores = [
        float(structural_similarity_index_measure(shown[i], shown[j], data_range=1.0))
        for i in range(5)
        for j in range(i + 1, 5)
    ]
    assert len(scores) == 10
    assert ssim_diversity(images).value == pytest.approx(1 - np.mean(scores), abs=1e-5)
    found = unlike_by_ssim(images)
    assert found[0, 3] == pytest.approx(0, abs=1e-5)
    assert np.array_equal(found, found.T)
    assert not found.diagonal().any()


def test_the_interval_is_the_jackknife_over_images() -> None:
    images = np.concatenate([noise(4), noise(2)])
    without = [ssim_diversity(np.delete(images, i, axis=0)).value for i in range(6)]
    spread = math.sqrt(5 / 6 * sum((value - np.mean(without)) ** 2 for value in without))
    found = ssim_diversity(images)
    assert found.high - found.value == pytest.approx(Z95 * spread, rel=1e-6)
    assert found.value - found.low == pytest.approx(Z95 * spread, rel=1e-6)
    assert found.n == 6


def test_classes_are_compared_within_themselves() -> None:
    images = np.concatenate([np.repeat(noise(1), 3, axis=0), noise(3)])
    found = diversity_by_class(images, ["same"] * 3 + ["other"] * 3)
    assert list(found) == ["other", "same"]
    assert found["same"].value == pytest.approx(0, abs=1e-6)
    mean = mean_diversity(found)
    assert mean.value == pytest.approx(found["other"].value / 2, abs=1e-6)
    assert mean.high - mean.value == pytest.approx((found["other"].high - found["other"].value) / 2)
    assert mean.n == 6


def test_two_images_are_too_few() -> None:
    with pytest.raises(DataError, match="2 images have no pairs"):
        ssim_diversity(noise(2))


def test_ms_ssim_takes_the_scales_that_the_side_allows() -> None:
    """All five from 176 px on, as torchmetrics has them; at 16 px one, which is the SSIM."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    small = (noise(3) // 2 + noise(1) // 2).astype(np.uint8)  # alike: MS-SSIM knows no negative
    assert np.allclose(unlike_by_ms_ssim(small), unlike_by_ssim(small), atol=1e-5)
    wide = np.random.default_rng(0).integers(0, 256, (2, 176, 176, 3)).astype(np.uint8)
    wide[1] = wide[0] // 2 + wide[1] // 2
    a, b = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in wide)
    known = multiscale_structural_similarity_index_measure(a, b, data_range=1.0)
    assert unlike_by_ms_ssim(wide)[0, 1] == pytest.approx(1 - float(known), abs=1e-4)


def test_large_images_are_compared_some_at_a_time_and_fewer_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All pairs of 64 images of 384 px at once held 14 GiB."""
    assert [most_of(side) for side in (16, 64, 128, 256, 384)] == [64, 64, 32, 16, 16]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 128, 128, 3), np.uint8)
    whole = unlike_by_ssim(images)
    held: list[int] = []

    def watched(part: np.ndarray) -> torch.Tensor:
        held.append(len(part))
        return torch.from_numpy(part).permute(0, 3, 1, 2).float() / 255

    monkeypatch.setattr(measure, "PAIRS_AT_ONCE", 8)  # of 64 px; two of 128
    monkeypatch.setattr(measure, "_unit", watched)
    assert np.allclose(unlike_by_ssim(images), whole, atol=1e-6)
    assert set(held) == {2, 1}
