"""Extractors with few random weights, found as real ones are: by name, in a folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from factory.models import extractors


def _tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Tanh())


def _kind(use: str, input_px: int | None) -> extractors.Kind:
    def read(network: Any, images: torch.Tensor) -> list[torch.Tensor]:
        maps = network(images)
        return [maps.mean((2, 3)) if use == "vector" else maps]

    return extractors.Kind(
        build=lambda: extractors.Outputs(_tiny(), read, input_px=input_px),
        use=use,
        weights="a tiny network",
    )


def install(patch: pytest.MonkeyPatch, folder: Path, *, seed: int = 0) -> None:
    """Make 'tiny' (vector) and 'tiny_maps' known, with weights in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)  # noqa: TID251 -- initial weights have no generator argument
    for name, use, input_px in (("tiny", "vector", 24), ("tiny_maps", "maps", None)):
        patch.setitem(extractors.KINDS, name, _kind(use, input_px))
        save_file(_tiny().state_dict(), folder / f"{name}.safetensors")
    patch.setenv(extractors.FOLDERS, str(folder))
