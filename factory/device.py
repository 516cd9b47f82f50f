"""Which device computes, decided in one place, and how tensors get there."""

import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from factory.errors import ClusterError

DEVICE = "FACTORY_DEVICE"
"""Variable: compute there, whatever is held. For rehearsals of clusters whose GPUs are none."""


def own_device() -> str:
    """Return where this process computes: on the GPU that it holds, else on the CPU.

    Within Ray a GPU is whose task or actor reserved it: Ray 2.60 hides it from no other, and one
    that is used unreserved has two masters. Without Ray it is whoever's there is.

    Raises:
        ClusterError: one is reserved that PyTorch cannot use: it would be burnt at a CPU's speed.
    """
    return os.environ.get(DEVICE) or chosen_device(_reserved(), usable=torch.cuda.is_available())


def chosen_device(reserved: list[str] | None, *, usable: bool) -> str:
    """Return the device of a process that reserved these GPUs; None: it is not one of Ray's.

    Raises:
        ClusterError: see `own_device`.
    """
    if reserved is None:
        return "cuda" if usable else "cpu"
    if reserved and not usable:
        raise ClusterError(
            f"this process holds GPU {', '.join(reserved)}, and PyTorch {torch.__version__} cannot"
            " use it",
            remedy="Install a PyTorch for its driver on that node, or ask for no GPU"
            " (stream.gpus_per_actor: 0, cluster.use_gpu: false, gpus_per_training: 0)",
        )
    return "cuda" if reserved else "cpu"


def _reserved() -> list[str] | None:
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    ids: list[str] = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    return ids


def cluster_gpus() -> tuple[float, float]:
    """Return the GPUs that the Ray joined has now, and has at most, as far as it tells.

    A cluster that grows begins without any; not every one tells its node types.
    """
    import ray
    from ray._private.state import state  # what Ray Train and Ray Data ask

    live = float(ray.cluster_resources().get("GPU", 0))
    most = state.get_max_resources_from_cluster_config() or {}
    return live, max(live, float(most.get("GPU", 0)))


LOOK_STEPS = 50
"""A GPU's losses are looked at so often at least; each look waits for it."""


def device_of(network: nn.Module) -> torch.device:
    """Return where a network of one device lies: what it is shown belongs there.

    One without parameters lies nowhere, and is shown what lies on the CPU.
    """
    first = next(network.parameters(), None)
    return torch.device("cpu") if first is None else first.device


SLICE_PIXELS = 8 * 512 * 512
"""Of a decoder's batch on a GPU: 6 GiB of activations in float32, 3 in half precision."""


def in_slices(decode: Callable[[Tensor], Tensor], latents: Tensor, *, pixels: int) -> Tensor:
    """Return `decode(latents)` (B, ...), on a GPU a few images of so many `pixels` at a time.

    A decoder needs 0.75 GiB for an image of 512 px in float32, and slices lose no speed. They are
    the same for every batch of a size, so that bits depend on nothing else.
    """
    count = max(1, SLICE_PIXELS // pixels)
    if latents.device.type != "cuda" or len(latents) <= count:
        return decode(latents)
    return torch.cat([decode(part) for part in torch.split(latents, count)])


def up(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor of the host on `device`; a GPU fetches it while the host goes on.

    From pageable memory PyTorch waits until the GPU has done all that was asked before
    (`memcpy_and_sync`), and a step that waits leaves the GPU idle while the next is being asked.
    Pinned blocks come from PyTorch's cache, which keeps them until the copy is done.
    """
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
