"""Configuration of a class-conditional generator that is trained from scratch."""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, model_validator

from factory.config import Frozen
from factory.finetune.config import FirstStageConfig, MethodConfig, NoiseConfig, TrainingConfig


class ClassUNetConfig(Frozen):
    """The denoiser; the defaults are BlastDiffusion's: 65.1 M parameters, see `ClassUNet`."""

    conditioning: Literal["context_class", "class", "text", "concat"] = "context_class"
    """The class as a token to attend to, added to the time, as a text; or masks beside latents."""
    null_condition: Literal["learned", "zero"] = "learned"
    context_dim: int = Field(512, ge=1)
    down_channels: tuple[int, ...] = (256, 320, 384, 512)
    mid_channels: tuple[int, ...] = (512, 384)
    conv_out_channels: int = Field(128, ge=1)
    down_sample: tuple[bool, ...] = (True, True, True)
    self_attention: tuple[bool, ...] = (True, True, True)
    num_down_layers: int = Field(2, ge=1)
    num_mid_layers: int = Field(1, ge=1)
    num_up_layers: int = Field(2, ge=1)
    time_embed_dim: int = Field(512, ge=2)
    num_attention_heads: int = Field(8, ge=1)
    norm_num_groups: int = Field(32, ge=1)


class ClassConditionalConfig(MethodConfig):
    """One training from scratch: autoencoder, latents, denoiser."""

    method: Literal["class_conditional"] = "class_conditional"
    size_px: int = Field(512, ge=8, multiple_of=8)
    classes: Mapping[str, str] = Field(default_factory=dict)
    """Class -> prompt, for conditioning 'text'; a class that is not named gets `prompt`."""
    prompt: str = "a {class_name}"
    turns: bool = True
    """Show images under flips and quarter turns; only where up and down mean nothing."""
    latents: Literal["cached", "on_the_fly"] = "cached"
    """Encode every image once under all its turns, or anew in every step."""
    autoencoder: FirstStageConfig
    unet: ClassUNetConfig = ClassUNetConfig()
    noise: NoiseConfig = NoiseConfig()
    training: TrainingConfig = TrainingConfig(condition_dropout=0.2)

    @model_validator(mode="after")
    def _can_be_guided(self) -> "ClassConditionalConfig":
        if self.noise.beta_start >= self.noise.beta_end:
            raise ValueError("noise.beta_start must lie below noise.beta_end")
        return self

    def bases(self) -> Iterator[tuple[str, str | None]]:
        """Yield the generator whose autoencoder is the start."""
        if self.autoencoder.base is not None:
            yield self.autoencoder.base, self.autoencoder.revision

    def prompt_of(self, class_name: str) -> str:
        """Return the text by which a class is asked for."""
        words = class_name.replace("_", " ")
        return self.classes.get(class_name, self.prompt.format(class_name=words))
