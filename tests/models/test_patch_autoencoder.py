"""An autoencoder of principal components: exact where nothing is left out, and a part like any."""

from pathlib import Path

import pytest
import torch

from factory.errors import ConfigError
from factory.finetune.autoencoder import fit_patch_autoencoder
from factory.finetune.latents import TURNS, to_signed, turn
from factory.finetune.losses import training_scheduler
from factory.models.conditioning import prompt_tokenizer, small_text_encoder
from factory.models.export import write_generator
from factory.models.patch_autoencoder import PatchAutoencoder
from factory.models.unets import small_unet
from factory.sample.engine import Engine
from factory.sample.plan import Plan, Quota
from factory.sample.recipe import Recipe

IMAGES = torch.rand(6, 16, 16, 3, generator=torch.Generator().manual_seed(0)).cumsum(1).cumsum(2)
IMAGES = (IMAGES / IMAGES.amax((1, 2), keepdim=True) * 255).to(torch.uint8)


def returned(autoencoder: PatchAutoencoder, images: torch.Tensor) -> torch.Tensor:
    return autoencoder.decode(autoencoder.encode(images).latent_dist.mode()).sample.detach()


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_all_components_together_give_the_image_back(whitening: float) -> None:
    fitted = fit_patch_autoencoder(IMAGES, latent_channels=48, whitening=whitening)
    assert torch.allclose(returned(fitted, to_signed(IMAGES)), to_signed(IMAGES), atol=1e-4)


def test_more_components_lose_less() -> None:
    images = to_signed(IMAGES)
    errors = [
        float((returned(fit_patch_autoencoder(IMAGES, latent_channels=n), images) - images).std())
        for n in (1, 6, 12, 40)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[-1]


def test_whitened_channels_of_turned_images_have_unit_variance_and_no_correlation() -> None:
    fitted = fit_patch_autoencoder(IMAGES, latent_channels=20, whitening=1)
    images = torch.cat([turn(to_signed(IMAGES), number) for number in range(TURNS)])
    channels = fitted.encode(images).latent_dist.mode().transpose(0, 1).flatten(1).double()
    scatter = channels @ channels.T / channels.shape[1]
    assert torch.allclose(scatter, torch.eye(20).double(), atol=1e-3)
    assert fitted.config.scaling_factor == pytest.approx(1)


def test_scaled_latents_have_a_mean_square_of_one() -> None:
    fitted = fit_patch_autoencoder(IMAGES, latent_channels=20, whitening=0.5)
    images = torch.cat([turn(to_signed(IMAGES), number) for number in range(TURNS)])
    latents = fitted.encode(images).latent_dist.mode() * fitted.config.scaling_factor
    assert float(latents.detach().square().mean()) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(("patch_px", "channels"), [(4, 49), (3, 4), (4, 0)])
def test_a_patch_that_cannot_be_is_refused(patch_px: int, channels: int) -> None:
    with pytest.raises(ConfigError, match=f"patches of {patch_px} px cannot become {channels}"):
        PatchAutoencoder(patch_px=patch_px, latent_channels=channels)


def test_a_generator_with_it_is_saved_loaded_and_drawn_with(tmp_path: Path) -> None:
    tokenizer = prompt_tokenizer(["a cell"])
    encoder = small_text_encoder(tokenizer, width=32)
    fitted = fit_patch_autoencoder(IMAGES, latent_channels=12)
    expected = returned(fitted, to_signed(IMAGES))
    unet = small_unet(
        sample_size_latent=4, channels=(32, 32), in_channels=12, cross_attention_dim=32
    )
    generator = write_generator(
        tmp_path / "generator",
        parts={
            "unet": unet,
            "vae": fitted,
            "text_encoder": encoder,
            "tokenizer": tokenizer,
            "scheduler": training_scheduler(),
        },
        manifest={"name": "patches", "method": "text", "size_px": 16, "class_names": ["cell"]},
        card="",
        dtype=torch.float16,
    )
    assert not [*generator.folder.rglob("*.py")]
    engine = Engine(generator)
    loaded = engine._pipeline.vae
    assert isinstance(loaded, PatchAutoencoder)
    assert loaded.config.scaling_factor == fitted.config.scaling_factor
    assert torch.allclose(returned(loaded, to_signed(IMAGES)), expected, atol=0.01)
    recipe = Recipe(
        model_id=generator.model_id,
        class_name="cell",
        class_id=0,
        prompt="a cell",
        guidance_scale=1,
        num_inference_steps=2,
        scheduler="dpmpp_2m",
        height_px=16,
        width_px=16,
        seed=0,
        batch_size=2,
    )
    batch = next(iter(Plan(quotas=(Quota(recipe=recipe, count=2),)).batches()))
    assert engine.draw(batch).images.shape == (2, 16, 16, 3)
