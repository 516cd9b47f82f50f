"""Tensors of a file, and of networks that are sharded over workers."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from factory.errors import ModelError


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


def read_tensors(path: Path, *, of: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name, in float32; pickles are not read.

    Args:
        path: the file.
        of: whose weights it should hold, for the error: 'timm's tf_efficientnet_lite0'.

    Raises:
        ModelError: missing, truncated, or no safetensors file.
    """
    try:
        return {name: value.float() for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        missing = f"no weights of {of} at {path}"
        broken = f"{path} is no safetensors file of {of} ({str(error).splitlines()[0]})"
        raise ModelError(
            broken if path.exists() else missing,
            remedy="Give its state dict as safetensors.torch.save_file writes it",
        ) from error
