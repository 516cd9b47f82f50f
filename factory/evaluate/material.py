"""Loads what the trainings of a study work on: every image once, at the learner's size."""

from collections.abc import Sequence

import numpy as np

from catalog import Catalog
from factory.evaluate.config import SegmenterLearner
from factory.evaluate.synthetic import mask_pixels, pixels
from factory.evaluate.units import Material, Unit
from factory.models.pair_codec import class_index_array
from factory.real.dataset import RealDataset
from factory.real.mask_values import found_values


def study_material(
    units: Sequence[Unit], dataset: RealDataset, catalog: Catalog | None
) -> Material:
    """Return every image that trainings of one learner need, and masks if it is a segmenter.

    Raises:
        DataError: a real image that cannot be read, or an image without the mask it needs.
        CatalogError: a file of the catalog that cannot be read.
    """
    learner = units[0].learner
    rows = {row.id: row.synthetic for unit in units for row in unit.manifest.rows}
    held = {i for unit in units for i in (*unit.val, *unit.test)}
    real = sorted(held | {i for i, synthetic in rows.items() if not synthetic})
    drawn = sorted(i for i, synthetic in rows.items() if synthetic)
    images, masks = [dataset.array(learner.size_px, real)], []
    values: tuple[int, ...] = ()
    if isinstance(learner, SegmenterLearner):
        values = learner.mask_values or found_values(dataset, real)
        stored = dataset.mask_array(learner.size_px, real)
        masks.append(class_index_array(stored, values, names=real))
    if catalog is not None and drawn:
        images.append(pixels(catalog, drawn, learner.size_px))
        if values:
            masks.append(mask_pixels(catalog, drawn, learner.size_px))
    return Material(
        class_names=units[0].manifest.class_names,
        images=np.concatenate(images),
        position={i: n for n, i in enumerate([*real, *drawn])},
        labels={i: dataset.labels[dataset.index_of(i)] for i in real},
        groups={i: dataset.groups[dataset.index_of(i)] for i in real},
        masks=np.concatenate(masks) if masks else np.empty(0, np.uint8),
        num_mask_classes=len(values),
    )
