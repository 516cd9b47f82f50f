"""Stable Diffusion's U-Nets and text encoders as configurations, built without memory."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

_UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
}
_TEXT: dict[str, Any] = {"vocab_size": 49408, "max_position_embeddings": 77}

UNETS: dict[str, dict[str, Any]] = {
    "sd-1.5": {**_UNET, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd-2.1-base": {
        **_UNET,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
}
TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "sd-1.5": {  # CLIP ViT-L/14
        **_TEXT,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
    },
    "sd-2.1-base": {  # OpenCLIP ViT-H/14 without its last layer
        **_TEXT,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
}


def on_meta(name: str) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Return the U-Net and the text encoder of 'sd-1.5' or 'sd-2.1-base', shapes only."""
    with torch.device("meta"):
        return UNet2DConditionModel(**UNETS[name]), CLIPTextModel(
            CLIPTextConfig(**TEXT_ENCODERS[name])
        )
