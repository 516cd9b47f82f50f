"""Windowed attention: local where it says so, the very same where the window is the image."""

from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention

from factory.errors import ConfigError
from factory.models.attention_layout import unet_file, window_of
from factory.models.export import write_generator
from factory.models.generator import Generator
from factory.models.pipeline import load_pipeline
from factory.models.unets import small_unet
from factory.models.windowed import attention_window, set_attention_window
from tests.fakes.class_unet import tiny_class_unet


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def layer() -> Attention:
    torch.manual_seed(0)  # noqa: TID251 -- initial weights have no generator argument
    return Attention(
        query_dim=8, heads=2, dim_head=4, norm_num_groups=2, residual_connection=True, bias=True
    ).eval()


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (2, 16, 8)])
@torch.no_grad()
def test_a_window_as_large_as_the_image_is_global_attention(layer: Attention, shape: tuple):
    images = draws(*shape)
    everywhere = layer(images)
    set_attention_window(layer, 4)
    torch.testing.assert_close(layer(images), everywhere, atol=1e-5, rtol=1e-5)
    set_attention_window(layer, None)
    assert torch.equal(layer(images), everywhere)


@torch.no_grad()
def test_a_place_sees_its_own_window_alone(layer: Attention):
    """In places, as after the norm, which looks at the whole map."""
    layer.group_norm = None
    set_attention_window(layer, 2)
    images = draws(1, 16, 8)
    changed = images.clone()
    changed[:, 10] += 1  # row 2, column 2: the last window of 2x2
    differs = (layer(images) != layer(changed)).any(2)[0].reshape(4, 4)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[2:, 2:] = True
    assert torch.equal(differs, expected)


@torch.no_grad()
def test_each_window_is_the_attention_of_its_crop(layer: Attention):
    layer.group_norm = None
    images = draws(1, 8, 4, 4)
    crop = layer(images[:, :, 2:, :2].contiguous())
    set_attention_window(layer, 2)
    torch.testing.assert_close(layer(images)[:, :, 2:, :2], crop)


def test_attention_to_a_text_stays_global(layer: Attention):
    images, text = draws(1, 16, 8), draws(1, 3, 8)
    everywhere = layer(images, text)
    set_attention_window(layer, 2)
    assert torch.equal(layer(images, text), everywhere)


@torch.no_grad()
def test_both_networks_take_a_window():
    torch.manual_seed(0)  # noqa: TID251 -- initial weights have no generator argument
    text = small_unet(sample_size_latent=16, channels=(32, 64), cross_attention_dim=16).eval()
    labelled = tiny_class_unet()
    latents, timestep = draws(1, 4, 16, 16), torch.tensor(10)
    given = {text: draws(1, 5, 16), labelled: torch.tensor([1])}
    for network, condition in given.items():
        everywhere = network(latents, timestep, condition).sample
        assert attention_window(network) is None
        set_attention_window(network, 2)
        assert attention_window(network) == 2
        assert not torch.allclose(network(latents, timestep, condition).sample, everywhere)
        set_attention_window(network, 16)
        found = network(latents, timestep, condition).sample
        torch.testing.assert_close(found, everywhere, atol=1e-4, rtol=1e-4)


def test_windows_that_do_not_tile_are_refused(layer: Attention):
    set_attention_window(layer, 3)
    with pytest.raises(ConfigError, match="not tiled by windows of 3"):
        layer(draws(1, 8, 4, 4))
    with pytest.raises(ConfigError, match="window of side -1"):
        set_attention_window(layer, -1)


def test_a_window_is_part_of_a_generators_name_and_of_what_is_loaded(
    tiny: Generator, tmp_path: Path
):
    pipeline = load_pipeline(tiny)
    parts = {
        name: getattr(pipeline, name)
        for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    }
    written = {}
    for window in (None, 2):
        set_attention_window(pipeline.unet, window)
        written[window] = write_generator(
            tmp_path / str(window), parts=parts, manifest=dict(tiny.manifest), card=""
        )
    assert written[None].model_id != written[2].model_id
    assert window_of(unet_file(written[2].folder)) == 2
    assert attention_window(load_pipeline(written[2]).unet) == 2
    assert attention_window(load_pipeline(written[None]).unet) is None
