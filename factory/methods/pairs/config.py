"""Configuration of a training of pairs: size and form, network, condition, lengths and rates."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from factory.config import Frozen, LocalPath
from factory.errors import DataError
from factory.finetune.config import MethodConfig, PatchConfig, ValidationConfig
from factory.models.config import LoraSettings
from factory.real.mask_values import found_values, number_objects

if TYPE_CHECKING:
    from factory.real.dataset import RealDataset


class PairNetwork(Frozen):
    """Size of the network; the default has 4.6 M parameters."""

    block_out_channels: tuple[int, ...] = Field((64, 128, 128), min_length=1)
    layers_per_block: int = Field(1, ge=1)
    attention_levels: int = Field(1, ge=0)
    """How many of the lowest levels attend."""
    attention_head_dim: int = Field(32, ge=1)
    norm_num_groups: int = Field(32, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> "PairNetwork":
        if self.attention_levels > len(self.block_out_channels):
            raise ValueError("attention_levels exceeds the number of block_out_channels")
        return self


class PairTraining(Frozen):
    """Length and rates: what worked at 32 to 64 px on a CPU, given 45,000 images and more."""

    steps: int = Field(3000, ge=1)
    batch_size: int = Field(16, ge=1)
    accumulate: int = Field(1, ge=1)
    learning_rate: float = Field(6e-4, gt=0)
    warmup_steps: int = Field(200, ge=0)
    decay_steps: int | None = Field(None, ge=0)
    """Of a half cosine at the end; null: from the warm-up on. At a constant rate images stay
    noise."""
    final_fraction: float = Field(0.02, ge=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    snr_gamma: float | None = Field(5.0, gt=0)
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of images shown under the null label, which guidance needs."""
    mask_weight: float = Field(1 / 3, gt=0)
    """Of the mean error of the mask channels beside that of the image channels; 1/3: one mask and
    three colour channels weigh alike."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"


class PairValidation(ValidationConfig):
    """Loss on the val part, and samples with their masks; a KID is of the images alone."""

    every_steps: int = Field(500, ge=1)
    images_per_class: int = Field(8, ge=1)
    num_inference_steps: int = Field(25, ge=1, le=1000)
    guidance_scale: float = Field(1.5, ge=0)


class PairsConfig(MethodConfig):
    """One training of a pair generator, or of one for every cluster."""

    method: Literal["pairs"] = "pairs"
    size_px: int = Field(64, ge=8, multiple_of=8)
    fold: int = Field(1, ge=1)
    """Pixel form: squares of so many pixels a side become channels, 4 times faster at 2."""
    autoencoder: str | PatchConfig | None = None
    """Latent form: the generator whose autoencoder encodes the images, or {components: 20}: one of
    principal components, fitted to the images themselves in seconds. null: pixel form."""
    mask_values: tuple[int, ...] = ()
    """Stored value of every class in real masks, background first; empty: those that are found."""
    condition: Literal["none", "class", "cluster"] | None = None
    """null: 'class' where the train part holds several, else 'none'."""
    base: str | None = None
    """Generator of pairs to go on from: size, form, condition, schedule and network are its own."""
    lora: LoraSettings | None = None
    """Train a LoRA on the frozen base instead of all weights; the generator holds it folded in.
    Beside attention its `unet_targets` may name conv1 and conv2, most of these networks."""
    clusters: LocalPath | None = None
    """File of clusters, see `factory.real.clusters`."""
    per_cluster: bool = False
    """A generator for every cluster, trained side by side, in place of one for all."""
    only_clusters: tuple[int, ...] = ()
    """Of `per_cluster`: train these; none named: all."""
    turns: Literal["all", "flip", "none"] = "all"
    """Show images under flips and quarter turns, mirrored only, or as they are."""
    prediction_type: Literal["v_prediction", "epsilon"] = "v_prediction"
    beta_schedule: Literal["squaredcos_cap_v2", "linear", "scaled_linear"] = "squaredcos_cap_v2"
    network: PairNetwork = PairNetwork()
    training: PairTraining = PairTraining()
    validation: PairValidation = PairValidation()

    @model_validator(mode="after")
    def _whole(self) -> "PairsConfig":
        if (self.condition == "cluster" or self.per_cluster) and self.clusters is None:
            raise ValueError("clusters: condition 'cluster' and per_cluster need the file of some")
        if self.condition == "cluster" and self.per_cluster:
            raise ValueError("per_cluster: each generator knows one cluster, it has no condition")
        if self.autoencoder is not None and self.fold > 1:
            raise ValueError("fold: in latent form the autoencoder folds, leave it 1")
        if self.lora is not None and self.base is None:
            raise ValueError("lora: it needs the base that it adapts")
        return self

    def bases(self) -> Iterator[tuple[str, str | None]]:
        """Yield the generator to go on from, and that of the autoencoder."""
        yield from ((name, None) for name in (self.base, self.autoencoder) if isinstance(name, str))

    def check_images(self, dataset: "RealDataset", ids: Sequence[str]) -> None:
        """Raise unless every image to learn from has a mask whose values can be classes.

        Raises:
            DataError: no mask, values that are no classes, or that number the objects.
        """
        contents = dict(zip(dataset.ids, dataset.contents, strict=True))
        if bare := [i for i in ids if not contents[i].mask_values]:
            raise DataError(
                f"image {bare[0]!r} has no mask"
                f" ({len(bare)} of {len(ids)} to learn from have none)",
                remedy="Give masks for all, or train another method on images alone",
            )
        if self.mask_values or self.base:  # which says what they mean
            return
        values = found_values(dataset, ids)
        if number_objects(contents[i].mask_values for i in ids):
            raise DataError(
                f"the masks seem to number objects: from 0 to {values[-1]}, another number in each",
                remedy="Pass --masks object (masks='object') for one class of all objects; if they"
                f" are classes, say so with mask_values: [{', '.join(map(str, values))}]",
            )
