"""Samples of a class-conditional network in training, by the method that draws with it later."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from factory.finetune.class_conditional import ClassTraining
from factory.finetune.samples import Draw, draw_shared, sample_plan
from factory.finetune.workers import inner
from factory.measure.features import Images
from factory.sample.method import Loaded, method_of


def class_samples(training: ClassTraining, autoencoder: AutoencoderKL, tokenizer: Any) -> Draw:
    """Return what draws classes with the present weights; every worker must call it.

    Args:
        training: the network; not one that is shown maps.
        autoencoder: decodes, on the worker's device.
        tokenizer: of the classes' texts; None where the network reads none.
    """
    config, workers = training.config, training.workers
    pipeline = _pipeline(training, autoencoder, tokenizer)
    method = method_of("class_conditional").open(Loaded(pipeline=pipeline, device=workers.device))
    shares = workers.world_size * config.training.accumulate

    def draw(counts: Mapping[str, int]) -> dict[str, Images]:
        size = config.training.batch_size // shares  # what fits a step fits a forward
        plan = sample_plan(counts, config, size_px=config.size_px, batch_size=size)
        return draw_shared(method, plan, workers)

    return draw


def _pipeline(training: ClassTraining, autoencoder: AutoencoderKL, tokenizer: Any) -> Any:
    """Return the network as the parts of a pipeline that the method uses.

    It is called whole, tokens included: shards are gathered by the forward of the module that was
    sharded, not by those of its parts.
    """
    network, unet = inner(training.model), training.network.unet

    def predict(
        latents: Tensor, timestep: Tensor, condition: Tensor, present: Tensor
    ) -> SimpleNamespace:
        with torch.inference_mode(mode=False), torch.no_grad():  # gathered weights must stay normal
            timesteps = timestep.to(latents.device).expand(len(latents))
            return SimpleNamespace(sample=network(latents, timesteps, condition, present))

    called: Any = predict
    called.config, called.dtype = unet.config, next(unet.parameters()).dtype
    return SimpleNamespace(
        unet=called,
        vae=autoencoder,
        text_encoder=lambda tokens: (tokens,),
        tokenizer=tokenizer,
        scheduler=training.scheduler,
    )
