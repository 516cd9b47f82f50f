"""A training of pairs that goes on from a generator: its network, form, condition and schedule."""

from dataclasses import dataclass
from typing import Any

from factory.errors import ConfigError, DataError
from factory.finetune.pairs_config import PairsConfig
from factory.models.generator import Generator, find_generator
from factory.models.pair_unet import PairUNet
from factory.models.pipeline import load_pipeline
from factory.real.dataset import RealDataset
from factory.real.splits import Split

TAKEN_OVER = ("size_px", "fold", "condition", "prediction_type", "beta_schedule", "network")
"""Keys that belong to the network: a base brings its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairBase:
    """The parts that a training goes on from, in float32."""

    network: PairUNet
    vae: Any
    model_id: str


def load_base(config: PairsConfig) -> PairBase | None:
    """Return the parts of `config.base`; None where the training starts from nothing.

    Raises:
        ModelError: see `find_generator`.
    """
    if config.base is None:
        return None
    generator = find_generator(config.base)
    pipeline = load_pipeline(generator)
    return PairBase(network=pipeline.unet, vae=pipeline.vae, model_id=generator.model_id)


def with_base(config: PairsConfig, dataset: RealDataset, split: Split) -> PairsConfig:
    """Return `config` with what its base brings along; `config` itself without a base.

    Raises:
        ConfigError: a base of another method, or a key that says otherwise than the base.
        DataError: the base learnt from another split of the same images, some of which are now held
            out.
        ModelError: see `find_generator`.
    """
    if config.base is None:
        return config
    base = find_generator(config.base)
    _check_split(base, dataset, split)
    if base.manifest.get("method") != "pairs":
        raise ConfigError(
            f"base {config.base} draws no pairs (method {base.manifest.get('method')!r})",
            remedy="Name a generator that `factory finetune` trained with method: pairs",
        )
    known = dict(base.manifest["config"])
    latent = known.get("autoencoder") is not None
    brought = {key: known[key] for key in TAKEN_OVER} | {
        "autoencoder": config.base if latent else None,  # each folder holds its own
        "mask_values": base.manifest["mask_values"],
    }
    asked = config.model_dump(mode="json", include=set(config.model_fields_set))
    for key, value in brought.items():
        if asked.get(key) and asked[key] != value:
            raise ConfigError(
                f"{key} is {asked[key]!r}, but the base {config.base} has {value!r}",
                remedy=f"Leave {key} out, or start without a base",
            )
    return PairsConfig.model_validate(config.model_dump(mode="json") | brought)


def _check_split(base: Generator, dataset: RealDataset, split: Split) -> None:
    known = base.manifest.get("dataset_fingerprint"), base.manifest.get("split_digest")
    if known[0] == dataset.fingerprint and known[1] != split.digest:
        raise DataError(
            f"base {base.name} learnt from split {known[1]} of these images, this one is"
            f" {split.digest}: images that are held out here may be known to it",
            remedy="Use the base's split, or a base of other images",
        )
