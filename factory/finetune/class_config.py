"""Configuration of a class-conditional generator that is trained from scratch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from factory.config import Frozen, Place
from factory.finetune.cluster import ClusterConfig
from factory.finetune.config import TrainingConfig, ValidationConfig


class AdversarialConfig(BaseModel):
    """The discriminator and how much it counts; the defaults are BlastDiffusion's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: tuple[Annotated[int, Field(gt=0, multiple_of=8)], ...] = (64, 128, 256)
    start_step: int = Field(15_000, ge=0)
    """Until then the autoencoder learns alone, and the term costs nothing."""
    weight: float = Field(0.5, ge=0)
    adaptive: bool = False
    """Multiply `weight` by `gradient_ratio`, so that it means the same at any loss scale."""


class FirstStageConfig(Frozen):
    """Where the autoencoder comes from, and how it is trained."""

    base: str | None = None
    """Generator (name, folder, hub id) whose autoencoder is the start; null: random weights."""
    revision: str | None = None
    steps: int = Field(ge=0)
    """0: the base's, as it is."""
    batch_size: int = Field(16, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    warmup_steps: int = Field(200, ge=0)
    kl_weight: float = Field(1e-3, ge=0)
    perceptual: Place | None = None
    """Weights of torchvision's SqueezeNet 1.0 as safetensors; null leaves the term out."""
    perceptual_weight: float = Field(0.5, ge=0)
    adversarial: AdversarialConfig | None = None
    """null leaves the term out."""
    channels: tuple[int, ...] = (32, 64, 96)
    """Of its levels; each but the first halves the sides of the latents."""
    layers_per_block: int = Field(1, ge=1)
    latent_channels: int = Field(4, ge=1)
    scaling_factor: float | None = Field(None, gt=0)
    """null: measured on the training images, so that latents have unit variance."""
    trains: Literal["all", "decoder"] = "all"
    """'decoder': the base's latents stay as they are, and so a denoiser of the base fits."""

    @model_validator(mode="after")
    def _has_weights(self) -> "FirstStageConfig":
        if self.base is None and self.steps == 0:
            raise ValueError("steps 0 without a base leaves random weights")
        if self.base is None and self.trains == "decoder":
            raise ValueError("trains decoder without a base decodes latents of random weights")
        return self

    @model_serializer(mode="wrap")
    def _without_later_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `trains` out at its default: it came later, and renames no older run."""
        stored: dict[str, Any] = dump(self)
        if self.trains == "all":
            stored.pop("trains", None)
        return stored


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


class NoiseConfig(Frozen):
    """The noise schedule: 1000 steps, scaled-linear; the defaults are BlastDiffusion's."""

    beta_start: float = Field(0.0015, gt=0, lt=1)
    beta_end: float = Field(0.0195, gt=0, lt=1)
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"


class ClassConditionalConfig(Frozen):
    """One training from scratch: autoencoder, latents, denoiser."""

    method: Literal["class_conditional"] = "class_conditional"
    name: str = Field(min_length=1)
    size_px: int = Field(512, ge=8, multiple_of=8)
    only: tuple[str, ...] = ()
    """Train these classes; none named: every class of the train part."""
    n_shot: int | None = Field(None, ge=1)
    """Images of each class, drawn by `seed` from the train part; null: all of it."""
    classes: Mapping[str, str] = Field(default_factory=dict)
    """Class -> prompt, for conditioning 'text'; a class that is not named gets `prompt`."""
    prompt: str = "a {class_name}"
    turns: bool = True
    """Show images under flips and quarter turns; only where up and down mean nothing."""
    seed: int = Field(0, ge=0)
    latents: Literal["cached", "on_the_fly"] = "cached"
    """Encode every image once under all its turns, or anew in every step."""
    autoencoder: FirstStageConfig
    unet: ClassUNetConfig = ClassUNetConfig()
    noise: NoiseConfig = NoiseConfig()
    training: TrainingConfig = TrainingConfig(condition_dropout=0.2)
    validation: ValidationConfig = ValidationConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _can_be_guided(self) -> "ClassConditionalConfig":
        if self.noise.beta_start >= self.noise.beta_end:
            raise ValueError("noise.beta_start must lie below noise.beta_end")
        return self

    def prompt_of(self, class_name: str) -> str:
        """Return the text by which a class is asked for."""
        words = class_name.replace("_", " ")
        return self.classes.get(class_name, self.prompt.format(class_name=words))
