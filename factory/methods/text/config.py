"""Configurations of the text method: a base is adapted, or one is trained from scratch."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from factory.config import Frozen, LocalPath
from factory.finetune.config import (
    ANY,
    STABLE_DIFFUSION,
    AutoencoderAdaptation,
    FirstStageConfig,
    MethodConfig,
    NoiseConfig,
    NoiseLevels,
    PatchConfig,
    TrainingConfig,
    ValidationConfig,
    without_later_keys,
)
from factory.models.config import LoraSettings
from factory.models.prompts import PromptGrammar
from factory.real.field import CropText

PRETRAINING_VALIDATION = ValidationConfig(every_steps=2000, guidance_scale=2.0)


class FinetuneConfig(MethodConfig):
    """One fine-tuning of a base; with `separate`, one for every class."""

    method: Literal["text"] = "text"
    base: str = "wbc-base"
    revision: str | None = None
    train: Literal["lora", "full"] = "lora"
    separate: bool = False
    """A LoRA for every class, trained side by side; else one for all classes."""
    unlabelled: bool = False
    """No label is looked at: every image is learnt under the empty prompt, and what is drawn are
    the base's classes, or those of `classes`. Its stain and light come from here, what the classes
    look like from the base."""
    classes: Mapping[str, str] = Field(default_factory=dict)
    """Class -> prompt; a class that is not named gets `prompt`."""
    prompt: str = "a {class_name}"
    size_px: int | None = Field(None, ge=8, multiple_of=8)
    """Side of the images; null: what the base was trained on."""
    attention_window: int | None = Field(None, ge=0)
    """Side in places of the windows within which self-attention looks, 0: everywhere; null: as in
    the base. Another one than the base's needs `train: full`."""
    turns: bool = True
    """Show images under flips and quarter turns; only where up and down mean nothing."""
    lora: LoraSettings = LoraSettings()
    base_lora: LocalPath | None = None
    """A LoRA file (.safetensors, of whatever trainer) that lies under what is trained ..."""
    base_lora_scale: float = Field(1.0, gt=0)
    """... and by how much of it. It goes along with the generator."""
    lora_scale: float = Field(1.0, gt=0)
    """By how much of its LoRAs the generator is drawn with where a job names no other scale."""
    base_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen base, which a LoRA of other families than Stable Diffusion 1.x/2.x may have in
    half the memory; the LoRA itself is in float32."""
    autoencoder: AutoencoderAdaptation = AutoencoderAdaptation()
    """Of the base, before anything else, where it cannot show such images. The base so made stands
    in the output, and a LoRA is for it."""
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _windowed_whole(self) -> "FinetuneConfig":
        if self.train == "lora" and self.attention_window is not None:
            raise ValueError("attention_window changes the whole network: set train: full")
        return self

    @model_validator(mode="after")
    def _without_labels(self) -> "FinetuneConfig":
        told = {"separate": self.separate, "n_shot": self.n_shot, "only": self.only}
        if self.unlabelled and (asked := [key for key, value in told.items() if value]):
            raise ValueError(f"unlabelled: true looks at no label, and {asked[0]} does")
        if self.unlabelled and self.validation.best_by == "val_kid":
            raise ValueError(
                "validation.best_by: val_kid draws the classes of the val part, and"
                " unlabelled: true looks at no label: set val_loss, or null"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_later_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        later = {"lora_scale": 1.0, "base_dtype": "float32", "unlabelled": False}
        later |= {"base_lora": None, "base_lora_scale": 1.0}
        return without_later_keys(later, self, dump(self))

    @field_validator("prompt")
    @classmethod
    def _with_class_name(cls, prompt: str) -> str:
        try:
            prompt.format(class_name="")
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError("{class_name} is all that may stand in braces") from error
        return prompt

    def bases(self) -> Iterator[tuple[str, str | None]]:
        """Yield the base that is adapted."""
        yield self.base, self.revision

    def prompt_of(self, class_name: str) -> str:
        """Return the prompt under which images of a class are trained and drawn."""
        if self.unlabelled and class_name == ANY:
            return ""
        words = class_name.replace("_", " ")
        return self.classes.get(class_name, self.prompt.format(class_name=words))


class DenoiserConfig(Frozen):
    """The second stage: U-Net and text encoder together."""

    base: str | None = None
    """Generator (name, folder, hub id) whose U-Net and text encoder are the start: one of the same
    autoencoder's latents and the same words. null: random weights."""
    steps: int = Field(gt=0)
    batch_size: int = Field(32, gt=0)
    accumulate: int = Field(1, ge=1)
    learning_rate: float = Field(4e-4, gt=0)
    warmup_steps: int = 400
    decay_steps: int = 3000
    weight_decay: float = 0.01
    snr_gamma: float | None = 5.0
    """Clamp of min-SNR weights; null: the error of the prediction as it is."""
    noise_levels: NoiseLevels | None = None
    """Which levels of noise are trained on; null: every timestep as often."""
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    attribute_dropout: float = Field(0.3, ge=0, lt=1)
    ema_decay: float = Field(0.9995, ge=0, lt=1)
    channels: tuple[int, ...] = (128, 192)
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    """How a level of noise reaches a block: added, or as scale and shift of its normalised values
    (P. Dhariwal and A. Nichol, Diffusion Models Beat GANs, 2021, section 3.1)."""

    @model_serializer(mode="wrap")
    def _without_later_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        later = {"base": None, "noise_levels": None, "resnet_time_scale_shift": "default"}
        return without_later_keys(later | {"accumulate": 1}, self, dump(self))


def _kind(autoencoder: Any) -> str:
    """Return which of the two a section means, so that its errors are of that one alone."""
    fitted = isinstance(autoencoder, PatchConfig) or (
        isinstance(autoencoder, Mapping) and "components" in autoencoder
    )
    return "fitted" if fitted else "trained"


class BaseConfig(MethodConfig):
    """A whole pre-training: data columns, prompt grammar, both stages."""

    method: Literal["text"] = "text"
    base: None = None
    size_px: int = Field(64, gt=0)
    label: str = "class"
    attributes: tuple[str, ...] = ()
    fractions: Mapping[str, float]
    prompt: PromptGrammar
    autoencoder: Annotated[
        Annotated[FirstStageConfig, Tag("trained")] | Annotated[PatchConfig, Tag("fitted")],
        Discriminator(_kind),
    ]
    noise: NoiseConfig = STABLE_DIFFUSION
    denoiser: DenoiserConfig
    licence: str = Field("unknown", min_length=1)
    """Of the weights, as whoever trains them says: an SPDX name or a text."""
    frames: CropText | None = None
    """Part of their original frames that the image files show, as `--crop` would name it, where
    they were cut before. The manifest's `field` says it; nothing that is trained depends on it."""

    validation: ValidationConfig = PRETRAINING_VALIDATION

    @property
    def training(self) -> DenoiserConfig:
        """Lengths and rates of the second stage."""
        return self.denoiser

    def bases(self) -> Iterator[tuple[str, str | None]]:
        """Yield the generators that denoiser and autoencoder start from."""
        if self.denoiser.base is not None:
            yield self.denoiser.base, None
        if isinstance(self.autoencoder, FirstStageConfig) and self.autoencoder.base is not None:
            yield self.autoencoder.base, self.autoencoder.revision

    def prompt_of(self, class_name: str) -> str:
        """Return the prompt under which a class is drawn: its name alone."""
        return self.prompt.compose(class_name)

    @model_serializer(mode="wrap")
    def _without_later_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        later = {key: type(self).model_fields[key].default for key in LATER}
        return without_later_keys(later, self, dump(self))


LATER = (
    *("noise", "frames", "method", "base", "only", "n_shot", "alignment", "expert"),
    *("validation", "cluster"),
)
