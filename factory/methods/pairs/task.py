"""Image + mask pairs in training: the network, its loss on a part of a step, its samples.

Nothing here knows of Ray; what is trained on what stands in `factory.methods.pairs.train`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from factory.device import up
from factory.errors import ConfigError
from factory.finetune.alignment import Alignment, aligned_losses, build_alignment
from factory.finetune.data import Material, spread
from factory.finetune.latents import to_signed, turn
from factory.finetune.losses import (
    VALIDATION_SEED,
    Noised,
    add_noise,
    min_snr_weight,
    training_target,
)
from factory.finetune.order import Part, step_generator, step_indices, step_random
from factory.finetune.samples import Draw, called_whole, samples_of
from factory.finetune.workers import Workers, inner, place
from factory.methods.pairs.config import PairsConfig
from factory.methods.pairs.draw import PairsMethod
from factory.models.experts import Expert
from factory.models.generator import find_generator
from factory.models.lora import add_lora, folded_state
from factory.models.pair_codec import PairCodec
from factory.models.pair_unet import PairUNet, pair_scheduler
from factory.models.pipeline import load_pipeline
from factory.models.shards import whole
from factory.sample.drawn import Drawn
from factory.sample.recipe import Request
from factory.sample.references import Reference

TURNS = {"all": tuple(range(8)), "flip": (0, 4), "none": (0,)}
"""Dihedral symmetries by the configuration's word; 4 is the mirror image."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTask:
    """A network of pairs in training: `model` is what the loop steps."""

    model: nn.Module
    network: PairUNet
    scheduler: DDPMScheduler
    codec: PairCodec
    alignment: Alignment | None
    config: PairsConfig
    workers: Workers

    def loss(self, pairs: Material, part: Part) -> dict[str, Tensor]:
        """Return the named losses of a part of a step: 'loss', and its 'image' and 'mask' part."""
        size, seed = self.config.training.batch_size, self.config.seed
        indices = step_indices(part.step, batch_size=size, num_images=len(pairs), seed=seed)
        mine = [int(indices[place]) for place in part.take(range(size))]
        turns = self._turns(part)
        clean = self.clean(pairs, mine, turns)
        noised = add_noise(
            self.scheduler, up(clean, self.workers.device), part, batch_size=size, seed=seed
        )
        labels, known = self._labels(pairs, mine, part), pairs.features
        return self._losses(noised, labels, None if known is None else known[mine, turns])

    @torch.no_grad()
    def validate(self, pairs: Material, *, max_images: int) -> dict[str, float]:
        """Return the losses on images spread over `pairs`, always with the same noise.

        Every worker computes all of it: a sharded model needs them all.
        """
        rows, size = spread(pairs.labels, max_images), self.config.training.batch_size
        clean = self.clean(pairs, rows, [0] * len(rows)).to(self.workers.device)
        noised = add_noise(
            self.scheduler, clean, Part(step=0), batch_size=len(rows), seed=VALIDATION_SEED
        )
        names = list(self.network.config.labels)
        labels = torch.tensor([names.index(pairs.labels[row]) for row in rows]) if names else None
        found = []
        for first in range(0, len(rows), size):
            piece, known = slice(first, first + size), pairs.features
            own = None if labels is None else labels[piece].to(self.workers.device)
            features = None if known is None else known[rows[piece], 0]
            share = min(size, len(rows) - first) / len(rows)
            losses = self._losses(noised.rows(piece), own, features)
            found.append({name: share * value for name, value in losses.items()})
        return {f"val_{n}": float(sum(each[n] for each in found)) for n in found[0]}

    def tensors(self) -> dict[str, Tensor]:
        """Return all weights on the CPU, a LoRA folded in; every worker must call it."""
        lora = self.config.lora
        state = folded_state(self.network, lora) if lora else self.network.state_dict()
        return {
            name: whole(value).detach().cpu().contiguous().clone()
            for name, value in state.items()
            if not name.startswith("projection.")
        }

    def clean(self, pairs: Material, rows: list[int], turns: list[int]) -> Tensor:
        """Return pairs (B, C, h, w) of these rows, each under its own turn."""
        assert pairs.masks is not None  # noqa: S101 -- for mypy: pairs have masks
        masks = torch.cat(
            [turn(pairs.masks[r, None, None], t) for r, t in zip(rows, turns, strict=True)]
        )[:, 0]
        if pairs.latents is None:
            images = to_signed(pairs.images[rows])
            turned = [turn(image[None], t) for image, t in zip(images, turns, strict=True)]
            return self.codec.encode(torch.cat(turned), masks)
        latents = pairs.latents[rows, turns].float() * self.codec.vae.config.scaling_factor
        return self.codec.joined(latents, masks)

    def weighted(self, noised: Noised, prediction: Tensor) -> dict[str, Tensor]:
        """Return the min-SNR weighted squared error: of the image channels, of the mask's, both.

        Each group counts by the mean over its channels, so that folding changes no weight.
        """
        training = self.config.training
        error = (prediction.float() - training_target(self.scheduler, noised)).square()
        if training.snr_gamma is not None:
            weight = min_snr_weight(self.scheduler, noised.timesteps, gamma=training.snr_gamma)
            error = error * weight[:, None, None, None]
        channels = self.codec.image_channels
        image, mask = error[:, :channels].mean(), error[:, channels:].mean()
        loss = (image + training.mask_weight * mask) / (1 + training.mask_weight)
        return {"loss": loss, "image": image, "mask": mask}

    def samples(self) -> Draw:
        """Return what draws pairs with the present weights, each mask at the right of its image.

        Every worker must call it. Rows are the labels of the network, or one row.
        """
        config, network = self.config, self.network

        def predict(
            model: nn.Module, sample: Tensor, timestep: Tensor, labels: Tensor | None
        ) -> Any:
            steps = timestep.expand(len(sample))
            return SimpleNamespace(sample=model(sample, steps, labels).sample)

        called = called_whole(inner(self.model), network, predict)
        called.null_label = network.null_label
        called.requires_grad_ = lambda _on: called  # it goes on learning
        parts: Any = SimpleNamespace(
            unet=called, vae=self.codec.vae, scheduler=self.scheduler, name_or_path=""
        )
        return samples_of(
            _BesideMasks(PairsMethod(parts, self.workers.device)),
            config,
            self.workers,
            size_px=config.size_px,
            method="pairs",
            prompt="",
            guidance_scale=config.validation.guidance_scale if network.config.labels else 1.0,
            cluster_id=lambda row, _number: int(row) if config.condition == "cluster" else None,
        )

    def _losses(
        self, noised: Noised, labels: Tensor | None, features: Tensor | None
    ) -> dict[str, Tensor]:
        said: dict[str, Tensor] = {}

        def loss_of(prediction: Tensor) -> Tensor:
            said.update(self.weighted(noised, prediction))
            return said["loss"]

        losses = aligned_losses(
            self.alignment,
            self.network,
            noised,
            predict=lambda: self.model(noised.noisy, noised.timesteps, labels).sample,
            loss_of=loss_of,
            features=features,
        )
        return said | losses

    def _turns(self, part: Part) -> list[int]:
        choices, size = TURNS[self.config.turns], self.config.training.batch_size
        generator = step_generator(part.step, seed=self.config.seed, stream=1)
        drawn = torch.randint(0, len(choices), (size,), generator=generator)
        return [choices[number] for number in part.take(drawn).tolist()]

    def _labels(self, pairs: Material, rows: list[int], part: Part) -> Tensor | None:
        """Return the labels (B,) of a part, some of them the null label."""
        known = list(self.network.config.labels)
        if not known:
            return None
        training, seed = self.config.training, self.config.seed
        own = pairs.labels if self.config.condition == "class" else tuple(map(str, pairs.clusters))
        labels = []
        for row, place_ in zip(rows, part.take(range(training.batch_size)), strict=True):
            chance = step_random(part.step, seed=seed, place=place_).random()
            dropped = chance < training.condition_dropout
            labels.append(self.network.null_label if dropped else known.index(own[row]))
        return up(torch.tensor(labels), self.workers.device)


def build_task(
    config: PairsConfig,
    pairs: Material,
    *,
    vae: Any = None,
    base: PairBase | None = None,
    expert: Expert | None = None,
    workers: Workers | None = None,
) -> PairTask:
    """Return a network for `pairs` on the worker's device, untrained or the base's.

    Weights follow the seed.

    Raises:
        ConfigError: a side that cannot be folded or halved as the network wants, or a label or a
            LoRA target that the base has not.
    """
    workers = workers or Workers()
    vae = vae if base is None else base.vae
    vae = None if vae is None else vae.to(workers.device)
    network = _untrained(config, pairs, vae) if base is None else _known_to(base, config, pairs)
    if config.lora is not None:
        network.requires_grad_(False)
        add_lora(network, config.lora.unet_targets, config.lora, seed=config.seed)
    scheduler = pair_scheduler(
        prediction_type=config.prediction_type, beta_schedule=config.beta_schedule
    )
    codec = PairCodec(num_classes=len(pairs.mask_values), fold=network.config.fold, vae=vae)
    alignment = build_alignment(
        config.alignment,
        network,
        expert,
        scheduler,
        seed=config.seed,
        decode=lambda joined: codec.decode_images(joined[:, : codec.image_channels]),
        joins=network,
    )
    return PairTask(
        model=place(network, workers),
        network=network,
        scheduler=scheduler,
        codec=codec,
        alignment=alignment,
        config=config,
        workers=workers,
    )


def _untrained(config: PairsConfig, pairs: Material, vae: Any) -> PairUNet:
    fold = config.fold if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
    side = PairCodec(num_classes=len(pairs.mask_values), fold=fold, vae=vae).shape(config.size_px)
    halvings = len(config.network.block_out_channels) - 1
    if side[-1] % 2**halvings:
        raise ConfigError(
            f"a side of {side[-1]} cannot be halved {halvings} times (size_px {config.size_px})",
            remedy="Choose another size_px, or fewer network.block_out_channels",
        )
    torch.manual_seed(config.seed)  # noqa: TID251 -- initial weights have no generator argument
    network = PairUNet(
        sample_size=side[-1],
        fold=fold,
        latent=vae is not None,
        image_channels=3 if vae is None else int(vae.config.latent_channels),
        mask_values=pairs.mask_values,
        labels=label_names(config, pairs),
        condition=config.condition or "none",
        **config.network.model_dump(),
    )
    made: PairUNet = network.to(memory_format=torch.channels_last)
    return made


def _known_to(base: PairBase, config: PairsConfig, pairs: Material) -> PairUNet:
    """Return the base's network if it knows every label of `pairs`."""
    known = base.network.config.labels
    if unknown := sorted(set(label_names(config, pairs)) - set(known)):
        raise ConfigError(
            f"base {config.base} does not know the {config.condition} {unknown[0]!r}",
            remedy=f"It knows {', '.join(known)}: choose of these with `only`, or start without it",
        )
    network: PairUNet = base.network.to(memory_format=torch.channels_last)
    network.train().requires_grad_(True)
    return network


def label_names(config: PairsConfig, pairs: Material) -> tuple[str, ...]:
    """Return what the condition chooses from: classes or clusters in order, nothing for 'none'."""
    if config.condition == "class":
        return tuple(sorted(set(pairs.labels)))
    if config.condition == "cluster":
        return tuple(map(str, sorted(set(pairs.clusters))))
    return ()


class _BesideMasks:
    """A method of pairs whose images (B, S, 2 S, 3) show the mask in grey at their right."""

    def __init__(self, method: PairsMethod) -> None:
        self._method = method

    def drawn(self, requests: Sequence[Request], shown: Sequence[Reference]) -> Drawn:
        """Draw `requests`."""
        drawn = self._method.drawn(requests, shown)
        assert drawn.masks is not None  # noqa: S101 -- for mypy: pairs have masks
        step = 255 // (len(self._method.mask_values) - 1)
        grey = np.repeat((drawn.masks * step)[..., None], 3, axis=3)
        return Drawn(images=np.concatenate([drawn.images, grey], axis=2))
