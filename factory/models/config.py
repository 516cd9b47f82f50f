"""Settings of networks that several stages share: read and checked before torch is imported."""

from typing import Any, Literal

from pydantic import Field

from factory.config import Frozen, LocalPath


class LoraSettings(Frozen):
    """Size and place of a LoRA; the defaults are CytoDiff's and DataDream's."""

    rank: int = Field(16, ge=1)
    alpha: float | None = Field(None, gt=0)
    """null: equal to the rank, so that the change of a weight is B A itself."""
    unet_targets: tuple[str, ...] = Field(("to_q", "to_k", "to_v", "to_out.0"), min_length=1)
    """Linear layers or convolutions of the U-Net, by the end of their name."""
    train_text_encoder: bool = True
    text_targets: tuple[str, ...] = Field(("q_proj", "k_proj", "v_proj", "out_proj"), min_length=1)

    @property
    def scaling(self) -> float:
        """The factor alpha / rank on B A."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def peft_config(self, targets: tuple[str, ...]) -> dict[str, Any]:
        """Return the arguments of peft's `LoraConfig` for a network."""
        alpha = self.rank if self.alpha is None else self.alpha
        return {"r": self.rank, "lora_alpha": alpha, "target_modules": list(targets)}


class SegmenterSpec(Frozen):
    """Which network segments."""

    decoder: Literal["small_unet", "unet", "unet++", "fpn", "deeplabv3+"] = "small_unet"
    """'small_unet' is the factory's own; the others need the extra `segmenters`."""
    encoder: str = "resnet18"
    """A name of timm that gives feature maps; 'small_unet' has its own."""
    encoder_weights: LocalPath | None = None
    """Of the encoder, as safetensors with timm's names; null: random ones."""
    channels: tuple[int, ...] = (32, 64, 128)
    """Of the small U-Net's levels."""
    norm_num_groups: int = Field(8, ge=1)
    """Of the small U-Net."""


class ExpertSpec(Frozen):
    """What an expert looks at and what it tells apart."""

    backbone: str
    """A name of timm."""
    class_names: tuple[str, ...] = Field(min_length=2)
    """In the order of the logits."""
    size_px: int = Field(64, ge=8)
    """Images of another size are resized to it."""
    grey: bool = False
