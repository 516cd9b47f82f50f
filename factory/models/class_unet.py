"""A class-conditional latent U-Net with self- and cross-attention in every layer.

The network of BlastDiffusion. diffusers' own U-Nets cannot be configured to it: every level here
changes size, the middle narrows, a layer's context is projected before it is attended to, and the
last level ends in a width of its own. It is built from their residual blocks and attentions.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from diffusers import AutoencoderKL, ConfigMixin, DDPMScheduler, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import AttentionMixin
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from factory.errors import ConfigError
from factory.models.class_conditioning import Condition


class ClassUNet(ModelMixin, AttentionMixin, ConfigMixin):  # type: ignore[misc]
    """Predicts noise or velocity from noisy latents, timesteps and a condition.

    The defaults are BlastDiffusion's numbers: 65.1 M parameters. `conditioning` is one of
    `CONDITIONINGS`; 'context_class' and 'text' have cross-attention, the others need none.
    `class_names` lie in the configuration, hence in the digest that names a generator: a label
    cannot change its meaning unnoticed.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["UNetLayer"]

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,
        in_channels: int = 4,
        out_channels: int = 4,
        class_names: Sequence[str] = (),
        conditioning: str = "context_class",
        null_condition: str = "learned",
        context_dim: int = 512,
        condition_channels: int = 0,
        mask_values: Sequence[int] = (),
        down_channels: Sequence[int] = (256, 320, 384, 512),
        mid_channels: Sequence[int] = (512, 384),
        conv_out_channels: int = 128,
        down_sample: Sequence[bool] = (True, True, True),
        self_attention: Sequence[bool] = (True, True, True),
        num_down_layers: int = 2,
        num_mid_layers: int = 1,
        num_up_layers: int = 2,
        time_embed_dim: int = 512,
        num_attention_heads: int = 8,
        norm_num_groups: int = 32,
    ) -> None:
        """`condition_channels`: of the maps that 'concat' puts beside the latents.

        Or `mask_values`: what each channel stands for, where the maps come from masks.

        Raises:
            ConfigError: widths that do not fit each other, the groups or the heads, or what
                `Condition` refuses.
        """
        super().__init__()
        _check_levels(down_channels, mid_channels, down_sample, self_attention)
        channels = (*down_channels, *mid_channels, conv_out_channels)
        _check_divisible(channels, norm_num_groups, num_attention_heads)
        widths = {"class": time_embed_dim, "concat": condition_channels or len(mask_values)}
        self.condition = Condition(
            conditioning,
            width=widths.get(conditioning, context_dim),
            num_classes=len(class_names),
            null=null_condition,
        )
        stack = partial(
            layer_stack,
            time_embed_dim=time_embed_dim,
            norm_num_groups=norm_num_groups,
            num_attention_heads=num_attention_heads,
            context_dim=None if conditioning in widths else context_dim,
        )
        self.time_proj = Timesteps(time_embed_dim, flip_sin_to_cos=False, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(time_embed_dim, time_embed_dim)
        maps = widths["concat"] if conditioning == "concat" else 0
        self.conv_in = nn.Conv2d(in_channels + maps, down_channels[0], 3, padding=1)
        self.down_levels, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.mid_layers = nn.ModuleList()
        self.grow, self.up_levels = nn.ModuleList(), nn.ModuleList()
        outer = (conv_out_channels, *down_channels[:-2])
        steps = (outer, pairwise(down_channels), down_sample, self_attention)
        levels = list(zip(*steps, strict=True))
        for _, (width, below), resizes, attends in levels:
            self.down_levels.append(stack(width, below, num_down_layers, self_attention=attends))
            self.shrink.append(_resize(nn.Conv2d, below) if resizes else nn.Identity())
        for width, narrower in pairwise(mid_channels):
            self.mid_layers.extend(stack(width, narrower, num_mid_layers))
            self.mid_layers.extend(
                stack(narrower, narrower, 1, self_attention=False, context_dim=None)
            )
        for above, (width, _), resizes, attends in reversed(levels):
            self.grow.append(_resize(nn.ConvTranspose2d, width) if resizes else nn.Identity())
            self.up_levels.append(stack(2 * width, above, num_up_layers, self_attention=attends))
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, conv_out_channels)
        self.conv_out = nn.Conv2d(conv_out_channels, out_channels, 3, padding=1)
        self.gradient_checkpointing = False

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | int,
        condition: Tensor,
        present: Tensor | None = None,
    ) -> UNet2DConditionOutput:
        """Return the prediction, `.sample` (B, out_channels, h, w).

        Args:
            sample: noisy latents (B, in_channels, h, w).
            timestep: one for all, or (B,).
            condition: labels, embeddings or maps, see `Condition`.
            present: (B,) bool, False where the null condition is meant; None: nowhere.

        Raises:
            ConfigError: latents that cannot be halved as often as there are levels.
        """
        _check_sides(sample, 2 ** sum(self.config.down_sample))
        given = self.condition(condition, present)
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        time = self.time_embedding(self.time_proj(timesteps).to(sample.dtype))
        context = None
        match self.config.conditioning:
            case "class":
                time = time + given
            case "concat":
                sample = torch.cat([sample, given.to(sample.dtype)], dim=1)
            case _:
                context = given
        hidden, skips = self.conv_in(sample), []
        for layers, shrink in zip(self.down_levels, self.shrink, strict=True):
            skips.append(hidden)
            hidden = shrink(self._through(layers, hidden, time, context))
        hidden = self._through(self.mid_layers, hidden, time, context)
        for layers, grow in zip(self.up_levels, self.grow, strict=True):
            hidden = torch.cat([grow(hidden), skips.pop()], dim=1)
            hidden = self._through(layers, hidden, time, context)
        prediction = self.conv_out(F.silu(self.conv_norm_out(hidden)))
        return UNet2DConditionOutput(sample=prediction)

    def _through(
        self, layers: nn.Module, hidden: Tensor, time: Tensor, context: Tensor | None
    ) -> Tensor:
        """Run `layers` one after another; inside, keep nothing for backward if so asked."""
        for layer in layers.children():
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden = self._gradient_checkpointing_func(layer, hidden, time, context)
            else:
                hidden = layer(hidden, time, context)
        return hidden


def _resize(kind: type[nn.Conv2d | nn.ConvTranspose2d], channels: int) -> nn.Module:
    """Return the 4x4 convolution that halves, or transposed doubles, each side."""
    return kind(channels, channels, 4, stride=2, padding=1)


def _check_sides(latents: Tensor, multiple: int) -> None:
    height, width = latents.shape[-2:]
    if height % multiple or width % multiple:
        raise ConfigError(
            f"latents of {height}x{width} cannot be halved down to the middle of the U-Net",
            remedy=f"Choose an image size whose latents' sides are multiples of {multiple}",
        )


def _check_levels(down: Sequence[int], mid: Sequence[int], *switches: Sequence[bool]) -> None:
    if len(down) < 2 or len(mid) < 2 or mid[0] != down[-1] or mid[-1] != down[-2]:
        raise ConfigError(
            f"mid_channels {list(mid)} do not lead back into down_channels {list(down)}",
            remedy="Begin with the last of down_channels and end with the one before it",
        )
    if any(len(switch) != len(down) - 1 for switch in switches):
        raise ConfigError(
            f"down_sample and self_attention must have {len(down) - 1} entries each",
            remedy="Give one for every step between two of down_channels",
        )


def _check_divisible(channels: Iterable[int], groups: int, heads: int) -> None:
    for name, number in (("norm_num_groups", groups), ("num_attention_heads", heads)):
        if odd := [width for width in channels if width % number]:
            raise ConfigError(
                f"{odd[0]} channels cannot be divided by {name} {number}",
                remedy="Choose channels that are multiples of both",
            )


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


class ClassConditionalPipeline(DiffusionPipeline):  # type: ignore[misc]
    """U-Net, autoencoder and scheduler; a text encoder only if the conditioning is 'text'.

    It draws nothing: `factory.methods.class_conditional` does. Import this module before
    `from_pretrained`: diffusers only uses classes of ours that are already imported.
    """

    _optional_components = ["text_encoder", "tokenizer"]

    def __init__(
        self,
        unet: ClassUNet,
        vae: AutoencoderKL,
        scheduler: DDPMScheduler,
        text_encoder: CLIPTextModel | None = None,
        tokenizer: CLIPTokenizer | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet, vae=vae, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer
        )
