"""Tensors that may lie in shards on several workers (FSDP2)."""

from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """Return this worker's shard of a sharded tensor, or the tensor itself."""
    if isinstance(tensor, DTensor):
        shard: Tensor = tensor.to_local()
        return shard
    return tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor gathered from all workers, each of which must call this."""
    if isinstance(tensor, DTensor):
        gathered: Tensor = tensor.full_tensor()
        return gathered
    return tensor
