"""Drawing through a pipeline's own `__call__`, with our noise: every family but the first.

A batch of a known family is one call: prompts are encoded once and alone, each image starts from
its own noise, and the autoencoder decodes one at a time. Of an unknown family nobody can say
whether an image of a batch depends on its neighbours, so its images are drawn one by one.
"""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from factory.errors import ModelError
from factory.models.families import GENERIC, Family
from factory.sample.drawn import Drawn
from factory.sample.guidance import to_uint8
from factory.sample.noise import batch_noise, step_generators
from factory.sample.recipe import Recipe, Request
from factory.sample.references import Reference
from factory.sample.schedulers import new_scheduler
from factory.terminal import quiet_libraries

NEGATIVE = "negative_"
Embedded = Mapping[str, Tensor]
"""What a prompt amounts to, (1, ...) each, by the names of `__call__`."""


class PipelineMethod:
    """Draws what the recipe's prompt says with any text-to-image pipeline of diffusers."""

    def __init__(self, pipeline: Any, family: Family, device: str) -> None:
        """`pipeline`: of `family`, on `device`."""
        self.pipeline, self.family, self.device = pipeline, family, device
        named = {"_class_name": type(pipeline.scheduler).__name__}
        self._schedule = {**pipeline.scheduler.config, **named}
        self._shrinkage = getattr(pipeline, "vae_scale_factor", 8)
        self._takes = signature(pipeline.__call__).parameters
        self._embedded: dict[tuple[str, str], tuple[Embedded, Embedded]] = {}
        pipeline.set_progress_bar_config(disable=True)
        if getattr(pipeline, "watermark", None) is not None:
            pipeline.watermark = None  # drawn only where a package of its own is installed
        vae: Any = getattr(pipeline, "vae", None)
        if hasattr(vae, "enable_slicing"):
            vae.enable_slicing()  # a fixed shape: memory and bits do not depend on the batch

    def drawn(self, requests: Sequence[Request], shown: Sequence[Reference]) -> Drawn:  # noqa: ARG002
        """Return images alone: no reference is shown and no mask is drawn."""
        return Drawn(images=to_uint8(self.draw(requests)))

    @torch.no_grad()
    def draw(self, requests: Sequence[Request]) -> Tensor:
        """Return images (B, 3, H, W) in [-1, 1], float32 on the CPU, one per request.

        Raises:
            ModelError: the pipeline does not take what the recipe says.
        """
        apart = self.family is GENERIC
        groups = [[request] for request in requests] if apart else [list(requests)]
        try:
            return torch.cat([self._call(group) for group in groups])
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"{type(self.pipeline).__name__} cannot draw this recipe ({error})",
                remedy="Change the setting that it names, such as size_px or scheduler",
            ) from error

    def _call(self, requests: Sequence[Request]) -> Tensor:
        recipe, seeds = requests[0].recipe, [request.seed for request in requests]
        self.pipeline.scheduler = new_scheduler(recipe.scheduler, self._schedule)
        asked = self._asked(recipe)
        if self.family is GENERIC:
            asked |= self._prompts(recipe)
        else:
            asked |= self._conditions(requests) | {"negative_prompt": None}
            asked["latents"] = self._latents(recipe, seeds, asked["prompt_embeds"].dtype)
        told = {name: value for name, value in asked.items() if name in self._takes}
        with quiet_libraries():
            made: Tensor = self.pipeline(generator=step_generators(seeds), **told).images
        return made.float().cpu() * 2 - 1

    def _asked(self, recipe: Recipe) -> dict[str, Any]:
        """Return what every call says; a pipeline gets as much of it as it takes."""
        scale = recipe.guidance_scale
        return {
            "height": recipe.height_px,
            "width": recipe.width_px,
            "num_inference_steps": recipe.num_inference_steps,
            "guidance_scale": 1.0 if self.family.guided and scale == 0 else scale,
            "output_type": "pt",
            "use_resolution_binning": False,
            "clean_caption": False,
        }

    def _prompts(self, recipe: Recipe) -> dict[str, Any]:
        """Return what a pipeline of no known family is told, whose embeddings have other names.

        Some know two scales: one that the network is told, if it asks for it, and the true one.
        """
        config = getattr(self.pipeline, self.family.denoiser, self.pipeline).config
        told: dict[str, Any] = {"prompt": recipe.prompt}
        if recipe.negative_prompt:
            told["negative_prompt"] = recipe.negative_prompt
        if "true_cfg_scale" in self._takes and not config.get("guidance_embeds"):
            told |= {"true_cfg_scale": recipe.guidance_scale, "guidance_scale": None}
            told |= {"negative_prompt": recipe.negative_prompt or " "}
        return told

    def _conditions(self, requests: Sequence[Request]) -> dict[str, Tensor]:
        """Return the embeddings (B, ...) of the requests, and those that they are led away from."""
        scale = requests[0].recipe.guidance_scale
        pairs = [self.embed(r.recipe.prompt, r.recipe.negative_prompt) for r in requests]
        if not self.family.guided:
            return stacked([given for given, _ in pairs])
        if scale == 0:  # the path of no prompt, which pipelines have not
            return stacked([without for _, without in pairs])
        conditions = stacked([given for given, _ in pairs])
        if scale > 1:
            away = stacked([without for _, without in pairs])
            conditions |= {NEGATIVE + name: value for name, value in away.items()}
        return conditions

    def embed(self, prompt: str, negative: str = "") -> tuple[Embedded, Embedded]:
        """Return what a prompt and a negative one amount to; every pair is encoded once, alone."""
        if (prompt, negative) not in self._embedded:
            self._embedded[prompt, negative] = embedded(
                self.pipeline, self.family, prompt, negative
            )
        return self._embedded[prompt, negative]

    def keep(self, pairs: Mapping[tuple[str, str], tuple[Embedded, Embedded]]) -> None:
        """Take embeddings that were made before: the encoders are not needed any more."""
        self._embedded |= pairs

    def _latents(self, recipe: Recipe, seeds: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the initial noise (B, C, h, w), packed where the family packs."""
        denoiser, side = (
            getattr(self.pipeline, self.family.denoiser),
            self.pipeline.vae_scale_factor,
        )
        channels = denoiser.config.in_channels // (4 if self.family.packs else 1)
        noise = batch_noise(seeds, (channels, recipe.height_px // side, recipe.width_px // side))
        packed = packed_latents(noise) if self.family.packs else noise
        return packed.to(self.device, dtype)


@torch.no_grad()
def embedded(
    pipeline: Any, family: Family, prompt: str, negative: str
) -> tuple[Embedded, Embedded]:
    """Return what a pipeline's own encoders make of a prompt and of a negative one.

    An empty negative prompt is none: SDXL means zeros by it and not the encoding of ''.
    """
    takes = signature(pipeline.encode_prompt).parameters
    asked: dict[str, Any] = {"prompt_2": None, "prompt_3": None}
    asked["do_classifier_free_guidance"] = True
    asked["negative_prompt"] = negative or (None if "negative_prompt_2" in takes else "")
    for name in ("max_sequence_length", "complex_human_instruction"):
        if default := signature(pipeline.__call__).parameters.get(name):
            asked[name] = default.default
    told = {name: value for name, value in asked.items() if name in takes}
    with quiet_libraries():
        found = pipeline.encode_prompt([prompt], **told)
    named = dict(zip(family.embeds, found, strict=False))
    given = {name: value for name, value in named.items() if not name.startswith(NEGATIVE)}
    if family.guided:
        return given, {name: named[NEGATIVE + name] for name in given}
    if prompt == "":
        return given, given
    return given, embedded(pipeline, family, "", "")[0]


def stacked(rows: Sequence[Embedded]) -> dict[str, Tensor]:
    """Return (B, ...) of each name of B rows (1, ...)."""
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def packed_latents(latents: Tensor) -> Tensor:
    """Return (B, h * w / 4, 4 * C) tokens of 2 x 2 places of latents (B, C, h, w), as FLUX's."""
    batch, channels, height, width = latents.shape
    places = latents.view(batch, channels, height // 2, 2, width // 2, 2)
    return places.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * 4)


def unpacked_latents(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return latents (B, C, height, width) of tokens: the inverse of `packed_latents`."""
    batch, _, channels = tokens.shape
    places = tokens.view(batch, height // 2, width // 2, channels // 4, 2, 2)
    return places.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)
