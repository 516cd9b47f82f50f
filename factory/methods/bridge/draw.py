"""The bridge: a real image inverted in one domain and denoised in another, from m depths.

Source: ADBD (bidirectional domain migration with soft labels) on X. Su et al., Dual Diffusion
Implicit Bridges, 2023. One inversion serves the feature's curve and all depths of a source.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factory.device import up
from factory.errors import ConfigError, ModelError
from factory.methods.bridge.depths import MEASURES, Measure, choose_depths, expert_distance
from factory.methods.bridge.facts import Progression, columns_of, verdicts_of
from factory.methods.bridge.inversion import (
    Predict,
    denoise_from,
    evaluations_of,
    invert,
)
from factory.methods.bridge.plan import BridgeOptions
from factory.models.expert_file import load_expert
from factory.models.experts import Expert, state_digest
from factory.sample.drawn import Drawn
from factory.sample.guidance import GuidedMethod, sides, to_uint8
from factory.sample.levels import Levels, even_levels
from factory.sample.method import Side, options_from
from factory.sample.recipe import Recipe, Request
from factory.sample.references import Reference


class BridgeMethod:
    """Draws the depths of real images between two of its sides. No noise: seeds play no part."""

    def __init__(self, by_name: Mapping[str, Side], device: str) -> None:
        self._sides, self._device = by_name, device
        self._experts: dict[str, Expert] = {}

    @torch.inference_mode()
    def drawn(self, requests: Sequence[Request], shown: Sequence[Reference]) -> Drawn:
        """Return an image per request, with soft label, depth and what was measured.

        All networks run in shapes that the recipe fixes: sources of a batch (batch_size / m) while
        inverting, `slots` while denoising, so an image's bits are its own.

        Raises:
            ConfigError: no references, or a domain that this generator does not have.
            ModelError: the recipe's expert is not at hand.
        """
        recipe, options = requests[0].recipe, _options(requests[0].recipe)
        if not shown:
            raise ConfigError("a bridge was shown no real image", remedy="Set data: and split:")
        by_id = {reference.id: reference for reference in shown}
        progressions = self._invert(by_id, recipe, options)
        asked = list(dict.fromkeys((str(r.recipe.reference_id), r.index) for r in requests))
        decoded = self._denoise(
            [progressions[image_id].states[k] for image_id, k in asked],
            [progressions[image_id].depths[k] for image_id, k in asked],
            recipe,
            options,
        )
        place = {key: number for number, key in enumerate(asked)}
        rows = [place[str(r.recipe.reference_id), r.index] for r in requests]
        drawn = Drawn(
            images=to_uint8(decoded),
            columns=columns_of(
                asked,
                progressions,
                decoded.cpu(),
                {image_id: _pixels([each])[0] for image_id, each in by_id.items()},
                class_names=tuple(self._sides),
                options=options,
                expert=self._expert(options) if options.asks_expert else None,
            ),
            verdicts=verdicts_of(asked, progressions, options),
        )
        return drawn.rows(rows)

    def _invert(
        self, by_id: Mapping[str, Reference], recipe: Recipe, options: BridgeOptions
    ) -> dict[str, Progression]:
        """Return what is known of each source, inverted in groups of one fixed size."""
        ids, size = list(by_id), max(1, recipe.batch_size // options.depths)
        side = self._side(options.pairs[0][0])
        method = side.open()
        levels = even_levels(method.training_config, recipe.num_inference_steps)
        asked = replace(
            recipe,
            class_name=side.class_name,
            prompt=options.source_prompt or "",
            negative_prompt="",
            guidance_scale=1.0,
        )
        predict = predictor_of(method, asked, size)
        found: dict[str, Progression] = {}
        for start in range(0, len(ids), size):
            chunk = ids[start : start + size]
            padded = [by_id[image_id] for image_id in [*chunk, *[chunk[-1]] * (size - len(chunk))]]
            group = self._progressions(method, predict, levels, padded, options, recipe)
            found.update(zip(chunk, group, strict=False))
        return found

    def _progressions(
        self,
        method: GuidedMethod,
        predict: Predict,
        levels: Levels,
        references: Sequence[Reference],
        options: BridgeOptions,
        recipe: Recipe,
    ) -> list[Progression]:
        pixels = up(_pixels(references), self._device)
        latents = method.encode(pixels)
        measure = self._measure(options, pixels, method)
        states, curves = [], []
        for at in invert(predict, levels, latents, corrections=options.corrections):
            states.append(at.state)
            curves.append(measure(at).float())
        table: NDArray[np.float64] = torch.stack(curves, dim=1).cpu().double().numpy()
        psnr = self._round_trip(method, predict, levels, latents, states[-1], options)
        found = []
        for row, curve in enumerate(table):
            depths = choose_depths(options.policy, curve.tolist(), options.depths)
            cost = evaluations_of(
                levels.top,
                depths,
                corrections=options.corrections,
                sides=len(sides(recipe.guidance_scale)),
            )
            found.append(
                Progression(
                    curve=curve,
                    depths=depths,
                    states=torch.stack([states[depth][row] for depth in depths]),
                    psnr_db=None if psnr is None else float(psnr[row]),
                    evaluations=cost if psnr is None else cost + levels.top,
                )
            )
        return found

    def _round_trip(
        self,
        method: GuidedMethod,
        predict: Predict,
        levels: Levels,
        latents: Tensor,
        top: Tensor,
        options: BridgeOptions,
    ) -> Tensor | None:
        """Return (S,) PSNR in dB between what the autoencoder keeps and what comes back.

        On the CPU.
        """
        if options.min_psnr_db is None:
            return None
        count = len(latents)
        back = denoise_from(predict, levels, top, [levels.top] * count, slots=count)
        wanted, found = (method.decode(each).clamp(-1, 1) for each in (latents, back))
        error = ((wanted - found) ** 2).mean((1, 2, 3)).clamp(min=1e-12)
        return (-10 * torch.log10(error / 4)).cpu()

    def _denoise(
        self,
        states: Sequence[Tensor],
        depths: Sequence[int],
        recipe: Recipe,
        options: BridgeOptions,
    ) -> Tensor:
        """Return images (n, 3, H, W) in [-1, 1], drawn by the target from `states`."""
        side = self._side(options.pairs[0][1])
        method = side.open()
        slots = options.slots or -(-recipe.batch_size // 2)
        latents = denoise_from(
            predictor_of(method, replace(recipe, class_name=side.class_name), slots),
            even_levels(method.training_config, recipe.num_inference_steps),
            torch.stack(list(states)),
            depths,
            slots=slots,
        )
        fill = latents[-1:].expand(recipe.batch_size - len(latents), *latents.shape[1:])
        return method.decode(torch.cat([latents, fill]))[: len(latents)]

    def _measure(self, options: BridgeOptions, pixels: Tensor, method: GuidedMethod) -> Measure:
        if options.measure != "expert":
            return MEASURES[options.measure]
        return expert_distance(self._expert(options), pixels, decode=method.decode)

    def _expert(self, options: BridgeOptions) -> Expert:
        folder = str(options.expert)
        if folder not in self._experts:
            self._experts[folder] = open_expert(folder, options.expert_id)[0].to(self._device)
        return self._experts[folder]

    def _side(self, name: str) -> Side:
        if name not in self._sides:
            raise ConfigError(
                f"the generator has no domain {name!r}",
                remedy=f"Its domains are {', '.join(self._sides)}",
            )
        return self._sides[name]


def open_expert(folder: str, expert_id: str | None = None) -> tuple[Expert, str]:
    """Return the expert in `folder`, frozen, and the digest of its weights.

    Raises:
        ModelError: no whole expert there, or another one than `expert_id`.
    """
    expert, _ = load_expert(Path(folder).expanduser())
    found = state_digest(expert)
    if expert_id is not None and found != expert_id:
        raise ModelError(
            f"the expert in {folder} is {found}, the recipe was made with {expert_id}",
            remedy="Put that expert back, or start a new run",
        )
    return expert, found


def _options(recipe: Recipe) -> BridgeOptions:
    options = options_from("bridge", recipe.options)
    if not isinstance(options, BridgeOptions) or len(options.pairs) != 1:
        raise ConfigError(
            "the recipe of a bridge names no pair of domains", remedy="Plan it with method: bridge"
        )
    return options


def predictor_of(method: GuidedMethod, recipe: Recipe, size: int) -> Predict:
    """Return the network of `method` under a recipe's condition and guidance, for `size` rows."""
    requests = [Request(recipe=recipe, index=0)] * size
    bound = method.bound(
        method.conditions(requests, sides(recipe.guidance_scale)), recipe.guidance_scale
    )
    return lambda noisy, timesteps, _rows: bound(noisy, timesteps)


def _pixels(references: Sequence[Reference]) -> Tensor:
    """Return (n, 3, H, W) in [-1, 1]."""
    stacked = np.stack([reference.image for reference in references])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1
