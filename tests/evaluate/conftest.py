"""A feature network that costs nothing, with fixed random weights."""

import pytest
import torch
from torch import nn

from factory.measure.features import FeatureSpace
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset


class TinyNetwork(nn.Module):
    """Mean colours of a 4x4 grid, mixed."""

    def __init__(self) -> None:
        super().__init__()
        mixing = torch.randn(48, 64, generator=torch.Generator().manual_seed(0)) / 7
        self.mixing = nn.Parameter(mixing, requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tanh(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1) @ self.mixing)


@pytest.fixture(scope="session")
def tiny_space() -> FeatureSpace:
    return FeatureSpace(name="tiny", digest="0" * 32, network=TinyNetwork())


@pytest.fixture(scope="session")
def cells() -> RealDataset:
    """200 drawn cells of five classes: opened once, which takes seconds."""
    return open_dataset("smear:200?seed=1&size=16")
