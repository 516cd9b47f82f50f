"""Class-conditional networks with random weights: the layout of the real one in miniature."""

from typing import Any

import torch

from factory.models.class_unet import ClassUNet

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
