"""Which device computes, decided in one place, and how tensors get there."""

import torch
from torch import Tensor


def up(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor of the host on `device`; a GPU fetches it while the host goes on.

    From pageable memory PyTorch waits until the GPU has done all that was asked before
    (`memcpy_and_sync`), and a step that waits leaves the GPU idle while the next is being asked.
    Pinned blocks come from PyTorch's cache, which keeps them until the copy is done.
    """
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
