"""The images of an export one by one: bytes, class, file names and the columns that go along."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from catalog.boundary import file_names
from catalog.export.facts import Facts
from catalog.export.marking import Marking
from catalog.selection import Selection

DETAILS = (
    *("prompt", "negative_prompt", "method", "model_id", "recipe_digest", "recipe_index"),
    *("run_id", "seed", "guidance_scale", "num_inference_steps", "scheduler", "gate_status"),
    *("height_px", "width_px", "pixel_sha256", "soft_label", "class_names", "is_synthetic"),
    *("pixel_size_um", "crop"),
)
"""Columns of `samples` that leave beside id, class, image and mask. `pixel_sha256` is of the pixels
as they were drawn: a watermark changes them."""

_READ_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One image as a format writes it.

    `name` and `folder` are safe file names of its id and its class; `image` and `mask` are PNG.
    """

    image_id: str
    class_name: str
    class_id: int
    name: str
    folder: str
    image: bytes
    mask: bytes | None
    details: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The images of a selection, as often as they are asked for; one batch is in memory."""

    selection: Selection
    facts: Facts
    marking: Marking
    names: dict[str, str] = field(init=False)
    folders: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", file_names(self.selection.image_ids))
        object.__setattr__(self, "folders", file_names(self.facts.class_names))

    def __iter__(self) -> Iterator[Picture]:
        position = {name: number for number, name in enumerate(self.facts.class_names)}
        columns = ["image_id", "class_name", "image", "mask", *DETAILS]
        for batch in self.selection.batches(columns, batch_size=_READ_AT_ONCE):
            for row in batch.to_pylist():
                image_id, class_name = row["image_id"], row["class_name"]
                yield Picture(
                    image_id=image_id,
                    class_name=class_name,
                    class_id=position[class_name],
                    name=self.names[image_id],
                    folder=self.folders[class_name],
                    image=self.marking.marked(row["image"]["bytes"], image_id),
                    mask=None if row["mask"] is None else row["mask"]["bytes"],
                    details={name: row[name] for name in DETAILS},
                )

    @cached_property
    def have_masks(self) -> bool:
        """Whether any image has a mask."""
        return any(mask is not None for _, mask in self.masks())

    def masks(self) -> Iterator[tuple[str, bytes | None]]:
        """Yield (image_id, mask) of every image."""
        for batch in self.selection.batches(["image_id", "mask"], batch_size=_READ_AT_ONCE):
            for row in batch.to_pylist():
                yield row["image_id"], None if row["mask"] is None else row["mask"]["bytes"]
