"""A generator with random weights: seconds to make, the layout and code path of a real one."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from factory.finetune.losses import training_scheduler
from factory.models.conditioning import prompt_tokenizer, small_text_encoder
from factory.models.export import write_generator
from factory.models.generator import Generator
from factory.models.patch_autoencoder import PatchAutoencoder

CLASSES = ("lymphocyte", "monocyte", "neutrophil")


def tiny_generator(
    folder: Path,
    *,
    seed: int = 0,
    class_names: tuple[str, ...] = CLASSES,
    size_px: int = 16,
    components: int | None = None,
) -> Generator:
    """Write a random `StableDiffusionPipeline` of 0.1 M parameters for images of `size_px`.

    `components`: of a `PatchAutoencoder` in place of an `AutoencoderKL`.
    """
    torch.manual_seed(seed)  # noqa: TID251 -- initial weights have no generator argument
    tokenizer = prompt_tokenizer(["a an", *class_names])
    text_encoder = small_text_encoder(tokenizer, width=16)
    unet = UNet2DConditionModel(
        sample_size=size_px // 4,
        in_channels=components or 4,
        out_channels=components or 4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    patches = PatchAutoencoder(latent_channels=components) if components else None
    autoencoder = patches or AutoencoderKL(
        sample_size=size_px,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    return write_generator(
        folder,
        parts={
            "unet": unet,
            "vae": autoencoder,
            "text_encoder": text_encoder,
            "tokenizer": tokenizer,
            "scheduler": training_scheduler(),
        },
        manifest={
            "name": f"tiny-{seed}",
            "method": "text",
            "size_px": size_px,
            "class_names": list(class_names),
        },
        card="# tiny\n",
    )
