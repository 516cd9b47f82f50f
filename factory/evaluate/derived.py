"""Pictures that an arm's ways make of others: in other colours, or through an autoencoder.

They are looked at in place of, or beside, the pictures that they are made of (`Manifest.shown_as`).
Colours are moved by statistics of all images together: were each brought to the target's colours by
itself, a cell with much nucleus would be bleached to look like one with little.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace

import numpy as np

from factory.arrays import Floats, Images, Masks
from factory.evaluate.arms import Colouring, Manifest
from factory.evaluate.pictures import extended
from factory.evaluate.units import Material

_AT_ONCE = 32


def with_derived(
    material: Material, manifests: Iterable[Manifest], held: Set[str] = frozenset()
) -> Material:
    """Return the material with every picture that these arms look at, of `held` images as well.

    Raises:
        ModelError: there is no such generator, or it has no autoencoder.
    """
    position, made = dict(material.position), list[Images]()
    for manifest in manifests:
        pairs = [(i, row.id) for row in manifest.rows for i in manifest.shown_as(row)]
        pairs += [(i, own) for own in sorted(held) for i in manifest.judged_as(own)]
        lacking = {shown: own for shown, own in pairs if shown not in position}
        if not lacking:
            continue
        images = material.images[material.rows(list(lacking.values()))]
        if manifest.ways.colour:
            like = material.images[material.rows(manifest.own)]
            made.append(coloured(images, like, manifest.ways.colour))
        else:
            made.append(round_trip(images, str(manifest.ways.autoencoder)))
        position |= {i: len(position) + n for n, i in enumerate(lacking)}
    return replace(material, images=extended(material.images, made), position=position)


def round_trip(images: Images, model: str) -> Images:
    """Return what the autoencoder of a generator makes of images (N, S, S, 3)."""
    import torch

    from factory.finetune.latents import to_signed
    from factory.models.generator import find_generator
    from factory.models.pipeline import load_pipeline
    from factory.sample.guidance import to_uint8

    vae = load_pipeline(find_generator(model)).vae
    found = []
    with torch.inference_mode():
        for chunk in torch.split(torch.from_numpy(images), _AT_ONCE):
            latents = vae.encode(to_signed(chunk).to(vae.dtype)).latent_dist.mode()
            found.append(to_uint8(vae.decode(latents).sample.float()))
    return np.concatenate(found)


SCALES = (0.6, 1.4)
"""Of a pasted object's sides."""
_FEATHER = 1.0
"""Pixels over which a pasted object fades (sigma)."""


def pasted(
    giver: tuple[Images, Masks], taker: tuple[Images, Masks], *, number: int
) -> tuple[Images, Masks]:
    """Return pairs (N, S, S, 3), (N, S, S) in which one's object lies in another.

    It is turned, scaled by `SCALES` and moved at random, and its centre stays inside.

    Args:
        giver: images and masks whose objects (all but 0) are taken.
        taker: those that they are laid into.
        number: decides turns, sizes and places.
    """
    import torch
    from torchvision.transforms.v2 import functional as tv

    from factory.finetune.latents import turn

    images, masks = (torch.from_numpy(part) for part in giver)
    into, under = (torch.from_numpy(part) for part in taker)
    found: list[tuple[Images, Masks]] = []
    for n, (picture, mask) in enumerate(zip(images, masks, strict=True)):
        rng = np.random.Generator(np.random.Philox(key=[number, n]))
        both = torch.cat([picture.permute(2, 0, 1).float(), mask[None].float()])
        both = turn(both[None], int(rng.integers(8)))[0]
        places = torch.nonzero(both[3]).float()
        y, x = places.mean(dim=0).tolist() if len(places) else (0.0, 0.0)
        goal = rng.uniform(0.2, 0.8, 2) * both.shape[-1]
        centre, moved = [x, y], [goal[1] - x, goal[0] - y]
        how = {"angle": 0.0, "shear": [0.0], "scale": float(rng.uniform(*SCALES))}
        laid, where = (
            tv.affine(part, translate=moved, center=centre, interpolation=way, **how)
            for part, way in (
                (both[:3], tv.InterpolationMode.BILINEAR),
                (both[3:], tv.InterpolationMode.NEAREST),
            )
        )
        alpha = tv.gaussian_blur((where > 0).float(), kernel_size=[5, 5], sigma=[_FEATHER])
        mixed = alpha * laid + (1 - alpha) * into[n].permute(2, 0, 1)
        shown = torch.where(where[0] > 0, where[0], under[n].float())
        found.append(
            (
                mixed.round().clamp(0, 255).byte().permute(1, 2, 0).numpy(),
                shown.to(under.dtype).numpy(),
            )
        )
    pictures, shown_masks = zip(*found, strict=True)
    return np.stack(pictures), np.stack(shown_masks)


_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_OPPONENT = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])
"""Of log LMS (D. Ruderman, T. Cronin and C. Chiao, JOSA A 1998), as Reinhard et al. give them."""
_STAINED = 0.15
"""Least optical density of a pixel that holds stain (Macenko et al.)."""
_SEEN = 20_000
"""Pixels that stains are estimated from."""


def coloured(images: Images, like: Images, how: Colouring) -> Images:
    """Return images (N, H, W, 3) in the colours of others (M, H, W, 3)."""
    return _WAYS[how](images, like)


def reinhard(images: Images, like: Images) -> Images:
    """Match mean and spread of every axis of a decorrelated colour space.

    E. Reinhard et al., Color Transfer between Images, IEEE CG&A 2001.
    """
    own, other = _opponent(images), _opponent(like)
    scaled = (own - own.mean(axis=0)) / np.maximum(own.std(axis=0), 1e-6)
    moved = scaled * other.std(axis=0) + other.mean(axis=0)
    light = 10 ** (moved @ np.linalg.inv(_OPPONENT).T) @ np.linalg.inv(_LMS).T
    return _pixels(light, images)


def macenko(images: Images, like: Images) -> Images:
    """Keep how much of two stains each pixel holds, and give them the others' colours and strength.

    M. Macenko et al., A method for normalizing histology slides, ISBI 2009.
    """
    own, other = Stains.of(images), Stains.of(like)
    amounts = _density(images, own.light) @ np.linalg.pinv(own.colours)
    density = (amounts / own.strength * other.strength) @ other.colours
    return _pixels(other.light * np.exp(-density), images)


@dataclass(frozen=True, kw_only=True)
class Stains:
    """Two stains: colours (2, 3) of unit length in optical density, strength (2,) of each."""

    light: Floats
    """(3,) where nothing is stained: the 99th percentile of each channel."""
    colours: Floats
    strength: Floats
    """The 99th percentile of its amount."""

    @classmethod
    def of(cls, images: Images) -> "Stains":
        """Return the extremes of the plane that most stained pixels lie in."""
        shown = images.reshape(-1, 3)
        shown = shown[:: max(1, len(shown) // _SEEN)]
        light = np.maximum(np.percentile(shown, 99, axis=0), 1) / 255
        density = _density(shown, light)
        stained = density[(density > _STAINED).all(axis=1)]
        stained = stained if len(stained) > 10 else density
        _, _, axes = np.linalg.svd(stained - stained.mean(axis=0), full_matrices=False)
        plane = axes[:2] * np.sign(axes[:2].sum(axis=1, keepdims=True))
        angles = np.arctan2(*(stained @ plane.T).T[::-1])
        ends = np.percentile(angles, [1, 99])
        found = np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane
        found = found[np.argsort(-found[:, 0] / np.linalg.norm(found, axis=1))]
        colours = found / np.linalg.norm(found, axis=1, keepdims=True)
        amounts = stained @ np.linalg.pinv(colours)
        return cls(
            light=light,
            colours=colours,
            strength=np.maximum(np.percentile(amounts, 99, axis=0), 1e-3),
        )


def _opponent(images: Images) -> Floats:
    light = np.maximum(images.reshape(-1, 3), 1) / 255
    return np.asarray(np.log10(light @ _LMS.T) @ _OPPONENT.T)


def _density(images: Images, light: Floats) -> Floats:
    return np.asarray(-np.log(np.maximum(images.reshape(-1, 3), 1) / (255 * light)))


def _pixels(light: Floats, images: Images) -> Images:
    shown = np.rint(255 * np.clip(light, 0, 1)).astype(np.uint8)
    return shown.reshape(images.shape)


_WAYS: Mapping[Colouring, Callable[[Images, Images], Images]] = {
    "reinhard": reinhard,
    "macenko": macenko,
}
