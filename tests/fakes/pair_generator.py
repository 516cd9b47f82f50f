"""A generator of pairs with random weights: the layout and code path of a trained one."""

from pathlib import Path
from typing import Any

import torch

from factory.models.autoencoder import small_autoencoder
from factory.models.export import write_generator
from factory.models.generator import Generator
from factory.models.pair_unet import PairUNet, pair_scheduler


def tiny_pair_unet(*, seed: int = 0, **changes: Any) -> PairUNet:
    """Return a random network of 40,000 parameters for pairs of 16 px."""
    known = {
        "sample_size": 16,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "attention_levels": 1,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    torch.manual_seed(seed)  # noqa: TID251 -- initial weights have no generator argument
    return PairUNet(**(known | changes)).eval()


def tiny_pairs(folder: Path, *, latent: bool = False, **changes: Any) -> Generator:
    """Write a random generator of pairs; `changes` are arguments of the network."""
    told = {key: changes.pop(key) for key in ("manifest",) if key in changes}
    parts: dict[str, Any] = {"scheduler": pair_scheduler()}
    if latent:
        changes |= {"latent": True, "fold": 4, "image_channels": 4, "sample_size": 4}
        torch.manual_seed(1)  # noqa: TID251 -- initial weights have no generator argument
        parts["vae"] = small_autoencoder(sample_size_px=16).eval()
    unet = tiny_pair_unet(**changes)
    manifest = {
        "name": "tiny-pairs",
        "method": "pairs",
        "size_px": 16,
        "class_names": ["polyp"],
        "mask_values": list(unet.config.mask_values),
        "condition": unet.config.condition,
    }
    parts["unet"] = unet
    return write_generator(
        folder, parts=parts, manifest=manifest | told.get("manifest", {}), card="# pairs\n"
    )
