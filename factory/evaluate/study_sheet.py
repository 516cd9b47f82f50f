"""What an arm was trained on, to be looked at: real, drawn, and real images nearest to these."""

from collections.abc import Sequence

import numpy as np

from factory.evaluate.units import Material, Unit
from factory.measure.copies import nearest, thumbnails, turned_thumbnails
from factory.measure.features import Images
from factory.measure.sheets import sheet_of

SHOWN = 6


def look_at(units: Sequence[Unit], material: Material) -> bytes | None:
    """Return a PNG with a row for each class: real | drawn | nearest real; None: nothing drawn.

    The images of the first training on both; nearness is that of 32 px thumbnails under any turn.
    """
    both = (u.manifest for u in units if u.manifest.num_real and u.manifest.num_synthetic)
    rows = next((manifest.rows for manifest in both), ())
    shown: dict[str, Images] = {}
    for index, name in enumerate(material.class_names):
        own = [row for row in rows if int(np.argmax(row.soft_label)) == index]
        real, drawn = (
            material.images[material.rows([row.id for row in own if row.synthetic is side])]
            for side in (False, True)
        )
        if len(real) and len(drawn):
            drawn = drawn[:SHOWN]
            near = real[nearest(turned_thumbnails(drawn), thumbnails(real)).position]
            blank = np.full_like(drawn[:1], 255)
            row = np.concatenate([real[:SHOWN], blank, drawn, blank, near])
            shown[f"{name}: real | drawn | the real image nearest to each"] = row
    return sheet_of(shown, zoom=1) if shown else None
