"""The second feature space: made from a file, deterministic, and refused if it is another's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from factory.errors import ModelError
from factory.measure.squeezenet import load_squeezenet_space


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models import squeezenet1_0

    generator = torch.Generator().manual_seed(0)
    state = squeezenet1_0().state_dict()
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    save_file({n: torch.randn(v.shape, generator=generator) * 0.05 for n, v in state.items()}, path)
    return path


def test_images_become_512_features_each_for_itself(weights: Path) -> None:
    space = load_squeezenet_space(weights, device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    found = space.extract(images)
    assert found.shape == (3, 512)
    assert np.allclose(found[1:2], space.extract(images[1:2]), atol=1e-4)
    assert found.std() > 0
    assert space.name == "squeezenet1_0"
    assert len(space.digest) == 32


def test_another_network_is_refused(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="does not hold weights of SqueezeNet"):
        load_squeezenet_space(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="no weights of torchvision's SqueezeNet"):
        load_squeezenet_space(tmp_path / "absent.safetensors")
