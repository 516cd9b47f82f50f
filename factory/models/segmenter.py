"""A small segmenter: images to class indices, stored as a diffusers folder with `segmenter.json`.

diffusers' `UNet2DModel` at one timestep is a plain U-Net with residual blocks and skips
(O. Ronneberger et al., U-Net, 2015).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from numpy.typing import NDArray
from torch import Tensor

from factory.atomic import new_folder
from factory.errors import ModelError
from factory.models.folder import check_folder, read_json

FACTS = "segmenter.json"


def small_segmenter(
    num_classes: int, *, channels: Sequence[int] = (32, 64, 128), norm_num_groups: int = 8
) -> UNet2DModel:
    """Return an untrained network: (B, 3, S, S) in [-1, 1] to logits (B, K, S, S)."""
    levels = len(channels)
    return UNet2DModel(
        in_channels=3,
        out_channels=num_classes,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        norm_num_groups=norm_num_groups,
        add_attention=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmenter:
    """A trained segmenter; call it with images. `facts` says what it was trained on."""

    network: Any
    size_px: int
    facts: Mapping[str, Any]

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class indices (B, H, W) of images (B, H, W, 3); other sizes are resized."""
        device = next(self.network.parameters()).device
        signed = torch.from_numpy(images).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
        side = (self.size_px, self.size_px)
        fitted = F.interpolate(signed, side, mode="bilinear", antialias=True)
        logits = F.interpolate(logits_of(self.network, fitted), images.shape[1:3], mode="bilinear")
        found: NDArray[np.uint8] = logits.argmax(1).to(torch.uint8).cpu().numpy()
        return found


def logits_of(network: Any, images: Tensor) -> Tensor:
    """Return logits (B, K, S, S) of images (B, 3, S, S) in [-1, 1]."""
    logits: Tensor = network(images, 0).sample
    return logits.float()


def save_segmenter(folder: Path, network: UNet2DModel, facts: Mapping[str, Any]) -> None:
    """Write `folder` atomically; `facts` must give size_px."""
    with new_folder(folder) as work:
        network.save_pretrained(work, safe_serialization=True)
        (work / FACTS).write_text(json.dumps(dict(facts), indent=1, sort_keys=True) + "\n")


def load_segmenter(folder: str | Path, *, device: str | None = None) -> Segmenter:
    """Return the segmenter in `folder`.

    Raises:
        ModelError: missing, unsafe or damaged.
    """
    path = Path(folder).expanduser()
    if not (path / FACTS).is_file():
        raise ModelError(
            f"no segmenter at {str(folder)!r} ({FACTS} is missing)",
            remedy="Train one with jobs/train_segmenter.py, or leave the agreement gate out",
        )
    check_folder(path)
    facts = read_json(path / FACTS)
    try:
        network = UNet2DModel.from_pretrained(path, use_safetensors=True, local_files_only=True)
        size_px = int(facts["size_px"])
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"segmenter {path} cannot be loaded ({error})", remedy="Train it again"
        ) from error
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Segmenter(network=network.eval().to(place), size_px=size_px, facts=facts)
