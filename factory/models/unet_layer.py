"""A layer of a U-Net of our own: residual block, self-attention, attention to a context."""

from functools import partial
from itertools import pairwise
from typing import Any

from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn


class UNetLayer(nn.Module):
    """A residual block that hears the time, then self-attention, then attention to a context.

    With a context of one token (a class) the softmax over tokens is 1 everywhere: cross-attention
    then adds one learnt vector per class and layer to every place, a bias, and its queries and
    keys learn nothing. Only a text, of many tokens, is really attended to.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        time_embed_dim: int,
        norm_num_groups: int,
        num_attention_heads: int,
        self_attention: bool = True,
        context_dim: int | None = None,
    ) -> None:
        """`context_dim` None leaves cross-attention out."""
        super().__init__()
        self.resnet = ResnetBlock2D(
            in_channels=in_channels,
            out_channels=out_channels,
            temb_channels=time_embed_dim,
            groups=norm_num_groups,
            eps=1e-5,
            use_in_shortcut=True,  # a 1x1 convolution also where the width stays
        )
        attention = partial(
            Attention,
            query_dim=out_channels,
            heads=num_attention_heads,
            dim_head=out_channels // num_attention_heads,
            bias=True,
            norm_num_groups=norm_num_groups,
            residual_connection=True,
        )
        self.self_attention = attention() if self_attention else None
        self.context_proj = nn.Linear(context_dim, out_channels) if context_dim else None
        self.cross_attention = attention() if context_dim else None

    def forward(self, hidden: Tensor, time: Tensor, context: Tensor | None) -> Tensor:
        """Return (B, out_channels, h, w) for (B, in_channels, h, w), (B, time), (B, T, width)."""
        hidden = self.resnet(hidden, time)
        if self.self_attention is not None:
            hidden = self.self_attention(hidden)
        if self.cross_attention is not None and self.context_proj is not None:
            hidden = self.cross_attention(hidden, self.context_proj(context))
        return hidden


def layer_stack(first: int, last: int, count: int, **options: Any) -> nn.ModuleList:
    """Return `count` layers, from `first` channels to `last`."""
    widths = (first, *[last] * count)
    return nn.ModuleList(UNetLayer(before, after, **options) for before, after in pairwise(widths))
