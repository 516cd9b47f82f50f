"""Class-conditional networks with random weights: the layout of the real one in miniature."""

from pathlib import Path
from typing import Any

import torch

from factory.finetune.losses import training_scheduler
from factory.models.autoencoder import small_autoencoder
from factory.models.class_unet import ClassUNet
from factory.models.conditioning import prompt_tokenizer, small_text_encoder
from factory.models.export import write_generator
from factory.models.generator import Generator

CLASSES = ("poor", "fair", "good")
WIDTH = 16
"""Of the text embeddings that a tiny network reads."""


def tiny_class_unet(
    conditioning: str = "context_class", *, seed: int = 0, **changes: Any
) -> ClassUNet:
    """Return a random network of less than 0.1 M parameters for latents of 4 channels."""
    config: dict[str, Any] = {
        "class_names": CLASSES,
        "conditioning": conditioning,
        "context_dim": WIDTH,
        "condition_channels": 2,
        "down_channels": (8, 16, 16),
        "mid_channels": (16, 16),
        "conv_out_channels": 8,
        "down_sample": (True, True),
        "self_attention": (False, True),
        "num_down_layers": 1,
        "num_up_layers": 1,
        "time_embed_dim": 16,
        "num_attention_heads": 2,
        "norm_num_groups": 4,
    }
    torch.manual_seed(seed)  # noqa: TID251 -- initial weights have no generator argument
    return ClassUNet(**(config | changes)).eval()


def tiny_class_generator(folder: Path, conditioning: str) -> Generator:
    """Write a random `ClassConditionalPipeline` for images of 16 px."""
    masks = {"condition_channels": 0, "mask_values": (0, 255)}
    unet = tiny_class_unet(conditioning, **masks if conditioning == "concat" else {})
    parts: dict[str, Any] = {
        "unet": unet,
        "vae": small_autoencoder(sample_size_px=16).eval(),
        "scheduler": training_scheduler(),
    }
    if conditioning == "text":
        parts["tokenizer"] = prompt_tokenizer(["a an", *CLASSES])
        parts["text_encoder"] = small_text_encoder(parts["tokenizer"], width=WIDTH).eval()
    manifest = {
        "name": f"tiny-{conditioning}",
        "method": "class_conditional",
        "size_px": 16,
        "class_names": list(CLASSES),
    }
    return write_generator(folder, parts=parts, manifest=manifest, card="# tiny\n")
