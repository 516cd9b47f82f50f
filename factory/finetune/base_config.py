"""Configuration of a base generator that is trained from scratch, `factory.finetune.pretrain`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
)

from factory.finetune.class_config import FirstStageConfig, NoiseConfig
from factory.models.prompts import PromptGrammar
from factory.real.field import CropText

STABLE_DIFFUSION = NoiseConfig(beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction")
"""The schedule of R. Rombach et al., 2022, with the prediction of T. Salimans and J. Ho, 2022."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PatchConfig(_Frozen):
    """An autoencoder that is fitted, not trained: see `fit_patch_autoencoder`."""

    components: int = Field(ge=1)
    """Of every patch: the channels of the latents."""
    patch_px: int = Field(4, ge=2)
    whitening: float = Field(0.5, ge=0, le=1)
    """0: components as strong as in pixels; 1: all of one variance."""


class NoiseLevels(_Frozen):
    """Log-normal noise levels, see `log_normal_timesteps`; the defaults suit latents of variance 1.

    EDM's are -1.2 and 1.2 for pixels of deviation 0.5.
    """

    log_mean: float = -0.4
    log_deviation: float = Field(1.2, gt=0)


class DenoiserConfig(_Frozen):
    """The second stage: U-Net and text encoder together."""

    base: str | None = None
    """Generator (name, folder, hub id) whose U-Net and text encoder are the start: one of the same
    autoencoder's latents and the same words. null: random weights."""
    steps: int = Field(gt=0)
    batch_size: int = Field(32, gt=0)
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
        """Leave keys that came later out at their defaults: they rename no older run."""
        later = {"base": None, "noise_levels": None, "resnet_time_scale_shift": "default"}
        return _without(later, self, dump(self))


def _kind(autoencoder: Any) -> str:
    """Return which of the two a section means, so that its errors are of that one alone."""
    fitted = isinstance(autoencoder, PatchConfig) or (
        isinstance(autoencoder, Mapping) and "components" in autoencoder
    )
    return "fitted" if fitted else "trained"


class BaseConfig(_Frozen):
    """A whole pre-training: data columns, prompt grammar, both stages."""

    name: str
    size_px: int = Field(64, gt=0)
    label: str = "class"
    attributes: tuple[str, ...] = ()
    fractions: Mapping[str, float]
    seed: int = 0
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

    @model_serializer(mode="wrap")
    def _without_later_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave keys that came later out at their defaults: they rename no older run."""
        return _without({"noise": STABLE_DIFFUSION, "frames": None}, self, dump(self))


def _without(later: Mapping[str, Any], config: BaseModel, dumped: dict[str, Any]) -> dict[str, Any]:
    unused = {name for name, default in later.items() if getattr(config, name) == default}
    return {name: value for name, value in dumped.items() if name not in unused}
