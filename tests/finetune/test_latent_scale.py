"""Latents that no noise schedule fits are refused before anything is trained on them."""

import pytest
import torch

from factory.errors import ModelError
from factory.finetune.autoencoder import check_latent_scale
from factory.finetune.latents import to_signed
from factory.models.autoencoder import measure_scaling_factor, small_autoencoder

LATENTS = torch.randn(3000, 4, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.5


def test_the_deviation_is_that_of_all_values_in_any_type() -> None:
    assert check_latent_scale(LATENTS) == pytest.approx(LATENTS.std().item(), rel=1e-4)
    assert check_latent_scale(LATENTS.half()) == pytest.approx(LATENTS.std().item(), rel=1e-3)


@pytest.mark.parametrize(("factor", "correction"), [(5.0, "0.2"), (0.5, "2")])
def test_latents_too_wide_or_too_narrow_are_refused_with_the_correction(
    factor: float, correction: str
) -> None:
    latents = LATENTS / LATENTS.std() * factor
    with pytest.raises(ModelError, match=rf"outside \[0.7, 1.3\].*present value x {correction}"):
        check_latent_scale(latents)
    assert check_latent_scale(latents * float(correction)) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_latents_that_are_no_numbers_are_refused(broken: float) -> None:
    latents = LATENTS[:4].clone()
    latents[2, 1] = broken
    with pytest.raises(ModelError, match="standard deviation nan"):
        check_latent_scale(latents)


def test_latents_that_are_all_alike_are_refused() -> None:
    with pytest.raises(ModelError, match="standard deviation 0"):
        check_latent_scale(torch.ones(4, 4))


def test_a_measured_scaling_factor_passes() -> None:
    torch.manual_seed(0)  # noqa: TID251 -- initial weights have no generator argument
    autoencoder = small_autoencoder(sample_size_px=32).eval()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=generator)
    images = to_signed(pixels)
    with torch.no_grad():
        latents = autoencoder.encode(images).latent_dist.mode()
    factor = measure_scaling_factor(autoencoder, images)
    assert check_latent_scale(latents * factor) == pytest.approx(1, rel=1e-3)
    with pytest.raises(ModelError, match="standard deviation"):
        check_latent_scale(latents * factor * 2)
