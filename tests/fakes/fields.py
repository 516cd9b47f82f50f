"""Pixel sizes for datasets and generators that have none."""

from dataclasses import replace

from factory.models.generator import Generator
from factory.real.dataset import RealDataset


def with_pixels(dataset: RealDataset, size_um: float) -> RealDataset:
    """The same images, their pixels of one size."""
    return replace(
        dataset, items=tuple(replace(item, pixel_size_um=size_um) for item in dataset.items)
    )


def drawing_pixels(generator: Generator, size_um: float) -> Generator:
    """The same generator, which says of what size its pixels are."""
    return replace(generator, manifest={**generator.manifest, "field": {"pixel_size_um": size_um}})
