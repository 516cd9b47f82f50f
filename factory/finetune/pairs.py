"""Training of image + mask pairs: the network, its loss on a part of a step, its loop.

Nothing here knows of Ray or of files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from factory.errors import ConfigError
from factory.finetune.latents import to_signed, turn
from factory.finetune.loop import Loop
from factory.finetune.loop_config import loop_config
from factory.finetune.losses import Noised, add_noise, min_snr_weight, training_target
from factory.finetune.material import spread
from factory.finetune.order import Part, step_generator, step_indices, step_random
from factory.finetune.pairs_base import PairBase
from factory.finetune.pairs_config import PairsConfig
from factory.finetune.pairs_data import PairSet
from factory.finetune.workers import Workers, place
from factory.models.lora import add_lora
from factory.models.pair_codec import PairCodec
from factory.models.pair_unet import PairUNet, pair_scheduler

VALIDATION_SEED = 1_000_003
UNSEEN = {"cluster", "name", "only_clusters", "validation"}
"""Keys that no weight depends on."""
TURNS = {"all": tuple(range(8)), "flip": (0, 4), "none": (0,)}
"""Dihedral symmetries by the configuration's word; 4 is the mirror image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTask:
    """A network of pairs in training: `model` is what the loop steps."""

    model: nn.Module
    network: PairUNet
    scheduler: DDPMScheduler
    codec: PairCodec
    config: PairsConfig
    workers: Workers
    base_model_id: str | None = None

    def loss(self, pairs: PairSet, part: Part) -> dict[str, Tensor]:
        """Return the named losses of a part of a step: 'loss', and its 'image' and 'mask' part."""
        size, seed = self.config.training.batch_size, self.config.seed
        indices = step_indices(part.step, batch_size=size, num_images=len(pairs.ids), seed=seed)
        mine = [int(indices[place]) for place in part.take(range(size))]
        clean = self.clean(pairs, mine, self._turns(part))
        noised = add_noise(
            self.scheduler, clean.to(self.workers.device), part, batch_size=size, seed=seed
        )
        labels = self._labels(pairs, mine, part)
        prediction = self.model(noised.noisy, noised.timesteps, labels).sample
        return self.weighted(noised, prediction)

    @torch.no_grad()
    def validate(self, pairs: PairSet, *, max_images: int) -> dict[str, float]:
        """Return the losses on images spread over `pairs`, always with the same noise.

        Every worker computes all of it: a sharded model needs them all.
        """
        rows, size = spread(pairs.labels, max_images), self.config.training.batch_size
        clean = self.clean(pairs, rows, [0] * len(rows)).to(self.workers.device)
        noised = add_noise(
            self.scheduler, clean, Part(step=0), batch_size=len(rows), seed=VALIDATION_SEED
        )
        known = list(self.network.config.labels)
        labels = torch.tensor([known.index(pairs.labels[row]) for row in rows]) if known else None
        predictions = [
            self.model(
                noised.noisy[first : first + size],
                noised.timesteps[first : first + size],
                None if labels is None else labels[first : first + size].to(self.workers.device),
            ).sample
            for first in range(0, len(rows), size)
        ]
        losses = self.weighted(noised, torch.cat(predictions))
        return {f"val_{name}": float(value) for name, value in losses.items()}

    def clean(self, pairs: PairSet, rows: list[int], turns: list[int]) -> Tensor:
        """Return pairs (B, C, h, w) of these rows, each under its own turn."""
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

    def _turns(self, part: Part) -> list[int]:
        choices, size = TURNS[self.config.turns], self.config.training.batch_size
        generator = step_generator(part.step, seed=self.config.seed, stream=1)
        drawn = torch.randint(0, len(choices), (size,), generator=generator)
        return [choices[number] for number in part.take(drawn).tolist()]

    def _labels(self, pairs: PairSet, rows: list[int], part: Part) -> Tensor | None:
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
        return torch.tensor(labels, device=self.workers.device)


def build_task(
    config: PairsConfig,
    pairs: PairSet,
    *,
    vae: Any = None,
    base: PairBase | None = None,
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
    network = _untrained(config, pairs, vae) if base is None else _known_to(base, config, pairs)
    if config.lora is not None:
        network.requires_grad_(False)
        add_lora(network, config.lora.unet_targets, config.lora, seed=config.seed)
    scheduler = pair_scheduler(
        prediction_type=config.prediction_type, beta_schedule=config.beta_schedule
    )
    return PairTask(
        model=place(network, workers),
        network=network,
        scheduler=scheduler,
        codec=PairCodec(num_classes=len(pairs.mask_values), fold=network.config.fold, vae=vae),
        config=config,
        workers=workers,
        base_model_id=base.model_id if base else None,
    )


def _untrained(config: PairsConfig, pairs: PairSet, vae: Any) -> PairUNet:
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


def _known_to(base: PairBase, config: PairsConfig, pairs: PairSet) -> PairUNet:
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


def label_names(config: PairsConfig, pairs: PairSet) -> tuple[str, ...]:
    """Return what the condition chooses from: classes or clusters in order, nothing for 'none'."""
    if config.condition == "class":
        return tuple(sorted(set(pairs.labels)))
    if config.condition == "cluster":
        return tuple(map(str, sorted(set(pairs.clusters))))
    return ()


def pairs_loop(task: PairTask, pairs: PairSet, checkpoints: Path | None) -> Loop:
    """Return the resumable loop that trains `task` on `pairs`."""
    resumable = task.config.model_dump(mode="json", exclude=UNSEEN)
    return Loop(
        task.model,
        lambda _module, part: task.loss(pairs, part),
        loop_config(
            task.config.training,
            task.config.cluster,
            resumable=resumable
            | {
                "base_model_id": task.base_model_id,
                "split_digest": pairs.split_digest,
                "ids_digest": pairs.ids_digest,
            },
            checkpoint_dir=checkpoints,
            best_by=task.config.validation.best_by,
        ),
        task.workers,
    )
