"""Tensors that may lie in shards on several workers (FSDP2)."""

from torch import Tensor, nn
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


def reshard(model: nn.Module) -> None:
    """Leave every sharded module of `model` with its shards as parameters.

    A forward pass that no backward pass follows, as in a validation, leaves FSDP's outer modules
    with gathered parameters: what is then written to them is lost, what is read from them is freed.
    """
    from torch.distributed.fsdp import FSDPModule  # not for those who sample

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
