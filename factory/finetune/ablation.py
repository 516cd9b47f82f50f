"""Trains the same fine-tuning under several alignment weights, each from the same seeds.

Runs of one seed see the same images, turns, noise and initial weights in the same order: they
differ by the weight alone and are compared in pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.errors import ConfigError
from factory.finetune.adapt_autoencoder import with_adapted_autoencoder
from factory.finetune.config import FinetuneConfig
from factory.finetune.run import finetune_here, prepare
from factory.models.folder import MANIFEST
from factory.models.generator import Generator, open_generator
from factory.real.dataset import RealDataset
from factory.real.splits import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One of the trainings that are compared."""

    weight: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"weight-{self.weight:g}-seed-{self.seed}"


def arms_of(weights: Sequence[float], seeds: Sequence[int]) -> list[Arm]:
    """Return every weight under every seed, seed by seed: a cut-off series still has pairs.

    Raises:
        ConfigError: fewer than two weights, or a weight or seed twice.
    """
    if len(set(weights)) < 2 or len(set(weights)) < len(weights) or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"weights {list(weights)} and seeds {list(seeds)} compare nothing",
            remedy="Give two weights or more, and nothing twice",
        )
    return [Arm(weight=weight, seed=seed) for seed in seeds for weight in weights]


def train_arms(
    config: FinetuneConfig,
    dataset: RealDataset,
    split: Split,
    arms: Sequence[Arm],
    output: Path,
    *,
    tell: Callable[[str], object],
) -> dict[Arm, Generator]:
    """Return the generator of every arm; those that are finished in `output` are not trained again.

    Autoencoder and latents are made once for all. Everything runs in this process.

    Raises:
        ConfigError: an arm in `output` was trained under another configuration, or see `prepare`.
        DataError: see `prepare`.
    """
    config = with_adapted_autoencoder(config, dataset, split, output=output, tell=tell)
    done = {}
    for arm in arms:
        own = _config_of(arm, config)
        folder = output / arm.name
        if (folder / "generator" / MANIFEST).is_file():
            done[arm] = _finished(folder / "generator", own)
            continue
        plan = prepare(own, dataset, split, folder, latents=output / "latents")
        done[arm] = finetune_here(plan, tell=_of_arm(arm, tell))
    return done


def _of_arm(arm: Arm, tell: Callable[[str], object]) -> Callable[[str], object]:
    return lambda line: tell(f"{arm.name}: {line}")


def _config_of(arm: Arm, config: FinetuneConfig) -> FinetuneConfig:
    alignment = config.alignment.model_copy(update={"weight": arm.weight})
    return config.model_copy(update={"alignment": alignment, "seed": arm.seed, "name": arm.name})


def _finished(folder: Path, config: FinetuneConfig) -> Generator:
    generator = open_generator(folder)
    if FinetuneConfig.model_validate(generator.manifest.get("config")) != config:
        raise ConfigError(
            f"{folder} was trained under another configuration",
            remedy="Choose another output folder, or delete this one",
        )
    return generator
