"""Samples of a network in training, by the code that draws every other image.

All workers take part, each with its share of the batches: sharded weights are whole on none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from factory.finetune.adapt import Adaptation
from factory.finetune.class_config import ClassConditionalConfig
from factory.finetune.config import FinetuneConfig
from factory.finetune.pairs import PairTask
from factory.finetune.workers import Workers, inner
from factory.measure.features import Images
from factory.sample.drawn import Drawn
from factory.sample.method import Drawer, Loaded, method_of
from factory.sample.plan import Batch, Plan, Quota
from factory.sample.recipe import Recipe, Request
from factory.sample.references import Reference

SCHEDULER = "dpmpp_2m"

Drawable = FinetuneConfig | ClassConditionalConfig
"""Configurations that say how classes are drawn."""
Draw = Callable[[Mapping[str, int]], dict[str, Images]]
"""Class -> count to class -> images (count, S, S, 3); the first ones are the same in every call."""


def text_samples(adaptation: Adaptation, size_px: int) -> Draw:
    """Return what draws classes with the present weights; every worker must call it."""
    loaded = Loaded(pipeline=_in_training(adaptation), device=adaptation.workers.device)
    method = method_of("text").open(loaded)
    shares = adaptation.workers.world_size * adaptation.config.training.accumulate

    def draw(counts: Mapping[str, int]) -> dict[str, Images]:
        size = adaptation.config.training.batch_size // shares  # what fits a step fits a forward
        plan = sample_plan(counts, adaptation.config, size_px=size_px, batch_size=size)
        return draw_shared(method, plan, adaptation.workers)

    return draw


def sample_plan(
    counts: Mapping[str, int], config: Drawable, *, size_px: int, batch_size: int
) -> Plan:
    """Return what is drawn: the same requests, and so the same noise, throughout a run."""
    quotas = []
    for number, name in enumerate(sorted(counts)):
        recipe = Recipe(
            model_id="in training",
            class_name=name,
            class_id=number,
            prompt=config.prompt_of(name),
            guidance_scale=config.validation.guidance_scale,
            num_inference_steps=config.validation.num_inference_steps,
            scheduler=SCHEDULER,
            height_px=size_px,
            width_px=size_px,
            seed=config.seed,
            batch_size=batch_size,
        )
        quotas.append(Quota(recipe=recipe, count=counts[name]))
    return Plan(quotas=tuple(quotas))


def pair_samples(task: PairTask, name: str) -> Draw:
    """Return what draws pairs with the present weights, each mask at the right of its image.

    Every worker must call it. Rows are the labels of the network, or the one row `name`.
    """
    config, labels = task.config, tuple(task.network.config.labels)
    loaded = Loaded(pipeline=_pairs_in_training(task), device=task.workers.device)
    method = _BesideMasks(method_of("pairs").open(loaded), len(task.network.config.mask_values))
    size = config.training.batch_size // (task.workers.world_size * config.training.accumulate)

    def draw(counts: Mapping[str, int]) -> dict[str, Images]:
        recipe = Recipe(
            model_id="in training",
            method="pairs",
            class_name=name,
            class_id=0,
            prompt="",
            guidance_scale=config.validation.guidance_scale if labels else 1.0,
            num_inference_steps=config.validation.num_inference_steps,
            scheduler=SCHEDULER,
            height_px=config.size_px,
            width_px=config.size_px,
            seed=config.seed,
            batch_size=size,
        )
        quotas = [
            Quota(
                recipe=replace(
                    recipe,
                    class_name=row,
                    class_id=number,
                    cluster_id=int(row) if config.condition == "cluster" else None,
                ),
                count=counts[row],
            )
            for number, row in enumerate(sorted(counts))
        ]
        return draw_shared(method, Plan(quotas=tuple(quotas)), task.workers)

    return draw


class _BesideMasks:
    """A method of pairs whose images (B, S, 2 S, 3) show the mask in grey at their right."""

    def __init__(self, method: Drawer, num_classes: int) -> None:
        self._method, self._num_classes = method, num_classes

    def drawn(self, requests: Sequence[Request], shown: Sequence[Reference]) -> Drawn:
        """Draw `requests`."""
        drawn = self._method.drawn(requests, shown)
        assert drawn.masks is not None  # noqa: S101 -- for mypy: pairs have masks
        step = 255 // (self._num_classes - 1)
        grey = np.repeat((drawn.masks * step)[..., None], 3, axis=3)
        return Drawn(images=np.concatenate([drawn.images, grey], axis=2))


def _pairs_in_training(task: PairTask) -> Any:
    """Return the network as the parts of a pipeline that `PairsMethod` uses; see `_in_training`."""
    network = inner(task.model)

    def predict(sample: Tensor, timestep: int, labels: Tensor | None) -> SimpleNamespace:
        with torch.no_grad():
            steps = torch.full((len(sample),), timestep, device=sample.device)
            return SimpleNamespace(sample=network(sample, steps, labels).sample)

    called: Any = predict
    called.config, called.dtype = task.network.config, next(task.network.parameters()).dtype
    called.null_label = task.network.null_label
    called.requires_grad_ = lambda _on: called  # it goes on learning
    return SimpleNamespace(
        unet=called, vae=task.codec.vae, scheduler=task.scheduler, name_or_path=""
    )


def draw_shared(method: Drawer, plan: Plan, workers: Workers) -> dict[str, Images]:
    """Return class -> images (n, S, S, 3), on every worker, each having drawn its share.

    All draw equally many batches (the last one again where they do not come out even): with
    shards a forward is a conversation of all workers.
    """
    batches, peers = list(plan.batches()), workers.world_size
    rounds = -(-len(batches) // peers)
    mine = [batches[min(peers * r + workers.rank, len(batches) - 1)] for r in range(rounds)]
    drawn = gathered(np.stack([method.drawn(_filled(b), ()).images for b in mine]), workers)
    images: dict[str, list[Images]] = {}
    for number, batch in enumerate(batches):
        pixels = drawn[number % peers][number // peers]
        for request, image in zip(batch.requests, pixels, strict=False):  # the rest is filling
            images.setdefault(request.recipe.class_name, []).append(image)
    return {name: np.stack(images[name]) for name in sorted(images)}


def gathered(array: Images, workers: Workers) -> list[Images]:
    """Return the arrays of all workers, which must be of one shape, in the order of their ranks."""
    if workers.world_size == 1:
        return [array]
    own = torch.from_numpy(array).to(workers.device)
    everyone = [torch.empty_like(own) for _ in range(workers.world_size)]
    dist.all_gather(everyone, own)
    return [each.cpu().numpy() for each in everyone]


def _filled(batch: Batch) -> list[Request]:
    return [*batch.requests, *[batch.requests[-1]] * (batch.size - len(batch.requests))]


def _in_training(adaptation: Adaptation) -> Any:
    """Return the network as the parts of a pipeline that `TextMethod` uses.

    It is called whole, from tokens to prediction, as in a step: shards are gathered by the
    forward of the module that was sharded, not by those of its parts.
    """
    network, unet = inner(adaptation.model), adaptation.network.unet

    def predict(latents: Tensor, timestep: Tensor, tokens: Tensor) -> SimpleNamespace:
        with torch.inference_mode(mode=False), torch.no_grad():  # gathered weights must stay normal
            return SimpleNamespace(sample=network(latents, timestep, tokens))

    called: Any = predict
    called.config, called.dtype = unet.config, next(unet.parameters()).dtype
    return SimpleNamespace(
        unet=called,
        vae=adaptation.autoencoder.to(adaptation.workers.device),
        text_encoder=lambda tokens: (tokens,),
        tokenizer=adaptation.tokenizer,
        scheduler=adaptation.scheduler,
    )
