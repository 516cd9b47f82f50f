"""Local self-attention: every place looks at its own square window instead of the whole image.

The real choice that the words 'local' and 'global priority' promise. Windows do not overlap (Z. Liu
et al., Swin Transformer, 2021, sec. 3.2, unshifted); the convolutions between layers join them.
"""

from math import isqrt
from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F

from factory.errors import ConfigError


class WindowedAttnProcessor:
    """A processor of diffusers' `Attention`; attention to a text stays as it is."""

    def __init__(self, window: int) -> None:
        """`window`: its side, in places of the feature map; at least the map's side is global.

        Raises:
            ConfigError: less than one.
        """
        if window < 1:
            raise ConfigError(f"an attention window of side {window}", remedy="Use 1 or more")
        self.window = window

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Return the attended maps (B, C, h, w) or squares of places (B, h * w, C).

        Raises:
            ConfigError: maps that windows do not tile.
        """
        if encoder_hidden_states is not None:
            attended: Tensor = AttnProcessor2_0()(
                attn, hidden_states, encoder_hidden_states, *args, **kwargs
            )
            return attended
        residual, shape = hidden_states, hidden_states.shape
        places = hidden_states.flatten(2).mT if hidden_states.ndim == 4 else hidden_states
        height, width = shape[2:] if len(shape) == 4 else (isqrt(shape[1]),) * 2
        if attn.group_norm is not None:
            places = attn.group_norm(places.mT).mT
        windows = _into_windows(places, height, width, self.window)
        parts = (layer(windows) for layer in (attn.to_q, attn.to_k, attn.to_v))
        query, key, value = (part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(query, key, value, scale=attn.scale)
        attended = _out_of_windows(seen.transpose(1, 2).flatten(2), height, width, self.window)
        for layer in attn.to_out:
            attended = layer(attended)
        if len(shape) == 4:
            attended = attended.mT.reshape(shape)
        if attn.residual_connection:
            attended = attended + residual
        rescaled: Tensor = attended / attn.rescale_output_factor
        return rescaled


def set_attention_window(network: nn.Module, window: int | None) -> None:
    """Make the self-attention of a network local, or global again with None.

    Raises:
        ConfigError: a window below one.
    """
    for module in network.modules():
        if isinstance(module, Attention):
            module.set_processor(WindowedAttnProcessor(window) if window else AttnProcessor2_0())


def attention_window(network: nn.Module) -> int | None:
    """Return the window of a network's self-attention; None: it is global."""
    for module in network.modules():
        if isinstance(module, Attention) and isinstance(module.processor, WindowedAttnProcessor):
            return module.processor.window
    return None


def _into_windows(places: Tensor, height: int, width: int, window: int) -> Tensor:
    """Return (B * windows, places of one, C) of (B, height * width, C)."""
    tall, wide = min(window, height), min(window, width)
    if height * width != places.shape[1] or height % tall or width % wide:
        raise ConfigError(
            f"{places.shape[1]} places ({height}x{width}) are not tiled by windows of {window}",
            remedy="Choose a window that divides the sides of all feature maps, and square images",
        )
    tiles = places.reshape(len(places), height // tall, tall, width // wide, wide, -1)
    return tiles.transpose(2, 3).reshape(-1, tall * wide, places.shape[2])


def _out_of_windows(windows: Tensor, height: int, width: int, window: int) -> Tensor:
    """Undo `_into_windows`."""
    tall, wide = min(window, height), min(window, width)
    tiles = windows.reshape(-1, height // tall, width // wide, tall, wide, windows.shape[2])
    return tiles.transpose(2, 3).reshape(-1, height * width, windows.shape[2])
