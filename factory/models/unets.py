"""The U-Nets that are trained here from scratch."""

from diffusers import UNet2DConditionModel


def small_unet(
    *,
    sample_size_latent: int = 16,
    channels: tuple[int, ...] = (128, 192),
    layers_per_block: int = 1,
    in_channels: int = 4,
    cross_attention_dim: int = 128,
    resnet_time_scale_shift: str = "default",
) -> UNet2DConditionModel:
    """Return an untrained text-conditioned U-Net; the default has 9.9 M parameters.

    Attention starts below the first level: at full latent size it costs half of a CPU step and
    the 8x8 level already sees the whole cell.
    """
    below = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=sample_size_latent,
        in_channels=in_channels,
        out_channels=in_channels,
        block_out_channels=channels,
        layers_per_block=layers_per_block,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * below),
        up_block_types=(*["CrossAttnUpBlock2D"] * below, "UpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        resnet_time_scale_shift=resnet_time_scale_shift,
        attention_head_dim=4,  # diffusers: the number of heads, under a historical name
    )
