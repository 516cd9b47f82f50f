"""Tiny generators of one latent space, whose networks differ: what a bridge is built between."""

import shutil
from pathlib import Path

import torch
from torch import Tensor

from factory.methods.bridge.inversion import Predict
from factory.models.adapters import write_adapters
from factory.models.config import LoraSettings
from factory.models.domains import write_domains
from factory.models.generator import Generator, open_generator
from factory.models.lora import LoraNotes, attach_lora, lora_tensors
from factory.models.pipeline import load_pipeline
from tests.fakes.tiny import tiny_generator

SETTINGS = LoraSettings(rank=2)


def two_generators(folder: Path, names: tuple[str, str]) -> tuple[Generator, Generator]:
    """Write a generator for each class; the second gets the first one's autoencoder."""
    first = tiny_generator(folder / names[0], seed=1, class_names=names[:1])
    second = tiny_generator(folder / names[1], seed=2, class_names=names[1:])
    shutil.copytree(first.folder / "vae", second.folder / "vae", dirs_exist_ok=True)
    return first, open_generator(second.folder)


def tiny_bridge(folder: Path, names: tuple[str, str]) -> Generator:
    """Write two generators and a third that binds them."""
    found = two_generators(folder, names)
    chosen = {name: (str(each.folder), None) for name, each in zip(names, found, strict=True)}
    return write_domains(folder / "bridge", chosen)


def lora_per_class(folder: Path, base: Generator, names: tuple[str, ...]) -> Generator:
    """Write a generator with a LoRA of random weights for every class of `names`."""
    loras = {}
    for number, name in enumerate(names):
        pipeline = load_pipeline(base)
        attach_lora(pipeline.unet, pipeline.text_encoder, SETTINGS, seed=number)
        generator = torch.Generator().manual_seed(number)
        tensors = {
            key: torch.randn(value.shape, generator=generator) * 0.3
            for key, value in lora_tensors(pipeline.unet, pipeline.text_encoder).items()
        }
        told = LoraNotes(
            base_model_id=base.model_id,
            dataset_fingerprint="d" * 32,
            split_digest="s" * 32,
            ids_digest="i" * 32,
            class_names=(name,),
            settings=SETTINGS,
        )
        loras[name] = (tensors, told)
    manifest = {
        "name": "loras",
        "base": str(base.folder),
        "base_model_id": base.model_id,
        "class_names": list(names),
        "size_px": base.size_px,
    }
    write_adapters(folder, loras, manifest=manifest, card="# loras\n")
    return open_generator(folder)


class Counted:
    """A `Predict` that counts: `evaluations` of images, without empty slots, and `forwards`."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self.evaluations = self.forwards = 0

    def __call__(self, noisy: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        """Count and predict."""
        self.forwards += 1
        self.evaluations += len(set(rows.tolist()))
        return self._predict(noisy, timesteps, rows)
