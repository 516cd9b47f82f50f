"""Pairs: images drawn together with their masks, from noise, from a real pair, or inside one.

noise | reference | RePaint -> style pass -> colours -> mask indices -> pasted into the real.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factory.arrays import Pixels
from factory.device import up
from factory.errors import ConfigError
from factory.methods.pairs.options import PairsOptions, Style, first_level
from factory.methods.pairs.real import (
    Real,
    each,
    finished,
    pixels_of,
    read_real,
    recoloured,
    signed,
    tidied,
)
from factory.methods.pairs.style import Lead, Sampling, check_weights, styled
from factory.models.extractors import Extractor, find_extractor, load_extractor
from factory.models.pair_codec import PairCodec, to_indices
from factory.sample.drawn import Drawn
from factory.sample.guidance import guided, sides, to_uint8
from factory.sample.levels import solver_levels
from factory.sample.loop import DOWN, noise_like, repaint_moves, walk
from factory.sample.method import options_from
from factory.sample.noise import batch_noise, step_generators
from factory.sample.recipe import Recipe, Request
from factory.sample.references import Reference


def pairs_options(recipe: Recipe) -> PairsOptions:
    """Return the options of a recipe of pairs.

    Raises:
        ConfigError: options of another version.
    """
    options = options_from("pairs", recipe.options)
    return options if isinstance(options, PairsOptions) else PairsOptions()


class PairsMethod:
    """Draws fixed-shape batches of pairs that share their settings."""

    def __init__(self, pipeline: Any, device: str) -> None:
        """`pipeline`: a `PairPipeline` on `device`; only its parts are used."""
        self.unet, self.device = pipeline.unet.requires_grad_(False), device
        self._folder = Path(pipeline.name_or_path)
        self._extractors: dict[str, Extractor] = {}
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
        real = None
        if options.shows_references:
            real = read_real(shown, options, mask_values=self.mask_values, device=self.device)
        sampling = self._sampling(requests, options)
        pairs, told = self._sampled(sampling, options, real), list[str]()
        if options.style is not None:
            pairs, told = self._styled(sampling, options.style, pairs, shown)
        images, planes = self.codec.decode(pairs)
        masks = self._masks(planes, options)
        if options.match_colours:
            images = recoloured(images, shown)
        drawn = finished(to_uint8(images), masks, shown, real, options)
        return replace(drawn, columns={"guidance_terms": told}) if told else drawn

    def _styled(
        self, sampling: Sampling, style: Style, pairs: Tensor, shown: Sequence[Reference]
    ) -> tuple[Tensor, list[str]]:
        """Return the pairs after the style pass, and what its terms were."""
        for name, use in style.extractors.items():
            if name not in self._extractors:
                path = find_extractor(name, use=use, generator=self._folder)
                self._extractors[name] = load_extractor(name, path, device=self.device)
            check_weights(self._extractors[name], style)
        lead = Lead(
            style=style,
            codec=self.codec,
            encode=lambda clean: self.unet.features(clean.to(self.unet.dtype)),
            extractors=self._extractors,
            source=pairs,
            target=up(signed([(each.target or each).image for each in shown]), self.device),
            generators=sampling.generators,
        )
        steps = style.num_inference_steps or sampling.levels.top
        levels = solver_levels(sampling.levels.scheduler, self.training_config, steps)
        timesteps = up(levels.timesteps, self.device)
        return styled(replace(sampling, levels=levels, timesteps=timesteps), lead)

    def _sampling(self, requests: Sequence[Request], options: PairsOptions) -> Sampling:
        recipe, seeds = requests[0].recipe, [request.seed for request in requests]
        noise = batch_noise(seeds, self.codec.shape(recipe.height_px))
        levels = solver_levels(recipe.scheduler, self.training_config, recipe.num_inference_steps)
        return Sampling(
            forward=self._bound(requests),
            levels=levels,
            timesteps=up(levels.timesteps, self.device),
            noise=up(noise, self.device),
            generators=step_generators(seeds),
            clip=options.clip and self.codec.vae is None,
        )

    def _bound(self, requests: Sequence[Request]) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the network with the labels of `requests`, and guidance away from the null one."""
        scale = requests[0].recipe.guidance_scale
        if not self.unet.config.labels:
            return lambda sample, timestep: self._forward(sample, timestep, None)
        own = torch.tensor([self._label(request) for request in requests])
        null = torch.full_like(own, self.unet.null_label)
        given = up(torch.cat([own if side else null for side in sides(scale)]), self.device)

        return guided(lambda state, timestep: self._forward(state, timestep, given), scale)

    def _forward(self, sample: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
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

    def _sampled(self, sampling: Sampling, options: PairsOptions, real: Real | None) -> Tensor:
        """Return pairs (B, C, h, w) before their last touches."""
        levels, steps = sampling.levels, sampling.levels.top
        first = first_level(steps, options.skip_timesteps)
        go = partial(walk, predict=sampling.predict, levels=levels, first=first)
        go = partial(go, generators=sampling.generators)
        if options.inpaint is not None and real is not None:
            moves = repaint_moves(
                steps,
                jump_length=options.inpaint.jump_length,
                repeats=options.inpaint.repeats,
            )
            return go(
                sampling.noise,
                moves=moves,
                before=self._known(sampling, real, keep_mask=options.inpaint.keep_mask),
            )
        moves = [DOWN] * first
        if options.start == "noise":
            return go(sampling.noise, moves=moves)
        clean = torch.zeros_like(sampling.noise)
        if options.start == "reference" and real is not None:
            clean = self._encoded(real.images, real.masks)
        return go(levels.at(first, clean, sampling.noise), moves=moves)

    def _encoded(self, images: Tensor, masks: Pixels) -> Tensor:
        return self.codec.encode(images, up(torch.from_numpy(masks), self.device))

    def _known(
        self, sampling: Sampling, real: Real, *, keep_mask: bool
    ) -> Callable[[Tensor, int], Tensor]:
        """Return what puts the real pair, as noisy as the sample, outside the region.

        With `keep_mask` the real mask is put inside it too.

        Source: Lugmayr et al. 2022, equation 8.
        """
        clean = self._encoded(real.images, real.masks)
        redrawn = self.codec.spread(up(torch.from_numpy(real.regions), self.device))
        if keep_mask:
            redrawn[:, self.codec.image_channels :] = 0

        def known(state: Tensor, level: int) -> Tensor:
            noise = noise_like(state, sampling.generators)
            return redrawn * state + (1 - redrawn) * sampling.levels.at(level, clean, noise)

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
