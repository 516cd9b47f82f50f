"""Pairs: images drawn together with their masks, from noise, from a real pair, or inside one.

noise | reference | RePaint -> style pass -> colours -> mask indices -> pasted into the real.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factory.errors import ConfigError, DataError
from factory.models.pair_codec import PairCodec, class_indices, to_indices
from factory.sample.colour import match_colours
from factory.sample.drawn import Drawn
from factory.sample.methods import walk as w
from factory.sample.methods.guided import guide, sides, to_uint8
from factory.sample.methods.pairs_options import PairsOptions
from factory.sample.noise import batch_noise, step_generators
from factory.sample.options import options_from
from factory.sample.recipe import Recipe, Request
from factory.sample.references import Reference
from factory.sample.regions import dilated, each, pasted, pixels_of, tidied

Pixels = NDArray[np.uint8]


def pairs_options(recipe: Recipe) -> PairsOptions:
    """Return the options of a recipe of pairs.

    Raises:
        ConfigError: options of another version.
    """
    options = options_from("pairs", recipe.options)
    return options if isinstance(options, PairsOptions) else PairsOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """One batch on its way: its network bound to its conditions, its levels, its noise."""

    forward: Callable[[Tensor, int], Tensor]
    """(sample, timestep) to the guided prediction."""
    levels: w.Levels
    noise: Tensor
    """(B, C, h, w), the initial one."""
    generators: Sequence[torch.Generator]
    kind: str
    clip: bool

    def predict(self, sample: Tensor, index: int) -> Tensor:
        """Return the solver's prediction at a level, its x0 kept within [-1, 1] if so asked."""
        prediction = self.forward(sample, self.levels.timesteps[index])
        if not self.clip:
            return prediction
        alpha = self.levels.alpha(index).to(sample.device)
        clean = w.to_clean(self.kind, sample, prediction, alpha).clamp(-1, 1)
        return w.from_clean(self.kind, sample, clean, alpha)


@dataclass(frozen=True, slots=True, kw_only=True)
class Real:
    """The real pairs of a batch; masks and regions are empty where the options need none."""

    images: Tensor
    """(B, 3, S, S) in [-1, 1]."""
    masks: Pixels = field(default_factory=lambda: np.zeros((0, 0, 0), np.uint8))
    """(B, S, S) class indices."""
    regions: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0, 0), bool))
    """(B, S, S): what is re-drawn."""


class PairsMethod:
    """Draws fixed-shape batches of pairs that share their settings."""

    def __init__(self, pipeline: Any, device: str) -> None:
        """`pipeline`: a `PairPipeline` on `device`; only its parts are used."""
        self.unet, self.device = pipeline.unet, device
        self.training_config = pipeline.scheduler.config
        config = self.unet.config
        self.mask_values = tuple(config.mask_values)
        self.codec = PairCodec(
            num_classes=len(self.mask_values), fold=config.fold, vae=pipeline.vae
        )

    @torch.no_grad()
    def drawn(self, requests: Sequence[Request], shown: Sequence[Reference]) -> Drawn:
        """Return images and masks; `shown` has a reference for each where the options need any.

        Raises:
            ConfigError: options or scale that this generator cannot follow.
            DataError: a reference whose mask is empty or of unknown values.
        """
        recipe = requests[0].recipe
        options = pairs_options(recipe)
        real = self._real(shown, options) if options.shows_references else None
        sampling = self._sampling(requests, options)
        pairs = self._sampled(sampling, options, real)
        images, planes = self.codec.decode(pairs)
        masks = self._masks(planes, options)
        if options.match_colours:
            images = _recoloured(images, shown)
        return self._finished(to_uint8(images), masks, shown, real, options)

    def _sampling(self, requests: Sequence[Request], options: PairsOptions) -> Sampling:
        recipe, seeds = requests[0].recipe, [request.seed for request in requests]
        return Sampling(
            forward=self._bound(requests),
            levels=w.make_levels(
                recipe.scheduler, self.training_config, recipe.num_inference_steps
            ),
            noise=batch_noise(seeds, self.codec.shape(recipe.height_px)).to(self.device),
            generators=step_generators(seeds),
            kind=self.training_config.prediction_type,
            clip=options.clip and self.codec.vae is None,
        )

    def _bound(self, requests: Sequence[Request]) -> Callable[[Tensor, int], Tensor]:
        """Return the network with the labels of `requests`, and guidance away from the null one."""
        scale = requests[0].recipe.guidance_scale
        if not self.unet.config.labels:
            if scale != 1:
                raise ConfigError(
                    f"guidance_scale {scale}: this generator was trained without a condition",
                    remedy="Set guidance_scale: 1",
                )
            return lambda sample, timestep: self._forward(sample, timestep, None)
        own = torch.tensor([self._label(request) for request in requests])
        null = torch.full_like(own, self.unet.null_label)
        given = torch.cat([own if side else null for side in sides(scale)]).to(self.device)

        def forward(sample: Tensor, timestep: int) -> Tensor:
            copies = torch.cat([sample] * len(sides(scale)))
            return guide(self._forward(copies, timestep, given), scale)

        return forward

    def _forward(self, sample: Tensor, timestep: int, labels: Tensor | None) -> Tensor:
        prediction: Tensor = self.unet(sample.to(self.unet.dtype), timestep, labels).sample
        return prediction.float()

    def _label(self, request: Request) -> int:
        """Return the embedding of a request: its class or its cluster."""
        labels, recipe = self.unet.config.labels, request.recipe
        name = recipe.class_name if self.unet.config.condition == "class" else recipe.cluster_id
        if str(name) not in labels:
            raise ConfigError(
                f"{self.unet.config.condition} {name!r} is unknown to this generator",
                remedy=f"Choose from {', '.join(labels)}",
            )
        return int(labels.index(str(name)))

    def _real(self, shown: Sequence[Reference], options: PairsOptions) -> Real:
        signed = np.stack([each.image for each in shown]).transpose(0, 3, 1, 2) / 127.5 - 1
        images = torch.from_numpy(signed.astype(np.float32)).to(self.device)
        if not options.reads_masks:
            return Real(images=images)
        masks = np.stack([self._indices(reference) for reference in shown])
        if options.inpaint is None:
            return Real(images=images, masks=masks)
        size = pixels_of(options.inpaint.dilation_share, masks.shape[-1])
        return Real(
            images=images, masks=masks, regions=np.stack([dilated(mask, size) for mask in masks])
        )

    def _indices(self, reference: Reference) -> Pixels:
        if reference.mask is None:
            raise DataError(
                f"image {reference.id!r} has no mask", remedy="Choose references that have one"
            )
        return class_indices(reference.mask, self.mask_values, name=reference.id)

    def _sampled(self, sampling: Sampling, options: PairsOptions, real: Real | None) -> Tensor:
        """Return pairs (B, C, h, w) before their last touches."""
        levels, steps = sampling.levels, len(sampling.levels.timesteps)
        first = w.first_index(steps, options.skip_timesteps)
        go = partial(w.walk, predict=sampling.predict, levels=levels, first=first)
        go = partial(go, generators=sampling.generators)
        if options.inpaint is not None and real is not None:
            moves = w.repaint_moves(
                steps,
                jump_length=options.inpaint.jump_length,
                repeats=options.inpaint.repeats,
            )
            return go(sampling.noise, moves=moves, before=self._known(sampling, real))
        moves = [w.DOWN] * (first + 1)
        if options.start == "noise":
            return go(sampling.noise, moves=moves)
        clean = torch.zeros_like(sampling.noise)
        if options.start == "reference" and real is not None:
            clean = self._encoded(real.images, real.masks)
        return go(levels.noised(clean, sampling.noise, first), moves=moves)

    def _encoded(self, images: Tensor, masks: Pixels) -> Tensor:
        return self.codec.encode(images, torch.from_numpy(masks).to(self.device))

    def _known(self, sampling: Sampling, real: Real) -> Callable[[Tensor, int], Tensor]:
        """Return what puts the real pair, as noisy as the sample, outside the region.

        Source: Lugmayr et al. 2022, equation 8.
        """
        clean = self._encoded(real.images, real.masks)
        redrawn = self.codec.spread(torch.from_numpy(real.regions).to(self.device))

        def known(sample: Tensor, index: int) -> Tensor:
            noise = w.noise_like(sample, sampling.generators)
            return redrawn * sample + (1 - redrawn) * sampling.levels.noised(clean, noise, index)

        return known

    def _masks(self, planes: Tensor, options: PairsOptions) -> Pixels:
        """Return tidied class indices (B, H, W)."""
        indices: Pixels = to_indices(planes, threshold=options.mask.threshold).cpu().numpy()
        size = indices.shape[-1]
        return each(
            indices,
            partial(
                tidied,
                opening_px=pixels_of(options.mask.opening_share, size),
                min_area_px=round(options.mask.min_area_share * size * size),
                fill_holes=options.mask.fill_holes,
            ),
        )

    def _finished(
        self,
        images: Pixels,
        masks: Pixels,
        shown: Sequence[Reference],
        real: Real | None,
        options: PairsOptions,
    ) -> Drawn:
        """Paste what was known back, if so asked."""
        inpaint = options.inpaint
        if inpaint is None or inpaint.paste == "none" or real is None:
            return Drawn(images=images, masks=masks)
        blend = pixels_of(inpaint.blend_share, images.shape[1]) if inpaint.paste == "blend" else 0
        whole = [
            pasted(image, reference.image, region, blend_px=blend)
            for image, reference, region in zip(images, shown, real.regions, strict=True)
        ]
        return Drawn(images=np.stack(whole), masks=np.where(real.regions, masks, real.masks))


def _recoloured(images: Tensor, shown: Sequence[Reference]) -> Tensor:
    """Return images (B, 3, H, W) with the colours of their targets."""
    moved = [
        match_colours(
            image.permute(1, 2, 0).double().cpu().numpy(),
            (reference.target or reference).image / 127.5 - 1,
        )
        for image, reference in zip(images, shown, strict=True)
    ]
    return torch.from_numpy(np.stack(moved).transpose(0, 3, 1, 2)).float()
