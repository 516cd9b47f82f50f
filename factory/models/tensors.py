"""Weights of networks that are not generators: judges, experts, perceptual distances."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from factory.errors import ModelError


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
