"""The network of image + mask pairs: diffusers' U-Net with the pair's layout in its config."""

from collections.abc import Sequence

import torch
from diffusers import (
    AutoencoderKL,
    ConfigMixin,
    DDPMScheduler,
    DiffusionPipeline,
    ModelMixin,
    UNet2DModel,
)
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from factory.errors import ConfigError


class PairUNet(ModelMixin, ConfigMixin, PeftAdapterMixin):  # type: ignore[misc]
    """Predicts noise or velocity of images and their masks together.

    The layout of the pair lies in the configuration, hence in the digest that names a generator.
    Channels: `image_channels` * s of the image (s = fold^2 in pixel form, 1 where the image is an
    autoencoder's latents), then (K - 1) * fold^2 of the mask.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ResnetBlock2D"]

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,
        sample_size: int,
        image_channels: int = 3,
        fold: int = 1,
        latent: bool = False,
        mask_values: Sequence[int] = (0, 255),
        labels: Sequence[str] = (),
        condition: str = "none",
        block_out_channels: Sequence[int] = (64, 128, 128),
        layers_per_block: int = 1,
        attention_levels: int = 1,
        attention_head_dim: int = 32,
        norm_num_groups: int = 32,
    ) -> None:
        """Build it untrained.

        Args:
            sample_size: side of what is denoised: the image's side / `fold`.
            image_channels: 3 for RGB, or the autoencoder's latent channels.
            fold: factor by which sides shrink: pixels become channels, as in an autoencoder's grid.
            latent: whether the image part is latents.
            mask_values: value of class k in real mask files; as many as there are classes.
            labels: what `condition` chooses from; the null label is added.
            condition: 'none', 'class' or 'cluster'.
            block_out_channels: widths, one per level.
            layers_per_block: residual blocks per level.
            attention_levels: how many of the lowest levels attend.
            attention_head_dim: channels per head.
            norm_num_groups: must divide every width.

        Raises:
            ConfigError: fewer than two mask values, labels without a condition, or widths that the
                groups do not divide or that are less than a head.
        """
        super().__init__()
        if len(mask_values) < 2 or len(set(mask_values)) < len(mask_values):
            raise ConfigError(
                f"mask values {list(mask_values)} are not two or more different classes",
                remedy="List the stored value of the background, then of every class",
            )
        if (condition == "none") == bool(labels):
            raise ConfigError(
                f"condition {condition!r} with {len(labels)} labels",
                remedy="Give labels to a condition 'class' or 'cluster', none to 'none'",
            )
        if odd := [width for width in block_out_channels if width % norm_num_groups]:
            raise ConfigError(
                f"{odd[0]} channels cannot be divided by norm_num_groups {norm_num_groups}",
                remedy="Choose channels that are multiples of it",
            )
        attending = block_out_channels[-attention_levels:] if attention_levels else ()
        if narrow := [width for width in attending if width < attention_head_dim]:
            raise ConfigError(
                f"{narrow[0]} channels are fewer than attention_head_dim {attention_head_dim}",
                remedy="Choose wider levels, or fewer channels per head",
            )
        plain = len(block_out_channels) - attention_levels
        down = ["DownBlock2D"] * plain + ["AttnDownBlock2D"] * attention_levels
        up = ["AttnUpBlock2D"] * attention_levels + ["UpBlock2D"] * plain
        channels = image_channels * (1 if latent else fold**2) + (len(mask_values) - 1) * fold**2
        self.net = UNet2DModel(
            sample_size=sample_size,
            in_channels=channels,
            out_channels=channels,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            attention_head_dim=attention_head_dim,
            norm_num_groups=norm_num_groups,
            add_attention=bool(attention_levels),
            num_class_embeds=len(labels) + 1 if labels else None,
        )

    @property
    def channels(self) -> int:
        """Channels of what is denoised."""
        return int(self.net.config.in_channels)

    @property
    def null_label(self) -> int:
        """The label that stands for any: what condition dropout shows, and guidance leads from."""
        return len(self.config.labels)

    def forward(
        self, sample: Tensor, timestep: Tensor | int, labels: Tensor | None = None
    ) -> UNet2DOutput:
        """Return the prediction, `.sample` (B, channels, h, w).

        Args:
            sample: noisy pairs (B, channels, h, w).
            timestep: one for all, or (B,).
            labels: (B,) int64 in 0 .. null_label; None: the null label.
        """
        output: UNet2DOutput = self.net(sample, timestep, class_labels=self._known(sample, labels))
        return output

    def features(self, sample: Tensor) -> list[Tensor]:
        """Return what the encoder makes of clean pairs (B, channels, h, w): maps, finest first.

        At timestep 0 and under the null label: features for patches to be compared by
        (S. Yang et al., ZeCon, 2023).
        """
        labels = self._known(sample, None)
        time = torch.zeros(len(sample), dtype=torch.long, device=sample.device)
        embedding = self.net.time_embedding(self.net.time_proj(time).to(sample.dtype))
        if labels is not None:
            embedding = embedding + self.net.class_embedding(labels)
        maps = [self.net.conv_in(sample)]
        for block in self.net.down_blocks:
            last, _ = block(hidden_states=maps[-1], temb=embedding)
            maps.append(last)
        return maps

    def _known(self, sample: Tensor, labels: Tensor | None) -> Tensor | None:
        """Return the labels that the network wants: those given, the null label, or none at all."""
        if not self.config.labels:
            return None
        if labels is None:
            return torch.full((len(sample),), self.null_label, device=sample.device)
        return labels


class PairPipeline(DiffusionPipeline):  # type: ignore[misc]
    """U-Net and scheduler, and an autoencoder where the image part is latents.

    It draws nothing: `factory.methods.pairs` does. Import this module before
    `from_pretrained`: diffusers only uses classes of ours that are already imported.
    """

    _optional_components = ["vae"]

    def __init__(
        self, unet: PairUNet, scheduler: DDPMScheduler, vae: AutoencoderKL | None = None
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae)


def pair_scheduler(
    *, prediction_type: str = "v_prediction", beta_schedule: str = "squaredcos_cap_v2"
) -> DDPMScheduler:
    """Return the training schedule of pairs: 1000 steps; 'linear' is diffuse-gen's.

    'linspace' spacing is respacing as A. Nichol and P. Dhariwal do it (Improved Denoising Diffusion
    Probabilistic Models, 2021): n steps, evenly, first and last included.
    """
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule=beta_schedule,
        prediction_type=prediction_type,
        timestep_spacing="linspace",
        clip_sample=False,  # the method clips, the same for every solver
    )
