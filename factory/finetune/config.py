"""Configuration of a fine-tuning: which base, which images, how, on how many workers."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from factory.config import Frozen, Place
from factory.finetune.cluster import ClusterConfig
from factory.models.config import LoraSettings, SegmenterSpec


class TrainingConfig(Frozen):
    """Length and rates; the defaults are CytoDiff's for 16 images a class."""

    steps: int = Field(600, ge=1)
    batch_size: int = Field(8, ge=1)
    accumulate: int = Field(1, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(100, ge=0)
    decay_steps: int | None = Field(None, ge=0)
    """Of a half cosine at the end; null: from the warm-up on."""
    final_fraction: float = Field(0.0, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(1e-2, ge=0)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """0: no average, the last weights count."""
    snr_gamma: float | None = Field(None, gt=0)
    """null: every noise level weighs the same."""
    condition_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of images trained under the empty prompt, which guidance needs."""
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False


class ValidationConfig(Frozen):
    """Loss on the val part and samples, outside the steps."""

    every_steps: int = Field(100, ge=1)
    max_images: int = Field(64, ge=1)
    """Of the val part, spread evenly over its classes: for the loss, and as many drawn for KID."""
    draw_every: int | None = Field(2, ge=1)
    """Every n-th validation draws samples, and so does the last; null: none does."""
    images_per_class: int = Field(4, ge=1)
    """Of a grid; the last one stands on the card of the generator."""
    num_inference_steps: int = Field(10, ge=1, le=1000)
    guidance_scale: float = Field(2.0, ge=0)
    features: Place | None = None
    """Weights of timm's tf_efficientnet_lite0 (safetensors), for KID against the val part."""
    best_by: Literal["val_loss", "val_kid"] | None = None
    """Export the checkpoint in which this was lowest; null: the last one."""

    @model_validator(mode="after")
    def _measured(self) -> "ValidationConfig":
        if self.best_by == "val_kid" and (self.features is None or self.draw_every is None):
            raise ValueError("val_kid needs validation.features and validation.draw_every")
        return self


class AutoencoderAdaptation(Frozen):
    """How the base's autoencoder is trained on before its denoiser; 0 steps: it stays as it is."""

    steps: int = Field(0, ge=0)
    batch_size: int = Field(16, gt=0)
    learning_rate: float = Field(5e-4, gt=0)
    warmup_steps: int = Field(20, ge=0)
    kl_weight: float = Field(1e-3, ge=0)
    perceptual: Place | None = None
    """Weights of torchvision's SqueezeNet 1.0 as safetensors; null leaves the term out."""
    perceptual_weight: float = Field(0.5, ge=0)


class AlignmentSettings(Frozen):
    """What is aligned with what, and how strongly."""

    weight: float = Field(1.0, ge=0)
    """w; 0 switches alignment off: no expert, no W, no hook."""
    layer: str | None = None
    """Name of a module of the denoiser; null: see `default_layer`."""
    pooling: Literal["mean", "max"] = "mean"
    """Over places or tokens, of the denoiser's layer and of `expert_layer`."""
    expert_input: Literal["noisy", "clean", "predicted"] = "clean"
    """x_t, as the original; x_0; or the x_0 that the prediction amounts to in one step."""
    expert_layer: str | None = None
    """Name of a module of the expert's network; null: what its classifying layer sees."""


class FinetuneConfig(Frozen):
    """One fine-tuning of a base; with `separate`, one for every class."""

    method: Literal["text"] = "text"
    name: str = Field(min_length=1)
    base: str = "wbc-base"
    revision: str | None = None
    train: Literal["lora", "full"] = "lora"
    separate: bool = False
    """A LoRA for every class, trained side by side; else one for all classes."""
    classes: Mapping[str, str] = Field(default_factory=dict)
    """Class -> prompt; a class that is not named gets `prompt`."""
    prompt: str = "a {class_name}"
    only: tuple[str, ...] = ()
    """Train these classes; none named: every class of the train part."""
    n_shot: int | None = Field(None, ge=1)
    """Images of each class, drawn by `seed` from the train part; null: all of it."""
    size_px: int | None = Field(None, ge=8, multiple_of=8)
    """Side of the images; null: what the base was trained on."""
    attention_window: int | None = Field(None, ge=0)
    """Side in places of the windows within which self-attention looks, 0: everywhere; null: as in
    the base. Another one than the base's needs `train: full`."""
    turns: bool = True
    """Show images under flips and quarter turns; only where up and down mean nothing."""
    seed: int = Field(0, ge=0)
    lora: LoraSettings = LoraSettings()
    alignment: AlignmentSettings = AlignmentSettings(weight=0)
    expert: Place | None = None
    """Folder of the expert of `alignment`."""
    autoencoder: AutoencoderAdaptation = AutoencoderAdaptation()
    """Of the base, before anything else, where it cannot show such images. The base so made stands
    in the output, and a LoRA is for it."""
    training: TrainingConfig = TrainingConfig()
    validation: ValidationConfig = ValidationConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _windowed_whole(self) -> "FinetuneConfig":
        if self.train == "lora" and self.attention_window is not None:
            raise ValueError("attention_window changes the whole network: set train: full")
        return self

    @field_validator("prompt")
    @classmethod
    def _with_class_name(cls, prompt: str) -> str:
        try:
            prompt.format(class_name="")
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError("{class_name} is all that may stand in braces") from error
        return prompt

    def prompt_of(self, class_name: str) -> str:
        """Return the prompt under which images of a class are trained and drawn."""
        words = class_name.replace("_", " ")
        return self.classes.get(class_name, self.prompt.format(class_name=words))


class ExpertTraining(Frozen):
    """How an expert is fitted."""

    steps: int = Field(300, ge=1)
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    head_only: bool = False
    """Train the classifying layer alone; the backbone stays to the byte."""
    augment: bool = True
    """Show every image under a random flip and quarter turn."""
    seed: int = Field(0, ge=0)


class ExpertConfig(Frozen):
    """What an expert is and how it is fitted."""

    backbone: str = Field("tf_efficientnet_lite0", min_length=1)
    """A name of timm."""
    size_px: int = Field(64, ge=8, le=1024)
    """Side of the images that it is trained on and sees later."""
    grey: bool = False
    training: ExpertTraining = ExpertTraining()


class SegmenterConfig(SegmenterSpec):
    """One training of a segmenter."""

    size_px: int = Field(64, ge=8, multiple_of=4)
    steps: int = Field(1500, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    colour: float = Field(0.2, ge=0)
    """Spread of random gain and shift of each colour channel, of the full range."""
    seed: int = Field(0, ge=0)
