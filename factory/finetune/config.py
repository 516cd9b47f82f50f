"""Configurations that several methods share: lengths and rates, validation, autoencoder, expert.

A method's own configuration stands in its folder of `factory.methods` and is a `MethodConfig`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from factory.config import Frozen, LocalPath, Shots
from factory.finetune.cluster import ClusterConfig
from factory.models.config import SegmenterSpec

ANY = "any"
"""The label of images whose labels are not looked at."""

if TYPE_CHECKING:
    from factory.real.dataset import RealDataset


def without_later_keys(
    later: Mapping[str, Any], config: BaseModel, dumped: dict[str, Any]
) -> dict[str, Any]:
    """Return `dumped` without the keys that came later, at their defaults.

    They rename no older run, and its checkpoints are resumed.
    """
    unused = {name for name, default in later.items() if getattr(config, name) == default}
    return {name: value for name, value in dumped.items() if name not in unused}


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
    features: LocalPath | None = None
    """Weights of timm's tf_efficientnet_lite0 (safetensors), for KID against the val part."""
    best_by: Literal["val_loss", "val_kid"] | None = None
    """Export the checkpoint in which this was lowest; null: the last one."""

    @model_validator(mode="after")
    def _measured(self) -> "ValidationConfig":
        if self.best_by == "val_kid" and (self.features is None or self.draw_every is None):
            raise ValueError("val_kid needs validation.features and validation.draw_every")
        return self


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


class MethodConfig(Frozen):
    """What the configuration of every method says."""

    method: str
    name: str = Field(min_length=1)
    only: tuple[str, ...] = ()
    """Train these classes; none named: every class of the train part."""
    n_shot: Shots | None = None
    """Images of each class, drawn by `seed` from the train part: a number, or one for each class
    ({basophil: 4}; of the others all); null: all of it."""
    seed: int = Field(0, ge=0)
    alignment: AlignmentSettings = AlignmentSettings(weight=0)
    """Pulls the denoiser towards an expert's features, see `factory.finetune.alignment`."""
    expert: LocalPath | None = None
    """Folder of the expert of `alignment`."""
    validation: ValidationConfig = ValidationConfig()
    cluster: ClusterConfig = ClusterConfig()

    def bases(self) -> Iterator[tuple[str, str | None]]:
        """Yield the generators that are started from, each with its revision."""
        yield from ()

    def check_images(self, dataset: "RealDataset", ids: Sequence[str]) -> None:
        """Raise where the images to learn from lack what the method reads of them."""


class AdversarialConfig(Frozen):
    """The discriminator and how much it counts; the defaults are BlastDiffusion's."""

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
    perceptual: LocalPath | None = None
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
        return without_later_keys({"trains": "all"}, self, dump(self))


class PatchConfig(Frozen):
    """An autoencoder that is fitted, not trained: see `fit_patch_autoencoder`."""

    components: int = Field(ge=1)
    """Of every patch: the channels of the latents."""
    patch_px: int = Field(4, ge=2)
    whitening: float = Field(0.5, ge=0, le=1)
    """0: components as strong as in pixels; 1: all of one variance."""


class AutoencoderAdaptation(Frozen):
    """How the base's autoencoder is trained on before its denoiser; 0 steps: it stays as it is."""

    steps: int = Field(0, ge=0)
    batch_size: int = Field(16, gt=0)
    learning_rate: float = Field(5e-4, gt=0)
    warmup_steps: int = Field(20, ge=0)
    kl_weight: float = Field(1e-3, ge=0)
    perceptual: LocalPath | None = None
    """Weights of torchvision's SqueezeNet 1.0 as safetensors; null leaves the term out."""
    perceptual_weight: float = Field(0.5, ge=0)


class NoiseConfig(Frozen):
    """The noise schedule: 1000 steps, scaled-linear; the defaults are BlastDiffusion's."""

    beta_start: float = Field(0.0015, gt=0, lt=1)
    beta_end: float = Field(0.0195, gt=0, lt=1)
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"


STABLE_DIFFUSION = NoiseConfig(beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction")
"""The schedule of R. Rombach et al., 2022, with the prediction of T. Salimans and J. Ho, 2022."""


class NoiseLevels(Frozen):
    """Log-normal noise levels, see `log_normal_timesteps`; the defaults suit latents of variance 1.

    EDM's are -1.2 and 1.2 for pixels of deviation 0.5.
    """

    log_mean: float = -0.4
    log_deviation: float = Field(1.2, gt=0)


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
