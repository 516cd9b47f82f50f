"""These tests need a card; elsewhere they are skipped and say so."""

import pytest
import torch


@pytest.fixture(autouse=True)
def card() -> str:
    """The name of the card."""
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU that PyTorch can use on this machine")
    return str(torch.cuda.get_device_name())
