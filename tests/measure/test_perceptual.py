"""LPIPS by local weights: torchmetrics' own figure, and no other network's."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from factory.errors import ModelError
from factory.measure.perceptual import load_perceptual


def stored(name: str, folder: Path) -> tuple[torch.nn.Module, Path]:
    torch.manual_seed(0)  # noqa: TID251 -- initial weights have no generator argument
    features = getattr(torchvision.models, name)().features
    path = folder / f"{name}.safetensors"
    save_file({f"features.{key}": value for key, value in features.state_dict().items()}, path)
    return features, path


def test_it_is_torchmetrics_figure(tmp_path: Path) -> None:
    from torchmetrics.functional.image.lpips import _LPIPS

    features, path = stored("squeezenet1_1", tmp_path)
    known = _LPIPS(net="squeeze", pnet_rand=True).eval()
    for part in known.net.slices:
        part.load_state_dict({key: features.state_dict()[key] for key in part.state_dict()})
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    shown = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    found = load_perceptual(path)
    assert found.name == "LPIPS (squeezenet1_1)"
    table = found.unlike(images)
    with torch.no_grad():
        for first, second in ((0, 1), (0, 2), (1, 2)):
            asked = known(shown[first : first + 1], shown[second : second + 1]).item()
            assert table[first, second] == pytest.approx(asked, rel=1e-4)
    assert np.array_equal(table, table.T)
    assert not table.diagonal().any()


def test_without_published_heads_the_name_says_so(tmp_path: Path) -> None:
    _, path = stored("squeezenet1_0", tmp_path)
    found = load_perceptual(path)
    assert found.name == "LPIPS without heads (squeezenet1_0)"
    small = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    assert found.unlike(small)[0, 1] > 0


def test_another_network_is_refused(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="holds none of squeezenet1_1, alexnet"):
        load_perceptual(tmp_path / "other.safetensors")
