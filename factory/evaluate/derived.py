"""Pictures that an arm's ways make of others: in other colours, or through an autoencoder.

They are looked at in place of, or beside, the pictures that they are made of (`Manifest.shown_as`).
"""

from collections.abc import Iterable, Set
from dataclasses import replace

import numpy as np

from factory.arrays import Images
from factory.evaluate.arms import Manifest
from factory.evaluate.colour import coloured
from factory.evaluate.units import Material

_AT_ONCE = 32


def with_derived(
    material: Material, manifests: Iterable[Manifest], held: Set[str] = frozenset()
) -> Material:
    """Return the material with every picture that these arms look at, of `held` images as well.

    Raises:
        ModelError: there is no such generator, or it has no autoencoder.
    """
    position, made = dict(material.position), [material.images]
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
    return replace(material, images=np.concatenate(made), position=position)


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
