"""Layers of a network by name: found, tapped while it runs, pooled to vectors."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from factory.errors import ConfigError


@contextmanager
def tap(network: nn.Module, layer: str) -> Iterator[list[object]]:
    """Gather what `layer` of `network` puts out while the context lasts."""
    outputs: list[object] = []
    handle = find_layer(network, layer).register_forward_hook(
        lambda _module, _arguments, output: outputs.append(output)
    )
    try:
        yield outputs
    finally:
        handle.remove()


def find_layer(network: nn.Module, layer: str) -> nn.Module:
    """Return the module of that name.

    Raises:
        ConfigError: there is none; close names are listed.
    """
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if not layer or layer not in modules:
        close = difflib.get_close_matches(layer, modules, 3, cutoff=0)
        raise ConfigError(
            f"{type(network).__name__} has no layer {layer!r}",
            remedy=f"Choose a module name, such as {', '.join(close)}",
        )
    return modules[layer]


def default_layer(denoiser: nn.Module) -> str:
    """Return the name of the first residual block that has the greatest width.

    On the way down, where the picture is smallest: in Stable Diffusion `down_blocks.2.resnets.0`,
    the block from which the original took the shortcut's output.

    Raises:
        ConfigError: the denoiser has no residual block of diffusers.
    """
    blocks: dict[str, int] = {
        name: module.out_channels
        for name, module in denoiser.named_modules()
        if isinstance(module, ResnetBlock2D)
    }
    if not blocks:
        raise ConfigError(
            f"{type(denoiser).__name__} has no residual block to align", remedy="Name a layer"
        )
    return max(blocks, key=blocks.__getitem__)  # the first among equals


def layer_width(network: nn.Module, layer: str) -> int:
    """Return the number of features that a layer puts out, as the layer itself says.

    Raises:
        ConfigError: no such layer, or one that does not say.
    """
    module = find_layer(network, layer)
    for name in ("out_channels", "out_features", "num_features"):
        if isinstance(width := getattr(module, name, None), int):
            return width
    raise ConfigError(
        f"layer {layer!r} ({type(module).__name__}) does not say how wide its output is",
        remedy="Choose a convolution, a linear layer, a batch norm or a residual block",
    )


def pooled(outputs: list[object], layer: str, pooling: str) -> Tensor:
    """Return (B, F) of the one output (B, F, h, w), (B, tokens, F) or (B, F).

    Args:
        outputs: what `tap` gathered.
        layer: for the message.
        pooling: 'mean' or 'max' over places or tokens.

    Raises:
        ConfigError: the layer did not run once, or put out something else.
    """
    output = outputs[0] if len(outputs) == 1 else None
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        kinds = ", ".join(type(output).__name__ for output in outputs) or "nothing"
        raise ConfigError(
            f"layer {layer!r} put out {kinds} in one pass, not one map, sequence or vector",
            remedy="Choose a layer inside it, such as a residual block or a convolution",
        )
    if output.ndim == 2:
        return output
    places = (2, 3) if output.ndim == 4 else (1,)
    return output.mean(places) if pooling == "mean" else output.amax(places)
