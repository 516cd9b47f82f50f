"""Synthetic images that a study may use: accepted, of a pinned version, without a leak."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from catalog import Catalog, sql
from catalog.selection import Selection
from catalog.tombstones import forgotten
from factory.arrays import Images, Mask, Masks, Pixels
from factory.errors import CatalogError, ConfigError, DataError
from factory.evaluate.arms import Drawn
from factory.evaluate.config import SyntheticChoice
from factory.evaluate.lineage import (
    Barred,
    Choice,
    Known,
    Origin,
    check_references,
    may_be_used,
)
from factory.models.generator import EMBEDDED, open_generator
from factory.real.field import Look
from factory.real.images import square, square_mask
from factory.real.leaks import Held
from factory.real.pixels import opened
from factory.real.scale import LOOKED_AT_PX, first_of_each, views
from factory.real.splits import Split

_COLUMNS = (
    "image_id, class_name, class_names, soft_label, reference_ids,"
    " model_id, split_digest, dataset_fingerprint, base_model_id"
)
_DECODED_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The chosen rows of one version, and what drew them."""

    version: int | None
    images: tuple[Drawn, ...]
    origins: Mapping[str, Origin]
    """By model."""
    model_of: Mapping[str, str]
    """Model by image."""

    def usable(
        self, held: Held, split: Split, known: Known
    ) -> tuple[list[Drawn], dict[str, Barred]]:
        """Return the images that a study under `split` may use; by model why others may not.

        Raises:
            DataError: a generator or a reference saw held-out images, which are named.
        """
        verdicts = {m: may_be_used(o, held, split, known) for m, o in self.origins.items()}
        images = [i for i in self.images if verdicts[self.model_of[i.id]] is None]
        check_references([r for i in images for r in i.reference_ids], held)
        return images, {m: barred for m, barred in verdicts.items() if barred is not None}

    def origins_of(self, images: Sequence[Drawn]) -> list[Origin]:
        """Return the models that drew these images."""
        return [self.origins[m] for m in dict.fromkeys(self.model_of[i.id] for i in images)]


EMPTY = Pool(version=None, images=(), origins={}, model_of={})


def read_pool(
    catalog: Catalog,
    choice: SyntheticChoice,
    class_names: Sequence[str],
    *,
    without: Sequence[str] = (),
) -> Pool:
    """Return the accepted rows of `catalog`'s version that `choice` names, without forgotten ones.

    Rows that show a class of `without` are passed over.

    Raises:
        CatalogError: the condition does not parse, or names unknown columns.
        DataError: a class that the real dataset does not have.
        ConfigError: `classes` leads to no real class.
    """
    unknown = sorted(set(choice.classes.values()) - set(class_names))
    if unknown:
        raise ConfigError(
            f"synthetic.classes leads to {unknown[0]!r}, which is no class of the real images",
            remedy=f"Choose of {', '.join(class_names)}",
        )
    condition = f" AND ({choice.where})" if choice.where else ""
    text = f"SELECT {_COLUMNS} FROM samples WHERE gate_status = 'accepted'{condition}"
    found = sql(catalog, text)
    found = found.filter(pc.invert(forgotten(catalog.place).holds(found)))
    return pool_of(found.to_pylist(), choice, class_names, without=without, version=catalog.version)


def pool_of(
    found: Iterable[Mapping[str, Any]],
    choice: SyntheticChoice,
    class_names: Sequence[str],
    *,
    version: int | None,
    without: Sequence[str] = (),
) -> Pool:
    """Return rows as a pool; they need the columns of labels, references and lineage.

    Raises:
        DataError: a class that the real dataset does not have.
    """
    rows = {row["image_id"]: row for row in found}
    kept = [name for name in class_names if name not in without]
    drawn = [_drawn(row, choice.classes, kept, without) for row in rows.values()]
    if strange := [image for image in drawn if isinstance(image, str)]:
        raise _strange(strange, choice, class_names)
    return Pool(
        version=version,
        images=tuple(image for image in drawn if isinstance(image, Drawn)),
        origins={row["model_id"]: origin_of(row) for row in rows.values()},
        model_of={image_id: row["model_id"] for image_id, row in rows.items()},
    )


def _strange(
    names: Sequence[str], choice: SyntheticChoice, class_names: Sequence[str]
) -> DataError:
    """Return the error about images of classes that the real images do not have."""
    counts = ", ".join(f"{name!r} ({count} images)" for name, count in Counter(names).most_common())
    own = ", ".join(f"'{name}'" for name in class_names if "'" not in name)
    also = f" AND ({choice.where})" if choice.where else ""
    return DataError(
        f"synthetic images are of classes which the real images do not have: {counts}",
        remedy=f'Leave them out: --set "synthetic.where=class_name IN ({own}){also}"; or, where'
        " only the names differ, map them: --set 'synthetic.classes={drawn: real}'",
    )


def known_models(catalog: Catalog | None) -> dict[str, Origin]:
    """Return the origins of the models that the catalog, if any, or the package knows, by id."""
    stored = catalog.models().to_pylist() if catalog else []
    found = {row["model_id"]: origin_of(row) for row in stored}
    for name, folder in EMBEDDED.items():
        generator = open_generator(folder, name=name)
        row = {**generator.manifest, "model_id": generator.model_id}
        found[generator.model_id] = replace(origin_of(row), digests=generator.seen)
    return found


def drawn_look(catalog: Catalog, classes: Mapping[str, str]) -> Look:
    """Return images of the catalog, their class by id, as a side of a comparison of scales.

    Raises:
        CatalogError: an id that is not there.
        DataError: an image that cannot be decoded.
    """
    rows, ids = first_of_each(list(classes.values())), list(classes)
    looked_at = [ids[row] for row in rows]
    columns = ["pixel_size_um", "crop", "width_px", "height_px"]
    told = catalog.rows(looked_at, columns=columns).to_pylist()
    fields = [
        row["pixel_size_um"] * min(row["width_px"], row["height_px"])
        for row in told
        if row["pixel_size_um"]
    ]
    crops = {row["crop"] for row in told}
    parts = list(read_drawn(catalog, looked_at, LOOKED_AT_PX, masks=False))
    images = np.concatenate([images for _, images, _ in parts])
    labels = [classes[image_id] for own, _, _ in parts for image_id in own]
    return Look(
        name="drawn images",
        objects=views(images, labels),
        field_um=float(np.median(fields)) if len(fields) == len(told) else None,
        crop=crops.pop() if len(crops) == 1 else None,
    )


def read_drawn(
    catalog: Catalog, ids: Sequence[str], size_px: int, *, masks: bool
) -> Iterator[tuple[list[str], Images, Masks | None]]:
    """Yield images of the catalog in the order in which they lie there, decoded side by side.

    Yields:
        Ids, images (M, size_px, size_px, 3), and where asked for masks (M, S, S): class indices.

    Raises:
        CatalogError: an id that is not there, or a file that cannot be read.
        DataError: an image that cannot be decoded, or has no mask.
    """
    columns = ["image_id", "image", *(["mask"] if masks else [])]
    selection = Selection(catalog=catalog, where="true", picked=tuple(ids))
    if lacking := sorted(set(ids) - set(selection.image_ids)):
        raise CatalogError(
            f"image {lacking[0]!r} is not in {catalog.named}, or it was forgotten",
            remedy="Run the same command again: it plans with what is there now",
        )

    def decoded(row: Mapping[str, Any]) -> tuple[Pixels, Mask | None]:
        picture = _opened(row["image"], row["image_id"]).convert("RGB")
        shown = np.asarray(square(picture, size_px))
        return shown, _mask_of(row, size_px) if masks else None

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for batch in selection.batches(columns, batch_size=_DECODED_AT_ONCE):
            found = list(threads.map(decoded, batch.to_pylist()))
            images = np.stack([image for image, _ in found])
            shown = [mask for _, mask in found if mask is not None]
            yield batch["image_id"].to_pylist(), images, np.stack(shown) if masks else None


def _mask_of(row: Mapping[str, Any], size_px: int) -> Mask:
    if row["mask"] is None:
        raise DataError(
            f"synthetic image {row['image_id']} has no mask",
            remedy="Choose rows with masks: --set synthetic.where='mask IS NOT NULL'",
        )
    return square_mask(np.asarray(_opened(row["mask"], row["image_id"])), size_px)


def _opened(cell: Mapping[str, bytes], image_id: str) -> Image.Image:
    try:
        return opened(cell["bytes"])
    except OSError as error:
        raise DataError(
            f"synthetic image {image_id} cannot be decoded ({error})",
            remedy="Leave it out with synthetic.where, or draw it again: factory regenerate",
        ) from error


def origin_of(row: Mapping[str, Any]) -> Origin:
    """Return what a row of `samples` or `models` says of the training of its model."""
    return Origin(
        model_id=row["model_id"],
        split_digest=row.get("split_digest"),
        dataset_fingerprint=row.get("dataset_fingerprint"),
        base_model_id=row.get("base_model_id"),
        member_ids=tuple(row.get("member_ids") or ()),
        name=row.get("name"),
        images_trained=row.get("images_trained"),
        choice=_choice(row.get("config")),
    )


def _choice(config: Any) -> Choice | None:
    """Return how a training chose its images: from a manifest's plain data, or a row's JSON."""
    try:
        stored = json.loads(config) if isinstance(config, str) else config
        n_shot, seed = stored.get("n_shot"), stored.get("seed", 0)
        only = tuple(stored.get("only") or ())
        if isinstance(n_shot, dict):
            n_shot = {str(name): int(shots) for name, shots in n_shot.items()}
        elif n_shot is not None:
            n_shot = int(n_shot)
        unlabelled = stored.get("unlabelled") is True
        return Choice(only=only, n_shot=n_shot, seed=int(seed), unlabelled=unlabelled)
    except (ValueError, TypeError, AttributeError):  # a catalog's text may be anything: not known
        return None


def _drawn(
    row: Mapping[str, Any],
    classes: Mapping[str, str],
    class_names: Sequence[str],
    without: Sequence[str],
) -> Drawn | str | None:
    """Return the image of a row, None of a class that is left out, the name of an unknown class."""
    weights = dict.fromkeys(class_names, 0.0)
    told = zip(row["class_names"], row["soft_label"], strict=True)
    for name, weight in [*((n, w) for n, w in told if w > 0), (row["class_name"], 0.0)]:
        own = classes.get(name, name)
        if own in without:
            return None
        if own not in weights:
            return str(name)
        weights[own] += weight
    return Drawn(
        id=row["image_id"],
        class_name=classes.get(row["class_name"], row["class_name"]),
        soft_label=tuple(weights.values()),
        reference_ids=tuple(row["reference_ids"]),
    )
