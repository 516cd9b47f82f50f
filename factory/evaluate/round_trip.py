"""Does a generator bring real images back? Inverted to full depth and denoised, by itself.

Two figures, told apart: against what its autoencoder keeps of an image, which is the diffusion's
own loss, and against the image itself, which the autoencoder bounds from above.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factory.errors import DataError
from factory.evaluate.drawing import Order, Settings, recipe_of
from factory.finetune.latents import to_signed
from factory.measure.features import Images
from factory.sample.engine import Engine
from factory.sample.methods.bridge import predictor_of
from factory.sample.methods.guided import GuidedMethod
from factory.sample.methods.inversion import denoise_from, evaluations_of, invert, make_ladder
from factory.sample.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundTrip:
    """PSNR in dB of n images, (n,) each, after so many steps up and down again."""

    steps: int
    corrections: int
    evaluations: int
    """Of the network, for one image."""
    to_kept: Tensor
    """Against decode(encode(image))."""
    to_real: Tensor
    """Against the image."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundTrips:
    """All round trips of some images, and what the autoencoder alone does to them."""

    autoencoder: Tensor
    """(n,) PSNR in dB of decode(encode(image)) against the image."""
    trips: Sequence[RoundTrip]


@torch.inference_mode()
def round_trips(
    engine: Engine,
    order: Order,
    images: Images,
    *,
    steps: Sequence[int],
    corrections: Sequence[int] = (0,),
    batch_size: int = 16,
) -> RoundTrips:
    """Return the round trips of real images under one class, without guidance.

    Args:
        engine: holds the generator.
        order: class and prompt under which it inverts and denoises; its count is not read.
        images: (n, S, S, 3) uint8 at the generator's size.
        steps: of the inversion, a round trip each.
        corrections: fixed-point iterations of a step, a round trip each.
        batch_size: images in a forward.

    Raises:
        DataError: no images.
        ConfigError: a class that the generator does not know, or more steps than it has.
        ModelError: it has no latents to invert.
    """
    if not len(images):
        raise DataError("a round trip of no images", remedy="Give real images of the class")
    method = engine.guided(order.class_name)
    recipe = recipe_of(engine.generator, order, Settings(guidance_scale=1.0))
    parts = [
        part.to(engine.device)
        for part in torch.split(to_signed(torch.from_numpy(images)), batch_size)
    ]
    kept = [method.decode(method.encode(part)).clamp(-1, 1) for part in parts]
    trips = []
    for count in steps:
        for number in corrections:
            back = list(_back(method, recipe, parts, count, number))
            trips.append(
                RoundTrip(
                    steps=count,
                    corrections=number,
                    evaluations=evaluations_of(count, [count], corrections=number),
                    to_kept=_psnr_db(back, kept),
                    to_real=_psnr_db(back, parts),
                )
            )
    return RoundTrips(autoencoder=_psnr_db(kept, parts), trips=trips)


def _back(
    method: GuidedMethod, recipe: Recipe, parts: Sequence[Tensor], steps: int, corrections: int
) -> Iterator[Tensor]:
    """Yield what comes back of each part, (b, 3, S, S) in [-1, 1]."""
    ladder = make_ladder(method.training_config, steps)
    for part in parts:
        predict = predictor_of(method, recipe, len(part))
        latents = method.encode(part)
        *_, top = invert(predict, ladder, latents, corrections=corrections)
        latents = denoise_from(
            predict, ladder, top.state, [ladder.top] * len(part), slots=len(part)
        )
        yield method.decode(latents).clamp(-1, 1)


def _psnr_db(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Return (n,) on the CPU; images span 2, so the peak's square is 4."""
    error = ((torch.cat(list(first)) - torch.cat(list(second))) ** 2).mean((1, 2, 3))
    return (-10 * torch.log10(error.clamp(min=1e-12) / 4)).cpu()
