"""Samples of a network in training, by the code that draws every other image.

All workers take part, each with its share of the batches: sharded weights are whole on none.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from factory.arrays import Images
from factory.finetune.workers import Workers
from factory.sample.method import Drawer
from factory.sample.plan import Batch, Plan, Quota
from factory.sample.recipe import Recipe, Request

SCHEDULER = "dpmpp_2m"

Draw = Callable[[Mapping[str, int]], dict[str, Images]]
"""Class -> count to class -> images (count, S, S, 3); the first ones are the same in every call."""


def samples_of(
    drawer: Drawer, config: Any, workers: Workers, *, size_px: int, **recipe: Any
) -> Draw:
    """Return what draws classes with the present weights; every worker must call it.

    Args:
        drawer: of a network in training, see `called_whole`.
        config: says guidance, steps, seed and the prompts of classes.
        workers: share the batches; what fits a step fits a forward.
        size_px: side of the images.
        recipe: other keys of every recipe than those of the text method; what takes a class is
            called with it and its number.
    """
    training, drawn = config.training, config.validation
    batch_size = training.batch_size // (workers.world_size * training.accumulate)

    def quota(name: str, number: int, count: int) -> Quota:
        own = {k: v(name, number) if callable(v) else v for k, v in recipe.items()}
        known = {
            "model_id": "in training",
            "class_name": name,
            "class_id": number,
            "guidance_scale": drawn.guidance_scale,
            "num_inference_steps": drawn.num_inference_steps,
            "scheduler": SCHEDULER,
            "height_px": size_px,
            "width_px": size_px,
            "seed": config.seed,
            "batch_size": batch_size,
        }
        if "prompt" not in own:
            known["prompt"] = config.prompt_of(name)
        return Quota(recipe=Recipe(**known | own), count=count)

    def draw(counts: Mapping[str, int]) -> dict[str, Images]:
        """Draw the same requests, and so with the same noise, throughout a run."""
        quotas = [quota(name, n, counts[name]) for n, name in enumerate(sorted(counts))]
        return draw_shared(drawer, Plan(quotas=tuple(quotas)), workers)

    return draw


def called_whole(network: nn.Module, unet: nn.Module, predict: Callable[..., Any]) -> Any:
    """Return `predict` as the U-Net of a pipeline; the network must be called whole in it.

    As in a step: shards are gathered by the forward of the module that was sharded, not by those
    of its parts.
    """

    def called(*given: Any) -> Any:
        with torch.inference_mode(mode=False), torch.no_grad():  # gathered weights must stay normal
            return predict(network, *given)

    found: Any = called
    found.config, found.dtype = unet.config, next(unet.parameters()).dtype
    return found


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
