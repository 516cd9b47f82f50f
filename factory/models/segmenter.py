"""A trained segmenter: images to class indices, in a folder of weights and `segmenter.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from factory.atomic import new_folder
from factory.device import own_device
from factory.errors import ModelError
from factory.models.config import SegmenterSpec
from factory.models.folder import check_folder, read_json

if TYPE_CHECKING:  # torch waits until one is loaded
    from torch import nn

FACTS = "segmenter.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmenter:
    """A trained segmenter; call it with images. `facts` says what it was trained on."""

    network: "nn.Module"
    size_px: int
    facts: Mapping[str, Any]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class indices (B, H, W) of images (B, H, W, 3); other sizes are resized."""
        import torch
        import torch.nn.functional as F

        device = next(self.network.parameters()).device
        signed = torch.from_numpy(images).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
        side = (self.size_px, self.size_px)
        fitted = F.interpolate(signed, side, mode="bilinear", antialias=True)
        with torch.no_grad():
            logits = F.interpolate(self.network(fitted), images.shape[1:3], mode="bilinear")
        found: NDArray[np.uint8] = logits.argmax(1).to(torch.uint8).cpu().numpy()
        return found


def save_segmenter(folder: Path, network: "nn.Module", facts: Mapping[str, Any]) -> None:
    """Write `folder` atomically.

    Args:
        folder: must not exist.
        network: of `build_segmenter`.
        facts: the fields of `SegmenterSpec`, num_classes and size_px; what else should be known.
    """
    from safetensors.torch import save_file

    kept = {name: value for name, value in facts.items() if name != "encoder_weights"}
    with new_folder(folder) as work:
        state = {name: value.contiguous() for name, value in network.state_dict().items()}
        save_file(state, work / WEIGHTS)
        (work / FACTS).write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def read_facts(folder: str | Path) -> dict[str, Any]:
    """Return what the segmenter in `folder` says of itself, without loading it.

    Raises:
        ModelError: missing or unsafe.
    """
    path = Path(folder).expanduser()
    if not (path / FACTS).is_file():
        raise ModelError(
            f"no segmenter at {str(folder)!r} ({FACTS} is missing)",
            remedy="Train one with `factory segmenter`, or leave the agreement gate out",
        )
    check_folder(path)
    return read_json(path / FACTS)


def load_segmenter(folder: str | Path, *, device: str | None = None) -> Segmenter:
    """Return the segmenter in `folder`.

    Raises:
        ModelError: missing, unsafe or damaged.
        ConfigError: its decoder needs an extra that is not installed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from factory.models.segmenter_networks import build_segmenter

    path, facts = Path(folder).expanduser(), read_facts(folder)
    try:
        spec = SegmenterSpec(**{k: v for k, v in facts.items() if k in SegmenterSpec.model_fields})
        network = build_segmenter(spec, int(facts["num_classes"]), seed=0)
        network.load_state_dict(load_file(path / WEIGHTS))
        size_px = int(facts["size_px"])
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"segmenter {path} cannot be loaded ({str(error).splitlines()[0]})",
            remedy="Train it again",
        ) from error
    place = device or own_device()
    return Segmenter(network=network.eval().to(place), size_px=size_px, facts=facts)
